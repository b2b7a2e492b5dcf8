//! `reward`: what each completion earned, term by term, and its advantage.
//!
//! A term is one file here: the formula with its source, what it reads, and its tests. To add one, write a file like
//! `self_bleu.rs` and a line in [`terms!`] below; `docs/guides/change-the-reward.md` shows both.

mod advantage;
mod batch;
mod class_value;
mod cosine;
mod coverage;
mod density;
mod episodes;
mod expert_label;
mod meaning;
mod overlong;
mod retired;
mod scores;
mod self_bleu;
mod success;
mod term;
mod upstream;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::advantage::Advantage;
use self::batch::{Batch, Rewarded};
use self::episodes::Episodes;
pub use self::episodes::TURN;
use self::term::{Undetermined, Weighted};
use super::artifact::Completions;
use data::{Component, Note, RewardRow};
use engine::{CheckError, Context, Input, Kind, Output, Stage, Upstream};

pub use self::term::Term;

/// What each completion earned, term by term, and its advantage.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// The completions that are rewarded: attacks, responses or verdicts.
    data: Input<Completions>,
    /// Of episodes of several turns, whose last turn `data` is: the completions of the same role in the turns before, the first
    /// turn first. Terms score the last turn; the reward and the advantage, which is relative to the episodes whose first turns
    /// are of one group, are an episode's, and each of its turns gets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Input<Completions>>,
    /// The terms of the reward: each a kind with its inputs, and its weight. The reward is the sum of weight · score in
    /// this order; what is not known of a term that has a weight makes the reward unknown.
    terms: Vec<Weighted>,
    /// What an undetermined verdict or meaning comes to. By default it is not known: other verdicts on the attack count for
    /// it, and a completion without any has no reward, is not learnt from and is not in its group's mean; `worst` takes it
    /// for a failure.
    #[serde(default)]
    undetermined: Undetermined,
    /// How rewards become advantages.
    #[serde(default)]
    advantage: Advantage,
}

impl Stage for Reward {
    const KIND: Kind = Kind {
        name: "reward",
        version: 10,
        outputs: &[Output::new("rewards", "rewards")],
        numerics: true,
        draws: true,
        uncounted: &[],
    };

    fn retired(params: &serde_json::Value) -> Option<CheckError> {
        retired::translation(params)
    }

    fn check(&self) -> Result<(), CheckError> {
        self.check_terms()
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        self.hold_against(upstream)?;
        self.hold_turns_against_each_other(upstream)?;
        Ok(Vec::new())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let rows = self.rows(context)?;
        let known: Vec<f64> = rows.iter().filter_map(|row| row.reward).collect();
        let unknown = rows.len() - known.len();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let mean = if known.is_empty() { "not known".into() } else { format!("{mean:.3}") };
        let unknown =
            if unknown > 0 { format!(", {unknown} without, since undetermined") } else { String::new() };
        let note =
            if rows.is_empty() { "nothing to reward".into() } else { format!("reward {mean}{unknown}") };
        context.progress(1, 1, note);
        Ok(data::write(&context.output("rewards"), &rows)?)
    }
}

impl Reward {
    fn rows(&self, context: &Context) -> anyhow::Result<Vec<RewardRow>> {
        let rewarded = Rewarded::read(context, &self.data)?;
        let mut batch = Batch::new(context, &self.data, &rewarded, self.undetermined);
        let mut rows: Vec<RewardRow> = batch.completions.iter().map(|of| of.row(context)).collect();
        for term in &self.terms {
            let scored = term.scores(&batch)?;
            for (row, score) in rows.iter_mut().zip(&scored.scores) {
                let (name, weight) = (term.name().to_owned(), term.weight);
                row.components.push(Component { name, weight, score: *score });
            }
            for (name, values) in &scored.notes {
                for (row, value) in rows.iter_mut().zip(values).filter(|(row, _)| row.note(name).is_none()) {
                    row.notes.extend(value.clone().map(|value| Note { name: (*name).to_owned(), value }));
                }
            }
            rows.iter_mut().zip(&scored.undetermined).for_each(|(row, count)| row.undetermined += count);
            batch.add(term.name(), scored.scores);
        }
        rows.iter_mut().for_each(|row| row.reward = sum(&row.components));
        let earlier = self.earlier.iter().map(|input| Ok((input.text(), Rewarded::read(context, input)?)));
        let earlier: Vec<(String, Rewarded)> = earlier.collect::<anyhow::Result<_>>()?;
        let episodes = if earlier.is_empty() { None } else { Some(Episodes::new(&batch, &earlier)?) };
        if let Some(episodes) = &episodes {
            episodes.group(&mut rows);
        }
        // Once for each episode: a long one does not count more often in its group.
        let advantages = self.advantage.of(&rows);
        rows.iter_mut().zip(advantages).for_each(|(row, advantage)| row.advantage = advantage);
        Ok(match episodes {
            Some(episodes) => episodes.rows(context, rows),
            None => rows,
        })
    }
}

/// Σ weight · score, in the order of the terms; nothing where a score that has a weight is not known.
fn sum(components: &[Component]) -> Option<f64> {
    let counted = components.iter().filter(|component| component.weight != 0.0);
    counted.map(|component| Some(component.weight * component.score?)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn component(weight: f64, score: Option<f64>) -> Component {
        Component { name: "a".into(), weight, score }
    }

    proptest! {
        #[test]
        fn the_reward_is_the_sum_of_what_counts_in_its_order(
            parts in proptest::collection::vec((-2.0..2.0f64, -9.0..9.0f64, 0..4u8, 0..4u8), 1..8),
        ) {
            let parts: Vec<Component> = parts
                .into_iter()
                .map(|(weight, score, counts, known)| {
                    component(if counts == 0 { 0.0 } else { weight }, (known > 0).then_some(score))
                })
                .collect();
            let mut expected = Some(0.0);
            for part in &parts {
                if part.weight != 0.0 {
                    expected = expected.zip(part.score).map(|(sum, score)| sum + part.weight * score);
                }
            }
            prop_assert_eq!(sum(&parts), expected);
            // One term more is its share more; one that has no weight changes nothing, known or not.
            let and = |more: Component| sum(&parts.iter().cloned().chain([more]).collect::<Vec<_>>());
            prop_assert_eq!(and(component(0.5, Some(3.0))), expected.map(|sum| sum + 1.5));
            prop_assert_eq!(and(component(0.0, None)), expected);
            prop_assert_eq!(and(component(-1.0, None)), None);
        }
    }
}
