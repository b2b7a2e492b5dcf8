//! Running one command under the supervisor, with its log, up to its end or its deadline. Knows nothing of
//! stages: which variables, which folder and what an end means is decided in [`super`].

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{Access, access};

use super::log::Log;
use super::supervise::{End, Report, TERMINATE, written};

/// Where programs are searched when the command is given no PATH of its own.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Between two reports on the log's last line.
const TICK: Duration = Duration::from_secs(1);

/// How long the log may stay open once everybody is gone that could write to it.
const DRAIN: Duration = Duration::from_secs(2);

/// A command that can be started.
pub struct Job<'a> {
    /// The program's file.
    pub program: PathBuf,
    /// The program's name and its arguments, as written.
    pub words: Vec<&'a str>,
    pub variables: &'a [(String, OsString)],
    /// Where it runs.
    pub folder: &'a Path,
    /// Takes what it writes to standard output and error, in the order in which it comes.
    pub log: &'a Path,
    pub timeout: Option<Duration>,
}

/// What came of a command.
pub struct Outcome {
    pub ended: Ended,
    /// Who it left running and did not end by itself.
    pub left: Option<String>,
    /// The last line of its log.
    pub last_line: String,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
    TimedOut(Duration),
}

/// Runs it to its end and passes the log's last line to `watch` now and then. If that unwinds, the command and
/// its descendants are killed.
pub fn run(job: &Job, mut watch: impl FnMut(String)) -> anyhow::Result<Outcome> {
    let (mut supervised, output, errors) = Supervised::start(job).context("cannot start a supervisor")?;
    let log = Log::copy(errors, job.log).context("cannot write the log")?;
    // One beyond the clock's end is none.
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
    let (end, left) = Report::parse(&lines).map_or((None, None), |report| (Some(report.end), report.left));
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

/// What the supervisor says at its end, as soon as it does.
fn listen(mut output: ChildStdout) -> Receiver<String> {
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // Half a line is no line: `Report::parse` takes care of it.
        let _ = output.read_to_string(&mut line);
        let _ = sender.send(line);
    });
    said
}

fn unstarted(job: &Job, error: &io::Error) -> anyhow::Error {
    let name = job.words.first().unwrap_or(&"");
    let help = match error.kind() {
        io::ErrorKind::NotFound => "\n  help: the program that its first line (#!) names is not there",
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "\n  help: a script begins with #! and the program that reads it, such as #!/bin/sh"
        }
        io::ErrorKind::ArgumentListTooLong => "\n  help: hand long lists over in a file",
        _ => "",
    };
    anyhow!("cannot start `{name}` ({}): {error}{help}", job.program.display())
}

/// The supervisor and, through it, the command and all its descendants: none of them outlives this value.
struct Supervised {
    child: Child,
    /// Open as long as the command may run.
    line: Option<ChildStdin>,
}

impl Supervised {
    fn start(job: &Job) -> io::Result<(Supervised, ChildStdout, std::process::ChildStderr)> {
        let mut command = Command::new(own_program()?);
        command.arg0("triplay").args(["supervise", "--"]).arg(&job.program).args(&job.words);
        command.current_dir(job.folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let gone = || io::Error::other("it has no pipes");
        let (output, errors) = (child.stdout.take().ok_or_else(gone)?, child.stderr.take().ok_or_else(gone)?);
        let mut line = child.stdin.take().ok_or_else(gone)?;
        let variables = job.variables.iter().map(|(name, value)| (OsStr::new(name), value.as_os_str()));
        // One that is dead already says so by its silence.
        let _ = line.write_all(&written(variables));
        Ok((Supervised { child, line: Some(line) }, output, errors))
    }

    /// Asks to end the command gently; the supervisor does it less gently soon after.
    fn terminate(&mut self) {
        if let Some(line) = &mut self.line {
            let _ = line.write_all(&[TERMINATE]);
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.line.take();
        let _ = self.child.wait();
    }
}

/// This very program, also where its file was replaced since it was started.
pub fn own_program() -> io::Result<PathBuf> {
    let itself = Path::new("/proc/self/exe");
    if itself.exists() { Ok(itself.to_owned()) } else { std::env::current_exe() }
}

/// The file of a program, as a shell in `folder` with this PATH would find it.
pub fn find_program(name: &str, path: &OsStr, declared: bool, folder: &Path) -> anyhow::Result<PathBuf> {
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
            "there is no program `{name}`\n  help: the command runs in a folder of its own, with its `inputs` alone"
        );
    }
    let folders =
        path.as_bytes().split(|&byte| byte == b':').map(|entry| folder.join(OsStr::from_bytes(entry)));
    if let Some(file) = folders.map(|place| place.join(name)).find(|file| runnable(file)) {
        return Ok(file);
    }
    let whose = if declared { "the command's PATH" } else { "the PATH of a command that is given none" };
    let help = if declared { "" } else { "\n  help: `pass: [PATH]` hands on the PATH of triplay" };
    bail!("there is no program `{name}` in {} ({whose}){help}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_and_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let find = |name: &str, path: &str| find_program(name, OsStr::new(path), true, folder.path());
        assert_eq!(find("sh", "/none:/bin").unwrap(), Path::new("/bin/sh"));
        assert!(find("sh", "/none").unwrap_err().to_string().contains("no program `sh` in /none"));
        std::fs::write(folder.path().join("tool"), "").unwrap();
        assert!(find("./tool", "").unwrap_err().to_string().contains("not executable"));
        assert!(find("./none", "").unwrap_err().to_string().contains("there is no program `./none`"));
    }
}
