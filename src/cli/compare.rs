//! What differs between two files or folders that should be the same: for people.

use std::fs;
use std::path::Path;

use crate::data;

/// The first differences in words, one a line.
pub fn files(before: &Path, now: &Path) -> String {
    if before.is_dir() && now.is_dir() {
        return folders(before, now);
    }
    match (data::open(before), data::open(now)) {
        (Ok(before), Ok(now)) => tables(&before, &now),
        _ => bytes(before, now),
    }
}

fn folders(before: &Path, now: &Path) -> String {
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let (old, new) = (names(before), names(now));
    let mut lines: Vec<String> = old.difference(&new).map(|name| format!("{name} is missing")).collect();
    lines.extend(new.difference(&old).map(|name| format!("{name} is new")));
    for name in old.intersection(&new) {
        let (old, new) = (before.join(name), now.join(name));
        if fs::read(&old).ok() != fs::read(&new).ok() {
            lines.push(format!("{name}: {}", bytes(&old, &new)));
        }
    }
    lines.join("\n")
}

fn bytes(before: &Path, now: &Path) -> String {
    let (Ok(old), Ok(new)) = (fs::read(before), fs::read(now)) else {
        return "one of them cannot be read".into();
    };
    let differing = old.iter().zip(&new).filter(|(old, new)| old != new).count();
    let first = old.iter().zip(&new).position(|(old, new)| old != new).unwrap_or(old.len().min(new.len()));
    let lengths = if old.len() == new.len() {
        String::new()
    } else {
        format!(", {} and {} bytes long", old.len(), new.len())
    };
    format!("{differing} bytes differ, the first at {first}{lengths}")
}

/// How many differing cells are shown.
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
