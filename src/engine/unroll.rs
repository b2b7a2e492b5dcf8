//! Loops and matrices written out as graph nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use petgraph::graph::DiGraph;

use super::compile::{Link, LoopStep, Program, StageStep, Step, Variant};
use super::decode::Keep;
use super::graph::{Feed, Graph, Node, NodeId};
use super::source::{Diagnostic, Source};
use crate::store::{Digest, Seed};

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
    root: Seed,
    nodes: DiGraph<Node, ()>,
    files: BTreeMap<PathBuf, Digest>,
}

/// Writes out the loops. Files that the pipeline names are digested here: a missing one is an error.
pub fn unroll(source: &Source, program: &Program) -> Result<Graph, Diagnostic> {
    let mut unroller = Unroller {
        source,
        root: Seed::from_u64(program.seed),
        nodes: DiGraph::new(),
        files: BTreeMap::new(),
    };
    unroller.steps(&program.steps, &mut vec![Scope::default()], "", &[])?;
    let params = program.params.iter().map(|(name, value)| (name.clone(), value.to_json())).collect();
    let (pipeline, numerics) = (program.name.clone(), program.numerics.clone());
    Ok(Graph { pipeline, params, numerics, nodes: unroller.nodes })
}

impl Unroller<'_> {
    fn steps(
        &mut self,
        steps: &[Step],
        scopes: &mut Vec<Scope>,
        prefix: &str,
        position: &[u32],
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
        position: &[u32],
    ) -> Result<(), Diagnostic> {
        let rounds = position.iter().fold(self.root, |seed, round| seed.child(round));
        let seed = step.seed.map_or(rounds, Seed::from_u64);
        let mut variants = Vec::new();
        for variant in &step.variants {
            let name = match &variant.label {
                None => format!("{prefix}{}", step.name),
                Some(label) => format!("{prefix}{}[{label}]", step.name),
            };
            let id = self.node(name, step, variant, scopes, position, seed)?;
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
        step: &StageStep,
        variant: &Variant,
        scopes: &[Scope],
        position: &[u32],
        seed: Seed,
    ) -> Result<NodeId, Diagnostic> {
        if self.nodes.node_count() >= MOST_NODES {
            let message = format!("the pipeline unrolls to more than {MOST_NODES} nodes");
            return Err(Diagnostic::of_file(&self.source.path, message).help("lower a `repeat`"));
        }
        let feeds = variant
            .feeds
            .iter()
            .map(|(origin, link)| Ok((origin.clone(), self.feed(link, scopes)?)))
            .collect::<Result<Vec<_>, Diagnostic>>()?;
        let sources: BTreeSet<NodeId> = feeds
            .iter()
            .filter_map(|(_, feed)| match feed {
                Feed::Output { node, .. } => Some(*node),
                Feed::File { .. } => None,
            })
            .collect();
        let node = Node {
            name,
            kind: step.kind,
            decoded: variant.decoded.clone(),
            feeds,
            position: position.to_vec(),
            seed,
            passing: Vec::new(),
        };
        let id = self.nodes.add_node(node);
        for source in sources {
            self.nodes.add_edge(source, id, ());
        }
        Ok(id)
    }

    fn repeat(
        &mut self,
        step: &LoopStep,
        scopes: &mut Vec<Scope>,
        prefix: &str,
        position: &[u32],
    ) -> Result<(), Diagnostic> {
        let mut carried = step
            .carry
            .iter()
            .map(|(name, link)| Ok((name.clone(), self.feed(link, scopes)?)))
            .collect::<Result<BTreeMap<_, _>, Diagnostic>>()?;
        let width = step.repeat.to_string().len();
        for round in 1..=step.repeat {
            scopes.push(Scope { carried: carried.clone(), ..Scope::default() });
            let inner = [position, &[round as u32]].concat();
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
            let node = &mut self.nodes[*node];
            if node.kind.outputs[*output].bulky && !node.passing.contains(output) {
                node.passing.push(*output);
            }
        }
    }

    fn feed(&mut self, link: &Link, scopes: &[Scope]) -> Result<Feed, Diagnostic> {
        let found = match link {
            Link::Path { path, at } => {
                let digest = match self.files.get(path) {
                    Some(digest) => *digest,
                    None => {
                        let digest = digest(path).map_err(|message| self.source.error(*at, message))?;
                        *self.files.entry(path.clone()).or_insert(digest)
                    }
                };
                return Ok(Feed::File { path: path.clone(), digest });
            }
            Link::Output { stage, variant, output } => scopes.iter().rev().find_map(|scope| {
                let variants = scope.stages.get(stage)?;
                let (_, node) = variants.iter().find(|(label, _)| label == variant)?;
                Some(Feed::Output { node: *node, output: *output })
            }),
            Link::Carried { name } => scopes.iter().rev().find_map(|scope| scope.carried.get(name).cloned()),
            Link::LoopResult { repeat, name } => {
                scopes.iter().rev().find_map(|scope| scope.loops.get(repeat)?.get(name).cloned())
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

fn digest(path: &Path) -> Result<Digest, String> {
    let here = || std::env::current_dir().map(|here| here.display().to_string()).unwrap_or_default();
    Digest::of_path(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!(
                "there is no file {} (paths are relative to the working directory, {})",
                path.display(),
                here()
            )
        }
        _ => format!("cannot read {}: {error}", path.display()),
    })
}
