//! What can go wrong with the worker.

use std::fmt;

/// An error of the worker: what happened, the end of its log, and what to do.
#[derive(Debug)]
pub struct Trouble {
    what: String,
    /// The log's last lines, indented, and its path.
    log: Option<(String, String)>,
    help: Option<String>,
}

impl Trouble {
    /// An error that has neither log nor help yet.
    pub fn new(what: impl Into<String>) -> Trouble {
        Trouble { what: what.into(), log: None, help: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Trouble {
        Trouble { help: Some(help.into()), ..self }
    }

    /// With the log's path, where that says more.
    pub fn with_log(self, path: &str) -> Trouble {
        self.log(String::new(), path.to_owned())
    }

    pub(crate) fn log(self, tail: String, path: String) -> Trouble {
        Trouble { log: Some((tail, path)), ..self }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some((tail, path)) = &self.log {
            write!(f, "{tail}\n  the whole log: {path}")?;
        }
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {help}"))
    }
}

impl std::error::Error for Trouble {}
