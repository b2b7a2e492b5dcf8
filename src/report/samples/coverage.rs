//! The success of attacks by category and technique.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::join::{Joined, Rewards};
use super::rows::{Rows, Shared};
use crate::model::Matrix;

/// Sums of values by two names, in alphabetical order.
#[derive(Default)]
struct Cells<'a>(BTreeMap<(&'a str, &'a str), Cell>);

/// The sum of known values, and the numbers of known and unknown ones.
#[derive(Clone, Copy, Default)]
struct Cell {
    sum: f64,
    count: u64,
    undetermined: u64,
}

impl<'a> Cells<'a> {
    fn add(&mut self, row: &'a str, column: &'a str, value: Option<f64>) {
        let cell = self.0.entry((row, column)).or_default();
        match value {
            Some(value) => (cell.sum, cell.count) = (cell.sum + value, cell.count + 1),
            None => cell.undetermined += 1,
        }
    }

    /// A coverage map of the means; `None` without values.
    fn matrix(&self, title: String) -> Option<Matrix> {
        let rows: BTreeSet<&str> = self.0.keys().map(|(row, _)| *row).collect();
        let columns: BTreeSet<&str> = self.0.keys().map(|(_, column)| *column).collect();
        fn each<T>(
            Cells(cells): &Cells,
            [rows, columns]: [&BTreeSet<&str>; 2],
            of: impl Fn(Cell) -> T,
        ) -> Vec<Vec<T>> {
            let cell = |row: &str, column: &str| of(cells.get(&(row, column)).copied().unwrap_or_default());
            rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect()
        }
        let names = [&rows, &columns];
        (!rows.is_empty()).then(|| Matrix {
            section: "coverage".into(),
            title,
            rows_label: "category".into(),
            columns_label: "technique (the first of several)".into(),
            rows: rows.iter().map(|row| (*row).to_owned()).collect(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            unit: "share".into(),
            values: each(self, names, |cell| (cell.count > 0).then(|| cell.sum / cell.count as f64)),
            counts: each(self, names, |cell| cell.count),
            undetermined: each(self, names, |cell| cell.undetermined),
            ..Matrix::default()
        })
    }
}

/// The success of training attacks by category and the technique that the coverage reward found.
pub(crate) fn by_reward(rewards: &Rewards, rows: &Rows, of: &str) -> Option<Matrix> {
    let mut cells = Cells::default();
    for (row, category) in rows.texts("category").into_iter().enumerate() {
        if let (Some(category), Some(technique)) = (category, rewards.technique[row]) {
            cells.add(category, technique, rewards.success[row]);
        }
    }
    cells.matrix(format!("Success of attacks in training, by category and technique{of}"))
}

/// The success of benchmark attacks at the last evaluation of each ablation and seed.
pub(crate) fn by_benchmark(known: &Joined, rows: &Rows, of: &str) -> Option<Matrix> {
    let shared = Shared::new(rows);
    let (metrics, prompts, values) = (rows.texts("metric"), rows.texts("prompt"), rows.reals("value"));
    let own = |row: &usize| metrics[*row] == Some("benchmark_success");
    let mut last: HashMap<&str, &str> = HashMap::new();
    for row in (0..rows.count).filter(own) {
        last.insert(shared.text(&shared.variant, row), shared.text(&shared.node, row));
    }
    let mut cells = Cells::default();
    for row in (0..rows.count).filter(own) {
        let node = shared.text(&shared.node, row);
        if last.get(shared.text(&shared.variant, row)) == Some(&node)
            && let Some(technique) = prompts[row].and_then(|prompt| known.techniques.get(prompt))
            && let Some(category) = shared.category[row]
        {
            // The first part of `authority+dare/owl`: a column for each combination would be too much.
            cells.add(category, technique.split(['+', '/']).next().unwrap_or(technique), values[row]);
        }
    }
    cells.matrix(format!(
        "Success of benchmark attacks after the last evaluation, by category and technique{of}"
    ))
}
