//! Where the cache of a run is: the one that a command names, one beside the run, or the one at the recorded path.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::ensure;

use super::folder::RunRecord;
use store::Store;

/// The environment variable that names the cache.
pub const CACHE_VARIABLE: &str = "TRIPLAY_CACHE";

/// A cache that a command names.
enum Named {
    /// It counts for the runs that it knows, and for those whose own cache is gone.
    Preferred(PathBuf),
    /// It counts for all runs.
    Only(PathBuf),
}

/// That of this process.
static NAMED: OnceLock<Named> = OnceLock::new();

/// Has this process read the outputs of runs from this cache if it knows them. The first call of this or of [`read_from`] counts: a
/// command names one cache.
pub fn prefer_cache(cache: &Path) {
    let _ = NAMED.set(Named::Preferred(absolute(cache)));
}

/// Has this process read the outputs of all runs from the cache of its option `--cache`, or without one as [`prefer_cache`] from
/// that of the environment.
pub fn read_from(option: Option<&Path>) -> anyhow::Result<()> {
    if let Some(cache) = option {
        let shown = cache.display();
        ensure!(Store::is_in(cache), "`--cache` must be the folder of a cache, found none at {shown}");
        let _ = NAMED.set(Named::Only(absolute(cache)));
    } else if let Some(cache) = std::env::var_os(CACHE_VARIABLE) {
        prefer_cache(cache.as_ref());
    }
    Ok(())
}

/// The path without links, as caches record it; a cache that is not there yet has none.
fn absolute(path: &Path) -> PathBuf {
    let real = path.canonicalize().or_else(|_| std::path::absolute(path));
    real.unwrap_or_else(|_| path.to_owned())
}

/// The most parts of a cache's path that are looked for beside a run: `.cache/triplay` has two.
const MOST_PARTS: usize = 3;

/// The cache of a run in the folder `place`: the one that is named, else one at the same path in a folder around the run, since
/// projects are moved and copied with their caches, else the one at the recorded path. The first that has the run's root is taken,
/// or else one that is there without it.
pub(super) fn cache_of(record: &RunRecord, place: &Path) -> PathBuf {
    let named = match NAMED.get() {
        Some(Named::Only(cache)) => return cache.clone(),
        Some(Named::Preferred(cache)) => Some(cache.clone()),
        None => None,
    };
    let parts: Vec<_> = record.cache.components().rev().take(MOST_PARTS).collect();
    let ends = (1..=parts.len()).map(|count| parts[..count].iter().rev().collect::<PathBuf>());
    let ends: Vec<PathBuf> = ends.filter(|end| end.is_relative()).collect();
    let near = || place.ancestors().flat_map(|above| ends.iter().map(|end| above.join(end)));
    let recorded = || std::iter::once(record.cache.clone());
    let knows_it =
        |cache: &PathBuf| !record.root.is_empty() && cache.join("roots").join(&record.root).is_dir();
    let known = named.clone().into_iter().chain(near()).chain(recorded()).find(knows_it);
    let there = || recorded().chain(near()).chain(named).find(|cache| Store::is_in(cache));
    known.or_else(there).unwrap_or_else(|| record.cache.clone())
}
