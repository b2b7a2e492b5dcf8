//! Copies contents to where the user wants them, and hashes what it reads for that. Links and reflinks read nothing.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use rayon::prelude::*;

use super::Digest;
use super::digest::is_executable;
use super::read;
use super::tree::{Entry, Tree, files_below, folders_of};

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The digest of the content; `None` unless all of it was read.
    pub digest: Option<Digest>,
    /// The number of files.
    pub files: usize,
    /// The size of all of them.
    pub bytes: u64,
}

/// Copies a file or a folder to a path that does not exist yet. With `link`, hard links replace the copies of files where both paths
/// are on one disk. Symbolic links in a folder are followed. After an error the copy may be incomplete.
pub fn copy_content(from: &Path, to: &Path, link: bool) -> io::Result<Copied> {
    if !from.is_dir() {
        let CopiedFile { digest, bytes, .. } = copy_file(from, to, link)?;
        return Ok(Copied { digest, files: 1, bytes });
    }
    let files = files_below(from, None)?;
    for folder in folders_of(files.iter().map(|(name, _)| name.as_str())) {
        fs::create_dir_all(to.join(folder))?;
    }
    let copied = files.into_par_iter().map(|(name, file)| {
        let copied = copy_file(&file, &to.join(&name), link)?;
        Ok((name, copied))
    });
    let copied: Vec<(String, CopiedFile)> = copied.collect::<io::Result<_>>()?;
    let (files, bytes) = (copied.len(), copied.iter().map(|(_, file)| file.bytes).sum());
    let entry = |(name, CopiedFile { bytes, executable, digest }): (String, CopiedFile)| {
        Some(Entry { name, bytes, executable, digest: digest? })
    };
    let entries: Option<Vec<Entry>> = copied.into_iter().map(entry).collect();
    Ok(Copied { digest: entries.map(|entries| Tree { entries }.digest()), files, bytes })
}

struct CopiedFile {
    bytes: u64,
    executable: bool,
    /// `None` if it was not read.
    digest: Option<Digest>,
}

/// Copies a file without its permissions, except that it may be executed: files of the cache are read-only.
fn copy_file(from: &Path, to: &Path, link: bool) -> io::Result<CopiedFile> {
    let copy = || {
        let source = read::open(from)?;
        let metadata = source.metadata()?;
        let (bytes, executable) = (metadata.len(), is_executable(&metadata));
        // A link to a symbolic link would lead where that one leads.
        if link && !from.is_symlink() && fs::hard_link(from, to).is_ok() {
            return Ok(CopiedFile { bytes, executable, digest: None });
        }
        let copy = File::create(to)?;
        let digest = match clone(&source, &copy) {
            true => None,
            false => Some(Digest::of_copied(&source, &|at, bytes| copy.write_all_at(bytes, at))?),
        };
        if executable {
            let mode = copy.metadata()?.permissions().mode();
            copy.set_permissions(Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
        }
        io::Result::Ok(CopiedFile { bytes, executable, digest })
    };
    copy().map_err(|error| io::Error::new(error.kind(), format!("cannot copy {}: {error}", from.display())))
}

/// Makes a file a reflink of another, which shares its blocks until one of them is written to, if the file system has them.
#[cfg(target_os = "linux")]
fn clone(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn clone(_from: &File, _to: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_digest_of_its_content_and_may_be_changed() {
        let space = tempfile::tempdir().unwrap();
        let (from, to) = (space.path().join("from"), space.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        for (name, mode) in [("a", 0o400), ("deep/b", 0o500), ("deep/er/c", 0o400)] {
            fs::write(from.join(name), name).unwrap();
            fs::set_permissions(from.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let digest = Digest::of_path(&from).unwrap();
        let copied = copy_content(&from, &to, false).unwrap();
        assert_eq!((copied.files, copied.bytes), (3, 16));
        // Where the file system has reflinks nothing is read.
        assert!(copied.digest.is_none_or(|found| found == digest));
        assert_eq!(Digest::of_path(&to).unwrap(), digest);
        let mode = |name: &str| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o700;
        assert_eq!([mode("a"), mode("deep/b")], [0o600, 0o700]);

        let one = space.path().join("one");
        let linked = copy_content(&from.join("deep/b"), &one, true).unwrap();
        assert_eq!(linked, Copied { digest: None, files: 1, bytes: 6 });
        let error = copy_content(&from.join("none"), &one, false).unwrap_err().to_string();
        assert!(error.starts_with("cannot copy ") && error.contains("from/none: "), "{error}");
    }
}
