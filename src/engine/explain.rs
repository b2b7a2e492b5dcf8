//! Explains why a key changed: the differences between two manifests, part by part.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::input::model_and_revision;

/// The kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The value of a parameter.
    Parameter,
    /// The content of an input.
    Input,
    /// An environment variable.
    Variable,
    /// The stage's code version.
    Code,
    /// The stage's kind.
    Kind,
    /// The seed: of the pipeline, of the stage, or by the round of the loop.
    Seed,
    /// The rounds of the loops around it.
    Position,
    /// The device or number type that models are computed with.
    Numerics,
    /// The format of keys in this version of triplay.
    Format,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The kind of thing that differs.
    pub what: What,
    /// The parameter, as in the pipeline: `algorithm.grpo.lr`. Empty where there is only one of its kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Null if it did not exist.
    pub from: Value,
    /// Null if it no longer exists.
    pub to: Value,
}

/// All differences between the manifest of a record and that of a node now. Of an input whose digest is `null`, because it is not
/// known yet, nothing is said.
pub fn differences(before: &Value, now: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    for (field, what) in [
        ("kind", What::Kind),
        ("version", What::Code),
        ("numerics", What::Numerics),
        ("position", What::Position),
        ("seed", What::Seed),
        ("format", What::Format),
    ] {
        if before[field] != now[field] {
            let (from, to) = (before[field].clone(), now[field].clone());
            changes.push(Change { what, path: String::new(), from, to });
        }
    }
    compare("", &before["params"], &now["params"], &mut changes);
    changes
}

fn compare(path: &str, before: &Value, now: &Value, changes: &mut Vec<Change>) {
    if before == now {
        return;
    }
    // An input of only one side is there or not.
    let content = |value: &Value, other: &Value| {
        input(value).or_else(|| (value.is_null() && input(other).is_some()).then_some(Value::Null))
    };
    if let (Some(from), Some(to)) = (content(before, now), content(now, before)) {
        if to.is_null() && now.get("digest").is_some() {
            if before.is_null() {
                changes.push(Change { what: What::Input, path: path.to_owned(), from, to: now.clone() });
            }
            return;
        }
        let one = if now.is_null() { before } else { now };
        let (what, path) = match one.get("variable").and_then(Value::as_str) {
            None => (What::Input, path.to_owned()),
            // By its name, not by its place in a list.
            Some(name) => match path.rsplit_once('.') {
                Some((list, place)) if place.parse::<usize>().is_ok() => {
                    (What::Variable, format!("{list}.{name}"))
                }
                _ => (What::Variable, path.to_owned()),
            },
        };
        changes.push(Change { what, path, from, to });
        return;
    }
    let at = |step: &str| if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") };
    match (before, now) {
        (Value::Object(from), Value::Object(to)) => {
            let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
            for name in names {
                let (from, to) =
                    (from.get(name).unwrap_or(&Value::Null), to.get(name).unwrap_or(&Value::Null));
                compare(&at(name), from, to, changes);
            }
        }
        (Value::Array(from), Value::Array(to)) if from.len() == to.len() => {
            for (index, (from, to)) in from.iter().zip(to).enumerate() {
                compare(&at(&index.to_string()), from, to, changes);
            }
        }
        _ => {
            let change =
                Change { what: What::Parameter, path: path.into(), from: before.clone(), to: now.clone() };
            changes.push(change);
        }
    }
}

/// The content of an input in a manifest.
fn input(value: &Value) -> Option<Value> {
    let fields = value.as_object()?;
    match (fields.len(), fields.get("digest"), fields.get("variable"), fields.get("value")) {
        (1, Some(digest), _, _) => Some(digest.clone()),
        (2, None, Some(_), Some(value)) => Some(value.clone()),
        (2, Some(digest), None, None) if fields.contains_key("loaded") => Some(json!({ "loaded": digest })),
        (2, None, None, None) if fields.contains_key("revision") => {
            let model = fields.get("model")?.as_str()?;
            Some(json!(model_and_revision(model, fields["revision"].as_str())))
        }
        _ => None,
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = short_pair(&self.from, &self.to);
        match self.what {
            What::Parameter => write!(f, "parameter {}: {from} → {to}", self.path),
            What::Input => write!(f, "input {}: content {from} → {to}", self.path),
            What::Variable => write!(f, "environment variable of {}: {from} → {to}", self.path),
            What::Code => write!(f, "code version: {from} → {to}"),
            What::Kind => write!(f, "kind: {from} → {to}"),
            What::Seed => write!(f, "seed: {from} → {to}"),
            What::Position => write!(f, "rounds of the loops around it: {from} → {to}"),
            What::Numerics => write!(f, "device and number type: {from} → {to}"),
            What::Format => write!(f, "key format of triplay: {from} → {to}"),
        }
    }
}

/// Both values, shortened. A long common beginning of two texts is left out, so that the difference is visible.
fn short_pair(from: &Value, to: &Value) -> (String, String) {
    const BEFORE: usize = 12;
    if let (Value::String(from), Value::String(to)) = (from, to) {
        let common = from.chars().zip(to.chars()).take_while(|(from, to)| from == to).count();
        if common > LONGEST / 2 {
            let rest = |text: &String| {
                let rest: String = text.chars().skip(common - BEFORE).collect();
                format!("…{}", short(&Value::String(rest)))
            };
            return (rest(from), rest(to));
        }
    }
    (short(from), short(to))
}

/// The most characters of a value that are shown.
const LONGEST: usize = 60;

/// Characters of a digest that are shown.
const DIGEST: usize = 12;

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A value with inputs as the beginnings of their digests.
fn with_short_digests(value: &Value) -> Value {
    match value {
        Value::String(text) if is_digest(text) => text[..DIGEST].into(),
        Value::Array(values) => values.iter().map(with_short_digests).collect(),
        Value::Object(fields) => match (fields.len(), fields.get("digest")) {
            (1, Some(Value::Null)) => "not known yet".into(),
            (1, Some(digest)) => with_short_digests(digest),
            _ => fields.iter().map(|(name, value)| (name.clone(), with_short_digests(value))).collect(),
        },
        other => other.clone(),
    }
}

/// A value, shortened: digests to their beginnings, the whole to [`LONGEST`].
fn short(value: &Value) -> String {
    match (value, with_short_digests(value)) {
        (Value::Null, _) => "nothing".into(),
        (Value::String(text), Value::String(digest)) if is_digest(text) => digest,
        (Value::Object(_), Value::String(digest)) => digest,
        (_, other) => {
            let text = other.to_string();
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Digest;

    #[test]
    fn every_part_of_a_manifest_that_differs_is_named() {
        let digest = |text: &str| json!({ "digest": Digest::of_bytes(text.as_bytes()) });
        let before = json!({
            "format": 2, "kind": "sft", "version": 1, "numerics": "cpu f32", "position": [1], "seed": "aa",
            "params": {
                "lr": 0.001, "data": digest("a"), "models": [{ "weight": 1 }], "gone": 3,
                "inherit": [{ "variable": "HOME", "value": "/root" }],
            },
        });
        let mut now = before.clone();
        assert_eq!(differences(&before, &now), []);
        now["params"]["data"] = json!({ "digest": null });
        assert_eq!(differences(&before, &now), [], "not known yet");
        now["version"] = json!(2);
        now["params"]["lr"] = json!(0.002);
        now["params"]["data"] = digest("b");
        now["params"]["models"][0]["weight"] = json!(2);
        now["params"]["inherit"][0]["value"] = json!(null);
        now["params"].as_object_mut().unwrap().remove("gone");
        let told: Vec<String> = differences(&before, &now).iter().map(Change::to_string).collect();
        assert_eq!(
            told,
            [
                "code version: 1 → 2",
                "input data: content 17762fddd969 → 10e5cf3d3c8a",
                "parameter gone: 3 → nothing",
                "environment variable of inherit.HOME: \"/root\" → nothing",
                "parameter lr: 0.001 → 0.002",
                "parameter models.0.weight: 1 → 2",
            ]
        );
        let last = |before: &Value, now: &Value| differences(before, now).last().unwrap().to_string();
        let (mut more, mut several) = (now.clone(), now.clone());
        more["params"]["test"] = digest("a");
        several["params"]["data"] = json!([digest("a"), { "of": digest("b") }]);
        assert_eq!(last(&now, &more), "input test: content nothing → 17762fddd969");
        assert_eq!(last(&more, &now), "input test: content 17762fddd969 → nothing");
        assert_eq!(
            last(&now, &several),
            r#"parameter data: 10e5cf3d3c8a → ["17762fddd969",{"of":"10e5cf3d3c8a"}]"#
        );
        let served = |revision: Value| json!({ "model": "owl", "revision": revision });
        more["params"]["test"] = served(Value::Null);
        several = more.clone();
        several["params"]["test"] = served(json!("v2"));
        assert_eq!(last(&more, &several), "input test: content \"owl\" → \"owl at v2\"");
        more["params"]["test"] = json!({ "digest": null });
        assert_eq!(last(&now, &more), "input test: content nothing → not known yet");
    }
}
