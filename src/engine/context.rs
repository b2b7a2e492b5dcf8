//! What a running stage sees: its inputs, its seed, a folder for its outputs, and a way to say how far it is.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::execute::cancel;
use super::graph::{Feed, Node, Numerics};
use super::input::{Input, InputFile, Origin};
use super::memory::Memory;
use super::progress::Progress;
use store::{Digest, Seed};

/// An artifact on disk: a file or a flat folder, and the digest of its content.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub digest: Digest,
    pub path: PathBuf,
}

/// Keeps a value in memory under the digest of an output, once that is known.
pub(super) type Remember = Box<dyn FnOnce(&Memory, Digest)>;

/// A stage's view of the world while it runs.
pub struct Context<'a> {
    pub(super) node: &'a Node,
    /// In the order of the node's feeds.
    pub(super) inputs: Vec<Artifact>,
    pub(super) workspace: &'a Path,
    /// Where failing stages leave what they saved.
    pub(super) left: &'a Path,
    pub(super) memory: &'a Memory,
    pub(super) progress: &'a dyn Progress,
    /// When the stage has to be done.
    pub(super) deadline: Option<Instant>,
    pub(super) remember: Vec<(String, Remember)>,
    pub(super) note: String,
}

impl Context<'_> {
    /// The artifact behind an input.
    pub fn input<T>(&self, input: &Input<T>) -> anyhow::Result<&Artifact> {
        self.find(&input.origin)
    }

    /// The file behind an input.
    pub fn file(&self, input: &InputFile) -> anyhow::Result<&Artifact> {
        self.find(&Origin::Path(input.0.clone()))
    }

    fn find(&self, origin: &Origin) -> anyhow::Result<&Artifact> {
        let index = self.node.call.origins.iter().position(|known| known == origin);
        index.and_then(|index| self.inputs.get(index)).ok_or_else(|| {
            anyhow::anyhow!("{origin:?} is not an input of {}: a defect of triplay", self.node.name)
        })
    }

    /// Whether an input is an output of another node: in the store, where nobody changes it.
    pub fn is_blob<T>(&self, input: &Input<T>) -> bool {
        let index = self.node.call.origins.iter().position(|origin| *origin == input.origin);
        matches!(index.and_then(|index| self.node.feeds.get(index)), Some(Feed::Output { .. }))
    }

    /// Where and in which number type models are computed.
    pub fn numerics(&self) -> &Numerics {
        &self.node.call.numerics
    }

    /// A loaded artifact: from memory where an earlier node left it, else through `load`, which also says
    /// about how many bytes it holds.
    pub fn load<T: Any + Send + Sync>(
        &self,
        artifact: &Artifact,
        load: impl FnOnce(&Path) -> anyhow::Result<(T, usize)>,
    ) -> anyhow::Result<Arc<T>> {
        if let Some(value) = self.memory.get(artifact.digest) {
            return Ok(value);
        }
        let (value, bytes) = load(&artifact.path)?;
        let value = Arc::new(value);
        self.memory.put(artifact.digest, value.clone(), bytes);
        Ok(value)
    }

    /// Keeps what an output holds in memory, for the nodes that load it next.
    pub fn remember<T: Any + Send + Sync>(&mut self, output: &'static str, value: T, bytes: usize) {
        let value = Arc::new(value);
        self.remember
            .push((output.to_owned(), Box::new(move |memory, digest| memory.put(digest, value, bytes))));
    }

    /// Where to write an output: a file, or a flat folder that the stage creates.
    pub fn output(&self, name: &str) -> PathBuf {
        self.workspace.join(name)
    }

    /// A place for what the stage needs only while it runs, beside the outputs and like them on the filesystem of
    /// the store. It is not there yet and is removed with the workspace.
    pub fn scratch(&self) -> PathBuf {
        // No output has a name with a dot.
        self.workspace.join(".scratch")
    }

    /// How long the stage may take. From here on the stage itself sees to it: `progress` always returns.
    pub fn take_timeout(&mut self) -> Option<Duration> {
        self.deadline = None;
        self.node.call.policy.timeout
    }

    /// An empty place for what a failing stage can save, to be named in its error. It is no result: whatever
    /// lies there from before is gone.
    pub fn leave(&self, name: &str) -> anyhow::Result<PathBuf> {
        let node = self.node.name.replace('/', ".");
        let place = self.left.join(node).join(name);
        if place.is_dir() {
            std::fs::remove_dir_all(&place)?;
        }
        std::fs::create_dir_all(place.parent().unwrap_or(&place))?;
        Ok(place)
    }

    /// The seed for all randomness of this node.
    pub fn seed(&self) -> Seed {
        self.node.seed
    }

    /// The rounds of the loops around this node, outermost first, from 1.
    pub fn position(&self) -> &[u32] {
        &self.node.position
    }

    /// Says how far the stage is: `done` of `total`, and a short note that is also shown when it ends. Where the
    /// stage's time is up this does not return: it unwinds to the engine, silently. So a stage that works for long
    /// says so now and then.
    pub fn progress(&mut self, done: usize, total: usize, note: impl Into<String>) {
        self.note = note.into();
        self.progress.node_progress(&self.node.name, done as u64, total as u64, &self.note);
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            cancel()
        }
    }
}
