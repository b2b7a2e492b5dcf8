//! BLAKE3 digests and how files and folders are digested.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Files from this size on are memory-mapped and hashed by all threads.
const PARALLEL_FROM: u64 = 1 << 20;

/// What each character stands for as a hexadecimal digit; 255 where it is none.
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
    pub fn of_bytes(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file's bytes.
    pub fn of_file(path: &Path) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        if fs::metadata(path)?.len() >= PARALLEL_FROM {
            hasher.update_mmap_rayon(path)?;
        } else {
            hasher.update(&fs::read(path)?);
        }
        Ok(hasher.into())
    }

    /// The digest that 64 hexadecimal digits stand for. A table makes it several times as fast as comparing: three of
    /// these are read for each node that is found in the cache.
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

    /// The digest of a folder: the names and digests of its files, in name order. What is hidden (`.git`,
    /// `.cache`) is no part of it.
    pub fn of_folder(path: &Path) -> io::Result<Digest> {
        Digest::of_folder_by(path, &mut Digest::of_file)
    }

    /// The same, with the digests of its files from elsewhere.
    pub fn of_folder_by(
        path: &Path,
        of_file: &mut dyn FnMut(&Path) -> io::Result<Digest>,
    ) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"folder\0");
        let mut files = Vec::new();
        files_below(path, "", &mut files)?;
        files.sort();
        for (name, file) in files {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&of_file(&file)?.0);
        }
        Ok(hasher.into())
    }

    /// The digest of a file or of a folder.
    pub fn of_path(path: &Path) -> io::Result<Digest> {
        if path.is_dir() { Digest::of_folder(path) } else { Digest::of_file(path) }
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

/// The files of a folder and of those in it, by their names from there.
fn files_below(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = name_of(&path)?;
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        let metadata = fs::metadata(&path)?;
        if metadata.is_dir() {
            files_below(&path, &format!("{name}/"), files)?;
        } else if metadata.is_file() {
            files.push((name, path));
        } else {
            // A device or a pipe may have no end.
            return Err(io::Error::other(format!("{} is neither a file nor a folder", path.display())));
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| io::Error::other(format!("{}: name is not UTF-8", path.display())))
}

/// The files of a folder in name order; a nested folder or a name that is not UTF-8 is an error.
pub(super) fn flat_files(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            return Err(io::Error::other(format!(
                "{} is a folder inside a folder: artifacts are flat",
                path.display()
            )));
        }
        files.push((name_of(&path)?, path));
    }
    files.sort();
    Ok(files)
}

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
        Digest::from_hex(text.as_bytes()).ok_or_else(|| format!("not a digest: {text:?}"))
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
