//! Episodes of several turns: an attack that continues a conversation carries its earlier turns, and so do all rows made from it.
//! The number of a turn is the number of earlier turns plus 1.

use data::{ResponseRow, Sparse, TurnRow};
use game::Turn;

/// The earlier turns as templates see them.
pub(crate) fn conversation(turns: &[TurnRow]) -> Vec<Turn<'_>> {
    let turns = turns.iter();
    turns.map(|row| Turn { attack: &row.attack, response: &row.response, defender: &row.defender }).collect()
}

/// The turns of an episode up to and including this response.
pub(crate) fn after(row: &ResponseRow) -> Sparse<TurnRow> {
    let mut turns = row.turns.clone();
    turns.0.push(TurnRow {
        attack_id: row.attack_id,
        attack: row.attack.clone(),
        response_id: row.response_id,
        response: row.text.clone(),
        defender: row.defender.clone(),
    });
    turns
}

/// Checks that all rows are of first turns, since rows made from them would lose the conversation. Each row is its id and its
/// earlier turns.
pub(crate) fn none<'r>(
    name: &str,
    rows: impl IntoIterator<Item = (u32, &'r Sparse<TurnRow>)>,
) -> anyhow::Result<()> {
    match rows.into_iter().find(|(_, turns)| !turns.is_empty()) {
        None => Ok(()),
        Some((id, turns)) => anyhow::bail!(
            "`{name}` must be of first turns, since this stage would lose their conversation; found row {id} of turn {}",
            turns.len() + 1
        ),
    }
}
