//! Folders as contents: the list of a folder's files, and the digest of that list.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Digest;
use super::digest::is_executable;
use super::selection::{Selected, Selection};

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

impl Digest {
    /// The digest of a file or of a folder with everything in it.
    pub fn of_path(path: &Path) -> io::Result<Digest> {
        match path.is_dir() {
            true => Ok(Tree::of_folder(path, None, &mut Digest::of_file)?.digest()),
            false => Digest::of_file(path),
        }
    }

    /// An error unless `found`, the digest of the content at a path, is this one, which was recorded.
    pub fn ensure_is(&self, found: Digest, path: &Path) -> io::Result<()> {
        match found == *self {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "{} is damaged: its digest differs from the recorded one",
                path.display()
            ))),
        }
    }

    /// The digest of a file of the user's, or of those files of a folder that count.
    pub fn of_input(path: &Path, selection: &Selection) -> io::Result<Digest> {
        match path.is_dir() {
            true => Ok(Tree::of_folder(path, Some(selection), &mut Digest::of_file)?.digest()),
            false => Digest::of_file(path),
        }
    }
}

impl Tree {
    /// The tree of the files of a folder: see [`files_below`]. `of_file` gives their digests.
    pub(crate) fn of_folder(
        folder: &Path,
        selection: Option<&Selection>,
        of_file: &mut dyn FnMut(&Path) -> io::Result<Digest>,
    ) -> io::Result<Tree> {
        let mut entries = Vec::new();
        for (name, path) in files_below(folder, selection)? {
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

/// The files of a folder and its subfolders, following links, by their paths in it, sorted. All of them in the cache, where a stage
/// wrote them. Of a user's folder, those of a selection; a link that counts there must not lead out of the folder, since its
/// target belongs to the reader, not to the author of the folder.
pub fn files_below(folder: &Path, selection: Option<&Selection>) -> io::Result<Vec<(String, PathBuf)>> {
    Walk::of(folder, selection).map(|walk| walk.files)
}

/// The files and folders that a selection ignores in a user's folder, by their paths in it, sorted. A folder has a `/` at the end,
/// and what is in it is not listed.
pub fn ignored_below(folder: &Path, selection: &Selection) -> io::Result<Vec<String>> {
    Walk::of(folder, Some(selection)).map(|walk| walk.ignored)
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

/// A walk through a folder.
struct Walk<'a> {
    /// For a user's folder: what counts, and where links may lead.
    selected: Option<(Selected<'a>, PathBuf)>,
    /// Device and inode of the folders around the present place.
    above: Vec<(u64, u64)>,
    files: Vec<(String, PathBuf)>,
    ignored: Vec<String>,
}

impl Walk<'_> {
    fn of<'a>(folder: &Path, selection: Option<&'a Selection>) -> io::Result<Walk<'a>> {
        let selected = selection.map(|selection| {
            Ok::<_, io::Error>((
                Selected::in_folder(selection, folder)?,
                own_place(fs::canonicalize(folder)?),
            ))
        });
        let (files, ignored) = (Vec::new(), Vec::new());
        let mut walk = Walk { selected: selected.transpose()?, above: Vec::new(), files, ignored };
        walk.enter(folder, "")?;
        walk.files.sort();
        walk.ignored.sort();
        Ok(walk)
    }

    fn enter(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        let metadata = fs::metadata(folder)?;
        let own = (metadata.dev(), metadata.ino());
        if self.above.contains(&own) {
            return Err(other(
                folder,
                "it is a symbolic link to a folder that contains it, so following it never ends",
            ));
        }
        self.above.push(own);
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| other(&path, "its name is not UTF-8"))?;
            let (name, is_folder) = (format!("{prefix}{name}"), path.is_dir());
            if let Some((selected, place)) = &self.selected {
                if !selected.is_read(&name, is_folder) {
                    continue;
                }
                if selected.is_ignored(&name, is_folder) {
                    self.ignored.push(if is_folder { name + "/" } else { name });
                    continue;
                }
                if entry.file_type()?.is_symlink() {
                    ensure_within(place, &path)?;
                }
            }
            match is_folder {
                true => self.enter(&path, &format!("{name}/"))?,
                false => self.files.push((name, path)),
            }
        }
        self.above.pop();
        Ok(())
    }
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
    use super::super::selection::IgnoreRules;
    use super::*;

    #[test]
    fn what_is_ignored_follows_the_rules_of_gitignore() {
        let project = tempfile::tempdir().unwrap();
        let folder = project.path().join("src");
        let files = [
            "a.py",
            "a.pyc",
            "__pycache__/a.pyc",
            ".env",
            "deep/.git/config",
            "deep/a.log",
            "deep/keep.log",
            "out/a",
            "deep/out/a",
        ];
        for name in files {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), "").unwrap();
        }
        let lines = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let rules = |patterns: &[&str]| IgnoreRules { folder: None, patterns: lines(patterns) };
        let of_project = IgnoreRules {
            folder: Some(fs::canonicalize(project.path()).unwrap()),
            patterns: lines(&["# built", "/src/out/", "a.pyc", "/a.py"]),
        };
        let counts = |ignore: Vec<IgnoreRules>| {
            let selection = Selection { files: Vec::new(), ignore };
            let names = files_below(&folder, Some(&selection)).unwrap().into_iter().map(|(name, _)| name);
            let left = ignored_below(&folder, &selection).unwrap().join(" ");
            format!("{} - {left}", names.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(
            counts(vec![]),
            "__pycache__/a.pyc a.py a.pyc deep/a.log deep/keep.log deep/out/a out/a - .env deep/.git/"
        );
        assert_eq!(
            counts(vec![rules(&["*.log", "!keep.log", "/out"]), of_project.clone()]),
            "a.py deep/keep.log deep/out/a - .env __pycache__/ a.pyc deep/.git/ deep/a.log out/"
        );
        assert_eq!(
            counts(vec![rules(&["!.env", "!__pycache__", "!a.pyc", "deep"]), of_project]),
            ".env __pycache__/a.pyc a.py a.pyc - deep/ out/"
        );
        assert!(
            rules(&["a[", "b"])
                .check()
                .unwrap_err()
                .to_string()
                .ends_with("`[` must have a `]` after it, found `a[`")
        );
    }

    #[test]
    fn of_a_folder_only_what_is_named_counts() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["config.json", "*.safetensors", "1_Pooling/config.json"].map(str::to_owned);
        let selection = Selection { files: files.to_vec(), ..Selection::default() };
        let digest = || Digest::of_input(folder.path(), &selection).unwrap();
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
        assert_ne!(Digest::of_input(folder.path(), &Selection::default()).unwrap(), digest());
    }
}
