//! Rows that go through the decoder together. They join and leave between steps, each with its own settings and random stream,
//! so that a server's rows need not wait for each other. A row's results do not depend on the rows beside it.

use std::collections::HashMap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Completion, Sampling, draw, numbers, stop_in};
use kernels::exponentials;
use model::{Checkpoint, Decoder, Error, Packed, Result, Tokenizer};
use ops::{Cache, Value, select_rows};

/// Positions of a prompt whose logits exist at the same time.
const POSITIONS: usize = 64;

/// How the tokens of rows are drawn, what ends a row, and what is recorded of each token.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// With `max_new_tokens` = 0, the prompt is scored and nothing is drawn.
    pub sampling: Sampling,
    /// The tokens that end a row.
    pub ends: Vec<u32>,
    /// Which tokens' log-probabilities are recorded besides that of the drawn one.
    pub alternatives: Alternatives,
    /// Record log-probabilities at temperature 1 instead of the sampling temperature.
    pub raw: bool,
    /// Score the tokens of the prompt, recording these tokens' log-probabilities too.
    pub prompt: Option<Alternatives>,
}

/// Tokens whose log-probabilities are recorded: the most probable ones, and given ones.
#[derive(Clone, Debug, Default)]
pub struct Alternatives {
    /// The number of most probable tokens.
    pub top: usize,
    /// Further tokens.
    pub tokens: Vec<u32>,
}

impl Alternatives {
    fn is_none(&self) -> bool {
        self.top == 0 && self.tokens.is_empty()
    }

    /// The log-probability of each of these tokens, the most probable first, then the given ones.
    fn of(&self, logits: &[f32], sharpness: f32, log_total: f32) -> Vec<(u32, f32)> {
        let at = |token: u32| (token, logits[token as usize] * sharpness - log_total);
        let mut recorded: Vec<(u32, f32)> = most_probable(logits, self.top).into_iter().map(at).collect();
        for &token in &self.tokens {
            if recorded.iter().all(|(known, _)| *known != token) {
                recorded.push(at(token));
            }
        }
        recorded
    }
}

/// The `count` tokens with the greatest logits, in order; ties by id.
fn most_probable(logits: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, by_logit);
        order.truncate(count);
    }
    order.sort_unstable_by(by_logit);
    order
}

impl Drawing {
    /// Draws by `sampling`, until an end token of the model or a stop text, and records nothing else.
    pub fn new(checkpoint: &Checkpoint, sampling: Sampling) -> Drawing {
        // A stop text of one token ends a row by its id, because special tokens are not in decoded texts.
        let stops = sampling.stop.iter().filter_map(|stop| checkpoint.tokenizer.id(stop));
        let ends = checkpoint.ends().into_iter().chain(stops).collect();
        Drawing { sampling, ends, alternatives: Alternatives::default(), raw: false, prompt: None }
    }

    /// What logits are multiplied with before they become recorded probabilities.
    fn sharpness(&self) -> f32 {
        match self.sampling.temperature {
            temperature if temperature == 0.0 || self.raw => 1.0,
            temperature => (1.0 / temperature) as f32,
        }
    }
}

/// How probable a token of a prompt is.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Its log-probability after the tokens before it.
    pub logprob: f32,
    /// Its rank among all tokens, from 1.
    pub rank: usize,
    /// The recorded tokens: the most probable ones in order, then the given ones that are not among them.
    pub alternatives: Vec<Ranked>,
}

/// A recorded token in the place of a prompt's token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The token.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// Its rank among all tokens, from 1.
    pub rank: usize,
}

/// The scores of a prompt's tokens from the second on.
pub type PromptScores = Arc<Vec<Score>>;

/// A row that is being sampled.
pub struct Row {
    prompt: Vec<u32>,
    drawing: Arc<Drawing>,
    random: ChaCha8Rng,
    completion: Completion,
    alternatives: Vec<Vec<(u32, f32)>>,
    scores: Option<PromptScores>,
    error: Option<Error>,
}

impl AsMut<Row> for Row {
    fn as_mut(&mut self) -> &mut Row {
        self
    }
}

impl Row {
    /// A row that continues `prompt`, which must have a token, with draws from `random`.
    pub fn new(prompt: &[u32], drawing: Arc<Drawing>, random: ChaCha8Rng) -> Row {
        Row {
            prompt: prompt.to_vec(),
            drawing,
            random,
            completion: Completion::default(),
            alternatives: Vec::new(),
            scores: None,
            error: None,
        }
    }

    /// The tokens before the completion.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// What was drawn so far, without its text.
    pub fn completion(&self) -> &Completion {
        &self.completion
    }

    /// For each drawn token, the log-probabilities of the recorded ones.
    pub fn alternatives(&self) -> &[Vec<(u32, f32)>] {
        &self.alternatives
    }

    /// The scores of the prompt, if they were asked for.
    pub fn scores(&self) -> Option<&PromptScores> {
        self.scores.as_ref()
    }

    /// Its longest length in tokens.
    pub fn capacity(&self) -> usize {
        self.prompt.len().saturating_add(self.drawing.sampling.max_new_tokens)
    }

    /// The completion with its text, once the row has left its batch.
    pub fn finish(self, tokenizer: &Tokenizer) -> Result<Completion> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut completion = self.completion;
        completion.text = super::text(tokenizer, &completion.ids, &self.drawing.sampling.stop)?;
        Ok(completion)
    }

    fn is_done(&self) -> bool {
        self.error.is_some()
            || self.completion.finished
            || self.completion.ids.len() >= self.drawing.sampling.max_new_tokens
    }

    /// Draws a token from logits, which are overwritten.
    fn draw(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) {
        if let Err(error) = self.try_draw(logits, tokenizer) {
            self.error = Some(error);
        }
    }

    fn try_draw(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> Result<()> {
        let drawing = &self.drawing;
        let at_other_temperature = drawing.raw && !matches!(drawing.sampling.temperature, 0.0 | 1.0);
        // What is recorded of other tokens is read before the draw overwrites the logits.
        let recorded = (at_other_temperature || !drawing.alternatives.is_none()).then(|| {
            let (kept, sharpness) = (logits.to_vec(), drawing.sharpness());
            let (log_total, _, _) = exponentials(&mut kept.clone(), sharpness);
            (kept, sharpness, log_total)
        });
        let (token, mut logprob) = draw(logits, &drawing.sampling, &mut self.random);
        if let Some((logits, sharpness, log_total)) = recorded {
            if at_other_temperature {
                logprob = logits[token as usize] * sharpness - log_total;
            }
            let mut recorded = drawing.alternatives.of(&logits, sharpness, log_total);
            // One token has one number.
            recorded.iter_mut().filter(|(other, _)| *other == token).for_each(|(_, own)| *own = logprob);
            self.alternatives.push(recorded);
        }
        if !logprob.is_finite() {
            return Err(Error::Broken);
        }
        let completion = &mut self.completion;
        completion.ids.push(token);
        completion.logprobs.push(logprob);
        completion.finished = drawing.ends.contains(&token) || {
            let stops = &drawing.sampling.stop;
            !stops.is_empty() && stop_in(&tokenizer.decode(&completion.ids)?, stops).is_some()
        };
        Ok(())
    }
}

/// Rows of one decoder, which draw a token each at every step. `R` is a row, or what its owner keeps with it.
pub struct Batch<R> {
    rows: Vec<R>,
    cache: Cache,
    /// The logits for the next token of each row, \[rows, V\].
    logits: Vec<f32>,
}

impl<R: AsMut<Row> + Send> Batch<R> {
    /// A batch without rows, for rows of at most `longest` tokens with their completions.
    pub fn new(decoder: &Decoder, longest: usize) -> Result<Batch<R>> {
        Ok(Batch { rows: Vec::new(), cache: decoder.cache(0, longest)?, logits: Vec::new() })
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, in the order in which they came.
    pub fn rows_mut(&mut self) -> &mut [R] {
        &mut self.rows
    }

    /// Reads the prompts of new rows, equal ones once. Returns the rows that are to draw nothing. After an error the batch cannot
    /// go on.
    pub fn join(&mut self, decoder: &Decoder, mut rows: Vec<R>) -> Result<Vec<R>> {
        if rows.is_empty() {
            return Ok(rows);
        }
        let mut prompts: Vec<Prompt> = Vec::new();
        let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
        let mut source = Vec::with_capacity(rows.len());
        for row in rows.iter_mut().map(AsMut::as_mut) {
            let at = *index.entry(row.prompt.clone()).or_insert_with(|| {
                prompts.push(Prompt { ids: row.prompt.clone(), capacity: 0, is_scored: false });
                prompts.len() - 1
            });
            prompts[at].capacity = prompts[at].capacity.max(row.capacity());
            prompts[at].is_scored |= row.drawing.prompt.is_some();
            source.push(at);
        }
        let capacities: Vec<usize> = prompts.iter().map(|prompt| prompt.capacity).collect();
        let mut cache = decoder.fresh_cache(&self.cache, &capacities);
        let packed = Packed::new(&prompts.iter().map(|prompt| &prompt.ids[..]).collect::<Vec<_>>());
        let firsts: Vec<usize> = prompts.iter().map(Prompt::first).collect();
        let hidden = decoder.prefill_from(&packed, &firsts, &mut cache)?;
        // Where the hidden states of each prompt begin and end.
        let mut ends = vec![0];
        prompts.iter().for_each(|prompt| ends.push(ends[ends.len() - 1] + prompt.ids.len() - prompt.first()));
        for (at, row) in source.iter().zip(rows.iter_mut().map(AsMut::as_mut)) {
            if let Some(asked) = &row.drawing.prompt {
                let states = ends[*at]..ends[at + 1] - 1;
                row.scores = Some(Arc::new(scores(decoder, &hidden, states, row, asked)?));
            }
        }
        let last: Vec<u32> = ends[1..].iter().map(|end| *end as u32 - 1).collect();
        let last = if last.len() == ends[prompts.len()] { hidden } else { select_rows(&hidden, last)? };
        let draws: Vec<bool> = rows.iter_mut().map(|row| !row.as_mut().is_done()).collect();
        let mut draw = draws.iter();
        let (staying, leaving): (Vec<R>, Vec<R>) =
            rows.into_iter().partition(|_| draw.next().copied().unwrap_or_default());
        let source: Vec<usize> =
            source.into_iter().zip(draws).filter(|(_, draws)| *draws).map(|(at, _)| at).collect();
        if staying.is_empty() {
            return Ok(leaving);
        }
        let logits = decoder.logits(&last)?;
        let vocabulary = logits.dim(1)?;
        let read = numbers(&logits)?;
        let is_each_once = source.iter().copied().eq(0..prompts.len());
        self.cache.append(if is_each_once { cache } else { cache.select(&source)? })?;
        for &row in &source {
            self.logits.extend_from_slice(&read[row * vocabulary..(row + 1) * vocabulary]);
        }
        self.rows.extend(staying);
        Ok(leaving)
    }

    /// Removes the rows that `keep` is false for, before they have finished.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut R) -> bool) -> Result<()> {
        let keep: Vec<bool> = self.rows.iter_mut().map(&mut keep).collect();
        self.split(&keep).1
    }

    /// Takes out the rows whose `keep` is false. After an error the others cannot go on.
    fn split(&mut self, keep: &[bool]) -> (Vec<R>, Result<()>) {
        if keep.iter().all(|keep| *keep) {
            return (Vec::new(), Ok(()));
        }
        let vocabulary = self.logits.len() / self.rows.len().max(1);
        let mut kept = keep.iter();
        let (staying, leaving) = self.rows.drain(..).partition(|_| kept.next().copied().unwrap_or_default());
        self.rows = staying;
        let retained = self.cache.retain(keep);
        let mut to = 0;
        for (from, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
            self.logits.copy_within(from * vocabulary..(from + 1) * vocabulary, to * vocabulary);
            to += 1;
        }
        self.logits.truncate(to * vocabulary);
        (leaving, retained.map_err(Error::from))
    }

    /// Draws one token for each row and feeds those that go on. Returns the rows that have ended, and whether the others can go on.
    pub fn advance(&mut self, decoder: &Decoder, tokenizer: &Tokenizer) -> (Vec<R>, Result<()>) {
        if self.rows.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let vocabulary = self.logits.len() / self.rows.len();
        let work = self.rows.par_iter_mut().zip(self.logits.par_chunks_exact_mut(vocabulary));
        work.for_each(|(row, logits)| row.as_mut().draw(logits, tokenizer));
        let keep: Vec<bool> = self.rows.iter_mut().map(|row| !row.as_mut().is_done()).collect();
        // The logits are used up, so only rows and cache are split.
        self.logits.clear();
        let (leaving, kept) = self.split(&keep);
        let fed = kept.and_then(|()| if self.rows.is_empty() { Ok(()) } else { self.feed(decoder) });
        (leaving, fed)
    }

    /// Computes the logits after the last token of each row.
    fn feed(&mut self, decoder: &Decoder) -> Result<()> {
        let last: Vec<u32> =
            self.rows.iter_mut().filter_map(|row| row.as_mut().completion.ids.last().copied()).collect();
        self.logits = numbers(&decoder.step(&last, &mut self.cache)?)?;
        Ok(())
    }
}

/// A distinct prompt of rows that join.
struct Prompt {
    ids: Vec<u32>,
    capacity: usize,
    is_scored: bool,
}

impl Prompt {
    /// The first token whose hidden state is needed.
    fn first(&self) -> usize {
        if self.is_scored { 0 } else { self.ids.len() - 1 }
    }
}

/// The scores of a row's prompt from the hidden states `states` of all its tokens but the last.
fn scores(
    decoder: &Decoder,
    hidden: &Value,
    states: std::ops::Range<usize>,
    row: &Row,
    asked: &Alternatives,
) -> Result<Vec<Score>> {
    let sharpness = row.drawing.sharpness();
    let mut scores = Vec::with_capacity(states.len());
    let positions: Vec<u32> = states.map(|state| state as u32).collect();
    for (positions, targets) in positions.chunks(POSITIONS).zip(row.prompt[1..].chunks(POSITIONS)) {
        let logits = decoder.logits(&select_rows(hidden, positions.to_vec())?)?;
        let vocabulary = logits.dim(1)?;
        let logits = numbers(&logits)?;
        let score = |(logits, target): (&[f32], &u32)| {
            let (log_total, _, _) = exponentials(&mut logits.to_vec(), sharpness);
            let logit = logits[*target as usize];
            let logprob = logit * sharpness - log_total;
            let rank_of = |logit: f32| 1 + logits.iter().filter(|other| **other > logit).count();
            let rank = rank_of(logit);
            let recorded = asked.of(logits, sharpness, log_total).into_iter().enumerate();
            let ranked = recorded.map(|(at, (id, logprob))| {
                let rank = if at < asked.top { at + 1 } else { rank_of(logits[id as usize]) };
                Ranked { id, logprob, rank }
            });
            let alternatives = ranked.collect();
            logprob.is_finite().then_some(Score { logprob, rank, alternatives }).ok_or(Error::Broken)
        };
        let read = logits.par_chunks_exact(vocabulary).zip(targets).map(score);
        scores.extend(read.collect::<Result<Vec<_>>>()?);
    }
    Ok(scores)
}
