//! Carries out a plan: executes ready nodes side by side as far as resources allow, each key by one node of one process, and
//! evicts what loops have handed on when no node needs it any more.
//!
//! Which node starts first depends on the graph alone, and a node's outputs depend on its inputs alone. So the order in which
//! nodes end changes no result.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::copies::{PrivateCopies, Source};
use super::execute::{Executor, JobOutcome, Placed, Task, in_words, named};
use super::graph::{NodeId, On};
use super::job::Retried;
use super::kind::Output;
use super::memory::Memory;
use super::plan::{Plan, Reason, State, Why};
use super::progress::{Outcome, Progress};
use super::report::{Checked, NodeOutput, NodeReport, Report, RunError};
use super::resources::{Grant, Resources};
use super::retention::CheckpointRetention;
use super::runner::{Event, Runner};
use super::threads::Threads;
use super::worker::Program;
use store::{Blob, Claim, Claimed, Digest, Error as StoreError, Pins, Process, Root, Store};

/// The options of a run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// How many `cpu` the run takes at most; by default as many as the limit says, or as there are cores.
    pub jobs: Option<u32>,
    /// After a failure, go on with nodes that do not depend on it.
    pub keep_going: bool,
    /// The program for jobs in processes of their own.
    pub program: Option<Program>,
    /// Nodes to compute again once they are done, to check whether their outputs are the same.
    pub check: Vec<NodeId>,
}

/// Called once for each node that is done: first for those that were found done, in the order of the graph, then for the
/// others as they end.
pub(crate) type Observe<'a> = dyn FnMut(&NodeReport) -> anyhow::Result<()> + 'a;

/// Executes the missing nodes of a plan that the root holds: see [`Plan::hold`].
pub fn run(
    plan: Plan,
    root: &Root,
    store: &Store,
    memory: &Memory,
    options: &RunOptions,
    progress: &dyn Progress,
    observe: &mut Observe,
) -> Report {
    progress.run_started(&plan.graph.pipeline, plan.graph.selected().count());
    let (events, inbox) = channel();
    let copies = match copies(&plan, store) {
        Ok(copies) => copies,
        Err(cause) => {
            progress.run_finished();
            let failures = vec![RunError { node: "run".into(), cause }];
            return Report {
                skipped: plan.left(),
                unreached: plan.unreached(),
                failures,
                ..Report::default()
            };
        }
    };
    let executor = Executor { store, root: Some(root), memory, progress, copies: &copies };
    let retention = CheckpointRetention::new(&plan);
    let resources = Resources::new(&plan.graph.resources, options.jobs, &plan.devices());
    let report = std::thread::scope(|scope| {
        let recorders = Threads::new(scope, &events, move |work: (Digest, Placed, Option<Claim>)| {
            let (key, placed, claim) = work;
            let recorded = executor.record_safely(placed);
            drop(claim);
            Event::Recorded { key, recorded }
        });
        let mut scheduler = Scheduler {
            plan,
            executor,
            options,
            observe,
            root,
            here: Runner::here(scope, &events, executor),
            processes: Runner::processes(scope, &events, executor, options.program.clone()),
            recorders,
            events,
            resources,
            keys: HashMap::new(),
            due: BTreeMap::new(),
            waits_for_host: false,
            next_estimate: Instant::now() + ESTIMATE_EVERY,
            stop: Arc::default(),
            retention,
            replaced: HashMap::new(),
            undecided: Vec::new(),
            unreached: 0,
            report: Report::default(),
        };
        scheduler.run(&inbox);
        scheduler.report.unreached = scheduler.plan.unreached();
        let open = scheduler.plan.left();
        scheduler.report.skipped = open.saturating_sub(scheduler.report.failures.len());
        scheduler.report
    });
    progress.run_finished();
    report
}

/// Copies of the user's small files that nodes read which are not done.
fn copies(plan: &Plan, store: &Store) -> anyhow::Result<PrivateCopies> {
    let is_open = |id: &NodeId| !matches!(plan.state(*id), State::Done { .. } | State::Unreached);
    let open = plan.graph.selected().filter(is_open);
    let files: BTreeSet<usize> = open.flat_map(|id| plan.graph.files_of(id)).collect();
    let sources = files.into_iter().map(|index| {
        let file = &plan.graph.files[index];
        Source { path: &file.path, selection: &file.selection, digest: file.digest }
    });
    PrivateCopies::make(store, sources, None)
}

/// How many nodes may be done and not recorded yet: a crash costs at most these.
const MOST_RECORDING: usize = 64;

/// How many nodes are recorded side by side: the file system makes them durable together.
const RECORDERS: usize = 8;

/// The interval between tries of a key that another process has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The wait between two tries doubles up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The interval between estimates of the remaining time.
const ESTIMATE_EVERY: Duration = Duration::from_secs(1);

/// How often a node is started again because an input turned out to be missing or damaged.
const MOST_MISSED: u32 = 3;

/// The work on a key: the node that does it, and other nodes with the same key.
struct Work {
    node: NodeId,
    others: Vec<NodeId>,
    step: Step,
}

enum Step {
    /// Another process computes it.
    Elsewhere,
    /// This process has claimed it, and it waits for resources.
    Claimed(Claim),
    Running {
        _grant: Grant,
    },
    /// Its outputs are in their places, and it is being recorded.
    Recording {
        again: bool,
        seconds: f64,
        /// The others that are done by it for the first time.
        new: Vec<NodeId>,
    },
    /// It failed, and is tried again later.
    Delayed,
}

struct Scheduler<'a, 'scope, 'env> {
    plan: Plan<'a>,
    executor: Executor<'a>,
    options: &'a RunOptions,
    observe: &'a mut Observe<'env>,
    root: &'a Root,
    here: Runner<'scope, 'a>,
    processes: Runner<'scope, 'a>,
    recorders: Threads<'scope, 'a, (Digest, Placed, Option<Claim>), Event>,
    events: Sender<Event>,
    resources: Resources,
    keys: HashMap<Digest, Work>,
    /// When `Delayed` keys are tried again.
    due: BTreeMap<(Instant, NodeId), Digest>,
    /// Whether it was reported that other processes have units of the host.
    waits_for_host: bool,
    /// When the remaining time is reported next.
    next_estimate: Instant,
    /// After a failure nothing more is started.
    stop: Arc<AtomicBool>,
    retention: CheckpointRetention,
    /// The recorded outputs of forced nodes, to be compared with the new ones.
    replaced: HashMap<NodeId, Box<[Blob]>>,
    /// Done nodes that are not reported yet, because it is undecided whether their outputs stay; and whether they were cached.
    undecided: Vec<(NodeId, bool)>,
    /// How many nodes were reported as unreached.
    unreached: usize,
    report: Report,
}

impl<'a> Scheduler<'a, '_, '_> {
    fn run(&mut self, inbox: &Receiver<Event>) {
        if let Err(error) = self.report_found_at_start() {
            return self.give_up(error);
        }
        for id in self.options.check.clone() {
            self.check(id);
        }
        loop {
            if let Err(error) = self.start_ready() {
                self.give_up(error);
            }
            if self.keys.is_empty() {
                if self.is_stopped() || !self.plan.has_ready() {
                    break;
                }
                if self.resources.later().is_none() {
                    // A resource may have become free in the meantime.
                    match self.plan.first_ready(|needs| self.resources.lacking(needs)) {
                        Some(_) => continue,
                        None => break,
                    }
                }
            }
            if let Err(error) = self.take_next(inbox) {
                self.give_up(error);
            }
        }
        let open = self.plan.left();
        if !self.is_stopped() && self.report.failures.is_empty() && open > 0 {
            self.give_up(anyhow!("{open} nodes were never started: a defect of triplay"));
        }
        for (id, cached) in std::mem::take(&mut self.undecided) {
            if let Err(error) = self.report_node(id, cached) {
                self.give_up(error);
            }
        }
        if let Err(error) = self.retention.end(&self.plan, self.executor.store, self.root) {
            self.executor.progress.message(&format!("warning: {error:#}"));
        }
    }

    /// Ends the run after an error outside its nodes.
    fn give_up(&mut self, cause: anyhow::Error) {
        self.report.failures.push(RunError { node: "run".into(), cause });
        self.stop();
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.due.clear();
        self.keys.retain(|_, work| !matches!(work.step, Step::Claimed(_) | Step::Delayed));
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn count(&self, is_it: impl Fn(&Step) -> bool) -> usize {
        self.keys.values().filter(|work| is_it(&work.step)).count()
    }

    fn check(&mut self, id: NodeId) {
        if self.options.check.contains(&id) && matches!(self.plan.state(id), State::Done { .. }) {
            self.plan.schedule(id, Reason::Check.into());
        }
    }

    /// The nodes that were found done for the first time.
    fn take_found(&mut self) -> Vec<NodeId> {
        let found = self.plan.take_found();
        found.into_iter().filter(|id| self.plan.is_first_report(*id)).collect()
    }

    /// Reports the nodes that were found done when the plan was made, in the order of the graph.
    fn report_found_at_start(&mut self) -> anyhow::Result<()> {
        let mut found = self.take_found();
        found.sort_unstable();
        self.executor.progress.nodes_cached(found.len());
        self.report.cached += found.len();
        self.report_done(&found, true)?;
        self.count_unreached();
        Ok(())
    }

    /// Reports how many more nodes are unreached.
    fn count_unreached(&mut self) {
        let now = self.plan.unreached();
        let more = now - std::mem::replace(&mut self.unreached, now);
        if more > 0 {
            self.executor.progress.nodes_unreached(more);
        }
    }

    /// Reports nodes that were found done since, are unreached, or have been decided.
    fn report_found(&mut self) -> anyhow::Result<()> {
        self.report_newly_found()?;
        self.count_unreached();
        self.report_decided()
    }

    /// Reports nodes that waited for their loop's decision.
    fn report_decided(&mut self) -> anyhow::Result<()> {
        if self.undecided.is_empty() {
            return Ok(());
        }
        let (open, decided): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.undecided).into_iter().partition(|(id, _)| self.plan.is_undecided(*id));
        self.undecided = open;
        // Outputs that stay were named as passing.
        let stays = decided.iter().filter(|(id, _)| self.plan.passing(*id).is_empty());
        let reports = stays.filter_map(|(id, cached)| self.plan.report(*id, *cached));
        let nodes: Vec<_> = reports.map(|report| named(report.key, &report.outputs)).collect();
        if !nodes.is_empty() {
            self.root.name(&nodes)?;
            self.root.sync()?;
        }
        decided.iter().try_for_each(|(id, cached)| self.report_node(*id, *cached))?;
        decided.iter().try_for_each(|(id, _)| self.evict_after(*id))
    }

    fn report_node(&mut self, id: NodeId, cached: bool) -> anyhow::Result<()> {
        self.plan.report(id, cached).map_or(Ok(()), |report| (self.observe)(&report))
    }

    fn report_newly_found(&mut self) -> anyhow::Result<()> {
        let found = self.take_found();
        if found.is_empty() {
            return Ok(());
        }
        let reports = found.iter().filter_map(|id| self.plan.report(*id, true));
        let nodes: Vec<_> = reports.map(|report| named(report.key, &report.outputs)).collect();
        self.root.name(&nodes)?;
        let progress = self.executor.progress;
        let waiting = |by: &str| progress.message(&format!("waiting: {by} cleans the cache"));
        let found = self.plan.still_done(found, &waiting)?;
        self.executor.progress.nodes_cached(found.len());
        self.report.cached += found.len();
        self.report_done(&found, true)?;
        found.into_iter().for_each(|id| self.check(id));
        Ok(())
    }

    /// Reports nodes that are done. Counts all that any of them needs before anything is evicted.
    fn report_done(&mut self, ids: &[NodeId], cached: bool) -> anyhow::Result<()> {
        for id in ids {
            self.plan.is_first_report(*id);
            let Some(report) = self.plan.report(*id, cached) else { continue };
            self.retention.count_as_needed(&report);
            match self.plan.is_undecided(*id) {
                true => self.undecided.push((*id, cached)),
                false => (self.observe)(&report)?,
            }
        }
        ids.iter().try_for_each(|id| self.evict_after(*id))
    }

    fn evict_after(&mut self, id: NodeId) -> anyhow::Result<()> {
        self.retention.evict_after(id, &self.plan, self.executor.store, self.root)
    }

    /// Starts as many of the ready nodes as resources allow, the first of the graph first.
    fn start_ready(&mut self) -> anyhow::Result<()> {
        while !self.is_stopped() && self.count(|step| matches!(step, Step::Recording { .. })) < MOST_RECORDING
        {
            let Some(id) = self.plan.first_ready(|needs| self.resources.lacking(needs)) else { break };
            if let Err(message) = self.resources.check(self.plan.needs(id)) {
                self.fail(id, anyhow!(message));
                continue;
            }
            // While another process has units of the host, nodes that need none go on.
            let Some(grant) = self.resources.take(self.plan.needs(id)) else {
                if !std::mem::replace(&mut self.waits_for_host, true) {
                    let names = self.resources.of_host(self.plan.needs(id)).join(", ");
                    let message = format!("waiting: another process on this host has its {names}");
                    self.executor.progress.message(&message);
                }
                continue;
            };
            self.start(id, grant)?;
        }
        self.report_found()
    }

    /// Starts a node, unless another node or process is at work on its key.
    fn start(&mut self, id: NodeId, grant: Grant) -> anyhow::Result<()> {
        // An input may have come out different since its key was made.
        let before = self.plan.key(id);
        if self.plan.has_changed(id) {
            let claimed = before.filter(|key| {
                let work = self.keys.get(key);
                work.is_some_and(|work| work.node == id && matches!(work.step, Step::Claimed(_)))
            });
            let others = claimed.and_then(|key| self.keys.remove(&key)).map(|work| work.others);
            self.free(others.into_iter().flatten());
            return Ok(());
        }
        let (Some(key), Some(why)) = (self.plan.key(id), self.plan.why(id)) else {
            self.fail(id, anyhow!("its key is not known: a defect of triplay"));
            return Ok(());
        };
        match self.keys.remove(&key) {
            Some(Work { node, others, step: Step::Claimed(claim) }) if node == id => {
                return self.start_claimed(id, key, why, others, claim, grant);
            }
            Some(mut work) => {
                work.others.push(id);
                self.keys.insert(key, work);
                self.plan.set(id, State::Held { why });
                return Ok(());
            }
            None => {}
        }
        match self.executor.store.claim_key(&key) {
            Ok(Claimed::Mine(claim)) => self.start_claimed(id, key, why, Vec::new(), claim, grant)?,
            Ok(Claimed::Others(process)) => self.wait_for(id, key, why, Vec::new(), process),
            Err(error) => self.fail(id, error.into()),
        }
        Ok(())
    }

    /// Another process computes the key: waits for it on a thread of its own.
    fn wait_for(&mut self, id: NodeId, key: Digest, why: Why, others: Vec<NodeId>, process: Option<Process>) {
        let name = &self.plan.graph.node(id).name;
        let process = process.map_or("another process".to_owned(), |process| process.to_string());
        self.executor.progress.message(&format!("waiting: {process} computes {name}"));
        self.plan.set(id, State::Held { why });
        self.keys.insert(key, Work { node: id, others, step: Step::Elsewhere });
        let (events, store, stop) = (self.events.clone(), self.executor.store, self.stop.clone());
        self.recorders.scope.spawn(move || {
            let claimed = loop {
                match store.claim_key(&key) {
                    Ok(Claimed::Others(_)) if !stop.load(Ordering::SeqCst) => std::thread::sleep(LOOK_AGAIN),
                    claimed => break claimed,
                }
            };
            // The receiver is gone only when the run has ended.
            let _ = events.send(Event::Unclaimed { key, claimed });
        });
    }

    /// Starts a node whose key this process has claimed.
    fn start_claimed(
        &mut self,
        id: NodeId,
        key: Digest,
        why: Why,
        others: Vec<NodeId>,
        claim: Claim,
        grant: Grant,
    ) -> anyhow::Result<()> {
        self.executor.store.refresh()?;
        if self.plan.is_done_by_now(id) {
            drop(claim);
            self.free(others);
            return Ok(());
        }
        let node = self.plan.graph.node(id);
        if let Reason::NeededBy { node: by } = why.reason {
            self.retention.keep_until_end(id, &self.plan);
            let (name, by) = (&node.name, &self.plan.graph.node(by).name);
            let text = format!("making {name} again: {by} needs its evicted output");
            self.executor.progress.message(&text);
        }
        let Some(mut job) = self.plan.job(id) else {
            self.fail(id, anyhow!("its inputs are not known: a defect of triplay"));
            return Ok(());
        };
        let check = self.plan.outputs(id).filter(|_| why.reason == Reason::Check).map(Box::from);
        if why.reason == Reason::Forced
            && let Some((_, outputs)) = self.plan.recorded_outputs(id)
        {
            self.replaced.insert(id, outputs);
        }
        let again = self.plan.outputs_before(id).is_some() || why.reason == Reason::Forced;
        (job.devices, job.host_units) = (grant.devices().to_vec(), grant.host_units());
        let on_its_own = node.call.policy.on == On::Process && check.is_none();
        let asks_server = !job.endpoints.is_empty();
        let task = Task { job, key, call: node.call.clone(), again, check };
        grant.begin();
        self.plan.set(id, State::Running { why });
        self.executor.progress.node_started(&node.name, node.call.kind.name, asks_server);
        self.keys.insert(key, Work { node: id, others, step: Step::Running { _grant: grant } });
        let runner = if on_its_own { &mut self.processes } else { &mut self.here };
        runner.start(task, claim);
        Ok(())
    }

    /// Waits for the next event, and handles it.
    fn take_next(&mut self, inbox: &Receiver<Event>) -> anyhow::Result<()> {
        let due = self.due.first_key_value().map(|((due, _), _)| *due);
        let event = match due.into_iter().chain(self.resources.later()).min() {
            // There is nothing at work that would send an event.
            None if self.keys.is_empty() => inbox.recv_timeout(LOOK_AGAIN),
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match event {
            Ok(Event::Unclaimed { key, claimed }) => self.unclaimed(key, claimed)?,
            Ok(Event::Ended { key, ended, claim, seconds }) => self.ended(key, ended, claim, seconds)?,
            Ok(Event::Recorded { key, recorded }) => self.recorded(key, recorded)?,
            Err(RecvTimeoutError::Timeout) => self.try_again(),
            // This scheduler has a sender itself.
            Err(RecvTimeoutError::Disconnected) => {}
        }
        self.report_found()
    }

    /// Frees the keys whose delay is over.
    fn try_again(&mut self) {
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= Instant::now()) {
            if let Some(Work { node, others, .. }) = self.keys.remove(&entry.remove()) {
                self.free(others.into_iter().chain([node]));
            }
        }
    }

    /// Makes held nodes ready.
    fn free(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for id in nodes {
            if let State::Held { why } = self.plan.state(id) {
                self.plan.set(id, State::Ready { why });
            }
        }
    }

    /// A key that another process had is claimed: its node is done, or starts when there are resources.
    fn unclaimed(&mut self, key: Digest, claimed: Result<Claimed, StoreError>) -> anyhow::Result<()> {
        let Some(Work { node, others, .. }) = self.keys.remove(&key) else { return Ok(()) };
        match claimed {
            Ok(Claimed::Mine(claim)) if !self.is_stopped() => {
                self.executor.store.refresh()?;
                if self.plan.is_done_by_now(node) {
                    drop(claim);
                    self.free(others);
                } else {
                    self.free([node]);
                    self.keys.insert(key, Work { node, others, step: Step::Claimed(claim) });
                }
            }
            Ok(_) => {}
            Err(error) => self.fail_all(node, others, error.into()),
        }
        Ok(())
    }

    fn ended(
        &mut self,
        key: Digest,
        ended: JobOutcome,
        claim: Option<Claim>,
        seconds: f64,
    ) -> anyhow::Result<()> {
        // This drops the grant and so gives the resources back.
        let Some(Work { node: id, others, .. }) = self.keys.remove(&key) else { return Ok(()) };
        let progress = self.executor.progress;
        let name = self.plan.graph.node(id).name.clone();
        let why = self.plan.why(id).unwrap_or(Reason::NoRecord.into());
        let retry = &self.plan.graph.node(id).call.policy.retry;
        let ended = match ended {
            JobOutcome::Failed(error) if retry.on == Retried::Any => JobOutcome::Transient(error),
            ended => ended,
        };
        if let JobOutcome::Found
        | JobOutcome::Elsewhere
        | JobOutcome::InputsMissing
        | JobOutcome::Transient(_) = ended
        {
            progress.node_set_aside(&name);
        }
        match ended {
            JobOutcome::Placed(placed) => self.placed(id, others, why, *placed, claim, seconds),
            JobOutcome::Recorded => {
                self.executor.store.refresh()?;
                match self.plan.recorded_outputs(id) {
                    None => {
                        let error =
                            anyhow!("its process says that it recorded its outputs, but there is no record");
                        self.fail_all(id, others, error);
                    }
                    // An output was deleted meanwhile, such as one that this run had evicted.
                    Some((_, outputs))
                        if outputs.iter().any(|blob| !self.executor.store.has_blob(&blob.digest)) =>
                    {
                        if !self.plan.look_up(id) {
                            self.plan.set(id, State::Ready { why });
                        }
                        self.free(others);
                    }
                    Some((seconds, outputs)) => {
                        let pins = self.executor.store.pin(outputs.iter().map(|blob| blob.digest));
                        self.executor.store.count_as_made(outputs.iter().map(|blob| blob.digest));
                        if let Some(new) = self.made(id, &others, seconds, outputs) {
                            let again = matches!(why.reason, Reason::NeededBy { .. });
                            let step = Step::Recording { again, seconds, new };
                            self.keys.insert(key, Work { node: id, others, step });
                            self.recorded(key, Ok(pins))?;
                        }
                    }
                }
            }
            JobOutcome::Found => {
                self.executor.store.refresh()?;
                if !self.plan.look_up(id) {
                    self.plan.set(id, State::Ready { why });
                }
                self.free(others);
            }
            JobOutcome::Elsewhere => self.wait_for(id, key, why, others, None),
            JobOutcome::InputsMissing if why.missed < MOST_MISSED => {
                progress.message(&format!("{name}: an input is missing or damaged; making it again"));
                self.plan.schedule(id, Why { missed: why.missed + 1, ..why });
                self.free(others);
            }
            JobOutcome::InputsMissing => {
                let error = anyhow!(
                    "an input was missing or damaged {} times, although it was made again each time\n  help: \
                     `triplay cache verify` says what is damaged; something else may be writing to {}",
                    why.missed + 1,
                    self.executor.store.root().display()
                );
                self.fail_all(id, others, error);
            }
            JobOutcome::Checked(differences) => {
                progress.node_finished(&name, Outcome::Again, seconds);
                self.report.checked.push(Checked { node: name, differences });
                self.plan.finish_with_known_outputs(id);
                self.free(others);
                self.evict_after(id)?;
            }
            JobOutcome::Transient(error) => {
                if why.failed >= retry.times || self.is_stopped() {
                    self.fail_all(id, others, error);
                } else {
                    self.delay(id, others, key, why, &error);
                }
            }
            JobOutcome::Failed(error) | JobOutcome::FileChanged(error) => {
                self.fail_all(id, others, error);
            }
        }
        Ok(())
    }

    /// Has a node tried again after a wait. Meanwhile it holds neither resources nor its key.
    fn delay(&mut self, id: NodeId, others: Vec<NodeId>, key: Digest, why: Why, error: &anyhow::Error) {
        let (name, retry) = (&self.plan.graph.node(id).name, &self.plan.graph.node(id).call.policy.retry);
        let failed = why.failed + 1;
        let wait =
            retry.wait.saturating_mul(2u32.saturating_pow(failed - 1)).min(retry.wait.max(LONGEST_WAIT));
        let error = format!("{error:#}");
        let (error, more) = error.split_once('\n').unwrap_or((&error, ""));
        let again = format!("trying again in {} ({failed} of {})", in_words(wait), retry.times);
        self.executor.progress.message(format!("{name}: {error}; {again}\n{more}").trim_end());
        // The nodes with the same key have failed as often.
        for node in others.iter().chain([&id]) {
            let why = self.plan.why(*node).unwrap_or(why);
            self.plan.set(*node, State::Held { why: Why { failed, ..why } });
        }
        self.keys.insert(key, Work { node: id, others, step: Step::Delayed });
        // Beyond the end of the clock, looking once a day is enough.
        let due = Instant::now().checked_add(wait).unwrap_or_else(|| Instant::now() + 24 * LONGEST_WAIT);
        self.due.insert((due, id), key);
    }

    /// A node's outputs are in their places: nodes that waited for them go on, while they are recorded.
    fn placed(
        &mut self,
        id: NodeId,
        others: Vec<NodeId>,
        why: Why,
        placed: Placed,
        claim: Option<Claim>,
        seconds: f64,
    ) {
        let blobs = placed.outputs.iter().map(NodeOutput::blob).collect();
        let Some(key) = self.plan.key(id) else { return };
        // Outputs that differ are recorded all the same.
        let new = self.made(id, &others, placed.seconds, blobs).unwrap_or_default();
        let again = matches!(why.reason, Reason::NeededBy { .. });
        self.keys.insert(key, Work { node: id, others, step: Step::Recording { again, seconds, new } });
        let recording = self.count(|step| matches!(step, Step::Recording { .. }));
        self.recorders.give((key, placed, claim), recording.min(RECORDERS));
    }

    /// A node's outputs are in the cache: returns the others that are done by them for the first time. `None` if they are not
    /// those that the node had before.
    fn made(
        &mut self,
        id: NodeId,
        others: &[NodeId],
        seconds: f64,
        blobs: Box<[Blob]>,
    ) -> Option<Vec<NodeId>> {
        let declared = self.plan.graph.node(id).call.outputs();
        let before = self.plan.outputs_before(id);
        if let Some(output) = before.and_then(|before| first_difference(declared, before, &blobs)) {
            let error = came_out_different(&declared[output].name, &blobs[output]);
            self.fail_all(id, others.to_vec(), error);
            return None;
        }
        if let Some(before) = self.replaced.remove(&id)
            && let Some(output) = first_difference(declared, &before, &blobs)
        {
            let (name, output) = (&self.plan.graph.node(id).name, &declared[output].name);
            let text = format!(
                "{name}: its output `{output}` differs from the recorded one, which earlier runs keep"
            );
            self.executor.progress.message(&text);
        }
        self.plan.set_seconds(id, seconds);
        self.plan.finish(id, blobs.clone(), false);
        let is_new =
            |why: Why| matches!(why.reason, Reason::NoRecord | Reason::BlobMissing { .. } | Reason::Forced);
        let new = others.iter().filter(|other| self.plan.why(**other).is_some_and(is_new)).copied().collect();
        others.iter().for_each(|other| self.plan.finish(*other, blobs.clone(), false));
        Some(new)
    }

    fn recorded(&mut self, key: Digest, recorded: anyhow::Result<Pins>) -> anyhow::Result<()> {
        let Some(Work { node: id, others, step }) = self.keys.remove(&key) else { return Ok(()) };
        let _pins = match recorded {
            Ok(pins) => pins,
            Err(error) => {
                self.stop();
                self.fail_all(id, others, error);
                return Ok(());
            }
        };
        if self.plan.state(id) == State::Failed {
            return Ok(());
        }
        let Step::Recording { again, seconds, new } = step else { return Ok(()) };
        self.executor.store.refresh()?;
        self.plan.set_recorded(id);
        others.iter().for_each(|other| self.plan.set_recorded(*other));
        self.plan.add_found(new);
        if again {
            self.report.again += 1;
            self.evict_after(id)?;
        } else {
            self.report.ran += 1;
            self.report_done(&[id], false)?;
        }
        others.iter().try_for_each(|other| self.evict_after(*other))?;
        self.report_time_left();
        let outcome = if again { Outcome::Again } else { Outcome::Ran };
        self.executor.progress.node_finished(&self.plan.graph.node(id).name, outcome, seconds);
        self.check(id);
        // Nodes that got the key meanwhile.
        for other in others {
            if let State::Held { .. } = self.plan.state(other)
                && !self.plan.look_up(other)
            {
                self.free([other]);
            }
        }
        Ok(())
    }

    /// Reports the remaining time, now and then.
    fn report_time_left(&mut self) {
        let begun = Instant::now();
        if begun < self.next_estimate {
            return;
        }
        if let Some(seconds) = self.plan.time_left(|name| self.resources.units(name)) {
            self.executor.progress.time_left(seconds);
        }
        // Seldom for large graphs: the estimate visits all nodes.
        self.next_estimate = Instant::now() + ESTIMATE_EVERY.max(begun.elapsed() * 100);
    }

    fn fail(&mut self, id: NodeId, cause: anyhow::Error) {
        let node = self.plan.graph.node(id).name.clone();
        self.executor.progress.node_finished(&node, Outcome::Failed, 0.0);
        self.plan.fail(id);
        self.report.failures.push(RunError { node, cause });
        if !self.options.keep_going {
            self.stop();
            let running = self.count(|step| matches!(step, Step::Running { .. }));
            if running > 0 {
                let text = format!("waiting for {running} more to end; Ctrl-C stops them");
                self.executor.progress.message(&text);
            }
        }
    }

    /// A node failed, and with it the others with its key: they would fail too.
    fn fail_all(&mut self, id: NodeId, others: Vec<NodeId>, cause: anyhow::Error) {
        self.fail(id, cause);
        if self.options.keep_going {
            let name = self.plan.graph.node(id).name.clone();
            for other in others {
                self.fail(other, anyhow!("{name} failed, and this node has the same key"));
            }
        }
    }
}

fn first_difference(declared: &[Output], before: &[Blob], now: &[Blob]) -> Option<usize> {
    let pairs = before.iter().zip(now).zip(declared);
    pairs.into_iter().position(|((before, now), output)| before.digest != now.digest && !output.incidental)
}

fn came_out_different(output: &str, blob: &Blob) -> anyhow::Error {
    anyhow!(
        "it was made again and its output `{}` came out different ({} now): the stage is not deterministic, or the \
         cache is from another machine\n  help: the new output is recorded; the next run goes on from it",
        output,
        blob.digest.short()
    )
}
