//! The runs that use a cache: their folders are named in `roots/`, and what they name is kept. A folder that is moved
//! together with its cache is found again.

use std::fs;
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
        let told = told.to_string_lossy();
        let path = self.root.join("roots").join(Digest::of_bytes(told.as_bytes()).short());
        self.write_shared(&path, format!("{told}\n").as_bytes()).map_err(io_error("write", &path))
    }

    /// The folders of the runs that use the cache, those that are gone among them, in the order of their paths.
    pub fn roots(&self) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("roots");
        let mut roots = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
            let path = entry.map_err(io_error("read", &folder))?.path();
            let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            if let Some(told) = text.strip_suffix('\n') {
                roots.push(normal(&self.root.join(told)));
            }
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
            let told = fs::read_to_string(&path).unwrap_or_default();
            if gone.contains(&normal(&self.root.join(told.trim_end_matches('\n')))) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
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
