//! Answers in the shapes of OpenAI's completions and chat completions, with vLLM's token ids and prompt log-probabilities.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::error::{ApiError, Result};
use model::Tokenizer;
use rollout::{Alternatives, Completion, Ranked, Score};

/// What all parts of an answer have in common.
pub(crate) struct Envelope {
    pub id: String,
    pub model: String,
    pub created: u64,
    pub fingerprint: String,
    /// Where the draws came from.
    pub seed: Value,
    pub is_chat: bool,
}

impl Envelope {
    fn object(&self, is_part: bool) -> &'static str {
        match (self.is_chat, is_part) {
            (false, _) => "text_completion",
            (true, false) => "chat.completion",
            (true, true) => "chat.completion.chunk",
        }
    }

    /// An answer, or a part of a stream, with these choices.
    pub(crate) fn with(&self, choices: Vec<Value>, is_part: bool) -> Map<String, Value> {
        let mut answer = Map::new();
        answer.insert("id".into(), self.id.as_str().into());
        answer.insert("object".into(), self.object(is_part).into());
        answer.insert("created".into(), self.created.into());
        answer.insert("model".into(), self.model.as_str().into());
        answer.insert("system_fingerprint".into(), self.fingerprint.as_str().into());
        answer.insert("seed".into(), self.seed.clone());
        answer.insert("choices".into(), choices.into());
        answer
    }
}

pub(crate) fn usage(prompt: usize, completion: usize) -> Value {
    json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
}

/// A token with its log-probability, and those of others in its place.
pub(crate) struct Told<'a> {
    pub id: u32,
    /// `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    pub alternatives: Cow<'a, [(u32, f32)]>,
}

/// Log-probabilities in the shape of OpenAI's completions. `offset` counts the characters of the text before these tokens.
pub(crate) fn completion_logprobs<'a>(
    told: impl Iterator<Item = Told<'a>>,
    offset: &mut usize,
    tokenizer: &Tokenizer,
) -> Result<Value> {
    let (mut tokens, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for Told { id, logprob, alternatives } in told {
        let text = text_of(id, tokenizer)?;
        tops.push(match logprob {
            None => Value::Null,
            Some(logprob) => {
                let mut top = Map::new();
                for (other, logprob) in alternatives.iter().copied().chain([(id, logprob)]) {
                    // Tokens that are parts of characters may have one text: the most probable stays.
                    top.entry(text_of(other, tokenizer)?).or_insert(logprob.into());
                }
                Value::Object(top)
            }
        });
        offsets.push(*offset);
        *offset += text.chars().count();
        tokens.push(text);
        logprobs.push(logprob);
    }
    Ok(json!({ "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets }))
}

/// Log-probabilities in the shape of OpenAI's chat completions.
pub(crate) fn chat_logprobs<'a>(
    told: impl Iterator<Item = Told<'a>>,
    tokenizer: &Tokenizer,
) -> Result<Value> {
    let entry = |id: u32, logprob: f32| -> Result<Map<String, Value>> {
        let text = text_of(id, tokenizer)?;
        // The bytes of a part of a character are not known.
        let bytes = if text.contains(char::REPLACEMENT_CHARACTER) { None } else { Some(text.as_bytes()) };
        let fields = [("token", json!(text)), ("logprob", json!(logprob)), ("bytes", json!(bytes))];
        Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let content = told.map(|Told { id, logprob, alternatives }| {
        let mut told = entry(id, logprob.unwrap_or_default())?;
        let tops = alternatives.iter().map(|(id, logprob)| Ok(entry(*id, *logprob)?.into()));
        told.insert("top_logprobs".into(), tops.collect::<Result<Vec<Value>>>()?.into());
        Ok(Value::Object(told))
    });
    Ok(json!({ "content": content.collect::<Result<Vec<Value>>>()? }))
}

/// Of the tokens recorded in the place of a prompt's token, those that are wanted: others were recorded for another part of the
/// answer.
pub(crate) fn recorded(score: &Score, wanted: &Alternatives) -> impl Iterator<Item = Ranked> {
    let is_wanted = |(at, other): &(usize, &Ranked)| *at < wanted.top || wanted.tokens.contains(&other.id);
    score.alternatives.iter().enumerate().filter(is_wanted).map(|(_, other)| *other)
}

/// The log-probabilities of a prompt's tokens as vLLM writes them: `null` for the first.
pub(crate) fn prompt_logprobs(
    prompt: &[u32],
    scores: &[Score],
    wanted: &Alternatives,
    tokenizer: &Tokenizer,
) -> Result<Value> {
    let mut told = vec![Value::Null];
    for (id, score) in prompt.iter().skip(1).zip(scores) {
        let entry = |id: u32, logprob: f32, rank: usize| -> Result<Value> {
            Ok(json!({ "logprob": logprob, "rank": rank, "decoded_token": text_of(id, tokenizer)? }))
        };
        let mut entries = Map::new();
        entries.insert(id.to_string(), entry(*id, score.logprob, score.rank)?);
        for Ranked { id: other, logprob, rank } in recorded(score, wanted).filter(|other| other.id != *id) {
            entries.insert(other.to_string(), entry(other, logprob, rank)?);
        }
        told.push(entries.into());
    }
    Ok(told.into())
}

/// Why a completion ended: `finish_reason` and `stop_reason`.
pub(crate) fn reasons(
    completion: &Completion,
    stops: &[String],
    stop_ids: &[u32],
    tokenizer: &Tokenizer,
) -> Result<(&'static str, Value)> {
    if !completion.finished {
        return Ok(("length", Value::Null));
    }
    let last = completion.ids.last().copied();
    if let Some(id) = last.filter(|id| stop_ids.contains(id)) {
        return Ok(("stop", id.into()));
    }
    if let Some(stop) = stops.iter().find(|stop| tokenizer.id(stop).is_some_and(|id| Some(id) == last)) {
        return Ok(("stop", stop.as_str().into()));
    }
    let text = tokenizer.decode(&completion.ids).map_err(failed)?;
    let found = stops.iter().filter_map(|stop| Some((text.find(stop.as_str())?, stop))).min();
    Ok(("stop", found.map_or(Value::Null, |(_, stop)| stop.as_str().into())))
}

pub(crate) fn text_of(id: u32, tokenizer: &Tokenizer) -> Result<String> {
    tokenizer.text_of(id).map_err(failed)
}

pub(crate) fn failed(error: model::Error) -> ApiError {
    ApiError::failed(error.to_string())
}
