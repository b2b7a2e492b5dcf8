//! The records of runs. A run that cannot be read is left out with a warning.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use runs::Run;

/// The warning about a run that is left out, with advice.
pub(crate) fn unreadable(folder: &Path, error: &anyhow::Error) -> String {
    format!("{} is left out: {error:#}; `triplay runs rm {}` removes it", folder.display(), folder.display())
}

/// The records of runs; those that cannot be read are left out with a warning.
pub(crate) fn records<T: Send>(
    folders: &[PathBuf],
    read: impl Fn(&Path) -> anyhow::Result<T> + Sync,
) -> (Vec<T>, Vec<String>) {
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    let all: Vec<anyhow::Result<T>> = folders.par_iter().map(|folder| read(folder)).collect();
    for (folder, one) in folders.iter().zip(all) {
        match one {
            Ok(one) => found.push(one),
            Err(error) => warnings.push(unreadable(folder, &error)),
        }
    }
    (found, warnings)
}

/// Reads only a run's record.
pub(crate) fn record(folder: &Path) -> anyhow::Result<Run> {
    let record = Run::read_record(folder)?;
    Ok(Run { folder: folder.to_owned(), record, nodes: Vec::new(), ablation: None, damaged: 0 })
}
