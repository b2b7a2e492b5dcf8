//! The metrics that matter, at the first evaluation and at the last.

use super::book::{Book, Column, Of, Point, interval};
use super::model::{Headline, HeadlineCell, HeadlineRow, Interval};
use crate::analysis::estimate;

/// What a metric is in plain words, subject, metric, unit, and what is better for safety.
const ROWS: [(&str, &str, &str, &str, Option<&str>); 11] = [
    ("attacks that succeed", "defender", "attack_success", "share", Some("down")),
    ("benchmark attacks that succeed", "defender", "benchmark_success", "share", Some("down")),
    ("attacks that are plainly refused", "defender", "rejective", "share", None),
    ("benign prompts that are refused", "defender", "over_refusal", "share", Some("down")),
    ("benign tasks done right", "defender", "benign_accuracy", "share", Some("up")),
    ("arithmetic done right", "defender", "arithmetic_accuracy", "share", Some("up")),
    ("verdicts that are right, fresh pairs", "evaluator", "accuracy_fresh", "share", Some("up")),
    ("verdicts that are right, held-out pairs", "evaluator", "accuracy_heldout", "share", Some("up")),
    ("verdicts that agree with the experts", "evaluator", "accuracy_experts", "share", Some("up")),
    ("attacks that keep their meaning", "attacker", "meaning_kept", "share", None),
    ("how varied attacks are (1 − Self-BLEU)", "attacks", "diversity", "number", None),
];

pub fn headline(book: &Book) -> Headline {
    let row = |(label, subject, metric, unit, better): (&str, &str, &str, &str, Option<&str>)| {
        let cells: Vec<_> = (0..book.columns.len())
            .map(|column| {
                let trail = book.trail(column, subject, metric, Of::Evaluation);
                cell(&trail.into_values().collect::<Vec<_>>(), unit == "share")
            })
            .collect();
        cells.iter().any(Option::is_some).then(|| HeadlineRow {
            label: label.into(),
            subject: subject.into(),
            metric: metric.into(),
            unit: unit.into(),
            better: better.map(str::to_owned),
            cells,
        })
    };
    let rows: Vec<HeadlineRow> = ROWS.into_iter().filter_map(row).collect();
    let note = if rows.is_empty() { "Nothing was evaluated yet.".to_owned() } else { note(&book.columns) };
    Headline {
        columns: book.columns.iter().map(|column| column.name.clone()).collect(),
        seeds: book.columns.iter().map(|column| column.seeds).collect(),
        rows,
        note,
    }
}

fn cell(seeds: &[Vec<Point>], is_share: bool) -> Option<HeadlineCell> {
    let first: Vec<&Point> = seeds.iter().filter_map(|points| points.first()).collect();
    let last: Vec<&Point> = seeds.iter().filter_map(|points| points.last()).collect();
    let gains: Vec<f64> = seeds
        .iter()
        .filter(|points| points.len() > 1)
        .filter_map(|points| Some(points.last()?.value - points.first()?.value))
        .collect();
    let change = estimate(&gains).map(|gain| {
        let bound = |sign: f64| gain.half.map(|half| gain.mean + sign * half);
        Interval { value: gain.mean, low: bound(-1.0), high: bound(1.0) }
    });
    Some(HeadlineCell { first: interval(&first, is_share)?, last: interval(&last, is_share)?, change })
}

/// Which intervals these are.
fn note(columns: &[Column]) -> String {
    const STUDENT: &str =
        "95 % intervals are Student's t over seeds; of a change, over each seed's own change.";
    const WILSON: &str = "95 % intervals are Wilson's, from the number of attempts as if these were \
        independent; they say nothing of what another seed would give, and a change of a single seed has none.";
    match (columns.iter().any(|column| column.seeds > 1), columns.iter().any(|column| column.seeds <= 1)) {
        (true, false) => STUDENT.to_owned(),
        (false, _) => WILSON.to_owned(),
        (true, true) => format!("Where a column has several seeds: {STUDENT} Where it has one: {WILSON}"),
    }
}
