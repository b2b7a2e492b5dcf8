//! `extends:`, a saved command line: a file that runs another pipeline with other parameters, other seeds, and ablations by
//! default.

use std::path::PathBuf;

use super::diagnostic::At;
use super::errors::Errors;
use super::params::assign;
use super::spec::{Ablation, OWN_PARAMS, Pipeline, Reader};
use super::tree::{Key, Tree, Value};

/// A file that extends another, as typed.
pub(crate) struct Extension {
    pub name: String,
    /// The file that it extends, and the place of its name.
    pub base: (PathBuf, At),
    pub seeds: Option<Vec<u64>>,
    /// Other values of the base's parameters, including `seed`, `device` and `dtype`.
    params: Vec<(Key, Tree)>,
    /// The ablations of the base to run.
    ablations: Vec<Key>,
}

impl Extension {
    /// Reads a file that extends another, `None` of any other. Reports errors.
    pub(crate) fn read(errors: &Errors, tree: &Tree) -> Option<Extension> {
        let base = tree.get("extends")?;
        let reader = Reader { errors };
        let known = ["pipeline", "extends", "seed", "seeds", "device", "dtype", "params", "ablations"];
        reader.known_keys(tree, "a pipeline that extends another", &known);
        let path = match &base.value {
            Value::Text(path) => errors.source.path.with_file_name(path),
            other => {
                let message =
                    format!("`extends` must be the path of a pipeline file, found {}", other.describe());
                errors.at(base.at, message).unwrap_or_default()
            }
        };
        let mut params = match tree.get("params").map(|params| (&params.value, params.at)) {
            None | Some((Value::Null, _)) => Vec::new(),
            Some((Value::Map(entries), _)) => entries.clone(),
            Some((other, at)) => {
                let message =
                    format!("`params` must be a map with names as keys, found {}", other.describe());
                errors.at(at, message).unwrap_or_default()
            }
        };
        params.retain(|(key, value)| reader.is_declarable(key) && reader.without_parameters(value));
        for name in OWN_PARAMS {
            let value = tree.get(name).cloned();
            params.extend(value.map(|value| (Key { name: name.to_owned(), at: value.at }, value)));
        }
        let ablations = tree.get("ablations").map(|tree| names(errors, tree)).unwrap_or_default();
        let (name, seeds) = (reader.pipeline_name(tree), reader.seeds(tree));
        Some(Extension { name, base: (path, base.at), seeds, params, ablations })
    }

    /// Replaces values of the base. A wrong value is an error of this file. An error where the value is used is one of the
    /// base, so the value gets the place of the declared one.
    pub(crate) fn put_into(&self, errors: &Errors, base: &mut Pipeline) {
        base.name.clone_from(&self.name);
        if self.seeds.is_some() || self.params.iter().any(|(key, _)| key.name == "seed") {
            base.seeds.clone_from(&self.seeds);
        }
        let params = &mut base.params;
        for (key, value) in &self.params {
            match assign(&mut params.clone(), key, value) {
                Err(misfit) => misfit.report(errors),
                Ok(()) => {
                    let declared = params.get(key.name.split('.').next().unwrap_or_default());
                    let moved = value.clone().moved_to(declared.map_or(At::default(), |tree| tree.at));
                    let _ = assign(params, key, &moved);
                }
            }
        }
    }

    /// The names of the ablations to run if the command line asks for none.
    pub(crate) fn ablations(&self, errors: &Errors, declared: &[Ablation]) -> Vec<String> {
        let known = || declared.iter().map(|ablation| ablation.name.name.as_str());
        let is_known = |key: &&Key| {
            let there = key.name == "all" || known().any(|name| name == key.name);
            if !there {
                let error = errors.error(key.at, format!("the pipeline has no ablation `{}`", key.name));
                errors.add::<()>(error.suggest(&key.name, known()));
            }
            there
        };
        self.ablations.iter().filter(is_known).map(|key| key.name.clone()).collect()
    }
}

/// A list of names.
fn names(errors: &Errors, tree: &Tree) -> Vec<Key> {
    let name = |item: &Tree| match &item.value {
        Value::Text(name) => Some(Key { name: name.clone(), at: item.at }),
        _ => None,
    };
    let found = match &tree.value {
        Value::List(items) => items.iter().map(name).collect::<Option<Vec<Key>>>(),
        _ => None,
    };
    found.unwrap_or_else(|| {
        let message = "`ablations` must be a list of names: the ablations to run by default";
        errors.at(tree.at, message).unwrap_or_default()
    })
}
