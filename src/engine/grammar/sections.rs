//! The parts of a pipeline file: which parameter, role or defaults a place belongs to.

use super::diagnostic::At;
use super::tree::{Tree, Value};

/// The keys of the file under which each entry is a part of its own.
const WITH_ENTRIES: [&str; 3] = ["params", "roles", "defaults"];

/// A part of the file, such as `stages` or `roles.attacker`.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub name: String,
    /// Its first line and column, and those of the next part.
    start: (usize, usize),
    end: (usize, usize),
}

impl Section {
    /// The parts of a file, in its order.
    pub(crate) fn all(file: &Tree) -> Vec<Section> {
        let mut found: Vec<Section> = Vec::new();
        let mut add = |name: String, at: At| {
            found.push(Section { name, start: (at.line, at.column), end: (usize::MAX, 0) });
        };
        let Value::Map(entries) = &file.value else { return Vec::new() };
        for (key, value) in entries {
            add(key.name.clone(), key.at);
            if let Value::Map(inner) = &value.value
                && WITH_ENTRIES.contains(&key.name.as_str())
            {
                inner.iter().for_each(|(entry, _)| add(format!("{}.{}", key.name, entry.name), entry.at));
            }
        }
        found.sort_by_key(|section| section.start);
        for index in 1..found.len() {
            found[index - 1].end = found[index].start;
        }
        found
    }

    /// Whether several stages share what is in it.
    pub(crate) fn is_shared(&self) -> bool {
        self.name.starts_with("roles.") || self.name.starts_with("defaults.")
    }

    pub(crate) fn has(&self, line: usize, column: usize) -> bool {
        self.start <= (line, column) && (line, column) < self.end
    }
}
