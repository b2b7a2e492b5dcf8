//! A process at work on a cache: a file in `sessions/` that says who it is, a folder in `tmp/` for what it is writing, a
//! segment in `records/`. When the process is gone, however it went, others see that and clear up after it.
//!
//! On one host the kernel says who is gone: a session's file is locked as long as its process lives. Where several hosts
//! share a file system, kernel locks are not to be relied on; there the file holds a number that the process counts up,
//! and who is not seen to count for [`EXPIRY`] is gone. No clock of one host is compared with one of another.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::disk::{lock, remove};
use super::format::Locking;
use super::records::close_segment;
use super::sharing::Sharing;

/// A process of another host that has not counted for so long is gone. Attributes of files on NFS may be up to a minute
/// old, but who opens a file gets them anew.
pub(super) const EXPIRY: Duration = Duration::from_secs(60);

/// How often a process counts within that time.
const BEATS: u32 = 12;

/// [`EXPIRY`], or `TRIPLAY_EXPIRY_SECONDS`. It must be the same for all processes of a cache.
fn expiry() -> Duration {
    let seconds = std::env::var("TRIPLAY_EXPIRY_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(EXPIRY, Duration::from_secs_f64)
}

/// Who a process is. What others wait for is told by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub host: String,
    /// Since when its numbers of processes hold: the host's start and the container.
    boot: String,
    pub process: u32,
    /// When it started, in ticks since the host's start: another process may get its number.
    started: u64,
    pub command: String,
}

impl Process {
    /// This one. `TRIPLAY_HOST=NAME:BOOT` gives out that it runs on another host, for tests.
    pub fn here() -> Process {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let container = fs::read_link("/proc/self/ns/pid").unwrap_or_default().display().to_string();
        let here = || {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let boot = read("/proc/sys/kernel/random/boot_id");
            (host, if boot.is_empty() { boot } else { format!("{boot} {container}") })
        };
        let told = std::env::var("TRIPLAY_HOST").ok();
        let told = told.and_then(|told| told.split_once(':').map(|(host, boot)| (host.into(), boot.into())));
        let (host, boot) = told.unwrap_or_else(here);
        let process = std::process::id();
        let command = std::env::args().collect::<Vec<_>>().join(" ");
        Process { host, boot, process, started: started(process).unwrap_or_default(), command }
    }

    /// Whether it has ended; nothing where that cannot be told from here.
    fn has_ended(&self, here: &Process) -> Option<bool> {
        if self.host != here.host || self.boot.is_empty() {
            return None;
        }
        let ended = || started(self.process) != Some(self.started);
        (self.boot == here.boot).then(ended)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {} (`{}`)", self.process, self.host, self.command)
    }
}

/// The 22nd field of `/proc/ID/stat`; the second, the program's name, may hold anything.
fn started(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What a session's file says before the number that is counted up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    #[serde(flatten)]
    pub process: Process,
    /// The run that it works for.
    pub run: Option<String>,
}

/// Reads a session's file: what it says, and the number.
fn read(file: &mut File) -> io::Result<(Told, u64)> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let (told, count) = text.split_once('\n').ok_or(io::ErrorKind::InvalidData)?;
    // One that is being written is another one than before.
    Ok((serde_json::from_str(told)?, count.trim().parse().unwrap_or(u64::MAX)))
}

pub(super) struct Session {
    pub id: String,
    /// Its file, which claims are links to.
    pub file: PathBuf,
    /// Locked as long as this process lives, where the kernel's locks are used.
    held: Arc<File>,
    pub folder: PathBuf,
    records: PathBuf,
    /// Empty folders in `folder`. They are used again: to make and remove one for each node costs more than a small node
    /// does.
    spare: Spare,
    /// Ends the counting when it is dropped.
    _beat: Option<Sender<()>>,
}

type Spare = Arc<Mutex<Vec<PathBuf>>>;

/// A fresh folder for a stage, given back on drop.
pub struct Workspace {
    path: PathBuf,
    spare: Spare,
}

impl Workspace {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let is_empty = fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        if is_empty {
            lock(&self.spare).push(self.path.clone());
        } else {
            // Whatever cannot be removed now is swept by the next process.
            let _ = remove(&self.path);
        }
    }
}

impl Session {
    pub fn begin(
        root: &Path,
        run: Option<String>,
        locking: Locking,
        sharing: Sharing,
    ) -> io::Result<Session> {
        let told = serde_json::to_string(&Told { process: Process::here(), run })? + "\n";
        let sessions = root.join("sessions");
        loop {
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&sessions)?;
            if locking == Locking::Kernel {
                file.as_file().lock()?;
            }
            sharing.set(file.as_file(), sharing.file)?;
            file.write_all(format!("{told}{:20}\n", 0).as_bytes())?;
            let name = file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.trim_start_matches(".new-").to_owned();
            let place = sessions.join(&id);
            // Somebody who sweeps may have taken it for one that was left behind.
            let held = match file.persist_noclobber(&place) {
                Ok(file) => file,
                Err(error) if taken_away(&error.error) => continue,
                Err(error) => return Err(error.error),
            };
            let folder = root.join("tmp").join(&id);
            sharing.create_folder(&folder)?;
            let held = Arc::new(held);
            let beat = (locking == Locking::Leases).then(|| beat(held.clone(), told.len() as u64));
            let records = root.join("records");
            return Ok(Session {
                id,
                file: place,
                held,
                folder,
                records,
                spare: Spare::default(),
                _beat: beat,
            });
        }
    }

    /// Device and inode of its file, and so of its claims.
    pub fn inode(&self) -> io::Result<(u64, u64)> {
        let metadata = self.held.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    pub fn workspace(&self) -> io::Result<Workspace> {
        let spare = lock(&self.spare).pop();
        let path = match spare {
            Some(path) => path,
            None => tempfile::tempdir_in(&self.folder)?.keep(),
        };
        Ok(Workspace { path, spare: self.spare.clone() })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whatever cannot be removed now is swept by the next process; the session's file last, by which it is known.
        let _ = remove(&self.folder);
        let _ = close_segment(&self.records, &self.id);
        let _ = fs::remove_file(&self.file);
    }
}

fn taken_away(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

/// Counts up until what is returned is dropped.
fn beat(file: Arc<File>, at: u64) -> Sender<()> {
    let (sender, ended) = channel();
    std::thread::spawn(move || {
        for count in 1u64.. {
            if ended.recv_timeout(expiry() / BEATS) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            // What fails once may not fail the next time.
            let _ = file.write_all_at(format!("{count:20}\n").as_bytes(), at).and_then(|()| file.sync_data());
        }
    });
    sender
}

/// Who is seen to be alive.
pub(super) struct Watch {
    locking: Locking,
    here: Process,
    expiry: Duration,
    /// Of processes of other hosts: the number that was last seen, and since when.
    seen: Mutex<HashMap<(u64, u64), (u64, Instant)>>,
}

impl Watch {
    pub fn new(locking: Locking) -> Watch {
        Watch { locking, here: Process::here(), expiry: expiry(), seen: Mutex::default() }
    }

    /// Who the session of this file (or of a claim, which is a link to it) is, as long as it is alive.
    pub fn living(&self, path: &Path) -> io::Result<Option<Told>> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        match self.locking {
            Locking::Kernel => match file.try_lock_shared() {
                Ok(()) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
                // Who is about to write what it is has not got a name yet.
                Err(TryLockError::WouldBlock) => Ok(read(&mut file).ok().map(|(told, _)| told)),
            },
            Locking::Leases => {
                let (told, count) = read(&mut file)?;
                if let Some(ended) = told.process.has_ended(&self.here) {
                    return Ok((!ended).then_some(told));
                }
                let mut seen = lock(&self.seen);
                let now = Instant::now();
                let known = seen.entry((metadata.dev(), metadata.ino())).or_insert((count, now));
                if known.0 != count {
                    *known = (count, now);
                }
                Ok((known.1.elapsed() < self.expiry).then_some(told))
            }
        }
    }

    /// Clears up after processes that are gone.
    pub fn sweep(&self, root: &Path) -> io::Result<()> {
        let sessions = root.join("sessions");
        for folder in names(&root.join("tmp"))? {
            if self.living(&sessions.join(&folder))?.is_none() {
                // What belongs to another user and cannot be removed is that user's to sweep.
                let _ = remove(&root.join("tmp").join(&folder));
            }
        }
        for name in names(&sessions)? {
            let is_new = name.starts_with('.');
            // On another host's behalf: it may be about to begin.
            if is_new && self.locking == Locking::Leases || self.living(&sessions.join(&name))?.is_some() {
                continue;
            }
            let _ = close_segment(&root.join("records"), &name);
            let _ = fs::remove_file(sessions.join(&name));
        }
        Ok(())
    }

    /// The processes at work on the cache, but for `own` and those that work for `run`.
    pub fn others(&self, root: &Path, own: Option<&str>, run: Option<&str>) -> io::Result<Vec<Process>> {
        let sessions = root.join("sessions");
        let mut others = Vec::new();
        for name in names(&sessions)? {
            if Some(name.as_str()) == own {
                continue;
            }
            let living = self.living(&sessions.join(&name))?;
            let of_another = |told: &Told| told.run.is_none() || told.run.as_deref() != run;
            others.extend(living.filter(of_another).map(|told| told.process));
        }
        Ok(others)
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
