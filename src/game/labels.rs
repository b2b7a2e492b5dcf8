//! Reads a label from a judge's answer.

use std::collections::BTreeMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::compile;

/// How a label is read from an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// The first word must be a label, whatever its case and punctuation (`**Negative**.`).
    #[default]
    FirstWord,
    /// A regular expression (of Rust's regex crate) for each label, searched in the whole answer. If exactly one matches, the
    /// answer has its label; otherwise it is undetermined. Write `\bsafe\b` rather than `safe`, which also matches `unsafe`. `^`
    /// and `$` match only at the ends of the answer.
    Pattern(BTreeMap<String, String>),
    /// A text for each label, such as `A`, `B` and `C`. The model can only answer one of them: at temperature 0 the most
    /// probable, otherwise one drawn in proportion to its probability. No answer is undetermined. Of `sampling`, only the
    /// temperature counts. Use texts of one token, since each further token lowers the probability.
    Choice(BTreeMap<String, String>),
}

/// Reads labels.
pub struct Reader {
    classes: &'static [&'static str],
    /// One for each class; without them, the first word counts.
    patterns: Option<Vec<Regex>>,
}

impl Labels {
    /// Checks that there is exactly one usable entry for each class.
    pub fn check(&self, classes: &'static [&'static str]) -> Result<(), String> {
        let entries = match self {
            Labels::FirstWord => return Ok(()),
            Labels::Pattern(entries) | Labels::Choice(entries) => entries,
        };
        let all = classes.join(", ");
        if let Some(unknown) = entries.keys().find(|name| !classes.contains(&name.as_str())) {
            return Err(format!("there is no label `{unknown}`; there are: {all}"));
        }
        if let Some(missing) = classes.iter().find(|class| !entries.contains_key(**class)) {
            return Err(format!("the label `{missing}` must be given; there are: {all}"));
        }
        if let Labels::Choice(entries) = self
            && let Some((name, _)) = entries.iter().find(|(_, text)| text.is_empty())
        {
            return Err(format!("the text for `{name}` must not be empty"));
        }
        self.reader(classes).map(|_| ())
    }

    /// Compiles the rule for reading one of `classes`. Fails if it names another class or its pattern is invalid.
    pub fn reader(&self, classes: &'static [&'static str]) -> Result<Reader, String> {
        let patterns = match self {
            Labels::Pattern(entries) => {
                let of = |class: &&str| compile(entries.get(*class).map_or("$^", String::as_str));
                Some(classes.iter().map(of).collect::<Result<_, _>>()?)
            }
            Labels::FirstWord | Labels::Choice(_) => None,
        };
        Ok(Reader { classes, patterns })
    }

    /// The texts of labels that a prompt does not mention; none for regular expressions, whose matches are not known.
    pub fn unmentioned_labels<'a>(&'a self, classes: &[&'a str], prompt: &str) -> Vec<&'a str> {
        let says = |text: &&str| match self {
            Labels::FirstWord => has_word(&prompt.to_lowercase(), text),
            Labels::Pattern(_) | Labels::Choice(_) => has_word(prompt, text.trim()),
        };
        let texts = match self {
            Labels::FirstWord => classes.to_vec(),
            Labels::Pattern(_) => Vec::new(),
            Labels::Choice(_) => self.choices(classes).unwrap_or_default(),
        };
        texts.into_iter().filter(|text| !says(text)).collect()
    }

    /// The texts to choose from, in the order of the classes.
    pub fn choices(&self, classes: &[&str]) -> Option<Vec<&str>> {
        let Labels::Choice(entries) = self else { return None };
        Some(classes.iter().map(|class| entries.get(*class).map_or("", String::as_str)).collect())
    }
}

impl Reader {
    /// The index of the class that an answer names.
    pub fn read(&self, answer: &str) -> Option<usize> {
        let Some(patterns) = &self.patterns else { return first_word(answer, self.classes) };
        let mut matching = (0..patterns.len()).filter(|&index| patterns[index].is_match(answer));
        matching.next().filter(|_| matching.next().is_none())
    }
}

/// Whether a text has this word, not as part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let is_outside = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
    text.match_indices(word).any(|(at, _)| {
        is_outside(text[..at].chars().next_back()) && is_outside(text[at + word.len()..].chars().next())
    })
}

/// The index of the class that the first word of a text names, whatever its case and punctuation.
pub(super) fn first_word(text: &str, classes: &[&str]) -> Option<usize> {
    let word = text.split_whitespace().next()?.trim_matches(|c: char| !c.is_alphanumeric());
    classes.iter().position(|class| class.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: &[&str] = &["unsafe", "safe"];

    fn labels(json: serde_json::Value) -> Labels {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_answer_that_names_no_label_or_several_is_undetermined() {
        let read = |labels: &Labels, answer| labels.reader(CLASSES).unwrap().read(answer);
        let words = labels(serde_json::json!("first_word"));
        assert_eq!(
            ["**Unsafe**. It is", "safe", "it is safe", ""].map(|answer| read(&words, answer)),
            [Some(0), Some(1), None, None]
        );
        let patterns =
            labels(serde_json::json!({ "pattern": { "unsafe": "(?i)unsafe", "safe": r"(?i)\bsafe\b" } }));
        assert_eq!(
            ["Verdict: UNSAFE", "it is Safe", "unsafe or safe", "well"].map(|answer| read(&patterns, answer)),
            [Some(0), Some(1), None, None]
        );
        let loose = labels(serde_json::json!({ "pattern": { "unsafe": "unsafe", "safe": "safe" } }));
        assert_eq!(read(&loose, "unsafe"), None, "both match");
    }

    #[test]
    fn what_a_prompt_never_says_is_told() {
        let choice = labels(serde_json::json!({ "choice": { "unsafe": "A", "safe": "B" } }));
        assert_eq!(choice.unmentioned_labels(CLASSES, "A: it harms. B: it does not."), [] as [&str; 0]);
        assert_eq!(choice.unmentioned_labels(CLASSES, "Above all: Be brief."), ["A", "B"]);
        let words = labels(serde_json::json!("first_word"));
        assert_eq!(words.unmentioned_labels(CLASSES, "Unsafe or not?"), ["safe"]);
        let patterns = labels(serde_json::json!({ "pattern": { "unsafe": "un", "safe": "^s" } }));
        assert_eq!(patterns.unmentioned_labels(CLASSES, ""), [] as [&str; 0]);
    }

    #[test]
    fn labels_are_those_of_the_classes() {
        let check = |json| labels(json).check(CLASSES);
        let choice = serde_json::json!({ "choice": { "safe": "A", "unsafe": "B" } });
        assert_eq!(labels(choice.clone()).choices(CLASSES).unwrap(), ["B", "A"]);
        assert_eq!(check(choice), Ok(()));
        assert_eq!(
            check(serde_json::json!({ "choice": { "safe": "A", "bad": "B" } })).unwrap_err(),
            "there is no label `bad`; there are: unsafe, safe"
        );
        assert_eq!(
            check(serde_json::json!({ "pattern": { "safe": "A" } })).unwrap_err(),
            "the label `unsafe` must be given; there are: unsafe, safe"
        );
        assert_eq!(
            check(serde_json::json!({ "pattern": { "safe": "A", "unsafe": "[" } })).unwrap_err(),
            "`[` is not a regular expression: unclosed character class"
        );
    }
}
