//! The events that a run reports.

/// Receives the events of a run. All methods may be called from any thread.
pub trait Progress: Send + Sync {
    fn run_started(&self, pipeline: &str, total: usize);
    fn node_started(&self, node: &str, kind: &str);
    /// The progress of a running node: `done` of `total` units and a short note.
    fn node_progress(&self, node: &str, done: u64, total: u64, note: &str);
    fn node_finished(&self, node: &str, outcome: Outcome, seconds: f64);
    /// A running node stops and will start again later: it waits for its next try, or for another process.
    fn node_set_aside(&self, _node: &str) {}
    /// The estimated rest of the run, from the durations of nodes of the same kinds.
    fn time_left(&self, _seconds: f64) {}
    /// So many nodes were found done at once.
    fn nodes_cached(&self, count: usize);
    /// So many more nodes belong to rounds that their loops do not reach: they never start.
    fn nodes_unreached(&self, _count: usize) {}
    fn message(&self, text: &str);
    fn run_finished(&self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ran,
    Cached,
    /// It was recorded and executed again: for an evicted output, or to compare.
    Again,
    Failed,
}
