//! Parameters: their values after `--set` and ablations, and `$name` in the text of a stage.

use std::collections::{BTreeMap, HashSet};

use super::budget::{Budget, VALUE};
use super::diagnostic::{At, Diagnostic, suggestion};
use super::errors::Errors;
use super::labels::{Labels, Several};
use super::reference::{Reference, is_path};
use super::spec::Ablation;
use super::tree::{Key, Params, Tree, Value};
use super::uses::Uses;

/// Why a value cannot replace the declared one.
pub(crate) struct AssignError {
    at: At,
    message: String,
    help: Option<String>,
}

impl AssignError {
    pub(crate) fn report(self, errors: &Errors) {
        errors.add::<()>(self.diagnostic(|at, message| errors.error(at, message)));
    }

    /// The error that `error` makes of the place and the message, with the help.
    pub(crate) fn diagnostic(self, error: impl FnOnce(At, String) -> Diagnostic) -> Diagnostic {
        let error = error(self.at, self.message);
        match self.help {
            Some(help) => error.help(help),
            None => error,
        }
    }
}

/// Replaces declared values by those of an ablation.
pub(crate) fn ablate(errors: &Errors, params: &mut Params, ablation: &Ablation) {
    for (key, value) in &ablation.params {
        if let Err(misfit) = assign(params, key, value) {
            misfit.report(errors);
        }
    }
}

/// Replaces the declared value at a dotted path.
pub(crate) fn assign(params: &mut Params, path: &Key, value: &Tree) -> Result<(), AssignError> {
    let mut steps = path.name.split('.');
    let first = steps.next().unwrap_or_default();
    let names: Vec<&str> = params.keys().map(String::as_str).collect();
    let unknown = || AssignError {
        at: path.at,
        message: format!("the pipeline has no parameter `{first}`"),
        help: suggestion(first, names),
    };
    if !params.contains_key(first) {
        return Err(unknown());
    }
    let Some(mut place) = params.get_mut(first) else { return Ok(()) };
    let mut walked = first.to_owned();
    for step in steps {
        let found = place.value.describe();
        let Value::Map(entries) = &mut place.value else {
            let message = format!("`{walked}` must be a map, found {found}");
            return Err(AssignError { at: path.at, message, help: None });
        };
        let index = entry(entries, step, &walked, path.at)?;
        place = &mut entries[index].1;
        walked = format!("{walked}.{step}");
    }
    let fitted = fit(place, value, &walked)?;
    if first == "seed" && !matches!(fitted.value, Value::Int(0..)) {
        let message = format!("`seed` must be a whole number from 0, found {}", fitted.value.found());
        return Err(AssignError { at: value.at, message, help: None });
    }
    *place = fitted;
    Ok(())
}

fn entry(entries: &[(Key, Tree)], name: &str, walked: &str, at: At) -> Result<usize, AssignError> {
    entries.iter().position(|(key, _)| key.name == name).ok_or_else(|| AssignError {
        at,
        message: format!("the parameter `{walked}` has no key `{name}`"),
        help: suggestion(name, entries.iter().map(|(key, _)| key.name.as_str())),
    })
}

/// Converts a value to the declared type. Whole and other numbers are one type, and a map may leave out keys. A parameter
/// declared without a value takes any value, one declared as an empty map takes any map.
fn fit(declared: &Tree, value: &Tree, walked: &str) -> Result<Tree, AssignError> {
    let fitted = match (&declared.value, &value.value) {
        (Value::Float(_), Value::Int(whole)) => Value::Float(*whole as f64),
        (Value::Map(entries), Value::Map(changes)) if !entries.is_empty() => {
            let mut entries = entries.clone();
            for (key, change) in changes {
                let index = entry(&entries, &key.name, walked, key.at)?;
                entries[index].1 = fit(&entries[index].1, change, &format!("{walked}.{}", key.name))?;
            }
            Value::Map(entries)
        }
        (Value::Null | Value::Broken, other) | (Value::Int(_), other @ Value::Float(_)) => other.clone(),
        (declared, other) if declared.describe() == other.describe() => other.clone(),
        (declared, other) => {
            let message = format!("`{walked}` must be {}, found {}", declared.describe(), other.describe());
            let quote = matches!(declared, Value::Text(_))
                && matches!(other, Value::Int(_) | Value::Float(_) | Value::Bool(_));
            let help = quote.then(|| format!("quotes make it text: '\"{}\"'", value.to_text()));
            return Err(AssignError { at: value.at, message, help });
        }
    };
    Ok(value.with(fitted))
}

/// Replaces parameters in what was typed.
pub(crate) struct Substitution<'a> {
    pub errors: &'a Errors<'a>,
    pub params: &'a Params,
    /// The parameters of a combination of a matrix. They hide the pipeline's.
    pub axes: &'a [(&'a str, &'a Tree)],
    /// The label of that combination: those of its axes, with commas between them.
    pub label: &'a str,
    /// What is used of the pipeline's parameters, and of the matrix's.
    pub uses: (&'a Uses, &'a Uses),
    /// The variants of the stages in scope, for `stage[*]`.
    pub labels: &'a Labels<'a>,
    pub budget: &'a Budget,
}

impl Substitution<'_> {
    /// Replaces every `$name` by its value, every `${name}` inside text by its text, and every `stage[*]` by the variants or
    /// rounds: in a list, or in a map under a key that has a `*` too. Returns `None` after a reported error.
    pub(crate) fn apply(&self, tree: &Tree) -> Option<Tree> {
        self.walk(tree, true)
    }

    /// In the value of a parameter (not `typed`) only `stage[*]` is replaced: a `$` in it is literal.
    fn walk(&self, tree: &Tree, typed: bool) -> Option<Tree> {
        let value = match &tree.value {
            Value::Text(text) if typed && text.contains('$') => return self.text(text, tree.at),
            Value::List(items) => {
                let items: Vec<Option<Tree>> = items.iter().map(|item| self.walk(item, typed)).collect();
                let items: Vec<Tree> = items.into_iter().collect::<Option<_>>()?;
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    match self.several(&item)? {
                        None => list.push(item),
                        Some(several) => list.extend(several.into_iter().map(|(_, one)| one)),
                    }
                }
                Value::List(list)
            }
            Value::Map(entries) => {
                let entries: Vec<Option<(Key, Tree)>> = entries
                    .iter()
                    .map(|(key, value)| Some((key.clone(), self.walk(value, typed)?)))
                    .collect();
                let mut map = Vec::with_capacity(entries.len());
                for (key, value) in entries.into_iter().collect::<Option<Vec<_>>>()? {
                    match self.several(&value)? {
                        Some(several) if key.name.contains('*') => {
                            for (label, variant) in several {
                                let longer = key.name.len().saturating_mul(label.len());
                                self.budget.take(self.errors, key.at, longer)?;
                                map.push((Key { name: key.name.replace('*', &label), at: key.at }, variant));
                            }
                        }
                        _ => map.push((key, value)),
                    }
                }
                self.each_once(&map)?;
                Value::Map(map)
            }
            other => other.clone(),
        };
        self.counted(tree.with(value))
    }

    /// A variant that replaces a `*` may have the name of another key of the map.
    fn each_once(&self, entries: &[(Key, Tree)]) -> Option<()> {
        let mut known = HashSet::new();
        match entries.iter().find(|(key, _)| !known.insert(&key.name)) {
            Some((key, _)) => self.errors.at(key.at, format!("duplicate key `{}`", key.name)),
            None => Some(()),
        }
    }

    fn counted(&self, tree: Tree) -> Option<Tree> {
        let text = match &tree.value {
            Value::Map(entries) => entries.iter().map(|(key, _)| key.name.len()).sum(),
            _ => tree.text_len(),
        };
        self.budget.take(self.errors, tree.at, VALUE + text)?;
        Some(tree)
    }

    /// The references that `stage[*].output` or `loop[*].value` stands for, with their labels. The inner `None`: the item is
    /// something else, or no variant matches.
    fn several(&self, item: &Tree) -> Option<Option<Vec<(String, Tree)>>> {
        let Value::Text(text) = &item.value else { return Some(None) };
        if !text.contains('*') {
            return Some(None);
        }
        let Ok(Reference { name, variant: Some(pattern), output }) = Reference::parse(text) else {
            return Some(None);
        };
        let Some(several) = self.labels.of(&name) else { return Some(None) };
        let output = output.map_or(String::new(), |output| format!(".{output}"));
        if let Several::AtMost(_) = several {
            let message = format!(
                "`{name}` must have a fixed number of rounds for `{name}[{pattern}]`, found an `until`"
            );
            let help = format!(
                "name rounds, such as {name}[1]{output}; a round that is not run has the value of the last that was"
            );
            return self.errors.add(self.errors.error(item.at, message).help(help));
        }
        let mut found = Vec::new();
        for label in several.labels() {
            self.budget.take(self.errors, item.at, label.len())?;
            if matches(&pattern, &label) {
                let value = Value::Text(format!("{name}[{label}]{output}"));
                found.push((label.into_owned(), self.counted(Tree::new(value, item.at))?));
            }
        }
        // A loop may have no rounds. A matrix always has variants: then the pattern is wrong.
        let nothing_is_meant = matches!(several, Several::Rounds(_)) && pattern == "*";
        Some(Some(found).filter(|found| nothing_is_meant || !found.is_empty()))
    }

    /// Text with its parameters replaced. If it consists of one parameter, the value keeps its type.
    fn text(&self, text: &str, at: At) -> Option<Tree> {
        if let Some(path) = text.strip_prefix('$').filter(|path| is_path(path)) {
            return self.walk(&self.lookup(path, at)?.clone().placed(at), false);
        }
        let is_variant = Reference::parse(text).is_ok_and(|reference| reference.variant.is_some());
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let Some((path, after)) = after.split_once('}') else {
                return self.errors.at(at, "`${` must be closed by a `}`");
            };
            out += before;
            let value = self.lookup(path, at)?;
            let text = match self.label_of(path).filter(|_| is_variant) {
                Some(label) => label.to_owned(),
                None => value.to_text(),
            };
            self.budget.take(self.errors, at, VALUE + text.len())?;
            out += &text;
            rest = after;
        }
        self.counted(Tree::new(Value::Text(out + rest), at))
    }

    /// The label that an axis has in this combination.
    fn label_of(&self, axis: &str) -> Option<&str> {
        let index = self.axes.iter().position(|(name, _)| *name == axis)?;
        self.label.split(',').nth(index)
    }

    /// The value of `name` or `name.key.key`.
    fn lookup(&self, path: &str, at: At) -> Option<&Tree> {
        let mut steps = path.split('.');
        let name = steps.next().unwrap_or_default();
        let axis = self.axes.iter().rev().find(|(axis, _)| *axis == name).map(|(_, tree)| *tree);
        let Some(mut tree) = axis.or_else(|| self.params.get(name)) else {
            let names = self.params.keys().map(String::as_str).chain(self.axes.iter().map(|(axis, _)| *axis));
            let error = self.errors.error(at, format!("there is no parameter `{name}`"));
            let is_of_shell = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            return self.errors.add(match is_of_shell {
                true => error.help(format!("a variable of the shell is ${name}, without braces")),
                false => error.suggest(name, names),
            });
        };
        let mut walked = name.to_owned();
        for step in steps {
            let Value::Map(entries) = &tree.value else {
                let message = format!("`${walked}` must be a map, found {}", tree.value.describe());
                return self.errors.at(at, message);
            };
            let Some((_, inner)) = entries.iter().find(|(key, _)| key.name == step) else {
                let message = format!("the parameter `{walked}` has no key `{step}`");
                let names = entries.iter().map(|(key, _)| key.name.as_str());
                return self.errors.add(self.errors.error(at, message).suggest(step, names));
            };
            tree = inner;
            walked = format!("{walked}.{step}");
        }
        (if axis.is_some() { self.uses.1 } else { self.uses.0 }).note(path);
        Some(tree).filter(|tree| !matches!(tree.value, Value::Broken))
    }
}

/// Whether a pattern such as `*` or `b,*` matches a variant's label.
fn matches(pattern: &str, label: &str) -> bool {
    let alone = |(pattern, label): (&str, &str)| pattern == "*" || pattern == label;
    pattern == "*"
        || (pattern.split(',').count() == label.split(',').count()
            && pattern.split(',').zip(label.split(',')).all(alone))
}

/// The parameters as a record of a run shows them.
pub(crate) fn to_json(params: &Params) -> BTreeMap<String, serde_json::Value> {
    params.iter().map(|(name, tree)| (name.clone(), tree.to_json())).collect()
}

/// The spelling of parameters with numbers that JSON writes otherwise.
pub(crate) fn as_typed(params: &Params) -> BTreeMap<String, String> {
    let typed = params.iter().map(|(name, tree)| (name.clone(), tree.as_typed(), tree.to_json().to_string()));
    typed.filter(|(_, typed, json)| typed != json).map(|(name, typed, _)| (name, typed)).collect()
}

/// The requested ablations, each once, in the requested order. `all` stands for all of the file.
pub(crate) fn chosen<'a>(errors: &Errors, declared: &'a [Ablation], asked: &[String]) -> Vec<&'a Ablation> {
    let (mut chosen, mut known) = (Vec::new(), HashSet::new());
    for name in asked {
        let found: Vec<&Ablation> =
            declared.iter().filter(|ablation| name == "all" || ablation.name.name == *name).collect();
        if found.is_empty() {
            let message = match declared {
                [] => format!("--ablation {name}: the pipeline has no `ablations`"),
                _ => format!("--ablation {name}: the pipeline has no ablation `{name}`"),
            };
            let error = Diagnostic::of_file(&errors.source.path, message);
            let names = declared.iter().map(|ablation| ablation.name.name.as_str());
            errors.add::<()>(error.suggest(name, names));
        }
        chosen.extend(found.into_iter().filter(|ablation| known.insert(&ablation.name.name)));
    }
    chosen
}
