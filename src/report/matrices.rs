//! Tables by two names that metrics hold: who is taken for whom, who breaks whom, and which categories fall.

use std::collections::BTreeMap;

use super::book::{Book, Entry, Of, after, common_phases, undetermined_of};
use super::model::Matrix;
use game::undetermined;

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
            counts[row][place] =
                after(&trail, phase).iter().filter_map(|point| point.value).map(|count| count as u64).sum();
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
        undetermined: Vec::new(),
    })
}

/// Values by two names, both in the order in which they came, averaged.
#[derive(Default)]
struct Cells<'a> {
    rows: Vec<&'a str>,
    columns: Vec<&'a str>,
    values: BTreeMap<(usize, usize), Cell>,
}

/// The sum of values that are known, of how many seeds, and their observations.
#[derive(Default)]
struct Cell {
    sum: f64,
    seeds: usize,
    count: u64,
    undetermined: u64,
}

impl<'a> Cells<'a> {
    fn add(&mut self, row: &'a str, column: &'a str, value: Option<f64>, count: u64, undetermined: u64) {
        let (row, column) = (place(&mut self.rows, row), place(&mut self.columns, column));
        let cell = self.values.entry((row, column)).or_default();
        cell.sum += value.unwrap_or(0.0);
        cell.seeds += usize::from(value.is_some());
        cell.count += count;
        cell.undetermined += undetermined;
    }

    fn matrix(&self, section: &str, title: String, labels: [&str; 2]) -> Matrix {
        let by_row = |of: fn(&Cell) -> u64| -> Vec<Vec<u64>> {
            let of = |row, column| self.values.get(&(row, column)).map_or(0, of);
            (0..self.rows.len())
                .map(|row| (0..self.columns.len()).map(|column| of(row, column)).collect())
                .collect()
        };
        let value = |row: usize, column: usize| {
            let cell = self.values.get(&(row, column)).filter(|cell| cell.seeds > 0)?;
            Some(cell.sum / cell.seeds as f64)
        };
        Matrix {
            section: section.into(),
            title,
            rows_label: labels[0].into(),
            columns_label: labels[1].into(),
            rows: self.rows.iter().map(|name| (*name).to_owned()).collect(),
            columns: self.columns.iter().map(|name| (*name).to_owned()).collect(),
            unit: "share".into(),
            values: (0..self.rows.len())
                .map(|row| (0..self.columns.len()).map(|column| value(row, column)).collect())
                .collect(),
            counts: by_row(|cell| cell.count),
            undetermined: by_row(|cell| cell.undetermined),
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
    const SUCCESS: &str = "cross_success";
    let unknown = undetermined(SUCCESS);
    let is_own = |metric: &str| metric == SUCCESS || metric == unknown;
    let defenders = book.names.iter().filter(|(_, metric)| is_own(metric));
    let mut rows: Vec<&Entry> = defenders.flat_map(|(subject, metric)| book.rows(subject, metric)).collect();
    rows.sort_by_key(|entry| (entry.column, entry.node));
    for entry in rows {
        let of = (entry.column, entry.node);
        if found.last().is_none_or(|(known, _)| *known != of) {
            found.push((of, Cells::default()));
        }
        if let Some((_, cells)) = found.last_mut() {
            let row = entry.row;
            let (value, count, unknown) = match row.metric == SUCCESS {
                true => (Some(row.value), row.count, 0),
                false => (None, 0, undetermined_of(row)),
            };
            cells.add(&row.phase, &row.subject, value, count, unknown);
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
        const SUCCESS: &str = "attack_success";
        let unknown = undetermined(SUCCESS);
        let mut subjects: Vec<&str> = Vec::new();
        for (subject, metric) in &book.names {
            if (*metric == SUCCESS || *metric == unknown) && !subjects.contains(subject) {
                subjects.push(subject);
            }
        }
        for subject in subjects {
            let Some((defender, category)) = subject.split_once("/category=") else { continue };
            let whole = book.trail(column, defender, SUCCESS, Of::Evaluation);
            let Some(phase) = common_phases(&whole).last().map(|phase| (*phase).to_owned()) else { continue };
            let trail = book.trail(column, subject, SUCCESS, Of::Evaluation);
            let table = tables.iter().position(|(known, _)| *known == phase).unwrap_or_else(|| {
                tables.push((phase.clone(), Cells::default()));
                tables.len() - 1
            });
            for point in after(&trail, &phase) {
                tables[table].1.add(category, defender, point.value, point.count, point.undetermined);
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
