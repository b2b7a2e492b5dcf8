//! `density`: the paper's own P_div is a sum over the whole pool, not over nearest neighbours (TriPlay-RL, arXiv 2601.18292,
//! section 3). As a density, D(x) = 1/|P| · Σ_p K(x, p) over the pool P, with K the cosine of the embeddings, at least 0, or with
//! `bandwidth` h the kernel exp(−(1 − cos)/h) (a von Mises–Fisher kernel estimate, Hall, Watson and Cabrera 1987, up to its
//! constant). The score is the novelty 1 − D(x), times the score of another term: `times: meaning` pays what is new only where the
//! meaning is kept, `times: success` only where it succeeds, so that an empty or off-topic attack gains nothing. An attacker
//! that says always the same fills the pool with it, and D(x) goes to 1; of nearest neighbours there were some before too.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, What};
use super::term::{Scores, Term};
use crate::artifact::{Model, SuccessPool};
use engine::{CheckError, Input};

/// How far an attack is from the pool as a whole, times another score.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Density {
    /// The successful attacks that it is compared with. With a larger `capacity` and `eviction: random` it remembers more than
    /// the last steps.
    pool: Input<SuccessPool>,
    /// Embeds attacks, as it embedded those of the pool.
    embedder: Input<Model>,
    /// The name of the term above whose score it is multiplied by, such as `meaning` or `success`.
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

    fn scored(&self) -> &'static [What] {
        &[What::Attack]
    }

    fn check(&self) -> Result<(), CheckError> {
        match self.bandwidth {
            Some(bandwidth) if !(bandwidth > 0.0 && bandwidth.is_finite()) => {
                Err(CheckError::at("bandwidth", "`bandwidth` must be above 0"))
            }
            _ => Ok(()),
        }
    }

    fn reads(&self) -> Option<(&'static str, &str)> {
        Some(("times", &self.times))
    }

    fn embedder(&self) -> Option<&Input<Model>> {
        Some(&self.embedder)
    }
}
