//! Collects the errors of a pipeline file.

use std::cell::RefCell;
use std::collections::HashSet;

use super::diagnostic::{At, Diagnostic, Diagnostics, MANY};
use super::sections::Section;
use super::source::Source;

/// Collects the errors of a file. Keeps one message once for each place, however many variants and ablations cause it.
pub(crate) struct Errors<'a> {
    pub source: &'a Source,
    found: RefCell<Vec<Diagnostic>>,
    seen: RefCell<HashSet<(usize, usize, String)>>,
    ablation: RefCell<Option<String>>,
    variant: RefCell<Option<String>>,
    stage: RefCell<Option<String>>,
    /// Where what several stages share begins and ends. An error there is said once, with a stage that it is found for.
    shared: RefCell<Vec<Section>>,
}

impl<'a> Errors<'a> {
    pub(crate) fn new(source: &'a Source) -> Errors<'a> {
        Errors {
            source,
            found: RefCell::default(),
            seen: RefCell::default(),
            ablation: RefCell::default(),
            variant: RefCell::default(),
            stage: RefCell::default(),
            shared: RefCell::default(),
        }
    }

    /// Errors added from now on belong to this ablation.
    pub(crate) fn in_ablation(&self, name: Option<&str>) {
        *self.ablation.borrow_mut() = name.map(str::to_owned);
    }

    /// Errors added from now on belong to this variant of a stage, which is not its first.
    pub(crate) fn in_variant(&self, label: Option<&str>) {
        *self.variant.borrow_mut() = label.map(str::to_owned);
    }

    /// Errors added from now on are found for this stage.
    pub(crate) fn in_stage(&self, name: Option<&str>) {
        *self.stage.borrow_mut() = name.map(str::to_owned);
    }

    /// Several stages share what is at these places.
    pub(crate) fn share(&self, sections: Vec<Section>) {
        *self.shared.borrow_mut() = sections;
    }

    /// Whether there are so many errors that the checks stop.
    pub(crate) fn are_many(&self) -> bool {
        self.found.borrow().len() >= MANY
    }

    /// An error at a place of the file, to be added.
    pub(crate) fn error(&self, at: At, message: impl Into<String>) -> Diagnostic {
        let said = (at.line, at.column, message.into());
        match self.are_many() || self.seen.borrow().contains(&said) {
            true => Diagnostic::unseen(&self.source.path),
            false => self.source.error(at, said.2),
        }
    }

    /// Adds an error. Returns `None`, for callers that return nothing after an error.
    pub(crate) fn add<T>(&self, mut error: Diagnostic) -> Option<T> {
        if self.are_many() {
            return None;
        }
        let message = error.message.as_mut()?;
        let (line, column) = error.place.as_ref().map_or((0, 0), |(at, ..)| (at.line, at.column));
        let is_shared = self.shared.borrow().iter().any(|section| section.has(line, column));
        let said = if is_shared { String::new() } else { message.clone() };
        if self.seen.borrow_mut().insert((line, column, said)) {
            if let Some(name) = self.stage.borrow().as_ref().filter(|_| is_shared) {
                let named = format!("stage `{name}`");
                if !message.contains(&named) {
                    *message += &format!(" (found for the {named})");
                }
            }
            for (what, name) in [("variant", &self.variant), ("ablation", &self.ablation)] {
                if let Some(name) = &*name.borrow() {
                    *message += &format!(" (in the {what} `{name}`)");
                }
            }
            self.found.borrow_mut().push(error);
        }
        None
    }

    /// Adds an error at a place of the file.
    pub(crate) fn at<T>(&self, at: At, message: impl Into<String>) -> Option<T> {
        self.add(self.error(at, message))
    }

    /// The errors so far, if there are any.
    pub(crate) fn finish(&self) -> Result<(), Diagnostics> {
        let mut found = self.found.take();
        found.sort_by_key(|error| error.place.as_ref().map(|(at, ..)| (at.line, at.column)));
        if found.is_empty() { Ok(()) } else { Err(Diagnostics(found)) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::diagnostic::nearest;
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
            "p\\u001b.yaml: no `\\u001b[2J\\r\\u202e\t`\nsecond\n  help: did you mean `\\u0000`?"
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
