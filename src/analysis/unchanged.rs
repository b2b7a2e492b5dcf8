//! Training that did nothing: phases at whose end the model has the weights that it had at their beginning, and single steps that
//! learnt nothing from their rewards.

use std::collections::{BTreeMap, BTreeSet};

use super::halted::PHASE as HALTED;
use data::RunMetricRow;

/// The metric of an update with the share of groups whose advantages are all equal.
pub const FLAT_GROUPS: &str = "flat_groups";

/// The metric of an update with the norm of the change of its weights.
pub const UPDATE_NORM: &str = "update_norm";

/// The metric of an update with the norm of its gradient.
pub const GRAD_NORM: &str = "grad_norm";

/// The metric of an update that is 1 if it handed its model on as it was.
pub const PASSED_THROUGH: &str = "passed_through";

/// The metrics of an update by name.
type Step<'r> = BTreeMap<&'r str, f64>;

/// A phase whose steps changed no weights.
struct Unchanged<'r> {
    /// Its nodes, such as `play[1]/red[*]/update`.
    phase: String,
    steps: Vec<(&'r str, Step<'r>)>,
}

/// The updates of each phase; a phase that a guard halted has a line of its own, and is left out.
fn phases(rows: &[RunMetricRow]) -> Vec<Unchanged<'_>> {
    let mut phases: Vec<Unchanged> = Vec::new();
    let mut halted: BTreeSet<String> = BTreeSet::new();
    for rows in rows.chunk_by(|a, b| a.node == b.node) {
        let phase = with_any_round(&rows[0].node);
        if rows.iter().any(|row| row.metric.phase == HALTED) {
            halted.insert(phase.clone());
        }
        let step: Step = rows.iter().map(|row| (row.metric.metric.as_str(), row.metric.value)).collect();
        if !step.contains_key(PASSED_THROUGH) {
            continue;
        }
        let own = (rows[0].node.as_str(), step);
        match phases.iter_mut().find(|known| known.phase == phase) {
            Some(known) => known.steps.push(own),
            None => phases.push(Unchanged { phase, steps: vec![own] }),
        }
    }
    phases.retain(|phase| !halted.contains(&phase.phase));
    phases
}

impl Unchanged<'_> {
    /// Records of earlier versions do not say whether a step changed weights.
    fn is_unchanged(&self) -> bool {
        self.steps.iter().all(|(_, step)| step[PASSED_THROUGH] == 1.0 || step.get(UPDATE_NORM) == Some(&0.0))
    }

    fn cause(&self) -> &'static str {
        let all = |is: fn(&Step) -> bool| self.steps.iter().all(|(_, step)| is(step));
        if all(|step| step.get(FLAT_GROUPS) == Some(&1.0)) {
            "every advantage was 0, since all rewards of each group are equal or unknown"
        } else if all(|step| step[PASSED_THROUGH] == 1.0) {
            "there was no completion and no pair to learn from"
        } else if all(|step| step.get(GRAD_NORM).is_none_or(|norm| *norm == 0.0)) {
            "every gradient was 0"
        } else {
            "the gradient was not 0, but the learning rate is too small for the number type of the weights"
        }
    }
}

/// A line for each phase that ended with the weights that it began with, with the cause.
pub fn unchanged(rows: &[RunMetricRow]) -> Vec<String> {
    let phases = phases(rows).into_iter().filter(Unchanged::is_unchanged);
    phases
        .map(|own| {
            let steps = if own.steps.len() == 1 { "its step" } else { "all its steps" };
            format!("{} changed no weights in {steps} ({}): {}", own.phase, own.steps.len(), own.cause())
        })
        .collect()
}

/// A line for each stage with steps in which no group had anything to learn from, apart from [`unchanged`] phases.
pub fn flat(rows: &[RunMetricRow]) -> Vec<String> {
    let phases = phases(rows).into_iter().filter(Unchanged::is_unchanged);
    let told: BTreeSet<&str> = phases.flat_map(|phase| phase.steps).map(|(node, _)| node).collect();
    let mut stages: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.metric.metric == FLAT_GROUPS && !told.contains(row.node.as_str()))
    {
        let (flat, all) = stages.entry(with_any_rounds(&row.node)).or_default();
        *flat += usize::from(row.metric.value == 1.0);
        *all += 1;
    }
    let line = |(stage, (flat, all)): (String, (usize, usize))| {
        (flat > 0).then(|| {
            format!("{stage}: {flat} of {all} steps learnt nothing from rewards: every advantage was 0")
        })
    };
    stages.into_iter().filter_map(line).collect()
}

/// A node's name with `*` in the place of its innermost round.
fn with_any_round(node: &str) -> String {
    match node.rsplit_once("]/") {
        Some((around, name)) => format!("{}/{name}", any_round(&format!("{around}]"))),
        None => node.to_owned(),
    }
}

/// A node's name with `*` in the place of each round.
pub fn with_any_rounds(node: &str) -> String {
    let parts: Vec<&str> = node.split('/').collect();
    let last = parts.len() - 1;
    // A label of the node itself may be a number; the brackets of loops are before it.
    let part =
        |(place, part): (usize, &&str)| if place < last { any_round(part) } else { (*part).to_owned() };
    parts.iter().enumerate().map(part).collect::<Vec<_>>().join("/")
}

/// `play[1]/red[07]` as `play[1]/red[*]`.
fn any_round(scope: &str) -> String {
    match scope.strip_suffix(']').and_then(|scope| scope.rsplit_once('[')) {
        Some((name, round)) if round.bytes().all(|byte| byte.is_ascii_digit()) => format!("{name}[*]"),
        _ => scope.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::{MetricRow, Position};

    fn row(node: &str, metric: &str, value: f64) -> RunMetricRow {
        let at = Position { iteration: 1, step: 1, rng_seed: String::new() };
        let (phase, subject) = ("update".into(), "defender".into());
        let metric = MetricRow { phase, subject, metric: metric.into(), value, count: 4, at };
        RunMetricRow { node: node.into(), metric }
    }

    /// A step: shares of flat groups, norms of the gradient and of the change.
    fn step(node: &str, flat: f64, gradient: f64, change: f64) -> Vec<RunMetricRow> {
        vec![
            row(node, FLAT_GROUPS, flat),
            row(node, PASSED_THROUGH, 0.0),
            row(node, GRAD_NORM, gradient),
            row(node, UPDATE_NORM, change),
        ]
    }

    fn skipped(node: &str) -> Vec<RunMetricRow> {
        vec![row(node, PASSED_THROUGH, 1.0)]
    }

    #[test]
    fn steps_without_anything_to_learn_are_counted_by_their_stage() {
        let rows = [
            step("play[1]/red[07]/update", 1.0, 0.0, 0.0),
            step("play[1]/red[08]/update", 0.5, 0.2, 0.1),
            step("play[2]/red[07]/update", 1.0, 0.1, 0.1),
            step("play[1]/blue[1]/update", 0.0, 0.1, 0.1),
        ]
        .concat();
        let line = "play[*]/red[*]/update: 2 of 3 steps learnt nothing from rewards: every advantage was 0";
        assert_eq!(flat(&rows), [line]);
        assert_eq!(unchanged(&rows), [] as [&str; 0]);
    }

    #[test]
    fn a_phase_that_ends_as_it_began_is_named_once_with_its_cause() {
        let said = |steps: &[Vec<RunMetricRow>]| unchanged(&steps.concat());
        let of = |flat, gradient| {
            vec![
                step("full/red[1]/update", flat, gradient, 0.0),
                step("full/red[2]/update", flat, gradient, 0.0),
            ]
        };
        let all = "full/red[*]/update changed no weights in all its steps (2): ";
        let equal = "every advantage was 0, since all rewards of each group are equal or unknown";
        assert_eq!(said(&of(1.0, 0.0)), [format!("{all}{equal}")]);
        assert_eq!(flat(&of(1.0, 0.0).concat()), [] as [&str; 0], "that line says it all");
        assert_eq!(said(&of(0.5, 0.0)), [format!("{all}every gradient was 0")]);
        let rate =
            "the gradient was not 0, but the learning rate is too small for the number type of the weights";
        assert_eq!(said(&of(0.5, 0.1)), [format!("{all}{rate}")]);
        let nothing = "there was no completion and no pair to learn from";
        assert_eq!(
            said(&[skipped("update")]),
            [format!("update changed no weights in its step (1): {nothing}")]
        );
        // One step that did something, a halted phase, and a record that does not say so.
        assert_eq!(said(&[skipped("r[1]/u"), step("r[2]/u", 0.0, 0.1, 0.1)]), [] as [&str; 0]);
        let mut halted = row("r[1]/u", "kl", 0.7);
        halted.metric.phase = HALTED.into();
        assert_eq!(said(&[skipped("r[1]/u"), vec![halted]]), [] as [&str; 0]);
        assert_eq!(said(&[vec![row("update", PASSED_THROUGH, 0.0)]]), [] as [&str; 0]);
    }

    #[test]
    fn rounds_are_those_of_loops_and_labels_stay() {
        assert_eq!(with_any_rounds("play[1]/red[07]/update[3]"), "play[*]/red[*]/update[3]");
        assert_eq!(with_any_round("play[1]/red[07]/update[3]"), "play[1]/red[*]/update[3]");
        assert_eq!(with_any_round("update[b]"), "update[b]");
    }
}
