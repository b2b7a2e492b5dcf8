//! The keys of a stage that say how a model is asked.

use std::fmt;
use std::io::ErrorKind;

use anyhow::Context as _;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};

use engine::{Context, InputFile};
use model::{Arguments, GIVEN};
use store::read::{self, MAX_TEXT_BYTES};

/// A text in the pipeline or in a file.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Inline(String),
    File(InputFile),
}

impl Text {
    /// The text.
    pub(crate) fn read(&self, context: &Context) -> anyhow::Result<String> {
        match self {
            Text::Inline(text) => Ok(text.clone()),
            Text::File(file) => {
                let path = &context.file(file)?.path;
                read::text(path, MAX_TEXT_BYTES).with_context(|| format!("cannot read {}", path.display()))
            }
        }
    }

    /// The text while a pipeline is checked; `None` if the file does not exist, which the engine reports.
    pub(crate) fn peek(&self) -> Result<Option<String>, String> {
        match self {
            Text::Inline(text) => Ok(Some(text.clone())),
            Text::File(file) => match read::text(file.path(), MAX_TEXT_BYTES) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("cannot read {}: {error}", file.path().display())),
            },
        }
    }

    /// Its name in error messages.
    pub(crate) fn shown(&self) -> String {
        match self {
            Text::Inline(text) => format!("`{text}`"),
            Text::File(file) => format!("in {}", file.path().display()),
        }
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Text::Inline(text) => serializer.serialize_str(text),
            Text::File(file) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("file", file)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or { file: FILE }")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text::Inline(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Text, A::Error> {
        let expected = || de::Error::custom("expected { file: FILE } and nothing else");
        let (key, file): (String, InputFile) = entries.next_entry()?.ok_or_else(expected)?;
        if key != "file" || entries.next_key::<String>()?.is_some() {
            return Err(expected());
        }
        Ok(Text::File(file))
    }
}

impl JsonSchema for Text {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "description": "The text." },
                {
                    "type": "object",
                    "properties": { "file": { "type": "string", "description":
                        "A file that holds the text, relative to the working directory. Its content counts, not its name." } },
                    "required": ["file"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// Whether a model is asked in its chat template, and with which arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Chat {
    #[default]
    Off,
    On(Arguments),
}

impl Chat {
    pub(crate) fn is_on(&self) -> bool {
        matches!(self, Chat::On(_))
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let Chat::On(arguments) = self else { return Ok(()) };
        match GIVEN.iter().find(|name| arguments.contains_key(**name)) {
            Some(name) => {
                Err(format!("`{name}` must not be an argument: triplay sets it in every chat template"))
            }
            None => Ok(()),
        }
    }
}

impl Serialize for Chat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Chat::Off => serializer.serialize_bool(false),
            Chat::On(arguments) if arguments.is_empty() => serializer.serialize_bool(true),
            Chat::On(arguments) => arguments.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Chat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Chat, D::Error> {
        deserializer.deserialize_any(ChatVisitor)
    }
}

struct ChatVisitor;

impl<'de> Visitor<'de> for ChatVisitor {
    type Value = Chat;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or a map of arguments for the chat template")
    }

    fn visit_bool<E>(self, on: bool) -> Result<Chat, E> {
        Ok(if on { Chat::On(Arguments::new()) } else { Chat::Off })
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Chat, A::Error> {
        Arguments::deserialize(MapAccessDeserializer::new(entries)).map(Chat::On)
    }
}

impl JsonSchema for Chat {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Chat".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "boolean" },
                { "type": "object", "description": "Arguments for the chat template." },
            ],
        })
    }
}

/// What to do with a prompt that does not fit into the model's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TooLong {
    /// The stage fails and names the row.
    #[default]
    Error,
    /// The model is not asked. The row stays in the dataset with an empty text and no tokens, so that groups stay complete; a
    /// judge's verdict on it is undetermined. The stage reports how many rows there are.
    Skip,
}
