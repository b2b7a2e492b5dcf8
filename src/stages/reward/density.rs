//! `density`: the paper's own P_div is a sum over the whole pool, not over nearest neighbours (TriPlay-RL, arXiv 2601.18292,
//! section 3). As a density, D(x) = 1/|P| · Σ_p K(x, p) over the pool P, where K is the cosine of the embeddings, at least 0, or
//! with `bandwidth` h the kernel exp(−(1 − cos)/h) (a von Mises–Fisher kernel estimate, Hall, Watson and Cabrera 1987, up to its
//! constant). The score is the novelty 1 − D(x), times the score of another term: `times: meaning` rewards novelty only if the
//! meaning is kept, `times: success` only if the attack succeeds, so that an empty or off-topic attack gains nothing. If an
//! attacker always says the same, this text fills the pool and D(x) approaches 1, whereas the similarity to the nearest
//! neighbours no longer grows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, CompletionKind};
use super::term::{Scores, Term};
use crate::artifact::{AskedModel, SuccessPool};
use engine::{CheckError, Input};

/// Rewards the distance of an attack from the pool as a whole, times another score.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Density {
    /// The successful attacks to compare with. With a larger `capacity` and `eviction: random`, the pool remembers more than the
    /// last steps.
    pool: Input<SuccessPool>,
    /// The model that embeds attacks; it must be the `embedder` of the pool.
    embedder: Input<AskedModel>,
    /// The name of the term above whose score is the other factor, such as `meaning` or `success`.
    times: String,
    /// h of the kernel exp(−(1 − cosine)/h); without it the kernel is the cosine itself.
    #[serde(default)]
    bandwidth: Option<f64>,
}

impl Term for Density {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let embeddings = batch.embeddings(&self.embedder)?;
        let density = batch.pool(&self.pool)?.density(&embeddings, self.bandwidth)?;
        let gates = batch.above(&self.times)?.iter();
        let scores =
            density.into_iter().zip(gates).map(|(density, gate)| Some(gate.as_ref()? * (1.0 - density)));
        Ok(scores.collect::<Vec<_>>().into())
    }

    fn scored(&self) -> &'static [CompletionKind] {
        &[CompletionKind::Attack]
    }

    fn check(&self) -> Result<(), CheckError> {
        match self.bandwidth {
            Some(bandwidth) if !(bandwidth > 0.0 && bandwidth.is_finite()) => {
                Err(CheckError::at("bandwidth", format!("`bandwidth` must be above 0, found {bandwidth}")))
            }
            _ => Ok(()),
        }
    }

    fn reads(&self) -> Option<(&'static str, &str)> {
        Some(("times", &self.times))
    }

    fn embedder(&self) -> Option<&Input<AskedModel>> {
        Some(&self.embedder)
    }
}
