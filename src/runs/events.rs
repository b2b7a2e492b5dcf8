//! The events of a run under way: `events.jsonl` in its folder has a line for each node that starts or ends, for progress, and
//! for messages. Only displays depend on it: it is neither synced nor sealed, and a run continues if it cannot be written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use store::read;

const FILE: &str = "events.jsonl";

/// The interval between two lines of progress.
const EVERY: Duration = Duration::from_secs(1);

/// Bytes read at once. No line is longer.
const PIECE: u64 = 1 << 20;

/// The number of log lines that are kept in memory.
const MOST_LINES: usize = 200;

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The work on a node began.
    Started {
        /// The node's name.
        node: String,
        /// The kind of its stage.
        kind: String,
    },
    /// A node at work is at `done` of `total`.
    Progress {
        /// The node's name.
        node: String,
        /// Units that are done.
        done: u64,
        /// All units.
        total: u64,
        /// A short note, such as the loss.
        note: String,
    },
    /// `ran`, `cached`, `again` or `failed`.
    Ended {
        /// The node's name.
        node: String,
        /// How it ended.
        outcome: String,
        /// The duration of the work.
        seconds: f64,
    },
    /// A node at work was stopped and will start again.
    SetAside {
        /// The node's name.
        node: String,
    },
    /// This many nodes were found cached at once.
    Cached {
        /// The number of nodes.
        count: usize,
    },
    /// Why a node failed; written when the run ends.
    Failed {
        /// The node's name.
        node: String,
        /// The error with its context.
        why: String,
    },
    /// A line for people, such as a warning.
    Message {
        /// The line.
        text: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// RFC 3339.
    at: String,
    #[serde(flatten)]
    event: Event,
}

/// The event file of a run under way.
pub struct EventLog {
    file: Option<File>,
    /// When the last line of progress was written.
    told: Mutex<Option<Instant>>,
}

impl EventLog {
    /// Begins the log of a new run. If the file cannot be created, events are dropped.
    pub fn create(folder: &Path) -> EventLog {
        let file = File::options().append(true).create_new(true).open(folder.join(FILE));
        EventLog { file: file.ok(), told: Mutex::default() }
    }

    /// Appends a line. If it cannot be written it is lost: events are only for display.
    pub fn add(&self, event: Event) {
        let line = Line { at: jiff::Timestamp::now().to_string(), event };
        if let (Some(mut file), Ok(mut text)) = (self.file.as_ref(), serde_json::to_string(&line)) {
            text.push('\n');
            // In one write, so that lines of several threads do not mix.
            let _ = file.write_all(text.as_bytes());
        }
    }

    /// Records the progress of a node, at most once a second.
    pub fn progress(&self, node: &str, done: u64, total: u64, note: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= EVERY) {
            *told = Some(Instant::now());
            self.add(Event::Progress { node: node.to_owned(), done, total, note: note.to_owned() });
        }
    }
}

/// A node at work.
#[derive(Clone, Debug, Default)]
pub struct AtWork {
    /// The kind of its stage.
    pub kind: String,
    /// Its progress, such as `3/10 loss 0.2`; empty if it reports none.
    pub note: String,
}

/// The content of the file so far.
#[derive(Clone, Default)]
pub struct Events {
    folder: PathBuf,
    /// Bytes already read.
    read: u64,
    /// The nodes at work by their names; after the end of the run, those that were stopped.
    pub at_work: BTreeMap<String, AtWork>,
    /// The failed nodes, with their errors if known.
    pub failed: BTreeMap<String, Option<String>>,
    /// The newest lines, for people.
    pub lines: Vec<String>,
    /// When the newest event was written (RFC 3339).
    pub newest: Option<String>,
}

impl Events {
    /// The events in a run's folder; empty for runs of versions that did not write them.
    pub fn of(folder: &Path) -> Events {
        let mut events = Events { folder: folder.to_owned(), ..Events::default() };
        events.refresh();
        events
    }

    /// Reads the rest of the file.
    pub fn refresh(&mut self) {
        while let Ok(text) = self.piece() {
            // A killed run may leave half a line, and so may one that is writing.
            let Some(end) = memchr::memrchr(b'\n', &text) else { return };
            self.read += end as u64 + 1;
            for line in text[..end].split(|byte| *byte == b'\n') {
                if let Ok(line) = serde_json::from_slice::<Line>(line) {
                    self.take(line);
                }
            }
            let surplus = self.lines.len().saturating_sub(MOST_LINES);
            self.lines.drain(..surplus);
        }
    }

    /// The next piece of the file.
    fn piece(&self) -> std::io::Result<Vec<u8>> {
        let mut file = read::open(&read::inside(&self.folder, FILE)?)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        file.take(PIECE).read_to_end(&mut text)?;
        Ok(text)
    }

    fn take(&mut self, Line { at, event }: Line) {
        let time = at.get(11..19).unwrap_or_default().to_owned();
        self.newest = Some(at);
        let mut line = |text: String| self.lines.push(format!("{time}  {text}"));
        match event {
            Event::Started { node, kind } => {
                self.failed.remove(&node);
                self.at_work.insert(node, AtWork { kind, note: String::new() });
            }
            Event::Progress { node, done, total, note } => {
                let note = if total > 1 { format!("{done}/{total} {note}") } else { note };
                if let Some(known) = self.at_work.get_mut(&node) {
                    known.note = note.trim_end().to_owned();
                }
            }
            Event::Ended { node, outcome, seconds } => {
                self.at_work.remove(&node);
                match outcome.as_str() {
                    "ran" => line(format!("{node}  {seconds:.2} s")),
                    "cached" => {}
                    other => line(format!("{node}  {other}")),
                }
                if outcome == "failed" {
                    self.failed.insert(node, None);
                }
            }
            Event::SetAside { node } => drop(self.at_work.remove(&node)),
            Event::Cached { count } if count > 0 => line(format!("{count} cached")),
            Event::Cached { .. } => {}
            Event::Failed { node, why } => {
                line(format!("{node}  failed: {why}"));
                self.failed.insert(node, Some(why));
            }
            Event::Message { text } => line(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_on_knows_what_is_at_work_and_what_failed() {
        let folder = tempfile::tempdir().unwrap();
        let log = EventLog::create(folder.path());
        let started = |node: &str| log.add(Event::Started { node: node.into(), kind: "sft".into() });
        let ended = |node: &str, outcome: &str| {
            log.add(Event::Ended { node: node.into(), outcome: outcome.into(), seconds: 1.5 });
        };
        started("a");
        started("b");
        log.progress("a", 3, 10, "loss 0.2");
        log.progress("a", 4, 10, "within the same second");
        ended("b", "ran");
        let mut events = Events::of(folder.path());
        assert_eq!(events.at_work["a"].note, "3/10 loss 0.2");
        assert_eq!(events.at_work.len(), 1);
        assert!(events.lines[0].ends_with("  b  1.50 s"), "{:?}", events.lines);

        log.add(Event::SetAside { node: "a".into() });
        events.refresh();
        assert!(events.at_work.is_empty(), "it is tried again later");
        started("a");
        ended("a", "failed");
        log.add(Event::Failed { node: "a".into(), why: "no space".into() });
        let mut file = File::options().append(true).open(folder.path().join(FILE)).unwrap();
        file.write_all(b"{\"at\":\"2026-11-26T16:00:00Z\",\"event\":\"sta").unwrap();
        events.refresh();
        assert!(events.at_work.is_empty());
        assert_eq!(events.failed["a"].as_deref(), Some("no space"));
        assert_eq!(events.lines.len(), 3, "half a line is not there yet: {:?}", events.lines);
        assert!(Events::of(&folder.path().join("nothing")).lines.is_empty());
    }
}
