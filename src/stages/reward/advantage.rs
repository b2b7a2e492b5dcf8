//! How rewards become advantages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use data::RewardRow;
use grpo::{self, ScaleRewards};

/// How rewards become advantages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Advantage {
    /// How advantages are normalized.
    normalize: Normalize,
}

/// What the difference between a reward and the mean of its group is divided by.
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
    /// First each term's score by the standard deviation of its group; then the weighted sum of the scores by that of the batch
    /// (GDPO, arXiv 2601.05242). A term counts by its weight, not by the spread of its scores.
    Gdpo,
}

impl Advantage {
    /// The advantage of each row whose reward is known, relative to the other such rows of its group. `weights` are those of the
    /// terms.
    pub(crate) fn of(self, rows: &[RewardRow], weights: &[f64]) -> Vec<Option<f64>> {
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

/// The weight and scores of each term with a weight.
fn scores(rows: &[&RewardRow], weights: &[f64]) -> Vec<(f64, Vec<f64>)> {
    let counted = weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
    let column = |(index, weight): (usize, &f64)| {
        // If a reward is known, so are the scores of all terms with a weight.
        let scores = rows.iter().map(|row| row.components[index].score.unwrap_or_default());
        (*weight, scores.collect())
    };
    counted.map(column).collect()
}
