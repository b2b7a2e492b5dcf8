//! The first pass over the typed file: expands matrices, replaces parameters, decodes stages into their types, counts rounds.
//! Resolves no references yet.

use std::collections::BTreeMap;

use super::budget::Budget;
use super::diagnostic::At;
use super::errors::Errors;
use super::labels::{Labels, Several};
use super::matrix::{self, Combination};
use super::params::Substitution;
use super::policy;
use super::roles::Filling;
use super::spec::{COMMON_KEYS, Item, LoopSpec, Reader, StageSpec};
use super::tree::{Key, Params, Tree, Value};
use super::uses::{UseWarnings, Uses};
use super::wording::{self, descend_all};
use crate::graph::{Assigned, Policy};
use crate::input::{self, InputSource};
use crate::kind::Kind;
use crate::resources::Limit;
use crate::stage::{DecodeError, Decoded, Registry};

/// The key of an `until` that names the metric.
pub(crate) const METRIC: &str = "metric";

/// After so many unknown keys of one stage, the rest is not read.
const MOST_UNKNOWN: usize = 20;

/// Which rounds of a loop keep the checkpoints that they hand on. The last round always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    Last,
    Every(usize),
}

/// A decoded entry of `stages:`, its references not yet resolved. Entries that could not be decoded were reported.
pub(crate) enum Draft<'a> {
    Stage(StageDraft<'a>),
    Loop {
        spec: &'a LoopSpec,
        repeat: usize,
        until: Option<Box<UntilDraft>>,
        keep: Keep,
        carry: Vec<Entry<'a>>,
        body: Vec<Draft<'a>>,
        next: Vec<Entry<'a>>,
    },
    /// A stage of unknown kind or with a broken matrix: references to it are not checked.
    Broken(&'a Key),
}

/// The `until` of a loop.
pub(crate) struct UntilDraft {
    /// Its name among the stages of a round, and its place.
    pub key: Key,
    pub kind: &'static Kind,
    pub variant: DraftVariant,
    /// The number of consecutive rounds in which the condition must hold.
    pub in_a_row: usize,
}

/// The rounds of a loop.
struct Rounds {
    /// The number of rounds, or the most with an `until`.
    repeat: usize,
    /// As typed, with parameters replaced.
    until: Option<Tree>,
}

/// The name of the node that decides whether a loop goes on, and the key that configures it.
pub(crate) const UNTIL: &str = "until";

/// An entry of a loop's `carry` or `next`, with parameters replaced.
pub(crate) type Entry<'a> = (&'a Key, Tree);

pub(crate) struct StageDraft<'a> {
    pub spec: &'a StageSpec,
    pub kind: &'static Kind,
    /// By label; a stage without a matrix has one variant without a label.
    pub variants: Vec<(Option<String>, Option<DraftVariant>)>,
}

pub(crate) struct DraftVariant {
    /// The tree that it was decoded from.
    pub body: Tree,
    /// Its keys that every stage has.
    pub common: Vec<(Key, Tree)>,
    pub decoded: Decoded,
    /// The place of each input.
    pub uses: Vec<At>,
    pub seed: Option<u64>,
    pub policy: Policy,
    pub assigned: Assigned,
}

impl<'a> Draft<'a> {
    pub(crate) fn key(&self) -> &'a Key {
        match self {
            Draft::Stage(StageDraft { spec, .. }) => &spec.name,
            Draft::Loop { spec, .. } => &spec.name,
            Draft::Broken(key) => key,
        }
    }
}

/// The value of a `carry` or `next` entry: a reference, `{ path: … }` or what a server has.
pub(crate) fn origin(tree: &Tree) -> Option<InputSource> {
    match &tree.value {
        Value::Text(text) => Some(InputSource::Reference(text.clone())),
        Value::Map(_) => match json(tree, &[]) {
            serde_json::Value::Object(fields) => input::source_of_map(fields),
            _ => None,
        },
        _ => None,
    }
}

/// Decodes the entries of a `stages:`, and those of the loops among them.
pub(crate) fn decode_all<'a>(
    errors: &Errors,
    limits: Option<&BTreeMap<String, Limit>>,
    items: &'a [Item],
    params: &Params,
    budget: &Budget,
    warnings: &UseWarnings,
    filling: &Filling,
) -> Vec<Draft<'a>> {
    let registry = filling.registry;
    Decoder { errors, registry, limits, params, budget, warnings, filling }
        .decode_all(items, &Labels::default())
}

struct Decoder<'a> {
    errors: &'a Errors<'a>,
    registry: &'a Registry,
    limits: Option<&'a BTreeMap<String, Limit>>,
    params: &'a Params,
    budget: &'a Budget,
    warnings: &'a UseWarnings<'a>,
    filling: &'a Filling<'a>,
}

impl Decoder<'_> {
    fn decode_all<'i>(&self, items: &'i [Item], around: &Labels) -> Vec<Draft<'i>> {
        let matrices: Vec<Option<Tree>> = items
            .iter()
            .map(|item| match item {
                Item::Stage(spec) => self.substitution(around).apply(spec.matrix.as_ref()?),
                _ => None,
            })
            .collect();
        let combinations: Vec<Option<Vec<Combination>>> = matrices
            .iter()
            .map(|matrix| matrix::combinations(self.errors, self.budget, matrix.as_ref()?))
            .collect();
        let mut several: Vec<Option<Several>> = Vec::with_capacity(items.len());
        let mut rounds: Vec<Option<Rounds>> = Vec::with_capacity(items.len());
        for (item, all) in items.iter().zip(&combinations) {
            let of_loop = if let Item::Loop(spec) = item { Some(self.rounds(spec, around)) } else { None };
            several.push(match &of_loop {
                Some(Rounds { repeat, until: None }) => Some(Several::Rounds(*repeat)),
                Some(Rounds { repeat, until: Some(_) }) => Some(Several::AtMost(*repeat)),
                None => all.as_deref().map(Several::Variants),
            });
            rounds.push(of_loop);
        }
        let names = items.iter().map(|item| item.key().name.as_str()).zip(several.iter().copied());
        let labels = Labels { around: Some(around), names: names.collect() };
        let both = several.iter().zip(rounds);
        let drafts = items.iter().zip(both).map(|(item, (several, rounds))| match (item, several, rounds) {
            (Item::Stage(spec), Some(Several::Variants(all)), _) => {
                self.decode_stage(spec, Some(all), &labels)
            }
            (Item::Stage(spec), ..) => self.decode_stage(spec, None, &labels),
            (Item::Loop(spec), _, Some(rounds)) => self.decode_loop(spec, rounds, &labels),
            (Item::Loop(_) | Item::Broken(_), ..) => Draft::Broken(item.key()),
        });
        drafts.collect()
    }

    /// Replaces the pipeline's parameters.
    fn substitution<'s>(&'s self, labels: &'s Labels<'s>) -> Substitution<'s> {
        let (errors, params, budget, used) = (self.errors, self.params, self.budget, &self.warnings.params);
        Substitution { errors, params, axes: &[], label: "", uses: (used, used), labels, budget }
    }

    fn rounds(&self, spec: &LoopSpec, around: &Labels) -> Rounds {
        const EXPECTED: &str = "a whole number from 0 to 1000000, or { at_most: N, until: … }";
        let none = Rounds { repeat: 0, until: None };
        let Some(tree) = self.substitution(around).apply(&spec.repeat) else { return none };
        match &tree.value {
            Value::Int(count @ 0..=1_000_000) => Rounds { repeat: *count as usize, until: None },
            Value::Map(_) => self.rounds_until(&tree).unwrap_or(none),
            other => {
                let message = format!("`repeat` must be {EXPECTED}, found {}", other.found());
                self.errors.at(spec.repeat.at, message).unwrap_or(none)
            }
        }
    }

    /// The `repeat` of a loop that may stop earlier.
    fn rounds_until(&self, tree: &Tree) -> Option<Rounds> {
        let known = ["at_most", UNTIL];
        Reader { errors: self.errors }.known_keys(tree, "`repeat`", &known);
        let needed = |key: &str| {
            tree.get(key).or_else(|| {
                let message = format!("`repeat` needs the key `{key}`: {{ at_most: N, until: … }}");
                self.errors.at(tree.at, message)
            })
        };
        let (at_most, until) = (needed("at_most"), needed(UNTIL));
        let (at_most, until) = (at_most?, until?);
        let repeat = match at_most.value {
            Value::Int(count @ 1..=1_000_000) => count as usize,
            _ => {
                let found = at_most.value.found();
                let message = format!("`at_most` must be a whole number from 1 to 1000000, found {found}");
                return self.errors.at(at_most.at, message);
            }
        };
        Some(Rounds { repeat, until: Some(until.clone()) })
    }

    fn decode_loop<'i>(&self, spec: &'i LoopSpec, rounds: Rounds, around: &Labels) -> Draft<'i> {
        let Rounds { repeat, until } = rounds;
        let keep = spec.keep.as_ref().and_then(|tree| self.substitution(around).apply(tree));
        let keep = keep.and_then(|tree| self.keep(&tree)).unwrap_or(Keep::Last);
        let carried = spec.carry.iter().map(|(key, _)| (key.name.as_str(), None));
        let labels = Labels { around: Some(around), names: carried.collect() };
        let carry = self.entries(&spec.carry, around);
        let next = self.entries(&spec.next, &labels);
        let body = self.decode_all(&spec.stages, &labels);
        let until = until.and_then(|tree| self.until(spec, &tree, repeat).map(Box::new));
        Draft::Loop { spec, repeat, until, keep, carry, body, next }
    }

    /// Decodes a loop's `until` as a stage of the kind that decides: `metric` becomes a list of it in `in_a_row` rounds.
    fn until(&self, spec: &LoopSpec, tree: &Tree, at_most: usize) -> Option<UntilDraft> {
        let Value::Map(entries) = &tree.value else {
            let message = format!(
                "`until` must be a map such as {{ metric: STAGE.metrics, name: …, above: … }}, found {}",
                tree.value.describe()
            );
            return self.errors.at(tree.at, message);
        };
        let Some((kind, decode)) = self.registry.until() else {
            return self.errors.at(tree.at, self.registry.unknown(UNTIL));
        };
        if let Some(item) = spec.stages.iter().find(|item| item.key().name == UNTIL) {
            let message = "`until` must not name a stage here: it names the node that decides whether this loop goes on";
            return self.errors.at(item.key().at, message);
        }
        let in_a_row = match tree.get("in_a_row").map(|tree| (&tree.value, tree.at)) {
            None => 1,
            Some((Value::Int(rounds @ 1..), _)) if *rounds as usize <= at_most => *rounds as usize,
            Some((other, at)) => {
                let message = format!(
                    "`in_a_row` must be a whole number from 1 to `at_most` = {at_most}, found {}",
                    other.found()
                );
                return self.errors.at(at, message);
            }
        };
        let mut body = Vec::with_capacity(entries.len());
        for (key, value) in entries.iter().filter(|(key, _)| key.name != "in_a_row") {
            let value = match &value.value {
                Value::Text(_) if key.name == METRIC => {
                    value.with(Value::List(vec![value.clone(); in_a_row]))
                }
                other if key.name == METRIC => {
                    let message = format!(
                        "`metric` must be a reference to metrics of a stage in the loop, such as check.metrics, found {}",
                        other.describe()
                    );
                    return self.errors.at(value.at, message);
                }
                _ => value.clone(),
            };
            body.push((key.clone(), value));
        }
        let key = Key { name: UNTIL.into(), at: tree.at };
        let stage = StageSpec {
            name: key.clone(),
            kind: (kind.name.into(), tree.at),
            matrix: None,
            seed: None,
            resources: None,
            timeout: None,
            retry: None,
            on: None,
            publish: None,
            body: tree.with(Value::Map(body)),
        };
        let decoded = self.decode(&stage, &stage.body, &[], decode)?;
        let at = tree.get(METRIC).map_or(tree.at, |tree| tree.at);
        let (uses, policy) = (vec![at; decoded.uses.len()], Policy::default());
        let assigned = Assigned::default();
        let (body, common) = (stage.body, Vec::new());
        let variant = DraftVariant { body, common, uses, decoded, seed: None, policy, assigned };
        Some(UntilDraft { key, kind, variant, in_a_row })
    }

    fn entries<'i>(&self, entries: &'i [(Key, Tree)], labels: &Labels) -> Vec<Entry<'i>> {
        let substitution = self.substitution(labels);
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
            (other, _) => {
                let found = other.found();
                let message =
                    format!("`keep` must be `last`, `all` or {{ every: N }} with N from 1, found {found}");
                self.errors.at(tree.at, message)
            }
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
            if kind_name == UNTIL && self.registry.until().is_some() {
                let error =
                    self.errors.error(*kind_at, "`until` is not a kind of stage: it belongs to a loop");
                let help = "write repeat: { at_most: N, until: { … } }";
                self.errors.add::<()>(error.help(help));
                return Draft::Broken(&spec.name);
            }
            let error = self.errors.error(*kind_at, self.registry.unknown(kind_name));
            self.errors.add::<()>(error.suggest(kind_name, self.registry.names()));
            return Draft::Broken(&spec.name);
        };
        let of_matrix = Uses::default();
        let variant = |combination: Option<&Combination>| {
            let axes = combination.map_or(&[][..], |combination| combination.params.as_slice());
            let assigned = combination.map(Combination::assigned).unwrap_or_default();
            let label = combination.map_or("", |combination| combination.label.as_str());
            let uses = (&self.warnings.params, &of_matrix);
            let substitution = Substitution { axes, label, uses, ..self.substitution(labels) };
            let (filled, body) = self.filling.fill(spec, kind.name, &substitution);
            let own = [
                ("seed", &spec.seed),
                ("resources", &spec.resources),
                ("timeout", &spec.timeout),
                ("retry", &spec.retry),
                ("on", &spec.on),
                ("publish", &spec.publish),
            ];
            let [seed, resources, timeout, retry, on, publish] = own.map(|(key, tree)| {
                let shared = filled.get(key);
                match tree {
                    Some(tree) => {
                        let leaves_out = |tree: &Tree| shared.is_some() && matches!(tree.value, Value::Null);
                        substitution.apply(tree).filter(|tree| !leaves_out(tree))
                    }
                    // The seeds of a matrix are closer to the stage.
                    None if key == "seed" && assigned.seed.is_some() => None,
                    None => shared.cloned(),
                }
            });
            let keys = [&resources, &timeout, &retry, &on, &publish].map(Option::as_ref);
            let policy = policy::read(self.errors, self.limits, keys);
            let common = own.iter().zip([&seed, &resources, &timeout, &retry, &on, &publish]);
            let common = common.filter_map(|((key, _), tree)| {
                let tree = tree.clone()?;
                Some((Key { name: (*key).to_owned(), at: tree.at }, tree))
            });
            let common: Vec<(Key, Tree)> = common.collect();
            let body = body?;
            let decoded = self.decode(spec, &body, verbatim, decode)?;
            if let Some(tree) =
                retry.as_ref().and_then(|retry| retry.get("on")).filter(|_| !decoded.runs_command)
            {
                let message =
                    format!("`on` of `retry` must be left out for the kind {kind_name}: it has no exit code");
                self.errors.at::<()>(tree.at, message);
            }
            for (key, name) in decoded.stage.left_to_shell() {
                let is_axis = axes.iter().any(|(axis, _)| *axis == name);
                if is_axis || self.params.contains_key(&name) {
                    self.warnings.left_to_shell(body.get(key).map_or(spec.name.at, |tree| tree.at), &name);
                    (if is_axis { uses.1 } else { uses.0 }).note(&name);
                }
            }
            let seed = match (seed, assigned.seed) {
                (Some(tree), Some(_)) => {
                    let message =
                        "`seed` must be left out: the `seeds` of the matrix give the stage its seed";
                    self.errors.at(tree.at, message)
                }
                (Some(tree), None) => self.seed(&tree, &decoded),
                (None, given) => given.filter(|_| decoded.draws).inspect(|_| uses.1.note(matrix::SEED)),
            };
            let paths: Vec<&[String]> = decoded.uses.iter().map(|found| &found.path[..]).collect();
            let mut trees = Vec::with_capacity(paths.len());
            descend_all(Some(&body), &paths, &mut trees);
            let place =
                |tree: Option<&Tree>| tree.map_or(spec.name.at, |tree| tree.get("path").unwrap_or(tree).at);
            let uses = trees.into_iter().map(place).collect();
            Some(DraftVariant { body, common, uses, decoded, seed, policy, assigned })
        };
        self.errors.in_stage(Some(&spec.name.name));
        let variants = match (&spec.matrix, combinations) {
            (None, _) => vec![(None, variant(None))],
            (Some(_), None) => return Draft::Broken(&spec.name),
            (Some(_), Some(all)) => {
                let decoded = all.iter().enumerate().map(|(index, one)| {
                    self.errors.in_variant(Some(one.label.as_str()).filter(|_| index > 0));
                    (Some(one.label.clone()), variant(Some(one)))
                });
                let mut variants: Vec<(Option<String>, Option<DraftVariant>)> = decoded.collect();
                policy::publish_apart(&mut variants);
                self.errors.in_variant(None);
                spec.matrix.iter().for_each(|matrix| self.warnings.matrix(spec, matrix, &of_matrix));
                variants
            }
        };
        self.errors.in_stage(None);
        Draft::Stage(StageDraft { spec, kind, variants })
    }

    fn seed(&self, tree: &Tree, decoded: &Decoded) -> Option<u64> {
        match tree.value {
            Value::Int(0..) if !decoded.draws => {
                let error =
                    self.errors.error(tree.at, "`seed` must be left out: this stage draws no random numbers");
                self.errors.add(error.help("for a command that draws, add `random: true`"))
            }
            Value::Int(seed @ 0..) => Some(seed as u64),
            _ => {
                let message = format!("`seed` must be a whole number from 0, found {}", tree.value.found());
                self.errors.at(tree.at, message)
            }
        }
    }

    /// Decodes a stage's parameters. serde stops at the first error, so unknown keys are removed one by one until it finds
    /// no more.
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
                let stage = wording::stage(&spec.name.name, &spec.kind.0);
                let named = (stage.as_str(), spec.name.at);
                self.errors.add::<()>(wording::decode_error(self.errors, named, &COMMON_KEYS, body, &error));
            }
            let given = wording::unknown_key(&error).filter(|_| unknown.len() < MOST_UNKNOWN)?;
            unknown.push((error.path.clone(), given.to_owned()));
        }
    }
}

/// The JSON that a stage is decoded from. Under `verbatim` keys every scalar is text, as typed.
pub(crate) fn json(body: &Tree, verbatim: &[&str]) -> serde_json::Value {
    let Value::Map(entries) = &body.value else { return body.to_json() };
    let entry = |(key, tree): &(Key, Tree)| {
        let is_verbatim = verbatim.contains(&key.name.as_str());
        let json = if is_verbatim { tree.to_verbatim_json() } else { tree.to_json() };
        (key.name.clone(), json)
    };
    serde_json::Value::Object(entries.iter().map(entry).collect())
}

/// Removes a key from the map at `path`, which may end with the key itself.
fn remove(json: &mut serde_json::Value, path: &[String], key: &str) -> Option<()> {
    let map = path.strip_suffix(&[key.to_owned()][..]).unwrap_or(path);
    let place = map.iter().try_fold(json, |json, step| match json {
        serde_json::Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
        other => other.get_mut(step),
    })?;
    place.as_object_mut()?.shift_remove(key).map(|_| ())
}
