//! An error of a pipeline file, and how it is printed.

use std::fmt;
use std::path::{Path, PathBuf};

use output::{steers, visible};
use unicode_width::UnicodeWidthChar;

/// How many errors are printed. The others are counted.
const MOST_SHOWN: usize = 50;

/// After so many errors in one file, the checks stop.
pub(crate) const MANY: usize = 200;

/// Longer names get no suggestion: a comparison takes the square of their length.
const LONGEST_COMPARED: usize = 100;

/// How many candidates are compared.
const MOST_COMPARED: usize = 5_000;

/// Characters of a long line that are shown around the place of an error.
const WINDOW: usize = 120;

/// A place in a file: line and column from 1, and the number of characters it spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    pub line: usize,
    pub column: usize,
    pub length: usize,
}

impl At {
    /// The place of a default of the site file: it is not in the pipeline.
    pub(crate) const OF_SITE: At = At { line: 0, column: 1, length: 0 };
}

/// One error of a pipeline file: where, the line itself, what was expected, what to do.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    path: PathBuf,
    /// Where it is, and the line with the carets below it.
    pub(super) place: Option<(At, String)>,
    /// `None` in an error that is not shown: there are too many, or it was reported before.
    pub(super) message: Option<String>,
    help: Option<String>,
}

impl Diagnostic {
    /// An error of a file as a whole.
    pub fn of_file(path: &Path, message: impl Into<String>) -> Diagnostic {
        Diagnostic { path: path.to_owned(), place: None, message: Some(message.into()), help: None }
    }

    /// An error that is not shown.
    pub fn unseen(path: &Path) -> Diagnostic {
        Diagnostic { message: None, ..Diagnostic::of_file(path, "") }
    }

    /// An error at a place of a file, with the text of its line.
    pub fn at(path: &Path, at: At, line: &str, message: impl Into<String>) -> Diagnostic {
        let (shown, caret) = excerpt(line, at);
        let number = at.line.to_string();
        let gutter = " ".repeat(number.len());
        let excerpt = format!("{gutter} |\n{number} | {shown}\n{gutter} | {caret}");
        Diagnostic { place: Some((at, excerpt)), ..Diagnostic::of_file(path, message) }
    }

    /// Adds the line that says what to do.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Suggests the candidate that `given` is most likely a misspelling of, else lists them all.
    pub fn suggest<'a>(self, given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        if self.message.is_none() {
            return self;
        }
        match suggestion(given, candidates) {
            Some(help) => self.help(help),
            None => self,
        }
    }
}

/// A question with the nearest candidate, else a list of all; `None` without candidates.
pub(crate) fn suggestion<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(given, &candidates) {
        Some(name) => Some(format!("did you mean `{name}`?")),
        None if candidates.is_empty() => None,
        None => Some(format!("there are: {}", listed(&candidates))),
    }
}

/// Names separated by commas, only the first of many.
pub(crate) fn listed(names: &[&str]) -> String {
    const MOST: usize = 24;
    match names.get(..MOST) {
        Some(first) if names.len() > MOST => format!("{}, … ({} in all)", first.join(", "), names.len()),
        _ => names.join(", "),
    }
}

/// The nearest candidate within a third of the name's length in edits. A single letter is no misspelling of another.
pub fn nearest<'a>(given: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let length = given.chars().count();
    if length > LONGEST_COMPARED {
        return None;
    }
    let within = (length / 3).max(1);
    let close =
        candidates.iter().take(MOST_COMPARED).filter(|name| name.chars().count().abs_diff(length) <= within);
    let scored = close.map(|name| (strsim::damerau_levenshtein(given, name), *name));
    scored
        .filter(|(distance, _)| *distance <= within && *distance < length)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", visible(&self.path.to_string_lossy()))?;
        let message = visible(self.message.as_deref().unwrap_or_default());
        if let Some((at, excerpt)) = &self.place {
            write!(f, ":{}:{}: {message}\n{excerpt}", at.line, at.column)?;
        } else {
            write!(f, ": {message}")?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {}", visible(help)),
            None => Ok(()),
        }
    }
}

/// A line as shown, and the carets under the place in it.
fn excerpt(line: &str, at: At) -> (String, String) {
    let shown = |c: char| if steers(c) { '\u{fffd}' } else { c };
    let chars: Vec<char> = line.chars().map(shown).collect();
    let column = at.column.saturating_sub(1).min(chars.len());
    let start = if column > WINDOW { column - WINDOW / 2 } else { 0 };
    let end = chars.len().min(start + WINDOW + WINDOW / 2);
    let mut shown: String = chars[start..end].iter().collect();
    let mut caret = String::new();
    if start > 0 {
        shown.insert(0, '…');
        caret.push(' ');
    }
    if end < chars.len() {
        shown.push('…');
    }
    for &c in &chars[start..column] {
        match c {
            '\t' => caret.push('\t'),
            _ => caret.extend(std::iter::repeat_n(' ', c.width().unwrap_or(0))),
        }
    }
    let marked = &chars[column..end.min(column + at.length.max(1))];
    let width = marked.iter().map(|c| c.width().unwrap_or(1)).sum::<usize>();
    caret.extend(std::iter::repeat_n('^', width.max(1)));
    (shown, caret)
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
    /// The caller writes `error: ` before the first error; the others have it here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().take(MOST_SHOWN).enumerate() {
            write!(f, "{}{diagnostic}", if index == 0 { "" } else { "\n\nerror: " })?;
        }
        match self.0.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more if self.0.len() < MANY => write!(f, "\n\nerror: and {more} more"),
            _ => write!(f, "\n\nerror: and many more"),
        }
    }
}

impl std::error::Error for Diagnostics {}
