//! Dropping what a loop has handed on: a checkpoint goes when all that use it are done, and its record stays.

use std::collections::{BTreeSet, HashMap};

use super::graph::NodeId;
use super::plan::{Plan, State};
use super::report::NodeReport;
use store::{Digest, Root, Store};

/// Which outputs are still wanted.
pub(super) struct Thinning {
    /// Whether any output of the graph is to be dropped.
    any: bool,
    /// How many outputs with this content are wanted; at none it is dropped.
    users: HashMap<Digest, usize>,
    /// Nodes whose passing outputs have been let go.
    released: BTreeSet<NodeId>,
    /// Nodes that were made again. They stay until the run ends: whoever asks for one round of a loop tends to ask
    /// for the next.
    made_again: BTreeSet<NodeId>,
    /// Nobody here wants these; they go as soon as nobody else is at work.
    unwanted: Vec<Digest>,
}

impl Thinning {
    pub fn new(plan: &Plan) -> Thinning {
        Thinning {
            any: plan.graph.nodes.iter().any(|node| !node.passing.is_empty()),
            users: HashMap::new(),
            released: BTreeSet::new(),
            made_again: BTreeSet::new(),
            unwanted: Vec::new(),
        }
    }

    /// Enters a node's outputs.
    pub fn adopt(&mut self, report: &NodeReport) {
        if self.any {
            for output in &report.outputs {
                *self.users.entry(output.digest).or_default() += 1;
            }
        }
    }

    /// A node is being made again: what was let go of is wanted.
    pub fn makes_again(&mut self, id: NodeId, plan: &Plan) {
        self.made_again.insert(id);
        let known = plan.outputs(id).unwrap_or_default();
        self.unwanted.retain(|digest| known.iter().all(|blob| blob.digest != *digest));
    }

    /// A node is done: lets go of what it was the last to need.
    pub fn release_around(
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

    /// Lets go of the passing outputs of a node whose consumers are all done. Recorded, too: after a crash one that is not
    /// has to be executed, and would need them.
    fn release(&mut self, id: NodeId, plan: &Plan) {
        let passing = plan.passing(id);
        if passing.is_empty() || plan.is_undecided(id) {
            return;
        }
        if self.made_again.contains(&id) || self.released.contains(&id) {
            return;
        }
        let is_done = |id: &NodeId| plan.state(*id) == (State::Done { recorded: true });
        // What comes after a loop may have been fed by any round, until it is known by which.
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
        // Another node may have come by the same content meanwhile.
        self.unwanted.retain(|digest| self.users.get(digest).is_none_or(|users| *users == 0));
        if !self.unwanted.is_empty() {
            self.unwanted = store.drop_blobs(&self.unwanted, root.id())?;
        }
        Ok(())
    }

    /// The run ends: what was made again is no longer needed either.
    pub fn end(&mut self, plan: &Plan, store: &Store, root: &Root) -> anyhow::Result<()> {
        for id in std::mem::take(&mut self.made_again) {
            // It was let go of before, or is now.
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
