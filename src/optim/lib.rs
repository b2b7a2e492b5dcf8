//! Optimisation: AdamW with its state on disk, clipping, learning-rate schedules.

mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWConfig, clip, distance};
pub use schedule::Schedule;
