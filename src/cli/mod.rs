//! Commands, their arguments and their exit codes: 0 done, 1 a stage failed, 2 the pipeline or the command
//! line is wrong, 130 interrupted. No command computes anything itself.

mod folder;
mod graph;
mod kinds;
mod model;
mod pipeline;
mod progress;
mod schema;
mod show;

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

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
    /// Look at datasets
    #[command(subcommand)]
    Data(DataCommand),
    /// Use a model at the prompt
    #[command(subcommand)]
    Model(model::ModelCommand),
}

#[derive(Subcommand)]
enum PipelineCommand {
    /// Run what is missing of a pipeline
    Run(RunArgs),
    /// Validate a pipeline without running anything
    Check(FileArgs),
    /// Draw the stages and what feeds them, for mermaid or Graphviz, or as JSON
    Graph(graph::GraphArgs),
    /// Say what the stage kinds do, take and make
    Kinds(kinds::KindsArgs),
    /// Print the JSON Schema of pipeline files, for editors
    Schema(schema::SchemaArgs),
}

/// A pipeline file and the parameters to change in it.
#[derive(Args, Clone)]
struct FileArgs {
    /// The pipeline's YAML file
    file: PathBuf,
    /// Change a parameter of the pipeline, or its seed
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
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

/// Parses the command line, runs the command, reports its error.
pub fn main() -> ExitCode {
    crate::ops::set_candle_up();
    let outcome = match Cli::parse().command {
        Command::Pipeline(PipelineCommand::Run(args)) => pipeline::run(&args),
        Command::Pipeline(PipelineCommand::Check(args)) => pipeline::check(&args),
        Command::Pipeline(PipelineCommand::Graph(args)) => graph::command(&args),
        Command::Pipeline(PipelineCommand::Kinds(args)) => kinds::command(&args),
        Command::Pipeline(PipelineCommand::Schema(args)) => schema::command(&args),
        Command::Data(DataCommand::Show(args)) => show::command(&args),
        Command::Model(command) => model::command(&command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

/// Prints; a reader that has seen enough, such as `head`, is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
