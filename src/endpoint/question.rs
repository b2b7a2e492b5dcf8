//! What a model is asked, and its answers. Their JSON is what the journal's keys are made of: a field added here asks all again.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::Seed;

/// A model, as far as it must be the same for a result to be the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name; empty if none is asked but those that [`crate::Endpoint::with_adapter`] loads.
    pub name: String,
    /// Its revision, or the digest of its files. `triplay serve` tells the digest, which is then compared; of other servers the
    /// revision is the pipeline's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// What a model continues.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Prompt {
    /// Text as it is.
    Text(String),
    /// Messages, which the server puts into the model's chat template.
    Chat {
        /// In their order.
        messages: Vec<Message>,
        /// Further arguments of the template, such as `enable_thinking`.
        arguments: Map<String, Value>,
    },
    /// Token ids.
    Ids(Vec<u32>),
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

/// How a completion is drawn. All of it is sent with every request, so that no default of the server counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// The most tokens.
    pub max_tokens: usize,
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// Tokens are drawn from the most probable with this share of the probability together; 1 is all.
    pub top_p: f64,
    /// Tokens are drawn from this many; 0 is all.
    pub top_k: usize,
    /// Tokens are drawn from those with this share of the probability of the most probable one; 0 is all.
    pub min_p: f64,
    /// Texts that end the completion.
    pub stop: Vec<String>,
}

/// A kind of question: [`Sample`], [`Choose`], [`Score`] or [`Embed`].
pub trait Question: Serialize + Send + Sync + 'static + sealed::Answered {
    /// What answers it.
    type Answer: Serialize + DeserializeOwned + Send + 'static;
}

/// Asks for a completion.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// What is continued.
    pub prompt: Prompt,
    /// How.
    pub sampling: Sampling,
    /// What it is drawn from, as 64 hexadecimal digits for `triplay serve`, for others as a number of 31 bits.
    #[serde(serialize_with = "hexadecimal")]
    pub seed: Seed,
    /// Whether token ids come back, of the prompt and the completion.
    pub ids: bool,
    /// Whether the log-probability of each token comes back.
    pub logprobs: bool,
}

/// A completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Its text.
    pub text: String,
    /// The thoughts before it, where the server keeps them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The prompt's token ids, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt_ids: Vec<u32>,
    /// The completion's token ids with the end token, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u32>,
    /// The log-probability of each token, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<f32>,
    /// Whether it ended by itself rather than at `max_tokens`.
    pub finished: bool,
}

/// Asks which of some texts continues a prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Choose {
    /// What is continued.
    pub prompt: Prompt,
    /// The texts.
    pub texts: Vec<String>,
    /// The temperature of the log-probabilities, 1 where it is 0.
    pub temperature: f64,
    /// Where the server chooses by grammar, what it draws from.
    #[serde(serialize_with = "hexadecimal")]
    pub seed: Seed,
}

/// The texts' log-probabilities, or the chosen one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The prompt's token ids; empty where the server chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt_ids: Vec<u32>,
    /// The token ids of each text after the prompt; empty where the server chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Vec<u32>>,
    /// The log-probability of each token of each text. `None` where the server chose by grammar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Vec<f32>>>,
    /// The index of the text that the server chose by grammar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<usize>,
}

/// Asks for the log-probability of each token of a completion; the answer has one number per token.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// The prompt's token ids.
    pub prompt: Vec<u32>,
    /// The completion's.
    pub completion: Vec<u32>,
    /// The temperature, 1 where it is 0.
    pub temperature: f64,
}

/// Asks for the embedding of a text.
#[derive(Clone, Debug, Serialize)]
pub struct Embed {
    /// The text.
    pub text: String,
}

impl Question for Sample {
    type Answer = Sampled;
}

impl Question for Choose {
    type Answer = Choice;
}

impl Question for Score {
    type Answer = Vec<f32>;
}

impl Question for Embed {
    type Answer = Vec<f32>;
}

/// A seed for servers that take a number: 31 bits, as far as all of them go.
pub(crate) fn number(seed: &Seed) -> u32 {
    let [a, b, c, d, ..] = *seed.bytes();
    u32::from_le_bytes([a, b, c, d]) & 0x7fff_ffff
}

fn hexadecimal<S: serde::Serializer>(seed: &Seed, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&seed.to_hex())
}

pub(crate) mod sealed {
    use crate::call::{Call, Failure};
    use crate::question::Question;

    /// How a server answers a question.
    pub trait Answered {
        /// The name of the kind of question in the journal's keys.
        const NAME: &'static str;

        /// What the server cannot do for this question. Checked before any request for it.
        fn check(&self, call: &Call) -> Result<(), String>;

        /// Asks.
        fn answer(&self, call: &Call) -> impl Future<Output = Result<Self::Answer, Failure>> + Send
        where
            Self: Question;
    }
}
