//! Whether a prompt and its completion have room in a model's context, as far as that is known before anything runs.

use super::super::artifact::Model;
use super::super::{sft::Sft, update::Update};
use super::{Asking, TooLong};
use engine::{CheckError, Input, Upstream};
use model::Checkpoint;

/// A text that another stage samples and a prompt is filled with: its longest length in tokens, and where that is given.
pub struct Longest {
    pub tokens: usize,
    pub place: String,
}

/// How many positions a model has: its folder says so, or the stage that makes it.
fn positions(upstream: Upstream, model: &Input<Model>) -> Option<usize> {
    if let Some(folder) = upstream.file(model) {
        return Checkpoint::positions(folder);
    }
    if let Some(update) = upstream.stage::<Update, _>(model) {
        return positions(update.upstream(), update.stage.model());
    }
    let sft = upstream.stage::<Sft, _>(model)?;
    match sft.stage.model() {
        Some(model) => positions(sft.upstream(), model),
        None => sft.stage.positions(),
    }
}

impl Asking<'_> {
    /// Holds the longest completion, and the longest texts that the prompt is filled with, against the model's context.
    pub fn room(
        &self,
        upstream: Upstream,
        completion: usize,
        filled: &[Longest],
    ) -> Result<Option<CheckError>, CheckError> {
        let Some(positions) = positions(upstream, self.model) else { return Ok(None) };
        let model = self.model.text();
        if completion >= positions {
            let message = format!(
                "`max_new_tokens` must be below the {positions} positions of the model `{model}`, found {completion}: a prompt \
                 has to fit beside it"
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
            "the {}'s longest prompt does not fit: {}, and {completion} for the completion leave no room in the {positions} \
             positions of the model `{model}`; ask for less, or say `too_long: skip`",
            self.role,
            parts.join(" and ")
        );
        Ok(Some(CheckError::at("sampling", message)))
    }
}
