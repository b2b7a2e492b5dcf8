//! The supervisor: a process of triplay's own (`triplay supervise`) between triplay and a command, so that
//! nothing of the command outlives triplay, however triplay ends. It knows neither stages nor files: it starts
//! one program in the folder and environment that it is given, and ends when no descendant of it is left.
//!
//! Standard input brings the environment as `NAME=VALUE\0…\0\0`, then stays open: a `t` on it asks to end the
//! command gently, its end means that triplay is gone. Standard output takes one line: how the command ended
//! ([`End`]). Standard error is the command's standard output and error.

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

use super::family::Family;
use super::interrupt::on_interrupt;

/// What asks the supervisor to end the command gently.
pub(super) const TERMINATE: u8 = b't';

/// How long the command has after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// Between two looks at who is left.
const PAUSE: Duration = Duration::from_millis(10);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
    /// It could not be started; the number is the system's.
    Unstarted(i32),
}

impl End {
    fn line(&self) -> String {
        match self {
            End::Code(code) => format!("code {code}\n"),
            End::Signal(signal) => format!("signal {signal}\n"),
            End::Unstarted(error) => format!("unstarted {error}\n"),
        }
    }

    /// Reads back what the supervisor said; nothing where it was killed before it could.
    pub(super) fn parse(line: &str) -> Option<End> {
        let (what, number) = line.strip_suffix('\n')?.split_once(' ')?;
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
    /// The command itself ended; others may be left.
    Ended(WaitStatus),
    /// Nobody is left.
    Alone,
    /// Triplay asks to end the command gently.
    Terminate,
    /// Triplay is gone, or somebody wants to end the supervisor.
    Gone,
}

/// Runs `command`: the program's path, the name it is called by, its arguments.
pub fn supervise(command: &[OsString]) -> ExitCode {
    let said = match start(command) {
        Ok((main, events)) => tend(&Family::of(main), &events),
        Err(error) => End::Unstarted(error.raw_os_error().unwrap_or_default()),
    };
    // Where triplay is gone, nobody listens.
    let _ = io::stdout().write_all(said.line().as_bytes());
    ExitCode::SUCCESS
}

fn start(command: &[OsString]) -> io::Result<(Pid, Receiver<Event>)> {
    let [program, name, arguments @ ..] = command else { return Err(Errno::INVAL.into()) };
    // A session of its own: Ctrl-C at the terminal does not reach it, and nothing can ask there for a password.
    let _ = rustix::process::setsid();
    Family::gather()?;
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

/// Variables up to an empty one.
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

/// The environment as [`supervise`] reads it.
pub(super) fn written<'a>(variables: impl IntoIterator<Item = (&'a OsStr, &'a OsStr)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in variables {
        bytes.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    bytes.push(0);
    bytes
}

/// Takes in whoever ends. Orphans of the command come to the supervisor, so that without a child there is no
/// descendant either.
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

/// Waits until nobody is left; from the end of the command on, or when triplay wants it, nobody may be.
fn tend(family: &Family, events: &Receiver<Event>) -> End {
    let mut end = End::Signal(Signal::KILL.as_raw());
    let mut kill_from: Option<Instant> = None;
    loop {
        let event = match kill_from {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => events.recv_timeout(PAUSE),
        };
        match event {
            Ok(Event::Ended(status)) => {
                end = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => End::Code(code),
                    (None, signal) => End::Signal(signal.unwrap_or_default()),
                };
                kill_from.get_or_insert_with(|| Instant::now() + PAUSE);
            }
            Ok(Event::Alone) | Err(RecvTimeoutError::Disconnected) => return end,
            Ok(Event::Terminate) => {
                family.signal(Signal::TERM);
                kill_from.get_or_insert_with(|| Instant::now() + GRACE);
            }
            Ok(Event::Gone) => kill_from = Some(Instant::now()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if kill_from.is_some_and(|from| Instant::now() >= from) {
            family.signal(Signal::KILL);
        }
    }
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
    fn an_end_is_read_back_and_half_a_line_is_none() {
        for end in [End::Code(3), End::Signal(9), End::Unstarted(8)] {
            let line = end.line();
            assert_eq!(End::parse(&line), Some(end));
            assert_eq!(End::parse(&line[..line.len() - 1]), None);
        }
    }
}
