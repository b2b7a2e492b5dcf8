//! Episodes of several turns: an attack that goes on with a conversation carries its earlier turns, and so does whatever is
//! made of it. The number of a turn is that of the earlier ones plus 1.

use data::{ResponseRow, Sparse, TurnRow};
use game::Turn;

/// The earlier turns as prompts know them.
pub fn conversation(turns: &[TurnRow]) -> Vec<Turn<'_>> {
    let turns = turns.iter();
    turns.map(|row| Turn { attack: &row.attack, response: &row.response, defender: &row.defender }).collect()
}

/// The turns of an episode that has come to a response: the earlier ones and this.
pub fn after(row: &ResponseRow) -> Sparse<TurnRow> {
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

/// That all rows are of first turns, since what is made of them would lose the conversation. Each is given as its number and
/// its earlier turns.
pub fn none<'r>(
    name: &str,
    rows: impl IntoIterator<Item = (u32, &'r Sparse<TurnRow>)>,
) -> anyhow::Result<()> {
    match rows.into_iter().find(|(_, turns)| !turns.is_empty()) {
        None => Ok(()),
        Some((id, turns)) => anyhow::bail!(
            "`{name}` must be of first turns, since their conversation would be lost here; found row {id} in turn {}",
            turns.len() + 1
        ),
    }
}
