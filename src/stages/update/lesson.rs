//! A batch as `update` sees it, whatever the algorithm; and the batch of GRPO: completions with rewards.

use std::sync::Arc;

use super::metrics::{metrics, role, step_metrics};
use data::{MetricRow, Position, RewardRow};
use grpo::{GrpoConfig, StepGuard, StepReport, guarded_step};
use model::{Checkpoint, ControlTokens};
use optim::{AdamW, AdamWConfig};

/// A batch, and how a model learns from it.
pub(crate) trait TrainingBatch {
    /// The role that wrote the completions.
    fn role(&self) -> &str;
    /// Rows of the dataset.
    fn count(&self) -> usize;
    /// Metrics of the rows before anything is learnt.
    fn metrics(&self, marks: &ControlTokens, at: &Position) -> Vec<MetricRow>;
    /// Whether there is anything to learn from.
    fn has_signal(&self) -> bool;
    /// How far the log-probabilities of the server that sampled the completions are from the trainer's own; `None` if no server
    /// gave any.
    fn served_gap(&self) -> Option<ServedGap> {
        None
    }
    /// The note if there is nothing to learn from.
    fn nothing(&self) -> &'static str;
    /// The completions that a model was asked for, as token ids.
    fn completions(&self) -> Vec<&[u32]>;
    /// Whether the loss needs a reference; guards may need one too.
    fn needs_reference(&self) -> bool;
    fn optimizer(&self) -> &AdamWConfig;
    fn iterations(&self) -> usize;
    /// The batch and its loss for a trainer elsewhere.
    fn for_torch(&self) -> Lesson;
    /// Trains on the batch, as long as the reports pass.
    fn step(
        &self,
        policy: &Checkpoint,
        reference: Option<&Checkpoint>,
        optimizer: &mut AdamW,
        passes: &mut StepGuard,
    ) -> candle_core::Result<StepReport>;
    /// Metrics of the step; the divergence only `with_reference`, without which it is not measured.
    fn step_metrics(&self, report: &StepReport, with_reference: bool, at: &Position) -> Vec<MetricRow>;
    /// The most important of them in a line.
    fn told(&self, metrics: &[MetricRow], report: &StepReport) -> String;
}

/// A batch and its loss for a trainer elsewhere.
pub(crate) struct Lesson {
    /// `grpo`, `dpo` or `ipo`.
    pub loss: &'static str,
    pub settings: serde_json::Value,
    pub rows: torch::Batch,
    pub lr: f64,
}

/// How far a server's log-probabilities are from the trainer's own, in nats per token.
#[derive(Clone, Copy)]
pub(crate) struct ServedGap {
    pub mean: f64,
    pub max: f64,
    pub tokens: usize,
}

impl ServedGap {
    /// From pairs of both numbers of each token.
    fn of(pairs: impl Iterator<Item = (f64, f32)>) -> Option<ServedGap> {
        let gaps: Vec<f64> = pairs.map(|(served, own)| (served - f64::from(own)).abs()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        // NaN is beyond every limit.
        let max =
            gaps.iter().copied().fold(0.0, |max: f64, gap| if gap > max || gap.is_nan() { gap } else { max });
        (!gaps.is_empty()).then_some(ServedGap { mean, max, tokens: gaps.len() })
    }
}

/// Completions with their rewards.
pub(crate) struct RewardBatch<'a> {
    pub rows: Arc<Vec<RewardRow>>,
    pub config: &'a GrpoConfig,
}

impl TrainingBatch for RewardBatch<'_> {
    fn role(&self) -> &str {
        role(&self.rows)
    }

    fn count(&self) -> usize {
        self.rows.len()
    }

    fn metrics(&self, marks: &ControlTokens, at: &Position) -> Vec<MetricRow> {
        metrics(&self.rows, marks, at)
    }

    fn has_signal(&self) -> bool {
        // A completion whose reward is not known teaches nothing.
        self.rows.iter().any(|row| row.advantage.is_some() && row.sample.has_tokens())
    }

    fn served_gap(&self) -> Option<ServedGap> {
        ServedGap::of(self.rows.iter().flat_map(|row| {
            let served = row.sample.served_logprobs.iter().map(|served| served.logprob);
            served.zip(row.sample.logprobs.iter().copied())
        }))
    }

    fn nothing(&self) -> &'static str {
        "no completion to learn from: the model stays as it is"
    }

    fn completions(&self) -> Vec<&[u32]> {
        let asked = self.rows.iter().filter(|row| row.sample.has_tokens());
        asked.map(|row| &row.sample.completion_ids[..]).collect()
    }

    fn needs_reference(&self) -> bool {
        self.config.kl != 0.0
    }

    fn optimizer(&self) -> &AdamWConfig {
        &self.config.optimizer
    }

    fn iterations(&self) -> usize {
        self.config.num_iterations
    }

    fn for_torch(&self) -> Lesson {
        let mut rows = torch::Batch::default();
        for row in self.rows.iter().filter(|row| row.sample.has_tokens()) {
            let Some(advantage) = row.advantage else { continue };
            rows.push(&row.sample.prompt_ids, &row.sample.completion_ids);
            rows.old_logprobs.extend(&row.sample.logprobs);
            rows.advantages.push(advantage as f32);
            rows.finished.push(row.sample.finished);
        }
        Lesson { loss: "grpo", settings: serde_json::json!(self.config), rows, lr: self.config.lr }
    }

    fn step(
        &self,
        policy: &Checkpoint,
        reference: Option<&Checkpoint>,
        optimizer: &mut AdamW,
        passes: &mut StepGuard,
    ) -> candle_core::Result<StepReport> {
        let sample = |row: &RewardRow| {
            Some(grpo::Sample {
                prompt: row.sample.prompt_ids.clone(),
                completion: row.sample.completion_ids.clone(),
                advantage: row.advantage?,
                old_logprobs: row.sample.logprobs.clone(),
                finished: row.sample.finished,
            })
        };
        let samples: Vec<grpo::Sample> = self.rows.iter().filter_map(sample).collect();
        guarded_step(policy, reference, optimizer, &samples, self.config, passes)
    }

    fn step_metrics(&self, report: &StepReport, with_reference: bool, at: &Position) -> Vec<MetricRow> {
        step_metrics(&self.rows, report, with_reference, at)
    }

    fn told(&self, metrics: &[MetricRow], report: &StepReport) -> String {
        let of = |name: &str| metrics.iter().find(|row| row.metric == name).map(|row| row.value);
        let (reward, entropy) = (of("reward").unwrap_or(0.0), report.entropy);
        let kl = of("kl").map_or(String::new(), |kl| format!("kl {kl:.3}, "));
        format!("reward {reward:.3}, {kl}entropy {entropy:.2}")
    }
}
