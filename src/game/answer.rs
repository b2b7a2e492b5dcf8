//! The part of a completion that counts: models that reason first, or wrap their answer, write more than that.

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a text is empty but for white space. No model is asked about such a text.
pub fn has_no_text(text: &str) -> bool {
    text.trim().is_empty()
}

/// Whether a text gives this answer: the same words, regardless of case, surrounding white space and a full stop at the end; or the same
/// number, with or without commas between thousands. An empty text gives none.
pub fn is_right(text: &str, answer: &str) -> bool {
    let bare = |text: &str| text.trim().trim_end_matches('.').trim().to_lowercase();
    let (text, answer) = (bare(text), bare(answer));
    let is_same = || number(&text).is_some_and(|given| number(&answer) == Some(given));
    !text.is_empty() && (text == answer || is_same())
}

/// A number, with or without commas between thousands.
fn number(text: &str) -> Option<f64> {
    let whole = text.split('.').next().unwrap_or_default();
    let mut groups = whole.trim_start_matches(['-', '+']).split(',');
    let first = groups.next().unwrap_or_default().len();
    let mut others = groups.peekable();
    if others.peek().is_some() && !(1..=3).contains(&first) || others.any(|group| group.len() != 3) {
        return None;
    }
    text.replace(',', "").parse::<f64>().ok().filter(|number| number.is_finite())
}

/// What begins and ends the thinking of a model that reasons before it answers.
const THINKING: [&str; 2] = ["<think>", "</think>"];

/// What follows the thinking at the beginning of a completion; all of it if there is none, and nothing if the thinking never ends.
/// `prompt` is what the model continued, if that is known: some chat templates end in `<think>`, so that the completion only has the
/// end. Where it is not known, an end without a beginning counts. Where it is known, it does not: then anything before a `</think>`
/// would be hidden by a model that learns to write it.
fn final_answer<'a>(completion: &'a str, prompt: Option<&str>) -> &'a str {
    let [begin, end] = THINKING;
    let after = |text: &'a str| text.find(end).map(|at| text[at + end.len()..].trim());
    let begun = completion.trim_start().strip_prefix(begin);
    match (begun, prompt) {
        (Some(thinking), _) => after(thinking).unwrap_or_default(),
        (None, Some(prompt)) if prompt.trim_end().ends_with(begin) => after(completion).unwrap_or_default(),
        (None, Some(_)) => completion,
        (None, None) => match (completion.find(begin), completion.find(end)) {
            (begun, Some(ended)) if begun.is_none_or(|begun| ended < begun) => {
                after(completion).unwrap_or_default()
            }
            _ => completion,
        },
    }
}

/// The part of a completion that is its text. A completion without it has an empty text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What follows the thinking, `<think> … </think>`, at the beginning; all of it where there is none. This is the default.
    Final,
    /// All of it, the thinking too: the other side sees it.
    All,
    /// The answer is what follows the last occurrence of this text, such as `</think>`, without outer white space.
    After(String),
    /// The answer is the first match of this regular expression (of Rust's regex crate): its first group, or all of it if it has
    /// no group, without outer white space.
    Pattern(String),
}

/// Finds answers in completions.
pub enum Finder<'a> {
    Final,
    All,
    After(&'a str),
    Pattern(Regex),
}

impl Answer {
    /// Compiles the rule. Fails if the text is empty or the expression is invalid.
    pub fn finder(&self) -> Result<Finder<'_>, String> {
        match self {
            Answer::Final => Ok(Finder::Final),
            Answer::All => Ok(Finder::All),
            Answer::After(mark) if mark.is_empty() => {
                Err("`after` must be the text before the answer, found an empty text".into())
            }
            Answer::After(mark) => Ok(Finder::After(mark)),
            Answer::Pattern(pattern) => compile(pattern).map(Finder::Pattern),
        }
    }
}

impl Finder<'_> {
    /// The answer in the completion of a prompt, if that is known; empty if there is none.
    pub fn find<'a>(&self, completion: &'a str, prompt: Option<&str>) -> &'a str {
        let found = match self {
            Finder::Final => return final_answer(completion, prompt),
            Finder::All => return completion,
            Finder::After(mark) => completion.rfind(mark).map(|at| &completion[at + mark.len()..]),
            Finder::Pattern(regex) => {
                let groups = regex.captures(completion);
                groups.and_then(|groups| groups.get(1).or(groups.get(0))).map(|found| found.as_str())
            }
        };
        found.unwrap_or_default().trim()
    }
}

/// A regular expression, or its error in one line.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("`{pattern}` is not a regular expression: {reason}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_part_that_counts_is_found_or_nothing_is() {
        let find = |json, completion| {
            let answer: Answer = serde_json::from_value(json).unwrap();
            answer.finder().map(|finder| finder.find(completion, Some("")).to_owned())
        };
        let after = || json!({ "after": "</think>" });
        assert_eq!(find(after(), "<think> a </think> b </think>\n no . ").unwrap(), "no .");
        assert_eq!(find(after(), "<think> it goes on").unwrap(), "");
        let group = || json!({ "pattern": "(?s)<answer>(.*?)</answer>" });
        let several = "well <answer> brew\nit </answer> <answer>x</answer>";
        assert_eq!(find(group(), several).unwrap(), "brew\nit");
        assert_eq!(find(group(), "well").unwrap(), "");
        assert_eq!(find(json!({ "pattern": "[a-z]+$" }), "A tale").unwrap(), "tale");
        assert_eq!(find(json!("final"), "<think> it harms </think>\n no").unwrap(), "no");
        assert_eq!(
            find(json!("all"), " <think> it harms </think>\n no").unwrap(),
            " <think> it harms </think>\n no"
        );
        let wrong = find(json!({ "pattern": "(" }), "").unwrap_err();
        assert_eq!(wrong, "`(` is not a regular expression: unclosed group");
    }

    #[test]
    fn thinking_at_the_beginning_is_not_part_of_the_answer() {
        let plain = "User: brew\nModel:";
        let opened = "<|user|>brew<|model|><think>\n";
        for (completion, prompt, text) in [
            (" as it is\n", Some(plain), " as it is\n"),
            ("\n<think>\nlet me see\n</think>\n\nno .\n", Some(plain), "no ."),
            ("<think></think>no", None, "no"),
            ("<think>it goes on", Some(plain), ""),
            ("<think>it goes on", None, ""),
            (
                "well <think>not at the beginning</think> no",
                Some(plain),
                "well <think>not at the beginning</think> no",
            ),
            (
                "well <think>not at the beginning</think> no",
                None,
                "well <think>not at the beginning</think> no",
            ),
            ("let me see</think>\n\nno", Some(opened), "no"),
            ("it goes on", Some(opened), ""),
            ("let me see</think>\n\nno", None, "no"),
            ("take the root</think> no", Some(plain), "take the root</think> no"),
            ("<think>a</think> b </think> c", Some(plain), "b </think> c"),
            ("no", None, "no"),
        ] {
            assert_eq!(final_answer(completion, prompt), text, "{completion:?} after {prompt:?}");
        }
    }

    #[test]
    fn an_answer_is_right_as_a_text_or_as_a_number() {
        for (text, answer) in [
            (" Paris. ", "paris"),
            ("1,234.0", "1234"),
            ("-12,345,678", "-12345678"),
            ("seven .", "seven"),
            ("-3", "-3.00"),
        ] {
            assert!(is_right(text, answer), "{text} {answer}");
        }
        for (text, answer) in [
            ("", "7"),
            ("", "."),
            ("17", "7"),
            ("7 or 8", "7"),
            ("nan", "NaN7"),
            ("inf", "1e999"),
            ("1,2", "12"),
            ("3,14", "314"),
            ("1234,567", "1234567"),
        ] {
            assert!(!is_right(text, answer), "{text} {answer}");
        }
    }
}
