//! The outline of a pipeline, for drawings: stages and what feeds them, with each loop once or unrolled. Runs nothing, and
//! does not read the files that the pipeline names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use petgraph::algo::toposort;
use petgraph::algo::tred::{dag_to_toposorted_adjacency_list, dag_transitive_reduction_closure};
use petgraph::graph::DiGraph;

use super::compile::{LoopStep, Outside, StageStep, Step, Variant};
use super::decode::{METRIC, UNTIL};
use super::diagnostic::Diagnostics;
use super::load::{LoadOptions, compiled, load};
use super::scope::Link;
use crate::graph::{Graph, InputBinding};
use crate::input::{InputSource, Served};
use crate::kind::Output;
use crate::stage::Registry;
use store::{Digest, Selection};

/// Nodes, the frames around them, and edges; each in the order of execution.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// The pipeline's name.
    pub pipeline: String,
    /// Stages, files and variables.
    pub nodes: Vec<OutlineNode>,
    /// Loops, or their rounds. A frame comes after the one around it.
    pub frames: Vec<Frame>,
    /// From outputs, files and variables to the nodes that take them.
    pub edges: Vec<Edge>,
}

/// A node of the drawing.
#[derive(Clone, Debug)]
pub struct OutlineNode {
    /// With the loops around it: `play/red/update`, unrolled `play[1]/red[03]/update`.
    pub name: String,
    /// The innermost frame around it, as an index into [`Outline::frames`].
    pub frame: Option<usize>,
    /// What it stands for.
    pub shape: Shape,
}

/// What a node stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A stage of the file, or one execution of it.
    Stage {
        /// The stage's kind, such as `update`.
        kind: &'static str,
        /// The variants of its matrix.
        labels: Vec<String>,
    },
    /// A value that a loop hands from round to round, by its name in the loop.
    Carried,
    /// A file or folder of the user's.
    File,
    /// An environment variable.
    Variable,
    /// What a server has.
    Served,
}

/// A loop, or one round of an unrolled loop.
#[derive(Clone, Debug)]
pub struct Frame {
    /// With the loops around it: `play/red`, a round `play[1]/red[03]`.
    pub name: String,
    /// The frame around it, as an index into [`Outline::frames`].
    pub frame: Option<usize>,
    /// The number of rounds of a loop.
    pub repeat: Option<usize>,
    /// Whether it may stop before the last.
    pub at_most: bool,
}

/// An artifact or value that goes from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The node and the output that it comes from.
    pub from: Tail,
    /// The node that takes it, as an index into [`Outline::nodes`].
    pub to: usize,
    /// How it crosses the rounds of loops.
    pub role: EdgeRole,
    /// The key that takes it, such as `models.0.model`, or the name of the carried value.
    pub input: String,
}

/// Where an edge begins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tail {
    /// An index into [`Outline::nodes`].
    pub node: usize,
    /// The variant whose output it is.
    pub variant: Option<String>,
    /// The output; `None` of a file, a variable or a carried value.
    pub output: Option<String>,
    /// Whether the bare name of the stage refers to it.
    pub is_first: bool,
}

/// How an edge crosses the rounds of loops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeRole {
    /// Within a round, or outside loops.
    Feeds,
    /// Into the first round of a loop.
    Carry,
    /// From a round to the following one.
    Next,
    /// Out of a round of a loop, the last if none is named; `name` is that of the carried value.
    Result {
        /// The name of the carried value.
        name: String,
        /// The round, from 1; `None` is the last.
        round: Option<usize>,
    },
}

/// The pipeline with each loop once. Each requested ablation has one frame, whatever the seeds.
pub fn outline(path: &Path, options: &LoadOptions, registry: &Registry) -> Result<Outline, Diagnostics> {
    let compiled = compiled(path, &LoadOptions { look: false, ..*options }, registry)?;
    let mut folding = Folding::new(&compiled.outside);
    folding.outline.pipeline = compiled.name.clone();
    let mut drawn = HashSet::new();
    for (program, variant) in compiled.programs.iter().filter(|(_, variant)| drawn.insert(&variant.ablation))
    {
        let frame = variant.ablation.as_ref().map(|name| folding.outline.add_frame(name.clone(), None, None));
        folding.steps(&program.steps, &mut vec![Scope::default()], frame);
    }
    Ok(folding.outline)
}

/// The pipeline with all rounds of its loops.
pub fn outline_unrolled(
    path: &Path,
    options: &LoadOptions,
    registry: &Registry,
) -> Result<Outline, Diagnostics> {
    let digest = |_: &Path, _: &Selection| Ok(Digest::of_bytes(b"unread"));
    let graph = load(path, &LoadOptions { digest: &digest, look: false, ..*options }, registry)?;
    Ok(written_out(&graph))
}

impl Outline {
    /// The last part of a name, which is enough inside the frame.
    pub fn short_name(name: &str) -> &str {
        split(name).1
    }

    /// Removes edges between nodes that are also connected by a path through other nodes (transitive reduction). Edges from a
    /// round to the next stay.
    pub fn reduce(&mut self) {
        let ends = |edge: &Edge| (edge.from.node as u32, edge.to as u32);
        let forward: BTreeSet<(u32, u32)> =
            self.edges.iter().filter(|edge| edge.role != EdgeRole::Next).map(ends).collect();
        let mut graph = DiGraph::<(), ()>::from_edges(&forward);
        while graph.node_count() < self.nodes.len() {
            graph.add_node(());
        }
        // Without edges to the next round there is no cycle.
        let Ok(order) = toposort(&graph, None) else { return };
        let (sorted, place) = dag_to_toposorted_adjacency_list::<_, u32>(&graph, &order);
        let (reduced, _) = dag_transitive_reduction_closure(&sorted);
        self.edges.retain(|edge| {
            edge.role == EdgeRole::Next || reduced.contains_edge(place[edge.from.node], place[edge.to])
        });
    }

    fn add_frame(&mut self, name: String, frame: Option<usize>, repeat: Option<usize>) -> usize {
        self.frames.push(Frame { name, frame, repeat, at_most: false });
        self.frames.len() - 1
    }

    fn add_node(&mut self, name: String, frame: Option<usize>, shape: Shape) -> usize {
        self.nodes.push(OutlineNode { name, frame, shape });
        self.nodes.len() - 1
    }

    /// The name of something inside a frame.
    fn inside(&self, frame: Option<usize>, name: &str) -> String {
        match frame {
            None => name.to_owned(),
            Some(frame) => format!("{}/{name}", self.frames[frame].name),
        }
    }
}

/// A name's frames and its last part. A `/` in the label of a variant separates nothing.
fn split(name: &str) -> (Option<&str>, &str) {
    let mut depth = 0usize;
    let mut cut = None;
    for (index, char) in name.char_indices() {
        match char {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            '/' if depth == 0 => cut = Some(index),
            _ => {}
        }
    }
    cut.map_or((None, name), |cut| (Some(&name[..cut]), &name[cut + 1..]))
}

impl Tail {
    fn whole(node: usize) -> Tail {
        Tail { node, variant: None, output: None, is_first: true }
    }

    fn output(node: usize, variant: Option<String>, outputs: &[Output], index: usize) -> Tail {
        let output = outputs.get(index).map(|output| output.name.to_string());
        Tail { node, variant, output, is_first: index == 0 }
    }
}

/// What is drawn for the places of a scope.
#[derive(Default)]
struct Scope<'a> {
    /// The node and the variant of a stage.
    nodes: Vec<(usize, &'a Variant)>,
    /// The nodes of carried values.
    carried: Vec<usize>,
    results: Vec<CarriedValue>,
}

/// A value that a loop carries, and where it comes from.
struct CarriedValue {
    name: String,
    repeat: usize,
    /// Before the first round.
    from: Option<Tail>,
    /// After each.
    to: Option<Tail>,
}

/// Builds an outline with each loop once.
struct Folding<'a> {
    outline: Outline,
    outside: &'a Outside,
    /// The nodes of files and variables, each once.
    outside_nodes: BTreeMap<String, usize>,
    edges: BTreeSet<Edge>,
}

impl<'a> Folding<'a> {
    fn new(outside: &'a Outside) -> Folding<'a> {
        let (outline, outside_nodes, edges) = Default::default();
        Folding { outline, outside, outside_nodes, edges }
    }

    fn steps(&mut self, steps: &'a [Step], scopes: &mut Vec<Scope<'a>>, frame: Option<usize>) {
        for step in steps {
            match step {
                Step::Stage(stage) => self.stage(stage, scopes, frame),
                Step::Loop(repeat) => self.repeat(repeat, scopes, frame),
            }
        }
    }

    fn stage(&mut self, step: &'a StageStep, scopes: &mut [Scope<'a>], frame: Option<usize>) {
        let Some(first) = step.variants.first() else { return };
        let labels = step.variants.iter().filter_map(|variant| variant.label.clone()).collect();
        let name = self.outline.inside(frame, &step.name);
        let node =
            self.outline.add_node(name, frame, Shape::Stage { kind: first.maker.call.kind.name, labels });
        for variant in &step.variants {
            for (link, found) in variant.links.iter().zip(&variant.maker.call.decoded.uses) {
                self.connect(link, scopes, node, None, found.path.join("."));
            }
        }
        if let Some(scope) = scopes.last_mut() {
            scope.nodes.extend(step.variants.iter().map(|variant| (node, variant)));
        }
    }

    fn repeat(&mut self, step: &'a LoopStep, scopes: &mut Vec<Scope<'a>>, frame: Option<usize>) {
        let name = self.outline.inside(frame, &step.name);
        let inner = Some(self.outline.add_frame(name, frame, Some(step.repeat)));
        let (mut carried, mut results) = (Vec::new(), Vec::new());
        for (name, link) in step.names.iter().zip(&step.carry) {
            let node = self.outline.add_node(self.outline.inside(inner, name), inner, Shape::Carried);
            let from = self.connect(link, scopes, node, Some(EdgeRole::Carry), name.clone());
            carried.push(node);
            let to = Some(Tail::whole(node));
            results.push(CarriedValue { name: name.clone(), repeat: step.repeat, from, to });
        }
        scopes.push(Scope { nodes: Vec::new(), carried: carried.clone(), results: Vec::new() });
        self.steps(&step.steps, scopes, inner);
        if let (Some(until), Some(frame)) = (&step.until, inner) {
            self.outline.frames[frame].at_most = true;
            let shape = Shape::Stage { kind: until.maker.call.kind.name, labels: Vec::new() };
            let node = self.outline.add_node(self.outline.inside(inner, UNTIL), inner, shape);
            self.connect(&until.metric, scopes, node, None, METRIC.to_owned());
        }
        for (value, link) in &step.next {
            results[*value].to = if step.repeat > 1 {
                let name = step.names[*value].clone();
                self.connect(link, scopes, carried[*value], Some(EdgeRole::Next), name)
            } else {
                self.tail(link, scopes).map(|(tail, _)| tail)
            };
        }
        scopes.pop();
        if let Some(scope) = scopes.last_mut() {
            scope.results.extend(results);
        }
    }

    /// Adds an edge from the source of a link, once. Without a given role, the link determines it.
    fn connect(
        &mut self,
        link: &Link,
        scopes: &[Scope],
        to: usize,
        role: Option<EdgeRole>,
        input: String,
    ) -> Option<Tail> {
        let (from, found) = self.tail(link, scopes)?;
        let edge = Edge { from: from.clone(), to, role: role.unwrap_or(found), input };
        if self.edges.insert(edge.clone()) {
            self.outline.edges.push(edge);
        }
        Some(from)
    }

    fn tail(&mut self, link: &Link, scopes: &[Scope]) -> Option<(Tail, EdgeRole)> {
        let outside = self.outside;
        match *link {
            Link::File(index) => {
                let (path, _) = outside.files.get(index)?;
                Some((self.outside(path.display().to_string(), Shape::File), EdgeRole::Feeds))
            }
            Link::Variable(index) => {
                let name = outside.variables.get(index)?;
                Some((self.outside(format!("${name}"), Shape::Variable), EdgeRole::Feeds))
            }
            Link::Served(index) => {
                let name = served_name(outside.served.get(index)?);
                Some((self.outside(name, Shape::Served), EdgeRole::Feeds))
            }
            Link::Output { scope, node, output } => {
                let (node, variant) = scopes.get(scope)?.nodes.get(node)?;
                let tail = Tail::output(*node, variant.label.clone(), variant.maker.call.outputs(), output);
                Some((tail, EdgeRole::Feeds))
            }
            Link::Carried { scope, value } => {
                Some((Tail::whole(*scopes.get(scope)?.carried.get(value)?), EdgeRole::Feeds))
            }
            Link::Result { scope, value, round } => {
                let handed = scopes.get(scope)?.results.get(value)?;
                let tail = if round == 0 { &handed.from } else { &handed.to };
                let round = Some(round).filter(|round| *round < handed.repeat);
                Some((tail.clone()?, EdgeRole::Result { name: handed.name.clone(), round }))
            }
        }
    }

    fn outside(&mut self, name: String, shape: Shape) -> Tail {
        let outline = &mut self.outline;
        let nodes = &mut self.outside_nodes;
        Tail::whole(*nodes.entry(name.clone()).or_insert_with(|| outline.add_node(name, None, shape)))
    }
}

fn written_out(graph: &Graph) -> Outline {
    let mut outline = Outline { pipeline: graph.pipeline.clone(), ..Outline::default() };
    let mut frames: BTreeMap<String, usize> = BTreeMap::new();
    for node in &graph.nodes {
        let frame = split(&node.name).0.map(|name| frame(&mut outline, &mut frames, name));
        let shape = Shape::Stage { kind: node.call.kind.name, labels: Vec::new() };
        outline.add_node(node.name.clone(), frame, shape);
    }
    // A folder has one node, whichever of its files count for a reader.
    let mut known: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut files: Vec<usize> = Vec::with_capacity(graph.files.len());
    for file in &graph.files {
        let node = || outline.add_node(file.path.display().to_string(), None, Shape::File);
        files.push(*known.entry(&file.path).or_insert_with(node));
    }
    let variables = outline.nodes.len();
    for (name, _) in &graph.variables {
        outline.add_node(format!("${name}"), None, Shape::Variable);
    }
    let served = outline.nodes.len();
    for of in &graph.served {
        outline.add_node(served_name(of), None, Shape::Served);
    }
    for (to, node) in graph.nodes.iter().enumerate() {
        for (feed, found) in node.feeds.iter().zip(&node.call.decoded.uses) {
            // A value that any of several rounds may hand on has an edge from each.
            for feed in graph.alternatives(*feed) {
                let from = match feed {
                    InputBinding::Output { node: id, output } => {
                        Tail::output(id.index(), None, graph.node(id).call.outputs(), output)
                    }
                    InputBinding::File(index) => Tail::whole(files[index]),
                    InputBinding::Variable(index) => Tail::whole(variables + index),
                    InputBinding::Served(index) => Tail::whole(served + index),
                    InputBinding::Carried { .. } => continue,
                };
                outline.edges.push(Edge { from, to, role: EdgeRole::Feeds, input: found.path.join(".") });
            }
        }
    }
    outline
}

/// The name of what a server has.
fn served_name(of: &Served) -> String {
    InputSource::Served(of.clone()).to_string()
}

/// The index of the frame of this name. Adds it and those around it if needed.
fn frame(outline: &mut Outline, known: &mut BTreeMap<String, usize>, name: &str) -> usize {
    if let Some(frame) = known.get(name) {
        return *frame;
    }
    let around = split(name).0.map(|name| frame(outline, known, name));
    let frame = outline.add_frame(name.to_owned(), around, None);
    known.insert(name.to_owned(), frame);
    frame
}
