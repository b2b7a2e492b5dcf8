//! The terms of the reward, and how a pipeline names one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, CompletionKind};
use crate::artifact::{AskedModel, Completions};
use engine::{CheckError, Input, Upstream};

/// A term of the reward. Its fields are what it reads; it gives each completion a score.
pub(crate) trait Term {
    /// The signed score of each completion, in their order, before the weight.
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores>;

    /// The kinds of completions that it can score.
    fn scored(&self) -> &'static [CompletionKind] {
        &CompletionKind::ALL
    }

    /// Checks of its parameters beyond their types. Paths are relative to the term.
    fn check(&self) -> Result<(), CheckError> {
        Ok(())
    }

    /// Checks that its inputs are about the completions to reward, `data`.
    fn agree(&self, _data: &Input<Completions>, _upstream: Upstream) -> Result<(), CheckError> {
        Ok(())
    }

    /// The key, and its value: the name of a term above, whose scores this term reads.
    fn reads(&self) -> Option<(&'static str, &str)> {
        None
    }

    /// Whether all completions get the same score, which teaches nothing.
    fn is_constant(&self) -> bool {
        false
    }

    /// The model that embeds completions for comparison with the pool, whose embeddings must be of the same model.
    fn embedder(&self) -> Option<&Input<AskedModel>> {
        None
    }

    /// The success from which an attack counts.
    fn threshold(&self) -> Option<f64> {
        None
    }
}

/// The results of a term on a batch. Each list has a value for each completion, in their order.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    /// `None` if the score is not known.
    pub scores: Vec<Option<f64>>,
    /// Further results, for the readers of the rewards and for the pool.
    pub notes: Vec<(&'static str, Vec<Option<String>>)>,
    /// The number of undetermined verdicts behind each score; empty if there are none.
    pub undetermined: Vec<u32>,
}

impl From<Vec<Option<f64>>> for Scores {
    fn from(scores: Vec<Option<f64>>) -> Scores {
        Scores { scores, ..Scores::default() }
    }
}

/// The kinds of terms: each is a key of an entry of `terms`, and a struct.
macro_rules! terms {
    ($( $(#[doc = $doc:literal])* $key:ident: $type:ty, )*) => {
        /// A term of the reward: its kind with its inputs, its weight, and a name.
        #[derive(Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Weighted {
            /// The factor of the score; with `normalize: gdpo`, of the normalized score. A term of weight 0 is computed and
            /// reported, and does not count.
            #[serde(default = "one")]
            pub weight: f64,
            /// The name in rewards and metrics: lower-case letters, digits and `_`. By default the kind.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            name: Option<String>,
            $(
                $(#[doc = $doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                $key: Option<$type>,
            )*
        }

        impl Weighted {
            /// The names of all kinds.
            const KINDS: &[&str] = &[$(stringify!($key)),*];

            /// The kinds in this entry.
            fn given(&self) -> Vec<(&'static str, &dyn Term)> {
                let mut given: Vec<(&'static str, &dyn Term)> = Vec::new();
                $( given.extend(self.$key.as_ref().map(|term| (stringify!($key), term as &dyn Term))); )*
                given
            }
        }
    };
}

terms! {
    /// Of attacks: the weighted sum of the values of the verdicts, if the meaning is kept; otherwise 0.
    success: super::success::Success,
    /// Of attacks: 1 if the meaning of the seed prompt is kept, otherwise 0.
    meaning: super::meaning::MeaningKept,
    /// Of attacks: minus the similarity of their n-grams to those of the pool.
    self_bleu: super::self_bleu::SelfBleu,
    /// Of attacks: minus the similarity of their embeddings to the nearest in the pool.
    cosine: super::cosine::Cosine,
    /// Of attacks: their distance from the pool as a whole, times another score.
    density: super::density::Density,
    /// Of attacks: a bonus for successes in cells of category and technique in which the pool has few.
    coverage: super::coverage::Coverage,
    /// Of responses: the value of the class that the evaluator gave.
    class_value: super::class_value::ClassValue,
    /// Of verdicts: 1 for the label of the experts, otherwise 0.
    expert_label: super::expert_label::ExpertLabel,
    /// Of all completions: a penalty for length, from 0 to −1.
    overlong: super::overlong::Overlong,
    /// Of all completions: the score that another program gave.
    scores: super::scores::OfFile,
}

fn one() -> f64 {
    1.0
}

impl Weighted {
    /// Its only kind, once it is checked.
    fn kind(&self) -> Option<(&'static str, &dyn Term)> {
        self.given().into_iter().next()
    }

    /// The term.
    pub(crate) fn term(&self) -> Option<&dyn Term> {
        self.kind().map(|(_, term)| term)
    }

    /// The key of its kind.
    pub(crate) fn key(&self) -> &'static str {
        self.kind().map_or("", |(key, _)| key)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.key())
    }

    /// Whether it can teach anything.
    pub(crate) fn has_signal(&self) -> bool {
        self.weight != 0.0 && self.term().is_some_and(|term| !term.is_constant())
    }

    /// Its scores of a batch.
    pub(crate) fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        match self.term() {
            Some(term) => batch.of(term.scored(), self.key()).and_then(|()| term.scores(batch)),
            None => anyhow::bail!("a term must have a kind, found none: a defect of triplay"),
        }
    }

    /// Checks beyond types. Paths are relative to the entry.
    pub(crate) fn check(&self) -> Result<(), CheckError> {
        let kinds: Vec<&str> = self.given().into_iter().map(|(kind, _)| kind).collect();
        if kinds.len() != 1 {
            let found = if kinds.is_empty() { "none".into() } else { kinds.join(" and ") };
            let message = format!(
                "a term must have one kind, found {found}: the kinds are {}, each with its inputs, such as \
                 `- {{ class_value: {{ verdicts: verdicts }}, weight: 1 }}`",
                Weighted::KINDS.join(", ")
            );
            return Err(message.into());
        }
        if !self.weight.is_finite() {
            return Err(CheckError::at(
                "weight",
                format!("`weight` must be a finite number, found {}", self.weight),
            ));
        }
        let proper = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        if !proper(self.name()) {
            let message = format!(
                "`name` must begin with a lower-case letter and have only such letters, digits and `_`; found `{}`",
                self.name()
            );
            return Err(CheckError::at("name", message));
        }
        let (key, within) = (self.key(), self.term().map_or(Ok(()), Term::check));
        within.map_err(|error| within_term(key, error))
    }
}

/// The error of a term's parameters, as one of its entry.
pub(crate) fn within_term(key: &str, error: CheckError) -> CheckError {
    let dot = if error.path.is_empty() { "" } else { "." };
    CheckError { path: format!("{key}{dot}{}", error.path), ..error }
}
