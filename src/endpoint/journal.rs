//! The answers of a node, kept as they come, by the digest of what was asked: the next try goes on where this one ended. Each answer
//! is a sealed line, and so is each failure that took tokens, in one file that grows by appending. A process that is killed loses no
//! answer that was appended, a machine that loses power at most those of the last 100 ms.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use store::{Digest, is_sealed, read, seal};

use super::question::Model;
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
    /// What failures took, by the digest of what was asked.
    lost: HashMap<Digest, Usage>,
    /// What all lines took, by endpoint.
    spent: HashMap<String, Usage>,
    /// The names of the models that answered, by what was asked.
    answered: Vec<(Model, String)>,
    end: u64,
    /// Whether something was appended since it was last made durable.
    dirty: bool,
    /// Why making durable failed in the background.
    failed: Option<String>,
}

/// A line: what was asked, what it took, and the answer if there is one.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line<A> {
    pub asked: Digest,
    /// The name of the endpoint in the site file: a budget is that of an endpoint.
    #[serde(default)]
    pub endpoint: String,
    /// The model that was asked, unless its files are known. What is behind a name may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// The name of the model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
    #[serde(default)]
    pub usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<A>,
}

impl State {
    /// Adds a line of some bytes at the end.
    fn add<A>(&mut self, line: Line<A>, length: usize) {
        match line.answer {
            Some(_) => drop(self.lines.insert(line.asked, (self.end, length as u32))),
            None => *self.lost.entry(line.asked).or_default() += line.usage,
        }
        *self.spent.entry(line.endpoint).or_default() += line.usage;
        if let (Some(model), Some(answered)) = (line.model, line.answered) {
            let pair = (model, answered);
            if !self.answered.contains(&pair) {
                self.answered.push(pair);
            }
        }
    }
}

impl Journal {
    /// Opens the journal in a folder, or begins one; whoever may write the folder may write the journal. An incomplete line at its
    /// end is cut off; a damaged line elsewhere counts as absent.
    pub fn open(folder: &Path) -> Result<Journal, Trouble> {
        let path = folder.join(FILE);
        let trouble = |error: io::Error| Trouble::journal(&path, &error);
        let file = open_as_folder(&path, folder).map_err(trouble)?;
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
        // Another version of triplay may have written it.
        let Ok(line) = serde_json::from_slice::<Line<A>>(&line) else { return Ok(None) };
        Ok(line.answer.map(|answer| (answer, line.usage)))
    }

    /// What failures to answer this took.
    pub(crate) fn lost(&self, asked: Digest) -> Usage {
        self.state().lost.get(&asked).copied().unwrap_or_default()
    }

    /// What all that was asked through an endpoint took.
    pub(crate) fn spent(&self, endpoint: &str) -> Usage {
        self.state().spent.get(endpoint).copied().unwrap_or_default()
    }

    /// The names of the models that answered for a model.
    pub(crate) fn answered(&self, model: &Model) -> Vec<String> {
        let state = self.state();
        state.answered.iter().filter(|(asked, _)| asked == model).map(|(_, name)| name.clone()).collect()
    }

    /// Appends a line. It survives the end of this process at once, and that of the machine 100 ms later.
    pub(crate) fn append<A: Serialize>(&self, line: Line<&A>) -> Result<(), Trouble> {
        let mut written = seal(&line).map_err(|error| self.trouble(&error))?;
        written.push('\n');
        let mut state = self.state();
        if let Some(why) = &state.failed {
            return Err(self.trouble(why));
        }
        if let Err(error) = (&self.file).write_all(written.as_bytes()) {
            // Not even half a line stays, or the next would be unreadable.
            let _ = self.file.set_len(state.end);
            return Err(self.trouble(&error));
        }
        state.add(line, written.len() - 1);
        state.end += written.len() as u64;
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

/// Opens a file for appending, and creates it with the permissions of its folder if it is missing: a cache may be a group's.
fn open_as_folder(path: &Path, folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
        Ok(file) => {
            let mode = std::fs::metadata(folder)?.mode() & 0o666 | 0o600;
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
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
            && let Ok(scanned) = serde_json::from_slice::<Line<IgnoredAny>>(&line)
        {
            state.add(scanned, line.len());
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

    fn line<A>(row: u32, answer: &A) -> Line<&A> {
        let usage = Usage { prompt_tokens: 1, completion_tokens: 0 };
        let endpoint = "tower".to_owned();
        Line { asked: digest(row), endpoint, model: None, answered: None, usage, answer: Some(answer) }
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
            journal.lines().append(line(row, &format!("glowvenom {row}"))).unwrap();
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
        (0..10).for_each(|row| journal.lines().append(line(row, &"frost".to_owned())).unwrap());
        drop(journal);
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in [1, 2, 40, 100] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(answers(folder.path(), 0..10).iter().flatten().count(), 9, "{cut}");
            let journal = Journal::open(folder.path()).unwrap();
            journal.lines().append(line(9, &"again".to_owned())).unwrap();
            drop(journal);
            assert_eq!(answers(folder.path(), 0..10).iter().flatten().count(), 10, "{cut}");
        }
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(answers(folder.path(), 0..10).iter().flatten().count(), 9);
    }

    #[test]
    fn a_line_of_another_version_counts_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.lines().append(line(0, &vec!["once", "a list"])).unwrap();
        journal.lines().append(line(1, &"frost".to_owned())).unwrap();
        drop(journal);
        assert_eq!(answers(folder.path(), 0..2), [None, Some("frost".to_owned())]);
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.lines().spent("tower").tokens(), 2, "what it took counts");
    }

    #[test]
    fn the_journal_of_a_folder_that_a_group_shares_is_the_groups() {
        let folder = tempfile::tempdir().unwrap();
        for (of_folder, of_file) in [(0o2770, 0o660), (0o755, 0o644), (0o700, 0o600)] {
            std::fs::set_permissions(folder.path(), Permissions::from_mode(of_folder)).unwrap();
            drop(Journal::open(folder.path()).unwrap());
            let path = folder.path().join(FILE);
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, of_file, "{of_folder:o}");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn numbers_are_read_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<f32> = (0..10_000u32).map(|i| f32::from_bits(0x3dcc_0000 + i * 7919)).collect();
        let journal = Journal::open(folder.path()).unwrap();
        journal.lines().append(line(0, &numbers)).unwrap();
        let (found, _) = journal.lines().find::<Vec<f32>>(digest(0)).unwrap().unwrap();
        assert!(found.iter().zip(&numbers).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
