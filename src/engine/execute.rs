//! One node executed: inputs looked through, the stage run in a folder of its own, its outputs published and recorded.
//! Knows nothing of other nodes at work.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde_json::Value;

use super::context::{Artifact, Context, Remember};
use super::graph::{Feed, Graph, NodeId};
use super::manifest::{Explained, walk};
use super::memory::Memory;
use super::progress::Progress;
use super::report::NodeOutput;
use super::stage::Transient;
use store::{Blob, Digest, Lock, Store, Workspace};

/// What is needed to execute any node.
#[derive(Clone, Copy)]
pub(super) struct Executor<'a> {
    pub graph: &'a Graph,
    pub store: &'a Store,
    pub memory: &'a Memory,
    pub progress: &'a dyn Progress,
}

/// A node to be executed.
pub(super) struct Task {
    pub id: NodeId,
    pub key: Digest,
    /// The digests of its inputs, in the order of its feeds.
    pub inputs: Vec<Option<Digest>>,
    /// The known outputs of the nodes that feed it, for the manifest.
    pub manifest: Value,
    /// Compare with what is recorded instead of publishing.
    pub check: Option<Box<[Blob]>>,
}

/// How it ended.
pub(super) enum Ended {
    /// Its outputs are in their places. They are neither durable nor recorded yet.
    Placed(Placed),
    /// An input is no longer in the cache, or was not what it should be.
    InputsMissing,
    Checked(Vec<Difference>),
    Failed(anyhow::Error),
}

/// What is to be recorded.
pub(super) struct Placed {
    pub outputs: Vec<NodeOutput>,
    pub seconds: f64,
    key: Digest,
    manifest: Value,
    workspace: Workspace,
    /// While it is held nobody throws the outputs away.
    publishing: Lock,
}

/// An output that came out different when its node was computed again.
#[derive(Clone, Debug)]
pub struct Difference {
    pub output: String,
    pub artifact: String,
    /// What is recorded, and remains.
    pub recorded: Digest,
    /// What came out now.
    pub now: Digest,
    /// Where that lies.
    pub path: PathBuf,
}

/// A line of `records.jsonl`.
#[derive(Serialize)]
struct RecordLine<'a> {
    key: Digest,
    seconds: f64,
    outputs: &'a [NodeOutput],
    manifest: &'a Value,
    triplay: &'a str,
}

/// Ends a stage from within: see [`Context::progress`].
pub(super) struct Cancelled;

/// A stage's outputs in its workspace, and what it wants to keep in memory.
struct Made {
    workspace: Workspace,
    remember: Vec<(String, Remember)>,
    seconds: f64,
}

impl Executor<'_> {
    pub fn execute(&self, task: &Task) -> Ended {
        self.try_execute(task).unwrap_or_else(Ended::Failed)
    }

    fn try_execute(&self, task: &Task) -> anyhow::Result<Ended> {
        let Some(inputs) = self.inputs(task)? else { return Ok(Ended::InputsMissing) };
        let made = self.attempts(task, inputs)?;
        // What was read is what is recorded as read only if nobody wrote to it meanwhile.
        if self.inputs(task)?.is_none() {
            return Ok(Ended::InputsMissing);
        }
        match &task.check {
            Some(recorded) => self.compare(task, made, recorded).map(Ended::Checked),
            None => self.place(task, made),
        }
    }

    /// Where the inputs lie, or nothing where one of them is not there or not what it should be.
    fn inputs(&self, task: &Task) -> anyhow::Result<Option<Vec<Artifact>>> {
        let node = self.graph.node(task.id);
        let mut inputs = Vec::with_capacity(node.feeds.len());
        for (feed, digest) in node.feeds.iter().zip(&task.inputs) {
            let digest = digest.unwrap_or_else(|| Digest::of_bytes(b""));
            let path = match feed {
                Feed::File(index) => self.outside(&self.graph.files[*index].0, digest)?,
                Feed::Variable(index) => self.graph.variables[*index].1.clone().unwrap_or_default().into(),
                Feed::Output { .. } => match self.store.verified(&digest)? {
                    Some(path) => path,
                    None => return Ok(None),
                },
            };
            inputs.push(Artifact { digest, path });
        }
        Ok(Some(inputs))
    }

    /// A file of the user's, which must still be what it was when the plan was made.
    fn outside(&self, path: &Path, digest: Digest) -> anyhow::Result<PathBuf> {
        let now = self.store.digest_of(path, false);
        let now = now.with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::ensure!(
            now == digest,
            "{} was changed while the run was under way\n  help: run again, with what it is now",
            path.display()
        );
        Ok(path.to_owned())
    }

    /// Runs the stage, again after a while where it says that its failure is transient.
    fn attempts(&self, task: &Task, inputs: Vec<Artifact>) -> anyhow::Result<Made> {
        let node = self.graph.node(task.id);
        let retry = node.call.policy.retry;
        let mut wait = retry.wait;
        for attempt in 1.. {
            match self.attempt(task, inputs.clone()) {
                Err(error) if attempt <= retry.times && Transient::is(&error) => {
                    let error = format!("{error:#}");
                    let (error, more) =
                        error.split_once('\n').map_or((&*error, ""), |(error, more)| (error, more));
                    let again = format!("trying again in {} ({attempt} of {})", in_words(wait), retry.times);
                    let text = format!("{}: {error}; {again}\n{more}", node.name);
                    self.progress.message(text.trim_end());
                    std::thread::sleep(wait);
                    wait = wait.saturating_mul(2);
                }
                other => return other,
            }
        }
        Err(anyhow!("not reached: a defect of triplay"))
    }

    fn attempt(&self, task: &Task, inputs: Vec<Artifact>) -> anyhow::Result<Made> {
        let node = self.graph.node(task.id);
        let timeout = node.call.policy.timeout;
        let workspace = self.store.workspace()?;
        let left = self.store.root().join("left");
        let begun = Instant::now();
        let mut context = Context {
            node,
            inputs,
            workspace: workspace.path(),
            left: &left,
            memory: self.memory,
            progress: self.progress,
            deadline: timeout.and_then(|timeout| begun.checked_add(timeout)),
            remember: Vec::new(),
            note: String::new(),
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| node.call.decoded.stage.run(&mut context)));
        let remember = context.remember;
        match outcome {
            Ok(outcome) => outcome?,
            Err(panic) if panic.is::<Cancelled>() => {
                return Err(anyhow!("timed out after {}", in_words(timeout.unwrap_or_default())));
            }
            // A panic is a defect, but no reason to leave the run without an end.
            Err(panic) => return Err(anyhow!("panicked: {}: a defect of triplay", panic_text(&*panic))),
        }
        Ok(Made { workspace, remember, seconds: begun.elapsed().as_secs_f64() })
    }

    fn place(&self, task: &Task, made: Made) -> anyhow::Result<Ended> {
        let Made { workspace, mut remember, seconds } = made;
        let waiting = || self.progress.message("waiting: the cache is being cleaned");
        let publishing = self.store.lock_publishing(waiting)?;
        let mut outputs = Vec::new();
        for declared in self.graph.node(task.id).call.outputs() {
            let path = workspace.path().join(&*declared.name);
            let blob = self.store.place(&path).with_context(|| format!("output `{}`", declared.name))?;
            while let Some(index) = remember.iter().position(|(name, _)| *name == declared.name) {
                (remember.swap_remove(index).1)(self.memory, blob.digest);
            }
            outputs.push(NodeOutput {
                name: declared.name.to_string(),
                artifact: declared.artifact.to_string(),
                digest: blob.digest,
                bytes: blob.bytes,
                passing: false,
            });
        }
        let (key, manifest) = (task.key, task.manifest.clone());
        Ok(Ended::Placed(Placed { outputs, seconds, key, manifest, workspace, publishing }))
    }

    /// Makes outputs durable, then the record. The lock that is returned keeps them until a run names them.
    pub fn record(&self, placed: Placed) -> anyhow::Result<Lock> {
        let Placed { outputs, seconds, key, manifest, workspace, publishing } = placed;
        for output in &outputs {
            self.store.settle(&output.digest)?;
        }
        let triplay = env!("CARGO_PKG_VERSION");
        self.store.write_record(&RecordLine {
            key,
            seconds,
            outputs: &outputs,
            manifest: &manifest,
            triplay,
        })?;
        drop(workspace);
        Ok(publishing)
    }

    /// Compares what came out with what is recorded, and leaves what differs where a person finds it.
    fn compare(&self, task: &Task, made: Made, recorded: &[Blob]) -> anyhow::Result<Vec<Difference>> {
        let node = self.graph.node(task.id);
        let mut differences = Vec::new();
        for (declared, recorded) in node.call.outputs().iter().zip(recorded) {
            let path = made.workspace.path().join(&*declared.name);
            let now = Digest::of_path(&path).with_context(|| format!("output `{}`", declared.name))?;
            if now != recorded.digest && !declared.incidental {
                differences.push(Difference {
                    output: declared.name.to_string(),
                    artifact: declared.artifact.to_string(),
                    recorded: recorded.digest,
                    now,
                    path: self.leave(&node.name, &path)?,
                });
            }
        }
        Ok(differences)
    }

    fn leave(&self, node: &str, path: &Path) -> anyhow::Result<PathBuf> {
        let folder = self.store.root().join("left").join(node.replace('/', ".")).join("check");
        let place = folder.join(path.file_name().unwrap_or_default());
        let move_there = || {
            std::fs::create_dir_all(&folder)?;
            if place.is_dir() {
                std::fs::remove_dir_all(&place)?
            }
            std::fs::rename(path, &place)
        };
        move_there().with_context(|| format!("cannot write {}", place.display()))?;
        Ok(place)
    }
}

/// The manifest of a node all of whose inputs are known.
pub(super) fn explained<'a>(
    graph: &Graph,
    id: NodeId,
    known: impl Fn(NodeId) -> Option<&'a [Blob]>,
) -> Value {
    let mut explained = Explained::default();
    walk(graph, graph.node(id), known, &mut explained);
    explained.into_json()
}

/// Ends the stage that is running on this thread.
pub(super) fn cancel() -> ! {
    resume_unwind(Box::new(Cancelled))
}

/// A duration as a person says it: `90ms`, `2s`, `1h 30m`.
pub(super) fn in_words(duration: Duration) -> String {
    match jiff::SignedDuration::try_from(duration) {
        Ok(duration) => format!("{duration:#}"),
        Err(_) => format!("{} s", duration.as_secs()),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
