//! `exec`: any command as a stage. It runs in a fresh folder that holds its declared inputs and nothing else, with
//! its declared environment and nothing else, and what it declares as outputs is taken from there.

mod family;
mod folder;
mod grammar;
mod interrupt;
mod log;
mod process;
mod supervise;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use rand::RngCore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::folder::Folder;
use self::grammar::{Product, Script, Word};
use self::process::{DEFAULT_PATH, Ended, Job, Outcome};
use self::supervise::LINGER;
use engine::{ArtifactType, CheckError, Context, Input, InputVariable, Kind, Output, Part, Stage, Transient};

pub use interrupt::on_interrupt;
pub use process::own_program;
pub use supervise::supervise;

/// An input of any type.
struct Anything;

impl ArtifactType for Anything {
    const ACCEPTS: &'static [&'static str] = &["*"];
}

/// Whether a file is what its type says, as far as that can be told without the stage that takes it: datasets are
/// Parquet, those that every run gathers have the columns of metrics, rewards and preferences are what can be learnt from, and scores are numbers.
fn check(artifact: &str, path: &Path) -> anyhow::Result<()> {
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
    if artifact == "metrics" {
        data::read::<data::MetricRow>(path)?;
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

/// The last output: what the command wrote to standard output and error.
const LOG: &str = "log";

const KILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What to do about processes that a command leaves running.
const LEFT: &str = "\n  help: `wait` for what runs in the background, or stop it, before the command ends";

/// The variable that hands the node's seed to the command.
const SEED: &str = "TRIPLAY_SEED";

/// Any command. It runs in a fresh folder that holds its declared inputs and nothing else, with its declared
/// environment and nothing else; what it declares as outputs is taken from there. Its outputs are those, and `log`:
/// what it printed.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The command: a list is a program and its arguments, run as they are; text is run by `sh -c`.
    command: Script,
    /// What lies in the folder, by the name it has there: a reference, or { path: FILE }. A dataset whose name there ends in
    /// `.jsonl` lies there as JSON Lines, an object a row, for programs that read no Parquet.
    #[serde(default)]
    inputs: BTreeMap<String, Input<Anything>>,
    /// What the command writes: NAME: TYPE, or NAME: { type: TYPE, path: FILE } where the file has another name. The
    /// first is what the bare name of the stage refers to.
    #[serde(default, deserialize_with = "grammar::products")]
    #[schemars(
        with = "BTreeMap<String, grammar::Typed>",
        extend("default" = serde_json::Map::new())
    )]
    outputs: Vec<Product>,
    /// Variables with fixed values, as they are typed.
    #[serde(default)]
    env: BTreeMap<String, Word>,
    /// Variables of triplay's own environment. Their values count.
    #[serde(default, serialize_with = "grammar::sorted")]
    #[schemars(with = "Vec<String>")]
    inherit: Vec<InputVariable>,
    /// Variables that are handed on but do not count: places and secrets.
    #[serde(default)]
    pass: Vec<String>,
    /// Exit codes after which the command is tried again, as `retry` says; 75 (EX_TEMPFAIL) by default.
    #[serde(default = "default_transient")]
    transient: Vec<u8>,
    /// Whether the command draws: it then finds a seed in TRIPLAY_SEED, another one for each seed of the pipeline and each
    /// round of a loop, and runs for each of them. A command that does not draw runs once.
    #[serde(default)]
    random: bool,
}

/// `EX_TEMPFAIL` of `sysexits.h`.
fn default_transient() -> Vec<u8> {
    vec![75]
}

impl Stage for Exec {
    const KIND: Kind = Kind {
        name: "exec",
        version: 3,
        outputs: &[],
        numerics: false,
        draws: false,
        uncounted: &["pass", "transient"],
    };

    const PARTS: &'static [(&'static str, Part)] = &[("inputs", Part::Subject), ("command", Part::Judge)];
    const VERBATIM: &'static [&'static str] = &["command", "env"];

    fn check(&self) -> Result<(), CheckError> {
        self.command.check()?;
        grammar::check_files("inputs", self.inputs.keys().map(String::as_str))?;
        self.outputs.iter().try_for_each(Product::check)?;
        grammar::check_files("outputs", self.outputs.iter().map(|output| output.path.as_str()))?;
        if let Some(both) = self.outputs.iter().find(|output| self.inputs.contains_key(&output.path)) {
            return Err(
                format!("`{}` is an input and an output: write to a name of its own", both.path).into()
            );
        }
        if !self.random && self.command.mentions(SEED) {
            return Err(CheckError::at(
                "command",
                format!(
                    "`command` reads {SEED}, which is set for a command that draws\n  help: say `random: true`"
                ),
            ));
        }
        if self.transient.contains(&0) {
            return Err("`transient` lists exit codes of failures; 0 is none".into());
        }
        grammar::check_values(self.env.iter().map(|(name, value)| (name.as_str(), value.0.as_str())))?;
        let inherited = self.inherit.iter().map(InputVariable::name);
        let names = self.env.keys().map(String::as_str).chain(inherited);
        Ok(grammar::check_variables(names.chain(self.pass.iter().map(String::as_str)))?)
    }

    fn outputs(&self) -> Vec<Output> {
        let declared = self.outputs.iter().map(|output| Output {
            name: output.name.clone().into(),
            artifact: output.artifact.clone().into(),
            bulky: false,
            incidental: false,
        });
        declared.chain([Output::incidental(LOG, "text")]).collect()
    }

    fn draws(&self) -> bool {
        self.random
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut folder = Folder::create(context.scratch()).context("cannot make the command's folder")?;
        for (name, input) in &self.inputs {
            let laid = folder.lay(name, context.input(input)?, context.is_blob(input));
            laid.with_context(|| format!("input `{name}`"))?;
        }
        let variables = self.variables(context);
        let path = variables.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value);
        let (program, words) = match &self.command {
            Script::Shell(text) => ("/bin/sh".into(), vec!["sh", "-c", text]),
            Script::Program(words) => {
                let name = words.first().map_or("", |word| word.0.as_str());
                let program = process::find_program(name, path, self.declares("PATH"), folder.path())?;
                (program, words.iter().map(|word| word.0.as_str()).collect())
            }
        };
        let log = context.output(LOG);
        let timeout = context.take_timeout();
        let job = Job { program, words, variables: &variables, folder: folder.path(), log: &log, timeout };
        let outcome = process::run(&job, |line| context.progress(0, 1, line))?;
        self.judge(&outcome, &folder, context).map_err(|error| with_log(error, context, &log))?;
        context.progress(1, 1, outcome.last_line);
        Ok(())
    }
}

impl Exec {
    fn declares(&self, name: &str) -> bool {
        self.env.contains_key(name)
            || self.pass.iter().any(|passed| passed == name)
            || self.inherit.iter().any(|inherited| inherited.name() == name)
    }

    /// The command's whole environment.
    fn variables(&self, context: &Context) -> Vec<(String, OsString)> {
        let mut variables = BTreeMap::from([("PATH".to_owned(), OsString::from(DEFAULT_PATH))]);
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
        // As they were read for the key.
        let inherited = self.inherit.iter();
        variables.extend(inherited.filter_map(|inherited| {
            Some((inherited.name().to_owned(), OsString::from(context.variable(inherited)?)))
        }));
        variables.extend(self.env.iter().map(|(name, value)| (name.clone(), OsString::from(&value.0))));
        variables.into_iter().collect()
    }

    /// What the end of the command means, and its outputs if it is a good one.
    fn judge(&self, outcome: &Outcome, folder: &Folder, context: &Context) -> anyhow::Result<()> {
        self.check_inputs(folder, context)?;
        let why = match outcome.ended {
            Ended::Code(0) => None,
            Ended::Code(code) => Some(format!("exit code {code}")),
            Ended::Signal(signal) => {
                let name = grammar::signal_name(signal);
                let why = if signal == KILL { ": the system does that where memory is short" } else { "" };
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
        if let Some(failed) = failed {
            let transient = |code| u8::try_from(code).is_ok_and(|code| self.transient.contains(&code));
            let passes = matches!(outcome.ended, Ended::Code(code) if transient(code));
            return Err(if passes { Transient::of(failed) } else { failed });
        }
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
            check(&output.artifact, &context.output(&output.name))
                .with_context(|| format!("output `{}` is declared as {}", output.name, output.artifact))?;
        }
        Ok(())
    }

    /// Links to blobs are read-only, but not for everybody. A blob that was written to is none any more: it goes,
    /// and is made again when it is needed.
    fn check_inputs(&self, folder: &Folder, context: &Context) -> anyhow::Result<()> {
        let changed = folder.changed();
        for (name, input) in self.inputs.iter().filter(|(name, _)| changed.contains(name.as_str())) {
            let blob = context.input(input)?;
            // The same one may be there under two names.
            if context.is_blob(input) && blob.path.exists() {
                let doomed = context.scratch().with_extension(blob.digest.short());
                fs::rename(&blob.path, doomed)
                    .with_context(|| format!("cannot remove the input `{name}`, which was changed"))?;
            }
        }
        match changed.first() {
            None => Ok(()),
            Some(name) => Err(anyhow!(
                "the command changed its input `{name}`\n  help: an input is only for reading; write to a copy"
            )),
        }
    }
}

/// A failure with the end of the command's log and the place where all of it stays.
fn with_log(error: anyhow::Error, context: &Context, log: &Path) -> anyhow::Error {
    let tail = log::tail(log).unwrap_or_default();
    let keep = || -> anyhow::Result<String> {
        let place = context.leave(LOG)?;
        fs::copy(log, &place)?;
        Ok(place.display().to_string())
    };
    let rest = match keep() {
        Ok(_) if tail.is_empty() => "\n  its log is empty".to_owned(),
        Ok(place) => format!("{tail}\n  the whole log: {place}"),
        Err(error) => format!("{tail}\n  the whole log could not be kept: {error:#}"),
    };
    if Transient::is(&error) { Transient::of(anyhow!("{error:#}{rest}")) } else { anyhow!("{error:#}{rest}") }
}
