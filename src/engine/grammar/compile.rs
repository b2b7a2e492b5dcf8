//! The second pass: resolves references to outputs of the right type, sorts siblings into an order in which they can run, and
//! checks each stage against those that feed it. It handles each stage of the file once, however often a loop repeats it.
//!
//! From here on there are no names: each is a place in the frame of a [`scope`](super::scope).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::budget::Budget;
use super::decode::{Draft, DraftVariant, Entry, Keep, StageDraft, UntilDraft, decode_all, origin};
use super::diagnostic::{At, Diagnostic, listed};
use super::errors::Errors;
use super::order::order;
use super::producer::Producer;
use super::roles::Filling;
use super::scope::{Binding, CarriedValue, Found, Link, Scope};
use super::site::SITE_FILE;
use super::spec::{LoopSpec, Pipeline};
use super::tree::{Key, Params, Tree, Value};
use super::uses::UseWarnings;
use super::wording;
use crate::graph::StageTemplate;
use crate::input::{InputSource, Served};
use crate::job::Numerics;
use crate::kind::Kind;
use crate::stage::CheckError;
use crate::upstream::{MadeBy, Source, Upstream};

/// A checked pipeline with one set of parameters, loops not yet unrolled.
pub(crate) struct Program {
    pub seed: u64,
    pub steps: Vec<Step>,
    /// Settings that are allowed and yet probably a mistake.
    pub warnings: Vec<Diagnostic>,
}

pub(crate) enum Step {
    Stage(StageStep),
    Loop(LoopStep),
}

pub(crate) struct StageStep {
    pub name: String,
    pub variants: Vec<Variant>,
}

/// One combination of a stage's matrix; a stage without a matrix has one variant without a label.
pub(crate) struct Variant {
    pub label: Option<String>,
    pub seed: Option<u64>,
    pub maker: Rc<Producer>,
    /// Indexed by the numbers of the call's inputs.
    pub links: Vec<Link>,
}

pub(crate) struct LoopStep {
    pub name: String,
    /// The number of rounds, or the most with an `until`.
    pub repeat: usize,
    pub until: Option<Until>,
    pub keep: Keep,
    /// The names of the carried values.
    pub names: Vec<String>,
    pub carry: Vec<Link>,
    pub steps: Vec<Step>,
    /// The indices of carried values, and what replaces them after a round.
    pub next: Vec<(usize, Link)>,
}

/// The decision after each round whether there is another.
pub(crate) struct Until {
    pub maker: Rc<Producer>,
    /// The metric that is read in each round.
    pub metric: Link,
    /// The number of consecutive rounds that a decision reads.
    pub in_a_row: usize,
}

/// Files, environment variables and what servers have, as far as a pipeline names them, each once.
#[derive(Default)]
pub(crate) struct Outside {
    pub files: Vec<(PathBuf, At)>,
    pub variables: Vec<String>,
    pub served: Vec<Served>,
    /// Whether files must exist.
    look: bool,
    index: HashMap<InputSource, usize>,
}

impl Outside {
    pub(crate) fn new(look: bool) -> Outside {
        Outside { look, ..Outside::default() }
    }

    fn file(&mut self, errors: &Errors, path: &Path, at: At) -> Link {
        let next = self.files.len();
        let (files, look) = (&mut self.files, self.look);
        Link::File(*self.index.entry(InputSource::Path(path.to_owned())).or_insert_with(|| {
            match std::fs::metadata(path) {
                _ if !look => {}
                Ok(metadata) if metadata.is_file() || metadata.is_dir() => {}
                Ok(_) => {
                    let message = format!("{} is neither a file nor a folder", path.display());
                    errors.at(at, message).unwrap_or_default()
                }
                Err(error) => errors.at(at, unreadable(path, &error)).unwrap_or_default(),
            }
            files.push((path.to_owned(), at));
            next
        }))
    }

    fn variable(&mut self, name: &str) -> Link {
        let next = self.variables.len();
        let variables = &mut self.variables;
        Link::Variable(*self.index.entry(InputSource::Variable(name.to_owned())).or_insert_with(|| {
            variables.push(name.to_owned());
            next
        }))
    }

    fn served(&mut self, of: &Served) -> Link {
        let next = self.served.len();
        let served = &mut self.served;
        Link::Served(*self.index.entry(InputSource::Served(of.clone())).or_insert_with(|| {
            served.push(of.clone());
            next
        }))
    }
}

/// The message for a file or folder that cannot be read.
pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound if !path.exists() => match store::dangling(path) {
            Some(message) => format!("{} {message}", path.display()),
            None => {
                format!("there is no file {} (paths are relative to the working directory)", path.display())
            }
        },
        _ => format!("cannot read {}: {error}", path.display()),
    }
}

/// The type that an input names if it takes artifacts of every type.
pub(crate) const ANY: &str = "*";

struct Compiler<'a> {
    errors: &'a Errors<'a>,
    file: Rc<PathBuf>,
    numerics: Arc<Numerics>,
    outside: &'a mut Outside,
    /// Those of the site file, if it is known.
    endpoints: Option<&'a BTreeMap<String, serde_json::Value>>,
    warnings: Vec<Diagnostic>,
}

/// Compiles the pipeline with these parameters. Reports errors; the program is then of no use.
pub(crate) fn compile(
    errors: &Errors,
    spec: &Pipeline,
    params: &Params,
    filling: &Filling,
    outside: &mut Outside,
    budget: &Budget,
) -> Program {
    let limits = spec.resources.as_ref();
    let uses = UseWarnings::new(errors.source);
    let drafts = decode_all(errors, limits, &spec.stages, params, budget, &uses, filling);
    let seed = match params.get("seed").map(|tree| &tree.value) {
        Some(Value::Int(seed)) => *seed as u64,
        _ => 0,
    };
    let text = |key: &str| match params.get(key).map(|tree| &tree.value) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let (device, dtype) = (text("device"), text("dtype"));
    let resolved = filling.registry.numerics(&device, &dtype).unwrap_or_else(|message| {
        errors.add::<()>(match spec.numerics_at {
            Some(at) => errors.error(at, message),
            None => Diagnostic::of_file(&errors.source.path, message),
        });
        String::new()
    });
    let numerics = Arc::new(Numerics { device, dtype, resolved });
    let file = Rc::new(errors.source.path.clone());
    let warnings = uses.finish(&spec.declared);
    let endpoints = spec.endpoints.as_ref();
    let mut compiler = Compiler { errors, file, numerics, outside, endpoints, warnings };
    let (steps, _) = compiler.resolve_all(drafts, Scope::default());
    Program { seed, steps, warnings: compiler.warnings }
}

impl Compiler<'_> {
    fn resolve_all<'s>(&mut self, drafts: Vec<Draft<'s>>, mut scope: Scope<'s>) -> (Vec<Step>, Scope<'s>) {
        for draft in &drafts {
            let key = draft.key();
            if scope.names.contains_key(key.name.as_str()) {
                let message = format!(
                    "`{}` must not name a stage here: this loop carries a value of this name",
                    key.name
                );
                self.errors.at::<()>(key.at, message);
            }
            scope.bind(&key.name, Binding::Unknown);
            if let Draft::Loop { body, .. } = draft {
                scope
                    .within_loops
                    .extend(body.iter().map(|inner| (inner.key().name.as_str(), key.name.as_str())));
            }
        }
        let order = order(self.errors, &drafts);
        let mut slots: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
        let mut steps = Vec::with_capacity(slots.len());
        for draft in order.into_iter().filter_map(|index| slots[index].take()) {
            match draft {
                Draft::Broken(_) => {}
                Draft::Stage(stage) => {
                    let name = stage.spec.name.name.as_str();
                    let (step, binding) = self.resolve_stage(stage, &scope);
                    scope.nodes += step.variants.len();
                    scope.bind(name, binding);
                    steps.push(Step::Stage(step));
                }
                Draft::Loop { spec, repeat, until, keep, carry, body, next } => {
                    let parts = (carry, body, until, next);
                    let (step, binding) = self.resolve_loop(spec, repeat, keep, parts, &scope);
                    scope.results += spec.carry.len();
                    scope.bind(&spec.name.name, binding);
                    steps.push(Step::Loop(step));
                }
            }
        }
        (steps, scope)
    }

    fn resolve_stage<'s>(&mut self, stage: StageDraft<'s>, scope: &Scope) -> (StageStep, Binding<'s>) {
        let StageDraft { spec, kind, variants: drafts } = stage;
        let label = |(index, (label, _)): (usize, &(Option<String>, _))| Some((label.clone()?, index));
        let labels = spec.matrix.is_some().then(|| drafts.iter().enumerate().filter_map(label).collect());
        let (mut variants, mut makers) = (Vec::with_capacity(drafts.len()), Vec::with_capacity(drafts.len()));
        self.errors.in_stage(Some(&spec.name.name));
        for (index, (label, draft)) in drafts.into_iter().enumerate() {
            self.errors.in_variant(label.as_deref().filter(|_| index > 0));
            let variant = draft.map(|draft| self.resolve_variant(&spec.name, kind, label, draft, scope));
            makers.push(variant.as_ref().map(|variant| variant.maker.clone()));
            variants.extend(variant);
        }
        self.errors.in_variant(None);
        self.errors.in_stage(None);
        let name = spec.name.name.clone();
        (StageStep { name, variants }, Binding::Stage { kind, first: scope.nodes, labels, makers })
    }

    fn resolve_variant(
        &mut self,
        key: &Key,
        kind: &'static Kind,
        label: Option<String>,
        draft: DraftVariant,
        scope: &Scope,
    ) -> Variant {
        let DraftVariant { body, common, mut decoded, uses, seed, policy, assigned } = draft;
        let (mut links, mut sources) = (Vec::with_capacity(uses.len()), Vec::with_capacity(uses.len()));
        for (used, at) in decoded.uses.iter().zip(uses) {
            let Some(found) = self.resolve(&used.origin, at, scope) else { continue };
            if let Some(name) = &used.loaded_by {
                self.check_endpoint(name, at);
            }
            if let Some(artifact) = found
                .artifact
                .as_ref()
                .filter(|artifact| !used.accepts.iter().any(|name| name == *artifact || name == ANY))
            {
                let message = format!(
                    "`{}` takes {}, but `{}` is of type {artifact}",
                    used.path.join("."),
                    used.accepts.join(" or "),
                    used.origin
                );
                self.errors.at::<()>(at, message);
            }
            links.push(found.link);
            sources.push(found.source());
        }
        if sources.len() < decoded.uses.len() {
            // An unresolved input was reported. Without it the others would have wrong numbers.
            sources.clear();
        }
        decoded.complete(Upstream(&sources));
        let name = label.as_ref().map_or(key.name.clone(), |label| format!("{}[{label}]", key.name));
        let template = StageTemplate::new(kind, decoded, policy, self.numerics.clone());
        let call = Arc::new(StageTemplate { assigned, ..template });
        let maker = Producer { name, at: key.at, file: self.file.clone(), body, common, call, sources };
        self.check_against_sources(&maker, Upstream(&maker.sources));
        Variant { label, seed, maker: Rc::new(maker), links }
    }

    /// Checks a stage against the stages that feed it.
    fn check_against_sources(&mut self, maker: &Producer, upstream: Upstream) {
        let placed = |error: &CheckError| {
            let stage = wording::stage(&maker.name, maker.call.kind.name);
            let path: Vec<String> = error.keys().map(str::to_owned).collect();
            wording::check_error(&stage, maker.at, &maker.body, &path, &error.message)
        };
        match maker.call.decoded.stage.agree(upstream) {
            Ok(warnings) => self.warnings.extend(warnings.iter().map(|warning| {
                let (at, message) = placed(warning);
                self.errors.source.error(at, message)
            })),
            Err(error) => {
                let (at, message) = placed(&error);
                self.errors.at::<()>(at, message);
            }
        }
    }

    /// Checks the stages of a loop once more, fed by what a round hands to the next: `values` are the places of carried values
    /// and what makes them then.
    fn hold_against_next(&mut self, steps: &[Step], depth: usize, values: &[(Link, MadeBy)]) {
        let next = |link: &Link| values.iter().find(|(value, _)| value == link).map(|(_, made_by)| made_by);
        for step in steps {
            match step {
                Step::Stage(stage) => {
                    let carrying = |variant: &&Variant| variant.links.iter().any(|link| next(link).is_some());
                    for variant in stage.variants.iter().filter(carrying) {
                        let fed = |(link, source): (&Link, &Source)| Source {
                            made_by: next(link).unwrap_or(&source.made_by).clone(),
                            ..source.clone()
                        };
                        let sources: Vec<Source> =
                            variant.links.iter().zip(&variant.maker.sources).map(fed).collect();
                        self.check_against_sources(&variant.maker, Upstream(&sources));
                    }
                }
                Step::Loop(step) => {
                    let within = step.carry.iter().enumerate().filter_map(|(value, link)| {
                        Some((Link::Carried { scope: depth + 1, value }, next(link)?.clone()))
                    });
                    let values: Vec<(Link, MadeBy)> = values.iter().cloned().chain(within).collect();
                    self.hold_against_next(&step.steps, depth + 1, &values);
                }
            }
        }
    }

    fn resolve_loop<'s>(
        &mut self,
        spec: &'s LoopSpec,
        repeat: usize,
        keep: Keep,
        (carried, body, until, handed): (
            Vec<Entry<'s>>,
            Vec<Draft<'s>>,
            Option<Box<UntilDraft>>,
            Vec<Entry<'s>>,
        ),
        scope: &Scope<'s>,
    ) -> (LoopStep, Binding<'s>) {
        let (mut carry, mut results) = (Vec::new(), Vec::<CarriedValue>::new());
        for (key, tree) in &carried {
            let found = self.entry(tree, scope);
            carry.extend(found.as_ref().map(|found| found.link));
            let made_by = found.as_ref().map_or(MadeBy::Unknown, |found| found.made_by.clone());
            let artifact = found.and_then(|found| found.artifact);
            results.push(CarriedValue { name: &key.name, artifact, first: made_by.clone(), last: made_by });
        }
        let inner = scope.within(&results);
        let (steps, inner) = self.resolve_all(body, inner);
        let until = until.and_then(|until| {
            let at = until.variant.uses.first().copied();
            let Variant { maker, links, .. } =
                self.resolve_variant(&until.key, until.kind, None, until.variant, &inner);
            let metric = *links.first()?;
            if !metric.is_within(inner.depth()) {
                let message =
                    "`metric` must come from a stage in this loop, found one from outside: it would be the same after each round";
                return self.errors.at(at?, message);
            }
            Some(Until { maker, metric, in_a_row: until.in_a_row })
        });
        let (mut next, mut values) = (Vec::new(), Vec::new());
        for (key, tree) in &handed {
            let Some(value) = results.iter().position(|result| result.name == key.name) else {
                let message = format!("`{}` is not carried by this loop", key.name);
                let error = self.errors.error(key.at, message);
                self.errors.add::<()>(error.suggest(&key.name, results.iter().map(|result| result.name)));
                continue;
            };
            let Some(found) = self.entry(tree, &inner) else { continue };
            if let (Some(carried), Some(artifact)) = (&results[value].artifact, &found.artifact)
                && carried != artifact
            {
                let message = format!("`{}` carries {carried}, but this is of type {artifact}", key.name);
                self.errors.at::<()>(tree.at, message);
            }
            next.push((value, found.link));
            values.push((Link::Carried { scope: scope.depth() + 1, value }, found.made_by));
        }
        if repeat > 1 {
            self.hold_against_next(&steps, scope.depth() + 1, &values);
        }
        if repeat > 0 {
            for ((value, _), (_, made_by)) in next.iter().zip(values) {
                results[*value].last = made_by;
            }
        }
        let name = spec.name.name.clone();
        let names = results.iter().map(|result| result.name.to_owned()).collect();
        let step = LoopStep { name, repeat, until, keep, names, carry, steps, next };
        (step, Binding::Loop { first: scope.results, repeat, results })
    }

    /// An entry of `carry` or `next`.
    fn entry(&mut self, tree: &Tree, scope: &Scope) -> Option<Found> {
        match origin(tree) {
            Some(origin) => self.resolve(&origin, tree.at, scope),
            None if matches!(tree.value, Value::Broken) => None,
            None => {
                let message = format!(
                    "this must be a reference such as `warmup.model`, or {{ path: FILE }}, found {}",
                    tree.value.describe()
                );
                self.errors.at(tree.at, message)
            }
        }
    }

    /// Checks that the site file has an endpoint.
    fn check_endpoint(&self, name: &str, at: At) {
        let Some(endpoints) = self.endpoints.filter(|endpoints| !endpoints.contains_key(name)) else {
            return;
        };
        let known = match endpoints.len() {
            0 => "it has no `endpoints:`".to_owned(),
            _ => format!("it has {}", listed(&endpoints.keys().map(String::as_str).collect::<Vec<_>>())),
        };
        let error = self.errors.error(at, format!("the site file must have the endpoint `{name}`; {known}"));
        let help = format!(
            "write `endpoints: {{ {name}: {{ url: \"http://127.0.0.1:8000\" }} }}` into {SITE_FILE} beside the pipeline, or \
             name another file with --site"
        );
        self.errors.add::<()>(error.suggest(name, endpoints.keys().map(String::as_str)).help(help));
    }

    fn resolve(&mut self, origin: &InputSource, at: At, scope: &Scope) -> Option<Found> {
        match origin {
            InputSource::Path(path) => {
                Some(Found::outside(self.outside.file(self.errors, path, at), Some(path.clone())))
            }
            InputSource::Variable(name) => Some(Found::outside(self.outside.variable(name), None)),
            InputSource::Served(of) => {
                self.check_endpoint(&of.endpoint, at);
                Some(Found::outside(self.outside.served(of), None))
            }
            InputSource::Reference(text) => scope.resolve(self.errors, text, at),
        }
    }
}
