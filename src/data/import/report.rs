//! The report of an import, for people and for `--json`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::twins::Likeness;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub files: Vec<FileReport>,
    /// Rows that are written.
    pub kept: usize,
    /// Rows of the imported files that duplicate an earlier row.
    pub duplicates: Duplicates,
    /// Duplicates with a different task from the first.
    pub of_another_task: usize,
    /// Duplicates in a different split from the first: trained on and evaluated with.
    pub of_another_split: usize,
    /// Rows that are also in one of the compared sets.
    pub overlaps: Vec<Overlap>,
    /// Counts of the written rows by split, task and category.
    pub splits: BTreeMap<String, usize>,
    pub tasks: BTreeMap<String, usize>,
    pub categories: BTreeMap<String, usize>,
}

#[derive(Debug, Default, Serialize)]
pub struct FileReport {
    pub path: String,
    /// Name of the format.
    pub format: &'static str,
    /// The name that the format's authors use.
    pub title: &'static str,
    /// The reason for choosing the format.
    pub because: String,
    /// The source of the rows' task.
    pub task: String,
    pub licence: Option<&'static str>,
    pub rows: usize,
    pub kept: usize,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<&'static str, usize>,
    /// Rows without an id in their file: theirs is made from the text.
    pub made_ids: usize,
    /// Columns of a user's own file that are not read.
    pub ignored: Vec<Ignored>,
    /// Remarks about rows, each with the number of rows.
    pub remarks: BTreeMap<&'static str, usize>,
}

/// A column that is not read.
#[derive(Debug, Serialize)]
pub struct Ignored {
    pub column: String,
    /// The column that it may be a misspelling of.
    pub did_you_mean: Option<&'static str>,
}

/// Counts of duplicates, and the first few.
#[derive(Debug, Default, Serialize)]
pub struct Duplicates {
    pub exact: usize,
    /// The same except for case, spaces, punctuation and compatible characters.
    pub near: usize,
    /// Those among both whose duplicate is in another file.
    pub across_files: usize,
    pub examples: Vec<Example>,
}

/// A set that the imported rows were compared with.
#[derive(Debug, Serialize)]
pub struct Overlap {
    pub path: String,
    /// Texts in it.
    pub rows: usize,
    pub twins: Duplicates,
    /// The number of duplicates that were imported as `train`.
    pub train: usize,
}

#[derive(Debug, Serialize)]
pub struct Example {
    pub exact: bool,
    pub row: String,
    pub same_as: String,
    pub text: String,
}

/// The most examples of exact, and of near, duplicates.
const EXAMPLES: usize = 3;

impl Duplicates {
    pub fn total(&self) -> usize {
        self.exact + self.near
    }

    pub(super) fn add(&mut self, likeness: Likeness, across: bool, row: &str, same_as: &str, text: &str) {
        let exact = likeness == Likeness::Exact;
        let count = if exact { &mut self.exact } else { &mut self.near };
        *count += 1;
        self.across_files += usize::from(across);
        if *count <= EXAMPLES {
            let (row, same_as, text) = (row.to_owned(), same_as.to_owned(), text.to_owned());
            self.examples.push(Example { exact, row, same_as, text });
        }
    }
}
