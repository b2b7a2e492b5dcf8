//! `scores`: the signed score that another program gave each completion, such as a Python script run by an `exec` stage. The file
//! is Parquet, JSON Lines or CSV, with the columns `sample` (the completion's id) and `value`. An empty value is not known.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Completion};
use super::term::{Scores, Term};
use crate::artifact::ScoreFile;
use engine::Input;

/// The score that another program gave each completion.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfFile {
    /// A file with the columns `sample`, the completion's id in `data` (`attack_id`, `response_id` or `verdict_id`), and `value`:
    /// an output of type `scores` of an `exec` stage, or a path. Parquet, JSON Lines or CSV.
    file: Input<ScoreFile>,
}

impl Term for OfFile {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let path = &batch.context.input(&self.file)?.path;
        let scores = data::scores(path).with_context(|| format!("`{}`", self.file.text()))?;
        let mut by_sample: BTreeMap<u32, Option<f64>> = BTreeMap::new();
        for row in scores {
            anyhow::ensure!(
                by_sample.insert(row.sample, row.value).is_none(),
                "`{}` must score each sample once, found sample {} twice",
                self.file.text(),
                row.sample
            );
        }
        let of = |completion: &Completion| {
            let score = by_sample.get(&completion.id).copied();
            score.ok_or_else(|| batch.missing_row_error(completion, "score", &self.file.text()))
        };
        let scores = batch.completions.iter().map(of).collect::<anyhow::Result<Vec<_>>>()?;
        let ids: BTreeSet<u32> = batch.completions.iter().map(|completion| completion.id).collect();
        if let Some(other) = by_sample.keys().find(|sample| !ids.contains(sample)) {
            anyhow::bail!(
                "`{}` must score only the samples that are rewarded, found sample {other}: both must be of the same step",
                self.file.text()
            );
        }
        Ok(scores.into())
    }
}
