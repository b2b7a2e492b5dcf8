//! Advantages: rewards relative to their group.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What centred rewards are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of the batch.
    Batch,
    /// Nothing (Dr. GRPO).
    None,
}

/// Keeps the division finite where all rewards are equal.
const EPSILON: f64 = 1e-4;

/// (reward − mean of its group) / (standard deviation + 1e-4), the deviation with n − 1 as in TRL. `groups`
/// names each reward's group.
pub fn advantages(rewards: &[f64], groups: &[u32], scale: ScaleRewards) -> Vec<f64> {
    let mut members: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (reward, group) in rewards.iter().zip(groups) {
        members.entry(*group).or_default().push(*reward);
    }
    let statistics: BTreeMap<u32, (f64, f64)> =
        members.iter().map(|(group, rewards)| (*group, (mean(rewards), deviation(rewards)))).collect();
    let batch = deviation(rewards);
    rewards
        .iter()
        .zip(groups)
        .map(|(reward, group)| {
            let (mean, deviation) = statistics[group];
            match scale {
                ScaleRewards::Group => (reward - mean) / (deviation + EPSILON),
                ScaleRewards::Batch => (reward - mean) / (batch + EPSILON),
                ScaleRewards::None => reward - mean,
            }
        })
        .collect()
}

/// The advantages of GDPO (Liu et al. 2026, arXiv 2601.05242): every component of the reward relative to its group,
/// A_k = (r_k − mean of its group) / (deviation + 1e-4), their weighted sum A = Σ w_k·A_k, and that relative to the
/// batch, (A − mean) / (deviation + 1e-4), as TRL's `normalize_then_sum`. So components of different scales count by their
/// weights alone, and rewards with the same sum but different components differ. A component that is constant within a group
/// adds nothing there.
pub fn decoupled_advantages(components: &[(f64, Vec<f64>)], groups: &[u32]) -> Vec<f64> {
    let mut sums = vec![0f64; groups.len()];
    for (weight, rewards) in components {
        let relative = advantages(rewards, groups, ScaleRewards::Group);
        sums.iter_mut().zip(relative).for_each(|(sum, advantage)| *sum += weight * advantage);
    }
    let (mean, deviation) = (mean(&sums), deviation(&sums));
    sums.iter().map(|sum| (sum - mean) / (deviation + EPSILON)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() < 2 { 0.0 } else { (squares / (values.len() - 1) as f64).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_variance_teaches_nothing() {
        let advantages = advantages(&[1.0, 1.0, 0.0, 1.0], &[0, 0, 1, 1], ScaleRewards::Group);
        assert_eq!(&advantages[..2], &[0.0, 0.0]);
        assert!((advantages[3] - 0.5 / (0.5f64.sqrt() + 1e-4)).abs() < 1e-12);
        assert_eq!(advantages[2], -advantages[3]);
    }

    fn close(found: &[f64], expected: &[f64]) {
        let far = |(a, b): (&f64, &f64)| (a - b).abs() > 1e-3;
        assert!(!found.iter().zip(expected).any(far), "{found:?} instead of {expected:?}");
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn decoupled_advantages_tell_apart_what_has_the_same_sum() {
        // The paper's example: two binary rewards. GRPO gives (0, 1) and (0, 2) the same advantages.
        let groups = [0, 0, 1, 1];
        let (first, second) = (vec![0.0, 1.0, 0.0, 1.0], vec![0.0, 0.0, 0.0, 1.0]);
        let sums: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a + b).collect();
        let grpo = advantages(&sums, &groups, ScaleRewards::Group);
        close(&grpo[..2], &grpo[2..]);
        // By hand: within groups ±1/√2 for each component that differs, so ±0.7071 and ±1.4142; the batch has
        // deviation √((2·0.5 + 2·2) / 3) = 1.2910.
        let gdpo = decoupled_advantages(&[(1.0, first.clone()), (1.0, second.clone())], &groups);
        close(&gdpo, &[-0.5477, 0.5477, -1.0954, 1.0954]);
        // Weights: 1 and 0.5 make ±0.7071 and ±1.0607, deviation √((1 + 2.25) / 3) = 1.0408.
        let weighted = decoupled_advantages(&[(1.0, first), (0.5, second)], &groups);
        close(&weighted, &[-0.6794, 0.6794, -1.0191, 1.0191]);
    }

    #[test]
    fn of_one_component_decoupled_advantages_are_those_of_grpo_over_their_deviation() {
        let (rewards, groups) = ([3.0, 1.0, 2.0, 5.0, 5.0, 8.0], [0, 0, 0, 1, 1, 1]);
        let grpo = advantages(&rewards, &groups, ScaleRewards::Group);
        let scaled: Vec<f64> = grpo.iter().map(|advantage| advantage / deviation(&grpo)).collect();
        close(&decoupled_advantages(&[(7.0, rewards.to_vec())], &groups), &scaled);
        assert_eq!(decoupled_advantages(&[(1.0, vec![2.0; 6])], &groups), [0.0; 6]);
        assert_eq!(decoupled_advantages(&[], &[]), [] as [f64; 0]);
    }
}
