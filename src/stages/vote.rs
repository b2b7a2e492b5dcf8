//! `vote`: experts label pairs for the evaluator: safe or unsafe first, then rejective or positive.
//!
//! The experts here are the sandbox's: the oracle's truth with independent errors and blind spots.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Pairs, World};
use crate::data::{self, LabelRow, PairRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::game::{self, label};
use crate::store::Seed;

/// Experts label pairs for the evaluator: safe or unsafe first, then rejective or positive.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// The pairs to draw from.
    data: Input<Pairs>,
    /// The world whose experts vote.
    world: Input<World>,
    /// How many pairs to draw and label.
    prompts: usize,
}

impl Stage for Vote {
    const KIND: Kind =
        Kind { name: "vote", version: 1, outputs: &[Output::new("labels", "labels")], numerics: false };

    fn check(&self) -> Result<(), CheckError> {
        if self.prompts == 0 { Err("`prompts` is at least 1".into()) } else { Ok(()) }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let pairs = artifact::rows::<PairRow, _>(context, &self.data)?;
        anyhow::ensure!(!pairs.is_empty(), "`{}` has no pairs to label yet", self.data.text());
        let world = artifact::world(context, &self.world)?;
        let oracle = world.oracle();
        // An expert's opinion of a pair does not depend on when it is asked.
        let experts = Seed::from_u64(0).child("experts");
        let at = artifact::position(context);
        let mut rows = Vec::new();
        for index in artifact::draw(pairs.len(), self.prompts, context.seed()) {
            let pair = &pairs[index];
            let Some(truth) = oracle.class(&pair.origin.seed_id, &pair.response) else {
                anyhow::bail!("the world of `{}` has no seed `{}`", self.world.text(), pair.origin.seed_id);
            };
            let votes =
                world.experts.vote(truth, &pair.origin.category, &pair.attack, &pair.response, experts);
            let read =
                |votes: &[(String, bool)]| votes.iter().map(|(_, vote)| Some(*vote)).collect::<Vec<_>>();
            let (class, tally) = game::vote(&read(&votes.safety), &read(&votes.utility));
            let safety =
                votes.safety.iter().map(|(name, vote)| (name, if *vote { "unsafe" } else { "safe" }));
            let utility =
                votes.utility.iter().map(|(name, vote)| (name, if *vote { "positive" } else { "rejective" }));
            rows.push(LabelRow {
                response_id: rows.len() as u32,
                attack_id: rows.len() as u32,
                origin: pair.origin.clone(),
                attack: pair.attack.clone(),
                text: pair.response.clone(),
                defender: pair.defender.clone(),
                weight: 1.0,
                votes: safety.chain(utility).map(|(name, vote)| format!("{name}: {vote}")).collect(),
                unsafe_votes: tally.unsafe_votes,
                safe_votes: tally.safe_votes,
                rejective_votes: tally.rejective_votes,
                positive_votes: tally.positive_votes,
                class: label(class).into(),
                at: at.clone(),
            });
        }
        let undetermined = rows.iter().filter(|row| row.class == label(None)).count();
        context.progress(1, 1, format!("{} labels, {undetermined} undetermined", rows.len()));
        Ok(data::write(&context.output("labels"), &rows)?)
    }
}
