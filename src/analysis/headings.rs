//! The measures that tables show by default, and the headings of their columns.

use std::collections::HashSet;

use super::halted::PHASE as HALTED;
use super::series::{Measure, Series, TRAINING, series};
use super::statistics::estimate;
use super::table::are_shares;
use data::{MetricRow, RunMetricRow};
use game::{UNDETERMINED, undetermined};
use runs::MainMetric;

/// Columns: heading, subject, metric.
pub(super) const COLUMNS: [(&str, &str, &str); 8] = [
    ("attack", "defender", "attack_success"),
    ("bench", "defender", "benchmark_success"),
    ("refuse", "defender", "rejective"),
    ("eval", "evaluator", "accuracy_fresh"),
    ("held", "evaluator", "accuracy_heldout"),
    ("benign", "defender", "benign_accuracy"),
    ("arith", "defender", "arithmetic_accuracy"),
    ("divers", "attacks", "diversity"),
];

/// A column that appears unless it is 0 everywhere.
pub(super) const MARKS: (&str, &str, &str) = ("marks", "attacks", "marks_in_text");

/// A column that appears if conversations were measured.
const TURNS: (&str, &str, &str) = ("turn 2", "defender", "attack_success@turn=2");

/// The subject of the metrics of supervised training.
const SFT: &str = "sft";

/// The columns for these rows.
pub(super) fn columns(
    rows: &[RunMetricRow],
) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let (_, subject, metric) = MARKS;
    let is_it = |row: &RunMetricRow| {
        row.metric.subject == subject && row.metric.metric == metric && row.metric.value > 0.0
    };
    COLUMNS.into_iter().chain(has_turns(rows).then_some(TURNS)).chain(rows.iter().any(is_it).then_some(MARKS))
}

pub(super) fn has_turns(rows: &[RunMetricRow]) -> bool {
    let (_, subject, metric) = TURNS;
    rows.iter().any(|row| row.metric.subject == subject && row.metric.metric == metric)
}

/// The measures that tables show by default: those of [`super::table()`] that these rows have.
pub fn usual(rows: &[RunMetricRow]) -> Vec<Measure> {
    let is_there = |subject: &str, metric: &str| {
        let unknown = undetermined(metric);
        let is_own = |name: &str| name == metric || name == unknown;
        rows.iter().any(|row| row.metric.subject == subject && is_own(&row.metric.metric))
    };
    let known = columns(rows).filter(|(_, subject, metric)| is_there(subject, metric));
    known.map(|(_, subject, metric)| Measure { subject: subject.into(), metric: metric.into() }).collect()
}

/// The measures that a table shows by default: the usual ones, or else those of stages of one's own.
pub fn shown(rows: &[RunMetricRow]) -> Vec<Measure> {
    let usual = usual(rows);
    if usual.is_empty() { own(rows) } else { usual }
}

/// The first of these measures, with its last values.
pub fn main_metric(rows: &[RunMetricRow]) -> Option<MainMetric> {
    let runs = [rows.to_vec()];
    // Measures without a known value say nothing.
    shown(rows).iter().find_map(|measure| {
        let all = series(&runs, measure);
        let last = |series: &Series| {
            let mean = estimate(&series.last().into_values().collect::<Vec<_>>())?.mean;
            // JSON has no other numbers.
            Some(mean).filter(|mean| mean.is_finite())
        };
        let values: Vec<f64> = all.iter().filter_map(last).collect();
        let (least, most) =
            (values.iter().copied().reduce(f64::min)?, values.iter().copied().reduce(f64::max)?);
        let share = are_shares(&measure.metric, [least, most].into_iter());
        Some(MainMetric { name: heading(measure), share, least, most })
    })
}

/// Whether a metric is one of those that tables show by default.
pub fn is_usual(subject: &str, metric: &str) -> bool {
    let is_own = |(_, own, name): &&(&str, &str, &str)| *own == subject && *name == metric;
    COLUMNS.iter().chain([&TURNS]).any(|column| is_own(&column))
}

/// The measures of stages of one's own, in the order of the rows: for runs that have none of the [`usual`] ones.
fn own(rows: &[RunMetricRow]) -> Vec<Measure> {
    let is_own = |row: &&RunMetricRow| {
        let MetricRow { phase, subject, .. } = &row.metric;
        phase != TRAINING && phase != HALTED && subject != SFT
    };
    let mut known = HashSet::new();
    let names = rows.iter().filter(is_own).map(|row| (&row.metric.subject, &row.metric.metric));
    let first = names.filter(|name| known.insert(*name));
    first.map(|(subject, metric)| Measure { subject: subject.clone(), metric: metric.clone() }).collect()
}

/// The measure whose column has this heading, such as `attack`.
pub(super) fn headed(heading: &str) -> Option<Measure> {
    let mut columns = COLUMNS.iter().chain([&TURNS, &MARKS]);
    let (_, subject, metric) = columns.find(|(known, ..)| *known == heading)?;
    Some(Measure { subject: (*subject).to_owned(), metric: (*metric).to_owned() })
}

/// The end of the heading of an undetermined share, after that of its metric.
pub(super) const UNDETERMINED_HEADING: &str = " undet.";

/// The heading of a measure's column.
pub(crate) fn heading(measure: &Measure) -> String {
    if let Some(metric) = measure.metric.strip_suffix(UNDETERMINED) {
        let whole = Measure { subject: measure.subject.clone(), metric: metric.to_owned() };
        return heading(&whole) + UNDETERMINED_HEADING;
    }
    let same = |(_, subject, metric): &&(&str, &str, &str)| {
        (measure.subject.as_str(), measure.metric.as_str()) == (*subject, *metric)
    };
    match COLUMNS.iter().chain([&TURNS, &MARKS]).find(same) {
        Some((heading, ..)) => (*heading).to_owned(),
        None => format!("{}.{}", measure.subject, measure.metric),
    }
}
