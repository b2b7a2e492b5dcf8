//! Errors of a pipeline file: what a reader is shown, and the list that they are gathered in.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use unicode_width::UnicodeWidthChar;

use super::source::{At, Source};

/// More errors than this are counted, not shown.
const MOST_SHOWN: usize = 50;

/// After so many errors of one file, no more are looked into.
const MANY: usize = 200;

/// Longer names are not compared to find the one that was meant, which takes the square of their length.
const LONGEST_COMPARED: usize = 100;

/// Nor are more names than this.
const MOST_COMPARED: usize = 5_000;

/// Characters of a long line that are shown around the place of an error.
const WINDOW: usize = 120;

/// One error of a pipeline file: where, the line itself, what was expected, what to do.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    path: PathBuf,
    /// Where it is, and the line with the carets below it.
    place: Option<(At, String)>,
    /// None in one that nobody will see: it is one of too many, or was said already.
    message: Option<String>,
    help: Option<String>,
}

impl Diagnostic {
    /// An error of a file as a whole.
    pub fn of_file(path: &Path, message: impl Into<String>) -> Diagnostic {
        Diagnostic { path: path.to_owned(), place: None, message: Some(message.into()), help: None }
    }

    /// An error at a place of a file, of which this is the line.
    pub fn at(path: &Path, at: At, line: &str, message: impl Into<String>) -> Diagnostic {
        let (shown, caret) = excerpt(line, at);
        let number = at.line.to_string();
        let gutter = " ".repeat(number.len());
        let excerpt = format!("{gutter} |\n{number} | {shown}\n{gutter} | {caret}");
        Diagnostic { place: Some((at, excerpt)), ..Diagnostic::of_file(path, message) }
    }

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

/// The name that was probably meant, else all there are, else nothing.
pub fn suggestion<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(given, &candidates) {
        Some(name) => Some(format!("did you mean `{name}`?")),
        None if candidates.is_empty() => None,
        None => Some(format!("there are: {}", listed(&candidates))),
    }
}

/// Names in a row, of many only the first.
pub fn listed(names: &[&str]) -> String {
    const MOST: usize = 24;
    match names.get(..MOST) {
        Some(first) if names.len() > MOST => format!("{}, … ({} in all)", first.join(", "), names.len()),
        _ => names.join(", "),
    }
}

/// The candidate within a third of the name's length in edits, if there is one. One letter is no misspelling
/// of another.
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
        write!(f, "{}", printable(&self.path.to_string_lossy()))?;
        let message = printable(self.message.as_deref().unwrap_or_default());
        if let Some((at, excerpt)) = &self.place {
            write!(f, ":{}:{}: {message}\n{excerpt}", at.line, at.column)?;
        } else {
            write!(f, ": {message}")?;
        }
        match &self.help {
            Some(help) => write!(f, "\n  help: {}", printable(help)),
            None => Ok(()),
        }
    }
}

/// Whether a character would steer a terminal, or reorder what stands around it, instead of being shown.
fn steers(c: char) -> bool {
    let is_white = matches!(c, '\t' | '\n');
    c.is_control() && !is_white || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text that may hold anything from the file, safe to be shown.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let show = |c: char| if steers(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(show).collect())
}

/// A line as it is shown, and the carets that stand under the place in it.
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
    /// Who shows this writes `error: ` before it; each further error brings its own.
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

/// Gathers the errors of a file. One place says the same thing once, however often a matrix or an ablation
/// comes past it.
pub struct Errors<'a> {
    pub source: &'a Source,
    found: RefCell<Vec<Diagnostic>>,
    seen: RefCell<HashSet<(usize, usize, String)>>,
    ablation: RefCell<Option<String>>,
    variant: RefCell<Option<String>>,
}

impl<'a> Errors<'a> {
    pub fn new(source: &'a Source) -> Errors<'a> {
        Errors {
            source,
            found: RefCell::default(),
            seen: RefCell::default(),
            ablation: RefCell::default(),
            variant: RefCell::default(),
        }
    }

    /// What is found from now on is found in this ablation.
    pub fn in_ablation(&self, name: Option<&str>) {
        *self.ablation.borrow_mut() = name.map(str::to_owned);
    }

    /// What is found from now on is found in this variant of a stage, and not in its first.
    pub fn in_variant(&self, label: Option<&str>) {
        *self.variant.borrow_mut() = label.map(str::to_owned);
    }

    /// Whether there are so many that it is time to stop looking for more.
    pub fn are_many(&self) -> bool {
        self.found.borrow().len() >= MANY
    }

    /// An error at a place of the file, to be added.
    pub fn error(&self, at: At, message: impl Into<String>) -> Diagnostic {
        let said = (at.line, at.column, message.into());
        match self.are_many() || self.seen.borrow().contains(&said) {
            true => Diagnostic { message: None, ..Diagnostic::of_file(&self.source.path, "") },
            false => self.source.error(at, said.2),
        }
    }

    /// Keeps an error. The `None` is for functions that return nothing after one.
    pub fn add<T>(&self, mut error: Diagnostic) -> Option<T> {
        if self.are_many() {
            return None;
        }
        let message = error.message.as_mut()?;
        let (line, column) = error.place.as_ref().map_or((0, 0), |(at, ..)| (at.line, at.column));
        if self.seen.borrow_mut().insert((line, column, message.clone())) {
            for (what, name) in [("variant", &self.variant), ("ablation", &self.ablation)] {
                if let Some(name) = &*name.borrow() {
                    *message += &format!(" (in the {what} `{name}`)");
                }
            }
            self.found.borrow_mut().push(error);
        }
        None
    }

    /// Keeps an error at a place of the file.
    pub fn at<T>(&self, at: At, message: impl Into<String>) -> Option<T> {
        self.add(self.error(at, message))
    }

    /// The errors so far, if there are any.
    pub fn finish(&self) -> Result<(), Diagnostics> {
        let mut found = self.found.take();
        found.sort_by_key(|error| error.place.as_ref().map(|(at, ..)| (at.line, at.column)));
        if found.is_empty() { Ok(()) } else { Err(Diagnostics(found)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("p.yaml".into(), text.into())
    }

    #[test]
    fn an_error_shows_file_line_column_and_the_line() {
        let source = source("a: 1\nstagse: {}\n");
        let error = source.error(At { line: 2, column: 1, length: 6 }, "unknown key `stagse`");
        let error = error.suggest("stagse", ["stages", "params"]);
        assert_eq!(
            error.to_string(),
            "p.yaml:2:1: unknown key `stagse`\n  |\n2 | stagse: {}\n  | ^^^^^^\n  help: did you mean `stages`?"
        );
    }

    #[test]
    fn the_caret_stands_under_wide_characters_and_behind_tabs() {
        let error = source("火\t光: x").error(At { line: 1, column: 3, length: 1 }, "here").to_string();
        assert_eq!(error, "p.yaml:1:3: here\n  |\n1 | 火\t光: x\n  |   \t^^");
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let line = format!("{}here{}", "x".repeat(1000), "y".repeat(1000));
        let error = source(&line).error(At { line: 1, column: 1001, length: 4 }, "m").to_string();
        let (shown, caret) = (error.lines().nth(2).unwrap(), error.lines().nth(3).unwrap());
        assert!(shown.chars().count() < 200);
        let start = caret.find('^').unwrap();
        assert_eq!(shown.chars().skip(start).take(4).collect::<String>(), "here");
    }

    #[test]
    fn one_place_says_a_thing_once_and_the_order_is_the_file_s() {
        let source = source("a\nb\n");
        let errors = Errors::new(&source);
        let at = |line| At { line, column: 1, length: 1 };
        for line in [2, 1, 2] {
            errors.at::<()>(at(line), "wrong");
        }
        let text = errors.finish().unwrap_err().to_string();
        assert_eq!(text.lines().filter(|line| line.contains("wrong")).count(), 2);
        assert!(text.find("p.yaml:1").unwrap() < text.find("p.yaml:2").unwrap());
    }

    #[test]
    fn what_would_steer_a_terminal_is_written_out() {
        let error = Diagnostic::of_file(Path::new("p\x1b.yaml"), "no `\x1b[2J\r\u{202e}\t`\nsecond")
            .help("did you mean `\0`?")
            .to_string();
        assert_eq!(
            error,
            "p\\u{1b}.yaml: no `\\u{1b}[2J\\r\\u{202e}\t`\nsecond\n  help: did you mean `\\u{0}`?"
        );
        let error = source("a\x1b\u{2066}b").error(At { line: 1, column: 4, length: 1 }, "m").to_string();
        assert_eq!(error, "p.yaml:1:4: m\n  |\n1 | a\u{fffd}\u{fffd}b\n  |    ^");
    }

    #[test]
    fn what_is_said_again_is_not_even_made() {
        let source = source(&"x".repeat(1 << 20));
        let errors = Errors::new(&source);
        let at = At { line: 1, column: 1 << 20, length: 1 };
        for _ in 0..100_000 {
            errors.add::<()>(errors.error(at, "wrong").suggest("here", ["there"]));
        }
        assert_eq!(errors.finish().unwrap_err().0.len(), 1);
    }

    #[test]
    fn names_of_any_length_are_compared_in_no_time() {
        let (one, other) = ("a".repeat(400_000), "b".repeat(400_000));
        assert_eq!(nearest(&one, &[&other]), None);
    }

    #[test]
    fn a_far_name_is_not_suggested() {
        assert_eq!(nearest("prompt", &["prompts", "group"]), Some("prompts"));
        assert_eq!(nearest("banana", &["prompts", "group"]), None);
    }
}
