//! Checks that a prompt and its completion fit into a model's context, as far as lengths are known before anything runs.

use super::{ModelQuery, TooLong};
use crate::artifact::Model;
use engine::{CheckError, Input, Upstream};
use model::Checkpoint;

/// The maximum length, in tokens, of a text in a prompt that another stage samples; and the place of the key that sets it.
pub(crate) struct TokenLimit {
    pub tokens: usize,
    pub place: String,
}

/// A stage that makes a model.
pub(crate) trait Trainer {
    /// The model that it trains further; `None` if it makes a new one.
    fn model(&self) -> Option<&Input<Model>>;

    /// The positions of a new model.
    fn positions(&self) -> Option<usize> {
        None
    }
}

/// The number of positions of a model, from its folder or from the stage that makes it.
fn positions<T>(upstream: Upstream, model: &Input<T>) -> Option<usize> {
    if let Some(folder) = upstream.file(model) {
        return Checkpoint::positions(folder);
    }
    let trainer = upstream.view::<dyn Trainer, _>(model)?;
    match trainer.stage.model() {
        Some(model) => positions(trainer.upstream(), model),
        None => trainer.stage.positions(),
    }
}

impl ModelQuery<'_> {
    /// Compares the longest completion, and the longest texts in the prompt, with the model's context.
    pub(crate) fn check_context(
        &self,
        upstream: Upstream,
        completion: usize,
        filled: &[TokenLimit],
    ) -> Result<Option<CheckError>, CheckError> {
        let Some(positions) = positions(upstream, self.model) else { return Ok(None) };
        let model = self.model.text();
        if completion >= positions {
            let message = format!(
                "`max_new_tokens` must be below the {positions} positions of the model `{model}`, found {completion}: the \
                 prompt needs room too"
            );
            return Err(CheckError::at("sampling", message));
        }
        let all = filled.iter().fold(completion, |sum, longest| sum.saturating_add(longest.tokens));
        if filled.is_empty() || all < positions || self.too_long == TooLong::Skip {
            return Ok(None);
        }
        let parts: Vec<String> =
            filled.iter().map(|longest| format!("{}, {}", longest.place, longest.tokens)).collect();
        let message = format!(
            "the {}'s longest prompt does not fit: {}, and {completion} for the completion fill the {positions} positions of \
             the model `{model}`; lower these limits, or write `too_long: skip`",
            self.role,
            parts.join(" and ")
        );
        Ok(Some(CheckError::at("sampling", message)))
    }
}
