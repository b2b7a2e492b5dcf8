//! The second pass, to what is meant: references resolved to outputs of the right type, siblings put in an
//! order in which they can run. Done once for each stage of the file, however often a loop repeats it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::decode::{Draft, DraftVariant, Keep, decode_all};
use super::graph::{Call, Numerics, Policy};
use super::input::Origin;
use super::reference::Reference;
use super::source::{At, Diagnostic, Source};
use super::spec::{LoopSpec, Params, Pipeline};
use super::stage::{Kind, Output, Registry};
use super::tree::{Tree, Value};

/// A checked pipeline, loops not yet unrolled.
pub struct Program {
    pub name: String,
    pub seed: u64,
    pub params: Params,
    pub steps: Vec<Step>,
}

pub enum Step {
    Stage(StageStep),
    Loop(LoopStep),
}

pub struct StageStep {
    pub name: String,
    pub seed: Option<u64>,
    pub variants: Vec<Variant>,
}

/// One combination of a stage's matrix; a stage without one has a single variant without a label.
pub struct Variant {
    pub label: Option<String>,
    pub call: Arc<Call>,
    /// In the order of the call's origins.
    pub links: Vec<Link>,
}

pub struct LoopStep {
    pub name: String,
    pub repeat: usize,
    pub keep: Keep,
    pub carry: Vec<(String, Link)>,
    pub steps: Vec<Step>,
    pub next: Vec<(String, Link)>,
}
/// A resolved source of an artifact, relative to the scope it is used in.
#[derive(Clone, Debug)]
pub enum Link {
    Output { stage: String, variant: Option<String>, output: usize },
    Carried { name: String },
    LoopResult { repeat: String, name: String },
    Path { path: PathBuf, at: At },
    Variable { name: String },
}

/// What a name means in a scope, and the type of artifact behind it.
enum Binding {
    Stage { kind: &'static str, outputs: Vec<Output>, labels: Vec<Option<String>> },
    Carried(Artifact),
    Loop(BTreeMap<String, Artifact>),
}

/// What an input that takes artifacts of every type accepts.
pub const ANY: &str = "*";

/// A type of artifact; unknown for files from outside.
type Artifact = Option<Cow<'static, str>>;

struct Scope<'a> {
    parent: Option<&'a Scope<'a>>,
    names: BTreeMap<String, Binding>,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<&Binding> {
        self.names.get(name).or_else(|| self.parent?.find(name))
    }

    fn all_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.keys().map(String::as_str).collect();
        names.extend(self.parent.iter().flat_map(|parent| parent.all_names()));
        names
    }
}

struct Compiler<'a> {
    source: &'a Source,
    numerics: Arc<Numerics>,
}

pub fn compile(
    source: &Source,
    spec: &Pipeline,
    params: &Params,
    registry: &Registry,
) -> Result<Program, Diagnostic> {
    let drafts = decode_all(source, registry, &spec.stages, params)?;
    let Some(Value::Int(seed)) = params.get("seed") else {
        return Err(Diagnostic::of_file(&source.path, "`seed` should be a whole number"));
    };
    let text = |key: &str| match params.get(key) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let (device, dtype) = (text("device"), text("dtype"));
    let resolved = registry.numerics(&device, &dtype).map_err(|message| match spec.numerics_at() {
        Some(at) => source.error(at, message),
        None => Diagnostic::of_file(&source.path, message),
    })?;
    let numerics = Arc::new(Numerics { device, dtype, resolved });
    let compiler = Compiler { source, numerics };
    let root = Scope { parent: None, names: BTreeMap::new() };
    let (steps, _) = compiler.resolve_all(drafts, root)?;
    let (name, params) = (spec.name.clone(), params.clone());
    Ok(Program { name, seed: *seed as u64, params, steps })
}

impl Compiler<'_> {
    fn resolve_all<'s>(
        &self,
        drafts: Vec<Draft<'_>>,
        mut scope: Scope<'s>,
    ) -> Result<(Vec<Step>, Scope<'s>), Diagnostic> {
        for draft in &drafts {
            let name = &draft.key().name;
            if scope.names.contains_key(name) {
                let message = format!("`{name}` is carried by this loop; a stage needs a name of its own");
                return Err(self.source.error(draft.key().at, message));
            }
        }
        let order = self.order(&drafts)?;
        let mut slots: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
        let siblings: Vec<String> = slots.iter().flatten().map(|draft| draft.key().name.clone()).collect();
        let mut steps = Vec::with_capacity(slots.len());
        for index in order {
            let Some(draft) = slots[index].take() else { continue };
            match draft {
                Draft::Stage { spec, kind, seed, variants } => {
                    let labels = variants.iter().map(|variant| variant.label.clone()).collect();
                    let outputs =
                        variants.first().map(|first| first.decoded.outputs.clone()).unwrap_or_default();
                    let variants = variants
                        .into_iter()
                        .map(|variant| self.resolve_variant(kind, variant, &scope, &siblings))
                        .collect::<Result<_, _>>()?;
                    let name = spec.name.name.clone();
                    let binding = Binding::Stage { kind: kind.name, outputs, labels };
                    scope.names.insert(name.clone(), binding);
                    steps.push(Step::Stage(StageStep { name, seed, variants }));
                }
                Draft::Loop { spec, repeat, keep, body } => {
                    let (step, results) = self.resolve_loop(spec, repeat, keep, body, &scope, &siblings)?;
                    scope.names.insert(spec.name.name.clone(), Binding::Loop(results));
                    steps.push(Step::Loop(step));
                }
            }
        }
        Ok((steps, scope))
    }

    fn resolve_variant(
        &self,
        kind: &'static Kind,
        variant: DraftVariant,
        scope: &Scope,
        siblings: &[String],
    ) -> Result<Variant, Diagnostic> {
        let (mut origins, mut links) = (Vec::new(), Vec::new());
        for (found, at) in variant.uses {
            let (link, artifact) = self.resolve(&found.origin, at, scope, siblings)?;
            if let Some(artifact) =
                artifact.filter(|artifact| !found.accepts.iter().any(|name| name == artifact || name == ANY))
            {
                let message = format!(
                    "`{}` takes {}, but `{}` is of type {artifact}",
                    found.path.join("."),
                    found.accepts.join(" or "),
                    found.origin
                );
                return Err(self.source.error(at, message));
            }
            if !origins.contains(&found.origin) {
                origins.push(found.origin);
                links.push(link);
            }
        }
        let numerics = self.numerics.clone();
        let call = Call::new(kind, variant.decoded, origins, Policy::default(), numerics);
        Ok(Variant { label: variant.label, call: Arc::new(call), links })
    }

    fn resolve_loop(
        &self,
        spec: &LoopSpec,
        repeat: usize,
        keep: Keep,
        body: Vec<Draft<'_>>,
        scope: &Scope,
        siblings: &[String],
    ) -> Result<(LoopStep, BTreeMap<String, Artifact>), Diagnostic> {
        let (mut carry, mut types) = (Vec::new(), BTreeMap::new());
        for (key, tree) in &spec.carry {
            let (link, artifact) = self.resolve(&self.origin(tree)?, tree.at, scope, siblings)?;
            carry.push((key.name.clone(), link));
            types.insert(key.name.clone(), artifact);
        }
        let names =
            types.iter().map(|(name, artifact)| (name.clone(), Binding::Carried(artifact.clone()))).collect();
        let (steps, inner) = self.resolve_all(body, Scope { parent: Some(scope), names })?;
        let mut next = Vec::new();
        for (key, tree) in &spec.next {
            let Some(carried) = types.get(&key.name) else {
                let error = self.source.error(key.at, format!("`{}` is not carried by this loop", key.name));
                return Err(error.suggest(&key.name, types.keys().map(String::as_str)));
            };
            let (link, artifact) = self.resolve(&self.origin(tree)?, tree.at, &inner, &[])?;
            if let (Some(carried), Some(artifact)) = (carried, artifact)
                && *carried != artifact
            {
                let message = format!("`{}` carries {carried}, but this is of type {artifact}", key.name);
                return Err(self.source.error(tree.at, message));
            }
            next.push((key.name.clone(), link));
        }
        Ok((LoopStep { name: spec.name.name.clone(), repeat, keep, carry, steps, next }, types))
    }

    /// The value of a `carry` or `next` entry: a reference or `{ path: … }`.
    fn origin(&self, tree: &Tree) -> Result<Origin, Diagnostic> {
        let path = tree.get("path").map(|path| &path.value);
        match (&tree.value, path) {
            (Value::Text(text), _) => Ok(Origin::Reference(text.clone())),
            (Value::Map(entries), Some(Value::Text(path))) if entries.len() == 1 => {
                Ok(Origin::Path(path.into()))
            }
            _ => Err(self
                .source
                .error(tree.at, "expected a reference such as `warmup.model`, or { path: FILE }")),
        }
    }

    fn resolve(
        &self,
        origin: &Origin,
        at: At,
        scope: &Scope,
        siblings: &[String],
    ) -> Result<(Link, Artifact), Diagnostic> {
        let text = match origin {
            Origin::Path(path) => return Ok((Link::Path { path: path.clone(), at }, None)),
            Origin::Variable(name) => return Ok((Link::Variable { name: name.clone() }, None)),
            Origin::Reference(text) => text,
        };
        let reference = Reference::parse(text).map_err(|message| self.source.error(at, message))?;
        let unknown = |what: &str, given: &str, known: &[&str]| {
            Err(self.source.error(at, format!("{what} `{given}`")).suggest(given, known.iter().copied()))
        };
        let name = &reference.name;
        match scope.find(name) {
            None => {
                let mut known = scope.all_names();
                known.extend(siblings.iter().map(String::as_str));
                known.sort_unstable();
                known.dedup();
                unknown("there is no stage or carried value", name, &known)
            }
            Some(Binding::Stage { kind, outputs, labels }) => {
                if !labels.contains(&reference.variant) {
                    let known: Vec<&str> = labels.iter().flatten().map(String::as_str).collect();
                    let help = match known.first() {
                        None => format!("`{name}` has no matrix: drop the brackets"),
                        Some(first) => {
                            format!("`{name}` has the variants {}: write {name}[{first}]", known.join(", "))
                        }
                    };
                    return Err(self
                        .source
                        .error(at, format!("`{text}` does not name a variant"))
                        .help(help));
                }
                let index = match &reference.output {
                    None => Some(0),
                    Some(output) => outputs.iter().position(|declared| declared.name == *output),
                };
                let Some(index) = index else {
                    let known: Vec<&str> = outputs.iter().map(|output| &*output.name).collect();
                    let what = format!("`{name}` (kind {kind}) has no output");
                    return unknown(&what, reference.output.as_deref().unwrap_or(""), &known);
                };
                let link = Link::Output { stage: name.clone(), variant: reference.variant, output: index };
                Ok((link, Some(outputs[index].artifact.clone())))
            }
            Some(Binding::Carried(artifact)) => match (&reference.variant, &reference.output) {
                (None, None) => Ok((Link::Carried { name: name.clone() }, artifact.clone())),
                _ => Err(self.source.error(at, format!("`{name}` is a carried value: write just `{name}`"))),
            },
            Some(Binding::Loop(results)) => match &reference.output {
                Some(output) if reference.variant.is_none() => match results.get(output) {
                    Some(artifact) => {
                        let link = Link::LoopResult { repeat: name.clone(), name: output.clone() };
                        Ok((link, artifact.clone()))
                    }
                    None => {
                        let known: Vec<&str> = results.keys().map(String::as_str).collect();
                        unknown(&format!("loop `{name}` does not carry"), output, &known)
                    }
                },
                _ => {
                    let known: Vec<String> =
                        results.keys().map(|result| format!("{name}.{result}")).collect();
                    let help = format!("what a loop gives is what it carries: {}", known.join(", "));
                    Err(self.source.error(at, format!("`{text}` is a loop")).help(help))
                }
            },
        }
    }

    /// An order in which every sibling comes after those it refers to; the file's order where it is free.
    fn order(&self, drafts: &[Draft]) -> Result<Vec<usize>, Diagnostic> {
        let index: BTreeMap<&str, usize> =
            drafts.iter().enumerate().map(|(i, draft)| (draft.key().name.as_str(), i)).collect();
        let needs: Vec<Vec<(usize, At)>> = drafts
            .iter()
            .map(|draft| {
                let mut names = Vec::new();
                self.free_names(draft, &mut names);
                names.iter().filter_map(|(name, at)| Some((*index.get(name.as_str())?, *at))).collect()
            })
            .collect();
        let mut visit = Visit { needs: &needs, open: Vec::new(), order: Vec::new() };
        for start in 0..drafts.len() {
            if let Err((cycle, at)) = visit.from(start) {
                let names: Vec<&str> = cycle.iter().map(|&i| drafts[i].key().name.as_str()).collect();
                return Err(self
                    .source
                    .error(at, format!("a cycle: {}", names.join(" → ")))
                    .help("a stage cannot use what comes after it; carry a value through `repeat` instead"));
            }
        }
        Ok(visit.order)
    }

    /// The names that a draft uses from the scope around it.
    fn free_names(&self, draft: &Draft, names: &mut Vec<(String, At)>) {
        let mut add = |origin: &Origin, at: At| {
            if let Origin::Reference(text) = origin
                && let Ok(reference) = Reference::parse(text)
            {
                names.push((reference.name, at));
            }
        };
        match draft {
            Draft::Stage { variants, .. } => {
                variants
                    .iter()
                    .flat_map(|variant| &variant.uses)
                    .for_each(|(found, at)| add(&found.origin, *at));
            }
            Draft::Loop { spec, body, .. } => {
                for (_, tree) in &spec.carry {
                    if let Ok(origin) = self.origin(tree) {
                        add(&origin, tree.at);
                    }
                }
                let mut inner = Vec::new();
                body.iter().for_each(|draft| self.free_names(draft, &mut inner));
                for (_, tree) in &spec.next {
                    if let Ok(Origin::Reference(text)) = self.origin(tree)
                        && let Ok(reference) = Reference::parse(&text)
                    {
                        inner.push((reference.name, tree.at));
                    }
                }
                let bound = |name: &str| {
                    spec.carry.iter().any(|(key, _)| key.name == name)
                        || body.iter().any(|draft| draft.key().name == name)
                };
                names.extend(inner.into_iter().filter(|(name, _)| !bound(name)));
            }
        }
    }
}

/// Depth-first topological sort. `open` is the trail from the start to where it is now.
struct Visit<'a> {
    needs: &'a [Vec<(usize, At)>],
    open: Vec<usize>,
    order: Vec<usize>,
}

impl Visit<'_> {
    /// On a cycle: its nodes from the one that closes it back to itself, and the reference that closes it.
    fn from(&mut self, node: usize) -> Result<(), (Vec<usize>, At)> {
        if self.order.contains(&node) {
            return Ok(());
        }
        self.open.push(node);
        for &(need, at) in &self.needs[node] {
            if let Some(start) = self.open.iter().position(|&open| open == need) {
                let mut cycle = self.open[start..].to_vec();
                cycle.push(need);
                return Err((cycle, at));
            }
            self.from(need)?;
        }
        self.open.pop();
        self.order.push(node);
        Ok(())
    }
}
