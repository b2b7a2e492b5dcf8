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

use anyhow::bail;

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
