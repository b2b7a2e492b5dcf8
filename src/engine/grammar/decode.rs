//! The first pass over what was typed: matrices written out, parameters put in, stages decoded into their
//! types, loops counted. Nothing is resolved yet.

use std::collections::BTreeMap;

use super::budget::Budget;
use super::diagnostic::At;
use super::errors::Errors;
use super::labels::{Labels, Several};
use super::matrix::{self, Combination};
use super::params::Substitution;
use super::policy;
use super::spec::{Item, LoopSpec, StageSpec};
use super::tree::{Key, Params, Tree, Value};
use super::wording::{self, descend_all};
use crate::graph::Policy;
use crate::input::Origin;
use crate::kind::Kind;
use crate::resources::Limit;
use crate::stage::{DecodeError, Decoded, Registry};

/// After so many unknown keys of one stage, the rest is not read.
const MOST_UNKNOWN: usize = 20;

/// Which rounds of a loop keep the bulky artifacts they hand on. The last round always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    All,
    Last,
    Every(usize),
}

/// An entry of `stages:` decoded, its references not yet resolved. What could not be decoded was reported.
pub enum Draft<'a> {
    Stage(StageDraft<'a>),
    Loop {
        spec: &'a LoopSpec,
        repeat: usize,
        keep: Keep,
        carry: Vec<Entry<'a>>,
        body: Vec<Draft<'a>>,
        next: Vec<Entry<'a>>,
    },
    /// Of unknown kind or with a broken matrix: what refers to it is not checked.
    Broken(&'a Key),
}

/// Of a loop's `carry` or `next`, with parameters put in.
pub type Entry<'a> = (&'a Key, Tree);

pub struct StageDraft<'a> {
    pub spec: &'a StageSpec,
    pub kind: &'static Kind,
    /// By label; a stage without a matrix has a single variant without one.
    pub variants: Vec<(Option<String>, Option<DraftVariant>)>,
}

pub struct DraftVariant {
    /// What it was decoded from.
    pub body: Tree,
    pub decoded: Decoded,
    /// Where each of its inputs stands.
    pub uses: Vec<At>,
    pub seed: Option<u64>,
    pub policy: Policy,
}

impl<'a> Draft<'a> {
    pub fn key(&self) -> &'a Key {
        match self {
            Draft::Stage(StageDraft { spec, .. }) => &spec.name,
            Draft::Loop { spec, .. } => &spec.name,
            Draft::Broken(key) => key,
        }
    }
}

/// The value of a `carry` or `next` entry: a reference or `{ path: … }`.
pub fn origin(tree: &Tree) -> Option<Origin> {
    match (&tree.value, tree.get("path").map(|path| &path.value)) {
        (Value::Text(text), _) => Some(Origin::Reference(text.clone())),
        (Value::Map(entries), Some(Value::Text(path))) if entries.len() == 1 => {
            Some(Origin::Path(path.into()))
        }
        _ => None,
    }
}

/// Decodes the entries of a `stages:`, and those of the loops among them.
pub fn decode_all<'a>(
    errors: &Errors,
    registry: &Registry,
    limits: &BTreeMap<String, Limit>,
    items: &'a [Item],
    params: &Params,
    budget: &Budget,
) -> Vec<Draft<'a>> {
    Decoder { errors, registry, limits, params, budget }.decode_all(items, &Labels::default())
}

struct Decoder<'a> {
    errors: &'a Errors<'a>,
    registry: &'a Registry,
    limits: &'a BTreeMap<String, Limit>,
    params: &'a Params,
    budget: &'a Budget,
}

impl Decoder<'_> {
    fn decode_all<'i>(&self, items: &'i [Item], around: &Labels) -> Vec<Draft<'i>> {
        let matrices: Vec<Option<Tree>> = items
            .iter()
            .map(|item| match item {
                Item::Stage(spec) => self.substitute(&[], around).apply(spec.matrix.as_ref()?),
                _ => None,
            })
            .collect();
        let combinations: Vec<Option<Vec<Combination>>> = matrices
            .iter()
            .map(|matrix| matrix::combinations(self.errors, self.budget, matrix.as_ref()?))
            .collect();
        let mut several: Vec<Option<Several>> = Vec::with_capacity(items.len());
        for (item, all) in items.iter().zip(&combinations) {
            several.push(match item {
                Item::Loop(spec) => Some(Several::Rounds(self.repeat(spec, around))),
                _ => all.as_deref().map(Several::Variants),
            });
        }
        let names = items.iter().map(|item| item.key().name.as_str()).zip(several.iter().copied());
        let labels = Labels { around: Some(around), names: names.collect() };
        let drafts = items.iter().zip(&several).map(|(item, several)| match (item, several) {
            (Item::Stage(spec), Some(Several::Variants(all))) => self.decode_stage(spec, Some(all), &labels),
            (Item::Stage(spec), _) => self.decode_stage(spec, None, &labels),
            (Item::Loop(spec), Some(Several::Rounds(repeat))) => self.decode_loop(spec, *repeat, &labels),
            (Item::Loop(_) | Item::Broken(_), _) => Draft::Broken(item.key()),
        });
        drafts.collect()
    }

    fn substitute<'s>(&'s self, axes: &'s [(&'s str, &'s Tree)], labels: &'s Labels<'s>) -> Substitution<'s> {
        Substitution { errors: self.errors, params: self.params, axes, labels, budget: self.budget }
    }

    fn repeat(&self, spec: &LoopSpec, around: &Labels) -> usize {
        let repeat = self.substitute(&[], around).apply(&spec.repeat).map(|tree| tree.value);
        match repeat {
            Some(Value::Int(count)) if (0..=1_000_000).contains(&count) => count as usize,
            Some(_) => {
                let message = "`repeat` is a whole number from 0 to 1000000";
                self.errors.at(spec.repeat.at, message).unwrap_or_default()
            }
            None => 0,
        }
    }

    fn decode_loop<'i>(&self, spec: &'i LoopSpec, repeat: usize, around: &Labels) -> Draft<'i> {
        let keep = spec.keep.as_ref().and_then(|tree| self.substitute(&[], around).apply(tree));
        let keep = keep.and_then(|tree| self.keep(&tree)).unwrap_or(Keep::Last);
        let carried = spec.carry.iter().map(|(key, _)| (key.name.as_str(), None));
        let labels = Labels { around: Some(around), names: carried.collect() };
        let carry = self.entries(&spec.carry, around);
        let next = self.entries(&spec.next, &labels);
        Draft::Loop { spec, repeat, keep, carry, body: self.decode_all(&spec.stages, &labels), next }
    }

    fn entries<'i>(&self, entries: &'i [(Key, Tree)], labels: &Labels) -> Vec<Entry<'i>> {
        let substitution = self.substitute(&[], labels);
        let value =
            |tree: &Tree| substitution.apply(tree).unwrap_or_else(|| Tree::new(Value::Broken, tree.at));
        entries.iter().map(|(key, tree)| (key, value(tree))).collect()
    }

    fn keep(&self, tree: &Tree) -> Option<Keep> {
        match (&tree.value, tree.get("every").map(|every| &every.value)) {
            (Value::Text(text), _) if text == "all" => Some(Keep::All),
            (Value::Text(text), _) if text == "last" => Some(Keep::Last),
            (Value::Map(entries), Some(Value::Int(every @ 1..))) if entries.len() == 1 => {
                Some(Keep::Every(*every as usize))
            }
            _ => self.errors.at(tree.at, "`keep` is `last`, `all` or { every: N }, N from 1"),
        }
    }

    fn decode_stage<'i>(
        &self,
        spec: &'i StageSpec,
        combinations: Option<&[Combination]>,
        labels: &Labels,
    ) -> Draft<'i> {
        let (kind_name, kind_at) = &spec.kind;
        let Some((kind, decode, verbatim)) = self.registry.find(kind_name) else {
            let error = self.errors.error(*kind_at, self.registry.unknown(kind_name));
            self.errors.add::<()>(error.suggest(kind_name, self.registry.names()));
            return Draft::Broken(&spec.name);
        };
        let variant = |axes: &[(&str, &Tree)]| {
            let substitution = self.substitute(axes, labels);
            let common = [&spec.seed, &spec.resources, &spec.timeout, &spec.retry, &spec.on];
            let [seed, resources, timeout, retry, on] =
                common.map(|tree| tree.as_ref().and_then(|tree| substitution.apply(tree)));
            let keys = [resources.as_ref(), timeout.as_ref(), retry.as_ref(), on.as_ref()];
            let policy = policy::read(self.errors, self.limits, keys);
            let body = substitution.apply(&spec.body)?;
            let decoded = self.decode(spec, &body, verbatim, decode)?;
            let seed = seed.and_then(|tree| self.seed(&tree, &decoded));
            let paths: Vec<&[String]> = decoded.uses.iter().map(|found| &found.path[..]).collect();
            let mut trees = Vec::with_capacity(paths.len());
            descend_all(Some(&body), &paths, &mut trees);
            let place =
                |tree: Option<&Tree>| tree.map_or(spec.name.at, |tree| tree.get("path").unwrap_or(tree).at);
            let uses = trees.into_iter().map(place).collect();
            Some(DraftVariant { body, uses, decoded, seed, policy })
        };
        let variants = match (&spec.matrix, combinations) {
            (None, _) => vec![(None, variant(&[]))],
            (Some(_), None) => return Draft::Broken(&spec.name),
            (Some(_), Some(all)) => {
                let decoded = all.iter().enumerate().map(|(index, one)| {
                    self.errors.in_variant(Some(one.label.as_str()).filter(|_| index > 0));
                    (Some(one.label.clone()), variant(&one.params))
                });
                let variants = decoded.collect();
                self.errors.in_variant(None);
                variants
            }
        };
        Draft::Stage(StageDraft { spec, kind, variants })
    }

    fn seed(&self, tree: &Tree, decoded: &Decoded) -> Option<u64> {
        match tree.value {
            Value::Int(0..) if !decoded.draws => {
                let error = self.errors.error(tree.at, "`seed` has no effect: this stage does not draw");
                self.errors.add(error.help("a command that draws says `random: true`"))
            }
            Value::Int(seed @ 0..) => Some(seed as u64),
            _ => self.errors.at(tree.at, "`seed` is a whole number from 0"),
        }
    }

    /// Decodes a stage's parameters. serde stops at the first error; with an unknown key left out it goes on
    /// to the next.
    fn decode(
        &self,
        spec: &StageSpec,
        body: &Tree,
        verbatim: &[&str],
        decode: fn(serde_json::Value) -> Result<Decoded, DecodeError>,
    ) -> Option<Decoded> {
        let mut unknown: Vec<(Vec<String>, String)> = Vec::new();
        loop {
            let mut json = json(body, verbatim);
            for (path, key) in &unknown {
                remove(&mut json, path, key)?;
            }
            let error = match decode(json) {
                Ok(decoded) => return Some(decoded).filter(|_| unknown.is_empty()),
                Err(_) if self.errors.are_many() => return None,
                Err(error) => error,
            };
            if !wording::is_missing_as(&error, unknown.iter().map(|(_, key)| key.as_str())) {
                self.errors.add::<()>(wording::decode_error(self.errors, spec, body, &error));
            }
            let given = wording::unknown_key(&error).filter(|_| unknown.len() < MOST_UNKNOWN)?;
            unknown.push((error.path.clone(), given.to_owned()));
        }
    }
}

/// What a stage is decoded from. Under keys that are `verbatim`, scalars are text, whatever they may be elsewhere.
pub fn json(body: &Tree, verbatim: &[&str]) -> serde_json::Value {
    let Value::Map(entries) = &body.value else { return body.to_json() };
    let entry = |(key, tree): &(Key, Tree)| {
        let is_verbatim = verbatim.contains(&key.name.as_str());
        let json = if is_verbatim { tree.to_verbatim_json() } else { tree.to_json() };
        (key.name.clone(), json)
    };
    serde_json::Value::Object(entries.iter().map(entry).collect())
}

/// Takes a key out of the map at `path`, which may end with the key itself.
fn remove(json: &mut serde_json::Value, path: &[String], key: &str) -> Option<()> {
    let map = path.strip_suffix(&[key.to_owned()][..]).unwrap_or(path);
    let place = map.iter().try_fold(json, |json, step| match json {
        serde_json::Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
        other => other.get_mut(step),
    })?;
    place.as_object_mut()?.shift_remove(key).map(|_| ())
}
