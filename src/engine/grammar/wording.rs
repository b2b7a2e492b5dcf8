//! Translates serde's errors of parameters into the words of this grammar, with their places.

use std::collections::HashMap;

use super::diagnostic::{At, Diagnostic, nearest};
use super::errors::Errors;
use super::tree::{Tree, Value};
use crate::stage::DecodeError;

/// An error of the parameters of a stage, or of an endpoint, which also has the keys `more`. `body` is the tree that they were
/// decoded from.
pub(crate) fn decode_error(
    errors: &Errors,
    (name, at): (&str, At),
    more: &[&str],
    body: &Tree,
    error: &DecodeError,
) -> Diagnostic {
    let quoted: Vec<&str> = error.message.split('`').skip(1).step_by(2).collect();
    let whole =
        |path: &[String]| if path.is_empty() { name.to_owned() } else { format!("`{}`", path.join(".")) };
    let place = |path: &[String]| descend(body, path).filter(|_| !path.is_empty()).map_or(at, |tree| tree.at);
    let path = error.path.as_slice();
    if let Some(given) = unknown_key(error) {
        let map = path.strip_suffix(&[given.to_owned()][..]).unwrap_or(path);
        let own = if map.is_empty() { more } else { &[] };
        let known: Vec<&str> = quoted.iter().skip(1).chain(own).copied().collect();
        let at = key_at(body, map, given).unwrap_or(place(map));
        return errors.error(at, format!("{} has no key `{given}`", whole(map))).suggest(given, known);
    }
    if error.message.starts_with("missing field") {
        let key = quoted.first().unwrap_or(&"?");
        return errors.error(place(path), format!("{} needs the key `{key}`", whole(path)));
    }
    if let Some((given, known)) =
        quoted.split_first().filter(|_| error.message.starts_with("unknown variant"))
    {
        let parent = &path[..path.len().saturating_sub(1)];
        let at = key_at(body, path, given).or_else(|| key_at(body, parent, given)).unwrap_or(place(path));
        let name =
            path.iter().rfind(|step| step != given).map_or(String::new(), |key| format!(" of `{key}`"));
        return errors
            .error(at, format!("`{given}` is not a value{name}"))
            .suggest(given, known.iter().copied());
    }
    if error.checked {
        let (at, message) = check_error(name, at, body, path, &error.message);
        return errors.error(at, message);
    }
    let typed = errors.source.text_at(place(path));
    let value = descend(body, path).filter(|tree| !matches!(tree.value, Value::List(_) | Value::Map(_)));
    let note = match value {
        Some(tree) if !path.is_empty() && typed.starts_with('$') && tree.to_text() != typed => {
            format!(": {typed} is `{}`", tree.to_text().escape_debug())
        }
        _ => String::new(),
    };
    let message = plain(&error.message);
    let wants_text = message.starts_with("must be text, found");
    let colon = if message.starts_with("must ") { "" } else { ":" };
    let error = errors.error(place(path), format!("{}{colon} {message}{note}", whole(path)));
    match value.filter(|tree| wants_text && tree.is_spelt() && note.is_empty()) {
        Some(tree) => error.help(format!("quotes make it text: '{}'", tree.to_text())),
        None => error,
    }
}

/// The place and the message of an error that a stage's own check found. `at` is the place of the stage.
pub(crate) fn check_error(stage: &str, at: At, body: &Tree, path: &[String], message: &str) -> (At, String) {
    // A message of a check often begins with the key that it is about.
    let key = message.strip_prefix('`').and_then(|rest| rest.split('`').next());
    let named = key.and_then(|key| descend(descend(body, path)?, &[key.to_owned()]));
    let at = named.or_else(|| around(body, path)).map_or(at, |tree| tree.at);
    (at, if path.is_empty() { format!("{stage}: {message}") } else { message.to_owned() })
}

/// The value at these keys and indices, or at as many of them as exist; `None` if the first does not.
pub(crate) fn around<'a>(body: &'a Tree, path: &[String]) -> Option<&'a Tree> {
    (1..=path.len()).rev().find_map(|steps| descend(body, &path[..steps]))
}

/// The name of a stage in errors.
pub(crate) fn stage(name: &str, kind: &str) -> String {
    format!("stage `{name}` (kind {kind})")
}

/// The key that serde does not know, if that is what the error says.
pub(crate) fn unknown_key(error: &DecodeError) -> Option<&str> {
    let given = error.message.strip_prefix("unknown field `")?;
    given.split_once('`').map(|(given, _)| given)
}

/// Whether one of these is a misspelling of the missing key.
pub(crate) fn is_missing_as<'a>(error: &DecodeError, mut misspelt: impl Iterator<Item = &'a str>) -> bool {
    let missing = error.message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    missing.is_some_and(|key| misspelt.any(|given| nearest(given, &[key]).is_some()))
}

/// `invalid type: integer `3`, expected a string` as `must be text, found a whole number`.
fn plain(message: &str) -> String {
    let split = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.rsplit_once(", expected "));
    if let Some((found, expected)) = split("invalid type: ") {
        let number = found.strip_prefix("floating point `").and_then(|rest| rest.strip_suffix('`'));
        return format!("must be {}, found {}", kind(expected), number.unwrap_or(found_kind(found)));
    }
    if let Some((found, expected)) = split("invalid value: ") {
        let value = found.split('`').nth(1).unwrap_or(found_kind(found));
        return format!("must be {}, found {value}", kind(expected));
    }
    if let Some((length, expected)) = split("invalid length ") {
        return format!("must be {}, found {length}", kind(expected));
    }
    message.to_owned()
}

fn kind(expected: &str) -> String {
    let plain = match expected {
        "a string" | "path string" | "a borrowed string" => "text",
        "a boolean" => "true or false",
        "usize" | "u64" | "u32" | "u16" => "a whole number from 0",
        "u8" => "a whole number from 0 to 255",
        "isize" | "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a sequence" => "a list",
        "a map" => "a map",
        "string or map" | "map with a single key" => "a name, or a map with a single key",
        "unit variant" => "a name without a value",
        "fewer elements in array" => "a shorter list",
        other => match other.split_once(' ') {
            Some(("newtype" | "struct" | "tuple", "variant")) => "a map with a single key",
            Some(("struct", _)) => "a map",
            Some(("enum", _)) => "a name, or a map with a single key",
            _ => match other.strip_prefix("a tuple of size ") {
                Some(size) => return format!("a list of {size} values"),
                None => other,
            },
        },
    };
    plain.to_owned()
}

fn found_kind(found: &str) -> &str {
    match found.split([' ', '`']).next().unwrap_or(found) {
        "integer" => "a whole number",
        "string" => "text",
        "boolean" => "true or false",
        "sequence" => "a list",
        "map" => "a map",
        "null" | "unit" | "Option" => "nothing",
        _ => found,
    }
}

/// The value at these keys and indices.
pub(crate) fn descend<'a>(tree: &'a Tree, path: &[String]) -> Option<&'a Tree> {
    path.iter().try_fold(tree, |tree, step| match &tree.value {
        Value::List(items) => items.get(step.parse::<usize>().ok()?),
        _ => tree.get(step),
    })
}

/// [`descend`] for many paths in the order in which [`crate::input::number`] finds them: it reads each map once.
pub(crate) fn descend_all<'a>(
    tree: Option<&'a Tree>,
    paths: &[&[String]],
    found: &mut Vec<Option<&'a Tree>>,
) {
    let entries: HashMap<&str, &'a Tree> = match tree.map(|tree| &tree.value) {
        Some(Value::Map(entries)) => entries.iter().map(|(key, value)| (key.name.as_str(), value)).collect(),
        _ => HashMap::new(),
    };
    for group in paths.chunk_by(|a, b| a.first() == b.first()) {
        let Some(step) = group[0].first() else {
            found.extend(group.iter().map(|_| tree));
            continue;
        };
        let below = match tree.map(|tree| &tree.value) {
            Some(Value::List(items)) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => entries.get(step.as_str()).copied(),
        };
        let rest: Vec<&[String]> = group.iter().map(|path| &path[1..]).collect();
        descend_all(below, &rest, found);
    }
}

/// The place of a key, in the map at `path`.
fn key_at(tree: &Tree, path: &[String], given: &str) -> Option<At> {
    match &descend(tree, path)?.value {
        Value::Map(entries) => entries.iter().find(|(key, _)| key.name == given).map(|(key, _)| key.at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn types_are_called_as_yaml_calls_them() {
        for (serde, ours) in [
            ("invalid type: integer `3`, expected a string", "must be text, found a whole number"),
            (
                "invalid type: floating point `0.5`, expected usize",
                "must be a whole number from 0, found 0.5",
            ),
            ("invalid value: integer `-1`, expected usize", "must be a whole number from 0, found -1"),
            ("invalid type: string \"a, expected b\", expected f64", "must be a number, found text"),
            ("invalid type: map, expected a tuple of size 2", "must be a list of 2 values, found a map"),
            ("invalid length 3, expected a tuple of size 2", "must be a list of 2 values, found 3"),
            ("invalid length 3, expected fewer elements in array", "must be a shorter list, found 3"),
            ("invalid type: null, expected struct Init", "must be a map, found nothing"),
            ("something else", "something else"),
        ] {
            assert_eq!(plain(serde), ours);
        }
    }
}
