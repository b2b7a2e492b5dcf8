//! Starting a command under the supervisor: the other end of [`super::supervise`].

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use super::supervisor::{TERMINATE, written};

/// A command that can be started.
pub struct Launch<'a> {
    /// The program's file.
    pub program: &'a Path,
    /// The program's name and its arguments.
    pub words: &'a [&'a str],
    /// Its whole environment.
    pub variables: &'a [(OsString, OsString)],
    /// Where it runs.
    pub folder: &'a Path,
}

/// The supervisor and, through it, the command and all its descendants: none of them outlives this value.
pub struct Supervised {
    child: Child,
    /// Kept open as long as the command may run.
    line: Option<ChildStdin>,
}

impl Supervised {
    /// Starts the command. Its standard output and error come through the second pipe, the supervisor's report
    /// ([`super::SupervisorReport`]) through the first, when all processes are gone.
    pub fn start(launch: &Launch) -> io::Result<(Supervised, ChildStdout, ChildStderr)> {
        let mut command = Command::new(own_program()?);
        command.arg0("triplay").args(["supervise", "--"]).arg(launch.program).args(launch.words);
        command.current_dir(launch.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let gone = || io::Error::other("it has no pipes");
        let (output, errors) = (child.stdout.take().ok_or_else(gone)?, child.stderr.take().ok_or_else(gone)?);
        let mut line = child.stdin.take().ok_or_else(gone)?;
        let variables = launch.variables.iter();
        let variables = variables.map(|(name, value)| -> (&OsStr, &OsStr) { (name, value) });
        // If the supervisor is dead already, its missing report says so.
        let _ = line.write_all(&written(variables));
        Ok((Supervised { child, line: Some(line) }, output, errors))
    }

    /// Asks for a gentle end of the command. The supervisor kills it soon after.
    pub fn terminate(&mut self) {
        if let Some(line) = &mut self.line {
            let _ = line.write_all(&[TERMINATE]);
        }
    }

    /// Whether the supervisor, and so the command with all its descendants, has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the command and all its descendants have ended.
    pub fn wait(&mut self) {
        let _ = self.child.wait();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.line.take();
        let _ = self.child.wait();
    }
}

/// The running program, even if its file was replaced since it started.
pub fn own_program() -> io::Result<PathBuf> {
    let itself = Path::new("/proc/self/exe");
    if itself.exists() { Ok(itself.to_owned()) } else { std::env::current_exe() }
}
