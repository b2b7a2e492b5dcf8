//! `update`: one GRPO step of a role on its rewards.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Model, Rewards};
use crate::data::{self, MetricRow, Position, RewardRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::grpo::{self, GrpoConfig, StepReport, grpo_step};
use crate::model::LoraConfig;
use crate::optim::AdamW;

/// The optimizer's state, beside the model that it belongs to.
const OPTIMIZER: &str = "optimizer.safetensors";

/// One step of reinforcement learning of a role on its rewards.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// The model to train; its optimizer's state, if it brings one, goes on.
    model: Input<Model>,
    /// The completions of this model with their rewards.
    data: Input<Rewards>,
    /// What the KL penalty measures the distance to; with an adapter the model without it, by default.
    #[serde(default)]
    reference: Option<Input<Model>>,
    /// Train a low-rank adapter on the frozen model instead of all weights. One that the model brings is
    /// trained further.
    #[serde(default)]
    lora: Option<LoraConfig>,
    /// The algorithm and its settings.
    algorithm: Algorithm,
}

/// How a model learns from rewards.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    /// Group-relative policy optimization (GRPO).
    Grpo(GrpoConfig),
}

impl Stage for Update {
    const KIND: Kind = Kind {
        name: "update",
        version: 4,
        outputs: &[Output::bulky("model", "model"), Output::new("metrics", "metrics")],
        numerics: true,
    };

    fn check(&self) -> Result<(), CheckError> {
        let Algorithm::Grpo(config) = &self.algorithm;
        if config.kl > 0.0 && self.reference.is_none() && self.lora.is_none() {
            return Err(
                "a KL penalty needs a `reference` model, such as warmup.model (or `lora`, or kl: 0)".into()
            );
        }
        self.lora
            .as_ref()
            .map_or(Ok(()), LoraConfig::check)
            .map_err(|message| CheckError::at("lora", message))?;
        config.check().map_err(|message| CheckError::at("algorithm.grpo", message))
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let Algorithm::Grpo(config) = &self.algorithm;
        let rows = artifact::rows::<RewardRow, _>(context, &self.data)?;
        anyhow::ensure!(!rows.is_empty(), "`{}` has no rows to learn from", self.data.text());
        let before = artifact::model(context, &self.model)?;
        let trained = before.to_train(self.lora.as_ref(), context.seed().child("adapter"))?;
        let reference = match &self.reference {
            _ if config.kl == 0.0 => None,
            Some(reference) => Some(artifact::model(context, reference)?),
            None => Some(Arc::new(trained.base())),
        };
        let samples: Vec<grpo::Sample> = rows
            .iter()
            .map(|row| grpo::Sample {
                prompt: row.sample.prompt_ids.clone(),
                completion: row.sample.completion_ids.clone(),
                advantage: row.advantage,
                old_logprobs: row.sample.logprobs.clone(),
                finished: row.sample.finished,
            })
            .collect();
        let state = context.input(&self.model)?.path.join(OPTIMIZER);
        // A new adapter has other parameters than what was trained before.
        let goes_on = before.adapter.is_some() == trained.adapter.is_some();
        let mut optimizer = match goes_on && state.exists() {
            true => AdamW::load(&state, trained.trained(), config.optimizer.clone())?,
            false => AdamW::new(trained.trained(), config.optimizer.clone())?,
        };
        let report = grpo_step(&trained, reference.as_deref(), &mut optimizer, &samples, config)?;

        let metrics = metrics(&rows, &report, artifact::position(context));
        data::write(&context.output("metrics"), &metrics)?;
        let reward = metrics.iter().find(|row| row.metric == "reward").map_or(0.0, |row| row.value);
        context.progress(
            1,
            1,
            format!("reward {reward:.3}, kl {:.3}, entropy {:.2}", report.kl, report.entropy),
        );
        artifact::publish(context, "model", trained, Some(&self.model))?;
        Ok(optimizer.save(&context.output("model").join(OPTIMIZER))?)
    }
}

/// What the rewards and the step came to.
fn metrics(rows: &[RewardRow], report: &StepReport, at: Position) -> Vec<MetricRow> {
    let role = rows.first().map(|row| row.sample.role.clone()).unwrap_or_default();
    let mut metrics = Vec::new();
    let mut add = |metric: &str, value: f64, count: usize| {
        metrics.push(MetricRow {
            phase: "update".into(),
            subject: role.clone(),
            metric: metric.into(),
            value,
            count: count as u64,
            at: at.clone(),
        });
    };
    let mut mean = |metric: &str, values: Vec<f64>| {
        if !values.is_empty() {
            add(metric, values.iter().sum::<f64>() / values.len() as f64, values.len());
        }
    };
    mean("reward", rows.iter().map(|row| row.reward).collect());
    mean("completion_tokens", rows.iter().map(|row| row.sample.completion_ids.len() as f64).collect());
    mean("finished", rows.iter().map(|row| f64::from(u8::from(row.sample.finished))).collect());
    mean("empty", rows.iter().map(|row| f64::from(u8::from(row.text.is_empty()))).collect());
    type Component = fn(&RewardRow) -> Option<f64>;
    let components: [(&str, Component); 6] = [
        ("attack_success", |row| row.attack_success),
        ("semantic", |row| row.semantic),
        ("self_bleu", |row| row.self_bleu),
        ("self_bleu_penalty", |row| row.self_bleu_penalty),
        ("cosine", |row| row.cosine),
        ("cosine_penalty", |row| row.cosine_penalty),
    ];
    for (name, component) in components {
        mean(name, rows.iter().filter_map(component).collect());
    }
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry(row.group).or_default().push(row.reward));
    let flat = groups.values().filter(|rewards| rewards.iter().all(|reward| *reward == rewards[0])).count();
    add("zero_variance_groups", flat as f64, groups.len());
    add("undetermined", rows.iter().map(|row| f64::from(row.undetermined)).sum(), rows.len());
    for (metric, value) in [
        ("loss", report.loss),
        ("kl", report.kl),
        ("entropy", report.entropy),
        ("clipped", report.clipped),
        ("grad_norm", report.grad_norm),
    ] {
        add(metric, value, report.tokens);
    }
    metrics
}
