//! Completions and chat completions: from a checked request to rows of the worker, and from their events to an answer or a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Shared;
use super::answer::{self, Envelope, Told, failed};
use super::error::{ApiError, Json, Result};
use super::models::{Loaded, Served};
use super::request::{Asked, Completions, Prompt};
use super::text::TextStream;
use super::worker::{Event, Job, NewRow};
use rollout::{Drawing, PromptScores, Row, Sampling};

/// The most tokens of a completion that does not say how many, as with OpenAI's and vLLM's servers.
const MAX_TOKENS: usize = 16;

/// A request that is being answered.
struct Answering {
    served: Arc<Served>,
    request: Completions,
    envelope: Envelope,
    /// The prompts as token ids, and the texts that `echo` repeats.
    prompts: Vec<(Arc<[u32]>, String)>,
}

/// Answers a request for completions.
pub(crate) async fn complete(shared: Arc<Shared>, request: Completions) -> Result<Response> {
    let served = shared.model(request.model.as_deref())?;
    let asked = served.clone();
    let prepare = move || {
        let loaded = asked.loaded()?;
        let prompts = tokenize(&request, loaded)?;
        let drawings = prompts.iter().map(|(ids, _)| drawing(&request, loaded, ids));
        let drawings = drawings.collect::<Result<Vec<_>>>()?;
        Ok((request, prompts, drawings))
    };
    let (request, prompts, drawings) = shared.aside(prepare).await?;
    let choices = prompts.len() * request.n;
    let streams = request.streams(choices)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let is_chat = matches!(request.asked, Asked::Chat(_));
    let envelope = Envelope {
        id: format!("{}-{}", if is_chat { "chatcmpl" } else { "cmpl" }, shared.next_id()),
        model: served.name.clone(),
        created,
        fingerprint: shared.fingerprint(),
        seed: streams.shown(),
        is_chat,
    };
    let asked_at = Instant::now();
    let (reply, events) = unbounded_channel();
    let rows = (0..choices).map(|choice| {
        let prompt = choice / request.n;
        NewRow {
            row: Row::new(&prompts[prompt].0, drawings[prompt].clone(), streams.of(choice)),
            choice,
            reply: reply.clone(),
            follow: request.stream,
            asked_at,
        }
    });
    let rows = rows.collect();
    drop(reply);
    shared.enqueue(choices, Job::Sample(served.clone(), rows))?;
    let answering = Answering { served, request, envelope, prompts };
    match answering.request.stream {
        true => Ok(answering.stream(events)),
        false => answering.collect(events).await,
    }
}

/// The prompts as token ids, with the texts that `echo` repeats.
fn tokenize(request: &Completions, loaded: &Loaded) -> Result<Vec<(Arc<[u32]>, String)>> {
    let tokenizer = &loaded.checkpoint.tokenizer;
    let prompts = match &request.asked {
        Asked::Chat(chat) => {
            let rendered = chat.render(tokenizer)?;
            loaded.ensure_short(rendered.text.len())?;
            let ids = tokenizer.encode_filled(&[rendered]).map_err(failed)?.concat();
            vec![(ids.into(), String::new())]
        }
        Asked::Prompts(prompts) => {
            let encode = |prompt: &Prompt| {
                Ok(match prompt {
                    Prompt::Text(text) => {
                        loaded.ensure_short(text.len())?;
                        (tokenizer.encode_plain(text).map_err(failed)?.into(), text.clone())
                    }
                    Prompt::Ids(ids) => {
                        let text =
                            if request.echo { tokenizer.decode(ids).map_err(failed)? } else { String::new() };
                        (ids.as_slice().into(), text)
                    }
                })
            };
            prompts.iter().map(encode).collect::<Result<Vec<(Arc<[u32]>, String)>>>()?
        }
    };
    let vocabulary = loaded.checkpoint.config.vocab_size;
    for (ids, _) in &prompts {
        if ids.is_empty() {
            return Err(ApiError::invalid("prompt", "a prompt must have at least one token, found none"));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            let message = format!("token ids must be below {vocabulary}, the model's vocabulary, found {id}");
            return Err(ApiError::invalid("prompt", message));
        }
    }
    Ok(prompts)
}

/// How the rows of a prompt are drawn.
fn drawing(request: &Completions, loaded: &Loaded, prompt: &[u32]) -> Result<Arc<Drawing>> {
    let (longest, asked) = (loaded.longest, request.max_tokens);
    let room = longest.saturating_sub(prompt.len());
    let most = asked.unwrap_or(match request.asked {
        Asked::Chat(_) => room,
        Asked::Prompts(_) => room.min(MAX_TOKENS),
    });
    if prompt.len() > longest || most > room || (asked.is_none() && room == 0) {
        let more = match asked {
            Some(0) | None => String::new(),
            Some(asked) => format!(" and `max_tokens` asks for {asked} more"),
        };
        return Err(ApiError::too_long(format!(
            "the model has room for {longest} tokens; the prompt has {}{more}: shorten the prompt or lower `max_tokens`",
            prompt.len()
        )));
    }
    let vocabulary = loaded.checkpoint.config.vocab_size;
    let ids = request.logprob_token_ids.iter().chain(&request.stop_token_ids);
    if let Some(id) = ids.into_iter().find(|id| **id as usize >= vocabulary) {
        let message = format!("token ids must be below {vocabulary}, the model's vocabulary, found {id}");
        return Err(ApiError::malformed(message));
    }
    let sampling = Sampling { max_new_tokens: most, ..request.sampling.clone() };
    let mut drawing = Drawing::new(&loaded.checkpoint, sampling);
    if request.ignore_eos {
        let own = loaded.checkpoint.ends();
        drawing.ends.retain(|id| !own.contains(id));
    }
    drawing.ends.extend(&request.stop_token_ids);
    drawing.alternatives = request.alternatives();
    drawing.prompt = request.prompt_alternatives();
    drawing.raw = request.raw;
    Ok(Arc::new(drawing))
}

impl Answering {
    fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|(ids, _)| ids.len()).sum()
    }

    /// The whole answer, once all rows have ended.
    async fn collect(self, mut events: UnboundedReceiver<(usize, Event)>) -> Result<Response> {
        let count = self.prompts.len() * self.request.n;
        let mut choices: Vec<Option<Value>> = vec![None; count];
        let mut completion_tokens = 0;
        for _ in 0..count {
            match events.recv().await {
                Some((choice, Event::Ended(row))) => {
                    completion_tokens += row.completion().ids.len();
                    choices[choice] = Some(self.choice(choice, *row)?);
                }
                Some((_, Event::Failed(message))) => return Err(ApiError::failed(message)),
                Some((_, Event::Read(_) | Event::Token { .. })) => {}
                None => return Err(ApiError::unavailable("the server is stopping")),
            }
        }
        let mut answer = self.envelope.with(choices.into_iter().flatten().collect(), false);
        if self.envelope.is_chat && self.request.return_token_ids {
            answer.insert("prompt_token_ids".into(), json!(&*self.prompts[0].0));
        }
        if let Some(logprobs) = answer["choices"][0].get("prompt_logprobs").filter(|_| self.envelope.is_chat)
        {
            let logprobs = logprobs.clone();
            answer.insert("prompt_logprobs".into(), logprobs);
        }
        answer.insert("usage".into(), answer::usage(self.prompt_tokens(), completion_tokens));
        Ok(Json(Value::Object(answer)).into_response())
    }

    /// A choice of the whole answer.
    fn choice(&self, choice: usize, row: Row) -> Result<Value> {
        let request = &self.request;
        let tokenizer = &self.served.loaded()?.checkpoint.tokenizer;
        let (prompt, echoed) = &self.prompts[choice / request.n];
        let (scores, alternatives) = (row.scores().cloned(), row.alternatives().to_vec());
        let completion = row.finish(tokenizer).map_err(failed)?;
        let drawn = (0..completion.ids.len()).map(|at| Told {
            id: completion.ids[at],
            logprob: Some(completion.logprobs[at]),
            alternatives: alternatives.get(at).map_or(&[][..], Vec::as_slice).into(),
        });
        let logprobs = match (request.logprobs, self.envelope.is_chat) {
            (None, _) => Value::Null,
            (Some(_), true) => answer::chat_logprobs(drawn, tokenizer)?,
            (Some(_), false) => {
                let before = told_of(request, prompt, scores.as_ref().filter(|_| request.echo));
                answer::completion_logprobs(before.chain(drawn), &mut 0, tokenizer)?
            }
        };
        let (finish, stop) =
            answer::reasons(&completion, &request.sampling.stop, &request.stop_token_ids, tokenizer)?;
        let mut told = Map::new();
        told.insert("index".into(), choice.into());
        if self.envelope.is_chat {
            told.insert("message".into(), json!({ "role": "assistant", "content": completion.text }));
        } else {
            let text = if request.echo { format!("{echoed}{}", completion.text) } else { completion.text };
            told.insert("text".into(), text.into());
        }
        told.insert("logprobs".into(), logprobs);
        told.insert("finish_reason".into(), finish.into());
        told.insert("stop_reason".into(), stop);
        if request.return_token_ids {
            told.insert("token_ids".into(), json!(completion.ids));
            if !self.envelope.is_chat {
                told.insert("prompt_token_ids".into(), json!(&**prompt));
            }
        }
        if let (Some(top), Some(scores)) = (request.prompt_logprobs, &scores) {
            let wanted = request.recorded(top);
            told.insert(
                "prompt_logprobs".into(),
                answer::prompt_logprobs(prompt, scores, &wanted, tokenizer)?,
            );
        }
        Ok(told.into())
    }

    /// The answer in parts, as tokens are drawn.
    fn stream(self, events: UnboundedReceiver<(usize, Event)>) -> Response {
        let count = self.prompts.len() * self.request.n;
        let stops = &self.request.sampling.stop;
        let parts = (0..count).map(|_| Part { text: TextStream::new(stops.clone()), offset: 0 }).collect();
        let following = Following { left: count, tokens: 0, parts, events, answering: self };
        let body = stream::unfold(Some(following), |following| async {
            let mut following = following?;
            let (lines, ended) = following.next().await;
            Some((Ok::<Bytes, Infallible>(lines.into()), (!ended).then_some(following)))
        });
        let mut response = Body::from_stream(body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// The tokens of a prompt with their scores, as `echo` tells them.
fn told_of<'a>(
    request: &Completions,
    prompt: &'a [u32],
    scores: Option<&'a PromptScores>,
) -> impl Iterator<Item = Told<'a>> {
    let wanted = request.alternatives();
    prompt.iter().enumerate().filter_map(move |(position, id)| {
        let scores = scores?;
        let score = position.checked_sub(1).and_then(|before| scores.get(before));
        let others = score.into_iter().flat_map(|score| answer::recorded(score, &wanted));
        let alternatives = others.map(|other| (other.id, other.logprob)).collect();
        Some(Told { id: *id, logprob: score.map(|score| score.logprob), alternatives })
    })
}

/// A choice that is streamed.
struct Part {
    text: TextStream,
    /// Characters of the text before the next token.
    offset: usize,
}

/// A stream under way.
struct Following {
    answering: Answering,
    events: UnboundedReceiver<(usize, Event)>,
    parts: Vec<Part>,
    /// Choices that have not ended.
    left: usize,
    tokens: usize,
}

impl Following {
    /// The next lines, and whether they are the last.
    async fn next(&mut self) -> (String, bool) {
        loop {
            let told = match self.events.recv().await {
                Some((_, Event::Failed(message))) => Err(ApiError::failed(message)),
                None => Err(ApiError::unavailable("the server is stopping")),
                Some((choice, event)) => self.tell(choice, event),
            };
            match told {
                Err(error) => return (line(&error.json()), true),
                Ok(None) => {}
                Ok(Some(lines)) if self.left > 0 => return (lines, false),
                Ok(Some(mut lines)) => {
                    if self.answering.request.include_usage {
                        let mut last = self.answering.envelope.with(Vec::new(), true);
                        let usage = answer::usage(self.answering.prompt_tokens(), self.tokens);
                        last.insert("usage".into(), usage);
                        lines += &line(&Value::Object(last));
                    }
                    return (lines + "data: [DONE]\n\n", true);
                }
            }
        }
    }

    /// The line for an event, if it says something.
    fn tell(&mut self, choice: usize, event: Event) -> Result<Option<String>> {
        let (answering, part) = (&self.answering, &mut self.parts[choice]);
        let (request, is_chat) = (&answering.request, answering.envelope.is_chat);
        let tokenizer = &answering.served.loaded()?.checkpoint.tokenizer;
        let (prompt, echoed) = &answering.prompts[choice / request.n];
        let mut told = Map::new();
        told.insert("index".into(), choice.into());
        let (mut whole, mut delta) = (Map::new(), Map::new());
        let (mut text, mut logprobs) = (String::new(), Value::Null);
        match event {
            Event::Read(scores) => {
                delta.insert("role".into(), "assistant".into());
                if request.echo {
                    text.clone_from(echoed);
                    if request.logprobs.is_some() {
                        let told = told_of(request, prompt, scores.as_ref());
                        logprobs = answer::completion_logprobs(told, &mut part.offset, tokenizer)?;
                    }
                }
                if request.return_token_ids {
                    let place = if is_chat { &mut whole } else { &mut told };
                    place.insert("prompt_token_ids".into(), json!(&**prompt));
                }
                if let (Some(top), Some(scores)) = (request.prompt_logprobs, &scores) {
                    let logprobs =
                        answer::prompt_logprobs(prompt, scores, &request.recorded(top), tokenizer)?;
                    told.insert("prompt_logprobs".into(), logprobs);
                }
                if !is_chat && !request.echo && told.len() == 1 {
                    return Ok(None);
                }
            }
            Event::Token { id, logprob, alternatives } => {
                self.tokens += 1;
                text = part.text.push(id, tokenizer).map_err(failed)?;
                if request.logprobs.is_some() {
                    let one =
                        [Told { id, logprob: Some(logprob), alternatives: alternatives.into() }].into_iter();
                    logprobs = match is_chat {
                        true => answer::chat_logprobs(one, tokenizer)?,
                        false => answer::completion_logprobs(one, &mut part.offset, tokenizer)?,
                    };
                }
                if request.return_token_ids {
                    told.insert("token_ids".into(), json!([id]));
                } else if text.is_empty() && logprobs.is_null() {
                    return Ok(None);
                }
            }
            Event::Ended(row) => {
                self.left -= 1;
                let completion = row.finish(tokenizer).map_err(failed)?;
                text = part.text.rest(&completion.text).to_owned();
                let (finish, stop) =
                    answer::reasons(&completion, &request.sampling.stop, &request.stop_token_ids, tokenizer)?;
                told.insert("finish_reason".into(), finish.into());
                told.insert("stop_reason".into(), stop);
            }
            Event::Failed(message) => return Err(ApiError::failed(message)),
        }
        if is_chat {
            delta.insert("content".into(), text.into());
            told.insert("delta".into(), delta.into());
        } else {
            told.insert("text".into(), text.into());
        }
        told.insert("logprobs".into(), logprobs);
        told.entry("finish_reason").or_insert(Value::Null);
        let mut chunk = answering.envelope.with(vec![told.into()], true);
        chunk.extend(whole);
        Ok(Some(line(&Value::Object(chunk))))
    }
}

/// One server-sent event.
fn line(value: &Value) -> String {
    format!("data: {value}\n\n")
}
