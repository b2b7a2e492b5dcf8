//! `triplay runs list`, `show`, `rm` and `compare`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::{RunsCompareArgs, RunsListArgs, RunsRmArgs, RunsShowArgs};
use crate::analysis;
use crate::engine::{Change, NodeReport, differences};
use crate::runs::{self, Run, RunRecord};
use crate::store::Store;

/// How many ablations and seeds of a run are listed.
const MOST_VARIANTS: usize = 6;

pub fn list(args: &RunsListArgs) -> anyhow::Result<ExitCode> {
    let mut records: Vec<RunRecord> = Vec::new();
    for folder in Run::all(args.pipeline.as_deref()) {
        match Run::read_record(&folder) {
            Ok(record) => records.push(record),
            Err(error) => eprintln!("warning: {error:#}"),
        }
    }
    if args.json {
        for record in &records {
            println!("{}", json!(record));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<[String; 7]> = records
        .iter()
        .map(|record| {
            let mut changed = record.settings.clone();
            let mut variants: Vec<String> =
                record.params.keys().filter(|name| !name.is_empty()).map(|name| format!("@{name}")).collect();
            if variants.len() > MOST_VARIANTS {
                let more = variants.len() - MOST_VARIANTS;
                variants.truncate(MOST_VARIANTS);
                variants.push(format!("and {more} more"));
            }
            changed.extend(variants);
            [
                record.run.clone(),
                record.pipeline.clone(),
                record.status.clone(),
                record.ran.to_string(),
                record.cached.to_string(),
                format!("{:.1} s", record.seconds),
                changed.join(" "),
            ]
        })
        .collect();
    let heading = ["run", "pipeline", "status", "ran", "cached", "time", "changed"].map(str::to_owned);
    print_table(&heading, &rows, &[3, 4, 5]);
    Ok(ExitCode::SUCCESS)
}

/// Columns padded to their widest cell; those in `right` are set right.
fn print_table<const N: usize>(heading: &[String; N], rows: &[[String; N]], right: &[usize]) {
    let widths: Vec<usize> = (0..N)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    for row in std::iter::once(heading).chain(rows) {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            if right.contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

pub fn show(args: &RunsShowArgs) -> anyhow::Result<ExitCode> {
    let run = Run::find(&args.run)?;
    let record = &run.record;
    if args.json {
        println!("{}", json!({ "run": record, "nodes": run.nodes }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}  {}", run.title(), record.status);
    println!("{}", run.folder.display());
    println!("pipeline  {} ({})", record.pipeline, record.file.display());
    println!("began     {}, took {:.1} s", record.began, record.seconds);
    println!("triplay   {}", record.triplay);
    let machine = &record.machine;
    println!(
        "machine   {}: {}, {} cores, {}",
        machine.host, machine.processor, machine.cores, machine.system
    );
    println!("cache     {}", record.cache.display());
    println!(
        "nodes     {}: ran {}, cached {}, failed {}, skipped {}",
        record.nodes, record.ran, record.cached, record.failed, record.skipped
    );
    if run.damaged > 0 {
        println!(
            "damaged   {} lines of nodes.jsonl are not as they were written and are left out",
            run.damaged
        );
    }
    for (ablation, params) in &record.params {
        println!(
            "\nparameters{}",
            if ablation.is_empty() { String::new() } else { format!(" of {ablation}") }
        );
        for (name, value) in params.as_object().into_iter().flatten() {
            println!("  {name}: {value}");
        }
    }
    let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for node in run.nodes.iter().filter(|node| !node.cached) {
        let entry = kinds.entry(&node.kind).or_default();
        *entry = (entry.0 + 1, entry.1 + node.seconds);
    }
    if !kinds.is_empty() {
        println!("\nwhat ran: kind, nodes, seconds");
        for (kind, (count, seconds)) in kinds {
            println!("  {kind:12} {count:>6} {seconds:>9.1}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn rm(args: &RunsRmArgs) -> anyhow::Result<ExitCode> {
    // All are found before any is removed.
    let folders = args.runs.iter().map(|run| Run::locate(run)).collect::<anyhow::Result<BTreeSet<_>>>()?;
    for folder in &folders {
        let record = Run::read_record(folder).ok();
        anyhow::ensure!(
            args.force || record.is_none_or(|record| record.status != "running"),
            "{} is running; --force removes it all the same",
            folder.display()
        );
    }
    for folder in folders {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        println!("removed {}; `triplay cache gc` frees what only it used", folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// How a node stands in two runs.
struct Pair<'a> {
    a: Option<&'a NodeReport>,
    b: Option<&'a NodeReport>,
}

impl Pair<'_> {
    fn same_key(&self) -> bool {
        self.a.map(|node| node.key) == self.b.map(|node| node.key)
    }

    fn same_outputs(&self) -> bool {
        let digests = |node: Option<&NodeReport>| {
            node.map(|node| node.outputs.iter().map(|output| output.digest).collect::<Vec<_>>())
        };
        digests(self.a) == digests(self.b)
    }
}

pub fn compare(args: &RunsCompareArgs) -> anyhow::Result<ExitCode> {
    let (a, b) = (Run::find(&args.a)?, Run::find(&args.b)?);
    let params = changed_params(&a, &b);
    let kinds = changed_kinds(&a.record, &b.record);
    let names: Vec<&str> = in_order(&a, &b);
    let node = |run: &'_ Run| -> BTreeMap<String, NodeReport> {
        run.nodes.iter().map(|node| (node.node.clone(), node.clone())).collect()
    };
    let (in_a, in_b) = (node(&a), node(&b));
    let pairs: Vec<(&str, Pair)> =
        names.iter().map(|name| (*name, Pair { a: in_a.get(*name), b: in_b.get(*name) })).collect();
    let both = || pairs.iter().filter(|(_, pair)| pair.a.is_some() && pair.b.is_some());
    let parted: Vec<&(&str, Pair)> = both().filter(|(_, pair)| !pair.same_key()).collect();
    let nondeterministic: Vec<&str> =
        both().filter(|(_, pair)| pair.same_key() && !pair.same_outputs()).map(|(name, _)| *name).collect();
    let only = |wanted: fn(&Pair) -> bool| -> Vec<&str> {
        pairs.iter().filter(|(_, pair)| wanted(pair)).map(|(name, _)| *name).collect()
    };
    let (only_a, only_b) = (only(|pair| pair.b.is_none()), only(|pair| pair.a.is_none()));
    let first = parted.first().map(|(name, pair)| (*name, changes(&a, &b, pair)));
    let metrics = metrics(&a, &b)?;
    if args.json {
        let first = first.map(|(name, changes)| json!({ "node": name, "changes": changes }));
        let parted: Vec<&str> = parted.iter().map(|(name, _)| *name).collect();
        println!(
            "{}",
            json!({
                "a": a.title(), "b": b.title(), "params": params, "kinds": kinds, "same": both().count() - parted.len(),
                "different": parted, "nondeterministic": nondeterministic, "only_a": only_a, "only_b": only_b,
                "first": first,
                "metrics": metrics.iter().map(|(name, a, b)| json!({ "metric": name, "a": a, "b": b })).collect::<Vec<_>>(),
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("A  {}  {}  {}", a.title(), a.record.pipeline, a.record.status);
    println!("B  {}  {}  {}", b.title(), b.record.pipeline, b.record.status);
    for run in [&a, &b].iter().filter(|run| run.record.status != "done") {
        println!("   {} is not finished: only the nodes that both have are compared", run.title());
    }
    section("parameters", &params);
    section("code", &kinds);
    println!("\nnodes");
    println!(
        "  {} the same, {} different, {} only in A, {} only in B",
        both().count() - parted.len(),
        parted.len(),
        only_a.len(),
        only_b.len()
    );
    if let Some((name, changes)) = first {
        println!("  they part at {name}");
        changes.iter().for_each(|change| println!("    {change}"));
    }
    for name in nondeterministic.iter().take(10) {
        println!("  {name} has the same key in both and other outputs: it is not deterministic");
    }
    if !metrics.is_empty() {
        println!("\nmetrics that differ, of the last evaluation{:>14}{:>12}{:>12}", "A", "B", "B - A");
        for (name, a, b) in &metrics {
            println!("  {name:42}{a:>12.4}{b:>12.4}{:>+12.4}", b - a);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn section(title: &str, lines: &[String]) {
    println!("\n{title}");
    if lines.is_empty() {
        println!("  the same");
    }
    lines.iter().for_each(|line| println!("  {line}"));
}

/// All parameters of a run; several ablations side by side are told apart by their names.
fn flat_params(run: &Run) -> BTreeMap<String, Value> {
    let several = run.record.params.len() > 1;
    let mut flat = BTreeMap::new();
    for (ablation, params) in &run.record.params {
        for (name, value) in params.as_object().into_iter().flatten() {
            let name = if several { format!("{ablation}/{name}") } else { name.clone() };
            flat.insert(name, value.clone());
        }
    }
    flat
}

fn changed_params(a: &Run, b: &Run) -> Vec<String> {
    let (a, b) = (flat_params(a), flat_params(b));
    changed(&a, &b, Value::to_string)
}

fn changed_kinds(a: &RunRecord, b: &RunRecord) -> Vec<String> {
    let with_program = |record: &RunRecord| -> BTreeMap<String, String> {
        let kinds =
            record.kinds.iter().map(|(kind, version)| (format!("kind {kind}"), format!("version {version}")));
        kinds.chain([("triplay".to_owned(), record.triplay.clone())]).collect()
    };
    changed(&with_program(a), &with_program(b), String::clone)
}

fn changed<T: PartialEq>(
    a: &BTreeMap<String, T>,
    b: &BTreeMap<String, T>,
    show: fn(&T) -> String,
) -> Vec<String> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let shown = |value: Option<&T>| value.map_or("nothing".into(), show);
    let differing = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    differing.map(|name| format!("{name}: {} → {}", shown(a.get(name)), shown(b.get(name)))).collect()
}

/// The nodes of both runs, in the order of the first and then of what only the second has.
fn in_order<'a>(a: &'a Run, b: &'a Run) -> Vec<&'a str> {
    let order = |run: &'a Run| -> Vec<&'a str> {
        let mut nodes: Vec<&NodeReport> = run.nodes.iter().collect();
        nodes.sort_by_key(|node| node.index);
        nodes.into_iter().map(|node| node.node.as_str()).collect()
    };
    let mut names = order(a);
    let known: BTreeSet<&str> = names.iter().copied().collect();
    names.extend(order(b).into_iter().filter(|name| !known.contains(name)));
    names
}

/// What differs between the manifests of a node in two runs.
fn changes(a: &Run, b: &Run, pair: &Pair) -> Vec<Change> {
    let manifest = |run: &Run, node: Option<&NodeReport>| {
        let store = Store::open(&run.record.cache).ok()?;
        runs::manifest(&store, &node?.key)
    };
    match (manifest(a, pair.a), manifest(b, pair.b)) {
        (Some(a), Some(b)) => differences(&a, &b),
        _ => Vec::new(),
    }
}

/// The metrics of the last evaluation of both that differ: name, value in A, value in B. Those of single categories and
/// classes are left out.
fn metrics(a: &Run, b: &Run) -> anyhow::Result<Vec<(String, f64, f64)>> {
    let last = |run: &Run| -> anyhow::Result<BTreeMap<String, f64>> {
        let path = run.folder.join("metrics.parquet");
        if !path.exists() {
            return Ok(BTreeMap::new());
        }
        let prefix = run.ablation.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
        let rows = analysis::read(&path)?;
        let mut rows: Vec<_> = rows
            .into_iter()
            .filter(|row| row.node.starts_with(&prefix))
            .filter(|row| row.metric.phase != "update" && row.metric.phase != analysis::PHASE)
            .filter(|row| !row.metric.subject.contains('/') && !row.metric.metric.contains(':'))
            .filter(|row| !row.metric.metric.starts_with("cross_success"))
            .collect();
        let Some(node) = rows.last().map(|row| row.node.clone()) else { return Ok(BTreeMap::new()) };
        rows.retain(|row| row.node == node);
        Ok(rows
            .into_iter()
            .map(|row| (format!("{} {}", row.metric.subject, row.metric.metric), row.metric.value))
            .collect())
    };
    let (a, b) = (last(a)?, last(b)?);
    let both = a.into_iter().filter_map(|(name, a)| Some((name.clone(), a, *b.get(&name)?)));
    Ok(both.filter(|(_, a, b)| a != b).collect())
}
