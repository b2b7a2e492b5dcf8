//! Loops and matrices written out as graph nodes.

use std::collections::HashMap;
use std::iter::Sum;
use std::sync::Arc;

use super::compile::{LoopStep, Program, StageStep, Step};
use super::decode::Keep;
use super::scope::Link;
use crate::graph::{Feed, Graph, Node, NodeId};
use store::Seed;

/// More nodes than this are a slip of the pen in a `repeat`.
const MOST_NODES: u64 = 1_000_000;

/// More inputs of all nodes together are one too.
const MOST_INPUTS: u64 = 10_000_000;

/// What the places of a scope hold in the round that is written out.
#[derive(Default)]
struct Frame {
    nodes: Vec<NodeId>,
    carried: Vec<Feed>,
    /// Of each value that a loop handed on, what it was before the first round and after each.
    results: Vec<Vec<Feed>>,
}

struct Unroller<'a> {
    graph: &'a mut Graph,
    frames: Vec<Frame>,
}

/// Where a step stands: in which round of which loops, and what follows from that.
struct Place<'a> {
    prefix: &'a str,
    position: Arc<[u32]>,
    seed: Seed,
}

/// What steps come to.
#[derive(Clone, Copy, Default)]
pub struct Size {
    nodes: u64,
    /// Of the nodes and, in every round, of what a loop carries.
    inputs: u64,
}

impl Size {
    /// What there is too much of, if anything.
    pub fn beyond(self) -> Option<String> {
        match self {
            Size { nodes, .. } if nodes > MOST_NODES => Some(format!("{MOST_NODES} nodes")),
            Size { inputs, .. } if inputs > MOST_INPUTS => Some(format!("{MOST_INPUTS} inputs")),
            _ => None,
        }
    }
}

impl Sum for Size {
    fn sum<I: Iterator<Item = Size>>(sizes: I) -> Size {
        sizes.fold(Size::default(), |sum, size| Size {
            nodes: sum.nodes.saturating_add(size.nodes),
            inputs: sum.inputs.saturating_add(size.inputs),
        })
    }
}

/// What these steps come to. A round counts as one node at least, so that empty ones end too.
pub fn size(steps: &[Step]) -> Size {
    let size = |step: &Step| match step {
        Step::Stage(stage) => Size {
            nodes: stage.variants.len() as u64,
            inputs: stage.variants.iter().map(|variant| variant.links.len() as u64).sum(),
        },
        Step::Loop(step) => {
            let (round, rounds) = (size(&step.steps), step.repeat as u64);
            let inputs = round.inputs.saturating_add(step.carry.len() as u64);
            Size { nodes: round.nodes.max(1).saturating_mul(rounds), inputs: inputs.saturating_mul(rounds) }
        }
    };
    steps.iter().map(size).sum()
}

/// Adds the nodes of a program, each name beginning with `prefix`.
pub fn unroll(program: &Program, prefix: &str, graph: &mut Graph) {
    graph.nodes.reserve(size(&program.steps).nodes as usize);
    let place = Place { prefix, position: Arc::from([]), seed: Seed::from_u64(program.seed) };
    Unroller { graph, frames: vec![Frame::default()] }.steps(&program.steps, &place);
}

impl Unroller<'_> {
    /// Each stage that draws has a seed of its own: that of its scope, its kind, and which of this kind in the scope it is, in
    /// the order of execution. Loops have one likewise. So nobody's name counts, nor what another kind of stage is added, and
    /// ablations, which have the same stages, draw the same. The variants of a stage share a seed.
    fn steps(&mut self, steps: &[Step], place: &Place) {
        let (mut kinds, mut loops) = (HashMap::new(), 0u32);
        for step in steps {
            match step {
                Step::Stage(stage) => {
                    let call = stage.variants.first().map(|variant| &variant.maker.call);
                    let seed = match call.filter(|call| call.decoded.draws).map(|call| call.kind.name) {
                        Some(kind) => {
                            let number = kinds.entry(kind).and_modify(|number| *number += 1).or_insert(1u32);
                            place.seed.child(format_args!("{kind} {number}"))
                        }
                        None => place.seed,
                    };
                    self.stage(stage, place, seed);
                }
                Step::Loop(step) => {
                    loops += 1;
                    self.repeat(step, place, place.seed.child(format_args!("loop {loops}")));
                }
            }
        }
    }

    fn stage(&mut self, step: &StageStep, place: &Place, own: Seed) {
        for variant in &step.variants {
            let label = variant.label.as_deref();
            let length = place.prefix.len() + step.name.len() + label.map_or(0, |label| label.len() + 2);
            let mut name = String::with_capacity(length);
            name.push_str(place.prefix);
            name.push_str(&step.name);
            if let Some(label) = label {
                name.extend(["[", label, "]"]);
            }
            let feeds = variant.links.iter().map(|link| self.feed(link)).collect();
            let (call, position) = (variant.maker.call.clone(), place.position.clone());
            let seed = variant.seed.map_or(own, Seed::from_u64);
            let id = NodeId(self.graph.nodes.len() as u32);
            self.graph.nodes.push(Node { name, call, feeds, position, seed, passing: Vec::new() });
            if let Some(frame) = self.frames.last_mut() {
                frame.nodes.push(id);
            }
        }
    }

    fn repeat(&mut self, step: &LoopStep, place: &Place, own: Seed) {
        let mut carried: Vec<Feed> = step.carry.iter().map(|link| self.feed(link)).collect();
        let width = step.repeat.to_string().len();
        let depth = self.frames.len();
        let mut results: Vec<Vec<Feed>> = carried.iter().map(|feed| vec![*feed]).collect();
        self.frames.push(Frame::default());
        for round in 1..=step.repeat {
            let frame = &mut self.frames[depth];
            frame.nodes.clear();
            frame.results.clear();
            frame.carried.clone_from(&carried);
            let prefix = format!("{}{}[{round:0width$}]/", place.prefix, step.name);
            let position = place.position.iter().copied().chain([round as u32]).collect();
            let seed = own.child(round);
            self.steps(&step.steps, &Place { prefix: &prefix, position, seed });
            for (value, link) in &step.next {
                let feed = self.feed(link);
                if round < step.repeat && !step.keep.keeps(round) {
                    self.mark_passing(link, depth, feed);
                }
                carried[*value] = feed;
            }
            results.iter_mut().zip(&carried).for_each(|(rounds, feed)| rounds.push(*feed));
        }
        self.frames.pop();
        if let Some(frame) = self.frames.last_mut() {
            frame.results.extend(results);
        }
    }

    /// A bulky output that a stage of the loop itself hands to the next round is passing. One that comes
    /// out of an inner loop is the end of a phase and stays.
    fn mark_passing(&mut self, link: &Link, depth: usize, feed: Feed) {
        if let (Link::Output { scope, .. }, Feed::Output { node, output }) = (link, feed)
            && *scope == depth
        {
            let node = &mut self.graph.nodes[node.index()];
            if node.call.outputs()[output].bulky && !node.passing.contains(&output) {
                node.passing.push(output);
            }
        }
    }

    fn feed(&self, link: &Link) -> Feed {
        match *link {
            Link::Output { scope, node, output } => {
                Feed::Output { node: self.frames[scope].nodes[node], output }
            }
            Link::Carried { scope, value } => self.frames[scope].carried[value],
            Link::Result { scope, value, round } => self.frames[scope].results[value][round],
            Link::File(index) => Feed::File(index),
            Link::Variable(index) => Feed::Variable(index),
        }
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
