//! Runs `pipelines/first.yaml`, or a pipeline with a parameter `steps` and a stage `rewards`, from Rust and reads its results: the metrics of the run,
//! and the rows of a dataset. `PipelineRun` also has `seeds`, `ablation`, `cache` and `jobs`.
//!
//! ```sh
//! cargo run --release --example read_results -- pipelines/first.yaml
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use triplay::PipelineRun;
use triplay::data::{self, RewardRow, RunMetricRow};

fn main() -> ExitCode {
    triplay::program(triplay::stages::registry, run_and_read)
}

fn run_and_read() -> anyhow::Result<()> {
    let file =
        std::env::args_os().nth(1).context("the first argument must be a pipeline's file, found none")?;
    // What is in the cache is not run again.
    let run = PipelineRun::new(PathBuf::from(file)).set("steps=10").run()?;
    println!("{}: {}, {} nodes", run.record.run, run.record.status, run.nodes.len());

    let metrics: Vec<RunMetricRow> = data::read(&run.folder.join("metrics.parquet"))?;
    let metrics = metrics.iter().map(|row| &row.metric);
    for row in metrics.filter(|row| row.metric == "attack_success" && row.subject == "defender") {
        println!("{}: attack success {:.3} of {} attacks", row.phase, row.value, row.count);
    }

    // The rewards of the last step: the last node whose name ends in `/rewards`.
    let last = run.nodes.iter().rev().find(|node| node.node.ends_with("/rewards"));
    let output =
        last.and_then(|node| node.outputs.first()).context("the pipeline must have a stage `rewards`")?;
    let mut rewards: Vec<RewardRow> = data::read(&run.record.blob(&output.digest))?;
    rewards.sort_by(|a, b| b.reward.unwrap_or(f64::MIN).total_cmp(&a.reward.unwrap_or(f64::MIN)));
    for row in rewards.iter().take(3) {
        println!("{:.3}  {}", row.reward.unwrap_or(f64::NAN), row.text);
    }
    Ok(())
}
