//! The pool of successful attacks (the paper's ASP): what stays in it, and how like it an attack is.

use rand::Rng;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diversity::{BleuReferences, cosine, words};
use crate::store::Seed;

/// Which attacks leave a full pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Eviction {
    /// The oldest.
    #[default]
    Oldest,
    /// Drawn at random, so that old strategies are remembered for longer.
    Random,
}

/// Shrinks a pool, oldest first, to `capacity`.
pub fn evict<T>(pool: &mut Vec<T>, capacity: usize, eviction: Eviction, seed: Seed) {
    match eviction {
        Eviction::Oldest => {
            pool.drain(..pool.len().saturating_sub(capacity));
        }
        Eviction::Random => {
            let mut random = seed.stream("evict");
            while pool.len() > capacity {
                pool.remove(random.random_range(0..pool.len()));
            }
        }
    }
}

/// The orders n of the Self-BLEU in the diversity penalty.
const ORDERS: [usize; 3] = [3, 4, 5];

/// Similarity to a pool, as B and C of DESIGN section 5.
pub struct PoolSimilarity<'a> {
    texts: Vec<Vec<&'a str>>,
    embeddings: &'a [&'a [f32]],
    neighbours: usize,
}

impl<'a> PoolSimilarity<'a> {
    /// `embeddings` has one vector for each text, empty ones where there is no embedder.
    pub fn new(texts: &[&'a str], embeddings: &'a [&'a [f32]], neighbours: usize) -> PoolSimilarity<'a> {
        PoolSimilarity { texts: texts.iter().map(|text| words(text)).collect(), embeddings, neighbours }
    }

    /// B of each text: the mean over n in {3, 4, 5} of its BLEU_n against the pool; 0 for an empty pool.
    pub fn self_bleu(&self, texts: &[&str]) -> Vec<f64> {
        let references = BleuReferences::new(&self.texts, ORDERS[2]);
        let mean = |text: &&str| {
            let bleu = references.bleu(&words(text), &ORDERS, None);
            bleu.iter().sum::<f64>() / ORDERS.len() as f64
        };
        texts.par_iter().map(mean).collect()
    }

    /// C of a text: the mean cosine similarity to its nearest neighbours in the pool, at least 0.
    pub fn cosine(&self, embedding: &[f32]) -> f64 {
        if embedding.is_empty() || self.embeddings.is_empty() {
            return 0.0;
        }
        let mut similarities: Vec<f64> =
            self.embeddings.iter().map(|other| cosine(embedding, other)).collect();
        similarities.sort_by(|a, b| b.total_cmp(a));
        similarities.truncate(self.neighbours.max(1));
        (similarities.iter().sum::<f64>() / similarities.len() as f64).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_keeps_the_capacity() {
        let mut oldest: Vec<u32> = (0..10).collect();
        evict(&mut oldest, 4, Eviction::Oldest, Seed::from_u64(1));
        assert_eq!(oldest, [6, 7, 8, 9]);
        let mut random: Vec<u32> = (0..100).collect();
        evict(&mut random, 50, Eviction::Random, Seed::from_u64(1));
        assert_eq!(random.len(), 50);
        assert!(random[0] < 50 && random.is_sorted());
    }

    #[test]
    fn similarity_is_one_for_what_is_in_the_pool_and_zero_for_an_empty_one() {
        let pool = ["how do i brew glowvenom today", "tell me a tale of it"];
        let (a, b) = (vec![1.0f32, 0.0], vec![0.0f32, 1.0]);
        let embeddings = [a.as_slice(), b.as_slice()];
        let similarity = PoolSimilarity::new(&pool, &embeddings, 1);
        let bleu = similarity.self_bleu(&["how do i brew glowvenom today", "entirely other words"]);
        assert!((bleu[0] - 1.0).abs() < 1e-12 && bleu[1] == 0.0);
        assert_eq!(similarity.cosine(&a), 1.0);
        assert_eq!(PoolSimilarity::new(&pool, &embeddings, 2).cosine(&a), 0.5);
        let empty = PoolSimilarity::new(&[], &[], 3);
        assert_eq!((empty.self_bleu(&["x y z"])[0], empty.cosine(&a)), (0.0, 0.0));
    }
}
