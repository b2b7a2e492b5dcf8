//! Completions: the request in each server's form, and how its answer is read.

use serde_json::{Map, Value, json};

use super::call::{CONTENT_FILTER, Call, Failure};
use super::config::{Api, Kind};
use super::question::sealed::Answered;
use super::question::{Message, Prompt, Sample, Sampled, Sampling, number};
use super::trouble::Lack;

/// A way to ask for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// /v1/chat/completions
    Chat,
    /// /v1/completions
    Completions,
    /// SGLang's own, which gives token ids.
    Generate,
    /// llama.cpp's own, which gives token ids.
    Completion,
}

impl Sample {
    fn route(&self, kind: Kind) -> Route {
        let is_chat = matches!(self.prompt, Prompt::Chat { .. });
        let is_plain = is_chat && !self.ids && !self.logprobs;
        match kind {
            Kind::Sglang if !is_plain => Route::Generate,
            Kind::LlamaCpp if !is_plain => Route::Completion,
            _ if is_chat => Route::Chat,
            _ => Route::Completions,
        }
    }

    fn body(&self, call: &Call, route: Route, ids: Option<&[u32]>) -> Value {
        let kind = call.server.kind;
        let is_openai = call.server.base.is_openai();
        let mut body = sampling(kind, route, &self.sampling, is_openai);
        let seed = match kind {
            Kind::Triplay => json!(self.seed.to_hex()),
            _ => json!(number(&self.seed)),
        };
        let prompt = match (&self.prompt, ids) {
            (_, Some(ids)) => json!(ids),
            (Prompt::Ids(ids), _) => json!(ids),
            (Prompt::Text(text), _) => json!(text),
            (Prompt::Chat { .. }, _) => Value::Null,
        };
        match route {
            Route::Chat => {
                if let Prompt::Chat { messages, arguments } = &self.prompt {
                    chat(&mut body, &call.model, messages, arguments);
                }
                body.insert("seed".into(), seed);
                if self.logprobs {
                    body.insert("logprobs".into(), json!(true));
                }
            }
            Route::Completions => {
                body.insert("model".into(), json!(&*call.model));
                body.insert("prompt".into(), prompt);
                body.insert("seed".into(), seed);
                if self.logprobs {
                    // Only those of the drawn tokens.
                    body.insert("logprobs".into(), json!(0));
                }
            }
            Route::Generate => {
                let input = if prompt.is_string() { "text" } else { "input_ids" };
                body.insert("sampling_seed".into(), seed);
                let mut whole = Map::new();
                whole.insert(input.into(), prompt);
                whole.insert("sampling_params".into(), body.into());
                // Token ids come with them.
                whole.insert("return_logprob".into(), json!(true));
                if call.adapter.is_some() {
                    whole.insert("lora_path".into(), json!(&*call.model));
                }
                return whole.into();
            }
            Route::Completion => {
                body.insert("prompt".into(), prompt);
                body.insert("seed".into(), seed);
                body.insert("return_tokens".into(), json!(true));
                body.insert("n_probs".into(), json!(u8::from(self.logprobs)));
            }
        }
        if self.ids && matches!(route, Route::Chat | Route::Completions) {
            body.insert("return_token_ids".into(), json!(true));
        }
        body.into()
    }

    fn read(
        &self,
        call: &Call,
        route: Route,
        asked: Option<Vec<u32>>,
        answer: &Value,
    ) -> Result<Sampled, Failure> {
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        let (text, reason, ids, logprobs): (_, _, &Value, Vec<&Value>) = match route {
            Route::Chat | Route::Completions => {
                let choice = &answer["choices"][0];
                if !choice.is_object() {
                    return Err(call.bad("it has no `choices`"));
                }
                let text = match route {
                    Route::Chat => match &choice["message"]["content"] {
                        // What the model says in place of an answer, where the server keeps that apart.
                        Value::Null => Some(text_of(&choice["message"]["refusal"]).unwrap_or_default()),
                        content => text_of(content),
                    },
                    _ => text_of(&choice["text"]),
                };
                let found = &choice["logprobs"];
                let logprobs = match found["content"].as_array() {
                    Some(tokens) => tokens.iter().map(|token| &token["logprob"]).collect(),
                    None => {
                        found["token_logprobs"].as_array().map(|all| all.iter().collect()).unwrap_or_default()
                    }
                };
                (text, choice["finish_reason"].as_str(), &choice["token_ids"], logprobs)
            }
            Route::Generate => {
                let tokens = answer["meta_info"]["output_token_logprobs"].as_array();
                let logprobs =
                    tokens.map(|all| all.iter().map(|token| &token[0]).collect()).unwrap_or_default();
                let reason = answer["meta_info"]["finish_reason"]["type"].as_str();
                (text_of(&answer["text"]), reason, &answer["output_ids"], logprobs)
            }
            Route::Completion => {
                let tokens = answer["completion_probabilities"].as_array();
                let mut logprobs: Vec<&Value> =
                    tokens.map(|all| all.iter().map(|token| &token["logprob"]).collect()).unwrap_or_default();
                // It leaves out those of the tokens of a text that ended the completion. Some are of no use.
                if answer["stop_type"] == "word"
                    && answer["tokens"].as_array().is_some_and(|ids| ids.len() > logprobs.len())
                {
                    logprobs.clear();
                }
                let reason = match answer["stop_type"].as_str() {
                    Some("limit") => Some("length"),
                    other => other,
                };
                (text_of(&answer["content"]), reason, &answer["tokens"], logprobs)
            }
        };
        if reason == Some(CONTENT_FILTER) {
            return Err(Failure::Filtered);
        }
        let mut sampled = Sampled {
            text: text.ok_or_else(|| call.bad("it has no text"))?,
            finished: match reason {
                Some("length") => false,
                Some("error" | "abort") => return Err(call.bad("the server gave up on the completion")),
                _ => true,
            },
            ..Sampled::default()
        };
        if route == Route::Chat {
            let message = &answer["choices"][0]["message"];
            let reasoning = text_of(&message["reasoning_content"]).or_else(|| text_of(&message["reasoning"]));
            sampled.reasoning = reasoning.filter(|text| !text.is_empty());
        }
        if self.ids {
            sampled.ids = match (route, ids) {
                (Route::Generate, Value::Null) => {
                    let tokens = answer["meta_info"]["output_token_logprobs"].as_array();
                    let ids = tokens.map(|all| all.iter().map(|token| token[1].clone()).collect::<Value>());
                    call.ids(&ids.unwrap_or_default(), "output_token_logprobs")?
                }
                (_, ids) => call.ids(ids, "token_ids")?,
            };
            sampled.prompt_ids = match (&self.prompt, asked) {
                (_, Some(ids)) => ids,
                (Prompt::Ids(ids), _) => ids.clone(),
                _ => {
                    let of_choice = &answer["choices"][0]["prompt_token_ids"];
                    let found = if of_choice.is_null() { &answer["prompt_token_ids"] } else { of_choice };
                    call.ids(found, "prompt_token_ids")?
                }
            };
        }
        if self.logprobs {
            sampled.logprobs = call.numbers(logprobs.into_iter(), "logprobs")?;
            let (ids, numbers) = (sampled.ids.len(), sampled.logprobs.len());
            if self.ids && ids != numbers && numbers > 0 {
                return Err(call.bad(format!("it has {ids} token ids and {numbers} log-probabilities")));
            }
        }
        Ok(sampled)
    }
}

/// Puts messages into a body.
pub(crate) fn chat(
    body: &mut Map<String, Value>,
    model: &str,
    messages: &[Message],
    arguments: &Map<String, Value>,
) {
    body.insert("model".into(), json!(model));
    body.insert("messages".into(), json!(messages));
    if !arguments.is_empty() {
        body.insert("chat_template_kwargs".into(), arguments.clone().into());
    }
}

/// All fields that change how a completion is drawn, so that no default of the server or of the model's files counts.
fn sampling(kind: Kind, route: Route, sampling: &Sampling, is_openai: bool) -> Map<String, Value> {
    let Sampling { max_tokens, temperature, top_p, top_k, min_p, stop } = sampling;
    let mut fields = Map::new();
    let mut set = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    let most = match route {
        Route::Generate => "max_new_tokens",
        Route::Completion => "n_predict",
        _ if is_openai => "max_completion_tokens",
        _ => "max_tokens",
    };
    set(most, json!(max_tokens));
    set("temperature", json!(temperature));
    set("top_p", json!(top_p));
    // Servers disagree about how to say all tokens.
    let all = if matches!(kind, Kind::Vllm | Kind::Sglang) { -1 } else { 0 };
    if kind != Kind::OpenAi {
        set("top_k", if *top_k == 0 { json!(all) } else { json!(top_k) });
        set("min_p", json!(min_p));
    }
    if kind != Kind::Triplay {
        set("frequency_penalty", json!(0.0));
        set("presence_penalty", json!(0.0));
    }
    match kind {
        Kind::Vllm | Kind::Sglang => set("repetition_penalty", json!(1.0)),
        Kind::LlamaCpp => {
            set("repeat_penalty", json!(1.0));
            set("typical_p", json!(1.0));
            set("mirostat", json!(0));
            set("dynatemp_range", json!(0.0));
            set("xtc_probability", json!(0.0));
            set("dry_multiplier", json!(0.0));
            // With the cache of an earlier prompt, the same request may give another text.
            set("cache_prompt", json!(false));
        }
        _ => {}
    }
    if !stop.is_empty() {
        set("stop", json!(stop));
    }
    fields
}

/// What the server cannot take of a prompt.
pub(crate) fn check_prompt(call: &Call, prompt: &Prompt) -> Result<(), String> {
    let server = &call.server;
    if let Prompt::Chat { arguments, .. } = prompt
        && !arguments.is_empty()
        && !server.capabilities.can.chat_template
    {
        return Err(call.lacks(Lack::ChatTemplate));
    }
    match (server.config.api, prompt) {
        (Some(Api::Chat), Prompt::Text(_) | Prompt::Ids(_)) => Err(format!(
            "the endpoint `{}` must be asked with messages (`api: chat`), found a prompt of plain text\n  help: add `chat: true` to \
             the stage",
            server.name
        )),
        (Some(Api::Completions), Prompt::Chat { .. }) => Err(format!(
            "the endpoint `{}` must be asked with text (`api: completions`), found messages\n  help: leave `chat` out at the \
             stage, and write the prompt as the model was trained on",
            server.name
        )),
        _ => Ok(()),
    }
}

impl Answered for Sample {
    const NAME: &'static str = "sample";

    fn check(&self, call: &Call) -> Result<(), String> {
        let (server, can) = (&call.server, call.server.capabilities.can);
        let lacks = [(self.ids && !can.ids, Lack::Ids), (self.logprobs && !can.logprobs, Lack::Logprobs)];
        if let Some((_, lack)) = lacks.into_iter().find(|(lacks, _)| *lacks) {
            return Err(call.lacks(lack));
        }
        if server.kind == Kind::OpenAi {
            let fields = [("top_k", self.sampling.top_k as f64), ("min_p", self.sampling.min_p)];
            if let Some((key, value)) = fields.into_iter().find(|(_, value)| *value != 0.0) {
                return Err(format!(
                    "`{key}` must be 0 with the endpoint `{}`, which is an OpenAI-compatible server and has no `{key}`, found {value}",
                    server.name
                ));
            }
        }
        check_prompt(call, &self.prompt)
    }

    async fn answer(&self, call: &Call) -> Result<Sampled, Failure> {
        let base = &call.server.base;
        let route = self.route(call.server.kind);
        let url = match route {
            Route::Chat => base.api("/chat/completions"),
            Route::Completions => base.api("/completions"),
            Route::Generate => base.own("/generate"),
            Route::Completion => base.own("/completion"),
        };
        let is_chat = matches!(self.prompt, Prompt::Chat { .. });
        let needs_ids = matches!(route, Route::Generate | Route::Completion) && (is_chat || self.ids);
        let ids = if needs_ids { Some(call.tokenize(&self.prompt).await?) } else { None };
        let body = self.body(call, route, ids.as_deref());
        let answer = call.post(&url, &body, self.sampling.max_tokens).await?;
        self.read(call, route, ids, &answer)
    }
}
