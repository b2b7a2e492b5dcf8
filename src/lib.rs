//! Declarative, cached pipelines for tri-role self-play reinforcement learning (TriPlay-RL, arXiv 2601.18292).
//!
//! Modules import only downwards; `tests/layers.rs` holds the table. See ARCHITECTURE.md.

pub mod analysis;
pub mod cli;
pub mod data;
pub mod engine;
pub mod game;
pub mod grpo;
pub mod model;
pub mod ops;
pub mod optim;
pub mod report;
pub mod rollout;
pub mod runs;
pub mod stages;
pub mod store;
