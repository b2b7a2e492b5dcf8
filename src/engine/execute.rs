//! Does one job: verifies the inputs, runs the stage in a folder of its own, publishes and records its outputs. Knows nothing
//! about the graph or other jobs.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde_json::Value;

use super::context::{Artifact, Cancelled, Context, Remember, failed_place};
use super::copies::PrivateCopies;
use super::graph::StageTemplate;
use super::job::{Content, Job, JobOutput};
use super::memory::Memory;
use super::progress::Progress;
use super::report::{Difference, NodeOutput};
use super::stage::{FileChanged, Transient};
use store::{
    BY_HAND, Blob, Cleaned, Digest, Frozen, Named, NamedOutput, Pins, Root, Selection, Store, Workspace,
};

/// What every job needs.
#[derive(Clone, Copy)]
pub(super) struct Executor<'a> {
    pub store: &'a Store,
    /// Names what the run needs, if the job belongs to one.
    pub root: Option<&'a Root>,
    pub memory: &'a Memory,
    pub progress: &'a dyn Progress,
    /// Copies of the user's files.
    pub copies: &'a PrivateCopies,
}

/// A job to be done.
pub(super) struct Task {
    pub job: Job,
    pub key: Digest,
    pub call: Arc<StageTemplate>,
    /// Whether the key is recorded, and its outputs are made again.
    pub again: bool,
    /// The recorded outputs, if the new ones are compared with them instead of published.
    pub check: Option<Box<[Blob]>>,
}

/// How a job ended.
pub(super) enum JobOutcome {
    /// Its outputs are in their places. They are neither durable nor recorded yet.
    Placed(Box<Placed>),
    /// A process of its own has placed and recorded them.
    Recorded,
    /// Its key has a record by now, whoever wrote it.
    Found,
    /// Another process has the key.
    Elsewhere,
    /// An input is no longer in the cache, or was damaged.
    InputsMissing,
    Checked(Vec<Difference>),
    /// It may succeed another time.
    Transient(anyhow::Error),
    /// A file of the user's is not what its key says: see [`FileChanged`].
    FileChanged(anyhow::Error),
    Failed(anyhow::Error),
}

/// Outputs that are to be recorded.
pub(super) struct Placed {
    pub outputs: Vec<NodeOutput>,
    /// What servers did for it.
    served: Vec<Value>,
    pub seconds: f64,
    key: Digest,
    /// What counts of the job for the key.
    counted: Value,
    frozen: Vec<Frozen>,
    workspace: Workspace,
    /// Held until the run has counted the outputs.
    pins: Pins,
    /// How often the cache had been cleaned before the outputs were named.
    cleaned: Cleaned,
}

/// The record of a key.
#[derive(Serialize)]
struct Record<'a> {
    seconds: f64,
    outputs: &'a [NodeOutput],
    triplay: &'a str,
    /// What servers did for it.
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    served: &'a [Value],
    /// Last, since it is long: see [`Store::write_record`].
    job: &'a Value,
}

/// A stage's outputs in its workspace, and what it wants to keep in memory.
struct Made {
    workspace: Workspace,
    remember: Vec<(String, Remember)>,
    loaded: Vec<Digest>,
    served: Vec<Value>,
    seconds: f64,
}

impl Executor<'_> {
    pub(crate) fn execute(&self, task: &Task) -> JobOutcome {
        let ended = catch_unwind(AssertUnwindSafe(|| self.try_execute(task)));
        ended.unwrap_or_else(|panic| Err(panicked(&*panic))).unwrap_or_else(|error| {
            match (FileChanged::is(&error), Transient::is(&error)) {
                (true, _) => JobOutcome::FileChanged(error),
                (false, true) => JobOutcome::Transient(error),
                (false, false) => JobOutcome::Failed(error),
            }
        })
    }

    /// The run's ID in the cache.
    fn run(&self) -> &str {
        self.root.map_or(BY_HAND, Root::id)
    }

    fn try_execute(&self, task: &Task) -> anyhow::Result<JobOutcome> {
        let Some(inputs) = self.inputs(task, FileChanged::before_it_was_read)? else {
            return Ok(JobOutcome::InputsMissing);
        };
        let made = self.run_stage(task, &inputs).map_err(|error| self.copies.with_own_names(error))?;
        // Verified again: somebody may have written to an input while the stage read it.
        let inputs = self.inputs(task, FileChanged::while_it_was_read);
        if !matches!(inputs, Ok(Some(_))) {
            self.memory.forget(&made.loaded);
            return match inputs {
                Ok(_) => Ok(JobOutcome::InputsMissing),
                Err(error) => Err(self.kept_for_inspection(task, &made, error)),
            };
        }
        match &task.check {
            Some(recorded) => self.compare(&task.job, made, recorded).map(JobOutcome::Checked),
            None => self.place(task, made),
        }
    }

    /// The inputs with their paths; `None` if one of them is missing or damaged. `changed` is the error for a file of the user's
    /// that is not what it was when the plan was made.
    fn inputs(
        &self,
        task: &Task,
        changed: impl Fn(&Path) -> FileChanged,
    ) -> anyhow::Result<Option<Vec<Artifact>>> {
        let mut inputs = Vec::with_capacity(task.job.inputs.len());
        let is_command = task.call.decoded.runs_command;
        for content in &task.job.inputs {
            inputs.push(match content {
                Content::Digest { digest, path: Some(path), selection, .. } => {
                    // A folder that is read in place, such as a model, may name others beside it.
                    let copy = self.copies.of(path, *digest).filter(|copy| is_command || copy.is_file());
                    // A command's own copy is verified.
                    if copy.is_none() && !is_command && !self.is_still(path, selection, *digest)? {
                        return Err(changed(path).into());
                    }
                    Artifact { digest: *digest, path: copy.unwrap_or(path).to_owned() }
                }
                Content::Digest { digest, path: None, .. } => match self.store.verified(digest)? {
                    Some(path) => Artifact { digest: *digest, path },
                    None => return Ok(None),
                },
                // What a server has has no path: see `Context::endpoint`.
                Content::Served { model, .. } => {
                    Artifact { digest: Digest::of_bytes(model.as_bytes()), path: PathBuf::new() }
                }
                // A variable has no path: see `Context::variable`.
                Content::Variable { variable, .. } => {
                    Artifact { digest: Digest::of_bytes(variable.as_bytes()), path: PathBuf::new() }
                }
            });
        }
        Ok(Some(inputs))
    }

    /// Whether a file or folder of the user's has this content.
    fn is_still(&self, path: &Path, selection: &Selection, digest: Digest) -> anyhow::Result<bool> {
        match self.store.digest_of(path, selection, false) {
            Ok(now) => Ok(now == digest),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps outputs that may be of either content of a file, and adds to the error where they are.
    fn kept_for_inspection(&self, task: &Task, made: &Made, error: anyhow::Error) -> anyhow::Error {
        let keep = |output: &JobOutput| {
            let place = failed_place(self.store, self.run(), &task.job, &output.name).ok()?;
            std::fs::rename(made.workspace.path().join(&output.name), &place).ok()?;
            Some(format!("\n  its output `{}` is kept for inspection: {}", output.name, place.display()))
        };
        let kept: String = task.job.outputs.iter().filter_map(keep).collect();
        match error.downcast::<FileChanged>() {
            Ok(error) => error.and(kept).into(),
            Err(error) => error,
        }
    }

    fn run_stage(&self, task: &Task, inputs: &[Artifact]) -> anyhow::Result<Made> {
        let timeout = task.job.limits.timeout;
        let workspace = self.store.workspace()?;
        let begun = Instant::now();
        let mut context = Context {
            job: &task.job,
            inputs,
            workspace: workspace.path(),
            store: self.store,
            run: self.run(),
            key: task.check.is_none().then_some(&task.key),
            memory: self.memory,
            progress: self.progress,
            deadline: timeout.and_then(|timeout| begun.checked_add(timeout)),
            loaded: RefCell::default(),
            remember: Vec::new(),
            note: String::new(),
            served: RefCell::default(),
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| task.call.decoded.stage.run(&mut context)));
        let (remember, loaded) = (context.remember, context.loaded.into_inner());
        let served = context.served.into_inner();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(panic) if panic.is::<Cancelled>() => {
                Err(anyhow!("timed out after {}", in_words(timeout.unwrap_or_default())))
            }
            // A panic is a defect, but the run must still come to an end.
            Err(panic) => Err(panicked(&*panic)),
        };
        if let Err(error) = outcome {
            // It may have failed because something that it loaded is damaged.
            self.memory.forget(&loaded);
            return Err(error);
        }
        Ok(Made { workspace, remember, loaded, served, seconds: begun.elapsed().as_secs_f64() })
    }

    fn place(&self, task: &Task, made: Made) -> anyhow::Result<JobOutcome> {
        let Made { workspace, mut remember, served, seconds, .. } = made;
        let (mut outputs, mut frozen) = (Vec::new(), Vec::new());
        for declared in &task.job.outputs {
            let path = workspace.path().join(&declared.name);
            let output = self.store.freeze(&path).with_context(|| format!("output `{}`", declared.name))?;
            let Blob { digest, bytes } = output.blob();
            while let Some(index) = remember.iter().position(|(name, _)| *name == declared.name) {
                (remember.swap_remove(index).1)(self.memory, digest);
            }
            let (name, artifact) = (declared.name.clone(), declared.artifact.clone());
            outputs.push(NodeOutput { name, artifact, digest, bytes, passing: declared.passing });
            frozen.push(output);
        }
        let cleaned = self.store.cleaned()?;
        if let Some(root) = self.root {
            root.name([&named(task.key, &outputs)])?;
        }
        let pins = self.store.pin(outputs.iter().map(|output| output.digest));
        frozen.iter().try_for_each(|output| self.store.place(output))?;
        // Whether an output is handed on is a matter of this run.
        outputs.iter_mut().for_each(|output| output.passing = false);
        let (key, counted) = (task.key, task.job.counted(task.call.kind));
        Ok(JobOutcome::Placed(Box::new(Placed {
            outputs,
            served,
            seconds,
            key,
            counted,
            frozen,
            workspace,
            pins,
            cleaned,
        })))
    }

    /// [`Executor::record`] that returns after a panic too: the run waits for its end.
    pub(crate) fn record_safely(&self, placed: Placed) -> anyhow::Result<Pins> {
        let recorded = catch_unwind(AssertUnwindSafe(|| self.record(placed)));
        recorded.unwrap_or_else(|panic| Err(panicked(&*panic)))
    }

    /// Makes the outputs durable, then the run's root, then the record. The returned pins keep the outputs from being evicted
    /// until the run has counted them.
    pub(crate) fn record(&self, placed: Placed) -> anyhow::Result<Pins> {
        let Placed { outputs, served, seconds, key, counted, frozen, workspace, pins, cleaned } = placed;
        for output in &outputs {
            self.store.sync(&output.digest)?;
        }
        if let Some(root) = self.root {
            root.sync()?;
        }
        let triplay = env!("CARGO_PKG_VERSION");
        self.store.write_record(
            &key,
            &Record { seconds, outputs: &outputs, triplay, served: &served, job: &counted },
        )?;
        // The node is recorded, whatever happens to that; gc removes what stays.
        let _ = self.store.remove_unfinished(&key);
        // Blobs that existed before may have been deleted before they were named.
        if cleaned.may_differ(self.store.cleaned()?) {
            let waiting = |by: &str| self.progress.message(&format!("waiting: {by} cleans the cache"));
            self.store.cleaned_by_now(waiting)?;
            frozen.iter().try_for_each(|output| self.store.place(output))?;
        }
        drop(workspace);
        Ok(pins)
    }

    /// Compares the new outputs with the recorded ones, and keeps those that differ for inspection.
    fn compare(&self, job: &Job, made: Made, recorded: &[Blob]) -> anyhow::Result<Vec<Difference>> {
        let mut differences = Vec::new();
        for (declared, recorded) in job.outputs.iter().zip(recorded) {
            let path = made.workspace.path().join(&declared.name);
            let now = Digest::of_path(&path).with_context(|| format!("output `{}`", declared.name))?;
            if now != recorded.digest && !declared.incidental {
                let place = failed_place(self.store, self.run(), job, &format!("check/{}", declared.name))?;
                std::fs::rename(&path, &place)
                    .with_context(|| format!("cannot write {}", place.display()))?;
                differences.push(Difference {
                    output: declared.name.clone(),
                    artifact: declared.artifact.clone(),
                    recorded: recorded.digest,
                    now,
                    path: place,
                });
            }
        }
        Ok(differences)
    }
}

/// What a run needs of a node.
pub(super) fn named(key: Digest, outputs: &[NodeOutput]) -> Named {
    let output = |output: &NodeOutput| NamedOutput {
        digest: output.digest,
        artifact: output.artifact.clone(),
        passing: output.passing,
    };
    Named { key, outputs: outputs.iter().map(output).collect() }
}

/// A duration for people: `90ms`, `2s`, `1h 30m`.
pub(super) fn in_words(duration: Duration) -> String {
    match jiff::SignedDuration::try_from(duration) {
        Ok(duration) => format!("{duration:#}"),
        Err(_) => format!("{} s", duration.as_secs()),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> anyhow::Error {
    anyhow!("panicked: {}: a defect of triplay", panic_text(panic))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
