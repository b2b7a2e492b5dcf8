//! `reward`: computes the reward of each completion, term by term, and its advantage.
//!
//! A term is one file here: the formula with its source, what it reads, and its tests. To add one, write a file like
//! `overlong.rs`, and name it below and in `terms!` of `term.rs`: `docs/guides/change-the-reward.md` shows how.

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
use self::batch::{Batch, RewardedRows, Undetermined};
use self::episodes::Episodes;
pub(crate) use self::episodes::TURN;
use self::term::Weighted;
use super::artifact::Completions;
use data::{Component, Note, RewardRow};
use engine::{CheckError, Context, Input, Kind, Output, Stage, Upstream};

pub(crate) use self::term::Term;

/// Computes the reward of each completion, term by term, and its advantage.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reward {
    /// The completions to reward: attacks, responses or verdicts.
    data: Input<Completions>,
    /// For episodes of several turns, whose last turn is `data`: the same role's completions in the earlier turns, first turn
    /// first. Terms score the last turn. The reward and advantage are those of the episode, and each of its turns gets them. The
    /// advantage is relative to the episodes whose first turns are of one group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Input<Completions>>,
    /// The terms of the reward: each has a kind with its inputs, and a weight. The reward is the sum of weight · score in this
    /// order. It is unknown if the score of any term with a weight is unknown.
    terms: Vec<Weighted>,
    /// How to score with an undetermined verdict or meaning. With `skip`, other verdicts on the attack count in its place; a
    /// completion without any has no reward, nothing is learnt from it, and it does not count in the mean of its group. With
    /// `worst`, it counts as a failure.
    #[serde(default)]
    undetermined: Undetermined,
    /// How rewards become advantages.
    #[serde(default)]
    advantage: Advantage,
}

impl Stage for Reward {
    const KIND: Kind = Kind {
        name: "reward",
        version: 12,
        outputs: &[Output::new("rewards", "rewards")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    fn retired(params: &serde_json::Value) -> Option<CheckError> {
        retired::translation(params)
    }

    fn check(&self) -> Result<(), CheckError> {
        let earlier: Vec<String> = self.earlier.iter().map(Input::text).collect();
        if let Some(index) = (0..earlier.len()).find(|index| earlier[..*index].contains(&earlier[*index])) {
            let message = format!(
                "`earlier` must have a different dataset for each earlier turn, found `{}` twice",
                earlier[index]
            );
            return Err(CheckError::at(format!("earlier.{index}"), message));
        }
        self.check_terms()
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        self.check_upstream(upstream)?;
        self.check_turns(upstream)?;
        Ok(Vec::new())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let rows = self.rows(context)?;
        let known: Vec<f64> = rows.iter().filter_map(|row| row.reward).collect();
        let unknown = rows.len() - known.len();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let mean = if known.is_empty() { "not known".into() } else { format!("{mean:.3}") };
        let unknown = if unknown > 0 { format!(", {unknown} undetermined") } else { String::new() };
        let note =
            if rows.is_empty() { "nothing to reward".into() } else { format!("reward {mean}{unknown}") };
        context.progress(1, 1, note);
        Ok(data::write(&context.output("rewards"), &rows)?)
    }
}

impl Reward {
    fn rows(&self, context: &Context) -> anyhow::Result<Vec<RewardRow>> {
        let rewarded = RewardedRows::read(context, &self.data)?;
        let mut batch = Batch::new(context, &self.data, &rewarded, self.undetermined);
        let mut rows: Vec<RewardRow> = batch.completions.iter().map(|of| of.row(context)).collect();
        for term in &self.terms {
            let scored = term.scores(&batch)?;
            for (row, score) in rows.iter_mut().zip(&scored.scores) {
                row.components.0.push(component(term.name(), term.weight, *score));
            }
            for (name, values) in &scored.notes {
                for (row, value) in rows.iter_mut().zip(values).filter(|(row, _)| row.note(name).is_none()) {
                    row.notes.0.extend(value.clone().map(|value| Note { name: (*name).to_owned(), value }));
                }
            }
            rows.iter_mut().zip(&scored.undetermined).for_each(|(row, count)| row.undetermined += count);
            batch.add(term.name(), scored.scores);
        }
        // In the order of the terms; `None` if one is not known.
        rows.iter_mut().for_each(|row| row.reward = row.components.iter().map(|term| term.value).sum());
        let weights: Vec<f64> = self.terms.iter().map(|term| term.weight).collect();
        let earlier =
            self.earlier.iter().map(|input| Ok((input.text(), RewardedRows::read(context, input)?)));
        let earlier: Vec<(String, RewardedRows)> = earlier.collect::<anyhow::Result<_>>()?;
        let episodes = if earlier.is_empty() { None } else { Some(Episodes::new(&batch, &earlier)?) };
        if let Some(episodes) = &episodes {
            episodes.group(&mut rows);
        }
        // Once for each episode, so that a long one does not count more often in its group.
        let advantages = self.advantage.of(&rows, &weights);
        rows.iter_mut().zip(advantages).for_each(|(row, advantage)| row.advantage = advantage);
        Ok(match episodes {
            Some(episodes) => episodes.rows(context, rows),
            None => rows,
        })
    }
}

/// The value of a term for a completion: weight · score. A term of weight 0 has the value 0, whether its score is known or not.
fn component(name: &str, weight: f64, score: Option<f64>) -> Component {
    let value = if weight == 0.0 { Some(0.0) } else { score.map(|score| weight * score) };
    Component { name: name.to_owned(), score, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(terms: &[(f64, Option<f64>)]) -> Option<f64> {
        terms.iter().map(|(weight, score)| component("a", *weight, *score).value).sum()
    }

    proptest! {
        #[test]
        fn the_reward_is_the_sum_of_what_counts_in_its_order(
            parts in proptest::collection::vec((-2.0..2.0f64, -9.0..9.0f64, 0..4u8, 0..4u8), 1..8),
        ) {
            let parts: Vec<(f64, Option<f64>)> = parts
                .into_iter()
                .map(|(weight, score, counts, known)| {
                    (if counts == 0 { 0.0 } else { weight }, (known > 0).then_some(score))
                })
                .collect();
            let mut expected = Some(0.0);
            for (weight, score) in &parts {
                if *weight != 0.0 {
                    expected = expected.zip(*score).map(|(sum, score)| sum + weight * score);
                }
            }
            prop_assert_eq!(sum(&parts), expected);
            // One term more is its share more; one that has no weight changes nothing, known or not.
            let and = |more: (f64, Option<f64>)| sum(&parts.iter().copied().chain([more]).collect::<Vec<_>>());
            prop_assert_eq!(and((0.5, Some(3.0))), expected.map(|sum| sum + 1.5));
            prop_assert_eq!(and((0.0, None)), expected);
            prop_assert_eq!(and((-1.0, None)), None);
        }
    }
}
