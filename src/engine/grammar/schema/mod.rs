//! What a pipeline file may hold, as a JSON Schema (2020-12) for editors and as the reference of stage kinds.
//! What belongs to a kind comes from the types and doc comments of its struct, the rest from [`grammar`].

mod grammar;

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use self::grammar::{PARAMETER, REFERENCE};
use crate::input::{ArtifactType, Input, InputFile, InputVariable, Inputs};
use crate::stage::Registry;

pub use grammar::common;

/// In the schema of an input: the types of artifacts that it takes.
pub const ACCEPTS: &str = "x-accepts";

/// The schema of a whole pipeline file.
pub fn document(registry: &Registry) -> Value {
    let mut generator = generator();
    let mut definitions = Map::new();
    for (kind, schema) in registry.schemas() {
        let schema = stage(kind.name, tidy(schema(&mut generator).to_value()));
        definitions.insert(format!("stage.{}", kind.name), schema);
    }
    for (name, schema) in generator.take_definitions(true) {
        definitions.insert(name, with_parameters(tidy(schema)));
    }
    definitions.extend(grammar::grammar(registry));
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "triplay pipeline",
        "description": "A pipeline of triplay: stages, the loops around them, and what they are fed.",
        "type": "object",
        "properties": grammar::top(),
        "required": ["pipeline"],
        "additionalProperties": false,
        "$defs": definitions,
    });
    if let (Value::Object(document), Value::Object(either)) = (&mut document, grammar::stages_or_extends()) {
        document.extend(either);
    }
    grammar::explain_patterns(&mut document);
    document
}

/// The schema of the keys of one kind, with what it refers to in `$defs`; without uses of parameters.
pub fn of_kind(registry: &Registry, name: &str) -> Option<Value> {
    let (_, schema) = registry.schemas().find(|(kind, _)| kind.name == name)?;
    let mut generator = generator();
    let mut schema = tidy(schema(&mut generator).to_value());
    let definitions: Map<String, Value> =
        generator.take_definitions(true).into_iter().map(|(name, schema)| (name, tidy(schema))).collect();
    schema["$defs"] = definitions.into();
    Some(schema)
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None).into_generator()
}

/// A kind's keys, with those of every stage.
fn stage(name: &str, keys: Value) -> Value {
    let mut schema = with_parameters(keys);
    if let Some(schema) = schema.as_object_mut() {
        // A stage as a whole is not a parameter.
        schema.insert("type".into(), json!("object"));
        schema.remove("pattern");
    }
    let about = schema["description"].as_str().unwrap_or_default().to_owned();
    let mut properties = Map::new();
    properties.insert("kind".into(), json!({ "const": name, "description": about }));
    for part in [schema["properties"].take(), common()] {
        properties.extend(part.as_object().cloned().unwrap_or_default());
    }
    schema["properties"] = properties.into();
    let mut required = vec![json!("kind")];
    required.extend(schema["required"].as_array().cloned().unwrap_or_default());
    schema["required"] = required.into();
    schema
}

/// What schemars makes, with less of Rust in it: no null for what is optional, no sizes of numbers, one line
/// for a paragraph.
fn tidy(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("format");
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    match object.get_mut("default") {
        Some(Value::Null) => drop(object.remove("default")),
        Some(Value::Object(fields)) => fields.retain(|_, value| !value.is_null()),
        _ => {}
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            object["type"] = only.clone();
        }
    }
    if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
        branches.retain(|branch| branch["type"] != "null");
        if let [Value::Object(only)] = &branches[..] {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    describe_variants(object);
    each_inner(object, &mut |inner| *inner = tidy(inner.take()));
    schema
}

/// A variant `{ name: … }` and its only key mean the same.
fn describe_variants(object: &mut Map<String, Value>) {
    for branch in object.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let description = branch["description"].clone();
        let keys = branch.get_mut("properties").and_then(Value::as_object_mut);
        for (_, key) in keys.into_iter().flatten() {
            if let Some(key) = key.as_object_mut().filter(|_| description.is_string()) {
                key.entry("description").or_insert(description.clone());
            }
        }
    }
}

/// The schema that also takes `$name` wherever it takes a value that is not text. Types stay alternatives of
/// one schema (`["integer", "string"]` with a pattern for text), about which editors say clearer things than
/// about `anyOf`.
fn with_parameters(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    each_inner(object, &mut |inner| *inner = with_parameters(inner.take()));
    let parameter = json!({ "type": "string", "pattern": PARAMETER });
    if let Some(Value::Array(mut branches)) = object.remove("oneOf").or_else(|| object.remove("anyOf")) {
        for branch in branches.iter_mut().filter_map(Value::as_object_mut) {
            // The alternatives themselves are not parameters: that is one more.
            if branch.remove("pattern").is_some() {
                branch["type"] = branch["type"][0].take();
            }
        }
        branches.push(parameter);
        object.insert("anyOf".into(), branches.into());
    } else if object.contains_key("enum") {
        let fixed = object.remove("enum");
        object.insert("anyOf".into(), json!([{ "enum": fixed }, parameter]));
    } else if let Some(Value::String(name)) = object.get("type").filter(|name| **name != "string") {
        let types = json!([name, "string"]);
        object.insert("type".into(), types);
        object.insert("pattern".into(), json!(PARAMETER));
    }
    if let Some(accepts) = object.get(ACCEPTS).and_then(Value::as_array) {
        let accepts: Vec<String> =
            accepts.iter().filter_map(|name| Some(format!("`{}`", name.as_str()?))).collect();
        let about = object.get("description").and_then(Value::as_str).unwrap_or_default();
        let about = format!("{about}\n\nTakes {}.", accepts.join(" or "));
        object.insert("description".into(), about.trim().into());
    }
    schema
}

/// Calls `change` with the schemas directly inside one: those of values, not those of alternatives' constants.
fn each_inner(object: &mut Map<String, Value>, change: &mut dyn FnMut(&mut Value)) {
    for key in ["items", "additionalProperties"] {
        object.get_mut(key).filter(|inner| inner.is_object()).into_iter().for_each(&mut *change);
    }
    for key in ["properties", "$defs"] {
        let inner = object.get_mut(key).and_then(Value::as_object_mut);
        inner.into_iter().flatten().for_each(|(_, inner)| change(inner));
    }
    for key in ["prefixItems", "oneOf", "anyOf"] {
        let inner = object.get_mut(key).and_then(Value::as_array_mut);
        let values = inner.into_iter().flatten().filter(|inner| inner.get("const").is_none());
        values.for_each(&mut *change);
    }
}

/// What the inputs of all types have in common.
struct AnyInput;

impl JsonSchema for AnyInput {
    fn schema_name() -> Cow<'static, str> {
        "input".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "object"],
            "pattern": REFERENCE,
            "properties": { "path": { "type": "string", "description":
                "A file or folder of your own, relative to where triplay is started." } },
            "required": ["path"],
            "additionalProperties": false,
        })
    }
}

impl<T: ArtifactType> JsonSchema for Input<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("input.{}", T::ACCEPTS.join("-")).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = generator.subschema_for::<AnyInput>();
        schema.insert(ACCEPTS.into(), json!(T::ACCEPTS));
        schema
    }
}

impl<T: ArtifactType> JsonSchema for Inputs<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("inputs.{}", T::ACCEPTS.join("-")).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Input<T>>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl JsonSchema for InputFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "file".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl JsonSchema for InputVariable {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "variable".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*$|\$" })
    }
}
