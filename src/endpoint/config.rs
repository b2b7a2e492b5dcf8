//! An entry of `endpoints:` in the site file: where a server is, and how much may be asked of it. Nothing of it counts for a key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::url::Base;

/// A server that serves models, by its address or by the command that starts it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The server's address, such as `http://127.0.0.1:8000` or `https://api.example.com/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The command that starts the server on this machine, in place of `url`: a list is a program and its arguments, text is run
    /// by `sh -c`. `{model}` and `{port}` are replaced by the model's name and a free port of 127.0.0.1. The server is started
    /// when a node needs it, shared by all nodes that ask the same model, and ended with all its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// How long a server that `command` starts may take until it answers.
    pub ready: Time<600>,
    /// What the server is. `auto` finds it out.
    pub kind: Kind,
    /// The environment variable that holds the API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Which of the two ways of asking the server has, where it has only one: `chat` takes messages, `completions` takes text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// The most requests at once. The number in use adapts to what the server takes.
    pub requests: Count<64>,
    /// The most requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<f64>,
    /// The most tokens, of prompts and completions together, in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<f64>,
    /// What tokens cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What a node may spend, with all its tries together. At the limit the node stops; finished rows are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How long to wait.
    pub timeout: Timeouts,
    /// A PEM file with certificates of authorities that are trusted besides those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether the server's log-probabilities of a policy's own samples take the place of those that the trainer computes.
    pub trust_logprobs: bool,
    /// Where the server finds folders of this machine, so that it can load adapters. A server on this machine needs no `share`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// The names that the server has for models, where they differ from those in the pipeline: NAME: NAME AT THE SERVER.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, String>,
}

/// What a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// Found out from what the server says of itself.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Chat and completions as OpenAI has them, and nothing more.
    #[serde(rename = "openai")]
    OpenAi,
    /// vLLM.
    #[serde(rename = "vllm")]
    Vllm,
    /// SGLang.
    #[serde(rename = "sglang")]
    Sglang,
    /// llama.cpp's server.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    /// `triplay serve`.
    #[serde(rename = "triplay")]
    Triplay,
    /// Embeddings only.
    #[serde(rename = "embeddings")]
    Embeddings,
}

impl Kind {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Auto => "a server of unknown kind",
            Kind::OpenAi => "an OpenAI-compatible server",
            Kind::Vllm => "vLLM",
            Kind::Sglang => "SGLang",
            Kind::LlamaCpp => "llama.cpp's server",
            Kind::Triplay => "triplay serve",
            Kind::Embeddings => "a server of embeddings",
        }
    }
}

/// A way of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// Messages: /v1/chat/completions.
    Chat,
    /// Text: /v1/completions.
    Completions,
}

/// A command: words of a program, or text for a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "must be text, or a list of a program and its arguments")]
pub enum Command {
    /// Run by `sh -c`.
    Shell(String),
    /// A program and its arguments.
    Program(Vec<String>),
}

/// What tokens cost, in any currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of a million tokens of prompts.
    pub input: f64,
    /// Of a million tokens of completions.
    pub output: f64,
}

impl Price {
    /// The cost of some tokens.
    pub fn of(&self, prompt: u64, completion: u64) -> f64 {
        (self.input * prompt as f64 + self.output * completion as f64) / 1e6
    }
}

/// The most that a node may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Tokens of prompts and completions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The cost by `price`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Time<10>,
    /// For a whole answer, from the request to its last byte.
    pub answer: Time<600>,
    /// For a server that fails or refuses all requests, before the node fails. Failed requests are repeated until then.
    pub retry: Time<300>,
}

/// A folder of this machine that the server sees too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its path on this machine.
    pub from: PathBuf,
    /// Its path at the server.
    pub to: PathBuf,
}

/// A whole number from 1, `DEFAULT` where none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Count<const DEFAULT: usize>(pub usize);

impl<const DEFAULT: usize> Default for Count<DEFAULT> {
    fn default() -> Self {
        Count(DEFAULT)
    }
}

impl<const DEFAULT: usize> JsonSchema for Count<DEFAULT> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Count{DEFAULT}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1 })
    }
}

/// A length of time, such as `90s`, `10m` or `1h 30m`, or a whole number of seconds; `DEFAULT` seconds where none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time<const DEFAULT: u64>(pub Duration);

impl<const DEFAULT: u64> Default for Time<DEFAULT> {
    fn default() -> Self {
        Time(Duration::from_secs(DEFAULT))
    }
}

impl<const DEFAULT: u64> Serialize for Time<DEFAULT> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_millis() {
            0 => serializer.collect_str(&format_args!("{}s", self.0.as_secs())),
            _ => serializer.collect_str(&format_args!("{}ms", self.0.as_millis())),
        }
    }
}

impl<'de, const DEFAULT: u64> Deserialize<'de> for Time<DEFAULT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let read = match &value {
            serde_json::Value::Number(seconds) => seconds.as_u64().map(Duration::from_secs),
            serde_json::Value::String(text) => match text.parse::<u64>() {
                Ok(seconds) => Some(Duration::from_secs(seconds)),
                Err(_) => {
                    let length = text.parse::<jiff::SignedDuration>().ok();
                    length.filter(|length| length.is_positive()).map(|length| length.unsigned_abs())
                }
            },
            _ => None,
        };
        read.filter(|length| !length.is_zero()).map(Time).ok_or_else(|| {
            de::Error::custom(format!(
                "must be a time above 0 such as 90s, 10m or 1h 30m, or a whole number of seconds, found {value}"
            ))
        })
    }
}

impl<const DEFAULT: u64> JsonSchema for Time<DEFAULT> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Time{DEFAULT}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "minimum": 1 })
    }
}

impl Config {
    /// Everything that is wrong: the key path within the entry (empty for the whole entry), and what is wrong with it.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut must = |holds: bool, key: &str, message: String| {
            if !holds {
                wrong.push((key.to_owned(), message));
            }
        };
        let found = match (&self.url, &self.command) {
            (None, None) => "neither",
            (Some(_), Some(_)) => "both",
            _ => "",
        };
        must(
            found.is_empty(),
            "",
            format!(
                "an endpoint must have either `url` or `command`, found {found}\n  help: write `url: http://127.0.0.1:8000` \
                 for a server that runs, or `command: vllm serve {{model}} --port {{port}}` for one that triplay starts"
            ),
        );
        if let Some(Err(error)) = self.url.as_deref().map(Base::parse) {
            must(false, "url", error);
        }
        if let Some(command) = &self.command {
            let words = match command {
                Command::Shell(text) => std::slice::from_ref(text),
                Command::Program(words) => words.as_slice(),
            };
            let is_empty = words.first().is_none_or(|word| word.trim().is_empty());
            must(!is_empty, "command", "`command` must name a program, found none".to_owned());
            let has_port = words.iter().any(|word| word.contains("{port}"));
            must(
                is_empty || has_port,
                "command",
                "`command` must contain `{port}`, found none\n  help: triplay chooses a free port: write --port {port}".to_owned(),
            );
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        // The value itself is not shown: it may be the key.
        must(
            self.key.as_deref().is_none_or(is_name),
            "key",
            "`key` must be the name of an environment variable such as OPENAI_API_KEY, found other text\n  help: the key itself \
             stays in the variable: export NAME=… and write `key: NAME`"
                .to_owned(),
        );
        must(self.requests.0 > 0, "requests", "`requests` must be at least 1, found 0".to_owned());
        for (key, rate) in
            [("requests_per_minute", self.requests_per_minute), ("tokens_per_minute", self.tokens_per_minute)]
        {
            if let Some(rate) = rate {
                must(rate.is_finite() && rate > 0.0, key, format!("`{key}` must be above 0, found {rate}"));
            }
        }
        if let Some(price) = self.price {
            for (key, of) in [("price.input", price.input), ("price.output", price.output)] {
                must(of.is_finite() && of >= 0.0, key, format!("`{key}` must be at least 0, found {of}"));
            }
        }
        if let Some(budget) = self.budget {
            must(
                budget.tokens.is_some() || budget.money.is_some(),
                "budget",
                "`budget` must have `tokens` or `money`, found neither".to_owned(),
            );
            must(
                budget.tokens != Some(0),
                "budget.tokens",
                "`budget.tokens` must be above 0, found 0".to_owned(),
            );
            if let Some(money) = budget.money {
                let key = "budget.money";
                must(
                    money.is_finite() && money > 0.0,
                    key,
                    format!("`{key}` must be above 0, found {money}"),
                );
                must(
                    self.price.is_some(),
                    key,
                    "`budget.money` must have `price` beside it, found none\n  help: write price: { input: …, output: … }, per \
                     million tokens"
                        .to_owned(),
                );
            }
        }
        if let Some(share) = &self.share {
            for (key, path) in [("share.from", &share.from), ("share.to", &share.to)] {
                let shown = path.display();
                must(path.is_absolute(), key, format!("`{key}` must be an absolute path, found {shown}"));
            }
        }
        must(
            self.api.is_none() || matches!(self.kind, Kind::Auto | Kind::OpenAi),
            "api",
            "`api` must stand beside `kind: openai`, found another kind\n  help: leave `api` out: the others have both".to_owned(),
        );
        wrong
    }

    /// The environment variable that must hold the key.
    pub fn key_variable(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The server's name for a model.
    pub(crate) fn served_name<'a>(&'a self, model: &'a str) -> &'a str {
        self.models.get(model).map_or(model, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(entry: serde_json::Value) -> Vec<String> {
        let config: Config = serde_json::from_value(entry).unwrap();
        config
            .check()
            .into_iter()
            .map(|(key, message)| format!("{key}: {}", message.lines().next().unwrap()))
            .collect()
    }

    #[test]
    fn an_entry_says_all_that_is_wrong_with_it_and_where() {
        assert_eq!(wrong(json!({ "url": "http://127.0.0.1:8000" })), [""; 0]);
        assert_eq!(
            wrong(json!({
                "url": "ftp://x", "command": "serve", "key": "sk-123", "requests": 0, "tokens_per_minute": -1,
                "budget": { "money": 1 }, "share": { "from": "a", "to": "/b" },
            })),
            [
                ": an endpoint must have either `url` or `command`, found both",
                "url: `url` must begin with http:// or https://, found ftp://x",
                "command: `command` must contain `{port}`, found none",
                "key: `key` must be the name of an environment variable such as OPENAI_API_KEY, found other text",
                "requests: `requests` must be at least 1, found 0",
                "tokens_per_minute: `tokens_per_minute` must be above 0, found -1",
                "budget.money: `budget.money` must have `price` beside it, found none",
                "share.from: `share.from` must be an absolute path, found a",
            ]
        );
        let unknown = serde_json::from_value::<Config>(json!({ "adress": "x" })).unwrap_err();
        assert!(unknown.to_string().contains("unknown field `adress`"), "{unknown}");
        let time = serde_json::from_value::<Config>(json!({ "timeout": { "answer": "soon" } })).unwrap_err();
        assert!(time.to_string().contains("must be a time above 0 such as 90s"), "{time}");
    }

    #[test]
    fn what_is_read_is_what_is_written() {
        let entry = json!({ "command": ["serve", "{port}"], "ready": "2m", "timeout": { "connect": 3, "answer": "1h 30m" } });
        let config: Config = serde_json::from_value(entry).unwrap();
        assert_eq!(config.ready.0, Duration::from_secs(120));
        assert_eq!(config.timeout.answer.0, Duration::from_secs(5400));
        let again: Config = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&config).unwrap());
    }
}
