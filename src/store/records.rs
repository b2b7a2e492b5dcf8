//! Records: what is known of each key. `records/` holds one sealed line a record, and one file (a segment) for each process that
//! writes some, so that two processes never append to one file. A segment's name ends in `.open.jsonl` while its process lives.
//! `cache gc` merges the segments of dead processes.
//!
//! A key may have several records, if a stage that is not deterministic ran again. Each holds the number of records known before
//! it (`nth`), and the last one counts. Of two with the same `nth` the one later in byte order counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use serde::Serialize;

use super::Digest;
use super::error::is_damage;
use super::fail::{fail_point, is_due};
use super::line::{is_sealed, seal};
use super::publish::sync_folder;
use super::read::{self, MAX_LIST_BYTES};
use super::sharing::Sharing;

/// A map by digests. They are uniformly distributed already.
pub type DigestMap<T> = HashMap<Digest, T, BuildHasherDefault<Middle>>;

/// A set of digests.
pub type DigestSet = HashSet<Digest, BuildHasherDefault<Middle>>;

/// Uses eight middle bytes of a digest as its hash. The first byte is the same for all digests of a shelf.
#[derive(Default)]
pub struct Middle(u64);

impl Hasher for Middle {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(middle) = bytes.get(8..16).and_then(<[u8]>::first_chunk) {
            self.0 = u64::from_le_bytes(*middle);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Each line begins with this and the key.
const BEGIN: &[u8] = b"{\"key\":\"";
/// May follow the key.
const NTH: &[u8] = b"\",\"nth\":";
/// From here on a line is not kept in memory: it is long, and needed only for explanations.
const BODY: &[u8] = b",\"job\":";

const OPEN: &str = ".open.jsonl";
const CLOSED: &str = ".jsonl";

/// A line of a segment.
#[derive(Serialize)]
struct Line<'a, T> {
    key: Digest,
    #[serde(skip_serializing_if = "is_zero")]
    nth: u32,
    #[serde(flatten)]
    record: &'a T,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The location of a record.
struct Place {
    segment: u32,
    from: u64,
    length: u32,
    nth: u32,
    /// The offset of its head in [`Records::heads`].
    head: usize,
    head_length: u32,
}

/// A file of records, as far as it has been read.
struct Segment {
    path: PathBuf,
    is_open: bool,
    /// The bytes that were read, in whole lines.
    read: u64,
    damaged: usize,
}

/// The segment that this process writes.
struct Own {
    number: u32,
    file: Arc<File>,
    /// Whether the last write was cut short, so that the next must end that line.
    is_torn: bool,
}

/// The records as far as they have been read.
pub(crate) struct Records {
    folder: PathBuf,
    /// The segments by the names of their processes.
    names: BTreeMap<String, u32>,
    segments: Vec<Segment>,
    index: DigestMap<Place>,
    heads: Vec<u8>,
    /// When the folder last changed, if that was long enough before the listing that a later change must show in its time.
    listed: Option<(i64, i64)>,
    own: Option<Own>,
}

/// The usual bytes of a record with one output, and the ratio of its length to that of its head.
const LINE: usize = 700;
const HEADS: usize = 3;

/// From this number of lines on they are parsed in parallel.
const MANY: usize = 256;

/// Anything longer is not a line: a file of zeros, for example.
const LONGEST_LINE: usize = 256 << 20;

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// Two changes within one tick of a file system's clock have the same time.
const SETTLED: Duration = Duration::from_secs(2);

impl Records {
    pub(crate) fn new(root: &Path) -> Records {
        Records {
            folder: root.join("records"),
            names: BTreeMap::new(),
            segments: Vec::new(),
            index: DigestMap::default(),
            heads: Vec::new(),
            listed: None,
            own: None,
        }
    }

    /// Reads what other processes have recorded since.
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        // A segment that is closed meanwhile is looked for again under its other name.
        while !self.look()? {}
        Ok(())
    }

    fn look(&mut self) -> io::Result<bool> {
        // Opening the folder shows the changes of other hosts.
        let there = File::open(&self.folder)?.metadata()?;
        let changed = (there.mtime(), there.mtime_nsec());
        if self.listed != Some(changed) {
            let settled = there.modified()?.checked_add(SETTLED).is_some_and(|then| then < SystemTime::now());
            self.list()?;
            self.listed = settled.then_some(changed);
        }
        let own = self.own.as_ref().map(|own| own.number);
        let mut is_all = true;
        for number in 0..self.segments.len() {
            if self.segments[number].is_open && Some(number as u32) != own && !self.read(number)? {
                // It was closed meanwhile.
                self.listed = None;
                is_all = false;
            }
        }
        Ok(is_all)
    }

    /// Lists the segments. If one is gone, its records were merged or deleted, and all are read again.
    fn list(&mut self) -> io::Result<()> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let open = name.strip_suffix(OPEN).map(|id| (id, true));
            if let Some((id, is_open)) = open.or(name.strip_suffix(CLOSED).map(|id| (id, false)))
                && !name.starts_with('.')
            {
                // Closing renames it; a listing may show both names.
                let known = found.entry(id.to_owned()).or_insert((name.clone(), is_open));
                if !is_open {
                    *known = (name.clone(), false);
                }
            }
        }
        if self.names.keys().any(|name| !found.contains_key(name)) {
            let own = self
                .own
                .take()
                .map(|own| (own.file, own.is_torn, self.segments[own.number as usize].path.clone()));
            *self = Records::new(self.folder.parent().unwrap_or(Path::new(".")));
            if let Some((file, is_torn, path)) = own {
                let number = self.segments.len() as u32;
                self.segments.push(Segment { path: path.clone(), is_open: true, read: 0, damaged: 0 });
                self.names.insert(id_of(&path), number);
                self.own = Some(Own { number, file, is_torn });
                self.read(number as usize)?;
            }
        }
        for (id, (name, is_open)) in found {
            let path = self.folder.join(name);
            match self.names.get(&id) {
                Some(number) => {
                    let segment = &mut self.segments[*number as usize];
                    if segment.is_open && !is_open {
                        (segment.path, segment.is_open) = (path, false);
                        let number = *number as usize;
                        self.read(number)?;
                    }
                }
                None => {
                    let number = self.segments.len();
                    self.segments.push(Segment { path, is_open, read: 0, damaged: 0 });
                    self.names.insert(id, number as u32);
                    self.read(number)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the rest of a segment. Returns false if it is no longer there under this name.
    fn read(&mut self, number: usize) -> io::Result<bool> {
        let segment = &mut self.segments[number];
        let mut file = match read::open(&segment.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        let more = file.metadata()?.len().saturating_sub(segment.read) as usize;
        if more == 0 {
            return Ok(true);
        }
        // For a large file, reserve about what it takes: growing a vector leaves twice as much behind.
        if more > BLOCK {
            let expected = more.min(MAX_LIST_BYTES as usize);
            self.heads.reserve_exact(expected / HEADS);
            self.index.reserve(expected / LINE);
        }
        let segment = &mut self.segments[number];
        let is_open = segment.is_open;
        file.seek(SeekFrom::Start(segment.read))?;
        // In blocks. The unfinished line at the end of a block moves to the front of the next.
        let mut text = Vec::with_capacity(BLOCK);
        loop {
            let is_end = match Read::by_ref(&mut file).take(BLOCK as u64).read_to_end(&mut text) {
                // A bad sector loses the records behind it, not the cache.
                Err(error) if is_damage(&error) => {
                    self.segments[number].damaged += 1;
                    true
                }
                read => read? == 0,
            };
            let whole = memchr::memrchr(b'\n', &text).map_or(0, |end| end + 1);
            self.read_lines(number, &text[..whole]);
            text.drain(..whole);
            if is_end || text.len() > LONGEST_LINE {
                break;
            }
        }
        // The process is dead, so nothing will complete its last line.
        if !is_open && !text.is_empty() {
            self.read_lines(number, &text);
        }
        Ok(true)
    }

    /// Reads lines, many of them in parallel.
    fn read_lines(&mut self, number: usize, text: &[u8]) {
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let heads: Vec<Option<Head>> = match lines.len() < MANY {
            true => lines.iter().map(|line| Head::of(line)).collect(),
            false => lines.par_iter().map(|line| Head::of(line)).collect(),
        };
        for (line, head) in lines.into_iter().zip(heads) {
            let at = self.segments[number].read;
            match head {
                Some(head) => self.enter(head, without_end(line), number as u32, at),
                None if without_end(line).is_empty() => {}
                None => self.segments[number].damaged += 1,
            }
            self.segments[number].read += line.len() as u64;
        }
    }

    fn enter(&mut self, Head { key, nth, length }: Head, line: &[u8], segment: u32, from: u64) {
        if self.head_of(&key).is_some_and(|known| known >= (nth, &line[..length])) {
            return;
        }
        let place = Place {
            segment,
            from,
            length: line.len() as u32,
            nth,
            head: self.heads.len(),
            head_length: length as u32,
        };
        self.heads.extend_from_slice(&line[..length]);
        self.index.insert(key, place);
    }

    /// The beginning of a key's record as it was last read: a JSON object up to the member `job`, without that member and the
    /// rest.
    pub(crate) fn head(&self, key: &Digest) -> Option<&[u8]> {
        let place = self.index.get(key)?;
        self.heads.get(place.head..place.head + place.head_length as usize)
    }

    /// The whole record of a key.
    pub(crate) fn whole(&self, key: &Digest) -> io::Result<Option<Vec<u8>>> {
        let Some(place) = self.index.get(key) else { return Ok(None) };
        let mut line = vec![0; place.length as usize];
        let file = read::open(&self.segments[place.segment as usize].path)?;
        file.read_exact_at(&mut line, place.from)?;
        Ok(is_sealed(&line).then_some(line))
    }

    /// The number of records known before a key's record, and its beginning.
    fn head_of(&self, key: &Digest) -> Option<(u32, &[u8])> {
        let place = self.index.get(key)?;
        Some((place.nth, self.head(key)?))
    }

    /// The number of keys with a record.
    pub(crate) fn count(&self) -> usize {
        self.index.len()
    }

    /// Writes a record to the segment of this process. It is durable once the returned file is synced.
    pub(crate) fn append(
        &mut self,
        session: &str,
        key: Digest,
        record: &impl Serialize,
        scratch: &Path,
        sharing: Sharing,
    ) -> io::Result<Arc<File>> {
        let nth = self.index.get(&key).map_or(0, |known| known.nth + 1);
        let line = seal(&Line { key, nth, record }).map_err(io::Error::other)?;
        fail_point("record.append")?;
        if self.own.is_none() {
            let path = self.folder.join(format!("{session}{OPEN}"));
            let file = sharing.append(&path, scratch)?;
            sync_folder(&self.folder)?;
            let number = self.segments.len() as u32;
            self.segments.push(Segment { path, is_open: true, read: 0, damaged: 0 });
            self.names.insert(session.to_owned(), number);
            self.own = Some(Own { number, file: Arc::new(file), is_torn: false });
        }
        let Some(own) = &mut self.own else {
            return Err(io::Error::other("no segment: a defect of triplay"));
        };
        let mut file = &*own.file;
        let text = format!("{}{line}\n", if own.is_torn { "\n" } else { "" });
        own.is_torn = true;
        if is_due("record.torn") {
            file.write_all(&text.as_bytes()[..text.len() / 2])?;
        }
        fail_point("record.torn")?;
        file.write_all(text.as_bytes())?;
        own.is_torn = false;
        let (file, number) = (own.file.clone(), own.number as usize);
        self.read(number)?;
        Ok(file)
    }

    /// The segments of dead processes.
    pub(crate) fn closed(&self) -> Vec<PathBuf> {
        self.segments.iter().filter(|segment| !segment.is_open).map(|segment| segment.path.clone()).collect()
    }

    /// The number of damaged lines in the segments of dead processes.
    pub(crate) fn damaged(&self) -> usize {
        self.segments.iter().filter(|segment| !segment.is_open).map(|segment| segment.damaged).sum()
    }

    /// Merges these segments, without the damaged and outdated lines and those that `keep` rejects. Returns the number of lines
    /// that are left out; `dry_run` changes nothing. The new segment is written in `scratch` first. `may_clean` fails where other
    /// processes may rely on the old ones by now.
    pub(crate) fn merge(
        &mut self,
        segments: &[PathBuf],
        keep: &dyn Fn(&Digest, &[u8]) -> bool,
        dry_run: bool,
        may_clean: &dyn Fn() -> io::Result<()>,
        scratch: &Path,
        sharing: Sharing,
    ) -> io::Result<usize> {
        let mut merged = tempfile::Builder::new().prefix("merged-").tempfile_in(scratch)?;
        let mut dropped = 0;
        let mut written = HashSet::new();
        for path in segments {
            let text = match read_what_can_be(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                text => text?,
            };
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let key = is_sealed(line).then(|| key_of(line)).flatten();
                let counts = |key: &Digest| self.head_of(key).is_none_or(|known| known <= rank(line));
                match key.filter(|key| counts(key) && keep(key, line) && written.insert(*key)) {
                    None => dropped += 1,
                    Some(_) => {
                        merged.write_all(line)?;
                        merged.write_all(b"\n")?;
                    }
                }
            }
        }
        if dry_run || dropped == 0 && segments.len() < 2 {
            return Ok(dropped);
        }
        sharing.set(merged.as_file(), sharing.file)?;
        merged.as_file().sync_all()?;
        let name = merged.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        may_clean()?;
        fail_point("merge.rename")?;
        merged.persist_noclobber(self.folder.join(name + CLOSED)).map_err(|error| error.error)?;
        fail_point("merge.renamed")?;
        sync_folder(&self.folder)?;
        for path in segments {
            may_clean()?;
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.listed = None;
        self.refresh()?;
        Ok(dropped)
    }
}

/// The fields at the beginning of a whole line: its key, the number of records before it, and the beginning's length.
struct Head {
    key: Digest,
    nth: u32,
    length: usize,
}

impl Head {
    fn of(line: &[u8]) -> Option<Head> {
        let line = without_end(line);
        let key = is_sealed(line).then(|| key_of(line)).flatten()?;
        Some(Head { key, nth: nth_of(line), length: head_of(line).len() })
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// The part before the job.
fn head_of(line: &[u8]) -> &[u8] {
    &line[..memchr::memmem::find(line, BODY).unwrap_or(line.len())]
}

/// The order of a key's records, independent of the order of reading: the highest counts. Two have the same number of
/// predecessors if two processes did not see each other's.
fn rank(line: &[u8]) -> (u32, &[u8]) {
    (nth_of(line), head_of(line))
}

/// Reads as much of a file as the disk returns: up to the first bad sector.
pub(super) fn read_what_can_be(path: &Path) -> io::Result<Vec<u8>> {
    let (file, mut bytes) = (read::open(path)?, Vec::new());
    match file.take(MAX_LIST_BYTES).read_to_end(&mut bytes) {
        Err(error) if !is_damage(&error) => Err(error),
        _ => Ok(bytes),
    }
}

/// Marks the segment of this process as closed.
pub(super) fn close_segment(records: &Path, id: &str) -> io::Result<()> {
    match fs::rename(records.join(format!("{id}{OPEN}")), records.join(format!("{id}{CLOSED}"))) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn id_of(segment: &Path) -> String {
    let name = segment.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(OPEN).or(name.strip_suffix(CLOSED)).unwrap_or(&name);
    name.to_owned()
}

pub(super) fn key_of(line: &[u8]) -> Option<Digest> {
    let hex = line.strip_prefix(BEGIN)?.get(..64)?;
    Digest::from_hex(hex)
}

fn nth_of(line: &[u8]) -> u32 {
    let digits = line.get(BEGIN.len() + 64..).and_then(|rest| rest.strip_prefix(NTH)).unwrap_or_default();
    let digits = &digits[..digits.iter().take_while(|byte| byte.is_ascii_digit()).count()];
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
