//! `triplay cache stats`, `verify` and `gc`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::args::{CacheArgs, GcArgs, StatsArgs};
use super::pipeline::open;
use crate::engine::key_of;
use crate::runs::Run;
use crate::store::{Digest, Live, Rooted, RunFolderState, Store};
use output::{eprintln, println, several, size};

/// Opens an existing cache. These commands never make one.
fn existing(cache: &CacheArgs) -> anyhow::Result<Store> {
    anyhow::ensure!(cache.cache.join("blobs").is_dir(), "there is no cache at {}", cache.cache.display());
    open(cache)
}

pub(crate) fn stats(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let store = existing(&args.cache)?;
    let usage = store.usage()?;
    recognise_runs_here(&store)?;
    let roots = store.roots()?;
    let count = |standing| roots.iter().filter(|root| root.standing() == standing).count();
    let (deleted, unseen) = (count(RunFolderState::Deleted), count(RunFolderState::Unseen));
    let mut types: BTreeMap<Digest, String> = BTreeMap::new();
    for root in roots.iter().filter(|root| root.standing() != RunFolderState::Deleted) {
        for named in store.named(&root.id)? {
            types.extend(named.outputs.into_iter().map(|output| (output.digest, output.artifact)));
        }
    }
    let mut by_type: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    let mut unused = (0, 0);
    for blob in usage.blobs.iter().filter(|blob| !blob.is_part || types.contains_key(&blob.digest)) {
        let name = types.get(&blob.digest).map_or("of no run", String::as_str);
        let entry = by_type.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + blob.bytes);
        if !types.contains_key(&blob.digest) {
            unused = (unused.0 + 1, unused.1 + blob.bytes);
        }
    }
    let blobs = by_type.values().map(|(count, _)| count).sum::<usize>();
    if args.json {
        let types: BTreeMap<&str, Value> = by_type
            .iter()
            .map(|(name, (count, bytes))| (*name, json!({ "blobs": count, "bytes": bytes })))
            .collect();
        println!(
            "{}",
            json!({
                "cache": store.root(), "blobs": blobs, "bytes": usage.bytes(), "records": usage.records,
                "runs": roots.len(), "runs_deleted": deleted, "runs_unseen": unseen, "unused_blobs": unused.0, "unused_bytes": unused.1,
                "quarantined": usage.quarantined, "types": types,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", store.root().display());
    println!("{blobs:>8}  {:>9}  blobs", size(usage.bytes()));
    for (name, (count, bytes)) in &by_type {
        println!("{count:>8}  {:>9}    {name}", size(*bytes));
    }
    println!("{:>8}  {:>9}  records", usage.records, "");
    println!("{:>8}  {:>9}  runs", roots.len(), "");
    if deleted > 0 {
        println!("{deleted:>8}  {:>9}    with deleted folders", "");
    }
    if unseen > 0 {
        println!("{unseen:>8}  {:>9}    with folders that cannot be seen from here", "");
    }
    if unused.0 > 0 {
        println!(
            "{} in {} that no run uses: `triplay cache gc` frees them",
            size(unused.1),
            several(unused.0, "blob")
        );
    }
    if usage.quarantined > 0 {
        println!("{} damaged files are in {}", usage.quarantined, store.root().join("quarantine").display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn verify(args: &StatsArgs) -> anyhow::Result<ExitCode> {
    let store = existing(&args.cache)?;
    let verified = store.verify(&has_its_key)?;
    let sound = verified.damaged.is_empty() && verified.damaged_records == 0;
    let is_read = verified.unreadable.is_empty();
    if args.json {
        println!(
            "{}",
            json!({
                "blobs": verified.blobs, "bytes": verified.bytes, "records": verified.records,
                "damaged_blobs": verified.damaged, "unreadable_blobs": verified.unreadable,
                "damaged_records": verified.damaged_records,
            })
        );
    } else {
        for path in &verified.damaged {
            println!("damaged: moved to {}", path.display());
        }
        for why in &verified.unreadable {
            println!("not verified: {why}");
        }
        if verified.damaged_records > 0 {
            println!(
                "damaged: {}; the original file is in quarantine",
                several(verified.damaged_records, "record")
            );
        }
        println!(
            "{} ({}) and {} verified: {}",
            several(verified.blobs, "blob"),
            size(verified.bytes),
            several(verified.records + verified.damaged_records, "record"),
            match (sound, is_read) {
                (true, true) => "all are intact",
                (true, false) => "all that could be read are intact",
                (false, _) => "damaged ones count as absent; run the pipeline again to make them",
            }
        );
    }
    Ok(if sound && is_read { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn gc(args: &GcArgs) -> anyhow::Result<ExitCode> {
    let store = existing(&args.cache)?;
    let older = args.older_than.as_deref().map(duration).transpose()?;
    let most = args.max_size.as_deref().map(bytes).transpose()?;
    let mut runs = Runs::default();
    let collected = store.collect(
        || -> anyhow::Result<Live> {
            runs = Runs::of(&store, args.dry_run)?;
            runs.release(&store, older, most)?;
            let mut live = Live::default();
            for root in &runs.kept {
                let needed_by_run = needed_by_run(&store, root)?;
                live.blobs.extend(needed_by_run.blobs);
                live.records.extend(needed_by_run.records);
            }
            if !args.dry_run {
                let mut gone = runs.deleted.iter().chain(&runs.released);
                gone.try_for_each(|root| store.remove_root(&root.id))?;
            }
            Ok(live)
        },
        args.dry_run,
        |by| eprintln!("waiting: {by} cleans the cache"),
    )?;
    let unseen: Vec<&Rooted> =
        runs.kept.iter().filter(|root| root.standing() == RunFolderState::Unseen).collect();
    if args.json {
        println!(
            "{}",
            json!({
                "dry_run": args.dry_run, "blobs": collected.blobs, "bytes": collected.bytes,
                "records": collected.records, "kept_blobs": collected.kept_blobs, "kept_bytes": collected.kept_bytes,
                "runs_let_go": runs.released.len(), "runs_deleted": runs.deleted.len(), "runs_unseen": unseen.len(),
                "folders": {
                    "let_go": folders(&runs.released), "deleted": folders(&runs.deleted), "unseen": folders(unseen),
                },
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    if !runs.deleted.is_empty() {
        println!("{} deleted: outputs that no other run needs are freed", several(runs.deleted.len(), "run"));
        list(&runs.deleted);
    }
    if !runs.released.is_empty() {
        println!(
            "{} released: the folder stays, outputs that no other run needs are freed",
            several(runs.released.len(), "run")
        );
        list(&runs.released);
    }
    if !unseen.is_empty() {
        println!("{} kept, but not visible from here", several(unseen.len(), "run"));
        list(unseen.iter().copied());
        println!(
            "  Their folders may belong to other users, lie on disks that are not mounted, or have been moved. `triplay runs rm \
             --force FOLDER` releases a run that is no longer needed."
        );
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
    if collected.held > 0 {
        println!(
            "  no run needs {} of these, but they were made just now: a later `triplay cache gc` frees them",
            several(collected.held, "blob")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Most runs that are listed.
const LISTED: usize = 10;

fn list<'a>(runs: impl IntoIterator<Item = &'a Rooted>) {
    let mut runs = runs.into_iter();
    runs.by_ref().take(LISTED).for_each(|root| println!("  {}", root.folder.display()));
    match runs.count() {
        0 => {}
        more => println!("  …and {more} more; --json lists all"),
    }
}

fn folders<'a>(runs: impl IntoIterator<Item = &'a Rooted>) -> Vec<&'a Path> {
    runs.into_iter().map(|root| root.folder.as_path()).collect()
}

/// Whether a record's key is the key of the job in it.
fn has_its_key(line: &[u8]) -> bool {
    let Ok(mut record) = serde_json::from_slice::<Value>(line) else { return false };
    let key = key_of(&record["job"].take());
    key.is_some_and(|key| record["key"] == key.to_string())
}

/// The runs that use a cache, by what `gc` does with them.
#[derive(Default)]
struct Runs {
    /// Runs under way first, which are never released whatever their age, then the newest.
    kept: Vec<Rooted>,
    /// Runs with deleted folders.
    deleted: Vec<Rooted>,
    /// Runs that `--older-than` or `--max-size` releases.
    released: Vec<Rooted>,
}

impl Runs {
    fn of(store: &Store, dry_run: bool) -> anyhow::Result<Runs> {
        let mut runs = Runs::default();
        let mut beside: HashMap<PathBuf, HashMap<String, PathBuf>> = HashMap::new();
        recognise_runs_here(store)?;
        for root in store.roots()? {
            let is_gone = root.standing() == RunFolderState::Deleted || belongs_to_other_run(&root);
            // A renamed folder still belongs to the run.
            let renamed = root.folder.parent().filter(|_| is_gone).and_then(|parent| {
                let runs = beside.entry(parent.to_owned()).or_insert_with(|| runs_in(parent));
                runs.get(&root.id).cloned()
            });
            if let Some(folder) = renamed.as_ref().filter(|_| !dry_run) {
                store.move_root(&root.id, folder)?;
            }
            match is_gone && renamed.is_none() && !root.is_under_way {
                true => runs.deleted.push(root),
                false => runs.kept.push(root),
            }
        }
        runs.kept.sort_by_key(|root| (!root.is_under_way, age(root).unwrap_or(0)));
        Ok(runs)
    }

    /// Releases the runs that are older than `older` seconds, and the oldest runs that do not fit in `most` bytes.
    fn release(&mut self, store: &Store, older: Option<u64>, most: Option<u64>) -> anyhow::Result<()> {
        let is_old = |root: &Rooted| {
            !root.is_under_way && older.is_some_and(|older| age(root).is_some_and(|age| age > older))
        };
        let (old, mut kept) = std::mem::take(&mut self.kept).into_iter().partition::<Vec<_>, _>(is_old);
        self.released = old;
        if let Some(most) = most {
            let usage = store.usage()?;
            let sizes: BTreeMap<Digest, u64> =
                usage.blobs.iter().map(|blob| (blob.digest, blob.bytes)).collect();
            let (mut named, mut bytes) = (HashSet::new(), 0);
            let mut fitting = kept.len();
            for (index, root) in kept.iter().enumerate() {
                let blobs = needed_by_run(store, root)?.blobs;
                let new: u64 = blobs.difference(&named).filter_map(|digest| sizes.get(digest)).sum();
                if bytes + new > most && !root.is_under_way {
                    fitting = index;
                    break;
                }
                bytes += new;
                named.extend(blobs);
            }
            self.released.extend(kept.drain(fitting..));
        }
        self.kept = kept;
        Ok(())
    }
}

/// Has the cache recognise the runs of this project that were moved: to read them is enough.
fn recognise_runs_here(store: &Store) -> anyhow::Result<()> {
    if store.roots()?.iter().any(|root| root.standing() != RunFolderState::There) {
        Run::all(None).iter().for_each(|folder| drop(Run::read_record(folder)));
    }
    Ok(())
}

/// Whether another run has the folder's name now: after a run is removed, the next may get its name.
fn belongs_to_other_run(root: &Rooted) -> bool {
    Run::read_record(&root.folder).is_ok_and(|record| !record.root.is_empty() && record.root != root.id)
}

/// The new path of a run's folder that was renamed within its parent folder.
pub(crate) fn renamed(root: &Rooted) -> Option<PathBuf> {
    runs_in(root.folder.parent()?).remove(&root.id)
}

/// The runs in `folder`, by the IDs of their roots.
fn runs_in(folder: &Path) -> HashMap<String, PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter_map(|folder| Some((Run::read_record(&folder).ok()?.root, folder))).collect()
}

/// Seconds since a run began; `None` if the time is unknown or in the future.
fn age(root: &Rooted) -> Option<u64> {
    let began: jiff::Timestamp = root.began.parse().ok()?;
    u64::try_from(jiff::Timestamp::now().as_second() - began.as_second()).ok()
}

/// What one run needs. Transient outputs of its loops are kept only while the run is under way.
fn needed_by_run(store: &Store, root: &Rooted) -> anyhow::Result<Live> {
    let mut live = Live::default();
    for node in store.named(&root.id)? {
        live.records.insert(node.key);
        let kept = node.outputs.iter().filter(|output| root.is_under_way || !output.passing);
        live.blobs.extend(kept.map(|output| output.digest));
    }
    Ok(live)
}

/// `30d`, `12h`, `1w 2d` in seconds.
fn duration(text: &str) -> anyhow::Result<u64> {
    let expected =
        || anyhow::anyhow!("`--older-than` must be a duration such as 12h, 30d or 2w, found {text}");
    let span: jiff::Span = text.parse().map_err(|_| expected())?;
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let total = span.total((jiff::Unit::Second, days)).map_err(|_| expected())?;
    anyhow::ensure!(total >= 0.0, "`--older-than` must not be negative, found {text}");
    Ok(total as u64)
}

fn bytes(text: &str) -> anyhow::Result<u64> {
    let size: ByteSize = text.parse().map_err(|_| {
        anyhow::anyhow!("`--max-size` must be a size such as 500MB, 20GB or 1GiB, found {text}")
    })?;
    Ok(size.as_u64())
}
