//! What is to be done: the state of every node, found out as far as it can be known without running anything, and
//! kept up to date by the scheduler as nodes end. `pipeline plan` shows it, `pipeline run` carries it out: there is
//! one planner.
//!
//! ```text
//!              inputs known, a record     ┌──────────────────────────────┐
//!  Waiting ──────────────────────────────▶│ Done                         │
//!     │                                   └──┬───────────────▲───────────┘
//!     │ inputs known, no record,    a dropped│output is      │ published,
//!     │ or a kept blob is missing    needed  │again          │ recorded
//!     ▼                                      ▼               │
//!  Wanting ◀─────────────────────────────────┘            Running ──▶ Failed
//!     │ blobs of all inputs are there                        ▲
//!     ▼                                                      │ resources are free,
//!  Ready ────────────────────────────────────────────────────┤ the key's lock is ours
//!     │ another node or process computes the same key        │
//!     ▼                                                      │
//!  Elsewhere ── it did not get done ─────────────────────────┘
//!     └── a record ──▶ Done           after a failure, what depends on it: Skipped
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::execute::explained;
use super::graph::{Call, Consumers, Feed, Graph, Node, NodeId};
use super::manifest::{Key, walk};
use super::report::{NodeOutput, NodeReport};
use store::{Blob, Digest, DigestSet, Store};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// An input comes from a node that has not been found out yet: the key is not known.
    Waiting,
    /// Must be executed, once inputs whose blobs are missing have been made again.
    Wanting,
    /// Can be executed.
    Ready,
    /// Another node of this run, or another process, computes the same key.
    Elsewhere,
    Running,
    /// Recorded, and all that it is to keep is in the cache.
    Done,
    Failed,
    /// Depends on a node that failed.
    Skipped,
}

/// Why a node is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No record has its key.
    NoRecord,
    /// It is recorded, but this output is no longer in the cache.
    BlobMissing { output: usize },
    /// It is recorded and its output was dropped on purpose, but now this node needs it.
    NeededBy { node: NodeId },
    /// To see whether it comes out the same.
    Check,
}

/// What is known of one node.
pub struct Slot {
    pub state: State,
    /// Of its inputs' makers, how many are not found out yet.
    unknown: u32,
    /// Of its inputs' makers, how many are being made again.
    missing: u32,
    pub key: Option<Digest>,
    /// Its outputs, as recorded or as they just came out.
    pub known: Option<Box<[Blob]>>,
    /// Seconds that the work took, in whichever run.
    pub seconds: f64,
    pub reason: Option<Reason>,
    /// Whether its record was there before it was executed.
    pub recorded: bool,
    /// Nodes that wait for its blobs.
    demanded_by: Vec<NodeId>,
}

/// Nodes that can be executed and take the same of the resources.
#[derive(Debug, Default)]
pub struct Ready {
    pub needs: BTreeMap<String, u32>,
    pub nodes: BTreeSet<NodeId>,
}

/// The states of all nodes of a graph. [`Plan::set`] is the one place where a state changes.
pub struct Plan<'a> {
    pub graph: &'a Graph,
    store: &'a Store,
    pub slots: Vec<Slot>,
    pub consumers: Consumers,
    /// Nodes that can be executed, in the order of the graph, by what they take of the resources.
    pub ready: Vec<Ready>,
    /// Which of these a node belongs to.
    class: Vec<u32>,
    /// Nodes that were found done and have not been told of.
    pub found: Vec<NodeId>,
    there: There<'a>,
}

/// Which blobs are in the cache.
struct There<'a> {
    store: &'a Store,
    /// By their first byte; only while many nodes are found out at once, since others may change it.
    shelves: Option<Box<[Option<DigestSet>; 256]>>,
}

impl There<'_> {
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

/// What the planner reads of a record.
#[derive(Deserialize)]
struct Recorded {
    seconds: f64,
    outputs: Vec<Blob>,
}

/// What a run comes to as a whole: the digest of the names and keys of its nodes, in the order of the graph.
pub fn digest_of_keys<'a>(nodes: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    // In one piece: many small ones take several times as long to hash.
    let mut bytes = Vec::new();
    for (name, key) in nodes {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(key.bytes());
    }
    Digest::of_bytes(&bytes)
}

/// Reads what stands in a record before the manifest, which is much longer and needed for explanations only.
fn read_recorded(line: &[u8]) -> Option<Recorded> {
    let end = memchr::memmem::find(line, b",\"manifest\":")?;
    let head = [&line[..end], b"}"].concat();
    serde_json::from_slice(&head).ok()
}

impl<'a> Plan<'a> {
    /// Finds out what can be known now.
    pub fn new(graph: &'a Graph, store: &'a Store) -> Plan<'a> {
        let slot = |id: NodeId| Slot {
            state: State::Waiting,
            unknown: graph.node(id).sources().count() as u32,
            missing: 0,
            key: None,
            known: None,
            seconds: 0.0,
            reason: None,
            recorded: false,
            demanded_by: Vec::new(),
        };
        let mut ready: Vec<Ready> = Vec::new();
        let mut classes: BTreeMap<BTreeMap<String, u32>, u32> = BTreeMap::new();
        let mut calls: HashMap<*const Call, u32> = HashMap::new();
        let mut class_of = |node: &Node| {
            *calls.entry(Arc::as_ptr(&node.call)).or_insert_with(|| {
                *classes.entry(node.call.needs()).or_insert_with_key(|needs| {
                    ready.push(Ready { needs: needs.clone(), nodes: BTreeSet::new() });
                    ready.len() as u32 - 1
                })
            })
        };
        let class = graph.nodes.iter().map(&mut class_of).collect();
        let mut plan = Plan {
            graph,
            store,
            slots: graph.ids().map(slot).collect(),
            consumers: graph.consumers(),
            class,
            ready,
            found: Vec::new(),
            there: There { store, shelves: Some(Box::new([const { None }; 256])) },
        };
        for id in graph.ids() {
            if plan.slot(id).unknown == 0 && plan.slot(id).state == State::Waiting {
                plan.find_out(id);
            }
        }
        plan.there.shelves = None;
        plan
    }

    pub fn slot(&self, id: NodeId) -> &Slot {
        &self.slots[id.index()]
    }

    pub fn slot_mut(&mut self, id: NodeId) -> &mut Slot {
        &mut self.slots[id.index()]
    }

    pub fn set(&mut self, id: NodeId, state: State) {
        let before = std::mem::replace(&mut self.slot_mut(id).state, state);
        let ready = &mut self.ready[self.class[id.index()] as usize].nodes;
        if before == State::Ready {
            ready.remove(&id);
        }
        if state == State::Ready {
            ready.insert(id);
        }
    }

    pub fn known(&self, id: NodeId) -> Option<&[Blob]> {
        self.slot(id).known.as_deref()
    }

    /// The content of an input, where it is known.
    pub fn digest(&self, feed: Feed) -> Option<Digest> {
        match feed {
            Feed::Output { node, output } => Some(self.known(node)?.get(output)?.digest),
            Feed::File(index) => Some(self.graph.files[index].1),
            Feed::Variable(_) => None,
        }
    }

    /// The key of a node all of whose inputs are known.
    pub fn key(&self, id: NodeId) -> Digest {
        self.slot(id).key.unwrap_or_else(|| Digest::of_bytes(b"unknown"))
    }

    /// What a node takes of the resources.
    pub fn needs(&self, id: NodeId) -> &BTreeMap<String, u32> {
        &self.ready[self.class[id.index()] as usize].needs
    }

    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        self.slots.iter().all(|slot| slot.state == State::Done)
    }

    /// The digest of all names and keys.
    pub fn digest_of_all(&self) -> Digest {
        digest_of_keys(self.graph.ids().map(|id| (self.graph.node(id).name.as_str(), self.key(id))))
    }

    /// How many nodes are done.
    pub fn done(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state == State::Done).count()
    }

    /// Takes in a node all of whose inputs are known, and those that become so by it.
    fn find_out(&mut self, first: NodeId) {
        let mut open = vec![first];
        while let Some(id) = open.pop() {
            let mut key = Key::default();
            walk(self.graph, self.graph.node(id), |source| self.known(source), &mut key);
            let key = key.digest();
            self.slot_mut(id).key = Some(key);
            match self.recorded(id, &key) {
                None => self.want(id, Reason::NoRecord),
                Some(recorded) => self.adopt(id, recorded, &mut open),
            }
        }
    }

    /// The record of a key, if it fits the node.
    fn recorded(&self, id: NodeId, key: &Digest) -> Option<Recorded> {
        let outputs = self.graph.node(id).call.outputs().len();
        let recorded: Option<Recorded> = self.store.record(key, read_recorded);
        recorded.filter(|recorded| recorded.outputs.len() == outputs)
    }

    /// Enters what a record says of a node.
    fn adopt(&mut self, id: NodeId, recorded: Recorded, open: &mut Vec<NodeId>) {
        let slot = self.slot_mut(id);
        slot.recorded = true;
        slot.seconds = recorded.seconds;
        self.enter(id, recorded.outputs.into(), open);
        match self.lost_output(id) {
            Some(output) => self.want(id, Reason::BlobMissing { output }),
            None => {
                self.set(id, State::Done);
                self.found.push(id);
            }
        }
    }

    /// An output that is to be kept and is not in the cache.
    fn lost_output(&mut self, id: NodeId) -> Option<usize> {
        let node = self.graph.node(id);
        let known = self.slots[id.index()].known.as_deref().unwrap_or_default();
        let there = &mut self.there;
        let lost = |(output, blob): &(usize, &Blob)| node.is_kept(*output) && !there.has(&blob.digest);
        known.iter().enumerate().find(lost).map(|(output, _)| output)
    }

    /// Enters the outputs of a node; `open` gets the nodes whose inputs are all known by it.
    fn enter(&mut self, id: NodeId, outputs: Box<[Blob]>, open: &mut Vec<NodeId>) {
        let first = self.slot_mut(id).known.replace(outputs).is_none();
        if !first {
            return;
        }
        for consumer in self.consumers.of(id).iter().rev() {
            let slot = &mut self.slots[consumer.index()];
            slot.unknown -= 1;
            if slot.unknown == 0 && slot.state == State::Waiting {
                open.push(*consumer);
            }
        }
    }

    /// Says that a node is to be executed: its inputs' blobs must be there, and are made again where they are not.
    pub fn want(&mut self, id: NodeId, reason: Reason) {
        let mut open = vec![(id, reason)];
        while let Some((id, reason)) = open.pop() {
            self.slot_mut(id).reason = Some(reason);
            self.set(id, State::Wanting);
            let sources: BTreeSet<(NodeId, usize)> = self
                .graph
                .node(id)
                .feeds
                .iter()
                .filter_map(|feed| match feed {
                    Feed::Output { node, output } => Some((*node, *output)),
                    _ => None,
                })
                .collect();
            let mut makers = BTreeSet::new();
            for (node, output) in sources {
                let digest = self.digest(Feed::Output { node, output });
                if digest.is_some_and(|digest| !self.there.has(&digest)) {
                    makers.insert(node);
                }
            }
            for maker in makers {
                self.slot_mut(id).missing += 1;
                self.slot_mut(maker).demanded_by.push(id);
                if self.slot(maker).state == State::Done {
                    open.push((maker, Reason::NeededBy { node: id }));
                }
            }
            if self.slot(id).missing == 0 {
                self.set(id, State::Ready);
            }
        }
    }

    /// A node's outputs are recorded and in the cache: it is done, and what waited for it goes on.
    pub fn finish(&mut self, id: NodeId, outputs: Box<[Blob]>) {
        let mut open = Vec::new();
        self.enter(id, outputs, &mut open);
        self.set(id, State::Done);
        for waiting in std::mem::take(&mut self.slot_mut(id).demanded_by) {
            let slot = self.slot_mut(waiting);
            slot.missing -= 1;
            if slot.missing == 0 && slot.state == State::Wanting {
                self.set(waiting, State::Ready);
            }
        }
        for id in open {
            self.find_out(id);
        }
    }

    /// A node is done again, with the outputs that it had.
    pub fn finish_as_known(&mut self, id: NodeId) {
        let outputs = self.slot(id).known.clone().unwrap_or_default();
        self.finish(id, outputs);
    }

    /// Looks whether another process, or another node, has recorded a node's key meanwhile. If so the node is done
    /// (or is to be executed for an output that is missing).
    pub fn look_up(&mut self, id: NodeId) -> bool {
        let Some(key) = self.slot(id).key else { return false };
        let Some(recorded) = self.recorded(id, &key) else { return false };
        let slot = self.slot_mut(id);
        (slot.recorded, slot.seconds) = (true, recorded.seconds);
        let mut open = Vec::new();
        self.enter(id, recorded.outputs.into(), &mut open);
        let lost = self.lost_output(id);
        if lost.is_none() {
            self.finish_as_known(id);
        }
        for id in open {
            self.find_out(id);
        }
        lost.is_none()
    }

    /// What a node's key is made of, if its inputs are known.
    pub fn manifest(&self, id: NodeId) -> Option<serde_json::Value> {
        self.slot(id).key?;
        Some(explained(self.graph, id, |source| self.known(source)))
    }

    /// The nodes that make a node unknown: those upstream that are to be executed, or whose own inputs are known.
    pub fn first_unknown(&self, id: NodeId) -> Option<NodeId> {
        let mut id = id;
        loop {
            let open = self.graph.node(id).sources().find(|source| self.known(*source).is_none());
            match open {
                Some(source) => id = source,
                None => return Some(id),
            }
        }
    }

    /// What is told of a node that is done.
    pub fn report(&self, id: NodeId, cached: bool) -> NodeReport {
        let (node, slot) = (self.graph.node(id), self.slot(id));
        let blobs = slot.known.as_deref().unwrap_or_default();
        let outputs = node.call.outputs().iter().zip(blobs).enumerate();
        NodeReport {
            node: node.name.clone(),
            index: id.0,
            kind: node.call.kind.name.to_owned(),
            cached,
            key: self.key(id),
            position: node.position.to_vec(),
            seconds: slot.seconds,
            outputs: outputs
                .map(|(index, (declared, blob))| NodeOutput {
                    name: declared.name.to_string(),
                    artifact: declared.artifact.to_string(),
                    digest: blob.digest,
                    bytes: blob.bytes,
                    passing: node.passing.contains(&index),
                })
                .collect(),
        }
    }

    /// Whether all outputs of a node that was done before are in the cache.
    pub fn is_whole(&mut self, id: NodeId) -> bool {
        let known = self.slot(id).known.clone().unwrap_or_default();
        let outputs = self.graph.node(id).call.outputs();
        let there = &mut self.there;
        !known.is_empty()
            && known.iter().zip(outputs).all(|(blob, output)| output.incidental || there.has(&blob.digest))
    }

    /// A node failed: it and all that depends on it or waits for it.
    pub fn fail(&mut self, id: NodeId) {
        self.set(id, State::Failed);
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let demanded = std::mem::take(&mut self.slot_mut(id).demanded_by);
            let consumers =
                if self.known(id).is_none() { self.consumers.of(id).to_vec() } else { Vec::new() };
            for dependent in demanded.into_iter().chain(consumers) {
                if matches!(self.slot(dependent).state, State::Waiting | State::Wanting | State::Ready) {
                    self.set(dependent, State::Skipped);
                    open.push(dependent);
                }
            }
        }
    }
}
