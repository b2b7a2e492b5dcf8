//! Tables by two names: attackers against defenders, true against judged classes, and success by category.

use std::collections::{BTreeMap, HashSet};

use super::book::{MetricIndex, MetricOrigin, after, common_phases};
use super::model::{Interval, Matrix};
use super::source::Source;
use analysis::{Estimate, League, leagues};
use game::undetermined;
use runs::variant;

/// The classes in reading order.
const CLASSES: [&str; 4] = ["negative", "rejective", "positive", "undetermined"];

/// The sets of pairs that an evaluator is measured on.
const SETS: [(&str, &str); 3] = [
    ("fresh", "fresh pairs"),
    ("heldout", "held-out pairs"),
    ("experts", "fresh pairs, by the experts' labels"),
];

/// Cross-play tables, and confusion matrices.
pub(crate) fn matrices(book: &MetricIndex, sources: &[Source]) -> Vec<Matrix> {
    let mut found = cross_play(book, sources);
    for column in 0..book.columns.len() {
        found.extend(SETS.into_iter().filter_map(|(set, name)| confusion(book, column, set, name)));
    }
    found
}

/// Names the column, if there are several.
fn of(book: &MetricIndex, column: usize) -> String {
    match book.columns.len() {
        1 => String::new(),
        _ => format!(" ({})", book.columns[column].name),
    }
}

/// The evaluator's verdicts by true class, at the last common evaluation of all seeds, summed over seeds.
fn confusion(book: &MetricIndex, column: usize, set: &str, name: &str) -> Option<Matrix> {
    let accuracy = book.trail(column, "evaluator", &format!("accuracy_{set}"), MetricOrigin::Evaluation);
    let phase = *common_phases(&accuracy).last()?;
    let mut counts = vec![vec![0u64; CLASSES.len()]; 3];
    for (row, truth) in CLASSES.iter().take(3).enumerate() {
        for (place, said) in CLASSES.iter().enumerate() {
            let metric = format!("confusion_{set}:{truth}>{said}");
            let trail = book.trail(column, "evaluator", &metric, MetricOrigin::Evaluation);
            // A class that did not occur in this evaluation has no value.
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
        title: format!("Verdicts on {name}, {}{}", analysis::after(phase), of(book, column)),
        rows_label: "truth".into(),
        columns_label: "verdict".into(),
        rows: CLASSES.iter().take(3).map(|class| (*class).to_owned()).collect(),
        columns: CLASSES.iter().map(|class| (*class).to_owned()).collect(),
        unit: "share".into(),
        values,
        counts,
        ..Matrix::default()
    })
}

/// Values by two names, both in the order of their first rows, averaged.
#[derive(Default)]
struct Cells<'a> {
    rows: Vec<&'a str>,
    columns: Vec<&'a str>,
    values: BTreeMap<(usize, usize), Cell>,
}

/// The sum of known values, their number of seeds, and their observations.
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
            ..Matrix::default()
        }
    }
}

fn place<'a>(names: &mut Vec<&'a str>, name: &'a str) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

/// All attackers against all defenders, one table for each cross-play stage; means over seeds.
fn cross_play(book: &MetricIndex, sources: &[Source]) -> Vec<Matrix> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let first =
        book.columns.iter().enumerate().filter(|(_, column)| seen.insert((column.run, &column.ablation)));
    for (place, column) in first {
        let rows = sources[column.run].metrics.iter();
        let own = rows.filter(|row| variant(&row.node).0 == column.ablation);
        let of = of(book, place);
        found.extend(leagues(own.map(|row| (column.run, row))).iter().map(|league| of_league(league, &of)));
    }
    found
}

fn of_league(league: &League, of: &str) -> Matrix {
    let mean = |found: &Option<Estimate>, cells: &mut dyn Iterator<Item = (u64, u64)>| -> Interval {
        let (count, undetermined) = cells.fold((0, 0), |sum, cell| (sum.0 + cell.0, sum.1 + cell.1));
        let (low, high) = found.and_then(|found| found.interval).map(|own| (own.low, own.high)).unzip();
        Interval { value: found.map(|found| found.mean), low, high, count, undetermined }
    };
    let (rows, columns) = (0..league.attackers.len(), 0..league.defenders.len());
    let cell = |row: usize, column: usize| (league.counts[row][column], league.undetermined[row][column]);
    let of_row =
        |row: usize| mean(&league.attacker_means[row], &mut columns.clone().map(|column| cell(row, column)));
    let of_column =
        |column: usize| mean(&league.defender_means[column], &mut rows.clone().map(|row| cell(row, column)));
    let all = rows.clone().flat_map(|row| columns.clone().map(move |column| (row, column)));
    let values =
        |row: &Vec<Option<Estimate>>| row.iter().map(|found| found.map(|found| found.mean)).collect();
    Matrix {
        section: "cross_play".into(),
        title: format!("Attack success: {}{of}", league.node),
        rows_label: "attacker".into(),
        columns_label: "defender".into(),
        rows: league.attackers.clone(),
        columns: league.defenders.clone(),
        unit: "share".into(),
        values: league.success.iter().map(values).collect(),
        counts: league.counts.clone(),
        undetermined: league.undetermined.clone(),
        row_means: rows.clone().map(of_row).collect(),
        column_means: columns.clone().map(of_column).collect(),
        mean: Some(mean(&league.mean, &mut all.map(|(row, column)| cell(row, column)))),
    }
}

/// The success of attacks of each category on each defender, at the last common evaluation of all seeds; means over seeds.
/// Models with a different last evaluation have a table of their own.
pub(crate) fn by_category(book: &MetricIndex) -> Vec<Matrix> {
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
            let whole = book.trail(column, defender, SUCCESS, MetricOrigin::Evaluation);
            let Some(phase) = common_phases(&whole).last().map(|phase| (*phase).to_owned()) else { continue };
            let trail = book.trail(column, subject, SUCCESS, MetricOrigin::Evaluation);
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
                "Success of attacks {}, by category and defender{}",
                analysis::after(phase),
                of(book, column)
            );
            found.push(cells.matrix("coverage", title, ["category", "defender"]));
        }
    }
    found
}

/// The messages of guards, a line for each halted phase.
pub(crate) fn halted(source: &super::source::Source) -> Vec<String> {
    analysis::halted(&source.metrics)
}
