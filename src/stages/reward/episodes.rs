//! Episodes of several turns: an episode is rewarded once, by its last turn. Every turn of the trained role gets this reward and
//! advantage. So the return of each turn is that of the episode, as with a reward at the end and no discount.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::{Batch, Completion, RewardedRows};
use data::{Note, RewardRow, Sparse};
use engine::Context;

/// The names of two notes: the turn of a completion, and the input of the stage that has the completion of an earlier turn.
pub(crate) const TURN: &str = "turn";
pub(crate) const INPUT: &str = "input";

/// The earlier turns of the completions to reward.
pub(crate) struct Episodes<'a> {
    /// The completions of each turn, first turn first.
    turns: Vec<Vec<Completion<'a>>>,
    /// For each completion to reward, the indices of its earlier turns in `turns`.
    own: Vec<Vec<usize>>,
}

impl<'a> Episodes<'a> {
    /// Finds the earlier turns of a batch in datasets, each with its name.
    pub(crate) fn new(batch: &Batch, earlier: &'a [(String, RewardedRows)]) -> anyhow::Result<Episodes<'a>> {
        let what = batch.what();
        anyhow::ensure!(
            what.has_turns(),
            "`data` must be attacks or responses where `earlier` is given, found {}",
            what.plural()
        );
        for (name, rewarded) in earlier {
            let found = rewarded.what().plural();
            anyhow::ensure!(
                rewarded.what() == what,
                "`earlier` must be {} as `{}`, found {found} in `{name}`",
                what.plural(),
                batch.name()
            );
        }
        let turns: Vec<Vec<Completion>> =
            earlier.iter().map(|(_, rewarded)| rewarded.completions()).collect();
        let places: Vec<BTreeMap<u32, usize>> = turns
            .iter()
            .map(|turn| turn.iter().enumerate().map(|(place, completion)| (completion.id, place)).collect())
            .collect();
        let mut taken = BTreeSet::new();
        let mut own = Vec::with_capacity(batch.completions.len());
        for completion in &batch.completions {
            let before = completion.before();
            anyhow::ensure!(
                before.len() <= earlier.len(),
                "`earlier` must have a dataset for each earlier turn, found {}: {} {} of `{}` has {} earlier turns",
                earlier.len(),
                batch.one(),
                completion.id,
                batch.name(),
                before.len()
            );
            let mut found = Vec::with_capacity(before.len());
            for (turn, (id, text)) in before.into_iter().enumerate() {
                let (name, _) = &earlier[turn];
                let place = places[turn].get(&id).copied();
                let Some(place) = place.filter(|place| turns[turn][*place].text == text) else {
                    return Err(batch.missing_row_error(completion, &format!("turn {}", turn + 1), name));
                };
                anyhow::ensure!(
                    taken.insert((turn, place)),
                    "{} {id} of `{name}` must be in one episode of `{}`, found several: its reward would be ambiguous",
                    batch.one(),
                    batch.name()
                );
                found.push(place);
            }
            own.push(found);
        }
        let is_whole = own.is_empty() || own.iter().any(|found| found.len() == earlier.len());
        anyhow::ensure!(
            is_whole,
            "`earlier` must have a dataset for each earlier turn, found {}, but no episode of `{}` has so many",
            earlier.len(),
            batch.name()
        );
        Ok(Episodes { turns, own })
    }

    /// Gives each episode the group of its first turn. Episodes of one turn have groups of their own after these.
    pub(crate) fn group(&self, rows: &mut [RewardRow]) {
        let groups = self.turns.first().into_iter().flatten().map(|completion| completion.group);
        let after = groups.max().map_or(0, |group| group.saturating_add(1));
        for (row, own) in rows.iter_mut().zip(&self.own) {
            row.group = match own.first() {
                Some(place) => self.turns[0][*place].group,
                None => row.group.saturating_add(after),
            };
        }
    }

    /// A row for each turn of each episode: first turn first, in the order of the episodes.
    pub(crate) fn rows(&self, context: &Context, episodes: Vec<RewardRow>) -> Vec<RewardRow> {
        let note = |turn: usize| Note { name: TURN.into(), value: (turn + 1).to_string() };
        let input = |turn: usize| Note { name: INPUT.into(), value: format!("earlier.{turn}") };
        let mut rows = Vec::new();
        for (turn, completions) in self.turns.iter().enumerate() {
            for (episode, own) in episodes.iter().zip(&self.own) {
                let Some(place) = own.get(turn) else { continue };
                rows.push(RewardRow {
                    group: episode.group,
                    reward: episode.reward,
                    advantage: episode.advantage,
                    components: episode.components.clone(),
                    notes: Sparse(vec![note(turn), input(turn)]),
                    ..completions[*place].row(context)
                });
            }
        }
        rows.extend(episodes.into_iter().zip(&self.own).map(|(mut episode, own)| {
            episode.notes.0.push(note(own.len()));
            episode
        }));
        rows
    }
}
