//! `triplay runs list`, `show` and `rm`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::ensure;
use serde_json::json;

use super::args::{RunsListArgs, RunsRmArgs, RunsShowArgs};
use super::cache::renamed;
use super::stopped::stopped;
use crate::analysis;
use crate::runs::{Events, Removal, Run, RunRecord, ServedModel};
use crate::store::{Rooted, RunFolderState, Store};
use output::{eprintln, fixed, one_line, println, several};

/// Most ablations and seeds of a run that are named in the list.
const MOST_VARIANTS: usize = 2;

pub(crate) fn list(args: &RunsListArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let mut records: Vec<RunRecord> = Vec::new();
    for folder in Run::all(args.pipeline.as_deref()) {
        match Run::read_record(&folder) {
            // The folder names the run: the user may have renamed it.
            Ok(record) => records.push(RunRecord { run: name(&folder), ..record }),
            Err(error) => eprintln!("warning: {error:#}"),
        }
    }
    if args.json {
        for record in &records {
            println!("{}", json!(record));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let heading = ["run", "pipeline", "status", "ran", "cached", "time", "metric", "changed"];
    let rows = records.iter().map(|record| {
        let mut changed = record.settings.clone();
        let mut variants: Vec<String> =
            record.params.keys().filter(|name| !name.is_empty()).map(|name| format!("@{name}")).collect();
        if variants.len() > MOST_VARIANTS {
            variants = vec![several(variants.len(), "variant")];
        }
        changed.extend(variants);
        if !record.targets.is_empty() {
            changed.push(format!("only {}", record.targets.join(" ")));
        }
        if !record.forced.is_empty() {
            changed.push(format!("forced {}", record.forced.join(" ")));
        }
        [
            record.run.clone(),
            record.pipeline.clone(),
            record.status.clone(),
            record.ran.to_string(),
            record.cached.to_string(),
            format!("{} s", fixed(record.seconds, 1)),
            record.main.as_ref().map_or(String::new(), analysis::of_main),
            changed.join(" "),
        ]
    });
    let rows = [heading.map(str::to_owned)].into_iter().chain(rows);
    let mut rows: Vec<Vec<String>> = rows.map(Vec::from).collect();
    if records.iter().all(|record| record.main.is_none()) {
        let metric = heading.len() - 2;
        rows.iter_mut().for_each(|row| drop(row.remove(metric)));
    }
    if super::progress::prints_to_terminal() {
        shorten_last(&mut rows);
    }
    print_table(&rows, &[3, 4, 5]);
    Ok(ExitCode::SUCCESS)
}

/// Columns of a terminal that tables fit into.
const COLUMNS: usize = 80;

/// The width of each column, in characters.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    (0..rows.first().map_or(0, Vec::len)).map(width).collect()
}

/// Shortens the cells of the last column so that rows fit into [`COLUMNS`]; `runs show` and `--json` have them whole. The first
/// row is the heading.
fn shorten_last(rows: &mut [Vec<String>]) {
    let widths = widths(rows);
    let Some(((_, before), heading)) = widths.split_last().zip(rows.first().and_then(|row| row.last()))
    else {
        return;
    };
    let used: usize = before.iter().map(|width| width + 2).sum();
    let room = COLUMNS.saturating_sub(used).max(heading.chars().count());
    for cell in rows.iter_mut().filter_map(|row| row.last_mut()).filter(|cell| cell.chars().count() > room) {
        *cell = cell.chars().take(room - 1).chain(['…']).collect();
    }
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Prints columns padded to their widest cells. Those in `right` are right-aligned.
fn print_table(rows: &[Vec<String>], right: &[usize]) {
    let widths = widths(rows);
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            if right.contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

pub(crate) fn show(args: &RunsShowArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let run = Run::find(&args.run)?;
    let record = &run.record;
    let failed = Events::of(&run.folder).failed;
    if args.json {
        let (nodes, served) = (&run.nodes, run.served()?);
        println!("{}", json!({ "run": record, "nodes": nodes, "failures": failed, "served": served }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}  {}", run.title(), record.status);
    println!("{}", run.folder.display());
    println!("pipeline  {} ({})", record.pipeline, record.file.display());
    if !record.targets.is_empty() {
        println!("targets   {}", record.targets.join(" "));
    }
    if !record.forced.is_empty() {
        println!("forced    {}", record.forced.join(" "));
    }
    let (began, seconds) = (&record.began, fixed(record.seconds, 1));
    match record.status.as_str() {
        "running" => println!("began     {began}, {seconds} s so far"),
        "killed" => println!("began     {began}, last seen at work after {seconds} s"),
        _ => println!("began     {began}, took {seconds} s"),
    }
    println!("triplay   {}", record.triplay);
    let machine = &record.machine;
    println!(
        "machine   {}: {}, {} cores, {}",
        machine.host, machine.processor, machine.cores, machine.system
    );
    println!("cache     {}", record.cache.display());
    match &run.ablation {
        None => println!(
            "nodes     {}: ran {}, cached {}, failed {}, skipped {}",
            record.nodes, record.ran, record.cached, record.failed, record.skipped
        ),
        // Failed and skipped nodes are counted only for the whole run.
        Some(_) => {
            let cached = run.nodes.iter().filter(|node| node.cached).count();
            println!("nodes     {} done: ran {}, cached {cached}", run.nodes.len(), run.nodes.len() - cached);
        }
    }
    if run.damaged > 0 {
        println!("damaged   {} lines of nodes.jsonl, which are left out", run.damaged);
    }
    for line in stopped(&run.nodes, record.status == "done" && record.targets.is_empty(), |digest| {
        record.blob(digest)
    }) {
        println!("loop      {line}");
    }
    for missing in &record.incomplete {
        println!("lacks     {missing}");
    }
    for line in &record.unchanged {
        println!("unchanged {line}");
    }
    for (node, why) in &failed {
        let why = why.as_deref().unwrap_or("the run ended before it recorded a reason");
        println!("failed    {node}: {}", why.replace('\n', "\n          "));
    }
    print_params(record);
    let mut kinds: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for node in run.nodes.iter().filter(|node| !node.cached) {
        let entry = kinds.entry(&node.kind).or_default();
        *entry = (entry.0 + 1, entry.1 + node.seconds);
    }
    if !kinds.is_empty() {
        println!("\nexecuted: kind, nodes, seconds");
        for (kind, (count, seconds)) in kinds {
            println!("  {kind:12} {count:>6} {seconds:>9.1}");
        }
    }
    print_served(&run.served()?);
    Ok(ExitCode::SUCCESS)
}

/// Prints what servers did for the nodes that were executed.
fn print_served(served: &[ServedModel]) {
    if served.is_empty() {
        return;
    }
    println!("\nserved");
    let heading = ["  endpoint", "model", "server", "nodes", "requests", "again", "tokens in", "out", "cost"];
    let rows = served.iter().map(|asked| {
        let others: Vec<&str> =
            asked.answered.iter().map(String::as_str).filter(|name| *name != asked.model).collect();
        let model = match (asked.model.as_str(), &others[..]) {
            ("", _) => "(loaded)".to_owned(),
            (model, []) => model.to_owned(),
            (model, others) => format!("{model} (answers as {})", others.join(", ")),
        };
        [
            format!("  {}", asked.endpoint),
            model,
            asked.servers.join(", "),
            asked.nodes.to_string(),
            asked.requests.to_string(),
            asked.retries.to_string(),
            asked.prompt_tokens.to_string(),
            asked.completion_tokens.to_string(),
            fixed(asked.cost, 4),
        ]
    });
    let rows: Vec<Vec<String>> =
        [heading.map(str::to_owned)].into_iter().chain(rows).map(Vec::from).collect();
    print_table(&rows, &[3, 4, 5, 6, 7, 8]);
}

/// Prints the parameters: first those that all ablations and seeds share, then for each of them the others.
fn print_params(record: &RunRecord) {
    type Params<'a> = BTreeMap<&'a str, Cow<'a, str>>;
    let all = record.params.keys().map(|variant| (variant, record.typed_params(variant).collect()));
    let variants: Vec<(&String, Params)> = all.collect();
    let Some((_, first)) = variants.first() else { return };
    let is_shared = |name: &str| variants.iter().all(|(_, params)| params.get(name) == first.get(name));
    if first.keys().any(|name| is_shared(name)) {
        println!("\nparameters");
    }
    for (name, value) in first.iter().filter(|(name, _)| is_shared(name)) {
        println!("  {name}: {value}");
    }
    for (variant, params) in &variants {
        let own: Vec<_> = params.iter().filter(|(name, _)| !is_shared(name)).collect();
        if !own.is_empty() {
            println!("\nparameters of {variant}");
        }
        own.iter().for_each(|(name, value)| println!("  {name}: {value}"));
    }
}

/// Most files that are named.
const MOST_FILES: usize = 5;

fn named(names: &[String]) -> String {
    let shown = names.iter().take(MOST_FILES).map(|name| one_line(name).into_owned());
    let mut shown: Vec<String> = shown.collect();
    if names.len() > MOST_FILES {
        shown.push(format!("and {} more", names.len() - MOST_FILES));
    }
    shown.join(", ")
}

pub(crate) fn rm(args: &RunsRmArgs) -> anyhow::Result<ExitCode> {
    args.cache.name();
    // Finds all runs before it removes any.
    let mut removals: Vec<Removal> = Vec::new();
    let mut unseen: Vec<(Store, Rooted)> = Vec::new();
    for run in &args.runs {
        let folder = match Run::locate(run) {
            Ok(folder) => folder,
            Err(error) => {
                let found = unseen_run(args, run)?.ok_or(error)?;
                let folder = found.1.folder.display();
                let how = if found.1.is_under_way { "is running" } else { "cannot be seen from here" };
                let is_gone = found.1.standing() == RunFolderState::Deleted && !found.1.is_under_way;
                ensure!(
                    args.force || is_gone,
                    "{folder} {how}: it may belong to another user, or lie on a disk that is not mounted\n  help: --force \
                     releases it anyway, and the next `triplay cache gc` deletes what only it needs"
                );
                unseen.push(found);
                continue;
            }
        };
        let mut removal = Removal::of(&folder)?;
        // On file systems without locks the cache still knows whether the run is under way.
        removal.is_running |= is_under_way(&folder);
        if !removals.iter().any(|known| known.folder == removal.folder) {
            removals.push(removal);
        }
    }
    for Removal { folder, is_running, foreign } in &removals {
        let folder = folder.display();
        ensure!(args.force || !is_running, "{folder} is running; --force removes it anyway");
        ensure!(
            args.force || foreign.is_empty(),
            "{folder} has files in it that triplay did not write: {}; move them away, or remove them too with --force",
            named(foreign)
        );
    }
    for removal in removals {
        let record = Run::read_record(&removal.folder).ok();
        let place = removal.folder.canonicalize().ok();
        removal.remove()?;
        // If that fails, `cache gc` finds that the folder was deleted.
        let kept = record.and_then(|record| release(&record, place.as_deref(), args.force).ok()?);
        let foreign = match &removal.foreign[..] {
            [] => String::new(),
            foreign => format!(" with {}", named(foreign)),
        };
        let folder = removal.folder.display();
        match kept {
            None => println!("removed {folder}{foreign}; `triplay cache gc` frees what only it used"),
            Some(other) => println!(
                "removed {folder}{foreign}; the cache keeps what it used, since the run may also be at {0}, which cannot be seen from \
                 here: `triplay runs rm --force {0}` releases it",
                other.display()
            ),
        }
    }
    for (store, root) in unseen {
        store.remove_root(&root.id)?;
        println!(
            "released {}, which has no folder here; `triplay cache gc` frees what only it used",
            root.folder.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The root of a run in its cache.
fn known(record: &RunRecord) -> anyhow::Result<Option<(Store, Rooted)>> {
    let Some(store) = record.store()? else { return Ok(None) };
    let root = store.roots()?.into_iter().find(|root| root.id == record.root);
    Ok(root.map(|root| (store, root)))
}

/// Whether the run in a folder is under way, according to its cache.
fn is_under_way(folder: &Path) -> bool {
    let root = Run::read_record(folder).and_then(|record| known(&record)).ok().flatten();
    let is_here = |root: &Rooted| folder.canonicalize().is_ok_and(|place| place == root.folder);
    root.is_some_and(|(_, root)| root.is_under_way && is_here(&root))
}

/// Releases a run whose folder was removed from `place`, unless that folder was a copy. Returns a place that cannot be seen from here
/// and may have the run too; then it is released only by `force`.
fn release(record: &RunRecord, place: Option<&Path>, force: bool) -> anyhow::Result<Option<PathBuf>> {
    let Some((store, root)) = known(record)? else { return Ok(None) };
    let is_known = root.places().any(|known| Some(known) == place);
    let was_here = is_known || root.standing() == RunFolderState::Deleted;
    if !was_here || root.is_under_way || renamed(&root).is_some() {
        return Ok(None);
    }
    let mut elsewhere = root.unseen_places().filter(|other| Some(*other) != place);
    if let Some(other) = elsewhere.next().filter(|_| !force) {
        return Ok(Some(other.to_owned()));
    }
    store.remove_root(&root.id)?;
    Ok(None)
}

/// A run in the cache whose folder cannot be seen from here, found by the folder's path or the end of it.
fn unseen_run(args: &RunsRmArgs, run: &str) -> anyhow::Result<Option<(Store, Rooted)>> {
    if !args.cache.cache.is_dir() {
        return Ok(None);
    }
    let store = Store::open(&args.cache.cache)?;
    let is_it = |root: &Rooted| {
        let run = run.trim_start_matches("./");
        !run.is_empty() && root.places().any(|place| place.ends_with(run))
    };
    let found = store.roots()?.into_iter().filter(is_it);
    let mut unseen: Vec<Rooted> = found.filter(|root| root.standing() != RunFolderState::There).collect();
    ensure!(
        unseen.len() < 2,
        "{run} must name one run, found {}; write more of its folder's path",
        unseen.len()
    );
    Ok(unseen.pop().map(|root| (store, root)))
}
