//! A command that is kept while others need it, such as a server: its processes, its log, and how it ended.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use super::log::{self, Log};
use super::{End, Launch, Supervised, SupervisorReport};

/// The end of a log is read again until it stays the same, so often at most, with this pause.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(50);

/// How long a report may take after the supervisor has ended.
const REPORT: Duration = Duration::from_millis(100);

/// The command at work. It ends with all its processes when this value is dropped, or when triplay ends or dies.
pub struct Service {
    supervised: Supervised,
    said: Receiver<String>,
    report: Option<String>,
    log: PathBuf,
    /// Copies the output to the log's file.
    _copying: Log,
}

/// How it ended; `None` if that is not known.
pub struct Ended(pub Option<End>);

impl Service {
    /// Starts the command. What it prints goes to the file `log`.
    pub fn start(launch: &Launch, log: PathBuf) -> io::Result<Service> {
        let (supervised, output, errors) = Supervised::start(launch)?;
        let copying = Log::copy(errors, &log)?;
        Ok(Service { supervised, said: listen(output), report: None, log, _copying: copying })
    }

    /// How the command ended, if it has.
    pub fn ended(&mut self) -> Option<Ended> {
        if !self.supervised.has_ended() {
            return None;
        }
        if self.report.is_none() {
            self.report = self.said.recv_timeout(REPORT).ok();
        }
        Some(Ended(self.report.as_deref().and_then(SupervisorReport::parse).map(|report| report.end)))
    }

    /// The file of its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log, each indented, once what it just wrote has arrived there.
    pub fn log_tail(&self) -> String {
        let mut tail = log::tail(&self.log).unwrap_or_default();
        for _ in 0..LOOKS {
            std::thread::sleep(LOOK);
            let now = log::tail(&self.log).unwrap_or_default();
            if now == tail {
                break;
            }
            tail = now;
        }
        tail
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.supervised.terminate();
        self.supervised.wait();
    }
}

impl fmt::Display for Ended {
    /// The end of a sentence: ` with exit code 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(End::Code(code)) => write!(f, " with exit code {code}"),
            Some(End::Signal(signal)) => write!(f, ", killed by signal {signal}"),
            Some(End::Unstarted(error)) => write!(f, ": {}", io::Error::from_raw_os_error(error)),
            None => Ok(()),
        }
    }
}

/// Receives the supervisor's report when it ends.
fn listen(mut output: ChildStdout) -> Receiver<String> {
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = output.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    said
}

/// Finds a program on PATH, as a shell would.
pub fn find_program(name: &str) -> io::Result<PathBuf> {
    if name.contains('/') {
        return std::path::absolute(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_program = |file: &PathBuf| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found.find(is_program).ok_or_else(|| io::Error::other(format!("there is no program `{name}` on PATH")))
}
