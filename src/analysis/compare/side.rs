//! A run as one side of a comparison: its variants, their evaluations, and the measured values.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use anyhow::Context;

use super::columns::Columns;
use crate::halted::PHASE as HALTED;
use crate::headings::COLUMNS;
use crate::series::{Measure, phase};
use crate::unchanged::unchanged;
use data::{self, MetricRow, Position, RunMetricRow};
use engine::{NodeReport, Purpose, nearest};
use game::UNDETERMINED;
use runs::{Run, RunRecord, Tables, repeated, stage, variant};

/// Whether the metrics of nodes with a purpose are those of an evaluation, possibly a user's own. Training and judging report
/// their steps, and cross-play has an evaluation for each pair.
fn evaluates(purpose: Purpose) -> bool {
    !matches!(purpose, Purpose::Training | Purpose::Judging | Purpose::CrossPlay)
}

/// Whether a node's metrics are results of a program of the user's: it reports none of what evaluations do.
fn is_own(report: &NodeReport, rows: &[RunMetricRow]) -> bool {
    let of_evaluations = |row: &RunMetricRow| {
        let MetricRow { subject, metric, .. } = &row.metric;
        COLUMNS.iter().any(|(_, known, name)| subject == known && metric == name)
    };
    report.kind == "exec"
        && report.outputs.iter().all(|output| output.artifact != "outcomes")
        && !rows.iter().any(of_evaluations)
}

/// The phase of results of programs of the user's.
pub(super) const RESULT: &str = "result";

/// A run, or the part of it that RUN@ABLATION selects.
pub struct Side {
    /// The run's name, with `@` and the ablation if one was selected.
    pub title: String,
    /// The selected part, with nodes named without the ablation.
    pub part: Run,
    /// The whole run, with full names of nodes.
    pub run: Run,
    /// Whether all nodes of the run ended well.
    pub finished: bool,
    /// A message if it has several ablations, and so no metrics of its own.
    pub several: Option<String>,
    /// One for each seed, in order.
    pub variants: Vec<Variant>,
    /// The Parquet file with the outcome of each attempt.
    pub outcomes: PathBuf,
    /// The Parquet file with all rewards.
    pub rewards: PathBuf,
    /// The phases of training that changed no weights, a line for each.
    pub unchanged: Vec<String>,
    /// Whether datasets were gone from the cache when the tables were made.
    pub incomplete: bool,
}

/// A pipeline with one seed.
pub struct Variant {
    /// As in the names of nodes.
    pub name: String,
    pub seed: Option<u64>,
    /// In the order of the graph.
    pub evaluations: Vec<Evaluation>,
}

/// A node that measured something.
#[derive(Clone)]
pub struct Evaluation {
    /// Its name without the variant.
    pub node: String,
    pub report: NodeReport,
    /// The phase before it, such as `2 red`.
    pub phase: String,
    /// Whether it holds the results of programs of the user's: then `node` and `report` are those of the first.
    pub is_own: bool,
    /// Its measures in the order of its rows.
    pub measures: Vec<Measure>,
    values: HashMap<Measure, f64>,
}

impl Evaluation {
    fn new(node: String, report: NodeReport, phase: String) -> Evaluation {
        Evaluation { node, report, phase, is_own: false, measures: Vec::new(), values: HashMap::new() }
    }

    /// Adds a value, or replaces that of an earlier row.
    fn set(&mut self, measure: Measure, value: f64) {
        if self.values.insert(measure.clone(), value).is_none() {
            self.measures.push(measure);
        }
    }

    /// The value of a measure. An undetermined share that is not reported is 0.
    pub fn value(&self, measure: &Measure) -> Option<f64> {
        let of = |measure: &Measure| self.values.get(measure).copied();
        let whole = measure.metric.strip_suffix(UNDETERMINED);
        let whole = whole.map(|metric| Measure { metric: metric.to_owned(), ..measure.clone() });
        of(measure).or_else(|| of(&whole?).map(|_| 0.0))
    }
}

impl Side {
    /// The side named by `RUN` or `RUN@ABLATION`.
    pub fn find(text: &str) -> anyhow::Result<Side> {
        let part = Run::find(text)?;
        let title = part.title();
        let run = Run::read(&part.folder)?;
        let mut names: BTreeMap<(Option<u64>, String), Variant> = BTreeMap::new();
        let mut ablations: Vec<String> = Vec::new();
        for (full, params) in &run.record.params {
            let named = format!("{full}/");
            let (ablation, seed, _) = variant(&named);
            let wanted = match &part.ablation {
                Some(wanted) => {
                    full == wanted
                        || (seed.is_some() && ablation == wanted && !run.record.params.contains_key(wanted))
                }
                None => true,
            };
            if wanted {
                // If the pipeline has one seed, it is among the parameters.
                let seed = seed.or_else(|| params["seed"].as_u64());
                let variant = Variant { name: full.clone(), seed, evaluations: Vec::new() };
                names.insert((seed, full.clone()), variant);
                if !ablations.iter().any(|known| known == ablation) {
                    ablations.push(ablation.to_owned());
                }
            }
        }
        let variants: Vec<Variant> = names.into_values().collect();
        let several = (ablations.len() > 1).then(|| {
            format!(
                "run {title} has several ablations ({}): name one to compare metrics, such as {}@{}",
                ablations.join(", "),
                run.record.run,
                ablations.iter().find(|name| !name.is_empty()).map_or("NAME", String::as_str)
            )
        });
        let tables = Tables::of(&run.folder)?;
        let finished = run.record.status == "done";
        let (outcomes, rewards) = (tables.path("outcomes"), tables.path("rewards"));
        let (incomplete, unchanged) = (tables.missing > 0, Vec::new());
        let mut side =
            Side { title, part, run, finished, several, variants, outcomes, rewards, unchanged, incomplete };
        side.read_metrics(&tables)?;
        Ok(side)
    }

    fn read_metrics(&mut self, tables: &Tables) -> anyhow::Result<()> {
        // A run gathers metrics when it ends, so evaluations are kept even if the cache has deleted them since. A killed run has
        // none, or only a part.
        let has_ended = matches!(self.run.record.status.as_str(), "done" | "failed");
        let gathered = if has_ended { self.run.recorded("metrics.parquet")? } else { None };
        let gathered = match gathered {
            Some(gathered) => data::read::<RunMetricRow>(&gathered)
                .with_context(|| format!("metrics of run {}", self.run.record.run))?,
            None => Vec::new(),
        };
        self.unchanged = self.unchanged_phases(&gathered);
        let rows = joined(gathered, metrics(&tables.path("metrics"), &self.run.record)?);
        let reports: BTreeMap<&str, &NodeReport> =
            self.run.nodes.iter().map(|node| (node.node.as_str(), node)).collect();
        let record = &self.run.record;
        let mut own = OwnResults::default();
        for rows in rows.chunk_by(|a, b| a.node == b.node) {
            let Some(report) =
                reports.get(rows[0].node.as_str()).filter(|report| evaluates(record.purpose(&report.kind)))
            else {
                continue;
            };
            let (.., node) = variant(&report.node);
            let name = report.node.strip_suffix(node).unwrap_or_default().trim_end_matches('/');
            let Some(variant) = self.variants.iter_mut().find(|variant| variant.name == name) else {
                continue;
            };
            if is_own(report, rows) {
                own.add(name, report, rows);
                continue;
            }
            let rows: Vec<&MetricRow> =
                rows.iter().map(|row| &row.metric).filter(|row| row.phase != HALTED).collect();
            let Some(first) = rows.first() else { continue };
            let mut evaluation = Evaluation::new(node.to_owned(), (*report).clone(), phase(first));
            for row in rows.iter().filter(|row| is_whole(row)) {
                // If a node reports a measure in several phases, its first counts.
                if !evaluation.values.contains_key(&measure(row)) {
                    evaluation.set(measure(row), row.value);
                }
            }
            variant.evaluations.push(evaluation);
        }
        for variant in &mut self.variants {
            variant.evaluations.sort_by_key(|evaluation| evaluation.report.index);
        }
        own.put_into(&mut self.variants);
        Ok(())
    }

    /// The phases of this side that changed no weights, named without its variant if it has a single one.
    fn unchanged_phases(&self, rows: &[RunMetricRow]) -> Vec<String> {
        let is_single = self.variants.len() == 1;
        let own = |row: &RunMetricRow| {
            let (.., node) = variant(&row.node);
            let name = row.node.strip_suffix(node).unwrap_or_default().trim_end_matches('/');
            let is_own = self.variants.iter().any(|variant| variant.name == name);
            let node = if is_single { node } else { &row.node };
            is_own.then(|| RunMetricRow { node: node.to_owned(), metric: row.metric.clone() })
        };
        unchanged(&rows.iter().filter_map(own).collect::<Vec<_>>())
    }

    /// The phases evaluated in any variant, in the order of the variant with the most.
    pub fn phases(&self) -> Vec<&str> {
        let mut variants: Vec<&Variant> = self.variants.iter().collect();
        variants.sort_by_key(|variant| std::cmp::Reverse(variant.evaluations.len()));
        let mut phases: Vec<&str> = Vec::new();
        for evaluation in variants.into_iter().flat_map(|variant| &variant.evaluations) {
            if !phases.contains(&evaluation.phase.as_str()) {
                phases.push(&evaluation.phase);
            }
        }
        phases
    }

    /// The last evaluation of each variant after a phase (or of a node of this name).
    pub fn at(&self, wanted: &str) -> Vec<(&Variant, &Evaluation)> {
        let of = |variant: &'_ Variant| {
            variant
                .evaluations
                .iter()
                .rposition(|evaluation| evaluation.phase == wanted || evaluation.node == wanted)
        };
        self.variants
            .iter()
            .filter_map(|variant| Some((variant, &variant.evaluations[of(variant)?])))
            .collect()
    }

    /// The error if nothing was evaluated after a phase.
    pub fn unknown(&self, wanted: &str) -> anyhow::Error {
        let phases = self.phases();
        let known = match (nearest(wanted, &phases), &phases[..]) {
            (_, []) => "nothing was evaluated".to_owned(),
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, phases) => format!("it has {}", phases.join(", ")),
        };
        anyhow::anyhow!("run {} has no evaluation after `{wanted}`; {known}", self.title)
    }
}

/// The last values of programs of the user's.
#[derive(Default)]
struct OwnResults(Vec<OwnResult>);

/// Those of a variant, and of a seed of its matrices.
struct OwnResult {
    variant: String,
    seed: Option<u64>,
    evaluation: Evaluation,
}

impl OwnResults {
    fn add(&mut self, variant: &str, report: &NodeReport, rows: &[RunMetricRow]) {
        let name = repeated(report);
        let label = stage(&name).1.map(|label| format!("[{label}]")).unwrap_or_default();
        let seed = report.seed.filter(|_| *name != *report.node);
        let known = |own: &OwnResult| own.variant == variant && own.seed == seed;
        let place = self.0.iter().position(known).unwrap_or_else(|| {
            let node = runs::variant(&report.node).2.to_owned();
            let evaluation =
                Evaluation { is_own: true, ..Evaluation::new(node, report.clone(), RESULT.to_owned()) };
            self.0.push(OwnResult { variant: variant.to_owned(), seed, evaluation });
            self.0.len() - 1
        });
        // The steps of a curve and the rounds of a loop are in order.
        for MetricRow { subject, metric, value, .. } in rows.iter().map(|row| &row.metric) {
            let measure = Measure { subject: format!("{subject}{label}"), metric: metric.clone() };
            self.0[place].evaluation.set(measure, *value);
        }
    }

    /// Adds them before the evaluations, if there are some. Each seed of a matrix is a variant of its own.
    fn put_into(self, variants: &mut Vec<Variant>) {
        let has_seeds = self.0.iter().any(|own| own.seed.is_some());
        for OwnResult { variant: name, seed, evaluation } in self.0 {
            let of_variant = variants.iter_mut().find(|variant| variant.name == name);
            match (of_variant, seed) {
                (Some(variant), None) => variant.evaluations.insert(0, evaluation),
                (None, None) => {}
                (_, Some(_)) => variants.push(Variant { name, seed, evaluations: vec![evaluation] }),
            }
        }
        if has_seeds {
            // What is not repeated has no seed beside what is.
            let (repeated, mut once): (Vec<Variant>, Vec<Variant>) =
                std::mem::take(variants).into_iter().partition(|variant| {
                    variant.seed.is_some()
                        && matches!(&variant.evaluations[..], [only] if only.is_own && only.report.seed.is_some())
                });
            once.retain(|variant| !variant.evaluations.is_empty());
            once.iter_mut().for_each(|variant| variant.seed = None);
            variants.extend(once.into_iter().chain(repeated));
        }
    }
}

/// The gathered metrics, and those in the tables for nodes that are not among them.
fn joined(mut gathered: Vec<RunMetricRow>, tables: Vec<RunMetricRow>) -> Vec<RunMetricRow> {
    let known: HashSet<String> = gathered.iter().map(|row| row.node.clone()).collect();
    gathered.extend(tables.into_iter().filter(|row| !known.contains(&row.node)));
    gathered
}

/// Whether a metric covers its whole subject. Those of single categories, techniques and classes are too many for a comparison.
fn is_whole(row: &MetricRow) -> bool {
    !row.subject.contains('/') && !row.metric.contains(':')
}

fn measure(row: &MetricRow) -> Measure {
    Measure { subject: row.subject.clone(), metric: row.metric.clone() }
}

/// The metrics of evaluations in a run's table of metrics, with full names of nodes.
fn metrics(path: &std::path::Path, record: &RunRecord) -> anyhow::Result<Vec<RunMetricRow>> {
    let table = data::open(path)?;
    let mut rows = Vec::new();
    for batch in &table.batches {
        let columns = Columns(batch);
        let (variant, node, kind) = (columns.text("variant")?, columns.text("node")?, columns.text("kind")?);
        let (phase, subject, metric) =
            (columns.text("phase")?, columns.text("subject")?, columns.text("metric")?);
        let (value, count) = (columns.number("value")?, columns.long("count")?);
        let (iteration, step) = (columns.whole("iteration")?, columns.whole("step")?);
        for row in (0..batch.num_rows()).filter(|row| evaluates(record.purpose(kind.value(*row)))) {
            let node = match variant.value(row) {
                "" => node.value(row).to_owned(),
                variant => format!("{variant}/{}", node.value(row)),
            };
            let at =
                Position { iteration: iteration.value(row), step: step.value(row), rng_seed: String::new() };
            let metric = MetricRow {
                phase: phase.value(row).to_owned(),
                subject: subject.value(row).to_owned(),
                metric: metric.value(row).to_owned(),
                value: value.value(row),
                count: count.value(row),
                at,
            };
            rows.push(RunMetricRow { node, metric });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_gathered_comes_before_what_the_cache_still_has() {
        let row = |node: &str, value: f64| {
            let at = Position { iteration: 0, step: 0, rng_seed: String::new() };
            let text = || "x".to_owned();
            let metric = MetricRow { phase: text(), subject: text(), metric: text(), value, count: 1, at };
            RunMetricRow { node: node.to_owned(), metric }
        };
        // The cache has lost `after`; the run was resumed before `more` was gathered.
        let rows = joined(
            vec![row("before", 1.0), row("before", 2.0), row("after", 3.0)],
            vec![row("before", 1.0), row("before", 2.0), row("more", 4.0)],
        );
        let told: Vec<(&str, f64)> = rows.iter().map(|row| (row.node.as_str(), row.metric.value)).collect();
        assert_eq!(told, [("before", 1.0), ("before", 2.0), ("after", 3.0), ("more", 4.0)]);
    }
}
