//! The runs that use a cache. `roots/ID/` holds the path of a run's folder (`folder`), which folder contains it (`parent`), when the
//! run began (`began`), and the names of what it needs: a sealed line for each node, in one file for each process that works for
//! it. What is named here is kept, even where the run's folder cannot be seen: on an unmounted disk, of another user, in another
//! container. A run is forgotten only on request, or when its folder was certainly deleted.
//!
//! A run names blobs that it found before it checks that they are still there, and blobs that it makes before it places them. So
//! a process that deletes something and reads `roots/` afterwards either sees it named, or was first.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use super::Digest;
use super::claim::{Claim, Claimed};
use super::disk::Store;
use super::error::{Result, io_error};
use super::fail::fail_point;
use super::line::seal;
use super::mutex::lock;
use super::named::{Named, files_of, read_named};
use super::publish::{sync_folder, write_durably_as};
use super::read::{self, MAX_TEXT_BYTES};
use super::removal::remove;
use super::session::Process;
use super::sharing::Sharing;

/// Stands for the run of a job that was started by hand. Nothing deletes what such jobs save when they fail, as no run is removed.
pub const BY_HAND: &str = "work";

/// A run of this process.
pub struct Root {
    id: String,
    path: PathBuf,
    names: Mutex<File>,
    /// Whether other hosts use the cache.
    is_shared: bool,
    /// It shows other processes that the run is under way.
    _claim: Option<Claim>,
}

/// A run that uses the cache.
#[derive(Clone, Debug)]
pub struct Rooted {
    /// The name of the root.
    pub id: String,
    /// The run's folder: the one that is there, else one that cannot be seen from here.
    pub folder: PathBuf,
    /// RFC 3339; empty if it is not known.
    pub began: String,
    /// Where the run's folder was seen: one place, unless it may have been moved to another disk, or copied from one.
    places: Vec<Place>,
    /// The cache's folder.
    cache: PathBuf,
    /// Whether the process that leads the run lives.
    pub is_under_way: bool,
}

/// A place of a run's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    folder: PathBuf,
    /// The identity of the folder that contains it.
    parent: String,
}

/// The state of a run's folder, as seen from this host and container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunFolderState {
    /// It exists.
    There,
    /// Its parent folder can be listed, and does not contain it.
    Deleted,
    /// It cannot be seen from here.
    Unseen,
}

impl Rooted {
    /// Looks for the run's folder. A folder that cannot be seen from here does not count as deleted.
    pub fn standing(&self) -> RunFolderState {
        let standing = |place: &Place| place.standing(&self.cache);
        let states: Vec<RunFolderState> = self.places.iter().map(standing).collect();
        if states.contains(&RunFolderState::There) {
            RunFolderState::There
        } else if states.is_empty() || states.contains(&RunFolderState::Unseen) {
            RunFolderState::Unseen
        } else {
            RunFolderState::Deleted
        }
    }

    /// All places where the run's folder may be.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|place| place.folder.as_path())
    }

    /// Those that cannot be seen from here.
    pub fn unseen_places(&self) -> impl Iterator<Item = &Path> {
        let is_unseen = |place: &&Place| place.standing(&self.cache) == RunFolderState::Unseen;
        self.places.iter().filter(is_unseen).map(|place| place.folder.as_path())
    }
}

impl Place {
    fn standing(&self, cache: &Path) -> RunFolderState {
        match fs::symlink_metadata(&self.folder) {
            Ok(_) => RunFolderState::There,
            Err(error) if error.kind() != ErrorKind::NotFound => RunFolderState::Unseen,
            Err(_) => {
                // The path may show a different folder: that of another container, or a mount point without its disk. And if the
                // parent is gone too, the run may have been moved with it.
                let is_it = |parent: &&Path| identity(parent, cache).is_ok_and(|now| now == self.parent);
                let listed = self.folder.parent().filter(is_it).map(|parent| {
                    let entries = fs::read_dir(parent)?.collect::<io::Result<Vec<_>>>()?;
                    let name = self.folder.file_name().unwrap_or_default();
                    io::Result::Ok(entries.iter().any(|entry| entry.file_name() == name))
                });
                if matches!(listed, Some(Ok(false))) {
                    RunFolderState::Deleted
                } else {
                    RunFolderState::Unseen
                }
            }
        }
    }
}

impl Root {
    /// The name of the root, which `run.json` keeps.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Names what the run needs, in one write.
    pub fn name<'a>(&self, nodes: impl IntoIterator<Item = &'a Named>) -> Result<()> {
        let write = || {
            fail_point("root.name")?;
            // The empty line ends one that could not be written completely.
            let mut text = String::from("\n");
            for node in nodes {
                text += &seal(node).map_err(io::Error::other)?;
                text.push('\n');
            }
            let mut names = lock(&self.names);
            names.write_all(text.as_bytes())?;
            // Other hosts see what was written once it is synced.
            if self.is_shared { names.sync_data() } else { Ok(()) }
        };
        write().map_err(io_error("write in", &self.path))
    }

    /// Makes what was named durable.
    pub fn sync(&self) -> Result<()> {
        let names = lock(&self.names).try_clone();
        names.and_then(|names| names.sync_data()).map_err(io_error("write in", &self.path))
    }
}

impl Store {
    /// Registers the run in this folder as a user of the cache. It is under way until the root is dropped.
    pub fn add_root(&self, folder: &Path, began: &str) -> Result<Root> {
        let folder = fs::canonicalize(folder).map_err(io_error("find", folder))?;
        let run = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
        let run: String = run.chars().take(64).map(safe).collect();
        let (roots, scratch) = (self.root.join("roots"), self.scratch()?);
        let write = || {
            let new = tempfile::Builder::new().prefix(&format!("{run}-")).tempdir_in(scratch)?;
            let [folder, parent] = texts_of(&self.root, &[Place::of(&self.root, &folder)]);
            let texts =
                [("folder", folder), ("began", format!("{began}\n").into_bytes()), ("parent", parent)];
            for (name, text) in texts {
                write_durably_as(&new.path().join(name), &text, self.sharing.file, new.path())?;
            }
            self.sharing.set(&File::open(new.path())?, self.sharing.folder)?;
            io::Result::Ok(new)
        };
        let new = write().map_err(io_error("write in", &roots))?;
        let id = new.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Claimed before others see the root, so that none takes the run for ended.
        let claim = self.claim(&claim_of(&id))?;
        let place = || {
            fail_point("root.rename")?;
            fs::rename(new.path(), roots.join(&id))?;
            let _ = new.keep();
            fail_point("root.renamed")?;
            sync_folder(&roots)
        };
        place().map_err(io_error("write in", &roots))?;
        let claim = match claim {
            Claimed::Mine(claim) => Some(claim),
            Claimed::Others(_) => None,
        };
        self.open_root(&id, claim)
    }

    /// Opens the root of a run that another process leads, for a worker of that process.
    pub fn serve_root(&self, id: &str) -> Result<Root> {
        self.open_root(id, None)
    }

    fn open_root(&self, id: &str, claim: Option<Claim>) -> Result<Root> {
        let path = self.root.join("roots").join(id);
        let session = self.session(Some(id))?;
        let names = self.sharing.append(&path.join(format!("{}.jsonl", session.id)), &session.folder);
        let names = Mutex::new(names.map_err(io_error("write in", &path))?);
        Ok(Root { id: id.to_owned(), path, names, is_shared: self.is_shared(), _claim: claim })
    }

    /// Whether the cache has a root of this name.
    pub fn has_root(&self, id: &str) -> bool {
        let is_name = !id.is_empty() && !id.starts_with('.') && !id.contains('/');
        is_name && self.root.join("roots").join(id).is_dir()
    }

    /// The runs that use the cache, in the order of their roots' names.
    pub fn roots(&self) -> Result<Vec<Rooted>> {
        let folder = self.root.join("roots");
        let read = |path: &Path| read::bytes(path, MAX_TEXT_BYTES).unwrap_or_default();
        let served = self.watch.runs(&self.root).map_err(io_error("read", &self.root))?;
        let mut roots = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
            let path = entry.map_err(io_error("read", &folder))?.path();
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if id.starts_with('.') || !path.is_dir() {
                continue;
            }
            let places = places_of(&self.root, &path);
            let folder = places.iter().min_by_key(|place| match place.standing(&self.root) {
                RunFolderState::There => 0,
                RunFolderState::Unseen => 1,
                RunFolderState::Deleted => 2,
            });
            let folder = folder.map(|place| place.folder.clone());
            roots.push(Rooted {
                folder: folder.unwrap_or_default(),
                began: String::from_utf8_lossy(&read(&path.join("began"))).trim().to_owned(),
                places,
                cache: self.root.clone(),
                is_under_way: served.contains(&id) || self.is_claimed(&claim_of(&id))?,
                id,
            });
        }
        roots.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(roots)
    }

    /// All nodes that a run names. If a crash cut a line short, what it would have named was never made.
    pub fn named(&self, id: &str) -> Result<Vec<Named>> {
        let root = self.root.join("roots").join(id);
        let read = || {
            let mut named = Vec::new();
            for path in files_of(&root)? {
                named.extend(read_named(&path)?.0);
            }
            io::Result::Ok(named)
        };
        match read() {
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            named => named.map_err(io_error("read", &root)),
        }
    }

    /// Removes the root of a run: the next `cache gc` deletes what no other run names.
    pub fn remove_root(&self, id: &str) -> Result<()> {
        let path = self.root.join("roots").join(id);
        // Moved away in one step: half a root would name only half of what the run needs.
        let doomed = self.scratch()?.join(format!("root-{id}"));
        // Nor is what its failing stages saved needed any more.
        let _ = remove(&self.root.join("failed").join(id));
        match fs::rename(&path, &doomed) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| fs::remove_dir_all(&doomed)).map_err(io_error("remove", &path)),
        }
    }

    /// Changes the path of a run's folder.
    pub fn move_root(&self, id: &str, folder: &Path) -> Result<()> {
        let root = self.root.join("roots").join(id);
        let texts = texts_of(&self.root, &[Place::of(&self.root, folder)]);
        let names = ["folder", "parent"].into_iter().zip(texts);
        names.into_iter().try_for_each(|(name, text)| self.write_shared(&root.join(name), &text))
    }

    /// Those of these blobs that a run other than `own` keeps. The files of a root are read again only after a process has
    /// written to them.
    pub(super) fn kept_by_others(&self, digests: &[Digest], own: &str) -> Result<HashSet<Digest>> {
        let folder = self.root.join("roots");
        let names: Vec<OsString> = fs::read_dir(&folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(io_error("read", &folder))?;
        let mut kept = HashSet::new();
        let mut known = lock(&self.kept);
        known.retain(|name, _| names.contains(name));
        for name in names.into_iter().filter(|name| name != own) {
            let root = folder.join(&name);
            let run = known.entry(name).or_default();
            match run.refresh(&root) {
                // Removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                refreshed => refreshed.map_err(io_error("read", &root))?,
            }
            kept.extend(digests.iter().filter(|digest| run.blobs.contains(digest)).copied());
        }
        Ok(kept)
    }
}

/// Recognises a run at a new place: its root learns where the run's folder is now. Nothing changes if the folder is still where it
/// was, since this one is a copy then. A place is replaced if the folder was certainly moved, with the folder around it. Otherwise
/// the root has both places, and the run counts as deleted once it is certainly deleted at both.
pub fn recognise(cache: &Path, id: &str, folder: &Path) -> Result<()> {
    let path = cache.join("roots").join(id);
    let is_name = !id.is_empty() && !id.starts_with('.') && !id.contains('/');
    if !is_name || !path.join("folder").is_file() {
        return Ok(());
    }
    let find = || io::Result::Ok((fs::canonicalize(cache)?, fs::canonicalize(folder)?));
    let (cache, folder) = find().map_err(io_error("find", folder))?;
    let (new, mut places) = (Place::of(&cache, &folder), places_of(&cache, &path));
    let is_there = |place: &Place| place.standing(&cache) == RunFolderState::There;
    if places.iter().any(|place| place.folder == folder || is_there(place)) {
        return Ok(());
    }
    let is_elsewhere =
        |place: &Place| place.parent != new.parent && place.standing(&cache) == RunFolderState::Unseen;
    places.retain(is_elsewhere);
    places.push(new);
    let sharing = Sharing::of(&cache).map_err(io_error("read", &cache))?;
    for (name, text) in ["folder", "parent"].into_iter().zip(texts_of(&cache, &places)) {
        let written = write_durably_as(&path.join(name), &text, sharing.file, &path);
        written.map_err(io_error("write in", &path))?;
    }
    Ok(())
}

impl Place {
    fn of(cache: &Path, folder: &Path) -> Place {
        let parent = folder.parent().and_then(|parent| identity(parent, cache).ok());
        Place { folder: folder.to_owned(), parent: parent.unwrap_or_default() }
    }
}

/// Separates the places in the files of a root. No path has it.
const BETWEEN: u8 = 0;

/// The places that the files of a root tell; none if a file was cut short.
fn places_of(cache: &Path, root: &Path) -> Vec<Place> {
    let read = |name| read::bytes(&root.join(name), MAX_TEXT_BYTES).unwrap_or_default();
    let (folders, parents) = (read("folder"), read("parent"));
    let Some(folders) = folders.strip_suffix(b"\n") else { return Vec::new() };
    let parents = String::from_utf8_lossy(&parents).trim().to_owned();
    let mut parents = parents.split(char::from(BETWEEN));
    let place = |told: &[u8]| Place {
        folder: normal(&cache.join(OsStr::from_bytes(told))),
        parent: parents.next().unwrap_or_default().to_owned(),
    };
    folders.split(|byte| *byte == BETWEEN).map(place).collect()
}

/// The files `folder` and `parent` of a root. A folder of the project that the cache is in, or of one beside it, is given from
/// there: it may be moved with the cache. Its name may be any bytes.
fn texts_of(cache: &Path, places: &[Place]) -> [Vec<u8>; 2] {
    let folders = places.iter().map(|place| {
        // `results/PIPELINE/RUN` in the project.
        let project = place.folder.ancestors().nth(3).filter(|project| project.parent().is_some());
        let project = project.filter(|project| cache.starts_with(project));
        let around = project.or(cache.parent()).unwrap_or(cache);
        match (place.folder.strip_prefix(around), cache.strip_prefix(around)) {
            (Ok(within), Ok(to_cache)) => {
                let up: PathBuf = to_cache.components().map(|_| Component::ParentDir).collect();
                up.join(within)
            }
            _ => place.folder.clone(),
        }
    });
    let folders: Vec<PathBuf> = folders.collect();
    let folders: Vec<&[u8]> = folders.iter().map(|folder| folder.as_os_str().as_bytes()).collect();
    let parents: Vec<&[u8]> = places.iter().map(|place| place.parent.as_bytes()).collect();
    [folders, parents].map(|parts| [parts.join(&BETWEEN), b"\n".to_vec()].concat())
}

/// Identifies a folder, since another one may be at the same path at another time or place: its inode and its device. The device
/// counts only if it is the cache's own: each host numbers the others differently.
fn identity(folder: &Path, cache: &Path) -> io::Result<String> {
    let (metadata, cache) = (fs::metadata(folder)?, fs::metadata(cache)?);
    Ok(match metadata.dev() == cache.dev() {
        true => metadata.ino().to_string(),
        false => format!("{}:{}:{}", metadata.ino(), metadata.dev(), Process::host()),
    })
}

fn claim_of(root: &str) -> String {
    format!("run-{root}")
}

/// The path without `..`, whether or not it exists.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}
