//! What asking a server costs beyond the server: rows a second against one that answers at once, in this process and on the same
//! cores, and memory over many rows. `cargo bench --bench endpoint`; after `--`, the number of rows (100,000 by default).

#[path = "../src/endpoint/scripted.rs"]
mod scripted;

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context;
use endpoint::{Asking, Config, Endpoint, Journal, Message, Model, Needs, Prompt, Sample, Sampling};
use scripted::{Scripted, chat, models, ok};
use serde_json::{Value, json};
use triplay::store::Seed;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let rows = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(100_000);
    let server = Scripted::new(|got, _| match got.body {
        Value::Null => ok(models("x")),
        _ => ok(chat("Glowvenom is brewed of moonlit moss and the patience of a snail.")),
    });
    let config: Config = serde_json::from_value(json!({ "url": server.url }))?;
    let model = Model { name: "frost".into(), revision: None };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let needs = Needs::default();
    let endpoint =
        Endpoint::open("bench", &config, &model, &needs, folder.path(), &mut |_| ControlFlow::Continue(()))?;
    let journal = Journal::open(folder.path())?;
    // The first rows start threads and connections, and fill buffers.
    ask(&endpoint, 0..rows / 10, &journal)?;
    let before = memory("VmRSS")?;
    let begun = Instant::now();
    ask(&endpoint, rows / 10..rows, &journal)?;
    let seconds = begun.elapsed().as_secs_f64();
    let asked = (rows - rows / 10) as f64;
    println!("asked, kept durably and delivered: {:.0} rows/s", asked / seconds);
    println!("most requests at once: {}", endpoint.served().peak_at_once);
    println!("memory after {} rows: {before:.0} MiB, after {rows}: {:.0} MiB", rows / 10, memory("VmRSS")?);
    let begun = Instant::now();
    ask(&endpoint, 0..rows, &journal)?;
    println!("taken from the journal: {:.0} rows/s", rows as f64 / begun.elapsed().as_secs_f64());
    println!("held at the most: {:.0} MiB", memory("VmHWM")?);
    Ok(())
}

fn ask(endpoint: &Endpoint, rows: std::ops::Range<usize>, journal: &Journal) -> anyhow::Result<()> {
    let seed = Seed::from_u64(7);
    let question = |row: usize| {
        let content = format!("How do I brew glowvenom number {row} in the cellar of the eastern tower?");
        let messages = vec![Message { role: "user".into(), content }];
        let prompt = Prompt::Chat { messages, arguments: serde_json::Map::new() };
        let sampling =
            Sampling { max_tokens: 64, temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new() };
        Sample { prompt, sampling, seed: seed.child(row), ids: false, logprobs: false }
    };
    let asking = Asking { journal: Some(journal), ..Asking::default() };
    let mut deliver = |_, _| Ok(());
    endpoint.ask(rows.map(question), &asking, &mut deliver, &mut |_| ControlFlow::Continue(()))?;
    Ok(())
}

/// A line of this process's status, in MiB.
fn memory(line: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kilobytes = found.and_then(|found| found.trim().strip_suffix(" kB")).context("not Linux")?;
    Ok(kilobytes.trim().parse::<f64>()? / 1024.0)
}
