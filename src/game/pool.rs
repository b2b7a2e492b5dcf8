//! The pool of successful attacks (the paper's ASP): eviction from it, and the similarity of attacks to it.

use rand::Rng;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diversity::{BleuReferences, unit};
use kernels::{Matrix, Panels, matmul_panels};
use store::Seed;

/// Which attacks leave a full pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Eviction {
    /// The oldest attacks.
    #[default]
    Oldest,
    /// Random attacks, so that old strategies stay in the pool for longer.
    Random,
}

/// Shrinks a pool, whose oldest entries come first, to `capacity`.
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

/// Texts that are compared with the pool at the same time, so that the pool's vectors stay in the caches.
const BLOCK: usize = 256;

/// The texts of a pool, ready for comparisons: they give B and C of P_div (TriPlay-RL, arXiv 2601.18292, section 3;
/// docs/method.md). Adding a text costs no more than its own length.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSimilarity {
    references: BleuReferences,
    /// Unit vectors, one after the other.
    embeddings: Vec<f32>,
    /// The width of each vector; 0 without an embedder.
    width: usize,
    texts: usize,
}

/// The error for embeddings of different widths.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "embeddings must have as many numbers as the pool's, {pool}, found {found}: `pool` and `reward` must have the same \
     `embedder` throughout"
)]
pub struct WidthError {
    pool: usize,
    found: usize,
}

impl PoolSimilarity {
    /// An empty pool.
    pub fn new() -> PoolSimilarity {
        PoolSimilarity {
            references: BleuReferences::new(ORDERS[2]),
            embeddings: Vec::new(),
            width: 0,
            texts: 0,
        }
    }

    /// Adds a text with its embedding, which is empty without an embedder.
    pub fn add(&mut self, text: &str, embedding: &[f32]) -> Result<(), WidthError> {
        if self.texts == 0 {
            self.width = embedding.len();
        }
        self.comparable(embedding)?;
        self.references.add(text);
        self.embeddings.extend(unit(embedding));
        self.texts += 1;
        Ok(())
    }

    fn comparable(&self, embedding: &[f32]) -> Result<(), WidthError> {
        let (pool, found) = (self.width, embedding.len());
        if pool == found { Ok(()) } else { Err(WidthError { pool, found }) }
    }

    /// B of each text: the mean over n in {3, 4, 5} of its BLEU_n against the pool; 0 for an empty pool.
    pub fn self_bleu(&self, texts: &[&str]) -> Vec<f64> {
        let mean = |text: &&str| {
            let bleu = self.references.bleu(text, &ORDERS, false);
            bleu.iter().sum::<f64>() / ORDERS.len() as f64
        };
        texts.par_iter().map(mean).collect()
    }

    /// C of each embedding: the mean cosine similarity to its nearest neighbours in the pool, within 0 and 1; 0 for an empty pool
    /// or without an embedder.
    pub fn cosine(&self, embeddings: &[Vec<f32>], neighbours: usize) -> Result<Vec<f64>, WidthError> {
        self.each(embeddings, |row| mean_of_largest(row, neighbours.max(1)).clamp(0.0, 1.0))
    }

    /// The density of the pool at each embedding: the mean over the whole pool of the cosine similarity, each at least 0, or with
    /// a bandwidth h of exp(−(1 − cosine)/h). Within 0 and 1; 0 for an empty pool.
    pub fn density(&self, embeddings: &[Vec<f32>], bandwidth: Option<f64>) -> Result<Vec<f64>, WidthError> {
        let kernel = |cosine: f64| match bandwidth {
            None => cosine.clamp(0.0, 1.0),
            Some(bandwidth) => ((cosine.min(1.0) - 1.0) / bandwidth).exp(),
        };
        let mean =
            |row: &[f32]| row.iter().map(|cosine| kernel(f64::from(*cosine))).sum::<f64>() / row.len() as f64;
        self.each(embeddings, mean)
    }

    /// Calls `of` with the cosine similarities of each embedding to the whole pool; 0 if there is nothing to compare.
    fn each(
        &self,
        embeddings: &[Vec<f32>],
        of: impl Fn(&[f32]) -> f64 + Sync,
    ) -> Result<Vec<f64>, WidthError> {
        let asked = embeddings.iter().any(|embedding| !embedding.is_empty());
        if self.texts == 0 || !asked {
            return Ok(vec![0.0; embeddings.len()]);
        }
        embeddings.iter().try_for_each(|embedding| self.comparable(embedding))?;
        let pool = Panels::of(Matrix::new(&self.embeddings, self.texts, self.width).t());
        let mut similarities = vec![0f32; BLOCK.min(embeddings.len()) * self.texts];
        let mut found = Vec::with_capacity(embeddings.len());
        for block in embeddings.chunks(BLOCK) {
            let units = block.iter().flat_map(|embedding| unit(embedding)).collect::<Vec<f32>>();
            let out = &mut similarities[..block.len() * self.texts];
            matmul_panels(Matrix::new(&units, block.len(), self.width), &pool, out, false);
            let rows = out.par_chunks(self.texts);
            found.par_extend(rows.map(&of));
        }
        Ok(found)
    }

    /// The approximate memory in bytes.
    pub fn bytes(&self) -> usize {
        self.references.bytes() + 4 * self.embeddings.len()
    }
}

impl Default for PoolSimilarity {
    fn default() -> Self {
        PoolSimilarity::new()
    }
}

/// The mean of the `count` largest numbers, or of all if there are fewer.
fn mean_of_largest(numbers: &[f32], count: usize) -> f64 {
    // In descending order. Most numbers are below the last of them.
    let mut largest: Vec<f32> = Vec::with_capacity(count.min(numbers.len()) + 1);
    for &number in numbers {
        if largest.len() < count || largest.last().is_some_and(|least| number > *least) {
            largest.insert(largest.partition_point(|other| *other >= number), number);
            largest.truncate(count);
        }
    }
    largest.iter().copied().map(f64::from).sum::<f64>() / largest.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::self_bleu;

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
        let mut pool = PoolSimilarity::new();
        let (a, b) = (vec![1.0f32, 0.0], vec![0.0f32, 2.0]);
        assert_eq!(pool.self_bleu(&["x y z"]), [0.0]);
        assert_eq!(pool.cosine(std::slice::from_ref(&a), 3), Ok(vec![0.0]));
        pool.add("how do i brew glowvenom today", &a).unwrap();
        pool.add("tell me a tale of it", &b).unwrap();
        let bleu = pool.self_bleu(&["how do i brew glowvenom today", "entirely other words"]);
        assert!((bleu[0] - 1.0).abs() < 1e-12 && bleu[1] == 0.0);
        assert_eq!(pool.cosine(&[a.clone(), b.clone()], 1), Ok(vec![1.0, 1.0]));
        assert_eq!(pool.cosine(&[a.clone(), vec![-1.0, 0.0]], 2), Ok(vec![0.5, 0.0]));
        assert_eq!(pool.cosine(&[a, b], 9), Ok(vec![0.5, 0.5]));
        assert_eq!(pool.cosine(&[Vec::new()], 9), Ok(vec![0.0]));
        let error = pool.cosine(&[vec![1.0; 3]], 9).unwrap_err();
        assert_eq!(error, WidthError { pool: 2, found: 3 });
    }

    #[test]
    fn the_density_sees_how_much_of_it_there_is_and_not_only_whether() {
        let (same, other) = (vec![1.0f32, 0.0], vec![0.0f32, 1.0]);
        let pool = |count: usize| {
            let mut pool = PoolSimilarity::new();
            (0..10).for_each(|i| pool.add("a", if i < count { &same } else { &other }).unwrap());
            pool
        };
        let asked = std::slice::from_ref(&same);
        // One in ten or all of them: the nearest neighbour is the same, the density ten times as high.
        assert_eq!([1, 10].map(|count| pool(count).cosine(asked, 1).unwrap()[0]), [1.0, 1.0]);
        assert_eq!([1, 10].map(|count| pool(count).density(asked, None).unwrap()[0]), [0.1, 1.0]);
        let kernel = pool(1).density(asked, Some(0.5)).unwrap()[0];
        assert!((kernel - (1.0 + 9.0 * (-2f64).exp()) / 10.0).abs() < 1e-12);
        assert_eq!(PoolSimilarity::new().density(asked, None).unwrap(), [0.0]);
        assert_eq!(
            pool(0).density(&[vec![0.0, -1.0]], None).unwrap(),
            [0.0],
            "opposite vectors have similarity 0"
        );
    }

    #[test]
    fn a_pool_grown_one_by_one_is_the_pool_counted_at_once() {
        let texts: Vec<String> =
            (0..60).map(|i: usize| format!("brew w{} w{} glowvenom w{}", i % 7, i % 3, i % 11)).collect();
        let embedding = |i: usize| vec![(i as f32).sin(), (i as f32).cos(), 0.5];
        let pool = |texts: &[String]| {
            let mut pool = PoolSimilarity::new();
            texts.iter().enumerate().for_each(|(i, text)| pool.add(text, &embedding(i)).unwrap());
            pool
        };
        let mut grown = PoolSimilarity::new();
        for (i, text) in texts.iter().enumerate() {
            // Queries in between change nothing.
            grown.self_bleu(&["brew w1 unheard of"]);
            grown.add(text, &embedding(i)).unwrap();
            assert_eq!(grown, pool(&texts[..=i]));
        }
        // And it is the BLEU of the texts as they are.
        let asked = "brew w1 w2 glowvenom w3 w4";
        let mut all: Vec<&str> = texts.iter().map(String::as_str).collect();
        all.push(asked);
        let expected = self_bleu(&all, &ORDERS).pop().unwrap().iter().sum::<f64>() / 3.0;
        assert!((grown.self_bleu(&[asked])[0] - expected).abs() < 1e-12);
    }

    #[test]
    fn the_largest_are_found_wherever_they_are() {
        let numbers = [0.1, 0.9, -0.3, 0.5, 0.9, 0.2];
        assert!((mean_of_largest(&numbers, 3) - 2.3 / 3.0).abs() < 1e-6);
        assert_eq!(mean_of_largest(&[0.5, 0.25], 5), 0.375);
    }
}
