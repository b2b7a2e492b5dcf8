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
