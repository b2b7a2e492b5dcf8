//! The events that a run reports.

/// Receives the events of a run. All methods may be called from any thread.
pub trait Progress: Send + Sync {
    /// A run of `total` nodes begins.
    fn run_started(&self, pipeline: &str, total: usize);
    /// The work on a node begins; `kind` is that of its stage. If it asks a server, its answered rows are kept.
    fn node_started(&self, node: &str, kind: &str, asks_server: bool);
    /// The progress of a running node: `done` of `total` units and a short note.
    fn node_progress(&self, node: &str, done: u64, total: u64, note: &str);
    /// The work on a node ended, after so many seconds.
    fn node_finished(&self, node: &str, outcome: Outcome, seconds: f64);
    /// A running node stops and will start again later: it waits for its next try, or for another process.
    fn node_set_aside(&self, _node: &str) {}
    /// The estimated rest of the run, from the durations of nodes of the same kinds.
    fn time_left(&self, _seconds: f64) {}
    /// So many nodes were found done at once.
    fn nodes_cached(&self, count: usize);
    /// So many more nodes belong to rounds that their loops do not reach: they never start.
    fn nodes_unreached(&self, _count: usize) {}
    /// A line for people, such as a warning.
    fn message(&self, text: &str);
    /// The last event: no node is at work any more.
    fn run_finished(&self);
}

/// How the work on a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was executed, for the first time with these inputs.
    Ran,
    /// Its outputs were found in the cache.
    Cached,
    /// It was recorded and executed again: for an evicted output, or to compare.
    Again,
    /// It failed for good, or was given up.
    Failed,
}
