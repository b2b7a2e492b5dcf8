//! The text of a pipeline file and places in it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use store::read;

use super::diagnostic::{At, Diagnostic};

/// A pipeline is written by hand; anything larger is a mistake or an attack, and is refused unread.
const LARGEST: u64 = 1 << 20;

/// A pipeline file's text.
#[derive(Debug)]
pub(crate) struct Source {
    pub path: PathBuf,
    pub text: String,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

/// Where each line begins. As in YAML, one ends in a line feed, a carriage return, or both.
fn line_starts(text: &str) -> Vec<usize> {
    let is_end = |(at, end): &(usize, &str)| *end == "\n" || !text[at + 1..].starts_with('\n');
    let ends = text.match_indices(['\n', '\r']).filter(is_end);
    std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect()
}

impl Source {
    pub(crate) fn new(path: PathBuf, text: String) -> Source {
        Source { lines: line_starts(&text), path, text }
    }

    pub(crate) fn read(path: &Path) -> Result<Source, Diagnostic> {
        let fail = |message: String| Diagnostic::of_file(path, message);
        if path.is_dir() {
            return Err(fail("a pipeline must be a YAML file, found a folder".into()));
        }
        match read::text(path, LARGEST) {
            Ok(text) => Ok(Source::new(path.to_owned(), text)),
            Err(error) => {
                let help = match error.kind() {
                    ErrorKind::FileTooLarge => "keep data in separate files and name them with `path:`",
                    ErrorKind::InvalidData => "save the file as UTF-8",
                    _ => return Err(fail(format!("cannot read the pipeline: {error}"))),
                };
                Err(fail(error.to_string()).help(help))
            }
        }
    }

    /// An error at a place in this file.
    pub(crate) fn error(&self, at: At, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.path, at, self.line(at.line), message)
    }

    /// The text at a place.
    pub(crate) fn text_at(&self, at: At) -> &str {
        let line = self.line(at.line);
        let byte = |column: usize| line.char_indices().nth(column).map_or(line.len(), |(byte, _)| byte);
        let start = at.column.saturating_sub(1);
        &line[byte(start)..byte(start + at.length)]
    }

    /// A line by its number from 1, without its ending; empty if there is no such line.
    pub(crate) fn line(&self, number: usize) -> &str {
        let start = self.lines.get(number.wrapping_sub(1)).copied().unwrap_or(self.text.len());
        self.text[start..].split(['\n', '\r']).next().unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_as_yaml_does_whatever_ends_them() {
        let source = Source::new("p.yaml".into(), "a\nb\r\nc\rd\r\r\ne".into());
        let lines: Vec<&str> = (0..8).map(|number| source.line(number)).collect();
        assert_eq!(lines, ["", "a", "b", "c", "d", "", "e", ""]);
    }
}
