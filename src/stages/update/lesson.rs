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
    /// The note if there is nothing to learn from.
    fn nothing(&self) -> &'static str;
    /// The completions that a model was asked for, as token ids.
    fn completions(&self) -> Vec<&[u32]>;
    /// Whether the loss needs a reference; guards may need one too.
    fn needs_reference(&self) -> bool;
    fn optimizer(&self) -> &AdamWConfig;
    fn iterations(&self) -> usize;
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
        self.rows.iter().any(|row| row.advantage.is_some() && row.sample.was_asked())
    }

    fn nothing(&self) -> &'static str {
        "no completion to learn from: the model stays as it is"
    }

    fn completions(&self) -> Vec<&[u32]> {
        let asked = self.rows.iter().filter(|row| row.sample.was_asked());
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
