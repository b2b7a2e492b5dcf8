//! `records.jsonl`: what is known of each key, one sealed line a record, appended by all processes of a cache.
//!
//! A line is written by one `write` to a file opened for appending, which the kernel does not mix with others; one
//! that a crash cut short is closed by the next writer. Of two records of a key the later counts.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Digest;
use super::fail::{fail_point, is_due};
use super::line::is_sealed;
use super::sharing::Sharing;

/// A map by digests, which are as good as random already.
pub type DigestMap<T> = HashMap<Digest, T, BuildHasherDefault<Middle>>;

/// A set of digests.
pub type DigestSet = HashSet<Digest, BuildHasherDefault<Middle>>;

/// Takes eight bytes of a digest for its hash: not the first, since those of one shelf share one.
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

/// Every line begins with these and the key.
const BEGIN: &[u8] = b"{\"key\":\"";

/// The records as far as they have been read.
pub struct Records {
    path: PathBuf,
    /// The file that `text` was read from, and its inode.
    file: Option<(File, u64)>,
    text: Vec<u8>,
    /// Where each key's last line lies in `text`.
    index: DigestMap<(usize, usize)>,
    /// How far `text` is indexed: whole lines.
    indexed: usize,
}

impl Records {
    pub fn new(root: &Path) -> Records {
        let path = root.join("records.jsonl");
        Records { path, file: None, text: Vec::new(), index: DigestMap::default(), indexed: 0 }
    }

    /// Reads what has been appended since, or all again where the file was replaced.
    pub fn refresh(&mut self) -> io::Result<()> {
        let there = match fs::metadata(&self.path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let same = self.file.as_ref().is_some_and(|(_, inode)| *inode == there.ino());
        if same && there.len() == self.text.len() as u64 {
            return Ok(());
        }
        if !same || there.len() < self.text.len() as u64 {
            self.text.clear();
            self.index.clear();
            self.indexed = 0;
            self.file = Some((File::open(&self.path)?, there.ino()));
        }
        let Some((file, _)) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(self.text.len() as u64))?;
        file.read_to_end(&mut self.text)?;
        self.index_lines();
        Ok(())
    }

    fn index_lines(&mut self) {
        let mut from = self.indexed;
        while let Some(length) = memchr::memchr(b'\n', &self.text[from..]) {
            if let Some(key) = key_of(&self.text[from..from + length]) {
                self.index.insert(key, (from, from + length));
            }
            from += length + 1;
        }
        self.indexed = from;
    }

    /// The record of a key as it was last read. A damaged one counts as absent.
    pub fn get(&self, key: &Digest) -> Option<&[u8]> {
        let (from, to) = *self.index.get(key)?;
        let line = &self.text[from..to];
        is_sealed(line).then_some(line)
    }

    /// All lines: each whole one, and how many there are that are damaged.
    pub fn lines(&self) -> (Vec<&[u8]>, usize) {
        let lines = self.text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let (whole, damaged): (Vec<&[u8]>, Vec<&[u8]>) = lines.partition(|line| is_sealed(line));
        (whole, damaged.len())
    }

    /// Appends a sealed line, without the line's end. Durable once the file that is returned is synced.
    pub fn append(&mut self, line: &str, sharing: Sharing) -> io::Result<File> {
        const TRIES: usize = 5;
        let key = key_of(line.as_bytes()).ok_or_else(|| io::Error::other("a record has a key"))?;
        for _ in 0..TRIES {
            let file = self.write(line, sharing)?;
            self.refresh()?;
            // Another process may have been cut short a moment before, and ours have become the end of its line.
            if self.get(&key) == Some(line.as_bytes()) {
                return Ok(file);
            }
        }
        Err(io::Error::other("what was written cannot be read back"))
    }

    fn write(&mut self, line: &str, sharing: Sharing) -> io::Result<File> {
        self.refresh()?;
        let torn = self.text.last().is_some_and(|last| *last != b'\n');
        let line = format!("{}{line}\n", if torn { "\n" } else { "" });
        fail_point("record.append")?;
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        if self.file.is_none() {
            sharing.set(&file, sharing.file)?;
        }
        if is_due("record.torn") {
            file.write_all(&line.as_bytes()[..line.len() / 2])?;
        }
        fail_point("record.torn")?;
        file.write_all(line.as_bytes())?;
        Ok(file)
    }

    /// Replaces the file by these lines. Nobody may append meanwhile.
    pub fn replace(&mut self, lines: &[Vec<u8>], sharing: Sharing) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
        for line in lines {
            temporary.write_all(line)?;
            temporary.write_all(b"\n")?;
        }
        sharing.set(temporary.as_file(), sharing.file)?;
        temporary.as_file().sync_all()?;
        temporary.persist(&self.path).map_err(|error| error.error)?;
        super::publish::sync_folder(folder)?;
        self.refresh()
    }
}

pub(super) fn key_of(line: &[u8]) -> Option<Digest> {
    let hex = line.strip_prefix(BEGIN)?.get(..64)?;
    Digest::from_hex(hex)
}
