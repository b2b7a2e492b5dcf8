//! The answers of a node, kept as they come, by the digest of what was asked: the next try goes on where this one ended. A sealed
//! line an answer, in one file that grows by appending. A process that is killed loses no answer that was appended, a machine
//! that loses power at most those of the last 100 ms.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::{Digest, is_sealed, read, seal};

use super::served::Usage;
use super::trouble::Trouble;

/// The file's name.
const FILE: &str = "answers.jsonl";

/// How often answers are made durable while they come.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers by the digest of what was asked.
pub struct Journal {
    inner: Arc<Lines>,
    /// Ends the thread that makes answers durable, and the thread.
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
}

/// The part of a journal that tasks share.
pub(crate) struct Lines {
    path: PathBuf,
    /// Reads and appends.
    file: File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the line of each answer is, and how long it is. The answers themselves stay in the file.
    lines: HashMap<Digest, (u64, u32)>,
    end: u64,
    /// Whether something was appended since it was last made durable.
    dirty: bool,
    /// Why making durable failed in the background.
    failed: Option<String>,
}

/// A line.
#[derive(Serialize)]
struct Kept<'a, A> {
    asked: Digest,
    answer: &'a A,
    usage: Usage,
}

#[derive(Deserialize)]
struct Asked {
    asked: Digest,
}

#[derive(Deserialize)]
struct Found<A> {
    answer: A,
    usage: Usage,
}

impl Journal {
    /// Opens the journal in a folder, or begins one. An incomplete line at its end is cut off; a damaged line elsewhere counts as
    /// absent.
    pub fn open(folder: &Path) -> Result<Journal, Trouble> {
        let path = folder.join(FILE);
        let trouble = |error: io::Error| Trouble::journal(&path, &error);
        std::fs::create_dir_all(folder).map_err(trouble)?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(trouble)?;
        // On a file system without locks, that one process at a time computes a key has to do.
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(Trouble::journal(&path, &"another process writes it"));
        }
        let state = scan(&file).map_err(trouble)?;
        file.set_len(state.end).map_err(trouble)?;
        // The names of the file and its folder.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(trouble)?;
        let inner = Arc::new(Lines { path, file, state: Mutex::new(state) });
        let (end, ended) = mpsc::channel();
        let kept = inner.clone();
        let keeper = std::thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PAUSE) {
                kept.make_durable();
            }
        });
        Ok(Journal { inner, keeper: Some((end, keeper)) })
    }

    /// The number of answers.
    pub fn len(&self) -> usize {
        self.inner.state().lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lines, for the tasks that append.
    pub(crate) fn lines(&self) -> Arc<Lines> {
        self.inner.clone()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some((end, keeper)) = self.keeper.take() {
            drop(end);
            let _ = keeper.join();
        }
        self.inner.make_durable();
        // At once, even if a task still has the file.
        let _ = flock(&self.inner.file, FlockOperation::Unlock);
    }
}

impl Lines {
    /// The answer to what has this digest, and what it had cost.
    pub(crate) fn find<A: DeserializeOwned>(&self, asked: Digest) -> Result<Option<(A, Usage)>, Trouble> {
        let Some(&(at, length)) = self.state().lines.get(&asked) else { return Ok(None) };
        let mut line = vec![0; length as usize];
        self.file.read_exact_at(&mut line, at).map_err(|error| self.trouble(&error))?;
        // Verified when the journal was opened, and again now, for the disk's sake.
        if !is_sealed(&line) {
            return Ok(None);
        }
        let found: Found<A> = serde_json::from_slice(&line).map_err(|error| self.trouble(&error))?;
        Ok(Some((found.answer, found.usage)))
    }

    /// Appends an answer. It survives the end of this process at once, and that of the machine 100 ms later.
    pub(crate) fn append<A: Serialize>(
        &self,
        asked: Digest,
        answer: &A,
        usage: Usage,
    ) -> Result<(), Trouble> {
        let mut line = seal(&Kept { asked, answer, usage }).map_err(|error| self.trouble(&error))?;
        line.push('\n');
        let mut state = self.state();
        if let Some(why) = &state.failed {
            return Err(self.trouble(why));
        }
        if let Err(error) = (&self.file).write_all(line.as_bytes()) {
            // Not even half a line stays, or the next would be unreadable.
            let _ = self.file.set_len(state.end);
            return Err(self.trouble(&error));
        }
        let at = state.end;
        state.lines.insert(asked, (at, line.len() as u32 - 1));
        state.end += line.len() as u64;
        state.dirty = true;
        Ok(())
    }

    /// Makes all answers durable.
    pub(crate) fn sync(&self) -> Result<(), Trouble> {
        self.make_durable();
        match &self.state().failed {
            Some(why) => Err(self.trouble(why)),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, why: &dyn std::fmt::Display) -> Trouble {
        Trouble::journal(&self.path, why)
    }

    fn make_durable(&self) {
        if std::mem::take(&mut self.state().dirty)
            && let Err(error) = self.file.sync_data()
        {
            // After a failure, nobody knows what is on the disk.
            self.state().failed.get_or_insert_with(|| error.to_string());
        }
    }
}

/// Reads where the lines are.
fn scan(file: &File) -> io::Result<State> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    reader.seek(SeekFrom::Start(0))?;
    let (mut state, mut line) = (State::default(), Vec::new());
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if line.len() as u64 > read::MAX_PARTS_BYTES {
            return Err(io::Error::other("a line is larger than any answer"));
        }
        if line.pop() != Some(b'\n') {
            // The end, or a line that was being written.
            return Ok(state);
        }
        if is_sealed(&line)
            && let Ok(Asked { asked }) = serde_json::from_slice(&line)
        {
            state.lines.insert(asked, (state.end, line.len() as u32));
        }
        state.end += line.len() as u64 + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(row: u32) -> Digest {
        Digest::of_bytes(&row.to_le_bytes())
    }

    fn answers(folder: &Path, rows: std::ops::Range<u32>) -> Vec<Option<String>> {
        let journal = Journal::open(folder).unwrap();
        rows.map(|row| Some(journal.lines().find::<String>(digest(row)).unwrap()?.0)).collect()
    }

    #[test]
    fn what_was_appended_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        for row in 0..100 {
            journal.lines().append(digest(row), &format!("glowvenom {row}"), Usage::default()).unwrap();
        }
        assert_eq!(journal.lines().find::<String>(digest(7)).unwrap().unwrap().0, "glowvenom 7");
        assert!(matches!(Journal::open(folder.path()), Err(Trouble::Journal { .. })), "two writers");
        drop(journal);
        let found = answers(folder.path(), 0..101);
        assert!(found[..100].iter().all(Option::is_some) && found[100].is_none());
    }

    #[test]
    fn a_torn_end_is_cut_and_a_damaged_line_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        (0..10).for_each(|row| {
            journal.lines().append(digest(row), &"frost".to_owned(), Usage::default()).unwrap()
        });
        drop(journal);
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in [1, 2, 40, 100] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(answers(folder.path(), 0..10).iter().flatten().count(), 9, "{cut}");
            let journal = Journal::open(folder.path()).unwrap();
            journal.lines().append(digest(9), &"again".to_owned(), Usage::default()).unwrap();
            drop(journal);
            assert_eq!(answers(folder.path(), 0..10).iter().flatten().count(), 10, "{cut}");
        }
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(answers(folder.path(), 0..10).iter().flatten().count(), 9);
    }

    #[test]
    fn numbers_are_read_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<f32> = (0..10_000u32).map(|i| f32::from_bits(0x3dcc_0000 + i * 7919)).collect();
        let journal = Journal::open(folder.path()).unwrap();
        journal.lines().append(digest(0), &numbers, Usage::default()).unwrap();
        let (found, _) = journal.lines().find::<Vec<f32>>(digest(0)).unwrap().unwrap();
        assert!(found.iter().zip(&numbers).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
