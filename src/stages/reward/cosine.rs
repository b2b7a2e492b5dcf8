//! `cosine`: the second part of P_div of TriPlay-RL (arXiv 2601.18292, section 3). The score is −y(C), where y(s) = exp(k·s) − 1
//! and C is the mean cosine similarity, within 0 and 1, of an attack's embedding to its `neighbours` nearest in the pool of
//! successful attacks. This term tells whether the pool contains anything similar to the attack; [`super::density`] tells how
//! much.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, CompletionKind};
use super::self_bleu::{check_sharpness, default_sharpness, penalty};
use super::term::{Scores, Term};
use crate::artifact::{AskedModel, SuccessPool};
use engine::{CheckError, Input};

/// Penalizes the similarity of an attack's embedding to its nearest neighbours in the pool.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cosine {
    /// The successful attacks to compare with.
    pool: Input<SuccessPool>,
    /// The model that embeds attacks; it must be the `embedder` of the pool.
    embedder: Input<AskedModel>,
    /// The number of nearest neighbours in the pool over which the similarity is averaged.
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
        Ok(batch.of_texts(likeness.into_iter().map(|likeness| penalty(self.sharpness, likeness))).into())
    }

    fn scored(&self) -> &'static [CompletionKind] {
        &[CompletionKind::Attack]
    }

    fn check(&self) -> Result<(), CheckError> {
        if self.neighbours == 0 {
            return Err(CheckError::at("neighbours", "`neighbours` must be at least 1, found 0"));
        }
        check_sharpness(self.sharpness)
    }

    fn is_constant(&self) -> bool {
        self.sharpness == 0.0
    }

    fn embedder(&self) -> Option<&Input<AskedModel>> {
        Some(&self.embedder)
    }
}
