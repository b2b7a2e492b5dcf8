//! Choosing among given texts: each is scored as the model's continuation of the prompt, and one is chosen.
//!
//! For training, the model's own log-probability of each token is recorded, over its whole vocabulary at the temperature, not
//! the share among the texts. `update` computes the same numbers, so GRPO's ratio is 1 before the first step. Its gradient
//! raises a rewarded text against everything else that the model could say. The end token is not scored: a model that is
//! asked in this way never has to end its text.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::{CACHE, MOST_ROWS, batch_size, most_probable, numbers, pick};
use kernels::exponentials;
use model::{Checkpoint, Decoder, Error, Packed, Purpose, Result};
use store::Seed;

/// The choice for a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The index of the chosen text.
    pub index: usize,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Log-probability of each token at the temperature (at 1 if that is 0), over the whole vocabulary.
    pub logprobs: Vec<f32>,
    /// The sum of the probabilities of all texts at temperature 1, over the whole vocabulary: how often the model says one of them.
    pub mass: f32,
}

/// The log-probability of a token.
#[derive(Clone, Copy)]
struct Scored {
    /// At the temperature (at 1 if that is 0).
    logprob: f32,
    /// At temperature 1.
    raw: f32,
}

/// What the model continues: a prompt and the beginning of a text.
type Beginning<'a> = (&'a [u32], &'a [u32]);

/// The tokens to score after each beginning.
type Beginnings<'a> = BTreeMap<Beginning<'a>, BTreeSet<u32>>;

/// Their log-probabilities.
type Scores<'a> = BTreeMap<Beginning<'a>, BTreeMap<u32, Scored>>;

/// Chooses for each prompt one of its `choices`: the most probable at temperature 0, otherwise drawn in proportion to its
/// probability at that temperature. No choice may be the beginning of another. The result depends on the seed, the row's
/// index, its prompt and its choices; it is `None` for an empty prompt. `progress` gets the number of rows read, and of all
/// rows to read.
pub fn choose(
    checkpoint: &Checkpoint,
    prompts: &[Vec<u32>],
    choices: &[Vec<Vec<u32>>],
    temperature: f64,
    seed: Seed,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Option<Chosen>>> {
    let mut beginnings = Beginnings::new();
    for (prompt, choices) in prompts.iter().zip(choices).filter(|(prompt, _)| !prompt.is_empty()) {
        for choice in choices {
            for (at, token) in choice.iter().enumerate() {
                beginnings.entry((prompt, &choice[..at])).or_default().insert(*token);
            }
        }
    }
    let scores = score(checkpoint, &beginnings, temperature, progress)?;
    let of = |prompt: &[u32], choice: &[u32]| -> Option<Vec<Scored>> {
        (0..choice.len()).map(|at| scores.get(&(prompt, &choice[..at]))?.get(&choice[at]).copied()).collect()
    };
    let choose = |(row, (prompt, choices)): (usize, (&Vec<u32>, &Vec<Vec<u32>>))| {
        let scored: Vec<Vec<Scored>> =
            choices.iter().map(|choice| of(prompt, choice)).collect::<Option<_>>()?;
        let numbers = |of: fn(&Scored) -> f32| -> Vec<Vec<f32>> {
            scored.iter().map(|tokens| tokens.iter().map(of).collect()).collect()
        };
        let (logprobs, mass) = (numbers(|scored| scored.logprob), mass(&numbers(|scored| scored.raw)));
        let index = select(&logprobs, temperature, seed, row)?;
        Some(Chosen { index, ids: choices[index].clone(), logprobs: logprobs[index].clone(), mass })
    };
    Ok(prompts.iter().zip(choices).enumerate().map(choose).collect())
}

/// The mass of texts: the sum of their probabilities, given the log-probabilities of their tokens at temperature 1. No text begins
/// another, so that they exclude each other.
pub fn mass(logprobs: &[Vec<f32>]) -> f32 {
    logprobs.iter().map(|tokens| tokens.iter().sum::<f32>().exp()).sum()
}

/// The choice among texts for a row, given the log-probabilities of their tokens at the temperature: the most probable text at
/// temperature 0, otherwise drawn in proportion to its probability. `None` without texts.
pub fn select(logprobs: &[Vec<f32>], temperature: f64, seed: Seed, row: usize) -> Option<usize> {
    let mut totals: Vec<f32> = logprobs.iter().map(|tokens| tokens.iter().sum()).collect();
    if totals.is_empty() {
        return None;
    }
    Some(if temperature == 0.0 {
        most_probable(&totals)
    } else {
        let (_, _, total) = exponentials(&mut totals, 1.0);
        pick(&totals, total, &mut seed.stream(row))
    })
}

/// The log-probability of each token after each beginning.
fn score<'a>(
    checkpoint: &Checkpoint,
    beginnings: &Beginnings<'a>,
    temperature: f64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Scores<'a>> {
    let decoder = checkpoint.decoder(Purpose::Scoring)?;
    let rows: Vec<(Vec<u32>, &BTreeSet<u32>)> = beginnings
        .iter()
        .map(|((prompt, beginning), tokens)| ([*prompt, *beginning].concat(), tokens))
        .collect();
    let longest = rows.iter().map(|(row, _)| row.len()).max().unwrap_or(0);
    let most = decoder.rows_within(CACHE, longest).min(MOST_ROWS);
    let sharpness = if temperature == 0.0 { 1.0 } else { (1.0 / temperature) as f32 };
    let mut scored = Vec::with_capacity(rows.len());
    for together in rows.chunks(most) {
        let size = batch_size(checkpoint, together.len(), most);
        let read = together.par_chunks(size).map(|rows| logprobs(&decoder, rows, sharpness));
        scored.extend(read.collect::<Result<Vec<_>>>()?.into_iter().flatten());
        progress(scored.len(), rows.len());
    }
    Ok(beginnings.keys().copied().zip(scored).collect())
}

fn logprobs(
    decoder: &Decoder,
    rows: &[(Vec<u32>, &BTreeSet<u32>)],
    sharpness: f32,
) -> Result<Vec<BTreeMap<u32, Scored>>> {
    let ids: Vec<&[u32]> = rows.iter().map(|(row, _)| &row[..]).collect();
    let longest = ids.iter().map(|row| row.len()).max().unwrap_or(0);
    let mut cache = decoder.cache(ids.len(), longest)?;
    let logits = decoder.prefill(&Packed::new(&ids), &mut cache)?;
    let vocabulary = logits.dim(1)?;
    let mut logits = numbers(&logits)?;
    let of = |(logits, (_, tokens)): (&mut [f32], &(Vec<u32>, &BTreeSet<u32>))| {
        let asked: Vec<(u32, f32)> = tokens.iter().map(|&token| (token, logits[token as usize])).collect();
        let raw_total = (sharpness != 1.0).then(|| exponentials(&mut logits.to_vec(), 1.0).0);
        let (log_total, _, _) = exponentials(logits, sharpness);
        let raw_total = raw_total.unwrap_or(log_total);
        let scored = |logit: f32| Scored { logprob: logit * sharpness - log_total, raw: logit - raw_total };
        let scores: BTreeMap<u32, Scored> =
            asked.into_iter().map(|(token, logit)| (token, scored(logit))).collect();
        let is_finite = scores.values().all(|scored| scored.logprob.is_finite() && scored.raw.is_finite());
        is_finite.then_some(scores).ok_or(Error::Broken)
    };
    logits.chunks_exact_mut(vocabulary).zip(rows).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::model;
    use model::Completions;

    fn prompts() -> Vec<Vec<u32>> {
        vec![vec![1, 87, 85, 71], vec![], vec![1, 87, 85, 71], vec![5; 20]]
    }

    fn chosen(temperature: f64, seed: u64) -> Vec<Option<Chosen>> {
        let choices = vec![vec![vec![90, 91], vec![90, 92, 7], vec![60]]; 4];
        choose(&model(), &prompts(), &choices, temperature, Seed::from_u64(seed), &mut |_, _| ()).unwrap()
    }

    #[test]
    fn recorded_log_probabilities_are_the_trainers_and_the_greatest_wins() {
        let texts = [vec![90, 91], vec![90, 92, 7], vec![60]];
        for temperature in [0.0, 0.7] {
            let at = if temperature == 0.0 { 1.0 } else { temperature };
            for (prompt, chosen) in prompts().iter().zip(chosen(temperature, 3)) {
                let Some(chosen) = chosen else {
                    assert!(prompt.is_empty());
                    continue;
                };
                let rows: Vec<(&[u32], &[u32])> = texts.iter().map(|text| (&prompt[..], &text[..])).collect();
                let rows = Completions::new(&rows).unwrap();
                let model = model();
                let decoder = model.decoder(Purpose::Training { checkpointing: false }).unwrap();
                let scored = decoder.token_log_probabilities(&rows, at).unwrap();
                let scored = scored.tensor().get(0).unwrap().to_vec1::<f32>().unwrap();
                let totals = [scored[..2].to_vec(), scored[2..5].to_vec(), scored[5..].to_vec()];
                for (mine, theirs) in chosen.logprobs.iter().zip(&totals[chosen.index]) {
                    assert!((mine - theirs).abs() < 1e-4, "{mine} {theirs}");
                }
                let raw = decoder.token_log_probabilities(&rows, 1.0).unwrap();
                let raw = raw.tensor().get(0).unwrap().to_vec1::<f32>().unwrap();
                let mass = [&raw[..2], &raw[2..5], &raw[5..]].map(|text| text.iter().sum::<f32>().exp());
                let mass = mass.iter().sum::<f32>();
                assert!((chosen.mass - mass).abs() < 1e-3 * mass, "{} {mass}", chosen.mass);
                let sum = |index: usize| totals[index].iter().sum::<f32>();
                if temperature == 0.0 {
                    assert!((0..3).all(|other| sum(other) <= sum(chosen.index)));
                }
                assert_eq!(chosen.ids, texts[chosen.index]);
            }
        }
    }

    #[test]
    fn at_a_temperature_texts_are_drawn_in_proportion() {
        let first = |seed| chosen(1.0, seed)[0].clone().unwrap();
        let mut counts = [0usize; 3];
        let mut shares = [0f64; 3];
        for seed in 0..300 {
            let chosen = first(seed);
            counts[chosen.index] += 1;
            shares[chosen.index] = f64::from(chosen.logprobs.iter().sum::<f32>()).exp();
        }
        let total: f64 = shares.iter().sum();
        for (count, share) in counts.iter().zip(shares) {
            assert!((*count as f64 / 300.0 - share / total).abs() < 0.1, "{counts:?} {shares:?}");
        }
        assert_eq!(first(7), first(7));
    }
}
