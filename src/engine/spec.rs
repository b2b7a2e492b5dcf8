//! A pipeline as it was typed: stages, loops and parameters with their places, nothing resolved yet.

use std::collections::BTreeMap;

use super::reference::is_name;
use super::source::{At, Diagnostic, Source};
use super::tree::{Key, Tree, Value};

/// The whole file.
#[derive(Debug)]
pub struct Pipeline {
    pub name: String,
    seed: i64,
    /// Where and in which number type models are computed, as typed; the registry knows what there is.
    numerics: [(&'static str, Option<(String, At)>); 2],
    params: Vec<(Key, Tree)>,
    pub stages: Vec<Item>,
}

/// An entry of `stages:`.
#[derive(Debug)]
pub enum Item {
    Stage(StageSpec),
    Loop(LoopSpec),
}

/// A stage as typed; `body` holds the keys that belong to its kind.
#[derive(Debug)]
pub struct StageSpec {
    pub name: Key,
    pub kind: (String, At),
    pub matrix: Vec<(Key, Vec<Tree>)>,
    pub seed: Option<Tree>,
    pub body: Tree,
}

/// A `repeat:` with the values it carries from one round to the next.
#[derive(Debug)]
pub struct LoopSpec {
    pub name: Key,
    pub repeat: Tree,
    pub keep: Option<Tree>,
    pub carry: Vec<(Key, Tree)>,
    pub stages: Vec<Item>,
    pub next: Vec<(Key, Tree)>,
}

/// Values of `$name`, in scope for a stage.
pub type Params = BTreeMap<String, Value>;

impl Pipeline {
    pub fn read(source: &Source) -> Result<Pipeline, Diagnostic> {
        let tree = Tree::parse(source)?;
        let top = Fields::of(
            source,
            &tree,
            "a pipeline",
            &["pipeline", "seed", "device", "dtype", "params", "stages"],
        )?;
        let name = top.required("pipeline")?;
        let name = match &name.value {
            Value::Text(text) if is_name(text) => text.clone(),
            _ => return Err(source.error(name.at, "expected a name: letters, digits, `_` and `-`")),
        };
        let seed = match top.get("seed") {
            None => 0,
            Some(Tree { value: Value::Int(seed), .. }) if *seed >= 0 => *seed,
            Some(other) => return Err(source.error(other.at, "expected a whole number from 0")),
        };
        let text = |key: &'static str| match top.get(key) {
            None => Ok((key, None)),
            Some(Tree { value: Value::Text(text), at, .. }) => Ok((key, Some((text.clone(), *at)))),
            Some(other) => Err(source.error(other.at, format!("`{key}` is a name"))),
        };
        let numerics = [text("device")?, text("dtype")?];
        let params =
            top.get("params").map(|tree| named(source, tree, "params")).transpose()?.unwrap_or_default();
        for (key, value) in &params {
            if ["seed", "device", "dtype"].contains(&key.name.as_str()) {
                let name = &key.name;
                let message = format!("`{name}` is a key of the pipeline itself: write it at the top level");
                return Err(source.error(key.at, message));
            }
            if matches!(value.value, Value::Map(_) | Value::Null) {
                return Err(source.error(key.at, "a parameter is a number, text, true, false or a list"));
            }
        }
        let stages = items(source, top.required("stages")?)?;
        Ok(Pipeline { name, seed, numerics, params, stages })
    }

    /// The values of the parameters, `seed`, `device` and `dtype` among them, after the command line's `name=value` settings.
    pub fn parameters(&self, source: &Source, settings: &[String]) -> Result<Params, Diagnostic> {
        let mut params: Params =
            self.params.iter().map(|(key, tree)| (key.name.clone(), tree.value.clone())).collect();
        params.insert("seed".into(), Value::Int(self.seed));
        for ((name, typed), default) in self.numerics.iter().zip(["auto", "f32"]) {
            let text = typed.as_ref().map_or(default, |(text, _)| text);
            params.insert((*name).into(), Value::Text(text.into()));
        }
        for setting in settings {
            let fail =
                |message: String| Diagnostic::of_file(&source.path, format!("--set {setting}: {message}"));
            let (name, text) =
                setting.split_once('=').ok_or_else(|| fail("expected name=value".to_owned()))?;
            let Some(declared) = params.get(name) else {
                return Err(fail(format!("the pipeline has no parameter `{name}`"))
                    .suggest(name, params.keys().map(String::as_str)));
            };
            let value =
                Tree::parse_value(text).map_err(|error| fail(format!("not a YAML value: {error}")))?;
            let value = match (declared, value) {
                (Value::Float(_), Value::Int(whole)) => Value::Float(whole as f64),
                (Value::Int(_), Value::Float(number)) => Value::Float(number),
                (declared, value) if declared.describe() == value.describe() => value,
                (declared, value) => {
                    return Err(fail(format!(
                        "expected {}, found {}",
                        declared.describe(),
                        value.describe()
                    )));
                }
            };
            params.insert(name.to_owned(), value);
        }
        if !matches!(params.get("seed"), Some(Value::Int(0..))) {
            return Err(Diagnostic::of_file(&source.path, "--set seed: expected a whole number from 0"));
        }
        Ok(params)
    }
}

impl Pipeline {
    /// Where the device or, without one, the number type is written.
    pub fn numerics_at(&self) -> Option<At> {
        self.numerics.iter().find_map(|(_, typed)| typed.as_ref().map(|(_, at)| *at))
    }
}

fn items(source: &Source, tree: &Tree) -> Result<Vec<Item>, Diagnostic> {
    let entries = named(source, tree, "stages")?;
    if entries.is_empty() {
        return Err(source.error(tree.at, "`stages` is empty: nothing to run"));
    }
    entries.into_iter().map(|(key, tree)| item(source, key, &tree)).collect()
}

fn item(source: &Source, name: Key, tree: &Tree) -> Result<Item, Diagnostic> {
    let Value::Map(entries) = &tree.value else {
        return Err(source.error(name.at, format!("stage `{}` should be a map with a `kind`", name.name)));
    };
    if tree.get("repeat").is_some() {
        let fields = Fields::of(source, tree, "a loop", &["repeat", "keep", "carry", "stages", "next"])?;
        let optional = |key| fields.get(key).map(|tree| named(source, tree, key)).transpose();
        return Ok(Item::Loop(LoopSpec {
            repeat: fields.required("repeat")?.clone(),
            keep: fields.get("keep").cloned(),
            carry: optional("carry")?.unwrap_or_default(),
            stages: items(source, fields.required("stages")?)?,
            next: optional("next")?.unwrap_or_default(),
            name,
        }));
    }
    let Some(kind) = tree.get("kind") else {
        let message = format!("stage `{}` has no `kind` (a loop has `repeat`)", name.name);
        let keys = entries.iter().map(|(key, _)| key.name.as_str());
        let close = keys.into_iter().find(|key| super::source::nearest(key, &["kind", "repeat"]).is_some());
        let error = source.error(name.at, message);
        return Err(match close {
            Some(key) => error.help(format!("is `{key}` misspelt?")),
            None => error,
        });
    };
    let kind = match &kind.value {
        Value::Text(text) => (text.clone(), kind.at),
        other => return Err(source.error(kind.at, format!("`kind` is a name, found {}", other.describe()))),
    };
    let matrix =
        match tree.get("matrix") {
            None => Vec::new(),
            Some(axes) => named(source, axes, "matrix")?
                .into_iter()
                .map(|(axis, values)| match values.value {
                    Value::List(values) if !values.is_empty() => Ok((axis, values)),
                    _ => Err(source
                        .error(values.at, format!("matrix axis `{}` needs a list of values", axis.name))),
                })
                .collect::<Result<_, _>>()?,
        };
    let own = |(key, _): &&(Key, Tree)| !["kind", "matrix", "seed"].contains(&key.name.as_str());
    let body = Tree { value: Value::Map(entries.iter().filter(own).cloned().collect()), at: tree.at };
    Ok(Item::Stage(StageSpec { name, kind, matrix, seed: tree.get("seed").cloned(), body }))
}

/// The entries of a map whose keys are names that the user chooses.
fn named(source: &Source, tree: &Tree, what: &str) -> Result<Vec<(Key, Tree)>, Diagnostic> {
    let Value::Map(entries) = &tree.value else {
        let message = format!("`{what}` should be a map of names, found {}", tree.value.describe());
        return Err(source.error(tree.at, message));
    };
    for (key, _) in entries {
        if !is_name(&key.name) {
            let message = format!("`{}` is not a name: use letters, digits, `_` and `-`", key.name);
            return Err(source.error(key.at, message));
        }
    }
    Ok(entries.clone())
}

/// A map whose keys are the grammar's own.
struct Fields<'a> {
    source: &'a Source,
    tree: &'a Tree,
    what: &'static str,
}

impl<'a> Fields<'a> {
    fn of(
        source: &'a Source,
        tree: &'a Tree,
        what: &'static str,
        known: &[&'static str],
    ) -> Result<Fields<'a>, Diagnostic> {
        let Value::Map(entries) = &tree.value else {
            let message = format!("expected {what}: a map with {}", known.join(", "));
            return Err(source.error(tree.at, message));
        };
        match entries.iter().find(|(key, _)| !known.contains(&key.name.as_str())) {
            None => Ok(Fields { source, tree, what }),
            Some((key, _)) => Err(source
                .error(key.at, format!("{what} has no key `{}`", key.name))
                .suggest(&key.name, known.iter().copied())),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Tree> {
        self.tree.get(key)
    }

    fn required(&self, key: &str) -> Result<&'a Tree, Diagnostic> {
        self.get(key)
            .ok_or_else(|| self.source.error(self.tree.at, format!("{} needs the key `{key}`", self.what)))
    }
}
