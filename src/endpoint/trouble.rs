//! Everything that can go wrong with a server, as the user reads it. No key and no prompt is in any of it.

use std::fmt;
use std::time::Duration;

use super::config::Kind;

/// Why asking failed. Finished rows are kept in each case.
#[expect(missing_docs, reason = "the fields are the parts of the message")]
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// The entry of the site file, or what a stage asks of it, is wrong.
    Wrong(String),
    /// The variable with the key is not set.
    NoKey { endpoint: String, variable: String },
    /// The server does not accept the key.
    Key { url: String, status: u16, variable: Option<String>, words: String },
    /// No connection.
    Unreachable { url: String, why: String },
    /// The certificate is not valid.
    Certificate { url: String, why: String },
    /// The address is that of something else.
    NoApi { url: String, found: String },
    /// The server does not have the model.
    NoModel { url: String, model: String, models: Vec<String> },
    /// The server has other files under the model's name.
    OtherRevision { url: String, model: String, asked: String, found: String },
    /// The server cannot do what a stage needs.
    Incapable { url: String, kind: Kind, version: String, lacks: Lack },
    /// The server refused a request.
    Refused { url: String, status: u16, words: String },
    /// A prompt and its completion are longer than the context.
    TooLong { url: String, context: Option<usize>, words: String },
    /// The server failed or refused all requests for too long.
    Exhausted { url: String, after: Duration, why: String },
    /// The server asks to wait for longer than is waited.
    LongPause { url: String, told: Duration, limit: Duration, why: String },
    /// A filter of the provider stopped answers.
    Filtered { url: String, rows: usize, of: usize },
    /// An answer that cannot be what was asked for.
    BadAnswer { url: String, what: String },
    /// Another model answered.
    OtherModel { url: String, asked: String, found: String },
    /// The budget is spent.
    Budget { what: &'static str, limit: String, spent: String, done: usize, left: Option<usize> },
    /// The server that triplay started has ended.
    Ended { command: String, how: String, log: String, tail: String },
    /// The server that triplay started does not answer.
    NotReady { command: String, after: Duration, log: String, tail: String },
    /// The journal cannot be read or written.
    Journal { path: String, why: String },
    /// An adapter cannot be loaded.
    Adapter { url: String, folder: String, why: String },
    /// What the caller did with an answer failed.
    Caller(String),
    /// The caller asked to stop.
    Cancelled,
}

/// What a server may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Token ids in answers.
    Ids,
    /// Log-probabilities of completions.
    Logprobs,
    /// Log-probabilities of given tokens.
    Score,
    /// Choosing among texts.
    Choice,
    /// Embeddings.
    Embed,
    /// Loading adapters.
    Adapters,
    /// Arguments of the chat template.
    ChatTemplate,
}

impl Lack {
    fn said(self) -> (&'static str, &'static str) {
        match self {
            Lack::Ids => (
                "give token ids back, which a policy's samples need",
                "vLLM, SGLang, llama.cpp's server and triplay serve do",
            ),
            Lack::Logprobs => (
                "give log-probabilities of its completions",
                "vLLM, SGLang, llama.cpp's server and triplay serve do; a stage that does not record them needs none",
            ),
            Lack::Score => ("give log-probabilities of given tokens", "vLLM, SGLang and triplay serve do"),
            Lack::Choice => (
                "choose among texts: `choice` needs log-probabilities of given tokens, or a grammar",
                "vLLM, SGLang and triplay serve have log-probabilities, llama.cpp's server has grammars; or let the judge answer in \
                 its own words, with `answer: text` or patterns in `labels`",
            ),
            Lack::Embed => (
                "make embeddings",
                "start it with an embedding model (vLLM: --runner pooling, llama.cpp: --embeddings), or name another endpoint",
            ),
            Lack::Adapters => (
                "load adapters while it runs",
                "vLLM does with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, SGLang with --enable-lora, and triplay serve; \
                 or merge the adapter: `triplay model merge`",
            ),
            Lack::ChatTemplate => (
                "take arguments of the chat template",
                "vLLM, SGLang, llama.cpp's server and triplay serve do; leave the arguments of `chat` out otherwise",
            ),
        }
    }
}

impl Trouble {
    /// Whether another try may succeed with nothing changed. One that was repeated for its whole time limit is over.
    pub fn is_transient(&self) -> bool {
        matches!(self, Trouble::Unreachable { .. } | Trouble::Ended { .. })
    }

    /// Whether the caller asked to stop.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Trouble::Cancelled)
    }

    /// A failure of a file of the journal.
    pub(crate) fn journal(path: &std::path::Path, error: &dyn fmt::Display) -> Trouble {
        Trouble::Journal { path: path.display().to_string(), why: error.to_string() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Wrong(message) | Trouble::Caller(message) => f.write_str(message),
            Trouble::NoKey { endpoint, variable } => write!(
                f,
                "the variable {variable} must hold the key of the endpoint `{endpoint}`, but it is not set\n  help: export \
                 {variable}=… before you run triplay"
            ),
            Trouble::Key { url, status, variable, words } => {
                match status {
                    // It may also be about the account, a quota or the content.
                    403 => write!(f, "{url} refuses access (status 403){}", said(words))?,
                    _ => write!(f, "{url} does not accept the key (status {status}){}", said(words))?,
                }
                match variable {
                    Some(variable) if *status == 403 => {
                        write!(
                            f,
                            "\n  help: if this is about the key, check the value of {variable} and what it may be used for"
                        )
                    }
                    Some(variable) => write!(f, "\n  help: check the value of {variable}"),
                    None => write!(
                        f,
                        "\n  help: put the key into a variable, and write `key: VARIABLE` at the endpoint"
                    ),
                }
            }
            Trouble::Unreachable { url, why } => {
                write!(f, "cannot reach {url}: {why}\n  help: check `url`, and whether the server runs")
            }
            Trouble::Certificate { url, why } => write!(
                f,
                "the certificate of {url} is not valid: {why}\n  help: if it is signed by an authority of your own, name that \
                 authority's PEM file in `ca`"
            ),
            Trouble::NoApi { url, found } => write!(
                f,
                "{url} must be an OpenAI-compatible server, found {found}\n  help: `url` is the part before `/v1/models`"
            ),
            Trouble::NoModel { url, model, models } => {
                let shown =
                    models.iter().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let more = if models.len() > 10 {
                    format!(" and {} more", models.len() - 10)
                } else {
                    String::new()
                };
                write!(
                    f,
                    "{url} does not have the model `{model}`; it has {}{more}\n  help: where the server has another name for it, \
                     write models: {{ {model}: NAME }} at the endpoint",
                    if shown.is_empty() { "none" } else { &shown }
                )
            }
            Trouble::OtherRevision { url, model, asked, found } => write!(
                f,
                "the model `{model}` must have the revision {asked}, found {found} at {url}\n  help: serve the files of that \
                 revision, or change `revision`, which makes other results"
            ),
            Trouble::Incapable { url, kind, version, lacks } => {
                let (what, help) = lacks.said();
                let version = if version.is_empty() { String::new() } else { format!(" {version}") };
                write!(f, "{url} ({}{version}) does not {what}\n  help: {help}", kind.name())
            }
            Trouble::Refused { url, status, words } => {
                write!(f, "{url} refuses the request (status {status}){}", said(words))
            }
            Trouble::TooLong { url, context, words } => {
                let context = context.map_or(String::new(), |context| format!(" of {context} tokens"));
                write!(
                    f,
                    "a prompt and its completion must fit into the context{context} at {url}, and do not{}\n  help: lower \
                     `max_new_tokens`, write `too_long: skip`, or serve the model with a longer context",
                    said(words)
                )
            }
            Trouble::Exhausted { url, after, why } => write!(
                f,
                "{url} has failed for {}: {why}\n  help: finished rows are kept; run again to go on, or raise `timeout.retry` of the \
                 endpoint",
                shown(*after)
            ),
            Trouble::LongPause { url, told, limit, why } => write!(
                f,
                "{url} asks to wait {}, longer than `timeout.retry` of {}: {why}\n  help: finished rows are kept; run again then, \
                 or raise `timeout.retry` of the endpoint",
                shown(*told),
                shown(*limit)
            ),
            Trouble::Filtered { url, rows, of } => write!(
                f,
                "{url} must answer with the model's own words, but its filter stopped {rows} of {of} answers (`content_filter`)\n  \
                 help: finished rows are kept; turn the filter off at the provider, leave these prompts out, or serve the model \
                 without a filter, and run again to go on"
            ),
            Trouble::BadAnswer { url, what } => {
                write!(f, "{url} gives an answer that cannot be used: {what}")
            }
            Trouble::OtherModel { url, asked, found } => write!(
                f,
                "{url} must answer with the model `{asked}`, found an answer of `{found}`\n  help: answers of two models would be \
                 mixed; finished rows are kept. Ask the model that answered them, or write another `revision` at the model to ask \
                 all rows again"
            ),
            Trouble::Budget { what, limit, spent, done, left } => {
                write!(f, "`budget.{what}` of {limit} is spent ({spent}) after {done} rows")?;
                if let Some(left) = left {
                    write!(f, "; {left} are left")?;
                }
                write!(
                    f,
                    "\n  help: finished rows are kept; raise the budget in the site file and run again to go on"
                )
            }
            Trouble::Ended { command, how, log, tail } => {
                write!(f, "the server `{command}` has ended{how}{tail}\n  the whole log: {log}")
            }
            Trouble::NotReady { command, after, log, tail } => write!(
                f,
                "the server `{command}` must answer within {}, and does not{tail}\n  the whole log: {log}\n  help: raise `ready` of \
                 the endpoint",
                shown(*after)
            ),
            Trouble::Journal { path, why } => write!(f, "cannot keep finished rows in {path}: {why}"),
            Trouble::Adapter { url, folder, why } => {
                write!(f, "{url} cannot load the adapter {folder}: {why}")
            }
            Trouble::Cancelled => f.write_str("stopped; finished rows are kept"),
        }
    }
}

impl std::error::Error for Trouble {}

/// What the server said, for the end of a sentence.
fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// A length of time for people.
fn shown(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

/// The most characters of a server's words in an error.
const WORDS: usize = 300;
/// So many characters in a row that are in the prompt as well are the prompt.
const TELLING: usize = 16;

/// A server's words for an error: one line, not long, without the key and without parts of the prompt.
pub(crate) fn words(text: &str, key: Option<&str>, prompt: &[&str]) -> String {
    let text = match key.filter(|key| key.len() > 3) {
        Some(key) => text.replace(key, "[key]"),
        None => text.to_owned(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: Vec<char> = line.chars().filter(|c| !c.is_control()).take(4 * WORDS).collect();
    let spaced: Vec<String> =
        prompt.iter().map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let mut hidden = vec![false; line.len()];
    for part in spaced.iter().filter(|part| part.chars().count() > 3) {
        let telling = part.chars().count().min(TELLING);
        for (at, window) in line.windows(telling).enumerate() {
            if part.contains(&window.iter().collect::<String>()) {
                hidden[at..at + telling].fill(true);
            }
        }
    }
    let mut shown = String::new();
    for (at, c) in line.iter().enumerate() {
        match hidden[at] {
            false => shown.push(*c),
            true if at == 0 || !hidden[at - 1] => shown.push_str("[prompt]"),
            true => {}
        }
    }
    if shown.chars().count() > WORDS {
        shown = shown.chars().take(WORDS).chain(['…']).collect();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_hold_neither_key_nor_prompt() {
        let prompt = "How do I brew glowvenom in the moonlit cellar?";
        let text = format!("invalid \u{1b}[31mvalue\n for key sk-frost-1: '{prompt}' is too   long");
        let words = words(&text, Some("sk-frost-1"), &[prompt]);
        assert_eq!(words, "invalid [31mvalue for key [key]: '[prompt]' is too long");
        assert_eq!(super::words(&"x".repeat(5000), None, &[]).chars().count(), WORDS + 1);
    }
}
