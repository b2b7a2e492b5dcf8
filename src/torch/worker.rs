//! The worker's process: started once for a Python and its devices, asked by one node at a time, kept until the run ends. A
//! supervisor stands between the two, so that it never outlives triplay.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use supervise::{End, Launch, Service, find_program};

use super::answer::{Answer, Hello, Line, PROTOCOL};
use super::config::Config;
use super::package;
use super::pipes::Pipes;
use super::trouble::Trouble;

/// How often a worker is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How long Python may take to import PyTorch.
const READY: Duration = Duration::from_secs(600);

const HOW_TO: &str = "docs/training.md says how to set up a Python with PyTorch; `torch: { python: PATH }` in triplay.yaml names it";

/// Called while a worker is waited for, with what is done, of how much, and a note. It may unwind; the worker then ends.
pub type Watch<'a> = dyn FnMut(usize, usize, &str) + 'a;

struct Worker {
    service: Service,
    pipes: Pipes,
    jobs: u64,
    versions: BTreeMap<String, String>,
    device: String,
}

/// An idle worker, if there is one. The lock is held while it computes.
type Place = Arc<Mutex<Option<Worker>>>;

/// The workers of the process, by all that they were started with.
static WORKERS: LazyLock<Mutex<HashMap<String, Place>>> = LazyLock::new(Mutex::default);

/// Asks the worker of this configuration, which sees only these GPUs (all, if none is named), to do a job. If there is none, it is
/// started, with its log in a folder of its own in `folder`. The job's `id` is set here.
pub fn ask(
    config: &Config,
    devices: &[String],
    folder: &Path,
    mut job: Value,
    watch: &mut Watch,
) -> Result<Answer, Trouble> {
    let key = format!("{config:?} {devices:?}");
    let place = WORKERS.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
    let mut idle = wait(&place, watch);
    // Taken out while it computes: if this unwinds, it is dropped, and its late answer reaches nobody.
    let alive = idle.take().and_then(|mut worker| worker.service.ended().is_none().then_some(worker));
    let mut worker = match alive {
        Some(worker) => worker,
        None => Worker::start(config, devices, folder, watch)?,
    };
    worker.jobs += 1;
    job["id"] = json!(worker.jobs);
    let answer = worker.answer(&job, watch)?;
    *idle = Some(worker);
    Ok(answer)
}

/// Waits until no other node asks the worker.
fn wait<'a>(place: &'a Place, watch: &mut Watch) -> MutexGuard<'a, Option<Worker>> {
    loop {
        match place.try_lock() {
            Ok(idle) => return idle,
            Err(TryLockError::Poisoned(idle)) => return idle.into_inner(),
            Err(TryLockError::WouldBlock) => {
                watch(0, 1, "waiting for the PyTorch worker, which computes another step");
                std::thread::sleep(LOOK);
            }
        }
    }
}

impl Worker {
    fn start(
        config: &Config,
        devices: &[String],
        folder: &Path,
        watch: &mut Watch,
    ) -> Result<Worker, Trouble> {
        let python = config.program();
        let failed = |error: io::Error| {
            Trouble::new(format!("cannot start the PyTorch worker with `{python}`: {error}")).help(HOW_TO)
        };
        let (service, pipes) = launch(config, &python, devices, folder).map_err(failed)?;
        let (jobs, versions, device) = (0, BTreeMap::new(), String::new());
        let mut worker = Worker { service, pipes, jobs, versions, device };
        let begun = Instant::now();
        let line = worker.next_line(HOW_TO, |waited| {
            watch(0, 1, "starting the PyTorch worker");
            match waited.duration_since(begun) > READY {
                true => Err(Trouble::new(format!(
                    "the PyTorch worker must be ready within {} min, and is not",
                    READY.as_secs() / 60
                ))),
                false => Ok(()),
            }
        })?;
        worker.pipes.remove_names();
        let hello: Hello = worker.read(&line)?;
        match hello.protocol {
            Some(PROTOCOL) => {}
            found => {
                let found = found.map_or("none".to_owned(), |version| version.to_string());
                let what = format!(
                    "the PyTorch worker must speak version {PROTOCOL} of the protocol, found {found}"
                );
                let help = "`torch.python` must be a plain Python: triplay brings its worker along";
                return Err(worker.trouble(what).help(help));
            }
        }
        if !hello.missing.is_empty() {
            let what = format!("`{python}` must have {}, and has not", hello.missing.join(", "));
            return Err(worker.trouble(what).help(HOW_TO));
        }
        if hello.error.is_some() {
            let what =
                format!("the PyTorch worker cannot compute on `{}`: {}", config.device(), hello.message);
            return Err(worker.trouble(what).help("check `torch.device` in triplay.yaml, and the driver"));
        }
        (worker.versions, worker.device) = (hello.versions, hello.device);
        Ok(worker)
    }

    /// Gives it a job and waits for the answer.
    fn answer(&mut self, job: &Value, watch: &mut Watch) -> Result<Answer, Trouble> {
        let sent = self.pipes.send(&job.to_string());
        sent.map_err(|error| self.trouble(format!("the PyTorch worker does not take a job: {error}")))?;
        let mut said = (0, 1, "computing in PyTorch".to_owned());
        let help = "lower `micro_batch` or set `gradient_checkpointing: true` if it ran out of memory; run again to go on from the \
                    last step";
        loop {
            let line = self.next_line(help, |_| {
                watch(said.0, said.1, &said.2);
                Ok(())
            })?;
            let line: Line = self.read(&line)?;
            if Some(line.id) != job["id"].as_u64() {
                let what = format!(
                    "the PyTorch worker must answer job {}, found an answer to {}",
                    job["id"], line.id
                );
                return Err(self.trouble(what));
            }
            if let Some(error) = line.error {
                let what = match error.as_str() {
                    "memory" => {
                        format!("the PyTorch worker is out of memory on {}: {}", self.device, line.message)
                    }
                    _ => format!("the PyTorch worker failed: {}", line.message),
                };
                let trouble = self.trouble(what);
                return Err(if error == "memory" { trouble.help(help) } else { trouble });
            }
            if let Some(progress) = line.progress {
                said = progress;
                watch(said.0, said.1, &said.2);
                continue;
            }
            let Some(reports) = line.reports.filter(|reports| !reports.is_empty()) else {
                return Err(
                    self.trouble("the PyTorch worker's answer must have `reports`, found none".into())
                );
            };
            let (seconds, peak_bytes) = (line.seconds, line.peak_bytes);
            let (versions, device) = (self.versions.clone(), self.device.clone());
            let log = self.service.log().display().to_string();
            return Ok(Answer { reports, seconds, peak_bytes, versions, device, log });
        }
    }

    /// Waits for a line. `help` is for a worker that ends instead.
    fn next_line(
        &mut self,
        help: &str,
        mut look: impl FnMut(Instant) -> Result<(), Trouble>,
    ) -> Result<String, Trouble> {
        loop {
            // Looked at first: what it wrote before it ended is read after.
            let ended = self.service.ended();
            match self.pipes.line() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(error) => {
                    return Err(self.trouble(format!("cannot read from the PyTorch worker: {error}")));
                }
            }
            if let Some(ended) = ended {
                let memory = match ended.0 {
                    Some(End::Signal(9)) => ", as the system does with a process that takes too much memory",
                    _ => "",
                };
                return Err(self.trouble(format!("the PyTorch worker has ended{ended}{memory}")).help(help));
            }
            look(Instant::now())?;
            std::thread::sleep(LOOK);
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, line: &str) -> Result<T, Trouble> {
        serde_json::from_str(line).map_err(|error| {
            let start: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
            let what = format!(
                "the PyTorch worker must answer with JSON of the protocol, found `{start}` ({error})"
            );
            self.trouble(what)
        })
    }

    /// An error with the log.
    fn trouble(&self, what: String) -> Trouble {
        Trouble::new(what).log(self.service.log_tail(), self.service.log().display().to_string())
    }
}

/// Starts the process in a folder of its own, which has the package, the pipes and the log.
fn launch(config: &Config, python: &str, devices: &[String], folder: &Path) -> io::Result<(Service, Pipes)> {
    let program = find_program(python)?;
    let folder = own_folder(folder)?;
    package::write(&folder)?;
    let pipes = Pipes::make(&folder)?;
    let [jobs, answers] = pipes.names();
    let processes = config.processes.to_string();
    let (device, process_words) = (config.device(), ["--processes", &processes]);
    let mut words = vec![python, "-u", "-m", "triplay_torch", &jobs, &answers, "--device", device];
    words.extend(process_words);
    let mut variables: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| name != "PYTHONPATH").collect();
    let own = std::env::var_os("PYTHONPATH");
    let path = std::env::join_paths(
        std::iter::once(folder.clone()).chain(own.iter().flat_map(std::env::split_paths)),
    );
    variables.push(("PYTHONPATH".into(), path.map_err(io::Error::other)?));
    let mut set = |name: &str, value: &str| {
        variables.retain(|(known, _)| known != name);
        variables.push((name.into(), value.into()));
    };
    // What is read are folders of this machine.
    for (name, value) in
        [("HF_HUB_OFFLINE", "1"), ("PYTHONDONTWRITEBYTECODE", "1"), ("TOKENIZERS_PARALLELISM", "false")]
    {
        set(name, value);
    }
    if !devices.is_empty() {
        set("CUDA_VISIBLE_DEVICES", &devices.join(","));
    }
    let here = std::env::current_dir()?;
    let launch = Launch { program: &program, words: &words, variables: &variables, folder: &here };
    Ok((Service::start(&launch, folder.join("log"))?, pipes))
}

/// A new folder in a folder.
fn own_folder(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    let mut number = 1;
    loop {
        let own = folder.join(if number == 1 { "torch".to_owned() } else { format!("torch-{number}") });
        match std::fs::create_dir(&own) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|()| own),
        }
    }
}
