//! `triplay results query` and `results table` over ten thousand metrics files of a user's own stages: a matrix of 100 × 100, each
//! node with a JSON file in the cache. The whole process each time; the first query makes the tables of the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use triplay::analysis;
use triplay::engine::{NodeOutput, NodeReport};
use triplay::runs::{RunFolder, RunRecord, digests, write_record};
use triplay::store::{Digest, Store};

/// Values of each of the two axes.
const VALUES: u32 = 100;
const TIMES: usize = 5;

const COMMANDS: [(&str, &[&str]); 5] = [
    ("query, made first", &["query", "SELECT count(*) AS n FROM metrics"]),
    (
        "query with parameters",
        &[
            "query",
            "SELECT heat, avg(value) AS loss FROM metrics WHERE metric = 'loss' GROUP BY heat ORDER BY heat",
        ],
    ),
    ("query of all columns", &["query", "SELECT * FROM metrics ORDER BY value DESC LIMIT 10"]),
    ("table", &["table", "latest"]),
    ("table, JSON", &["table", "latest", "--json"]),
];

pub(crate) fn own() -> anyhow::Result<()> {
    let space = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    std::env::set_current_dir(space.path())?;
    made_up()?;
    println!("{} metrics files of one run", VALUES * VALUES);
    println!("{:26} {:>9}", "the whole process", "ms");
    for (number, (what, args)) in COMMANDS.iter().enumerate() {
        let times = if number == 0 { 1 } else { TIMES };
        let mut seen = (0..times).map(|_| timed(args)).collect::<anyhow::Result<Vec<f64>>>()?;
        seen.sort_by(f64::total_cmp);
        println!("{what:26} {:>9.0}", 1e3 * seen[times / 2]);
    }
    Ok(())
}

fn timed(args: &[&str]) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_triplay"));
    let status = command.arg("results").args(args).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{args:?}: {status}");
    Ok(begun.elapsed().as_secs_f64())
}

/// A run that is done, as `pipeline run` leaves it.
fn made_up() -> anyhow::Result<()> {
    let store = Store::open(Path::new("cache"))?;
    let (run, mut folder) = RunFolder::create("bench")?;
    let mut nodes = Vec::new();
    for index in 0..VALUES * VALUES {
        let (heat, herbs) = (index / VALUES, index % VALUES);
        let loss = f64::from(heat * herbs) / 1e4;
        let text = format!(
            "{{\"loss\": {loss}, \"val\": {{\"loss\": {}, \"accuracy\": 0.5}}}}\n",
            1.0 + loss + f64::from(index)
        );
        let node = NodeReport {
            node: format!("train[{heat},{herbs}]"),
            index,
            kind: "exec".into(),
            cached: false,
            key: Digest::of_bytes(&index.to_le_bytes()),
            position: Vec::new(),
            seconds: 1.0,
            params: vec![("heat".into(), heat.to_string()), ("herbs".into(), herbs.to_string())],
            seed: None,
            outputs: vec![blob(&store, &text)?],
        };
        folder.add(&node)?;
        nodes.push(node);
    }
    analysis::write(&folder.path.join("metrics.parquet"), &analysis::collect(&nodes, &store)?)?;
    fs::write(folder.path.join("pipeline.yaml"), "pipeline: bench\n")?;
    let params = serde_json::json!({ "seed": 0 });
    let record = RunRecord {
        files: digests(&folder.path)?,
        ..super::record(run, &fs::canonicalize("cache")?, "", params, nodes.len())
    };
    write_record(&folder.path, &record)
}

/// Places a file in the cache as a node does.
fn blob(store: &Store, text: &str) -> anyhow::Result<NodeOutput> {
    let made = PathBuf::from("made");
    fs::write(&made, text)?;
    let (digest, bytes) = (Digest::of_file(&made)?, made.metadata()?.len());
    let place = store.blob_path(&digest);
    fs::create_dir_all(place.parent().context("a blob lies in a folder")?)?;
    fs::rename(&made, place)?;
    Ok(NodeOutput { name: "metrics".into(), artifact: "metrics".into(), digest, bytes, passing: false })
}
