//! What a pipeline file may hold, as a JSON Schema (2020-12) for editors and as the reference of stage kinds.
//! What belongs to a kind comes from the types and doc comments of its struct; the grammar around it is here.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::input::{ArtifactType, Input, InputFile, InputVariable};
use super::stage::Registry;

/// In the schema of an input: the types of artifacts that it takes.
pub const ACCEPTS: &str = "x-accepts";

/// A use of a parameter: `$name` where no text is expected.
const PARAMETER: &str = r"^\$";

const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

/// `stage`, `stage.output` or `stage[variant].output`, or text with a parameter in it.
const REFERENCE: &str = r"^[A-Za-z_][A-Za-z0-9_-]*(\[[^\]]*\])?(\.[A-Za-z_][A-Za-z0-9_-]*)?$|\$";

/// A length of time: `90`, `90s`, `2h` or `1h 30m`.
const DURATION: &str = r"^(\d+(\.\d+)? *(ms|s|m|min|h|d) *)+$|^\$";

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
    definitions.extend(grammar(registry));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "triplay pipeline",
        "description": "A pipeline of triplay: stages, the loops around them, and what they are fed.",
        "type": "object",
        "properties": top(),
        "required": ["pipeline", "stages"],
        "additionalProperties": false,
        "$defs": definitions,
    })
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

/// The keys that every stage takes beside those of its kind.
pub fn common() -> Value {
    json!({
        "matrix": { "$ref": "#/$defs/matrix", "description":
            "Variants of the stage: each axis is a list of values, or a map of labels and values; a value is used as \
             `$axis`. `include` and `exclude` are lists of combinations to add and to leave out." },
        "seed": { "type": ["integer", "string"], "minimum": 0, "pattern": PARAMETER, "description":
            "Fixes the randomness of this stage. By default it comes from the pipeline's seed and the rounds of the \
             loops around the stage." },
        "resources": { "type": "object", "propertyNames": { "pattern": NAME }, "description":
            "What the stage takes of each resource while it runs, such as { gpu: 1 }; one `cpu` by default.",
            "additionalProperties": { "type": ["integer", "string"], "minimum": 0, "pattern": PARAMETER } },
        "timeout": { "type": ["number", "string"], "exclusiveMinimum": 0, "pattern": DURATION, "description":
            "The stage fails when it takes longer: seconds, or text such as `90s` or `2h`. No limit by default." },
        "retry": { "$ref": "#/$defs/retry", "description":
            "How often to try again after a failure that may pass: a number, or { times, wait }. 3 times by default, \
             after 1 second, which doubles each time." },
    })
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None).into_generator()
}

/// The keys of the file.
fn top() -> Value {
    json!({
        "pipeline": { "type": "string", "pattern": NAME, "description":
            "The pipeline's name; its results are in results/NAME." },
        "seed": { "type": "integer", "minimum": 0, "default": 0, "description":
            "Where all randomness of the pipeline comes from." },
        "device": { "type": "string", "default": "auto", "examples": ["auto", "cpu", "cuda", "cuda:1", "metal"],
            "description": "Where models are computed: auto, cpu, cuda, cuda:N or metal." },
        "dtype": { "type": "string", "default": "f32", "examples": ["f32", "bf16", "f16", "f64"], "description":
            "The number type in which models are computed: f32; bf16 or f16 on a GPU; f64 to check numbers." },
        "params": { "type": "object", "description":
            "Named values. `$name` stands for one, `${name}` inside longer text; `--set name=value` changes one.",
            "propertyNames": { "pattern": NAME, "not": { "enum": ["seed", "device", "dtype"] } },
            "additionalProperties": { "type": ["number", "string", "boolean", "array"] } },
        "resources": { "type": "object", "propertyNames": { "pattern": NAME }, "description":
            "How much there is of each resource, such as { gpu: 2, api: 8 }. Stages that run side by side do not \
             take more.",
            "additionalProperties": { "type": "integer", "minimum": 1 } },
        "ablations": { "type": "object", "propertyNames": { "pattern": NAME }, "description":
            "Named changes of parameters, such as { no-diversity: { diversity: 0 } }; `--ablation NAME` runs the \
             pipeline with them.",
            "additionalProperties": { "type": "object", "propertyNames": { "pattern": NAME },
                "additionalProperties": { "type": ["number", "string", "boolean", "array"] } } },
        "stages": { "$ref": "#/$defs/stages", "description": "The stages and loops of the pipeline, by name." },
    })
}

/// The definitions that no kind brings.
fn grammar(registry: &Registry) -> Map<String, Value> {
    let names: Vec<&str> = registry.names().collect();
    let mut generator = generator();
    let about = |schema: Value| schema["description"].as_str().unwrap_or_default().to_owned();
    let descriptions: Vec<String> =
        registry.schemas().map(|(_, schema)| about(tidy(schema(&mut generator).to_value()))).collect();
    let branch = |name: &&str| {
        json!({
            "if": { "required": ["kind"], "properties": { "kind": { "const": name } } },
            "then": { "$ref": format!("#/$defs/stage.{name}") },
        })
    };
    let definitions = json!({
        "stages": { "type": "object", "minProperties": 1, "propertyNames": { "pattern": NAME },
            "additionalProperties": { "$ref": "#/$defs/step" } },
        // Conditions rather than alternatives, so that an editor speaks of the kind that was typed alone.
        "step": { "description": "A stage with its kind, or a loop with its `repeat`.", "type": "object",
            "properties": {
                "kind": { "description": "What the stage does: see `triplay pipeline kinds`." },
                "repeat": { "description": "Makes this a loop: how many rounds it has." } },
            "if": { "required": ["repeat"] },
            "then": { "$ref": "#/$defs/loop" },
            "else": { "required": ["kind"],
                "properties": { "kind": { "description": "What the stage does.", "enum": names,
                    "enumDescriptions": descriptions } },
                "allOf": names.iter().map(branch).collect::<Vec<_>>() } },
        "loop": repeat(),
        "matrix": { "type": ["object", "string"], "pattern": PARAMETER, "minProperties": 1,
            "properties": {
                "include": { "$ref": "#/$defs/combinations", "description": "Combinations to add." },
                "exclude": { "$ref": "#/$defs/combinations", "description": "Combinations to leave out." } },
            "propertyNames": { "pattern": NAME },
            "additionalProperties": { "type": ["array", "object", "string"], "minItems": 1, "minProperties": 1,
                "pattern": PARAMETER } },
        "combinations": { "type": "array",
            "items": { "type": "object", "minProperties": 1, "propertyNames": { "pattern": NAME } } },
        "retry": { "type": ["integer", "object", "string"], "minimum": 0, "pattern": PARAMETER,
            "properties": {
                "times": { "type": ["integer", "string"], "minimum": 0, "pattern": PARAMETER,
                    "description": "How often to try again." },
                "wait": { "type": ["number", "string"], "minimum": 0, "pattern": DURATION, "description":
                    "How long to wait before the first time: seconds, or text such as `30s`; doubled each time." } },
            "additionalProperties": false },
        "input": tidy(AnyInput::json_schema(&mut generator).to_value()),
    });
    match definitions {
        Value::Object(definitions) => definitions,
        _ => Map::new(),
    }
}

fn repeat() -> Value {
    let carried = |description: &str| {
        json!({ "type": "object", "description": description, "propertyNames": { "pattern": NAME },
            "additionalProperties": { "$ref": "#/$defs/input" } })
    };
    json!({ "description": "A loop.", "type": "object",
        "properties": {
            "repeat": { "type": ["integer", "string"], "minimum": 0, "maximum": 1_000_000, "pattern": PARAMETER,
                "description": "How many rounds there are." },
            "keep": { "type": ["string", "object"], "pattern": r"^(last|all)$|^\$", "default": "last",
                "properties": { "every": { "type": ["integer", "string"], "minimum": 1, "pattern": PARAMETER,
                    "description": "Keep those of each round whose number this divides." } },
                "required": ["every"], "additionalProperties": false, "description":
                "Which checkpoints stay on disk that a round hands to the next: `last`, `all` or { every: N }. The \
                 last of the loop always does." },
            "carry": carried("What goes into the first round, by the name that stages of the loop use. After the \
                loop, `loop.name` is what came out of the last round."),
            "stages": { "$ref": "#/$defs/stages", "description": "The stages and loops of a round, by name." },
            "next": carried("What a round hands to the following one. What is not named stays as it is.") },
        "required": ["repeat", "stages"], "additionalProperties": false })
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
