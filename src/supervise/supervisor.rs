//! The supervisor: a process (`triplay supervise`) between triplay and a command. It ensures that no process of the command
//! outlives triplay, however triplay ends. It knows neither stages nor files: it starts one program in a given folder and
//! environment, and ends when it has no descendant left. Processes that the program leaves running have a while to end by
//! themselves; then the supervisor ends them and reports their names.
//!
//! Standard input brings the environment as `NAME=VALUE\0…\0\0`, then stays open. A `t` on it asks for a gentle end of the
//! command, its end means that triplay is gone. Standard output takes how the command ended ([`SupervisorReport`]). Standard error is the
//! command's standard output and error.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::family::Descendants;
use super::interrupt::on_interrupt;

/// The byte that asks the supervisor to end the command gently.
pub(super) const TERMINATE: u8 = b't';

/// How long processes that the command leaves running have to end by themselves, such as a `tee` that reads the rest of a pipe.
pub const LINGER: Duration = Duration::from_secs(10);

/// How long processes have after SIGTERM before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// The most left processes that a report names.
const NAMED: usize = 10;

/// The interval between two looks for left processes.
const PAUSE: Duration = Duration::from_millis(10);

/// The supervisor's report at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorReport {
    /// How the command ended.
    pub end: End,
    /// The processes that were left running and did not end by themselves.
    pub left: Option<String>,
}

impl SupervisorReport {
    fn lines(&self) -> String {
        let left = self.left.as_ref().map_or(String::new(), |left| format!("left {left}\n"));
        format!("{}\n{left}", self.end.line())
    }

    /// Parses the report; `None` if the supervisor was killed before it wrote all of it.
    pub fn parse(lines: &str) -> Option<SupervisorReport> {
        let mut lines = lines.strip_suffix('\n')?.split('\n');
        let end = End::parse(lines.next()?)?;
        let left = lines.next().and_then(|line| line.strip_prefix("left ")).map(str::to_owned);
        Some(SupervisorReport { end, left })
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
    /// It could not be started; the number is the system's error.
    Unstarted(i32),
}

impl End {
    fn line(&self) -> String {
        match self {
            End::Code(code) => format!("code {code}"),
            End::Signal(signal) => format!("signal {signal}"),
            End::Unstarted(error) => format!("unstarted {error}"),
        }
    }

    fn parse(line: &str) -> Option<End> {
        let (what, number) = line.split_once(' ')?;
        let number = number.parse().ok()?;
        match what {
            "code" => Some(End::Code(number)),
            "signal" => Some(End::Signal(number)),
            "unstarted" => Some(End::Unstarted(number)),
            _ => None,
        }
    }
}

enum Event {
    /// The command itself ended; descendants may be left.
    Ended(WaitStatus),
    /// No descendant is left.
    Alone,
    /// Triplay asks for a gentle end of the command.
    Terminate,
    /// Triplay is gone, or a signal asks the supervisor to end.
    Gone,
}

/// Runs `command`: the program's path, its name (`argv[0]`), its arguments.
pub fn supervise(command: &[OsString]) -> ExitCode {
    let said = match start(command) {
        Ok((main, events)) => tend(&Descendants::of(main), &events),
        Err(error) => {
            SupervisorReport { end: End::Unstarted(error.raw_os_error().unwrap_or_default()), left: None }
        }
    };
    // If triplay is gone, no process reads this.
    let _ = io::stdout().write_all(said.lines().as_bytes());
    ExitCode::SUCCESS
}

fn start(command: &[OsString]) -> io::Result<(Pid, Receiver<Event>)> {
    let [program, name, arguments @ ..] = command else { return Err(Errno::INVAL.into()) };
    // A new session: Ctrl-C at the terminal does not reach the command, and it cannot ask for a password there.
    let _ = rustix::process::setsid();
    Descendants::adopt_orphans()?;
    let variables = read_environment(&mut io::stdin().lock())?;
    let log = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let (sender, events) = mpsc::channel();
    let interrupted = sender.clone();
    on_interrupt(move || drop(interrupted.send(Event::Gone)))?;
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env_clear().envs(variables).process_group(0);
    let child = command.stdin(Stdio::null()).stdout(log()?).stderr(log()?).spawn()?;
    let main = Pid::from_child(&child);
    let waiting = sender.clone();
    std::thread::spawn(move || reap(main, &waiting));
    std::thread::spawn(move || listen(&sender));
    Ok((main, events))
}

/// Reads variables up to an empty one.
fn read_environment(input: &mut impl BufRead) -> io::Result<Vec<(OsString, OsString)>> {
    let mut variables = Vec::new();
    loop {
        let mut bytes = Vec::new();
        input.read_until(0, &mut bytes)?;
        if bytes.pop() != Some(0) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes.is_empty() {
            return Ok(variables);
        }
        let equals = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
        let value = bytes.get(equals + 1..).unwrap_or_default().to_vec();
        variables.push((OsString::from_vec(bytes[..equals].to_vec()), OsString::from_vec(value)));
    }
}

/// Writes the environment as [`supervise`] reads it.
pub(super) fn written<'a>(variables: impl IntoIterator<Item = (&'a OsStr, &'a OsStr)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in variables {
        bytes.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    bytes.push(0);
    bytes
}

/// Reaps ended processes. Orphans of the command become children of the supervisor, so that without a child it has no descendant
/// either.
fn reap(main: Pid, events: &Sender<Event>) {
    loop {
        let event = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == main => Event::Ended(status),
            Ok(_) | Err(Errno::INTR) => continue,
            Err(_) => Event::Alone,
        };
        let last = matches!(event, Event::Alone);
        if events.send(event).is_err() || last {
            return;
        }
    }
}

fn listen(events: &Sender<Event>) {
    let (mut input, mut byte) = (io::stdin().lock(), [0]);
    while let Ok(1) = input.read(&mut byte) {
        if byte[0] == TERMINATE {
            let _ = events.send(Event::Terminate);
        }
    }
    let _ = events.send(Event::Gone);
}

/// Waits until no descendant is left. Those that remain after the command's end, and all of them when triplay asks for it, are
/// asked to end and soon killed.
fn tend(family: &Descendants, events: &Receiver<Event>) -> SupervisorReport {
    let mut report = SupervisorReport { end: End::Signal(Signal::KILL.as_raw()), left: None };
    let (mut ended, mut alone) = (false, false);
    let (mut ask_from, mut kill_from): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        let event = match ask_from.or(kill_from) {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => events.recv_timeout(PAUSE),
        };
        let now = Instant::now();
        match event {
            Ok(Event::Ended(status)) => {
                report.end = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => End::Code(code),
                    (None, signal) => End::Signal(signal.unwrap_or_default()),
                };
                ended = true;
                ask_from.get_or_insert(now + LINGER);
            }
            Ok(Event::Alone) => alone = true,
            Ok(Event::Terminate) => ask_from = Some(now),
            Ok(Event::Gone) => kill_from = Some(now),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return report,
        }
        if alone && family.is_gone() {
            return report;
        }
        if kill_from.is_none() && ask_from.is_some_and(|from| now >= from) {
            report.left = Some(family.members()).filter(|left| ended && !left.is_empty()).map(names);
            family.signal(Signal::TERM);
            kill_from = Some(now + GRACE);
        }
        if kill_from.is_some_and(|from| now >= from) {
            family.signal(Signal::KILL);
        }
    }
}

/// Formats processes for people: `tee (4711), sleep (4712) and 3 more`.
fn names(mut processes: Vec<(String, i32)>) -> String {
    let more = processes.len().saturating_sub(NAMED);
    processes.truncate(NAMED);
    let name = |(name, id): &(String, i32)| format!("{} ({id})", name.escape_debug());
    let listed = processes.iter().map(name).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{listed} and {more} more") } else { listed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_read_as_it_was_written_byte_for_byte() {
        let variables = [
            (OsString::from("A"), OsString::from("x=y\nz")),
            (OsString::from("B"), OsString::new()),
            (OsString::from("C"), OsString::from_vec(vec![0xff, b' ', 0xfe])),
        ];
        let bytes = written(variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())));
        let read = read_environment(&mut [bytes.as_slice(), b"t"].concat().as_slice()).unwrap();
        assert_eq!(read, variables);
        assert!(read_environment(&mut &bytes[..bytes.len() - 1]).is_err(), "cut off");
    }

    #[test]
    fn a_report_is_read_back_and_a_part_of_it_is_none() {
        for end in [End::Code(3), End::Signal(9), End::Unstarted(8)] {
            for left in [None, Some(names(vec![("tee\n".into(), 12), ("sleep".into(), 7)]))] {
                let report = SupervisorReport { end: end.clone(), left };
                let lines = report.lines();
                assert_eq!(SupervisorReport::parse(&lines), Some(report));
                assert_eq!(SupervisorReport::parse(&lines[..lines.len() - 1]), None);
            }
        }
    }

    #[test]
    fn as_many_processes_are_named_as_fit() {
        assert_eq!(names(vec![("tee".into(), 12), ("a\nb".into(), 7)]), "tee (12), a\\nb (7)");
        let many = (0..NAMED + 2).map(|_| ("sleep".to_owned(), 1)).collect();
        assert!(names(many).ends_with("sleep (1) and 2 more"));
    }
}
