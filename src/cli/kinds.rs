//! `triplay pipeline kinds`: explains purpose, keys and outputs of each stage kind, from the schema of its parameters.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::registry::registry;
use crate::engine::{Kind, Registry, nearest, schema};

/// Columns to which text is wrapped.
const WIDTH: usize = 80;

#[derive(Args)]
pub(crate) struct KindsArgs {
    /// Show all keys of this kind
    kind: Option<String>,
}

pub(crate) fn command(args: &KindsArgs) -> anyhow::Result<ExitCode> {
    let registry = registry();
    let text = match &args.kind {
        None => table(&registry),
        Some(name) => match registry.kinds().find(|kind| kind.name == name) {
            Some(kind) => page(&registry, kind),
            None => anyhow::bail!("{}\n  help: {}", registry.unknown(name), hint(&registry, name)),
        },
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn hint(registry: &Registry, name: &str) -> String {
    let names: Vec<&str> = registry.names().collect();
    match nearest(name, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the kinds are: {}", names.join(", ")),
    }
}

/// A paragraph for each kind: its name, purpose and outputs.
fn table(registry: &Registry) -> String {
    let widest = registry.names().map(str::len).max().unwrap_or(0);
    let mut text = String::new();
    for kind in registry.kinds() {
        let schema = schema::of_kind(registry, kind.name).unwrap_or_default();
        let about = wrap(&description(&schema), WIDTH - widest - 2);
        let outputs: Vec<&str> = kind.outputs.iter().map(|output| &*output.name).collect();
        let outputs = match outputs.is_empty() {
            true => "as declared".to_owned(),
            false => outputs.join(", "),
        };
        let lines = about.into_iter().chain(wrap(&format!("→ {outputs}"), WIDTH - widest - 2));
        for (index, line) in lines.enumerate() {
            let name = if index == 0 { kind.name } else { "" };
            let _ = writeln!(text, "{name:widest$}  {line}");
        }
    }
    text += "\n`triplay pipeline kinds KIND` shows the keys of a kind.\n";
    if let Some(build) = registry.build() {
        let _ = writeln!(text, "There are no other kinds in {build}.");
    }
    text
}

/// The page of one kind: purpose, outputs and keys.
fn page(registry: &Registry, kind: &Kind) -> String {
    let schema = schema::of_kind(registry, kind.name).unwrap_or_default();
    let mut text = String::new();
    for line in wrap(&format!("{}: {}", kind.name, description(&schema)), WIDTH) {
        let _ = writeln!(text, "{line}");
    }
    text += "\noutputs\n";
    let widest = kind.outputs.iter().map(|output| output.name.len()).max().unwrap_or(0);
    for (index, output) in kind.outputs.iter().enumerate() {
        let first =
            if index == 0 { " (the stage's name alone means this output)".into() } else { String::new() };
        let _ = writeln!(text, "  {:widest$}  {}{first}", output.name, output.artifact);
    }
    if kind.outputs.is_empty() {
        text += "  as its keys declare them\n";
    }
    text += "\nkeys\n";
    Reader { definitions: &schema["$defs"] }.keys(&mut text, &schema, 2);
    text += "\nkeys of every stage\n";
    for (name, key) in schema::common().as_object().into_iter().flatten() {
        let _ = writeln!(text, "  {name}");
        paragraph(&mut text, &description(key), 6);
    }
    text
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

fn paragraph(text: &mut String, words: &str, indent: usize) {
    for line in wrap(words, WIDTH - indent) {
        let _ = writeln!(text, "{:indent$}{line}", "");
    }
}

/// Writes a paragraph with a hanging indent.
fn hang(text: &mut String, words: &str, indent: usize) {
    for (index, line) in wrap(words, WIDTH - indent - 4).iter().enumerate() {
        let indent = if index == 0 { indent } else { indent + 4 };
        let _ = writeln!(text, "{:indent$}{line}", "");
    }
}

/// Lines of at most `width` characters; a longer word has a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Reads the keys out of a schema.
struct Reader<'a> {
    definitions: &'a Value,
}

impl<'a> Reader<'a> {
    /// The definition that `schema` refers to, or `schema` itself.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/"));
        name.and_then(|name| self.definitions.get(name)).unwrap_or(schema)
    }

    fn keys(&self, text: &mut String, schema: &'a Value, indent: usize) {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, key) in schema["properties"].as_object().into_iter().flatten() {
            let need = match self.default(key) {
                _ if required.contains(&name.as_str()) => ", required".into(),
                Some(default) => format!(", by default {default}"),
                None => ", optional".into(),
            };
            self.key(text, key, &format!("{name}: {}{need}", self.words(key)), indent);
        }
    }

    fn key(&self, text: &mut String, key: &'a Value, head: &str, indent: usize) {
        hang(text, head, indent);
        paragraph(text, &description(key), indent + 4);
        self.inside(text, self.resolve(key), indent + 4);
    }

    /// Writes the keys and alternatives of a value that is a map, a list of maps, or one of several types.
    fn inside(&self, text: &mut String, schema: &'a Value, indent: usize) {
        for choice in choices(schema) {
            match choice["const"].as_str() {
                Some(name) => hang(text, &format!("{name}: {}", description(choice)), indent),
                None => {
                    for (name, key) in choice["properties"].as_object().into_iter().flatten() {
                        self.key(text, key, &format!("{name}: {}", self.words(key)), indent);
                    }
                }
            }
        }
        if let Some(item) = schema.get("items") {
            self.inside(text, self.resolve(item), indent);
        } else if !accepts_path(schema) {
            self.keys(text, schema, indent);
        }
    }

    /// The value of a key that is left out. Of a map only the fields that are not defaults of the map's own keys.
    fn default(&self, key: &'a Value) -> Option<String> {
        let default = key.get("default")?;
        let Value::Object(fields) = default else { return Some(yaml(default)) };
        let keys = &self.resolve(key)["properties"];
        let told = |(name, value): &(&String, &Value)| keys[name.as_str()].get("default") != Some(value);
        let fields: Map<String, Value> =
            fields.iter().filter(told).map(|(name, value)| (name.clone(), value.clone())).collect();
        (!fields.is_empty()).then(|| yaml(&fields.into()))
    }

    /// A type in words.
    fn words(&self, key: &'a Value) -> String {
        if let Some(accepts) = key[schema::ACCEPTS].as_array() {
            let names: Vec<&str> = accepts.iter().filter_map(Value::as_str).collect();
            return match names[..] {
                ["*"] => "an input of any type".into(),
                _ => format!("an input of type {}", names.join(" or ")),
            };
        }
        let schema = self.resolve(key);
        let choices: Vec<&Value> = choices(schema).collect();
        let is_plain = |choice: &&Value| choice.get("const").is_none() && choice.get("properties").is_none();
        if choices.iter().any(is_plain) {
            let words: Vec<String> = choices.iter().map(|choice| self.words(choice)).collect();
            return words.join(", or ");
        }
        if let Some(first) = choices.first() {
            let is_map = first.get("const").is_none();
            return if !is_map {
                "a choice"
            } else if choices.len() > 1 {
                "a map with one of these keys"
            } else {
                "a map"
            }
            .into();
        }
        match schema["type"].as_str() {
            Some("integer") => "a whole number".into(),
            Some("number") => "a number".into(),
            Some("boolean") => "true or false".into(),
            Some("string") => "text".into(),
            Some("array") => match (schema.get("items"), schema["prefixItems"].as_array()) {
                (Some(item), _) => format!("a list, each {}", self.words(item)),
                (None, Some(items)) => format!("a list of {}", items.len()),
                _ => "a list".into(),
            },
            Some("object") => "a map".into(),
            _ => "a value".into(),
        }
    }
}

/// The alternatives of a schema.
fn choices(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten())
}

/// Whether this is an input, which may be written as `{ path: … }`.
fn accepts_path(schema: &Value) -> bool {
    schema["type"].is_array()
}

/// A value as a pipeline file writes it.
fn yaml(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.is_empty() => "{}".into(),
        Value::Object(fields) => format!("{{ {} }}", entries(fields)),
        Value::Array(items) => format!("[{}]", items.iter().map(yaml).collect::<Vec<_>>().join(", ")),
        Value::String(text) if text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) => {
            text.clone()
        }
        Value::Number(number) => match number.as_f64() {
            Some(float)
                if !number.is_u64() && !number.is_i64() && float.fract() == 0.0 && float.abs() < 1e9 =>
            {
                format!("{float}")
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn entries(fields: &Map<String, Value>) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {}", yaml(value))).collect::<Vec<_>>().join(", ")
}
