//! The runs that use a cache: `roots/ID/` says where a run's folder is (`folder`), when it began (`began`), and names
//! what the run needs, a sealed line for each node and a file for each process that works for it. What is named here is
//! kept, whether or not the run's folder can be seen: on a disk that is not mounted, of another user, in another
//! container. A run is let go of when it is told to be, or where its folder was deleted for certain.
//!
//! A run names what it found before it looks whether that is still there, and what it makes before it puts it in its
//! place: so whoever throws something away and looks into `roots/` sees it named, or was there before.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::Digest;
use super::claim::{Claim, Claimed};
use super::disk::{Result, Store, io_error, lock, remove};
use super::fail::fail_point;
use super::line::{seal, sealed_lines};
use super::publish::{sync_folder, write_durably_as};
use super::read::{self, MOST_LIST, MOST_TEXT};
use super::session::Process;

/// A run of this process.
pub struct Root {
    id: String,
    path: PathBuf,
    names: Mutex<File>,
    /// Whether other hosts use the cache.
    is_shared: bool,
    /// Others see by it that the run is under way.
    _claim: Option<Claim>,
}

/// What a run needs of one node: its record and its outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub key: Digest,
    pub outputs: Vec<NamedOutput>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedOutput {
    pub digest: Digest,
    /// The type of artifact.
    pub artifact: String,
    /// Whether a loop hands it on: it is needed as long as the run is under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
}

/// A run that uses the cache.
#[derive(Clone, Debug)]
pub struct Rooted {
    pub id: String,
    pub folder: PathBuf,
    /// RFC 3339; empty where it is not known.
    pub began: String,
    /// Which folder the run's folder was in.
    parent: String,
    /// The cache's folder.
    cache: PathBuf,
    pub is_under_way: bool,
}

/// What can be seen of a run's folder from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    There,
    /// The folder that it was in can be listed, and it is not in it.
    Deleted,
    /// It cannot be seen from here.
    Unseen,
}

impl Rooted {
    pub fn standing(&self) -> Standing {
        match fs::symlink_metadata(&self.folder) {
            Ok(_) => Standing::There,
            Err(error) if error.kind() != ErrorKind::NotFound => Standing::Unseen,
            Err(_) => {
                // At the same path there may be another folder: of another container, or where a disk is not mounted. And
                // where the parent is gone, too, the run may have been moved with it.
                let is_it =
                    |parent: &&Path| identity(parent, &self.cache).is_ok_and(|now| now == self.parent);
                let listed = self.folder.parent().filter(is_it).map(|parent| {
                    let entries = fs::read_dir(parent)?.collect::<io::Result<Vec<_>>>()?;
                    let name = self.folder.file_name().unwrap_or_default();
                    io::Result::Ok(entries.iter().any(|entry| entry.file_name() == name))
                });
                if matches!(listed, Some(Ok(false))) { Standing::Deleted } else { Standing::Unseen }
            }
        }
    }
}

impl Root {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Names what the run needs, in one piece.
    pub fn name<'a>(&self, nodes: impl IntoIterator<Item = &'a Named>) -> Result<()> {
        let write = || {
            fail_point("root.name")?;
            // The empty line closes one that could not be written to its end.
            let mut text = String::from("\n");
            for node in nodes {
                text += &seal(node).map_err(io::Error::other)?;
                text.push('\n');
            }
            let mut names = lock(&self.names);
            names.write_all(text.as_bytes())?;
            // Other hosts see what was written when it is synced.
            if self.is_shared { names.sync_data() } else { Ok(()) }
        };
        write().map_err(io_error("write in", &self.path))
    }

    /// Makes durable what was named.
    pub fn sync(&self) -> Result<()> {
        let names = lock(&self.names).try_clone();
        names.and_then(|names| names.sync_data()).map_err(io_error("write in", &self.path))
    }
}

impl Store {
    /// Says that the run in this folder uses the cache, and is under way until the root is dropped.
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
            // Whatever bytes the folder is called by.
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
        // Before others see it: nobody takes it for a run that has ended.
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

    /// The root of a run that another process leads, for one who works for it.
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

    /// Whether the cache knows of the run with this root.
    pub fn has_root(&self, id: &str) -> bool {
        let is_name = !id.is_empty() && !id.starts_with('.') && !id.contains('/');
        is_name && self.root.join("roots").join(id).is_dir()
    }

    /// The runs that use the cache, in the order of their roots' names.
    pub fn roots(&self) -> Result<Vec<Rooted>> {
        let folder = self.root.join("roots");
        let read = |path: &Path| read::bytes(path, MOST_TEXT).unwrap_or_default();
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

    /// All that a run names. A line that a crash cut short was written before what it names was made.
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
            // Let go of meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            named => named.map_err(io_error("read", &root)),
        }
    }

    /// Lets go of a run: what nobody else names is thrown away by the next `gc`.
    pub fn remove_root(&self, id: &str) -> Result<()> {
        let path = self.root.join("roots").join(id);
        // Out of the way at once: half a root would name half of what the run needs.
        let doomed = self.scratch()?.join(format!("root-{id}"));
        // What its failing stages saved is no longer looked for either.
        let _ = remove(&self.root.join("failed").join(id));
        match fs::rename(&path, &doomed) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| fs::remove_dir_all(&doomed)).map_err(io_error("remove", &path)),
        }
    }

    /// Says where the folder of a run is now.
    pub fn move_root(&self, id: &str, folder: &Path) -> Result<()> {
        let path = self.root.join("roots").join(id).join("folder");
        let text = [folder.as_os_str().as_bytes(), b"\n"].concat();
        self.write_shared(&path, &text)?;
        self.write_shared(&path.with_file_name("parent"), parent_of(folder, &self.root).as_bytes())
    }

    /// Which of these blobs a run other than `own` keeps. Whatever a run's folder is read for once is not read again,
    /// unless somebody has written to it.
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
                // Let go of meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                refreshed => refreshed.map_err(io_error("read", &root))?,
            }
            kept.extend(digests.iter().filter(|digest| run.blobs.contains(digest)).copied());
        }
        Ok(kept)
    }

    /// The folder that a file in `roots/` tells of; none where it was cut short.
    fn told(&self, text: &[u8]) -> Option<PathBuf> {
        let told = text.strip_suffix(b"\n")?;
        Some(normal(&self.root.join(OsStr::from_bytes(told))))
    }
}

/// The blobs that a run keeps, as far as its files were long when they were read.
#[derive(Default)]
pub(super) struct Kept {
    lengths: HashMap<PathBuf, u64>,
    blobs: HashSet<Digest>,
}

/// By the names of the roots.
pub(super) type KeptBlobs = HashMap<OsString, Kept>;

impl Kept {
    fn refresh(&mut self, root: &Path) -> io::Result<()> {
        for path in files_of(root)? {
            let length = fs::metadata(&path)?.len();
            if self.lengths.get(&path) == Some(&length) {
                continue;
            }
            let (named, length) = read_named(&path)?;
            let outputs = named.into_iter().flat_map(|named| named.outputs);
            self.blobs.extend(outputs.filter(|output| !output.passing).map(|output| output.digest));
            self.lengths.insert(path, length);
        }
        Ok(())
    }
}

/// What a file of a root names, and how long it was.
fn read_named(path: &Path) -> io::Result<(Vec<Named>, u64)> {
    let text = read::bytes(path, MOST_LIST)?;
    let named = sealed_lines(&text, |_| {}).filter_map(|line| serde_json::from_slice(line).ok());
    Ok((named.collect(), text.len() as u64))
}

/// The files of a root that name what the run needs.
fn files_of(root: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(root)?.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect())
}

/// What tells a folder from another one that is at its path at another time or elsewhere: its number and its disk. Of
/// disks but the cache's own each host has others.
fn identity(folder: &Path, cache: &Path) -> io::Result<String> {
    let (metadata, cache) = (fs::metadata(folder)?, fs::metadata(cache)?);
    Ok(match metadata.dev() == cache.dev() {
        true => metadata.ino().to_string(),
        false => format!("{}:{}:{}", metadata.ino(), metadata.dev(), Process::host()),
    })
}

/// Which folder one is in, as a line.
fn parent_of(folder: &Path, cache: &Path) -> String {
    let parent = folder.parent().and_then(|parent| identity(parent, cache).ok());
    parent.unwrap_or_default() + "\n"
}

fn claim_of(root: &str) -> String {
    format!("run-{root}")
}

/// The path without `..`, whether or not there is anything at it.
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
