//! YAML as a tree of values. Each value knows its place, so that an error found late still points at it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::diagnostic::{At, Diagnostic};
use super::source::Source;
use super::syntax;

/// How deep maps and lists may be nested: enough for twenty loops, and safe for any stack.
const MOST_NESTED: usize = 48;

/// A YAML value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub value: Value,
    pub at: At,
    /// The source of a plain scalar that is not text: the number `3.10` is 3.1, and `3.10` again where it becomes text.
    spelling: Option<Arc<str>>,
}

/// Values by name.
pub(crate) type Params = BTreeMap<String, Tree>;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A value whose error was reported: what uses it is not checked.
    Broken,
    Null,
    /// Null at a key that roles or defaults have too: it leaves their value out.
    LeftOut,
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
pub(crate) struct Key {
    pub name: String,
    pub at: At,
}

impl Tree {
    pub(crate) fn new(value: Value, at: At) -> Tree {
        Tree { value, at, spelling: None }
    }

    /// The tree of a value, all of it at one place.
    pub(crate) fn of_json(value: &serde_json::Value, at: At) -> Tree {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(is) => Value::Bool(*is),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => Value::Int(whole),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(|item| Tree::of_json(item, at)).collect())
            }
            serde_json::Value::Object(fields) => {
                let entry =
                    |(name, value): (&String, _)| (Key { name: name.clone(), at }, Tree::of_json(value, at));
                Value::Map(fields.iter().map(entry).collect())
            }
        };
        Tree::new(value, at)
    }

    /// The tree of a value parsed from `text`.
    fn of(parsed: Spanned<Parsed>, text: &str) -> Tree {
        let mut at = place(parsed.referenced);
        let value = match parsed.value {
            Parsed::Scalar(value) => {
                let is_text = matches!(value, Value::Text(_));
                let spelling = if is_text { None } else { spelling(text, parsed.defined) };
                let value = match (&value, &spelling) {
                    (Value::Float(_), Some(typed)) => whole(typed).map_or(value, Value::Int),
                    _ => value,
                };
                return Tree { value, at, spelling };
            }
            Parsed::List(items) => Value::List(items.into_iter().map(|item| Tree::of(item, text)).collect()),
            Parsed::Map(entries) => {
                let key = |key: Spanned<String>| Key { name: key.value, at: place(key.referenced) };
                Value::Map(
                    entries.into_iter().map(|(name, value)| (key(name), Tree::of(value, text))).collect(),
                )
            }
        };
        at.length = 1;
        Tree::new(value, at)
    }

    /// Parses a whole document. Syntax errors, duplicate keys and alias bombs are diagnosed with their place.
    pub(crate) fn parse(source: &Source) -> Result<Tree, Diagnostic> {
        let parsed: Result<Spanned<Parsed>, _> = serde_saphyr::from_str_with_options(&source.text, options());
        parsed
            .map(|parsed| Tree::of(parsed, &source.text))
            .map_err(|error| syntax::syntax_error(source, &error))
    }

    /// Parses the value of a `--set name=value`; its places mean nothing.
    pub(crate) fn parse_value(text: &str) -> Result<Tree, String> {
        let parsed: Result<Spanned<Parsed>, _> = serde_saphyr::from_str_with_options(text, options());
        parsed.map(|parsed| Tree::of(parsed, text)).map_err(|error| syntax::plain(&error).0)
    }

    /// The same tree with `at` as the place of every value.
    pub(crate) fn moved_to(self, at: At) -> Tree {
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
        Tree { value, at, ..self }
    }

    /// The same tree at another place; the values in it keep theirs.
    pub(crate) fn placed(self, at: At) -> Tree {
        Tree { at, ..self }
    }

    /// Another value with this place and spelling, such as a number of another type.
    pub(crate) fn with(&self, value: Value) -> Tree {
        Tree { value, at: self.at, spelling: self.spelling.clone() }
    }

    /// The value of a key, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name.name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Removes the keys that are there to leave a shared value out.
    pub(crate) fn remove_left_out(&mut self) {
        match &mut self.value {
            Value::Map(entries) => {
                entries.retain(|(_, inner)| !matches!(inner.value, Value::LeftOut));
                entries.iter_mut().for_each(|(_, inner)| inner.remove_left_out());
            }
            Value::List(items) => items.iter_mut().for_each(Tree::remove_left_out),
            _ => {}
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        self.value.to_json()
    }

    /// As JSON, with every scalar as text, as typed. A value that is left out is null.
    pub(crate) fn to_verbatim_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::List(items) => Json::Array(items.iter().map(Tree::to_verbatim_json).collect()),
            Value::Map(entries) => Json::Object(
                entries.iter().map(|(key, value)| (key.name.clone(), value.to_verbatim_json())).collect(),
            ),
            Value::Broken | Value::Null if self.spelling.is_none() => Json::Null,
            _ => Json::String(self.to_text()),
        }
    }

    /// As part of a text: scalars as typed, everything else as JSON.
    pub(crate) fn to_text(&self) -> String {
        match (&self.value, &self.spelling) {
            (Value::Text(text), _) => text.clone(),
            (_, Some(spelling)) => spelling.as_ref().to_owned(),
            (other, None) => other.to_json().to_string(),
        }
    }

    /// As JSON, with numbers as typed.
    pub(crate) fn as_typed(&self) -> String {
        match &self.value {
            Value::Int(_) | Value::Float(_) => self.to_text(),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(Tree::as_typed).collect();
                format!("[{}]", items.join(","))
            }
            Value::Map(entries) => {
                let entry = |(key, value): &(Key, Tree)| {
                    format!("{}:{}", serde_json::Value::from(key.name.as_str()), value.as_typed())
                };
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
            }
            other => other.to_json().to_string(),
        }
    }

    /// Whether it is a plain scalar that is not text.
    pub(crate) fn is_spelt(&self) -> bool {
        self.spelling.is_some()
    }

    /// The length of a scalar's text, in bytes.
    pub(crate) fn text_len(&self) -> usize {
        match &self.value {
            Value::Text(text) => text.len(),
            _ => self.spelling.as_ref().map_or(0, |spelling| spelling.len()),
        }
    }
}

impl Value {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Value::Broken | Value::Null | Value::LeftOut => Json::Null,
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

    /// What was found, for a message about a value's range: numbers and short texts themselves, otherwise the type.
    pub(crate) fn found(&self) -> String {
        match self {
            Value::Int(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::Text(text) if text.len() <= 40 => format!("`{}`", text.escape_debug()),
            other => other.describe().to_owned(),
        }
    }

    /// The type, for messages: "text", "a list".
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Value::Broken | Value::Null | Value::LeftOut => "nothing",
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

/// The source of a plain scalar. `None` of one that is quoted or tagged: there the value counts.
fn spelling(text: &str, defined: Location) -> Option<Arc<str>> {
    let span = defined.span();
    let (start, length) = (span.byte_offset()? as usize, span.byte_len()? as usize);
    let spelling = text.get(start..start + length)?.trim();
    let is_plain = !spelling.is_empty() && !spelling.starts_with(['"', '\'', '!', '&', '*', '|', '>']);
    is_plain.then(|| spelling.into())
}

/// A number of digits alone, which YAML 1.2 reads as an integer whatever zeros it begins with.
fn whole(typed: &str) -> Option<i64> {
    let digits = typed.strip_prefix(['+', '-']).unwrap_or(typed);
    typed.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A value as the parser gives it.
enum Parsed {
    Scalar(Value),
    List(Vec<Spanned<Parsed>>),
    Map(Vec<(Spanned<String>, Spanned<Parsed>)>),
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parsed, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Int(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Parsed, E> {
        i64::try_from(value)
            .map(|value| Parsed::Scalar(Value::Int(value)))
            .map_err(|_| E::custom(format!("the number {value} is too large")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Parsed>>()? {
            list.push(item);
        }
        Ok(Parsed::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parsed, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry::<Spanned<String>, Spanned<Parsed>>()? {
            map.push(entry);
        }
        Ok(Parsed::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tree, Diagnostic> {
        Tree::parse(&Source::new("p.yaml".into(), text.into()))
    }

    #[test]
    fn scalars_know_how_they_are_typed() {
        let text = "
- [3.10, 0x10, 1e3, 007, +12, True, ~, 'a b', \"3.10\", null, .5, 1.0]
- [!!str 3.10, !!float 3.10, !!int '7', &x 3.10, *x]
- { <<: { a: 3.10 } }
- é 3.10: 1.50 # more
- 2.50
- [3.10
  , 4.20]
-
";
        let typed = parse(text).unwrap().to_verbatim_json();
        assert_eq!(
            typed,
            serde_json::json!([
                ["3.10", "0x10", "1e3", "007", "+12", "True", "~", "a b", "3.10", "null", ".5", "1.0"],
                ["3.10", "3.10", "7", "3.10", "3.10"],
                { "a": "3.10" },
                { "é 3.10": "1.50" },
                "2.50",
                ["3.10", "4.20"],
                null,
            ])
        );
        assert_eq!(parse("a: 3.10").unwrap().to_json(), serde_json::json!({ "a": 3.1 }));
        assert_eq!(Tree::parse_value(" 3.10 ").unwrap().to_text(), "3.10");
    }

    #[test]
    fn zeros_before_a_number_make_no_fraction_of_it() {
        let numbers = parse("[007, -007, +08, 0, 0x10, 1e3, 1_000, .5, 3.10, 00.5, 1.0]").unwrap();
        assert_eq!(numbers.to_json().to_string(), "[7,-7,8,0,16,1000.0,1000,0.5,3.1,0.5,1.0]");
        assert_eq!(numbers.as_typed(), "[007,-007,+08,0,0x10,1e3,1_000,.5,3.10,00.5,1.0]");
        let mixed = parse("{ a: 3.10, \"b c\": ['3.10', True, ~] }").unwrap();
        assert_eq!(mixed.as_typed(), r#"{"a":3.10,"b c":["3.10",true,null]}"#);
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
