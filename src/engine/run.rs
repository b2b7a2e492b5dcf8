//! Carrying out a plan: ready nodes are executed side by side as far as resources allow, each key by one node of one
//! process, and what a loop has handed on is dropped when nobody needs it any more.
//!
//! Which node is started first depends on the graph alone, and what comes out of a node on its inputs alone; so the
//! order in which nodes end changes no result.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::execute::{Ended, Executor, Placed, Task, explained};
use super::graph::NodeId;
use super::memory::Memory;
use super::plan::{Plan, Reason, State};
use super::progress::{Outcome, Progress};
use super::report::{Checked, NodeOutput, NodeReport, Report, RunError};
use super::resources::Resources;
use super::stage::Output;
use super::thinning::Thinning;
use super::threads::Threads;
use store::{Blob, Digest, Error as StoreError, Lock, Store};

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How much `cpu` there is where the pipeline does not say: nodes side by side.
    pub jobs: u32,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Nodes to compute again once they are done, to see whether they come out the same.
    pub check: Vec<NodeId>,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        let jobs = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        RunOptions { jobs, keep_going: false, check: Vec::new() }
    }
}

/// Is called once for each node that is done: first those that were, in the order of the graph, then the others as
/// they end.
pub type Observe<'a> = dyn FnMut(&NodeReport) -> anyhow::Result<()> + 'a;

/// Runs what is missing. The guard was taken before the plan was made, and is let go when all that was found done has
/// been told of, so that nobody throws it away in between.
pub fn run(
    plan: Plan,
    guard: Lock,
    store: &Store,
    memory: &Memory,
    options: &RunOptions,
    progress: &dyn Progress,
    observe: &mut Observe,
) -> Report {
    progress.run_started(&plan.graph.pipeline, plan.graph.nodes.len());
    let (events, inbox) = channel();
    let executor = Executor { graph: plan.graph, store, memory, progress };
    let thinning = Thinning::new(&plan);
    let total = plan.graph.nodes.len();
    let free = Resources::new(&plan.graph.resources, options.jobs);
    let report = std::thread::scope(|scope| {
        let workers = Threads::new(scope, &events, move |(task, lock): (Task, Lock)| {
            let begun = Instant::now();
            let ended = executor.execute(&task);
            Event::Ended { id: task.id, ended, lock, seconds: begun.elapsed().as_secs_f64() }
        });
        let recorders = Threads::new(scope, &events, move |recording: Recording| {
            let Recording { id, placed, lock, again, seconds } = recording;
            let recorded = executor.record(placed);
            drop(lock);
            Event::Recorded { id, recorded, again, seconds }
        });
        let mut scheduler = Scheduler {
            plan,
            executor,
            options,
            observe,
            workers,
            recorders,
            events,
            free,
            computing: HashMap::new(),
            sharing: HashMap::new(),
            pending: 0,
            recording: 0,
            waiting: 0,
            held: HashMap::new(),
            stop: Arc::default(),
            thinning,
            report: Report::default(),
        };
        scheduler.run(guard, &inbox);
        let open = total.saturating_sub(scheduler.plan.done());
        scheduler.report.skipped = open.saturating_sub(scheduler.report.failures.len());
        scheduler.report
    });
    progress.run_finished();
    report
}

/// How many nodes may be done and not recorded yet: what a crash costs at the most.
const MOST_RECORDING: usize = 64;

/// How often a key that another process has is tried.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the scheduler waits for.
pub(super) enum Event {
    Ended {
        id: NodeId,
        ended: Ended,
        lock: Lock,
        seconds: f64,
    },
    /// A node is recorded. The lock keeps its outputs until it is told of.
    Recorded {
        id: NodeId,
        recorded: anyhow::Result<Lock>,
        again: bool,
        seconds: f64,
    },
    /// Another process is done with the key; or the run ends, and nobody waits any more.
    Unlocked {
        id: NodeId,
        lock: Result<Option<Lock>, StoreError>,
    },
}

struct Scheduler<'a, 'scope, 'env> {
    plan: Plan<'a>,
    executor: Executor<'a>,
    options: &'a RunOptions,
    observe: &'a mut Observe<'env>,
    workers: Threads<'scope, 'a, (Task, Lock), Event>,
    recorders: Threads<'scope, 'a, Recording, Event>,
    events: Sender<Event>,
    free: Resources,
    /// The keys that are being computed by this run, and the other nodes that have the same.
    computing: HashMap<Digest, Vec<NodeId>>,
    /// Of nodes that are not recorded yet, the others that are done with them.
    sharing: HashMap<NodeId, Vec<NodeId>>,
    /// Nodes at work.
    pending: usize,
    /// Nodes that are done and not recorded yet.
    recording: usize,
    /// Nodes whose key another process computes.
    waiting: usize,
    /// Locks of keys that others had, for nodes that wait for resources now.
    held: HashMap<NodeId, Lock>,
    /// After a failure nothing more is started.
    stop: Arc<AtomicBool>,
    thinning: Thinning,
    report: Report,
}

impl<'a> Scheduler<'a, '_, '_> {
    fn run(&mut self, guard: Lock, inbox: &Receiver<Event>) {
        if let Err(error) = self.tell_found_at_first() {
            return self.give_up(error);
        }
        drop(guard);
        for id in self.options.check.clone() {
            if self.plan.slot(id).state == State::Done {
                self.plan.want(id, Reason::Check);
            }
        }
        loop {
            if let Err(error) = self.start_ready() {
                self.give_up(error);
            }
            if self.pending + self.waiting + self.recording == 0 {
                break;
            }
            let Ok(event) = inbox.recv() else { break };
            if let Err(error) = self.take(event) {
                self.give_up(error);
            }
        }
        if let Err(error) = self.thinning.end(&self.plan, self.executor.store) {
            self.executor.progress.message(&format!("warning: {error:#}"));
        }
    }

    /// What goes wrong beside the nodes themselves ends the run.
    fn give_up(&mut self, cause: anyhow::Error) {
        self.report.failures.push(RunError { node: "run".into(), cause });
        self.stop();
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.held.clear();
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn tell_found_at_first(&mut self) -> anyhow::Result<()> {
        let mut found = std::mem::take(&mut self.plan.found);
        found.sort_unstable();
        self.executor.progress.nodes_cached(found.len());
        self.report.cached += found.len();
        found.into_iter().try_for_each(|id| self.tell(id, true))
    }

    /// Nodes that turned out to be recorded on the way.
    fn tell_found(&mut self) -> anyhow::Result<()> {
        let found = std::mem::take(&mut self.plan.found);
        if !found.is_empty() {
            self.executor.progress.nodes_cached(found.len());
            self.report.cached += found.len();
        }
        for id in found {
            self.tell(id, true)?;
            if self.options.check.contains(&id) {
                self.plan.want(id, Reason::Check);
            }
        }
        Ok(())
    }

    fn tell(&mut self, id: NodeId, cached: bool) -> anyhow::Result<()> {
        let report = self.plan.report(id, cached);
        self.thinning.adopt(&report);
        (self.observe)(&report)?;
        self.thinning.release_around(id, &self.plan, self.executor.store)
    }

    /// Starts as many of the ready nodes as resources allow, the first of the graph first.
    fn start_ready(&mut self) -> anyhow::Result<()> {
        while !self.is_stopped() && self.recording < MOST_RECORDING {
            let fitting = self.plan.ready.iter().filter(|class| self.free.fits(&class.needs));
            let Some(id) = fitting.filter_map(|class| class.nodes.first()).min().copied() else { break };
            self.free.take(self.plan.needs(id));
            if !self.start(id)? {
                self.free.give(self.plan.needs(id));
            }
        }
        self.tell_found()
    }

    /// Starts a node, unless another node or process is at work on its key. Whether it was started.
    fn start(&mut self, id: NodeId) -> anyhow::Result<bool> {
        let key = self.plan.key(id);
        if let Some(lock) = self.held.remove(&id) {
            return self.start_locked(id, key, lock);
        }
        if let Some(others) = self.computing.get_mut(&key) {
            others.push(id);
            self.plan.set(id, State::Elsewhere);
            return Ok(false);
        }
        match self.executor.store.try_lock_key(&key) {
            Ok(Some(lock)) => self.start_locked(id, key, lock),
            Ok(None) => {
                self.wait_for(id, key);
                Ok(false)
            }
            Err(error) => {
                self.fail(id, error.into());
                Ok(false)
            }
        }
    }

    /// Another process computes the key: waits for it on a thread of its own.
    fn wait_for(&mut self, id: NodeId, key: Digest) {
        let name = &self.plan.graph.node(id).name;
        self.executor.progress.message(&format!("waiting: another process computes {name}"));
        self.plan.set(id, State::Elsewhere);
        self.computing.insert(key, Vec::new());
        self.waiting += 1;
        let (events, store, stop) = (self.events.clone(), self.executor.store, self.stop.clone());
        self.workers.scope.spawn(move || {
            let lock = loop {
                match store.try_lock_key(&key) {
                    Ok(None) if !stop.load(Ordering::SeqCst) => std::thread::sleep(LOOK_AGAIN),
                    lock => break lock,
                }
            };
            // The receiver is gone only when the run has ended.
            let _ = events.send(Event::Unlocked { id, lock });
        });
    }

    /// A key that another process had is ours: it is done, or is started when there are resources.
    fn unlocked(&mut self, id: NodeId, lock: Lock) -> anyhow::Result<()> {
        if self.is_done_by_now(id)? {
            drop(lock);
            self.settle(self.plan.key(id))?;
        } else {
            self.held.insert(id, lock);
            self.plan.set(id, State::Ready);
        }
        Ok(())
    }

    /// Whether another process has done a node meanwhile.
    fn is_done_by_now(&mut self, id: NodeId) -> anyhow::Result<bool> {
        self.executor.store.refresh()?;
        match self.plan.slot(id).reason.unwrap_or(Reason::NoRecord) {
            Reason::NoRecord if self.plan.look_up(id) => self.plan.found.push(id),
            Reason::BlobMissing { .. } if self.plan.is_whole(id) => {
                self.plan.finish_as_known(id);
                self.plan.found.push(id);
            }
            Reason::NeededBy { .. } if self.plan.is_whole(id) => self.plan.finish_as_known(id),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The key is ours. Whether there is something to execute.
    fn start_locked(&mut self, id: NodeId, key: Digest, lock: Lock) -> anyhow::Result<bool> {
        if self.is_done_by_now(id)? {
            drop(lock);
            self.settle(key)?;
            return Ok(false);
        }
        let reason = self.plan.slot(id).reason.unwrap_or(Reason::NoRecord);
        let node = self.plan.graph.node(id);
        if let Reason::NeededBy { node: by } = reason {
            self.thinning.makes_again(id, &self.plan);
            let by = &self.plan.graph.node(by).name;
            let name = &node.name;
            self.executor
                .progress
                .message(&format!("making {name} again: its dropped output is needed by {by}"));
        }
        let task = Task {
            id,
            key,
            inputs: node.feeds.iter().map(|feed| self.plan.digest(*feed)).collect(),
            manifest: explained(self.plan.graph, id, |source| self.plan.known(source)),
            check: self.plan.slot(id).known.clone().filter(|_| reason == Reason::Check),
        };
        self.computing.entry(key).or_default();
        // Its outputs are not to be dropped before they are recorded, again or for the first time.
        self.plan.slot_mut(id).recorded = reason == Reason::Check;
        self.plan.set(id, State::Running);
        self.pending += 1;
        self.executor.progress.node_started(&node.name, node.call.kind.name);
        self.workers.give((task, lock), self.pending);
        Ok(true)
    }

    fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Unlocked { id, lock } => {
                self.waiting -= 1;
                match lock {
                    Ok(Some(lock)) if !self.is_stopped() => self.unlocked(id, lock)?,
                    Ok(_) => {}
                    Err(error) => self.fail(id, error.into()),
                }
            }
            Event::Ended { id, ended, lock, seconds } => {
                self.pending -= 1;
                self.free.give(self.plan.needs(id));
                let is_placed = matches!(ended, Ended::Placed(_));
                self.ended(id, ended, lock, seconds);
                if !is_placed {
                    self.settle(self.plan.key(id))?;
                }
            }
            Event::Recorded { id, recorded, again, seconds } => {
                self.recording -= 1;
                self.recorded(id, recorded, again, seconds)?;
                self.settle(self.plan.key(id))?;
            }
        }
        self.tell_found()
    }

    /// A key is no longer being computed: what becomes of the other nodes that have it.
    fn settle(&mut self, key: Digest) -> anyhow::Result<()> {
        self.executor.store.refresh()?;
        for id in self.computing.remove(&key).unwrap_or_default() {
            if self.plan.look_up(id) {
                self.plan.found.push(id);
            } else if self.plan.slot(id).state == State::Elsewhere {
                self.plan.set(id, State::Ready);
            }
        }
        Ok(())
    }

    fn ended(&mut self, id: NodeId, ended: Ended, lock: Lock, seconds: f64) {
        let progress = self.executor.progress;
        let name = &self.plan.graph.node(id).name;
        match ended {
            Ended::InputsMissing => {
                progress.message(&format!("{name}: an input is missing or damaged; it is made again"));
                let reason = self.plan.slot(id).reason.unwrap_or(Reason::NoRecord);
                self.plan.want(id, reason);
            }
            Ended::Failed(cause) => self.fail(id, cause),
            Ended::Checked(differences) => {
                progress.node_finished(name, Outcome::Again, seconds);
                self.report.checked.push(Checked { node: name.clone(), differences });
                self.plan.finish_as_known(id);
            }
            Ended::Placed(placed) => {
                let before = self.plan.slot(id).known.clone();
                let blobs: Box<[_]> = placed.outputs.iter().map(NodeOutput::blob).collect();
                let again = matches!(self.plan.slot(id).reason, Some(Reason::NeededBy { .. }));
                let declared = self.plan.graph.node(id).call.outputs();
                let different = before.as_ref().and_then(|before| first_difference(declared, before, &blobs));
                match different {
                    Some(output) => self.fail(id, came_out_different(&placed.outputs[output])),
                    None => {
                        self.plan.slot_mut(id).seconds = placed.seconds;
                        self.plan.finish(id, blobs.clone());
                        self.share(id, &blobs);
                    }
                }
                self.recording += 1;
                self.recorders
                    .give(Recording { id, placed, lock, again, seconds }, self.recording.min(RECORDERS));
            }
        }
    }

    /// The other nodes of this run that have the key of one that is done are done too.
    fn share(&mut self, id: NodeId, blobs: &[Blob]) {
        let others = self.computing.get_mut(&self.plan.key(id)).map(std::mem::take).unwrap_or_default();
        for other in &others {
            self.plan.finish(*other, blobs.into());
            self.plan.found.push(*other);
        }
        self.sharing.insert(id, others);
    }

    fn recorded(
        &mut self,
        id: NodeId,
        recorded: anyhow::Result<Lock>,
        again: bool,
        seconds: f64,
    ) -> anyhow::Result<()> {
        let publishing = match recorded {
            Ok(publishing) => publishing,
            Err(error) => {
                self.fail(id, error);
                self.stop();
                return Ok(());
            }
        };
        if self.plan.slot(id).state == State::Failed {
            return Ok(());
        }
        self.plan.slot_mut(id).recorded = true;
        if again {
            self.report.again += 1;
            self.thinning.release_around(id, &self.plan, self.executor.store)?;
        } else {
            self.report.ran += 1;
            self.tell(id, false)?;
        }
        for other in self.sharing.remove(&id).unwrap_or_default() {
            self.plan.slot_mut(other).recorded = true;
            self.thinning.release_around(other, &self.plan, self.executor.store)?;
        }
        drop(publishing);
        let outcome = if again { Outcome::Again } else { Outcome::Ran };
        self.executor.progress.node_finished(&self.plan.graph.node(id).name, outcome, seconds);
        if self.options.check.contains(&id) {
            self.plan.want(id, Reason::Check);
        }
        Ok(())
    }

    fn fail(&mut self, id: NodeId, cause: anyhow::Error) {
        let node = self.plan.graph.node(id).name.clone();
        self.executor.progress.node_finished(&node, Outcome::Failed, 0.0);
        self.plan.fail(id);
        self.report.failures.push(RunError { node, cause });
        if !self.options.keep_going {
            self.stop();
            if self.pending > 0 {
                let text = format!("waiting for {} more at work to end; Ctrl-C stops them", self.pending);
                self.executor.progress.message(&text);
            }
        }
    }
}

fn first_difference(declared: &[Output], before: &[Blob], now: &[Blob]) -> Option<usize> {
    let pairs = before.iter().zip(now).zip(declared);
    pairs.into_iter().position(|((before, now), output)| before.digest != now.digest && !output.incidental)
}

fn came_out_different(output: &NodeOutput) -> anyhow::Error {
    anyhow!(
        "it was made again and its output `{}` came out different ({} now): the stage is not deterministic, or the \
         cache is from another machine\n  help: what came out now is recorded; the next run goes on from it",
        output.name,
        output.digest.short()
    )
}

/// How many nodes are recorded side by side: the file system makes them durable together.
const RECORDERS: usize = 8;

/// A node to be recorded, and the lock of its key until it is.
struct Recording {
    id: NodeId,
    placed: Placed,
    lock: Lock,
    again: bool,
    seconds: f64,
}
