//! The trait of stage kinds, and their registry.

use std::any::Any;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::context::Context;
use super::input::{self, Use};
use super::kind::{Kind, KindFacts, Output, Part, Purpose};
use super::upstream::{Upstream, Views};
use store::IgnoreRules;

/// A stage: typed parameters, and the function from inputs and seed to outputs.
///
/// serde reads the parameters (it must refuse unknown keys) and writes them back with every default filled in: the written
/// form is hashed into the key. `pipeline schema` and `pipeline kinds` print the doc comments of the struct and its fields. A
/// stage must be a function of its parameters, its inputs and `context.seed()`: no clock, no other randomness, no undeclared
/// file or variable.
pub trait Stage: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The kind: its name, code version, outputs and facts.
    const KIND: Kind;

    /// The purpose of its nodes.
    const PURPOSE: Purpose = Purpose::Play;

    /// The part that its inputs and parameters have in its results, by path; see [`Part`].
    const PARTS: &'static [(&'static str, Part)] = &[];

    /// The places that take a role, and the name of the role that each takes if the pipeline has it and no `role` is typed: the
    /// stage itself has an empty path; in a path such as `models.*`, the `*` stands for each entry of a list.
    const ROLES: &'static [(&'static str, &'static str)] = &[];

    /// Keys under which scalars are text, exactly as typed: there `3.10` is a version and not the number 3.1.
    const VERBATIM: &'static [&'static str] = &[];

    /// Whether it runs a command. Then `retry` can choose by exit code and by the text of its log, and the stage copies the
    /// user's files before it reads them and verifies the copies: see [`FileChanged`].
    const RUNS_COMMAND: bool = false;

    /// The error for parameters with keys of an earlier version, instead of one for unknown keys.
    fn retired(_params: &Value) -> Option<CheckError> {
        None
    }

    /// Checks what types cannot express about the parameters.
    fn check(&self) -> Result<(), CheckError> {
        Ok(())
    }

    /// Fills in parameters that are left out and follow from the stages that feed this one. Returns whether there were any.
    /// They count for the key as if they had been typed.
    fn complete(&mut self, _upstream: Upstream) -> bool {
        false
    }

    /// Checks the parameters against those of the stages that feed this one. Returns warnings of settings that are allowed and
    /// yet probably a mistake.
    fn agree(&self, _upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        Ok(Vec::new())
    }

    /// The `$name`s that the text under a key leaves to a shell, and that the stage does not set: keys and names.
    fn left_to_shell(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The traits by which the stages that it feeds can ask for it: see [`Upstream::view`].
    fn views() -> Views {
        Views::default()
    }

    /// The outputs, if they depend on the parameters. A bare stage name refers to the first.
    fn outputs(&self) -> Vec<Output> {
        Self::KIND.outputs.to_vec()
    }

    /// Patterns of files of users' folders that it ignores, in the syntax of `.gitignore`: then it reads these folders by
    /// [`Context::files_of`] alone. `None`: it reads them as they are.
    fn ignored(&self) -> Option<&[String]> {
        None
    }

    /// Whether it draws, if that depends on the parameters.
    fn draws(&self) -> bool {
        Self::KIND.draws
    }

    /// Does the work and writes every declared output to `context.output(name)`.
    fn run(&self, context: &mut Context) -> anyhow::Result<()>;
}

/// Marks a failure that may pass by itself, such as a busy service: the runner tries the stage again, as often as its
/// [`super::Retry`] says. Added context does not remove the mark.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Transient(anyhow::Error);

impl Transient {
    /// Marks an error as transient.
    pub fn of(error: anyhow::Error) -> anyhow::Error {
        anyhow::Error::new(Transient(error))
    }

    /// Whether an error, or a cause of it, is marked as transient.
    pub fn is(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<Transient>())
    }
}

/// The failure of a stage because a file of the user's has another content than the stage's key says. To try again changes
/// nothing. Added context does not remove the mark.
#[derive(Debug, thiserror::Error)]
#[error("{} {how}\n  help: run again to use the new content{more}", path.display())]
pub struct FileChanged {
    path: PathBuf,
    how: &'static str,
    more: String,
}

impl FileChanged {
    /// The file was changed before the stage had read it.
    pub fn before_it_was_read(path: &Path) -> FileChanged {
        let how = "was changed while the run was under way, before the stage had read it";
        FileChanged { path: path.to_owned(), how, more: String::new() }
    }

    /// The file was changed while the stage, which reads it in place, was at work.
    pub(super) fn while_it_was_read(path: &Path) -> FileChanged {
        let how =
            "was changed while the stage read it: its outputs may be of either content and are not recorded";
        FileChanged { path: path.to_owned(), how, more: String::new() }
    }

    /// The same error with more lines.
    pub(super) fn and(self, more: String) -> FileChanged {
        FileChanged { more, ..self }
    }

    /// Whether an error, or a cause of it, is one of these.
    pub(super) fn is(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<FileChanged>())
    }
}

/// An error in a stage's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckError {
    /// The key that it is about, such as `prompt` or `models.0.weight`; empty for the stage as a whole.
    pub path: String,
    /// The rule, and what was found. If it begins with a key of the map at `path`, in backticks, it is shown there.
    pub message: String,
}

impl CheckError {
    /// An error at a key of the stage, such as `models.0.weight`; an empty path is the stage as a whole.
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

    /// [`Stage::complete`]; returns the parameters if any was filled in.
    fn complete(&mut self, upstream: Upstream) -> Option<Value>;

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError>;

    fn left_to_shell(&self) -> Vec<(&'static str, String)>;

    fn views(&self) -> Views;

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

    fn left_to_shell(&self) -> Vec<(&'static str, String)> {
        self.0.left_to_shell()
    }

    fn views(&self) -> Views {
        S::views()
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
    /// Indexed by their numbers.
    pub uses: Vec<Use>,
    pub draws: bool,
    pub runs_command: bool,
}

impl Decoded {
    /// Fills in what follows from the stages that feed this one.
    pub(super) fn complete(&mut self, upstream: Upstream) {
        if let Some(params) = self.stage.complete(upstream) {
            self.params = params;
        }
    }
}

/// Why parameters could not be decoded, and the keys and indices of the place.
#[derive(Debug)]
pub(crate) struct DecodeError {
    pub path: Vec<String>,
    pub message: String,
    /// Whether the message is that of the stage's own [`Stage::check`].
    pub checked: bool,
}

type Decode = fn(Value) -> Result<Decoded, DecodeError>;

/// The JSON Schema of a kind's keys; the generator keeps the definitions.
type KindSchema = fn(&mut SchemaGenerator) -> Schema;

struct Entry {
    kind: &'static Kind,
    purpose: Purpose,
    parts: &'static [(&'static str, Part)],
    roles: &'static [(&'static str, &'static str)],
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
            roles: S::ROLES,
            verbatim: S::VERBATIM,
            decode: decode::<S>,
            schema: S::json_schema,
        }
    }
}

/// Resolves a device and a number type to what results depend on, such as `cuda bf16`; the error lists the known ones.
type Numerics = fn(device: &str, dtype: &str) -> Result<String, String>;

/// Checks a value of the site file.
type CheckSite = Box<dyn Fn(&Value) -> Result<(), DecodeError> + Send + Sync>;

/// The stage kinds that pipelines can name, and the devices and number types of models.
#[derive(Default)]
pub struct Registry {
    kinds: Vec<Entry>,
    /// The kind of a loop's `until`.
    until: Option<Entry>,
    numerics: Option<Numerics>,
    endpoint: Option<CheckSite>,
    trainer: Option<(CheckSite, CheckSite)>,
    build: Option<&'static str>,
}

impl Registry {
    /// Adds a kind.
    pub fn with<S: Stage>(mut self) -> Registry {
        self.kinds.retain(|known| known.kind.name != S::KIND.name);
        self.kinds.push(Entry::of::<S>());
        self
    }

    /// Sets the kind of a loop's `until`. The keys are those of this kind, except that `metric` is one reference in the file
    /// and here a list of it in `in_a_row` rounds. Its first output is a [`super::DECISION`]. No stage can have this kind.
    pub fn with_until<S: Stage>(self) -> Registry {
        Registry { until: Some(Entry::of::<S>()), ..self }
    }

    /// Sets the function that knows devices and number types.
    pub fn with_numerics(self, numerics: Numerics) -> Registry {
        Registry { numerics: Some(numerics), ..self }
    }

    /// Sets the type of the site file's entries under `endpoints:`, and the check of what types cannot express.
    pub fn with_endpoints<E: DeserializeOwned + 'static>(
        self,
        check: fn(&E) -> Result<(), CheckError>,
    ) -> Registry {
        Registry { endpoint: Some(site_check(check)), ..self }
    }

    /// Sets the type of the site file's `trainer`, a default of the key of this name, and the type and the check of `torch`, its
    /// settings.
    pub fn with_trainers<T: DeserializeOwned + 'static, S: DeserializeOwned + 'static>(
        self,
        torch: fn(&S) -> Result<(), CheckError>,
    ) -> Registry {
        Registry { trainer: Some((site_check(|_: &T| Ok(())), site_check(torch))), ..self }
    }

    pub(super) fn check_endpoint(&self, entry: &Value) -> Result<(), DecodeError> {
        self.endpoint.as_ref().map_or(Ok(()), |check| check(entry))
    }

    pub(super) fn check_trainer(&self, value: &Value) -> Result<(), DecodeError> {
        self.trainer.as_ref().map_or(Ok(()), |(check, _)| check(value))
    }

    pub(super) fn check_torch(&self, value: &Value) -> Result<(), DecodeError> {
        self.trainer.as_ref().map_or(Ok(()), |(_, check)| check(value))
    }

    /// Names the build that lacks kinds which pipelines may name, such as `a build without models`.
    pub fn of_build(self, build: &'static str) -> Registry {
        Registry { build: Some(build), ..self }
    }

    /// The build that lacks kinds.
    pub fn build(&self) -> Option<&'static str> {
        self.build
    }

    /// The message for a kind that does not exist.
    pub fn unknown(&self, kind: &str) -> String {
        let build = self.build.map_or(String::new(), |build| format!(" in {build}"));
        format!("there is no stage kind `{kind}`{build}")
    }

    pub(super) fn numerics(&self, device: &str, dtype: &str) -> Result<String, String> {
        self.numerics.map_or_else(|| Ok(String::new()), |numerics| numerics(device, dtype))
    }

    /// The names of all kinds, in the order of registration.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.iter().map(|entry| entry.kind.name)
    }

    /// What a kind tells readers of a run.
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

    /// The places of a kind that take a role, with the role that each takes by default.
    pub fn roles(&self, kind: &str) -> &'static [(&'static str, &'static str)] {
        self.kinds.iter().find(|entry| entry.kind.name == kind).map_or(&[], |entry| entry.roles)
    }

    /// The kind of a loop's `until`, and how it is decoded.
    pub(super) fn until(&self) -> Option<(&'static Kind, Decode)> {
        self.until.as_ref().map(|entry| (entry.kind, entry.decode))
    }

    /// The schema of the keys of a loop's `until`.
    pub(super) fn until_schema(&self) -> Option<KindSchema> {
        self.until.as_ref().map(|entry| entry.schema)
    }

    /// A kind by the name in a job, which may be that of a loop's `until`.
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

/// Reads a value of the site file and checks it.
fn site_check<T: DeserializeOwned + 'static>(check: fn(&T) -> Result<(), CheckError>) -> CheckSite {
    Box::new(move |value| check(&parse(value.clone())?).map_err(checked))
}

fn checked(error: CheckError) -> DecodeError {
    DecodeError { path: error.keys().map(str::to_owned).collect(), message: error.message, checked: true }
}

fn parse<T: DeserializeOwned>(params: Value) -> Result<T, DecodeError> {
    serde_path_to_error::deserialize(params).map_err(|error| {
        use serde_path_to_error::Segment;
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.clone(),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => "?".to_owned(),
        };
        let path = error.path().iter().map(step).collect();
        DecodeError { path, message: error.inner().to_string(), checked: false }
    })
}

fn decode<S: Stage>(params: Value) -> Result<Decoded, DecodeError> {
    S::retired(&params).map_or(Ok(()), |error| Err(checked(error)))?;
    let stage: S = parse(params)?;
    stage.check().map_err(checked)?;
    let defect = |error: serde_json::Error| DecodeError {
        path: Vec::new(),
        message: error.to_string(),
        checked: false,
    };
    let mut params = serde_json::to_value(&stage).map_err(defect)?;
    let mut uses = input::number(&mut params);
    if let Some(wrong) = uses.iter().find(|used| used.endpoint().is_some() && !used.may_be_served) {
        let message =
            format!("must be of this machine, found {}: a server does not hand it out", wrong.origin);
        return Err(DecodeError { path: wrong.path.clone(), message, checked: false });
    }
    if let Some(patterns) = stage.ignored() {
        let rules = IgnoreRules { folder: None, patterns: patterns.to_vec() };
        uses.iter_mut().for_each(|found| found.selection.ignore.push(rules.clone()));
    }
    // The stage that runs is decoded from the job's parameters, here as in a process of its own.
    let stage: S = serde_json::from_value(params.clone()).map_err(defect)?;
    let (outputs, draws) = (stage.outputs(), stage.draws());
    Ok(Decoded {
        stage: Box::new(Erased(stage)),
        outputs,
        params,
        uses,
        draws,
        runs_command: S::RUNS_COMMAND,
    })
}
