//! Who may use a cache: whoever may use its folder. Everything in it gets the folder's permissions, whatever the
//! umask of the user who writes it, so that a group shares one with `chmod g+ws`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The permissions of what is in a cache.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    pub folder: u32,
    pub file: u32,
}

impl Sharing {
    /// As the cache's folder is shared.
    pub fn of(root: &Path) -> io::Result<Sharing> {
        let mode = fs::metadata(root)?.mode();
        Ok(Sharing { folder: mode & 0o7777, file: mode & 0o666 | 0o600 })
    }

    /// The permissions of a blob's file, which nobody writes again.
    pub fn blob(self, executable: bool) -> u32 {
        let read = self.file & 0o444;
        if executable { read | read >> 2 } else { read }
    }

    /// Sets the permissions of a file of ours, where they are not set yet.
    pub fn set(self, file: &File, mode: u32) -> io::Result<()> {
        if file.metadata()?.mode() & 0o7777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Creates a folder where there is none; whether it was created.
    pub fn create_folder(self, path: &Path) -> io::Result<bool> {
        match fs::create_dir(path) {
            Ok(()) => self.set(&File::open(path)?, self.folder).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a file of ours to append to it, creating it where there is none. Others see it with its permissions only:
    /// it is made in `scratch`.
    pub fn append(self, path: &Path, scratch: &Path) -> io::Result<File> {
        let open = || File::options().append(true).open(path);
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        let new = tempfile::NamedTempFile::new_in(scratch)?;
        self.set(new.as_file(), self.file)?;
        match new.persist_noclobber(path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error),
            _ => {}
        }
        open()
    }
}
