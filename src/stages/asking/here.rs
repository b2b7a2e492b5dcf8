//! The decoder in this process.

use std::sync::Arc;

use rayon::prelude::*;

use super::ReadyPrompt;
use super::sampler::{Choosing, Rendered, Report, Sampled, Sampler, Selected};
use model::{Arguments, Checkpoint, Completions, FIXED_DAY, Message, Purpose, RenderedPrompt};
use rollout::Sampling;
use store::Seed;

/// Rows that are scored together.
const SCORED: usize = 16;

/// A decoder in this process.
pub(crate) struct InProcess {
    pub checkpoint: Arc<Checkpoint>,
    /// The model as the pipeline names it.
    pub name: String,
    /// Arguments of the chat template.
    pub arguments: Arguments,
}

impl InProcess {
    /// The tokens that the model reads: none where a prompt is not to be read.
    fn to_read(prompts: &[ReadyPrompt]) -> Vec<Vec<u32>> {
        prompts.iter().map(|prompt| if prompt.is_read() { prompt.ids.clone() } else { Vec::new() }).collect()
    }

    /// The log-probability of each token of a completion after its prompt, at the temperature (at 1 if that is 0).
    pub(super) fn score(&self, rows: &[(&[u32], &[u32])], temperature: f64) -> anyhow::Result<Vec<Vec<f32>>> {
        let decoder = self.checkpoint.decoder(Purpose::Scoring)?;
        let temperature = if temperature == 0.0 { 1.0 } else { temperature };
        let score = |rows: &[(&[u32], &[u32])]| -> anyhow::Result<Vec<Vec<f32>>> {
            let scored = decoder.token_log_probabilities(&Completions::new(rows)?, temperature)?;
            let scored: Vec<f32> = scored.tensor().get(0)?.to_dtype(candle_core::DType::F32)?.to_vec1()?;
            let mut left = &scored[..];
            Ok(rows
                .iter()
                .map(|(_, ids)| {
                    let (own, rest) = left.split_at(ids.len());
                    left = rest;
                    own.to_vec()
                })
                .collect())
        };
        let scored = rows.par_chunks(SCORED).map(score).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(scored.into_iter().flatten().collect())
    }
}

impl Sampler for InProcess {
    fn guard(&self, text: &str) -> String {
        self.checkpoint.tokenizer.marks.guard(text)
    }

    fn positions(&self) -> Option<usize> {
        Some(self.checkpoint.config.positions)
    }

    fn prompts(&self, asked: Vec<Rendered>) -> anyhow::Result<Vec<ReadyPrompt>> {
        let tokenizer = &self.checkpoint.tokenizer;
        let mut chats: Vec<Vec<Message>> = Vec::new();
        let texts: Vec<Option<String>> = asked
            .into_iter()
            .map(|asked| match asked {
                Rendered::Text(text) => Some(text),
                Rendered::Chat(messages) => {
                    chats.push(messages);
                    None
                }
            })
            .collect();
        let mut rendered = match chats.is_empty() {
            true => Vec::new(),
            false => tokenizer.render_chats(&chats, FIXED_DAY, &self.arguments)?,
        }
        .into_iter();
        let texts = texts.into_iter().filter_map(|text| text.or_else(|| rendered.next()));
        let read: Vec<RenderedPrompt> = texts.map(|text| tokenizer.marks.read(&text)).collect();
        let ids = tokenizer.encode_filled(&read)?;
        Ok(read.into_iter().zip(ids).map(|(rendered, ids)| ReadyPrompt::of_tokens(rendered, ids)).collect())
    }

    fn sample(
        &self,
        prompts: &[ReadyPrompt],
        sampling: &Sampling,
        seed: Seed,
        report: Report,
    ) -> anyhow::Result<Vec<Sampled>> {
        let begun = std::time::Instant::now();
        let (total, mut tokens) = (sampling.max_new_tokens, 0);
        let ids = InProcess::to_read(prompts);
        let completions = rollout::sample(&self.checkpoint, &ids, sampling, seed, &mut |step, active| {
            tokens += active;
            let rate = tokens as f64 / begun.elapsed().as_secs_f64().max(1e-3);
            report(step, total, &format!("{rate:.0} tokens/s"));
        })?;
        Ok(completions.into_iter().map(|completion| Sampled { completion, ..Sampled::default() }).collect())
    }

    /// Some tokenizers encode a text differently after a prompt. Where the prompt's own tokens would change, the tokens of the
    /// text alone.
    fn continuations(&self, prompts: &[ReadyPrompt], texts: &[&str]) -> anyhow::Result<Vec<Vec<Vec<u32>>>> {
        let tokenizer = &self.checkpoint.tokenizer;
        let alone = tokenizer.encode_all(texts)?;
        let mut choices = vec![Vec::new(); prompts.len()];
        for (text, alone) in texts.iter().zip(alone) {
            let text = tokenizer.marks.read(text);
            let whole: Vec<RenderedPrompt> =
                prompts.iter().map(|prompt| prompt.rendered.followed_by(&text)).collect();
            for ((prompt, ids), choices) in
                prompts.iter().zip(tokenizer.encode_filled(&whole)?).zip(&mut choices)
            {
                let after = ids.strip_prefix(&prompt.ids[..]).filter(|_| !prompt.ids.is_empty());
                choices.push(after.map_or_else(|| alone.clone(), <[u32]>::to_vec));
            }
        }
        for choices in &choices {
            for (index, choice) in choices.iter().enumerate() {
                let like = |other: &usize| *other != index && choices[*other].starts_with(choice);
                if let Some(other) = (0..choices.len()).find(like) {
                    anyhow::bail!(
                        "the model `{}` cannot choose between `{}` and `{}`: the tokens of one begin with those of the \
                         other; use other texts in `labels`",
                        self.name,
                        texts[index],
                        texts[other]
                    );
                }
            }
        }
        Ok(choices)
    }

    fn choose(
        &self,
        prompts: &[ReadyPrompt],
        continuations: &[Vec<Vec<u32>>],
        choosing: &Choosing,
        report: Report,
    ) -> anyhow::Result<Vec<Option<Selected>>> {
        let Choosing { temperature, seed, .. } = *choosing;
        let ids = InProcess::to_read(prompts);
        let chosen =
            rollout::choose(&self.checkpoint, &ids, continuations, temperature, seed, &mut |done, all| {
                report(done, all, "");
            })?;
        let selected = |chosen: rollout::Chosen| Selected {
            index: chosen.index,
            ids: chosen.ids,
            logprobs: chosen.logprobs,
            mass: Some(chosen.mass),
        };
        Ok(chosen.into_iter().map(|chosen| chosen.map(selected)).collect())
    }

    fn embed(&self, texts: &[&str], _report: Report) -> anyhow::Result<Vec<Vec<f32>>> {
        let tokenizer = &self.checkpoint.tokenizer;
        let texts: Vec<_> = texts.iter().map(|text| tokenizer.marks.data(text)).collect();
        Ok(self.checkpoint.embed(&tokenizer.encode_filled(&texts)?)?)
    }
}
