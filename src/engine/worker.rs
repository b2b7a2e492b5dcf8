//! A job in a process of its own, so that a crash, a lack of memory or a leaking library costs only one node: the side that
//! starts the process, and the side that does the job there. The process reports in lines of JSON on its standard output; what
//! counts is the record. If the starting process dies, the job goes on, and others that need its key wait for it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::copies::{self, PrivateCopies, Source};
use super::execute::{Executor, JobOutcome, Task};
use super::graph::{Policy, StageTemplate};
use super::job::{Content, Job};
use super::memory::Memory;
use super::progress::{Outcome, Progress};
use super::resources::{device_name, hold};
use super::stage::{Registry, Transient};
use store::read::{self, MAX_LIST_BYTES};
use store::{Claimed, Digest, Store};

/// The job for such a process, which it reads from a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkerJob {
    #[serde(flatten)]
    pub job: Job,
    /// The ID in the cache of the run that the job belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Whether the key is recorded, and missing outputs are made again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// The session of the process that has claimed the key and passes the claim on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
    /// The key that the run computed for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Digest>,
    /// Where the run has copies of the user's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<PathBuf>,
}

/// A line that it reports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum WorkerMessage {
    Progress { done: u64, total: u64, note: String },
    Message { text: String },
    Done { end: End },
}

/// How a job in a process of its own ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum End {
    /// It was done and recorded.
    Recorded,
    /// It had been recorded before.
    Found,
    /// Another process has the key.
    Elsewhere,
    /// An input's blob is no longer in the cache.
    InputsMissing,
    /// The stage failed, or exceeded its limits.
    Failed {
        /// The error with its context.
        why: String,
        /// Whether it may be tried again.
        transient: bool,
    },
    /// A file of the user's was changed.
    FileChanged {
        /// The error with its context.
        why: String,
    },
}

/// The program that does a job in a process of its own.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
}

/// The running processes. `None` once they were ended: no more may start.
static PROCESSES: Mutex<Option<Vec<u32>>> = Mutex::new(Some(Vec::new()));

fn processes() -> MutexGuard<'static, Option<Vec<u32>>> {
    PROCESSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the processes that do jobs for this one, which is about to end: it starts no more.
pub fn end_processes() {
    processes().take().into_iter().flatten().for_each(|id| end(id, Signal::TERM));
}

fn end(process: u32, signal: Signal) {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw);
    // A process that has ended needs no signal.
    let _ = id.map(|id| kill_process(id, signal));
}

/// How long a process may take beyond its job's time limit to report it, and after that to end.
const GRACE: Duration = Duration::from_secs(10);

/// Ends a process that exceeds its job's time limit, unless the returned sender is dropped before. The flag tells whether it
/// did.
fn limit(process: u32, timeout: Option<Duration>) -> (Sender<()>, Arc<AtomicBool>) {
    let (sender, ended) = channel::<()>();
    let late = Arc::new(AtomicBool::new(false));
    if let Some(timeout) = timeout {
        let late = late.clone();
        std::thread::spawn(move || {
            for (wait, signal) in [(timeout.saturating_add(GRACE), Signal::TERM), (GRACE, Signal::KILL)] {
                if ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                late.store(true, Ordering::SeqCst);
                end(process, signal);
            }
        });
    }
    (sender, late)
}

impl Program {
    /// Does a job in a process of its own, and returns when that has ended.
    pub(super) fn run(&self, task: &Task, executor: &Executor) -> JobOutcome {
        self.try_run(task, executor).unwrap_or_else(JobOutcome::Failed)
    }

    fn try_run(&self, task: &Task, executor: &Executor) -> anyhow::Result<JobOutcome> {
        let store = executor.store;
        let run = executor.root.map(|root| root.id().to_owned());
        // It sees only its own GPUs, numbered from 0.
        let devices: Vec<String> = task.job.devices.iter().map(|unit| device_name(*unit)).collect();
        let seen = (0..devices.len() as u32).collect();
        let mut numerics = task.job.numerics.clone();
        if numerics.ordinal().is_some() && !devices.is_empty() {
            numerics.device = "cuda".into();
        }
        let order = WorkerJob {
            job: Job { devices: seen, numerics, ..task.job.clone() },
            run,
            again: task.again,
            claimed_by: Some(store.session_id()?),
            key: Some(task.key),
            copies: Some(copies::folder(store)?),
        };
        let file = store.scratch()?.join(format!("{}.json", task.key));
        let write = std::fs::write(&file, serde_json::to_string_pretty(&order)?);
        write.with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(&self.path);
        command.arg0("triplay").arg("work").arg(&file).arg("--cache").arg(store.root());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // The run decides what Ctrl-C does.
        command.process_group(0);
        if !devices.is_empty() {
            command.env("CUDA_VISIBLE_DEVICES", devices.join(","));
        }
        let mut child = {
            let mut processes = processes();
            let Some(processes) = &mut *processes else { bail!("interrupted") };
            let child = command.spawn().with_context(|| format!("cannot start {}", self.path.display()))?;
            processes.push(child.id());
            child
        };
        let (limit, late) = limit(child.id(), task.job.limits.timeout);
        let end = listen(&mut child, &task.job.name, executor.progress);
        let status = child.wait();
        drop(limit);
        processes().iter_mut().for_each(|processes| processes.retain(|process| *process != child.id()));
        let _ = std::fs::remove_file(&file);
        Ok(match end {
            Some(End::Recorded) => JobOutcome::Recorded,
            Some(End::Found) => JobOutcome::Found,
            Some(End::Elsewhere) => JobOutcome::Elsewhere,
            Some(End::InputsMissing) => JobOutcome::InputsMissing,
            Some(End::FileChanged { why }) => JobOutcome::FileChanged(anyhow!(why)),
            Some(End::Failed { why, transient: true }) => JobOutcome::Transient(anyhow!(why)),
            Some(End::Failed { why, transient: false }) => JobOutcome::Failed(anyhow!(why)),
            // It may have recorded its outputs before it was ended.
            None => match is_recorded(store, &task.key) && !task.again {
                true => JobOutcome::Found,
                false if late.load(Ordering::SeqCst) => JobOutcome::Failed(anyhow!(
                    "timed out after {}, and was killed because it did not end",
                    super::execute::in_words(task.job.limits.timeout.unwrap_or_default())
                )),
                false => JobOutcome::Failed(killed(&status?, store)),
            },
        })
    }
}

/// The failure of a process that reported nothing, with what its command had written.
fn killed(status: &ExitStatus, store: &Store) -> anyhow::Error {
    // If that fails, the next process clears up.
    let _ = store.clear_up();
    let kept: String = store.take_kept().iter().map(|line| format!("\n  {line}")).collect();
    anyhow!("its process {}{kept}", in_words(status))
}

/// Passes on what the process reports, up to its end.
fn listen(child: &mut Child, name: &str, progress: &dyn Progress) -> Option<End> {
    let output = BufReader::new(child.stdout.take()?);
    let mut end = None;
    // What a stage prints between the lines need not be text.
    for line in output.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        match serde_json::from_str(&line) {
            Ok(WorkerMessage::Progress { done, total, note }) => {
                progress.node_progress(name, done, total, &note)
            }
            Ok(WorkerMessage::Message { text }) => progress.message(&text),
            Ok(WorkerMessage::Done { end: how }) => end = Some(how),
            // Something that the stage printed.
            Err(_) => progress.message(&format!("{name}: {line}")),
        }
    }
    end
}

fn in_words(status: &ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    const KILL: i32 = 9;
    match (status.signal(), status.code()) {
        (Some(KILL), _) => "was killed by signal 9: the system does that when memory is short".into(),
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, code) => format!("ended with exit code {} and reported nothing", code.unwrap_or_default()),
    }
}

/// Does the job of a file, and reports its progress and its end on standard output.
pub fn work(file: &Path, cache: &Path, registry: &Registry) -> End {
    let end = try_work(file, cache, registry)
        .unwrap_or_else(|error| End::Failed { why: format!("{error:#}"), transient: false });
    say(&WorkerMessage::Done { end: end.clone() });
    end
}

fn try_work(file: &Path, cache: &Path, registry: &Registry) -> anyhow::Result<End> {
    let text =
        read::bytes(file, MAX_LIST_BYTES).with_context(|| format!("cannot read {}", file.display()))?;
    let order: WorkerJob =
        serde_json::from_slice(&text).with_context(|| format!("{} is not a job", file.display()))?;
    let WorkerJob { job, run, again, claimed_by, key: expected, copies } = order;
    let Some((kind, decode)) = registry.find_of_job(&job.kind) else { bail!(registry.unknown(&job.kind)) };
    anyhow::ensure!(
        kind.version == job.version,
        "the job is for version {} of the stage kind `{}`; this triplay has version {}",
        job.version,
        kind.name,
        kind.version
    );
    let decoded = decode(job.params.clone())
        .map_err(|error| anyhow!("params.{}: {}", error.path.join("."), error.message))?;
    let declared = decoded.outputs.iter().map(|output| (&*output.name, &*output.artifact, output.incidental));
    let ordered = job.outputs.iter().map(|output| (&*output.name, &*output.artifact, output.incidental));
    anyhow::ensure!(
        declared.eq(ordered),
        "the job's outputs must be those of its stage: {}",
        decoded.outputs.iter().map(|output| &*output.name).collect::<Vec<_>>().join(", ")
    );
    let store = Store::open(cache)?;
    // The process that started this one held the host's units until now, and may die before this one ends.
    let units = hold(&job.host_units);
    let is_led = || claimed_by.as_deref().is_none_or(|session| store.is_at_work(session).unwrap_or(true));
    if !job.host_units.is_empty() && (units.is_none() || !is_led()) {
        let why =
            "another process has the resources of this host that it takes: the run that started it is gone"
                .into();
        return Ok(End::Failed { why, transient: true });
    }
    let call = StageTemplate::new(kind, decoded, Policy::default(), Arc::new(job.numerics.clone()));
    let key = job.key(kind).context("the job's key cannot be computed: a defect of triplay")?;
    anyhow::ensure!(
        expected.is_none_or(|expected| expected == key),
        "this triplay computes another key of the job than the one that started it: both must have the same version"
    );
    if let Some(run) = &run {
        anyhow::ensure!(store.has_root(run), "the cache {} has no run {run}", store.root().display());
    }
    let root = run.map(|run| store.serve_root(&run)).transpose()?;
    let sources = job.inputs.iter().filter_map(|content| match content {
        Content::Digest { digest, path: Some(path), selection, .. } => {
            Some(Source { path, selection, digest: *digest })
        }
        _ => None,
    });
    // Its own, since the process that started this one may end first.
    let copies = match PrivateCopies::make(&store, sources, copies.as_deref()) {
        Ok(copies) => copies,
        Err(error) => return Ok(End::FileChanged { why: format!("{error:#}") }),
    };
    let (memory, progress) = (Memory::new(0), WorkerProgress);
    let executor = Executor {
        store: &store,
        root: root.as_ref(),
        memory: &memory,
        progress: &progress,
        copies: &copies,
    };
    let task = Task { job, key, call: call.into(), again, check: None };
    Ok(do_job(&executor, task, claimed_by.as_deref()))
}

fn do_job(executor: &Executor, task: Task, claimed_by: Option<&str>) -> End {
    let failed =
        |error: anyhow::Error| End::Failed { why: format!("{error:#}"), transient: Transient::is(&error) };
    let claim = match claimed_by {
        None => executor.store.claim_key(&task.key),
        Some(session) => executor.store.claim_key_from(&task.key, session),
    };
    let claim = match claim {
        Ok(Claimed::Mine(claim)) => claim,
        Ok(Claimed::Others(_)) => return End::Elsewhere,
        Err(error) => return failed(error.into()),
    };
    if !task.again && is_recorded(executor.store, &task.key) {
        return End::Found;
    }
    let end = match executor.execute(&task) {
        JobOutcome::Placed(placed) => match executor.record(*placed) {
            Ok(_) => End::Recorded,
            Err(error) => failed(error),
        },
        JobOutcome::InputsMissing => End::InputsMissing,
        JobOutcome::FileChanged(error) => End::FileChanged { why: format!("{error:#}") },
        JobOutcome::Transient(error) | JobOutcome::Failed(error) => failed(error),
        JobOutcome::Recorded | JobOutcome::Found | JobOutcome::Elsewhere | JobOutcome::Checked(_) => {
            failed(anyhow!("a job cannot end this way here: a defect of triplay"))
        }
    };
    drop(claim);
    end
}

fn is_recorded(store: &Store, key: &Digest) -> bool {
    store.refresh().is_ok() && store.record(key, |_| Some(())).is_some()
}

fn say(said: &WorkerMessage) {
    if let Ok(mut line) = serde_json::to_string(said) {
        line.push('\n');
        // The process that started this one may be gone. The record remains.
        let _ = output::stdout().write_all(line.as_bytes());
    }
}

/// Reports to the process that started this one.
struct WorkerProgress;

impl Progress for WorkerProgress {
    fn run_started(&self, _: &str, _: usize) {}
    fn node_started(&self, _: &str, _: &str, _: bool) {}
    fn node_progress(&self, _: &str, done: u64, total: u64, note: &str) {
        say(&WorkerMessage::Progress { done, total, note: note.to_owned() });
    }
    fn node_finished(&self, _: &str, _: Outcome, _: f64) {}
    fn nodes_cached(&self, _: usize) {}
    fn message(&self, text: &str) {
        say(&WorkerMessage::Message { text: text.to_owned() });
    }
    fn run_finished(&self) {}
}
