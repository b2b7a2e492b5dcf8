//! The batch of DPO and IPO: preferences.

use std::sync::Arc;

use super::lesson::{Lesson, TrainingBatch};
use super::metrics::{metric, share};
use data::{MetricRow, Position, PreferenceRow};
use grpo::{Pair, PairLoss, PreferenceConfig, StepGuard, StepReport, preference_step};
use model::{Checkpoint, ControlTokens};
use optim::{AdamW, AdamWConfig};

/// Pairs of a better and a worse completion.
pub(crate) struct PreferenceBatch<'a> {
    pub rows: Arc<Vec<PreferenceRow>>,
    pub loss: PairLoss,
    pub config: &'a PreferenceConfig,
}

impl PreferenceBatch<'_> {
    /// The better and the worse completion of all pairs, as token ids and whether they ended by themselves.
    fn sides(&self) -> impl Iterator<Item = (&[u32], bool)> {
        self.rows.iter().flat_map(|row| {
            [(&row.chosen_ids[..], row.chosen_finished), (&row.rejected_ids[..], row.rejected_finished)]
        })
    }

    /// The number of pairs to learn from.
    fn pairs(&self) -> usize {
        self.rows.iter().filter(is_pair).count()
    }

    fn metric(&self, name: &str, value: f64, count: usize, at: &Position) -> MetricRow {
        metric("update", self.role(), name, value, count, at)
    }
}

/// Whether both completions have tokens; other pairs teach nothing.
fn is_pair(row: &&PreferenceRow) -> bool {
    !row.chosen_ids.is_empty() && !row.rejected_ids.is_empty()
}

impl TrainingBatch for PreferenceBatch<'_> {
    fn role(&self) -> &str {
        self.rows.first().map_or("nobody", |row| &row.role)
    }

    fn count(&self) -> usize {
        self.rows.len()
    }

    fn metrics(&self, _: &ControlTokens, at: &Position) -> Vec<MetricRow> {
        let sides: Vec<(&[u32], bool)> = self.sides().collect();
        let mean = |name: &str, of: fn(&(&[u32], bool)) -> f64| {
            let sum: f64 = sides.iter().map(of).sum();
            self.metric(name, sum / sides.len() as f64, sides.len(), at)
        };
        let pairs = self.metric("pairs", self.pairs() as f64, self.count(), at);
        if sides.is_empty() {
            return vec![pairs];
        }
        let tokens = mean("completion_tokens", |(ids, _)| ids.len() as f64);
        vec![pairs, tokens, mean("finished", |(_, finished)| share(*finished))]
    }

    fn has_signal(&self) -> bool {
        self.pairs() > 0
    }

    fn nothing(&self) -> &'static str {
        "no pair to learn from: the model stays as it is"
    }

    fn completions(&self) -> Vec<&[u32]> {
        self.sides().map(|(ids, _)| ids).collect()
    }

    fn needs_reference(&self) -> bool {
        true
    }

    fn optimizer(&self) -> &AdamWConfig {
        &self.config.optimizer
    }

    fn iterations(&self) -> usize {
        self.config.num_iterations
    }

    fn for_torch(&self) -> Lesson {
        let mut rows = torch::Batch::default();
        for row in self.rows.iter().filter(is_pair) {
            rows.push(&row.prompt_ids, &row.chosen_ids);
            rows.push(&row.prompt_ids, &row.rejected_ids);
        }
        let loss = match self.loss {
            PairLoss::Dpo => "dpo",
            PairLoss::Ipo => "ipo",
        };
        Lesson { loss, settings: serde_json::json!(self.config), rows, lr: self.config.lr }
    }

    fn step(
        &self,
        policy: &Checkpoint,
        reference: Option<&Checkpoint>,
        optimizer: &mut AdamW,
        passes: &mut StepGuard,
    ) -> candle_core::Result<StepReport> {
        let Some(reference) = reference else { candle_core::bail!("a loss on pairs needs a reference") };
        let pair = |row: &PreferenceRow| Pair {
            prompt: row.prompt_ids.clone(),
            chosen: row.chosen_ids.clone(),
            rejected: row.rejected_ids.clone(),
        };
        let pairs: Vec<Pair> = self.rows.iter().filter(is_pair).map(pair).collect();
        preference_step(policy, reference, optimizer, &pairs, self.loss, self.config, passes)
    }

    fn step_metrics(&self, report: &StepReport, _: bool, at: &Position) -> Vec<MetricRow> {
        let mut metrics = vec![self.metric(analysis::PASSED_THROUGH, 0.0, self.count(), at)];
        let of_tokens = [
            ("loss", report.loss),
            ("kl", report.kl),
            ("entropy", report.entropy),
            (analysis::GRAD_NORM, report.grad_norm),
        ];
        metrics.extend(of_tokens.map(|(name, value)| self.metric(name, value, report.tokens, at)));
        let pairs = report.pairs.unwrap_or_default();
        let of_pairs = [
            ("chosen_reward", pairs.chosen_reward),
            ("rejected_reward", pairs.rejected_reward),
            ("accuracy", pairs.accuracy),
            ("margin", pairs.margin),
        ];
        metrics.extend(of_pairs.map(|(name, value)| self.metric(name, value, self.pairs(), at)));
        metrics
    }

    fn told(&self, _: &[MetricRow], report: &StepReport) -> String {
        let pairs = report.pairs.unwrap_or_default();
        let (accuracy, margin) = (100.0 * pairs.accuracy, pairs.margin);
        format!(
            "accuracy {accuracy:.0} %, margin {margin:.3}, kl {:.3}, entropy {:.2}",
            report.kl, report.entropy
        )
    }
}
