//! `coverage`: 1 / √(1 + n) for a success in a cell of category and technique in which the pool has n successes, otherwise 0: the
//! count-based bonus of exploration (Strehl and Littman 2008; Bellemare et al. 2016). Not in the paper of TriPlay-RL.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, CompletionKind};
use super::term::{Scores, Term};
use crate::artifact::{self, AskedModel, Attacks, SuccessPool};
use data::{AttackRow, PoolRow};
use engine::{CheckError, Input};
use game::Frames;

/// Rewards successes in cells of category and technique in which the pool has few.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Coverage {
    /// The pool whose successes are counted by cell.
    pool: Input<SuccessPool>,
    /// Attacks whose technique is known. An attack has the technique of the example with the most similar wrapping.
    examples: Input<Attacks>,
    /// Compares wrappings by their embeddings; by default they are compared by their words and pairs of words.
    #[serde(default)]
    embedder: Option<Input<AskedModel>>,
    /// The name of the term above that says how well an attack succeeded.
    #[serde(default = "default_success")]
    success: String,
    /// The success from which an attack counts; that of `pool`.
    #[serde(default = "default_threshold")]
    threshold: f64,
}

fn default_success() -> String {
    "success".into()
}

fn default_threshold() -> f64 {
    0.5
}

impl Term for Coverage {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let techniques = self.techniques(batch)?;
        let pool = artifact::rows::<PoolRow, _>(batch.context, &self.pool)?;
        let known = pool.iter().map(|row| (row.category.as_str(), row.technique.as_deref()));
        let counts = game::cell_counts(known);
        let success = batch.above(&self.success)?;
        let score = |index: usize| {
            let success = success[index]?;
            let cell = techniques[index].as_deref().filter(|_| success > 0.0 && success >= self.threshold);
            Some(cell.map_or(0.0, |technique| {
                let category = batch.completions[index].origin.category.as_str();
                game::novelty_bonus(counts.get(&(category, technique)).copied().unwrap_or(0))
            }))
        };
        let scores = (0..batch.completions.len()).map(score).collect();
        Ok(Scores { scores, notes: vec![("technique", techniques)], undetermined: Vec::new() })
    }

    fn scored(&self) -> &'static [CompletionKind] {
        &[CompletionKind::Attack]
    }

    fn check(&self) -> Result<(), CheckError> {
        match self.threshold.is_finite() {
            true => Ok(()),
            false => Err(CheckError::at("threshold", "`threshold` must be a finite number")),
        }
    }

    fn reads(&self) -> Option<(&'static str, &str)> {
        Some(("success", &self.success))
    }

    fn threshold(&self) -> Option<f64> {
        Some(self.threshold)
    }
}

impl Coverage {
    /// The technique of each attack: that of the most similar example.
    fn techniques(&self, batch: &Batch) -> anyhow::Result<Vec<Option<String>>> {
        let examples = artifact::rows::<AttackRow, _>(batch.context, &self.examples)?;
        let labelled: Vec<(String, String)> = examples
            .iter()
            .filter_map(|row| Some((game::frame(&row.origin.seed, &row.text), row.technique.clone()?)))
            .collect();
        anyhow::ensure!(
            !labelled.is_empty(),
            "`examples` must have attacks with a `technique`, such as the sandbox's `benign`, found none in `{}`",
            self.examples.text()
        );
        let frame = |index: usize| {
            let completion = &batch.completions[index];
            game::frame(&completion.origin.seed, completion.text)
        };
        let frames: Vec<String> = (0..batch.completions.len()).map(frame).collect();
        let Some(embedder) = &self.embedder else {
            let known = Frames::new(&labelled);
            return Ok(frames.iter().map(|frame| known.technique(frame).map(str::to_owned)).collect());
        };
        let known: Vec<&str> = labelled.iter().map(|(frame, _)| frame.as_str()).collect();
        let known = batch.embed(embedder, &known)?;
        let asked = batch.embed(embedder, &frames.iter().map(String::as_str).collect::<Vec<_>>())?;
        let most_similar = game::most_similar(&asked, &known).into_iter();
        Ok(most_similar.map(|found| found.map(|index| labelled[index].1.clone())).collect())
    }
}
