//! What commands have written before they failed or were interrupted. It is moved to a place that lasts as long as the run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::unprotect;

/// The outputs of a command that has not succeeded yet.
pub(crate) struct Unfinished(Arc<Written>);

struct Written {
    /// The node.
    name: String,
    /// The folder in which the command runs.
    folder: PathBuf,
    outputs: Vec<Place>,
    /// The folder that the next attempt finds again.
    keep: Option<String>,
}

/// Where an output is.
pub(crate) struct Place {
    pub name: String,
    /// Where the command writes it.
    pub written: PathBuf,
    /// Where triplay takes it.
    pub taken: PathBuf,
    /// Where it is kept if the stage does not succeed.
    pub kept: PathBuf,
}

/// Those at work in this process.
static AT_WORK: Mutex<Vec<Arc<Written>>> = Mutex::new(Vec::new());

fn at_work() -> MutexGuard<'static, Vec<Arc<Written>>> {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unfinished {
    /// Keeps these outputs of a node if the process is interrupted before this is dropped.
    pub(crate) fn new(node: &str, folder: &Path, outputs: Vec<Place>, keep: Option<&String>) -> Unfinished {
        let (name, folder, keep) = (node.to_owned(), folder.to_owned(), keep.cloned());
        let written = Arc::new(Written { name, folder, outputs, keep });
        at_work().push(written.clone());
        Unfinished(written)
    }

    /// Keeps what there is, and returns a line for each output.
    pub(crate) fn keep(&self) -> Vec<String> {
        self.0.keep("it")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        at_work().retain(|written| !Arc::ptr_eq(written, &self.0));
    }
}

impl Written {
    fn keep(&self, who: &str) -> Vec<String> {
        let kept = self.outputs.iter().filter(|place| self.keep_at(place));
        let line =
            |place: &Place| format!("what {who} had written of `{}`: {}", place.name, place.kept.display());
        kept.map(line).collect()
    }

    /// What the interrupted command finds again, if it keeps a folder.
    fn finds_again(&self) -> Option<String> {
        let keep = self.keep.as_ref()?;
        Some(format!("{} finds what it left in `{keep}` when it begins again", self.name))
    }

    /// Returns whether there was something, and it is kept.
    fn keep_at(&self, place: &Place) -> bool {
        // A link may lead anywhere. What it leads to in the folder is what the command meant.
        let folder = fs::canonicalize(&self.folder).unwrap_or_default();
        let written =
            fs::canonicalize(&place.written).ok().filter(|path| path.starts_with(&folder) && *path != folder);
        let from = if place.taken.exists() { Some(place.taken.clone()) } else { written };
        from.is_some_and(|from| move_to(&from, &place.kept).is_ok())
    }
}

/// Moves what a command wrote, which may be write-protected. What an earlier attempt left there is replaced.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    if to.is_dir() {
        unprotect(to);
        fs::remove_dir_all(to)?;
    } else if to.exists() {
        fs::remove_file(to)?;
    }
    if from.is_dir() {
        unprotect(from);
    }
    fs::rename(from, to)
}

/// Keeps what commands of this process have written that are at work. The process is about to end. Returns a line for each output,
/// and for each folder that a command finds again.
pub fn keep_unfinished() -> Vec<String> {
    let lines = |written: &Arc<Written>| {
        written.keep(&written.name).into_iter().chain(written.finds_again()).collect::<Vec<_>>()
    };
    at_work().iter().flat_map(lines).collect()
}
