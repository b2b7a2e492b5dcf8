//! Commands, their arguments and their exit codes: 0 done, 1 a stage failed, 2 the pipeline or the command
//! line is wrong, 130 interrupted. No command computes anything itself.

mod cache;
mod compare;
mod compare_runs;
mod export;
mod graph;
mod import;
mod judge;
mod kinds;
mod ledger;
#[cfg(feature = "models")]
mod model;
mod pipeline;
mod plan;
mod progress;
mod query;
mod report;
mod results;
mod runs;
mod runs_export;
mod schema;
mod show;
mod trace;
mod ui;
mod work;

use output::eprintln;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::engine::Registry;

/// Declarative, cached pipelines for tri-role self-play reinforcement learning.
#[derive(Parser)]
#[command(name = "triplay", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run and check pipelines
    #[command(subcommand)]
    Pipeline(PipelineCommand),
    /// Look at runs, compare and remove them
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Many seeds and ablations together, as a table and as curves
    #[command(subcommand)]
    Results(results::ResultsCommand),
    /// Write what runs came to as a page in one file
    Report(report::ReportArgs),
    /// Look at a run in a browser, while it runs or afterwards
    Ui(ui::UiArgs),
    /// Judge the responses of a run again with another judge; generates nothing
    Judge(judge::JudgeArgs),
    /// Look after the cache
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Look at datasets, import and export them
    #[command(subcommand)]
    Data(DataCommand),
    /// Use a model at the prompt
    #[cfg(feature = "models")]
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Do one job, described by a file, in this process, and record it
    Work(WorkArgs),
    /// Between triplay and the command of an `exec` stage: see `exec::supervise`
    #[command(hide = true)]
    Supervise {
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

#[derive(Subcommand)]
enum PipelineCommand {
    /// Run what is missing of a pipeline
    Run(RunArgs),
    /// Validate a pipeline without running anything
    Check(FileArgs),
    /// Show what would run, and why
    Plan(PlanArgs),
    /// Explain why a node would run, or would not
    Explain(ExplainArgs),
    /// Draw the stages and what feeds them, for mermaid or Graphviz, or as JSON
    Graph(graph::GraphArgs),
    /// Say what the stage kinds do, take and make
    Kinds(kinds::KindsArgs),
    /// Print the JSON Schema of pipeline files, for editors
    Schema(schema::SchemaArgs),
}

#[derive(Subcommand)]
enum RunsCommand {
    /// List runs, the newest first
    List(RunsListArgs),
    /// Show what was run, where and what it came to
    Show(RunsShowArgs),
    /// Show where runs part, what that did to their metrics, and whether it may be chance
    Compare(RunsCompareArgs),
    /// Write runs as the files of other programs, such as Inspect, TensorBoard or MLflow
    Export(runs_export::RunsExportArgs),
    /// Remove runs; `cache gc` then frees what only they used
    Rm(RunsRmArgs),
}

#[derive(Subcommand)]
enum CacheCommand {
    /// Show what the cache holds
    Stats(StatsArgs),
    /// Hash everything again; what is damaged is put aside and made again by the next run
    Verify(StatsArgs),
    /// Free what no run uses
    Gc(GcArgs),
}

/// A pipeline file and the parameters to change in it.
#[derive(Args, Clone)]
struct FileArgs {
    /// The pipeline's YAML file
    file: PathBuf,
    /// Change a parameter of the pipeline, or its seed
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Run this ablation of the pipeline; may be repeated, `all` is all of them
    #[arg(long = "ablation", value_name = "NAME")]
    ablations: Vec<String>,
    /// Run it once with each of these seeds, side by side [default: the file's]
    #[arg(long, value_delimiter = ',', value_name = "N,M,…", value_parser = clap::value_parser!(u64).range(..1 << 63))]
    seeds: Vec<u64>,
}

#[derive(Args, Clone)]
struct RunArgs {
    #[command(flatten)]
    pipeline: FileArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// How much `cpu` there is: how many nodes run side by side [default: the number of cores]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// After a failure, go on with what does not depend on it
    #[arg(long)]
    keep_going: bool,
    /// Only show what would run, and why
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: exit with 3 where something would run
    #[arg(long, requires = "dry_run")]
    exit_code: bool,
    /// Compute this node again once it is done and say what comes out different; the original stays
    #[arg(long, value_name = "NODE")]
    check: Vec<String>,
    /// Hash files outside even where nothing shows that they changed
    #[arg(long)]
    paranoid: bool,
    /// Write what ran when to this file, in Chrome's trace format
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

#[derive(Args, Clone)]
struct PlanArgs {
    #[command(flatten)]
    pipeline: FileArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// List every node, the cached among them
    #[arg(long)]
    all: bool,
    /// Exit with 3 where something would run
    #[arg(long)]
    exit_code: bool,
    /// Hash files outside even where nothing shows that they changed
    #[arg(long)]
    paranoid: bool,
}

#[derive(Args)]
struct ExplainArgs {
    #[command(flatten)]
    pipeline: FileArgs,
    /// The node, such as `play[1]/red[03]/update`
    node: String,
    /// Print the node's job, for `triplay work`, and nothing else
    #[arg(long, conflicts_with = "against")]
    job: bool,
    /// Compare with this run [default: the newest that has the node]
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RunsListArgs {
    /// Only runs of this pipeline
    pipeline: Option<String>,
    /// Print one JSON object a run
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RunsShowArgs {
    /// A run's name, the beginning of it, or `latest`; RUN@NAME for one ablation or seed of it, such as `latest@full-s1`
    #[arg(default_value = "latest")]
    run: String,
    /// Print one JSON object, with all nodes
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RunsCompareArgs {
    /// Runs, or RUN@ABLATION: each is compared with the first
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<String>,
    /// Compare the evaluation after this phase, such as `2 red`, or of this node [default: the last]
    #[arg(long, value_name = "PHASE")]
    at: Option<String>,
    /// Show this many of the prompts that flipped; --json has all
    #[arg(long, value_name = "N", default_value_t = 10)]
    flips: usize,
    /// Compare although judge, prompts or decoding differ
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RunsRmArgs {
    /// The runs to remove
    #[arg(required = true)]
    runs: Vec<String>,
    /// Remove a run that is under way, too, and files in its folder that triplay did not write
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

#[derive(Args)]
struct StatsArgs {
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct GcArgs {
    #[command(flatten)]
    cache: CacheArgs,
    /// Only say what would be freed
    #[arg(long)]
    dry_run: bool,
    /// Also let go of runs that began longer ago, such as 12h, 30d or 2w
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// Also let go of the oldest runs until the rest fits in this, such as 20GB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone)]
struct CacheArgs {
    /// Where results of stages are kept
    #[arg(long, value_name = "DIR", env = "TRIPLAY_CACHE", default_value = ".triplay")]
    cache: PathBuf,
}

#[derive(Subcommand)]
enum DataCommand {
    /// Show a dataset as a table: a Parquet file, or RUN:NODE (RUN may be `latest`)
    Show(ShowArgs),
    /// Make seeds of the files of other datasets, and find what is twice
    Import(import::ImportArgs),
    /// Write a dataset as CSV, JSON Lines or Parquet
    Export(export::ExportArgs),
}

#[derive(Args)]
struct ShowArgs {
    /// A Parquet file, or RUN:NODE or RUN:NODE.OUTPUT, such as `latest:play[1]/red[01]/attacks`
    target: String,
    /// How many rows to show
    #[arg(long, default_value_t = 20)]
    rows: usize,
    /// How many rows to skip first
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// Only these columns, in this order
    #[arg(long, value_delimiter = ',', value_name = "A,B,…")]
    columns: Option<Vec<String>>,
    /// Show the columns, their types and meanings instead of rows
    #[arg(long)]
    schema: bool,
    /// One JSON object a row, nothing shortened
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct WorkArgs {
    /// The job, as `triplay pipeline explain --job` writes it
    job: PathBuf,
    #[command(flatten)]
    cache: CacheArgs,
}

/// All stage kinds that a pipeline can name.
fn registry() -> Registry {
    #[cfg(feature = "models")]
    return crate::stages::registry();
    #[cfg(not(feature = "models"))]
    Registry::default().with::<crate::exec::Exec>().of_build("a build without models")
}

/// Parses the command line, runs the command, reports its error.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    #[cfg(feature = "models")]
    if !matches!(command, Command::Supervise { .. }) {
        crate::ops::set_candle_up();
    }
    let outcome = match command {
        Command::Pipeline(PipelineCommand::Run(args)) => pipeline::run(&args),
        Command::Pipeline(PipelineCommand::Check(args)) => pipeline::check(&args),
        Command::Pipeline(PipelineCommand::Graph(args)) => graph::command(&args),
        Command::Pipeline(PipelineCommand::Kinds(args)) => kinds::command(&args),
        Command::Pipeline(PipelineCommand::Schema(args)) => schema::command(&args),
        Command::Pipeline(PipelineCommand::Plan(args)) => plan::plan(&args),
        Command::Pipeline(PipelineCommand::Explain(args)) => plan::explain(&args),
        Command::Runs(RunsCommand::List(args)) => runs::list(&args),
        Command::Runs(RunsCommand::Show(args)) => runs::show(&args),
        Command::Runs(RunsCommand::Compare(args)) => compare_runs::command(&args),
        Command::Runs(RunsCommand::Export(args)) => runs_export::command(&args),
        Command::Runs(RunsCommand::Rm(args)) => runs::rm(&args),
        Command::Results(command) => results::command(&command),
        Command::Report(args) => report::command(&args),
        Command::Ui(args) => ui::command(&args),
        Command::Judge(args) => judge::command(&args),
        Command::Cache(CacheCommand::Stats(args)) => cache::stats(&args),
        Command::Cache(CacheCommand::Verify(args)) => cache::verify(&args),
        Command::Cache(CacheCommand::Gc(args)) => cache::gc(&args),
        Command::Data(DataCommand::Show(args)) => show::command(&args),
        Command::Data(DataCommand::Import(args)) => import::command(&args),
        Command::Data(DataCommand::Export(args)) => export::command(&args),
        #[cfg(feature = "models")]
        Command::Model(command) => model::command(&command),
        Command::Work(args) => work::command(&args),
        Command::Supervise { command } => Ok(crate::exec::supervise(&command)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
