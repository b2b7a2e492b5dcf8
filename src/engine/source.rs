//! The text of a pipeline file, and errors that point into it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A pipeline is written by hand; anything larger is a mistake or an attack, and is refused unread.
const LARGEST: u64 = 1 << 20;

/// A place in a file: line and column from 1, and the number of characters it spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    pub line: usize,
    pub column: usize,
    pub length: usize,
}

/// A pipeline file's text.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    pub fn read(path: &Path) -> Result<Source, Diagnostic> {
        let fail = |message: String| Diagnostic::of_file(path, message);
        let metadata =
            fs::metadata(path).map_err(|error| fail(format!("cannot read the pipeline: {error}")))?;
        if metadata.is_dir() {
            return Err(fail("this is a folder; a pipeline is a YAML file".into()));
        }
        if metadata.len() > LARGEST {
            return Err(fail(format!(
                "a pipeline file of {} MiB is refused: the limit is {} MiB",
                metadata.len() >> 20,
                LARGEST >> 20
            ))
            .help("keep data in files of its own and name them with `path:`"));
        }
        let bytes = fs::read(path).map_err(|error| fail(format!("cannot read the pipeline: {error}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| fail(format!("not UTF-8 text (byte {})", error.utf8_error().valid_up_to())))?;
        Ok(Source { path: path.to_owned(), text })
    }

    /// An error at a place in this file.
    pub fn error(&self, at: At, message: impl Into<String>) -> Diagnostic {
        let line = self.text.lines().nth(at.line.saturating_sub(1)).unwrap_or("").to_owned();
        Diagnostic { path: self.path.clone(), place: Some((at, line)), message: message.into(), help: None }
    }
}

/// One error of a pipeline file: where, the line itself, what was expected, what to do.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    path: PathBuf,
    place: Option<(At, String)>,
    message: String,
    help: Option<String>,
}

impl Diagnostic {
    /// An error of a file as a whole.
    pub fn of_file(path: &Path, message: impl Into<String>) -> Diagnostic {
        Diagnostic { path: path.to_owned(), place: None, message: message.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Suggests the candidate that `given` is most likely a misspelling of, else lists them all.
    pub fn suggest<'a>(self, given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        let candidates: Vec<&str> = candidates.into_iter().collect();
        match nearest(given, &candidates) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None if candidates.is_empty() => self,
            None => self.help(format!("there are: {}", candidates.join(", "))),
        }
    }
}

/// The candidate within a third of the name's length in edits, if there is one.
pub fn nearest<'a>(given: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let within = (given.chars().count() / 3).max(1);
    let distance = |name: &str| strsim::damerau_levenshtein(given, name);
    candidates.iter().copied().filter(|name| distance(name) <= within).min_by_key(|name| distance(name))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((at, line)) = &self.place {
            let number = at.line.to_string();
            let gutter = " ".repeat(number.len());
            let shown: String = line.chars().take(160).collect();
            let indent = " ".repeat(at.column.saturating_sub(1).min(160));
            let room = shown.chars().count().saturating_sub(at.column.saturating_sub(1)).max(1);
            let caret = "^".repeat(at.length.clamp(1, room));
            write!(f, ":{}:{}: {}", at.line, at.column, self.message)?;
            write!(f, "\n{gutter} |\n{number} | {shown}\n{gutter} | {indent}{caret}")?;
        } else {
            write!(f, ": {}", self.message)?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// All errors of a pipeline file, in the order of the file. Never empty.
#[derive(Clone, Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl From<Diagnostic> for Diagnostics {
    fn from(only: Diagnostic) -> Diagnostics {
        Diagnostics(vec![only])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            write!(f, "{}{diagnostic}", if index == 0 { "" } else { "\n\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_file_line_column_and_the_line() {
        let source = Source { path: "p.yaml".into(), text: "a: 1\nstagse: {}\n".into() };
        let error = source.error(At { line: 2, column: 1, length: 6 }, "unknown key `stagse`");
        let error = error.suggest("stagse", ["stages", "params"]);
        assert_eq!(
            error.to_string(),
            "p.yaml:2:1: unknown key `stagse`\n  |\n2 | stagse: {}\n  | ^^^^^^\n  help: did you mean `stages`?"
        );
    }

    #[test]
    fn a_far_name_is_not_suggested() {
        assert_eq!(nearest("prompt", &["prompts", "group"]), Some("prompts"));
        assert_eq!(nearest("banana", &["prompts", "group"]), None);
    }
}
