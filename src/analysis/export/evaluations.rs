//! The evaluations of a run: one [`Evaluation`] for each node that evaluates, phase and measured model, with prompts and
//! outcomes.

use std::collections::HashMap;

use serde_json::Value;

use super::rows::Rows;
use super::{Source, safe};
use runs::Lineage;

/// A model and its prompts at one point of a run.
pub(crate) struct Evaluation {
    /// Ablation and seed, such as `full-s1`; empty without both.
    pub variant: String,
    /// The node without the variant.
    pub node: String,
    pub phase: String,
    /// The name of the measured model.
    pub subject: String,
    /// The node that made the model, and the digest of the model, if the cache still has the records.
    pub checkpoint: Option<(String, String)>,
    pub outcomes: Vec<Outcome>,
}

/// A prompt and its outcome.
pub(crate) struct Outcome {
    pub metric: String,
    pub prompt_id: String,
    pub attempt: u32,
    pub seed_id: String,
    pub category: String,
    pub prompt: String,
    pub response: String,
    pub class: String,
    /// `None` if it could not be determined.
    pub value: Option<f64>,
}

/// A measure of success, with the outcomes of the attempts at each seed prompt.
pub(crate) struct Attacked<'e> {
    pub metric: &'e str,
    pub seeds: Vec<(&'e str, Vec<&'e Outcome>)>,
}

impl Evaluation {
    /// Such as `20261125-101112_full-s1_after_red_defender`, for the names of files.
    pub(crate) fn name(&self, run: &str) -> String {
        let phase = if self.phase == self.node { "" } else { self.phase.as_str() };
        let parts = [run, &self.variant, &self.node, phase, &self.subject];
        parts.iter().filter(|part| !part.is_empty()).map(|part| safe(part)).collect::<Vec<_>>().join("_")
    }

    /// The outcomes of each metric that counts successful attacks, grouped by the attacked seed prompt, in their order.
    pub(crate) fn attacked(&self) -> Vec<Attacked<'_>> {
        let mut metrics: Vec<Attacked> = Vec::new();
        let mut places: HashMap<(&str, &str), usize> = HashMap::new();
        for outcome in self.outcomes.iter().filter(|outcome| outcome.metric.ends_with("_success")) {
            let (metric, seed) = (outcome.metric.as_str(), outcome.seed_id.as_str());
            let at = metrics.iter().position(|attacked| attacked.metric == metric).unwrap_or_else(|| {
                metrics.push(Attacked { metric, seeds: Vec::new() });
                metrics.len() - 1
            });
            let seeds = &mut metrics[at].seeds;
            let place = *places.entry((metric, seed)).or_insert_with(|| {
                seeds.push((seed, Vec::new()));
                seeds.len() - 1
            });
            seeds[place].1.push(outcome);
        }
        metrics
    }
}

/// Whether any of the attempts at a seed prompt succeeded, and the index of the first that did. `None` if some could not be
/// determined, as in the rate over hazards (`attack_success@k`).
pub(crate) fn broken(attempts: &[&Outcome]) -> Option<Option<usize>> {
    let is_known = attempts.iter().all(|attempt| attempt.value.is_some());
    is_known.then(|| attempts.iter().position(|attempt| attempt.value.is_some_and(|value| value > 0.0)))
}

/// All evaluations of a run, in its order; empty if it has none (yet).
pub(crate) fn evaluations(source: &Source) -> anyhow::Result<Vec<Evaluation>> {
    let rows = Rows::open(&source.tables.path("outcomes"))?;
    let mut places: HashMap<[&str; 4], usize> = HashMap::new();
    let mut evaluations: Vec<Evaluation> = Vec::new();
    for row in rows.iter() {
        let key = ["variant", "node", "phase", "subject"].map(|column| row.text(column));
        let place = *places.entry(key).or_insert(evaluations.len());
        if place == evaluations.len() {
            let [variant, node, phase, subject] = key.map(str::to_owned);
            evaluations.push(Evaluation {
                variant,
                node,
                phase,
                subject,
                checkpoint: None,
                outcomes: Vec::new(),
            });
        }
        evaluations[place].outcomes.push(Outcome {
            metric: row.text("metric").into(),
            prompt_id: row.text("prompt_id").into(),
            attempt: row.number("attempt").unwrap_or(1.0) as u32,
            seed_id: row.text("seed_id").into(),
            category: row.text("category").into(),
            prompt: row.text("prompt").into(),
            response: row.text("response").into(),
            class: row.text("class").into(),
            value: row.number("value"),
        });
    }
    name_checkpoints(source, &mut evaluations);
    Ok(evaluations)
}

/// Finds the checkpoint that each evaluation measured: the manifest of its node names the models by content.
fn name_checkpoints(source: &Source, evaluations: &mut [Evaluation]) {
    let Ok(Some(store)) = source.run.record.store() else { return };
    let lineage = Lineage::new(&source.run, Some(&store));
    for evaluation in evaluations {
        let name = match evaluation.variant.as_str() {
            "" => evaluation.node.clone(),
            variant => format!("{variant}/{}", evaluation.node),
        };
        let node = source.run.nodes.iter().find(|node| node.node == name);
        let params = node.and_then(|node| lineage.manifest(node)).map(|mut it| it["params"].take());
        let digest = params.as_ref().and_then(|params| model(params, &evaluation.subject));
        evaluation.checkpoint = digest.and_then(|digest| {
            let (maker, _) = lineage.maker(digest)?;
            Some((maker.node.clone(), digest.to_owned()))
        });
    }
}

/// The digest of the model of this name in the parameters of an evaluation: a role, or one of the others.
fn model<'p>(params: &'p Value, subject: &str) -> Option<&'p str> {
    if let Some(digest) = params[subject]["digest"].as_str() {
        return Some(digest);
    }
    let others = params["others"].as_array()?;
    others.iter().find(|other| other["name"] == subject)?["model"]["digest"].as_str()
}

/// The text and the right answer of each seed prompt, by its name.
pub(crate) fn goals(source: &Source) -> anyhow::Result<HashMap<String, (String, String)>> {
    let mut goals: HashMap<String, (String, String)> = HashMap::new();
    for table in ["attacks", "responses"] {
        let rows = Rows::open(&source.tables.path(table))?;
        for row in rows.iter() {
            let known = |text: &str| !text.is_empty();
            let id = row.text("seed_id");
            if !goals.contains_key(id) && known(row.text("seed")) {
                goals.insert(id.to_owned(), (row.text("seed").to_owned(), row.text("answer").to_owned()));
            }
        }
    }
    Ok(goals)
}
