//! A pipeline as it was typed: stages, loops and parameters with their places, nothing resolved yet.

use std::collections::{BTreeMap, HashSet};

use super::diagnostic::{At, nearest};
use super::errors::Errors;
use super::policy::{self, Place};
use super::reference::{is_name, is_path};
use super::roles::Shared;
use super::tree::{Key, Params, Tree, Value};
use crate::resources::Limit;

/// Every ablation is checked, so more would take too long.
const MOST_ABLATIONS: usize = 256;

/// The keys of the pipeline itself that are parameters too.
pub(crate) const OWN_PARAMS: [&str; 3] = ["seed", "device", "dtype"];

/// The keys that every stage has, whatever its kind.
pub(crate) const COMMON_KEYS: [&str; 8] =
    ["kind", "matrix", "seed", "resources", "timeout", "retry", "on", "publish"];

/// The whole file.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub name: String,
    /// As declared, including `seed`, `device` and `dtype`.
    pub params: Params,
    /// The entries of `params:`, with the places of their keys.
    pub declared: Vec<(Key, Tree)>,
    /// The seeds, if the pipeline is unrolled once for each of several.
    pub seeds: Option<Vec<u64>>,
    pub ablations: Vec<Ablation>,
    /// The limit of each resource; `None` if it is not known what the place has.
    pub resources: Option<BTreeMap<String, Limit>>,
    /// Those of the site file, if it is known.
    pub endpoints: Option<BTreeMap<String, serde_json::Value>>,
    /// The place of the device or, without one, of the number type.
    pub numerics_at: Option<At>,
    /// What is put below the keys of stages.
    pub shared: Shared,
    pub stages: Vec<Item>,
}

/// A named set of parameter values.
#[derive(Debug)]
pub(crate) struct Ablation {
    pub name: Key,
    pub params: Vec<(Key, Tree)>,
}

impl Ablation {
    /// Whether it sets the pipeline's seed.
    pub(crate) fn sets_seed(&self) -> bool {
        self.params.iter().any(|(key, _)| key.name == "seed")
    }
}

/// An entry of `stages:`.
#[derive(Debug)]
pub(crate) enum Item {
    Stage(Box<StageSpec>),
    Loop(Box<LoopSpec>),
    /// Neither a stage nor a loop, which was reported. Its name counts as known.
    Broken(Key),
}

/// A stage as typed; `body` holds the keys that belong to its kind.
#[derive(Debug)]
pub(crate) struct StageSpec {
    pub name: Key,
    pub kind: (String, At),
    pub matrix: Option<Tree>,
    pub seed: Option<Tree>,
    pub resources: Option<Tree>,
    pub timeout: Option<Tree>,
    pub retry: Option<Tree>,
    pub on: Option<Tree>,
    pub publish: Option<Tree>,
    pub body: Tree,
}

/// A `repeat:` with the values it carries from one round to the next.
#[derive(Debug)]
pub(crate) struct LoopSpec {
    pub name: Key,
    pub repeat: Tree,
    pub keep: Option<Tree>,
    pub carry: Vec<(Key, Tree)>,
    pub stages: Vec<Item>,
    pub next: Vec<(Key, Tree)>,
}

impl Item {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Item::Stage(spec) => &spec.name,
            Item::Loop(spec) => &spec.name,
            Item::Broken(key) => key,
        }
    }
}

impl Pipeline {
    /// Reads the file. Reports errors and leaves out what is wrong.
    pub(crate) fn read(errors: &Errors, tree: &Tree) -> Pipeline {
        let reader = Reader { errors };
        let known = [
            "pipeline",
            "seed",
            "seeds",
            "device",
            "dtype",
            "params",
            "roles",
            "defaults",
            "resources",
            "stages",
            "ablations",
        ];
        reader.known_keys(tree, "a pipeline", &known);
        let entries = |key| tree.get(key).map(|tree| reader.named(tree, key)).unwrap_or_default();
        let stages = reader.required(tree, "a pipeline", "stages").map(|stages| reader.items(stages));
        let declared = entries("params");
        Pipeline {
            name: reader.pipeline_name(tree),
            params: reader.params(tree, declared.clone()),
            declared,
            seeds: reader.seeds(tree),
            ablations: reader.ablations(entries("ablations")),
            endpoints: None,
            resources: Some(entries("resources").iter().filter_map(|entry| reader.limit(entry)).collect()),
            numerics_at: tree.get("device").or(tree.get("dtype")).map(|tree| tree.at),
            shared: Shared::new(entries("roles"), entries("defaults")),
            stages: stages.unwrap_or_default(),
        }
    }
}

/// Reads the grammar's own maps.
pub(crate) struct Reader<'a> {
    pub errors: &'a Errors<'a>,
}

impl Reader<'_> {
    pub(crate) fn pipeline_name(&self, top: &Tree) -> String {
        match self.required(top, "a pipeline", "pipeline") {
            Some(Tree { value: Value::Text(text), .. }) if is_name(text) => return text.clone(),
            Some(other) => {
                let message = "`pipeline` must be a name: a letter or `_`, then letters, digits, `_` and `-`";
                self.errors.at::<()>(other.at, message);
            }
            None => {}
        }
        String::new()
    }

    /// `params:` and, among them, the seed and the numerics.
    fn params(&self, top: &Tree, declared: Vec<(Key, Tree)>) -> Params {
        let mut params = Params::new();
        for (key, value) in declared {
            if !self.is_declarable(&key) {
                continue;
            }
            let broken = Tree::new(Value::Broken, value.at);
            let value = if self.without_parameters(&value) { value } else { broken };
            params.insert(key.name, value);
        }
        let own = |name: &str, default: Value| match top.get(name) {
            None => Tree::new(default, At { line: 1, column: 1, length: 1 }),
            Some(tree) => match (&tree.value, &default) {
                (Value::Int(0..), Value::Int(_)) | (Value::Text(_), Value::Text(_)) => tree.clone(),
                (_, Value::Int(_)) => {
                    let message =
                        format!("`{name}` must be a whole number from 0, found {}", tree.value.found());
                    self.errors.at::<()>(tree.at, message);
                    Tree::new(default, tree.at)
                }
                (found, _) => {
                    let message = format!("`{name}` must be a name, found {}", found.describe());
                    self.errors.at::<()>(tree.at, message);
                    Tree::new(default, tree.at)
                }
            },
        };
        let text = |text: &str| Value::Text(text.into());
        for (name, default) in OWN_PARAMS.into_iter().zip([Value::Int(0), text("auto"), text("f32")]) {
            params.insert(name.into(), own(name, default));
        }
        params
    }

    /// Whether `params` may have this key. Reports an error if not.
    pub(crate) fn is_declarable(&self, key: &Key) -> bool {
        let name = &key.name;
        let own = OWN_PARAMS.contains(&name.as_str());
        if own {
            let message = format!("`{name}` must be written at the top level, not under `params`");
            self.errors.at::<()>(key.at, message);
        }
        !own
    }

    /// `seeds:`, a list of different whole numbers.
    pub(crate) fn seeds(&self, top: &Tree) -> Option<Vec<u64>> {
        let tree = top.get("seeds")?;
        if top.get("seed").is_some() {
            return self.errors.at(tree.at, "`seed` and `seeds` must not be given together");
        }
        let seed = |item: &Tree| match item.value {
            Value::Int(seed @ 0..) => Some(seed as u64),
            _ => None,
        };
        let seeds = match &tree.value {
            Value::List(items) => items.iter().map(seed).collect::<Option<Vec<u64>>>(),
            _ => None,
        };
        let mut known = HashSet::new();
        match seeds {
            Some(seeds) if !seeds.is_empty() && seeds.iter().all(|seed| known.insert(*seed)) => Some(seeds),
            _ => self
                .errors
                .at(tree.at, "`seeds` must be a list of different whole numbers from 0, such as [1, 2, 3]"),
        }
    }

    /// Whether a parameter's value uses no other parameter: `$name` in it would be read as text.
    pub(crate) fn without_parameters(&self, tree: &Tree) -> bool {
        match &tree.value {
            Value::Text(text) if text.contains("${") || text.strip_prefix('$').is_some_and(is_path) => {
                let message = "the value of a parameter cannot use another parameter";
                self.errors.at::<()>(tree.at, message).is_some()
            }
            Value::List(items) => items.iter().all(|item| self.without_parameters(item)),
            Value::Map(entries) => entries.iter().all(|(_, value)| self.without_parameters(value)),
            _ => true,
        }
    }

    fn ablations(&self, entries: Vec<(Key, Tree)>) -> Vec<Ablation> {
        if let Some((key, _)) = entries.get(MOST_ABLATIONS) {
            let message =
                format!("`ablations` must have at most {MOST_ABLATIONS} entries, found {}", entries.len());
            self.errors.at::<()>(key.at, message);
        }
        entries.into_iter().take(MOST_ABLATIONS).map(|entry| self.ablation(entry)).collect()
    }

    fn ablation(&self, (name, tree): (Key, Tree)) -> Ablation {
        let params = match tree.value {
            Value::Map(entries) => entries,
            Value::Null => Vec::new(),
            other => {
                let message = format!(
                    "ablation `{}` must be a map from parameters to values, found {}",
                    name.name,
                    other.describe()
                );
                self.errors.at(tree.at, message).unwrap_or_default()
            }
        };
        if name.name == "all" {
            self.errors.at::<()>(name.at, "`all` must not name an ablation: it stands for all of them");
        }
        let params = params.into_iter().filter(|(_, value)| self.without_parameters(value)).collect();
        Ablation { name, params }
    }

    fn limit(&self, (key, tree): &(Key, Tree)) -> Option<(String, Limit)> {
        policy::read_limit(self.errors, &key.name, tree, Place::Pipeline)
            .map(|limit| (key.name.clone(), limit))
    }

    fn items(&self, tree: &Tree) -> Vec<Item> {
        let entries = self.named(tree, "stages");
        if matches!(&tree.value, Value::Map(entries) if entries.is_empty()) {
            self.errors.at::<()>(tree.at, "`stages` must have at least one stage, found none");
        }
        entries.into_iter().map(|(key, tree)| self.item(key, tree)).collect()
    }

    fn item(&self, name: Key, tree: Tree) -> Item {
        let Value::Map(entries) = &tree.value else {
            let message =
                format!("stage `{}` must be a map with a `kind`, found {}", name.name, tree.value.describe());
            self.errors.at::<()>(name.at, message);
            return Item::Broken(name);
        };
        if tree.get("repeat").is_some() {
            return self.repeat(name, &tree);
        }
        let kind = match tree.get("kind") {
            Some(Tree { value: Value::Text(text), at, .. }) => (text.clone(), *at),
            Some(other) => {
                let message = format!("`kind` must be a name, found {}", other.value.describe());
                self.errors.at::<()>(other.at, message);
                return Item::Broken(name);
            }
            None => {
                let message =
                    format!("stage `{}` needs the key `kind`, or `repeat` if it is a loop", name.name);
                let near = |(key, _): &(Key, Tree)| {
                    Some((nearest(&key.name, &["kind", "repeat"])?, key.name.clone()))
                };
                let close = entries.iter().find_map(near);
                let error = self.errors.error(name.at, message);
                self.errors.add::<()>(match close {
                    Some((meant, key)) => error.help(format!("did you mean `{meant}` instead of `{key}`?")),
                    None => error
                        .help("`kind: exec` runs a command; `triplay pipeline kinds` lists the other kinds"),
                });
                return Item::Broken(name);
            }
        };
        let common = |key: &str| tree.get(key).cloned();
        let (matrix, seed) = (common("matrix"), common("seed"));
        let (resources, timeout) = (common("resources"), common("timeout"));
        let (retry, on, publish) = (common("retry"), common("on"), common("publish"));
        let at = tree.at;
        let Value::Map(mut entries) = tree.value else { return Item::Broken(name) };
        entries.retain(|(key, _)| !COMMON_KEYS.contains(&key.name.as_str()));
        let body = Tree::new(Value::Map(entries), at);
        Item::Stage(Box::new(StageSpec {
            name,
            kind,
            matrix,
            seed,
            resources,
            timeout,
            retry,
            on,
            publish,
            body,
        }))
    }

    fn repeat(&self, name: Key, tree: &Tree) -> Item {
        self.known_keys(tree, "a loop", &["repeat", "keep", "carry", "stages", "next"]);
        let optional = |key| tree.get(key).map(|tree| self.named(tree, key)).unwrap_or_default();
        let stages = match tree.get("stages") {
            Some(stages) => self.items(stages),
            None => {
                let message = format!("loop `{}` needs the key `stages`: what it repeats", name.name);
                self.errors.at(name.at, message).unwrap_or_default()
            }
        };
        let Some(repeat) = tree.get("repeat").cloned() else { return Item::Broken(name) };
        let keep = tree.get("keep").cloned();
        let (carry, next) = (optional("carry"), optional("next"));
        Item::Loop(Box::new(LoopSpec { name, repeat, keep, carry, stages, next }))
    }

    /// The entries of a map whose keys are names that the user chooses.
    pub(crate) fn named(&self, tree: &Tree, what: &str) -> Vec<(Key, Tree)> {
        let Value::Map(entries) = &tree.value else {
            let message =
                format!("`{what}` must be a map with names as keys, found {}", tree.value.describe());
            return self.errors.at(tree.at, message).unwrap_or_default();
        };
        for (key, _) in entries {
            if !is_name(&key.name) {
                let message = format!(
                    "`{}` must be a name: a letter or `_`, then letters, digits, `_` and `-`",
                    key.name
                );
                self.errors.at::<()>(key.at, message);
            }
        }
        entries.clone()
    }

    /// Reports unknown keys of one of the grammar's own maps.
    pub(crate) fn known_keys(&self, tree: &Tree, what: &str, known: &[&str]) {
        let Value::Map(entries) = &tree.value else { return };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let error = self.errors.error(key.at, format!("{what} has no key `{}`", key.name));
            let is_loop = key.name == "matrix" && known.contains(&"carry");
            self.errors.add::<()>(match is_loop {
                true => {
                    error.help("to vary a whole loop, write `ablations`, or a `matrix` on the stages in it")
                }
                false => error.suggest(&key.name, known.iter().copied()),
            });
        }
    }

    /// The value of a required key. A key that is misspelt is not reported as missing too.
    fn required<'t>(&self, tree: &'t Tree, what: &str, key: &str) -> Option<&'t Tree> {
        let Value::Map(entries) = &tree.value else {
            let message = format!(
                "{what} must be a map with the keys `pipeline` and `stages`, found {}",
                tree.value.describe()
            );
            return self.errors.at(tree.at, message);
        };
        tree.get(key).or_else(|| {
            if entries.iter().any(|(other, _)| nearest(&other.name, &[key]).is_some()) {
                return None;
            }
            self.errors.at(tree.at, format!("{what} needs the key `{key}`"))
        })
    }
}
