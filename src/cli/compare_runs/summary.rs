//! Prints the part of a comparison that matters, in about a dozen lines: the main metrics, what is undetermined, and what did
//! nothing. [`super::metrics`] prints everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::metrics::{cells, phases, table, wrapped};
use crate::analysis::compare::{Compared, Comparison};
use crate::analysis::{MetricName, is_usual};

/// Differences with a smaller adjusted p-value are taken for real.
const LEVEL: f64 = 0.05;

/// Most rows of the table of a run that has none of the usual metrics.
const MOST_ROWS: usize = 8;

/// Most lines of what did nothing, and most notes, that are shown.
const MOST_LINES: usize = 5;
const MOST_NOTES: usize = 3;

pub(crate) fn text(comparison: &Comparison, letter: &str) -> String {
    let mut text = String::new();
    let main = main_metrics(comparison);
    if !main.is_empty() {
        let phases = phases(comparison);
        let _ = writeln!(text, "\nmetrics {phases}; shares in percent, differences in points");
        differences(&mut text, comparison, &main, letter);
        if main.iter().any(|found| found.p_adjusted.is_some()) {
            let words = format!(
                "p decides: below {LEVEL} the metric differs. It is adjusted by Holm's method over all {} tests of this \
                 comparison; the intervals are not.",
                comparison.tests
            );
            wrapped(&mut text, &words, "", "");
        }
    }
    others(&mut text, comparison, &main, letter);
    let unknown = comparison.metrics.iter().filter(|found| found.a_undetermined + found.b_undetermined > 0);
    let unknown = unknown.map(|found| {
        format!(
            "{} {} in A, {} in {letter}",
            found.measure.as_named(),
            found.a_undetermined,
            found.b_undetermined
        )
    });
    named(&mut text, "undetermined attempts, left out", unknown.collect());
    listed(&mut text, "did nothing", &comparison.without_effect, MOST_LINES);
    let forced = comparison.forced.iter().map(|line| format!("not comparable, but forced: {line}"));
    listed(
        &mut text,
        "notes",
        &forced.chain(comparison.notes.iter().cloned()).collect::<Vec<_>>(),
        MOST_NOTES,
    );
    text
}

/// How to see the rest.
pub(crate) const MORE: &str = "more: --metric NAME shows one metric in full, --all everything";

fn is_usual_metric(found: &Compared) -> bool {
    is_usual(&found.measure.subject, &found.measure.name) && (found.a.is_some() || found.b.is_some())
}

/// The metrics that tables show too, or else those of both runs: if they are too many, each metric in the combination of its matrix
/// where it differs most, then those that differ most.
fn main_metrics(comparison: &Comparison) -> Vec<&Compared> {
    let mut usual: Vec<&Compared> =
        comparison.metrics.iter().filter(|found| is_usual_metric(found)).collect();
    if !usual.is_empty() {
        // The success of attacks comes first, as in tables.
        usual.sort_by_key(|found| found.measure.subject != "defender");
        return usual;
    }
    let mut own: Vec<&Compared> =
        comparison.metrics.iter().filter(|found| found.a.is_some() && found.b.is_some()).collect();
    if own.len() > MOST_ROWS {
        own.sort_by(|x, y| {
            is_different(y).cmp(&is_different(x)).then(proportion(y).total_cmp(&proportion(x)))
        });
        let mut known = BTreeSet::new();
        let (mut shown, rest): (Vec<&Compared>, Vec<&Compared>) =
            own.into_iter().partition(|found| known.insert(found.measure.as_named().of_all()));
        shown.extend(rest);
        shown.truncate(MOST_ROWS);
        return shown;
    }
    own
}

/// The difference in proportion to the values.
fn proportion(found: &Compared) -> f64 {
    match (found.a, found.b, found.difference) {
        (Some(a), Some(b), Some(difference)) if difference != 0.0 => difference.abs() / a.abs().max(b.abs()),
        _ => 0.0,
    }
}

/// Says which metrics the table lacks.
fn others(text: &mut String, comparison: &Comparison, main: &[&Compared], letter: &str) {
    let lacking = || {
        let metrics = comparison.metrics.iter();
        metrics.filter(|found| !main.iter().any(|shown| std::ptr::eq(*shown, *found)))
    };
    let both = |found: &&Compared| found.a.is_some() && found.b.is_some();
    let different = lacking().filter(both).filter(|found| is_different(found));
    named(text, "also differ", different.map(|found| found.measure.as_named().to_string()).collect());
    let is_usual = comparison.metrics.iter().any(is_usual_metric);
    for (title, rest) in [
        ("and", Vec::from_iter(lacking().filter(both).filter(|found| !is_different(found)))),
        ("only A has", Vec::from_iter(lacking().filter(|found| found.a.is_some() && found.b.is_none()))),
        (
            &format!("only {letter} has"),
            Vec::from_iter(lacking().filter(|found| found.a.is_none() && found.b.is_some())),
        ),
    ] {
        let names = rest.iter().map(|found| found.measure.as_named());
        // An evaluation has dozens of metrics.
        let names = if is_usual { subjects(names) } else { by_metric(names) };
        let more = if title == "and" { " more" } else { "" };
        named(text, &format!("{title} {}{more}", rest.len()), names);
    }
}

/// The subjects of metrics.
fn subjects<'n>(names: impl Iterator<Item = MetricName<'n>>) -> Vec<String> {
    let subjects: BTreeSet<&str> = names.map(|name| name.subject).collect();
    subjects.into_iter().map(str::to_owned).collect()
}

/// Each metric once, with the number of its combinations if it has several.
fn by_metric<'n>(names: impl Iterator<Item = MetricName<'n>>) -> Vec<String> {
    let mut by_metric: BTreeMap<MetricName, Vec<MetricName>> = BTreeMap::new();
    names.for_each(|name| by_metric.entry(name.of_all()).or_default().push(name));
    let shown = |(all, names): (&MetricName, &Vec<MetricName>)| match &names[..] {
        [one] => one.to_string(),
        several => format!("{} of {all}", several.len()),
    };
    by_metric.iter().map(shown).collect()
}

fn is_different(found: &Compared) -> bool {
    found.p_adjusted.is_some_and(|p| p < LEVEL)
}

/// The name of a metric in the table: without its subject if the comparison has no other, or if it is a usual one and no other subject
/// has it.
fn row_name(found: &Compared, comparison: &Comparison) -> String {
    let others = || comparison.metrics.iter().filter(|other| other.measure.subject != found.measure.subject);
    let is_alone = match is_usual_metric(found) {
        true => !others().any(|other| other.measure.name == found.measure.name),
        false => others().next().is_none(),
    };
    if is_alone { found.measure.name.clone() } else { found.measure.as_named().to_string() }
}

fn differences(text: &mut String, comparison: &Comparison, main: &[&Compared], letter: &str) {
    let heading = ["", "A", letter, &format!("{letter} - A"), "95 % interval", "p", ""];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for found in main {
        let mut row = vec![format!("  {}", row_name(found, comparison))];
        row.extend(cells(found));
        row.push(verdict(found).to_owned());
        rows.push(row);
    }
    table(text, &rows);
}

/// What the difference comes to, in a word.
fn verdict(found: &Compared) -> &'static str {
    match (found.difference, found.p_adjusted) {
        (None, _) => "",
        (Some(difference), Some(_)) if is_different(found) => {
            if difference > 0.0 {
                "higher"
            } else {
                "lower"
            }
        }
        (Some(difference), _) if difference.abs() < 1e-12 => "same",
        (Some(_), Some(_)) => "unclear",
        (Some(_), None) => "no test",
    }
}

fn named(text: &mut String, title: &str, names: Vec<String>) {
    if !names.is_empty() {
        wrapped(text, &format!("{title}: {}", names.join(", ")), "", "  ");
    }
}

fn listed(text: &mut String, title: &str, lines: &[String], most: usize) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    lines.iter().take(most).for_each(|line| wrapped(text, line, "  - ", "    "));
    if lines.len() > most {
        let _ = writeln!(text, "  … and {} more (--all)", lines.len() - most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::compare::Names;

    fn compared(subject: &str, name: &str, difference: f64, p: Option<f64>) -> Compared {
        let mut found = Compared::default();
        found.metric = format!("{subject} {name}");
        found.measure = Names { subject: subject.into(), name: name.into() };
        found.share = true;
        (found.a, found.b) = (Some(0.5), Some(0.5 + difference));
        (found.difference, found.p_adjusted) = (Some(difference), p);
        found
    }

    #[test]
    fn what_matters_comes_first_and_everything_that_differs_is_named() {
        let comparison = Comparison {
            after_a: "blue".into(),
            after_b: "blue".into(),
            metrics: vec![
                compared("attacks", "cell_coverage", 0.0, None),
                compared("defender", "attack_success", -0.0375, Some(0.0016)),
                compared("defender", "benchmark_success", 0.0004, Some(0.6)),
                compared("defender", "positive", 0.25, Some(0.01)),
            ],
            tests: 3,
            without_effect: vec!["A: red[*]/update changed no weights".into()],
            notes: (0..5).map(|n| format!("note {n}")).collect(),
            ..Comparison::default()
        };
        let shown = text(&comparison, "B");
        for expected in [
            "\nmetrics after blue; shares in percent, differences in points\n",
            "0.0016    lower\n",
            "unclear\n",
            "all 3 tests of this comparison",
            "\nalso differ: defender.positive\nand 1 more: attacks\n",
            "\ndid nothing\n  - A: red[*]/update changed no weights\n",
            "  - note 2\n  … and 2 more (--all)\n",
        ] {
            assert!(shown.contains(expected), "{expected}\n{shown}");
        }
        assert!(!shown.contains("cell_coverage"), "{shown}");
        let own = Comparison {
            metrics: vec![compared("x", "a", 0.0, None), compared("y", "a", 0.1, None)],
            ..comparison
        };
        let shown = text(&own, "B");
        assert!(shown.contains("  x.a  50.0  50.0    0.0") && shown.contains("no test\n"), "{shown}");
    }
}
