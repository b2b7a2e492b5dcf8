//! The rows of the game as training and evaluations write them: one place for what a row takes over from what it was made of.

use data::{AttackRow, JudgedRow, Origin, Position, ResponseRow, Sample, Sparse, TurnRow, VerdictRow};
use game::{Class, label};

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

/// The columns of a response that the evaluator needs.
pub(crate) fn judged(response: &ResponseRow) -> JudgedRow {
    JudgedRow {
        response_id: response.response_id,
        attack_id: response.attack_id,
        origin: response.origin.clone(),
        attack: response.attack.clone(),
        text: response.text.clone(),
        defender: response.defender.clone(),
        weight: response.weight,
        turns: response.turns.clone(),
    }
}

/// The evaluator's verdict on a response or a labelled pair. `text` is the part of the completion that counts.
pub(crate) fn verdict(
    verdict_id: usize,
    group: usize,
    pair: &JudgedRow,
    class: Option<Class>,
    (text, sample): (String, Sample),
    at: &Position,
) -> VerdictRow {
    VerdictRow {
        verdict_id: verdict_id as u32,
        response_id: pair.response_id,
        attack_id: pair.attack_id,
        origin: pair.origin.clone(),
        attack: pair.attack.clone(),
        response: pair.text.clone(),
        defender: pair.defender.clone(),
        weight: pair.weight,
        group: group as u32,
        class: label(class).to_owned(),
        turns: pair.turns.clone(),
        text,
        sample,
        at: at.clone(),
    }
}
