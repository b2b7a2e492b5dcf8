//! `replay`: draws attacks of the pool that may still work, so that a defender does not forget them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, SuccessPool};
use data::{self, AttackRow, Origin, PoolRow, Sample, Sparse};
use engine::{Context, Input, Kind, Output, Stage};
use game::{self, Posterior};

/// Draws attacks of the pool that may still work, by Thompson sampling: the attacks with the largest draws from the posteriors of
/// their success. An empty pool gives no attacks.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    /// The pool to draw from; `pool` with `verdicts` keeps its posteriors up to date.
    data: Input<SuccessPool>,
    /// How many attacks to draw, each at most once. If the pool has fewer, all are drawn; with 0, none.
    prompts: usize,
}

impl Stage for Replay {
    const KIND: Kind = Kind {
        name: "replay",
        version: 1,
        outputs: &[Output::new("attacks", "attacks")],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let pool = artifact::rows::<PoolRow, _>(context, &self.data)?;
        let posteriors: Vec<Posterior> =
            pool.iter().map(|row| Posterior { alpha: row.alpha, beta: row.beta }).collect();
        let drawn = game::thompson(&posteriors, self.prompts, context.seed());
        let at = artifact::position(context);
        let attack = |(number, index): (usize, &usize)| {
            let row = &pool[*index];
            AttackRow {
                attack_id: number as u32,
                origin: Origin {
                    seed_id: row.seed_id.clone(),
                    category: row.category.clone(),
                    split: "train".into(),
                    task: "hazard".into(),
                    seed: row.seed.clone(),
                },
                technique: row.technique.clone(),
                group: number as u32,
                text: row.text.clone(),
                answer: None,
                turns: Sparse::default(),
                sample: Sample::template(&row.text),
                at: at.clone(),
            }
        };
        let attacks: Vec<AttackRow> = drawn.iter().enumerate().map(attack).collect();
        let note = match pool.len() {
            0 => "the pool is empty: nothing to replay".to_owned(),
            all => format!("{} of {all} attacks", attacks.len()),
        };
        context.progress(1, 1, note);
        Ok(data::write(&context.output("attacks"), &attacks)?)
    }
}
