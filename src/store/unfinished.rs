//! What a stage that has not succeeded yet leaves for its next attempt, such as checkpoints: `unfinished/KEY/content`. The run
//! that worked on it last is in `unfinished/KEY/run`. A process that writes there has claimed the key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Digest;
use super::claim::Claimed;
use super::disk::Store;
use super::error::{Result, io_error};
use super::read::{self, MAX_TEXT_BYTES};
use super::removal::remove;
use super::roots::BY_HAND;

const FOLDER: &str = "unfinished";
const RUN: &str = "run";

impl Store {
    /// The folder in which attempts at a key leave something for the next one. It is created if it is missing.
    pub fn unfinished(&self, key: &Digest, run: &str) -> Result<PathBuf> {
        let folder = self.root.join(FOLDER).join(key.to_string());
        let content = folder.join("content");
        self.create_folders(&content).map_err(io_error("create", &content))?;
        self.write_shared(&folder.join(RUN), run.as_bytes())?;
        Ok(content)
    }

    /// Removes that folder once the key is recorded.
    pub fn remove_unfinished(&self, key: &Digest) -> Result<()> {
        self.discard_unfinished(&self.root.join(FOLDER).join(key.to_string()))
    }

    /// Removes the folders that no attempt will use: those of recorded keys, and those of runs that are gone.
    pub(super) fn collect_unfinished(&self) -> Result<()> {
        for entry in fs::read_dir(self.root.join(FOLDER)).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            // Nobody begins to use the folder while this claim is held.
            let Claimed::Mine(_claim) = self.claim(&name)? else { continue };
            let run = read::text(&path.join(RUN), MAX_TEXT_BYTES).unwrap_or_default();
            let is_recorded = name.parse().is_ok_and(|key| self.record(&key, |_| Some(())).is_some());
            if is_recorded || !self.has_root(&run) && run != BY_HAND {
                self.discard_unfinished(&path)?;
            }
        }
        Ok(())
    }

    /// Removes such a folder as a whole: no attempt may find a part of it.
    fn discard_unfinished(&self, folder: &Path) -> Result<()> {
        if !folder.exists() {
            return Ok(());
        }
        let doomed =
            self.scratch()?.join(format!("{FOLDER}-{}", folder.file_name().unwrap_or_default().display()));
        let discard = || match fs::rename(folder, &doomed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| remove(&doomed)),
        };
        discard().map_err(io_error("remove", folder))
    }
}
