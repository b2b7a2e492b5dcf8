//! Maintenance of a cache: what it holds, deleting what no run needs, finding damage.
//!
//! No process waits while a cache is cleaned, except for another that cleans it. A deleted blob was named by no run and was in
//! place before the cleaning began; a run names what it makes before that is in place. A run that only found a blob checks
//! whether the cache was cleaned since it looked: see [`Store::cleaned`].

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::Digest;
use super::claim::Claim;
use super::disk::{CLEANING, Store};
use super::error::{Result, io_error, is_damage};
use super::fail::fail_point;
use super::mutex::lock;
use super::records::{DigestSet, read_what_can_be};
use super::removal::remove;
use super::roots::BY_HAND;
use super::tree::files_below;

/// A blob in the cache.
#[derive(Clone, Debug)]
pub struct Stored {
    pub digest: Digest,
    /// Files that several blobs share count for the first alone.
    pub bytes: u64,
    /// When it was last changed, placed or linked (ctime), by the file system's clock.
    changed: (i64, i64),
    /// Device and inode of each of its files, and bytes.
    files: Vec<((u64, u64), u64)>,
    is_tree: bool,
    /// Whether it is a file of a tree in the cache.
    pub is_part: bool,
}

/// What a cache holds.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Trees come first.
    pub blobs: Vec<Stored>,
    /// The number of records.
    pub records: usize,
    /// The number of damaged blobs and records.
    pub quarantined: usize,
}

impl Usage {
    /// The size of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.bytes).sum()
    }
}

/// The part of a record that is read here.
#[derive(Deserialize)]
struct Outputs {
    outputs: Vec<OutputOf>,
}

#[derive(Deserialize)]
struct OutputOf {
    digest: Digest,
}

/// What runs still need.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Digests of contents.
    pub blobs: HashSet<Digest>,
    /// Keys of records.
    pub records: HashSet<Digest>,
}

/// What was deleted, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Deleted blobs.
    pub blobs: usize,
    /// The size of the deleted blobs.
    pub bytes: u64,
    /// Deleted records.
    pub records: usize,
    /// Blobs that remain.
    pub kept_blobs: usize,
    /// The size of the blobs that remain.
    pub kept_bytes: u64,
    /// The kept blobs that no run needs, because they were placed just now.
    pub held: usize,
}

/// The result of a verification.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Blobs that were read.
    pub blobs: usize,
    /// The size of these blobs.
    pub bytes: u64,
    /// Records whose checksum was verified.
    pub records: usize,
    /// Where the damaged blobs are now.
    pub damaged: Vec<PathBuf>,
    /// Blobs that could not be read although no error indicates damage, each with the reason.
    pub unreadable: Vec<String>,
    /// Records that do not match their checksum.
    pub damaged_records: usize,
}

/// The most seconds by which the clocks of hosts that share a cache may differ.
const MOST_APART: i64 = 3600;

impl Store {
    /// The content of the cache. Files that several blobs share count once.
    pub fn usage(&self) -> Result<Usage> {
        let mut blobs = Vec::new();
        for (digest, path) in self.blobs()? {
            // Another process may drop it meanwhile.
            let Ok(own) = fs::metadata(&path) else { continue };
            let files = match own.is_dir() {
                true => files_below(&path, None).unwrap_or_default(),
                false => vec![(String::new(), path)],
            };
            let files = files.iter().map(|(_, file)| file).filter_map(|file| fs::metadata(file).ok());
            let files = files.map(|file| ((file.dev(), file.ino()), file.len())).collect();
            let changed = (own.ctime(), own.ctime_nsec());
            blobs.push(Stored { digest, bytes: 0, changed, files, is_tree: own.is_dir(), is_part: false });
        }
        blobs.sort_by_key(|blob| (!blob.is_tree, blob.digest));
        let mut seen = HashSet::new();
        for blob in &mut blobs {
            let new = blob.files.iter().filter(|(inode, _)| seen.insert(*inode));
            blob.bytes = new.map(|(_, bytes)| bytes).sum();
            blob.is_part = !blob.is_tree && blob.bytes == 0 && blob.files.iter().any(|(_, bytes)| *bytes > 0);
        }
        self.refresh()?;
        let records = lock(&self.records).count();
        let quarantined = fs::read_dir(self.root.join("quarantine")).map_or(0, Iterator::count);
        Ok(Usage { blobs, records, quarantined })
    }

    /// All blobs, sorted by digest.
    fn blobs(&self) -> Result<Vec<(Digest, PathBuf)>> {
        let mut blobs = Vec::new();
        for shelf in entries(&self.root.join("blobs"))? {
            for path in entries(&shelf)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if let Ok(digest) = name.parse() {
                    blobs.push((digest, path));
                }
            }
        }
        blobs.sort();
        Ok(blobs)
    }

    /// The digests of the blobs that begin with this byte.
    pub fn shelf(&self, byte: u8) -> DigestSet {
        let entries = fs::read_dir(self.root.join("blobs").join(format!("{byte:02x}"))).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names.filter_map(|name| Digest::from_hex(name.as_encoded_bytes())).collect()
    }

    /// Deletes what is not live; `dry_run` only counts it. `live` is called once no other process cleans the cache. `waiting` is
    /// called once with the process that does.
    pub fn collect<E: From<super::Error>>(
        &self,
        live: impl FnOnce() -> std::result::Result<Live, E>,
        dry_run: bool,
        waiting: impl FnOnce(&str),
    ) -> std::result::Result<Collected, E> {
        let mut waiting = Some(waiting);
        let mut told = |by: &str| waiting.take().into_iter().for_each(|waiting| waiting(by));
        let session = self.session(None)?;
        let cleaning = if dry_run { None } else { Some(self.claim_in_turn(CLEANING, &mut told)?) };
        self.watch.decide(&self.root, told).map_err(io_error("read", &self.root))?;
        if !dry_run {
            self.count_cleaning()?;
            // In this order: every process that has ended by now has named what it needs, and what is placed from now on is not
            // considered.
            self.sweep(&session)?;
        }
        self.refresh()?;
        let closed = lock(&self.records).closed();
        let mut began = self.clock()?;
        if self.is_shared() {
            // On some file systems the times are those of the writing hosts.
            began.0 -= MOST_APART;
        }
        let live = live()?;
        let usage = self.usage()?;
        let needed: HashSet<(u64, u64)> = usage
            .blobs
            .iter()
            .filter(|blob| blob.is_tree && (live.blobs.contains(&blob.digest) || blob.changed >= began))
            .flat_map(|blob| blob.files.iter().map(|(inode, _)| *inode))
            .collect();
        let is_part =
            |blob: &Stored| !blob.is_tree && blob.files.iter().any(|(inode, _)| needed.contains(inode));
        let (kept, doomed): (Vec<&Stored>, Vec<&Stored>) = usage
            .blobs
            .iter()
            .partition(|blob| live.blobs.contains(&blob.digest) || is_part(blob) || blob.changed >= began);
        let mut counted = HashSet::new();
        let mut sum = |blobs: &[&Stored]| -> u64 {
            let files = blobs.iter().flat_map(|blob| &blob.files);
            files.filter(|(inode, _)| counted.insert(*inode)).map(|(_, bytes)| bytes).sum()
        };
        let mut collected = Collected {
            kept_bytes: sum(&kept),
            bytes: sum(&doomed),
            kept_blobs: kept.iter().filter(|blob| !is_part(blob)).count(),
            blobs: doomed.iter().filter(|blob| !blob.is_part).count(),
            records: 0,
            held: kept.iter().filter(|blob| !live.blobs.contains(&blob.digest) && !is_part(blob)).count(),
        };
        let trash = self.scratch()?;
        fail_point("collect.looked").map_err(io_error("read", &self.root))?;
        for blob in doomed.iter().filter(|_| !dry_run) {
            self.may_clean(cleaning.as_ref()).map_err(io_error("clean", &self.root))?;
            self.discard(&blob.digest, &trash)?;
        }
        // If a blob is kept only because it is young, its record is kept too; otherwise it would be made again.
        let young: HashSet<Digest> = kept.iter().map(|blob| blob.digest).collect();
        let is_whole = |line: &[u8]| {
            let outputs =
                serde_json::from_slice::<Outputs>(line).map(|record| record.outputs).unwrap_or_default();
            self.is_shared()
                && !outputs.is_empty()
                && outputs.iter().all(|output| young.contains(&output.digest))
        };
        let keep = |key: &Digest, line: &[u8]| live.records.contains(key) || is_whole(line);
        let may_clean = || self.may_clean(cleaning.as_ref());
        let merged = lock(&self.records).merge(&closed, &keep, dry_run, &may_clean, &trash, self.sharing);
        collected.records = merged.map_err(io_error("write the records of", &self.root))?;
        if !dry_run {
            let is_stale = |path: &Path| Ok(self.watch.living(path)?.is_none());
            let removed = self.remove_claims(&session, is_stale);
            removed.map_err(io_error("clear up", &self.root))?;
            // What failing stages saved is deleted with their run.
            for path in entries(&self.root.join("failed")).unwrap_or_default() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if !self.has_root(&name) && name != BY_HAND {
                    let _ = remove(&path);
                }
            }
            self.collect_unfinished()?;
            let _ = lock(&self.memo).compact(&trash, self.sharing);
            drop(cleaning);
            for doomed in entries(&trash)?.iter().filter(|path| is_collected(path)) {
                remove(doomed).map_err(io_error("remove", doomed))?;
            }
        }
        Ok(collected)
    }

    /// Fails where other processes may have taken this one for dead, and have gone on without it.
    fn may_clean(&self, cleaning: Option<&Claim>) -> std::io::Result<()> {
        if self.is_seen_alive().unwrap_or(false) && cleaning.is_none_or(Claim::is_held) {
            return Ok(());
        }
        let message = "this process was suspended for so long that others took it for dead; run it again";
        Err(std::io::Error::other(message))
    }

    /// Moves a blob to the trash.
    fn discard(&self, digest: &Digest, trash: &Path) -> Result<()> {
        let path = self.blob_path(digest);
        let discard = || {
            fail_point("collect.rename")?;
            fs::rename(&path, trash.join(format!("collected-{digest}")))
        };
        match discard() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            discarded => discarded.map_err(io_error("remove", &path)),
        }
    }

    /// The current time by the clock of the cache's file system.
    fn clock(&self) -> Result<(i64, i64)> {
        let path = self.scratch()?.join("clock");
        let touch = || {
            fs::write(&path, "")?;
            let now = fs::metadata(&path)?;
            fs::remove_file(&path)?;
            Ok((now.ctime(), now.ctime_nsec()))
        };
        touch().map_err(io_error("write", &path))
    }

    /// Hashes every blob and checks every record with `is_sound`, which says whether a record's key is that of its job. Damaged
    /// blobs are moved to quarantine and are then absent, so that the next run makes them again.
    pub fn verify(&self, is_sound: &(dyn Fn(&[u8]) -> bool + Sync)) -> Result<Verified> {
        let blobs = self.blobs()?;
        let looked: Vec<(u64, Result<Option<PathBuf>>)> =
            blobs.par_iter().map(|(digest, path)| self.look_through(digest, path)).collect();
        let mut verified = Verified { blobs: blobs.len(), ..Verified::default() };
        for (bytes, damaged) in looked {
            verified.bytes += bytes;
            match damaged {
                Ok(damaged) => verified.damaged.extend(damaged),
                Err(error) => verified.unreadable.push(error.to_string()),
            }
        }
        self.refresh()?;
        let mut unsound = 0;
        {
            let records = lock(&self.records);
            let closed = records.closed();
            for path in &closed {
                let text = read_what_can_be(path).unwrap_or_default();
                let lines = super::line::sealed_lines(&text, |_| {});
                unsound += lines.filter(|line| !is_sound(line)).count();
            }
            verified.damaged_records = records.damaged() + unsound;
        }
        if verified.damaged_records > 0 {
            let cleaning = self.claim_in_turn(CLEANING, |_| {})?;
            self.refresh()?;
            let closed = lock(&self.records).closed();
            for path in &closed {
                let copy = self.scratch()?.join(path.file_name().unwrap_or_default());
                // A file on bad sectors may not be copyable.
                if fs::copy(path, &copy).is_ok() {
                    self.quarantine(&copy, &Digest::of_bytes(b""))?;
                }
            }
            let scratch = self.scratch()?;
            let keep = |_: &Digest, line: &[u8]| is_sound(line);
            let may_clean = || self.may_clean(Some(&cleaning));
            let merged = lock(&self.records).merge(&closed, &keep, false, &may_clean, &scratch, self.sharing);
            merged.map_err(io_error("write the records of", &self.root))?;
        }
        verified.records = lock(&self.records).count();
        Ok(verified)
    }

    /// Hashes one blob. Returns its size, and where it is now if it was damaged.
    fn look_through(&self, digest: &Digest, path: &Path) -> (u64, Result<Option<PathBuf>>) {
        let files = if path.is_dir() { files_of(path).unwrap_or_default() } else { vec![path.to_owned()] };
        let bytes = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum();
        match Digest::of_path(path) {
            Ok(found) if found == *digest => (bytes, Ok(None)),
            // Dropped meanwhile.
            Err(_) if !path.exists() => (0, Ok(None)),
            Err(error) if !is_damage(&error) => (bytes, Err(io_error("read", path)(error))),
            _ => (bytes, self.quarantine(path, digest)),
        }
    }
}

fn is_collected(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"collected-"))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    read().map_err(io_error("read", folder))
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = files_below(folder, None).map_err(io_error("read", folder))?;
    Ok(files.into_iter().map(|(_, file)| file).collect())
}
