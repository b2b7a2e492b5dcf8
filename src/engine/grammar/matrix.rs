//! The combinations of a stage's `matrix`.
//!
//! An axis is a list of values, or a map from labels to values. Each map of `exclude` removes all combinations that have the
//! values it names. A map of `include` whose axis values match existing combinations adds its other keys to them as
//! parameters; one that names no axis adds them to all. Any other map of `include` is a new combination, with a value for
//! every axis.
//!
//! The axis `seeds` repeats the stage: each of its values is the parameter `seed`, and the seed of what the stage draws.

use std::collections::{HashMap, HashSet};

use super::budget::{Budget, VALUE};
use super::diagnostic::{At, listed, suggestion};
use super::errors::Errors;
use super::tree::{Key, Tree, Value};
use crate::graph::Assigned;

/// More combinations than this are a mistake.
const MOST: usize = 1_000_000;

/// The limit of combinations times maps of `include` or `exclude`: more would take too long.
const MOST_COMPARED: usize = 100_000_000;

/// The axis that repeats a stage, and the parameter that it gives.
const SEEDS: &str = "seeds";
pub(crate) const SEED: &str = "seed";

/// One variant of a stage: its label and the parameters that it adds, those of the axes first.
#[derive(Clone)]
pub(crate) struct Combination<'m> {
    pub label: String,
    pub params: Vec<(&'m str, &'m Tree)>,
    /// The value of the axis `seeds`.
    pub seed: Option<u64>,
}

impl Combination<'_> {
    /// Its parameters for people.
    pub(crate) fn assigned(&self) -> Assigned {
        let mut labels = self.label.split(',');
        let value = |tree: &Tree, label: Option<&str>| label.map_or_else(|| tree.to_text(), str::to_owned);
        let params = self.params.iter().map(|(name, tree)| ((*name).to_owned(), value(tree, labels.next())));
        Assigned { params: params.collect(), seed: self.seed }
    }
}

struct Axis<'m> {
    /// The name of the parameter.
    name: &'m str,
    repeats: bool,
    values: Vec<(String, &'m Tree)>,
    /// The index of a value by its label and by its JSON: `3.10` is `3.1` as JSON, but another label.
    index: HashMap<String, usize>,
}

impl Axis<'_> {
    fn position(&self, given: &Tree) -> Option<usize> {
        let (text, json) = (given.to_text(), given.to_json().to_string());
        let [first, second] = if given.is_spelt() { [text, json] } else { [json, text] };
        self.index.get(&first).or_else(|| self.index.get(&second)).copied()
    }

    /// The seed that a value is; `None` on other axes.
    fn seed(&self, value: &Tree) -> Option<u64> {
        if self.repeats { seed_of(value) } else { None }
    }
}

fn seed_of(value: &Tree) -> Option<u64> {
    if let Value::Int(seed @ 0..) = value.value { Some(seed as u64) } else { None }
}

/// The name of the parameter that an axis gives.
pub(crate) fn parameter(axis: &str) -> &str {
    if axis == SEEDS { SEED } else { axis }
}

/// Whether a key of a `matrix` is an axis.
pub(crate) fn is_axis(key: &Key) -> bool {
    !["include", "exclude"].contains(&key.name.as_str())
}

/// The combinations in order, the last axis running fastest. `None` after a reported error.
pub(crate) fn combinations<'m>(
    errors: &Errors,
    budget: &Budget,
    tree: &'m Tree,
) -> Option<Vec<Combination<'m>>> {
    let Value::Map(entries) = &tree.value else {
        let message =
            format!("`matrix` must be a map from names to lists of values, found {}", tree.value.describe());
        return errors.at(tree.at, message);
    };
    let axes = entries.iter().filter(|(key, _)| is_axis(key));
    let axes: Vec<Option<Axis>> = axes.map(|(key, tree)| axis(errors, key, tree)).collect();
    let axes: Vec<Axis> = axes.into_iter().collect::<Option<_>>()?;
    if let Some((key, _)) = entries.iter().find(|(key, _)| key.name == SEED)
        && axes.iter().any(|axis| axis.repeats)
    {
        return errors.at(key.at, "`seed` and `seeds` must not be given together: `seeds` gives `$seed`");
    }
    if axes.is_empty() {
        return errors.at(tree.at, "`matrix` must have at least one axis: a name with a list of values");
    }
    let count = axes.iter().try_fold(1_usize, |count, axis| count.checked_mul(axis.values.len()));
    if count.is_none_or(|count| count > MOST) {
        let count = count.map_or("far more".to_owned(), |count| count.to_string());
        let message = format!("`matrix` must have at most {MOST} combinations, found {count}");
        return errors.at(tree.at, message);
    }
    budget.take(errors, tree.at, bytes(&axes))?;
    let mut found = product(&axes);
    if let Some(list) = tree.get("exclude") {
        exclude(errors, &axes, list, &mut found)?;
    }
    if let Some(list) = tree.get("include") {
        include(errors, &axes, list, &mut found)?;
    }
    if found.is_empty() {
        return errors.at(tree.at, "`exclude` must leave at least one combination, found none");
    }
    Some(found)
}

/// The estimated bytes of the product of the axes.
fn bytes(axes: &[Axis]) -> usize {
    let count = axes.iter().fold(1, |count, axis| axis.values.len().saturating_mul(count));
    let mean =
        |axis: &Axis| axis.values.iter().map(|(label, _)| label.len()).sum::<usize>() / axis.values.len();
    let each: usize = axes.iter().map(|axis| mean(axis) + size_of::<(&str, &Tree)>()).sum();
    count.saturating_mul(VALUE + each)
}

fn product<'m>(axes: &[Axis<'m>]) -> Vec<Combination<'m>> {
    let mut all = vec![Combination { label: String::new(), params: Vec::new(), seed: None }];
    for (index, axis) in axes.iter().enumerate() {
        let longer = |combination: &Combination<'m>| {
            let comma = if index == 0 { "" } else { "," };
            axis.values
                .iter()
                .map(|(label, value)| {
                    let Combination { label: before, mut params, seed } = combination.clone();
                    params.push((axis.name, *value));
                    let seed = seed.or(axis.seed(value));
                    Combination { label: format!("{before}{comma}{label}"), params, seed }
                })
                .collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

fn axis<'m>(errors: &Errors, key: &'m Key, tree: &'m Tree) -> Option<Axis<'m>> {
    let name = key.name.as_str();
    let repeats = name == SEEDS;
    if !super::reference::is_name(name) {
        let message = format!("`{name}` must be a name: a letter or `_`, then letters, digits, `_` and `-`");
        return errors.at(key.at, message);
    }
    if repeats
        && !matches!(&tree.value, Value::List(items) if items.iter().all(|item| seed_of(item).is_some()))
    {
        let message = format!(
            "`{SEEDS}` must be a list of whole numbers from 0, such as [1, 2, 3], found {}",
            tree.to_text()
        );
        return errors.at(tree.at, message);
    }
    let values: Vec<Option<(String, &Tree)>> = match &tree.value {
        Value::List(items) => items.iter().map(|item| Some((label(errors, item)?, item))).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| Some((well_formed(errors, key.name.clone(), key.at)?, value)))
            .collect(),
        other => {
            let message = format!(
                "matrix axis `{name}` must be a list of values, or a map from labels to values, found {}",
                other.describe()
            );
            return errors.at(tree.at, message);
        }
    };
    let values: Vec<(String, &Tree)> = values.into_iter().collect::<Option<_>>()?;
    if values.is_empty() {
        return errors.at(tree.at, format!("matrix axis `{name}` needs at least one value"));
    }
    let (mut seen, mut seeds) = (HashSet::new(), HashSet::new());
    for (label, value) in &values {
        // `01` is the seed 1.
        let is_again = repeats && !seeds.insert(seed_of(value));
        if !seen.insert(label.as_str()) || is_again {
            return errors.at(value.at, format!("matrix axis `{name}` has the value `{label}` twice"));
        }
    }
    let mut index: HashMap<String, usize> =
        values.iter().enumerate().map(|(at, (label, _))| (label.clone(), at)).collect();
    for (at, (_, value)) in values.iter().enumerate() {
        index.entry(value.to_json().to_string()).or_insert(at);
    }
    Some(Axis { name: parameter(name), repeats, values, index })
}

/// The label of a value in the names of variants.
fn label(errors: &Errors, tree: &Tree) -> Option<String> {
    let label = match &tree.value {
        Value::Map(_) => match tree.get("name").map(|name| &name.value) {
            Some(Value::Text(name)) => name.clone(),
            _ => {
                let error = errors.error(tree.at, "a map in a matrix needs a `name`, its label");
                let help = "or write the axis as a map from labels to values: { small: { hidden: 32 }, … }";
                return errors.add(error.help(help));
            }
        },
        Value::List(items) => {
            let labels: Option<Vec<String>> = items.iter().map(|item| label(errors, item)).collect();
            labels?.join("-")
        }
        _ => tree.to_text(),
    };
    well_formed(errors, label, tree.at)
}

fn well_formed(errors: &Errors, label: String, at: At) -> Option<String> {
    // A comma separates the labels of axes, a slash the names of nodes.
    if label.is_empty() || label.contains(['[', ']', '*', ',', '/']) || label.chars().any(char::is_control) {
        let message = format!(
            "a label must not be empty or have `[`, `]`, `*`, `,`, `/` or control characters, found `{}`",
            label.escape_debug()
        );
        let error = errors.error(at, message);
        return errors.add(error.help("give the value a label of its own: { label: value, … }"));
    }
    Some(label.trim().to_owned())
}

/// A map of `include` or `exclude`, and its entries.
type Entries<'m> = (&'m Tree, &'m [(Key, Tree)]);

/// The maps of `include` or `exclude`.
fn maps<'m>(errors: &Errors, tree: &'m Tree, what: &str, combinations: usize) -> Option<Vec<Entries<'m>>> {
    let Value::List(items) = &tree.value else {
        let message = format!("`{what}` must be a list of maps, found {}", tree.value.describe());
        return errors.at(tree.at, message);
    };
    if items.len().saturating_mul(combinations) > MOST_COMPARED {
        let (most, found) = (MOST_COMPARED / combinations, items.len());
        let message =
            format!("`{what}` must have at most {most} maps for {combinations} combinations, found {found}");
        return errors.at(tree.at, message);
    }
    items
        .iter()
        .map(|item| match &item.value {
            Value::Map(entries) if !entries.is_empty() => Some((item, entries.as_slice())),
            other => {
                let message =
                    format!("`{what}` must be a list of maps with keys, found {}", other.describe());
                errors.at(item.at, message)
            }
        })
        .collect()
}

/// Whether a combination has these values of axes; axes by their index.
fn has(combination: &Combination, axes: &[Axis], wanted: &[(usize, usize)]) -> bool {
    wanted.iter().all(|&(axis, value)| {
        let (name, given) = combination.params[axis];
        name == axes[axis].name && std::ptr::eq(given, axes[axis].values[value].1)
    })
}

fn exclude(errors: &Errors, axes: &[Axis], list: &Tree, found: &mut Vec<Combination>) -> Option<()> {
    for (item, entries) in maps(errors, list, "exclude", found.len())? {
        let mut wanted = Vec::new();
        for (key, value) in entries {
            let Some(index) = axes.iter().position(|axis| axis.name == key.name) else {
                let error = errors.error(key.at, format!("this matrix has no axis `{}`", key.name));
                return errors.add(error.suggest(&key.name, axes.iter().map(|axis| axis.name)));
            };
            let Some(at) = axes[index].position(value) else {
                let message = format!("axis `{}` has no value `{}`", key.name, value.to_text());
                let error = errors.error(value.at, message);
                let labels: Vec<&str> = axes[index].values.iter().map(|(label, _)| label.as_str()).collect();
                return errors.add(match &value.value {
                    Value::Text(text) => error.suggest(text, labels),
                    _ => error.help(format!("there are: {}", listed(&labels))),
                });
            };
            wanted.push((index, at));
        }
        let before = found.len();
        found.retain(|combination| !has(combination, axes, &wanted));
        if found.len() == before {
            return errors.at(item.at, "this excludes nothing: no remaining combination has these values");
        }
    }
    Some(())
}

fn include<'m>(
    errors: &Errors,
    axes: &[Axis<'m>],
    list: &'m Tree,
    found: &mut Vec<Combination<'m>>,
) -> Option<()> {
    let mut labels: HashSet<String> = found.iter().map(|combination| combination.label.clone()).collect();
    let product = found.len();
    for (item, entries) in maps(errors, list, "include", found.len())? {
        let value =
            |axis: &Axis| entries.iter().find(|(key, _)| key.name == axis.name).map(|(_, value)| value);
        let given: Vec<(usize, &Tree)> =
            axes.iter().enumerate().filter_map(|(index, axis)| Some((index, value(axis)?))).collect();
        let more: Vec<(&'m str, &'m Tree)> = entries
            .iter()
            .filter(|(key, _)| axes.iter().all(|axis| axis.name != key.name))
            .map(|(key, value)| (key.name.as_str(), value))
            .collect();
        let wanted: Option<Vec<(usize, usize)>> =
            given.iter().map(|&(index, value)| Some((index, axes[index].position(value)?))).collect();
        let mut matched = 0;
        if let Some(wanted) = wanted {
            for combination in found[..product].iter_mut().filter(|one| has(one, axes, &wanted)) {
                combination.params.extend(&more);
                matched += 1;
            }
        }
        if matched > 0 && more.is_empty() {
            return errors.at(item.at, "this includes nothing: the combination exists already");
        }
        if matched == 0 {
            let combination = of_its_own(errors, axes, item, &given, &more)?;
            if !labels.insert(combination.label.clone()) {
                return errors.at(item.at, format!("duplicate combination `{}`", combination.label));
            }
            found.push(combination);
        }
    }
    Some(())
}

fn of_its_own<'m>(
    errors: &Errors,
    axes: &[Axis<'m>],
    item: &Tree,
    given: &[(usize, &'m Tree)],
    more: &[(&'m str, &'m Tree)],
) -> Option<Combination<'m>> {
    if let Some((_, missing)) =
        axes.iter().enumerate().find(|(index, _)| given.iter().all(|(other, _)| other != index))
    {
        let message =
            format!("a new combination must have a value for every axis: `{}` is missing", missing.name);
        let keys = more
            .iter()
            .find_map(|(key, _)| suggestion(key, [missing.name]).filter(|text| text.starts_with("did")));
        let error = errors.error(item.at, message);
        return errors.add(match keys {
            Some(help) => error.help(help),
            None => error,
        });
    }
    let (mut labels, mut params, mut seed) = (Vec::new(), Vec::new(), None);
    for &(index, value) in given {
        if axes[index].repeats {
            seed = seed_of(value);
            if seed.is_none() {
                let found = value.to_text();
                return errors.at(value.at, format!("`{SEED}` must be a whole number from 0, found {found}"));
            }
        }
        let known = axes[index].position(value).map(|at| &axes[index].values[at]);
        match known {
            Some((known, value)) => {
                labels.push(known.clone());
                params.push((axes[index].name, *value));
            }
            None => {
                labels.push(label(errors, value)?);
                params.push((axes[index].name, value));
            }
        }
    }
    params.extend(more);
    Some(Combination { label: labels.join(","), params, seed })
}
