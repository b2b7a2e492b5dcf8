//! What a process is writing: a folder of its own below `tmp/`, with a lock that dies with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::{lock, remove};
use super::lock::{Lock, Mode};
use super::sharing::Sharing;

/// The lock's file in a session's folder.
const LOCK: &str = ".lock";

pub struct Session {
    folder: PathBuf,
    _lock: Lock,
    /// Empty folders in it. They are used again: to make and remove one for each node costs more than a small node does.
    spare: Spare,
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
    pub fn begin(tmp: &Path, sharing: Sharing) -> io::Result<Session> {
        loop {
            let folder = tempfile::Builder::new().prefix("").tempdir_in(tmp)?.keep();
            sharing.set(&fs::File::open(&folder)?, sharing.folder)?;
            // Somebody who sweeps may hold the lock for a moment and take the folder for one that was left behind.
            match Lock::try_take(&folder.join(LOCK), Mode::Exclusive, sharing) {
                Ok(Some(lock)) if folder.exists() => {
                    return Ok(Session { folder, _lock: lock, spare: Spare::default() });
                }
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn workspace(&self) -> io::Result<Workspace> {
        let spare = lock(&self.spare).pop();
        let path = match spare {
            Some(path) => path,
            None => tempfile::tempdir_in(&self.folder)?.keep(),
        };
        Ok(Workspace { path, spare: self.spare.clone() })
    }

    /// Removes the folders of processes that are gone.
    pub fn sweep(tmp: &Path, sharing: Sharing) -> io::Result<()> {
        for folder in folders(tmp)? {
            if let Some(_lock) = abandoned(&folder, sharing)? {
                // What belongs to another user and cannot be removed is that user's to sweep.
                let _ = remove(&folder);
            }
        }
        Ok(())
    }

    /// Whether no other process has a folder.
    pub fn is_alone(tmp: &Path, own: Option<&Session>, sharing: Sharing) -> io::Result<bool> {
        for folder in folders(tmp)? {
            let is_own = own.is_some_and(|own| own.folder == folder);
            if !is_own && folder.join(LOCK).exists() && abandoned(&folder, sharing)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whatever cannot be removed now is swept by the next process.
        let _ = remove(&self.folder);
    }
}

/// The lock of a folder whose process is gone.
fn abandoned(folder: &Path, sharing: Sharing) -> io::Result<Option<Lock>> {
    let path = folder.join(LOCK);
    if !path.exists() {
        return Ok(None);
    }
    match Lock::try_take(&path, Mode::Exclusive, sharing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        taken => taken,
    }
}

fn folders(tmp: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(tmp)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}
