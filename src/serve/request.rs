//! What clients ask. Every field counts, or is refused: a field that is ignored changes results without a word.

use std::fmt::Display;

use axum::body::Bytes;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{ApiError, Result};
use model::{Arguments, Message, RenderedPrompt};
use rollout::{Alternatives, Sampling};
use store::Seed;

/// The most choices of a request.
const MOST_CHOICES: usize = 4096;

/// The most log-probabilities per token, and the most stop texts.
const MOST_ALTERNATIVES: i64 = 20;
const MOST_STOPS: usize = 64;

/// Whether a value of a field changes nothing.
type IsNeutral = fn(&Value) -> bool;

fn anything(_: &Value) -> bool {
    true
}

fn off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Null => true,
    }
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn no_tool(value: &Value) -> bool {
    value == "none" || value == "auto"
}

fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true)
}

fn plain_text(value: &Value) -> bool {
    value["type"] == "text"
}

/// Fields that clients send though they change nothing here, with the values for which that is so. `null` always is.
const NEUTRAL: &[(&str, IsNeutral)] = &[
    ("user", anything),
    ("metadata", anything),
    ("safety_identifier", anything),
    ("prompt_cache_key", anything),
    ("parallel_tool_calls", anything),
    ("service_tier", |tier| tier == "auto" || tier == "default"),
    ("store", off),
    ("frequency_penalty", off),
    ("presence_penalty", off),
    ("repetition_penalty", one),
    ("length_penalty", one),
    ("logit_bias", off),
    ("suffix", off),
    ("tools", off),
    ("functions", off),
    ("tool_choice", no_tool),
    ("function_call", no_tool),
    ("response_format", plain_text),
    ("modalities", |kinds| kinds == &serde_json::json!(["text"])),
    ("audio", off),
    ("prediction", off),
    ("reasoning_effort", off),
    ("verbosity", off),
    ("web_search_options", off),
    ("use_beam_search", off),
    ("min_tokens", off),
    ("priority", off),
    ("include_stop_str_in_output", off),
    ("skip_special_tokens", is_true),
    ("spaces_between_special_tokens", anything),
    ("continue_final_message", off),
];

/// A request as JSON, of which fields are taken one group after the other.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn read(body: &Bytes) -> Result<Fields> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(ApiError::malformed("the request must be a JSON object")),
            // Without an excerpt, which could be of a prompt.
            Err(error) => Err(ApiError::malformed(format!(
                "the request must be JSON: line {}, column {} is not",
                error.line(),
                error.column()
            ))),
        }
    }

    /// Removes the fields that change nothing.
    fn drop_neutral(&mut self) -> Result<()> {
        for (name, is_neutral) in NEUTRAL {
            match self.0.remove(*name) {
                Some(value) if !value.is_null() && !is_neutral(&value) => {
                    return Err(ApiError::invalid(
                        name,
                        format!(
                            "`{name}` is not supported: leave it out, or give it the value that changes nothing"
                        ),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the fields of these names as a `T`.
    fn take<T: DeserializeOwned>(&mut self, names: &[&str]) -> Result<T> {
        let taken = names.iter().filter_map(|name| self.0.remove_entry(*name)).collect();
        parse(Value::Object(taken))
    }

    /// Takes all that are left as a `T`, which refuses unknown fields.
    pub(crate) fn rest<T: DeserializeOwned>(self) -> Result<T> {
        parse(Value::Object(self.0))
    }
}

fn parse<T: DeserializeOwned>(fields: Value) -> Result<T> {
    serde_path_to_error::deserialize(fields).map_err(|error| {
        let (path, reason) = (error.path().to_string(), error.inner().to_string());
        if let Some(name) = reason.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
            return ApiError::unknown_field(name);
        }
        if let Some(name) = reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            return ApiError::invalid(name, format!("`{name}` must be given"));
        }
        // Values may be texts of a prompt, so that only the kind of what was found is said.
        let kind = match reason.split(", expected ").nth(1).unwrap_or("of another type") {
            "usize" | "u32" | "u64" => "a whole number of at least 0",
            "i64" => "a whole number",
            "f64" => "a number",
            kind => kind,
        };
        ApiError::invalid(&path, format!("`{path}` must be {kind}"))
    })
}

/// Fields of completions and chats alike.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Common {
    model: Option<String>,
    n: Option<usize>,
    seed: Option<Value>,
    stop: Option<Value>,
    stop_token_ids: Option<Vec<u32>>,
    ignore_eos: Option<bool>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    best_of: Option<usize>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    return_token_ids: Option<bool>,
    prompt_logprobs: Option<i64>,
    logprobs_mode: Option<LogprobsMode>,
    logprob_token_ids: Option<Vec<u32>>,
}

const COMMON: &[&str] = &[
    "model",
    "n",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "best_of",
    "stream",
    "stream_options",
    "return_token_ids",
    "prompt_logprobs",
    "logprobs_mode",
    "logprob_token_ids",
];

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(deny_unknown_fields, default)]
struct StreamOptions {
    include_usage: bool,
}

/// The temperature of recorded log-probabilities, in vLLM's words.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
enum LogprobsMode {
    #[serde(rename = "processed_logprobs")]
    AtSamplingTemperature,
    #[serde(rename = "raw_logprobs")]
    AtOne,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompletionFields {
    prompt: Value,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    logprobs: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatFields {
    messages: Vec<ChatMessage>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<i64>,
    #[serde(default)]
    chat_template_kwargs: Option<Arguments>,
    #[serde(default)]
    add_generation_prompt: Option<bool>,
}

/// A turn of a chat.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    role: String,
    content: Option<Content>,
    /// Names no chat template here has.
    #[serde(default)]
    name: Option<Value>,
    #[serde(default)]
    tool_calls: Option<Value>,
    #[serde(default)]
    refusal: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of parts of type `text`")]
enum Content {
    Text(String),
    Parts(Vec<TextPart>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextPart {
    r#type: String,
    text: String,
}

impl ChatMessage {
    /// The turn, its text as data: what spells a control token does not become one.
    pub(crate) fn guarded(&self, marks: &model::ControlTokens) -> Result<Message> {
        for (name, value) in
            [("name", &self.name), ("tool_calls", &self.tool_calls), ("refusal", &self.refusal)]
        {
            if value.as_ref().is_some_and(|value| !off(value)) {
                return Err(ApiError::invalid(
                    &format!("messages.{name}"),
                    format!("`{name}` of a message is not supported: leave it out"),
                ));
            }
        }
        let text = match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                if let Some(other) = parts.iter().find(|part| part.r#type != "text") {
                    let message =
                        format!("parts of a message must have the type `text`, found `{}`", other.r#type);
                    return Err(ApiError::invalid("messages.content", message));
                }
                parts.iter().map(|part| part.text.as_str()).collect()
            }
        };
        Ok(Message::new(self.role.as_str(), marks.guard(&text)))
    }
}

/// A text or token ids.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Reads a text, a list of texts, token ids, or a list of lists of token ids.
pub(crate) fn prompts(value: Value, name: &str) -> Result<Vec<Prompt>> {
    let wrong = || {
        let rule = "must be a text, a list of texts, a list of token ids, or a list of such lists";
        ApiError::invalid(name, format!("`{name}` {rule}"))
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = |values: &[Value]| values.iter().map(id).collect::<Option<Vec<u32>>>();
    match value {
        Value::String(text) => Ok(vec![Prompt::Text(text)]),
        Value::Array(list) if list.first().is_some_and(Value::is_number) => {
            Ok(vec![Prompt::Ids(ids(&list).ok_or_else(wrong)?)])
        }
        Value::Array(list) if !list.is_empty() => {
            let prompt = |value: Value| match value {
                Value::String(text) => Some(Prompt::Text(text)),
                Value::Array(list) => ids(&list).map(Prompt::Ids),
                _ => None,
            };
            list.into_iter().map(prompt).collect::<Option<Vec<Prompt>>>().ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// Where the draws of a request's choices come from.
#[derive(Clone, Debug)]
pub(crate) enum Streams {
    /// Choice i draws from stream i of the seed of this number.
    Number(u64),
    /// The keys of the first choices' streams; with one key, further choices draw from its children.
    Keys(Vec<Seed>),
}

impl Streams {
    fn read(seed: Option<&Value>, choices: usize) -> Result<Streams> {
        let wrong = |found: &str| {
            let rule = "must be a whole number, 64 hexadecimal digits that key the random stream itself, or a list of such keys, \
                        one for each choice";
            ApiError::invalid("seed", format!("`seed` {rule}; found {found}"))
        };
        let key = |value: &Value| value.as_str().and_then(Seed::from_hex);
        match seed {
            None | Some(Value::Null) => Ok(Streams::Number(random_number())),
            Some(Value::Number(number)) => {
                let number = number.as_u64().or(number.as_i64().map(|number| number as u64));
                number.map(Streams::Number).ok_or_else(|| wrong("another number"))
            }
            Some(text @ Value::String(_)) => {
                Ok(Streams::Keys(vec![key(text).ok_or_else(|| wrong("another text"))?]))
            }
            Some(Value::Array(keys)) if keys.len() == choices => {
                let keys = keys.iter().map(key).collect::<Option<Vec<Seed>>>();
                Ok(Streams::Keys(keys.ok_or_else(|| wrong("other items"))?))
            }
            Some(Value::Array(keys)) => Err(wrong(&format!("{} keys for {choices} choices", keys.len()))),
            Some(_) => Err(wrong("another type")),
        }
    }

    /// The random stream of a choice.
    pub(crate) fn of(&self, choice: usize) -> ChaCha8Rng {
        match self {
            Streams::Number(number) => Seed::from_u64(*number).stream(choice),
            Streams::Keys(keys) => match keys.get(choice) {
                Some(key) => key.own_stream(),
                None => keys[0].stream(choice),
            },
        }
    }

    /// As the answer says it.
    pub(crate) fn shown(&self) -> Value {
        match self {
            Streams::Number(number) => (*number).into(),
            Streams::Keys(keys) if keys.len() == 1 => keys[0].to_hex().into(),
            Streams::Keys(keys) => keys.iter().map(|key| Value::from(key.to_hex())).collect(),
        }
    }
}

/// A random number that JSON readers of all languages keep.
fn random_number() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() >> 11
}

/// A checked request for completions of texts or of a chat.
pub(crate) struct Completions {
    pub model: Option<String>,
    pub asked: Asked,
    /// Completions of each prompt.
    pub n: usize,
    pub sampling: Sampling,
    /// The most tokens; `None`: what the context has room for.
    pub max_tokens: Option<usize>,
    /// Tokens that end a completion, besides those of the model.
    pub stop_token_ids: Vec<u32>,
    pub ignore_eos: bool,
    /// The number of alternatives per token, if log-probabilities are wanted.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt, as vLLM reports them.
    pub prompt_logprobs: Option<usize>,
    pub logprob_token_ids: Vec<u32>,
    pub raw: bool,
    pub echo: bool,
    pub return_token_ids: bool,
    pub stream: bool,
    pub include_usage: bool,
    seed: Option<Value>,
}

/// What is to be completed.
pub(crate) enum Asked {
    Prompts(Vec<Prompt>),
    Chat(Chat),
}

/// A conversation, and how it becomes a prompt.
pub(crate) struct Chat {
    messages: Vec<ChatMessage>,
    arguments: Arguments,
    begin_turn: bool,
}

impl Chat {
    /// The prompt by the model's template.
    pub(crate) fn render(&self, tokenizer: &model::Tokenizer) -> Result<RenderedPrompt> {
        if let Some(name) = model::GIVEN.iter().find(|name| self.arguments.contains_key(**name)) {
            return Err(ApiError::invalid(
                "chat_template_kwargs",
                format!("`chat_template_kwargs` must not have `{name}`, which every template gets"),
            ));
        }
        if self.messages.is_empty() {
            return Err(ApiError::invalid("messages", "`messages` must have a message, found none"));
        }
        let turns = self.messages.iter().map(|message| message.guarded(&tokenizer.marks));
        let turns = turns.collect::<Result<Vec<Message>>>()?;
        let today = jiff::Zoned::now().date();
        let rendered = tokenizer
            .render(&[turns], today, &self.arguments, self.begin_turn)
            .map_err(|error| ApiError::invalid("messages", error.to_string()))?;
        Ok(tokenizer.marks.read(&rendered.concat()))
    }
}

impl Completions {
    pub(crate) fn of_prompts(body: &Bytes) -> Result<Completions> {
        let mut fields = Fields::read(body)?;
        fields.drop_neutral()?;
        let common = fields.take(COMMON)?;
        let own: CompletionFields = fields.rest()?;
        let prompts = prompts(own.prompt, "prompt")?;
        let echo = own.echo.unwrap_or_default();
        let logprobs = alternatives("logprobs", own.logprobs)?;
        let mut asked = Completions::new(common, Asked::Prompts(prompts), own.max_tokens, logprobs)?;
        if own.max_tokens == Some(0) && !echo && asked.prompt_logprobs.is_none() {
            let message = "`max_tokens` must be at least 1, or 0 with `echo` or `prompt_logprobs`, which score the prompt";
            return Err(ApiError::invalid("max_tokens", message));
        }
        asked.echo = echo;
        Ok(asked)
    }

    pub(crate) fn of_chat(body: &Bytes) -> Result<Completions> {
        let mut fields = Fields::read(body)?;
        fields.drop_neutral()?;
        let common = fields.take(COMMON)?;
        let own: ChatFields = fields.rest()?;
        let max_tokens = match (own.max_tokens, own.max_completion_tokens) {
            (Some(one), Some(other)) if one != other => {
                let message =
                    "`max_tokens` and `max_completion_tokens` mean the same, found different numbers";
                return Err(ApiError::invalid("max_tokens", message));
            }
            (one, other) => one.or(other),
        };
        if max_tokens == Some(0) {
            return Err(ApiError::invalid("max_tokens", "`max_tokens` must be at least 1, found 0"));
        }
        let top = alternatives("top_logprobs", own.top_logprobs)?;
        let logprobs = match (own.logprobs.unwrap_or_default(), top) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, None | Some(0)) => None,
            (false, Some(_)) => {
                return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
            }
        };
        let arguments = own.chat_template_kwargs.unwrap_or_default();
        let begin_turn = own.add_generation_prompt.unwrap_or(true);
        let chat = Chat { messages: own.messages, arguments, begin_turn };
        Completions::new(common, Asked::Chat(chat), max_tokens, logprobs)
    }

    fn new(
        common: Common,
        asked: Asked,
        max_tokens: Option<usize>,
        logprobs: Option<usize>,
    ) -> Result<Completions> {
        let n = common.n.unwrap_or(1);
        let prompts = match &asked {
            Asked::Prompts(prompts) => prompts.len(),
            Asked::Chat(_) => 1,
        };
        if n == 0 || n.saturating_mul(prompts) > MOST_CHOICES {
            let message = format!(
                "`n` times the number of prompts must be between 1 and {MOST_CHOICES}, found {n} times {prompts}"
            );
            return Err(ApiError::invalid("n", message));
        }
        if common.best_of.is_some_and(|best_of| best_of != n) {
            return Err(ApiError::invalid("best_of", format!("`best_of` must be `n` = {n}, or left out")));
        }
        let top_k = match common.top_k.unwrap_or(0) {
            -1 => 0,
            top_k => usize::try_from(top_k).map_err(|_| {
                ApiError::invalid("top_k", "`top_k` must be at least 0, or -1 for all tokens")
            })?,
        };
        let sampling = Sampling {
            temperature: common.temperature.unwrap_or(1.0),
            top_k,
            top_p: common.top_p.unwrap_or(1.0),
            min_p: common.min_p.unwrap_or(0.0),
            max_new_tokens: max_tokens.unwrap_or(1).max(1),
            stop: stops(common.stop.as_ref())?,
        };
        sampling.check().map_err(|message| {
            let param = message.split('`').nth(1).unwrap_or_default().to_owned();
            ApiError::invalid(&param, message)
        })?;
        let stream = common.stream.unwrap_or_default();
        if !stream && common.stream_options.is_some() {
            return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream: true`"));
        }
        Ok(Completions {
            model: common.model,
            asked,
            n,
            sampling,
            max_tokens,
            stop_token_ids: common.stop_token_ids.unwrap_or_default(),
            ignore_eos: common.ignore_eos.unwrap_or_default(),
            logprobs,
            prompt_logprobs: alternatives("prompt_logprobs", common.prompt_logprobs)?,
            logprob_token_ids: common.logprob_token_ids.unwrap_or_default(),
            raw: common.logprobs_mode == Some(LogprobsMode::AtOne),
            echo: false,
            return_token_ids: common.return_token_ids.unwrap_or_default(),
            stream,
            include_usage: common.stream_options.unwrap_or_default().include_usage,
            seed: common.seed,
        })
    }

    /// The random streams of so many choices.
    pub(crate) fn streams(&self, choices: usize) -> Result<Streams> {
        Streams::read(self.seed.as_ref(), choices)
    }

    /// What is recorded of the completion's tokens.
    pub(crate) fn alternatives(&self) -> Alternatives {
        self.recorded(self.logprobs.unwrap_or(0))
    }

    /// So many most probable tokens, and those that the request names.
    pub(crate) fn recorded(&self, top: usize) -> Alternatives {
        Alternatives { top, tokens: self.logprob_token_ids.clone() }
    }

    /// What is recorded of the prompt's tokens, if they are scored.
    pub(crate) fn prompt_alternatives(&self) -> Option<Alternatives> {
        let echoed = self.logprobs.filter(|_| self.echo);
        let top = [self.prompt_logprobs, echoed].into_iter().flatten().max()?;
        Some(self.recorded(top))
    }
}

/// A number of alternatives.
fn alternatives(name: &str, count: Option<i64>) -> Result<Option<usize>> {
    match count {
        None => Ok(None),
        Some(count @ 0..=MOST_ALTERNATIVES) => Ok(Some(count as usize)),
        Some(found) => {
            let message = format!("`{name}` must be between 0 and {MOST_ALTERNATIVES}, found {found}");
            Err(ApiError::invalid(name, message))
        }
    }
}

fn stops(value: Option<&Value>) -> Result<Vec<String>> {
    let wrong = |found: &dyn Display| {
        let message = format!("`stop` must be a text or a list of at most {MOST_STOPS} texts, found {found}");
        ApiError::invalid("stop", message)
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) if list.len() > MOST_STOPS => Err(wrong(&format!("{} items", list.len()))),
        Some(Value::Array(list)) => {
            let text = |text: &Value| text.as_str().map(str::to_owned);
            list.iter().map(text).collect::<Option<Vec<_>>>().ok_or_else(|| wrong(&"other items"))
        }
        Some(_) => Err(wrong(&"something else")),
    }
}

/// A request for embeddings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingFields {
    #[serde(default)]
    pub model: Option<String>,
    pub input: Value,
    #[serde(default)]
    pub encoding_format: Option<Encoding>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    Float,
    Base64,
}

pub(crate) fn embeddings(body: &Bytes) -> Result<EmbeddingFields> {
    let mut fields = Fields::read(body)?;
    fields.drop_neutral()?;
    fields.rest()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizeFields {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    add_special_tokens: Option<bool>,
    #[serde(default)]
    messages: Option<Vec<ChatMessage>>,
    #[serde(default)]
    add_generation_prompt: Option<bool>,
    #[serde(default)]
    chat_template_kwargs: Option<Arguments>,
}

/// A request for the tokens of a text or a chat.
pub(crate) struct Tokenize {
    pub model: Option<String>,
    pub what: Tokenized,
}

pub(crate) enum Tokenized {
    /// A text, with or without the tokens that the model expects around it.
    Text(String, bool),
    Chat(Chat),
}

pub(crate) fn tokenize(body: &Bytes) -> Result<Tokenize> {
    let fields: TokenizeFields = Fields::read(body)?.rest()?;
    let what = match (fields.prompt, fields.messages) {
        (Some(text), None)
            if fields.add_generation_prompt.is_none() && fields.chat_template_kwargs.is_none() =>
        {
            Tokenized::Text(text, fields.add_special_tokens.unwrap_or(true))
        }
        (None, Some(messages)) if !fields.add_special_tokens.unwrap_or_default() => Tokenized::Chat(Chat {
            messages,
            arguments: fields.chat_template_kwargs.unwrap_or_default(),
            begin_turn: fields.add_generation_prompt.unwrap_or(true),
        }),
        _ => {
            return Err(ApiError::malformed(
                "the request must have `prompt`, perhaps with `add_special_tokens`, or `messages`, perhaps with \
                 `add_generation_prompt` and `chat_template_kwargs`",
            ));
        }
    };
    Ok(Tokenize { model: fields.model, what })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Detokenize {
    #[serde(default)]
    pub model: Option<String>,
    pub tokens: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadAdapter {
    pub lora_name: String,
    pub lora_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnloadAdapter {
    pub lora_name: String,
}
