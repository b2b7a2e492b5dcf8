//! The runs that use a cache: their folders are named in `roots/`, and what they name is kept. A folder that is moved
//! together with its cache is found again.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Digest;
use super::disk::{Result, Store, io_error};

impl Store {
    /// Says that the run in this folder uses the cache.
    pub fn add_root(&self, folder: &Path) -> Result<()> {
        let folder = fs::canonicalize(folder).map_err(io_error("find", folder))?;
        let told = match self.root.parent().and_then(|parent| folder.strip_prefix(parent).ok()) {
            Some(beside) => Path::new("..").join(beside),
            None => folder.clone(),
        };
        // Whatever bytes it is called by.
        let told = told.as_os_str().as_bytes();
        let path = self.root.join("roots").join(Digest::of_bytes(told).short());
        self.write_shared(&path, &[told, b"\n"].concat()).map_err(io_error("write", &path))
    }

    /// The folders of the runs that use the cache, those that are gone among them, in the order of their paths.
    pub fn roots(&self) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("roots");
        let mut roots = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
            let path = entry.map_err(io_error("read", &folder))?.path();
            let text = fs::read(&path).map_err(io_error("read", &path))?;
            roots.extend(self.told(&text));
        }
        roots.sort();
        roots.dedup();
        Ok(roots)
    }

    /// Forgets the runs whose folders are gone.
    pub fn forget_roots(&self, gone: &[PathBuf]) -> Result<()> {
        let folder = self.root.join("roots");
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))?.flatten() {
            let path = entry.path();
            let told = self.told(&fs::read(&path).unwrap_or_default());
            if told.is_some_and(|folder| gone.contains(&folder)) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// The folder that a file in `roots/` tells of; none where it was cut short.
    fn told(&self, text: &[u8]) -> Option<PathBuf> {
        let told = text.strip_suffix(b"\n")?;
        Some(normal(&self.root.join(OsStr::from_bytes(told))))
    }
}

/// The path without `..`, whether or not there is anything at it.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}
