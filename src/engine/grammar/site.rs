//! The *site file*: what a place has, as opposed to what an experiment does. Nothing of it counts for a key, except `trainer`, which
//! is a default of the stages that train.

use std::collections::BTreeMap;
use std::path::Path;

use super::decode;
use super::diagnostic::{At, Diagnostic, Diagnostics};
use super::errors::Errors;
use super::load::is_linked;
use super::policy::{self, Place};
use super::source::Source;
use super::spec::Reader;
use super::tree::{Key, Tree, Value};
use super::wording;
use crate::resources::Limit;
use crate::stage::{DecodeError, Registry};

/// The name of the site file beside a pipeline.
pub const SITE_FILE: &str = "triplay.yaml";

/// What a place has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The limits of resources. They replace those of the pipeline.
    pub resources: BTreeMap<String, Limit>,
    /// Where models behind servers are asked, by the names that pipelines use.
    pub endpoints: BTreeMap<String, serde_json::Value>,
    /// What computes the steps of stages that do not say it: it is put below their keys, as if it were written there.
    pub trainer: Option<serde_json::Value>,
    /// The Python and the devices of the trainer `torch`.
    pub torch: Option<serde_json::Value>,
}

impl Site {
    /// A place that says nothing.
    pub const BARE: &Site =
        &Site { resources: BTreeMap::new(), endpoints: BTreeMap::new(), trainer: None, torch: None };

    /// Reads the site file beside a pipeline, if there is one. A pipeline of that name is none.
    pub fn beside(pipeline: &Path, registry: &Registry) -> Result<Site, Diagnostics> {
        let path = pipeline.with_file_name(SITE_FILE);
        if path.symlink_metadata().is_ok() && is_linked(&path) {
            let message = "the site file beside a pipeline must not be reached through a link";
            let error = Diagnostic::of_file(&path, message);
            return Err(error.help("name the file that you mean with --site").into());
        }
        if !path.exists() {
            return Ok(Site::default());
        }
        let source = Source::read(&path)?;
        let tree = Tree::parse(&source)?;
        if tree.get("pipeline").is_some() {
            return Ok(Site::default());
        }
        Site::of(&source, &tree, registry)
    }

    /// Reads a site file.
    pub fn read(path: &Path, registry: &Registry) -> Result<Site, Diagnostics> {
        if !path.exists() {
            let error = Diagnostic::of_file(path, "there is no such site file");
            return Err(error
                .help("name it with --site or TRIPLAY_SITE, relative to the working directory")
                .into());
        }
        let source = Source::read(path)?;
        let tree = Tree::parse(&source)?;
        Site::of(&source, &tree, registry)
    }

    fn of(source: &Source, tree: &Tree, registry: &Registry) -> Result<Site, Diagnostics> {
        let errors = Errors::new(source);
        let reader = Reader { errors: &errors };
        match &tree.value {
            Value::Map(_) | Value::Null => {}
            other => {
                let message = format!(
                    "a site file must be a map such as {{ resources: {{ gpu: 2 }} }}, found {}",
                    other.describe()
                );
                errors.at::<()>(tree.at, message);
            }
        }
        reader.known_keys(tree, "a site file", &["resources", "endpoints", "trainer", "torch"]);
        let entries = tree.get("resources").map(|tree| reader.named(tree, "resources")).unwrap_or_default();
        let limit = |(key, tree): &(Key, Tree)| {
            Some((key.name.clone(), policy::read_limit(&errors, &key.name, tree, Place::Site)?))
        };
        let resources = entries.iter().filter_map(limit).collect();
        let entries = tree.get("endpoints").map(|tree| reader.named(tree, "endpoints")).unwrap_or_default();
        let checked = |name: &str,
                       at: At,
                       tree: &Tree,
                       check: &dyn Fn(&serde_json::Value) -> Result<(), DecodeError>| {
            let value = decode::json(tree, &[]);
            if let Err(error) = check(&value) {
                return errors.add(wording::decode_error(&errors, (name, at), &[], tree, &error));
            }
            Some(value)
        };
        let endpoint = |(key, tree): &(Key, Tree)| {
            let name = format!("endpoint `{}`", key.name);
            Some((key.name.clone(), checked(&name, key.at, tree, &|value| registry.check_endpoint(value))?))
        };
        let endpoints = entries.iter().filter_map(endpoint).collect();
        let trainer = tree
            .get("trainer")
            .and_then(|tree| checked("`trainer`", tree.at, tree, &|value| registry.check_trainer(value)));
        let torch = tree
            .get("torch")
            .and_then(|tree| checked("`torch`", tree.at, tree, &|value| registry.check_torch(value)));
        errors.finish()?;
        Ok(Site { resources, endpoints, trainer, torch })
    }
}
