//! Counts the events of a run and forwards them to the terminal, so that an interrupt can report and record them at any
//! moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use super::trace::Trace;
use crate::engine;
use crate::engine::Purpose;
use crate::engine::progress::{Outcome, Progress};
use crate::exec::{keep_unfinished, on_interrupt};
use crate::runs::{Event, EventLog, RunRecord, write_record};
use output::{eprintln, fixed, println};

/// The status of a run until [`RunProgress::close`].
pub(crate) const RUNNING: &str = "running";

/// The newest run of this process, which an interrupt ends.
static NEWEST: Mutex<Option<Arc<RunProgress>>> = Mutex::new(None);

pub(crate) struct RunProgress {
    reporter: Box<dyn Progress>,
    begun: Instant,
    folder: PathBuf,
    json: bool,
    /// The command that continues the run.
    command: String,
    trace: Option<Trace>,
    /// The log that viewers of the run follow.
    events: EventLog,
    ran: AtomicUsize,
    cached: AtomicUsize,
    again: AtomicUsize,
    failed: AtomicUsize,
    /// Nodes of rounds that their loops did not reach.
    unreached: AtomicUsize,
    at_work: Mutex<BTreeMap<String, AtWork>>,
    record: Mutex<RunRecord>,
}

/// A node at work.
struct AtWork {
    kind: String,
    asks_server: bool,
    begun: Instant,
    done: u64,
    total: u64,
}

/// Most nodes that an interrupt names.
const MOST_NAMED: usize = 5;

/// How a run is shown.
pub(crate) struct RunDisplay {
    pub reporter: Box<dyn Progress>,
    pub json: bool,
    pub command: String,
    pub trace: Option<Trace>,
}

impl RunProgress {
    pub(crate) fn new(show: RunDisplay, begun: Instant, record: RunRecord, folder: PathBuf) -> RunProgress {
        let RunDisplay { reporter, json, command, trace } = show;
        let [ran, cached, again, failed, unreached] = [const { AtomicUsize::new(0) }; 5];
        let record = Mutex::new(record);
        let events = EventLog::create(&folder);
        RunProgress {
            reporter,
            begun,
            folder,
            json,
            command,
            trace,
            events,
            ran,
            cached,
            again,
            failed,
            unreached,
            at_work: Mutex::default(),
            record,
        }
    }

    /// Writes the run's record with its final counts. Returns the record, and whether it was written. A closed record stays
    /// as it is: an interrupt after the end of the run changes nothing.
    pub(crate) fn close(
        &self,
        status: &str,
        change: impl FnOnce(&mut RunRecord),
    ) -> (RunRecord, anyhow::Result<()>) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.status != RUNNING {
            return (record.clone(), Ok(()));
        }
        record.status = status.into();
        record.ran = self.ran.load(Ordering::SeqCst);
        record.cached = self.cached.load(Ordering::SeqCst);
        record.again = self.again.load(Ordering::SeqCst);
        record.failed = self.failed.load(Ordering::SeqCst);
        record.nodes -= self.unreached.load(Ordering::SeqCst).min(record.nodes);
        record.skipped = record.nodes.saturating_sub(record.ran + record.cached + record.failed);
        record.seconds = self.begun.elapsed().as_secs_f64();
        change(&mut record);
        let written = write_record(&self.folder, &record);
        (record.clone(), written)
    }

    /// Adds the critical path to the trace, if there is a trace.
    pub(crate) fn show_critical_path(&self, graph: &engine::Graph) {
        self.trace.iter().for_each(|trace| trace.show_critical_path(graph));
    }

    /// Writes the trace, if there is one.
    pub(crate) fn write_trace(&self) -> anyhow::Result<()> {
        self.trace.as_ref().map_or(Ok(()), Trace::write)
    }

    /// Records in the event log why a node failed.
    pub(crate) fn log_failure(&self, node: &str, why: String) {
        self.events.add(Event::Failed { node: node.to_owned(), why });
    }

    fn at_work(&self) -> MutexGuard<'_, BTreeMap<String, AtWork>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For each node at work the work that is lost with it: a node that has not ended begins again, but for the rows that a server
    /// answered.
    fn lost(&self, record: &RunRecord) -> Vec<String> {
        let at_work = self.at_work();
        let line = |(node, work): (&String, &AtWork)| {
            if work.asks_server {
                return format!("{node} goes on: the rows that the server answered are kept");
            }
            // Only training counts its steps; other stages count what they are just doing.
            let is_counted = record.purpose(&work.kind) == Purpose::Training && work.total > 1;
            let steps = match is_counted {
                true => format!("{} of {} steps, ", work.done, work.total),
                false => String::new(),
            };
            format!(
                "{node} begins again: {steps}{} s of work are lost",
                fixed(work.begun.elapsed().as_secs_f64(), 1)
            )
        };
        let mut lines: Vec<String> = at_work.iter().take(MOST_NAMED).map(line).collect();
        if at_work.len() > MOST_NAMED {
            lines.push(format!("and {} more nodes at work", at_work.len() - MOST_NAMED));
        }
        lines
    }

    /// Ctrl-C, SIGTERM and SIGHUP end the process at once, unless they are ignored. That is safe at any moment: nothing
    /// counts before its record is published, and supervisors end the processes of `exec` stages.
    pub(crate) fn stop_on_interrupt(self: &Arc<RunProgress>) -> anyhow::Result<()> {
        let newest = || NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
        if newest().replace(self.clone()).is_some() {
            // A program that runs several pipelines listens already.
            return Ok(());
        }
        on_interrupt(move || {
            let Some(ledger) = newest().clone() else { return };
            ledger.run_finished();
            // Before their processes end and report it.
            let lost = ledger.lost(&ledger.record.lock().unwrap_or_else(PoisonError::into_inner));
            let (record, closed) = ledger.close("interrupted", |_| {});
            match closed.and_then(|()| ledger.write_trace()) {
                Ok(()) => {
                    if ledger.json {
                        println!("{}", summary(&record, &ledger.folder));
                    }
                    eprintln!(
                        "interrupted: {} of {} nodes are done and kept. To continue: {}",
                        record.ran + record.cached,
                        record.nodes,
                        ledger.command
                    );
                    lost.iter().for_each(|line| eprintln!("  {line}"));
                }
                Err(error) => eprintln!("interrupted; finished nodes are kept, but: {error:#}"),
            }
            keep_unfinished().iter().for_each(|line| eprintln!("  {line}"));
            // Jobs in processes of their own outlive a run that is killed, but not one that is interrupted. They are ended
            // last, because the run would count them as failed.
            engine::end_processes();
            // Servers outlive this process, and would keep its adapters.
            #[cfg(feature = "models")]
            crate::stages::unload_adapters();
            std::process::exit(130);
        })
        .context("cannot listen for Ctrl-C")
    }
}

/// The object that `--json` prints.
pub(crate) fn summary(record: &RunRecord, folder: &std::path::Path) -> String {
    json!({
        "run": record.run,
        "status": record.status,
        "ran": record.ran,
        "cached": record.cached,
        "again": record.again,
        "failed": record.failed,
        "skipped": record.skipped,
        "seconds": record.seconds,
        "unchanged": record.unchanged,
        "results": folder,
    })
    .to_string()
}

/// The last line of the output for people.
pub(crate) fn last_line(record: &RunRecord, folder: &std::path::Path) -> String {
    let RunRecord { ran, cached, again, failed, skipped, seconds, .. } = record;
    let some = |count: usize, what: &str| if count > 0 { format!(", {what} {count}") } else { String::new() };
    format!(
        "ran {ran}, cached {cached}, failed {failed}{}{} in {seconds:.1} s: {}",
        some(*again, "made again"),
        some(*skipped, "skipped"),
        folder.display()
    )
}

impl Progress for RunProgress {
    fn run_started(&self, pipeline: &str, total: usize) {
        self.reporter.run_started(pipeline, total);
    }

    fn node_started(&self, node: &str, kind: &str, asks_server: bool) {
        if let Some(trace) = &self.trace {
            trace.begin(node, kind);
        }
        let work = AtWork { kind: kind.to_owned(), asks_server, begun: Instant::now(), done: 0, total: 0 };
        self.at_work().insert(node.to_owned(), work);
        self.events.add(Event::Started { node: node.to_owned(), kind: kind.to_owned() });
        self.reporter.node_started(node, kind, asks_server);
    }

    fn node_progress(&self, node: &str, done: u64, total: u64, note: &str) {
        if let Some(work) = self.at_work().get_mut(node) {
            (work.done, work.total) = (done, total);
        }
        self.events.progress(node, done, total, note);
        self.reporter.node_progress(node, done, total, note);
    }

    fn node_finished(&self, node: &str, outcome: Outcome, seconds: f64) {
        let (counter, name) = match outcome {
            Outcome::Ran => (&self.ran, "ran"),
            Outcome::Cached => (&self.cached, "cached"),
            Outcome::Again => (&self.again, "again"),
            Outcome::Failed => (&self.failed, "failed"),
        };
        counter.fetch_add(1, Ordering::SeqCst);
        self.at_work().remove(node);
        if let Some(trace) = &self.trace {
            trace.end(node, name);
        }
        self.events.add(Event::Ended { node: node.to_owned(), outcome: name.to_owned(), seconds });
        self.reporter.node_finished(node, outcome, seconds);
    }

    fn node_set_aside(&self, node: &str) {
        if let Some(trace) = &self.trace {
            trace.end(node, "set aside");
        }
        self.at_work().remove(node);
        self.events.add(Event::SetAside { node: node.to_owned() });
        self.reporter.node_set_aside(node);
    }

    fn time_left(&self, seconds: f64) {
        self.reporter.time_left(seconds);
    }

    fn nodes_cached(&self, count: usize) {
        self.cached.fetch_add(count, Ordering::SeqCst);
        self.events.add(Event::Cached { count });
        self.reporter.nodes_cached(count);
    }

    fn nodes_unreached(&self, count: usize) {
        self.unreached.fetch_add(count, Ordering::SeqCst);
        self.reporter.nodes_unreached(count);
    }

    fn message(&self, text: &str) {
        self.events.add(Event::Message { text: text.to_owned() });
        self.reporter.message(text);
    }

    fn run_finished(&self) {
        self.reporter.run_finished();
    }
}
