//! The plan: the state of every node, as far as it can be known without running anything. The scheduler updates it as nodes
//! end. `pipeline plan` shows it, `pipeline run` carries it out: there is one planner.
//!
//! ```text
//!             inputs known, a record      ┌───────────────────────────────┐
//! Waiting ───────────────────────────────▶│ Done                          │
//!    │                                    └──┬────────────────▲───────────┘
//!    │ inputs known, no record,    an evicted│output is       │ outputs placed; recorded
//!    │ or a kept blob is missing     needed  │again           │ while others go on
//!    ▼                                       ▼                │
//! NeedsInputs ◀─────────────────────────────┘              Running ──▶ Failed
//!    │ blobs of all inputs are there                          ▲ │
//!    ▼                    resources are free, the key is ours │ │ a transient failure
//! Ready ──────────────────────────────────────────────────────┘ │
//!    │ ▲ another node or process computes the key,              │
//!    ▼ │ or it is not time yet to try again                     │
//! Held ◀────────────────────────────────────────────────────────┘
//!    └── a record ──▶ Done               after a failure, what depends on it: Skipped
//! ```
//!
//! A node of a loop with `until` is `Waiting` until the decision of the round before is known. If that is to stop, the node
//! becomes `Unreached`, as do the nodes of all later rounds, from `Waiting` and from no other state. A node that no target
//! needs is `LeftOut` from the beginning. A forced node goes the way of one without a record, until its key was made in this run.
//!
//! `pipeline plan` stops after the first look, where a node is *hit* (Done), *run* (NeedsInputs, Ready) or *unknown* (Waiting).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use petgraph::Directed;
use petgraph::csr::Csr;
use serde::Deserialize;

use super::decision;
use super::execute::named;
use super::graph::{Graph, InputBinding, Node, NodeId, ResolvedInput, StageTemplate};
use super::job::{Job, in_place};
use super::keys::{counted_so_far, job_of_node, key_of_node};
use super::kind::Output;
use super::report::{NodeOutput, NodeReport};
use super::resources::{GPU, Needs};
use store::{Blob, Cleaned, Digest, DigestOf, DigestSet, Root, Store};

/// The state of a node, with the data that belongs to this state only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The key is not known, because this many of the nodes that feed it are not.
    Waiting {
        /// Inputs whose content is not known yet.
        unknown: u32,
    },
    /// Must be executed, once the inputs whose blobs are missing have been made again by this many nodes.
    NeedsInputs {
        /// Why it is executed.
        why: Why,
        /// Nodes that make missing inputs again.
        missing: u32,
    },
    /// Can be executed.
    Ready {
        /// Why it is executed.
        why: Why,
    },
    /// Another node of this run or another process computes the same key, or it is tried again later.
    Held {
        /// Why it is executed.
        why: Why,
    },
    /// A thread or a process executes it.
    Running {
        /// Why it is executed.
        why: Why,
    },
    /// All outputs to keep are in the cache. They are `recorded`, or the record is under way.
    Done {
        /// Whether the record is in the cache.
        recorded: bool,
    },
    /// It was executed, and failed for good.
    Failed,
    /// Depends on a node that failed.
    Skipped,
    /// Of a round that its loop did not reach: it is never executed and has no key.
    Unreached,
    /// No target needs it: it is never executed and has no key.
    LeftOut,
}

/// Why a node is executed, and how often that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// What makes it necessary.
    pub reason: Reason,
    /// Transient failures.
    pub failed: u32,
    /// How often an input turned out to be missing or damaged.
    pub missed: u32,
}

/// What makes an execution necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No record has its key.
    NoRecord,
    /// It is recorded, but this output is no longer in the cache.
    BlobMissing {
        /// The index of the output.
        output: usize,
    },
    /// It is recorded and its output was evicted, but now this node needs it.
    NeededBy {
        /// The node that needs it.
        node: NodeId,
    },
    /// It is recorded, and executed again because the user says so.
    Forced,
    /// To check whether its outputs are the same.
    Check,
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Why {
        Why { reason, failed: 0, missed: 0 }
    }
}

/// What is known of one node, whatever its state.
struct Slot {
    state: State,
    key: Option<Digest>,
    /// Its outputs, as recorded or as they just came out.
    outputs: Option<Box<[Blob]>>,
    /// Whether the outputs are those of an earlier key.
    is_outdated: bool,
    /// Whether it was reported as done.
    is_reported: bool,
    /// Seconds that the work took, in this run or an earlier one.
    seconds: f64,
    /// Nodes that wait for its blobs.
    demanded_by: Vec<NodeId>,
}

/// Nodes with the same needs, and those of them that can be executed.
#[derive(Debug, Default)]
struct Class {
    needs: Needs,
    ready: BTreeSet<NodeId>,
}

/// The states of all nodes of a graph. [`Plan::set`] is the one place where a state changes.
pub struct Plan<'a> {
    /// The graph whose nodes it is about.
    pub graph: &'a Graph,
    store: &'a Store,
    slots: Vec<Slot>,
    /// From each node to those that it feeds.
    edges: Csr<(), (), Directed, u32>,
    classes: Vec<Class>,
    /// The class of each node.
    class: Vec<u32>,
    /// Nodes that were found done and are not reported yet.
    found: Vec<NodeId>,
    /// The number of unreached nodes.
    unreached: usize,
    /// The keys of forced nodes that were made since. Other nodes with such a key need not make it again.
    renewed: HashSet<Digest>,
    blobs: BlobIndex<'a>,
    /// How often the cache had been cleaned when all done nodes were named.
    cleaned: Option<Cleaned>,
}

/// Which blobs are in the cache.
struct BlobIndex<'a> {
    store: &'a Store,
    /// By first byte. Only while many nodes are looked up at once: later, other processes may have changed the cache.
    shelves: Option<Box<[Option<DigestSet>; 256]>>,
}

impl BlobIndex<'_> {
    fn has(&mut self, digest: &Digest) -> bool {
        let byte = digest.bytes()[0];
        match &mut self.shelves {
            None => self.store.has_blob(digest),
            Some(shelves) => {
                let shelf = &mut shelves[usize::from(byte)];
                shelf.get_or_insert_with(|| self.store.shelf(byte)).contains(digest)
            }
        }
    }
}

/// The part of a record that the planner reads.
#[derive(Deserialize)]
struct Recorded<'a> {
    seconds: f64,
    #[serde(borrow)]
    outputs: Vec<RecordedOutput<'a>>,
}

#[derive(Deserialize)]
struct RecordedOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    digest: Digest,
    bytes: u64,
}

/// The digest of a run as a whole: of the names and keys of its nodes, in the order of the graph.
pub fn digest_of_keys<'a>(nodes: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    // In large pieces: many small ones take several times as long to hash.
    const PIECE: usize = 1 << 16;
    let (mut hasher, mut bytes) = (DigestOf::default(), Vec::with_capacity(2 * PIECE));
    for (name, key) in nodes {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(key.bytes());
        if bytes.len() >= PIECE {
            hasher.update(&bytes);
            bytes.clear();
        }
    }
    hasher.update(&bytes);
    hasher.digest()
}

/// Reads the beginning of a record, which ends before the job, if its outputs are those that a stage makes.
fn read_recorded(head: &[u8], outputs: &[Output]) -> Option<(f64, Box<[Blob]>)> {
    let head = [head, b"}"].concat();
    let Recorded { seconds, outputs: recorded } = serde_json::from_slice(&head).ok()?;
    let same = recorded.len() == outputs.len()
        && outputs.iter().zip(&recorded).all(|(output, recorded)| output.name == recorded.name);
    let blob = |output: RecordedOutput| Blob { digest: output.digest, bytes: output.bytes };
    same.then(|| (seconds, recorded.into_iter().map(blob).collect()))
}

impl<'a> Plan<'a> {
    /// Determines the states that can be known now.
    pub fn new(graph: &'a Graph, store: &'a Store) -> Plan<'a> {
        let edges = graph.edges();
        let mut unknown = vec![0; graph.nodes.len()];
        graph.ids().flat_map(|id| edges.neighbors_slice(id.0)).for_each(|fed| unknown[*fed as usize] += 1);
        let slot = |id: NodeId| Slot {
            state: match graph.node(id).left_out {
                true => State::LeftOut,
                false => State::Waiting { unknown: unknown[id.index()] },
            },
            key: None,
            outputs: None,
            is_outdated: false,
            is_reported: false,
            seconds: 0.0,
            demanded_by: Vec::new(),
        };
        let mut classes: Vec<Class> = Vec::new();
        let mut known: BTreeMap<Needs, u32> = BTreeMap::new();
        let mut calls: HashMap<*const StageTemplate, u32> = HashMap::new();
        let mut class_of = |node: &Node| {
            *calls.entry(Arc::as_ptr(&node.call)).or_insert_with(|| {
                *known.entry(node.call.needs()).or_insert_with_key(|needs| {
                    classes.push(Class { needs: needs.clone(), ready: BTreeSet::new() });
                    classes.len() as u32 - 1
                })
            })
        };
        let class = graph.nodes.iter().map(&mut class_of).collect();
        let mut plan = Plan {
            graph,
            store,
            slots: graph.ids().map(slot).collect(),
            edges,
            class,
            classes,
            found: Vec::new(),
            unreached: 0,
            renewed: HashSet::new(),
            blobs: BlobIndex { store, shelves: Some(Box::new([const { None }; 256])) },
            cleaned: None,
        };
        for id in graph.ids() {
            if plan.state(id) == (State::Waiting { unknown: 0 }) {
                plan.determine_state(id);
            }
        }
        plan.blobs.shelves = None;
        plan
    }

    /// Names all nodes that were found done in the run's root, so that no process deletes their outputs. If the cache was
    /// cleaned since `cleaned`, which is from before the plan was made, the plan is made again.
    pub fn hold(
        mut self,
        mut cleaned: Cleaned,
        root: &Root,
        waiting: &dyn Fn(&str),
    ) -> anyhow::Result<Plan<'a>> {
        loop {
            let reports = self.found.iter().filter_map(|id| self.report(*id, true));
            let nodes: Vec<_> = reports.map(|report| named(report.key, &report.outputs)).collect();
            root.name(&nodes)?;
            root.sync()?;
            let now = self.store.cleaned_by_now(waiting)?;
            if now == cleaned {
                self.cleaned = Some(now);
                return Ok(self);
            }
            self.store.refresh()?;
            (self, cleaned) = (Plan::new(self.graph, self.store), now);
        }
    }

    fn slot_mut(&mut self, id: NodeId) -> &mut Slot {
        &mut self.slots[id.index()]
    }

    /// The present state of a node.
    pub fn state(&self, id: NodeId) -> State {
        self.slots[id.index()].state
    }

    /// Why a node is to be executed, or is being.
    pub fn why(&self, id: NodeId) -> Option<Why> {
        match self.state(id) {
            State::NeedsInputs { why, .. }
            | State::Ready { why }
            | State::Held { why }
            | State::Running { why } => Some(why),
            State::Waiting { .. }
            | State::Done { .. }
            | State::Failed
            | State::Skipped
            | State::Unreached
            | State::LeftOut => None,
        }
    }

    /// Changes a node's state, and keeps the sets of nodes that are ready.
    pub fn set(&mut self, id: NodeId, state: State) {
        let before = std::mem::replace(&mut self.slot_mut(id).state, state);
        let ready = &mut self.classes[self.class[id.index()] as usize].ready;
        if matches!(before, State::Ready { .. }) {
            ready.remove(&id);
        }
        if matches!(state, State::Ready { .. }) {
            ready.insert(id);
        }
    }

    /// Marks a done node as recorded.
    pub fn set_recorded(&mut self, id: NodeId) {
        if let State::Done { .. } = self.state(id) {
            self.set(id, State::Done { recorded: true });
        }
    }

    /// The outputs of a node, as recorded or as they just came out.
    pub fn outputs(&self, id: NodeId) -> Option<&[Blob]> {
        self.slots[id.index()].outputs.as_deref()
    }

    /// The key of a node, if all of its inputs are known.
    pub fn key(&self, id: NodeId) -> Option<Digest> {
        self.slots[id.index()].key
    }

    /// Notes how long a node's work took, in seconds.
    pub fn set_seconds(&mut self, id: NodeId, seconds: f64) {
        self.slot_mut(id).seconds = seconds;
    }

    /// The job of a node, if all its inputs are known.
    pub fn job(&self, id: NodeId) -> Option<Job> {
        job_of_node(self.graph, id, |source| self.outputs(source))
    }

    /// The amounts of resources that a node takes.
    pub fn needs(&self, id: NodeId) -> &Needs {
        &self.classes[self.class[id.index()] as usize].needs
    }

    /// The first node of the graph that can be executed and lacks nothing. A resource that an earlier node lacks is left to that
    /// node: otherwise a node that needs much would wait until all that need little are done.
    pub fn first_ready<'p>(&'p self, lacking: impl Fn(&'p Needs) -> Option<Vec<&'p str>>) -> Option<NodeId> {
        let (mut left, mut after) = (BTreeSet::new(), None);
        loop {
            // A node that lacks one device leaves the others.
            let is_left = |needs: &Needs| {
                let is_left =
                    |name: &str| left.contains(&(name, None)) || left.contains(&(name, needs.device));
                needs.amounts.iter().any(|(name, amount)| *amount > 0 && is_left(name))
            };
            let ready = self.classes.iter().filter_map(|class| Some((*class.ready.first()?, &class.needs)));
            let next = ready.filter(|(first, needs)| Some(*first) > after && !is_left(needs));
            let (first, needs) = next.min_by_key(|(first, _)| *first)?;
            match lacking(needs) {
                None => return Some(first),
                Some(names) => {
                    left.extend(names.into_iter().map(|name| (name, needs.device.filter(|_| name == GPU))));
                }
            }
            after = Some(first);
        }
    }

    /// The GPUs that the pipeline names.
    pub fn devices(&self) -> BTreeSet<u32> {
        self.classes.iter().filter_map(|class| class.needs.device).collect()
    }

    /// The nodes that a node feeds.
    pub fn consumers(&self, id: NodeId) -> impl DoubleEndedIterator<Item = NodeId> + use<'_, 'a> {
        self.edges.neighbors_slice(id.0).iter().copied().map(NodeId)
    }

    /// The nodes that were found done since the last call.
    pub fn take_found(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.found)
    }

    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        self.left() == 0
    }

    /// The digest of the names and keys of all nodes that are done or to be executed, if all these keys are known.
    pub fn digest_of_all(&self) -> Option<Digest> {
        let both = self.graph.nodes.iter().zip(&self.slots);
        let is_part = |state: State| !matches!(state, State::Unreached | State::LeftOut);
        let reached = || both.clone().filter(|(_, slot)| is_part(slot.state));
        let keys = reached().map_while(|(node, slot)| Some((node.name.as_str(), slot.key?)));
        let is_known = reached().all(|(_, slot)| slot.key.is_some());
        is_known.then(|| digest_of_keys(keys))
    }

    /// How many nodes are not done, without those that are left out or known to be unreached.
    pub fn left(&self) -> usize {
        let is_left =
            |slot: &&Slot| !matches!(slot.state, State::Done { .. } | State::Unreached | State::LeftOut);
        self.slots.iter().filter(is_left).count()
    }

    /// How many nodes belong to rounds that their loops did not reach.
    pub fn unreached(&self) -> usize {
        self.unreached
    }

    /// The round in which one of the graph's loops stopped, if that was before the last.
    pub fn stopped(&self, index: usize) -> Option<u32> {
        self.graph.loops[index].stopped(|id| self.outputs(id))
    }

    /// Resolves a feed, if that is possible already.
    pub fn resolve_input(&self, feed: InputBinding) -> Option<InputBinding> {
        match self.graph.resolve_input(feed, &|id| self.outputs(id)) {
            ResolvedInput::Is(feed) => Some(feed),
            ResolvedInput::Open => None,
        }
    }

    /// Whether it is undecided if a node's passing outputs stay, and this run decides it.
    pub fn is_undecided(&self, id: NodeId) -> bool {
        let is_open = |id| self.outputs(id).is_none() && self.state(id) != State::LeftOut;
        self.graph.node(id).kept_by.is_some_and(is_open)
    }

    /// The outputs of a node that are evicted once no node needs them; while that is undecided, those that may be.
    pub fn passing(&self, id: NodeId) -> &'a [usize] {
        let node = self.graph.node(id);
        let stays = node.kept_by.and_then(|decision| self.outputs(decision)).is_some_and(decision::is_stop);
        if stays { &[] } else { &node.passing }
    }

    /// Whether a node is or may be fed by another.
    pub fn uses(&self, id: NodeId, source: NodeId) -> bool {
        let feeds = self.graph.node(id).feeds.iter();
        feeds.copied().any(|feed| self.graph.may_resolve_to(feed, source, &|id| self.outputs(id)))
    }

    /// Looks up a node whose inputs are all known, and the nodes whose inputs become known by it.
    fn determine_state(&mut self, first: NodeId) {
        let mut open = vec![first];
        while let Some(id) = open.pop() {
            if self.state(id) == State::Unreached {
                continue;
            }
            let node = self.graph.node(id);
            let Some(key) = key_of_node(self.graph, node, |source| self.outputs(source)) else { continue };
            self.slot_mut(id).key = Some(key);
            match self.recorded(id, &key) {
                None => self.schedule(id, Reason::NoRecord.into()),
                Some(_) if node.forced && !self.renewed.contains(&key) => {
                    self.schedule(id, Reason::Forced.into());
                }
                Some((seconds, outputs)) => {
                    self.slot_mut(id).seconds = seconds;
                    self.enter_outputs(id, outputs, &mut open);
                    match self.missing_output(id) {
                        Some(output) => self.schedule(id, Reason::BlobMissing { output }.into()),
                        None => {
                            self.set(id, State::Done { recorded: true });
                            self.found.push(id);
                            self.release_waiting(id);
                        }
                    }
                }
            }
        }
    }

    /// Whether a node's key no longer matches the content of its inputs, because one of them came out different when it was
    /// made again. If so, looks the node up again.
    pub fn has_changed(&mut self, id: NodeId) -> bool {
        let now = key_of_node(self.graph, self.graph.node(id), |source| self.outputs(source));
        if now == self.key(id) {
            return false;
        }
        self.slot_mut(id).is_outdated = true;
        self.determine_state(id);
        true
    }

    /// The earlier outputs of a node's present key, to be compared with new ones.
    pub fn outputs_before(&self, id: NodeId) -> Option<&[Blob]> {
        self.outputs(id).filter(|_| !self.slots[id.index()].is_outdated)
    }

    /// The seconds and outputs in the record of a node's key.
    pub fn recorded_outputs(&self, id: NodeId) -> Option<(f64, Box<[Blob]>)> {
        self.recorded(id, &self.key(id)?)
    }

    /// The seconds and outputs in the record of a key, if it fits the node.
    fn recorded(&self, id: NodeId, key: &Digest) -> Option<(f64, Box<[Blob]>)> {
        let outputs = self.graph.node(id).call.outputs();
        self.store.record(key, |head| read_recorded(head, outputs))
    }

    /// An output that must be kept and is not in the cache.
    fn missing_output(&mut self, id: NodeId) -> Option<usize> {
        let (declared, passing) = (self.graph.node(id).call.outputs(), self.passing(id));
        let known = self.slots[id.index()].outputs.as_deref().unwrap_or_default();
        let blobs = &mut self.blobs;
        let is_kept = |output: &usize| !passing.contains(output) && !declared[*output].incidental;
        let lost = |(output, blob): &(usize, &Blob)| is_kept(output) && !blobs.has(&blob.digest);
        known.iter().enumerate().find(lost).map(|(output, _)| output)
    }

    /// Enters the outputs of a node. Adds the nodes whose inputs are now all known to `open`.
    fn enter_outputs(&mut self, id: NodeId, outputs: Box<[Blob]>, open: &mut Vec<NodeId>) {
        let slot = self.slot_mut(id);
        slot.is_outdated = false;
        let first = slot.outputs.replace(outputs).is_none();
        if !first {
            return;
        }
        let stops = self.graph.node(id).decides.is_some() && self.outputs(id).is_some_and(decision::is_stop);
        if stops {
            self.mark_unreached_after(id, open);
        }
        self.count_as_known(id, open);
        if stops {
            self.restore_last_round(id);
        }
    }

    /// A node is known to its consumers. Adds those that wait for no other to `open`.
    fn count_as_known(&mut self, id: NodeId, open: &mut Vec<NodeId>) {
        for consumer in self.edges.neighbors_slice(id.0).iter().rev().copied().map(NodeId) {
            if let State::Waiting { unknown } = &mut self.slots[consumer.index()].state {
                *unknown -= 1;
                if *unknown == 0 {
                    open.push(consumer);
                }
            }
        }
    }

    /// A loop has stopped: the rounds after this decision are unreached.
    fn mark_unreached_after(&mut self, decision: NodeId, open: &mut Vec<NodeId>) {
        let mut gates = vec![decision];
        while let Some(gate) = gates.pop() {
            let behind: Vec<NodeId> =
                self.consumers(gate).filter(|id| self.graph.node(*id).gate == Some(gate)).collect();
            for id in behind {
                if let State::Waiting { .. } = self.state(id) {
                    self.set(id, State::Unreached);
                    self.unreached += 1;
                    self.count_as_known(id, open);
                    gates.push(id);
                }
            }
        }
    }

    /// A loop has stopped: the values of its last round are kept. An earlier run that went on may have evicted them.
    fn restore_last_round(&mut self, decision: NodeId) {
        let Some((by, round)) = self.graph.node(decision).decides else { return };
        let handed = self.graph.handed.iter().filter(|handed| handed.by == by);
        let last: Vec<InputBinding> =
            handed.filter_map(|handed| handed.rounds.get(round as usize)).copied().collect();
        for feed in last {
            if let InputBinding::Output { node, .. } = feed
                && self.graph.node(node).kept_by == Some(decision)
                && matches!(self.state(node), State::Done { .. })
                && self.missing_output(node).is_some()
            {
                self.schedule(node, Reason::NeededBy { node: decision }.into());
            }
        }
    }

    /// Marks a node for execution. Missing blobs of its inputs are made again first.
    pub fn schedule(&mut self, id: NodeId, why: Why) {
        let mut open = vec![(id, why)];
        while let Some((id, why)) = open.pop() {
            // Several nodes may have found it missing.
            let is_needed = matches!(why.reason, Reason::NeededBy { .. });
            if is_needed && why.missed == 0 && !matches!(self.state(id), State::Done { .. }) {
                continue;
            }
            let mut makers = BTreeSet::new();
            for feed in &self.graph.node(id).feeds {
                let Some(InputBinding::Output { node, output }) = self.resolve_input(*feed) else { continue };
                let blob = self.outputs(node).and_then(|outputs| outputs.get(output)).copied();
                if !makers.contains(&node) && blob.is_some_and(|blob| !self.blobs.has(&blob.digest)) {
                    makers.insert(node);
                }
            }
            let missing = makers.len() as u32;
            let state = if missing == 0 { State::Ready { why } } else { State::NeedsInputs { why, missing } };
            self.set(id, state);
            for maker in makers {
                self.slot_mut(maker).demanded_by.push(id);
                if let State::Done { .. } = self.state(maker) {
                    open.push((maker, Reason::NeededBy { node: id }.into()));
                }
            }
        }
    }

    /// A node's outputs are in the cache: it is done, and nodes that waited for it go on.
    pub fn finish(&mut self, id: NodeId, outputs: Box<[Blob]>, recorded: bool) {
        let mut open = Vec::new();
        if let Some(key) = self.key(id).filter(|_| self.graph.node(id).forced) {
            self.renewed.insert(key);
        }
        self.enter_outputs(id, outputs, &mut open);
        self.set(id, State::Done { recorded });
        self.release_waiting(id);
        for id in open {
            self.determine_state(id);
        }
    }

    /// Nodes that waited for a node's blobs go on.
    fn release_waiting(&mut self, id: NodeId) {
        for waiting in std::mem::take(&mut self.slot_mut(id).demanded_by) {
            match self.state(waiting) {
                State::NeedsInputs { why, missing: 1 } => self.set(waiting, State::Ready { why }),
                State::NeedsInputs { why, missing } => {
                    self.set(waiting, State::NeedsInputs { why, missing: missing - 1 });
                }
                _ => {}
            }
        }
    }

    /// The nodes that are still done, of those that were found done and are named by now. If the cache was cleaned meanwhile,
    /// the others must be executed.
    pub fn still_done(&mut self, found: Vec<NodeId>, waiting: &dyn Fn(&str)) -> anyhow::Result<Vec<NodeId>> {
        let now = self.store.cleaned()?;
        if self.cleaned.is_some_and(|before| !now.may_differ(before)) {
            return Ok(found);
        }
        self.cleaned = Some(self.store.cleaned_by_now(waiting)?);
        self.store.refresh()?;
        let mut still = Vec::new();
        for id in found {
            let is_recorded = self.key(id).is_some_and(|key| self.recorded(id, &key).is_some());
            match self.missing_output(id) {
                None if is_recorded => still.push(id),
                lost => {
                    self.slot_mut(id).is_reported = false;
                    let reason = lost.map_or(Reason::NoRecord, |output| Reason::BlobMissing { output });
                    self.schedule(id, reason.into());
                }
            }
        }
        Ok(still)
    }

    /// Adds nodes that are done because another node with their key is.
    pub fn add_found(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        self.found.extend(nodes);
    }

    /// Whether any node can be executed, as soon as there are resources.
    pub fn has_ready(&self) -> bool {
        self.classes.iter().any(|class| !class.ready.is_empty())
    }

    /// Whether a node is reported for the first time.
    pub fn is_first_report(&mut self, id: NodeId) -> bool {
        !std::mem::replace(&mut self.slot_mut(id).is_reported, true)
    }

    /// Marks a node as done again, with the outputs that it had.
    pub fn finish_with_known_outputs(&mut self, id: NodeId) {
        let outputs = self.outputs(id).unwrap_or_default().into();
        self.finish(id, outputs, true);
    }

    /// Checks whether another process or node has done a node's work meanwhile. If so, the node is done.
    pub fn is_done_by_now(&mut self, id: NodeId) -> bool {
        match self.why(id).map(|why| why.reason) {
            Some(Reason::NoRecord) => self.look_up(id),
            Some(Reason::Forced) if self.key(id).is_some_and(|key| self.renewed.contains(&key)) => {
                self.look_up(id)
            }
            Some(Reason::BlobMissing { .. }) if self.is_whole(id) => {
                self.finish_with_known_outputs(id);
                self.found.push(id);
                true
            }
            Some(Reason::NeededBy { .. }) if self.is_whole(id) => {
                self.finish_with_known_outputs(id);
                true
            }
            _ => false,
        }
    }

    /// Checks whether a node's key has a record by now. If so, the node is done, unless an output to keep is missing.
    pub fn look_up(&mut self, id: NodeId) -> bool {
        let Some(key) = self.key(id) else { return false };
        let Some((seconds, outputs)) = self.recorded(id, &key) else { return false };
        self.slot_mut(id).seconds = seconds;
        let mut open = Vec::new();
        self.enter_outputs(id, outputs, &mut open);
        let is_there = self.missing_output(id).is_none();
        if is_there {
            self.finish_with_known_outputs(id);
            self.found.push(id);
        }
        for id in open {
            self.determine_state(id);
        }
        is_there
    }

    /// The manifest of a node: see [`in_place`]. An input that is not known yet has the digest `null`.
    pub fn manifest(&self, id: NodeId) -> serde_json::Value {
        in_place(counted_so_far(self.graph, self.graph.node(id), |source| self.outputs(source)))
    }

    /// For each node the first one upstream whose outputs are not known although its inputs are, else the node itself.
    pub fn awaited(&self) -> Vec<NodeId> {
        let mut awaited: Vec<NodeId> = Vec::with_capacity(self.graph.nodes.len());
        for id in self.graph.ids() {
            let is_open =
                |source: &NodeId| self.outputs(*source).is_none() && self.state(*source) != State::Unreached;
            let open = self.graph.sources(self.graph.node(id)).find(is_open);
            awaited.push(open.map_or(id, |source| awaited[source.index()]));
        }
        awaited
    }

    /// The report of a node that is done.
    pub fn report(&self, id: NodeId, cached: bool) -> Option<NodeReport> {
        let (node, slot) = (self.graph.node(id), &self.slots[id.index()]);
        let outputs = node.call.outputs().iter().zip(slot.outputs.as_deref()?).enumerate();
        let passing = self.passing(id);
        Some(NodeReport {
            node: node.name.clone(),
            index: id.0,
            kind: node.call.kind.name.to_owned(),
            cached,
            key: slot.key?,
            position: node.position.to_vec(),
            seconds: slot.seconds,
            params: node.call.assigned.params.clone(),
            seed: node.call.assigned.seed,
            outputs: outputs
                .map(|(index, (declared, blob))| NodeOutput {
                    name: declared.name.to_string(),
                    artifact: declared.artifact.to_string(),
                    digest: blob.digest,
                    bytes: blob.bytes,
                    passing: passing.contains(&index),
                })
                .collect(),
        })
    }

    /// The estimated seconds of the rest with `units` of each resource, from the durations of nodes of the same kinds; `None` if
    /// there are none. It is at least the longest chain of what is left, and at least all of it divided by any resource.
    pub fn time_left(&self, units: impl Fn(&str) -> Option<u32>) -> Option<f64> {
        let mut known: HashMap<&str, (f64, f64)> = HashMap::new();
        for (node, slot) in self.graph.nodes.iter().zip(&self.slots) {
            if let State::Done { .. } = slot.state {
                let (sum, count) = known.entry(node.call.kind.name).or_default();
                (*sum, *count) = (*sum + slot.seconds, *count + 1.0);
            }
        }
        if known.is_empty() {
            return None;
        }
        let seconds = |id: NodeId| match self.state(id) {
            State::Done { .. } | State::Failed | State::Skipped | State::Unreached | State::LeftOut => 0.0,
            _ => known.get(self.graph.node(id).call.kind.name).map_or(0.0, |(sum, count)| sum / count),
        };
        let mut work: HashMap<&str, f64> = HashMap::new();
        for id in self.graph.ids() {
            let seconds = seconds(id);
            for (name, amount) in self.needs(id).amounts.iter().filter(|_| seconds > 0.0) {
                if let Some(units) = units(name).filter(|units| *units > 0) {
                    *work.entry(name).or_default() +=
                        seconds * f64::from(*amount.min(&units)) / f64::from(units);
                }
            }
        }
        let (_, chain) = self.graph.critical_path(seconds);
        Some(work.into_values().fold(chain, f64::max))
    }

    /// Whether the outputs of a node that was done before are in the cache: its results, and other outputs that feed a waiting
    /// node.
    fn is_whole(&mut self, id: NodeId) -> bool {
        let (graph, slot) = (self.graph, &self.slots[id.index()]);
        let feeds = slot.demanded_by.iter().flat_map(|by| &graph.node(*by).feeds);
        let wanted: Vec<InputBinding> = feeds.filter_map(|feed| self.resolve_input(*feed)).collect();
        let outputs = graph.node(id).call.outputs();
        let known = slot.outputs.as_deref().unwrap_or_default();
        let blobs = &mut self.blobs;
        let mut both = known.iter().zip(outputs).enumerate();
        !known.is_empty()
            && both.all(|(index, (blob, output))| {
                let is_wanted = || wanted.contains(&InputBinding::Output { node: id, output: index });
                output.incidental && !is_wanted() || blobs.has(&blob.digest)
            })
    }

    /// A node failed: all nodes that depend on it or wait for it are skipped.
    pub fn fail(&mut self, id: NodeId) {
        self.set(id, State::Failed);
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let demanded = std::mem::take(&mut self.slot_mut(id).demanded_by);
            let consumers: Vec<NodeId> =
                if self.outputs(id).is_none() { self.consumers(id).collect() } else { Vec::new() };
            for dependent in demanded.into_iter().chain(consumers) {
                if let State::Waiting { .. } | State::NeedsInputs { .. } | State::Ready { .. } =
                    self.state(dependent)
                {
                    self.set(dependent, State::Skipped);
                    open.push(dependent);
                }
            }
        }
    }
}
