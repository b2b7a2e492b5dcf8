//! How rewards become advantages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use data::RewardRow;
use grpo::{self, ScaleRewards};

/// How rewards become advantages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Advantage {
    /// What is made of the same size.
    normalize: Normalize,
}

/// What a reward, relative to the mean of its group, is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Normalize {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of the batch.
    Batch,
    /// Nothing (Dr. GRPO).
    None,
    /// Each term's score by the deviation of its group; then their sum by weight, by that of the batch (GDPO, arXiv
    /// 2601.05242). So weights count, and not how far a term's scores are apart.
    Gdpo,
}

impl Advantage {
    /// The advantage of each row whose reward is known, among those of its group that are; the terms have these `weights`.
    pub fn of(self, rows: &[RewardRow], weights: &[f64]) -> Vec<Option<f64>> {
        let known: Vec<&RewardRow> = rows.iter().filter(|row| row.reward.is_some()).collect();
        let groups: Vec<u32> = known.iter().map(|row| row.group).collect();
        let scaled = |scale| {
            let rewards: Vec<f64> = known.iter().filter_map(|row| row.reward).collect();
            grpo::advantages(&rewards, &groups, scale)
        };
        let advantages = match self.normalize {
            Normalize::Group => scaled(ScaleRewards::Group),
            Normalize::Batch => scaled(ScaleRewards::Batch),
            Normalize::None => scaled(ScaleRewards::None),
            Normalize::Gdpo => grpo::decoupled_advantages(&scores(&known, weights), &groups),
        };
        let mut advantages = advantages.into_iter();
        rows.iter().map(|row| row.reward.and_then(|_| advantages.next())).collect()
    }
}

/// The weight of each term that counts, and its scores.
fn scores(rows: &[&RewardRow], weights: &[f64]) -> Vec<(f64, Vec<f64>)> {
    let counted = weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
    let column = |(index, weight): (usize, &f64)| {
        // Of rewards that are known so are the scores that count.
        let scores = rows.iter().map(|row| row.components[index].score.unwrap_or_default());
        (*weight, scores.collect())
    };
    counted.map(column).collect()
}
