//! A server as it was found: its kind, version, models and abilities. Finding out asks it a few things before the first row.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::call::Counts;
use super::config::{Config, Kind};
use super::http::{Broken, Http, Reply};
use super::kind::{Capabilities, LogprobsMode, Needs};
use super::managed::Managed;
use super::pace::Pace;
use super::question::Model;
use super::trouble::{Lack, Trouble, words};
use super::url::Base;

/// How long a server that is loading is left alone between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The token ids of a text after the last tokens of a prompt, as far as the server told them.
type Continuations = HashMap<(Vec<u32>, String), Option<Vec<u32>>>;

/// A server that can be asked.
pub(crate) struct Server {
    /// The endpoint's name in the site file.
    pub name: String,
    pub config: Config,
    pub base: Base,
    pub kind: Kind,
    pub version: String,
    pub models: Vec<String>,
    /// Positions of the model.
    pub context: Option<usize>,
    pub capabilities: Capabilities,
    pub http: Arc<Http>,
    /// The API key, only to keep it out of errors.
    pub key: Option<String>,
    pub pace: Arc<Pace>,
    pub counts: Counts,
    pub retry: Duration,
    managed: Option<Arc<Managed>>,
    /// The names of models in answers.
    answered: Mutex<BTreeMap<String, u64>>,
    opened: Instant,
    /// Milliseconds from `opened` to the last answer.
    last: AtomicU64,
    /// The last failure that may pass, until the server answers again.
    failing: Mutex<Option<String>>,
    /// The token ids of texts after the end of a prompt.
    pub continuations: Mutex<Continuations>,
}

/// What the list of models says.
struct List {
    base: Base,
    kind: Kind,
    /// `None` where the server has no list.
    models: Option<Vec<Listed>>,
}

struct Listed {
    name: String,
    context: Option<usize>,
    digest: Option<String>,
}

impl Server {
    /// Finds out what the server is and whether it has the model and what is needed.
    pub(crate) async fn find(
        name: &str,
        config: &Config,
        model: &Model,
        needs: &Needs,
        base: Base,
        managed: Option<Arc<Managed>>,
    ) -> Result<Server, Trouble> {
        let key = match config.key_variable() {
            None => None,
            Some(variable) => {
                let key = std::env::var(variable).unwrap_or_default().trim().to_owned();
                if key.is_empty() {
                    return Err(Trouble::NoKey { endpoint: name.to_owned(), variable: variable.to_owned() });
                }
                Some(key)
            }
        };
        let timeout = config.timeout;
        let http = Http::new(config.ca.as_deref(), key.as_deref(), timeout.connect.0, timeout.answer.0);
        let mut server = Server {
            name: name.to_owned(),
            config: config.clone(),
            base,
            kind: config.kind,
            version: String::new(),
            models: Vec::new(),
            context: None,
            capabilities: Capabilities::of(config.kind),
            http: Arc::new(http.map_err(Trouble::Wrong)?),
            key,
            pace: pace_of(name, config),
            counts: Counts::default(),
            retry: timeout.retry.0,
            managed,
            answered: Mutex::default(),
            opened: Instant::now(),
            last: AtomicU64::new(0),
            failing: Mutex::default(),
            continuations: Mutex::default(),
        };
        let list = server.list().await?;
        (server.base, server.kind) = (list.base, list.kind);
        server.capabilities = Capabilities::of(server.kind);
        server.ask_version().await;
        if let Some(models) = list.models {
            server.models = models.iter().map(|listed| listed.name.clone()).collect();
            server.take_model(&models, model)?;
        }
        if let Some(lacks) = server.capabilities.lacks(needs) {
            return Err(server.lacks(lacks));
        }
        let tried = match (model.name.is_empty(), server.models.first()) {
            (true, Some(first)) => first.clone(),
            _ => config.served_name(&model.name).to_owned(),
        };
        server.try_out(&tried, needs).await?;
        Ok(server)
    }

    /// An error of what the server cannot do.
    pub(crate) fn lacks(&self, lacks: Lack) -> Trouble {
        let (url, version) = (self.base.to_string(), self.version.clone());
        Trouble::Incapable { url, kind: self.kind, version, lacks }
    }

    pub(crate) fn refuses_key(&self, status: u16, words: String) -> Trouble {
        let variable = self.config.key.clone();
        Trouble::Key { url: self.base.to_string(), status, variable, words }
    }

    /// The error of a server that triplay started and that has ended.
    pub(crate) fn ended(&self) -> Option<Trouble> {
        self.managed.as_ref().and_then(|managed| managed.ended())
    }

    /// Keeps a server that triplay started until the process ends.
    pub(crate) fn keep(&self) {
        self.managed.iter().for_each(Managed::keep);
    }

    /// Notes that the server answered just now.
    pub(crate) fn answered(&self) {
        self.last.store(self.opened.elapsed().as_millis() as u64, Relaxed);
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes why a request is tried again.
    pub(crate) fn failed(&self, why: &str) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    /// Why requests are tried again; `None` once the server answers.
    pub(crate) fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the server answered last.
    pub(crate) fn last_answer(&self) -> Instant {
        self.opened + Duration::from_millis(self.last.load(Relaxed))
    }

    /// The names of models in answers, and how often.
    pub(crate) fn answers(&self) -> BTreeMap<String, u64> {
        let mut answers = self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        answers.retain(|_, count| *count > 0);
        answers
    }

    /// Notes the name of the model that gave the answers of an earlier try: others must not be mixed with them.
    pub(crate) fn expect_model(&self, name: String) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert(0);
    }

    /// Whether a request that failed may be repeated after a pause: an error if that is beyond `timeout.retry`. `since` is when
    /// requests began to fail, `told` how long the server asks to wait.
    pub(crate) fn may_wait(
        &self,
        since: Instant,
        pause: Duration,
        told: Option<Duration>,
        why: &str,
    ) -> Result<(), Trouble> {
        let (url, why) = (self.base.to_string(), why.to_owned());
        if let Some(told) = told.filter(|told| *told > self.retry) {
            return Err(Trouble::LongPause { url, told, limit: self.retry, why });
        }
        if since.elapsed() + pause > self.retry {
            return Err(Trouble::Exhausted { url, after: since.elapsed(), why });
        }
        Ok(())
    }

    /// Ensures that the model that was asked answered. A provider may call it by a longer name, but always by the same.
    pub(crate) fn check_model(&self, asked: &str, found: &str) -> Result<(), Trouble> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_exact = matches!(self.kind, Kind::Vllm | Kind::Triplay);
        let other = answered.keys().find(|name| name.as_str() != found && !is_exact).cloned();
        if (is_exact && asked != found) || other.is_some() {
            let asked = other.unwrap_or_else(|| asked.to_owned());
            return Err(Trouble::OtherModel { url: self.base.to_string(), asked, found: found.to_owned() });
        }
        match answered.get_mut(found) {
            Some(count) => *count += 1,
            None => drop(answered.insert(found.to_owned(), 1)),
        }
        Ok(())
    }

    /// Asks for something that the server says of itself. A server that is loading or busy is waited for.
    async fn get(&self, url: &str) -> Result<Reply, Trouble> {
        let begun = Instant::now();
        loop {
            let limit = self.config.timeout.connect.0.max(Duration::from_secs(10));
            let sent = self.http.send_within(url, None, limit).await;
            Counts::add(&self.counts.requests, 1);
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            let url = self.base.to_string();
            let reply = match sent {
                Ok(reply) => reply,
                Err(Broken::Certificate(why)) => return Err(Trouble::Certificate { url, why }),
                Err(Broken::Connection(why)) => return Err(Trouble::Unreachable { url, why }),
                Err(Broken::Timeout(limit)) => {
                    let why = format!("no answer within {} s", limit.as_secs());
                    return Err(Trouble::Unreachable { url, why });
                }
                Err(Broken::TooLarge) => {
                    return Err(Trouble::NoApi { url, found: "an answer of many megabytes".into() });
                }
            };
            let status = reply.status.as_u16();
            if !matches!(status, 429 | 502 | 503 | 504) {
                return Ok(reply);
            }
            let pause = reply.retry_after.unwrap_or_default().max(LOOK);
            self.may_wait(begun, pause, reply.retry_after, &format!("status {status}"))?;
            tokio::time::sleep(pause).await;
        }
    }

    /// JSON that the server says of itself, `Null` where it does not.
    pub(crate) async fn look(&self, url: &str) -> Value {
        match self.get(url).await {
            Ok(reply) if reply.status.is_success() => serde_json::from_slice(&reply.body).unwrap_or_default(),
            _ => Value::Null,
        }
    }

    /// The list of models, which says what kind of server it is.
    async fn list(&self) -> Result<List, Trouble> {
        let (mut base, url) = (self.base.clone(), self.base.to_string());
        let mut reply = self.get(&base.api("/models")).await?;
        if reply.status.as_u16() == 404 {
            // Some providers have another version in their addresses.
            base = base.without_version();
            reply = self.get(&base.api("/models")).await?;
        }
        let status = reply.status.as_u16();
        let is_told = !matches!(self.config.kind, Kind::Auto);
        let found = match status {
            200..300 => None,
            401 | 403 => {
                let words = words(&String::from_utf8_lossy(&reply.body), self.key.as_deref(), &[]);
                return Err(self.refuses_key(status, words));
            }
            404 | 405 if is_told => {
                return Ok(List { base: self.base.clone(), kind: self.config.kind, models: None });
            }
            404 => Some("no list of models (status 404 of /v1/models)".to_owned()),
            _ => Some(format!("status {status} of /v1/models")),
        };
        if let Some(found) = found {
            return Err(Trouble::NoApi { url, found });
        }
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let Some(data) = body["data"].as_array() else {
            return Err(Trouble::NoApi { url, found: "something else than a list under /v1/models".into() });
        };
        let owner = data.iter().find_map(|model| model["owned_by"].as_str()).unwrap_or_default();
        let kind = match (self.config.kind, owner) {
            (Kind::Auto, "vllm") => Kind::Vllm,
            (Kind::Auto, "sglang") => Kind::Sglang,
            (Kind::Auto, "llamacpp") => Kind::LlamaCpp,
            (Kind::Auto, "triplay") => Kind::Triplay,
            (Kind::Auto, _) => Kind::OpenAi,
            (kind, _) => kind,
        };
        let listed = |model: &Value| {
            let length = [&model["max_model_len"], &model["context_length"], &model["meta"]["n_ctx"]];
            Some(Listed {
                name: model["id"].as_str()?.to_owned(),
                context: length.iter().find_map(|length| length.as_u64()).map(|length| length as usize),
                digest: model["digest"].as_str().map(str::to_owned),
            })
        };
        Ok(List { base, kind, models: Some(data.iter().filter_map(listed).collect()) })
    }

    async fn ask_version(&mut self) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self.kind {
            Kind::Vllm | Kind::Triplay => {
                let said = self.look(&self.base.own("/version")).await;
                self.version = text(&said["version"]).unwrap_or_default();
            }
            Kind::Sglang => {
                let said = self.look(&self.base.own("/get_server_info")).await;
                self.version = text(&said["version"]).unwrap_or_default();
                self.context = said["context_length"].as_u64().map(|length| length as usize);
            }
            Kind::LlamaCpp => {
                let said = self.look(&self.base.own("/props")).await;
                self.version = text(&said["build_info"]).unwrap_or_default();
                let length = said["default_generation_settings"]["n_ctx"].as_u64();
                self.context = length.map(|length| length as usize);
            }
            Kind::Auto | Kind::OpenAi | Kind::Embeddings => {}
        }
    }

    /// Finds the model in the list.
    fn take_model(&mut self, models: &[Listed], model: &Model) -> Result<(), Trouble> {
        // The model is loaded later.
        if model.name.is_empty() {
            return Ok(());
        }
        let name = self.config.served_name(&model.name);
        let url = self.base.to_string();
        let Some(listed) = models.iter().find(|listed| listed.name == name) else {
            return Err(Trouble::NoModel { url, model: name.to_owned(), models: self.models.clone() });
        };
        self.context = self.context.or(listed.context);
        if let (Some(asked), Some(found)) = (&model.revision, &listed.digest)
            && asked != found
        {
            let (model, asked, found) = (name.to_owned(), asked.clone(), found.clone());
            return Err(Trouble::OtherRevision { url, model, asked, found });
        }
        Ok(())
    }

    /// Tries out what depends on how the server was started, or on the provider.
    async fn try_out(&mut self, model: &str, needs: &Needs) -> Result<(), Trouble> {
        if needs.embed && self.kind != Kind::Triplay {
            let body = json!({ "model": model, "input": ["frost"], "encoding_format": "float" });
            let said = self.probe("/embeddings", &body).await?;
            if !said.is_some_and(|said| said["data"][0]["embedding"].is_array()) {
                return Err(self.lacks(Lack::Embed));
            }
        }
        if self.kind == Kind::Vllm && (needs.logprobs || needs.score || needs.choice) {
            self.capabilities.logprobs_mode = self.logprobs_mode(model).await?;
        }
        Ok(())
    }

    /// At which temperature the log-probabilities of vLLM are, which it does not say: those of one token at two temperatures.
    async fn logprobs_mode(&self, model: &str) -> Result<Option<LogprobsMode>, Trouble> {
        let mut tops = Vec::new();
        for temperature in [1.0, 0.5] {
            let body = json!({
                "model": model, "prompt": "frost", "max_tokens": 1, "temperature": temperature, "top_p": 1.0, "top_k": -1,
                "min_p": 0.0, "repetition_penalty": 1.0, "seed": 1, "logprobs": 5,
            });
            let Some(said) = self.probe("/completions", &body).await? else {
                return Err(self.lacks(Lack::Logprobs));
            };
            let top = said["choices"][0]["logprobs"]["top_logprobs"][0].as_object().cloned();
            tops.push(top.unwrap_or_default());
        }
        let pair = tops[0].iter().find_map(|(token, at_one)| {
            let (at_one, at_half) = (at_one.as_f64()?, tops[1].get(token)?.as_f64()?);
            // The most probable token, whose number differs the most.
            Some((at_one, at_half))
        });
        Ok(pair.map(|(at_one, at_half)| match (at_one - at_half).abs() < 1e-3 {
            true => LogprobsMode::Raw,
            false => LogprobsMode::Processed,
        }))
    }

    /// Posts something small; `None` where the server refuses it.
    async fn probe(&self, route: &str, body: &Value) -> Result<Option<Value>, Trouble> {
        let begun = Instant::now();
        loop {
            let bytes = Bytes::from(body.to_string());
            let sent = self.http.send(&self.base.api(route), Some(bytes)).await;
            Counts::add(&self.counts.requests, 1);
            let url = self.base.to_string();
            let (told, why) = match sent {
                Ok(reply) if matches!(reply.status.as_u16(), 401 | 403) => {
                    let words = words(&String::from_utf8_lossy(&reply.body), self.key.as_deref(), &[]);
                    return Err(self.refuses_key(reply.status.as_u16(), words));
                }
                Ok(reply) if !matches!(reply.status.as_u16(), 408 | 425 | 429 | 502..=504) => {
                    let said = reply.status.is_success().then(|| serde_json::from_slice(&reply.body).ok());
                    return Ok(said.flatten());
                }
                Ok(reply) => (reply.retry_after, format!("status {} of {route}", reply.status.as_u16())),
                Err(Broken::Connection(why)) if begun.elapsed() >= self.retry => {
                    return Err(Trouble::Unreachable { url, why });
                }
                Err(_) => (None, format!("{route} is not answered")),
            };
            let pause = told.unwrap_or_default().max(LOOK);
            self.may_wait(begun, pause, told, &why)?;
            tokio::time::sleep(pause).await;
        }
    }
}

/// The pace of an endpoint, which all nodes of the process share.
fn pace_of(name: &str, config: &Config) -> Arc<Pace> {
    static PACES: LazyLock<Mutex<HashMap<String, Weak<Pace>>>> = LazyLock::new(Mutex::default);
    let entry = serde_json::to_string(config).unwrap_or_default();
    let mut paces = PACES.lock().unwrap_or_else(PoisonError::into_inner);
    paces.retain(|_, pace| pace.strong_count() > 0);
    let key = format!("{name} {entry}");
    if let Some(pace) = paces.get(&key).and_then(Weak::upgrade) {
        return pace;
    }
    let pace = Pace::new(config.requests.0, config.requests_per_minute, config.tokens_per_minute);
    let pace = Arc::new(pace);
    paces.insert(key, Arc::downgrade(&pace));
    pace
}
