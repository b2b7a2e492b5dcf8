//! Commands, their arguments and their exit codes: 0 success, 1 a stage failed or a check found a difference, 2 wrong input,
//! 3 something would run (`--exit-code`), 130 interrupted. No command computes anything itself.

mod args;
mod cache;
mod changed;
mod compare;
mod compare_runs;
mod data;
#[cfg(feature = "models")]
mod fetch;
mod graph;
mod init;
mod judge;
mod kinds;
mod league;
mod ledger;
mod library;
mod log;
mod manual;
#[cfg(feature = "models")]
mod model;
mod panel;
mod pipeline;
mod plan;
mod progress;
mod publish;
mod query;
mod registry;
mod report;
mod results;
mod runs;
mod runs_export;
mod schema;
#[cfg(feature = "models")]
mod serve;
mod stopped;
mod targets;
mod trace;
mod ui;
mod work;

use output::eprintln;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::engine::Registry;
use args::{
    ExplainArgs, FileArgs, GcArgs, PipelineShowArgs, PlanArgs, RunArgs, RunsCompareArgs, RunsListArgs,
    RunsLogArgs, RunsRmArgs, RunsShowArgs, ShowArgs, StatsArgs, WorkArgs,
};

pub use library::{PipelineRun, program};

/// Declarative, cached pipelines for tri-role self-play reinforcement learning.
#[derive(Parser)]
#[command(name = "triplay", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a first pipeline and the editor schema into an empty folder
    Init(init::InitArgs),
    /// Run and check pipelines
    #[command(subcommand)]
    Pipeline(PipelineCommand),
    /// List, show, compare, export and remove runs, and print their logs
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Summarise seeds and ablations in tables and curves, and answer SQL
    #[command(subcommand)]
    Results(results::ResultsCommand),
    /// Write a report on runs as one HTML file
    Report(report::ReportArgs),
    /// Show a run in the browser, while it runs or afterwards
    Ui(ui::UiArgs),
    /// Judge the responses of a run again with another judge; nothing is generated again
    Judge(judge::JudgeArgs),
    /// Inspect, verify and clean the cache
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Show, copy, import and export datasets and other outputs
    #[command(subcommand)]
    Data(DataCommand),
    /// Use a model at the prompt
    #[cfg(feature = "models")]
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Serve models to the clients of OpenAI's API
    #[cfg(feature = "models")]
    Serve(serve::ServeArgs),
    /// Run one job that a file describes, in this process, and record it
    Work(WorkArgs),
    /// Print the completions of a shell: bash, zsh, fish, elvish or powershell
    Completions(manual::CompletionsArgs),
    /// Write the manual pages into a folder
    Man(manual::ManArgs),
    /// Supervise the command of an `exec` stage: see `exec::supervise`
    #[command(hide = true)]
    Supervise {
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

#[derive(Subcommand)]
enum PipelineCommand {
    /// Run the nodes of a pipeline that are not cached
    Run(RunArgs),
    /// Validate a pipeline without running anything
    Check(FileArgs),
    /// Print stages with everything filled in, and where each value comes from
    Show(PipelineShowArgs),
    /// Show what would run, and why
    Plan(PlanArgs),
    /// Explain why a node would run, or would not
    Explain(ExplainArgs),
    /// Draw the stages and their inputs, for mermaid or Graphviz, or as JSON
    Graph(graph::GraphArgs),
    /// Explain the stage kinds: purpose, keys and outputs
    Kinds(kinds::KindsArgs),
    /// Print the JSON Schema of pipeline files, for editors
    Schema(schema::SchemaArgs),
}

#[derive(Subcommand)]
enum RunsCommand {
    /// List runs, the newest first
    List(RunsListArgs),
    /// Show a run: its status, parameters, machine and failures
    Show(RunsShowArgs),
    /// Print what the command of a node printed, also while it runs
    Log(RunsLogArgs),
    /// Compare runs: where they differ, how that changed their metrics, and whether it may be chance
    Compare(RunsCompareArgs),
    /// Export runs to the formats of other programs, such as Inspect, TensorBoard or MLflow
    Export(runs_export::RunsExportArgs),
    /// Remove runs; `cache gc` then frees what only they used
    Rm(RunsRmArgs),
}

#[derive(Subcommand)]
enum CacheCommand {
    /// Show what the cache holds
    Stats(StatsArgs),
    /// Hash everything again and put damaged files aside; the next run makes them again
    Verify(StatsArgs),
    /// Delete what no run uses
    Gc(GcArgs),
}

#[derive(Subcommand)]
enum DataCommand {
    /// Show an output of a run (RUN:NODE, RUN may be `latest`) or a file: a dataset as a table, a text, the files of a folder
    Show(ShowArgs),
    /// Copy an output of a run out of the cache: a file or a folder of any type
    Get(data::get::GetArgs),
    /// Convert files of other datasets to seed prompts, and report duplicates and overlaps
    Import(data::import::ImportArgs),
    /// Write a dataset as CSV, JSON Lines or Parquet
    Export(data::export::ExportArgs),
}

/// Prepares the process to compute; to be called before there are other threads.
fn prepare() {
    #[cfg(feature = "models")]
    crate::ops::configure_candle();
}

/// The program `triplay`.
pub fn main() -> ExitCode {
    main_with(registry::own)
}

/// The program `triplay` with other stage kinds: parses the command line, runs the command, reports its error.
pub fn main_with(kinds: fn() -> Registry) -> ExitCode {
    registry::set(kinds);
    output::install_panic_hook();
    let Cli { command } = output::parse_command_line();
    // The environment of a supervised command is the stage's own.
    if !matches!(command, Command::Supervise { .. }) {
        prepare();
    }
    let outcome = match command {
        Command::Pipeline(PipelineCommand::Run(args)) if args.dry_run => plan::dry_run(&args),
        Command::Pipeline(PipelineCommand::Run(args)) => pipeline::run(&args),
        Command::Pipeline(PipelineCommand::Check(args)) => pipeline::check(&args),
        Command::Pipeline(PipelineCommand::Show(args)) => pipeline::show(&args),
        Command::Pipeline(PipelineCommand::Graph(args)) => graph::command(&args),
        Command::Pipeline(PipelineCommand::Kinds(args)) => kinds::command(&args),
        Command::Pipeline(PipelineCommand::Schema(args)) => schema::command(&args),
        Command::Pipeline(PipelineCommand::Plan(args)) => plan::plan(&args),
        Command::Pipeline(PipelineCommand::Explain(args)) => plan::explain(&args),
        Command::Runs(RunsCommand::List(args)) => runs::list(&args),
        Command::Runs(RunsCommand::Show(args)) => runs::show(&args),
        Command::Runs(RunsCommand::Log(args)) => log::command(&args),
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
        Command::Data(DataCommand::Show(args)) => data::show::command(&args),
        Command::Data(DataCommand::Get(args)) => data::get::command(&args),
        Command::Data(DataCommand::Import(args)) => data::import::command(&args),
        Command::Data(DataCommand::Export(args)) => data::export::command(&args),
        #[cfg(feature = "models")]
        Command::Model(command) => model::command(&command),
        #[cfg(feature = "models")]
        Command::Serve(args) => serve::command(&args),
        Command::Work(args) => work::command(&args),
        Command::Init(args) => init::command(&args),
        Command::Completions(args) => manual::completions(&args, Cli::command()),
        Command::Man(args) => manual::man(&args, Cli::command()),
        Command::Supervise { command } => Ok(crate::exec::supervise(&command)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
