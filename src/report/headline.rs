//! The most important metrics, at the first evaluation and at the last.

use super::book::{Column, MetricIndex, MetricOrigin, MetricSeries, Point, common_phases, interval};
use super::model::{Headline, HeadlineCell, HeadlineRow, Interval};
use analysis::{Estimate, estimate};

/// Label, subject, metric, unit, and the direction that is better for safety.
const ROWS: [(&str, &str, &str, &str, Option<&str>); 11] = [
    ("attacks that succeed", "defender", "attack_success", "share", Some("down")),
    ("benchmark attacks that succeed", "defender", "benchmark_success", "share", Some("down")),
    ("plain refusals of attacks", "defender", "rejective", "share", None),
    ("refusals of benign prompts", "defender", "over_refusal", "share", Some("down")),
    ("benign tasks solved", "defender", "benign_accuracy", "share", Some("up")),
    ("arithmetic solved", "defender", "arithmetic_accuracy", "share", Some("up")),
    ("correct verdicts, fresh pairs", "evaluator", "accuracy_fresh", "share", Some("up")),
    ("correct verdicts, held-out pairs", "evaluator", "accuracy_heldout", "share", Some("up")),
    ("verdicts that agree with the experts", "evaluator", "accuracy_experts", "share", Some("up")),
    ("attacks that keep their meaning", "attacker", "meaning_kept", "share", None),
    ("diversity of attacks (1 − Self-BLEU)", "attacks", "diversity", "number", None),
];

pub(crate) fn headline(book: &MetricIndex) -> Headline {
    let mut uneven = Uneven::default();
    let mut row = |(label, subject, metric, unit, better): (&str, &str, &str, &str, Option<&str>), of| {
        let cells: Vec<_> = (0..book.columns.len())
            .map(|column| {
                let trail = book.trail(column, subject, metric, of);
                let phase = common_phases(&trail).last().map(|phase| (*phase).to_owned());
                uneven.add(column, book.columns[column].seeds, &trail, phase.as_deref());
                cell(&trail, unit == "share")
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
    let is_usual = |subject: &str, metric: &str| ROWS.iter().any(|row| (row.1, row.2) == (subject, metric));
    let own: Vec<(&str, &str)> = book.own(is_usual);
    let own =
        own.into_iter().map(|(subject, metric)| (metric, subject, metric, book.unit(subject, metric), None));
    let usual = ROWS.into_iter().map(|row| (row, MetricOrigin::Evaluation));
    let rows = usual.chain(own.map(|row| (row, MetricOrigin::Own)));
    let rows: Vec<HeadlineRow> = rows.filter_map(|(of_row, of)| row(of_row, of)).collect();
    let note = match rows.is_empty() {
        true => "Nothing was evaluated yet.".to_owned(),
        false => note(&book.columns) + &uneven.note(&book.columns),
    };
    Headline {
        columns: book.columns.iter().map(|column| column.name.clone()).collect(),
        seeds: book.columns.iter().map(|column| column.seeds).collect(),
        rows,
        note,
    }
}

/// The values after the first and the last common phase of all seeds, and the change over seeds.
fn cell(trail: &MetricSeries, is_share: bool) -> Option<HeadlineCell> {
    let phases = common_phases(trail);
    let (first_phase, last_phase) = (phases.first()?, phases.last()?);
    let first = |points: &[Point]| points.iter().position(|point| point.phase == *first_phase);
    let last = |points: &[Point]| points.iter().rposition(|point| point.phase == *last_phase);
    let pairs = trail.values().filter_map(|points| Some((points, first(points)?, last(points)?)));
    let pairs: Vec<(&Vec<Point>, usize, usize)> = pairs.collect();
    let change = if pairs.iter().all(|(_, first, last)| first != last) {
        let gain = |(points, first, last): &(&Vec<Point>, usize, usize)| {
            Some(points[*last].value? - points[*first].value?)
        };
        let gains = estimate(&pairs.iter().filter_map(gain).collect::<Vec<f64>>());
        if is_share { gains.map(Estimate::of_changes) } else { gains }
    } else {
        None
    };
    let change = change.map(|gain| {
        let (low, high) = gain.interval.map(|found| (found.low, found.high)).unzip();
        Interval { value: Some(gain.mean), low, high, ..Interval::default() }
    });
    let first: Vec<&Point> = pairs.iter().map(|(points, first, _)| &points[*first]).collect();
    let last: Vec<&Point> = pairs.iter().map(|(points, _, last)| &points[*last]).collect();
    Some(HeadlineCell { first: interval(&first, is_share)?, last: interval(&last, is_share)?, change })
}

/// Columns whose seeds have different last phases: the column, the phase of its "last" values, and their number of seeds.
#[derive(Default)]
struct Uneven(Vec<(usize, String, usize)>);

impl Uneven {
    /// Records a metric of a column with `seeds` seeds, whose last common phase is `phase`.
    fn add(&mut self, column: usize, seeds: usize, trail: &MetricSeries, phase: Option<&str>) {
        let Some(phase) = phase else { return };
        let is_last = |points: &Vec<Point>| points.last().is_some_and(|point| point.phase == phase);
        let found = (column, phase.to_owned(), trail.len());
        let is_even = trail.len() >= seeds && trail.values().all(is_last);
        if !is_even && !self.0.contains(&found) {
            self.0.push(found);
        }
    }

    fn note(&self, columns: &[Column]) -> String {
        let each = self.0.iter().map(|(column, phase, with)| {
            let Column { name, seeds, .. } = &columns[*column];
            let phase = analysis::after(phase);
            let of = if columns.len() > 1 { format!(" of {name}") } else { String::new() };
            match with < seeds {
                true => format!(" Not all seeds{of} have reached the same phase: the last values are {phase}, for {with} of {seeds} seeds."),
                false => format!(" Not all seeds{of} have reached the same phase: the last values are {phase}, which all of them have."),
            }
        });
        each.collect()
    }
}

/// Explains the intervals.
fn note(columns: &[Column]) -> String {
    const STUDENT: &str = "95 % intervals are Student's t over seeds, of shares within 0 and 100 %; those of changes are over each seed's own change. If \
        all seeds have the same value, the interval is unknown.";
    const WILSON: &str = "95 % intervals are Wilson's over hazards, or, if the outcomes of single prompts are unknown, \
        from the number of attempts as if these were independent. They do not include the variation between \
        seeds, and a change of a single seed has none.";
    match (columns.iter().any(|column| column.seeds > 1), columns.iter().any(|column| column.seeds <= 1)) {
        (true, false) => STUDENT.to_owned(),
        (false, _) => WILSON.to_owned(),
        (true, true) => format!("Columns with several seeds: {STUDENT} Columns with one: {WILSON}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_of_one_phase_that_all_seeds_have() {
        let point = |phase: &str, value: f64| Point {
            phase: phase.into(),
            at: (0, 0),
            value: Some(value),
            count: 10,
            undetermined: 0,
            over_hazards: None,
        };
        let trail = MetricSeries::from([
            (Some(1), vec![point("warm-up", 0.5), point("1 red", 0.8), point("1 blue", 0.1)]),
            (Some(2), vec![point("warm-up", 0.4), point("1 red", 0.6)]),
        ]);
        let found = cell(&trail, true).unwrap();
        let near = |found: Interval, value: f64| (found.value.unwrap() - value).abs() < 1e-12;
        assert!(near(found.first, 0.45) && near(found.last, 0.7));
        assert!(near(found.change.unwrap(), 0.25));
        let column =
            |seeds| Column { name: "full".into(), run: 0, ablation: "full".into(), label: None, seeds };
        let mut uneven = Uneven::default();
        uneven.add(0, 2, &trail, Some("1 red"));
        uneven.add(0, 2, &trail, Some("1 red"));
        let note = uneven.note(&[column(2)]);
        assert_eq!(note.matches("after 1 red, which all of them have").count(), 1, "{note}");
        let mut uneven = Uneven::default();
        uneven.add(0, 3, &trail, Some("1 red"));
        assert!(uneven.note(&[column(3), column(3)]).contains("of full have reached the same phase"));
        assert!(uneven.note(&[column(3)]).contains("for 2 of 3 seeds"));
        let even = MetricSeries::from([(None, vec![point("warm-up", 0.5)])]);
        assert!(cell(&even, true).unwrap().change.is_none());
        let mut uneven = Uneven::default();
        uneven.add(0, 1, &even, Some("warm-up"));
        assert_eq!(uneven.note(&[column(1)]), "");
    }
}
