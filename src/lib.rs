//! Declarative, cached pipelines for tri-role self-play reinforcement learning (TriPlay-RL, arXiv 2601.18292).
//!
//! The crates of `src/`, each under its own name, and the command line. A crate uses only crates of lower layers;
//! `tests/it/layers.rs` holds the table of layers. See ARCHITECTURE.md.

pub mod cli;

pub use cli::{PipelineRun, program};
pub use {analysis, data, engine, exec, game, output, report, runs, store};
#[cfg(feature = "models")]
pub use {grpo, model, ops, optim, rollout, serve, stages};
