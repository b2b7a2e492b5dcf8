//! `overlong`: the soft overlong punishment of DAPO (Yu et al. 2025, arXiv 2503.14476, equation 13). For a completion of n
//! tokens: 0 up to `free` tokens, −1 from `longest`, linear in between.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Completion};
use super::term::{Scores, Term};
use engine::CheckError;

/// Penalizes long completions, from 0 to −1.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overlong {
    /// The number of tokens without a penalty.
    free: usize,
    /// The number of tokens from which the score is −1.
    longest: usize,
}

impl Term for Overlong {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let score = |completion: &Completion| {
            // A completion that no model was asked for has no length.
            completion.sample.was_asked().then(|| self.score(completion.sample.completion_ids.len()))
        };
        Ok(batch.completions.iter().map(score).collect::<Vec<_>>().into())
    }

    fn check(&self) -> Result<(), CheckError> {
        match self.free < self.longest {
            true => Ok(()),
            false => {
                let message =
                    format!("`longest` must be above `free` = {}, found {}", self.free, self.longest);
                Err(CheckError::at("longest", message))
            }
        }
    }
}

impl Overlong {
    fn score(&self, tokens: usize) -> f64 {
        let over = tokens.saturating_sub(self.free) as f64 / (self.longest - self.free) as f64;
        0.0 - over.min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_costs_up_to_one() {
        let term = Overlong { free: 8, longest: 16 };
        assert_eq!([0, 8, 12, 16, 99].map(|tokens| term.score(tokens)), [0.0, 0.0, -0.5, -1.0, -1.0]);
        assert!(Overlong { free: 8, longest: 8 }.check().is_err());
    }
}
