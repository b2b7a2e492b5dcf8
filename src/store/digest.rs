//! BLAKE3 digests: the names of contents. A content is a file, an executable file or a tree. Each kind has digests of its own, so
//! that no two contents share one.

use std::cell::RefCell;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::str::FromStr;
use std::sync::LazyLock;

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode, left_subtree_len};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::read;

/// The value of each character as a hexadecimal digit, 255 for all others.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [255; 256];
    let mut value = 0;
    while value < 16 {
        nibbles[b"0123456789abcdef"[value] as usize] = value as u8;
        nibbles[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    nibbles
};

/// A BLAKE3 hash: the name of a content. Shown and serialised as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The hash of a file with these bytes.
    pub fn of_bytes(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file's bytes. An executable file has a different digest from a plain file with the same bytes.
    pub fn of_file(path: &Path) -> io::Result<Digest> {
        Digest::of_copied(&read::open(path)?, &|_, _| Ok(()))
    }

    /// The same for an open file. `copy` is called with the place and the bytes of each block, in any order and on any thread, while
    /// the block is in the processor's caches.
    pub(super) fn of_copied(file: &File, copy: CopyBlock) -> io::Result<Digest> {
        let metadata = file.metadata()?;
        let mode = if is_executable(&metadata) { Mode::DeriveKeyMaterial(&EXECUTABLE) } else { Mode::Hash };
        hash(file, metadata.len(), mode, copy)
    }

    /// The digest of a file's bytes, executable or not: some file systems mark every file as executable.
    pub fn of_file_bytes(path: &Path) -> io::Result<Digest> {
        let file = read::open(path)?;
        hash(&file, file.metadata()?.len(), Mode::Hash, &|_, _| Ok(()))
    }

    /// Parses 64 hexadecimal digits. A table makes it several times as fast as comparing: three digests are read for each cached
    /// node.
    pub fn from_hex(hex: &[u8]) -> Option<Digest> {
        let hex: &[u8; 64] = hex.try_into().ok()?;
        let (mut bytes, mut seen) = ([0; 32], 0);
        for (byte, digits) in bytes.iter_mut().zip(hex.as_chunks().0) {
            let [high, low] = digits.map(|digit| NIBBLES[usize::from(digit)]);
            *byte = high << 4 | low;
            seen |= high | low;
        }
        (seen < 16).then_some(Digest(bytes))
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

/// Hashes bytes that arrive in pieces.
#[derive(Default)]
pub struct DigestOf(blake3::Hasher);

impl DigestOf {
    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes so far.
    pub fn digest(self) -> Digest {
        self.0.into()
    }
}

/// What is done with a block of a file, by its place, while the file is hashed.
type CopyBlock<'a> = &'a (dyn Fn(u64, &[u8]) -> io::Result<()> + Sync);

/// Whether its owner may execute a file.
pub(super) fn is_executable(metadata: &Metadata) -> bool {
    metadata.mode() & 0o100 != 0
}

/// The number of bytes that are read and hashed at once: few enough to stay in the processor's caches between the two.
const BLOCK: u64 = 1 << 17;

thread_local! {
    /// The read buffer of a thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls `copy` and `hash` with the bytes `from..to` of a file, at most one block.
fn with_block<T>(
    file: &File,
    from: u64,
    to: u64,
    copy: CopyBlock,
    hash: impl FnOnce(&[u8]) -> T,
) -> io::Result<T> {
    BUFFER.with_borrow_mut(|buffer| {
        let length = (to - from) as usize;
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        file.read_exact_at(&mut buffer[..length], from)?;
        copy(from, &buffer[..length])?;
        Ok(hash(&buffer[..length]))
    })
}

/// The BLAKE3 hash of a file of `length` bytes, computed by all threads. The file is read rather than mapped: if it is truncated
/// or a sector cannot be read, reading returns an error, while a map ends the process.
fn hash(file: &File, length: u64, mode: Mode, copy: CopyBlock) -> io::Result<Digest> {
    let hash = if length <= BLOCK {
        with_block(file, 0, length, copy, |bytes| hasher(mode).update(bytes).finalize())?
    } else {
        let left = left_subtree_len(length);
        let (left, right) = halves(file, (0, left, length), mode, copy)?;
        hazmat::merge_subtrees_root(&left, &right, mode)
    };
    Ok(Digest(*hash.as_bytes()))
}

/// The chaining value of the bytes `from..to`, which are a subtree of the whole.
fn subtree(file: &File, from: u64, to: u64, mode: Mode, copy: CopyBlock) -> io::Result<ChainingValue> {
    if to - from > BLOCK {
        let (left, right) = halves(file, (from, from + left_subtree_len(to - from), to), mode, copy)?;
        return Ok(hazmat::merge_subtrees_non_root(&left, &right, mode));
    }
    with_block(file, from, to, copy, |bytes| {
        let mut hasher = hasher(mode);
        hasher.set_input_offset(from).update(bytes).finalize_non_root()
    })
}

fn halves(
    file: &File,
    (from, middle, to): (u64, u64, u64),
    mode: Mode,
    copy: CopyBlock,
) -> io::Result<(ChainingValue, ChainingValue)> {
    let half = |from, to| move || subtree(file, from, to, mode, copy);
    let (left, right) = rayon::join(half(from, middle), half(middle, to));
    Ok((left?, right?))
}

fn hasher(mode: Mode) -> blake3::Hasher {
    match mode {
        Mode::DeriveKeyMaterial(key) => blake3::Hasher::new_from_context_key(key),
        _ => blake3::Hasher::new(),
    }
}

/// Separates the digest of an executable file from that of its bytes.
static EXECUTABLE: LazyLock<hazmat::ContextKey> =
    LazyLock::new(|| hazmat::hash_derive_key_context("triplay 2026 executable file v1"));

impl From<blake3::Hasher> for Digest {
    fn from(hasher: blake3::Hasher) -> Digest {
        Digest(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Digest, String> {
        Digest::from_hex(text.as_bytes())
            .ok_or_else(|| format!("a digest must be 64 hexadecimal digits, found {text:?}"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        deserializer.deserialize_str(Hexadecimal)
    }
}

struct Hexadecimal;

impl Visitor<'_> for Hexadecimal {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 hexadecimal digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
        text.parse().map_err(E::custom)
    }
}
