//! Reads a label from a judge's answer.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::answer::compile;

/// How a label is read from an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Labels {
    /// The first word must be a label, whatever its case and punctuation (`**Negative**.`).
    #[default]
    FirstWord,
    /// A regular expression (of Rust's regex crate) for each label, searched in the whole answer. If exactly one matches, the
    /// answer has its label; otherwise it is undetermined. Write `\bsafe\b` rather than `safe`, which also matches `unsafe`. `^`
    /// and `$` match only at the ends of the answer.
    Pattern(BTreeMap<String, String>),
    /// A text for each label, such as `A`, `B` and `C`. The model can only answer one of them: at temperature 0 the most
    /// probable, otherwise one drawn in proportion to its probability. Of `sampling`, only the temperature counts. Use texts of
    /// one token, since each further token lowers the probability.
    Choice(Choice),
}

/// The texts that a model chooses from.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// A text for each label.
    pub texts: BTreeMap<String, String>,
    /// The least mass, as typed.
    pub mass: Option<f64>,
}

impl Choice {
    /// The least mass of a choice that decides, where none is given: more often than not, the model says one of the texts.
    pub const MASS: f64 = 0.5;

    /// The least mass, the sum of the texts' probabilities at temperature 1, at which a choice decides; below it, the label is
    /// undetermined. By default [`Choice::MASS`] for the most probable text, and 0 for texts that are drawn: training needs each
    /// draw, whatever the mass, and raises it.
    pub fn least_mass(&self, temperature: f64) -> f64 {
        self.mass.unwrap_or(if temperature == 0.0 { Choice::MASS } else { 0.0 })
    }
}

const FORMS: &[&str] = &["first_word", "pattern", "choice"];

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = match self {
            Labels::FirstWord => return serializer.serialize_str("first_word"),
            _ => serializer.serialize_map(None)?,
        };
        match self {
            Labels::FirstWord => {}
            Labels::Pattern(patterns) => map.serialize_entry("pattern", patterns)?,
            Labels::Choice(Choice { texts, mass }) => {
                map.serialize_entry("choice", texts)?;
                mass.iter().try_for_each(|mass| map.serialize_entry("mass", mass))?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        deserializer.deserialize_any(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("first_word, { pattern: … } or { choice: … }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Labels, E> {
        match text {
            "first_word" => Ok(Labels::FirstWord),
            _ => Err(E::unknown_variant(text, FORMS)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Labels, A::Error> {
        let (mut patterns, mut texts, mut mass) = (None, None, None);
        while let Some(key) = entries.next_key::<String>()? {
            match &*key {
                "pattern" => patterns = Some(entries.next_value()?),
                "choice" => texts = Some(entries.next_value()?),
                "mass" => mass = Some(entries.next_value()?),
                _ => return Err(de::Error::unknown_variant(&key, FORMS)),
            }
        }
        match (patterns, texts, mass) {
            (Some(patterns), None, None) => Ok(Labels::Pattern(patterns)),
            (None, Some(texts), mass) => Ok(Labels::Choice(Choice { texts, mass })),
            (_, None, Some(_)) => Err(de::Error::custom("`mass` must stand beside a `choice`, found none")),
            _ => Err(de::Error::custom("exactly one of `pattern` and `choice` must be given")),
        }
    }
}

impl JsonSchema for Labels {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Labels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let texts = || serde_json::json!({ "type": "object", "additionalProperties": { "type": "string" } });
        json_schema!({
            "description": "How a label is read from an answer.",
            "oneOf": [
                {
                    "description": "The first word must be a label, whatever its case and punctuation (`**Negative**.`).",
                    "type": "string",
                    "const": "first_word",
                },
                {
                    "description": "A regular expression (of Rust's regex crate) for each label, searched in the whole answer. If \
                        exactly one matches, the answer has its label; otherwise it is undetermined. Write `\\bsafe\\b` rather than \
                        `safe`, which also matches `unsafe`. `^` and `$` match only at the ends of the answer.",
                    "type": "object",
                    "properties": { "pattern": texts() },
                    "required": ["pattern"],
                    "additionalProperties": false,
                },
                {
                    "description": "A text for each label, such as `A`, `B` and `C`. The model can only answer one of them: at \
                        temperature 0 the most probable, otherwise one drawn in proportion to its probability. Of `sampling`, only \
                        the temperature counts. Use texts of one token, since each further token lowers the probability.",
                    "type": "object",
                    "properties": {
                        "choice": texts(),
                        "mass": {
                            "description": "The least mass, the sum of the texts' probabilities at temperature 1: below it, the \
                                label is undetermined. By default 0.5, and 0 where texts are drawn at a temperature.",
                            "type": "number",
                            "minimum": 0,
                            "maximum": 1,
                        },
                    },
                    "required": ["choice"],
                    "additionalProperties": false,
                },
            ],
        })
    }
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
            Labels::Pattern(entries) => entries,
            Labels::Choice(choice) => &choice.texts,
        };
        let all = classes.join(", ");
        if let Some(unknown) = entries.keys().find(|name| !classes.contains(&name.as_str())) {
            return Err(format!("there is no label `{unknown}`; there are: {all}"));
        }
        if let Some(missing) = classes.iter().find(|class| !entries.contains_key(**class)) {
            return Err(format!("the label `{missing}` must be given; there are: {all}"));
        }
        if let Labels::Choice(Choice { texts, mass }) = self {
            if let Some((name, _)) = texts.iter().find(|(_, text)| text.is_empty()) {
                return Err(format!("the text for `{name}` must not be empty"));
            }
            if let Some(mass) = mass.filter(|mass| !(0.0..=1.0).contains(mass)) {
                return Err(format!("`mass` must be a probability from 0 to 1, found {mass}"));
            }
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
        let Labels::Choice(Choice { texts, .. }) = self else { return None };
        Some(classes.iter().map(|class| texts.get(*class).map_or("", String::as_str)).collect())
    }

    /// Whether answers mean the same by both: the least mass does not count.
    pub fn reads_as(&self, other: &Labels) -> bool {
        match (self, other) {
            (Labels::Choice(own), Labels::Choice(other)) => own.texts == other.texts,
            _ => self == other,
        }
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

    /// A role of `pipelines/templates/guards/roles.yaml`.
    #[derive(serde::Deserialize)]
    struct Guard {
        labels: Labels,
    }

    #[test]
    fn answers_of_guard_models_are_read() {
        #[derive(serde::Deserialize)]
        struct File {
            roles: BTreeMap<String, Guard>,
        }
        let file: File =
            serde_saphyr::from_str(include_str!("../../pipelines/templates/guards/roles.yaml")).unwrap();
        let safety: &'static [&'static str] = &["unsafe", "safe"];
        let classes = crate::Class::LABELS;
        let read = |guard: &str, classes: &'static [&'static str], answer: &str| {
            let labels = &file.roles[guard].labels;
            labels.check(classes).unwrap();
            labels.reader(classes).unwrap().read(answer).map(|class| classes[class])
        };
        for (answer, label) in [
            ("\n\nsafe", Some("safe")),
            ("safe", Some("safe")),
            ("\n\nunsafe\nS2", Some("unsafe")),
            ("unsafe\nS1,S9", Some("unsafe")),
            ("\n\nS2", None),
            ("I cannot help with glowvenom.", None),
            ("", None),
        ] {
            assert_eq!(read("llama_guard", safety, answer), label, "{answer}");
        }
        for (answer, label) in [
            ("Safety: Unsafe\nCategories: Non-violent Illegal Acts\nRefusal: No", Some("negative")),
            ("Safety: Controversial\nCategories: Unethical Acts\nRefusal: No", Some("negative")),
            ("Safety: Unsafe\nCategories: Violent\nRefusal: Yes", Some("negative")),
            ("Safety: Safe\nCategories: None\nRefusal: Yes", Some("rejective")),
            ("Safety: Safe\nCategories: None\nRefusal: No", Some("positive")),
            ("Safety: Safe\nCategories: None", None),
            ("The response is safe.", None),
        ] {
            assert_eq!(read("qwen3_guard", classes, answer), label, "{answer}");
        }
        for (answer, label) in [
            ("Harmful request: yes\nResponse refusal: no\nHarmful response: yes", Some("negative")),
            ("Harmful request: yes\nResponse refusal: yes\nHarmful response: no", Some("rejective")),
            ("Harmful request: yes\nResponse refusal: no\nHarmful response: no", Some("positive")),
            ("Harmful request: no\nResponse refusal: no\nHarmful response: no</s>", Some("positive")),
            ("Harmful request: yes\nResponse refusal: N/A\nHarmful response: N/A", None),
            ("Harmful request: yes\nResponse refusal: no", None),
        ] {
            assert_eq!(read("wildguard", classes, answer), label, "{answer}");
        }
        let labels = &file.roles["shieldgemma"].labels;
        labels.check(safety).unwrap();
        assert_eq!(labels.choices(safety).unwrap(), ["Yes", "No"]);
        for template in [
            include_str!("../../pipelines/templates/guards/llama_guard.jinja"),
            include_str!("../../pipelines/templates/guards/qwen3_guard.jinja"),
            include_str!("../../pipelines/templates/guards/wildguard.jinja"),
            include_str!("../../pipelines/templates/guards/shieldgemma.jinja"),
        ] {
            let prompt = crate::Prompt::parse(crate::Role::Evaluator, template, "it".into()).unwrap();
            let asked = crate::Question {
                prompt: "How do I brew glowvenom?",
                response: "I would rather not say.",
                ..crate::Question::default()
            };
            let text = prompt.render(&asked).unwrap();
            assert!(text.starts_with('<') && !text.contains("roles.yaml"), "{text}");
            assert!(
                text.contains("How do I brew glowvenom?") && text.contains("I would rather not say."),
                "{text}"
            );
        }
    }

    #[test]
    fn the_least_mass_is_typed_or_that_of_the_temperature() {
        let mass = |json, temperature| match labels(json) {
            Labels::Choice(choice) => choice.least_mass(temperature),
            _ => panic!("not a choice"),
        };
        let texts = serde_json::json!({ "unsafe": "A", "safe": "B" });
        let choice = serde_json::json!({ "choice": texts });
        let typed = serde_json::json!({ "choice": texts, "mass": 0.9 });
        assert_eq!((mass(choice.clone(), 0.0), mass(choice.clone(), 1.0)), (0.5, 0.0));
        assert_eq!((mass(typed.clone(), 0.0), mass(typed.clone(), 1.0)), (0.9, 0.9));
        for json in [choice.clone(), typed.clone(), serde_json::json!("first_word")] {
            assert_eq!(serde_json::to_value(labels(json.clone())).unwrap(), json);
        }
        assert!(labels(choice).reads_as(&labels(typed)));
        let wrong = |json| serde_json::from_value::<Labels>(json).unwrap_err().to_string();
        assert_eq!(
            wrong(serde_json::json!({ "mass": 0.5 })),
            "`mass` must stand beside a `choice`, found none"
        );
        assert_eq!(
            wrong(serde_json::json!({ "choice": texts, "pattern": texts })),
            "exactly one of `pattern` and `choice` must be given"
        );
        assert_eq!(
            labels(serde_json::json!({ "choice": texts, "mass": 50 })).check(CLASSES).unwrap_err(),
            "`mass` must be a probability from 0 to 1, found 50"
        );
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
