//! Parameters that a file declares and nothing uses, and `$name`s that a shell takes for variables of its own. Both run, and are
//! hardly meant.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};

use super::diagnostic::{At, Diagnostic, nearest};
use super::matrix::{is_axis, parameter};
use super::source::Source;
use super::spec::StageSpec;
use super::tree::{Key, Tree, Value};

/// The paths of parameters that were looked up, such as `fire.heat`.
#[derive(Default)]
pub(crate) struct Uses(RefCell<BTreeSet<String>>);

impl Uses {
    pub(crate) fn note(&self, path: &str) {
        let mut paths = self.0.borrow_mut();
        if !paths.contains(path) {
            paths.insert(path.to_owned());
        }
    }

    /// Whether a parameter, or a key in it, was looked up.
    fn has(&self, name: &str) -> bool {
        self.0.borrow().iter().any(|path| path.strip_prefix(name).is_some_and(is_end))
    }

    /// The topmost keys at or in a parameter that were not looked up, with their paths.
    fn unused<'t>(&self, path: &str, key: &'t Key, tree: &'t Tree) -> Vec<(String, &'t Key)> {
        let is_around = |used: &String| path.strip_prefix(used.as_str()).is_some_and(is_end);
        if self.0.borrow().iter().any(is_around) {
            return Vec::new();
        }
        match &tree.value {
            _ if !self.has(path) => vec![(path.to_owned(), key)],
            Value::Map(entries) => {
                let inner =
                    |(key, tree): &'t (Key, Tree)| self.unused(&format!("{path}.{}", key.name), key, tree);
                entries.iter().flat_map(inner).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The path of the looked up parameters that is nearest to a name, as a question; else `otherwise`.
    fn nearest(&self, name: &str, otherwise: String) -> String {
        let paths = self.0.borrow();
        // The name itself may be that of a parameter which is used elsewhere.
        let others: Vec<&str> = paths.iter().map(String::as_str).filter(|path| *path != name).collect();
        match nearest(name, &others) {
            Some(near) => format!("did you mean `{near}`?"),
            None => otherwise,
        }
    }
}

/// Whether a path ends here, or goes on with a key.
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

/// The warnings about parameters and axes, each once, however many variants cause it.
pub(crate) struct UseWarnings<'a> {
    source: &'a Source,
    /// What is used of the pipeline's parameters.
    pub params: Uses,
    seen: RefCell<HashSet<(usize, usize, String)>>,
    found: RefCell<Vec<Diagnostic>>,
}

impl<'a> UseWarnings<'a> {
    pub(crate) fn new(source: &'a Source) -> UseWarnings<'a> {
        UseWarnings { source, params: Uses::default(), seen: RefCell::default(), found: RefCell::default() }
    }

    pub(crate) fn add(&self, at: At, message: String, help: String) {
        if self.seen.borrow_mut().insert((at.line, at.column, message.clone())) {
            self.found.borrow_mut().push(self.source.error(at, message).help(help));
        }
    }

    /// A text leaves `$name` to a shell, although a parameter has this name.
    pub(crate) fn left_to_shell(&self, at: At, name: &str) {
        let message =
            format!("in a shell command `${name}` is a variable of the shell, not the parameter `{name}`");
        let help = format!(
            "write ${{{name}}} for the value, or give the command the variable: env: {{ {name}: ${name} }}"
        );
        self.add(at, message, help);
    }

    /// Warns of axes and included parameters of a matrix that its stage does not use.
    pub(crate) fn matrix(&self, spec: &StageSpec, matrix: &Tree, used: &Uses) {
        let Value::Map(entries) = &matrix.value else { return };
        let stage = &spec.name.name;
        let maps = match matrix.get("include").map(|list| &list.value) {
            Some(Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        let maps = || {
            maps.iter().filter_map(|item| if let Value::Map(map) = &item.value { Some(map) } else { None })
        };
        let is_more =
            |(key, _): &&(Key, Tree)| !entries.iter().any(|(axis, _)| parameter(&axis.name) == key.name);
        // An axis may only choose what `include` adds.
        let chooses = |axis: &str| {
            maps().any(|map| {
                map.iter().any(|(key, _)| key.name == axis) && map.iter().any(|entry| is_more(&entry))
            })
        };
        let near = |name: &str| {
            let given = parameter(name);
            let or_draws = if given == name { "" } else { "; a command that draws has `random: true`" };
            let help = format!("write ${given} or ${{{given}}} where its value is meant{or_draws}");
            self.params.nearest(name, help)
        };
        for (key, _) in entries.iter().filter(|(key, _)| is_axis(key)) {
            let name = &key.name;
            if !used.has(parameter(name)) && !chooses(parameter(name)) {
                let message = format!("stage `{stage}` does not use the axis `{name}` of its matrix");
                self.add(key.at, message, near(name));
            }
        }
        for (key, _) in maps().flatten().filter(is_more).filter(|(key, _)| !used.has(&key.name)) {
            let message = format!("stage `{stage}` does not use the parameter `{}` of its matrix", key.name);
            self.add(key.at, message, near(&key.name));
        }
    }

    /// All warnings in the order of the file, with those of declared parameters that no stage uses.
    pub(crate) fn finish(self, declared: &[(Key, Tree)]) -> Vec<Diagnostic> {
        for (path, key) in declared.iter().flat_map(|(key, tree)| self.params.unused(&key.name, key, tree)) {
            let help = format!("write ${path} or ${{{path}}} where its value is meant, or remove it");
            self.add(
                key.at,
                format!("no stage uses the parameter `{path}`"),
                self.params.nearest(&path, help),
            );
        }
        let mut found = self.found.into_inner();
        found.sort_by_key(|warning| warning.place.as_ref().map(|(at, _)| (at.line, at.column)));
        found
    }
}
