//! What a term of the reward is, and how a pipeline names one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, What};
use super::{
    class_value, cosine, coverage, density, expert_label, meaning, overlong, scores, self_bleu, success,
};
use crate::artifact::{Completions, Model};
use engine::{CheckError, Input, Upstream};

/// A term of the reward: what it reads are its fields, and what it makes of it is a score for each completion.
pub trait Term {
    /// The signed score of each completion, in their order, before the weight.
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores>;

    /// What it can score.
    fn scored(&self) -> &'static [What] {
        &What::ALL
    }

    /// What types cannot say about its parameters. Paths are within the term.
    fn check(&self) -> Result<(), CheckError> {
        Ok(())
    }

    /// Holds what it reads against what is rewarded, `data`.
    fn agree(&self, _data: &Input<Completions>, _upstream: Upstream) -> Result<(), CheckError> {
        Ok(())
    }

    /// The name of a term above it whose scores it reads: the key, and the name.
    fn reads(&self) -> Option<(&'static str, &str)> {
        None
    }

    /// Whether every completion gets the same score, so that nothing is learnt from it.
    fn is_constant(&self) -> bool {
        false
    }

    /// What embeds completions to compare them with the pool, whose embeddings must be of the same model.
    fn embedder(&self) -> Option<&Input<Model>> {
        None
    }

    /// The success from which on an attack counts as one.
    fn threshold(&self) -> Option<f64> {
        None
    }
}

/// What a term made of a batch: each list has a value for each completion, in their order.
#[derive(Debug, Default)]
pub struct Scores {
    /// Nothing where the score is not known.
    pub scores: Vec<Option<f64>>,
    /// What it found out beside, for who looks at the rewards and for the pool.
    pub notes: Vec<(&'static str, Vec<Option<String>>)>,
    /// Undetermined words of judges behind each score; empty where there are none.
    pub undetermined: Vec<u32>,
}

impl From<Vec<Option<f64>>> for Scores {
    fn from(scores: Vec<Option<f64>>) -> Scores {
        Scores { scores, ..Scores::default() }
    }
}

/// What an undetermined verdict or meaning comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Undetermined {
    /// Nothing: what depends on it is not known, is not learnt from and counts in no mean.
    #[default]
    Skip,
    /// As little as any class is worth, and a lost meaning.
    Worst,
}

/// The kinds of terms, each a key of an entry of `terms`, and the struct that it is.
macro_rules! terms {
    ($( $(#[doc = $doc:literal])* $key:ident: $type:ty, )*) => {
        /// A term of the reward: one kind with what it reads, its weight, and a name.
        #[derive(Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct Weighted {
            /// What the score is multiplied by; with `normalize: gdpo` the normalised score. A term of weight 0 is
            /// computed and shown, and counts for nothing.
            #[serde(default = "one")]
            pub weight: f64,
            /// What it is called in rewards and metrics; as its kind by default. Lower-case letters, digits and `_`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            name: Option<String>,
            $(
                $(#[doc = $doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                $key: Option<$type>,
            )*
        }

        impl Weighted {
            /// The kinds that there are.
            const KINDS: &[&str] = &[$(stringify!($key)),*];

            /// The kinds that are given.
            fn given(&self) -> Vec<(&'static str, &dyn Term)> {
                let mut given: Vec<(&'static str, &dyn Term)> = Vec::new();
                $( given.extend(self.$key.as_ref().map(|term| (stringify!($key), term as &dyn Term))); )*
                given
            }
        }
    };
}

terms! {
    /// Of attacks: Σ of the values of the verdicts by the weights of the defense models, where the meaning is kept.
    success: success::Success,
    /// Of attacks: 1 where the meaning of the seed is kept, else 0.
    meaning: meaning::MeaningKept,
    /// Of attacks: minus the likeness of their n-grams to those of the pool.
    self_bleu: self_bleu::SelfBleu,
    /// Of attacks: minus the likeness of their embeddings to the nearest in the pool.
    cosine: cosine::Cosine,
    /// Of attacks: how far they are from the pool as a whole, times another score.
    density: density::Density,
    /// Of attacks: for successes in cells of category and technique that the pool has few of.
    coverage: coverage::Coverage,
    /// Of responses: the value of the class that the evaluator gave.
    class_value: class_value::ClassValue,
    /// Of verdicts: 1 for the label of the experts, else 0.
    expert_label: expert_label::ExpertLabel,
    /// Of anything: minus the share of a completion that is too long.
    overlong: overlong::Overlong,
    /// Of anything: the score that another program gave.
    scores: scores::OfFile,
}

fn one() -> f64 {
    1.0
}

impl Weighted {
    /// Its only kind, once it is checked.
    fn kind(&self) -> Option<(&'static str, &dyn Term)> {
        self.given().into_iter().next()
    }

    /// The key and the term.
    pub fn term(&self) -> Option<&dyn Term> {
        self.kind().map(|(_, term)| term)
    }

    /// The key of its kind.
    pub fn key(&self) -> &'static str {
        self.kind().map_or("", |(key, _)| key)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.key())
    }

    /// Whether something is learnt from it.
    pub fn teaches(&self) -> bool {
        self.weight != 0.0 && self.term().is_some_and(|term| !term.is_constant())
    }

    /// Its scores of a batch.
    pub fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        match self.term() {
            Some(term) => batch.of(term.scored(), self.key()).and_then(|()| term.scores(batch)),
            None => anyhow::bail!("a term must have a kind: a defect of triplay"),
        }
    }

    /// What types cannot say about it. Paths are within the entry.
    pub fn check(&self) -> Result<(), CheckError> {
        let kinds: Vec<&str> = self.given().into_iter().map(|(kind, _)| kind).collect();
        if kinds.len() != 1 {
            let found = if kinds.is_empty() { "none".into() } else { kinds.join(" and ") };
            let message = format!(
                "a term must have one kind, found {found}: kinds are {}, each with its inputs, such as \
                 `- {{ class_value: {{ verdicts: verdicts }}, weight: 1 }}`",
                Weighted::KINDS.join(", ")
            );
            return Err(message.into());
        }
        if !self.weight.is_finite() {
            return Err(CheckError::at("weight", "`weight` must be a number"));
        }
        let proper = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        if !proper(self.name()) {
            let message = format!(
                "`name` must be of lower-case letters, digits and `_`, a letter first; found `{}`",
                self.name()
            );
            return Err(CheckError::at("name", message));
        }
        let (key, within) = (self.key(), self.term().map_or(Ok(()), Term::check));
        within.map_err(|error| within_term(key, error))
    }
}

/// An error of a term's parameters, as one of its entry.
pub fn within_term(key: &str, error: CheckError) -> CheckError {
    let dot = if error.path.is_empty() { "" } else { "." };
    CheckError { path: format!("{key}{dot}{}", error.path), ..error }
}
