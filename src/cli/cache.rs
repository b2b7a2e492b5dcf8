//! `triplay cache stats`, `verify` and `gc`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bytesize::ByteSize;
use serde_json::{Value, json};

use super::pipeline::open;
use super::{CacheArgs, GcArgs, StatsArgs};
use crate::runs::Run;
use crate::store::{Digest, Live, Store};
use output::{println, several};

/// Megabytes and the like as people read them.
fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().si().to_string()
}

/// A cache that is there: who looks after one makes none.
fn existing(cache: &CacheArgs) -> anyhow::Result<Store> {
    anyhow::ensure!(cache.cache.join("blobs").is_dir(), "there is no cache at {}", cache.cache.display());
    open(cache)
}

pub fn stats(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let store = existing(&args.cache)?;
    let usage = store.usage()?;
    let roots = store.roots()?;
    let (there, gone): (Vec<&PathBuf>, Vec<&PathBuf>) = roots.iter().partition(|root| root.exists());
    let mut types: BTreeMap<Digest, String> = BTreeMap::new();
    let mut live = Live::default();
    for root in &there {
        for node in Run::read_nodes(root).map(|(nodes, _)| nodes).unwrap_or_default() {
            live.records.insert(node.key);
            for output in node.outputs {
                live.blobs.insert(output.digest);
                types.insert(output.digest, output.artifact);
            }
        }
    }
    let mut by_type: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    let mut unused = (0, 0);
    for blob in &usage.blobs {
        let name = types.get(&blob.digest).map_or("of no run", String::as_str);
        let entry = by_type.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + blob.bytes);
        if !live.blobs.contains(&blob.digest) {
            unused = (unused.0 + 1, unused.1 + blob.bytes);
        }
    }
    if args.json {
        let types: BTreeMap<&str, Value> = by_type
            .iter()
            .map(|(name, (count, bytes))| (*name, json!({ "blobs": count, "bytes": bytes })))
            .collect();
        println!(
            "{}",
            json!({
                "cache": store.root(), "blobs": usage.blobs.len(), "bytes": usage.bytes(), "records": usage.records,
                "runs": there.len(), "runs_gone": gone.len(), "unused_blobs": unused.0, "unused_bytes": unused.1,
                "quarantined": usage.quarantined, "types": types,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", store.root().display());
    println!("{:>8}  {:>9}  blobs, of which", usage.blobs.len(), size(usage.bytes()));
    for (name, (count, bytes)) in &by_type {
        println!("{count:>8}  {:>9}    {name}", size(*bytes));
    }
    println!("{:>8}  {:>9}  records", usage.records, "");
    println!("{:>8}  {:>9}  runs", there.len(), "");
    if !gone.is_empty() {
        println!("{:>8}  {:>9}  runs whose folders are gone", gone.len(), "");
    }
    if unused.0 > 0 {
        println!(
            "{} in {} of no run: `triplay cache gc` frees them",
            size(unused.1),
            several(unused.0, "blob")
        );
    }
    if usage.quarantined > 0 {
        println!("{} damaged files are in {}", usage.quarantined, store.root().join("quarantine").display());
    }
    Ok(ExitCode::SUCCESS)
}

pub fn verify(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let store = existing(&args.cache)?;
    let verified = store.verify()?;
    if args.json {
        println!(
            "{}",
            json!({
                "blobs": verified.blobs, "bytes": verified.bytes, "records": verified.records,
                "damaged_blobs": verified.damaged, "damaged_records": verified.damaged_records,
            })
        );
    } else {
        for path in &verified.damaged {
            println!("damaged: now {}", path.display());
        }
        if verified.damaged_records > 0 {
            println!(
                "damaged: {}; the file as it was is in quarantine",
                several(verified.damaged_records, "record")
            );
        }
        let sound = verified.damaged.is_empty() && verified.damaged_records == 0;
        println!(
            "{} ({}) and {} looked through: {}",
            several(verified.blobs, "blob"),
            size(verified.bytes),
            several(verified.records + verified.damaged_records, "record"),
            if sound {
                "all as they were written"
            } else {
                "what is damaged counts as absent; run again to make it"
            }
        );
    }
    let sound = verified.damaged.is_empty() && verified.damaged_records == 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A run that uses the cache.
struct Root {
    folder: PathBuf,
    /// Seconds since it began; nothing where that is not known, or lies in the future.
    age: Option<u64>,
    is_running: bool,
}

pub fn gc(args: &GcArgs) -> anyhow::Result<ExitCode> {
    let store = existing(&args.cache)?;
    let older = args.older_than.as_deref().map(duration).transpose()?;
    let most = args.max_size.as_deref().map(bytes).transpose()?;
    let (mut gone, mut spared) = (0, 0);
    let collected = store.collect(
        || -> anyhow::Result<Live> {
            let roots = store.roots()?;
            let missing: Vec<PathBuf> = roots.iter().filter(|root| !root.exists()).cloned().collect();
            gone = missing.len();
            if !args.dry_run {
                store.forget_roots(&missing)?;
            }
            let mut kept: Vec<Root> = roots.into_iter().filter(|root| root.exists()).map(root).collect();
            // The newest first. Of what is running nothing is thrown away, whatever its age.
            kept.sort_by_key(|root| (!root.is_running, root.age.unwrap_or(0)));
            let before = kept.len();
            if let Some(older) = older {
                kept.retain(|root| root.is_running || root.age.is_none_or(|age| age <= older));
            }
            let live = live(&store, &kept, most)?;
            spared = before - live.1;
            Ok(live.0)
        },
        args.dry_run,
        || eprintln!("waiting: something is being published"),
    )?;
    if args.json {
        println!(
            "{}",
            json!({
                "dry_run": args.dry_run, "blobs": collected.blobs, "bytes": collected.bytes,
                "records": collected.records, "kept_blobs": collected.kept_blobs, "kept_bytes": collected.kept_bytes,
                "runs_let_go": spared, "runs_gone": gone,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    if gone > 0 {
        println!("{} gone with the folder; what nobody else named goes too", several(gone, "run"));
    }
    if spared > 0 {
        println!("{} let go: the folder stays, what nobody else named goes", several(spared, "run"));
    }
    println!(
        "{} {} in {} and {}; {} in {} {}",
        if args.dry_run { "would free" } else { "freed" },
        size(collected.bytes),
        several(collected.blobs, "blob"),
        several(collected.records, "record"),
        size(collected.kept_bytes),
        several(collected.kept_blobs, "blob"),
        if args.dry_run { "would stay" } else { "stay" }
    );
    Ok(ExitCode::SUCCESS)
}

fn root(folder: PathBuf) -> Root {
    let record = Run::read_record(&folder).ok();
    let began = record.as_ref().and_then(|record| record.began.parse::<jiff::Timestamp>().ok());
    let age = began.map(|began| jiff::Timestamp::now().as_second() - began.as_second());
    Root {
        // A run whose record cannot be read may be one that is starting.
        is_running: record.is_none_or(|record| record.status == "running"),
        age: age.and_then(|age| u64::try_from(age).ok()),
        folder,
    }
}

/// What the runs name, of the newest first as far as it fits, and how many runs that are.
fn live(store: &Store, roots: &[Root], most: Option<u64>) -> anyhow::Result<(Live, usize)> {
    let sizes: BTreeMap<Digest, u64> = match most {
        None => BTreeMap::new(),
        Some(_) => store.usage()?.blobs.into_iter().map(|blob| (blob.digest, blob.bytes)).collect(),
    };
    let (mut live, mut bytes) = (Live::default(), 0);
    for (index, root) in roots.iter().enumerate() {
        let of_run = of_run(root)?;
        let new: u64 = of_run.blobs.difference(&live.blobs).filter_map(|digest| sizes.get(digest)).sum();
        if most.is_some_and(|most| bytes + new > most) && !root.is_running {
            return Ok((live, index));
        }
        bytes += new;
        live.blobs.extend(of_run.blobs);
        live.records.extend(of_run.records);
    }
    Ok((live, roots.len()))
}

/// What one run names. What its loops have handed on is not kept, unless the run is still under way.
fn of_run(root: &Root) -> anyhow::Result<Live> {
    let (nodes, _) = Run::read_nodes(&root.folder).with_context(|| {
        format!("nothing was thrown away: the run {} cannot be read", root.folder.display())
    })?;
    let mut live = Live::default();
    for node in nodes {
        live.records.insert(node.key);
        let kept = node.outputs.iter().filter(|output| root.is_running || !output.passing);
        live.blobs.extend(kept.map(|output| output.digest));
    }
    Ok(live)
}

/// `30d`, `12h`, `1w 2d` in seconds.
fn duration(text: &str) -> anyhow::Result<u64> {
    let expected = || anyhow::anyhow!("--older-than {text}: expected a duration such as 12h, 30d or 2w");
    let span: jiff::Span = text.parse().map_err(|_| expected())?;
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let total = span.total((jiff::Unit::Second, days)).map_err(|_| expected())?;
    anyhow::ensure!(total >= 0.0, "--older-than {text}: expected a duration that is not negative");
    Ok(total as u64)
}

fn bytes(text: &str) -> anyhow::Result<u64> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| anyhow::anyhow!("--max-size {text}: expected a size such as 500MB, 20GB or 1GiB"))?;
    Ok(size.as_u64())
}
