//! Running one command under the supervisor, with its log, until it ends or times out. It knows nothing of stages: [`super`]
//! decides on variables and folder, and interprets the end.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{Access, access};

use supervise::log::Log;
use supervise::{End, Launch, Supervised, SupervisorReport};

/// The search path of a command if triplay has no PATH either.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The interval between reports of the log's last line.
const TICK: Duration = Duration::from_secs(1);

/// How long the log may stay open after all processes that could write to it are gone.
const DRAIN: Duration = Duration::from_secs(2);

/// A command that can be started.
pub(crate) struct Job<'a> {
    /// The program's file.
    pub program: PathBuf,
    /// The program's name and its arguments, as written.
    pub words: Vec<&'a str>,
    pub variables: &'a [(OsString, OsString)],
    /// Where it runs.
    pub folder: &'a Path,
    /// Takes standard output and error, in order of arrival.
    pub log: &'a Path,
    pub timeout: Option<Duration>,
}

/// The result of a command.
pub(crate) struct Outcome {
    pub ended: Ended,
    /// The processes that it left running and that did not end by themselves.
    pub left: Option<String>,
    /// The last line of its log.
    pub last_line: String,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
    TimedOut(Duration),
}

impl Ended {
    /// The exit code as a shell gives it: of a command that a signal killed, 128 and the signal's number.
    pub(crate) fn code(&self) -> Option<u8> {
        match self {
            Ended::Code(code) => u8::try_from(*code).ok(),
            Ended::Signal(signal) => u8::try_from(128 + signal).ok(),
            Ended::TimedOut(_) => None,
        }
    }
}

/// Runs the command to its end and passes the log's last line to `watch` about once a second. If `watch` unwinds, the command and
/// its descendants are killed.
pub(crate) fn run(job: &Job, mut watch: impl FnMut(String)) -> anyhow::Result<Outcome> {
    let launch =
        Launch { program: &job.program, words: &job.words, variables: job.variables, folder: job.folder };
    let (mut supervised, output, errors) = Supervised::start(&launch).context("cannot start a supervisor")?;
    let log = Log::copy(errors, job.log).context("cannot write the log")?;
    // A deadline beyond the clock's range counts as none.
    let deadline = job.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let said = listen(output);
    let mut late = false;
    let lines = loop {
        let left = deadline.filter(|_| !late).map(|deadline| deadline.duration_since(Instant::now()));
        match said.recv_timeout(left.map_or(TICK, |left| left.min(TICK))) {
            Ok(lines) => break lines,
            Err(RecvTimeoutError::Disconnected) => break String::new(),
            Err(RecvTimeoutError::Timeout) if left.is_some_and(|left| left <= TICK) => {
                late = true;
                supervised.terminate();
            }
            Err(RecvTimeoutError::Timeout) if late => {}
            Err(RecvTimeoutError::Timeout) => watch(log.last_line()),
        }
    };
    drop(supervised);
    log.close(DRAIN).context("cannot write the log")?;
    let (end, left) =
        SupervisorReport::parse(&lines).map_or((None, None), |report| (Some(report.end), report.left));
    let ended = match (end, job.timeout) {
        (_, Some(timeout)) if late => Ended::TimedOut(timeout),
        (Some(End::Code(code)), _) => Ended::Code(code),
        (Some(End::Signal(signal)), _) => Ended::Signal(signal),
        (Some(End::Unstarted(error)), _) => {
            return Err(unstarted(job, &io::Error::from_raw_os_error(error)));
        }
        (None, _) => bail!("the supervisor of the command was killed"),
    };
    Ok(Outcome { ended, left, last_line: log.last_line() })
}

/// Receives the supervisor's report when it ends.
fn listen(mut output: ChildStdout) -> Receiver<String> {
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // `SupervisorReport::parse` refuses an incomplete report.
        let _ = output.read_to_string(&mut line);
        let _ = sender.send(line);
    });
    said
}

fn unstarted(job: &Job, error: &io::Error) -> anyhow::Error {
    let name = job.words.first().unwrap_or(&"");
    let help = match error.kind() {
        io::ErrorKind::NotFound => "\n  help: the interpreter in its first line (#!) does not exist",
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "\n  help: a script must begin with #! and its interpreter, such as #!/bin/sh"
        }
        io::ErrorKind::ArgumentListTooLong => "\n  help: pass long lists in a file",
        _ => "",
    };
    anyhow!("cannot start `{name}` ({}): {error}{help}", job.program.display())
}

/// Finds the file of a program as a shell in `folder` with this PATH would.
pub(crate) fn find_program(name: &str, path: &OsStr, folder: &Path) -> anyhow::Result<PathBuf> {
    let runnable = |file: &Path| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let file = folder.join(name);
        if runnable(&file) {
            return Ok(file);
        }
        if file.exists() {
            bail!("`{name}` is not executable\n  help: chmod +x it, or name its interpreter: [sh, {name}]");
        }
        bail!(
            "there is no program `{name}`\n  help: the command runs in its own folder, which holds only its `inputs`"
        );
    }
    let folders =
        path.as_bytes().split(|&byte| byte == b':').map(|entry| folder.join(OsStr::from_bytes(entry)));
    if let Some(file) = folders.map(|place| place.join(name)).find(|file| runnable(file)) {
        return Ok(file);
    }
    bail!(
        "there is no program `{name}` on the command's PATH: {}\n  help: a command has the PATH of triplay, unless `env` \
         or `inherit` gives it another one",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_and_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let find = |name: &str, path: &str| find_program(name, OsStr::new(path), folder.path());
        assert_eq!(find("sh", "/none:/bin").unwrap(), Path::new("/bin/sh"));
        assert!(
            find("sh", "/none")
                .unwrap_err()
                .to_string()
                .contains("no program `sh` on the command's PATH: /none")
        );
        std::fs::write(folder.path().join("tool"), "").unwrap();
        assert!(find("./tool", "").unwrap_err().to_string().contains("not executable"));
        assert!(find("./none", "").unwrap_err().to_string().contains("there is no program `./none`"));
    }
}
