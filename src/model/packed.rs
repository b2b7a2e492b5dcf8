//! Token rows as a decoder reads them: packed, and prompts that several completions share only once.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Result, bail};

use ops::{Rows, Spans};

/// Token rows one after the other, without padding.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The token ids of all rows \[N\].
    pub ids: Vec<u32>,
    /// Where the rows begin and end.
    pub rows: Arc<Rows>,
}

impl Packed {
    /// Packs rows, which may differ in length.
    pub fn new<R: AsRef<[u32]>>(rows: &[R]) -> Packed {
        let ids = rows.iter().flat_map(|row| row.as_ref().iter().copied()).collect();
        Packed { ids, rows: Arc::new(Rows::new(rows.iter().map(|row| row.as_ref().len()))) }
    }
}

/// Completions of prompts, packed to be scored: each distinct prompt once, followed by its completions, which continue it.
#[derive(Clone, Debug)]
pub struct Completions {
    pub(super) batch: Packed,
    /// The tokens that predict one: the last of each prompt, and of each completion all but the last.
    pub(super) predicting: Arc<Spans>,
    /// For each token of the completions, in the order in which they were given, which of these predicts it \[M\].
    pub(super) predicted_by: Vec<u32>,
    /// The tokens of the completions in that order \[M\].
    targets: Vec<u32>,
}

impl Completions {
    /// Packs pairs of a prompt and a completion. A prompt must not be empty, since its last token predicts the first of the
    /// completion.
    pub fn new(pairs: &[(&[u32], &[u32])]) -> Result<Completions> {
        if let Some(row) = pairs.iter().position(|(prompt, _)| prompt.is_empty()) {
            bail!("row {row} has an empty prompt: a prediction needs a token before it");
        }
        let (mut ids, mut spans, mut predicted_by) = (Vec::new(), Vec::new(), vec![Vec::new(); pairs.len()]);
        let families = by_prompt(pairs.iter().map(|(prompt, _)| *prompt));
        let mut predicting = 0;
        for family in &families {
            let prompt = pairs[family[0]].0;
            ids.extend_from_slice(prompt);
            spans.push(prompt.len() - 1..prompt.len());
            let last_of_prompt = predicting;
            predicting += 1;
            for &row in family {
                let completion = pairs[row].1;
                ids.extend_from_slice(completion);
                let later = completion.len().saturating_sub(1);
                spans.push(0..later);
                let all = [last_of_prompt].into_iter().chain(predicting..predicting + later as u32);
                predicted_by[row] = all.take(completion.len()).collect();
                predicting += later as u32;
            }
        }
        let lengths = families.iter().map(|family| {
            let completions = family.iter().map(|&row| pairs[row].1.len());
            (pairs[family[0]].0.len(), completions)
        });
        Ok(Completions {
            batch: Packed { ids, rows: Arc::new(Rows::of_families(lengths)) },
            predicting: Arc::new(Spans::new(spans)),
            predicted_by: predicted_by.concat(),
            targets: pairs.iter().flat_map(|(_, completion)| completion.iter().copied()).collect(),
        })
    }

    /// One text, each of whose tokens but the first is scored.
    pub fn of_text(ids: &[u32]) -> Result<Completions> {
        Completions::new(&[ids.split_at(ids.len().min(1))])
    }

    /// The tokens of the completions \[M\], in the order in which the completions were given.
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// The tokens that a decoder reads.
    pub fn tokens(&self) -> usize {
        self.batch.ids.len()
    }
}

/// The numbers of the prompts, grouped by their tokens; groups are in the order of their first prompts.
pub fn by_prompt<'a>(prompts: impl Iterator<Item = &'a [u32]>) -> Vec<Vec<usize>> {
    let (mut groups, mut known) = (Vec::<Vec<usize>>::new(), HashMap::new());
    for (row, prompt) in prompts.enumerate() {
        let group = *known.entry(prompt).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}
