//! Reads the columns of a run's tables.

use std::collections::HashMap;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type};
use arrow_array::{Array, ArrayRef};

use super::Row;
use crate::source::Source;

/// The rows of a table that belong to the selected ablation or seed.
pub(crate) struct Rows {
    pub columns: HashMap<String, Vec<ArrayRef>>,
    /// The selected rows of the file, unless all are.
    pub kept: Option<Vec<bool>>,
    pub count: usize,
}

impl Rows {
    pub(crate) fn open(path: &Path, source: &Source) -> anyhow::Result<Rows> {
        let table = data::open(path)?;
        let count = table.rows();
        let mut columns: HashMap<String, Vec<ArrayRef>> = HashMap::new();
        for batch in &table.batches {
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                columns.entry(field.name().clone()).or_default().push(column.clone());
            }
        }
        let mut rows = Rows { columns, kept: None, count };
        if source.only.is_some() {
            let is_own = |name: Option<&str>| source.has(&format!("{}/", name.unwrap_or_default()));
            let kept: Vec<bool> = rows.texts("variant").into_iter().map(is_own).collect();
            rows.count = kept.iter().filter(|kept| **kept).count();
            rows.kept = Some(kept);
        }
        Ok(rows)
    }

    /// The values of a column; nulls if there is no such column, or one of another type.
    fn values<'a, T: Clone>(
        &'a self,
        name: &str,
        read: impl Fn(&'a ArrayRef) -> Option<Vec<Option<T>>>,
    ) -> Vec<Option<T>> {
        let mut values = Vec::with_capacity(self.count);
        for array in self.columns.get(name).into_iter().flatten() {
            values.extend(read(array).unwrap_or_else(|| vec![None; array.len()]));
        }
        if let Some(kept) = &self.kept {
            let mut kept = kept.iter();
            values.retain(|_| kept.next().copied().unwrap_or(false));
        }
        values.resize(self.count, None);
        values
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<Option<&str>> {
        self.values(name, |array| Some(array.as_string_opt::<i32>()?.iter().collect()))
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<Option<u32>> {
        self.values(name, |array| Some(array.as_primitive_opt::<UInt32Type>()?.iter().collect()))
    }

    pub(crate) fn reals(&self, name: &str) -> Vec<Option<f64>> {
        self.values(name, |array| Some(array.as_primitive_opt::<Float64Type>()?.iter().collect()))
    }
}

/// The columns that all tables have, and those of an origin and a position.
pub(crate) struct Shared<'a> {
    pub variant: Vec<Option<&'a str>>,
    pub node: Vec<Option<&'a str>>,
    pub scope: Vec<Option<&'a str>>,
    pub dataset: Vec<Option<&'a str>>,
    pub source: Vec<Option<&'a str>>,
    pub seed_id: Vec<Option<&'a str>>,
    pub category: Vec<Option<&'a str>>,
    pub task: Vec<Option<&'a str>>,
    pub split: Vec<Option<&'a str>>,
    pub seed: Vec<Option<&'a str>>,
    pub conversation: Vec<Option<&'a str>>,
    pub iteration: Vec<Option<u32>>,
    pub step: Vec<Option<u32>>,
}

impl<'a> Shared<'a> {
    pub(crate) fn new(rows: &'a Rows) -> Shared<'a> {
        Shared {
            variant: rows.texts("variant"),
            node: rows.texts("node"),
            scope: rows.texts("scope"),
            dataset: rows.texts("dataset"),
            source: rows.texts("source"),
            seed_id: rows.texts("seed_id"),
            category: rows.texts("category"),
            task: rows.texts("task"),
            split: rows.texts("split"),
            seed: rows.texts("seed"),
            conversation: rows.texts("conversation"),
            iteration: rows.numbers("iteration"),
            step: rows.numbers("step"),
        }
    }

    pub(crate) fn text(&self, column: &[Option<&'a str>], row: usize) -> &'a str {
        column[row].unwrap_or_default()
    }

    pub(crate) fn row(&self, row: usize) -> Row<'a> {
        Row {
            variant: self.text(&self.variant, row),
            node: self.text(&self.node, row),
            scope: self.text(&self.scope, row),
            at: (self.iteration[row].unwrap_or(0), self.step[row].unwrap_or(0)),
            seed_id: self.seed_id[row],
            category: self.category[row],
            task: self.task[row],
            split: self.split[row],
            seed: self.seed[row],
            conversation: self.conversation[row],
            ..Row::default()
        }
    }
}
