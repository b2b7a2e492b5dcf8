//! The removal of files and folders that may be write-protected.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a file or a folder, even where a command has write-protected folders in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return fs::remove_file(path);
    }
    fs::remove_dir_all(path).or_else(|_| {
        unprotect(path);
        fs::remove_dir_all(path)
    })
}

/// Gives a folder and its subfolders permissions with which their content can be removed.
pub fn unprotect(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unprotect(&entry.path());
        }
    }
}
