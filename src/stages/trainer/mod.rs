//! What computes the steps of `update` and `sft`: this process, or PyTorch. The inputs and outputs are the same: a batch, a model or
//! an adapter, and an optimizer's state.

mod torch;

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

pub(crate) use self::torch::{Job, check_torch, start, steps};

/// What computes the steps. It counts for the key: another trainer gives other last digits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum TrainedBy {
    /// This process.
    #[default]
    Here,
    /// A worker in Python that triplay starts.
    Torch(Torch),
}

/// Settings of PyTorch on which results depend. What the place has, such as the Python, is in the site file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Torch {
    /// The number type of activations and of a frozen base; that of the pipeline by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<TorchDtype>,
}

/// A number type of PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TorchDtype {
    /// 32 bits.
    F32,
    /// 16 bits; what is trained stays f32.
    Bf16,
}

/// A trainer with its default settings.
#[derive(Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Named {
    /// This process: exact, and quick for small models.
    Here,
    /// PyTorch, in a worker that triplay starts: for large models.
    Torch,
}

/// A trainer and its settings.
#[derive(Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum WithSettings {
    /// PyTorch, in a worker that triplay starts: for large models.
    Torch(Torch),
}

/// Both forms, for the schema.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Written {
    Named(Named),
    WithSettings(WithSettings),
}

impl TrainedBy {
    /// Whether it is the default, which stays out of the key.
    pub(crate) fn is_here(&self) -> bool {
        *self == TrainedBy::Here
    }
}

impl Serialize for TrainedBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            TrainedBy::Here => Written::Named(Named::Here),
            TrainedBy::Torch(torch) if *torch == Torch::default() => Written::Named(Named::Torch),
            TrainedBy::Torch(torch) => Written::WithSettings(WithSettings::Torch(torch.clone())),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TrainedBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrainedBy, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = TrainedBy;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("`here`, `torch` or { torch: { dtype: bf16 } }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TrainedBy, E> {
                Ok(match Named::deserialize(name.into_deserializer())? {
                    Named::Here => TrainedBy::Here,
                    Named::Torch => TrainedBy::Torch(Torch::default()),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TrainedBy, A::Error> {
                let WithSettings::Torch(torch) = WithSettings::deserialize(MapAccessDeserializer::new(map))?;
                Ok(TrainedBy::Torch(torch))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for TrainedBy {
    fn schema_name() -> Cow<'static, str> {
        "Trainer".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Written::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_trainer_is_written_back_in_its_shortest_form() {
        let both = |written: serde_json::Value| {
            let read: TrainedBy = serde_json::from_value(written).unwrap();
            (read.clone(), serde_json::to_value(read).unwrap())
        };
        assert_eq!(both(json!("here")), (TrainedBy::Here, json!("here")));
        assert_eq!(both(json!("torch")), (TrainedBy::Torch(Torch::default()), json!("torch")));
        assert_eq!(both(json!({ "torch": {} })).1, json!("torch"));
        let bf16 = json!({ "torch": { "dtype": "bf16" } });
        assert_eq!(both(bf16.clone()).1, bf16);
        let error = |written: serde_json::Value| {
            let error = serde_path_to_error::deserialize::<_, TrainedBy>(written).unwrap_err();
            (error.path().to_string(), error.inner().to_string())
        };
        assert_eq!(error(json!("trch")).1, "unknown variant `trch`, expected `here` or `torch`");
        assert_eq!(error(json!({ "torch": { "dtype": "f8" } })).0, "torch.dtype");
        assert!(error(json!(3)).1.contains("expected `here`, `torch` or { torch: { dtype: bf16 } }"));
    }
}
