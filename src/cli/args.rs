//! The arguments that several commands share, and those of the files with several commands (`pipeline`, `plan`, `runs`, `cache`).

use std::path::PathBuf;

use clap::Args;

use crate::runs::{self, CACHE_VARIABLE};

/// The cache where nothing names one.
pub(crate) const DEFAULT_CACHE: &str = ".triplay";

/// The environment variable that names the site file.
const SITE_VARIABLE: &str = "TRIPLAY_SITE";

/// A pipeline file and the parameters to change in it.
#[derive(Args, Clone)]
pub(crate) struct FileArgs {
    /// The pipeline's YAML file
    pub file: PathBuf,
    /// Change a parameter of the pipeline, or its seed; may be repeated; @FILE takes all values of a YAML map
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub settings: Vec<String>,
    /// Run these ablations of the pipeline; `all` runs every ablation
    #[arg(long = "ablation", value_delimiter = ',', value_name = "NAME,…")]
    pub ablations: Vec<String>,
    /// Run the pipeline once with each of these seeds, in parallel [default: the seeds of the file]
    #[arg(long, value_delimiter = ',', value_name = "N,M,…", value_parser = seed)]
    pub seeds: Vec<u64>,
    /// The site file, with the limits of this machine [default: triplay.yaml beside the pipeline]
    #[arg(long, value_name = "FILE", env = SITE_VARIABLE)]
    pub site: Option<PathBuf>,
}

#[derive(Args, Clone)]
pub(crate) struct PipelineShowArgs {
    #[command(flatten)]
    pub pipeline: FileArgs,
    /// Print only the stages of these nodes: names of nodes, stages or loops, or patterns with `*` and `?` [default: all]
    #[arg(value_name = "NODE")]
    pub targets: Vec<String>,
}

/// The nodes of a pipeline that are meant.
#[derive(Args, Clone)]
pub(crate) struct NodeArgs {
    /// Take only these nodes and what they need: names of nodes, stages or loops, or patterns with `*` and `?` [default: all]
    #[arg(value_name = "NODE")]
    pub targets: Vec<String>,
    /// Run these nodes again even if they are cached, named as above; may be repeated
    #[arg(long, value_name = "NODE")]
    pub force: Vec<String>,
}

/// Reads a seed. Numbers in JSON and in tables are signed, hence the limit.
fn seed(text: &str) -> Result<u64, String> {
    let seed = text.parse().ok().filter(|seed| *seed < 1 << 63);
    seed.ok_or_else(|| {
        "a seed must be a whole number from 0 to 2^63 − 1; commas separate several, as in 1,2,3".into()
    })
}

#[derive(Args, Clone)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub pipeline: FileArgs,
    #[command(flatten)]
    pub nodes: NodeArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// How many of the resource `cpu` this run takes at most: how many nodes run in parallel [default: the number of cores]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// After a failure, continue with the nodes that do not depend on it
    #[arg(long)]
    pub keep_going: bool,
    /// Only show what would run, and why
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: exit with code 3 if something would run
    #[arg(long, requires = "dry_run")]
    pub exit_code: bool,
    /// Run this node again once it is done and report outputs that differ; the cache keeps the original
    #[arg(long, value_name = "NODE", conflicts_with = "dry_run")]
    pub check: Vec<String>,
    /// Hash files outside the cache again even if their size, time and inode are unchanged
    #[arg(long)]
    pub paranoid: bool,
    /// Write a timeline of the nodes to this file, in Chrome's trace format
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

impl RunArgs {
    /// Those that run the file as it stands, with this cache.
    pub(crate) fn of(file: PathBuf, cache: PathBuf) -> RunArgs {
        RunArgs {
            pipeline: FileArgs {
                file,
                settings: Vec::new(),
                ablations: Vec::new(),
                seeds: Vec::new(),
                site: None,
            },
            nodes: NodeArgs { targets: Vec::new(), force: Vec::new() },
            cache: CacheArgs { cache },
            json: false,
            jobs: None,
            keep_going: false,
            dry_run: false,
            exit_code: false,
            check: Vec::new(),
            paranoid: false,
            trace: None,
        }
    }
}

#[derive(Args, Clone)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub pipeline: FileArgs,
    #[command(flatten)]
    pub nodes: NodeArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// List every node, also cached ones
    #[arg(long)]
    pub all: bool,
    /// Exit with code 3 if something would run
    #[arg(long)]
    pub exit_code: bool,
    /// Hash files outside the cache again even if their size, time and inode are unchanged
    #[arg(long)]
    pub paranoid: bool,
}

#[derive(Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub pipeline: FileArgs,
    /// The node, such as `play[1]/red[03]/update`
    pub node: String,
    /// Print only the node's job, as `triplay work` reads it
    #[arg(long, conflicts_with = "against")]
    pub job: bool,
    /// Compare with this run [default: the newest run that has the node]
    #[arg(long, value_name = "RUN")]
    pub against: Option<String>,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(crate) struct RunsListArgs {
    /// Only runs of this pipeline
    pub pipeline: Option<String>,
    /// Print one JSON object a run
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cache: RunCacheArgs,
}

#[derive(Args)]
pub(crate) struct RunsLogArgs {
    /// The node of a run, as RUN:NODE, such as `latest:train`
    pub target: String,
    /// Print on until the node has ended
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub cache: RunCacheArgs,
}

#[derive(Args)]
pub(crate) struct RunsShowArgs {
    /// A run's name, the beginning of it, or `latest`; RUN@NAME for one ablation or seed of it, such as `latest@full-s1`
    #[arg(default_value = "latest")]
    pub run: String,
    /// Print one JSON object, with all nodes
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cache: RunCacheArgs,
}

#[derive(Args)]
pub(crate) struct RunsCompareArgs {
    /// Runs, or RUN@ABLATION: each is compared with the first, and the p-values of all are adjusted together
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    pub runs: Vec<String>,
    /// Compare the evaluation after this phase, such as `2 red`, or of this node [default: the last]
    #[arg(long, value_name = "PHASE")]
    pub at: Option<String>,
    /// Show everything about this metric, such as `attack_success`, `attacks.diversity`, `train[0.5].loss` of a matrix, or the
    /// heading `attack`
    #[arg(long, value_name = "[SUBJECT.]METRIC", conflicts_with_all = ["all", "json"])]
    pub metric: Option<String>,
    /// Show everything: all metrics with their rates, code and nodes, and prompts that flipped
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
    /// Show this many of the prompts that flipped; --json has all [default: 10 with --all or --metric, otherwise none]
    #[arg(long, value_name = "N")]
    pub flips: Option<usize>,
    /// Compare even if judge, prompts or decoding differ
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cache: RunCacheArgs,
}

#[derive(Args)]
pub(crate) struct RunsRmArgs {
    /// The runs to remove
    #[arg(required = true)]
    pub runs: Vec<String>,
    /// Also remove runs under way, and files in their folders that triplay did not write
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub cache: CacheArgs,
}

#[derive(Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Only report what would be freed
    #[arg(long)]
    pub dry_run: bool,
    /// Also release runs that began longer ago, such as 12h, 30d or 2w, and delete what only they need
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<String>,
    /// Also release the oldest runs until the outputs of the rest fit in this size, such as 20GB
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Clone)]
pub(crate) struct CacheArgs {
    /// The folder of the cache, which holds the outputs of stages
    #[arg(long, value_name = "DIR", env = CACHE_VARIABLE, default_value = DEFAULT_CACHE)]
    pub cache: PathBuf,
}

impl CacheArgs {
    /// Has runs that the cache knows read from it.
    pub(crate) fn name(&self) {
        runs::prefer_cache(&self.cache);
    }
}

/// The cache of a command that reads runs.
#[derive(Args, Clone)]
pub(crate) struct RunCacheArgs {
    /// Read the outputs of runs from this cache [default: TRIPLAY_CACHE if it knows the run, else the run's own]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl RunCacheArgs {
    /// Has the outputs of runs read from this cache.
    pub(crate) fn name(&self) -> anyhow::Result<()> {
        runs::read_from(self.cache.as_deref())
    }
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// A file or folder, or RUN:NODE or RUN:NODE.OUTPUT, such as `latest:play[1]/red[01]/attacks`
    pub target: String,
    /// How many rows, lines or files to show [default: 20 rows of a dataset, all of the others]
    #[arg(long)]
    pub rows: Option<usize>,
    /// How many of them to skip first
    #[arg(long, default_value_t = 0)]
    pub skip: usize,
    /// Of a dataset: only these columns, in this order
    #[arg(long, value_delimiter = ',', value_name = "A,B,…")]
    pub columns: Option<Vec<String>>,
    /// Of a dataset: show the columns, their types and meanings instead of rows
    #[arg(long)]
    pub schema: bool,
    /// Of a dataset: print one JSON object a row, with nothing shortened
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub cache: RunCacheArgs,
}

#[derive(Args)]
pub(crate) struct WorkArgs {
    /// The job, as `triplay pipeline explain --job` writes it
    pub job: PathBuf,
    #[command(flatten)]
    pub cache: CacheArgs,
}
