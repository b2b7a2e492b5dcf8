//! A metric over the evaluations of a run, for each ablation and seed. Nodes are named `ABLATION-s1/play[1]/after_red`, and their
//! metrics say which phase of which round came before.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::halted::PHASE as HALTED;
use super::statistics::{Estimate, estimate};
use data::{MetricRow, RunMetricRow};
use game::{UNDETERMINED, undetermined};
use runs::{stage, variant};

/// A metric of a subject, such as `attack_success` of the `defender`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Measure {
    /// The model or role that is measured, such as `defender`.
    pub subject: String,
    /// The metric's name, such as `attack_success`.
    pub metric: String,
}

/// Identifies a run within an ablation: the index of its file, and its seed if the file has several.
pub(crate) type SampleId = (usize, Option<u64>);

/// The values of a metric in one ablation: for each sample, the phases in order with the value after each; `None` where
/// everything is undetermined.
#[derive(Clone, Debug)]
pub struct Series {
    /// The ablation, or the label in a matrix, or both; empty without.
    pub ablation: String,
    /// Whether it is a combination of a matrix.
    pub labelled: bool,
    /// Phases and values by sample.
    pub samples: BTreeMap<SampleId, Vec<(String, Option<f64>)>>,
}

impl Series {
    /// Applies `of` to the values of each sample.
    fn over(&self, of: impl Fn(&[(String, Option<f64>)]) -> Option<f64>) -> BTreeMap<SampleId, f64> {
        self.samples.iter().filter_map(|(sample, values)| Some((*sample, of(values)?))).collect()
    }

    /// The values after the last evaluation.
    pub fn last(&self) -> BTreeMap<SampleId, f64> {
        self.over(|values| values.last()?.1)
    }

    /// The changes from the first evaluation to the last.
    pub fn gain(&self) -> BTreeMap<SampleId, f64> {
        self.over(|values| Some(values.last()?.1? - values.first().filter(|_| values.len() > 1)?.1?))
    }

    /// The values after each phase. Of two in one phase the first counts.
    pub fn by_phase(&self) -> HashMap<&str, BTreeMap<SampleId, f64>> {
        let mut values: HashMap<&str, BTreeMap<SampleId, f64>> = HashMap::new();
        for (id, sample) in &self.samples {
            let mut known: HashSet<&str> = HashSet::new();
            for (phase, value) in sample.iter().filter(|(phase, _)| known.insert(phase)) {
                values.entry(phase).or_default().extend(value.map(|value| (*id, value)));
            }
        }
        values
    }

    /// The phases of all samples, in the order of the sample with the most.
    pub fn names(&self) -> Vec<&str> {
        let mut samples: Vec<&Vec<(String, Option<f64>)>> = self.samples.values().collect();
        samples.sort_by_key(|values| std::cmp::Reverse(values.len()));
        let mut known: HashSet<&str> = HashSet::new();
        let phases = samples.into_iter().flatten().map(|(phase, _)| phase.as_str());
        phases.filter(|phase| known.insert(phase)).collect()
    }

    /// The estimate after each phase, over the samples that have it.
    pub fn phases(&self) -> Vec<(String, Estimate)> {
        let values = self.by_phase();
        let at = |phase: &str| estimate(&values.get(phase)?.values().copied().collect::<Vec<_>>());
        self.names().into_iter().filter_map(|phase| Some((phase.to_owned(), at(phase)?))).collect()
    }
}

/// The differences `a` − `b`, sample by sample where both have a value. Samples of different files match by seed, if there is
/// exactly one.
pub(crate) fn differences(a: &BTreeMap<SampleId, f64>, b: &BTreeMap<SampleId, f64>) -> Vec<f64> {
    let like = |(file, seed): &SampleId| {
        b.get(&(*file, *seed)).copied().or_else(|| {
            let mut others = b.iter().filter(|((_, other), _)| seed.is_some() && other == seed);
            others.next().map(|(_, value)| *value).filter(|_| others.next().is_none())
        })
    };
    a.iter().filter_map(|(sample, a)| Some(a - like(sample)?)).collect()
}

/// The suffix of metrics with the mean score of a term of the reward.
pub const SCORE: &str = "_score";

/// The phase of training's own metrics, step by step.
pub(super) const TRAINING: &str = "update";

/// Selects the rows of a measure. If both evaluations and training report it, such as the attacker's entropy, only evaluations
/// count, for the rate as for its undetermined share. Rows of guards never count.
pub(crate) fn is_of(runs: &[Vec<RunMetricRow>], measure: &Measure) -> impl Fn(&RunMetricRow) -> bool {
    let is_own = |row: &RunMetricRow| {
        let metric = &row.metric;
        metric.subject == measure.subject && metric.metric == measure.metric && metric.phase != HALTED
    };
    let rate = measure.metric.strip_suffix(UNDETERMINED).unwrap_or(&measure.metric);
    let is_evaluation = |row: &RunMetricRow| {
        let metric = &row.metric;
        metric.subject == measure.subject
            && metric.phase != HALTED
            && metric.phase != TRAINING
            && metric.metric.strip_prefix(rate).is_some_and(|rest| rest.is_empty() || rest == UNDETERMINED)
    };
    let is_evaluated = runs.iter().flatten().any(is_evaluation);
    move |row| is_own(row) && !(is_evaluated && row.metric.phase == TRAINING)
}

/// A node and one of its phases.
pub(crate) type Place<'r> = (&'r str, &'r str);

/// The place of a metric and of its undetermined share: a node may have several phases.
pub(crate) fn place(row: &RunMetricRow) -> Place<'_> {
    (&row.node, &row.metric.phase)
}

/// The values of a metric for each ablation, in the order of the runs. A rate is `None` where everything was undetermined. The
/// undetermined share is 0 where it is not reported.
pub fn series(runs: &[Vec<RunMetricRow>], measure: &Measure) -> Vec<Series> {
    let named = |metric: String| Measure { subject: measure.subject.clone(), metric };
    let (beside, absent) = match measure.metric.strip_suffix(UNDETERMINED) {
        Some(rate) => (named(rate.to_owned()), Some(0.0)),
        None => (named(undetermined(&measure.metric)), None),
    };
    let (is_own, is_beside) = (is_of(runs, measure), is_of(runs, &beside));
    let mut found: Vec<Series> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    // The stages behind each phase of a sample, and the nodes behind its values.
    let mut makers: HashMap<(usize, SampleId, String), Vec<&str>> = HashMap::new();
    let mut nodes: HashMap<(usize, SampleId), Vec<&str>> = HashMap::new();
    for (run, rows) in runs.iter().enumerate() {
        let own = rows.iter().filter(|row| is_own(row));
        let told: HashSet<(&str, &str)> = own.map(place).collect();
        for row in rows {
            let value = match is_own(row) {
                true => Some(row.metric.value),
                false if is_beside(row) && !told.contains(&place(row)) => absent,
                false => continue,
            };
            let name = name_of(&row.node);
            let place = places.get(&*name).copied().unwrap_or(found.len());
            if place == found.len() {
                places.insert(name.clone().into_owned(), place);
                let labelled = stage(&row.node).1.is_some();
                found.push(Series { ablation: name.into_owned(), labelled, samples: BTreeMap::new() });
            }
            let sample = (run, variant(&row.node).1);
            let (phase, is_training) = (phase_of(row), row.metric.phase == TRAINING);
            let makers = makers.entry((place, sample, phase.clone())).or_default();
            if !is_training && !makers.contains(&stage(&row.node).0) {
                makers.push(stage(&row.node).0);
            }
            let values = found[place].samples.entry(sample).or_default();
            values.push((phase, value));
            nodes.entry((place, sample)).or_default().push(&row.node);
        }
    }
    // Evaluations after the same phase are told apart by their stages.
    for ((place, sample), nodes) in nodes {
        let values = found[place].samples.entry(sample).or_default();
        for ((phase, _), node) in values.iter_mut().zip(nodes) {
            if makers.get(&(place, sample, phase.clone())).is_some_and(|makers| makers.len() > 1) {
                *phase = format!("{phase} ({})", stage(node).0);
            }
        }
    }
    found
}

/// The name of the series that a node's metrics belong to: its ablation, and its label in a matrix.
pub fn name_of(node: &str) -> Cow<'_, str> {
    let (ablation, ..) = variant(node);
    match stage(node).1 {
        None => ablation.into(),
        Some(label) if ablation.is_empty() => label.into(),
        Some(label) => format!("{ablation}[{label}]").into(),
    }
}

/// The phase of a node's metric.
pub fn phase_of(row: &RunMetricRow) -> String {
    runs::after(&row.node, &row.metric.phase, (row.metric.at.iteration, row.metric.at.step))
}

/// The phase before a measurement: `warm-up`, `1 red`, or `1.3` for a training step.
pub fn phase(metric: &MetricRow) -> String {
    runs::after("", &metric.phase, (metric.at.iteration, metric.at.step))
}

/// The place of an evaluation in words: `after 1 red`; but `before` and `after` say it themselves.
pub fn after(phase: &str) -> String {
    match phase.split(' ').next() {
        Some("before" | "after") => phase.to_owned(),
        _ => format!("after {phase}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::named::select;
    use super::*;
    use data::Position;

    pub(crate) fn measure(runs: &[Vec<RunMetricRow>], text: &str) -> anyhow::Result<Measure> {
        Ok(select(&mut runs.to_vec(), &[text.to_owned()])?.remove(0))
    }

    pub(crate) fn row(node: &str, iteration: u32, phase: &str, value: f64) -> RunMetricRow {
        let at = Position { iteration, step: 0, rng_seed: String::new() };
        let (subject, metric) = ("defender".into(), "attack_success".into());
        let metric = MetricRow { phase: phase.into(), subject, metric, value, count: 1, at };
        RunMetricRow { node: node.into(), metric }
    }

    #[test]
    fn names_of_nodes_say_the_ablation_and_the_seed() {
        assert_eq!(variant("play[1]/after_red"), ("", None, "play[1]/after_red"));
        assert_eq!(variant("before"), ("", None, "before"));
        assert_eq!(variant("s12/play[1]/red"), ("", Some(12), "play[1]/red"));
        assert_eq!(variant("no-diversity-s3/before"), ("no-diversity", Some(3), "before"));
        assert_eq!(variant("no-sugar/before"), ("no-sugar", None, "before"));
        assert_eq!(variant("brew[a/b]"), ("", None, "brew[a/b]"));
    }

    #[test]
    fn an_evaluation_that_is_called_after_is_not_after_after() {
        let said = ["1 red", "warm-up", "before", "after", "after the last round"].map(after);
        assert_eq!(said, ["after 1 red", "after warm-up", "before", "after", "after the last round"]);
    }

    #[test]
    fn values_are_gathered_by_ablation_and_sample() {
        let rows = vec![
            row("full-s1/before", 0, "warm-up", 0.4),
            row("full-s1/play[1]/after", 1, "red", 0.6),
            row("full-s2/before", 0, "warm-up", 0.5),
            row("full-s2/play[1]/after", 1, "red", 0.8),
            row("flat-s1/before", 0, "warm-up", 0.4),
            row("flat-s1/play[1]/red[1]/update", 1, "update", 0.9),
            row("flat-s1/play[1]/red[1]/update", 1, HALTED, 0.9),
        ];
        let measure = measure(std::slice::from_ref(&rows), "attack_success").unwrap();
        let found = series(&[rows], &measure);
        let [full, flat] = &found[..] else { panic!("{found:?}") };
        assert_eq!((full.ablation.as_str(), flat.ablation.as_str()), ("full", "flat"));
        assert_eq!(full.last().into_values().collect::<Vec<_>>(), [0.6, 0.8]);
        let gains: Vec<f64> = full.gain().into_values().collect();
        assert!((gains[0] - 0.2).abs() < 1e-12 && (gains[1] - 0.3).abs() < 1e-12, "{gains:?}");
        let phases: Vec<(String, f64)> = full.phases().into_iter().map(|(name, e)| (name, e.mean)).collect();
        assert_eq!(phases, [("warm-up".to_owned(), 0.45), ("1 red".to_owned(), 0.7)]);
        assert_eq!(differences(&full.last(), &flat.last()).len(), 1, "seeds that both have");
        let elsewhere = BTreeMap::from([((7, Some(2)), 0.5), ((8, None), 0.1)]);
        let found = differences(&full.last(), &elsewhere);
        assert!(
            found.len() == 1 && (found[0] - 0.3).abs() < 1e-12,
            "the same seed of another file: {found:?}"
        );
    }

    #[test]
    fn evaluations_after_one_phase_are_told_apart_by_their_stages() {
        let rows = [vec![
            row("before", 0, "warm-up", 0.4),
            row("after", 0, "blue", 0.6),
            row("again", 0, "blue", 0.7),
        ]];
        let found = series(&rows, &measure(&rows, "attack").unwrap());
        assert_eq!(found[0].names(), ["warm-up", "blue (after)", "blue (again)"]);
    }
}
