//! Tables by two names that metrics hold: who is taken for whom, who breaks whom, and which categories fall.

use std::collections::BTreeMap;

use super::book::{Book, Entry, Of, after, common_phases};
use super::model::Matrix;

/// The classes in the order in which people read them.
const CLASSES: [&str; 4] = ["negative", "rejective", "positive", "undetermined"];

/// The sets of pairs that an evaluator is measured on.
const SETS: [(&str, &str); 3] = [
    ("fresh", "fresh pairs"),
    ("heldout", "held-out pairs"),
    ("experts", "fresh pairs, by the experts' labels"),
];

/// Cross-play of nodes, and confusion.
pub fn matrices(book: &Book) -> Vec<Matrix> {
    let mut found = Vec::new();
    for column in 0..book.columns.len() {
        found.extend(SETS.into_iter().filter_map(|(set, name)| confusion(book, column, set, name)));
    }
    found.extend(cross_play(book));
    found
}

/// What of a column, where there are several.
fn of(book: &Book, column: usize) -> String {
    match book.columns.len() {
        1 => String::new(),
        _ => format!(" ({})", book.columns[column].name),
    }
}

/// The evaluator's verdicts by what is true, at the last evaluation that all seeds have, added up.
fn confusion(book: &Book, column: usize, set: &str, name: &str) -> Option<Matrix> {
    let accuracy = book.trail(column, "evaluator", &format!("accuracy_{set}"), Of::Evaluation);
    let phase = *common_phases(&accuracy).last()?;
    let mut counts = vec![vec![0u64; CLASSES.len()]; 3];
    for (row, truth) in CLASSES.iter().take(3).enumerate() {
        for (place, said) in CLASSES.iter().enumerate() {
            let metric = format!("confusion_{set}:{truth}>{said}");
            let trail = book.trail(column, "evaluator", &metric, Of::Evaluation);
            // A class that this evaluation did not meet has no value there.
            counts[row][place] = after(&trail, phase).iter().map(|point| point.value as u64).sum();
        }
    }
    let values: Vec<Vec<Option<f64>>> = counts
        .iter()
        .map(|row| {
            let all: u64 = row.iter().sum();
            row.iter().map(|count| (all > 0).then(|| *count as f64 / all as f64)).collect()
        })
        .collect();
    let is_met = counts.iter().flatten().any(|count| *count > 0);
    is_met.then(|| Matrix {
        section: "confusion".into(),
        title: format!("Verdicts on {name}, after {phase}{}", of(book, column)),
        rows_label: "truth".into(),
        columns_label: "verdict".into(),
        rows: CLASSES.iter().take(3).map(|class| (*class).to_owned()).collect(),
        columns: CLASSES.iter().map(|class| (*class).to_owned()).collect(),
        unit: "share".into(),
        values,
        counts,
    })
}

/// Values by two names, both in the order in which they came, averaged.
#[derive(Default)]
struct Cells<'a> {
    rows: Vec<&'a str>,
    columns: Vec<&'a str>,
    values: BTreeMap<(usize, usize), (f64, usize, u64)>,
}

impl<'a> Cells<'a> {
    fn add(&mut self, row: &'a str, column: &'a str, value: f64, count: u64) {
        let (row, column) = (place(&mut self.rows, row), place(&mut self.columns, column));
        let cell = self.values.entry((row, column)).or_default();
        *cell = (cell.0 + value, cell.1 + 1, cell.2 + count);
    }

    fn matrix(&self, section: &str, title: String, labels: [&str; 2]) -> Matrix {
        let cell = |row: usize, column: usize| self.values.get(&(row, column));
        let by_row = |row: usize| (0..self.columns.len()).map(move |column| cell(row, column));
        Matrix {
            section: section.into(),
            title,
            rows_label: labels[0].into(),
            columns_label: labels[1].into(),
            rows: self.rows.iter().map(|name| (*name).to_owned()).collect(),
            columns: self.columns.iter().map(|name| (*name).to_owned()).collect(),
            unit: "share".into(),
            values: (0..self.rows.len())
                .map(|row| by_row(row).map(|cell| cell.map(|(sum, n, _)| sum / *n as f64)).collect())
                .collect(),
            counts: (0..self.rows.len())
                .map(|row| by_row(row).map(|cell| cell.map_or(0, |cell| cell.2)).collect())
                .collect(),
        }
    }
}

fn place<'a>(names: &mut Vec<&'a str>, name: &'a str) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

/// Every attacker against every defender, a table for each stage that had them meet; the mean over seeds.
fn cross_play(book: &Book) -> Vec<Matrix> {
    let mut found: Vec<((usize, &str), Cells)> = Vec::new();
    let defenders: Vec<&str> = book
        .names
        .iter()
        .filter(|(_, metric)| *metric == "cross_success")
        .map(|(subject, _)| *subject)
        .collect();
    let mut rows: Vec<&Entry> =
        defenders.iter().flat_map(|defender| book.rows(defender, "cross_success")).collect();
    rows.sort_by_key(|entry| (entry.column, entry.node));
    for entry in rows {
        let of = (entry.column, entry.node);
        if found.last().is_none_or(|(known, _)| *known != of) {
            found.push((of, Cells::default()));
        }
        if let Some((_, cells)) = found.last_mut() {
            cells.add(&entry.row.phase, &entry.row.subject, entry.row.value, entry.row.count);
        }
    }
    let matrix = |((column, node), cells): &((usize, &str), Cells)| {
        let title = format!("Attack success: {node}{}", of(book, *column));
        cells.matrix("cross_play", title, ["attacker", "defender"])
    };
    found.iter().map(matrix).collect()
}

/// How often attacks of each category succeed on each defense model, at the last evaluation of it that all seeds have; the
/// mean over seeds. Models whose last evaluation is another one have a table of their own.
pub fn by_category(book: &Book) -> Vec<Matrix> {
    let mut found = Vec::new();
    for column in 0..book.columns.len() {
        let mut tables: Vec<(String, Cells)> = Vec::new();
        for (subject, metric) in book.names.iter().filter(|(_, metric)| *metric == "attack_success") {
            let Some((defender, category)) = subject.split_once("/category=") else { continue };
            let whole = book.trail(column, defender, metric, Of::Evaluation);
            let Some(phase) = common_phases(&whole).last().map(|phase| (*phase).to_owned()) else { continue };
            let trail = book.trail(column, subject, metric, Of::Evaluation);
            let table = tables.iter().position(|(known, _)| *known == phase).unwrap_or_else(|| {
                tables.push((phase.clone(), Cells::default()));
                tables.len() - 1
            });
            for point in after(&trail, &phase) {
                tables[table].1.add(category, defender, point.value, point.count);
            }
        }
        for (phase, cells) in tables.iter().filter(|(_, cells)| !cells.rows.is_empty()) {
            let title = format!(
                "Success of attacks after {phase}, by category and defense model{}",
                of(book, column)
            );
            found.push(cells.matrix("coverage", title, ["category", "defender"]));
        }
    }
    found
}

/// What guards said, a line for each phase that was halted.
pub fn halted(source: &super::source::Source) -> Vec<String> {
    analysis::halted(&source.metrics)
}
