//! The syntax of `exec` in a pipeline, and its checks.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path};

use rustix::process::Signal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{DATASETS, LOG, SEED};
use engine::{CheckError, InputVariable, is_name, nearest};

/// A word of a command or a variable's value: text, or any scalar as it was typed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Word(pub String);

/// The command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Script {
    /// For `sh -c`.
    Shell(String),
    /// A program and its arguments.
    Program(Vec<Word>),
}

/// A declared output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeclaredOutput {
    /// The name under which it is written back. Users type no `$` here.
    #[serde(rename = "$output")]
    pub name: String,
    /// The type of artifact.
    #[serde(rename = "type")]
    pub artifact: String,
    /// Where the command writes it, relative to its folder.
    pub path: String,
}

impl Script {
    pub(crate) fn check(&self) -> Result<(), String> {
        let (empty, words) = match self {
            Script::Shell(text) => (text.trim().is_empty(), std::slice::from_ref(text).to_vec()),
            Script::Program(words) => {
                let texts: Vec<String> = words.iter().map(|word| word.0.clone()).collect();
                (texts.first().is_none_or(String::is_empty), texts)
            }
        };
        if empty {
            return Err(
                "`command` must not be empty: write text for `sh -c`, or a program and its arguments".into(),
            );
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err("`command` must not have a NUL character".into());
        }
        Ok(())
    }
}

impl Script {
    /// Whether it contains a text.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        match self {
            Script::Shell(script) => script.contains(text),
            Script::Program(words) => words.iter().any(|word| word.0.contains(text)),
        }
    }
}

impl DeclaredOutput {
    /// A warning if its type is nearly one that the program knows. A name of the user's own is a type, too.
    pub(crate) fn misspelt_type(&self) -> Option<CheckError> {
        let known: Vec<&str> = DATASETS.into_iter().chain(OTHERS).collect();
        let near = nearest(&self.artifact.to_lowercase(), &known).filter(|_| !is_type(&self.artifact))?;
        let message = format!(
            "the output `{}` is of a type of your own, `{}`\n  help: did you mean `{near}`?",
            self.name, self.artifact
        );
        Some(CheckError::at(format!("outputs.{}", self.name), message))
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) {
            return Err(format!(
                "`{0}` must be a name that references can use: write NAME: {{ type: {1}, path: {0} }} in `outputs`",
                self.name, self.artifact
            ));
        }
        if self.name == LOG {
            return Err(format!(
                "`{LOG}` is always an output, the text that the command prints: give yours another name"
            ));
        }
        if self.artifact.contains(['.', '/']) {
            // `metrics: out.parquet`, or { type: out.parquet, path: metrics }.
            let artifact = [&self.path, &self.name].into_iter().find(|name| is_type(name));
            return Err(format!(
                "`outputs` must be NAME: TYPE or NAME: {{ type: TYPE, path: FILE }}, found the file `{1}` as the type of \
                 `{0}`\n  help: write {0}: {{ type: {2}, path: {1} }}",
                self.name,
                self.artifact,
                artifact.map_or("file", String::as_str)
            ));
        }
        if !is_name(&self.artifact) {
            let message = "the type must be a name such as `model`, `metrics`, `text` or `file`";
            return Err(format!("output `{}`: {message}, found `{}`", self.name, self.artifact));
        }
        Ok(())
    }
}

/// The types that the program knows beside [`DATASETS`].
const OTHERS: [&str; 9] =
    ["metrics", "rewards", "scores", "preferences", "model", "tokenizer", "text", "folder", "file"];

/// Whether a name is a type that the program knows.
fn is_type(name: &str) -> bool {
    DATASETS.contains(&name) || OTHERS.contains(&name)
}

/// Keys of the stages of DVC and the rules of Snakemake, and what is written here.
const FOREIGN: [(&str, &str); 9] = [
    ("cmd", "command: …"),
    ("shell", "command: …"),
    ("deps", INPUTS),
    ("input", INPUTS),
    ("outs", OUTPUTS),
    ("output", OUTPUTS),
    ("metrics", "outputs: { NAME: { type: metrics, path: FILE } }"),
    ("threads", "resources: { cpu: N }"),
    ("retries", "retry: N"),
];
const INPUTS: &str =
    "inputs: { NAME: { path: FILE } } for a file of yours, inputs: { NAME: STAGE } for an output";
const OUTPUTS: &str = "outputs: { NAME: { type: file, path: FILE } }";

/// The error for keys of other programs, and for a list of inputs, as they write it.
pub(crate) fn foreign(params: &Value) -> Option<CheckError> {
    let found: Vec<_> = FOREIGN.iter().filter(|(key, _)| params.get(*key).is_some()).collect();
    if let Some((first, _)) = found.first() {
        let keys: Vec<String> = found.iter().map(|(key, _)| format!("`{key}`")).collect();
        let help: String =
            found.iter().map(|(key, ours)| format!("\n  help: for `{key}` write {ours}")).collect();
        let message = format!("keys must have the names of triplay, found {}{help}", keys.join(", "));
        return Some(CheckError::at(*first, message));
    }
    let files = params.get("inputs")?.as_array()?;
    let file = files.first().and_then(Value::as_str).unwrap_or("FILE");
    let message = "`inputs` must be a map from names in the command's folder to what is there, found a list";
    Some(CheckError::at(
        "inputs",
        format!(
            "{message}\n  help: write {{ {file}: {{ path: {file} }}, … }}; an output is {{ NAME: STAGE }}"
        ),
    ))
}

/// Checks the names of files within the folder. No two may conflict.
pub(crate) fn check_files<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen: BTreeSet<&Path> = BTreeSet::new();
    for name in names {
        let path = Path::new(name);
        let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
        let tidy = path.components().collect::<std::path::PathBuf>().as_os_str() == path.as_os_str();
        if name.is_empty() || !plain || !tidy || name.contains('\0') {
            return Err(format!(
                "`{key}`: `{name}` must be a path within the command's folder, such as `data/a.parquet`"
            ));
        }
        // In this order the content of a folder follows the folder.
        let within = seen.range(path..).next().filter(|next| next.starts_with(path));
        if let Some(other) = path.ancestors().find_map(|above| seen.get(above)).or(within) {
            return Err(format!(
                "`{key}`: `{}` and `{name}` conflict: each file needs a path of its own",
                other.display()
            ));
        }
        seen.insert(path);
    }
    Ok(())
}

/// Checks the values of variables.
pub(crate) fn check_values<'a>(mut values: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), String> {
    match values.find(|(_, value)| value.contains('\0')) {
        Some((name, _)) => Err(format!("`env`: the value of `{name}` must not have a NUL character")),
        None => Ok(()),
    }
}

/// Checks the names of variables, each of which must come from one place.
pub(crate) fn check_variables<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("the name of a variable must not be empty or have `=`, found `{name}`"));
        }
        if name == SEED {
            return Err(format!(
                "`{SEED}` must not be listed: triplay sets it if the stage has `random: true`; `seed: N` fixes it"
            ));
        }
        if !seen.insert(name) {
            return Err(format!("`{name}` must appear only once in `env`, `inherit` and `pass`"));
        }
    }
    Ok(())
}

/// ` (SIGTERM)`; nothing for a signal without a common name.
pub(crate) fn signal_name(number: i32) -> String {
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
    ];
    let known = names.iter().find(|(signal, _)| signal.as_raw() == number);
    known.map(|(_, name)| format!(" ({name})")).unwrap_or_default()
}

/// Sorted by name: the order of variables does not count.
pub(crate) fn sorted<S: Serializer>(variables: &[InputVariable], serializer: S) -> Result<S::Ok, S::Error> {
    let named: BTreeMap<&str, &InputVariable> =
        variables.iter().map(|variable| (variable.name(), variable)).collect();
    serializer.collect_seq(named.values())
}

impl<'de> Deserialize<'de> for Script {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Script, D::Error> {
        deserializer.deserialize_any(ScriptVisitor)
    }
}

struct ScriptVisitor;

impl<'de> Visitor<'de> for ScriptVisitor {
    type Value = Script;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text for `sh -c`, or a list: a program and its arguments")
    }

    fn visit_str<E>(self, text: &str) -> Result<Script, E> {
        Ok(Script::Shell(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Script, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = items.next_element()? {
            words.push(word);
        }
        Ok(Script::Program(words))
    }
}

/// Reads outputs in the order in which they are written: `NAME: TYPE` or `NAME: { type: TYPE, path: FILE }`. They are written
/// back as a list, since their order counts.
pub(crate) fn products<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DeclaredOutput>, D::Error> {
    deserializer.deserialize_any(ProductsVisitor)
}

struct ProductsVisitor;

impl<'de> Visitor<'de> for ProductsVisitor {
    type Value = Vec<DeclaredOutput>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a map of names and types, such as { model: model, notes: { type: text, path: notes.txt } }",
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Vec<DeclaredOutput>, A::Error> {
        let mut products = Vec::new();
        while let Some((name, what)) = entries.next_entry::<String, Typed>()? {
            let path = what.path.unwrap_or_else(|| name.clone());
            products.push(DeclaredOutput { name, artifact: what.artifact, path });
        }
        Ok(products)
    }

    /// The form in which they are written back.
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<DeclaredOutput>, A::Error> {
        let mut products = Vec::new();
        while let Some(item) = items.next_element::<serde_json::Value>()? {
            let product = serde_json::from_value(item);
            products.push(product.map_err(|_| de::Error::invalid_type(de::Unexpected::Seq, &self))?);
        }
        Ok(products)
    }
}

impl JsonSchema for Word {
    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

impl JsonSchema for Typed {
    fn schema_name() -> Cow<'static, str> {
        "TypedOutput".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "description": "The type of artifact, such as `model`, `metrics` or `text`." },
                {
                    "type": "object",
                    "properties": {
                        "type": { "type": "string", "description": "The type of artifact." },
                        "path": { "type": "string", "description": "Where the command writes it, relative to its folder." },
                    },
                    "required": ["type"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// The value of an entry of `outputs`.
pub(crate) struct Typed {
    artifact: String,
    path: Option<String>,
}

impl<'de> Deserialize<'de> for Typed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Typed, D::Error> {
        deserializer.deserialize_any(TypedVisitor)
    }
}

struct TypedVisitor;

impl<'de> Visitor<'de> for TypedVisitor {
    type Value = Typed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a type such as `model`, or { type: text, path: notes.txt }")
    }

    fn visit_str<E>(self, artifact: &str) -> Result<Typed, E> {
        Ok(Typed { artifact: artifact.to_owned(), path: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Typed, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(rename = "type")]
            artifact: String,
            path: Option<String>,
        }
        let fields = Fields::deserialize(de::value::MapAccessDeserializer::new(entries))?;
        Ok(Typed { artifact: fields.artifact, path: fields.path })
    }
}
