//! How alike texts are, and how much there is of everything: Self-BLEU and distinct n-grams of words, cosine
//! similarity and what follows from it for embeddings, and how evenly cells of strategies are hit.

mod bleu;
mod cells;
mod embedding;

pub use bleu::{BleuReferences, distinct_n, self_bleu};
pub use cells::{cell_coverage, cell_entropy};
pub use embedding::{embedding_diversity, unit, vendi_score};
