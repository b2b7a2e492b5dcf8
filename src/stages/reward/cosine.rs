//! `cosine`: the second part of P_div of TriPlay-RL (arXiv 2601.18292, section 3). With C the mean cosine similarity of an
//! attack's embedding to its `neighbours` nearest in the pool of successful attacks, within 0 and 1: −y(C), y(s) = exp(k·s) − 1.
//! Nearest neighbours ask whether the pool has anything like the attack; [`super::density`] asks how much of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, What};
use super::self_bleu::{check_sharpness, default_sharpness, penalty};
use super::term::{Scores, Term};
use crate::artifact::{Model, SuccessPool};
use engine::{CheckError, Input};

/// Minus the likeness of an attack's embedding to the nearest in the pool.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cosine {
    /// The successful attacks that it is compared with.
    pool: Input<SuccessPool>,
    /// Embeds attacks, as it embedded those of the pool.
    embedder: Input<Model>,
    /// Nearest neighbours in the pool that the similarity is the mean over.
    #[serde(default = "default_neighbours")]
    neighbours: usize,
    /// k of y(s) = exp(k·s) − 1.
    #[serde(default = "default_sharpness")]
    sharpness: f64,
}

fn default_neighbours() -> usize {
    5
}

impl Term for Cosine {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let embeddings = batch.embeddings(&self.embedder)?;
        let likeness = batch.pool(&self.pool)?.cosine(&embeddings, self.neighbours)?;
        Ok(batch.known(likeness.into_iter().map(|likeness| penalty(self.sharpness, likeness))).into())
    }

    fn scored(&self) -> &'static [What] {
        &[What::Attack]
    }

    fn check(&self) -> Result<(), CheckError> {
        if self.neighbours == 0 {
            return Err(CheckError::at("neighbours", "`neighbours` must be at least 1"));
        }
        check_sharpness(self.sharpness)
    }

    fn is_constant(&self) -> bool {
        self.sharpness == 0.0
    }

    fn embedder(&self) -> Option<&Input<Model>> {
        Some(&self.embedder)
    }
}
