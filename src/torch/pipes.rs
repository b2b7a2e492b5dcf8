//! Two named pipes between triplay and the worker: one for jobs, one for answers, a line of JSON each. The worker's standard
//! output belongs to whatever libraries print.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::OFlags;

/// The longest line that is read.
const LONGEST: usize = 64 << 20;

pub(crate) struct Pipes {
    names: [PathBuf; 2],
    jobs: File,
    answers: File,
    /// What has arrived of lines that are not complete.
    open: Vec<u8>,
}

impl Pipes {
    /// Makes the pipes in a folder.
    pub(crate) fn make(folder: &Path) -> io::Result<Pipes> {
        let names = [folder.join("jobs"), folder.join("answers")];
        // Not every system has the call without `unsafe`, and every one has the program.
        let made = Command::new("mkfifo").args(&names).stdin(Stdio::null()).output()?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            return Err(io::Error::other(format!("cannot make pipes in {}: {said}", folder.display())));
        }
        // Open for both, so that neither side waits for the other to open, and neither ever sees an end.
        let open = |name: &Path| {
            let flags = OFlags::NONBLOCK.bits() as i32;
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(name)
        };
        let (jobs, answers) = (open(&names[0])?, open(&names[1])?);
        Ok(Pipes { names, jobs, answers, open: Vec::new() })
    }

    /// The paths for the worker: of jobs and of answers.
    pub(crate) fn names(&self) -> [String; 2] {
        [0, 1].map(|index: usize| self.names[index].display().to_string())
    }

    /// Removes the names, once the worker has opened them.
    pub(crate) fn remove_names(&self) {
        self.names.iter().for_each(|name| drop(std::fs::remove_file(name)));
    }

    /// Sends a line. A pipe holds at least 4 KiB, and a job has less; a worker that does not read is not waited for.
    pub(crate) fn send(&mut self, line: &str) -> io::Result<()> {
        self.jobs.write_all(format!("{line}\n").as_bytes())
    }

    /// The next complete line; `None` if there is none yet.
    pub(crate) fn line(&mut self) -> io::Result<Option<String>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(end) = self.open.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.open.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()));
            }
            if self.open.len() > LONGEST {
                return Err(io::Error::other("a line is too long"));
            }
            match self.answers.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.open.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.remove_names();
    }
}
