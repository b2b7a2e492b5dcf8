//! Files and folders that a user names for a command to write. One rule holds for all commands: an existing file is replaced
//! only if this command recognisably wrote it, or with `--force`. So repeating a command works, and a slip of the hand loses no
//! file. Symbolic links are never followed or replaced, and folders, devices and pipes are never replaced, even with `--force`.
//! The path is checked before any work is done, and again when the file is put in its place. Until then the new file lies in a
//! folder of its own that nobody else can change.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tempfile::{TempDir, TempPath};

/// Whether a command may replace a file that it did not write.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Overwrite {
    /// Replace an existing file, whatever it holds; never a link, a folder or a device
    #[arg(long)]
    force: bool,
}

/// A file that a user named for a command to write.
pub struct Destination {
    path: PathBuf,
    what: String,
    is_own: Box<dyn Fn(&Path) -> bool + Send + Sync>,
    /// `None`: the command has no `--force`.
    overwrite: Option<Overwrite>,
}

impl Destination {
    /// Checks that a command may write `what`, such as `trace of triplay`, to `path`. `is_own` recognises an existing file that
    /// may be replaced.
    pub fn new(
        path: &Path,
        what: impl Into<String>,
        is_own: impl Fn(&Path) -> bool + Send + Sync + 'static,
    ) -> anyhow::Result<Destination> {
        Destination::checked(path, what.into(), Box::new(is_own), None)
    }

    /// The same, for a command with `--force`.
    pub fn with_force(
        path: &Path,
        what: impl Into<String>,
        overwrite: Overwrite,
        is_own: impl Fn(&Path) -> bool + Send + Sync + 'static,
    ) -> anyhow::Result<Destination> {
        Destination::checked(path, what.into(), Box::new(is_own), Some(overwrite))
    }

    fn checked(
        path: &Path,
        what: String,
        is_own: Box<dyn Fn(&Path) -> bool + Send + Sync>,
        overwrite: Option<Overwrite>,
    ) -> anyhow::Result<Destination> {
        let destination = Destination { path: path.to_owned(), what, is_own, overwrite };
        destination.check_existing()?;
        // An error if the folder cannot be written, before any work is done.
        private_temp_dir(path).with_context(|| cannot_write(path))?;
        Ok(destination)
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `write` with a temporary path and then renames the file, so that it is in its place whole or not at all.
    pub fn write(&self, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let place = || -> anyhow::Result<()> {
            let folder = private_temp_dir(&self.path)?;
            let new = TempPath::try_from_path(folder.path().join("new"))?;
            write(&new)?;
            File::open(&new)?.sync_all()?;
            // Checked again: a file that somebody put there meanwhile must not be lost.
            if self.check_existing()? {
                // The new file keeps the permissions of the replaced one, which may be private. A hard link has those of its file.
                if fs::metadata(&new)?.nlink() == 1 {
                    fs::set_permissions(&new, fs::metadata(&self.path)?.permissions())?;
                }
                new.persist(&self.path)?;
            } else if let Err(error) = new.persist_noclobber(&self.path) {
                // Not all file systems support a rename that never replaces a file.
                let is_new = error.error.kind() != ErrorKind::AlreadyExists && !self.check_existing()?;
                if is_new { error.path.persist(&self.path)? } else { return Err(error.error.into()) }
            }
            Ok(())
        };
        place().with_context(|| cannot_write(&self.path))
    }

    /// Writes the file with these bytes.
    pub fn write_bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write(|path| Ok(fs::write(path, bytes)?))
    }

    /// Whether there is a file that may be replaced; an error if there is one that may not.
    fn check_existing(&self) -> anyhow::Result<bool> {
        let (path, what) = (self.path.display(), &self.what);
        if self.path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            bail!("{path} must be the name of a file, found the name of a folder");
        }
        let Some(there) = metadata_unless_link(&self.path)? else { return Ok(false) };
        let kind = there.file_type();
        ensure!(!kind.is_dir(), "{path} must be a file, found a folder; name a file for the {what}");
        ensure!(kind.is_file(), "{path} must be a file, found a device, a pipe or a socket; name a file");
        ensure!(
            !there.permissions().readonly(),
            "{path} must be writable, found a write-protected file; name another file, or remove it first"
        );
        let is_forced = self.overwrite.is_some_and(|overwrite| overwrite.force);
        let remedy = match self.overwrite {
            Some(_) => "name another file, remove it first, or replace it with --force",
            None => "name another file, or remove it first",
        };
        ensure!(
            is_forced || there.len() == 0 || (self.is_own)(&self.path),
            "{path} must be new or an earlier {what}, found another file; {remedy}"
        );
        Ok(true)
    }
}

/// A folder that a user named for a command to make. It must not exist yet, or be empty.
pub struct NewFolder {
    path: PathBuf,
}

impl NewFolder {
    /// Checks that a folder can be created here: its parent exists, and nothing has its name.
    pub fn new(path: &Path) -> anyhow::Result<NewFolder> {
        parent_folder(path)?;
        if let Some(there) = metadata_unless_link(path)? {
            ensure!(
                there.is_dir(),
                "{} must be a new or empty folder, found a file; name a new folder, or remove it first",
                path.display()
            );
            let mut entries =
                fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(
                entries.next().is_none(),
                "{} must be a new or empty folder, found files in it; name a new folder, or remove it first",
                path.display()
            );
        }
        Ok(NewFolder { path: path.to_owned() })
    }

    /// Calls `make` with a temporary path and then renames the folder, so that it is in its place whole or not at all.
    pub fn make(&self, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let place = || -> anyhow::Result<()> {
            let folder = private_temp_dir(&self.path)?;
            let new = folder.path().join("new");
            make(&new)?;
            // Checked again: the rename replaces only an empty folder.
            NewFolder::new(&self.path)?;
            Ok(fs::rename(&new, &self.path)?)
        };
        place().with_context(|| cannot_write(&self.path))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// A private temporary folder beside `path`. Files in it get their permissions from the user's umask.
fn private_temp_dir(path: &Path) -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix(".writing-").tempdir_in(parent_folder(path)?)?)
}

/// The metadata of a path, if it exists. A symbolic link is an error.
fn metadata_unless_link(path: &Path) -> anyhow::Result<Option<fs::Metadata>> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => {
            let target = fs::read_link(path).unwrap_or_default();
            bail!(
                "{shown} must not be a symbolic link, found one to {}; name its target, or remove the link first",
                target.display()
            )
        }
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot write {shown}")),
    }
}

/// The parent folder of a path; an error if it does not exist.
fn parent_folder(path: &Path) -> anyhow::Result<&Path> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "there is no folder {}: make it first", folder.display());
    Ok(folder)
}

/// The first bytes of a file; empty if it cannot be read.
pub fn first_bytes(path: &Path, bytes: usize) -> Vec<u8> {
    let mut first_bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes as u64).read_to_end(&mut first_bytes));
    if read.is_ok() { first_bytes } else { Vec::new() }
}

/// Whether a file begins with these bytes.
pub fn begins_with(path: &Path, bytes: &[u8]) -> bool {
    first_bytes(path, bytes.len()) == bytes
}

/// Most bytes that are read of a table's first line.
const LONGEST_LINE: u64 = 64 << 20;

/// Whether a file is CSV with these columns.
pub fn is_csv(path: &Path, columns: &[String]) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut reader = csv::Reader::from_reader(file.take(LONGEST_LINE));
    reader.headers().is_ok_and(|headers| headers.iter().eq(columns.iter().map(String::as_str)))
}

/// Whether a file is JSON Lines with these columns.
pub fn is_jsonl(path: &Path, columns: &[String]) -> bool {
    let mut line = Vec::new();
    let read = File::open(path)
        .and_then(|file| BufReader::new(file.take(LONGEST_LINE)).read_until(b'\n', &mut line));
    let row = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&line);
    read.is_ok() && row.is_ok_and(|row| row.keys().eq(columns))
}

/// Describes a table by its first columns, for errors.
pub fn describe_table(columns: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = columns.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    format!("table with the columns {shown}{}", if columns.len() > SHOWN { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn place(path: &Path) -> anyhow::Result<()> {
        let destination = Destination::new(path, "brew", |path| begins_with(path, b"brew"))?;
        destination.write_bytes(b"brew of glowvenom")
    }

    #[test]
    fn what_a_command_wrote_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for _ in 0..2 {
            place(&at("new")).unwrap();
        }
        fs::write(at("empty"), "").unwrap();
        place(&at("empty")).unwrap();
        assert_eq!(fs::read(at("empty")).unwrap(), b"brew of glowvenom");

        fs::write(at("mine"), "moonbane").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink(at("new"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::write(at("protected"), "brew").unwrap();
        fs::set_permissions(at("protected"), Permissions::from_mode(0o444)).unwrap();
        for (name, expected) in [
            (
                "mine",
                "must be new or an earlier brew, found another file; name another file, or remove it first",
            ),
            ("folder", "must be a file, found a folder; name a file for the brew"),
            ("folder/", "must be the name of a file"),
            ("link", "must not be a symbolic link, found one to "),
            ("dangling", "must not be a symbolic link, found one to "),
            ("protected", "must be writable, found a write-protected file"),
            ("none/brew", "there is no folder "),
        ] {
            let error = format!("{:#}", place(&at(name)).unwrap_err());
            assert!(error.contains(expected) && error.contains(name.trim_end_matches("/brew")), "{error}");
        }
        assert_eq!(fs::read(at("mine")).unwrap(), b"moonbane");
        assert!(at("link").is_symlink() && !at("nowhere").exists());
        assert_eq!(fs::read(at("protected")).unwrap(), b"brew");
        let error = place(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("must be a file, found a device"), "{error}");
    }

    #[test]
    fn force_replaces_files_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let place = |name: &str, force| {
            let overwrite = Overwrite { force };
            Destination::with_force(&at(name), "brew", overwrite, |_| false)?
                .write_bytes(b"brew of glowvenom")
        };
        fs::write(at("mine"), "moonbane").unwrap();
        let error = place("mine", false).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "found another file; name another file, remove it first, or replace it with --force"
            )
        );
        place("mine", true).unwrap();
        assert_eq!(fs::read(at("mine")).unwrap(), b"brew of glowvenom");

        fs::write(at("target"), "moonbane").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink("target", at("link")).unwrap();
        fs::write(at("protected"), "moonbane").unwrap();
        fs::set_permissions(at("protected"), Permissions::from_mode(0o444)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, expected) in [
            ("folder", "must be a file, found a folder"),
            ("link", "must not be a symbolic link, found one to target"),
            ("socket", "must be a file, found a device, a pipe or a socket"),
            ("protected", "write-protected"),
        ] {
            let error = place(name, true).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(fs::read(at("target")).unwrap(), b"moonbane");
        assert_eq!(fs::read(at("protected")).unwrap(), b"moonbane");
    }

    #[test]
    fn what_came_up_while_it_was_written_is_not_lost_even_with_force() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("brew"), folder.path().join("target"));
        fs::write(&target, "moonbane").unwrap();
        let destination =
            || Destination::with_force(&path, "brew", Overwrite { force: true }, |_| false).unwrap();
        let linked = destination().write(|new| {
            symlink(&target, &path).unwrap();
            Ok(fs::write(new, "glowvenom")?)
        });
        assert!(linked.is_err() && path.is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"moonbane");

        let made = folder.path().join("made");
        let filled = NewFolder::new(&made).unwrap().make(|new| {
            fs::create_dir_all(made.join("mine")).unwrap();
            Ok(fs::create_dir(new)?)
        });
        assert!(filled.is_err() && made.join("mine").is_dir());
        fs::remove_dir(made.join("mine")).unwrap();
        let make = |new: &Path| Ok(fs::create_dir_all(new.join("brew"))?);
        NewFolder::new(&made).unwrap().make(make).unwrap();
        assert!(made.join("brew").is_dir());
        assert!(NewFolder::new(&made).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside");
    }

    #[test]
    fn what_came_up_at_the_place_meanwhile_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("brew");
        let destination = Destination::new(&path, "brew", |path| begins_with(path, b"brew")).unwrap();
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is written before");
        fs::write(&path, "mine").unwrap();
        assert!(destination.write_bytes(b"brew").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        assert!(destination.write(|_| bail!("no fire")).is_err());
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "and nothing half is left");
    }

    #[test]
    fn a_table_is_known_by_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let columns = ["seed", "a, \"quoted\" one"].map(str::to_owned);
        fs::write(&path, "seed,\"a, \"\"quoted\"\" one\"\nbrew,1\n").unwrap();
        assert!(is_csv(&path, &columns) && !is_csv(&path, &columns[..1]) && !is_jsonl(&path, &columns));
        fs::write(&path, "{\"seed\":\"brew\",\"a, \\\"quoted\\\" one\":1}\n{\"torn").unwrap();
        assert!(is_jsonl(&path, &columns) && !is_jsonl(&path, &columns[..1]) && !is_csv(&path, &columns));
        assert!(!is_csv(&folder.path().join("none"), &columns));
    }
}
