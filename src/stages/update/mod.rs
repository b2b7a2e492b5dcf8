//! `update`: one GRPO step of a role on its rewards.

mod guards;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::guards::{Guards, Halted, Tripped, finite};
use super::artifact::{self, Model, Rewards};
use super::reward::Reward;
use super::trial::MARKS_IN_TEXT;
use data::{self, MetricRow, Position, RewardRow};
use engine::{CheckError, Context, Fed, Input, Kind, Output, Stage, Upstream};
use game::{says_nothing, undetermined};
use grpo::{self, GrpoConfig, StepReport, grpo_step, guarded_step};
use model::{LoraConfig, Marks};
use optim::AdamW;

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
    /// What halts the phase: without them a loss or gradient that is no number is an error.
    #[serde(default)]
    guards: Option<Guards>,
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
        version: 9,
        outputs: &[Output::bulky("model", "model"), Output::new("metrics", "metrics")],
        numerics: true,
        draws: true,
        uncounted: &[],
    };

    fn check(&self) -> Result<(), CheckError> {
        let Algorithm::Grpo(config) = &self.algorithm;
        if config.kl > 0.0 && self.reference.is_none() && self.lora.is_none() {
            return Err(
                "a KL penalty needs a `reference` model, such as warmup.model (or `lora`, or kl: 0)".into()
            );
        }
        if let Some(guards) = &self.guards {
            guards.check()?;
            if guards.needs_reference() && self.reference.is_none() && self.lora.is_none() {
                let message =
                    "a guard of the divergence needs a `reference` model, such as warmup.model (or `lora`)";
                return Err(CheckError::at("guards.kl", message));
            }
        }
        if self.guards.as_ref().is_some_and(|guards| guards.previous.text() == self.model.text()) {
            let message = "`previous` is the model before this one: with `model` itself there is no way back";
            return Err(CheckError::at("guards.previous", message));
        }
        self.lora
            .as_ref()
            .map_or(Ok(()), LoraConfig::check)
            .map_err(|message| CheckError::at("lora", message))?;
        config.check().map_err(|message| CheckError::at("algorithm.grpo", message))
    }

    fn complete(&mut self, upstream: Upstream) -> bool {
        let sampled = self.rewards(upstream).and_then(|rewards| rewards.stage.rollouts(rewards.upstream()));
        let temperature = sampled.map_or(1.0, |rollouts| rollouts.temperature());
        let Algorithm::Grpo(config) = &mut self.algorithm;
        let is_left_out = config.temperature.is_none();
        config.temperature.get_or_insert(temperature);
        is_left_out
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let Some(rewards) = self.rewards(upstream) else { return Ok(Vec::new()) };
        let Some(rollouts) = rewards.stage.rollouts(rewards.upstream()) else { return Ok(Vec::new()) };
        let Algorithm::Grpo(config) = &self.algorithm;
        let longest = config.max_completion_length;
        rollouts.hold_against(config.temperature.unwrap_or(1.0), longest)?;
        let barren = rollouts.barren().map(|message| CheckError::at("data", message));
        let of_other = rollouts.of_other(upstream, &self.model);
        Ok(barren.into_iter().chain(of_other.map(|message| CheckError::at("model", message))).collect())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let Algorithm::Grpo(config) = &self.algorithm;
        let rows = artifact::rows::<RewardRow, _>(context, &self.data)?;
        let before = artifact::model(context, &self.model)?;
        let at = artifact::position(context);
        let mut metrics = metrics(&rows, &before.tokenizer.marks, &at);
        if self.guards.is_some()
            && let Some(halted) = Halted::before(context, &context.input(&self.model)?.path)?
        {
            metrics.push(metric("update", role(&rows), "passed_through", 1.0, rows.len(), &at));
            metrics.push(metric("update", role(&rows), "halted", 1.0, rows.len(), &at));
            data::write(&context.output("metrics"), &metrics)?;
            context.progress(1, 1, format!("halted before: {}", halted.why));
            return halted.hand_on(context, "model", &self.model);
        }
        // Where the reward is not known nothing is learnt.
        let teaches = |row: &&RewardRow| row.advantage.is_some();
        if rows.iter().filter(teaches).all(|row| row.sample.completion_ids.is_empty()) {
            metrics.push(metric("update", role(&rows), "passed_through", 1.0, rows.len(), &at));
            data::write(&context.output("metrics"), &metrics)?;
            context.progress(1, 1, "no completion to learn from: the model stays as it is");
            return guards::pass_on(context, "model", &self.model);
        }
        let trained = before.to_train(self.lora.as_ref(), context.seed().child("adapter"))?;
        let reference = match &self.reference {
            _ if config.kl == 0.0 && !self.guards.as_ref().is_some_and(Guards::needs_reference) => None,
            Some(reference) => Some(artifact::model(context, reference)?),
            None => Some(Arc::new(trained.base())),
        };
        let sample = |row: &RewardRow| {
            Some(grpo::Sample {
                prompt: row.sample.prompt_ids.clone(),
                completion: row.sample.completion_ids.clone(),
                advantage: row.advantage?,
                old_logprobs: row.sample.logprobs.clone(),
                finished: row.sample.finished,
            })
        };
        let samples: Vec<grpo::Sample> = rows.iter().filter_map(sample).collect();
        let state = context.input(&self.model)?.path.join(OPTIMIZER);
        // A new adapter has other parameters than what was trained before.
        let goes_on = before.adapter.is_some() == trained.adapter.is_some();
        let mut optimizer = match goes_on && model::is_there(&state)? {
            true => AdamW::load(&state, trained.trained(), config.optimizer.clone())?,
            false => AdamW::new(trained.trained(), config.optimizer.clone())?,
        };
        let mut tripped = Vec::new();
        let report = match &self.guards {
            None => grpo_step(&trained, reference.as_deref(), &mut optimizer, &samples, config)?,
            Some(guards) => {
                let mut passes = |iteration: usize, report: &StepReport| {
                    tripped = match iteration {
                        1 => guards.tripped(&rows, report),
                        _ => finite(report).err().into_iter().collect(),
                    };
                    tripped.is_empty()
                };
                guarded_step(&trained, reference.as_deref(), &mut optimizer, &samples, config, &mut passes)?
            }
        };

        metrics.extend(step_metrics(&rows, &report, &at));
        if let Some(guards) = &self.guards {
            metrics.extend(halted_metrics(&rows, &tripped, &at));
            if !tripped.is_empty() {
                data::write(&context.output("metrics"), &metrics)?;
                let halted = Halted::here(context, &tripped);
                context.progress(1, 1, halted.to_string());
                return halted.hand_on(context, "model", &guards.previous);
            }
        }
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

impl Update {
    /// The model that is trained.
    pub(super) fn model(&self) -> &Input<Model> {
        &self.model
    }

    /// The rewards, where a stage makes them.
    pub(super) fn rewards<'a>(&self, upstream: Upstream<'a>) -> Option<Fed<'a, Reward>> {
        upstream.stage(&self.data)
    }
}

/// Of one row, so that the mean over rows is a share.
fn share(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn metric(phase: &str, subject: &str, metric: &str, value: f64, count: usize, at: &Position) -> MetricRow {
    MetricRow {
        phase: phase.into(),
        subject: subject.into(),
        metric: metric.into(),
        value,
        count: count as u64,
        at: at.clone(),
    }
}

/// Who wrote the completions.
fn role(rows: &[RewardRow]) -> &str {
    rows.first().map_or("nobody", |row| &row.sample.role)
}

/// Whether the phase halts here, and of each guard that tripped what it measured and its limit.
fn halted_metrics(rows: &[RewardRow], tripped: &[Tripped], at: &Position) -> Vec<MetricRow> {
    let add = |phase: &str, name: &str, value| metric(phase, role(rows), name, value, rows.len(), at);
    let mut metrics = vec![add("update", "halted", share(!tripped.is_empty()))];
    for Tripped { guard, value, limit } in tripped {
        metrics.push(add(analysis::PHASE, guard, *value));
        metrics.push(add(analysis::PHASE, &format!("{guard}{}", analysis::LIMIT), *limit));
    }
    metrics
}

/// What the completions and their rewards came to.
fn metrics(rows: &[RewardRow], marks: &Marks, at: &Position) -> Vec<MetricRow> {
    let mut metrics = Vec::new();
    let mut add = |name: &str, value: f64, count: usize| {
        metrics.push(metric("update", role(rows), name, value, count, at));
    };
    let mut mean = |name: &str, values: Vec<Option<f64>>| {
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        if !known.is_empty() {
            add(name, known.iter().sum::<f64>() / known.len() as f64, known.len());
        }
        if known.len() < values.len() {
            add(&undetermined(name), (values.len() - known.len()) as f64 / values.len() as f64, values.len());
        }
    };
    mean("reward", rows.iter().map(|row| row.reward).collect());
    let all = |of: fn(&RewardRow) -> f64| rows.iter().map(|row| Some(of(row))).collect();
    mean("completion_tokens", all(|row| row.sample.completion_ids.len() as f64));
    mean("finished", all(|row| share(row.sample.finished)));
    mean("empty", all(|row| share(says_nothing(&row.text))));
    mean(MARKS_IN_TEXT, rows.iter().map(|row| Some(share(marks.are_spelled(&row.text)))).collect());
    // Each term of the reward, as the data name them.
    let names: Vec<&str> = rows
        .first()
        .map_or(Vec::new(), |row| row.components.iter().map(|component| component.name.as_str()).collect());
    for (index, name) in names.into_iter().enumerate() {
        let of = |row: &RewardRow| row.components.get(index).and_then(|component| component.score);
        mean(&format!("{name}{}", analysis::SCORE), rows.iter().map(of).collect());
    }
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry(row.group).or_default().extend(row.advantage));
    if !groups.is_empty() {
        // Whose rewards are all the same, or not known, has advantages of 0, but for rounding, or none.
        let is_flat = |group: &&Vec<f64>| group.iter().all(|advantage| *advantage == group[0]);
        let flat = groups.values().filter(is_flat).count();
        add(analysis::FLAT_GROUPS, flat as f64 / groups.len() as f64, groups.len());
    }
    add("undetermined_verdicts", rows.iter().map(|row| f64::from(row.undetermined)).sum(), rows.len());
    metrics
}

/// What the step came to.
fn step_metrics(rows: &[RewardRow], report: &StepReport, at: &Position) -> Vec<MetricRow> {
    let add = |name: &str, value, count| metric("update", role(rows), name, value, count, at);
    let mut metrics = vec![add("passed_through", 0.0, rows.len())];
    for (name, value) in [
        ("loss", report.loss),
        ("kl", report.kl),
        ("entropy", report.entropy),
        ("clipped", report.clipped),
        ("grad_norm", report.grad_norm),
    ] {
        metrics.push(add(name, value, report.tokens));
    }
    metrics
}
