//! What each kind of server can do.

use serde::Serialize;

use super::config::Kind;
use super::trouble::Lack;

/// What a stage needs of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Token ids of prompts and completions.
    pub ids: bool,
    /// Log-probabilities of completions.
    pub logprobs: bool,
    /// Log-probabilities of given tokens.
    pub score: bool,
    /// Choosing among texts, by log-probabilities or by grammar.
    pub choice: bool,
    /// Embeddings.
    pub embed: bool,
    /// Loading adapters.
    pub adapters: bool,
    /// Arguments of the chat template.
    pub chat_template: bool,
}

/// At which temperature a server's log-probabilities are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogprobsMode {
    /// At 1, whatever the request's temperature is.
    Raw,
    /// At the request's temperature.
    Processed,
}

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// As in [`Needs`].
    pub can: Needs,
    /// Whether the server chooses by grammar, without log-probabilities.
    pub by_grammar: bool,
    /// The temperature of log-probabilities, where it is known.
    pub logprobs_mode: Option<LogprobsMode>,
}

impl Capabilities {
    /// Of a kind of server. What depends on how the server was started is found out by asking.
    pub(crate) fn of(kind: Kind) -> Capabilities {
        let all = Needs {
            ids: true,
            logprobs: true,
            score: true,
            choice: true,
            embed: true,
            adapters: true,
            chat_template: true,
        };
        let (can, by_grammar) = match kind {
            Kind::Triplay | Kind::Vllm | Kind::Sglang => (all, false),
            Kind::LlamaCpp => (Needs { score: false, adapters: false, ..all }, true),
            // Some give log-probabilities of text, others refuse to be asked for them. Without token ids they serve nothing.
            Kind::OpenAi | Kind::Auto => (Needs { embed: true, ..Needs::default() }, false),
            Kind::Embeddings => (Needs { embed: true, ..Needs::default() }, false),
        };
        let logprobs_mode = match kind {
            Kind::Triplay => Some(LogprobsMode::Processed),
            Kind::Sglang | Kind::LlamaCpp => Some(LogprobsMode::Raw),
            _ => None,
        };
        Capabilities { can, by_grammar, logprobs_mode }
    }

    /// The first thing that a stage needs and the server lacks.
    pub(crate) fn lacks(&self, needs: &Needs) -> Option<Lack> {
        let can = &self.can;
        [
            (needs.ids, can.ids, Lack::Ids),
            (needs.logprobs, can.logprobs, Lack::Logprobs),
            (needs.score, can.score, Lack::Score),
            (needs.choice, can.choice, Lack::Choice),
            (needs.embed, can.embed, Lack::Embed),
            (needs.adapters, can.adapters, Lack::Adapters),
            (needs.chat_template, can.chat_template, Lack::ChatTemplate),
        ]
        .into_iter()
        .find_map(|(needed, has, lack)| (needed && !has).then_some(lack))
    }
}
