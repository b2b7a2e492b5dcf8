//! The inputs of a stage: references to outputs of other stages, and files from outside.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{
    self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor, value::SeqAccessDeserializer,
};
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};
use store::Selection;

/// The key that marks an input in a stage's serialised parameters. Names of parameters never begin with `$`.
const MARK: &str = "$input";

/// A type of artifact as a Rust type, so that a stage's fields say what they accept.
pub trait ArtifactType {
    /// The artifact types (as in [`super::Output::artifact`]) that an input of this type takes.
    const ACCEPTS: &'static [&'static str];

    /// The files of a user's folder that are part of such an artifact: names, or `*.` and an ending. Other files there count
    /// for no key, and no stage may read them. Empty: all files.
    const FILES: &'static [&'static str] = &[];
}

/// Where an input comes from, as typed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputSource {
    /// `stage.output`, `stage[variant].output` or a carried name.
    Reference(String),
    /// A file or folder of the user's, relative to the working directory.
    Path(PathBuf),
    /// An environment variable.
    Variable(String),
}

/// An input of a stage: `name.output` of another stage, or `{ path: FILE }`.
pub struct Input<T> {
    pub(super) place: Place,
    artifact: PhantomData<fn() -> T>,
}

/// An input, or a list of them.
#[derive(Clone, Debug)]
pub enum Inputs<T> {
    /// A single input, written without a list.
    One(Input<T>),
    /// A list, in the order of the file.
    Several(Vec<Input<T>>),
}

/// An input that must be a file from outside, typed as its plain path.
#[derive(Clone, Debug)]
pub struct InputFile(pub(super) Place);

/// An environment variable that a stage reads: its value counts like the content of a file.
#[derive(Clone, Debug)]
pub struct InputVariable(pub(super) Place);

/// An input as typed, and its number among the stage's inputs, once all of them are known.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub origin: InputSource,
    pub number: Option<usize>,
}

impl From<InputSource> for Place {
    fn from(origin: InputSource) -> Place {
        Place { origin, number: None }
    }
}

impl Place {
    /// Its form in serialised parameters.
    fn mark(&self, accepts: &[&str], files: &[&str]) -> Value {
        let mut mark = match &self.origin {
            InputSource::Reference(text) => json!({ "ref": text, "accepts": accepts }),
            InputSource::Path(path) => json!({ "path": path }),
            InputSource::Variable(name) => json!({ "variable": name }),
        };
        if !files.is_empty() {
            mark["files"] = json!(files);
        }
        if let Some(number) = self.number {
            mark["n"] = json!(number);
        }
        json!({ MARK: mark })
    }

    fn of_mark(mark: &Value) -> Option<Place> {
        let text = |key: &str| mark.get(key).and_then(Value::as_str);
        let origin = match (text("path"), text("variable"), text("ref")) {
            (Some(path), _, _) => InputSource::Path(path.into()),
            (_, Some(name), _) => InputSource::Variable(name.to_owned()),
            (_, _, Some(text)) => InputSource::Reference(text.to_owned()),
            _ => return None,
        };
        let number = mark.get("n").and_then(Value::as_u64).map(|number| number as usize);
        Some(Place { origin, number })
    }
}

impl InputFile {
    /// A file or folder of the user's, whose content is read when the pipeline is planned.
    pub fn new(path: PathBuf) -> InputFile {
        InputFile(InputSource::Path(path).into())
    }

    /// The path as in the pipeline.
    pub fn path(&self) -> &Path {
        match &self.0.origin {
            InputSource::Path(path) => path,
            _ => Path::new(""),
        }
    }
}

impl InputVariable {
    /// The variable's name, such as `API_KEY`.
    pub fn name(&self) -> &str {
        match &self.0.origin {
            InputSource::Variable(name) => name,
            _ => "",
        }
    }
}

impl fmt::Display for InputSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputSource::Reference(text) => f.write_str(text),
            InputSource::Path(path) => write!(f, "{}", path.display()),
            InputSource::Variable(name) => write!(f, "${name}"),
        }
    }
}

impl<T> Input<T> {
    /// The reference or path as in the pipeline.
    pub fn text(&self) -> String {
        self.place.origin.to_string()
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
        Input { place: self.place.clone(), artifact: PhantomData }
    }
}

impl<T> fmt::Debug for Input<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({:?})", self.place.origin)
    }
}

impl<T: ArtifactType> Serialize for Input<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.place.mark(T::ACCEPTS, T::FILES).serialize(serializer)
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
        self.0.mark(&[], &[]).serialize(serializer)
    }
}

impl Serialize for InputVariable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.mark(&[], &[]).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Input<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = deserializer.deserialize_any(PlaceVisitor(Typed::Reference))?;
        Ok(Input { place, artifact: PhantomData })
    }
}

impl<'de, T> Deserialize<'de> for Inputs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for InputFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlaceVisitor(Typed::Path)).map(InputFile)
    }
}

impl<'de> Deserialize<'de> for InputVariable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlaceVisitor(Typed::Variable)).map(InputVariable)
    }
}

/// The meaning of a plain text.
#[derive(Clone, Copy, PartialEq)]
enum Typed {
    Reference,
    Path,
    Variable,
}

struct PlaceVisitor(Typed);

impl<'de> Visitor<'de> for PlaceVisitor {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Typed::Reference => "a reference such as `world.seeds`, or { path: FILE }",
            Typed::Path => "path string",
            Typed::Variable => "a string",
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Place, E> {
        let origin = match self.0 {
            Typed::Reference => InputSource::Reference(text.to_owned()),
            Typed::Path => InputSource::Path(text.into()),
            Typed::Variable => InputSource::Variable(text.to_owned()),
        };
        Ok(origin.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Place, A::Error> {
        let expected = || de::Error::custom("must be { path: FILE } and nothing else");
        let key: String = entries.next_key()?.ok_or_else(expected)?;
        let place = match key.as_str() {
            MARK => Place::of_mark(&entries.next_value()?).ok_or_else(expected)?,
            "path" if self.0 == Typed::Reference => InputSource::Path(entries.next_value()?).into(),
            _ => return Err(expected()),
        };
        if entries.next_key::<String>()?.is_some() {
            return Err(expected());
        }
        Ok(place)
    }
}

struct InputsVisitor<T>(PhantomData<fn() -> T>);

impl<'de, T> Visitor<'de> for InputsVisitor<T> {
    type Value = Inputs<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PlaceVisitor(Typed::Reference).expecting(f)?;
        f.write_str(", or a list of those")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Inputs<T>, E> {
        let place = PlaceVisitor(Typed::Reference).visit_str::<E>(text)?;
        Ok(Inputs::One(Input { place, artifact: PhantomData }))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Inputs<T>, A::Error> {
        let place = PlaceVisitor(Typed::Reference).visit_map(entries)?;
        Ok(Inputs::One(Input { place, artifact: PhantomData }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Inputs<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(items)).map(Inputs::Several)
    }
}

/// An input found in the serialised parameters of a stage.
#[derive(Clone, Debug)]
pub struct Use {
    pub origin: InputSource,
    pub accepts: Vec<String>,
    /// What counts of a user's folder: [`ArtifactType::FILES`] without what the stage ignores.
    pub selection: Selection,
    /// Keys and indices that lead to it, for finding its place in the file.
    pub path: Vec<String>,
}

/// Numbers each input in serialised parameters, in the order of the keys that lead to it. So neither the order of fields in a
/// stage's code counts, nor whether two inputs are the same. Returns all inputs.
pub(crate) fn number(params: &mut Value) -> Vec<Use> {
    let mut found = Vec::new();
    collect(params, &mut Vec::new(), &mut found);
    found
}

fn collect(value: &mut Value, path: &mut Vec<String>, found: &mut Vec<Use>) {
    if let Some(mark) = mark_in(value) {
        let names = |key: &str| -> Vec<String> {
            let names = mark.get(key).and_then(Value::as_array).into_iter().flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let (accepts, files) = (names("accepts"), names("files"));
        if let Some(place) = Place::of_mark(mark) {
            mark["n"] = json!(found.len());
            let selection = Selection { files, ..Selection::default() };
            found.push(Use { origin: place.origin, accepts, selection, path: path.clone() });
        }
        return;
    }
    let mut visit = |step: String, value: &mut Value| {
        path.push(step);
        collect(value, path, found);
        path.pop();
    };
    match value {
        Value::Array(items) => items.iter_mut().enumerate().for_each(|(i, item)| visit(i.to_string(), item)),
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &mut Value)> = fields.iter_mut().collect();
            fields.sort_by_key(|(name, _)| *name);
            fields.into_iter().for_each(|(name, value)| visit(name.clone(), value));
        }
        _ => {}
    }
}

fn mark_in(value: &mut Value) -> Option<&mut Value> {
    value.as_object_mut().filter(|fields| fields.len() == 1)?.get_mut(MARK)
}

/// The parameters with every input replaced by `substitute` of its number.
pub(crate) fn replace(params: &Value, substitute: &impl Fn(usize) -> Value) -> Value {
    match params {
        Value::Array(items) => items.iter().map(|item| replace(item, substitute)).collect(),
        Value::Object(fields) => match (fields.len(), fields.get(MARK).map(number_of)) {
            (1, Some(Some(number))) => substitute(number),
            _ => fields
                .iter()
                .map(|(name, value)| (name.clone(), replace(value, substitute)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        },
        other => other.clone(),
    }
}

/// The number in a mark: that of parameters, or of records, where it is the number alone.
fn number_of(mark: &Value) -> Option<usize> {
    let number = mark.get("n").unwrap_or(mark).as_u64()?;
    usize::try_from(number).ok()
}

/// The form of an input in a record.
pub(crate) fn numbered(number: usize) -> Value {
    json!({ MARK: number })
}
