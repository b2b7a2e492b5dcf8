//! The JSON Schema (2020-12) of pipeline files, for editors and for the reference of stage kinds. The keys of a kind come from
//! the types and doc comments of its struct, the others from `grammar`.

mod grammar;
mod inputs;
mod tidy;

use serde_json::{Map, Value, json};

use self::grammar::PARAMETER;
use self::tidy::{each_inner, generator, tidy};
use super::known::KnownKeys;
use super::roles::{OWN_KEYS, ROLE};
use crate::stage::Registry;

pub use grammar::common;
pub use inputs::ACCEPTS;

/// The schema of a whole pipeline file.
pub fn document(registry: &Registry) -> Value {
    let mut generator = generator();
    let mut definitions = Map::new();
    for (kind, schema) in registry.schemas() {
        let mut schema = stage(kind.name, tidy(schema(&mut generator).to_value()));
        if !registry.roles(kind.name).is_empty() {
            schema["properties"][ROLE] = role_or_none();
        }
        definitions.insert(format!("stage.{}", kind.name), schema);
    }
    if let Some(schema) = registry.until_schema() {
        let keys = with_parameters(tidy(schema(&mut generator).to_value()));
        definitions.insert("until".into(), grammar::until(keys));
    }
    for (name, schema) in generator.take_definitions(true) {
        let mut schema = with_parameters(tidy(schema));
        keys_or_nothing(&mut schema);
        definitions.insert(name, schema);
    }
    for kind in registry.names() {
        KnownKeys::of(registry, kind).definitions(registry.roles(kind)).iter().for_each(|name| {
            take_role(&mut definitions, name);
        });
    }
    definitions.extend(grammar::grammar(registry));
    let mut document = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "triplay pipeline",
        "description": "A pipeline of triplay: stages, the loops around them, and their inputs.",
        "type": "object",
        "properties": grammar::top(registry),
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

fn role_or_none() -> Value {
    let mut role = grammar::role();
    role["type"] = json!(["string", "null"]);
    role
}

/// Lets a map of a stage take a role, which may give what it requires.
fn take_role(definitions: &mut Map<String, Value>, name: &str) {
    if let Some(map) = definitions.get_mut(name).and_then(Value::as_object_mut) {
        map.remove("required");
        if let Some(Value::Object(keys)) = map.get_mut("properties") {
            keys.insert(ROLE.into(), role_or_none());
        }
    }
}

/// The schema of the keys of one kind, with its definitions in `$defs`. It does not accept parameters.
pub fn of_kind(registry: &Registry, name: &str) -> Option<Value> {
    let mut schema = keys_of(registry, name)?;
    let roles = registry.roles(name);
    if !roles.is_empty() {
        schema["properties"][ROLE] = grammar::role();
    }
    for map in KnownKeys::of(registry, name).definitions(roles) {
        schema["$defs"][map]["properties"][ROLE] = grammar::role();
    }
    Some(schema)
}

/// The same with the keys of the kind alone.
pub(crate) fn keys_of(registry: &Registry, name: &str) -> Option<Value> {
    let (_, schema) = registry.schemas().find(|(kind, _)| kind.name == name)?;
    let mut generator = generator();
    let mut schema = tidy(schema(&mut generator).to_value());
    let definitions: Map<String, Value> =
        generator.take_definitions(true).into_iter().map(|(name, schema)| (name, tidy(schema))).collect();
    schema["$defs"] = definitions.into();
    Some(schema)
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
    properties.extend(schema["properties"].take().as_object().cloned().unwrap_or_default());
    properties.extend(common().as_object().cloned().unwrap_or_default());
    schema["properties"] = properties.into();
    keys_or_nothing(&mut schema);
    // Roles and defaults may give the others.
    schema["required"] = json!(["kind"]);
    schema
}

/// Lets the keys of a map be null, which leaves out what roles and defaults would give.
fn keys_or_nothing(map: &mut Value) {
    let keys = map.get_mut("properties").and_then(Value::as_object_mut);
    let shared = keys.into_iter().flatten().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()));
    shared.for_each(|(_, schema)| or_nothing(schema));
}

/// Extends a schema to accept null. An `anyOf` would hide what is wrong in a value.
fn or_nothing(schema: &mut Value) {
    match schema.get_mut("type") {
        Some(Value::Array(several)) => several.push(json!("null")),
        Some(one) => *one = json!([one.take(), "null"]),
        None => {
            let description = schema["description"].as_str().unwrap_or_default().to_owned();
            *schema = json!({ "description": description, "if": { "type": "null" }, "else": schema.take() });
        }
    }
}

/// Extends a schema to accept `$name` for every value that is not text. Types stay alternatives of one schema
/// (`["integer", "string"]` with a pattern for text): editors report clearer errors for those than for `anyOf`.
fn with_parameters(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    each_inner(object, &mut |inner| *inner = with_parameters(inner.take()));
    let parameter = json!({ "type": "string", "pattern": PARAMETER });
    if let Some(Value::Array(mut branches)) = object.remove("oneOf").or_else(|| object.remove("anyOf")) {
        for branch in branches.iter_mut().filter_map(Value::as_object_mut) {
            // A parameter is an alternative of its own.
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
