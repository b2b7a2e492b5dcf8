//! YAML as a tree of values of which each knows its place, so that an error found late still points at it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::diagnostic::Diagnostic;
use super::source::{At, Source};
use super::syntax;

/// Maps and lists within each other: enough for twenty loops, little enough for any stack.
const MOST_NESTED: usize = 48;

/// A YAML value and its place.
#[derive(Clone, Debug)]
pub struct Tree {
    pub value: Value,
    pub at: At,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// In the place of what is wrong and was reported: whatever uses it is passed over.
    Broken,
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    /// In the order of the file; duplicate keys are refused by the parser.
    Map(Vec<(Key, Tree)>),
}

/// A key of a map and its place.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub at: At,
}

impl Tree {
    /// Parses a whole document. Syntax errors, duplicate keys and alias bombs are diagnosed with their place.
    pub fn parse(source: &Source) -> Result<Tree, Diagnostic> {
        let parsed: Result<Spanned<Value>, _> = serde_saphyr::from_str_with_options(&source.text, options());
        parsed.map(Tree::from).map_err(|error| syntax::syntax_error(source, &error))
    }

    /// Parses the value of a `--set name=value`; its places mean nothing.
    pub fn parse_value(text: &str) -> Result<Tree, String> {
        let parsed: Result<Spanned<Value>, _> = serde_saphyr::from_str_with_options(text, options());
        parsed.map(Tree::from).map_err(|error| syntax::plain(&error).0)
    }

    /// The same with every place in it `at`.
    pub fn moved_to(self, at: At) -> Tree {
        let value = match self.value {
            Value::List(items) => Value::List(items.into_iter().map(|item| item.moved_to(at)).collect()),
            Value::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (Key { name: key.name, at }, value.moved_to(at)))
                    .collect(),
            ),
            other => other,
        };
        Tree { value, at }
    }

    /// The value under a key, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name.name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        self.value.to_json()
    }
}

impl Value {
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Value::Broken | Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => Json::from(*value),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Tree::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|(key, value)| (key.name.clone(), value.to_json())).collect())
            }
        }
    }

    /// As it stands inside text: text as it is, all else as JSON.
    pub fn to_text(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            other => other.to_json().to_string(),
        }
    }

    /// What this is, for messages: "text", "a list".
    pub fn describe(&self) -> &'static str {
        match self {
            Value::Broken | Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    options.strict_booleans = true;
    options.alias_limits.max_total_replayed_events = 10_000;
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = MOST_NESTED;
    options.budget = Some(budget);
    options
}

fn place(location: serde_saphyr::Location) -> At {
    At {
        line: location.line() as usize,
        column: location.column() as usize,
        length: location.span().len() as usize,
    }
}

impl From<Spanned<Value>> for Tree {
    fn from(spanned: Spanned<Value>) -> Tree {
        let mut at = place(spanned.referenced);
        if matches!(spanned.value, Value::List(_) | Value::Map(_)) {
            at.length = 1;
        }
        Tree { value: spanned.value, at }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::Int)
            .map_err(|_| E::custom(format!("the number {value} is too large")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, Spanned<Value>>()? {
            map.push((Key { name: key.value, at: place(key.referenced) }, value.into()));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tree, Diagnostic> {
        Tree::parse(&Source::new("p.yaml".into(), text.into()))
    }

    #[test]
    fn values_know_their_type_and_place() {
        let tree = parse("seed: 7\nlr: 4e-4\nname: 'x'\nlist: [a, { b: true }]\nempty:\n").unwrap();
        assert_eq!(
            tree.to_json(),
            serde_json::json!({"seed": 7, "lr": 4e-4, "name": "x", "list": ["a", {"b": true}], "empty": null})
        );
        let lr = tree.get("lr").unwrap();
        assert_eq!(lr.at, At { line: 2, column: 5, length: 4 });
    }

    #[test]
    fn a_syntax_error_names_its_place() {
        let error = parse("stages:\n  a: [1, 2\n  b: 3\n").unwrap_err().to_string();
        assert!(error.starts_with("p.yaml:3:"), "{error}");
        assert!(error.contains("not valid YAML"), "{error}");
    }

    #[test]
    fn a_reference_with_brackets_in_flow_style_gets_the_remedy() {
        let error = parse("a: { model: others[b].model }\n").unwrap_err().to_string();
        assert!(error.contains("quote"), "{error}");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
        for (name, previous) in ('b'..'k').zip('a'..) {
            let alias = format!("*{previous},").repeat(10);
            text += &format!("{name}: &{name} [{}]\n", alias.trim_end_matches(','));
        }
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("alias"), "{error}");
    }

    #[test]
    fn a_duplicate_key_is_refused() {
        let error = parse("a: 1\na: 2\n").unwrap_err().to_string();
        assert!(error.starts_with("p.yaml:2:1"), "{error}");
    }
}
