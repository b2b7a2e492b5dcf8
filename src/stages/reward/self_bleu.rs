//! `self_bleu`: the first part of P_div of TriPlay-RL (arXiv 2601.18292, section 3). The score is −y(B), where y(s) = exp(k·s) −
//! 1 and B is the mean over n in {3, 4, 5} of an attack's BLEU_n (Papineni et al. 2002, smoothed as NLTK's method 1) against all
//! texts of the pool of successful attacks (Self-BLEU, Zhu et al. 2018). BLEU takes the best match of each n-gram. It therefore
//! tells whether the pool contains anything similar to the attack, not how much.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, CompletionKind};
use super::term::{Scores, Term};
use crate::artifact::SuccessPool;
use engine::{CheckError, Input};

/// Penalizes the similarity of an attack's n-grams to those of the pool.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SelfBleu {
    /// The successful attacks to compare with.
    pool: Input<SuccessPool>,
    /// k of y(s) = exp(k·s) − 1.
    #[serde(default = "default_sharpness")]
    sharpness: f64,
}

pub(crate) fn default_sharpness() -> f64 {
    1.0
}

impl Term for SelfBleu {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let likeness = batch.pool(&self.pool)?.self_bleu(&batch.texts());
        Ok(batch.of_texts(likeness.into_iter().map(|likeness| penalty(self.sharpness, likeness))).into())
    }

    fn scored(&self) -> &'static [CompletionKind] {
        &[CompletionKind::Attack]
    }

    fn check(&self) -> Result<(), CheckError> {
        check_sharpness(self.sharpness)
    }

    fn is_constant(&self) -> bool {
        self.sharpness == 0.0
    }
}

/// −y(s) = 1 − exp(k·s): 0 for a similarity of 0, and falling faster the higher the similarity.
pub(crate) fn penalty(sharpness: f64, likeness: f64) -> f64 {
    1.0 - (sharpness * likeness).exp()
}

pub(crate) fn check_sharpness(sharpness: f64) -> Result<(), CheckError> {
    match (0.0..=100.0).contains(&sharpness) {
        true => Ok(()),
        false => Err(CheckError::at(
            "sharpness",
            format!("`sharpness` must be between 0 and 100, found {sharpness}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_costs_exponentially() {
        assert_eq!(penalty(1.0, 0.0), 0.0);
        assert!((penalty(1.0, 0.5) + 0.5f64.exp() - 1.0).abs() < 1e-12);
        assert!((penalty(2.0, 1.0) + 2f64.exp() - 1.0).abs() < 1e-12);
        assert!(check_sharpness(-0.1).is_err() && check_sharpness(f64::NAN).is_err());
    }
}
