//! The schemas of inputs.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::input::{ArtifactType, Input, InputFile, InputVariable, Inputs};

/// In the schema of an input: the types of artifacts that it takes.
pub const ACCEPTS: &str = "x-accepts";

/// `stage`, `stage.output` or `stage[variant].output`, or text with a parameter in it.
pub(super) const REFERENCE: &str = r"^[A-Za-z_][A-Za-z0-9_-]*(\[[^\]]*\])?(\.[A-Za-z_][A-Za-z0-9_-]*)?$|\$";

/// The schema of an input of any type.
pub(crate) struct AnyInput;

impl JsonSchema for AnyInput {
    fn schema_name() -> Cow<'static, str> {
        "input".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "object"],
            "pattern": REFERENCE,
            "properties": { "path": { "type": "string", "description":
                "A file or folder of your own, relative to the working directory." } },
            "required": ["path"],
            "additionalProperties": false,
        })
    }
}

/// The schema of an input that a server may have.
pub(crate) struct ServedInput;

impl JsonSchema for ServedInput {
    fn schema_name() -> Cow<'static, str> {
        "served input".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let own = generator.subschema_for::<AnyInput>();
        let endpoint = json!({ "type": "string", "description":
            "The name of an endpoint of the site file. It does not count for results." });
        let mut loaded = own.clone();
        loaded.insert(
            "description".into(),
            json!("The model that the server is told to load: an adapter, or all of a model."),
        );
        json_schema!({ "anyOf": [
            own,
            {
                "type": "object",
                "properties": {
                    "endpoint": endpoint,
                    "model": { "type": "string", "description": "The name by which the server knows the model." },
                    "revision": { "type": "string", "description":
                        "Which of its versions it is: free text that counts for results." },
                },
                "required": ["endpoint", "model"],
                "additionalProperties": false,
            },
            {
                "type": "object",
                "properties": { "endpoint": endpoint, "load": loaded },
                "required": ["endpoint", "load"],
                "additionalProperties": false,
            },
        ] })
    }
}

impl<T: ArtifactType> JsonSchema for Input<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("input.{}{}", if T::SERVED { "served." } else { "" }, T::ACCEPTS.join("-")).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = match T::SERVED {
            true => generator.subschema_for::<ServedInput>(),
            false => generator.subschema_for::<AnyInput>(),
        };
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
