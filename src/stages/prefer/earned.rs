//! Preferences by rewards.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::{self, Rewards};
use crate::reward::{Reward, TURN};
use crate::rollouts::Rollouts;
use data::{PreferenceRow, RewardRow};
use engine::{CheckError, Context, Input, Upstream};

/// Pairs the best completion of each group with the worst, by their rewards.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByRewards {
    /// The rewards. Completions without a known reward, or that no model was asked for, are in no pair.
    data: Input<Rewards>,
    /// The smallest difference between the rewards of the best and the worst. A group whose rewards are all equal makes no pair.
    #[serde(default)]
    margin: f64,
}

impl ByRewards {
    pub(crate) fn check(&self) -> Result<(), CheckError> {
        if (0.0..f64::INFINITY).contains(&self.margin) {
            return Ok(());
        }
        Err(CheckError::at("margin", format!("`margin` must be at least 0, found {}", self.margin)))
    }

    pub(crate) fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        let rewards = upstream.stage::<Reward, _>(&self.data)?;
        rewards.stage.rollouts(rewards.upstream())
    }

    /// A row for each group that makes a pair, and the stage's note.
    pub(crate) fn rows(&self, context: &Context) -> anyhow::Result<(Vec<PreferenceRow>, String)> {
        let rewards = artifact::rows::<RewardRow, _>(context, &self.data)?;
        if let Some(row) = rewards.iter().find(|row| row.note(TURN).is_some()) {
            anyhow::bail!(
                "`{}` must be rewards of single turns, found turn {} of an episode (sample {}): completions of an episode \
                 answer different prompts",
                self.data.text(),
                row.note(TURN).unwrap_or_default(),
                row.sample_id
            );
        }
        let mut groups: BTreeMap<u32, Vec<(f64, &RewardRow)>> = BTreeMap::new();
        for row in rewards.iter() {
            let group = groups.entry(row.group).or_default();
            group.extend(row.reward.filter(|_| row.sample.was_asked()).map(|reward| (reward, row)));
        }
        let mut pairs = Vec::new();
        for members in groups.values() {
            if let Some(pair) = self.pair(members) {
                let row = row(context, pairs.len(), pair);
                anyhow::ensure!(
                    pair.1.1.sample.prompt_ids == row.prompt_ids,
                    "group {} of `{}` must have completions of one prompt, found several",
                    row.group,
                    self.data.text()
                );
                pairs.push(row);
            }
        }
        let note = format!("{} pairs of {} groups", pairs.len(), groups.len());
        Ok((pairs, note))
    }

    /// The best and the worst of a group, if they differ enough; of equals, the first.
    fn pair<'a>(&self, members: &[(f64, &'a RewardRow)]) -> Option<(Earned<'a>, Earned<'a>)> {
        let best =
            members.iter().copied().reduce(|best, other| if other.0 > best.0 { other } else { best })?;
        let worst =
            members.iter().copied().reduce(|worst, other| if other.0 < worst.0 { other } else { worst })?;
        let margin = best.0 - worst.0;
        (margin > 0.0 && margin >= self.margin).then_some((best, worst))
    }
}

/// A completion and its reward.
type Earned<'a> = (f64, &'a RewardRow);

fn row(context: &Context, index: usize, ((most, best), (least, worst)): (Earned, Earned)) -> PreferenceRow {
    PreferenceRow {
        pair_id: index as u32,
        group: best.group,
        origin: best.origin.clone(),
        role: best.sample.role.clone(),
        prompt: best.sample.prompt.clone(),
        prompt_ids: best.sample.prompt_ids.clone(),
        chosen_id: best.sample_id,
        chosen: best.text.clone(),
        chosen_ids: best.sample.completion_ids.clone(),
        chosen_finished: best.sample.finished,
        rejected_id: worst.sample_id,
        rejected: worst.text.clone(),
        rejected_ids: worst.sample.completion_ids.clone(),
        rejected_finished: worst.sample.finished,
        margin: Some(most - least),
        answer: None,
        answer_reversed: None,
        at: artifact::position(context),
    }
}
