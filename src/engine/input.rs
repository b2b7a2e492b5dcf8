//! What a stage is fed: references to outputs of other stages, and files from outside.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::{
    self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor, value::SeqAccessDeserializer,
};
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

/// The key that marks an input in a stage's serialised parameters. Names of parameters never begin with `$`.
const MARK: &str = "$input";

/// A type of artifact as a Rust type, so that a stage's fields say what they accept.
pub trait ArtifactType {
    /// The artifact types (as in [`super::Output::artifact`]) that an input of this type takes.
    const ACCEPTS: &'static [&'static str];
}

/// Where an input comes from, as typed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// `stage.output`, `stage[variant].output` or a carried name.
    Reference(String),
    /// A file or folder of the user's, relative to the working directory.
    Path(PathBuf),
    /// An environment variable.
    Variable(String),
}

/// An input of a stage: `name.output` of another stage, or `{ path: FILE }`.
pub struct Input<T> {
    pub(super) origin: Origin,
    artifact: PhantomData<fn() -> T>,
}

/// An input, or a list of them.
#[derive(Clone, Debug)]
pub enum Inputs<T> {
    One(Input<T>),
    Several(Vec<Input<T>>),
}

/// An input that can only be a file from outside, written as its plain path.
#[derive(Clone, Debug)]
pub struct InputFile(pub PathBuf);

/// An environment variable that a stage reads: its value counts like the content of a file.
#[derive(Clone, Debug)]
pub struct InputVariable(pub String);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Reference(text) => f.write_str(text),
            Origin::Path(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "${name}"),
        }
    }
}

impl<T> Input<T> {
    /// The reference or path as the pipeline has it.
    pub fn text(&self) -> String {
        self.origin.to_string()
    }
}

impl<T> Inputs<T> {
    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Input<T>> {
        match self {
            Inputs::One(input) => std::slice::from_ref(input).iter(),
            Inputs::Several(inputs) => inputs.iter(),
        }
    }
}

impl<T> Clone for Input<T> {
    fn clone(&self) -> Self {
        Input { origin: self.origin.clone(), artifact: PhantomData }
    }
}

impl<T> fmt::Debug for Input<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({:?})", self.origin)
    }
}

impl<T: ArtifactType> Serialize for Input<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = match &self.origin {
            Origin::Reference(text) => json!({ MARK: { "ref": text, "accepts": T::ACCEPTS } }),
            Origin::Path(path) => json!({ MARK: { "path": path } }),
            Origin::Variable(name) => json!({ MARK: { "variable": name } }),
        };
        value.serialize(serializer)
    }
}

impl<T: ArtifactType> Serialize for Inputs<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Inputs::One(input) => input.serialize(serializer),
            Inputs::Several(inputs) => inputs.serialize(serializer),
        }
    }
}

impl Serialize for InputFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({ MARK: { "path": self.0 } }).serialize(serializer)
    }
}

impl Serialize for InputVariable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({ MARK: { "variable": self.0 } }).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Input<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let origin = deserializer.deserialize_any(OriginVisitor)?;
        Ok(Input { origin, artifact: PhantomData })
    }
}

impl<'de, T> Deserialize<'de> for Inputs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for InputFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(InputFile)
    }
}

impl<'de> Deserialize<'de> for InputVariable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(InputVariable)
    }
}

struct OriginVisitor;

impl<'de> Visitor<'de> for OriginVisitor {
    type Value = Origin;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reference such as `world.seeds`, or { path: FILE }")
    }

    fn visit_str<E>(self, text: &str) -> Result<Origin, E> {
        Ok(Origin::Reference(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Origin, A::Error> {
        let expected = || de::Error::custom("expected { path: FILE } and nothing else");
        let (key, path): (String, PathBuf) = entries.next_entry()?.ok_or_else(expected)?;
        if key != "path" || entries.next_key::<String>()?.is_some() {
            return Err(expected());
        }
        Ok(Origin::Path(path))
    }
}

struct InputsVisitor<T>(PhantomData<fn() -> T>);

impl<'de, T> Visitor<'de> for InputsVisitor<T> {
    type Value = Inputs<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OriginVisitor.expecting(f)?;
        f.write_str(", or a list of those")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Inputs<T>, E> {
        let origin = OriginVisitor.visit_str::<E>(text)?;
        Ok(Inputs::One(Input { origin, artifact: PhantomData }))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Inputs<T>, A::Error> {
        let origin = OriginVisitor.visit_map(entries)?;
        Ok(Inputs::One(Input { origin, artifact: PhantomData }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Inputs<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(items)).map(Inputs::Several)
    }
}

/// An input found in the serialised parameters of a stage.
#[derive(Clone, Debug)]
pub struct Use {
    pub origin: Origin,
    pub accepts: Vec<String>,
    /// Keys and indices that lead to it, for finding its place in the file.
    pub path: Vec<String>,
}

/// All inputs in serialised parameters, in order.
pub fn uses(params: &Value) -> Vec<Use> {
    let mut found = Vec::new();
    collect(params, &mut Vec::new(), &mut found);
    found
}

fn collect(value: &Value, path: &mut Vec<String>, found: &mut Vec<Use>) {
    if let Some((origin, accepts)) = as_input(value) {
        found.push(Use { origin, accepts, path: path.clone() });
        return;
    }
    let mut visit = |step: String, value: &Value| {
        path.push(step);
        collect(value, path, found);
        path.pop();
    };
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| visit(i.to_string(), item)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| visit(name.clone(), value)),
        _ => {}
    }
}

fn as_input(value: &Value) -> Option<(Origin, Vec<String>)> {
    let mark = value.as_object().filter(|fields| fields.len() == 1)?.get(MARK)?;
    if let Some(path) = mark["path"].as_str() {
        return Some((Origin::Path(path.into()), Vec::new()));
    }
    if let Some(name) = mark["variable"].as_str() {
        return Some((Origin::Variable(name.into()), Vec::new()));
    }
    let accepts = mark["accepts"].as_array()?.iter().filter_map(|name| name.as_str().map(str::to_owned));
    Some((Origin::Reference(mark["ref"].as_str()?.to_owned()), accepts.collect()))
}

/// The parameters with every input replaced by `substitute(origin)`, or left where that is nothing.
pub fn replace(params: &Value, substitute: &mut impl FnMut(&Origin) -> Option<Value>) -> Value {
    if let Some((origin, _)) = as_input(params) {
        return substitute(&origin).unwrap_or_else(|| params.clone());
    }
    match params {
        Value::Array(items) => items.iter().map(|item| replace(item, substitute)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), replace(value, substitute)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}
