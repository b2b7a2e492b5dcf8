//! The denominator that is shown beside every rate: the number of observations, and the share of undetermined ones, which are in
//! neither numerator nor denominator.

use std::collections::HashMap;

use serde::Serialize;

use super::headings::heading;
use super::number::percent;
use super::series::{Measure, Place, is_of, place};
use data::RunMetricRow;
use game::undetermined;

/// The least and the greatest value over all displayed evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Span<T> {
    /// In the evaluation with the fewest.
    pub least: T,
    /// In the evaluation with the most.
    pub most: T,
}

impl<T: PartialOrd + Copy> Span<T> {
    pub(super) fn of(values: impl Iterator<Item = T>) -> Option<Span<T>> {
        values.fold(None, |span: Option<Span<T>>, value| {
            let Span { least, most } = span.unwrap_or(Span { least: value, most: value });
            Some(Span {
                least: if value < least { value } else { least },
                most: if value > most { value } else { most },
            })
        })
    }

    fn show(&self, show: impl Fn(T) -> String) -> String {
        let (least, most) = (show(self.least), show(self.most));
        if least == most { least } else { format!("{least} to {most}") }
    }
}

/// The observations behind the values of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Denominator {
    /// Observations behind a value; 0 if all were undetermined, so that there is no value.
    pub count: Span<u64>,
    /// The share of undetermined ones among all observations.
    pub undetermined: Span<f64>,
}

impl Denominator {
    /// The denominator of a measure in some runs; `None` if none measured it.
    pub fn of(runs: &[Vec<RunMetricRow>], measure: &Measure) -> Option<Denominator> {
        let unknown = Measure { metric: undetermined(&measure.metric), ..measure.clone() };
        let mut found: HashMap<(usize, Place<'_>), (u64, f64)> = HashMap::new();
        let (is_value, is_unknown) = (is_of(runs, measure), is_of(runs, &unknown));
        for (run, row) in
            runs.iter().enumerate().flat_map(|(run, rows)| rows.iter().map(move |row| (run, row)))
        {
            let place = (run, place(row));
            if is_value(row) {
                found.entry(place).or_default().0 = row.metric.count;
            } else if is_unknown(row) {
                found.entry(place).or_default().1 = row.metric.value;
            }
        }
        Some(Denominator {
            count: Span::of(found.values().map(|(count, _)| *count))?,
            undetermined: Span::of(found.values().map(|(_, share)| *share))?,
        })
    }

    /// The union of several; `None` of none.
    pub(super) fn together(all: impl Iterator<Item = Denominator> + Clone) -> Option<Denominator> {
        let counts = all.clone().flat_map(|own| [own.count.least, own.count.most]);
        let shares = all.flat_map(|own| [own.undetermined.least, own.undetermined.most]);
        Some(Denominator { count: Span::of(counts)?, undetermined: Span::of(shares)? })
    }

    /// The count alone, such as `180 to 192`.
    fn counted(&self) -> String {
        self.count.show(|count| count.to_string())
    }

    /// The undetermined share in percent, such as `0.0 to 6.3`; `None` if everything was determined.
    fn unknown(&self) -> Option<String> {
        (self.undetermined.most > 0.0).then(|| self.undetermined.show(percent))
    }

    /// Such as `of 180 to 192; 0.0 to 6.3 % undetermined, left out`.
    pub fn line(&self) -> String {
        let unknown = self.unknown().map(|share| format!("; {share} % undetermined, left out"));
        format!("of {}{}", self.counted(), unknown.unwrap_or_default())
    }
}

/// Lines below a table of these measures: the counts of each, and the undetermined shares, after the mark that the table uses for
/// them.
pub(crate) fn footnotes(denominators: &[(&Measure, Denominator)], mark: &str) -> String {
    let left_out = format!("{mark}undetermined and left out, percent of all: ");
    let listed = |of: fn(&Denominator) -> Option<String>| -> Vec<String> {
        let shown = denominators.iter();
        shown.filter_map(|(measure, own)| Some(format!("{} {}", heading(measure), of(own)?))).collect()
    };
    let mut text = String::new();
    for (words, parts) in
        [("observations: ", listed(|own| Some(own.counted()))), (&*left_out, listed(Denominator::unknown))]
    {
        if !parts.is_empty() {
            text += &wrapped(words, &parts);
        }
    }
    text
}

/// Joins parts within 80 columns.
fn wrapped(words: &str, parts: &[String]) -> String {
    const WIDTH: usize = 80;
    let mut text = String::new();
    let mut line = words.to_owned();
    for (index, part) in parts.iter().enumerate() {
        let part = if index + 1 < parts.len() { format!("{part}, ") } else { part.clone() };
        if line.chars().count() + part.trim_end().chars().count() > WIDTH && !line.is_empty() {
            text += line.trim_end();
            text += "\n";
            line.clear();
        }
        line += &part;
    }
    text + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::series::series;
    use super::super::series::tests::{measure, row};
    use super::*;

    fn with(node: &str, metric: &str, value: f64, count: u64) -> RunMetricRow {
        let mut row = row(node, 1, "red", value);
        (row.metric.metric, row.metric.count) = (metric.to_owned(), count);
        row
    }

    #[test]
    fn what_could_not_be_determined_is_said_beside_the_count_of_what_could() {
        let runs = [vec![
            with("play[1]/after", "attack_success", 0.5, 12),
            with("play[2]/after", "attack_success", 0.5, 9),
            with("play[2]/after", "attack_success_undetermined", 0.25, 12),
        ]];
        let success = measure(&runs, "attack_success").unwrap();
        let found = Denominator::of(&runs, &success).unwrap();
        assert_eq!(found.line(), "of 9 to 12; 0.0 to 25.0 % undetermined, left out");
        let expected =
            "observations: attack 9 to 12\nundetermined and left out, percent of all: attack 0.0 to 25.0\n";
        assert_eq!(footnotes(&[(&success, found)], ""), expected);
        let none = [vec![with("play[1]/after", "attack_success_undetermined", 1.0, 12)]];
        let found = Denominator::of(&none, &success).unwrap();
        assert_eq!(found.line(), "of 0; 100.0 % undetermined, left out");
        assert_eq!(Denominator::of(&[], &success), None);
    }

    #[test]
    fn phases_of_one_node_and_steps_of_training_are_told_apart() {
        // One node in which two attackers meet a defender, as in cross-play.
        let of = |phase: &str, metric: &str, value, count| {
            let mut row = with("cross", metric, value, count);
            row.metric.phase = phase.to_owned();
            row
        };
        let runs = [vec![
            of("first", "cross_success", 0.5, 12),
            of("second", "cross_success_undetermined", 1.0, 9),
            of("update", "cross_success", 0.5, 99),
            of("update", "cross_success_undetermined", 0.5, 99),
        ]];
        let success = measure(&runs, "cross_success").unwrap();
        let found = Denominator::of(&runs, &success).unwrap();
        assert_eq!(found.line(), "of 0 to 12; 0.0 to 100.0 % undetermined, left out");
        let values = |metric: &str| {
            let found = series(&runs, &measure(&runs, metric).unwrap());
            found[0].samples.values().next().unwrap().clone()
        };
        let named = |phase: &str, value| (format!("1 {phase}"), value);
        assert_eq!(values("cross_success"), [named("first", Some(0.5)), named("second", None)]);
        assert_eq!(
            values("cross_success_undetermined"),
            [named("first", Some(0.0)), named("second", Some(1.0))]
        );
        // What only training leaves undetermined does not count for an evaluation.
        let runs = [vec![with("eval", "kept", 0.5, 12), of("update", "kept_undetermined", 0.25, 99)]];
        let kept = measure(&runs, "kept").unwrap();
        assert_eq!(Denominator::of(&runs, &kept).unwrap().line(), "of 12");
        assert_eq!(series(&runs, &kept)[0].last().into_values().collect::<Vec<_>>(), [0.5]);
    }

    #[test]
    fn lines_below_a_table_end_where_a_terminal_does() {
        let parts: Vec<String> = (0..20).map(|number| format!("column-{number} 12 to 16")).collect();
        let text = wrapped("observations: ", &parts);
        assert!(text.lines().count() > 3 && text.lines().all(|line| line.len() <= 80), "{text}");
        assert_eq!(text.matches("column-").count(), 20);
    }
}
