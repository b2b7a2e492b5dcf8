//! Which texts of runs leave the machine: those of made-up worlds as they are, others only where somebody says so.

use std::borrow::Cow;

use super::folder::Run;

/// How texts of prompts and models are given to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// As they are.
    Revealed,
    /// `[redacted: 12 characters]`.
    Redacted,
}

/// The columns of tables that hold texts of prompts and models.
const COLUMNS: [&str; 7] = ["seed", "text", "attack", "response", "prompt", "completion", "answer"];

impl Texts {
    /// What is right where nobody said anything: the sandbox's world is made up, so nothing harmful is in it; of other
    /// pipelines nobody knows.
    pub fn of(run: &Run) -> Texts {
        // Records of earlier versions do not name the kinds.
        let in_nodes = || run.nodes.iter().any(|node| node.kind == "sandbox");
        if run.record.kinds.contains_key("sandbox") || in_nodes() { Texts::Revealed } else { Texts::Redacted }
    }

    /// A text as others get it. Nothing stays nothing.
    pub fn show<'t>(self, text: &'t str) -> Cow<'t, str> {
        match self {
            Texts::Redacted => redacted(text).into(),
            Texts::Revealed => text.into(),
        }
    }

    /// Whether a column of a table holds such texts.
    pub fn are_in(column: &str) -> bool {
        COLUMNS.contains(&column)
    }
}

/// What stands for a text that is left out.
pub fn redacted(text: &str) -> String {
    match text.chars().count() {
        0 => String::new(),
        1 => "[redacted: 1 character]".into(),
        count => format!("[redacted: {count} characters]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_redacted_says_how_long_it_was() {
        assert_eq!(Texts::Redacted.show("wörter"), "[redacted: 6 characters]");
        assert_eq!((redacted("?").as_str(), redacted("")), ("[redacted: 1 character]", String::new()));
        assert_eq!(Texts::Revealed.show("wörter"), "wörter");
        assert!(Texts::are_in("response") && !Texts::are_in("class"));
    }
}
