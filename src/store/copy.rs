//! Copies contents to where the user wants them, and hashes what it copies on the way: each file while it is still in the page
//! cache, and other threads copy meanwhile.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rayon::prelude::*;

use super::Digest;
use super::digest::is_executable;
use super::read;
use super::tree::{Entry, Tree, files_below, folders_of};

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The digest of the content.
    pub digest: Digest,
    /// The number of files.
    pub files: usize,
    /// The size of all of them.
    pub bytes: u64,
}

/// Copies a file or a folder to a path that does not exist yet. With `link`, hard links replace the copies of files where both paths
/// are on one disk. Links in a folder are followed. After an error the copy may be incomplete.
pub fn copy_content(from: &Path, to: &Path, link: bool) -> io::Result<Copied> {
    if !from.is_dir() {
        let Entry { digest, bytes, .. } = copy_file(from, to, link)?;
        return Ok(Copied { digest, files: 1, bytes });
    }
    let files = files_below(from, None)?;
    for folder in folders_of(files.iter().map(|(name, _)| name.as_str())) {
        fs::create_dir_all(to.join(folder))?;
    }
    let entries = files.into_par_iter().map(|(name, file)| {
        let entry = copy_file(&file, &to.join(&name), link)?;
        Ok(Entry { name, ..entry })
    });
    let tree = Tree { entries: entries.collect::<io::Result<_>>()? };
    Ok(Copied { digest: tree.digest(), files: tree.entries.len(), bytes: tree.bytes() })
}

/// Copies a file without its permissions, except that it may be executed: files of the cache are read-only. The kernel makes the
/// copy a reflink on file systems that have them. The entry has no name.
fn copy_file(from: &Path, to: &Path, link: bool) -> io::Result<Entry> {
    let copy = || {
        let mut source = read::open(from)?;
        let metadata = source.metadata()?;
        let executable = is_executable(&metadata);
        if !link || fs::hard_link(from, to).is_err() {
            let mut copy = File::create(to)?;
            io::copy(&mut source, &mut copy)?;
            if executable {
                let mode = copy.metadata()?.permissions().mode();
                copy.set_permissions(Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
            }
        }
        let digest = Digest::of_file(from)?;
        io::Result::Ok(Entry { name: String::new(), bytes: metadata.len(), executable, digest })
    };
    copy().map_err(|error| io::Error::new(error.kind(), format!("cannot copy {}: {error}", from.display())))
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
        assert_eq!(copy_content(&from, &to, false).unwrap(), Copied { digest, files: 3, bytes: 16 });
        assert_eq!(Digest::of_path(&to).unwrap(), digest);
        let mode = |name: &str| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o700;
        assert_eq!([mode("a"), mode("deep/b")], [0o600, 0o700]);

        let (file, one) = (from.join("deep/b"), space.path().join("one"));
        let digest = Digest::of_file(&file).unwrap();
        assert_eq!(copy_content(&file, &one, true).unwrap(), Copied { digest, files: 1, bytes: 6 });
        let error = copy_content(&from.join("none"), &one, false).unwrap_err().to_string();
        assert!(error.starts_with("cannot copy ") && error.contains("from/none: "), "{error}");
    }
}
