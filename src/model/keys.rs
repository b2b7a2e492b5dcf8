//! Reads the files of a model's folder, and configurations by their known keys. A key is read for its value, required to
//! have the one value that changes nothing, or listed as bookkeeping. Any other key is refused by name: ignoring it could
//! silently change what the model computes. A file that exists and cannot be read is an error; it never counts as missing.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};

use super::{Error, Result};
use store::read::MAX_PARTS_BYTES;

/// The result of reading a configuration; the error names the key.
pub(crate) type ConfigResult<T> = std::result::Result<T, String>;

/// Whether a path exists, be it as a folder or as a link that leads nowhere.
pub fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(cause) => Err(Error::Read { path: path.into(), cause }),
    }
}

/// Reads a file that must exist.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    store::read::bytes(path, MAX_PARTS_BYTES).map_err(|cause| Error::Read { path: path.into(), cause })
}

/// Reads a JSON file that must exist and gives no key two values.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    parse(&read(path)?).map_err(|reason| Error::Invalid { path: path.into(), reason })
}

/// Reads a JSON file that may be missing.
pub(crate) fn read_json_if_there(path: &Path) -> Result<Option<Value>> {
    if is_there(path)? { read_json(path).map(Some) } else { Ok(None) }
}

/// Parses JSON and refuses a key with two values: some readers take the first, others the last.
pub(crate) fn parse(text: &[u8]) -> ConfigResult<Value> {
    let Unambiguous(value) = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    Ok(value)
}

struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Unambiguous, E> {
        Ok(Unambiguous(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Unambiguous, E> {
        Ok(Unambiguous(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Unambiguous, E> {
        Ok(Unambiguous(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Unambiguous, E> {
        Ok(Unambiguous(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Unambiguous, E> {
        Ok(Unambiguous(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Unambiguous, E> {
        Ok(Unambiguous(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Unambiguous, A::Error> {
        let mut all = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Unambiguous(all.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Unambiguous, A::Error> {
        let mut all = Map::new();
        while let Some((key, Unambiguous(value))) = entries.next_entry::<String, Unambiguous>()? {
            if all.get(&key).is_some_and(|other| *other != value) {
                return Err(de::Error::custom(format!(
                    "the key `{key}` is given twice with different values"
                )));
            }
            all.insert(key, value);
        }
        Ok(Unambiguous(all.into()))
    }
}

/// A JSON object, and which of its keys have been read. A key that is null counts as not given.
pub(crate) struct Keys<'a> {
    fields: &'a Map<String, Value>,
    known: BTreeSet<&'a str>,
    /// The prefix of its keys in errors, such as `rope_scaling.`
    within: String,
}

impl<'a> Keys<'a> {
    /// `within` is the key whose value the object is; empty for the whole file.
    pub(crate) fn of(value: &'a Value, within: &str) -> ConfigResult<Keys<'a>> {
        let fields = value.as_object().ok_or_else(|| match within {
            "" => format!("must be a JSON object, found {}", brief(value)),
            _ => format!("`{within}` must be a JSON object, found {}", brief(value)),
        })?;
        let within = if within.is_empty() { String::new() } else { format!("{within}.") };
        Ok(Keys { fields, known: BTreeSet::new(), within })
    }

    fn get(&mut self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.fields.get_key_value(key)?;
        self.known.insert(key);
        Some(value).filter(|value| !value.is_null())
    }

    /// Reads a key that may be missing.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, key: &str) -> ConfigResult<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = |error| format!("`{}{key}` has the invalid value {}: {error}", self.within, brief(value));
        T::deserialize(value).map(Some).map_err(wrong)
    }

    /// Reads a key that must be given.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, key: &str) -> ConfigResult<T> {
        self.take(key)?.ok_or_else(|| format!("has no `{}{key}`", self.within))
    }

    /// Reads a key that has several names. If it is given under more than one of them, the values must be equal.
    pub(crate) fn alias<T: DeserializeOwned + PartialEq>(
        &mut self,
        names: &[&'a str],
    ) -> ConfigResult<Option<T>> {
        let mut found: Option<(&str, T)> = None;
        for name in names {
            match (self.take::<T>(name)?, &found) {
                (Some(value), Some((first, other))) if value != *other => {
                    return Err(self.contradiction(first, name));
                }
                (Some(value), None) => found = Some((name, value)),
                _ => {}
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    /// The error for two keys that mean the same and have different values.
    pub(crate) fn contradiction(&self, one: &str, other: &str) -> String {
        let said = |key: &str| format!("`{}{key}` is {}", self.within, brief(&self.fields[key]));
        format!("{}, but {}: both keys mean the same, keep the correct one", said(one), said(other))
    }

    /// Requires a key to be missing or to have a value that `allows` accepts; `expected` describes that value in the error.
    pub(crate) fn only(
        &mut self,
        key: &str,
        expected: &str,
        allows: impl Fn(&Value) -> bool,
    ) -> ConfigResult<()> {
        match self.get(key).filter(|value| !allows(value)) {
            None => Ok(()),
            Some(value) => {
                let key = format!("{}{key}", self.within);
                Err(format!(
                    "`{key}` must be {expected}, found {}: anything else is not supported",
                    brief(value)
                ))
            }
        }
    }

    /// Requires keys to be off: missing, null, false, 0, or empty.
    pub(crate) fn off(&mut self, keys: &[&str]) -> ConfigResult<()> {
        keys.iter().try_for_each(|key| self.only(key, "off (false, 0, null or empty)", is_off))
    }

    /// Accepts keys that change nothing, whatever their value.
    pub(crate) fn harmless(&mut self, keys: &[&str]) {
        for key in keys {
            self.get(key);
        }
    }

    /// Accepts keys with these beginnings, which change nothing either.
    pub(crate) fn harmless_beginnings(&mut self, beginnings: &[&str]) {
        let harmless = self.fields.keys().filter(|key| beginnings.iter().any(|start| key.starts_with(start)));
        self.known.extend(harmless.map(String::as_str));
    }

    /// Refuses keys that have not been read or accepted.
    pub(crate) fn finish(self) -> ConfigResult<()> {
        let unknown =
            self.fields.iter().find(|(key, value)| !value.is_null() && !self.known.contains(key.as_str()));
        match unknown {
            None => Ok(()),
            Some((key, value)) => Err(format!(
                "unknown key `{}{key}` ({}): it might change what the model computes; if it does not, remove it",
                self.within,
                brief(value)
            )),
        }
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A value as errors show it, cut after 60 characters.
pub(crate) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_given_twice_is_refused_unless_both_say_the_same() {
        assert_eq!(parse(br#"{"a": 1, "b": [{"c": 2, "c": 2}]}"#).unwrap(), json!({"a": 1, "b": [{"c": 2}]}));
        let error = parse(br#"{"a": {"r": 8, "r": 16}}"#).unwrap_err();
        assert!(error.contains("the key `r` is given twice with different values at line 1"), "{error}");
    }

    #[test]
    fn names_of_one_thing_agree_and_what_nobody_knows_is_refused() {
        let value =
            json!({"type": "linear", "rope_type": "linear", "factor": 2, "new": null, "strange": true});
        let mut keys = Keys::of(&value, "rope_scaling").unwrap();
        assert_eq!(keys.alias::<String>(&["rope_type", "type"]).unwrap().as_deref(), Some("linear"));
        assert_eq!(keys.need::<f64>("factor").unwrap(), 2.0);
        assert_eq!(keys.need::<f64>("high").unwrap_err(), "has no `rope_scaling.high`");
        assert_eq!(
            keys.finish().unwrap_err(),
            "unknown key `rope_scaling.strange` (true): it might change what the model computes; if it does not, remove it"
        );
        let value = json!({"dtype": "bfloat16", "torch_dtype": "float16"});
        let error = Keys::of(&value, "").unwrap().alias::<String>(&["dtype", "torch_dtype"]).unwrap_err();
        assert_eq!(
            error,
            "`dtype` is \"bfloat16\", but `torch_dtype` is \"float16\": both keys mean the same, keep the correct one"
        );
    }

    #[test]
    fn a_file_that_is_there_and_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("generation_config.json");
        assert!(read_json_if_there(&path).unwrap().is_none());
        std::fs::create_dir(&path).unwrap();
        assert!(read_json_if_there(&path).unwrap_err().to_string().starts_with("cannot read "));
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(read_json_if_there(&path).unwrap_err().to_string().starts_with("cannot read "));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert!(read_json_if_there(&path).unwrap_err().to_string().contains("not JSON: EOF"));
    }
}
