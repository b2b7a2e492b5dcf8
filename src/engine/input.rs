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

    /// Whether a server may have it: see [`Served`].
    const SERVED: bool = false;
}

/// Something that a server has, as a pipeline names it. The name of the endpoint counts for no key: the site file says where
/// that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Served {
    /// The name of an endpoint of the site file.
    pub endpoint: String,
    /// The name by which the server knows it.
    pub model: String,
    /// Which of its versions it is: free text that counts for keys.
    pub revision: Option<String>,
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
    /// Something that a server has.
    Served(Served),
}

impl Served {
    /// What counts for keys, for people: `MODEL`, or `MODEL at REVISION`.
    pub fn text(&self) -> String {
        model_and_revision(&self.model, self.revision.as_deref())
    }
}

/// [`Served::text`].
pub(super) fn model_and_revision(model: &str, revision: Option<&str>) -> String {
    match revision {
        Some(revision) => format!("{model} at {revision}"),
        None => model.to_owned(),
    }
}

/// An input of a stage: `name.output` of another stage, or `{ path: FILE }`. Where its type allows that, it may be used through
/// a server: `{ endpoint: NAME, model: MODEL }` is something that the server has, `{ endpoint: NAME, load: INPUT }` something that
/// the server is told to load.
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
    /// The endpoint that loads the input.
    pub loaded_by: Option<String>,
}

impl From<InputSource> for Place {
    fn from(origin: InputSource) -> Place {
        Place { origin, number: None, loaded_by: None }
    }
}

impl Place {
    /// Its form in serialised parameters.
    fn mark(&self, accepts: &[&str], files: &[&str], served: bool) -> Value {
        let mut mark = match &self.origin {
            InputSource::Reference(text) => json!({ "ref": text, "accepts": accepts }),
            InputSource::Path(path) => json!({ "path": path }),
            InputSource::Variable(name) => json!({ "variable": name }),
            InputSource::Served(Served { endpoint, model, revision }) => {
                json!({ "endpoint": endpoint, "model": model, "revision": revision })
            }
        };
        if let Some(endpoint) = &self.loaded_by {
            mark["loaded_by"] = json!(endpoint);
        }
        if served {
            mark["served"] = json!(true);
        }
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
        let origin = match (text("path"), text("variable"), text("ref"), text("endpoint")) {
            (Some(path), ..) => InputSource::Path(path.into()),
            (_, Some(name), ..) => InputSource::Variable(name.to_owned()),
            (_, _, Some(text), _) => InputSource::Reference(text.to_owned()),
            (.., Some(endpoint)) => InputSource::Served(Served {
                endpoint: endpoint.to_owned(),
                model: text("model")?.to_owned(),
                revision: text("revision").map(str::to_owned),
            }),
            _ => return None,
        };
        let number = mark.get("n").and_then(Value::as_u64).map(|number| number as usize);
        Some(Place { origin, number, loaded_by: text("loaded_by").map(str::to_owned) })
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
            InputSource::Served(served) => write!(f, "{} of {}", served.text(), served.endpoint),
        }
    }
}

impl<T> Input<T> {
    /// The reference or path as in the pipeline.
    pub fn text(&self) -> String {
        match &self.place.loaded_by {
            Some(endpoint) => format!("{} on {endpoint}", self.place.origin),
            None => self.place.origin.to_string(),
        }
    }

    /// What uses it, as typed. A value that a loop carries may be served too.
    pub fn through(&self) -> Through {
        match (&self.place.origin, &self.place.loaded_by) {
            (_, Some(_)) => Through::Loaded,
            (InputSource::Served(_), None) => Through::Served,
            _ => Through::Process,
        }
    }
}

/// What uses an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// This process.
    Process,
    /// A server, which has it.
    Served,
    /// A server, which is told to load it.
    Loaded,
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
        self.place.mark(T::ACCEPTS, T::FILES, T::SERVED).serialize(serializer)
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
        self.0.mark(&[], &[], false).serialize(serializer)
    }
}

impl Serialize for InputVariable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.mark(&[], &[], false).serialize(serializer)
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
        let mut fields = serde_json::Map::new();
        while let Some((key, value)) = entries.next_entry::<String, Value>()? {
            fields.insert(key, value);
        }
        if let (Some(mark), 1) = (fields.get(MARK), fields.len()) {
            return Place::of_mark(mark).ok_or_else(|| de::Error::custom(FORMS));
        }
        match self.0 {
            Typed::Reference => place(fields).map_err(de::Error::custom),
            Typed::Path | Typed::Variable => {
                Err(de::Error::custom("must be { path: FILE } and nothing else"))
            }
        }
    }
}

/// The forms of an input that is not a reference.
const FORMS: &str = "must be { path: FILE } and nothing else";

/// The forms of an input that names an endpoint.
const SERVED_FORMS: &str = "must be { endpoint: NAME, model: MODEL }, with a `revision` if you like, or { endpoint: NAME, load: INPUT }";

/// The input that a map stands for.
fn place(mut fields: serde_json::Map<String, Value>) -> Result<Place, String> {
    let mut text = |key: &str| match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(other) => Err(format!("`{key}` must be a text, found {other}")),
    };
    let Some(endpoint) = text("endpoint")? else {
        let path = text("path")?;
        return match (path, fields.is_empty()) {
            (Some(path), true) => Ok(InputSource::Path(path.into()).into()),
            _ => Err(FORMS.into()),
        };
    };
    let (model, revision) = (text("model")?, text("revision")?);
    let load = fields.remove("load");
    if !fields.is_empty() {
        return Err(SERVED_FORMS.into());
    }
    let origin = match (model, load) {
        (Some(model), None) => {
            return Ok(InputSource::Served(Served { endpoint, model, revision }).into());
        }
        (None, Some(Value::String(text))) if revision.is_none() => InputSource::Reference(text),
        (None, Some(Value::Object(of))) if revision.is_none() => match (of.get("path"), of.len()) {
            (Some(Value::String(path)), 1) => InputSource::Path(path.into()),
            _ => return Err("`load` must be a reference such as `warmup.model`, or { path: FILE }".into()),
        },
        _ => return Err(SERVED_FORMS.into()),
    };
    Ok(Place { loaded_by: Some(endpoint), ..origin.into() })
}

/// The input that a map of the file stands for, as far as it is one; `None` for other maps.
pub(super) fn source_of_map(fields: serde_json::Map<String, Value>) -> Option<InputSource> {
    place(fields).ok().filter(|place| place.loaded_by.is_none()).map(|place| place.origin)
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
    /// Whether a server may have it.
    pub may_be_served: bool,
    /// The endpoint that loads it.
    pub loaded_by: Option<String>,
}

impl Use {
    /// The endpoint that it is used through.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        match &self.origin {
            InputSource::Served(served) => Some(&served.endpoint),
            _ => self.loaded_by.as_deref(),
        }
    }
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
        let may_be_served = mark.get("served").is_some();
        if let Some(place) = Place::of_mark(mark) {
            mark["n"] = json!(found.len());
            let selection = Selection { files, ..Selection::default() };
            let (origin, loaded_by, path) = (place.origin, place.loaded_by, path.clone());
            found.push(Use { origin, accepts, selection, path, may_be_served, loaded_by });
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
