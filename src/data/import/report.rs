//! The report of an import, for people and for `--json`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::twins::Likeness;

/// What an import read, wrote and left out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// One for each imported file, in the order of the command line.
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
    /// The same by task.
    pub tasks: BTreeMap<String, usize>,
    /// The same by category.
    pub categories: BTreeMap<String, usize>,
}

/// What was read of one file.
#[derive(Debug, Default, Serialize)]
pub struct FileReport {
    /// The path as it was given.
    pub path: String,
    /// Name of the format.
    pub format: &'static str,
    /// The name that the format's authors use.
    pub title: &'static str,
    /// The reason for choosing the format.
    pub because: String,
    /// The source of the rows' task.
    pub task: String,
    /// The licence of the dataset, if its format has one.
    pub licence: Option<&'static str>,
    /// Rows in the file.
    pub rows: usize,
    /// Rows of it that are written.
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
    /// Its name in the file.
    pub column: String,
    /// The column that it may be a misspelling of.
    pub did_you_mean: Option<&'static str>,
}

/// Counts of duplicates, and the first few.
#[derive(Debug, Default, Serialize)]
pub struct Duplicates {
    /// Texts that are the same byte for byte.
    pub exact: usize,
    /// The same except for case, spaces, punctuation and compatible characters.
    pub near: usize,
    /// Those among both whose duplicate is in another file.
    pub across_files: usize,
    /// The first few of each sort.
    pub examples: Vec<Example>,
}

/// A set that the imported rows were compared with.
#[derive(Debug, Serialize)]
pub struct Overlap {
    /// The path as it was given.
    pub path: String,
    /// Texts in it.
    pub rows: usize,
    /// Rows that duplicate one of this set.
    pub twins: Duplicates,
    /// The number of duplicates that were imported as `train`.
    pub train: usize,
}

/// A duplicate, and the text that it duplicates.
#[derive(Debug, Serialize)]
pub struct Example {
    /// Whether it is the same byte for byte.
    pub exact: bool,
    /// Where the duplicate is: file and line.
    pub row: String,
    /// Where the first of the two is.
    pub same_as: String,
    /// The beginning of the duplicate's text.
    pub text: String,
}

/// The most examples of exact, and of near, duplicates.
const EXAMPLES: usize = 3;

impl Duplicates {
    /// Exact and near duplicates together.
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
