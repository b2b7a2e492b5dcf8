//! `triplay pipeline run` and `check`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use super::folder::{RunFolder, RunRecord, write_record};
use super::{FileArgs, RunArgs, progress};
use crate::analysis;
use crate::engine::progress::{Outcome, Progress};
use crate::engine::{self, Graph, LoadOptions, Memory, NodeReport};
use crate::stages;
use crate::store::Store;

/// Bytes of loaded models and datasets kept between nodes.
const MEMORY: usize = 256 << 20;

fn load(args: &FileArgs) -> anyhow::Result<Graph> {
    let options = LoadOptions { settings: &args.settings, ..LoadOptions::default() };
    Ok(engine::load(&args.file, &options, &stages::registry())?)
}

pub fn check(args: &FileArgs) -> anyhow::Result<ExitCode> {
    let graph = load(args)?;
    println!("{}: valid, {} nodes", args.file.display(), graph.nodes.len());
    Ok(ExitCode::SUCCESS)
}

pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let graph = load(&args.pipeline)?;
    let store = Store::open(&args.cache.cache, || {
        eprintln!("waiting: another triplay runs on the cache {}", args.cache.cache.display());
    })?;
    let (run, mut folder) = RunFolder::create(&graph.pipeline)?;
    let record = RunRecord {
        run,
        pipeline: graph.pipeline.clone(),
        file: args.pipeline.file.clone(),
        params: json!(graph.variants[0].params),
        triplay: env!("CARGO_PKG_VERSION").into(),
        cache: store.root().to_owned(),
        nodes: graph.nodes.len(),
        status: "running".into(),
        ran: 0,
        cached: 0,
        failed: 0,
        skipped: 0,
        seconds: 0.0,
    };
    write_record(&folder.path, &record)?;
    let ledger = Arc::new(Ledger::new(args, begun, record, &folder));
    stop_on_interrupt(&ledger)?;

    let mut nodes: Vec<NodeReport> = Vec::new();
    let memory = Memory::new(MEMORY);
    let report = engine::run(&graph, &store, &memory, ledger.as_ref(), &mut |node| {
        folder.add(node)?;
        nodes.push(node.clone());
        Ok(())
    });
    let metrics = analysis::collect(&nodes, &store)?;
    analysis::write(&folder.path.join("metrics.parquet"), &metrics)?;
    analysis::link_models(&folder.path.join("models"), &nodes, &store)?;
    let record = ledger.close(match report.failure {
        None => "done",
        Some(_) => "failed",
    })?;
    if let Some(failure) = &report.failure {
        eprintln!("error: {failure}");
    }
    if args.json {
        println!("{}", ledger.summary(&record));
    } else {
        print!("{}", analysis::table(&metrics));
        println!("{}", ledger.last_line(&record));
    }
    Ok(if report.failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Counts what happens on its way to the terminal, so that an interrupt can say and record it at any moment.
struct Ledger {
    reporter: Box<dyn Progress>,
    begun: Instant,
    folder: std::path::PathBuf,
    json: bool,
    command: String,
    ran: AtomicUsize,
    cached: AtomicUsize,
    failed: AtomicUsize,
    record: Mutex<RunRecord>,
}

impl Ledger {
    fn new(args: &RunArgs, begun: Instant, record: RunRecord, folder: &RunFolder) -> Ledger {
        let mut command = format!("triplay pipeline run {}", args.pipeline.file.display());
        for setting in &args.pipeline.settings {
            command += &format!(" --set {setting}");
        }
        if args.cache.cache.as_os_str() != ".triplay" {
            command += &format!(" --cache {}", args.cache.cache.display());
        }
        Ledger {
            reporter: progress::reporter(),
            begun,
            folder: folder.path.clone(),
            json: args.json,
            command,
            ran: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            record: Mutex::new(record),
        }
    }

    /// Writes the run's record with its final counts.
    fn close(&self, status: &str) -> anyhow::Result<RunRecord> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.status = status.into();
        record.ran = self.ran.load(Ordering::SeqCst);
        record.cached = self.cached.load(Ordering::SeqCst);
        record.failed = self.failed.load(Ordering::SeqCst);
        record.skipped = record.nodes - record.ran - record.cached - record.failed;
        record.seconds = self.begun.elapsed().as_secs_f64();
        write_record(&self.folder, &record)?;
        Ok(record.clone())
    }

    fn summary(&self, record: &RunRecord) -> String {
        json!({
            "run": record.run,
            "status": record.status,
            "ran": record.ran,
            "cached": record.cached,
            "failed": record.failed,
            "skipped": record.skipped,
            "seconds": record.seconds,
            "results": self.folder,
        })
        .to_string()
    }

    fn last_line(&self, record: &RunRecord) -> String {
        let RunRecord { ran, cached, failed, skipped, seconds, .. } = record;
        let skipped = if *skipped > 0 { format!(", skipped {skipped}") } else { String::new() };
        format!(
            "ran {ran}, cached {cached}, failed {failed}{skipped} in {seconds:.1} s: {}",
            self.folder.display()
        )
    }
}

impl Progress for Ledger {
    fn run_started(&self, pipeline: &str, total: usize) {
        self.reporter.run_started(pipeline, total);
    }

    fn node_started(&self, node: &str, kind: &str) {
        self.reporter.node_started(node, kind);
    }

    fn node_progress(&self, done: u64, total: u64, note: &str) {
        self.reporter.node_progress(done, total, note);
    }

    fn node_finished(&self, node: &str, outcome: Outcome, seconds: f64) {
        let counter = match outcome {
            Outcome::Ran => &self.ran,
            Outcome::Cached => &self.cached,
            Outcome::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        self.reporter.node_finished(node, outcome, seconds);
    }

    fn message(&self, text: &str) {
        self.reporter.message(text);
    }

    fn run_finished(&self) {
        self.reporter.run_finished();
    }
}

/// Ctrl-C and SIGTERM end the process at once. That is safe at any moment: nothing counts before its record
/// is published, and publication is one rename.
fn stop_on_interrupt(ledger: &Arc<Ledger>) -> anyhow::Result<()> {
    let ledger = ledger.clone();
    ctrlc::set_handler(move || {
        ledger.run_finished();
        match ledger.close("interrupted") {
            Ok(record) => {
                if ledger.json {
                    println!("{}", ledger.summary(&record));
                }
                eprintln!(
                    "interrupted: {} of {} nodes are done and kept. To go on: {}",
                    record.ran + record.cached,
                    record.nodes,
                    ledger.command
                );
            }
            Err(error) => eprintln!("interrupted; what is done is kept, but: {error:#}"),
        }
        std::process::exit(130);
    })
    .context("cannot listen for Ctrl-C")
}
