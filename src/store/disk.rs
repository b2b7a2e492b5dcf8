//! The cache folder.
//!
//! ```text
//! format             its layout, and how its processes detect dead ones
//! blobs/ab/abcd…     outputs by content digest, read-only: a file, or a tree, whose files are blobs too
//! records/ID.jsonl   the records, one sealed line each; a file for each process that wrote some
//! files.jsonl        remembered digests of files outside the cache
//! roots/ID/          the runs that use the cache, and what they need
//! claims/NAME        links to the files of sessions: who computes a key, leads a run, cleans the cache
//! sessions/ID        the processes at work
//! tmp/ID/            their unfinished files; of a command's outputs what there is moves to failed/ if its process is gone
//! cleaned            how often the cache was cleaned
//! quarantine/        damaged blobs and records
//! failed/            the logs of stages at work, and what failing stages saved
//! unfinished/KEY/    what a stage that has not succeeded yet keeps for its next attempt
//! ```
//!
//! Order of publication: a run names an output, then places the blob, and writes the record last. So a record that can be read
//! names only blobs that were complete. A blob may be evicted later while its record stays; a run that needs it makes it again.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Digest;
use super::claim::{BREAK, Claim, Claimed, set_aside};
use super::digest::is_executable;
use super::error::{Result, io_error, is_damage};
use super::fail::fail_point;
use super::format::{self, Locking};
use super::memo::{self, Memo};
use super::mutex::lock;
use super::named::KeptBlobs;
use super::publish::{sync_folder, write_durably_as};
use super::read::{self, MAX_TEXT_BYTES};
use super::records::Records;
use super::removal::remove;
use super::selection::Selection;
use super::session::{Process, Session, Watch, Workspace};
use super::sharing::{Sharing, create_private};
use super::tree::{Entry, Tree, files_below, folders_of};

/// A published content: its digest and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content.
    pub bytes: u64,
}

/// A finished output that is not placed yet. No process writes to it any more.
pub struct Frozen {
    path: PathBuf,
    tree: Option<Tree>,
    blob: Blob,
}

impl Frozen {
    /// Its digest and size.
    pub fn blob(&self) -> Blob {
        self.blob
    }
}

/// Outputs that this process does not drop as long as this value lives.
pub struct Pins {
    digests: Vec<Digest>,
    pinned: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pinned = lock(&self.pinned);
        for digest in &self.digests {
            if let Some(count) = pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pinned.remove(digest);
                }
            }
        }
    }
}

/// How often a cache was cleaned, and whether a process is cleaning it now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    times: u64,
    under_way: bool,
}

impl Cleaned {
    /// Whether the cache was cleaned since, or may have been because a cleaning was under way.
    pub fn may_differ(self, now: Cleaned) -> bool {
        self.under_way || self != now
    }
}

/// A cache folder. Any number of processes use it at the same time, of all users with write permission.
pub struct Store {
    pub(super) root: PathBuf,
    pub(super) sharing: Sharing,
    locking: Locking,
    pub(super) watch: Watch,
    pub(super) records: Mutex<Records>,
    pub(super) memo: Mutex<Memo>,
    /// How other processes see this one, once it has written something.
    session: Mutex<Option<Arc<Session>>>,
    /// The digests of files in the cache that this process made or verified, by the files' stamps at that time.
    known: Mutex<HashMap<Stamp, Digest>>,
    /// Blobs that this process made.
    made: Mutex<HashSet<Digest>>,
    /// Those that were made as files of trees and are not outputs themselves.
    parts: Mutex<HashSet<Digest>>,
    /// Placed outputs that the run has not counted yet, with the number of their pins.
    pinned: Arc<Mutex<HashMap<Digest, usize>>>,
    /// The blobs that other runs keep, as far as their roots were read.
    pub(super) kept: Mutex<KeptBlobs>,
    /// What was kept of processes that are gone: see [`Store::take_kept`].
    kept_partial: Mutex<Vec<String>>,
}

const FOLDERS: [&str; 6] = ["blobs", "roots", "claims", "sessions", "tmp", "records"];

/// The claim of the process that cleans the cache.
pub(super) const CLEANING: &str = "cleaning";

/// The interval between attempts to take a claim that another process has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Store {
    /// Whether a folder holds a cache, of any version.
    pub fn is_in(root: &Path) -> bool {
        ["format", "records.jsonl"].iter().any(|name| root.join(name).is_file())
    }

    /// Opens the cache, and creates it if it is missing. A read-only cache can be opened too.
    pub fn open(root: &Path) -> Result<Store> {
        create_private(root).map_err(io_error("create the cache folder", root))?;
        let root = fs::canonicalize(root).map_err(io_error("find", root))?;
        let sharing = Sharing::of(&root).map_err(io_error("read", &root))?;
        let locking = format::of(&root, sharing)?;
        for folder in FOLDERS.map(|name| root.join(name)) {
            if !folder.is_dir() {
                sharing.create_folder(&folder).map_err(io_error("create the cache folder", &folder))?;
            }
        }
        let mut records = Records::new(&root);
        records.refresh().map_err(io_error("read the records of", &root))?;
        Ok(Store {
            records: Mutex::new(records),
            memo: Mutex::new(Memo::new(&root)),
            watch: Watch::new(locking),
            session: Mutex::new(None),
            known: Mutex::new(HashMap::new()),
            made: Mutex::new(HashSet::new()),
            parts: Mutex::new(HashSet::new()),
            pinned: Arc::default(),
            kept: Mutex::new(HashMap::new()),
            kept_partial: Mutex::default(),
            root,
            sharing,
            locking,
        })
    }

    /// The cache's folder, without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether several hosts use the cache.
    pub(super) fn is_shared(&self) -> bool {
        self.locking == Locking::Leases
    }

    /// Shows other processes that this one is at work. Until it ends they drop nothing that it may have found.
    pub fn begin_session(&self) -> Result<()> {
        self.session(None).map(drop)
    }

    /// The session of this process; `run` is the run that it works for, if another process leads it.
    pub(super) fn session(&self, run: Option<&str>) -> Result<Arc<Session>> {
        let mut session = lock(&self.session);
        if let Some(session) = &*session {
            return Ok(session.clone());
        }
        let begun = Session::begin(&self.root, run.map(str::to_owned), self.locking, self.sharing);
        let begun = Arc::new(begun.map_err(io_error("begin to write in", &self.root))?);
        self.sweep(&begun)?;
        Ok(session.insert(begun).clone())
    }

    /// Clears up after dead processes.
    pub(super) fn sweep(&self, session: &Arc<Session>) -> Result<()> {
        let sweep = || {
            // Their claims first: without the file of its session a claim has no owner.
            let gone = self.watch.gone(&self.root)?;
            if !gone.is_empty() {
                self.remove_claims(session, |path| {
                    let metadata = fs::symlink_metadata(path)?;
                    Ok(gone.contains(&(metadata.dev(), metadata.ino())))
                })?;
            }
            self.watch.sweep(&self.root)
        };
        let kept = sweep().map_err(io_error("clear up", &self.root))?;
        lock(&self.kept_partial).extend(kept);
        Ok(())
    }

    /// Clears up after processes that are gone by now, such as one that this process started.
    pub fn clear_up(&self) -> Result<()> {
        let session = self.session(None)?;
        self.sweep(&session)
    }

    /// A line for each output that this process has kept of a command whose triplay was killed. Each line is returned once.
    pub fn take_kept(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.kept_partial))
    }

    /// Removes the claims that `is_stale` reports as those of dead processes.
    pub(super) fn remove_claims(
        &self,
        session: &Arc<Session>,
        is_stale: impl Fn(&Path) -> io::Result<bool>,
    ) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("claims"))? {
            let path = entry?.path();
            match is_stale(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
                Ok(false) => continue,
                Ok(true) => {}
            }
            match path.as_os_str().as_encoded_bytes().ends_with(BREAK.as_bytes()) {
                true => set_aside(&path, session),
                // Taken over and dropped, so that a faster process does not lose it.
                false => drop(Claim::take(&path, session, None, &self.watch)?),
            }
        }
        Ok(())
    }

    /// Claims this name, unless another live process has it.
    pub fn claim(&self, name: &str) -> Result<Claimed> {
        self.claim_from(name, None)
    }

    fn claim_from(&self, name: &str, from: Option<&str>) -> Result<Claimed> {
        let session = self.session(None)?;
        let path = self.root.join("claims").join(name);
        let from = from.map(|id| self.root.join("sessions").join(id));
        let take = || {
            fail_point("claim")?;
            Claim::take(&path, &session, from.as_deref(), &self.watch)
        };
        take().map_err(io_error("claim", &path))
    }

    /// Claims the right to compute a key.
    pub fn claim_key(&self, key: &Digest) -> Result<Claimed> {
        self.claim(&key.to_string())
    }

    /// The same, for a worker of the process with this session, which has claimed the key and hands it on.
    pub fn claim_key_from(&self, key: &Digest, session: &str) -> Result<Claimed> {
        let is_name = !session.is_empty() && !session.starts_with('.') && !session.contains('/');
        self.claim_from(&key.to_string(), Some(session).filter(|_| is_name))
    }

    /// Whether the process of this session lives.
    pub fn is_at_work(&self, session: &str) -> Result<bool> {
        Ok(self.living("sessions", session)?.is_some())
    }

    /// The name by which other processes know this one.
    pub fn session_id(&self) -> Result<String> {
        Ok(self.session(None)?.id.clone())
    }

    /// Whether other processes must still take this one for alive. One that was suspended for long must not delete blobs that
    /// others may use by now.
    pub(super) fn is_seen_alive(&self) -> Result<bool> {
        Ok(self.session(None)?.is_seen_alive())
    }

    /// Claims a name as soon as no other process has it. `waiting` is called once with the process that has it.
    pub(super) fn claim_in_turn(&self, name: &str, waiting: impl FnOnce(&str)) -> Result<Claim> {
        let mut waiting = Some(waiting);
        loop {
            match self.claim(name)? {
                Claimed::Mine(claim) => return Ok(claim),
                Claimed::Others(Some(process)) => {
                    if let Some(waiting) = waiting.take() {
                        waiting(&process.to_string());
                    }
                }
                Claimed::Others(None) => {}
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Whether a live process has claimed this name.
    pub(super) fn is_claimed(&self, name: &str) -> Result<bool> {
        Ok(self.claimant(name)?.is_some())
    }

    fn claimant(&self, name: &str) -> Result<Option<Process>> {
        self.living("claims", name)
    }

    /// The process of a session, or of a claim, if it lives.
    fn living(&self, folder: &str, name: &str) -> Result<Option<Process>> {
        let path = self.root.join(folder).join(name);
        let living = self.watch.living(&path).map_err(io_error("read", &path))?;
        Ok(living.map(|told| told.process))
    }

    /// How often the cache was cleaned. A process that looks for blobs, names in its root those it needs, and then finds this
    /// unchanged has missed nothing; otherwise it looks again.
    pub fn cleaned(&self) -> Result<Cleaned> {
        let path = self.root.join("cleaned");
        let times = match read::text(&path, MAX_TEXT_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            text => text.map_err(io_error("read", &path))?.trim().parse().unwrap_or(0),
        };
        Ok(Cleaned { times, under_way: self.is_claimed(CLEANING)? })
    }

    /// The same, once no process is cleaning. `waiting` is called once with the process that is.
    pub fn cleaned_by_now(&self, waiting: impl FnOnce(&str)) -> Result<Cleaned> {
        let mut waiting = Some(waiting);
        loop {
            let cleaned = self.cleaned()?;
            if !cleaned.under_way {
                // The next process need not wait for a cleaner that died.
                if self.root.join("claims").join(CLEANING).exists() {
                    let _ = self.claim(CLEANING);
                }
                return Ok(cleaned);
            }
            if let (Some(process), Some(waiting)) = (self.claimant(CLEANING)?, waiting.take()) {
                waiting(&process.to_string());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Records that the cache is being cleaned.
    pub(super) fn count_cleaning(&self) -> Result<()> {
        let path = self.root.join("cleaned");
        let times = self.cleaned()?.times + 1;
        self.write_shared(&path, format!("{times}\n").as_bytes())
    }

    /// A fresh folder for a stage to write its outputs in, on the file system of the blobs. It is removed on drop.
    pub fn workspace(&self) -> Result<Workspace> {
        let session = self.session(None)?;
        let workspace = || {
            fail_point("workspace")?;
            session.workspace()
        };
        workspace().map_err(io_error("create a folder in", &session.folder))
    }

    /// This process's folder below `tmp/`.
    pub fn scratch(&self) -> Result<PathBuf> {
        Ok(self.session(None)?.folder.clone())
    }

    /// The path of the blob with this digest, whether or not it is there. It is a file or a folder.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("blobs").join(&hex[..2]).join(hex)
    }

    /// Whether this content is in the cache. It is not verified.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// The path of a blob, if it is there and undamaged. A process hashes a blob that it did not make itself once, and again
    /// after a process has written to it. A damaged blob is moved to quarantine and is then absent.
    pub fn verified(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let path = self.blob_path(digest);
        match self.content(&path) {
            Ok(found) if found == *digest => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if !is_damage(&error) => Err(io_error("read", &path)(error)),
            _ => Ok(self.quarantine(&path, digest)?.is_none().then_some(path)),
        }
    }

    /// The digest of the content at a path in the cache.
    pub(super) fn content(&self, path: &Path) -> io::Result<Digest> {
        let metadata = fs::metadata(path)?;
        match metadata.is_dir() {
            true => Ok(self.tree(path)?.digest()),
            false => self.content_of_file(path, &metadata),
        }
    }

    fn tree(&self, path: &Path) -> io::Result<Tree> {
        Tree::of_folder(path, None, &mut |file| self.content_of_file(file, &fs::metadata(file)?))
    }

    fn content_of_file(&self, path: &Path, metadata: &Metadata) -> io::Result<Digest> {
        let stamp = Stamp::of(metadata);
        let known = lock(&self.known).get(&stamp).copied();
        // It holds only while the file is that blob's: once it is removed, another file may get its inode, size and time.
        if let Some(digest) = known.filter(|digest| stamp.is_of(&self.blob_path(digest))) {
            return Ok(digest);
        }
        let digest = Digest::of_file(path)?;
        if Stamp::of(&fs::metadata(path)?) == stamp {
            lock(&self.known).insert(stamp, digest);
        }
        Ok(digest)
    }

    /// The digest of a file in the cache, which is hashed once.
    pub fn digest_of_part(&self, path: &Path) -> io::Result<Digest> {
        self.content_of_file(path, &fs::metadata(path)?)
    }

    /// Moves a damaged file or folder aside for inspection and returns its new path. Returns `None` if it turns out to be sound,
    /// because another process has made it again meanwhile.
    pub(super) fn quarantine(&self, path: &Path, digest: &Digest) -> Result<Option<PathBuf>> {
        let folder = self.root.join("quarantine");
        self.sharing.create_folder(&folder).map_err(io_error("create", &folder))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let free = (0..).map(|n| if n == 0 { name.to_string() } else { format!("{name}-{n}") });
        let place = free.map(|name| folder.join(name)).find(|place| !place.exists()).unwrap_or(folder);
        match fs::rename(path, &place) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(place)),
            renamed => renamed.map_err(io_error("move to quarantine", path))?,
        }
        if Digest::of_path(&place).is_ok_and(|found| found == *digest) {
            // Either of two equal blobs will do.
            let back = fs::rename(&place, path);
            return match back {
                Err(_) if path.exists() => Ok(None),
                back => back.map(|()| None).map_err(io_error("move back from quarantine", path)),
            };
        }
        Ok(Some(place))
    }

    /// Finishes an output, a file or a folder of a workspace: its files become read-only.
    pub fn freeze(&self, path: &Path) -> Result<Frozen> {
        if !path.is_dir() {
            let freeze = || {
                let bytes = self.protect(path)?;
                Ok(Blob { digest: self.content(path)?, bytes })
            };
            let blob = freeze().map_err(io_error("read", path))?;
            return Ok(Frozen { path: path.to_owned(), tree: None, blob });
        }
        let freeze = || {
            for (_, file) in files_below(path, None)? {
                self.protect(&file)?;
            }
            self.tree(path)
        };
        let tree = freeze().map_err(io_error("read", path))?;
        let blob = Blob { digest: tree.digest(), bytes: tree.bytes() };
        Ok(Frozen { path: path.to_owned(), tree: Some(tree), blob })
    }

    /// Keeps this process from dropping outputs, whether they are there already or placed now.
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pins {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut pinned = lock(&self.pinned);
        digests.iter().for_each(|digest| *pinned.entry(*digest).or_default() += 1);
        Pins { digests, pinned: self.pinned.clone() }
    }

    /// Puts a finished output in its place, where other processes can read it. It is durable only after [`Store::sync`]. No
    /// record names what a crash leaves before that, and it is verified before use.
    pub fn place(&self, frozen: &Frozen) -> Result<()> {
        let Frozen { path, tree, blob } = frozen;
        lock(&self.parts).remove(&blob.digest);
        if self.verified(&blob.digest)?.is_some() {
            return Ok(());
        }
        if let Some(tree) = tree {
            tree.entries.iter().try_for_each(|entry| self.share(&path.join(&entry.name), entry))?;
            for folder in folders_of(tree.entries.iter().map(|entry| entry.name.as_str())) {
                let open = File::open(path.join(folder)).map_err(io_error("read", path))?;
                self.sharing.set(&open, self.sharing.folder).map_err(io_error("write", path))?;
            }
        }
        let target = self.shelved(&blob.digest)?;
        match fail_point("blob.rename").and_then(|()| fs::rename(path, &target)) {
            Ok(()) => fail_point("blob.renamed").map_err(io_error("write", &target))?,
            // Another process published the same folder meanwhile.
            Err(_) if tree.is_some() && target.exists() => return Ok(()),
            Err(error) => return Err(io_error("write", &target)(error)),
        }
        lock(&self.made).insert(blob.digest);
        Ok(())
    }

    /// Makes a file of a tree a blob, or replaces it by a link to the blob with this content, so that the content is stored once.
    /// Where the file system cannot link, or the file has its most links, it is stored twice.
    fn share(&self, file: &Path, entry: &Entry) -> Result<()> {
        let part = self.blob_path(&entry.digest);
        if self.verified(&entry.digest)?.is_none() {
            let part = self.shelved(&entry.digest)?;
            if fs::hard_link(file, part).is_ok() && !lock(&self.made).contains(&entry.digest) {
                lock(&self.parts).insert(entry.digest);
            }
            return Ok(());
        }
        let inode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        if inode(&part) != inode(file) {
            let link = file.with_extension("linking");
            if fs::hard_link(&part, &link).is_ok() {
                fs::rename(&link, file).map_err(io_error("write", file))?;
            }
        }
        Ok(())
    }

    /// Makes a blob durable, also one that another process has placed and not synced yet.
    pub fn sync(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        let sync = || {
            fail_point("blob.sync")?;
            if path.is_dir() {
                let files = files_below(&path, None)?;
                files.iter().try_for_each(|(_, file)| File::open(file)?.sync_all())?;
                for folder in folders_of(files.iter().map(|(name, _)| name.as_str())) {
                    File::open(path.join(folder))?.sync_all()?;
                }
            } else {
                File::open(&path)?.sync_all()?;
            }
            fail_point("blob.shelf")?;
            sync_folder(path.parent().unwrap_or(&self.root))
        };
        match sync() {
            // Damaged since, and moved to quarantine: a record may name a blob that must be made again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(io_error("write", &path)),
        }
    }

    /// Makes a file read-only, since blobs are never edited in place, and returns its size.
    fn protect(&self, path: &Path) -> io::Result<u64> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        self.sharing.set(&file, self.sharing.blob(is_executable(&metadata)))?;
        Ok(metadata.len())
    }

    /// The place of a blob, on one of the 256 shelves. Creates the shelf.
    fn shelved(&self, digest: &Digest) -> Result<PathBuf> {
        let target = self.blob_path(digest);
        let shelf = target.parent().unwrap_or(&self.root);
        let make = || {
            if !shelf.is_dir() && self.sharing.create_folder(shelf)? {
                sync_folder(shelf.parent().unwrap_or(&self.root))?;
            }
            io::Result::Ok(())
        };
        make().map_err(io_error("create", shelf))?;
        Ok(target)
    }

    /// Drops those of the blobs that this process made and no other run keeps. What an earlier run left belongs to that run.
    /// While other processes are at work nothing is dropped. `run` is the root of the run that this process and its workers work
    /// for. Returns the blobs that may be dropped later: all while others are at work, otherwise the pinned ones.
    pub fn drop_blobs(&self, digests: &[Digest], run: &str) -> Result<Vec<Digest>> {
        let made: Vec<Digest> = {
            let known = lock(&self.made);
            digests.iter().filter(|digest| known.contains(digest)).copied().collect()
        };
        if made.is_empty() {
            return Ok(Vec::new());
        }
        if !self.is_seen_alive()? || self.are_others_at_work(run)? {
            return Ok(made);
        }
        let kept = self.kept_by_others(&made, run)?;
        let trees = made.iter().filter(|digest| self.blob_path(digest).is_dir());
        let parts: Vec<Digest> = trees
            .filter_map(|digest| self.tree(&self.blob_path(digest)).ok())
            .flat_map(|tree| tree.entries.into_iter().map(|entry| entry.digest))
            .collect();
        // Move them away, then look again: a process that began before that and needs them is seen now, and one that begins later
        // does not find them.
        let scratch = self.scratch()?;
        let away = |digest: &Digest| (self.blob_path(digest), scratch.join(format!("dropped-{digest}")));
        let (mut gone, mut left, mut failed) = (Vec::new(), Vec::new(), None);
        {
            let pinned = lock(&self.pinned);
            left.extend(made.iter().filter(|digest| pinned.contains_key(*digest)).copied());
            for digest in
                made.iter().filter(|digest| !kept.contains(*digest) && !pinned.contains_key(*digest))
            {
                let (path, doomed) = away(digest);
                match fail_point("drop.rename").and_then(|()| fs::rename(&path, &doomed)) {
                    Ok(()) => gone.push(*digest),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => failed = Some(io_error("remove", &path)(error)),
                }
            }
        }
        let looked =
            self.are_others_at_work(run).and_then(|others| Ok((others, self.kept_by_others(&gone, run)?)));
        for digest in &gone {
            let (path, doomed) = away(digest);
            match &looked {
                Ok((false, kept)) if !kept.contains(digest) => {
                    let removed = fail_point("drop.renamed").and_then(|()| remove(&doomed));
                    failed = failed.or(removed.err().map(io_error("remove", &path)));
                }
                // A process may need it. If one has made it again meanwhile, that copy stays.
                _ => {
                    let back = fs::rename(&doomed, &path).err().filter(|_| !path.exists());
                    failed = failed.or(back.map(io_error("put back", &path)));
                }
            }
        }
        let (others, _) = looked?;
        if others {
            return failed.map_or(Ok(made), Err);
        }
        self.drop_parts(&parts, run)?;
        failed.map_or(Ok(left), Err)
    }

    /// Drops the files of trees that are gone, unless another tree has them or a run needs them as outputs.
    fn drop_parts(&self, parts: &[Digest], run: &str) -> Result<()> {
        let kept = self.kept_by_others(parts, run)?;
        // A thread that places such a file as an output waits for this lock, and then looks whether it is there.
        let mut own = lock(&self.parts);
        for part in parts.iter().filter(|part| !kept.contains(part)) {
            let path = self.blob_path(part);
            if own.contains(part) && fs::metadata(&path).is_ok_and(|metadata| metadata.nlink() == 1) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
                own.remove(part);
            }
        }
        Ok(())
    }

    /// Records that a worker of this process made these blobs.
    pub fn count_as_made(&self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            lock(&self.made).insert(digest);
            lock(&self.parts).remove(&digest);
        }
    }

    fn are_others_at_work(&self, run: &str) -> Result<bool> {
        let own = self.session(None)?;
        let others = self.watch.others(&self.root, Some(&own.id), Some(run));
        Ok(!others.map_err(io_error("read", &self.root))?.is_empty())
    }

    /// Calls `read` with the beginning of a key's record, a line of JSON up to its member `job`, if the records that were last
    /// read have one. Another process may have written since: see [`Store::refresh`].
    pub fn record<T>(&self, key: &Digest, read: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
        lock(&self.records).head(key).and_then(read)
    }

    /// All of a key's record.
    pub fn whole_record(&self, key: &Digest) -> Result<Option<Vec<u8>>> {
        lock(&self.records).whole(key).map_err(io_error("read the records of", &self.root))
    }

    /// Reads what other processes have recorded since.
    pub fn refresh(&self) -> Result<()> {
        lock(&self.records).refresh().map_err(io_error("read the records of", &self.root))
    }

    /// Publishes the record of a key: a value that serialises to an object whose long part comes last, as the member `job`. Its
    /// blobs must have been published before.
    pub fn write_record(&self, key: &Digest, record: &impl Serialize) -> Result<()> {
        let session = self.session(None)?;
        let write = || {
            let file =
                lock(&self.records).append(&session.id, *key, record, &session.folder, self.sharing)?;
            fail_point("record.sync")?;
            file.sync_data()?;
            fail_point("record.synced")
        };
        write().map_err(io_error("write a record in", &self.root))
    }

    /// Creates a folder of the cache and its parents, with the cache's permissions.
    pub fn create_folders(&self, path: &Path) -> io::Result<()> {
        if path == self.root || path.is_dir() {
            return Ok(());
        }
        self.create_folders(path.parent().unwrap_or(&self.root))?;
        self.sharing.create_folder(path).map(drop)
    }

    /// Writes a file of the cache atomically, with the cache's permissions.
    pub(super) fn write_shared(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let write = write_durably_as(path, bytes, self.sharing.file, &self.scratch()?);
        write.map_err(io_error("write", path))
    }

    /// The digest of a file or folder outside the cache, as [`Digest::of_input`]. That of a large file that has not changed since
    /// is remembered; `paranoid` hashes it again.
    pub fn digest_of(&self, path: &Path, selection: &Selection, paranoid: bool) -> io::Result<Digest> {
        let mut of_file = |path: &Path| memo::digest(&self.memo, path, paranoid, self.sharing);
        match path.is_dir() {
            true => Ok(Tree::of_folder(path, Some(selection), &mut of_file)?.digest()),
            false => of_file(path),
        }
    }
}

/// The metadata that changes when a process writes to a file. Without ctime, which a new link changes too.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    executable: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            executable: is_executable(metadata),
        }
    }

    /// Whether this is the file at a path, or a hard link to it.
    fn is_of(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode))
    }
}
