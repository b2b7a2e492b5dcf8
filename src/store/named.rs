//! What the runs of a cache need, as their roots name it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Digest;
use super::line::sealed_lines;
use super::read::{self, MAX_LIST_BYTES};

/// What a run needs of one node: its record and its outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The key of the node's record.
    pub key: Digest,
    /// In the order of their indices.
    pub outputs: Vec<NamedOutput>,
}

/// An output that a run names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedOutput {
    /// The digest of its content.
    pub digest: Digest,
    /// The type of artifact.
    pub artifact: String,
    /// Whether a loop passes it on: it is needed only while the run is under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
}

/// The blobs that a run keeps, with the lengths of the files that they were read from.
#[derive(Default)]
pub(super) struct Kept {
    lengths: HashMap<PathBuf, u64>,
    pub(super) blobs: HashSet<Digest>,
}

/// By the names of the roots.
pub(super) type KeptBlobs = HashMap<OsString, Kept>;

impl Kept {
    pub(super) fn refresh(&mut self, root: &Path) -> io::Result<()> {
        for path in files_of(root)? {
            let length = fs::metadata(&path)?.len();
            if self.lengths.get(&path) == Some(&length) {
                continue;
            }
            let (named, length) = read_named(&path)?;
            let outputs = named.into_iter().flat_map(|named| named.outputs);
            self.blobs.extend(outputs.filter(|output| !output.passing).map(|output| output.digest));
            self.lengths.insert(path, length);
        }
        Ok(())
    }
}

/// The nodes that a file of a root names, and the file's length.
pub(super) fn read_named(path: &Path) -> io::Result<(Vec<Named>, u64)> {
    let text = read::bytes(path, MAX_LIST_BYTES)?;
    let named = sealed_lines(&text, |_| {}).filter_map(|line| serde_json::from_slice(line).ok());
    Ok((named.collect(), text.len() as u64))
}

/// The files of a root that name what the run needs.
pub(super) fn files_of(root: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(root)?.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).collect())
}
