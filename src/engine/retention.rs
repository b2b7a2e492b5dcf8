//! Evicts checkpoints that loops have handed on, once all nodes that use them are done. Their records stay.

use std::collections::{BTreeSet, HashMap};

use super::graph::NodeId;
use super::plan::{Plan, State};
use super::report::NodeReport;
use store::{Digest, Root, Store};

/// The outputs that are still needed.
pub(super) struct CheckpointRetention {
    /// Whether any output of the graph is to be evicted.
    any: bool,
    /// The number of needed outputs with this content. At zero it is evicted.
    users: HashMap<Digest, usize>,
    /// Nodes whose passing outputs are no longer needed.
    released: BTreeSet<NodeId>,
    /// Nodes that were made again. Their outputs stay until the run ends: what needs one round of a loop often needs the next.
    made_again: BTreeSet<NodeId>,
    /// Contents that no node of this run needs. They are evicted as soon as no other process is at work.
    unwanted: Vec<Digest>,
}

impl CheckpointRetention {
    pub(crate) fn new(plan: &Plan) -> CheckpointRetention {
        CheckpointRetention {
            any: plan.graph.nodes.iter().any(|node| !node.passing.is_empty()),
            users: HashMap::new(),
            released: BTreeSet::new(),
            made_again: BTreeSet::new(),
            unwanted: Vec::new(),
        }
    }

    /// Counts a node's outputs as needed.
    pub(crate) fn count_as_needed(&mut self, report: &NodeReport) {
        if self.any {
            for output in &report.outputs {
                *self.users.entry(output.digest).or_default() += 1;
            }
        }
    }

    /// A node is being made again: its outputs are needed.
    pub(crate) fn keep_until_end(&mut self, id: NodeId, plan: &Plan) {
        self.made_again.insert(id);
        let known = plan.outputs(id).unwrap_or_default();
        self.unwanted.retain(|digest| known.iter().all(|blob| blob.digest != *digest));
    }

    /// A node is done: evicts what it was the last to need.
    pub(crate) fn evict_after(
        &mut self,
        id: NodeId,
        plan: &Plan,
        store: &Store,
        root: &Root,
    ) -> anyhow::Result<()> {
        if self.any {
            let sources: BTreeSet<NodeId> = plan.graph.sources(plan.graph.node(id)).chain([id]).collect();
            sources.into_iter().for_each(|source| self.release(source, plan));
            self.drop_unwanted(store, root)?;
        }
        Ok(())
    }

    /// Releases the passing outputs of a node whose consumers are all done and recorded. After a crash, a consumer without a
    /// record must be executed, and would need them.
    fn release(&mut self, id: NodeId, plan: &Plan) {
        let passing = plan.passing(id);
        if passing.is_empty() || plan.is_undecided(id) {
            return;
        }
        if self.made_again.contains(&id) || self.released.contains(&id) {
            return;
        }
        let is_done = |id: &NodeId| plan.state(*id) == (State::Done { recorded: true });
        // Until a loop's last round is known, any of its rounds may feed the nodes after it.
        let needs_none =
            |fed: NodeId| is_done(&fed) || plan.state(fed) == State::Unreached || !plan.uses(fed, id);
        let idle = is_done(&id) && plan.consumers(id).all(needs_none);
        if !idle || !self.released.insert(id) {
            return;
        }
        let Some(known) = plan.outputs(id) else { return };
        for &passing in passing {
            let digest = known[passing].digest;
            let users = self.users.entry(digest).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.unwanted.push(digest);
            }
        }
    }

    fn drop_unwanted(&mut self, store: &Store, root: &Root) -> anyhow::Result<()> {
        // Another node may have made the same content meanwhile.
        self.unwanted.retain(|digest| self.users.get(digest).is_none_or(|users| *users == 0));
        if !self.unwanted.is_empty() {
            self.unwanted = store.drop_blobs(&self.unwanted, root.id())?;
        }
        Ok(())
    }

    /// The run ends: what was made again is no longer needed.
    pub(crate) fn end(&mut self, plan: &Plan, store: &Store, root: &Root) -> anyhow::Result<()> {
        for id in std::mem::take(&mut self.made_again) {
            // It was released before, or is now.
            let known = plan.outputs(id).unwrap_or_default();
            if self.released.contains(&id) {
                let passing = plan.passing(id).iter();
                self.unwanted.extend(passing.map(|output| known[*output].digest));
            }
            self.release(id, plan);
        }
        self.drop_unwanted(store, root)
    }
}
