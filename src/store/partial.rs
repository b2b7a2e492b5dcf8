//! What a command has written of its outputs, kept if the command does not succeed: `failed/RUN/NODE/OUTPUT`. A list of the
//! outputs lies in the folder of the stage, so that they are also kept if triplay is killed: by the next process that clears up.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::read::{self, MAX_TEXT_BYTES};
use super::removal::{remove, unprotect};

/// The list in the folder of a stage. No output has a name with a dot.
const FILE: &str = ".partial.json";

/// The outputs of a command that has not succeeded yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct PartialOutputs {
    /// The node.
    pub node: String,
    /// The folder in which the command runs, in that of the stage.
    folder: PathBuf,
    /// Where the outputs are kept, in the cache: `failed/RUN/NODE`.
    kept: PathBuf,
    outputs: Vec<PartialOutput>,
    #[serde(skip)]
    cache: PathBuf,
    /// The folder of the stage.
    #[serde(skip)]
    workspace: PathBuf,
}

/// One of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct PartialOutput {
    /// Its name, by which it is taken into the folder of the stage when the command ends.
    pub name: String,
    /// Its path in the folder of the command.
    pub path: PathBuf,
}

impl PartialOutputs {
    /// Lists the outputs in the folder of a stage, `workspace`. `folder` and `kept` are paths in the workspace and in the cache.
    pub fn list(
        cache: &Path,
        workspace: &Path,
        node: &str,
        folder: &Path,
        kept: &Path,
        outputs: Vec<PartialOutput>,
    ) -> io::Result<PartialOutputs> {
        let within = |path: &Path, folder: &Path| path.strip_prefix(folder).unwrap_or(path).to_owned();
        let partial = PartialOutputs {
            node: node.to_owned(),
            folder: within(folder, workspace),
            kept: within(kept, cache),
            outputs,
            cache: cache.to_owned(),
            workspace: workspace.to_owned(),
        };
        fs::write(workspace.join(FILE), serde_json::to_vec(&partial)?)?;
        Ok(partial)
    }

    /// The list of a process that is gone; `None` if there is none that triplay can have written for this user.
    fn read(cache: &Path, workspace: &Path) -> Option<PartialOutputs> {
        let is_own = [workspace, &workspace.join(FILE)].into_iter().all(is_own);
        let text = read::bytes(&workspace.join(FILE), MAX_TEXT_BYTES).ok()?;
        let partial: PartialOutputs = serde_json::from_slice(&text).ok()?;
        let is_plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let names = partial.outputs.iter().map(|output| Path::new(&output.name));
        let is_sound = is_own
            && is_plain(&partial.kept)
            && partial.kept.starts_with("failed")
            && is_plain(&partial.folder)
            && names.clone().all(|name| is_plain(name) && name.components().count() == 1);
        is_sound.then(|| PartialOutputs { cache: cache.into(), workspace: workspace.into(), ..partial })
    }

    /// Moves what there is to the place where it is kept. Returns the name and the place of each output, and whether it is from
    /// this attempt or from an earlier one.
    pub fn keep(&self) -> Vec<(&str, PathBuf, bool)> {
        let place = |output: &PartialOutput| self.cache.join(&self.kept).join(&output.name);
        let outputs = self.outputs.iter().map(|output| (&*output.name, place(output), self.keep_one(output)));
        outputs.filter(|(_, place, is_new)| *is_new || place.exists()).collect()
    }

    /// Returns whether there was something, and it is kept.
    fn keep_one(&self, output: &PartialOutput) -> bool {
        // Other users of the cache may have put a link there.
        let Ok(kept) = read::inside(&self.cache, &self.kept.join(&output.name).to_string_lossy()) else {
            return false;
        };
        let taken = self.workspace.join(&output.name);
        // A link may lead anywhere. What it leads to in the folder is what the command meant.
        let folder = fs::canonicalize(self.workspace.join(&self.folder)).unwrap_or_default();
        let written = fs::canonicalize(folder.join(&output.path)).ok();
        let written = written.filter(|path| path.starts_with(&folder) && *path != folder);
        let is_taken = taken.symlink_metadata().is_ok_and(|there| !there.is_symlink());
        let from = if is_taken { Some(taken) } else { written };
        from.is_some_and(|from| move_to(&from, &kept).is_ok())
    }
}

/// Moves what a command wrote, which may be write-protected. What an earlier attempt left there is replaced.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        unprotect(from);
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    // No output has a name with a dot. The earlier one is lost only when the new one is in its place.
    let earlier = to.with_file_name(format!(".earlier-{name}"));
    if to.symlink_metadata().is_ok() {
        if earlier.symlink_metadata().is_ok() {
            remove(&earlier)?;
        }
        fs::rename(to, &earlier)?;
    }
    match fs::rename(from, to) {
        Ok(()) if earlier.symlink_metadata().is_ok() => remove(&earlier),
        Err(error) => {
            let _ = fs::rename(&earlier, to);
            Err(error)
        }
        moved => moved,
    }
}

/// Whether a file or folder, and no link, belongs to the user of this process.
fn is_own(path: &Path) -> bool {
    let there = fs::symlink_metadata(path);
    there.is_ok_and(|there| !there.is_symlink() && there.uid() == rustix::process::geteuid().as_raw())
}

/// Whether a process of another user, which is gone, had outputs to keep: that user keeps them.
pub(super) fn is_of_another(folder: &Path) -> bool {
    let mut workspaces = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    !is_own(folder) && workspaces.any(|workspace| workspace.join(FILE).exists())
}

/// Keeps the outputs of the commands of a process that is gone; `folder` is its folder below `tmp/`. Returns a line for each.
pub(super) fn keep_partial(cache: &Path, folder: &Path) -> Vec<String> {
    let workspaces = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut lines = Vec::new();
    for partial in workspaces.filter_map(|workspace| PartialOutputs::read(cache, &workspace)) {
        let kept = partial.keep().into_iter().filter(|(_, _, is_new)| *is_new);
        lines.extend(kept.map(|(name, place, _)| {
            format!(
                "what {} had written of `{name}` when its process was killed: {}",
                partial.node,
                place.display()
            )
        }));
    }
    lines
}
