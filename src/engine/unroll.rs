//! Loops and matrices written out as graph nodes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::LoadOptions;
use super::compile::{Link, LoopStep, Program, StageStep, Step, Variant};
use super::decode::Keep;
use super::graph::{Feed, Graph, GraphVariant, Node, NodeId};
use super::source::{Diagnostic, Source};
use crate::store::Seed;

/// More nodes than this are a slip of the pen in a `repeat`.
const MOST_NODES: usize = 1_000_000;

/// What the names of a scope stand for while it is unrolled.
#[derive(Default)]
struct Scope {
    stages: BTreeMap<String, Vec<(Option<String>, NodeId)>>,
    carried: BTreeMap<String, Feed>,
    loops: BTreeMap<String, BTreeMap<String, Feed>>,
}

struct Unroller<'a> {
    source: &'a Source,
    options: &'a LoadOptions<'a>,
    root: Seed,
    graph: Graph,
}

/// Writes out the loops. Files that the pipeline names are digested here: a missing one is an error.
pub fn unroll(source: &Source, program: &Program, options: &LoadOptions) -> Result<Graph, Diagnostic> {
    let params = program.params.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
    let graph = Graph {
        pipeline: program.name.clone(),
        variants: vec![GraphVariant { ablation: None, params }],
        ..Graph::default()
    };
    let mut unroller = Unroller { source, options, root: Seed::from_u64(program.seed), graph };
    unroller.steps(&program.steps, &mut vec![Scope::default()], "", &Arc::from([]))?;
    Ok(unroller.graph)
}

impl Unroller<'_> {
    fn steps(
        &mut self,
        steps: &[Step],
        scopes: &mut Vec<Scope>,
        prefix: &str,
        position: &Arc<[u32]>,
    ) -> Result<(), Diagnostic> {
        for step in steps {
            match step {
                Step::Stage(stage) => self.stage(stage, scopes, prefix, position)?,
                Step::Loop(repeat) => self.repeat(repeat, scopes, prefix, position)?,
            }
        }
        Ok(())
    }

    fn stage(
        &mut self,
        step: &StageStep,
        scopes: &mut [Scope],
        prefix: &str,
        position: &Arc<[u32]>,
    ) -> Result<(), Diagnostic> {
        let rounds = position.iter().fold(self.root, |seed, round| seed.child(round));
        let seed = step.seed.map_or(rounds, Seed::from_u64);
        let mut variants = Vec::new();
        for variant in &step.variants {
            let name = match &variant.label {
                None => format!("{prefix}{}", step.name),
                Some(label) => format!("{prefix}{}[{label}]", step.name),
            };
            let id = self.node(name, variant, scopes, position, seed)?;
            variants.push((variant.label.clone(), id));
        }
        if let Some(scope) = scopes.last_mut() {
            scope.stages.insert(step.name.clone(), variants);
        }
        Ok(())
    }

    fn node(
        &mut self,
        name: String,
        variant: &Variant,
        scopes: &[Scope],
        position: &Arc<[u32]>,
        seed: Seed,
    ) -> Result<NodeId, Diagnostic> {
        if self.graph.nodes.len() >= MOST_NODES {
            let message = format!("the pipeline unrolls to more than {MOST_NODES} nodes");
            return Err(Diagnostic::of_file(&self.source.path, message).help("lower a `repeat`"));
        }
        let feeds = variant.links.iter().map(|link| self.feed(link, scopes)).collect::<Result<_, _>>()?;
        let id = NodeId(self.graph.nodes.len() as u32);
        let (call, position) = (variant.call.clone(), position.clone());
        self.graph.nodes.push(Node { name, call, feeds, position, seed, passing: Vec::new() });
        Ok(id)
    }

    fn repeat(
        &mut self,
        step: &LoopStep,
        scopes: &mut Vec<Scope>,
        prefix: &str,
        position: &Arc<[u32]>,
    ) -> Result<(), Diagnostic> {
        let mut carried = step
            .carry
            .iter()
            .map(|(name, link)| Ok((name.clone(), self.feed(link, scopes)?)))
            .collect::<Result<BTreeMap<_, _>, Diagnostic>>()?;
        let width = step.repeat.to_string().len();
        for round in 1..=step.repeat {
            scopes.push(Scope { carried: carried.clone(), ..Scope::default() });
            let inner: Arc<[u32]> = position.iter().copied().chain([round as u32]).collect();
            let prefix = format!("{prefix}{}[{round:0width$}]/", step.name);
            self.steps(&step.steps, scopes, &prefix, &inner)?;
            for (name, link) in &step.next {
                let feed = self.feed(link, scopes)?;
                if round < step.repeat && !step.keep.keeps(round) {
                    self.mark_passing(link, &feed);
                }
                carried.insert(name.clone(), feed);
            }
            scopes.pop();
        }
        if let Some(scope) = scopes.last_mut() {
            scope.loops.insert(step.name.clone(), carried);
        }
        Ok(())
    }

    /// A bulky output that a stage of the loop itself hands to the next round is passing. One that comes
    /// out of an inner loop is the end of a phase and stays.
    fn mark_passing(&mut self, link: &Link, feed: &Feed) {
        if let (Link::Output { .. }, Feed::Output { node, output }) = (link, feed) {
            let node = &mut self.graph.nodes[node.index()];
            if node.call.outputs()[*output].bulky && !node.passing.contains(output) {
                node.passing.push(*output);
            }
        }
    }

    fn feed(&mut self, link: &Link, scopes: &[Scope]) -> Result<Feed, Diagnostic> {
        let found = match link {
            Link::Path { path, at } => {
                let known = self.graph.files.iter().position(|(known, _)| known == path);
                let index = match known {
                    Some(index) => index,
                    None => {
                        let digest = (self.options.digest)(path)
                            .map_err(|error| self.source.error(*at, unreadable(path, &error)))?;
                        self.graph.files.push((path.clone(), digest));
                        self.graph.files.len() - 1
                    }
                };
                return Ok(Feed::File(index));
            }
            Link::Variable { name } => {
                let known = self.graph.variables.iter().position(|(known, _)| known == name);
                let index = known.unwrap_or_else(|| {
                    self.graph.variables.push((name.clone(), std::env::var(name).ok()));
                    self.graph.variables.len() - 1
                });
                return Ok(Feed::Variable(index));
            }
            Link::Output { stage, variant, output } => scopes.iter().rev().find_map(|scope| {
                let variants = scope.stages.get(stage)?;
                let (_, node) = variants.iter().find(|(label, _)| label == variant)?;
                Some(Feed::Output { node: *node, output: *output })
            }),
            Link::Carried { name } => scopes.iter().rev().find_map(|scope| scope.carried.get(name).copied()),
            Link::LoopResult { repeat, name } => {
                scopes.iter().rev().find_map(|scope| scope.loops.get(repeat)?.get(name).copied())
            }
        };
        found.ok_or_else(|| {
            Diagnostic::of_file(&self.source.path, format!("unresolved {link:?}: a defect of triplay"))
        })
    }
}

impl Keep {
    fn keeps(self, round: usize) -> bool {
        match self {
            Keep::All => true,
            Keep::Last => false,
            Keep::Every(every) => round.is_multiple_of(every),
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let here = || std::env::current_dir().map(|here| here.display().to_string()).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "there is no file {} (paths are relative to the working directory, {})",
                path.display(),
                here()
            )
        }
        _ => format!("cannot read {}: {error}", path.display()),
    }
}
