//! `vote`: experts label pairs for the evaluator: safe or unsafe first, then rejective or positive.
//!
//! The experts here are the sandbox's: the oracle's truth with independent errors and blind spots.

use serde::{Deserialize, Serialize};

use super::artifact::{self, Pairs, World};
use crate::data::{self, LabelRow, PairRow};
use crate::engine::{Context, Input, Kind, Output, Stage};
use crate::game;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    data: Input<Pairs>,
    /// The world whose experts vote.
    world: Input<World>,
    /// How many pairs to draw and label.
    prompts: usize,
}

impl Stage for Vote {
    const KIND: Kind = Kind { name: "vote", version: 1, outputs: &[Output::new("labels", "labels")], numerics: false };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        todo!()
    }
}
