//! Looking after a cache: what it holds, throwing away what no run names, finding what is damaged.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Digest;
use super::digest::flat_files;
use super::disk::{PLANNING, PUBLISHING, Result, Store, io_error, lock, remove};
use super::lock::{Lock, Mode};
use super::records::{DigestSet, key_of};

/// A blob as it lies in the cache.
#[derive(Clone, Debug)]
pub struct Stored {
    pub digest: Digest,
    pub bytes: u64,
}

/// What a cache holds.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub blobs: Vec<Stored>,
    pub records: usize,
    pub quarantined: usize,
}

impl Usage {
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.bytes).sum()
    }
}

/// What somebody still needs.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub blobs: HashSet<Digest>,
    pub records: HashSet<Digest>,
}

/// What was thrown away, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: usize,
    pub bytes: u64,
    pub records: usize,
    pub kept_blobs: usize,
    pub kept_bytes: u64,
}

/// What a look through everything found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    pub blobs: usize,
    pub bytes: u64,
    pub records: usize,
    /// Where damaged blobs lie now.
    pub damaged: Vec<PathBuf>,
    pub damaged_records: usize,
}

impl Store {
    /// What the cache holds, in the order of the digests. Files that lie in several blobs count once.
    pub fn usage(&self) -> Result<Usage> {
        let mut seen = HashSet::new();
        let mut blobs = Vec::new();
        for (digest, path) in self.blobs()? {
            let bytes = files_of(&path)?
                .iter()
                .filter_map(|file| fs::metadata(file).ok())
                .filter(|metadata| seen.insert((metadata.dev(), metadata.ino())))
                .map(|metadata| metadata.len())
                .sum();
            blobs.push(Stored { digest, bytes });
        }
        self.refresh()?;
        let records = lock(&self.records)
            .lines()
            .0
            .iter()
            .filter_map(|line| key_of(line))
            .collect::<HashSet<_>>()
            .len();
        let quarantined = fs::read_dir(self.root.join("quarantine")).map_or(0, Iterator::count);
        Ok(Usage { blobs, records, quarantined })
    }

    /// All blobs by digest, in order.
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

    /// Throws away what is not live; with `dry_run` only says what that would be. `live` is asked while nobody can
    /// publish or look anything up.
    pub fn collect<E: From<super::Error>>(
        &self,
        live: impl FnOnce() -> std::result::Result<Live, E>,
        dry_run: bool,
        waiting: impl FnOnce(),
    ) -> std::result::Result<Collected, E> {
        let planning = self.lock_guard(PLANNING, Mode::Exclusive, waiting)?;
        let publishing = self.lock_guard(PUBLISHING, Mode::Exclusive, || {})?;
        let live = live()?;
        let usage = self.usage()?;
        let mut collected = Collected::default();
        let trash = if dry_run { None } else { Some(self.scratch()?) };
        for blob in &usage.blobs {
            if live.blobs.contains(&blob.digest) {
                collected.kept_blobs += 1;
                collected.kept_bytes += blob.bytes;
                continue;
            }
            collected.blobs += 1;
            collected.bytes += blob.bytes;
            if let Some(trash) = &trash {
                let path = self.blob_path(&blob.digest);
                let to = trash.join(blob.digest.to_string());
                fs::rename(&path, to).map_err(io_error("remove", &path))?;
            }
        }
        collected.records = self.drop_records(&live.records, dry_run)?;
        if let Some(trash) = trash {
            self.remove_idle_locks()?;
            // What takes long is done where nobody waits for it.
            drop((planning, publishing));
            for doomed in entries(&trash)?.iter().filter(|path| !is_hidden(path)) {
                remove(doomed).map_err(io_error("remove", doomed))?;
            }
        }
        Ok(collected)
    }

    /// Writes the records again without those that nobody needs, the damaged and the outdated: how many are gone.
    fn drop_records(&self, live: &HashSet<Digest>, dry_run: bool) -> Result<usize> {
        let mut records = lock(&self.records);
        records.refresh().map_err(io_error("read the records of", &self.root))?;
        let (lines, damaged) = records.lines();
        let before = lines.len() + damaged;
        let kept: Vec<Vec<u8>> = lines
            .into_iter()
            .filter(|line| {
                key_of(line).is_some_and(|key| live.contains(&key) && records.get(&key) == Some(line))
            })
            .map(<[u8]>::to_vec)
            .collect();
        let dropped = before - kept.len();
        if dropped > 0 && !dry_run {
            records.replace(&kept, self.sharing).map_err(io_error("write the records of", &self.root))?;
        }
        Ok(dropped)
    }

    fn remove_idle_locks(&self) -> Result<()> {
        for path in entries(&self.root.join("locks"))? {
            let taken = Lock::try_take(&path, Mode::Exclusive, self.sharing);
            if let Some(lock) = taken.map_err(io_error("lock", &path))? {
                lock.remove().map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Hashes every blob and looks at every record. What is damaged is moved to quarantine and then absent, so that
    /// the next run makes it again.
    pub fn verify(&self) -> Result<Verified> {
        let blobs = self.blobs()?;
        let sound: Vec<(bool, u64)> = blobs
            .par_iter()
            .map(|(digest, path)| {
                let files = files_of(path)?;
                let bytes =
                    files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum();
                let found = Digest::of_path(path).map_err(io_error("read", path))?;
                Ok((found == *digest, bytes))
            })
            .collect::<Result<_>>()?;
        let mut verified = Verified { blobs: blobs.len(), ..Verified::default() };
        for ((_, path), (sound, bytes)) in blobs.iter().zip(sound) {
            verified.bytes += bytes;
            if !sound {
                verified.damaged.push(self.quarantine(path)?);
            }
        }
        self.refresh()?;
        let damaged_records = lock(&self.records).lines().1;
        verified.damaged_records = damaged_records;
        if damaged_records > 0 {
            let _publishing = self.lock_guard(PUBLISHING, Mode::Exclusive, || {})?;
            let path = self.root.join("records.jsonl");
            let copy = self.scratch()?.join("records.jsonl");
            fs::copy(&path, &copy).map_err(io_error("copy", &path))?;
            self.quarantine(&copy)?;
            let mut records = lock(&self.records);
            records.refresh().map_err(io_error("read the records of", &self.root))?;
            let kept: Vec<Vec<u8>> = records.lines().0.into_iter().map(<[u8]>::to_vec).collect();
            records.replace(&kept, self.sharing).map_err(io_error("write the records of", &self.root))?;
        }
        verified.records = lock(&self.records).lines().0.len();
        Ok(verified)
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    read().map_err(io_error("read", folder))
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let files = flat_files(path).map_err(io_error("read", path))?;
    Ok(files.into_iter().map(|(_, file)| file).collect())
}
