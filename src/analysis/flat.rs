//! Steps of reinforcement learning that learnt nothing from their rewards: a line for each stage with such steps.

use std::collections::BTreeMap;

use data::RunMetricRow;

/// The metric of an update with the share of groups whose advantages are all equal.
pub const FLAT_GROUPS: &str = "flat_groups";

/// A line for each stage with steps in which no group had anything to learn from.
pub fn flat(rows: &[RunMetricRow]) -> Vec<String> {
    let mut stages: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.metric.metric == FLAT_GROUPS) {
        let (flat, all) = stages.entry(all_rounds(&row.node)).or_default();
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

/// A node's name with `*` in the place of each round.
fn all_rounds(node: &str) -> String {
    let step = |step: &str| match step.strip_suffix(']').and_then(|step| step.rsplit_once('[')) {
        Some((name, round)) if round.bytes().all(|c| c.is_ascii_digit()) => format!("{name}[*]"),
        _ => step.to_owned(),
    };
    node.split('/').map(step).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::{MetricRow, Position};

    fn row(node: &str, value: f64) -> RunMetricRow {
        let at = Position { iteration: 1, step: 1, rng_seed: String::new() };
        let (phase, metric, subject) = ("update".into(), FLAT_GROUPS.into(), "defender".into());
        RunMetricRow { node: node.into(), metric: MetricRow { phase, subject, metric, value, count: 4, at } }
    }

    #[test]
    fn steps_without_anything_to_learn_are_counted_by_their_stage() {
        let rows = [
            row("play[1]/red[07]/update", 1.0),
            row("play[1]/red[08]/update", 0.5),
            row("play[2]/red[07]/update", 1.0),
            row("play[1]/blue[1]/update", 0.0),
        ];
        let line = "play[*]/red[*]/update: 2 of 3 steps learnt nothing from rewards: every advantage was 0";
        assert_eq!(flat(&rows), [line]);
        assert_eq!(
            flat(&[row("update[b]", 1.0)]),
            ["update[b]: 1 of 1 steps learnt nothing from rewards: every advantage was 0"]
        );
    }
}
