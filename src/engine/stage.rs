//! What the engine asks of a stage kind, and the registry of kinds.

use std::any::Any;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::context::Context;
use super::input::{self, Use};
use super::kind::{Kind, KindFacts, Output, Part, Purpose};
use super::upstream::Upstream;

/// A stage: typed parameters, and the function from inputs and seed to outputs.
///
/// The parameters are what serde reads (unknown keys must be refused) and writes back with every default
/// filled in: the written form is hashed into the key. Doc comments of the struct and its fields are what
/// `pipeline schema` and `pipeline kinds` say of them. A stage must be a function of its parameters, its
/// inputs and `context.seed()`: no clock, no other randomness, no undeclared file or variable.
pub trait Stage: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    const KIND: Kind;

    /// What its nodes are there for.
    const PURPOSE: Purpose = Purpose::Play;

    /// What its inputs and parameters are to what comes of them, by path; see [`Part`].
    const PARTS: &'static [(&'static str, Part)] = &[];

    /// Keys under which scalars are text, exactly as they are typed: there `3.10` is a version and not the number 3.1.
    const VERBATIM: &'static [&'static str] = &[];

    /// What is said of parameters that have keys of before, instead of that these are unknown.
    fn retired(_params: &Value) -> Option<CheckError> {
        None
    }

    /// What types cannot say about the parameters.
    fn check(&self) -> Result<(), CheckError> {
        Ok(())
    }

    /// Fills in what is left out and follows from the stages that feed this one; says whether there was something. What
    /// is filled in counts for the key as if it had been typed.
    fn complete(&mut self, _upstream: Upstream) -> bool {
        false
    }

    /// Holds the parameters against those of the stages that feed this one. What is no error, and yet hardly meant, comes
    /// back as warnings.
    fn agree(&self, _upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        Ok(Vec::new())
    }

    /// The outputs, where they depend on the parameters. The first is the one that a bare stage name refers to.
    fn outputs(&self) -> Vec<Output> {
        Self::KIND.outputs.to_vec()
    }

    /// Whether it draws, where that depends on the parameters.
    fn draws(&self) -> bool {
        Self::KIND.draws
    }

    /// Does the work and writes every declared output to `context.output(name)`.
    fn run(&self, context: &mut Context) -> anyhow::Result<()>;
}

/// Marks a failure that may pass by itself, such as a service that is busy: the runner tries the stage again as
/// often as its [`super::Retry`] says. Whatever context is added to it, the mark stays.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Transient(anyhow::Error);

impl Transient {
    pub fn of(error: anyhow::Error) -> anyhow::Error {
        anyhow::Error::new(Transient(error))
    }

    pub fn is(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<Transient>())
    }
}

/// What is wrong with a stage's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckError {
    /// The key that it is about, such as `prompt` or `models.0.weight`; empty for the stage as a whole.
    pub path: String,
    /// What was expected. Where it begins with a key of the map at `path`, in backticks, it is shown there.
    pub message: String,
}

impl CheckError {
    pub fn at(path: impl Into<String>, message: impl ToString) -> CheckError {
        CheckError { path: path.into(), message: message.to_string() }
    }

    /// The keys and indices of its path.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.path.split('.').filter(|step| !step.is_empty())
    }
}

impl From<String> for CheckError {
    fn from(message: String) -> CheckError {
        CheckError { path: String::new(), message }
    }
}

impl From<&str> for CheckError {
    fn from(message: &str) -> CheckError {
        message.to_owned().into()
    }
}

/// A decoded stage of any kind.
pub trait AnyStage: Send + Sync {
    fn run(&self, context: &mut Context) -> anyhow::Result<()>;

    /// [`Stage::complete`]; gives the parameters where something was filled in.
    fn complete(&mut self, upstream: Upstream) -> Option<Value>;

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError>;

    fn as_any(&self) -> &dyn Any;
}

struct Erased<S>(S);

impl<S: Stage> AnyStage for Erased<S> {
    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        self.0.run(context)
    }

    fn complete(&mut self, upstream: Upstream) -> Option<Value> {
        self.0.complete(upstream).then(|| serde_json::to_value(&self.0).ok())?
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        self.0.agree(upstream)
    }

    fn as_any(&self) -> &dyn Any {
        &self.0
    }
}

/// A decoded stage and its canonical parameters: defaults filled in, inputs marked and numbered.
pub struct Decoded {
    pub stage: Box<dyn AnyStage>,
    pub outputs: Vec<Output>,
    pub params: Value,
    /// By their numbers.
    pub uses: Vec<Use>,
    pub draws: bool,
}

impl Decoded {
    /// Fills in what follows from the stages that feed this one.
    pub(super) fn complete(&mut self, upstream: Upstream) {
        if let Some(params) = self.stage.complete(upstream) {
            self.params = params;
        }
    }
}

/// Why parameters could not be decoded, and the keys and indices that lead to the place.
#[derive(Debug)]
pub struct DecodeError {
    pub path: Vec<String>,
    pub message: String,
    /// Whether it is the stage's own [`Stage::check`] that says so, in its own words.
    pub checked: bool,
}

type Decode = fn(Value) -> Result<Decoded, DecodeError>;

/// The JSON Schema of a kind's keys; what it refers to is left with the generator.
type KindSchema = fn(&mut SchemaGenerator) -> Schema;

struct Entry {
    kind: &'static Kind,
    purpose: Purpose,
    parts: &'static [(&'static str, Part)],
    verbatim: &'static [&'static str],
    decode: Decode,
    schema: KindSchema,
}

impl Entry {
    fn of<S: Stage>() -> Entry {
        Entry {
            kind: const { &S::KIND },
            purpose: S::PURPOSE,
            parts: S::PARTS,
            verbatim: S::VERBATIM,
            decode: decode::<S>,
            schema: S::json_schema,
        }
    }
}

/// Resolves a device and a number type to what results depend on, such as `cuda bf16`; or says what there is.
type Numerics = fn(device: &str, dtype: &str) -> Result<String, String>;

/// The stage kinds that pipelines can name, and what they can be computed with.
#[derive(Default)]
pub struct Registry {
    kinds: Vec<Entry>,
    /// The kind that a loop's `until` is of.
    until: Option<Entry>,
    numerics: Option<Numerics>,
    build: Option<&'static str>,
}

impl Registry {
    /// Adds a kind.
    pub fn with<S: Stage>(mut self) -> Registry {
        self.kinds.push(Entry::of::<S>());
        self
    }

    /// Says of which kind a loop's `until` is: its keys are this kind's, but that `metric` is one reference there and here
    /// the list of it in as many rounds as `in_a_row` says. Its first output is a [`super::DECISION`]. No stage is of it.
    pub fn with_until<S: Stage>(self) -> Registry {
        Registry { until: Some(Entry::of::<S>()), ..self }
    }

    /// Says which devices and number types there are.
    pub fn with_numerics(self, numerics: Numerics) -> Registry {
        Registry { numerics: Some(numerics), ..self }
    }

    /// Names the build that lacks kinds which pipelines may name, such as `a build without models`.
    pub fn of_build(self, build: &'static str) -> Registry {
        Registry { build: Some(build), ..self }
    }

    /// The build that lacks kinds.
    pub fn build(&self) -> Option<&'static str> {
        self.build
    }

    /// That there is no such kind.
    pub fn unknown(&self, kind: &str) -> String {
        let build = self.build.map_or(String::new(), |build| format!(" in {build}"));
        format!("there is no stage kind `{kind}`{build}")
    }

    pub(super) fn numerics(&self, device: &str, dtype: &str) -> Result<String, String> {
        self.numerics.map_or_else(|| Ok(String::new()), |numerics| numerics(device, dtype))
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.iter().map(|entry| entry.kind.name)
    }

    /// What a kind says of itself to who looks at a run later.
    pub fn facts(&self, name: &str) -> Option<KindFacts> {
        let entry = self.kinds.iter().find(|entry| entry.kind.name == name)?;
        let parts = entry.parts.iter().map(|(path, part)| ((*path).to_owned(), *part));
        Some(KindFacts { purpose: entry.purpose, parts: parts.collect() })
    }

    /// All kinds, in the order in which they were added.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> + '_ {
        self.kinds.iter().map(|entry| entry.kind)
    }

    pub(super) fn schemas(&self) -> impl Iterator<Item = (&'static Kind, KindSchema)> + '_ {
        self.kinds.iter().map(|entry| (entry.kind, entry.schema))
    }

    /// The kind of a loop's `until`, and how it is decoded.
    pub(super) fn until(&self) -> Option<(&'static Kind, Decode)> {
        self.until.as_ref().map(|entry| (entry.kind, entry.decode))
    }

    /// The schema of the keys of a loop's `until`.
    pub(super) fn until_schema(&self) -> Option<KindSchema> {
        self.until.as_ref().map(|entry| entry.schema)
    }

    /// A kind by the name that a job has, which may be that of a loop's `until`.
    pub(super) fn find_of_job(&self, name: &str) -> Option<(&'static Kind, Decode)> {
        let entry = self.kinds.iter().chain(&self.until).find(|entry| entry.kind.name == name)?;
        Some((entry.kind, entry.decode))
    }

    /// A kind, how it is decoded, and which of its keys are verbatim.
    pub(super) fn find(&self, name: &str) -> Option<(&'static Kind, Decode, &'static [&'static str])> {
        let entry = self.kinds.iter().find(|entry| entry.kind.name == name)?;
        Some((entry.kind, entry.decode, entry.verbatim))
    }
}

fn decode<S: Stage>(params: Value) -> Result<Decoded, DecodeError> {
    let checked = |error: CheckError| DecodeError {
        path: error.keys().map(str::to_owned).collect(),
        message: error.message,
        checked: true,
    };
    S::retired(&params).map_or(Ok(()), |error| Err(checked(error)))?;
    let stage: S = serde_path_to_error::deserialize(params).map_err(|error| {
        use serde_path_to_error::Segment;
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.clone(),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => "?".to_owned(),
        };
        let path = error.path().iter().map(step).collect();
        DecodeError { path, message: error.inner().to_string(), checked: false }
    })?;
    stage.check().map_err(checked)?;
    let defect = |error: serde_json::Error| DecodeError {
        path: Vec::new(),
        message: error.to_string(),
        checked: false,
    };
    let mut params = serde_json::to_value(&stage).map_err(defect)?;
    let uses = input::number(&mut params);
    // What runs is what the job's parameters say, here as in a process of its own.
    let stage: S = serde_json::from_value(params.clone()).map_err(defect)?;
    let (outputs, draws) = (stage.outputs(), stage.draws());
    Ok(Decoded { stage: Box::new(Erased(stage)), outputs, params, uses, draws })
}
