//! A process at work on a cache: a file in `sessions/` that says who it is, a folder in `tmp/` for what it is writing, a
//! segment in `records/`. When the process is gone, however it went, others see that and clear up after it.
//!
//! On one host the kernel says who is gone: a session's file is locked as long as its process lives. Where several hosts
//! share a file system, kernel locks are not to be relied on; there the file holds a number that the process counts up,
//! and who is not seen to count for [`EXPIRY`] is gone. No clock of one host is compared with one of another.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::Digest;
use super::disk::{lock, remove};
use super::fail::fail_point;
use super::format::Locking;
use super::read::{self, MOST_TEXT};
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
        let read = |path: &str| read::text(Path::new(path), MOST_TEXT).unwrap_or_default().trim().to_owned();
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
        // Whatever path it was found by.
        let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
        let words = std::iter::once("triplay".to_owned()).chain(words);
        let command = words.collect::<Vec<_>>().join(" ");
        Process { host, boot, process, started: started(process).unwrap_or_default(), command }
    }

    /// What this host is called.
    pub fn host() -> String {
        Process::here().host
    }

    /// Whether it has ended; nothing where that cannot be told from here.
    fn has_ended(&self, here: &Process) -> Option<bool> {
        if self.host != here.host || self.boot.is_empty() {
            return None;
        }
        if self.boot != here.boot {
            return None;
        }
        match started(self.process) {
            Some(started) => Some(started != self.started),
            // Where it may not be seen, it is there all the same.
            None => {
                let id = i32::try_from(self.process).ok().and_then(Pid::from_raw)?;
                (test_kill_process(id) == Err(Errno::SRCH)).then_some(true)
            }
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {} (`{}`)", self.process, self.host, self.command)
    }
}

/// The 22nd field of `/proc/ID/stat`; the second, the program's name, may hold anything. One that has ended and that
/// nobody has asked after (the third is `Z`) never started.
fn started(process: u32) -> Option<u64> {
    let stat = read::bytes(format!("/proc/{process}/stat").as_ref(), MOST_TEXT).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => Some(u64::MAX),
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// What a session's file says before the number that is counted up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    #[serde(flatten)]
    pub process: Process,
    /// The run that it works for.
    pub run: Option<String>,
}

impl Told {
    /// Of a process of which nothing can be read.
    fn unknown() -> Told {
        let (host, boot, command) = ("an unknown host".into(), String::new(), String::new());
        Told { process: Process { host, boot, process: 0, started: 0, command }, run: None }
    }
}

/// Reads a session's file: what it says, and the number. Of a file that says nothing, since its host died before it was
/// written or another host does not see it yet, the number is of what there is.
fn read(file: &mut File) -> io::Result<(Told, u64)> {
    let bytes = read::all(file, MOST_TEXT)?;
    let text = String::from_utf8_lossy(&bytes);
    let told = text
        .split_once('\n')
        .and_then(|(told, count)| Some((serde_json::from_str(told).ok()?, count.trim().parse().ok()?)));
    let number = || u64::from_le_bytes(*Digest::of_bytes(&bytes).bytes().first_chunk().unwrap_or(&[0; 8]));
    Ok(told.unwrap_or_else(|| (Told::unknown(), number())))
}

pub(super) struct Session {
    pub id: String,
    /// Its file, which claims are links to.
    pub file: PathBuf,
    /// Locked as long as this process lives, where the kernel's locks are used.
    held: Arc<File>,
    pub folder: PathBuf,
    records: PathBuf,
    /// What it has claimed.
    pub claimed: Mutex<HashSet<PathBuf>>,
    /// Empty folders in `folder`. They are used again: to make and remove one for each node costs more than a small node
    /// does.
    spare: Spare,
    /// Where others see by it whether this process lives.
    beat: Option<Beat>,
}

/// What counts up. It ends when this is dropped.
struct Beat {
    _ended: Sender<()>,
    /// When the count was last written.
    last: Arc<Mutex<Duration>>,
    /// Whether it stood still at any time for so long that others may have taken this process for gone.
    stood: Arc<AtomicBool>,
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
        fail_point("session")?;
        loop {
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&sessions)?;
            if locking == Locking::Kernel {
                file.as_file().lock()?;
            }
            sharing.set(file.as_file(), sharing.file)?;
            file.write_all(format!("{told}{:20}\n", 0).as_bytes())?;
            if locking == Locking::Leases {
                file.as_file().sync_all()?;
            }
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
                claimed: Mutex::default(),
                spare: Spare::default(),
                beat,
            });
        }
    }

    /// Device and inode of its file, and so of its claims.
    pub fn inode(&self) -> io::Result<(u64, u64)> {
        let metadata = self.held.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Whether nobody can have taken this process for gone: it has always counted within half of the time that others
    /// wait.
    pub fn is_seen_alive(&self) -> bool {
        let is_alive = |beat: &Beat| {
            !beat.stood.load(Ordering::SeqCst)
                && since_boot().saturating_sub(*lock(&beat.last)) < expiry() / 2
        };
        self.beat.as_ref().is_none_or(is_alive)
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
fn beat(file: Arc<File>, at: u64) -> Beat {
    let (sender, ended) = channel();
    let (last, stood) = (Arc::new(Mutex::new(since_boot())), Arc::new(AtomicBool::new(false)));
    let (seen, has_stood) = (last.clone(), stood.clone());
    std::thread::spawn(move || {
        for count in 1u64.. {
            if ended.recv_timeout(expiry() / BEATS) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            // What fails once may not fail the next time.
            let written = file.write_all_at(format!("{count:20}\n").as_bytes(), at);
            if written.and_then(|()| file.sync_data()).is_ok() {
                let (now, mut last) = (since_boot(), lock(&seen));
                if now.saturating_sub(*last) > expiry() / 2 {
                    has_stood.store(true, Ordering::SeqCst);
                }
                *last = now;
            }
        }
    });
    Beat { _ended: sender, last, stood }
}

/// How long the host has been up, also while it was suspended; where it does not say, this process.
fn since_boot() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let uptime = read::text("/proc/uptime".as_ref(), MOST_TEXT).ok();
    let seconds = uptime.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_else(|| BEGUN.elapsed())
}

/// Who is seen to be alive.
pub(super) struct Watch {
    locking: Locking,
    /// Asked for where it is needed.
    here: LazyLock<Process>,
    expiry: Duration,
    /// Of processes of other hosts, by device and inode of their files and what tells them apart.
    seen: Mutex<HashMap<(u64, u64, u32, u64), Seen>>,
}

struct Seen {
    /// The number that was last seen, and since when.
    count: u64,
    since: Instant,
    /// Whether it was seen to change.
    has_counted: bool,
}

impl Watch {
    pub fn new(locking: Locking) -> Watch {
        Watch { locking, here: LazyLock::new(Process::here), expiry: expiry(), seen: Mutex::default() }
    }

    /// Who the session of this file (or of a claim, which is a link to it) is, as long as it is alive.
    pub fn living(&self, path: &Path) -> io::Result<Option<Told>> {
        let mut file = match read::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        match self.locking {
            Locking::Kernel => match file.try_lock_shared() {
                Ok(()) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
                // Whatever it says, it lives.
                Err(TryLockError::WouldBlock) => {
                    Ok(Some(read(&mut file).map_or_else(|_| Told::unknown(), |(told, _)| told)))
                }
            },
            Locking::Leases => {
                let (told, count) = read(&mut file)?;
                if let Some(ended) = told.process.has_ended(&self.here) {
                    return Ok((!ended).then_some(told));
                }
                let mut seen = lock(&self.seen);
                let known = seen
                    .entry((metadata.dev(), metadata.ino(), told.process.process, told.process.started))
                    .or_insert(Seen { count, since: Instant::now(), has_counted: false });
                if known.count != count {
                    *known = Seen { count, since: Instant::now(), has_counted: true };
                }
                Ok((known.since.elapsed() < self.expiry).then_some(told))
            }
        }
    }

    /// Waits until it is known of each process of another host whether it lives: that it counts, or does not for long
    /// enough. `waiting` hears of it where that takes more than a moment.
    pub fn decide(&self, root: &Path, waiting: impl FnOnce(&str)) -> io::Result<()> {
        let mut waiting = Some(waiting);
        let begun = Instant::now();
        while self.locking == Locking::Leases && begun.elapsed() < self.expiry + self.expiry / BEATS {
            for folder in ["sessions", "claims"].map(|folder| root.join(folder)) {
                for name in names(&folder)? {
                    self.living(&folder.join(name))?;
                }
            }
            let seen = lock(&self.seen);
            let is_open = |seen: &&Seen| !seen.has_counted && seen.since.elapsed() < self.expiry;
            let open = seen.values().filter(is_open).count();
            drop(seen);
            if open == 0 {
                break;
            }
            if begun.elapsed() > self.expiry / BEATS * 2
                && let Some(waiting) = waiting.take()
            {
                waiting(&format!(
                    "{open} of the processes of other hosts, to see whether they live: one of them"
                ));
            }
            std::thread::sleep(self.expiry / BEATS / 4);
        }
        Ok(())
    }

    /// The sessions by their names, and who they are as far as they live. One that begins to begin has not looked at
    /// anything yet, and is left out.
    fn sessions(&self, root: &Path) -> io::Result<Vec<(String, Option<Told>)>> {
        let folder = root.join("sessions");
        let names = names(&folder)?.into_iter().filter(|name| !name.starts_with('.'));
        names.map(|name| self.living(&folder.join(&name)).map(|told| (name, told))).collect()
    }

    /// Device and inode of the sessions, and so of the claims, of processes that are gone.
    pub fn gone(&self, root: &Path) -> io::Result<HashSet<(u64, u64)>> {
        let gone = self.sessions(root)?.into_iter().filter(|(_, told)| told.is_none());
        let inodes = gone.filter_map(|(name, _)| fs::metadata(root.join("sessions").join(name)).ok());
        Ok(inodes.map(|metadata| (metadata.dev(), metadata.ino())).collect())
    }

    /// Clears up after processes that are gone. What they claimed must be free by now.
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
            if is_new && self.locking == Locking::Leases {
                continue;
            }
            match self.living(&sessions.join(&name)) {
                Ok(None) => {}
                Ok(Some(_)) => continue,
                // Of another user, who had no time to share it.
                Err(error) if is_new && error.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(error),
            }
            let _ = close_segment(&root.join("records"), &name);
            let _ = fs::remove_file(sessions.join(&name));
        }
        Ok(())
    }

    /// The runs that processes work for which live, whether or not those that lead them do.
    pub fn runs(&self, root: &Path) -> io::Result<HashSet<String>> {
        Ok(self.sessions(root)?.into_iter().filter_map(|(_, told)| told?.run).collect())
    }

    /// The processes at work on the cache, but for `own` and those that work for `run`.
    pub fn others(&self, root: &Path, own: Option<&str>, run: Option<&str>) -> io::Result<Vec<Process>> {
        let others = self.sessions(root)?.into_iter().filter(|(name, _)| Some(name.as_str()) != own);
        let of_another = |told: &Told| told.run.is_none() || told.run.as_deref() != run;
        Ok(others.filter_map(|(_, told)| told.filter(of_another)).map(|told| told.process).collect())
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
