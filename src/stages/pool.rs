//! `pool`: keeps the attacks that succeeded (the paper's ASP), which the diversity penalty looks at.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Model, Rewards, SuccessPool};
use crate::data::{self, PoolRow, RewardRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::game::{self, Eviction, PoolSimilarity};

/// Keeps the attacks that succeeded (the paper's ASP), which the diversity penalty looks at.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Rewards of the attacker.
    data: Input<Rewards>,
    /// The pool so far.
    into: Input<SuccessPool>,
    /// Attacks whose success (weighted over the defense models) reaches this are taken.
    #[serde(default = "default_threshold")]
    threshold: f64,
    /// Attacks beyond this number leave the pool.
    #[serde(default = "default_capacity")]
    capacity: usize,
    /// Which attacks leave a full pool.
    #[serde(default)]
    eviction: Eviction,
    /// Embeds what is taken, for the cosine part of the penalty; without it no embedding is kept.
    #[serde(default)]
    embedder: Option<Input<Model>>,
}

fn default_threshold() -> f64 {
    0.5
}

fn default_capacity() -> usize {
    400
}

impl Stage for Pool {
    const KIND: Kind =
        Kind { name: "pool", version: 3, outputs: &[Output::new("pool", "pool")], numerics: true };

    fn check(&self) -> Result<(), CheckError> {
        if self.capacity == 0 { Err("`capacity` is at least 1".into()) } else { Ok(()) }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let rewards = artifact::rows::<RewardRow, _>(context, &self.data)?;
        let mut pool = artifact::rows::<PoolRow, _>(context, &self.into)?.to_vec();
        let at = artifact::position(context);
        let taken: Vec<&RewardRow> = rewards
            .iter()
            .filter(|row| row.attack_success.is_some_and(|success| success >= self.threshold))
            .collect();
        let texts: Vec<&str> = taken.iter().map(|row| row.text.as_str()).collect();
        let embeddings = artifact::embed(context, self.embedder.as_ref(), &texts)?;
        let mut similarity = PoolSimilarity::clone(&*artifact::pool(context, &self.into)?);
        for (row, embedding) in taken.into_iter().zip(embeddings) {
            similarity.add(&row.text, &embedding)?;
            pool.push(PoolRow {
                text: row.text.clone(),
                seed_id: row.origin.seed_id.clone(),
                category: row.origin.category.clone(),
                seed: row.origin.seed.clone(),
                technique: row.technique.clone(),
                success: row.attack_success.unwrap_or_default(),
                alpha: 1.0,
                beta: 1.0,
                embedding,
                at: at.clone(),
            });
        }
        let grown = pool.len();
        game::evict(&mut pool, self.capacity, self.eviction, context.seed());
        if pool.len() == grown {
            let bytes = similarity.bytes();
            context.remember("pool", similarity, bytes);
        }
        context.progress(1, 1, format!("{} attacks", pool.len()));
        Ok(data::write(&context.output("pool"), &pool)?)
    }
}
