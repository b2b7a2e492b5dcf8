//! Curves over the steps of training, and over the evaluated phases.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::book::{MetricIndex, MetricOrigin, MetricSeries, Point, interval};
use super::model::{Curve, Interval, Panel};

/// The most places on an axis; more are thinned out, since no screen shows them and the file would grow.
const MOST_TICKS: usize = 1_200;

/// A chart: section, role, title, unit, and curves, each with a name, a subject and a metric.
struct Plan<'t> {
    section: &'static str,
    role: &'static str,
    title: &'t str,
    unit: &'static str,
    of: MetricOrigin,
    curves: Vec<(String, String, String)>,
}

/// A chart of training, for each role: title, unit, and metrics with their labels.
type Trained = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const TRAINING: [Trained; 8] = [
    ("Reward", "number", &[("reward", "reward")]),
    (
        "Margin of preferred completions",
        "nats",
        &[("margin", "margin"), ("chosen", "chosen_reward"), ("rejected", "rejected_reward")],
    ),
    (
        "Accuracy on preference pairs",
        "share",
        &[("agreement with the judge", "accuracy"), ("the judge's ties", "ties")],
    ),
    ("Divergence from the reference (KL)", "nats", &[("KL", "kl")]),
    ("Entropy", "nats", &[("entropy", "entropy")]),
    ("Length of completions", "tokens", &[("tokens", "completion_tokens")]),
    ("Loss", "number", &[("loss", "loss")]),
    ("Norm of the gradient", "number", &[("gradient", "grad_norm")]),
];

/// A chart of evaluations: section, role, title, unit, and curves.
type Evaluated = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str, &'static str)],
);

const EVALUATION: [Evaluated; 9] = [
    (
        "evaluation",
        "defender",
        "Benchmark attacks that succeed, and refusals of benign prompts",
        "share",
        &[
            ("benchmark success", "defender", "benchmark_success"),
            ("over-refusal", "defender", "over_refusal"),
        ],
    ),
    (
        "evaluation",
        "defender",
        "Accuracy of the defender on other tasks",
        "share",
        &[("benign tasks", "defender", "benign_accuracy"), ("arithmetic", "defender", "arithmetic_accuracy")],
    ),
    (
        "evaluation",
        "defender",
        "Responses of the defender to attacks",
        "share",
        &[("plain refusal", "defender", "rejective"), ("safe and helpful", "defender", "positive")],
    ),
    (
        "evaluation",
        "evaluator",
        "Correct verdicts",
        "share",
        &[
            ("fresh pairs", "evaluator", "accuracy_fresh"),
            ("held-out pairs", "evaluator", "accuracy_heldout"),
            ("by the experts", "evaluator", "accuracy_experts"),
        ],
    ),
    (
        "evaluation",
        "attacker",
        "Attacks that keep their meaning",
        "share",
        &[("meaning kept", "attacker", "meaning_kept")],
    ),
    (
        "evaluation",
        "attacker",
        "Negative log-likelihood of held-out attacks",
        "nats",
        &[("NLL", "attacker", "nll")],
    ),
    (
        "diversity",
        "attacker",
        "Diversity of attacks",
        "number",
        &[
            ("1 − Self-BLEU", "attacks", "diversity"),
            ("successful ones", "successful_attacks", "diversity"),
            ("by embeddings", "attacks", "embedding_diversity"),
        ],
    ),
    (
        "diversity",
        "attacker",
        "Share of distinct n-grams",
        "number",
        &[
            ("1 word", "attacks", "distinct_1"),
            ("2 words", "attacks", "distinct_2"),
            ("4 words", "attacks", "distinct_4"),
        ],
    ),
    (
        "diversity",
        "attacker",
        "Share of covered cells of category and technique",
        "number",
        &[("cells", "attacks", "cell_coverage")],
    ),
];

/// All charts that have data.
pub(crate) fn panels(book: &MetricIndex) -> Vec<Panel> {
    let mut plans = Vec::new();
    for role in ["attacker", "defender", "evaluator"] {
        let title = "Mean score of each term of the reward";
        let curves = terms(book, role);
        let terms =
            Plan { section: "training", role, title, unit: "number", of: MetricOrigin::Training, curves };
        for (title, unit, metrics) in TRAINING {
            let curve = |(name, metric): &(&str, &str)| ((*name).into(), role.to_owned(), (*metric).into());
            let curves = metrics.iter().map(curve).collect();
            plans.push(Plan { section: "training", role, title, unit, of: MetricOrigin::Training, curves });
        }
        // In addition to the reward itself, which a single term equals.
        if terms.curves.len() > 1 {
            plans.insert(plans.len() + 1 - TRAINING.len(), terms);
        }
    }
    plans.push(Plan {
        section: "evaluation",
        role: "defender",
        title: "Attacks that succeed, by defender",
        unit: "share",
        of: MetricOrigin::Evaluation,
        curves: defenders(book).map(|name| (name.into(), name.into(), "attack_success".into())).collect(),
    });
    for (section, role, title, unit, curves) in EVALUATION {
        let curve = |(name, subject, metric): &(&str, &str, &str)| {
            ((*name).into(), (*subject).into(), (*metric).into())
        };
        let curves = curves.iter().map(curve).collect();
        plans.push(Plan { section, role, title, unit, of: MetricOrigin::Evaluation, curves });
    }
    let mut panels: Vec<Panel> = plans.iter().filter_map(|plan| panel(book, plan)).collect();
    let is_drawn = |subject: &str, metric: &str| {
        let mut curves = plans.iter().flat_map(|plan| &plan.curves);
        curves.any(|(_, own, name)| own == subject && name == metric)
    };
    panels.extend(book.own(is_drawn).into_iter().filter_map(|(subject, metric)| {
        let title = format!("{subject}.{metric}");
        let curves = vec![(metric.to_owned(), subject.to_owned(), metric.to_owned())];
        let unit = book.unit(subject, metric);
        let plan = Plan {
            section: "metrics of your own",
            role: "",
            title: &title,
            unit,
            of: MetricOrigin::Own,
            curves,
        };
        // A single value is no curve.
        panel(book, &plan).filter(|panel| panel.ticks.len() > 1)
    }));
    panels
}

/// The curves of the terms of a role's reward, as its metrics name them.
fn terms(book: &MetricIndex, role: &str) -> Vec<(String, String, String)> {
    let own = book.names.iter().filter(|(subject, _)| *subject == role);
    let term = |metric: &str| Some(metric.strip_suffix(analysis::SCORE)?.replace('_', " "));
    own.filter_map(|(_, metric)| Some((term(metric)?, role.to_owned(), (*metric).to_owned()))).collect()
}

/// The attacked models, the defender first.
fn defenders<'a>(book: &'a MetricIndex) -> impl Iterator<Item = &'a str> {
    let attacked = book.names.iter().filter(|(subject, metric)| {
        *metric == "attack_success" && !subject.contains('/') && *subject != "attacker"
    });
    attacked.map(|(subject, _)| *subject)
}

fn panel(book: &MetricIndex, plan: &Plan) -> Option<Panel> {
    let mut trails: Vec<(String, MetricSeries)> = Vec::new();
    for (name, subject, metric) in &plan.curves {
        for (place, column) in book.columns.iter().enumerate() {
            let name = match (book.columns.len(), plan.curves.len()) {
                (1, _) => name.clone(),
                (_, 1) => column.name.clone(),
                _ => format!("{}: {name}", column.name),
            };
            let trail = book.trail(place, subject, metric, plan.of);
            if !trail.is_empty() {
                trails.push((name, trail));
            }
        }
    }
    let ticks = ticks(&trails, plan.of);
    let every = ticks.len().div_ceil(MOST_TICKS).max(1);
    let ticks: Vec<&String> = ticks.iter().step_by(every).collect();
    let places: HashMap<&str, usize> =
        ticks.iter().enumerate().map(|(place, phase)| (phase.as_str(), place)).collect();
    let series: Vec<Curve> = trails
        .iter()
        .map(|(name, trail)| Curve { name: name.clone(), points: points(trail, &places, plan.unit) })
        .collect();
    let x_label = match (plan.of, every) {
        (MetricOrigin::Training, 1) => "iteration and step of training".to_owned(),
        (MetricOrigin::Training, _) => format!("iteration and step of training, one of {every} shown"),
        (MetricOrigin::Own, _) if ticks.iter().all(|phase| phase.starts_with("step ")) => "step".to_owned(),
        (MetricOrigin::Evaluation | MetricOrigin::Own, _) => "after phase".to_owned(),
    };
    (!series.is_empty()).then(|| Panel {
        section: plan.section.into(),
        role: plan.role.into(),
        title: plan.title.into(),
        unit: plan.unit.into(),
        x_label,
        ticks: ticks.into_iter().cloned().collect(),
        series,
    })
}

/// The places on the axis: steps by their number, phases in the order of the curve with the most.
fn ticks(trails: &[(String, MetricSeries)], of: MetricOrigin) -> Vec<String> {
    let mut curves: Vec<&Vec<Point>> = trails.iter().flat_map(|(_, trail)| trail.values()).collect();
    if of == MetricOrigin::Training {
        let steps: BTreeSet<((u32, u32), &String)> =
            curves.iter().copied().flatten().map(|point| (point.at, &point.phase)).collect();
        return steps.into_iter().map(|(_, phase)| phase.clone()).collect();
    }
    curves.sort_by_key(|points| std::cmp::Reverse(points.len()));
    let mut ticks: Vec<String> = Vec::new();
    for point in curves.into_iter().flatten() {
        if !ticks.contains(&point.phase) {
            ticks.push(point.phase.clone());
        }
    }
    ticks
}

/// The interval over seeds at each place.
fn points(trail: &MetricSeries, places: &HashMap<&str, usize>, unit: &str) -> Vec<(usize, Interval)> {
    let mut at: BTreeMap<usize, Vec<&Point>> = BTreeMap::new();
    for points in trail.values() {
        let mut seen = BTreeSet::new();
        for point in points {
            // A step may have several updates; the first of each seed counts.
            if let Some(place) = places.get(point.phase.as_str())
                && seen.insert(*place)
            {
                at.entry(*place).or_default().push(point);
            }
        }
    }
    let found = at.into_iter().filter_map(|(place, own)| Some((place, interval(&own, unit == "share")?)));
    // A curve continues at the next known value.
    found.filter(|(_, interval)| interval.value.is_some()).collect()
}
