//! What a running stage sees: its inputs, its seed, a folder for its outputs, and a way to report progress.

use std::any::Any;
use std::cell::RefCell;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::input::{Input, InputFile, InputVariable, Place};
use super::job::{Content, Job, Numerics, Retried};
use super::memory::Memory;
use super::progress::Progress;
use super::resources::device_name;
use anyhow::Context as _;
use store::{Digest, PartialOutput, PartialOutputs, Seed, Selection, Store};

/// An artifact on disk: a file or a folder, and the digest of its content.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The digest of its content.
    pub digest: Digest,
    /// Where it is: in the cache, or where the user has it.
    pub path: PathBuf,
}

/// How an input is used through a server.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its name in the site file.
    pub name: &'a str,
    /// What the site file says of it.
    pub entry: &'a serde_json::Value,
    /// The name and the version of what the server has; `None` if it loads the input's artifact.
    pub model: Option<(&'a str, Option<&'a str>)>,
}

/// Keeps a value in memory under the digest of an output, once that is known.
pub(super) type Remember = Box<dyn FnOnce(&Memory, Digest)>;

/// A stage's view of the world while it runs.
pub struct Context<'a> {
    pub(super) job: &'a Job,
    /// Indexed by their numbers.
    pub(super) inputs: &'a [Artifact],
    pub(super) workspace: &'a Path,
    pub(super) store: &'a Store,
    /// The run's ID in the cache.
    pub(super) run: &'a str,
    /// The key that is computed; `None` if it is only checked.
    pub(super) key: Option<&'a Digest>,
    pub(super) memory: &'a Memory,
    pub(super) progress: &'a dyn Progress,
    /// The time limit of the stage.
    pub(super) deadline: Option<Instant>,
    /// The inputs that it loaded into memory.
    pub(super) loaded: RefCell<Vec<Digest>>,
    pub(super) remember: Vec<(String, Remember)>,
    pub(super) note: String,
    /// What servers did for it.
    pub(super) served: RefCell<Vec<serde_json::Value>>,
}

impl Context<'_> {
    /// The artifact behind an input.
    pub fn input<T>(&self, input: &Input<T>) -> anyhow::Result<&Artifact> {
        self.find(&input.place)
    }

    /// The file behind an input.
    pub fn file(&self, input: &InputFile) -> anyhow::Result<&Artifact> {
        self.find(&input.0)
    }

    /// The value of an environment variable that counts for the key, as it was when the job was made.
    pub fn variable(&self, input: &InputVariable) -> Option<&str> {
        match self.content(&input.0) {
            Some(Content::Variable { value, .. }) => value.as_deref(),
            _ => None,
        }
    }

    /// How an input is used through a server; `None` if it is used in this process.
    pub fn endpoint<'a, T>(&'a self, input: &'a Input<T>) -> anyhow::Result<Option<Endpoint<'a>>> {
        let (name, model) = match (self.content(&input.place), &input.place.loaded_by) {
            (Some(Content::Served { model, revision, endpoint: Some(name) }), _) => {
                (name, Some((model.as_str(), revision.as_deref())))
            }
            (_, Some(name)) => (name, None),
            _ => return Ok(None),
        };
        let entry = self.job.endpoints.get(name).with_context(|| {
            format!("the site file must have the endpoint `{name}`, found none: name the file with --site")
        })?;
        Ok(Some(Endpoint { name, entry, model }))
    }

    /// What the site file says of the trainer `torch`.
    pub fn torch(&self) -> Option<&serde_json::Value> {
        self.job.torch.as_ref()
    }

    fn content(&self, place: &Place) -> Option<&Content> {
        self.job.inputs.get(place.number?)
    }

    fn find(&self, place: &Place) -> anyhow::Result<&Artifact> {
        place.number.and_then(|number| self.inputs.get(number)).ok_or_else(|| {
            anyhow::anyhow!("{} is not an input of {}: a defect of triplay", place.origin, self.job.name)
        })
    }

    /// Whether an input is an output of another node: in the store, where nobody changes it.
    pub fn is_blob<T>(&self, input: &Input<T>) -> bool {
        matches!(self.content(&input.place), Some(Content::Digest { path: None, .. }))
    }

    /// The files of an input that count, by their paths in it. If it is a file itself, that has an empty path.
    pub fn files_of<T>(&self, input: &Input<T>) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let path = &self.input(input)?.path;
        // A private copy of a folder has nothing else in it.
        let selection = match self.content(&input.place) {
            Some(Content::Digest { path: Some(original), selection, .. }) if original == path => {
                Some(selection)
            }
            _ => None,
        };
        match path.is_dir() {
            true => Ok(store::files_below(path, selection)?),
            false => Ok(vec![(String::new(), path.clone())]),
        }
    }

    /// The system's names of the GPUs that the job has to itself, as in `CUDA_VISIBLE_DEVICES`.
    pub fn devices(&self) -> Vec<String> {
        self.job.devices.iter().map(|unit| device_name(*unit)).collect()
    }

    /// The digest of a file of an input. One in the store is hashed once, however many steps use it.
    pub fn digest_of_file(&self, path: &Path) -> std::io::Result<Digest> {
        match std::fs::canonicalize(path)?.starts_with(self.store.root()) {
            true => self.store.digest_of_part(path),
            false => self.store.digest_of(path, &Selection::default(), false),
        }
    }

    /// The device and number type of models. If the pipeline does not name a GPU, the device is the one that the job has to
    /// itself.
    pub fn numerics(&self) -> Numerics {
        let numerics = self.job.numerics.clone();
        match (self.job.devices.first(), numerics.device.as_str()) {
            (Some(unit), "cuda" | "auto") if numerics.resolved.starts_with("cuda") => {
                Numerics { device: format!("cuda:{unit}"), ..numerics }
            }
            _ => numerics,
        }
    }

    /// A loaded artifact: from memory if an earlier node left it there, else through `load`, which also returns its
    /// approximate size in bytes.
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
        self.loaded.borrow_mut().push(artifact.digest);
        Ok(value)
    }

    /// Keeps the content of an output in memory, for the nodes that load it next.
    pub fn remember<T: Any + Send + Sync>(&mut self, output: &'static str, value: T, bytes: usize) {
        let value = Arc::new(value);
        self.remember
            .push((output.to_owned(), Box::new(move |memory, digest| memory.put(digest, value, bytes))));
    }

    /// The path of an output: a file, or a folder that the stage creates.
    pub fn output(&self, name: &str) -> PathBuf {
        self.workspace.join(name)
    }

    /// A path for what the stage needs only while it runs, on the filesystem of the store like the outputs. It does not exist
    /// yet, and is removed with the workspace.
    pub fn scratch(&self) -> PathBuf {
        // No output has a name with a dot.
        self.workspace.join(".scratch")
    }

    /// The time limit of the stage. From now on the stage itself enforces it, and `progress` always returns.
    pub fn take_timeout(&mut self) -> Option<Duration> {
        self.deadline = None;
        self.job.limits.timeout
    }

    /// The failures after which the stage is tried again.
    pub fn retried(&self) -> &Retried {
        &self.job.limits.retry.on
    }

    /// A folder in which a stage leaves something for the next attempt at the same key, whether that is in this run or in another.
    /// It is removed once an attempt succeeds.
    pub fn unfinished(&self) -> anyhow::Result<PathBuf> {
        let Some(key) = self.key else {
            let folder = self.workspace.join(".unfinished");
            std::fs::create_dir_all(&folder)?;
            return Ok(folder);
        };
        Ok(self.store.unfinished(key, self.run)?)
    }

    /// The node's name, such as `play[1]/red[03]/update`.
    pub fn node(&self) -> &str {
        &self.job.name
    }

    /// An empty path for what a failing stage saves, to be named in its error. It is not a result. What was there before is
    /// deleted.
    pub fn failure_path(&self, name: &str) -> anyhow::Result<PathBuf> {
        failed_place(self.store, self.run, self.job, name)
    }

    /// A folder of the run for servers that its nodes share: their logs, and links to models. Nothing in it is a result.
    pub fn servers(&self) -> anyhow::Result<PathBuf> {
        let folder = self.store.root().join("failed").join(self.run).join("servers");
        self.store.create_folders(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// Lists outputs that a command writes in `folder`, by their names and their paths there, so that what it has written is kept
    /// beside `log` if this process is killed.
    pub fn partial_outputs<'a>(
        &self,
        folder: &Path,
        log: &Path,
        outputs: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> anyhow::Result<PartialOutputs> {
        let outputs = outputs.map(|(name, path)| PartialOutput { name: name.to_owned(), path: path.into() });
        let kept = log.parent().unwrap_or(log);
        let (cache, outputs) = (self.store.root(), outputs.collect());
        let listed = PartialOutputs::list(cache, self.workspace, self.node(), folder, kept, outputs);
        listed.with_context(|| format!("cannot write in {}", self.workspace.display()))
    }

    /// The seed for all randomness of this node. Its kind must declare that it draws.
    pub fn seed(&self) -> Seed {
        assert!(self.job.draws, "the kind {} must declare that it draws", self.job.kind);
        self.job.seed
    }

    /// The rounds of the loops around this node, outermost first, from 1. Its kind must declare that it draws.
    pub fn position(&self) -> &[u32] {
        assert!(self.job.draws, "the kind {} must declare that it draws", self.job.kind);
        &self.job.position
    }

    /// Keeps in the node's record what a server did for it: facts such as its version, tokens and cost. They count for no key.
    pub fn record_served(&self, facts: serde_json::Value) {
        self.served.borrow_mut().push(facts);
    }

    /// Reports progress: `done` of `total`, and a short note that is also shown when the stage ends. Once the stage's time is
    /// up, this does not return but unwinds to the engine, silently. So a long-running stage must call it now and then.
    pub fn progress(&mut self, done: usize, total: usize, note: impl Into<String>) {
        self.note = note.into();
        self.progress_of_part(done, total, &self.note);
    }

    /// The same for a part of the stage; its note is not shown when the stage ends.
    pub fn progress_of_part(&self, done: usize, total: usize, note: &str) {
        self.progress.node_progress(&self.job.name, done as u64, total as u64, note);
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            resume_unwind(Box::new(Cancelled))
        }
    }
}

/// Ends a stage from within: see [`Context::progress`].
pub(super) struct Cancelled;

/// The folder of what a node of a run saves when it fails, and of its log while it is at work. `run` is the run's ID in the cache.
pub fn failed_folder(cache: &Path, run: &str, node: &str) -> PathBuf {
    // File systems take names of 255 bytes. A matrix may make longer ones.
    const LONGEST: usize = 200;
    let mut name = node.trim_start_matches('.').replace('/', ".");
    if name.len() > LONGEST {
        let digest = Digest::of_bytes(node.as_bytes()).short();
        let end = (0..=LONGEST).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name = format!("{}-{digest}", &name[..end]);
    }
    cache.join("failed").join(run).join(name)
}

/// An empty path for what a failing job saves: `failed/RUN/NODE/NAME` in the cache, which keeps it as long as the run.
pub(super) fn failed_place(store: &Store, run: &str, job: &Job, name: &str) -> anyhow::Result<PathBuf> {
    let place = failed_folder(store.root(), run, &job.name).join(name);
    let make = || {
        match place.is_dir() {
            true => std::fs::remove_dir_all(&place)?,
            false if place.exists() => std::fs::remove_file(&place)?,
            false => {}
        }
        store.create_folders(place.parent().unwrap_or(&place))
    };
    make().with_context(|| format!("cannot clear {}", place.display()))?;
    Ok(place)
}
