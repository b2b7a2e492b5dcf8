//! The names by which metrics are asked for. `results table`, `results plot` and `runs compare` accept the same ones, among them
//! all that they print: `loss`, `train.loss`, `train[0.5].loss`, and headings of columns such as `attack`.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::bail;

use super::headings::{UNDETERMINED_HEADING, headed};
use super::series::Measure;
use data::RunMetricRow;
use engine::nearest;
use game::UNDETERMINED;
use runs::stage;

/// A metric that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricName<'n> {
    /// The model, role or stage that is measured, such as `defender`.
    pub subject: &'n str,
    /// Its combination in a matrix.
    pub label: Option<&'n str>,
    /// The metric, such as `attack_success`.
    pub metric: &'n str,
}

impl MetricName<'_> {
    /// The name of the metric in all combinations of its matrix: `train[*].loss`.
    pub fn of_all(self) -> Self {
        MetricName { label: self.label.map(|_| "*"), ..self }
    }

    /// What follows the subject in a text, and whether this begins with the label.
    fn after_subject<'t>(&self, text: &'t str) -> Option<(&'t str, bool)> {
        let rest = text.strip_prefix(self.subject)?;
        let with = |label: &str| rest.strip_prefix('[')?.strip_prefix(label)?.strip_prefix(']');
        let own = self.label.and_then(with).map(|rest| (rest, true));
        Some(
            own.or_else(|| Some((with("*").filter(|_| self.label.is_some())?, false)))
                .unwrap_or((rest, false)),
        )
    }

    /// Whether a text is this name with its subject, and with its label or without.
    fn is_whole(&self, text: &str) -> bool {
        self.after_subject(text).and_then(|(rest, _)| rest.strip_prefix(['.', ' '])) == Some(self.metric)
    }

    /// Whether a text that is this name has its label.
    fn has_label(&self, text: &str) -> bool {
        self.after_subject(text).is_some_and(|(_, has_label)| has_label)
    }
}

/// As it is printed and asked for: `train[0.5].loss`.
impl fmt::Display for MetricName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MetricName { subject, label, metric } = self;
        match label {
            Some(label) => write!(f, "{subject}[{label}].{metric}"),
            None => write!(f, "{subject}.{metric}"),
        }
    }
}

/// The metrics that a text names: with their subject, else by their heading in tables, else by the metric alone, of any subject.
pub fn named<'n>(text: &str, known: &BTreeSet<MetricName<'n>>) -> anyhow::Result<Vec<MetricName<'n>>> {
    let (asked, share) = match text.strip_suffix(UNDETERMINED_HEADING) {
        Some(asked) => (asked, UNDETERMINED),
        None => (text, ""),
    };
    let heading = headed(asked);
    let is_headed = |name: &MetricName| {
        let is = |own: &Measure| (&*own.subject, &*own.metric) == (name.subject, name.metric);
        heading.as_ref().is_some_and(is)
    };
    let ways: [&dyn Fn(&MetricName) -> bool; 3] =
        [&|name| name.is_whole(asked), &is_headed, &|name| name.metric == asked];
    for is_it in ways {
        let of = |name: &&MetricName<'n>| {
            name.metric.strip_suffix(share).is_some_and(|metric| is_it(&MetricName { metric, ..**name }))
        };
        let found: Vec<MetricName> = known.iter().filter(of).copied().collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    bail!("{}", unknown(text, known))
}

/// The measures that texts name, in their order. Of a measure that is named for some combinations of a matrix only, the rows of
/// the others are left out.
pub fn select(runs: &mut [Vec<RunMetricRow>], texts: &[String]) -> anyhow::Result<Vec<Measure>> {
    let mut wanted: Vec<(Measure, Option<BTreeSet<String>>)> = Vec::new();
    {
        let known = known(runs);
        for text in texts {
            let found = of_one_subject(text, named(text, &known)?)?;
            let measure =
                Measure { subject: found[0].subject.to_owned(), metric: found[0].metric.to_owned() };
            let has_label = found.iter().all(|name| name.has_label(text));
            let labels: Option<BTreeSet<String>> =
                has_label.then(|| found.iter().filter_map(|name| Some(name.label?.to_owned())).collect());
            match wanted.iter_mut().find(|(other, _)| *other == measure) {
                Some((_, others)) => {
                    *others = others.take().zip(labels).map(|(others, own)| &others | &own);
                }
                None => wanted.push((measure, labels)),
            }
        }
    }
    for (measure, labels) in &wanted {
        let Some(labels) = labels else { continue };
        let is_left = |row: &RunMetricRow| {
            let is_other =
                row.metric.subject != measure.subject || rate(&row.metric.metric) != rate(&measure.metric);
            is_other || stage(&row.node).1.is_some_and(|label| labels.contains(label))
        };
        runs.iter_mut().for_each(|rows| rows.retain(is_left));
    }
    Ok(wanted.into_iter().map(|(measure, _)| measure).collect())
}

/// The metric that an undetermined share belongs to; others belong to themselves.
fn rate(metric: &str) -> &str {
    metric.strip_suffix(UNDETERMINED).unwrap_or(metric)
}

/// The metrics of rows. A rate that was undetermined everywhere is known only by its undetermined share.
fn known<'r>(runs: &'r [Vec<RunMetricRow>]) -> BTreeSet<MetricName<'r>> {
    let of_row = |RunMetricRow { node, metric: row }: &'r RunMetricRow| {
        let (subject, label) = (row.subject.as_str(), stage(node).1);
        [row.metric.as_str(), rate(&row.metric)].map(|metric| MetricName { subject, label, metric })
    };
    runs.iter().flatten().flat_map(of_row).collect()
}

/// The subjects whose metrics need no subject before them, in the order of their precedence.
const USUAL: [&str; 4] = ["defender", "evaluator", "attacker", "attacks"];

/// The subject that a metric of several subjects means.
fn meant<'n>(subjects: &BTreeSet<&'n str>) -> Option<&'n str> {
    match subjects.len() {
        1 => subjects.first().copied(),
        _ => USUAL.into_iter().find_map(|usual| subjects.get(usual)).copied(),
    }
}

/// Those of the subject that is meant. An error if none is.
fn of_one_subject<'n>(text: &str, mut found: Vec<MetricName<'n>>) -> anyhow::Result<Vec<MetricName<'n>>> {
    let subjects: BTreeSet<&str> = found.iter().map(|name| name.subject).collect();
    let Some(subject) = meant(&subjects) else {
        let names: BTreeSet<String> =
            found.iter().map(|name| MetricName { label: None, ..*name }.to_string()).collect();
        bail!("`{text}` must have a subject: write {}", Vec::from_iter(names).join(" or "))
    };
    found.retain(|name| name.subject == subject);
    Ok(found)
}

/// The message for an unknown metric.
fn unknown(text: &str, known: &BTreeSet<MetricName>) -> String {
    // Metrics of single categories, classes and cells would hide the rest.
    let whole = || known.iter().filter(|name| !name.subject.contains('/') && !name.metric.contains(':'));
    let is_labelled = text.contains('[');
    let names = |is_wanted: &dyn Fn(&MetricName) -> bool| -> Vec<String> {
        let wanted = whole().filter(|name| is_wanted(name));
        let names =
            wanted.map(|name| MetricName { label: name.label.filter(|_| is_labelled), ..*name }.to_string());
        names.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let asked = text.rsplit_once('.').map_or(text, |(_, metric)| metric);
    let alike = names(&|name| name.metric == asked);
    let all = names(&|_| true);
    // Without a subject only those that need none.
    let is_enough = |metric: &str| {
        meant(&whole().filter(|name| name.metric == metric).map(|name| name.subject).collect()).is_some()
    };
    let alone: BTreeSet<&str> = whole().map(|name| name.metric).filter(|metric| is_enough(metric)).collect();
    let candidates: Vec<&str> = alone.into_iter().chain(all.iter().map(String::as_str)).collect();
    match nearest(text, &candidates) {
        _ if !alike.is_empty() => format!("no metric `{text}`; there is {}", alike.join(", ")),
        Some(near) => format!("no metric `{text}`; did you mean `{near}`?"),
        None if all.is_empty() => format!("no metric `{text}`: nothing was measured here"),
        None => format!("no metric `{text}`; there are {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::row;
    use super::*;

    fn own(node: &str, subject: &str, metric: &str) -> RunMetricRow {
        let mut row = row(node, 0, "result", 0.5);
        (row.metric.subject, row.metric.metric) = (subject.into(), metric.into());
        row
    }

    fn rows() -> Vec<RunMetricRow> {
        vec![
            row("before", 0, "warm-up", 0.4),
            own("before", "defender", "attack_success_undetermined"),
            own("train[0.5]", "train", "loss"),
            own("train[1]", "train", "loss"),
            own("score", "score", "loss"),
            own("score", "score", "points"),
        ]
    }

    fn said(texts: &[&str]) -> (Vec<String>, usize) {
        let mut runs = [rows()];
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let names = match select(&mut runs, &texts) {
            Ok(found) => found.iter().map(|own| format!("{}.{}", own.subject, own.metric)).collect(),
            Err(error) => vec![error.to_string()],
        };
        (names, runs[0].len())
    }

    #[test]
    fn a_metric_is_named_in_every_form_that_is_printed() {
        let all = rows().len();
        for (text, found, left) in [
            ("points", "score.points", all),
            ("score.loss", "score.loss", all),
            ("train.loss", "train.loss", all),
            ("train loss", "train.loss", all),
            ("train[*].loss", "train.loss", all),
            ("train[0.5].loss", "train.loss", all - 1),
            ("attack", "defender.attack_success", all),
            ("attack undet.", "defender.attack_success_undetermined", all),
            ("attack_success", "defender.attack_success", all),
        ] {
            assert_eq!(said(&[text]), (vec![found.to_owned()], left), "{text}");
        }
        assert_eq!(said(&["train[0.5].loss", "train[1].loss"]), (vec!["train.loss".into()], all));
        assert_eq!(said(&["train[0.5].loss", "train.loss"]), (vec!["train.loss".into()], all));
    }

    #[test]
    fn a_metric_that_is_not_there_names_those_that_are_as_they_are_accepted() {
        let one = |text: &str| said(&[text]).0.concat();
        assert_eq!(one("loss"), "`loss` must have a subject: write score.loss or train.loss");
        assert_eq!(one("b.loss"), "no metric `b.loss`; there is score.loss, train.loss");
        assert_eq!(
            one("train[2].loss"),
            "no metric `train[2].loss`; there is score.loss, train[0.5].loss, train[1].loss"
        );
        assert_eq!(one("attack_sucess"), "no metric `attack_sucess`; did you mean `attack_success`?");
        assert_eq!(one("train.los"), "no metric `train.los`; did you mean `train.loss`?");
        assert_eq!(
            one("flavour"),
            "no metric `flavour`; there are defender.attack_success, defender.attack_success_undetermined, score.loss, \
             score.points, train.loss"
        );
    }
}
