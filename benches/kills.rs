//! Kills a run at random moments, again and again, and looks whether what was recorded was lost and whether the end is
//! the same: `cargo bench --bench kills`. After `--`, the number of kills (200 by default), and `leases` for a cache whose
//! processes do without the kernel's locks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use rand::Rng;
use serde_json::Value;
use triplay::store::{Seed, sealed_lines};

const PIPELINE: &str = include_str!("../tests/it/small.yaml");

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let leases = arguments.iter().any(|word| word == "leases");
    let number = arguments.iter().find_map(|word| word.parse().ok()).unwrap_or(200);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    fs::write(folder.path().join("small.yaml"), PIPELINE)?;
    let bench = Bench { folder: folder.path(), locking: if leases { "leases" } else { "kernel" } };

    let begun = Instant::now();
    let whole = bench.to_the_end("whole")?;
    let length = begun.elapsed();
    let mut random = Seed::from_u64(14).stream("kills");
    let (mut kills, mut ends, mut ran, mut lost) = (0, 0, 0, 0);
    let mut at = Vec::new();
    while kills < number {
        let mut run = bench.start("cache")?;
        std::thread::sleep(length.mul_f64(random.random_range(0.0..0.5)));
        let killed = run.try_wait()?.is_none();
        run.kill()?;
        run.wait()?;
        let recorded = bench.records("cache")?;
        kills += usize::from(killed);
        at.push(recorded);
        // Now and then it may go on to its end, and begins anew.
        if recorded * 2 > whole.len() || random.random_bool(0.1) {
            let summary = bench.finish(bench.start("cache")?)?;
            ensure!(bench.digests(&summary)? == whole, "after {kills} kills the end is another one");
            let cached = summary["cached"].as_u64().unwrap_or(0) as usize;
            lost += recorded.saturating_sub(cached);
            ran += summary["ran"].as_u64().unwrap_or(0);
            bench.verify("cache")?;
            ends += 1;
            fs::remove_dir_all(folder.path().join("cache"))?;
        }
    }
    ensure!(lost == 0, "{lost} nodes that were recorded were run again");
    at.sort_unstable();
    println!(
        "{kills} kills of a run with 2 jobs ({} locks): {ends} ends, each with the same {} digests; of the nodes that were \
         recorded at a kill (median {}, at most {}) none was run again; {ran} nodes were run after the last kill of each; \
         {:.0} s",
        bench.locking,
        whole.len(),
        at[at.len() / 2],
        at[at.len() - 1],
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

struct Bench<'a> {
    folder: &'a Path,
    locking: &'a str,
}

impl Bench<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triplay"));
        command.args(arguments).current_dir(self.folder).env("TRIPLAY_LOCKING", self.locking).env("CI", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, cache: &str) -> anyhow::Result<Child> {
        let run = ["pipeline", "run", "small.yaml", "--jobs", "2", "--json", "--cache", cache];
        Ok(self.command(&run).spawn()?)
    }

    /// Waits for the end of a run: its summary.
    fn finish(&self, run: Child) -> anyhow::Result<Value> {
        let output = run.wait_with_output()?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("no summary")
    }

    fn to_the_end(&self, cache: &str) -> anyhow::Result<BTreeMap<String, String>> {
        self.digests(&self.finish(self.start(cache)?)?)
    }

    fn verify(&self, cache: &str) -> anyhow::Result<()> {
        let output = self.command(&["cache", "verify", "--json", "--cache", cache]).output()?;
        let found: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(found["damaged_blobs"].as_array().is_some_and(Vec::is_empty), "{found}");
        Ok(())
    }

    /// Each node and output of a run, and its digest.
    fn digests(&self, summary: &Value) -> anyhow::Result<BTreeMap<String, String>> {
        let folder = self.folder.join(summary["results"].as_str().context("no folder")?);
        let mut digests = BTreeMap::new();
        for line in fs::read_to_string(folder.join("nodes.jsonl"))?.lines() {
            let node: Value = serde_json::from_str(line)?;
            for output in node["outputs"].as_array().into_iter().flatten() {
                digests.insert(format!("{}.{}", node["node"], output["name"]), output["digest"].to_string());
            }
        }
        Ok(digests)
    }

    /// How many keys have a whole record.
    fn records(&self, cache: &str) -> anyhow::Result<usize> {
        let mut keys = std::collections::BTreeSet::new();
        let folder = self.folder.join(cache).join("records");
        for file in fs::read_dir(folder).into_iter().flatten() {
            let text = fs::read(file?.path())?;
            keys.extend(sealed_lines(&text, |_| {}).map(|line| line[8..72].to_vec()));
        }
        Ok(keys.len())
    }
}
