//! Folders as contents: the list of a folder's files, and the digest of that list.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Digest;
use super::digest::is_executable;

/// Separates the digest of a tree from that of a file with the tree's list as its bytes.
const CONTEXT: &str = "triplay 2026 tree v1";

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// Relative to the tree's folder, with `/` between folders.
    pub name: String,
    pub bytes: u64,
    pub executable: bool,
    /// The same as that of the file on its own.
    pub digest: Digest,
}

/// The files of a folder in the order of their names. Folders without a file do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub entries: Vec<Entry>,
}

/// Whether files and folders whose names begin with a dot count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// For the cache: everything that a stage wrote is its output.
    Included,
    /// For folders of users: `.git` and the like belong to tools. A link that leads out of the folder is an error: its target
    /// belongs to the reader, not to the author of the folder.
    LeftOut,
}

/// Whether a file, by its path in the folder, is among `files`. Those are names, or `*.` and an extension, which stands for files
/// directly in the folder. If `files` is empty, every file is.
pub fn is_among<T: AsRef<str>>(files: &[T], name: &str) -> bool {
    let is = |file: &str| match file.strip_prefix('*') {
        Some(ending) => name.ends_with(ending) && !name.contains('/'),
        None => name == file,
    };
    files.is_empty() || files.iter().any(|file| is(file.as_ref()))
}

impl Digest {
    /// The digest of a file or of a folder with everything in it.
    pub fn of_path(path: &Path) -> io::Result<Digest> {
        match path.is_dir() {
            true => Ok(Tree::of_folder(path, Hidden::Included, &mut Digest::of_file)?.digest()),
            false => Digest::of_file(path),
        }
    }

    /// The digest of a file or folder of the user's. Hidden files (`.git`, `.cache`) do not count, nor do files that are not
    /// among `files`: see [`is_among`].
    pub fn of_input(path: &Path, files: &[String]) -> io::Result<Digest> {
        match path.is_dir() {
            true => Ok(Tree::of_files(path, Hidden::LeftOut, files, &mut Digest::of_file)?.digest()),
            false => Digest::of_file(path),
        }
    }
}

impl Tree {
    /// The tree of a folder, with the digests of its files from `of_file`.
    pub(crate) fn of_folder(
        folder: &Path,
        hidden: Hidden,
        of_file: &mut dyn FnMut(&Path) -> io::Result<Digest>,
    ) -> io::Result<Tree> {
        Tree::of_files(folder, hidden, &[], of_file)
    }

    /// The tree of those files of a folder that are among `files`: see [`is_among`].
    pub(crate) fn of_files(
        folder: &Path,
        hidden: Hidden,
        files: &[String],
        of_file: &mut dyn FnMut(&Path) -> io::Result<Digest>,
    ) -> io::Result<Tree> {
        let mut entries = Vec::new();
        for (name, path) in files_among(folder, hidden, files)? {
            // The system's error number tells whether the disk is damaged, so it is kept.
            let about = |error: io::Error| match (error.raw_os_error(), dangling(&path)) {
                (Some(_), None) if !path.is_symlink() => error,
                (_, None) => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
                (_, Some(message)) => io::Error::new(error.kind(), format!("{} {message}", path.display())),
            };
            let digest = of_file(&path).map_err(about)?;
            let metadata = fs::metadata(&path).map_err(about)?;
            let (bytes, executable) = (metadata.len(), is_executable(&metadata));
            entries.push(Entry { name, bytes, executable, digest });
        }
        Ok(Tree { entries })
    }

    /// Every part carries its length, so that no two trees have the same encoding.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for Entry { name, bytes, executable, digest } in &self.entries {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&bytes.to_le_bytes());
            hasher.update(&[u8::from(*executable)]);
            hasher.update(digest.bytes());
        }
        hasher.into()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }
}

/// The files of a folder and its subfolders, following links, by their paths in it, sorted.
pub(super) fn files_below(folder: &Path, hidden: Hidden) -> io::Result<Vec<(String, PathBuf)>> {
    files_among(folder, hidden, &[])
}

/// The same, for the files that are among `counting`: see [`is_among`]. Links to files that do not count are not checked.
fn files_among(folder: &Path, hidden: Hidden, counting: &[String]) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    let within = match hidden {
        Hidden::Included => None,
        Hidden::LeftOut => Some(own_place(fs::canonicalize(folder)?)),
    };
    let counts = |name: &str| {
        is_among(counting, name) || counting.iter().any(|file| file.starts_with(&format!("{name}/")))
    };
    collect(folder, "", within.as_deref(), &counts, &mut Vec::new(), &mut files)?;
    files.retain(|(name, _)| is_among(counting, name));
    files.sort();
    Ok(files)
}

/// Where the links of a folder may lead: into itself; if it is a snapshot in a Hugging Face cache, into that repository, whose
/// files lie in `blobs/`.
fn own_place(folder: PathBuf) -> PathBuf {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let snapshots = folder.ancestors().skip(1).find(|above| name(above).as_deref() == Some("snapshots"));
    let repository = snapshots.and_then(Path::parent).filter(|repository| {
        let name = name(repository).unwrap_or_default();
        name.starts_with("models--") || name.starts_with("datasets--")
    });
    repository.map(Path::to_owned).unwrap_or(folder)
}

/// Refuses a link that leads out of `place`, or nowhere.
fn ensure_within(place: &Path, link: &Path) -> io::Result<()> {
    let target = fs::read_link(link)?;
    let target = target.display();
    match fs::canonicalize(link) {
        Ok(real) if real.starts_with(place) => Ok(()),
        Ok(_) => Err(other(
            link,
            &format!(
                "it is a symbolic link to {target}, which leads out of the folder: put a copy in its place"
            ),
        )),
        Err(error) => match dangling(link) {
            Some(message) => Err(io::Error::other(format!("{} {message}", link.display()))),
            None => Err(other(link, &error.to_string())),
        },
    }
}

/// `within` is where the links of an outside folder may lead. If it is set, hidden files are left out.
fn collect(
    folder: &Path,
    prefix: &str,
    within: Option<&Path>,
    counts: &dyn Fn(&str) -> bool,
    above: &mut Vec<(u64, u64)>,
    files: &mut Vec<(String, PathBuf)>,
) -> io::Result<()> {
    let metadata = fs::metadata(folder)?;
    let own = (metadata.dev(), metadata.ino());
    if above.contains(&own) {
        return Err(other(
            folder,
            "it is a symbolic link to a folder that contains it, so following it never ends",
        ));
    }
    above.push(own);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| other(&path, "its name is not UTF-8"))?;
        if within.is_some() && name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if !counts(&name) {
            continue;
        }
        if let Some(place) = within
            && entry.file_type()?.is_symlink()
        {
            ensure_within(place, &path)?;
        }
        if path.is_dir() {
            collect(&path, &format!("{name}/"), within, counts, above, files)?;
        } else {
            files.push((name, path));
        }
    }
    above.pop();
    Ok(())
}

/// The folder of a tree and its subfolders, by their paths in it, from the names of its files. Each comes before those in it.
pub(super) fn folders_of<'a>(files: impl Iterator<Item = &'a str>) -> BTreeSet<&'a Path> {
    let around = files.flat_map(|name| Path::new(name).ancestors().skip(1));
    around.chain([Path::new("")]).collect()
}

/// Describes a link whose target is missing.
pub fn dangling(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok().filter(|_| !path.exists())?;
    Some(format!("is a link to {}, which does not exist", target.display()))
}

fn other(path: &Path, message: &str) -> io::Error {
    io::Error::other(format!("{}: {message}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_folder_only_what_is_named_counts() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["config.json", "*.safetensors", "1_Pooling/config.json"].map(str::to_owned);
        let digest = || Digest::of_input(folder.path(), &files).unwrap();
        let nothing = digest();
        fs::write(folder.path().join("README.md"), "# Own").unwrap();
        fs::create_dir_all(folder.path().join("onnx")).unwrap();
        fs::write(folder.path().join("onnx/model.safetensors"), "?").unwrap();
        assert_eq!(digest(), nothing);
        fs::create_dir_all(folder.path().join("1_Pooling")).unwrap();
        for name in ["config.json", "model.safetensors", "1_Pooling/config.json"] {
            let before = digest();
            fs::write(folder.path().join(name), "{}").unwrap();
            assert_ne!(digest(), before, "{name}");
        }
        assert_ne!(Digest::of_input(folder.path(), &[]).unwrap(), digest());
    }
}
