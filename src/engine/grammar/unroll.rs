//! Unrolls loops and matrices into graph nodes.

use std::collections::HashMap;
use std::iter::Sum;
use std::sync::Arc;

use super::compile::{LoopStep, Program, StageStep, Step, Until};
use super::decode::{Keep, UNTIL};
use super::scope::Link;
use crate::graph::{CarriedValue, Graph, InputBinding, Loop, Node, NodeId};
use store::Seed;

/// More nodes than this are a mistake in a `repeat`.
const MOST_NODES: u64 = 1_000_000;

/// So are more inputs of all nodes together.
const MOST_INPUTS: u64 = 10_000_000;

/// The values of a scope's places in the round that is being unrolled.
#[derive(Default)]
struct Frame {
    nodes: Vec<NodeId>,
    carried: Vec<InputBinding>,
    /// Each value that a loop carried: before the first round and after each.
    results: Vec<Vec<InputBinding>>,
}

struct Unroller<'a> {
    graph: &'a mut Graph,
    frames: Vec<Frame>,
    /// The sum of [`Graph::makers`] over all inputs that loops with `until` hand on.
    makers: u64,
}

/// The position of a step in the rounds of the loops around it, and what follows from that.
struct Place<'a> {
    prefix: &'a str,
    position: Arc<[u32]>,
    seed: Seed,
    /// The node that decides whether the stages here are executed.
    gate: Option<NodeId>,
}

/// The unrolled size of steps.
#[derive(Clone, Copy, Default)]
pub(crate) struct Size {
    nodes: u64,
    /// Inputs of nodes, and the values that a loop carries in every round.
    inputs: u64,
}

impl Size {
    /// The limit that is exceeded, if any.
    pub(crate) fn beyond(self) -> Option<String> {
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

/// The unrolled size of these steps. A round counts as at least one node, so that empty rounds are limited too.
pub(crate) fn size(steps: &[Step]) -> Size {
    let size = |step: &Step| match step {
        Step::Stage(stage) => Size {
            nodes: stage.variants.len() as u64,
            inputs: stage.variants.iter().map(|variant| variant.links.len() as u64).sum(),
        },
        Step::Loop(step) => {
            let (round, rounds) = (size(&step.steps), step.repeat as u64);
            let (nodes, read) = step.until.as_ref().map_or((0, 0), |until| (1, until.in_a_row as u64));
            let nodes = round.nodes.saturating_add(nodes).max(1);
            let inputs = round.inputs.saturating_add(step.carry.len() as u64).saturating_add(read);
            Size { nodes: nodes.saturating_mul(rounds), inputs: inputs.saturating_mul(rounds) }
        }
    };
    steps.iter().map(size).sum()
}

/// Adds the nodes of a program, with `prefix` before each name. Returns what its size is beyond [`size`].
pub(crate) fn unroll(program: &Program, prefix: &str, graph: &mut Graph) -> Size {
    graph.nodes.reserve(size(&program.steps).nodes as usize);
    let seed = Seed::from_u64(program.seed);
    let place = Place { prefix, position: Arc::from([]), seed, gate: None };
    let mut unroller = Unroller { graph, frames: vec![Frame::default()], makers: 0 };
    unroller.steps(&program.steps, &place);
    Size { nodes: 0, inputs: unroller.makers }
}

/// The decisions of a loop while it is unrolled.
struct Deciding<'a> {
    until: &'a Until,
    /// The index of the loop in the graph.
    index: u32,
    /// The metric of each round so far.
    read: Vec<InputBinding>,
}

impl<'a> Deciding<'a> {
    fn new(until: &'a Until, name: String, at_most: u32, graph: &mut Graph) -> Deciding<'a> {
        let index = graph.loops.len() as u32;
        let first = until.in_a_row as u32;
        graph.loops.push(Loop { name, at_most, first, decisions: Vec::new() });
        Deciding { until, index, read: Vec::new() }
    }
}

impl Unroller<'_> {
    /// Each stage that draws has a seed of its own. It is derived from the seed of the scope, the kind, and the number of the
    /// stage among those of its kind in the scope, in the order of execution. Loops have one likewise. So names do not count,
    /// nor do added stages of other kinds, and ablations, which have the same stages, draw the same. The variants of a stage
    /// share a seed.
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
            let gate = place.gate;
            let id = self.add(Node {
                name,
                call,
                feeds,
                position,
                seed,
                passing: Vec::new(),
                kept_by: None,
                gate,
                decides: None,
                left_out: false,
                forced: false,
            });
            if let Some(frame) = self.frames.last_mut() {
                frame.nodes.push(id);
            }
        }
    }

    fn add(&mut self, mut node: Node) -> NodeId {
        for feed in node.feeds.iter().filter(|feed| matches!(feed, InputBinding::Carried { .. })) {
            // Beyond the limit there is no need to go on counting.
            if self.makers <= MOST_INPUTS {
                self.makers += self.graph.makers(*feed).len() as u64;
            }
        }
        if self.makers > MOST_INPUTS {
            // The graph will be refused.
            node.feeds = Box::default();
        }
        let id = NodeId(self.graph.nodes.len() as u32);
        self.graph.nodes.push(node);
        id
    }

    fn repeat(&mut self, step: &LoopStep, place: &Place, own: Seed) {
        let mut carried: Vec<InputBinding> = step.carry.iter().map(|link| self.feed(link)).collect();
        let width = step.repeat.to_string().len();
        let depth = self.frames.len();
        let mut results: Vec<Vec<InputBinding>> = carried.iter().map(|feed| vec![*feed]).collect();
        let mut deciding = step.until.as_ref().map(|until| {
            let name = format!("{}{}", place.prefix, step.name);
            Deciding::new(until, name, step.repeat as u32, self.graph)
        });
        let mut gate = place.gate;
        self.frames.push(Frame::default());
        for round in 1..=step.repeat {
            let frame = &mut self.frames[depth];
            frame.nodes.clear();
            frame.results.clear();
            frame.carried.clone_from(&carried);
            let prefix = format!("{}{}[{round:0width$}]/", place.prefix, step.name);
            let position = place.position.iter().copied().chain([round as u32]).collect();
            let inside = Place { prefix: &prefix, position, seed: own.child(round), gate };
            self.steps(&step.steps, &inside);
            let decision =
                deciding.as_mut().and_then(|deciding| self.decide(deciding, &inside, round as u32));
            for (value, link) in &step.next {
                let feed = self.feed(link);
                if round < step.repeat && !step.keep.keeps(round) {
                    self.mark_passing(link, depth, feed, decision);
                }
                carried[*value] = feed;
            }
            gate = decision.or(gate);
            results.iter_mut().zip(&carried).for_each(|(rounds, feed)| rounds.push(*feed));
        }
        self.frames.pop();
        if let Some(deciding) = deciding {
            results.iter_mut().for_each(|rounds| self.hand_on(&deciding, rounds));
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.results.extend(results);
        }
    }

    /// Adds the node that decides whether there is another round, once there are enough rounds to decide.
    fn decide(&mut self, deciding: &mut Deciding, place: &Place, round: u32) -> Option<NodeId> {
        deciding.read.push(self.feed(&deciding.until.metric));
        let first = deciding.read.len().checked_sub(deciding.until.in_a_row)?;
        let id = self.add(Node {
            name: format!("{}{UNTIL}", place.prefix),
            call: deciding.until.maker.call.clone(),
            feeds: deciding.read[first..].into(),
            position: place.position.clone(),
            seed: place.seed,
            passing: Vec::new(),
            kept_by: None,
            gate: place.gate,
            decides: Some((deciding.index, round)),
            left_out: false,
            forced: false,
        });
        self.graph.loops[deciding.index as usize].decisions.push(id);
        Some(id)
    }

    /// A round that may not run hands on the value of the last round that did.
    fn hand_on(&mut self, deciding: &Deciding, rounds: &mut Vec<InputBinding>) {
        if rounds.iter().all(|feed| *feed == rounds[0]) {
            return;
        }
        let value = self.graph.handed.len() as u32;
        let late = |round: usize| InputBinding::Carried { value, round: round as u32 };
        let first = deciding.until.in_a_row;
        let seen: Vec<InputBinding> = rounds
            .iter()
            .enumerate()
            .map(|(round, feed)| if round > first { late(round) } else { *feed })
            .collect();
        let rounds = std::mem::replace(rounds, seen);
        self.graph.handed.push(CarriedValue { by: deciding.index, rounds });
    }

    /// Marks an evictable output as passing if a stage of the loop itself hands it to the next round. The result of an inner loop is
    /// the end of a phase and stays, as does the output of the round in which the loop stops.
    fn mark_passing(&mut self, link: &Link, depth: usize, feed: InputBinding, decision: Option<NodeId>) {
        if let (Link::Output { scope, .. }, InputBinding::Output { node, output }) = (link, feed)
            && *scope == depth
        {
            let node = &mut self.graph.nodes[node.index()];
            if node.call.outputs()[output].evictable && !node.passing.contains(&output) {
                node.passing.push(output);
                node.kept_by = decision;
            }
        }
    }

    fn feed(&self, link: &Link) -> InputBinding {
        match *link {
            Link::Output { scope, node, output } => {
                InputBinding::Output { node: self.frames[scope].nodes[node], output }
            }
            Link::Carried { scope, value } => self.frames[scope].carried[value],
            Link::Result { scope, value, round } => self.frames[scope].results[value][round],
            Link::File(index) => InputBinding::File(index),
            Link::Variable(index) => InputBinding::Variable(index),
            Link::Served(index) => InputBinding::Served(index),
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
