//! The cache folder.
//!
//! ```text
//! blobs/ab/abcd…     outputs by content digest: a file or a flat folder, read-only
//! records.jsonl      what is known of each key, one sealed line each
//! files.jsonl        remembered digests of files outside
//! roots/             the runs that use the cache: what they name is kept
//! locks/KEY          held by who computes a key
//! planning           locked shared while somebody looks for what is there, exclusively by who removes
//! publishing         locked shared while something is placed that no run names yet, exclusively by `gc`
//! tmp/ID/            what one process is writing; swept when it is gone
//! quarantine/        what was found to be not what it should be
//! left/NODE/         what a failing stage saved
//! ```
//!
//! Order of publication: blobs first, the record last. So a record that can be read names only blobs that were
//! complete. A blob may be dropped later while its record stays: who needs it makes it again.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Digest;
use super::digest::flat_files;
use super::fail::fail_point;
use super::line::seal;
use super::lock::{Lock, Mode};
use super::memo::Memo;
use super::publish::{sync_folder, write_durably};
use super::records::Records;
use super::session::{Session, Workspace};
use super::sharing::Sharing;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}: {cause}{}", advice(.cause))]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\n  help: free some space (`triplay cache gc` may) and run again; what is done is kept"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "\n  help: choose a cache folder you may write to, with --cache DIR or TRIPLAY_CACHE"
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            "\n  help: the disk reports an error; when it is mended, `triplay cache verify` finds what is damaged"
        }
        _ => "",
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io { action, path, cause }
}

/// What was published: its content digest and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub digest: Digest,
    pub bytes: u64,
}

/// A cache folder. Any number of processes, of all users who may write in it, use it side by side.
pub struct Store {
    pub(super) root: PathBuf,
    pub(super) sharing: Sharing,
    pub(super) records: Mutex<Records>,
    pub(super) memo: Mutex<Memo>,
    /// This process's folder below `tmp/`, once it has written something.
    session: Mutex<Option<Session>>,
    /// Keys that this process has locked.
    locked: Mutex<Vec<Digest>>,
    /// Blobs that were made or looked through by this process, as they then were.
    trusted: Mutex<HashMap<Digest, Stamp>>,
    /// Blobs that were made by this process.
    made: Mutex<HashSet<Digest>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files of the two locks that who removes holds exclusively.
pub(super) const PLANNING: &str = "planning";
pub(super) const PUBLISHING: &str = "publishing";

const FOLDERS: [&str; 4] = ["blobs", "roots", "locks", "tmp"];

impl Store {
    /// Opens the cache, creating it where it is missing. One that may only be read can be opened too.
    pub fn open(root: &Path) -> Result<Store> {
        fs::create_dir_all(root).map_err(io_error("create the cache folder", root))?;
        let root = fs::canonicalize(root).map_err(io_error("find", root))?;
        let sharing = Sharing::of(&root).map_err(io_error("read", &root))?;
        for folder in FOLDERS.map(|name| root.join(name)) {
            if !folder.is_dir() {
                sharing.create_folder(&folder).map_err(io_error("create the cache folder", &folder))?;
            }
        }
        for name in [PLANNING, PUBLISHING] {
            // Where it cannot be created nobody can publish either.
            let _ = Lock::try_take(&root.join(name), Mode::Shared, sharing);
        }
        let mut records = Records::new(&root);
        records.refresh().map_err(io_error("read the records of", &root))?;
        Ok(Store {
            records: Mutex::new(records),
            memo: Mutex::new(Memo::new(&root)),
            session: Mutex::new(None),
            locked: Mutex::new(Vec::new()),
            trusted: Mutex::new(HashMap::new()),
            made: Mutex::new(HashSet::new()),
            root,
            sharing,
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Taken while the cache is looked through for what is there, until what was found is named by a run: so long
    /// nobody removes anything. `waiting` is called where the cache is being cleaned.
    pub fn lock_planning(&self, waiting: impl FnOnce()) -> Result<Lock> {
        self.lock_guard(PLANNING, Mode::Shared, waiting)
    }

    /// Taken from when an output is placed until a run names it: so long nobody throws away what no run names.
    pub fn lock_publishing(&self, waiting: impl FnOnce()) -> Result<Lock> {
        self.lock_guard(PUBLISHING, Mode::Shared, waiting)
    }

    pub(super) fn lock_guard(&self, name: &str, mode: Mode, waiting: impl FnOnce()) -> Result<Lock> {
        let path = self.root.join(name);
        let taken = Lock::try_take(&path, mode, self.sharing).map_err(io_error("lock", &path))?;
        if let Some(lock) = taken {
            return Ok(lock);
        }
        waiting();
        Lock::take(&path, mode, self.sharing).map_err(io_error("lock", &path))
    }

    /// The right to compute a key, or nothing where another process has it. The lock's file stays until this process
    /// is done with the cache: to remove it at once costs more than a small node does.
    pub fn try_lock_key(&self, key: &Digest) -> Result<Option<Lock>> {
        let path = self.root.join("locks").join(key.to_string());
        let taken = Lock::try_take(&path, Mode::Exclusive, self.sharing).map_err(io_error("lock", &path))?;
        if taken.is_some() {
            lock(&self.locked).push(*key);
        }
        Ok(taken)
    }

    /// A fresh folder for a stage to write its outputs in, on the filesystem of the blobs; gone on drop.
    pub fn workspace(&self) -> Result<Workspace> {
        let workspace = || {
            fail_point("workspace")?;
            self.with_session(Session::workspace)?
        };
        let tmp = self.root.join("tmp");
        workspace().map_err(io_error("create a folder in", &tmp))
    }

    /// This process's folder below `tmp/`. Others see by it that the cache is in use.
    pub fn scratch(&self) -> Result<PathBuf> {
        let folder = self.with_session(|session| session.folder().to_owned());
        folder.map_err(io_error("create a folder in", &self.root.join("tmp")))
    }

    fn with_session<T>(&self, act: impl FnOnce(&Session) -> T) -> io::Result<T> {
        let mut session = lock(&self.session);
        if let Some(session) = &*session {
            return Ok(act(session));
        }
        let tmp = self.root.join("tmp");
        Session::sweep(&tmp, self.sharing)?;
        Ok(act(session.insert(Session::begin(&tmp, self.sharing)?)))
    }

    /// Whether no other process is at work on the cache.
    pub fn is_alone(&self) -> Result<bool> {
        let (session, tmp) = (lock(&self.session), self.root.join("tmp"));
        Session::is_alone(&tmp, session.as_ref(), self.sharing).map_err(io_error("read", &tmp))
    }

    /// Where the blob of this digest lies, if it is there. It is a file or a folder.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("blobs").join(&hex[..2]).join(hex)
    }

    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// The blob's path, if it is there and is what it should be. A process looks through what it did not make itself
    /// once, and again where somebody has written to it; what is not what it was recorded as goes to quarantine, and is
    /// no longer there.
    pub fn verified(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let path = self.blob_path(digest);
        if !path.exists() {
            return Ok(None);
        }
        let stamp = stamp(&path).map_err(io_error("read", &path))?;
        if lock(&self.trusted).get(digest) == Some(&stamp) {
            return Ok(Some(path));
        }
        if Digest::of_path(&path).map_err(io_error("read", &path))? == *digest {
            lock(&self.trusted).insert(*digest, stamp);
            return Ok(Some(path));
        }
        self.quarantine(&path)?;
        Ok(None)
    }

    /// Takes a damaged file or folder out of the way, for people to look at.
    pub(super) fn quarantine(&self, path: &Path) -> Result<PathBuf> {
        let folder = self.root.join("quarantine");
        let create = || self.sharing.create_folder(&folder);
        create().map_err(io_error("create", &folder))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let free = (0..).map(|n| if n == 0 { name.to_string() } else { format!("{name}-{n}") });
        let place = free.map(|name| folder.join(name)).find(|place| !place.exists()).unwrap_or(folder);
        match fs::rename(path, &place) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place),
            renamed => renamed.map(|()| place).map_err(io_error("move to quarantine", path)),
        }
    }

    /// Puts a finished file or flat folder of a workspace in its place, where others can read it. It is not durable
    /// before [`Store::settle`]: what a crash leaves of it until then is no record's, and is looked through before it
    /// is used.
    pub fn place(&self, path: &Path) -> Result<Blob> {
        let is_folder = path.is_dir();
        let files = match is_folder {
            true => {
                flat_files(path).map_err(io_error("read", path))?.into_iter().map(|(_, file)| file).collect()
            }
            false => vec![path.to_owned()],
        };
        let mut bytes = 0;
        for file in &files {
            bytes += self.seal(file).map_err(io_error("write", file))?;
        }
        let digest = Digest::of_path(path).map_err(io_error("hash", path))?;
        let blob = Blob { digest, bytes };
        if self.verified(&digest)?.is_some() {
            return Ok(blob);
        }
        if is_folder {
            let open = File::open(path).map_err(io_error("read", path))?;
            self.sharing.set(&open, self.sharing.folder).map_err(io_error("write", path))?;
        }
        let target = self.blob_path(&digest);
        let shelf = target.parent().unwrap_or(&self.root);
        self.make_shelf(shelf).map_err(io_error("create", shelf))?;
        match fail_point("blob.rename").and_then(|()| fs::rename(path, &target)) {
            Ok(()) => fail_point("blob.renamed").map_err(io_error("write", &target))?,
            // Another process published the same folder meanwhile.
            Err(_) if is_folder && target.exists() => return Ok(blob),
            Err(error) => return Err(io_error("write", &target)(error)),
        }
        lock(&self.trusted).insert(digest, stamp(&target).map_err(io_error("read", &target))?);
        lock(&self.made).insert(digest);
        Ok(blob)
    }

    /// Makes a blob durable. That of another process may not be yet: it is too.
    pub fn settle(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        let settle = || {
            fail_point("blob.sync")?;
            if path.is_dir() {
                for (_, file) in flat_files(&path)? {
                    File::open(file)?.sync_all()?;
                }
            }
            File::open(&path)?.sync_all()?;
            fail_point("blob.shelf")?;
            sync_folder(path.parent().unwrap_or(&self.root))
        };
        settle().map_err(io_error("write", &path))
    }

    /// Makes a file read-only, since blobs are never edited in place: its size.
    fn seal(&self, path: &Path) -> io::Result<u64> {
        let file = File::open(path)?;
        self.sharing.set(&file, self.sharing.sealed)?;
        Ok(file.metadata()?.len())
    }

    /// Creates one of the 256 folders that blobs are spread over.
    fn make_shelf(&self, shelf: &Path) -> io::Result<()> {
        if !shelf.is_dir() && self.sharing.create_folder(shelf)? {
            sync_folder(shelf.parent().unwrap_or(&self.root))?;
        }
        Ok(())
    }

    /// Forgets a blob; its record stays. Not an error where it is gone already. Nobody may need it: see
    /// [`Store::drop_blobs`].
    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        if !path.exists() {
            return Ok(());
        }
        // Renamed away first: a blob is there whole or not at all, also when the removal is cut short.
        let doomed = self.scratch()?.join(format!("dropped-{digest}"));
        fail_point("drop.rename")
            .and_then(|()| fs::rename(&path, &doomed))
            .and_then(|()| fail_point("drop.renamed"))
            .and_then(|()| remove(&doomed))
            .map_err(io_error("remove", &path))
    }

    /// Drops those among the blobs that this process made: what an earlier run left is that run's. Where others are
    /// at work none is dropped: whether they were.
    pub fn drop_blobs(&self, digests: &[Digest]) -> Result<bool> {
        let path = self.root.join(PLANNING);
        let planning =
            Lock::try_take(&path, Mode::Exclusive, self.sharing).map_err(io_error("lock", &path))?;
        if planning.is_none() || !self.is_alone()? {
            return Ok(false);
        }
        let made: Vec<&Digest> = {
            let known = lock(&self.made);
            digests.iter().filter(|digest| known.contains(digest)).collect()
        };
        made.into_iter().try_for_each(|digest| self.remove_blob(digest))?;
        Ok(true)
    }

    /// Calls `read` with the record of a key, a line of JSON, where there is a whole one among those that were last
    /// read. Another process may have written since: see [`Store::refresh`].
    pub fn record<T>(&self, key: &Digest, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        lock(&self.records).get(key).and_then(read)
    }

    /// Reads what others have recorded since.
    pub fn refresh(&self) -> Result<()> {
        lock(&self.records).refresh().map_err(io_error("read the records of", &self.root))
    }

    /// Publishes a record: a value that serialises to an object whose first member is `key`. Its blobs must have been
    /// published before.
    pub fn write_record(&self, record: &impl Serialize) -> Result<()> {
        let write = || {
            let line = seal(record).map_err(io::Error::other)?;
            let file = lock(&self.records).append(&line, self.sharing)?;
            fail_point("record.sync")?;
            file.sync_data()?;
            fail_point("record.synced")
        };
        write().map_err(io_error("write a record in", &self.root))
    }

    /// Writes a file of the cache whole or not at all, for all who share it.
    pub(super) fn write_shared(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        write_durably(path, bytes)?;
        self.sharing.set(&File::open(path)?, self.sharing.file)
    }

    /// The digest of a file or folder outside. That of a large file that has not changed since is remembered; with
    /// `paranoid` it is hashed all the same.
    pub fn digest_of(&self, path: &Path, paranoid: bool) -> io::Result<Digest> {
        let mut of_file = |path: &Path| lock(&self.memo).digest(path, paranoid, self.sharing);
        if path.is_dir() { Digest::of_folder_by(path, &mut of_file) } else { of_file(path) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let locked = std::mem::take(&mut *lock(&self.locked));
        for key in locked {
            // What another process holds now is that one's to remove, and what stays is in nobody's way.
            if let Ok(Some(lock)) = self.try_lock_key(&key) {
                let _ = lock.remove();
            }
        }
    }
}

/// Size, time of modification and inode of each file of a blob: they change when somebody writes to it.
type Stamp = Vec<(u64, i64, i64, u64)>;

fn stamp(path: &Path) -> io::Result<Stamp> {
    let of_file = |path: &Path| {
        let metadata = fs::metadata(path)?;
        Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino()))
    };
    match path.is_dir() {
        true => flat_files(path)?.iter().map(|(_, file)| of_file(file)).collect(),
        false => Ok(vec![of_file(path)?]),
    }
}

/// Removes a file or a folder, also where a command has protected what is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return fs::remove_file(path);
    }
    fs::remove_dir_all(path).or_else(|_| {
        unprotect(path);
        fs::remove_dir_all(path)
    })
}

fn unprotect(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unprotect(&entry.path());
        }
    }
}
