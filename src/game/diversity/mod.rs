//! Diversity of texts: Self-BLEU and distinct n-grams of words, cosine similarity and the Vendi score of embeddings, and how
//! evenly attacks hit cells of category and technique.

mod bleu;
mod cells;
mod embedding;

pub use bleu::{BleuReferences, distinct_n, self_bleu};
pub use cells::{cell_coverage, cell_entropy};
pub(crate) use embedding::unit;
pub use embedding::{embedding_diversity, vendi_score};
