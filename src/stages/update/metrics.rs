//! The metrics of an update: of the completions that it learns from, of its step, and of the guards that stopped it.

use std::collections::BTreeMap;

use super::guards::{SERVED_GAP, Tripped};
use super::lesson::ServedGap;
use crate::trial::MARKS_IN_TEXT;
use data::{MetricRow, Position, RewardRow};
use game::{has_no_text, undetermined};
use grpo::StepReport;
use model::ControlTokens;

/// 1 or 0 for a row, so that the mean over rows is a share.
pub(crate) fn share(is: bool) -> f64 {
    f64::from(u8::from(is))
}

pub(crate) fn metric(
    phase: &str,
    subject: &str,
    metric: &str,
    value: f64,
    count: usize,
    at: &Position,
) -> MetricRow {
    MetricRow {
        phase: phase.into(),
        subject: subject.into(),
        metric: metric.into(),
        value,
        count: count as u64,
        at: at.clone(),
    }
}

/// The role that wrote the completions.
pub(crate) fn role(rows: &[RewardRow]) -> &str {
    rows.first().map_or("nobody", |row| &row.sample.role)
}

/// Whether the phase halts here; for each guard that tripped, the measured value and its limit; and the number of `batches` in a
/// row.
pub(crate) fn halted_metrics(
    role: &str,
    count: usize,
    tripped: &[Tripped],
    batches: usize,
    at: &Position,
) -> Vec<MetricRow> {
    let add = |phase: &str, name: &str, value| metric(phase, role, name, value, count, at);
    let mut metrics = vec![add("update", "halted", share(!tripped.is_empty()))];
    for Tripped { guard, value, limit } in tripped {
        metrics.push(add(analysis::PHASE, guard, *value));
        metrics.push(add(analysis::PHASE, &format!("{guard}{}", analysis::LIMIT), *limit));
    }
    if batches > 1 && !tripped.is_empty() {
        metrics.push(add(analysis::PHASE, analysis::IN_A_ROW, batches as f64));
    }
    metrics
}

/// Metrics of the completions and their rewards.
pub(crate) fn metrics(rows: &[RewardRow], marks: &ControlTokens, at: &Position) -> Vec<MetricRow> {
    let mut metrics = Vec::new();
    let mut add = |name: &str, value: f64, count: usize| {
        metrics.push(metric("update", role(rows), name, value, count, at));
    };
    let mut mean = |name: &str, values: Vec<Option<f64>>| {
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        if !known.is_empty() {
            add(name, known.iter().sum::<f64>() / known.len() as f64, known.len());
        }
        if known.len() < values.len() {
            add(&undetermined(name), (values.len() - known.len()) as f64 / values.len() as f64, values.len());
        }
    };
    mean("reward", rows.iter().map(|row| row.reward).collect());
    // A completion that no model was asked for has no length and no text.
    let asked = || rows.iter().filter(|row| row.sample.was_asked());
    let all = |of: fn(&RewardRow) -> f64| asked().map(|row| Some(of(row))).collect();
    mean("completion_tokens", all(|row| row.sample.completion_ids.len() as f64));
    mean("finished", all(|row| share(row.sample.finished)));
    mean("empty", all(|row| share(has_no_text(&row.text))));
    mean(MARKS_IN_TEXT, rows.iter().map(|row| Some(share(marks.occur_in(&row.text)))).collect());
    // Each term of the reward, by its name in the data.
    let names: Vec<&str> = rows
        .first()
        .map_or(Vec::new(), |row| row.components.iter().map(|component| component.name.as_str()).collect());
    for name in names {
        let of = |row: &RewardRow| row.component(name).and_then(|component| component.score);
        mean(&format!("{name}{}", analysis::SCORE), rows.iter().map(of).collect());
    }
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry(row.group).or_default().extend(row.advantage));
    if !groups.is_empty() {
        // Advantages are all 0, up to rounding, if the rewards are the same, and missing if the rewards are not known.
        let is_flat = |group: &&Vec<f64>| group.iter().all(|advantage| *advantage == group[0]);
        let flat = groups.values().filter(is_flat).count();
        add(analysis::FLAT_GROUPS, flat as f64 / groups.len() as f64, groups.len());
    }
    add("undetermined_verdicts", rows.iter().map(|row| f64::from(row.undetermined)).sum(), rows.len());
    metrics
}

/// Metrics of the distance between the server that sampled and the trainer.
pub(crate) fn gap_metrics(role: &str, gap: &ServedGap, at: &Position) -> Vec<MetricRow> {
    let of = [(SERVED_GAP, gap.mean), ("served_gap_max", gap.max)];
    of.into_iter().map(|(name, value)| metric("update", role, name, value, gap.tokens, at)).collect()
}

/// Metrics of the step.
pub(crate) fn step_metrics(
    rows: &[RewardRow],
    report: &StepReport,
    with_reference: bool,
    at: &Position,
) -> Vec<MetricRow> {
    let add = |name: &str, value, count| metric("update", role(rows), name, value, count, at);
    let of_tokens = [
        Some(("loss", report.loss)),
        with_reference.then_some(("kl", report.kl)),
        Some(("entropy", report.entropy)),
        Some(("clipped", report.clipped)),
        Some((analysis::GRAD_NORM, report.grad_norm)),
    ];
    let of_tokens = of_tokens.into_iter().flatten().map(|(name, value)| add(name, value, report.tokens));
    std::iter::once(add(analysis::PASSED_THROUGH, 0.0, rows.len())).chain(of_tokens).collect()
}
