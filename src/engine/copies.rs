//! Private copies of the user's small files and folders. A run makes them before it executes anything, so that a script may be
//! saved while the run is under way: the run goes on with the content that its keys name.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::stage::{FileChanged, Transient};
use anyhow::anyhow;
use store::{Digest, Selection, Store, files_below};

/// Larger files are read where they are, and verified again when the stage has ended. A command copies them when it starts.
const MOST_BYTES: u64 = 16 << 20;

/// The most bytes that all copies have. The smallest files are copied first.
const MOST_BYTES_OF_ALL: u64 = 256 << 20;

/// The folder of the copies, in that of the process: `copies/DIGEST/NAME`.
const FOLDER: &str = "copies";

/// The files of a source by their paths in it.
type Files = Vec<(String, PathBuf)>;

/// What is copied.
pub(super) struct Source<'a> {
    pub path: &'a Path,
    pub selection: &'a Selection,
    pub digest: Digest,
}

/// The copies of a process, which last as long as the process.
#[derive(Default)]
pub(super) struct PrivateCopies {
    /// By the path and the content of the original.
    copies: BTreeMap<(PathBuf, Digest), PathBuf>,
}

impl PrivateCopies {
    /// Copies the small ones among `sources`. `from` is the folder of another process that may have copied them before. A source
    /// that has another content by now is an error; one that cannot be copied is left to the stage that reads it.
    pub(crate) fn make<'a>(
        store: &Store,
        sources: impl Iterator<Item = Source<'a>>,
        from: Option<&Path>,
    ) -> anyhow::Result<PrivateCopies> {
        let mut sized: Vec<(u64, Files, Source)> = Vec::new();
        for source in sources {
            if let Ok(files) = files_of(source.path, Some(source.selection)) {
                let bytes =
                    files.iter().filter_map(|(_, file)| fs::metadata(file).ok()).map(|file| file.len());
                sized.push((bytes.sum(), files, source));
            }
        }
        sized.sort_by_key(|(bytes, ..)| *bytes);
        let (mut made, mut total) = (PrivateCopies::default(), 0);
        for (bytes, files, source) in sized {
            total += bytes;
            if bytes > MOST_BYTES || total > MOST_BYTES_OF_ALL {
                break;
            }
            let folder = store.scratch()?.join(FOLDER);
            let copy = place(&folder, &source);
            if !is_of(&copy, source.digest) {
                let _ = if copy.is_dir() { fs::remove_dir_all(&copy) } else { fs::remove_file(&copy) };
                let before = from.map(|from| place(from, &source)).filter(|before| before.exists());
                let files = before.and_then(|before| files_of(&before, None).ok()).unwrap_or(files);
                if copy_files(&files, &copy).is_err() {
                    continue;
                }
                if !is_of(&copy, source.digest) {
                    return Err(FileChanged::before_it_was_read(source.path).into());
                }
            }
            made.copies.insert((source.path.to_owned(), source.digest), copy);
        }
        Ok(made)
    }

    /// The copy of a user's file or folder. It holds what counts of the original and nothing else.
    pub(crate) fn of(&self, path: &Path, digest: Digest) -> Option<&Path> {
        self.copies.get(&(path.to_owned(), digest)).map(PathBuf::as_path)
    }

    /// The error of a stage with the names of the originals in place of the copies'.
    pub(crate) fn with_own_names(&self, error: anyhow::Error) -> anyhow::Error {
        let mut text = format!("{error:#}");
        let before = text.len();
        for ((original, _), copy) in &self.copies {
            if let Some(copy) = copy.to_str().filter(|copy| text.contains(copy)) {
                text = text.replace(copy, &original.to_string_lossy());
            }
        }
        match (text.len() == before, Transient::is(&error)) {
            (true, _) => error,
            (false, true) => Transient::of(anyhow!(text)),
            (false, false) => anyhow!(text),
        }
    }
}

/// The folder of a process's copies, for another process.
pub(super) fn folder(store: &Store) -> store::Result<PathBuf> {
    Ok(store.scratch()?.join(FOLDER))
}

/// Where the copy of a source is. It has the name of the original, since some readers go by the ending.
fn place(folder: &Path, source: &Source) -> PathBuf {
    let name = source.path.file_name().unwrap_or("folder".as_ref());
    folder.join(source.digest.to_string()).join(name)
}

fn is_of(copy: &Path, digest: Digest) -> bool {
    Digest::of_path(copy).is_ok_and(|found| found == digest)
}

/// Its files by their paths in it. A file itself has an empty path.
fn files_of(path: &Path, selection: Option<&Selection>) -> io::Result<Files> {
    match path.is_dir() {
        true => files_below(path, selection),
        false => Ok(vec![(String::new(), path.to_owned())]),
    }
}

/// The kernel makes the copies reflinks on file systems that have them.
fn copy_files(files: &[(String, PathBuf)], to: &Path) -> io::Result<()> {
    if files.iter().all(|(name, _)| !name.is_empty()) {
        fs::create_dir_all(to)?;
    }
    for (name, file) in files {
        let to = if name.is_empty() { to.to_owned() } else { to.join(name) };
        fs::create_dir_all(to.parent().unwrap_or(&to))?;
        store::read::open(file)?;
        fs::copy(file, &to)?;
    }
    Ok(())
}
