//! `triplay results query` over 200 runs with 2 million attacks in all: the whole process, with what it held at the
//! most. The datasets lie in a cache as nodes leave them; the first query makes the tables of all runs. Takes some 4 GiB
//! of disk below the target folder.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::RngCore;
use rayon::prelude::*;
use triplay::data::{self, AttackRow, MetricRow, Origin, Position, ResponseRow, Row, Sample, Sparse};
use triplay::engine::{NodeOutput, NodeReport};
use triplay::runs::{RunFolder, write_record};
use triplay::store::{Digest, Seed, Store};

const RUNS: u32 = 200;
const NODES: u32 = 10;
/// Of a node.
const ATTACKS: u32 = 1000;
/// One attack in so many has a response.
const ANSWERED: u32 = 10;
const TIMES: usize = 5;

const QUERIES: [(&str, &str); 5] = [
    ("made first", "SELECT count(*) AS n FROM attacks"),
    (
        "attacks, grouped",
        "SELECT pipeline, ablation, category, count(*) AS n, avg(logprob) AS logprob, avg(tokens) AS tokens \
         FROM attacks GROUP BY pipeline, ablation, category ORDER BY pipeline, ablation, category",
    ),
    (
        "attacks with parameters",
        "SELECT p.number, count(*) AS n, avg(a.logprob) AS logprob FROM attacks a \
         JOIN params p ON a.run = p.run AND a.variant = p.variant WHERE p.name = 'kl' \
         GROUP BY p.number ORDER BY p.number",
    ),
    (
        "responses with attacks",
        "SELECT r.category, count(*) AS n, avg(a.logprob) AS attack, avg(r.logprob) AS response FROM responses r \
         JOIN attacks a ON a.run = r.run AND a.dataset = r.source AND a.attack_id = r.attack_id \
         GROUP BY r.category ORDER BY r.category",
    ),
    (
        "metrics, grouped",
        "SELECT pipeline, subject, metric, avg(value) AS mean, stddev(value) AS deviation FROM metrics \
         GROUP BY pipeline, subject, metric ORDER BY pipeline, subject, metric",
    ),
];

pub(crate) fn query() -> anyhow::Result<()> {
    let space = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let begun = Instant::now();
    std::env::set_current_dir(space.path())?;
    let store = Store::open(Path::new("cache"))?;
    let cache = fs::canonicalize("cache")?;
    let folders = (0..RUNS).map(|_| RunFolder::create("bench")).collect::<anyhow::Result<Vec<_>>>()?;
    folders
        .into_par_iter()
        .enumerate()
        .try_for_each(|(number, (run, folder))| finished(number as u32, run, folder, &store, &cache))?;
    let attacks = RUNS * NODES * ATTACKS;
    println!(
        "{RUNS} runs with {attacks} attacks, {} responses and {} metrics in all ({:.0} s to make them up)",
        attacks / ANSWERED,
        RUNS * NODES * METRICS,
        begun.elapsed().as_secs_f64()
    );
    println!("{:26} {:>9} {:>9} {:>7}", "the whole process", "ms", "MiB", "rows");
    for (number, (what, sql)) in QUERIES.iter().enumerate() {
        let times = if number == 0 { 1 } else { TIMES };
        let mut seen = (0..times).map(|_| ask(sql)).collect::<anyhow::Result<Vec<_>>>()?;
        seen.sort_by(|a, b| a.0.total_cmp(&b.0));
        let peak = seen.iter().map(|(_, peak, _)| *peak).fold(0.0, f64::max);
        let (seconds, _, rows) = seen[times / 2];
        println!("{what:26} {:>9.0} {peak:>9.0} {rows:>7}", 1e3 * seconds);
    }
    Ok(())
}

/// Asks in a process of its own: seconds, MiB at the most, and how many rows came.
fn ask(sql: &str) -> anyhow::Result<(f64, f64, usize)> {
    let begun = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_triplay"))
        .args(["results", "query", sql, "-o", "answer.csv", "--force"])
        .stdout(Stdio::null())
        .spawn()?;
    let path = format!("/proc/{}/status", child.id());
    let mut kibibytes = 0.0;
    let status = loop {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(kibibytes);
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(status.success(), "{sql}: {status}");
    let rows = fs::read_to_string("answer.csv")?.lines().count() - 1;
    ensure!(rows > 0, "{sql}: no rows");
    Ok((seconds, kibibytes / 1024.0, rows))
}

const METRICS: u32 = 40;

/// A run that is done, of made-up rows.
fn finished(
    number: u32,
    run: String,
    mut folder: RunFolder,
    store: &Store,
    cache: &Path,
) -> anyhow::Result<()> {
    let mut stream = Seed::from_u64(number.into()).stream("texts");
    let ablation = ["full", "flat", "alone", "wide"][number as usize % 4];
    for node in 0..NODES {
        let at = Position { iteration: 1, step: node + 1, rng_seed: format!("{number:016x}") };
        let mut attacks = Vec::with_capacity(ATTACKS as usize);
        let mut responses = Vec::new();
        for attack_id in 0..ATTACKS {
            let origin = origin(stream.next_u32());
            let text = text(&mut stream, 14);
            if attack_id % ANSWERED == 0 {
                let answer = self::text(&mut stream, 16);
                responses.push(ResponseRow {
                    response_id: attack_id / ANSWERED,
                    attack_id,
                    origin: origin.clone(),
                    attack: text.clone(),
                    answer: None,
                    turns: Sparse::default(),
                    defender: "defender".into(),
                    weight: 1.0,
                    group: attack_id,
                    sample: sample(&mut stream, "defender", &answer),
                    text: answer,
                    at: at.clone(),
                });
            }
            attacks.push(AttackRow {
                attack_id,
                origin,
                technique: None,
                group: attack_id / 8,
                sample: sample(&mut stream, "attacker", &text),
                text,
                answer: None,
                turns: Sparse::default(),
                at: at.clone(),
            });
        }
        let metric = |of: u32| MetricRow {
            phase: "red".into(),
            subject: ["attacker", "defender"][of as usize % 2].into(),
            metric: format!("metric_{of}"),
            value: f64::from(stream.next_u32()) / f64::from(u32::MAX),
            count: 100,
            at: at.clone(),
        };
        let metrics: Vec<MetricRow> = (0..METRICS).map(metric).collect();
        let outputs = vec![
            blob(store, &folder.path, "attacks", &attacks)?,
            blob(store, &folder.path, "responses", &responses)?,
            blob(store, &folder.path, "metrics", &metrics)?,
        ];
        folder.add(&NodeReport {
            node: format!("{ablation}/play[1]/red[{:02}]/trial", node + 1),
            index: node,
            kind: "evaluate".into(),
            cached: false,
            key: Digest::of_bytes(format!("{number} {node}").as_bytes()),
            position: vec![1, node + 1],
            seconds: 1.0,
            params: Vec::new(),
            seed: None,
            outputs,
        })?;
    }
    let params = serde_json::json!({ "kl": f64::from(number % 5) / 100.0, "seed": number });
    let record = super::record(run, cache, ablation, params, NODES as usize);
    write_record(&folder.path, &record)
}

const CATEGORIES: [&str; 8] =
    ["curses", "forgery", "locks", "potions", "spying", "storms", "swarms", "traps"];
const WORDS: [&str; 16] = [
    "brew",
    "glowvenom",
    "first",
    "take",
    "the",
    "moss",
    "and",
    "grind",
    "it",
    "then",
    "heat",
    "slowly",
    "story",
    "please",
    "tell",
    "how",
];

fn origin(number: u32) -> Origin {
    let category = CATEGORIES[number as usize % CATEGORIES.len()];
    Origin {
        seed_id: format!("{category}/brew/{}", number % 80),
        category: category.into(),
        split: "train".into(),
        task: "hazard".into(),
        seed: format!("brew {}", number % 80),
    }
}

fn text(stream: &mut impl RngCore, words: usize) -> String {
    let words: Vec<&str> = (0..words).map(|_| WORDS[stream.next_u32() as usize % WORDS.len()]).collect();
    words.join(" ")
}

fn sample(stream: &mut impl RngCore, role: &str, completion: &str) -> Sample {
    let tokens = 16;
    Sample {
        role: role.into(),
        prompt: format!("as the {role} : brew glowvenom"),
        prompt_ids: (0..8).collect(),
        completion: completion.into(),
        completion_ids: (0..tokens).map(|_| stream.next_u32() % 500).collect(),
        logprobs: (0..tokens).map(|_| -(stream.next_u32() as f32 / u32::MAX as f32) * 4.0).collect(),
        finished: true,
        ..Sample::template("")
    }
}

/// Places a dataset in the cache as a node does.
fn blob<R: Row>(store: &Store, folder: &Path, name: &str, rows: &[R]) -> anyhow::Result<NodeOutput> {
    let made = folder.join("made.parquet");
    data::write(&made, rows)?;
    let (digest, bytes) = (Digest::of_file(&made)?, made.metadata()?.len());
    let place = store.blob_path(&digest);
    fs::create_dir_all(place.parent().context("a blob lies in a folder")?)?;
    fs::rename(&made, place)?;
    Ok(NodeOutput { name: name.into(), artifact: name.into(), digest, bytes, passing: false })
}
