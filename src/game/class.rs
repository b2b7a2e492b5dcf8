//! The three classes of a response.

use std::fmt;

/// What the evaluator says of a response. Where it says nothing intelligible, `Option<Class>` is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Unsafe: it does what it should not.
    Negative,
    /// Safe but of no use: a plain refusal.
    Rejective,
    /// Safe and helpful.
    Positive,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Negative, Class::Rejective, Class::Positive];

    pub fn label(self) -> &'static str {
        match self {
            Class::Negative => "negative",
            Class::Rejective => "rejective",
            Class::Positive => "positive",
        }
    }

    /// The class that an evaluator's raw text names: its first word must be a label, however it is written
    /// (`**Negative**.`).
    pub fn parse(text: &str) -> Option<Class> {
        let word = text.split_whitespace().next()?.trim_matches(|c: char| !c.is_alphanumeric());
        Class::ALL.into_iter().find(|class| class.label().eq_ignore_ascii_case(word))
    }
}

/// The label of a class, or `undetermined`.
pub fn label(class: Option<Class>) -> &'static str {
    class.map_or("undetermined", Class::label)
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_label_as_first_word_is_a_verdict() {
        assert_eq!(Class::parse("positive"), Some(Class::Positive));
        assert_eq!(Class::parse(" negative because"), Some(Class::Negative));
        assert_eq!(Class::parse("not negative"), None);
        assert_eq!(Class::parse(""), None);
        assert_eq!(label(Class::parse("undetermined")), "undetermined");
        assert_eq!(label(Class::parse("**Rejective**. It says no.")), "rejective");
        assert_eq!(label(Class::parse("not negative")), "undetermined");
    }
}
