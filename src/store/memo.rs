//! Remembered digests of large files outside the cache: `files.jsonl`, a sealed line for each file and state. A file with the
//! same size, times and inode is not read again.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Digest;
use super::digest::is_executable;
use super::line::{seal, sealed_lines};
use super::mutex::lock;
use super::publish::write_durably_as;
use super::read::{self, MAX_LIST_BYTES};
use super::sharing::Sharing;

/// Smaller files are read faster than they are looked up.
const FROM_BYTES: u64 = 1 << 20;

/// The least age of a change in nanoseconds. A younger file may change again without a change of its times: two writes within one
/// tick of the file system's clock have the same time. So may a file whose times lie in the future.
const SETTLED_NANOSECONDS: i128 = 2_000_000_000;

/// The metadata that changes when a file changes. Without ctime, which a new link changes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    size: u64,
    modified: i128,
    device: u64,
    inode: u64,
    /// An executable file has another digest.
    executable: bool,
}

#[derive(Serialize, Deserialize)]
struct Line {
    path: PathBuf,
    state: State,
    digest: Digest,
}

pub(crate) struct Memo {
    path: PathBuf,
    /// Read when the first large file is asked for.
    known: Option<HashMap<PathBuf, (State, Digest)>>,
}

/// The digest of a file. `paranoid` ignores what is remembered. Other threads do not wait while the file is read.
pub(crate) fn digest(
    memo: &Mutex<Memo>,
    path: &Path,
    paranoid: bool,
    sharing: Sharing,
) -> io::Result<Digest> {
    let before = fs::metadata(path)?;
    if before.len() < FROM_BYTES {
        return Digest::of_file(path);
    }
    let (path, state) = (fs::canonicalize(path)?, State::of(&before));
    let known = lock(memo).known().get(&path).filter(|(known, _)| *known == state).map(|(_, digest)| *digest);
    if let Some(digest) = known.filter(|_| !paranoid) {
        return Ok(digest);
    }
    let digest = Digest::of_file(&path)?;
    let unchanged = State::of(&fs::metadata(&path)?) == state;
    if unchanged && state.is_settled(SystemTime::now()) && known != Some(digest) {
        let mut memo = lock(memo);
        memo.known().insert(path.clone(), (state, digest));
        // A digest that cannot be remembered is computed again.
        let _ = append(&memo.path, &Line { path, state, digest }, sharing);
    }
    Ok(digest)
}

impl Memo {
    pub(crate) fn new(root: &Path) -> Memo {
        Memo { path: root.join("files.jsonl"), known: None }
    }

    fn known(&mut self) -> &mut HashMap<PathBuf, (State, Digest)> {
        self.known.get_or_insert_with(|| remembered(&self.path))
    }

    /// Rewrites the file if most of its lines are about files that are gone or have changed.
    pub(crate) fn compact(&mut self, scratch: &Path, sharing: Sharing) -> io::Result<()> {
        let text = match read::bytes(&self.path, MAX_LIST_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        let mut known = remembered(&self.path);
        known.retain(|path, (state, _)| {
            // A file that cannot be seen from here may be seen from another host or container.
            match fs::metadata(path) {
                Ok(metadata) => State::of(&metadata) == *state,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            }
        });
        if sealed_lines(&text, |_| {}).count() < 2 * known.len().max(1) {
            return Ok(());
        }
        let mut lines = String::new();
        for (path, (state, digest)) in &known {
            let line = Line { path: path.clone(), state: *state, digest: *digest };
            lines += &(seal(&line).map_err(io::Error::other)? + "\n");
        }
        self.known = Some(known);
        // Lines that other processes append meanwhile are lost; those files are hashed again.
        write_durably_as(&self.path, lines.as_bytes(), sharing.file, scratch)
    }
}

impl State {
    fn of(metadata: &Metadata) -> State {
        State {
            size: metadata.len(),
            modified: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
            executable: is_executable(metadata),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        self.modified + SETTLED_NANOSECONDS < now
    }
}

fn remembered(path: &Path) -> HashMap<PathBuf, (State, Digest)> {
    let text = read::bytes(path, MAX_LIST_BYTES).unwrap_or_default();
    let lines = sealed_lines(&text, |_| {}).filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines.map(|line| (line.path, (line.state, line.digest))).collect()
}

fn append(path: &Path, line: &Line, sharing: Sharing) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = File::options().create(true).append(true).open(path)?;
    if is_new {
        sharing.set(&file, sharing.file)?;
    }
    // The empty line ends one that a crash cut short.
    file.write_all(format!("\n{}\n", seal(line).map_err(io::Error::other)?).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_that_changed_just_now_or_in_the_future_is_not_settled() {
        let state = State { size: 1, modified: 50_000_000_000, device: 0, inode: 0, executable: false };
        let at = |seconds| state.is_settled(UNIX_EPOCH + Duration::from_secs(seconds));
        assert!(!at(51), "a second ago");
        assert!(!at(10), "the clock was set back");
        assert!(at(60));
    }

    #[test]
    fn a_remembered_file_is_not_read_again_unless_it_changed_or_paranoia_asks() {
        let folder = tempfile::tempdir().unwrap();
        let sharing = Sharing::of(folder.path()).unwrap();
        let path = fs::canonicalize(folder.path()).unwrap().join("large");
        fs::write(&path, vec![7; 2 << 20]).unwrap();
        let truth = Digest::of_file(&path).unwrap();
        let wrong = Digest::of_bytes(b"something else");
        let state = State::of(&fs::metadata(&path).unwrap());
        append(
            &folder.path().join("files.jsonl"),
            &Line { path: path.clone(), state, digest: wrong },
            sharing,
        )
        .unwrap();
        let digest = |paranoid| {
            let memo = Mutex::new(Memo::new(folder.path()));
            super::digest(&memo, &path, paranoid, sharing).unwrap()
        };
        assert_eq!(digest(false), wrong, "remembered");
        assert_eq!(digest(true), truth);
        let mut bytes = fs::read(&path).unwrap();
        bytes[5] = 8;
        fs::write(&path, bytes).unwrap();
        assert_eq!(digest(false), Digest::of_file(&path).unwrap());
    }

    #[test]
    fn what_is_remembered_of_files_that_are_gone_or_changed_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let sharing = Sharing::of(folder.path()).unwrap();
        let at = |name: &str| fs::canonicalize(folder.path()).unwrap().join(name);
        let file = at("files.jsonl");
        fs::write(at("kept"), "potion").unwrap();
        let state = State::of(&fs::metadata(at("kept")).unwrap());
        let other = State { size: 1, ..state };
        for (name, state) in [("gone", state), ("kept", other), ("gone too", state), ("kept", state)] {
            let digest = Digest::of_bytes(name.as_bytes());
            append(&file, &Line { path: at(name), state, digest }, sharing).unwrap();
        }
        Memo::new(folder.path()).compact(folder.path(), sharing).unwrap();
        let known = remembered(&file);
        assert_eq!(known.len(), 1);
        assert_eq!(known[&at("kept")], (state, Digest::of_bytes(b"kept")));
        let before = fs::read(&file).unwrap();
        Memo::new(folder.path()).compact(folder.path(), sharing).unwrap();
        assert_eq!(fs::read(&file).unwrap(), before, "nothing to drop");
    }
}
