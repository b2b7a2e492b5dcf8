//! How the components of a reward become one advantage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Reward, Rule};
use data::RewardRow;
use engine::CheckError;
use grpo::{self, ScaleRewards};

/// How the components of a reward become one advantage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Combine {
    /// The reward, which is their sum, relative to its group.
    #[default]
    Sum,
    /// Each component relative to its group, their sum by `component_weights`, and that relative to the batch (GDPO).
    /// Weights of terms within the rule are factors of components, normalised away: only whether one is 0 matters.
    Gdpo,
}

/// What each component of the attacker's reward counts in `combine: gdpo`. One that is the same for a whole group,
/// such as one without weight in the rule, says nothing about that group.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentWeights {
    /// Of the success.
    attack: f64,
    /// Of the meaning.
    semantic: f64,
    /// Of the penalty for Self-BLEU.
    self_bleu: f64,
    /// Of the penalty for cosine similarity.
    cosine: f64,
    /// Of the bonus for coverage.
    coverage: f64,
}

impl Default for ComponentWeights {
    fn default() -> Self {
        ComponentWeights { attack: 1.0, semantic: 1.0, self_bleu: 1.0, cosine: 1.0, coverage: 1.0 }
    }
}

impl ComponentWeights {
    fn all(&self) -> [f64; 5] {
        [self.attack, self.semantic, self.self_bleu, self.cosine, self.coverage]
    }

    /// The components of the attacker's rewards with their weights. What is a penalty counts against.
    fn components(&self, rows: &[&RewardRow]) -> Vec<(f64, Vec<f64>)> {
        type Component = fn(&RewardRow) -> Option<f64>;
        let components: [Component; 5] = [
            |row| row.attack_success,
            |row| row.semantic,
            |row| row.self_bleu_penalty.map(|penalty| -penalty),
            |row| row.cosine_penalty.map(|penalty| -penalty),
            |row| row.coverage,
        ];
        let column = |of: Component| rows.iter().map(|row| of(row).unwrap_or(0.0)).collect();
        self.all().into_iter().zip(components.map(column)).collect()
    }
}

impl Reward {
    pub(super) fn check_combine(&self) -> Result<(), CheckError> {
        let weights = self.component_weights.as_ref();
        let wrong = |message: &str| Err(CheckError::at("component_weights", message));
        match (self.combine, weights) {
            (Combine::Sum, Some(_)) => wrong(
                "`component_weights` are for `combine: gdpo`; in a sum the terms have the weights of `rule.attacker.weights`",
            ),
            (Combine::Gdpo, Some(_)) if !matches!(self.rule, Rule::Attacker(_)) => {
                wrong("`component_weights` are of the attacker: the rewards of the others have one component")
            }
            (_, Some(weights)) if !weights.all().into_iter().all(|w| (0.0..f64::INFINITY).contains(&w)) => {
                wrong("`component_weights` must be at least 0")
            }
            (_, Some(weights)) if weights.all().into_iter().all(|w| w == 0.0) => {
                wrong("of the `component_weights` one must be above 0")
            }
            (Combine::Gdpo, _) if self.scale_rewards != ScaleRewards::Group => Err(CheckError::at(
                "scale_rewards",
                "`scale_rewards` is for `combine: sum`: `gdpo` divides by the deviation of the group, then by that of \
                 the batch",
            )),
            _ => Ok(()),
        }
    }

    /// The advantage of each row whose reward is known, among those of its group that are.
    pub(super) fn advantages(&self, rows: &[RewardRow]) -> Vec<Option<f64>> {
        let known: Vec<&RewardRow> = rows.iter().filter(|row| row.reward.is_some()).collect();
        let rewards: Vec<f64> = known.iter().filter_map(|row| row.reward).collect();
        let groups: Vec<u32> = known.iter().map(|row| row.group).collect();
        let advantages = match (self.combine, &self.rule) {
            (Combine::Sum, _) => grpo::advantages(&rewards, &groups, self.scale_rewards),
            (Combine::Gdpo, Rule::Attacker(_)) => {
                let weights = self.component_weights.clone().unwrap_or_default();
                grpo::decoupled_advantages(&weights.components(&known), &groups)
            }
            (Combine::Gdpo, _) => grpo::decoupled_advantages(&[(1.0, rewards)], &groups),
        };
        let mut advantages = advantages.into_iter();
        rows.iter().map(|row| row.reward.and_then(|_| advantages.next())).collect()
    }
}
