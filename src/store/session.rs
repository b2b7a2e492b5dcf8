//! Sessions: each process at work on a cache has a file in `sessions/` that identifies it, a folder in `tmp/` for its unfinished
//! files, and a segment in `records/`. When the process ends, in any way, other processes detect that and clear up after it.
//!
//! On one host the kernel tells which processes are dead: a session's file is locked as long as its process lives. Kernel locks
//! are not reliable on file systems that several hosts share. There the file holds a number that the process counts up, and a
//! process whose number does not change for [`EXPIRY`] is dead. The clocks of two hosts are never compared.

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
use super::fail::fail_point;
use super::format::Locking;
use super::mutex::lock;
use super::partial::{is_of_another, keep_partial};
use super::read::{self, MAX_TEXT_BYTES};
use super::records::close_segment;
use super::removal::remove;
use super::sharing::Sharing;

/// A process of another host whose count stands still for this long is dead. File attributes on NFS may be up to a minute old,
/// but opening a file fetches them again.
pub(super) const EXPIRY: Duration = Duration::from_secs(60);

/// How often a process counts within that time.
const BEATS: u32 = 12;

/// [`EXPIRY`], or `TRIPLAY_EXPIRY_SECONDS`. It must be the same for all processes of a cache.
fn expiry() -> Duration {
    let seconds = std::env::var("TRIPLAY_EXPIRY_SECONDS").ok().and_then(|text| text.parse().ok());
    seconds.map_or(EXPIRY, Duration::from_secs_f64)
}

/// Identifies a process, and is shown to those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The host's name.
    pub host: String,
    /// The scope of its process numbers: the boot of the host, and the container.
    boot: String,
    /// Its number.
    pub process: u32,
    /// When it started, in ticks since the host's boot: another process may get its number.
    started: u64,
    /// The command line.
    pub command: String,
}

impl Process {
    /// This process. `TRIPLAY_HOST=NAME:BOOT` makes it appear as one of another host, for tests.
    pub fn here() -> Process {
        let read =
            |path: &str| read::text(Path::new(path), MAX_TEXT_BYTES).unwrap_or_default().trim().to_owned();
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
        // Without the path by which the program was found.
        let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
        let words = std::iter::once("triplay".to_owned()).chain(words);
        let command = words.collect::<Vec<_>>().join(" ");
        Process { host, boot, process, started: started(process).unwrap_or_default(), command }
    }

    /// The name of this host.
    pub fn host() -> String {
        Process::here().host
    }

    /// Whether it has ended; `None` if that cannot be told from here.
    fn has_ended(&self, here: &Process) -> Option<bool> {
        if self.host != here.host || self.boot.is_empty() {
            return None;
        }
        if self.boot != here.boot {
            return None;
        }
        match started(self.process) {
            Some(started) => Some(started != self.started),
            // A process that may not be inspected exists all the same.
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

/// The 22nd field of `/proc/ID/stat`; the second, the program's name, may hold anything. A zombie (`Z` in the third field) counts
/// as never started.
fn started(process: u32) -> Option<u64> {
    let stat = read::bytes(format!("/proc/{process}/stat").as_ref(), MAX_TEXT_BYTES).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => Some(u64::MAX),
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// The part of a session's file before the number that is counted up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SessionInfo {
    #[serde(flatten)]
    pub process: Process,
    /// The run that it works for.
    pub run: Option<String>,
}

impl SessionInfo {
    /// Stands for a process whose file cannot be read.
    fn unknown() -> SessionInfo {
        let (host, boot, command) = ("an unknown host".into(), String::new(), String::new());
        SessionInfo { process: Process { host, boot, process: 0, started: 0, command }, run: None }
    }
}

/// Reads a session's file: its description and its count. A file may be empty, because its host crashed before writing or another
/// host does not see the content yet; then the count is computed from what there is.
fn read(file: &mut File) -> io::Result<(SessionInfo, u64)> {
    let bytes = read::all(file, MAX_TEXT_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let told = text
        .split_once('\n')
        .and_then(|(told, count)| Some((serde_json::from_str(told).ok()?, count.trim().parse().ok()?)));
    let number = || u64::from_le_bytes(*Digest::of_bytes(&bytes).bytes().first_chunk().unwrap_or(&[0; 8]));
    Ok(told.unwrap_or_else(|| (SessionInfo::unknown(), number())))
}

pub(super) struct Session {
    pub id: String,
    /// Its file. Claims are hard links to it.
    pub file: PathBuf,
    /// Locked as long as this process lives, if the cache uses kernel locks.
    held: Arc<File>,
    pub folder: PathBuf,
    records: PathBuf,
    /// The claims that it holds.
    pub claimed: Mutex<HashSet<PathBuf>>,
    /// Empty folders in `folder` that are reused: to create and remove one for each node costs more than a small node does.
    spare: Spare,
    /// Shows other hosts that this process lives.
    beat: Option<Beat>,
}

/// The thread that counts up. It ends when this is dropped.
struct Beat {
    _ended: Sender<()>,
    /// When the count was last written.
    last: Arc<Mutex<Duration>>,
    /// Whether it ever stood still for so long that others may have taken this process for dead.
    stood: Arc<AtomicBool>,
}

type Spare = Arc<Mutex<Vec<PathBuf>>>;

/// A fresh folder for a stage, given back on drop.
pub struct Workspace {
    path: PathBuf,
    spare: Spare,
}

impl Workspace {
    /// The folder, which exists until this is dropped.
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
            // The next process sweeps anything that cannot be removed now.
            let _ = remove(&self.path);
        }
    }
}

impl Session {
    pub(crate) fn begin(
        root: &Path,
        run: Option<String>,
        locking: Locking,
        sharing: Sharing,
    ) -> io::Result<Session> {
        let told = serde_json::to_string(&SessionInfo { process: Process::here(), run })? + "\n";
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
            // A process that sweeps may have taken it for a dead one's file.
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
    pub(crate) fn inode(&self) -> io::Result<(u64, u64)> {
        let metadata = self.held.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Whether no process can have taken this one for dead: it has always counted within half of the expiry time.
    pub(crate) fn is_seen_alive(&self) -> bool {
        let is_alive = |beat: &Beat| {
            !beat.stood.load(Ordering::SeqCst)
                && since_boot().saturating_sub(*lock(&beat.last)) < expiry() / 2
        };
        self.beat.as_ref().is_none_or(is_alive)
    }

    pub(crate) fn workspace(&self) -> io::Result<Workspace> {
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
        // The next process sweeps anything that cannot be removed now. The file goes last: it identifies the session.
        let _ = remove(&self.folder);
        let _ = close_segment(&self.records, &self.id);
        let _ = fs::remove_file(&self.file);
    }
}

fn taken_away(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

/// Counts up until the returned value is dropped.
fn beat(file: Arc<File>, at: u64) -> Beat {
    let (sender, ended) = channel();
    let (last, stood) = (Arc::new(Mutex::new(since_boot())), Arc::new(AtomicBool::new(false)));
    let (seen, has_stood) = (last.clone(), stood.clone());
    std::thread::spawn(move || {
        for count in 1u64.. {
            if ended.recv_timeout(expiry() / BEATS) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            // A later attempt may succeed.
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

/// The host's uptime, including suspension; if the host does not report it, that of this process.
fn since_boot() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let uptime = read::text("/proc/uptime".as_ref(), MAX_TEXT_BYTES).ok();
    let seconds = uptime.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_else(|| BEGUN.elapsed())
}

/// Detects which processes live.
pub(super) struct Watch {
    locking: Locking,
    /// Read when it is first needed.
    here: LazyLock<Process>,
    expiry: Duration,
    /// Observations of other hosts' processes, by the device and inode of their files, process number and start.
    seen: Mutex<HashMap<(u64, u64, u32, u64), Seen>>,
}

struct Seen {
    /// The count that was last seen, and since when.
    count: u64,
    since: Instant,
    /// Whether it was seen to change.
    has_counted: bool,
}

impl Watch {
    pub(crate) fn new(locking: Locking) -> Watch {
        Watch { locking, here: LazyLock::new(Process::here), expiry: expiry(), seen: Mutex::default() }
    }

    /// The process of this session file (or of a claim, which is a link to it), if it lives.
    pub(crate) fn living(&self, path: &Path) -> io::Result<Option<SessionInfo>> {
        let mut file = match read::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let metadata = file.metadata()?;
        match self.locking {
            Locking::Kernel => match file.try_lock_shared() {
                Ok(()) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
                // A locked file has a live process, whatever it holds.
                Err(TryLockError::WouldBlock) => {
                    Ok(Some(read(&mut file).map_or_else(|_| SessionInfo::unknown(), |(told, _)| told)))
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

    /// Waits until each process of another host is known to live (its count changes) or to be dead (it stands still for the
    /// expiry time). `waiting` is called once if that takes longer than a moment.
    pub(crate) fn decide(&self, root: &Path, waiting: impl FnOnce(&str)) -> io::Result<()> {
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
                    "checking whether {open} processes on other hosts live, in case one of them"
                ));
            }
            std::thread::sleep(self.expiry / BEATS / 4);
        }
        Ok(())
    }

    /// The sessions by their names, with those of live processes. A session that is just beginning has not looked at anything
    /// yet, and is left out.
    fn sessions(&self, root: &Path) -> io::Result<Vec<(String, Option<SessionInfo>)>> {
        let folder = root.join("sessions");
        let names = names(&folder)?.into_iter().filter(|name| !name.starts_with('.'));
        names.map(|name| self.living(&folder.join(&name)).map(|told| (name, told))).collect()
    }

    /// Device and inode of the sessions, and so of the claims, of dead processes.
    pub(crate) fn gone(&self, root: &Path) -> io::Result<HashSet<(u64, u64)>> {
        let gone = self.sessions(root)?.into_iter().filter(|(_, told)| told.is_none());
        let inodes = gone.filter_map(|(name, _)| fs::metadata(root.join("sessions").join(name)).ok());
        Ok(inodes.map(|metadata| (metadata.dev(), metadata.ino())).collect())
    }

    /// Clears up after dead processes. Their claims must be free already. Returns a line for each output of a command that was
    /// kept.
    pub(crate) fn sweep(&self, root: &Path) -> io::Result<Vec<String>> {
        let (sessions, mut kept) = (root.join("sessions"), Vec::new());
        for name in names(&root.join("tmp"))? {
            if self.living(&sessions.join(&name))?.is_none() {
                let folder = root.join("tmp").join(&name);
                // Another process may be clearing it up at the same time.
                let lock = File::open(&folder);
                if matches!(lock.as_ref().map(File::try_lock), Ok(Err(TryLockError::WouldBlock)))
                    || is_of_another(&folder)
                {
                    continue;
                }
                kept.extend(keep_partial(root, &folder));
                // Files of another user that cannot be removed are swept by that user.
                let _ = remove(&folder);
            }
        }
        for name in names(&sessions)? {
            let is_new = name.starts_with('.');
            // On another host a new session may be about to begin.
            if is_new && self.locking == Locking::Leases {
                continue;
            }
            match self.living(&sessions.join(&name)) {
                Ok(None) => {}
                Ok(Some(_)) => continue,
                // A file of another user, who has not set its permissions yet.
                Err(error) if is_new && error.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(error),
            }
            let _ = close_segment(&root.join("records"), &name);
            let _ = fs::remove_file(sessions.join(&name));
        }
        Ok(kept)
    }

    /// The runs that live processes work for, whether or not their leaders live.
    pub(crate) fn runs(&self, root: &Path) -> io::Result<HashSet<String>> {
        Ok(self.sessions(root)?.into_iter().filter_map(|(_, told)| told?.run).collect())
    }

    /// The processes at work on the cache, except `own` and those that work for `run`.
    pub(crate) fn others(
        &self,
        root: &Path,
        own: Option<&str>,
        run: Option<&str>,
    ) -> io::Result<Vec<Process>> {
        let others = self.sessions(root)?.into_iter().filter(|(name, _)| Some(name.as_str()) != own);
        let of_another = |told: &SessionInfo| told.run.is_none() || told.run.as_deref() != run;
        Ok(others.filter_map(|(_, told)| told.filter(of_another)).map(|told| told.process).collect())
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
