//! What the engine tells the outside while it runs.

/// What the engine tells the outside while it runs. All methods may be called from any thread.
pub trait Progress: Send + Sync {
    fn run_started(&self, pipeline: &str, total: usize);
    fn node_started(&self, node: &str, kind: &str);
    /// A node at work says how far it is: `done` of `total` units and a short note.
    fn node_progress(&self, node: &str, done: u64, total: u64, note: &str);
    fn node_finished(&self, node: &str, outcome: Outcome, seconds: f64);
    /// A node at work is no longer, and will start again: it waits until it is tried again, or for somebody else.
    fn node_set_aside(&self, _node: &str) {}
    /// About how long the run will still take, by how long nodes of the same kinds have taken.
    fn time_left(&self, _seconds: f64) {}
    /// That many nodes were found done at once.
    fn nodes_cached(&self, count: usize);
    /// That many more nodes are of rounds that their loops do not come to: they are never started.
    fn nodes_unreached(&self, _count: usize) {}
    fn message(&self, text: &str);
    fn run_finished(&self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ran,
    Cached,
    /// It was recorded and executed again: for an output that was dropped, or to compare.
    Again,
    Failed,
}
