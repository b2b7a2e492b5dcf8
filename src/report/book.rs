//! The index of all runs' metrics by name, from which headline, panels and matrices are made.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use super::model::Interval;
use super::source::Source;
use analysis::compare::RateInterval;
use analysis::statistics::{self, wilson};
use analysis::{self, Measure, PHASE, estimate};
use data::MetricRow;
use engine::{NodeReport, Purpose};
use game::undetermined;
use runs::{repeated, stage, variant};

/// The phase of training's own metrics, step by step.
const TRAINING: &str = "update";

/// Selects the rows of a metric that both evaluations and training report, such as the attacker's entropy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricOrigin {
    Evaluation,
    Training,
    /// Commands of the user's.
    Own,
}

/// A compared column: a run, or an ablation of one; of each, a combination of a matrix.
pub(crate) struct Column {
    pub name: String,
    pub run: usize,
    pub ablation: String,
    /// The label of the combination, without the seed if the matrix has several.
    pub label: Option<String>,
    /// The number of its seeds.
    pub seeds: usize,
}

/// A metric's value after a phase or a step.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub phase: String,
    /// Iteration and step.
    pub at: (u32, u32),
    /// `None` if everything is undetermined.
    pub value: Option<f64>,
    pub count: u64,
    /// Undetermined observations, which are in neither `value` nor `count`.
    pub undetermined: u64,
    /// The interval of a rate over hazards, if the outcomes of single prompts are known.
    pub over_hazards: Option<statistics::Interval>,
}

/// Intervals of rates over hazards by a run's folder and a node's full name.
pub(crate) type Rates = HashMap<(PathBuf, String), HashMap<Measure, RateInterval>>;

/// A metric's values in one column, by seed, in the order of the run.
pub(crate) type MetricSeries = BTreeMap<Option<u64>, Vec<Point>>;

/// The phases after which all seeds of a trail have a value, in order. In a run under way some seeds are further than others;
/// comparisons need the same phases.
pub(crate) fn common_phases(trail: &MetricSeries) -> Vec<&str> {
    let mut common: Vec<&str> = Vec::new();
    for point in trail.values().next().into_iter().flatten() {
        let phase = point.phase.as_str();
        let all_have = || trail.values().all(|points| points.iter().any(|point| point.phase == phase));
        if !common.contains(&phase) && all_have() {
            common.push(phase);
        }
    }
    common
}

/// The last value of each seed after a phase.
pub(crate) fn after<'t>(trail: &'t MetricSeries, phase: &str) -> Vec<&'t Point> {
    let last = |points: &'t Vec<Point>| points.iter().rfind(|point| point.phase == phase);
    trail.values().filter_map(last).collect()
}

/// A row of metrics and its origin.
pub(crate) struct Entry<'a> {
    pub column: usize,
    pub seed: Option<u64>,
    /// Without ablation and seed.
    pub node: &'a str,
    /// Its index among the rows of its run.
    index: usize,
    over_hazards: Option<statistics::Interval>,
    /// Whether a command of the user's reported it.
    is_own: bool,
    phase: String,
    pub row: &'a MetricRow,
}

pub(crate) struct MetricIndex<'a> {
    pub columns: Vec<Column>,
    entries: HashMap<(&'a str, &'a str), Vec<Entry<'a>>>,
    /// Subjects and metrics in the order of their first rows.
    pub names: Vec<(&'a str, &'a str)>,
    /// The number of combinations of matrices that are too many for the page.
    pub left_out: usize,
}

/// Most combinations of matrices that are columns.
const MOST_LABELS: usize = 24;

impl<'a> MetricIndex<'a> {
    pub(crate) fn new(sources: &'a [Source], rates: &Rates) -> MetricIndex<'a> {
        let (columns, left_out) = columns(sources);
        let mut book = MetricIndex { columns, entries: HashMap::new(), names: Vec::new(), left_out };
        let places: HashMap<(usize, &str, Option<&str>), usize> = (book.columns.iter().enumerate())
            .map(|(place, column)| ((column.run, column.ablation.as_str(), column.label.as_deref()), place))
            .collect();
        let mut names = Vec::new();
        let mut entries: HashMap<(&str, &str), Vec<Entry>> = HashMap::new();
        for (run, source) in sources.iter().enumerate() {
            let reports = reports(source);
            for (index, row) in source.metrics.iter().enumerate() {
                let (ablation, seed, node) = variant(&row.node);
                let report = reports.get(row.node.as_str()).copied();
                let label = report.and_then(|report| label(source, report));
                let Some(column) = places.get(&(run, ablation, label.as_deref())).copied() else { continue };
                let seed = seed.or(report.and_then(|report| report.seed));
                let is_own = report.is_some_and(|report| report.kind == COMMAND);
                let name = (row.metric.subject.as_str(), row.metric.metric.as_str());
                let own = entries.entry(name).or_insert_with(|| {
                    names.push(name);
                    Vec::new()
                });
                let of_node = rates.get(&(source.run.folder.clone(), row.node.clone()));
                let over_hazards = of_node.and_then(|of_node| over_hazards(of_node, &row.metric));
                let (phase, row) = (analysis::phase_of(row), &row.metric);
                own.push(Entry { column, seed, node, index, over_hazards, is_own, phase, row });
            }
        }
        (book.entries, book.names) = (entries, names);
        book
    }

    /// The metrics of commands of the user's that the page shows in no other place.
    pub(crate) fn own(&self, is_shown: impl Fn(&str, &str) -> bool) -> Vec<(&'a str, &'a str)> {
        let is_own = |name: &&(&'a str, &'a str)| {
            !is_shown(name.0, name.1) && self.entries[*name].iter().any(|entry| entry.is_own)
        };
        self.names.iter().filter(is_own).copied().collect()
    }

    /// The unit of a metric of the user's, which may have the name of a share and be in percent.
    pub(crate) fn unit(&self, subject: &str, metric: &str) -> &'static str {
        let is_within = |entry: &Entry| (0.0..=1.0).contains(&entry.row.value);
        match analysis::is_share(metric) && self.rows(subject, metric).all(is_within) {
            true => "share",
            false => "number",
        }
    }

    /// All rows of a metric.
    pub(crate) fn rows<'s>(
        &'s self,
        subject: &'s str,
        metric: &'s str,
    ) -> impl Iterator<Item = &'s Entry<'a>> {
        self.entries.get(&(subject, metric)).into_iter().flatten()
    }

    /// The number of undetermined observations of a metric at the place of one of its rows.
    fn undetermined(&self, beside: &Entry) -> u64 {
        let metric = undetermined(&beside.row.metric);
        let is_same = |entry: &&Entry| {
            (entry.column, entry.seed, entry.node) == (beside.column, beside.seed, beside.node)
                && entry.row.phase == beside.row.phase
        };
        self.rows(&beside.row.subject, &metric).find(is_same).map_or(0, |entry| undetermined_of(entry.row))
    }

    /// A metric's values in a column.
    pub(crate) fn trail(&self, column: usize, subject: &str, metric: &str, of: MetricOrigin) -> MetricSeries {
        let is_own = |entry: &&Entry| {
            let phase = entry.row.phase.as_str();
            entry.column == column
                && entry.row.value.is_finite()
                && match of {
                    MetricOrigin::Own => entry.is_own,
                    MetricOrigin::Training => phase == TRAINING,
                    // The phase of supervised training is `step 21`.
                    MetricOrigin::Evaluation => {
                        phase != TRAINING && phase != PHASE && !phase.starts_with("step ")
                    }
                }
        };
        let place = |entry: &Entry<'a>| (entry.seed, entry.node, entry.row.phase.as_str());
        let values: Vec<&Entry> = self.rows(subject, metric).filter(is_own).collect();
        let known: HashSet<_> = values.iter().map(|entry| place(entry)).collect();
        let beside = undetermined(metric);
        // Entirely undetermined evaluations have no value, but keep their place among the others.
        let alone = self.rows(subject, &beside).filter(is_own).filter(|entry| !known.contains(&place(entry)));
        let mut all: Vec<(&Entry, bool)> = values.iter().map(|entry| (*entry, true)).collect();
        all.extend(alone.map(|entry| (entry, false)));
        all.sort_by_key(|(entry, _)| entry.index);
        let mut trail = MetricSeries::new();
        for (entry, is_known) in all {
            trail.entry(entry.seed).or_default().push(Point {
                phase: entry.phase.clone(),
                at: (entry.row.at.iteration, entry.row.at.step),
                value: is_known.then_some(entry.row.value),
                count: if is_known { entry.row.count } else { 0 },
                undetermined: if is_known { self.undetermined(entry) } else { undetermined_of(entry.row) },
                over_hazards: entry.over_hazards.filter(|_| is_known),
            });
        }
        trail
    }
}

/// The interval over hazards of a rate, if it has as many attempts as the rate.
fn over_hazards(rates: &HashMap<Measure, RateInterval>, row: &MetricRow) -> Option<statistics::Interval> {
    let (attempts, interval) =
        rates.get(&Measure { subject: row.subject.clone(), metric: row.metric.clone() })?;
    (*attempts as u64 == row.count).then_some(*interval)
}

/// The number of undetermined observations in a row, whose value is their share of all.
pub(crate) fn undetermined_of(row: &MetricRow) -> u64 {
    (row.value * row.count as f64).round() as u64
}

/// The kind of a command of the user's.
const COMMAND: &str = "exec";

fn reports(source: &Source) -> HashMap<&str, &NodeReport> {
    source.run.nodes.iter().map(|node| (node.node.as_str(), node)).collect()
}

/// The label of a node whose results are compared with those of the other combinations of its matrix.
fn label(source: &Source, report: &NodeReport) -> Option<String> {
    let is_compared = report.kind == COMMAND || source.record().purpose(&report.kind) == Purpose::Evaluation;
    stage(&repeated(report)).1.filter(|_| is_compared).map(str::to_owned)
}

/// The combinations of the matrices of an ablation, with the number of seeds of each; `None` of what is in no matrix.
fn labels(source: &Source, ablation: &str) -> Vec<(Option<String>, usize)> {
    let reports = reports(source);
    let mut found: Vec<(Option<String>, BTreeSet<Option<u64>>)> = Vec::new();
    let mut places: HashMap<Option<String>, usize> = HashMap::new();
    for row in source.metrics.iter().filter(|row| variant(&row.node).0 == ablation) {
        let Some(report) = reports.get(row.node.as_str()) else { continue };
        let label = label(source, report);
        let place = *places.entry(label.clone()).or_insert_with(|| {
            found.push((label, BTreeSet::new()));
            found.len() - 1
        });
        found[place].1.insert(variant(&row.node).1.or(report.seed));
    }
    found.into_iter().map(|(label, seeds)| (label, seeds.len())).collect()
}

/// Each run, or each of its ablations if it has some, and of each the combinations of its matrices; and the number of
/// combinations that are left out. A run that has just begun has the ablations of its record.
fn columns(sources: &[Source]) -> (Vec<Column>, usize) {
    let mut columns: Vec<Column> = Vec::new();
    let mut left_out = 0;
    for (run, source) in sources.iter().enumerate() {
        let mut ablations: Vec<(String, usize)> = Vec::new();
        // The names in the record are sorted; nodes are in the order of the pipeline.
        let nodes = source.run.nodes.iter().map(|node| variant(&node.node).0);
        let names: Vec<String> = source.record().params.keys().map(|name| format!("{name}/")).collect();
        let recorded: Vec<&str> = names.iter().map(|name| variant(name.trim_start_matches('/')).0).collect();
        for ablation in nodes.filter(|name| recorded.contains(name)).chain(recorded.iter().copied()) {
            if !ablations.iter().any(|(known, _)| known == ablation) {
                let seeds = recorded.iter().filter(|name| **name == ablation).count();
                ablations.push((ablation.to_owned(), seeds));
            }
        }
        for (ablation, seeds) in ablations {
            let name = match (sources.len(), ablation.is_empty()) {
                (1, true) => source.record().pipeline.clone(),
                (1, false) => ablation.clone(),
                (_, true) => source.title(),
                (_, false) => format!("{} {ablation}", source.record().run),
            };
            let mut labels = labels(source, &ablation);
            if labels.is_empty() {
                labels.push((None, seeds));
            }
            for (label, repeated) in labels {
                if label.is_some()
                    && columns.iter().filter(|column| column.label.is_some()).count() == MOST_LABELS
                {
                    left_out += 1;
                    continue;
                }
                let name = match &label {
                    None => name.clone(),
                    Some(label) if sources.len() == 1 && ablation.is_empty() => label.clone(),
                    Some(label) => format!("{name}[{label}]"),
                };
                let (ablation, seeds) = (ablation.clone(), seeds.max(repeated));
                columns.push(Column { name, run, ablation, label, seeds });
            }
        }
    }
    (columns, left_out)
}

/// A share over several seeds has Student's interval. With one seed it has Wilson's, over hazards if the outcomes of single
/// prompts are known, otherwise from its number of observations. Other quantities have no interval with one seed. Seeds with
/// equal values have none. Returns None without points, and a value of None if no point has one.
pub(crate) fn interval(points: &[&Point], is_share: bool) -> Option<Interval> {
    let (count, undetermined) = points.iter().fold((0, 0), |(count, undetermined), point| {
        (count + point.count, undetermined + point.undetermined)
    });
    let unknown = Interval { count, undetermined, ..Interval::default() };
    let known: Vec<&&Point> = points.iter().filter(|point| point.value.is_some()).collect();
    let values: Vec<f64> = known.iter().filter_map(|point| point.value).collect();
    let Some(whole) = estimate(&values) else { return (!points.is_empty()).then_some(unknown) };
    let bounds = match (values.as_slice(), known.as_slice()) {
        ([value], [point]) if is_share && (0.0..=1.0).contains(value) => {
            let hits = (value * count as f64).round() as u64;
            point.over_hazards.or_else(|| wilson(hits, count))
        }
        _ if is_share => whole.of_shares().interval,
        _ => whole.interval,
    };
    let (low, high) = bounds.map(|found| (found.low, found.high)).unzip();
    Some(Interval { value: Some(whole.mean), low, high, ..unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_are_further_are_compared_where_all_have_been() {
        let point = |phase: &str| Point {
            phase: phase.into(),
            at: (0, 0),
            value: Some(0.5),
            count: 10,
            undetermined: 0,
            over_hazards: None,
        };
        let trail = |phases: &[&[&str]]| {
            let seed = |(seed, phases): (usize, &&[&str])| {
                (Some(seed as u64), phases.iter().map(|phase| point(phase)).collect())
            };
            phases.iter().enumerate().map(seed).collect::<MetricSeries>()
        };
        let uneven = trail(&[&["warm-up", "1 red", "1 blue"], &["warm-up", "1 red"]]);
        assert_eq!(common_phases(&uneven), ["warm-up", "1 red"]);
        assert_eq!(after(&uneven, "1 red").len(), 2);
        assert_eq!(common_phases(&trail(&[&["end"], &["warm-up"]])), [] as [&str; 0]);
        assert_eq!(common_phases(&trail(&[&["a", "b"]])), ["a", "b"]);
        assert_eq!(common_phases(&MetricSeries::new()), [] as [&str; 0]);
    }

    #[test]
    fn an_evaluation_of_which_nothing_is_known_has_its_place_among_the_others() {
        let row = |phase: &str, iteration, metric: &str, value| MetricRow {
            phase: phase.into(),
            subject: "defender".into(),
            metric: metric.into(),
            value,
            count: 12,
            at: data::Position { iteration, step: 0, rng_seed: String::new() },
        };
        let rows = [
            row("warm-up", 0, "attack_success_undetermined", 1.0),
            row("red", 1, "attack_success", 0.5),
            row("red", 1, "attack_success_undetermined", 0.25),
            row("blue", 1, "attack_success", 0.25),
        ];
        let mut book =
            MetricIndex { columns: Vec::new(), entries: HashMap::new(), names: Vec::new(), left_out: 0 };
        for (index, row) in rows.iter().enumerate() {
            let entry = Entry {
                column: 0,
                seed: None,
                node: ["before", "red", "red", "blue"][index],
                index,
                over_hazards: None,
                is_own: false,
                phase: analysis::phase(row),
                row,
            };
            book.entries.entry((row.subject.as_str(), row.metric.as_str())).or_default().push(entry);
        }
        let trail = book.trail(0, "defender", "attack_success", MetricOrigin::Evaluation);
        assert_eq!(common_phases(&trail), ["warm-up", "1 red", "1 blue"]);
        let points: Vec<_> =
            trail[&None].iter().map(|point| (point.value, point.count, point.undetermined)).collect();
        assert_eq!(points, [(None, 0, 12), (Some(0.5), 12, 3), (Some(0.25), 12, 0)]);
    }

    #[test]
    fn a_share_of_one_seed_has_wilson_s_interval_and_of_several_student_s() {
        let point = |value: f64| Point {
            phase: "warm-up".into(),
            at: (0, 0),
            value: Some(value),
            count: 10,
            undetermined: 2,
            over_hazards: None,
        };
        // R: binom::binom.wilson(1, 10) is 0.01787 to 0.40415.
        let one = interval(&[&point(0.1)], true).unwrap();
        assert!((one.low.unwrap() - 0.01787).abs() < 1e-4 && (one.high.unwrap() - 0.40415).abs() < 1e-4);
        assert!(interval(&[&point(0.1)], false).unwrap().low.is_none());
        let several = interval(&[&point(0.1), &point(0.3)], true).unwrap();
        assert!((several.value.unwrap() - 0.2).abs() < 1e-12 && several.low == Some(0.0), "Student's");
        assert_eq!((several.count, several.undetermined), (20, 4));
        let same = interval(&[&point(0.3), &point(0.3)], true).unwrap();
        assert_eq!((same.value, same.low, same.high), (Some(0.3), None, None), "no interval without width");
        let over_hazards = Some(statistics::Interval { low: 0.01, high: 0.5 });
        let known = interval(&[&Point { over_hazards, ..point(0.1) }], true).unwrap();
        assert_eq!((known.low, known.high), (Some(0.01), Some(0.5)));
        let unknown = Point { value: None, count: 0, undetermined: 12, ..point(0.0) };
        let none = interval(&[&unknown], true).unwrap();
        assert_eq!((none.value, none.low, none.count, none.undetermined), (None, None, 0, 12));
        assert!(interval(&[], true).is_none());
    }
}
