//! Locks of the kernel on files: they die with their holder, so none is ever stale. Who may remove a lock's file
//! holds it, and who waited for it looks whether the file is still the one at that path.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::sharing::Sharing;

/// A lock held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Shared,
    Exclusive,
}

impl Lock {
    /// The lock, or nothing where another holds it.
    pub fn try_take(path: &Path, mode: Mode, sharing: Sharing) -> io::Result<Option<Lock>> {
        loop {
            let file = open(path, sharing)?;
            let taken = match mode {
                Mode::Shared => file.try_lock_shared(),
                Mode::Exclusive => file.try_lock(),
            };
            match taken {
                Ok(()) if is_at(&file, path)? => return Ok(Some(Lock { path: path.to_owned(), file })),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Waits until the lock is free.
    pub fn take(path: &Path, mode: Mode, sharing: Sharing) -> io::Result<Lock> {
        loop {
            let file = open(path, sharing)?;
            match mode {
                Mode::Shared => file.lock_shared()?,
                Mode::Exclusive => file.lock()?,
            }
            if is_at(&file, path)? {
                return Ok(Lock { path: path.to_owned(), file });
            }
        }
    }

    /// Removes the lock's file and lets go of it: for locks of which there are many.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.file.unlock()
    }
}

/// Opens the file for locking, which needs no right to write where it is there already.
fn open(path: &Path, sharing: Sharing) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = File::options().create(true).append(true).open(path)?;
            sharing.set(&file, sharing.file)?;
            Ok(file)
        }
        opened => opened,
    }
}

/// Whether the file that was locked is still the one at this path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((held.dev(), held.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
