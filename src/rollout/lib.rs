//! Sampling completions from a decoder in batches of rows with a cache. Each row has its own random stream, and
//! log-probabilities are recorded. Also choosing among given texts. Knows no rewards.

mod batch;
mod choice;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use kernels::{exponentials, sum};
use model::{Checkpoint, Decoder, Purpose, Result, Tokenizer};
use store::Seed;

pub use batch::{Alternatives, Batch, Drawing, PromptScores, Ranked, Row, Score};
pub use choice::{Chosen, choose, mass, select};

/// Most rows that are sampled at the same time.
const MOST_ROWS: usize = 512;

/// Most bytes of their keys and values.
const CACHE: usize = 4 << 30;

/// Most rows of a batch. Batches draw tokens in parallel, one per thread.
const BATCH: usize = 64;

/// Tokens that each batch draws before the threads wait for each other and report their progress.
const STEPS_BETWEEN_SYNCS: usize = 8;

/// Temperatures by which logits can be divided.
pub const TEMPERATURES: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Logits are divided by it before sampling; 0 takes the most probable token.
    pub temperature: f64,
    /// Draw from as many of the most probable tokens; 0 draws from all.
    pub top_k: usize,
    /// Draw from the most probable tokens that together reach this probability.
    pub top_p: f64,
    /// Draw from tokens that are at least this share as probable as the most probable one.
    pub min_p: f64,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// Texts that end a completion, which excludes them and what follows.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_new_tokens: 32, stop: Vec::new() }
    }
}

impl Sampling {
    /// Checks ranges. The error names the key, the rule and what was found.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.temperature != 0.0 && !TEMPERATURES.contains(&self.temperature) {
            let found = self.temperature;
            return Err(format!("`temperature` must be 0, or between 0.000001 and 1000000, found {found}"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(format!("`top_p` must be above 0 and at most 1, found {}", self.top_p));
        }
        if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            return Err(format!("`min_p` must be between 0 and 1, found {}", self.min_p));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err("`stop` must not have an empty text, which every completion contains".into());
        }
        if self.max_new_tokens == 0 {
            return Err("`max_new_tokens` must be at least 1, found 0".into());
        }
        Ok(())
    }
}

/// What was sampled for a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Token ids, including the end token or the tokens of a stop text if one came.
    pub ids: Vec<u32>,
    /// Log-probability of each token at the sampling temperature (at 1 if that is 0), over the whole vocabulary.
    pub logprobs: Vec<f32>,
    /// Whether the end token or a stop text came; otherwise the completion was cut at its longest length.
    pub finished: bool,
    /// Without special tokens, up to a stop text.
    pub text: String,
}

/// Samples a completion for each prompt. An empty prompt is not sent to the model, and its completion is empty. What a row
/// draws depends on the seed, its index and its prompt, not on the rows beside it. Equal prompts of a batch are read once.
/// `progress` gets the number of tokens of the longest row so far, and the number of rows that drew one.
pub fn sample(
    checkpoint: &Checkpoint,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    seed: Seed,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Completion>> {
    let decoder = checkpoint.decoder(Purpose::Scoring)?;
    let drawing = Arc::new(Drawing::new(checkpoint, sampling.clone()));
    let tokenizer = &checkpoint.tokenizer;
    let asked: Vec<usize> = (0..prompts.len()).filter(|&row| !prompts[row].is_empty()).collect();
    let row = |&row: &usize| Row::new(&prompts[row], drawing.clone(), seed.stream(row));
    let mut rows: Vec<Row> = asked.iter().map(row).collect();
    let longest = asked.iter().map(|&row| prompts[row].len()).max().unwrap_or(0);
    let most = decoder.rows_within(CACHE, longest.saturating_add(sampling.max_new_tokens)).min(MOST_ROWS);
    for rows in rows.chunks_mut(most) {
        let size = batch_size(checkpoint, rows.len(), most);
        let read = rows.par_chunks_mut(size).map(|rows| together(&decoder, rows));
        let mut batches = read.collect::<Result<Vec<_>>>()?;
        for start in (0..sampling.max_new_tokens).step_by(STEPS_BETWEEN_SYNCS) {
            let steps = start..(start + STEPS_BETWEEN_SYNCS).min(sampling.max_new_tokens);
            let drawn = batches.par_iter_mut().map(|batch| {
                let mut advance = |_| {
                    let drawn = batch.len();
                    batch.advance(&decoder, tokenizer).1.map(|()| drawn)
                };
                steps.clone().map(&mut advance).collect::<Result<Vec<usize>>>()
            });
            let drawn = drawn.collect::<Result<Vec<_>>>()?;
            for step in steps.clone() {
                match drawn.iter().map(|batch| batch[step - start]).sum() {
                    0 => break,
                    drawn => progress(step + 1, drawn),
                }
            }
            if batches.iter().all(Batch::is_empty) {
                break;
            }
        }
    }
    let mut completions = vec![Completion::default(); prompts.len()];
    let finished = rows.into_par_iter().map(|row| row.finish(tokenizer));
    for (row, completion) in asked.into_iter().zip(finished.collect::<Result<Vec<_>>>()?) {
        completions[row] = completion;
    }
    Ok(completions)
}

/// A batch of these rows, with their prompts read.
fn together<'r>(decoder: &Decoder, rows: &'r mut [Row]) -> Result<Batch<&'r mut Row>> {
    let longest = rows.iter().map(Row::capacity).max().unwrap_or(0);
    let mut batch = Batch::new(decoder, longest)?;
    batch.join(decoder, rows.iter_mut().collect())?;
    Ok(batch)
}

/// The text of a completion: without special tokens, up to a stop text.
pub fn text(tokenizer: &Tokenizer, ids: &[u32], stops: &[String]) -> Result<String> {
    let mut text = tokenizer.decode(ids)?;
    if let Some(at) = stop_in(&text, stops) {
        text.truncate(at);
    }
    Ok(text)
}

/// The number of rows that go through the decoder together, out of `rows`, if memory holds `most`.
fn batch_size(checkpoint: &Checkpoint, rows: usize, most: usize) -> usize {
    match (&checkpoint.compute, checkpoint.params.is_quantized()) {
        // A batch for each thread: no number depends on how rows are grouped.
        (compute, false) if compute.fused() => rows.div_ceil(rayon::current_num_threads()).clamp(1, BATCH),
        // candle's products may depend on the number of rows, so that must not depend on the number of threads.
        (compute, _) if compute.device.is_cpu() => BATCH / 4,
        _ => most,
    }
}

/// Where the first stop text begins.
fn stop_in(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter_map(|stop| text.find(stop.as_str())).min()
}

/// The numbers of logits of any device and type.
fn numbers(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(logits.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?)
}

/// Draws a token from logits, which are overwritten; also returns its log-probability.
fn draw(logits: &mut [f32], sampling: &Sampling, random: &mut ChaCha8Rng) -> (u32, f32) {
    let greedy = sampling.temperature == 0.0;
    let sharpness = if greedy { 1.0 } else { (1.0 / sampling.temperature) as f32 };
    if greedy {
        let token = most_probable(logits);
        let logit = logits[token];
        return (token as u32, logit - exponentials(logits, sharpness).0);
    }
    let (log_total, most, total) = exponentials(logits, sharpness);
    let top_k = (1..logits.len()).contains(&sampling.top_k);
    let all = !top_k && sampling.top_p == 1.0 && sampling.min_p == 0.0;
    let token = if all {
        pick(logits, total, random)
    } else {
        let kept = most_probable_tokens(logits, sampling);
        let weights: Vec<f32> = kept.iter().map(|token| logits[*token]).collect();
        kept[pick(&weights, weights.iter().sum(), random)]
    };
    (token as u32, logits[token].ln() + most - log_total)
}

/// The tokens that top-k, top-p and min-p leave, applied one after the other as in transformers; the most probable first,
/// ties by id. Weights are probabilities up to a common factor.
fn most_probable_tokens(weights: &[f32], sampling: &Sampling) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let by_probability = |a: &usize, b: &usize| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b));
    if (1..order.len()).contains(&sampling.top_k) {
        order.select_nth_unstable_by(sampling.top_k - 1, by_probability);
        order.truncate(sampling.top_k);
    }
    order.sort_unstable_by(by_probability);
    if sampling.top_p < 1.0 {
        let all: f64 = order.iter().map(|token| f64::from(weights[*token])).sum();
        let mut reached = 0.0;
        let last = order.iter().position(|&token| {
            reached += f64::from(weights[token]);
            reached >= sampling.top_p * all
        });
        order.truncate(last.map_or(order.len(), |last| last + 1));
    }
    let least = order.first().map_or(0.0, |token| weights[*token] * sampling.min_p as f32);
    let kept = order.partition_point(|token| weights[*token] >= least);
    order.truncate(kept.max(1));
    order
}

fn most_probable(logits: &[f32]) -> usize {
    let best = logits.iter().enumerate().max_by(|(i, a), (j, b)| a.total_cmp(b).then(j.cmp(i)));
    best.map_or(0, |(token, _)| token)
}

/// Draws an index in proportion to its weight; the weights sum to about `total`.
fn pick(weights: &[f32], total: f32, random: &mut ChaCha8Rng) -> usize {
    /// Weights that are skipped at once.
    const RUN: usize = 32;
    let mut left = random.random::<f32>() * total;
    for (run, weights) in weights.chunks(RUN).enumerate() {
        let within = sum(weights);
        if left >= within {
            left -= within;
            continue;
        }
        for (at, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 && *weight > 0.0 {
                return run * RUN + at;
            }
        }
    }
    // Rounding may leave a small rest.
    weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Completions, Compute};

    pub(crate) fn model() -> Checkpoint {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen3-tiny");
        Checkpoint::load(folder.as_ref(), &Compute::default()).unwrap()
    }

    fn prompts() -> Vec<Vec<u32>> {
        vec![vec![1, 87, 85, 71], vec![1, 91], vec![1, 87, 85, 71], vec![5; 20]]
    }

    fn draw_all(sampling: &Sampling, prompts: &[Vec<u32>]) -> Vec<Completion> {
        sample(&model(), prompts, sampling, Seed::from_u64(3), &mut |_, _| ()).unwrap()
    }

    #[test]
    fn recorded_log_probabilities_are_the_trainers() {
        for temperature in [1.0, 0.6] {
            let sampling = Sampling { temperature, top_p: 0.9, max_new_tokens: 20, ..Sampling::default() };
            let completions = draw_all(&sampling, &prompts());
            let prompts = prompts();
            let rows = prompts.iter().zip(&completions);
            let rows: Vec<_> = rows.map(|(prompt, completion)| (&prompt[..], &completion.ids[..])).collect();
            let model = model();
            let decoder = model.decoder(Purpose::Training { checkpointing: false }).unwrap();
            let rows = Completions::new(&rows).unwrap();
            let scored = decoder.token_log_probabilities(&rows, temperature).unwrap();
            let scored = scored.tensor().get(0).unwrap().to_vec1::<f32>().unwrap();
            let recorded: Vec<f32> =
                completions.iter().flat_map(|completion| completion.logprobs.clone()).collect();
            assert_eq!(scored.len(), recorded.len());
            assert!(recorded.len() > 40);
            for (a, b) in scored.iter().zip(&recorded) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let sampling = Sampling { max_new_tokens: 12, ..Sampling::default() };
        let together = draw_all(&sampling, &prompts());
        let alone = draw_all(&sampling, &prompts()[..1]);
        assert_eq!(together[0].ids, alone[0].ids);
        assert_ne!(together[0].ids, together[2].ids, "equal prompts have streams of their own");
        assert_eq!(together, draw_all(&sampling, &prompts()));
    }

    #[test]
    fn nobody_is_asked_an_empty_prompt_and_the_rows_around_it_stay() {
        let sampling = Sampling { max_new_tokens: 6, ..Sampling::default() };
        let whole = draw_all(&sampling, &prompts());
        let mut gap = prompts();
        gap[1].clear();
        let mut expected = whole.clone();
        expected[1] = Completion::default();
        assert_eq!(draw_all(&sampling, &gap), expected);
        assert_eq!(draw_all(&sampling, &[vec![]]), [Completion::default()]);
    }

    #[test]
    fn a_small_nucleus_is_the_most_probable_token() {
        let of = |sampling: Sampling| draw_all(&Sampling { max_new_tokens: 8, ..sampling }, &prompts());
        let ids = |completions: &[Completion]| completions.iter().map(|c| c.ids.clone()).collect::<Vec<_>>();
        let greedy = ids(&of(Sampling { temperature: 0.0, ..Sampling::default() }));
        assert_eq!(greedy, ids(&of(Sampling { top_p: 1e-6, ..Sampling::default() })));
        assert_eq!(greedy, ids(&of(Sampling { top_k: 1, ..Sampling::default() })));
        assert_eq!(greedy, ids(&of(Sampling { min_p: 1.0, ..Sampling::default() })));
        assert_ne!(greedy, ids(&of(Sampling::default())));
    }

    #[test]
    fn filters_leave_what_they_say() {
        let probabilities = [0.1f32, 0.4, 0.05, 0.3, 0.15];
        let kept = |sampling: Sampling| most_probable_tokens(&probabilities, &sampling);
        assert_eq!(kept(Sampling { top_k: 3, ..Sampling::default() }), [1, 3, 4]);
        assert_eq!(kept(Sampling { top_p: 0.69, ..Sampling::default() }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: 0.71, ..Sampling::default() }), [1, 3, 4]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..Sampling::default() }), [1, 3, 4]);
        // Top-p applies to the tokens that top-k left: 0.4 of 0.7 is 0.57.
        assert_eq!(kept(Sampling { top_k: 2, top_p: 0.5, ..Sampling::default() }), [1]);
    }

    #[test]
    fn a_stop_text_ends_a_completion_and_is_not_in_its_text() {
        let free = draw_all(&Sampling { max_new_tokens: 16, ..Sampling::default() }, &prompts());
        let long = free.iter().find(|completion| completion.text.chars().count() > 6).unwrap();
        let stop: String = long.text.chars().skip(3).take(2).collect();
        let sampling = Sampling { max_new_tokens: 16, stop: vec![stop.clone()], ..Sampling::default() };
        let stopped = draw_all(&sampling, &prompts());
        for (free, stopped) in free.iter().zip(&stopped) {
            assert!(!stopped.text.contains(&stop));
            assert!(free.text.starts_with(&stopped.text));
            assert!(free.ids.starts_with(&stopped.ids));
            assert_eq!(
                free.text.contains(&stop),
                stopped.ids.len() < free.ids.len() || !free.finished && stopped.finished
            );
        }
        assert!(stopped.iter().any(|completion| completion.finished));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut random = Seed::from_u64(1).stream("draws");
        let mut counts = [0; 3];
        for _ in 0..4000 {
            let mut logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
            counts[draw(&mut logits, &Sampling::default(), &mut random).0 as usize] += 1;
        }
        for (count, share) in counts.iter().zip([0.5, 0.3, 0.2]) {
            assert!((f64::from(*count) / 4000.0 - share).abs() < 0.03, "{counts:?}");
        }
    }
}
