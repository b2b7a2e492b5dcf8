//! `exec`: any command as a stage. The command runs in a fresh folder that holds its declared inputs and nothing else, with its
//! declared environment and nothing else. Its declared outputs are taken from that folder.

mod folder;
mod grammar;
mod process;
mod shell;
mod unfinished;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use rand::RngCore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::folder::Folder;
use self::grammar::{DeclaredOutput, Script, Word};
use self::process::{DEFAULT_PATH, Ended, Job, Outcome};
use self::unfinished::Unfinished;
use engine::{
    ArtifactType, CheckError, Context, Input, InputVariable, Kind, Output, Part, Retried, Stage, Transient,
    Upstream,
};

use store::IgnoreRules;
use supervise::{LINGER, log};

pub use supervise::{on_interrupt, own_program, supervise};
pub use unfinished::keep_unfinished;

/// An input of any type.
struct Anything;

impl ArtifactType for Anything {
    const ACCEPTS: &'static [&'static str] = &["*"];
}

/// The types of datasets whose columns are checked only by the stage that reads them.
const DATASETS: [&str; 11] = [
    "texts",
    "seeds",
    "sft",
    "attacks",
    "responses",
    "pairs",
    "verdicts",
    "meanings",
    "labels",
    "pool",
    "comparisons",
];

/// Checks that a file is what its type says, as far as that can be told without the stage that reads it: datasets are Parquet;
/// rewards and preferences have their columns, since training reads them; metrics and scores are numbers.
fn check(artifact: &str, path: &Path) -> anyhow::Result<()> {
    if artifact == "metrics" {
        data::metrics(path, "")?;
    } else if artifact == "rewards" {
        data::read::<data::RewardRow>(path)?;
    } else if artifact == "scores" {
        data::scores(path)?;
    } else if artifact == "preferences" {
        data::read::<data::PreferenceRow>(path)?;
    } else if DATASETS.contains(&artifact) {
        data::open(path)?;
    }
    Ok(())
}

/// The last output: standard output and error of the command.
const LOG: &str = "log";

/// `EX_TEMPFAIL` of `sysexits.h`: the failure that a command without a `retry` is tried again after.
const TEMPORARY: u8 = 75;

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// Advice about processes that a command leaves running.
const LEFT: &str = "\n  help: `wait` for background processes, or stop them, before the command ends";

/// The variable that passes the node's seed to the command.
const SEED: &str = "TRIPLAY_SEED";

/// Runs any command. It runs in a fresh folder that holds its declared inputs and nothing else, with its declared environment and
/// nothing else. Its outputs are the declared ones, taken from that folder, and `log`: the text that it printed.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The command: a list is a program and its arguments, run without a shell; text is run by `sh -c`.
    command: Script,
    /// The files in the folder, by their names there: a reference, or { path: FILE }. A dataset whose name there ends in `.jsonl`
    /// is converted to JSON Lines, an object a row, for programs that read no Parquet.
    #[serde(default)]
    inputs: BTreeMap<String, Input<Anything>>,
    /// Patterns of files that are left out of your folders among `inputs`, as in `.gitignore`. Hidden files and `__pycache__` are
    /// left out anyway, unless a pattern with `!` says otherwise.
    #[serde(default)]
    ignore: Vec<String>,
    /// The files that the command writes: NAME: TYPE, or NAME: { type: TYPE, path: FILE } if the file has another name. The bare
    /// name of the stage refers to the first.
    #[serde(default, deserialize_with = "grammar::products")]
    #[schemars(
        with = "BTreeMap<String, grammar::Typed>",
        extend("default" = serde_json::Map::new())
    )]
    outputs: Vec<DeclaredOutput>,
    /// A folder in which the command finds what earlier attempts at the same key left there, such as checkpoints. It is not an
    /// output, and is removed once an attempt succeeds.
    #[serde(default)]
    keep: Option<String>,
    /// Environment variables with fixed values, taken literally as typed.
    #[serde(default)]
    env: BTreeMap<String, Word>,
    /// Variables taken from triplay's own environment. Their values are part of the key.
    #[serde(default, serialize_with = "grammar::sorted")]
    #[schemars(with = "Vec<String>")]
    inherit: Vec<InputVariable>,
    /// Variables that are passed on but are not part of the key: paths and secrets. `PATH` always is, unless `env` or `inherit`
    /// has it.
    #[serde(default)]
    pass: Vec<String>,
    /// Whether the command draws random numbers. If so, it gets a seed in TRIPLAY_SEED and runs once for each seed of the
    /// pipeline and each round of a loop, each time with another seed. Otherwise it runs once.
    #[serde(default)]
    random: bool,
}

impl Stage for Exec {
    const KIND: Kind = Kind {
        name: "exec",
        version: 3,
        outputs: &[],
        numerics: false,
        draws: false,
        excluded_from_key: &["pass", "ignore", "keep"],
    };

    const PARTS: &'static [(&'static str, Part)] = &[("inputs", Part::Subject), ("command", Part::Judge)];
    const VERBATIM: &'static [&'static str] = &["command", "env"];
    const RUNS_COMMAND: bool = true;

    fn retired(params: &Value) -> Option<CheckError> {
        let Some(codes) = params.get("transient") else { return grammar::foreign(params) };
        let message = format!(
            "`transient` is part of `retry` now\n  help: write retry: {{ on: {{ exit: {codes} }} }} in its place"
        );
        Some(CheckError::at("transient", message))
    }

    fn check(&self) -> Result<(), CheckError> {
        self.command.check()?;
        grammar::check_files("inputs", self.inputs.keys().map(String::as_str))?;
        self.outputs.iter().try_for_each(DeclaredOutput::check)?;
        grammar::check_files("outputs", self.outputs.iter().map(|output| output.path.as_str()))?;
        if let Some(both) = self.outputs.iter().find(|output| self.inputs.contains_key(&output.path)) {
            return Err(format!(
                "`{}` must not be both an input and an output: write to another name",
                both.path
            )
            .into());
        }
        if let Some(keep) = &self.keep {
            let outputs = self.outputs.iter().map(|output| &output.path);
            for other in outputs.chain(self.inputs.keys()) {
                grammar::check_files("keep", [other, keep].into_iter().map(String::as_str))?;
            }
            grammar::check_files("keep", [keep.as_str()].into_iter())?;
        }
        if !self.random && self.command.mentions(SEED) {
            return Err(CheckError::at(
                "command",
                format!(
                    "`command` reads {SEED}, which only a command that draws gets\n  help: add `random: true`"
                ),
            ));
        }
        let ignored = IgnoreRules { folder: None, patterns: self.ignore.clone() };
        ignored.check().map_err(|error| {
            CheckError::at("ignore", format!("`ignore` must be patterns as in .gitignore: {error}"))
        })?;
        grammar::check_values(self.env.iter().map(|(name, value)| (name.as_str(), value.0.as_str())))?;
        let inherited = self.inherit.iter().map(InputVariable::name);
        let names = self.env.keys().map(String::as_str).chain(inherited);
        Ok(grammar::check_variables(names.chain(self.pass.iter().map(String::as_str)))?)
    }

    fn outputs(&self) -> Vec<Output> {
        let declared = self.outputs.iter().map(|output| Output {
            name: output.name.clone().into(),
            artifact: output.artifact.clone().into(),
            evictable: false,
            incidental: false,
            file: Some(output.path.clone()),
        });
        declared.chain([Output::incidental(LOG, "text")]).collect()
    }

    fn ignored(&self) -> Option<&[String]> {
        Some(&self.ignore)
    }

    fn draws(&self) -> bool {
        self.random
    }

    fn agree(&self, _upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        Ok(self.outputs.iter().filter_map(DeclaredOutput::misspelt_type).collect())
    }

    fn left_to_shell(&self) -> Vec<(&'static str, String)> {
        let Script::Shell(text) = &self.command else { return Vec::new() };
        let given = self.env.keys().map(String::as_str).chain(self.inherit.iter().map(InputVariable::name));
        let given: Vec<&str> = given.chain(self.pass.iter().map(String::as_str)).collect();
        let read = shell::variables(text).into_iter().filter(|name| !given.contains(&name.as_str()));
        read.map(|name| ("command", name)).collect()
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut folder = Folder::create(context.scratch()).context("cannot create the command's folder")?;
        for (name, input) in &self.inputs {
            let (artifact, files) = (context.input(input)?, context.files_of(input)?);
            let laid = folder.place_input(name, artifact, files, context.is_blob(input));
            laid.with_context(|| format!("input `{name}`"))?;
        }
        let variables = self.variables(context);
        let path = variables.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value);
        let (program, words) = match &self.command {
            Script::Shell(text) => ("/bin/sh".into(), vec!["sh", "-c", text]),
            Script::Program(words) => {
                let name = words.first().map_or("", |word| word.0.as_str());
                let program = process::find_program(name, path, folder.path())?;
                (program, words.iter().map(|word| word.0.as_str()).collect())
            }
        };
        if let Some(keep) = &self.keep {
            folder.link(keep, &context.unfinished()?).with_context(|| format!("`keep`: {keep}"))?;
        }
        // There, so that it can be read while the command runs, and stays if triplay is killed.
        let log = context.failure_path(LOG)?;
        let written = self.outputs.iter().map(|output| (output.name.as_str(), output.path.as_str()));
        let unfinished =
            Unfinished::new(context.partial_outputs(folder.path(), &log, written)?, self.keep.as_ref());
        let timeout = context.take_timeout();
        let job = Job { program, words, variables: &variables, folder: folder.path(), log: &log, timeout };
        let outcome = process::run(&job, |line| context.progress(0, 1, line))?;
        self.judge(&outcome, &folder, context).map_err(|error| {
            let error = with_log(error, &unfinished.keep(), &log);
            if is_retried(&outcome, &log, context) { Transient::of(error) } else { error }
        })?;
        fs::rename(&log, context.output(LOG)).context("cannot take the log")?;
        // Unless an earlier attempt left something there.
        let _ = log.parent().map(fs::remove_dir);
        context.progress(1, 1, outcome.last_line);
        Ok(())
    }
}

impl Exec {
    /// The whole environment of the command. PATH is that of triplay unless the stage declares it, and does not count for the key.
    fn variables(&self, context: &Context) -> Vec<(OsString, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let mut variables = BTreeMap::from([("PATH".to_owned(), path)]);
        if self.random {
            let seed = context.seed().stream("exec").next_u64();
            variables.insert(SEED.to_owned(), seed.to_string().into());
        }
        let devices = context.devices();
        if !devices.is_empty() {
            variables.insert("CUDA_VISIBLE_DEVICES".to_owned(), devices.join(",").into());
        }
        let passed = self.pass.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?)));
        variables.extend(passed);
        // With the values that were read for the key.
        let inherited = self.inherit.iter();
        variables.extend(inherited.filter_map(|inherited| {
            Some((inherited.name().to_owned(), OsString::from(context.variable(inherited)?)))
        }));
        variables.extend(self.env.iter().map(|(name, value)| (name.clone(), OsString::from(&value.0))));
        variables.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    /// Interprets the end of the command, and takes its outputs if it succeeded.
    fn judge(&self, outcome: &Outcome, folder: &Folder, context: &Context) -> anyhow::Result<()> {
        self.check_inputs(folder, context)?;
        let why = match outcome.ended {
            Ended::Code(0) => None,
            Ended::Code(code) => Some(format!("exit code {code}")),
            Ended::Signal(signal) => {
                let name = grammar::signal_name(signal);
                let why = if signal == KILL { ": the system does that when memory is short" } else { "" };
                Some(format!("killed by signal {signal}{name}{why}"))
            }
            Ended::TimedOut(after) => Some(format!("timed out after {after:?}")),
        };
        let failed = match (why, &outcome.left) {
            (None, None) => None,
            (Some(why), None) => Some(anyhow!(why)),
            (None, Some(left)) => {
                Some(anyhow!("still running {LINGER:?} after the command's end: {left}{LEFT}"))
            }
            (Some(why), Some(left)) => Some(anyhow!("{why}\n  still running after its end: {left}{LEFT}")),
        };
        failed.map_or(Ok(()), Err)?;
        let (linked, plain): (Vec<_>, Vec<_>) =
            self.outputs.iter().partition(|output| folder.has_links(&output.path));
        for output in linked.into_iter().chain(plain) {
            let taken = folder.take(&output.path, &context.output(&output.name));
            if !taken.with_context(|| format!("output `{}`", output.name))? {
                return Err(anyhow!(
                    "the command did not write its output `{}` (expected the file {} in its folder); it wrote: {}",
                    output.name,
                    output.path,
                    folder.written()
                ));
            }
            let place = context.output(&output.name);
            // Named as the command wrote it: the file does not stay where it is checked.
            let as_written = |error: anyhow::Error| {
                anyhow!("{}", format!("{error:#}").replace(&*place.to_string_lossy(), &output.path))
            };
            check(&output.artifact, &place)
                .map_err(as_written)
                .with_context(|| format!("output `{}` is declared as {}", output.name, output.artifact))?;
        }
        Ok(())
    }

    /// Links to blobs are read-only, but not for root. A blob that the command wrote to is no longer that blob: it is deleted,
    /// and made again when it is needed.
    fn check_inputs(&self, folder: &Folder, context: &Context) -> anyhow::Result<()> {
        let changed = folder.changed();
        for (name, input) in self.inputs.iter().filter(|(name, _)| changed.contains(name.as_str())) {
            let blob = context.input(input)?;
            // Two inputs may be the same blob.
            if context.is_blob(input) && blob.path.exists() {
                let doomed = context.scratch().with_extension(blob.digest.short());
                fs::rename(&blob.path, doomed)
                    .with_context(|| format!("cannot remove the input `{name}`, which was changed"))?;
            }
        }
        match changed.first() {
            None => Ok(()),
            Some(name) => Err(anyhow!(
                "the command changed its input `{name}`\n  help: inputs are read-only; write to a copy"
            )),
        }
    }
}

/// Whether the command is tried again after a failure, as far as that depends on the failure.
fn is_retried(outcome: &Outcome, log: &Path, context: &Context) -> bool {
    match context.retried() {
        Retried::Transient => outcome.ended.code() == Some(TEMPORARY),
        Retried::Any => true,
        Retried::Of { exit, text } => {
            let code = outcome.ended.code();
            code.is_some_and(|code| exit.contains(&code)) || log::mentions(log, text).unwrap_or(false)
        }
    }
}

/// Adds to a failure the end of the command's log, where the whole log is, and where what it had written is.
fn with_log(error: anyhow::Error, kept: &[String], log: &Path) -> anyhow::Error {
    let tail = log::tail(log).unwrap_or_default();
    let whole = match tail.is_empty() {
        true => "its log is empty".to_owned(),
        false => format!("the whole log: {}", log.display()),
    };
    let lines: String = [whole].iter().chain(kept).map(|line| format!("\n  {line}")).collect();
    anyhow!("{error:#}{tail}{lines}")
}
