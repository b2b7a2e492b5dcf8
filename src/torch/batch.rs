//! The rows of a job, as a file.

use std::path::Path;

use super::tensors::Written;

/// Prompts and completions as token ids, and what a loss needs of them.
#[derive(Default)]
pub struct Batch {
    tokens: Vec<i64>,
    prompts: Vec<i64>,
    completions: Vec<i64>,
    /// The longest row.
    longest: usize,
    /// Log-probability of each completion token under the policy that sampled it; empty if the loss needs none.
    pub old_logprobs: Vec<f32>,
    /// The advantage of each row; empty if the loss needs none.
    pub advantages: Vec<f32>,
    /// Whether each row ended by itself; empty if the loss does not ask.
    pub finished: Vec<bool>,
    /// For each step, the rows that it takes; empty if every step takes all.
    pub order: Vec<Vec<usize>>,
}

impl Batch {
    /// Adds a row. A prediction needs a token before it, so that a prompt must not be empty.
    pub fn push(&mut self, prompt: &[u32], completion: &[u32]) {
        self.tokens.extend(prompt.iter().chain(completion).map(|id| i64::from(*id)));
        self.prompts.push(prompt.len() as i64);
        self.completions.push(completion.len() as i64);
        self.longest = self.longest.max(prompt.len() + completion.len());
    }

    /// Checks that a model of `vocabulary` tokens and `positions` positions can score the rows.
    pub fn check(&self, vocabulary: usize, positions: usize) -> Result<(), String> {
        if self.prompts.is_empty() || self.completions.iter().all(|tokens| *tokens == 0) {
            return Err("there is no completion to learn from".into());
        }
        if let Some(row) = self.prompts.iter().position(|tokens| *tokens == 0) {
            return Err(format!("row {row} has an empty prompt: a prediction needs a token before it"));
        }
        if let Some(id) = self.tokens.iter().find(|id| **id >= vocabulary as i64) {
            return Err(format!("token {id} is outside the vocabulary of {vocabulary}"));
        }
        match self.longest > positions {
            true => Err(format!(
                "a prompt and its completion must fit into the model's {positions} positions, found {} tokens",
                self.longest
            )),
            false => Ok(()),
        }
    }

    /// Writes it as safetensors.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let flat = |values: &[i64]| Written::i64(vec![values.len()], values);
        let mut tensors = vec![
            ("tokens", flat(&self.tokens)),
            ("prompts", flat(&self.prompts)),
            ("completions", flat(&self.completions)),
        ];
        if !self.advantages.is_empty() {
            let finished: Vec<i64> = self.finished.iter().map(|finished| i64::from(*finished)).collect();
            tensors.push(("old_logprobs", Written::f32(&self.old_logprobs)));
            tensors.push(("advantages", Written::f32(&self.advantages)));
            tensors.push(("finished", flat(&finished)));
        }
        if let Some(first) = self.order.first() {
            let order: Vec<i64> = self.order.iter().flatten().map(|row| *row as i64).collect();
            tensors.push(("order", Written::i64(vec![self.order.len(), first.len()], &order)));
        }
        let tensors = tensors.iter().map(|(name, tensor)| (*name, tensor));
        safetensors::serialize_to_file(tensors, None, path)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}
