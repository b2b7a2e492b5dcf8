//! Models on what reinforcement learning never saw, and what comes of it as rows: what `evaluate`, `cross_play` and
//! `measure` have in common.

use super::artifact;
use super::asking::Asking;
use crate::data::{AttackRow, MetricRow, Position, ResponseRow, Sample, SeedRow};
use crate::engine::Context;
use crate::game::{Question, Rates};

/// What a model says to each question; nothing to what is none.
pub fn ask<'q>(
    context: &mut Context,
    asking: &Asking,
    questions: impl Iterator<Item = Option<Question<'q>>>,
    what: &str,
) -> anyhow::Result<Vec<Sample>> {
    let questions: Vec<Option<Question>> = questions.collect();
    Ok(asking.ask(context, &questions, what)?.into_iter().map(|reply| reply.sample).collect())
}

/// A question to an attacker.
pub fn seed(row: &SeedRow) -> Option<Question<'_>> {
    Some(Question { seed: &row.text, ..Question::default() })
}

/// A question to a defender; nobody is asked about an empty attack.
pub fn attack(row: &AttackRow) -> Option<Question<'_>> {
    (!row.text.is_empty()).then(|| Question { prompt: &row.text, ..Question::default() })
}

/// A question to an evaluator; nobody is asked about an empty response.
pub fn pair<'q>(prompt: &'q str, response: &'q str) -> Option<Question<'q>> {
    (!response.is_empty()).then(|| Question { prompt, response, ..Question::default() })
}

/// The held-out hazards, each `group` times.
pub fn hazards<'s>(seeds: &'s [SeedRow], group: usize, name: &str) -> anyhow::Result<Vec<&'s SeedRow>> {
    let hazards = seeds.iter().filter(|seed| seed.split == "heldout" && seed.task == "hazard");
    let chosen: Vec<&SeedRow> = hazards.flat_map(|seed| std::iter::repeat_n(seed, group)).collect();
    anyhow::ensure!(!chosen.is_empty(), "`{name}` has no rows of split `heldout` and task `hazard`");
    Ok(chosen)
}

/// What an attacker made of hazards, `group` attacks on each, numbered from `first`.
pub fn attack_rows(
    hazards: &[&SeedRow],
    samples: Vec<Sample>,
    group: usize,
    first: usize,
    at: &Position,
) -> Vec<AttackRow> {
    let row = |(index, (seed, sample)): (usize, (&&SeedRow, Sample))| AttackRow {
        attack_id: (first + index) as u32,
        origin: artifact::origin(seed),
        technique: None,
        group: ((first + index) / group) as u32,
        text: sample.completion.clone(),
        answer: None,
        sample,
        at: at.clone(),
    };
    hazards.iter().zip(samples).enumerate().map(row).collect()
}

/// What a defense model answered, numbered from `first`.
pub fn response_rows(
    attacks: &[AttackRow],
    samples: Vec<Sample>,
    defender: &str,
    first: usize,
    at: &Position,
) -> Vec<ResponseRow> {
    let row = |(index, (attack, sample)): (usize, (&AttackRow, Sample))| ResponseRow {
        response_id: (first + index) as u32,
        attack_id: attack.attack_id,
        origin: attack.origin.clone(),
        attack: attack.text.clone(),
        answer: None,
        defender: defender.into(),
        weight: 1.0,
        group: (first + index) as u32,
        text: sample.completion.clone(),
        sample,
        at: at.clone(),
    };
    attacks.iter().zip(samples).enumerate().map(row).collect()
}

/// How sure an attacker was of its words: minus the mean log-probability of its tokens, an estimate of the entropy of
/// each, in nats; and of how many tokens.
pub fn entropy(attacks: &[AttackRow]) -> (f64, usize) {
    let logprobs: Vec<f32> =
        attacks.iter().flat_map(|attack| attack.sample.logprobs.iter().copied()).collect();
    let sum: f64 = logprobs.iter().map(|logprob| f64::from(*logprob)).sum();
    (-sum / logprobs.len().max(1) as f64, logprobs.len())
}

/// Rates as rows of metrics.
pub fn metric_rows(rates: Rates, phase: &str, at: &Position) -> Vec<MetricRow> {
    let row = |rate: crate::game::Rate| MetricRow {
        phase: phase.into(),
        subject: rate.subject,
        metric: rate.metric,
        value: rate.value,
        count: rate.count as u64,
        at: at.clone(),
    };
    rates.0.into_iter().map(row).collect()
}
