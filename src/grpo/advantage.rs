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
}
