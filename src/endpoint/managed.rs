//! Servers that triplay starts. One is shared by all that ask it for the same model, and ends with all its processes when the
//! last of them is done, unless it is kept, or when triplay ends or dies: a supervisor stands between the two.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use supervise::{Launch, Service, find_program};

use super::config::{Command, Config};
use super::endpoint::lock;
use super::http::{Http, runtime};
use super::trouble::Trouble;
use super::url::Base;

/// How often a starting server is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A server at work.
pub(crate) struct Managed {
    pub base: Base,
    /// As written, for errors.
    command: String,
    service: Mutex<Service>,
}

/// The servers of the process. The lock of an entry is held while its server starts, so that it is started once.
type Servers = HashMap<String, Arc<Mutex<Weak<Managed>>>>;

static SERVERS: LazyLock<Mutex<Servers>> = LazyLock::new(Mutex::default);

/// Servers that stay until the process ends.
static KEPT: Mutex<Vec<Arc<Managed>>> = Mutex::new(Vec::new());

impl Managed {
    /// Keeps a server, for those that need it later, until the process ends.
    pub(crate) fn keep(server: &Arc<Managed>) {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| !Arc::ptr_eq(other, server) && other.ended().is_none());
        kept.push(server.clone());
    }

    /// The server of an endpoint for a model: the running one, or a new one that is ready. Its log is in `logs`.
    pub(crate) fn start(
        name: &str,
        config: &Config,
        model: &str,
        logs: &Path,
        watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Arc<Managed>, Trouble> {
        let command = config.command.as_ref().map(shown).unwrap_or_default();
        let key = format!("{name}\n{command}\n{model}");
        let entry = SERVERS.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let mut entry = lock(&entry, &format!("waiting for `{command}`"), watch)?;
        if let Some(running) = entry.upgrade().filter(|running| running.ended().is_none()) {
            return Ok(running);
        }
        let started = Managed::launch(name, config, model, logs).map_err(|error| {
            Trouble::Wrong(format!("cannot start the server of the endpoint `{name}`, `{command}`: {error}"))
        })?;
        started.wait_until_ready(config, watch)?;
        let started = Arc::new(started);
        *entry = Arc::downgrade(&started);
        Ok(started)
    }

    fn launch(name: &str, config: &Config, model: &str, logs: &Path) -> io::Result<Managed> {
        let command = config.command.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        std::fs::create_dir_all(logs)?;
        // Bound and let go of: another program may take it meanwhile, and the server then says so and ends.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let words = words(command, model, port);
        let program = find_program(&words[0])?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let folder = std::env::current_dir()?;
        let log = new_log(logs, name)?;
        let launch = Launch { program: &program, words: &words, variables: &variables, folder: &folder };
        let service = Mutex::new(Service::start(&launch, log)?);
        let base = Base::parse(&format!("http://127.0.0.1:{port}")).map_err(io::Error::other)?;
        Ok(Managed { base, command: shown(command), service })
    }

    /// Waits until the server answers.
    fn wait_until_ready(
        &self,
        config: &Config,
        watch: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), Trouble> {
        let limit = config.ready.0;
        // Looking takes no longer than a server that answers needs.
        let second = Duration::from_secs(1);
        let http = Http::new(None, None, second, second).map_err(Trouble::Wrong)?;
        let begun = Instant::now();
        loop {
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            for route in ["/health", "/v1/models"] {
                let reply = runtime().block_on(http.send(&self.base.own(route), None));
                match reply.map(|reply| reply.status.as_u16()) {
                    // A key may be asked for; whether it is right is found out next.
                    Ok(200..300 | 401 | 403) => return Ok(()),
                    Ok(404 | 405) => {}
                    _ => break,
                }
            }
            if begun.elapsed() >= limit {
                let (log, tail) = self.log_tail();
                return Err(Trouble::NotReady { command: self.command.clone(), after: limit, log, tail });
            }
            let waited = begun.elapsed().as_secs();
            if watch(&format!("waiting for `{}` since {waited} s", self.command)).is_break() {
                return Err(Trouble::Cancelled);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The error of a server that has ended.
    pub(crate) fn ended(&self) -> Option<Trouble> {
        let how = self.service().ended()?.to_string();
        let (log, tail) = self.log_tail();
        Some(Trouble::Ended { command: self.command.clone(), how, log, tail })
    }

    fn log_tail(&self) -> (String, String) {
        let service = self.service();
        (service.log().display().to_string(), service.log_tail())
    }

    fn service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command as written.
fn shown(command: &Command) -> String {
    match command {
        Command::Shell(text) => text.clone(),
        Command::Program(words) => words.join(" "),
    }
}

/// The words of a command, with model and port filled in. For a shell, the model's name is quoted.
fn words(command: &Command, model: &str, port: u16) -> Vec<String> {
    let fill = |text: &str, model: &str| text.replace("{port}", &port.to_string()).replace("{model}", model);
    match command {
        Command::Shell(text) => {
            let quoted = format!("'{}'", model.replace('\'', r"'\''"));
            vec!["/bin/sh".into(), "-c".into(), fill(text, &quoted)]
        }
        Command::Program(words) => words.iter().map(|word| fill(word, model)).collect(),
    }
}

/// Creates a log under a name that no other server has.
fn new_log(logs: &Path, name: &str) -> io::Result<PathBuf> {
    let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    let mut path = logs.join(format!("{name}.log"));
    let mut number = 1;
    while let Err(error) = File::options().write(true).create_new(true).open(&path) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        number += 1;
        path = logs.join(format!("{name}-{number}.log"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_one_endpoint_that_start_at_once_have_a_log_each() {
        let logs = tempfile::tempdir().unwrap();
        let start = |_| new_log(logs.path(), "tower/a").unwrap();
        let logs: std::collections::BTreeSet<PathBuf> = std::thread::scope(|scope| {
            let started: Vec<_> = (0..8).map(|number| scope.spawn(move || start(number))).collect();
            started.into_iter().map(|log| log.join().unwrap()).collect()
        });
        assert_eq!(logs.len(), 8);
    }

    #[test]
    fn model_and_port_are_filled_in_and_a_shell_gets_the_model_as_one_word() {
        let program = Command::Program(vec!["serve".into(), "{model}".into(), "--port={port}".into()]);
        assert_eq!(words(&program, "a b", 81), ["serve", "a b", "--port=81"]);
        let shell = Command::Shell("serve {model} --port {port} | tee log".into());
        assert_eq!(words(&shell, "it's", 81)[2], r"serve 'it'\''s' --port 81 | tee log");
    }
}
