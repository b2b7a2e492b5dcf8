//! Describes how two files or folders differ that should be the same.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use crate::data;
use crate::store::{files_below, read};

/// The first differences, one a line.
pub(crate) fn files(before: &Path, now: &Path) -> String {
    if before.is_dir() && now.is_dir() {
        return folders(before, now);
    }
    match (data::open(before), data::open(now)) {
        (Ok(before), Ok(now)) => tables(&before, &now),
        _ => bytes(before, now),
    }
}

const UNREADABLE: &str = "one of them cannot be read";

fn folders(before: &Path, now: &Path) -> String {
    let names = |folder| -> io::Result<BTreeSet<String>> {
        Ok(files_below(folder, None)?.into_iter().map(|(name, _)| name).collect())
    };
    let (Ok(old), Ok(new)) = (names(before), names(now)) else { return UNREADABLE.into() };
    let mut lines: Vec<String> = old.difference(&new).map(|name| format!("{name} is missing")).collect();
    lines.extend(new.difference(&old).map(|name| format!("{name} is new")));
    for name in old.intersection(&new) {
        let what = Bytes::of(&before.join(name), &now.join(name));
        if !what.as_ref().is_ok_and(Bytes::are_same) {
            lines.push(format!("{name}: {}", in_words(what)));
        }
    }
    lines.join("\n")
}

fn bytes(before: &Path, now: &Path) -> String {
    in_words(Bytes::of(before, now))
}

fn in_words(bytes: io::Result<Bytes>) -> String {
    let Ok(Bytes { differing, first, old, new }) = bytes else { return UNREADABLE.into() };
    let first = first.unwrap_or(old.min(new));
    let lengths = if old == new { String::new() } else { format!(", {old} and {new} bytes long") };
    format!("{differing} bytes differ, the first at {first}{lengths}")
}

/// The differing bytes of two files, up to the end of the shorter one.
struct Bytes {
    differing: u64,
    first: Option<u64>,
    /// Lengths of the two files.
    old: u64,
    new: u64,
}

/// Bytes of each file in memory at a time: models may not fit as a whole.
const BLOCK: usize = 1 << 20;

impl Bytes {
    fn of(before: &Path, now: &Path) -> io::Result<Bytes> {
        let (mut before, mut now) = (read::open(before)?, read::open(now)?);
        let mut found = Bytes { differing: 0, first: None, old: 0, new: 0 };
        let (mut old, mut new) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
        loop {
            for (block, file) in [(&mut old, &mut before), (&mut new, &mut now)] {
                block.clear();
                file.take(BLOCK as u64).read_to_end(block)?;
            }
            if old.is_empty() && new.is_empty() {
                return Ok(found);
            }
            if old != new {
                let differs = |(old, new): (&u8, &u8)| old != new;
                if let Some(at) = old.iter().zip(&new).position(differs) {
                    // Both files have all bytes of the earlier blocks.
                    found.first = found.first.or(Some(found.old + at as u64));
                    found.differing += old.iter().zip(&new).filter(|pair| differs(*pair)).count() as u64;
                }
            }
            found.old += old.len() as u64;
            found.new += new.len() as u64;
        }
    }

    fn are_same(&self) -> bool {
        self.differing == 0 && self.old == self.new
    }
}

/// Most differing columns that are shown.
const SHOWN: usize = 5;

fn tables(before: &data::Table, now: &data::Table) -> String {
    if before.schema.fields() != now.schema.fields() {
        return "the columns differ".into();
    }
    if before.rows() != now.rows() {
        return format!("{} rows before, {} now", before.rows(), now.rows());
    }
    let cells = |table: &data::Table, column: usize| -> Vec<serde_json::Value> {
        let batches = table.batches.iter();
        batches
            .flat_map(|batch| (0..batch.num_rows()).map(move |row| data::cell(batch.column(column), row)))
            .collect()
    };
    let mut lines = Vec::new();
    for (column, field) in before.schema.fields().iter().enumerate() {
        let (old, new) = (cells(before, column), cells(now, column));
        let mut differing = old.iter().zip(&new).enumerate().filter(|(_, (old, new))| old != new);
        if let Some((row, (old, new))) = differing.next() {
            let more = differing.count();
            let more = if more > 0 { format!(", and in {more} more rows") } else { String::new() };
            lines.push(format!("column {}: row {row} had {old}, now {new}{more}", field.name()));
        }
    }
    let hidden = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if hidden > 0 {
        lines.push(format!("and {hidden} more columns"));
    }
    if lines.is_empty() {
        "the rows are the same; the files are encoded differently".into()
    } else {
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn said(old: &[u8], new: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (before, now) = (folder.path().join("before"), folder.path().join("now"));
        fs::write(&before, old).unwrap();
        fs::write(&now, new).unwrap();
        bytes(&before, &now)
    }

    #[test]
    fn bytes_are_counted_across_blocks() {
        let old = vec![7; 2 * BLOCK + 10];
        let mut new = old.clone();
        new[BLOCK] = 8;
        new[2 * BLOCK + 1] = 8;
        assert_eq!(said(&old, &new), format!("2 bytes differ, the first at {BLOCK}"));
        let (short, long) = (BLOCK, 2 * BLOCK + 10);
        assert_eq!(
            said(&old[..BLOCK], &new),
            format!("0 bytes differ, the first at {BLOCK}, {short} and {long} bytes long")
        );
        assert_eq!(said(b"moss", b"moth"), "2 bytes differ, the first at 2");
        assert_eq!(said(b"", b"moss"), "0 bytes differ, the first at 0, 0 and 4 bytes long");
    }

    #[test]
    fn files_of_nested_folders_are_named_by_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        let write = |side: &str, name: &str, text: &str| {
            let path = folder.path().join(side).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, old, new) in [("same", "moss", "moss"), ("deep/er/other", "moss", "most")] {
            write("before", name, old);
            write("now", name, new);
        }
        write("before", "gone", "");
        write("now", "deep/new", "");
        write("now", ".hidden", "");
        assert_eq!(
            folders(&folder.path().join("before"), &folder.path().join("now")),
            "gone is missing\n.hidden is new\ndeep/new is new\ndeep/er/other: 1 bytes differ, the first at 3"
        );
    }
}
