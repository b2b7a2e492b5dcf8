//! What looking at finished runs costs, on tables as runs leave them.
//!
//! `cargo build --release --workspace && cargo bench --bench analysis`, since the first builds `triplay-query`; after `--`, `compare`,
//! `own` or `query` chooses a part.

#[path = "analysis/compare.rs"]
mod compare;
#[path = "analysis/own.rs"]
mod own;
#[path = "analysis/query.rs"]
mod query;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::Value;
use triplay::runs::{Machine, RunRecord};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTS: [&str; 3] = ["compare", "own", "query"];

fn main() -> anyhow::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|part| !part.starts_with("--")).collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("there is no part `{unknown}`: {}", PARTS.join(", "));
    }
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    if is_asked("compare") {
        compare::compare()?;
    }
    if is_asked("own") {
        own::own()?;
    }
    if is_asked("query") {
        query::query()?;
    }
    Ok(())
}

/// The record of a finished run of one variant, whose nodes ran for a second.
fn record(run: String, cache: &Path, variant: &str, params: Value, nodes: usize) -> RunRecord {
    RunRecord {
        run,
        pipeline: "bench".into(),
        file: PathBuf::from("bench.yaml"),
        params: BTreeMap::from([(variant.to_owned(), params)]),
        typed: BTreeMap::new(),
        settings: Vec::new(),
        targets: Vec::new(),
        forced: Vec::new(),
        triplay: env!("CARGO_PKG_VERSION").into(),
        kinds: BTreeMap::new(),
        facts: BTreeMap::new(),
        machine: Machine::here(),
        began: String::new(),
        cache: cache.to_owned(),
        root: String::new(),
        digest: None,
        files: BTreeMap::new(),
        main: None,
        incomplete: Vec::new(),
        unchanged: Vec::new(),
        nodes,
        status: "done".into(),
        ran: nodes,
        cached: 0,
        again: 0,
        failed: 0,
        skipped: 0,
        seconds: 1.0,
    }
}
