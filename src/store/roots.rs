//! The runs that use a cache. `roots/ID/` holds the path of a run's folder (`folder`), when the run began (`began`), and the
//! names of what it needs: a sealed line for each node, in one file for each process that works for it. What is named here is
//! kept, even where the run's folder cannot be seen: on an unmounted disk, of another user, in another container. A run is
//! forgotten only on request, or when its folder was certainly deleted.
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
    /// The run's folder, as it was when the run began.
    pub folder: PathBuf,
    /// RFC 3339; empty if it is not known.
    pub began: String,
    /// The identity of the run folder's parent.
    parent: String,
    /// The cache's folder.
    cache: PathBuf,
    /// Whether the process that leads the run lives.
    pub is_under_way: bool,
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
        match fs::symlink_metadata(&self.folder) {
            Ok(_) => RunFolderState::There,
            Err(error) if error.kind() != ErrorKind::NotFound => RunFolderState::Unseen,
            Err(_) => {
                // The path may show a different folder: that of another container, or a mount point without its disk. And if the
                // parent is gone too, the run may have been moved with it.
                let is_it =
                    |parent: &&Path| identity(parent, &self.cache).is_ok_and(|now| now == self.parent);
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
        let told = match self.root.parent().and_then(|parent| folder.strip_prefix(parent).ok()) {
            Some(beside) => Path::new("..").join(beside),
            None => folder.clone(),
        };
        let run = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
        let run: String = run.chars().take(64).map(safe).collect();
        let (roots, scratch) = (self.root.join("roots"), self.scratch()?);
        let write = || {
            let new = tempfile::Builder::new().prefix(&format!("{run}-")).tempdir_in(scratch)?;
            let parent = parent_of(&folder, &self.root);
            // The folder's name may be any bytes.
            let folder = [told.as_os_str().as_bytes(), b"\n"].concat();
            let texts = [
                ("folder", folder),
                ("began", format!("{began}\n").into_bytes()),
                ("parent", parent.into_bytes()),
            ];
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
            roots.push(Rooted {
                folder: self.told(&read(&path.join("folder"))).unwrap_or_default(),
                began: String::from_utf8_lossy(&read(&path.join("began"))).trim().to_owned(),
                parent: String::from_utf8_lossy(&read(&path.join("parent"))).trim().to_owned(),
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
        let path = self.root.join("roots").join(id).join("folder");
        let text = [folder.as_os_str().as_bytes(), b"\n"].concat();
        self.write_shared(&path, &text)?;
        self.write_shared(&path.with_file_name("parent"), parent_of(folder, &self.root).as_bytes())
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

    /// The path in a file of `roots/`; none if the file was cut short.
    fn told(&self, text: &[u8]) -> Option<PathBuf> {
        let told = text.strip_suffix(b"\n")?;
        Some(normal(&self.root.join(OsStr::from_bytes(told))))
    }
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

/// The identity of a folder's parent, as a line.
fn parent_of(folder: &Path, cache: &Path) -> String {
    let parent = folder.parent().and_then(|parent| identity(parent, cache).ok());
    parent.unwrap_or_default() + "\n"
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
