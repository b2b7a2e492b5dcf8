//! The rows of the game as training and evaluations write them: one place for what a row takes over from what it was made of.

use data::{AttackRow, Origin, Position, ResponseRow, Sample, Sparse, TurnRow};

/// What the attacker was asked about: a seed prompt, or a conversation to continue.
pub(crate) struct Asked {
    pub(crate) origin: Origin,
    /// The right answer, if the seed prompt has one.
    pub(crate) answer: Option<String>,
    /// The earlier turns of the episode.
    pub(crate) turns: Sparse<TurnRow>,
}

/// An attack. `text` is the part of the completion that counts.
pub(crate) fn attack(
    attack_id: usize,
    group: usize,
    asked: Asked,
    (text, sample): (String, Sample),
    at: &Position,
) -> AttackRow {
    AttackRow {
        attack_id: attack_id as u32,
        origin: asked.origin,
        technique: None,
        group: group as u32,
        text,
        answer: asked.answer,
        turns: asked.turns,
        sample,
        at: at.clone(),
    }
}

/// A defender's response to an attack; `weight` is the defender's in the attacker's reward.
pub(crate) fn response(
    response_id: usize,
    group: usize,
    attack: &AttackRow,
    (defender, weight): (&str, f64),
    (text, sample): (String, Sample),
    at: &Position,
) -> ResponseRow {
    ResponseRow {
        response_id: response_id as u32,
        attack_id: attack.attack_id,
        origin: attack.origin.clone(),
        attack: attack.text.clone(),
        answer: attack.answer.clone(),
        defender: defender.to_owned(),
        weight,
        group: group as u32,
        text,
        turns: attack.turns.clone(),
        sample,
        at: at.clone(),
    }
}
