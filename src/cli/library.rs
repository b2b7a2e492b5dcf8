//! triplay as a library: pipelines are run from Rust as `triplay pipeline run` runs them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use output::eprintln;

use super::args::{DEFAULT_CACHE, RunArgs};
use super::{pipeline, prepare, registry};
use crate::engine::Registry;
use crate::runs::{CACHE_VARIABLE, Run};

/// Runs `body` as a program that can run pipelines with these stage kinds, usually `triplay::stages::registry`; returns its exit code, 1
/// if it failed. A program's `main` is nothing but this call: `exec` stages and stages with `on: process` start the program
/// again, and such a process does its work here instead of `body`.
pub fn program(kinds: fn() -> Registry, body: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    let mut words = std::env::args_os();
    let is_triplay = words.next().is_some_and(|name| name == "triplay");
    if is_triplay && words.next().is_some_and(|command| command == "supervise" || command == "work") {
        return super::main_with(kinds);
    }
    registry::set(kinds);
    output::install_panic_hook();
    prepare();
    match body() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A run of a pipeline, still to be started, within [`program`]. Folders and defaults are those of `triplay pipeline run`.
#[derive(Clone)]
pub struct PipelineRun {
    args: RunArgs,
}

impl PipelineRun {
    /// Of this pipeline file, as it stands.
    pub fn new(file: impl Into<PathBuf>) -> PipelineRun {
        let cache = std::env::var_os(CACHE_VARIABLE).map_or_else(|| DEFAULT_CACHE.into(), PathBuf::from);
        PipelineRun { args: RunArgs::of(file.into(), cache) }
    }

    /// Changes a parameter: `name=value`, as `--set` does.
    pub fn set(mut self, setting: impl Into<String>) -> PipelineRun {
        self.args.pipeline.settings.push(setting.into());
        self
    }

    /// Runs this ablation too; `all` is all of them.
    pub fn ablation(mut self, name: impl Into<String>) -> PipelineRun {
        self.args.pipeline.ablations.push(name.into());
        self
    }

    /// Runs the pipeline once with each of these seeds.
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = u64>) -> PipelineRun {
        self.args.pipeline.seeds = seeds.into_iter().collect();
        self
    }

    /// Uses the cache in this folder.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> PipelineRun {
        self.args.cache.cache = folder.into();
        self
    }

    /// Runs at most so many nodes at the same time.
    pub fn jobs(mut self, jobs: u32) -> PipelineRun {
        self.args.jobs = Some(jobs);
        self
    }

    /// Runs what the cache does not have, and reads the run's folder. Progress and warnings go to standard error. An error where the
    /// pipeline is wrong or a stage failed; what was done by then is in the cache.
    pub fn run(self) -> anyhow::Result<Run> {
        ensure!(registry::is_set(), "`PipelineRun::run` must be called within `triplay::program`");
        let (_, folder) = pipeline::execute(&self.args, true)?;
        let run = Run::read(&folder)?;
        ensure!(
            run.record.status == "done",
            "{} of {} nodes failed, see above",
            run.record.failed,
            run.record.nodes
        );
        Ok(run)
    }
}
