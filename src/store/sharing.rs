//! Permissions of what runs write. Prompts and completions are readable by their owner only, unless a folder was shared on
//! purpose. An existing folder keeps its permissions. Everything in a cache gets the permissions of the cache's folder, whatever
//! the umask of the user who writes it, so that a group shares one with `chmod g+ws`.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// The permission bits of a group's folder: new files belong to the group (`s`), and it may write (`w`).
const OF_GROUP: u32 = 0o2020;

/// Creates the missing folders of a path. Each is its owner's alone, whatever the umask; inside a folder that is shared with a
/// group (`chmod g+ws`) it is the group's too.
pub fn create_private(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    match create_private_in(parent, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent != path => {
            create_private(parent)?;
            create_private_in(parent, path)
        }
        created => created,
    }
    .or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
}

/// Creates a missing folder in an existing one.
pub fn create_private_in(parent: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    share_as(parent, path)
}

/// Shares a folder with the group too, if its parent is shared with one.
pub fn share_as(parent: &Path, path: &Path) -> io::Result<()> {
    let mode = fs::metadata(parent)?.mode();
    let is_shared = mode & OF_GROUP == OF_GROUP;
    if is_shared { fs::set_permissions(path, Permissions::from_mode(mode & 0o2070 | 0o700)) } else { Ok(()) }
}

/// The permissions of everything in a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sharing {
    pub folder: u32,
    pub file: u32,
}

impl Sharing {
    /// Derived from the permissions of the cache's folder.
    pub(crate) fn of(root: &Path) -> io::Result<Sharing> {
        let mode = fs::metadata(root)?.mode();
        Ok(Sharing { folder: mode & 0o7777, file: mode & 0o666 | 0o600 })
    }

    /// The permissions of a blob's file, which is never written again.
    pub(crate) fn blob(self, executable: bool) -> u32 {
        let read = self.file & 0o444;
        if executable { read | read >> 2 } else { read }
    }

    /// Sets the permissions of a file of this user, unless they are set already.
    pub(crate) fn set(self, file: &File, mode: u32) -> io::Result<()> {
        if file.metadata()?.mode() & 0o7777 != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Creates a folder if it is missing, and returns whether it did.
    pub(crate) fn create_folder(self, path: &Path) -> io::Result<bool> {
        match fs::create_dir(path) {
            Ok(()) => self.set(&File::open(path)?, self.folder).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens a file of this user for appending, and creates it if it is missing. It is created in `scratch`, so that others see
    /// it only with its permissions.
    pub(crate) fn append(self, path: &Path, scratch: &Path) -> io::Result<File> {
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
