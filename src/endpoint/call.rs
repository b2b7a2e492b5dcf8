//! Requests for one row: paced, repeated after failures that pass, counted. What an answer means is for the questions to say.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::http::{Broken, Reply};
use super::served::Usage;
use super::server::Server;
use super::trouble::{Lack, Trouble, words};

/// The first wait after a failure, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The longest wait while the server answers other requests.
const BRIEF: Duration = Duration::from_secs(1);

/// Why a row has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// For all rows.
    Trouble(Trouble),
    /// The prompt is too long: another row may have an answer.
    TooLong(Trouble),
    /// A filter of the provider stopped the answer, which is not the model's then: another row may have an answer.
    Filtered,
    /// Asking was stopped meanwhile.
    Stopped,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Trouble(trouble)
    }
}

/// Numbers of an endpoint.
#[derive(Default)]
pub(crate) struct Counts {
    pub requests: AtomicU64,
    pub retries: AtomicU64,
    pub kept: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub completion_tokens: AtomicU64,
    pub microseconds: AtomicU64,
}

impl Counts {
    pub(crate) fn add(count: &AtomicU64, more: u64) {
        count.fetch_add(more, Relaxed);
    }

    pub(crate) fn of(count: &AtomicU64) -> u64 {
        count.load(Relaxed)
    }

    /// Counts what a row took.
    pub(crate) fn take(&self, usage: Usage) {
        Counts::add(&self.prompt_tokens, usage.prompt_tokens);
        Counts::add(&self.completion_tokens, usage.completion_tokens);
    }

    /// Counts a row that an earlier try has paid for.
    pub(crate) fn keep(&self, usage: Usage) {
        Counts::add(&self.kept, 1);
        self.take(usage);
    }
}

/// What a row's requests share.
pub struct Call {
    pub(crate) server: Arc<Server>,
    /// The name that the server has for the model, or for the adapter.
    pub(crate) model: Arc<str>,
    /// The adapter, if the model is one.
    pub(crate) adapter: Option<Arc<Adapter>>,
    /// Becomes true when asking is to stop, for all rows.
    stop: Arc<watch::Sender<bool>>,
    answers: Mutex<Answers>,
}

/// What a row's answers said so far.
#[derive(Clone, Default)]
struct Answers {
    usage: Usage,
    /// The name of the model that answered.
    model: Option<String>,
}

/// What happened to a request.
enum Outcome {
    Answer(Value),
    /// The server says that it does not have the adapter.
    Unloaded(Failure),
    /// May pass: why, whether the server is overloaded, and when to try again.
    Passing {
        why: String,
        overloaded: bool,
        after: Option<Duration>,
    },
    Failed(Failure),
}

impl Call {
    pub(crate) fn new(
        server: Arc<Server>,
        model: Arc<str>,
        adapter: Option<Arc<Adapter>>,
        stop: Arc<watch::Sender<bool>>,
    ) -> Call {
        Call { server, model, adapter, stop, answers: Mutex::default() }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the row took.
    pub(crate) fn usage(&self) -> Usage {
        self.answers().usage
    }

    /// The name of the model that answered, where answers tell it.
    pub(crate) fn answered(&self) -> Option<String> {
        self.answers().model.clone()
    }

    async fn stopped(&self) {
        // Never an error: the sender is this call's too.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// A failure that ends asking. Said before the next request gets this one's turn, so that none follows.
    fn last(&self, failure: impl Into<Failure>) -> Failure {
        let failure = failure.into();
        if matches!(failure, Failure::Trouble(_)) {
            self.stop.send_replace(true);
        }
        failure
    }

    /// An answer that cannot be used.
    pub(crate) fn bad(&self, what: impl Into<String>) -> Failure {
        Trouble::BadAnswer { url: self.server.base.to_string(), what: what.into() }.into()
    }

    /// An error of what the server lacks.
    pub(crate) fn lacks(&self, lack: Lack) -> String {
        self.server.lacks(lack).to_string()
    }

    /// Posts a body that asks for at most `completion` tokens. Failures that may pass are repeated.
    pub(crate) async fn post(&self, url: &str, body: &Value, completion: usize) -> Result<Value, Failure> {
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| error.to_string());
        self.exchange(url, body, completion, read).await
    }

    /// Posts a body whose answer is words for people.
    pub(crate) async fn tell(&self, url: &str, body: &Value) -> Result<(), Failure> {
        self.exchange(url, body, 0, |_| Ok(Value::Null)).await.map(drop)
    }

    async fn exchange(
        &self,
        url: &str,
        body: &Value,
        completion: usize,
        read: fn(&[u8]) -> Result<Value, String>,
    ) -> Result<Value, Failure> {
        let server = &*self.server;
        let bytes = Bytes::from(serde_json::to_vec(body).map_err(|error| self.bad(error.to_string()))?);
        // About four bytes a token.
        let expected = (bytes.len() / 4 + completion) as f64;
        let (mut first, mut wait, mut is_loaded_again) = (None, BACK_OFF.0, false);
        loop {
            let turn = tokio::select! {
                turn = server.pace.turn(expected) => turn,
                () = self.stopped() => return Err(Failure::Stopped),
            };
            if *self.stop.borrow() {
                return Err(Failure::Stopped);
            }
            let asked = Instant::now();
            let sent = server.http.send(url, Some(bytes.clone())).await;
            Counts::add(&server.counts.requests, 1);
            match self.outcome(url, body, sent, read) {
                Outcome::Answer(answer) => {
                    let usage = usage_of(&answer);
                    server.pace.answered(&turn, expected, usage.tokens());
                    server.answered();
                    self.answers().usage += usage;
                    server.counts.take(usage);
                    self.check_model(&answer).map_err(|trouble| self.last(trouble))?;
                    return Ok(answer);
                }
                Outcome::Failed(failure) => return Err(self.last(failure)),
                Outcome::Unloaded(failure) => {
                    // Another process that shares the server has unloaded it.
                    let Some(adapter) = self.adapter.as_ref().filter(|_| !is_loaded_again) else {
                        return Err(self.last(failure));
                    };
                    drop(turn);
                    adapter.clone().ensure().await.map_err(|trouble| self.last(trouble))?;
                    is_loaded_again = true;
                }
                Outcome::Passing { why, overloaded, after } => {
                    if overloaded {
                        server.pace.overloaded(&turn);
                    }
                    drop(turn);
                    if let Some(ended) = server.ended() {
                        return Err(self.last(ended));
                    }
                    let begun = *first.get_or_insert_with(Instant::now);
                    // While others are answered, a server that is only busy is waited for.
                    let since = if overloaded { begun.max(server.last_answer()) } else { begun };
                    let pause = after.map_or(jittered(wait), |after| after + jittered(BACK_OFF.0));
                    // A server that answers others is back soon.
                    let longest = if server.last_answer() >= asked { BRIEF } else { BACK_OFF.1 };
                    wait = (wait * 2).min(longest);
                    server.may_wait(since, pause, after, &why).map_err(|trouble| self.last(trouble))?;
                    Counts::add(&server.counts.retries, 1);
                    server.failed(&why);
                    // An error is the end of the pause.
                    let _ = tokio::time::timeout(pause, self.stopped()).await;
                }
            }
        }
    }

    fn outcome(
        &self,
        url: &str,
        body: &Value,
        sent: Result<Reply, Broken>,
        read: fn(&[u8]) -> Result<Value, String>,
    ) -> Outcome {
        let server = &*self.server;
        let reply = match sent {
            Ok(reply) => reply,
            Err(Broken::Certificate(why)) => {
                let url = server.base.to_string();
                return Outcome::Failed(Trouble::Certificate { url, why }.into());
            }
            Err(Broken::TooLarge) => {
                return Outcome::Failed(self.bad("it is larger than any answer should be"));
            }
            Err(Broken::Connection(why)) => {
                return Outcome::Passing { why, overloaded: false, after: None };
            }
            Err(Broken::Timeout(limit)) => {
                let why = format!("no whole answer within {} s", limit.as_secs_f64());
                return Outcome::Passing { why, overloaded: true, after: None };
            }
        };
        if reply.status.is_success() {
            return match read(&reply.body) {
                Ok(answer) => Outcome::Answer(answer),
                Err(error) => Outcome::Failed(self.bad(format!("it must be JSON, but {error}"))),
            };
        }
        let said = said(&reply.body);
        let words = words(&said, server.key.as_deref(), &texts(body));
        let is_passing = matches!(reply.status.as_u16(), 408 | 409 | 425 | 429 | 500..);
        if is_passing && !is_too_long(&reply.body, &said) {
            let overloaded = matches!(reply.status.as_u16(), 429 | 503);
            let why = format!(
                "status {}{}{words}",
                reply.status.as_u16(),
                if words.is_empty() { "" } else { ": " }
            );
            return Outcome::Passing { why, overloaded, after: reply.retry_after };
        }
        let (base, status) = (server.base.to_string(), reply.status.as_u16());
        let is_unloaded =
            self.adapter.is_some() && matches!(status, 400 | 404) && said.contains(&*self.model);
        let failure = match reply.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => server.refuses_key(status, words).into(),
            _ if is_too_long(&reply.body, &said) => {
                Failure::TooLong(Trouble::TooLong { url: base, context: server.context, words })
            }
            _ if error_code(&reply.body) == CONTENT_FILTER => Failure::Filtered,
            // A server that loads an adapter speaks of the adapter.
            StatusCode::NOT_FOUND if said.contains("model") && body["lora_name"].is_null() => {
                Trouble::NoModel { url: base, model: self.model.to_string(), models: server.models.clone() }
                    .into()
            }
            _ => Trouble::Refused { url: url.to_owned(), status, words }.into(),
        };
        match failure {
            Failure::Trouble(_) if is_unloaded => Outcome::Unloaded(failure),
            failure => Outcome::Failed(failure),
        }
    }

    /// Ensures that the model that was asked answered, or, of servers that call it otherwise, always the same.
    fn check_model(&self, answer: &Value) -> Result<(), Trouble> {
        let Some(found) = answer["model"].as_str() else { return Ok(()) };
        self.server.check_model(&self.model, found)?;
        self.answers().model = Some(found.to_owned());
        Ok(())
    }
}

/// At least half of a wait, so that requests that failed together do not come together again.
fn jittered(wait: Duration) -> Duration {
    let draw = RandomState::new().hash_one(()) % 1024;
    wait.mul_f64(0.5 + draw as f64 / 2048.0)
}

/// The tokens that an answer took, as each kind of server tells it.
fn usage_of(answer: &Value) -> Usage {
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    if answer["usage"].is_object() {
        let usage = &answer["usage"];
        return Usage {
            prompt_tokens: count(&usage["prompt_tokens"]),
            completion_tokens: count(&usage["completion_tokens"]),
        };
    }
    if let Some(rows) = answer.as_array() {
        let mut usage = Usage::default();
        rows.iter().for_each(|row| usage += usage_of(row));
        return usage;
    }
    let native = match answer["meta_info"].is_object() {
        true => (&answer["meta_info"]["prompt_tokens"], &answer["meta_info"]["completion_tokens"]),
        false => (&answer["tokens_evaluated"], &answer["tokens_predicted"]),
    };
    Usage { prompt_tokens: count(native.0), completion_tokens: count(native.1) }
}

/// What the server says in an error's body.
fn said(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned();
    };
    let candidates =
        [&value["error"]["message"], &value["error"], &value["message"], &value["detail"], &value["object"]];
    let text = candidates.into_iter().find_map(Value::as_str).map(str::to_owned);
    text.unwrap_or_else(|| value.to_string())
}

/// What providers call an answer, or a prompt, that their filter stopped.
pub(crate) const CONTENT_FILTER: &str = "content_filter";

/// The code of an error, or its type where it has none in words.
fn error_code(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    error["code"].as_str().or(error["type"].as_str()).unwrap_or_default().to_owned()
}

/// Whether an error says that prompt and completion do not fit into the context.
fn is_too_long(body: &[u8], said: &str) -> bool {
    if matches!(&*error_code(body), "context_length_exceeded" | "exceed_context_size_error") {
        return true;
    }
    let said = said.to_lowercase();
    ["maximum context length", "context length", "context size", "context window", "maximum model length"]
        .iter()
        .any(|part| said.contains(part))
}

/// All texts of a request that come from prompts.
fn texts(body: &Value) -> Vec<&str> {
    fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Object(_) => collect(&value["content"], found),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for key in ["prompt", "messages", "input", "text", "content", "stop"] {
        collect(&body[key], &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_are_read_in_every_servers_form() {
        let body = |value: Value| serde_json::to_vec(&value).unwrap();
        for (value, text) in [
            (json!({ "error": { "message": "no", "code": 400 } }), "no"),
            (json!({ "error": "no" }), "no"),
            (json!({ "object": "error", "message": "no" }), "no"),
            (json!({ "detail": "Not Found" }), "Not Found"),
        ] {
            assert_eq!(said(&body(value)), text);
        }
        assert_eq!(said(b"<html>bad gateway"), "<html>bad gateway");
        let long = json!({ "error": { "message": "This model's maximum context length is 2048 tokens." } });
        assert!(is_too_long(&body(long.clone()), &said(&body(long))));
        let llama = json!({ "error": { "type": "exceed_context_size_error", "message": "x" } });
        assert!(is_too_long(&body(llama), "x"));
        assert!(!is_too_long(b"{}", "bad request"));
    }

    #[test]
    fn tokens_are_counted_of_every_kind_of_answer() {
        let usage = |value: Value| usage_of(&value).tokens();
        assert_eq!(usage(json!({ "usage": { "prompt_tokens": 3, "completion_tokens": 4 } })), 7);
        assert_eq!(usage(json!([{ "meta_info": { "prompt_tokens": 3, "completion_tokens": 4 } }, {}])), 7);
        assert_eq!(usage(json!({ "tokens_evaluated": 3, "tokens_predicted": 4 })), 7);
        assert_eq!(usage(json!({ "tokens": [1, 2] })), 0);
    }
}
