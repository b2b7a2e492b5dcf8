//! Atomic publication of a file: temporary name, fsync, rename, fsync of the folder.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::fail::fail_point;

/// Writes `bytes` to `path` so that a reader, or a machine that lost power, sees the old content or the new. The permissions
/// follow the user's umask.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, 0o666, None, folder_of(path))
}

/// The same, for a file of the cache: it has these permissions from the beginning. It is written in `scratch`, which other
/// processes clear if this one is killed.
pub(super) fn write_durably_as(path: &Path, bytes: &[u8], mode: u32, scratch: &Path) -> io::Result<()> {
    write(path, bytes, mode, Some(mode), scratch)
}

fn write(path: &Path, bytes: &[u8], mode: u32, exactly: Option<u32>, scratch: &Path) -> io::Result<()> {
    fail_point("file.write")?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".writing-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(scratch)?;
    temporary.write_all(bytes)?;
    // Independent of the umask.
    exactly.map_or(Ok(()), |mode| temporary.as_file().set_permissions(Permissions::from_mode(mode)))?;
    temporary.as_file().sync_all()?;
    fail_point("file.rename")?;
    temporary.persist(path).map_err(|error| error.error)?;
    fail_point("file.renamed")?;
    sync_folder(folder_of(path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
