//! What an import saw and did, for people and for `--json`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::twins::Likeness;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub files: Vec<FileReport>,
    /// Rows that are written.
    pub kept: usize,
    /// Rows of the imported files that are the same text as one before.
    pub duplicates: Twins,
    /// Of these, those that the first says another task of.
    pub of_another_task: usize,
    /// Of these, those that the first puts in another split: trained on and evaluated with.
    pub of_another_split: usize,
    /// Rows that are also in a set that they were held against.
    pub overlaps: Vec<Overlap>,
    /// What is written: how many rows of each split, task and category.
    pub splits: BTreeMap<String, usize>,
    pub tasks: BTreeMap<String, usize>,
    pub categories: BTreeMap<String, usize>,
}

#[derive(Debug, Default, Serialize)]
pub struct FileReport {
    pub path: String,
    /// Name of the format.
    pub format: &'static str,
    /// How the format is called by its makers.
    pub title: &'static str,
    /// Why it is taken for that.
    pub because: String,
    /// Where the rows' task comes from.
    pub task: String,
    pub licence: Option<&'static str>,
    pub rows: usize,
    pub kept: usize,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<&'static str, usize>,
    /// Rows whose file has no id for them: theirs is made from the text.
    pub made_ids: usize,
    /// Columns of a file of one's own that nothing is taken from.
    pub ignored: Vec<Ignored>,
    /// What to know about some of the rows, and how many they are.
    pub remarks: BTreeMap<&'static str, usize>,
}

/// A column that nothing is taken from.
#[derive(Debug, Serialize)]
pub struct Ignored {
    pub column: String,
    /// The column that it may be a misspelling of.
    pub did_you_mean: Option<&'static str>,
}

/// How often texts are the same, and the first few of them.
#[derive(Debug, Default, Serialize)]
pub struct Twins {
    pub exact: usize,
    /// The same but for case, spaces, punctuation and compatible characters.
    pub near: usize,
    /// Of both, those whose twin is in another file.
    pub across_files: usize,
    pub examples: Vec<Example>,
}

/// A set that the imported rows were held against.
#[derive(Debug, Serialize)]
pub struct Overlap {
    pub path: String,
    /// Texts in it.
    pub rows: usize,
    pub twins: Twins,
    /// How many of the twins were imported as `train`.
    pub train: usize,
}

#[derive(Debug, Serialize)]
pub struct Example {
    pub exact: bool,
    pub row: String,
    pub same_as: String,
    pub text: String,
}

/// How many examples of exact and of near twins are kept.
const EXAMPLES: usize = 3;

impl Twins {
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
