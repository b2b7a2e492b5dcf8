//! The grammar around stages: the keys of the file, of loops and of every stage, as parts of the schema.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::inputs::{AnyInput, REFERENCE};
use super::tidy::{generator, tidy};
use crate::stage::Registry;

/// A use of a parameter: `$name` where no text is expected.
pub(super) const PARAMETER: &str = r"^\$";

const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

/// A name, or a path into a parameter of the pipeline that is extended.
const PATH: &str = r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$";

/// A length of time: `90`, `90s`, `2h` or `1h 30m`.
const DURATION: &str = r"^(\d+(\.\d+)? *(ms|s|m|min|h|d) *)+$|^\$";

/// The keys that every stage takes beside those of its kind.
pub fn common() -> Value {
    json!({
        "matrix": { "$ref": "#/$defs/matrix", "description":
            "Variants of the stage: each axis is a list of values, or a map from labels to values; `$axis` stands for \
             the value. The axis `seeds` repeats the stage with each seed, which is `$seed`. `include` and `exclude` are \
             lists of combinations to add and to leave out." },
        "seed": { "type": ["integer", "string"], "minimum": 0, "pattern": PARAMETER, "description":
            "Fixes the randomness of this stage. By default it comes from the pipeline's seed and the rounds of the \
             loops around the stage." },
        "resources": { "type": "object", "propertyNames": { "pattern": NAME }, "description":
            "How much of each resource the stage takes while it runs, such as { gpu: 1 }; one `cpu` by default.",
            "additionalProperties": { "type": ["integer", "string"], "minimum": 0, "pattern": PARAMETER } },
        "timeout": { "type": ["number", "string"], "exclusiveMinimum": 0, "pattern": DURATION, "description":
            "The stage fails when it takes longer: seconds, or text such as `90s` or `2h`. No limit by default." },
        "retry": { "$ref": "#/$defs/retry", "description":
            "How often to retry after a failure: a number, or { times, wait, on }. 3 times by default, after \
             1 second, which doubles each time." },
        "on": { "type": "string", "pattern": r"^(process$|\$)", "description":
            "`process`: the stage runs in a process of its own, so that a crash or a lack of memory costs only this \
             node. By default it runs in the process of the run." },
        "publish": { "$ref": "#/$defs/publish", "description":
            "A folder under `outputs/` of the run's folder in which the outputs of the stage appear as links to the \
             cache, or with { path: FOLDER, copy: true } as copies." },
    })
}

/// The key of a place that takes a role.
pub(super) fn role() -> Value {
    json!({ "type": "string", "description":
        "The role of the pipeline's `roles:` that gives what is left out here. By default the role of the kind, such as \
         `attacker`, if the pipeline has it; without a value, none. The role of a stage is also that of the models in it." })
}

/// The keys of the file.
pub(super) fn top(registry: &Registry) -> Value {
    let kinds: Vec<&str> = registry.names().collect();
    json!({
        "pipeline": { "type": "string", "pattern": NAME, "description":
            "The pipeline's name; its results are in results/NAME." },
        "seed": { "type": "integer", "minimum": 0, "default": 0, "description":
            "The seed of all randomness in the pipeline." },
        "seeds": { "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1, "uniqueItems": true,
            "description": "Instead of `seed`: triplay runs the pipeline once with each seed, side by side. Nodes are \
                named `s1/…` or `ABLATION-s1/…`." },
        "extends": { "type": "string", "description":
            "A pipeline file, relative to this one, to run with other `params`, seeds, `device` and `dtype`." },
        "device": { "type": "string", "default": "auto", "examples": ["auto", "cpu", "cuda", "cuda:1", "metal"],
            "description": "Where models are computed: auto, cpu, cuda, cuda:N or metal." },
        "dtype": { "type": "string", "default": "f32", "examples": ["f32", "bf16", "f64", "f32-dequantized"], "description":
            "The number type in which models are computed: f32; bf16 on a GPU; f64 to check numbers. With -dequantized \
                quantised weights are unpacked when they are read." },
        "params": { "type": "object", "description":
            "Named values. `$name` stands for one, `${name}` inside longer text; `--set name=value` changes one.",
            "propertyNames": { "pattern": PATH, "not": { "enum": ["seed", "device", "dtype"] } },
            "additionalProperties": { "type": ["number", "string", "boolean", "array", "object"] } },
        "roles": { "type": "object", "propertyNames": { "pattern": NAME }, "description":
            "How models are asked, by role: keys such as `prompt`, `chat` and `sampling`. They count where stages that take \
                the role leave them out. A stage, or an entry of its list of models, takes the role `attacker`, `defender`, \
                `evaluator`, … of its kind, or the one that `role` names.",
            "additionalProperties": { "type": ["object", "string"], "pattern": PARAMETER } },
        "defaults": { "type": "object", "propertyNames": { "enum": kinds }, "description":
            "Keys of stages by kind, such as { update: { lora: … } }. They count where stages of the kind, and the roles \
                that they take, leave them out.",
            "additionalProperties": { "type": ["object", "string"], "pattern": PARAMETER } },
        "resources": { "type": "object", "propertyNames": { "pattern": NAME }, "description":
            "The limit of each resource, such as { gpu: 2, api: { at_once: 8, per_minute: 60 } }. Stages that run side by \
             side never take more at once or within a minute.",
            "additionalProperties": { "type": ["integer", "object"], "minimum": 0, "additionalProperties": false,
                "properties": {
                    "at_once": { "type": "integer", "minimum": 0, "description":
                        "How much may be taken at the same time; `per_minute` by default." },
                    "per_minute": { "type": "integer", "minimum": 1, "description":
                        "How much may be taken within any minute; no limit by default." } } } },
        "ablations": { "type": ["object", "array"], "propertyNames": { "pattern": NAME }, "description":
            "Named sets of parameter values, such as { no-diversity: { diversity: 0 } }; `--ablation NAME` runs the \
             pipeline with them. In a file that extends another: the names of those to run by default.",
            "items": { "type": "string", "pattern": NAME },
            "additionalProperties": { "type": "object", "propertyNames": { "pattern": NAME },
                "additionalProperties": { "type": ["number", "string", "boolean", "array", "object"] } } },
        "stages": { "$ref": "#/$defs/stages", "description": "The stages and loops of the pipeline, by name." },
    })
}

/// Requires stages, or another file that has them.
pub(super) fn stages_or_extends() -> Value {
    json!({
        "if": { "required": ["extends"] },
        "then": { "not": { "anyOf": [{ "required": ["stages"] }, { "required": ["resources"] }] } },
        "else": { "required": ["stages"] },
    })
}

/// The definitions that belong to no kind.
pub(super) fn grammar(registry: &Registry) -> Map<String, Value> {
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
        // Conditions rather than alternatives, so that an editor reports errors of the typed kind alone.
        "step": { "description": "A stage with its kind, or a loop with its `repeat`.", "type": "object",
            "properties": {
                "kind": { "description": "What the stage does: see `triplay pipeline kinds`." },
                "repeat": { "description": "Makes this a loop: the number of its rounds." } },
            "if": { "required": ["repeat"] },
            "then": { "$ref": "#/$defs/loop" },
            "else": { "required": ["kind"],
                "properties": { "kind": { "description": "What the stage does.", "enum": names,
                    "enumDescriptions": descriptions } },
                "allOf": names.iter().map(branch).collect::<Vec<_>>() } },
        "loop": repeat(registry.until_schema().is_some()),
        "matrix": { "type": ["object", "string"], "pattern": PARAMETER, "minProperties": 1,
            "properties": {
                "seeds": { "type": ["array", "string"], "pattern": PARAMETER, "minItems": 1, "uniqueItems": true,
                    "items": { "type": "integer", "minimum": 0 }, "description":
                    "Repeats the stage with each of these seeds; tables show the mean over them and its interval." },
                "include": { "$ref": "#/$defs/combinations", "description": "Combinations to add." },
                "exclude": { "$ref": "#/$defs/combinations", "description": "Combinations to leave out." } },
            "propertyNames": { "pattern": NAME },
            "additionalProperties": { "type": ["array", "object", "string"], "minItems": 1, "minProperties": 1,
                "pattern": PARAMETER } },
        "combinations": { "type": "array",
            "items": { "type": "object", "minProperties": 1, "propertyNames": { "pattern": NAME } } },
        "publish": { "type": ["string", "object"], "required": ["path"], "additionalProperties": false,
            "properties": {
                "path": { "type": "string", "description": "The folder, under `outputs/` of the run's folder." },
                "copy": { "type": ["boolean", "string"], "pattern": PARAMETER, "description":
                    "Whether the outputs are copied; by default they are links to the cache." } } },
        "retry": { "type": ["integer", "object", "string"], "minimum": 0, "pattern": PARAMETER,
            "properties": {
                "times": { "type": ["integer", "string"], "minimum": 0, "pattern": PARAMETER,
                    "description": "How often to retry." },
                "wait": { "type": ["number", "string"], "minimum": 0, "pattern": DURATION, "description":
                    "How long to wait before the first retry: seconds, or text such as `30s`; doubled each time." },
                "on": { "type": ["object", "string"], "pattern": PARAMETER, "minProperties": 1, "description":
                    "Which failures of a command to retry; any failure by default.",
                    "properties": {
                        "exit": { "type": ["integer", "array", "string"], "minimum": 1, "maximum": 255,
                            "pattern": PARAMETER, "items": { "type": ["integer", "string"] }, "description":
                            "Exit codes. A command that a signal killed has 128 and the signal's number." },
                        "text": { "type": ["string", "array"], "items": { "type": "string" }, "description":
                            "Texts, one of which is in the command's log." } },
                    "additionalProperties": false } },
            "additionalProperties": false },
        "input": tidy(AnyInput::json_schema(&mut generator).to_value()),
    });
    match definitions {
        Value::Object(definitions) => definitions,
        _ => Map::new(),
    }
}

/// The keys of a loop's `until`: those of its kind, which reads one metric in several rounds.
pub(super) fn until(mut keys: Value) -> Value {
    let about = keys["properties"]["metric"]["description"].take();
    keys["properties"]["metric"] = json!({ "$ref": "#/$defs/input", "description": about });
    keys["properties"]["in_a_row"] = json!({ "type": ["integer", "string"], "minimum": 1, "default": 1,
        "pattern": PARAMETER, "description": "The number of consecutive rounds in which the condition must hold." });
    keys["type"] = json!(["object", "string"]);
    keys["pattern"] = json!(PARAMETER);
    keys
}

fn repeat(knows_until: bool) -> Value {
    let mut rounds = json!({ "type": ["integer", "string"], "minimum": 0, "maximum": 1_000_000, "pattern": PARAMETER,
        "description": "The number of rounds." });
    if knows_until {
        rounds["type"] = json!(["integer", "object", "string"]);
        rounds["properties"] = json!({
            "at_most": { "type": ["integer", "string"], "minimum": 1, "maximum": 1_000_000, "pattern": PARAMETER,
                "description": "The number of rounds if the loop never stops earlier." },
            "until": { "$ref": "#/$defs/until", "description": "When the loop stops: once a metric of its rounds is above or below a number." } });
        rounds["required"] = json!(["at_most", "until"]);
        rounds["additionalProperties"] = false.into();
        rounds["description"] =
            "The number of rounds, or { at_most, until }: until a metric of a round is above or below a number.".into();
    }
    let carried = |description: &str| {
        json!({ "type": "object", "description": description, "propertyNames": { "pattern": NAME },
            "additionalProperties": { "$ref": "#/$defs/input" } })
    };
    json!({ "description": "A loop.", "type": "object",
        "properties": {
            "repeat": rounds,
            "keep": { "type": ["string", "object"], "pattern": r"^(last|all)$|^\$", "default": "last",
                "properties": { "every": { "type": ["integer", "string"], "minimum": 1, "pattern": PARAMETER,
                    "description": "Keep the checkpoints of every Nth round." } },
                "required": ["every"], "additionalProperties": false, "description":
                "Which of the checkpoints that rounds hand on stay on disk: `last`, `all` or { every: N }. That of the \
                 last round always does." },
            "carry": carried("The initial values of the loop, by the name that its stages use. After the loop, \
                `loop.name` is the value after the last round."),
            "stages": { "$ref": "#/$defs/stages", "description": "The stages and loops of a round, by name." },
            "next": carried("The values that a round hands to the next. Values that are not named stay the same.") },
        "required": ["repeat", "stages"], "additionalProperties": false })
}

/// Adds a message to each pattern, which editors show instead of the pattern.
pub(super) fn explain_patterns(value: &mut Value) {
    if let Value::Object(object) = value {
        let message = match object.get("pattern").and_then(Value::as_str) {
            Some(PARAMETER) => {
                let types = object.get("type").and_then(Value::as_array).into_iter().flatten();
                let words = types.filter_map(Value::as_str).filter_map(|name| match name {
                    "integer" => Some("a whole number"),
                    "number" => Some("a number"),
                    "boolean" => Some("true or false"),
                    "array" => Some("a list"),
                    "object" => Some("a map"),
                    _ => None,
                });
                let words: Vec<&str> = words.chain(["a parameter such as $name"]).collect();
                Some(format!("Expected {}.", words.join(" or ")))
            }
            Some(REFERENCE) => Some("Expected a reference such as world.seeds, or { path: FILE }.".into()),
            Some(DURATION) => Some("Expected seconds, or text such as 90s or 2h.".into()),
            Some(NAME | PATH) => Some("Expected a name: letters, digits, `_` and `-`.".into()),
            _ => None,
        };
        object.extend(message.map(|message| ("patternErrorMessage".to_owned(), message.into())));
    }
    match value {
        Value::Object(object) => object.iter_mut().for_each(|(_, inner)| explain_patterns(inner)),
        Value::Array(items) => items.iter_mut().for_each(explain_patterns),
        _ => {}
    }
}
