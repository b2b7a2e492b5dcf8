//! Flipped prompts: one side succeeds more often than the other.

use serde::Serialize;

use super::measured::Names;
use super::outcomes::{Attempt, Outcomes, Prompt, Prompts};
use crate::series::Measure;

/// A side's answer to a flipped prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Attempts that count for the metric.
    pub hits: f64,
    /// All attempts with a known outcome.
    pub attempts: usize,
    /// The text in one of the attempts that made the difference.
    pub prompt: String,
    /// What the model answered to `prompt`; empty if the metric is not of responses.
    pub response: String,
    /// The class that the evaluation gave it, such as `negative`.
    pub class: String,
}

/// A prompt that counts more often for one side than for the other.
#[derive(Clone, Debug, Serialize)]
pub struct Flip {
    /// Subject and metric.
    pub metric: String,
    /// The same, as two fields.
    #[serde(flatten)]
    pub measure: Names,
    /// The seed of both sides; `None` if the runs have only one.
    pub seed: Option<u64>,
    /// The name that the evaluation derives from the prompt's content.
    pub prompt_id: String,
    /// The hazard's category.
    pub category: String,
    /// `gained` if B has more, else `lost`.
    pub direction: &'static str,
    /// What the first run answered.
    pub a: Answer,
    /// What the second run answered.
    pub b: Answer,
}

/// A flipped prompt without its texts.
pub(crate) struct Found<'p> {
    pub measure: &'p Measure,
    pub seed: Option<u64>,
    a: &'p Prompt,
    b: &'p Prompt,
}

/// The flipped prompts of a measure, those with the largest differences first.
pub(crate) fn flips<'p>(
    measure: &'p Measure,
    seed: Option<u64>,
    a: &'p Prompts,
    b: &'p Prompts,
) -> Vec<Found<'p>> {
    let pairs = a.list.iter().filter_map(|prompt| Some((prompt, b.get(&prompt.id)?)));
    let mut found: Vec<Found> =
        pairs.filter(|(a, b)| a.mean() != b.mean()).map(|(a, b)| Found { measure, seed, a, b }).collect();
    let by = |found: &Found| (found.b.mean() - found.a.mean()).abs();
    found.sort_by(|one, other| by(other).total_cmp(&by(one)));
    found
}

impl Found<'_> {
    /// Whether B has more.
    pub(crate) fn is_gained(&self) -> bool {
        self.b.mean() > self.a.mean()
    }

    /// Adds the texts, from the tables of the evaluations.
    pub(crate) fn told(&self, a: &Outcomes, b: &Outcomes) -> anyhow::Result<Flip> {
        let gained = self.is_gained();
        let answer = |table: &Outcomes, prompt: &Prompt, is_more: bool| {
            let shows = |attempt: &&Attempt| (attempt.value > 0.0) == is_more;
            let attempt = prompt.attempts.iter().find(shows).unwrap_or(&prompt.attempts[0]);
            let texts = table.texts(attempt.place)?;
            let (hits, attempts) = (prompt.sum(), prompt.attempts.len());
            let answer =
                Answer { hits, attempts, prompt: texts.prompt, response: texts.response, class: texts.class };
            Ok::<(Answer, String), anyhow::Error>((answer, texts.category))
        };
        let ((a, category), (b, _)) = (answer(a, self.a, !gained)?, answer(b, self.b, gained)?);
        Ok(Flip {
            metric: format!("{} {}", self.measure.subject, self.measure.metric),
            measure: Names { subject: self.measure.subject.clone(), name: self.measure.metric.clone() },
            seed: self.seed,
            prompt_id: self.a.id.clone(),
            category,
            direction: if gained { "gained" } else { "lost" },
            a,
            b,
        })
    }
}
