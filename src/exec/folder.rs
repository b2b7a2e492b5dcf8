//! The fresh folder of a command: inputs are placed in it, outputs are taken from it. It knows files, not processes; outputs are
//! taken when no process writes any more.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, anyhow, bail, ensure};

use engine::{Artifact, FileChanged};
use store::{Digest, dangling, read, unprotect};

/// How many files an error lists.
const LISTED: usize = 20;

/// The folder that a command runs in, removed on drop.
pub(crate) struct Folder {
    path: PathBuf,
    /// Every file that was placed, by its path in the folder.
    laid: BTreeSet<String>,
    /// Files that the command shares with the store.
    shared: Vec<Shared>,
}

struct Shared {
    /// The input it belongs to.
    input: String,
    original: PathBuf,
    state: State,
}

/// A file of an output.
struct Written {
    /// Its path in the output; empty if it is the output.
    name: String,
    file: PathBuf,
    /// Whether a link is on the way to it.
    is_linked: bool,
}

/// The metadata that changes when a process writes to a file.
#[derive(PartialEq, Eq)]
struct State {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(metadata: &Metadata) -> State {
        State { inode: metadata.ino(), bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Folder {
    /// Creates an empty folder.
    pub(crate) fn create(path: PathBuf) -> io::Result<Folder> {
        fs::create_dir_all(&path)?;
        Ok(Folder { path, laid: BTreeSet::new(), shared: Vec::new() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Places an input under `name`: those of its files that count, by their paths in it. A blob of the store (`is_blob`), which
    /// no process changes, is linked. Any other file is copied, so that a user may edit a script while it runs, and a script may
    /// write to its inputs. The copies are verified.
    pub(crate) fn place_input(
        &mut self,
        name: &str,
        artifact: &Artifact,
        files: Vec<(String, PathBuf)>,
        is_blob: bool,
    ) -> anyhow::Result<()> {
        let to = self.path.join(name);
        if name.ends_with(".jsonl") && data::is_parquet(&artifact.path)? {
            fs::create_dir_all(to.parent().unwrap_or(&self.path))?;
            let original = if is_blob { artifact.path.clone() } else { copied(artifact, &to)? };
            data::write_lines(&original, &to)?;
            if !is_blob {
                fs::remove_file(&original)?;
            }
            self.laid.insert(name.to_owned());
            return Ok(());
        }
        if artifact.path.is_dir() {
            fs::create_dir_all(&to)?;
        }
        let mut copied = false;
        for (file, original) in files {
            // A link to a link would lead out of the folder.
            let original = fs::canonicalize(&original).with_context(|| original.display().to_string())?;
            let metadata = fs::metadata(&original)?;
            let path = if file.is_empty() { name.to_owned() } else { format!("{name}/{file}") };
            let place = self.path.join(&path);
            fs::create_dir_all(place.parent().unwrap_or(&self.path))?;
            // A link has the permissions of the original, so a blob that somebody made writable is copied too.
            let sealed = is_blob && metadata.mode() & 0o222 == 0;
            if sealed && fs::hard_link(&original, &place).is_ok() {
                self.shared.push(Shared { input: name.to_owned(), original, state: State::of(&metadata) });
            } else {
                // The kernel makes this a reflink on file systems that have them.
                fs::copy(&original, &place).with_context(|| format!("copying {}", original.display()))?;
                copied = true;
            }
            self.laid.insert(path);
        }
        if copied && Digest::of_path(&to)? != artifact.digest {
            return Err(FileChanged::before_it_was_read(&artifact.path).into());
        }
        Ok(())
    }

    /// Places a link to a folder that outlives this one.
    pub(crate) fn link(&mut self, name: &str, to: &Path) -> io::Result<()> {
        let place = self.path.join(name);
        fs::create_dir_all(place.parent().unwrap_or(&self.path))?;
        self.laid.insert(name.to_owned());
        std::os::unix::fs::symlink(to, place)
    }

    /// The inputs whose originals were written to. An input that the command replaced by a new file is not among them: the
    /// command has no path to the original.
    pub(crate) fn changed(&self) -> BTreeSet<&str> {
        let changed = self.shared.iter().filter(|shared| {
            let now = fs::metadata(&shared.original).map(|metadata| State::of(&metadata));
            now.is_ok_and(|now| now.inode == shared.state.inode && now != shared.state)
        });
        changed.map(|shared| shared.input.as_str()).collect()
    }

    /// Whether a symbolic link is on the way to the output at `path`.
    pub(crate) fn is_linked(&self, path: &str) -> bool {
        let root = fs::canonicalize(&self.path).unwrap_or_default();
        fs::canonicalize(self.path.join(path)).is_ok_and(|real| real != root.join(path))
    }

    /// Whether the output at `path` is reached by links, or is a folder with links in it. The targets may be other outputs.
    pub(crate) fn has_links(&self, path: &str) -> bool {
        let (place, mut files) = (self.path.join(path), Vec::new());
        let _ = files_below(&place, "", &mut files);
        self.is_linked(path) || files.iter().any(|file| place.join(file).is_symlink())
    }

    /// Takes the output at `path`, a file or a folder, to `to`. Targets of links are copied, everything else is moved, so outputs
    /// with links are taken first. Folders without a file are left out. Returns false if there is nothing at `path`.
    pub(crate) fn take(&self, path: &str, to: &Path) -> anyhow::Result<bool> {
        let place = self.path.join(path);
        if !place.exists() && !place.is_symlink() {
            return Ok(false);
        }
        let mut files = Vec::new();
        self.collect(&place, "", self.is_linked(path), &mut Vec::new(), &mut files)?;
        if place.is_dir() {
            fs::create_dir(to)?;
        }
        // Before their targets are moved.
        files.sort_by_key(|file| !file.is_linked);
        for Written { name, file, is_linked } in files {
            let to = if name.is_empty() { to.to_owned() } else { to.join(&name) };
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            take_file(&file, &to, is_linked).with_context(|| format!("`{name}`"))?;
        }
        Ok(true)
    }

    /// Adds the file at `path`, or those in the folder there. `name` is its path in the output.
    fn collect(
        &self,
        path: &Path,
        name: &str,
        is_linked: bool,
        above: &mut Vec<PathBuf>,
        files: &mut Vec<Written>,
    ) -> anyhow::Result<()> {
        let is_linked = is_linked || path.is_symlink();
        let look = || {
            let real = self.inside(path)?;
            ensure!(!above.contains(&real), "it is a symbolic link to a folder that contains it");
            if !real.is_dir() {
                read::open(&real)?;
            }
            Ok(real)
        };
        let real = match look() {
            Err(error) if name.is_empty() => return Err(error),
            looked => looked.with_context(|| format!("`{name}`"))?,
        };
        if !real.is_dir() {
            files.push(Written { name: name.to_owned(), file: real, is_linked });
            return Ok(());
        }
        above.push(real.clone());
        for entry in fs::read_dir(&real)? {
            let entry = entry?.file_name();
            let Some(part) = entry.to_str() else {
                bail!("the name of each file must be UTF-8, found {:?} in `{name}`", entry)
            };
            let name = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
            self.collect(&real.join(part), &name, is_linked, above, files)?;
        }
        above.pop();
        Ok(())
    }

    /// The target of a path, which must be in this folder.
    fn inside(&self, path: &Path) -> anyhow::Result<PathBuf> {
        dangling(path).map_or(Ok(()), |message| Err(anyhow!("it {message}")))?;
        let real = fs::canonicalize(path)?;
        let leads_out = !real.starts_with(fs::canonicalize(&self.path)?);
        ensure!(
            !leads_out,
            "it is a symbolic link that leads out of the command's folder: {}",
            real.display()
        );
        Ok(real)
    }

    /// The files that the command wrote, for people.
    pub(crate) fn written(&self) -> String {
        let mut files = Vec::new();
        // Unreadable folders are not listed.
        let _ = files_below(&self.path, "", &mut files);
        files.retain(|file| !self.laid.contains(file));
        let more = files.len().saturating_sub(LISTED);
        files.truncate(LISTED);
        match (files.is_empty(), more) {
            (true, _) => "no file".to_owned(),
            (_, 0) => files.join(", "),
            _ => format!("{} and {more} more", files.join(", ")),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.path).is_err() {
            // Some tools write-protect their folders.
            unprotect(&self.path);
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A verified copy of a user's file, beside `place`.
fn copied(artifact: &Artifact, place: &Path) -> anyhow::Result<PathBuf> {
    let copy = place.with_extension("copying");
    fs::copy(&artifact.path, &copy)?;
    match Digest::of_file(&copy)? == artifact.digest {
        true => Ok(copy),
        false => Err(FileChanged::before_it_was_read(&artifact.path).into()),
    }
}

/// Moves a file, or copies it if `copy` is set. A file with other hard links is always copied, since it would change with them.
fn take_file(from: &Path, to: &Path, copy: bool) -> io::Result<()> {
    if copy || fs::metadata(from)?.nlink() > 1 || fs::rename(from, to).is_err() {
        fs::copy(from, to)?;
    }
    Ok(())
}

/// The files below a folder by their paths in it, sorted. Folders behind links are not entered.
fn files_below(folder: &Path, prefix: &str, files: &mut Vec<String>) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.file_type()?.is_dir() {
            true => files_below(&entry.path(), &format!("{prefix}{name}/"), files)?,
            false => files.push(format!("{prefix}{name}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn artifact(path: &Path) -> Artifact {
        Artifact { digest: Digest::of_path(path).unwrap(), path: path.to_owned() }
    }

    /// Its files by their paths in it.
    fn files(path: &Path) -> Vec<(String, PathBuf)> {
        match path.is_dir() {
            true => store::files_below(path, None).unwrap(),
            false => vec![(String::new(), path.to_owned())],
        }
    }

    fn permit(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn blobs_are_linked_and_a_write_to_one_is_seen_a_replacement_is_none() {
        let outside = tempfile::tempdir().unwrap();
        let blob = outside.path().join("blob");
        fs::create_dir(&blob).unwrap();
        fs::write(blob.join("a"), "glowvenom").unwrap();
        permit(&blob.join("a"), 0o444);
        fs::write(blob.join(".hidden"), "").unwrap();
        let mut folder = Folder::create(outside.path().join("folder")).unwrap();
        folder.place_input("deep/model", &artifact(&blob), files(&blob), true).unwrap();
        let inside = folder.path().join("deep/model");
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 2, "what is hidden is part of a blob");
        assert_eq!(folder.written(), "no file");
        fs::write(folder.path().join("b"), "").unwrap();
        fs::remove_file(inside.join("a")).unwrap();
        fs::write(inside.join("a"), "moonbane").unwrap();
        assert!(folder.changed().is_empty());
        assert_eq!(fs::read(blob.join("a")).unwrap(), b"glowvenom");
        permit(&blob.join("a"), 0o644);
        fs::write(blob.join("a"), "moonbane").unwrap();
        assert_eq!(folder.changed(), BTreeSet::from(["deep/model"]));
        assert_eq!(folder.written(), "b");
    }

    #[test]
    fn files_of_the_user_are_copies_that_may_be_written_to() {
        let outside = tempfile::tempdir().unwrap();
        let script = outside.path().join("script");
        fs::write(&script, "glowvenom").unwrap();
        let mut folder = Folder::create(outside.path().join("folder")).unwrap();
        let known = artifact(&script);
        folder.place_input("s", &known, files(&script), false).unwrap();
        fs::write(folder.path().join("s"), "moonbane").unwrap();
        assert_eq!(fs::read(&script).unwrap(), b"glowvenom");
        assert!(folder.changed().is_empty());
        fs::write(&script, "moonbane").unwrap();
        let error = folder.place_input("t", &known, files(&script), false).unwrap_err().to_string();
        assert!(error.contains("was changed while the run was under way, before"), "{error}");
    }

    #[test]
    fn a_large_file_of_the_user_is_a_copy_too() {
        let outside = tempfile::tempdir().unwrap();
        let data = outside.path().join("data");
        fs::File::create(&data).unwrap().set_len(17 << 20).unwrap();
        let mut folder = Folder::create(outside.path().join("folder")).unwrap();
        folder.place_input("d", &artifact(&data), files(&data), false).unwrap();
        fs::write(folder.path().join("d"), "moonbane").unwrap();
        assert_eq!(fs::metadata(&data).unwrap().len(), 17 << 20);
        assert!(folder.changed().is_empty());
    }

    #[test]
    fn a_blob_that_somebody_made_writable_is_not_linked() {
        let outside = tempfile::tempdir().unwrap();
        let blob = outside.path().join("blob");
        fs::write(&blob, "glowvenom").unwrap();
        let mut folder = Folder::create(outside.path().join("folder")).unwrap();
        for (name, mode, links) in [("group", 0o464, 1), ("own", 0o644, 1), ("sealed", 0o440, 2)] {
            permit(&blob, mode);
            folder.place_input(name, &artifact(&blob), files(&blob), true).unwrap();
            assert_eq!(fs::metadata(&blob).unwrap().nlink(), links, "{name}");
            assert_eq!(fs::read(folder.path().join(name)).unwrap(), b"glowvenom");
        }
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_not_taken() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "").unwrap();
        let folder = Folder::create(outside.path().join("folder")).unwrap();
        let at = |name: &str| folder.path().join(name);
        let link = std::os::unix::fs::symlink::<&str, PathBuf>;
        link("../secret", at("out")).unwrap();
        link("none", at("dangling")).unwrap();
        fs::write(at("step_2"), "2").unwrap();
        link("step_2", at("last")).unwrap();
        fs::create_dir_all(at("deep/er")).unwrap();
        fs::create_dir_all(at("deep/empty")).unwrap();
        fs::write(at("deep/er/a"), "glowvenom").unwrap();
        link("er", at("deep/same")).unwrap();
        fs::create_dir(at("round")).unwrap();
        link("../round", at("round/again")).unwrap();
        let take = |name: &str| folder.take(name, &outside.path().join("taken"));
        let error = |name: &str| format!("{:#}", take(name).unwrap_err());
        assert!(error("out").contains("leads out of"));
        assert!(error("dangling").contains("does not exist"));
        assert_eq!(error("round"), "`again`: it is a symbolic link to a folder that contains it");
        assert!(take("deep").unwrap());
        let taken = outside.path().join("taken");
        for name in ["er/a", "same/a"] {
            assert_eq!(fs::read(taken.join(name)).unwrap(), b"glowvenom", "{name}");
        }
        assert!(!taken.join("same").is_symlink() && !taken.join("empty").exists());
        fs::remove_dir_all(taken).unwrap();
        assert!(!take("none").unwrap());
        assert!(take("last").unwrap());
        assert_eq!(fs::read(outside.path().join("taken")).unwrap(), b"2");
        assert!(folder.is_linked("last") && !folder.is_linked("step_2") && !folder.is_linked("none"));
        assert!(at("step_2").exists());
    }
}
