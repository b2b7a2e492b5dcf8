//! The clipped policy loss and its variants.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use optim::AdamWConfig;
use rollout::TEMPERATURES;

/// How token losses are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over each completion, then over completions (DeepSeekMath).
    Grpo,
    /// Sum over the tokens of a completion divided by the longest possible length, then mean over completions (Liu et al.
    /// 2025): no bias towards short ones.
    DrGrpo,
    /// Mean over all tokens of the batch (Yu et al. 2025).
    #[default]
    Dapo,
    /// Mean over all tokens of the local batch. Here that is the whole batch, so the loss is that of `dapo`; TRL averages over
    /// each micro-batch.
    Bnpo,
    /// Mean over all tokens of the batch; the ratio, capped at `epsilon_high`, only weights the log-probability (MiniMax 2025),
    /// so that no token loses its gradient.
    Cispo,
}

/// Over which tokens the ratio to the sampling policy is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImportanceLevel {
    /// Each token on its own.
    #[default]
    Token,
    /// The whole completion, as a geometric mean (GSPO, Zheng et al. 2025).
    Sequence,
}

/// Parameters of a GRPO step; defaults as in TRL where TRL has them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoConfig {
    /// The learning rate.
    pub lr: f64,
    /// β, the weight of the KL penalty towards the reference.
    pub kl: f64,
    /// How token losses are averaged.
    pub loss_type: LossType,
    /// Over which tokens the ratio to the sampling policy is taken.
    pub importance_sampling_level: ImportanceLevel,
    /// Clipping range of the ratio below 1 and, unless `epsilon_high` is given, above 1.
    pub epsilon: f64,
    /// Clipping range above 1; `epsilon` by default. For `cispo`, which needs it, the greatest ratio itself.
    pub epsilon_high: Option<f64>,
    /// The greatest ratio for negative advantages, where `epsilon` sets no upper limit (two-sided clipping, INTELLECT-2); no
    /// limit by default.
    pub delta: Option<f64>,
    /// Weight of the entropy bonus: the weight times the mean entropy over tokens is subtracted from the loss.
    pub entropy_coef: f64,
    /// The temperature of log-probabilities, by default that of the stage that sampled. Give it only for completions from
    /// elsewhere, for which the default is 1.
    pub temperature: Option<f64>,
    /// Steps over the same samples.
    pub num_iterations: usize,
    /// Gradients with a greater norm are scaled down to this one.
    pub max_grad_norm: f64,
    /// Leave out completions that were cut at their longest length.
    pub mask_truncated_completions: bool,
    /// For `dr_grpo`: the longest possible completion, in tokens; by default the longest of the batch.
    pub max_completion_length: Option<usize>,
    /// Completions that are differentiated at the same time; bounds memory.
    pub micro_batch: usize,
    /// Keep only the hidden states between blocks and recompute the rest: less memory for a third more time.
    pub gradient_checkpointing: bool,
    /// Settings of AdamW.
    pub optimizer: AdamWConfig,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        GrpoConfig {
            lr: 1e-6,
            kl: 0.0,
            loss_type: LossType::default(),
            importance_sampling_level: ImportanceLevel::default(),
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            entropy_coef: 0.0,
            temperature: None,
            num_iterations: 1,
            max_grad_norm: 1.0,
            mask_truncated_completions: false,
            max_completion_length: None,
            micro_batch: 256,
            gradient_checkpointing: false,
            optimizer: AdamWConfig::default(),
        }
    }
}

impl GrpoConfig {
    /// Checks ranges. The error names the key, the rule and what was found.
    pub fn check(&self) -> std::result::Result<(), String> {
        // A range does not contain a NaN.
        let at_least_0 = |value: f64| (0.0..f64::INFINITY).contains(&value);
        let counts = [
            ("num_iterations", self.num_iterations),
            ("micro_batch", self.micro_batch),
            ("max_completion_length", self.max_completion_length.unwrap_or(1)),
        ];
        let too_low = |delta: &f64| !at_least_0(*delta) || *delta <= 1.0 + self.high();
        Err(if self.lr <= 0.0 || !self.lr.is_finite() {
            format!("`lr` must be above 0, found {}", self.lr)
        } else if !at_least_0(self.kl) {
            format!("`kl` must be at least 0, found {}", self.kl)
        } else if !TEMPERATURES.contains(&self.temperature()) {
            format!("`temperature` must be between 0.000001 and 1000000, found {}", self.temperature())
        } else if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            format!("`{name}` must be at least 1, found 0")
        } else if !at_least_0(self.max_grad_norm) || self.max_grad_norm == 0.0 {
            format!("`max_grad_norm` must be above 0, found {}", self.max_grad_norm)
        } else if !at_least_0(self.epsilon) || !at_least_0(self.high()) {
            format!(
                "`epsilon` and `epsilon_high` must be at least 0, found {} and {}",
                self.epsilon,
                self.high()
            )
        } else if let Some(delta) = self.delta.filter(too_low) {
            format!("`delta` must be above 1 + `epsilon_high` = {}, found {delta}", 1.0 + self.high())
        } else if self.delta.is_some() && self.loss_type == LossType::Cispo {
            "`delta` must not be given for `cispo`, which does not clip with it: use `epsilon_high`".into()
        } else if self.loss_type == LossType::Cispo && self.epsilon_high.is_none() {
            "`epsilon_high` must be given for `cispo`, as the greatest ratio, such as 5: `epsilon` is a distance from 1"
                .into()
        } else if !self.entropy_coef.is_finite() {
            format!("`entropy_coef` must be finite, found {}", self.entropy_coef)
        } else {
            return self.optimizer.check();
        })
    }
}

impl GrpoConfig {
    pub(super) fn temperature(&self) -> f64 {
        self.temperature.unwrap_or(1.0)
    }

    fn high(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }
}

/// The completions of a micro-batch as one list of M tokens.
pub(crate) struct TokenBatch {
    /// Log-probabilities under the policy that sampled, M.
    pub old: Vec<f32>,
    /// Log-probabilities under the reference, M; empty without a KL penalty.
    pub reference: Vec<f32>,
    /// The advantage of each token's completion, M.
    pub advantages: Vec<f32>,
    /// The weight of each token's loss, M: the loss is the weighted sum.
    pub weights: Vec<f32>,
    /// Tokens of each completion.
    pub lengths: Vec<usize>,
}

/// The loss of a micro-batch and what is reported of it.
pub(crate) struct TokenLoss {
    pub loss: Tensor,
    /// Σ over tokens of the k3 estimate.
    pub kl: f64,
    /// Tokens whose ratio was clipped.
    pub clipped: usize,
}

/// −min(r·A, clip(r)·A) + β·KL, or −clip(r)·A·log π + β·KL for `cispo`, weighted: `logprobs` \[M\] carries the gradient.
/// r = exp(log π − log π_old); KL is r·k3 with k3 = exp(log π_ref − log π) − (log π_ref − log π) − 1 (Schulman 2020). With the
/// ratio, as in TRL, the gradient of r·k3 is that of the divergence.
pub(crate) fn token_loss(logprobs: &Tensor, batch: &TokenBatch, config: &GrpoConfig) -> Result<TokenLoss> {
    let tensor = |values: &[f32]| Tensor::new(values, logprobs.device());
    let log_ratio = (logprobs - tensor(&batch.old)?)?;
    let log_ratio = match config.importance_sampling_level {
        ImportanceLevel::Token => log_ratio,
        ImportanceLevel::Sequence => completion_means(&log_ratio, &batch.lengths)?,
    };
    let ratio = log_ratio.exp()?;
    let advantages = tensor(&batch.advantages)?;
    let (least, most) = match config.loss_type {
        LossType::Cispo => (f64::NEG_INFINITY, config.high()),
        _ => (1.0 - config.epsilon, 1.0 + config.high()),
    };
    let clipped = ratio.clamp(least, most)?;
    let mut loss = match config.loss_type {
        LossType::Cispo => ((clipped.detach() * &advantages)? * logprobs)?.neg()?,
        _ => {
            let ratio = match config.delta {
                Some(delta) => ratio.minimum(delta)?,
                None => ratio.clone(),
            };
            (ratio * &advantages)?.minimum(&(clipped * &advantages)?)?.neg()?
        }
    };
    let mut kl_total = 0.0;
    if !batch.reference.is_empty() {
        let difference = (tensor(&batch.reference)? - logprobs)?;
        let kl = ((difference.exp()? - &difference)? - 1.0)?;
        kl_total = f64::from(kl.sum_all()?.to_scalar::<f32>()?);
        loss = (loss + ((kl * &ratio)? * config.kl)?)?;
    }
    let (low, high) = (least as f32, most as f32);
    let ratios = ratio.to_vec1::<f32>()?;
    let beyond = |(ratio, advantage): &(&f32, &f32)| {
        (**ratio < low && **advantage < 0.0) || (**ratio > high && **advantage > 0.0)
    };
    let clipped = ratios.iter().zip(&batch.advantages).filter(beyond).count();
    Ok(TokenLoss { loss: (loss * tensor(&batch.weights)?)?.sum_all()?, kl: kl_total, clipped })
}

/// Each token's value replaced by the mean over its completion.
fn completion_means(values: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let mut means = Vec::with_capacity(lengths.len());
    let mut start = 0;
    for &length in lengths {
        means.push(values.narrow(0, start, length)?.mean_keepdim(0)?.broadcast_as(length)?);
        start += length;
    }
    Tensor::cat(&means, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cispo_says_its_greatest_ratio_since_epsilon_is_none() {
        let config =
            |epsilon_high| GrpoConfig { loss_type: LossType::Cispo, epsilon_high, ..GrpoConfig::default() };
        assert!(
            config(None)
                .check()
                .unwrap_err()
                .starts_with("`epsilon_high` must be given for `cispo`, as the greatest")
        );
        assert_eq!(config(Some(5.0)).check(), Ok(()));
    }
}
