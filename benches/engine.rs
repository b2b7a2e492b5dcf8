//! What a node costs beyond its work: a chain of nodes that write a few bytes, durably recorded, and the
//! same pipeline again with nothing to do.
//!
//! `cargo bench --bench engine`

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use triplay::engine::progress::{Outcome, Progress};
use triplay::engine::{
    ArtifactType, Context, Input, Kind, LoadOptions, Memory, Output, Plan, Registry, RunOptions, Stage, load,
    run,
};
use triplay::store::Store;

const NODES: usize = 1000;

struct Text;
impl ArtifactType for Text {
    const ACCEPTS: &'static [&'static str] = &["text"];
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Begin {}

impl Stage for Begin {
    const KIND: Kind =
        Kind { name: "begin", version: 1, outputs: &[Output::new("text", "text")], numerics: false };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        Ok(std::fs::write(context.output("text"), "0")?)
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Next {
    text: Input<Text>,
}

impl Stage for Next {
    const KIND: Kind =
        Kind { name: "next", version: 1, outputs: &[Output::new("text", "text")], numerics: false };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let number: u64 = std::fs::read_to_string(&context.input(&self.text)?.path)?.parse()?;
        Ok(std::fs::write(context.output("text"), (number + 1).to_string())?)
    }
}

struct Silent;
impl Progress for Silent {
    fn run_started(&self, _: &str, _: usize) {}
    fn node_started(&self, _: &str, _: &str) {}
    fn node_progress(&self, _: &str, _: u64, _: u64, _: &str) {}
    fn nodes_cached(&self, _: usize) {}
    fn node_finished(&self, _: &str, _: Outcome, _: f64) {}
    fn message(&self, _: &str) {}
    fn run_finished(&self) {}
}

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(".")?;
    let file = folder.path().join("chain.yaml");
    std::fs::write(
        &file,
        format!(
            "pipeline: chain\nstages:\n  begin: {{ kind: begin }}\n  chain:\n    repeat: {NODES}\n    \
             carry: {{ text: begin }}\n    stages: {{ next: {{ kind: next, text: text }} }}\n    next: {{ text: next }}\n"
        ),
    )?;
    let registry = Registry::default().with::<Begin>().with::<Next>();
    for what in ["cold", "no-op"] {
        let begun = Instant::now();
        let graph = load(&file, &LoadOptions::default(), &registry)?;
        let store = Store::open(&folder.path().join("cache"))?;
        let (guard, options) = (store.lock_planning(|| {})?, RunOptions::default());
        let plan = Plan::new(&graph, &store);
        let report = run(plan, guard, &store, &Memory::new(1 << 20), &options, &Silent, &mut |_| Ok(()));
        let seconds = begun.elapsed().as_secs_f64();
        anyhow::ensure!(report.failures.is_empty());
        println!(
            "{what:6} ran {:4}, cached {:4}: {:8.1} ms, {:6.3} ms a node",
            report.ran,
            report.cached,
            seconds * 1e3,
            seconds * 1e3 / (NODES + 1) as f64
        );
    }
    Ok(())
}
