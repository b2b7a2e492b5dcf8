//! The log of a command: copied to a file as it arrives, its last line for the progress display, its tail for an error. It may
//! hold any bytes; only the displayed part is converted to text.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use memchr::memmem;
use store::read;

/// Lines of the log in an error.
const TAIL: usize = 20;
/// Displayed characters of a line.
const WIDTH: usize = 300;
/// The tail is searched in this many bytes at the end of the log.
const REACH: u64 = 64 << 10;
/// The most bytes that are kept of the last line.
const LINE: usize = 4 << 10;

/// A log that is being written.
pub struct Log {
    last: Arc<Mutex<Vec<u8>>>,
    copied: Receiver<io::Result<()>>,
}

impl Log {
    /// Copies `from` to the file on a thread of its own, until the other end is closed.
    pub fn copy(mut from: impl Read + Send + 'static, path: &Path) -> io::Result<Log> {
        let mut file = File::create(path)?;
        let last = Arc::new(Mutex::new(Vec::new()));
        let (sender, copied) = mpsc::channel();
        let shared = last.clone();
        std::thread::spawn(move || {
            let (mut line, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
            let mut outcome = Ok(());
            // On a full disk the rest is still read: the command would be killed if it wrote to a closed pipe.
            loop {
                let count = match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        outcome = outcome.and(Err(error));
                        break;
                    }
                };
                if outcome.is_ok() {
                    outcome = file.write_all(&buffer[..count]);
                }
                if let Some(complete) = last_line(&mut line, &buffer[..count]) {
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = complete;
                }
            }
            let _ = sender.send(outcome);
        });
        Ok(Log { last, copied })
    }

    /// The last complete line that is not empty.
    pub fn last_line(&self) -> String {
        shown(&self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until everything is in the file, but at most `most`, in case a process keeps the other end open.
    pub fn close(&self, most: Duration) -> io::Result<()> {
        match self.copied.recv_timeout(most) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

/// The last complete line after `bytes` have arrived; the rest after it is kept in `open`. A carriage return ends a line too:
/// progress bars overwrite themselves.
fn last_line(open: &mut Vec<u8>, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut complete = None;
    for part in bytes.split_inclusive(|&byte| byte == b'\n' || byte == b'\r') {
        let ended = part.ends_with(b"\n") || part.ends_with(b"\r");
        let room = LINE.saturating_sub(open.len()).min(part.len());
        open.extend(&part[..room]);
        if ended {
            let line = std::mem::take(open);
            complete = Some(line.trim_ascii().to_vec()).filter(|line| !line.is_empty()).or(complete);
        }
    }
    complete
}

/// Whether one of these texts is in a log.
pub fn mentions(path: &Path, texts: &[String]) -> io::Result<bool> {
    let longest = texts.iter().map(String::len).max().unwrap_or_default();
    let (mut file, mut window) = (read::open(path)?, Vec::new());
    // The end of each piece is read with the next, since a text may begin in it.
    while (&mut file).take(REACH).read_to_end(&mut window)? > 0 {
        if texts.iter().any(|text| memmem::find(&window, text.as_bytes()).is_some()) {
            return Ok(true);
        }
        window.drain(..window.len().saturating_sub(longest));
    }
    Ok(false)
}

/// The last lines of a log, each indented; empty for an empty log.
pub fn tail(path: &Path) -> io::Result<String> {
    let mut file = read::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(REACH)))?;
    let mut bytes = Vec::new();
    file.take(REACH).read_to_end(&mut bytes)?;
    let mut lines: Vec<&[u8]> = bytes.trim_ascii_end().split(|&byte| byte == b'\n').collect();
    if length > REACH && lines.len() > 1 {
        lines.remove(0);
    }
    if lines.concat().is_empty() {
        return Ok(String::new());
    }
    let last = lines.iter().skip(lines.len().saturating_sub(TAIL));
    Ok(last.map(|line| format!("\n  | {}", shown(line)).trim_end().to_owned()).collect())
}

/// A line for display: without escape sequences, only the text that was last written over it.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let plain = console::strip_ansi_codes(text.trim_end());
    let visible = plain.rsplit('\r').next().unwrap_or_default();
    let mut text: String =
        visible.chars().filter(|c| !c.is_control() || *c == '\t').take(WIDTH + 1).collect();
    if text.chars().count() > WIDTH {
        text.pop();
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_last_complete_one_also_of_a_progress_bar() {
        let mut open = Vec::new();
        assert_eq!(last_line(&mut open, b"step 1\nste"), Some(b"step 1".to_vec()));
        assert_eq!(last_line(&mut open, b"p 2"), None);
        assert_eq!(last_line(&mut open, b"\n\n"), Some(b"step 2".to_vec()));
        assert_eq!(last_line(&mut open, b" 10%\r 20%\r 3"), Some(b"20%".to_vec()));
        assert_eq!(last_line(&mut open, &vec![b'x'; 10 * LINE]), None);
        assert_eq!(open.len(), LINE);
    }

    #[test]
    fn a_text_is_found_wherever_it_is_in_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let texts = ["out of memory".to_owned(), "frost".to_owned()];
        for before in [0, 7, REACH as usize - 5, REACH as usize, 3 * REACH as usize - 1] {
            let bytes = [vec![b'x'; before], b"out of memory\n".to_vec()].concat();
            std::fs::write(&path, &bytes).unwrap();
            assert!(mentions(&path, &texts).unwrap(), "after {before} bytes");
            std::fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
            assert!(!mentions(&path, &texts).unwrap());
        }
    }

    #[test]
    fn a_tail_is_text_whatever_the_bytes_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let tail_of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            tail(&path).unwrap()
        };
        assert_eq!(tail_of(b""), "");
        assert_eq!(tail_of(b"\n\n"), "");
        assert_eq!(tail_of(b"\x1b[31mred\x1b[0m\n\xff\x07 10%\r 99%\n"), "\n  | red\n  |  99%");
        let many: String = (0..100_000).map(|line| format!("line {line}\n")).collect();
        let shown = tail_of(many.as_bytes());
        assert_eq!(shown.lines().count(), TAIL + 1);
        assert!(shown.ends_with("line 99999"), "{shown}");
        assert!(tail_of(&vec![b'x'; 1 << 20]).chars().count() < WIDTH + 10);
    }
}
