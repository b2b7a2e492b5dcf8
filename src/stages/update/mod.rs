//! `update`: takes one training step, on rewards or on preferences.

mod algorithm;
mod guards;
mod lesson;
mod preferences;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::algorithm::Algorithm;
use self::guards::{Guards, Halted, Streaks, Tripped, finite};
use self::lesson::{RewardBatch, TrainingBatch};
use self::preferences::PreferenceBatch;
use super::artifact::{self, Model, TrainingData};
use super::prefer::Prefer;
use super::reward::Reward;
use super::rollouts::Rollouts;
use super::trial::MARKS_IN_TEXT;
use data::{self, MetricRow, Position, RewardRow};
use engine::{CheckError, Context, Feeder, Input, Kind, Output, Purpose, Stage, Upstream};
use game::{has_no_text, undetermined};
use grpo::{self, PairLoss, StepReport};
use model::{ControlTokens, LoraConfig};
use optim::AdamW;

/// The optimizer's state, beside the model that it belongs to.
const OPTIMIZER: &str = "optimizer.safetensors";

/// Takes one training step of a role: with GRPO on its rewards, or with DPO or IPO on preferences between its completions.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    /// The model to train. If its folder has the optimizer's state, training continues from that state.
    model: Input<Model>,
    /// What to learn from: for `grpo`, completions of this model with their rewards; for `dpo` and `ipo`, preferences between two
    /// completions.
    data: Input<TrainingData>,
    /// The model from which the KL penalty measures the divergence, and with which `dpo` and `ipo` compare. With an adapter, by
    /// default the model without it.
    #[serde(default)]
    reference: Option<Input<Model>>,
    /// Train a low-rank adapter on the frozen model instead of all weights. An adapter that the model already has is trained
    /// further.
    #[serde(default)]
    lora: Option<LoraConfig>,
    /// The algorithm and its settings.
    algorithm: Algorithm,
    /// Limits that halt the phase. Without them, a loss or gradient that is not finite is an error.
    #[serde(default)]
    guards: Option<Guards>,
}

impl Stage for Update {
    const KIND: Kind = Kind {
        name: "update",
        version: 9,
        outputs: &[Output::evictable("model", "model"), Output::new("metrics", "metrics")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Training;

    fn check(&self) -> Result<(), CheckError> {
        let has_reference = self.reference.is_some() || self.lora.is_some();
        self.algorithm.check_reference(has_reference)?;
        if let Some(guards) = &self.guards {
            guards.check(&self.model)?;
            if guards.needs_reference() && !has_reference {
                let message = "`reference` must be given for the guard `kl`, such as `reference: warmup.model`; or write `lora`";
                return Err(CheckError::at("guards.kl", message));
            }
        }
        self.lora
            .as_ref()
            .map_or(Ok(()), LoraConfig::check)
            .map_err(|message| CheckError::at("lora", message))?;
        self.algorithm.check()
    }

    fn complete(&mut self, upstream: Upstream) -> bool {
        let temperature = self.rollouts(upstream).map_or(1.0, |rollouts| rollouts.temperature());
        let Algorithm::Grpo(config) = &mut self.algorithm else { return false };
        let is_left_out = config.temperature.is_none();
        config.temperature.get_or_insert(temperature);
        is_left_out
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        self.learns_from(upstream)?;
        let Some(rollouts) = self.rollouts(upstream) else { return Ok(Vec::new()) };
        let mut unlearnable_reason = None;
        if let Algorithm::Grpo(config) = &self.algorithm {
            let longest = config.max_completion_length;
            rollouts.check_settings(config.temperature.unwrap_or(1.0), longest)?;
            unlearnable_reason = rollouts.unlearnable_reason().map(|message| CheckError::at("data", message));
        }
        let model_mismatch = rollouts.model_mismatch(upstream, &self.model);
        Ok(unlearnable_reason
            .into_iter()
            .chain(model_mismatch.map(|message| CheckError::at("model", message)))
            .collect())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let lesson = self.lesson(context)?;
        let before = artifact::model(context, &self.model)?;
        let at = artifact::position(context);
        let (role, count) = (lesson.role(), lesson.count());
        let mut metrics = lesson.metrics(&before.tokenizer.marks, &at);
        if self.guards.is_some()
            && let Some(halted) = Halted::before(context, &context.input(&self.model)?.path)?
        {
            metrics.push(metric("update", role, "passed_through", 1.0, count, &at));
            metrics.push(metric("update", role, "halted", 1.0, count, &at));
            data::write(&context.output("metrics"), &metrics)?;
            context.progress(1, 1, format!("halted before: {}", halted.why));
            return halted.hand_on(context, "model", &self.model);
        }
        if !lesson.has_signal() {
            metrics.push(metric("update", role, "passed_through", 1.0, count, &at));
            data::write(&context.output("metrics"), &metrics)?;
            context.progress(1, 1, lesson.nothing());
            guards::publish_unchanged(context, "model", &self.model)?;
            // Such a batch does not show whether the model is within the limits.
            let before = Streaks::before(context, &context.input(&self.model)?.path)?;
            return before.at(context.position()).leave(context, "model");
        }
        let trained = before.to_train(self.lora.as_ref(), context.seed().child("adapter"))?;
        let reference = match &self.reference {
            _ if !lesson.needs_reference() && !self.guards.as_ref().is_some_and(Guards::needs_reference) => {
                None
            }
            Some(reference) => Some(artifact::model(context, reference)?),
            None => Some(Arc::new(trained.base())),
        };
        let state = context.input(&self.model)?.path.join(OPTIMIZER);
        // A new adapter has other parameters than those that the state is for.
        let goes_on = before.adapter.is_some() == trained.adapter.is_some();
        let mut optimizer = match goes_on && model::is_there(&state)? {
            true => AdamW::load(&state, trained.trained(), lesson.optimizer().clone())?,
            false => AdamW::new(trained.trained(), lesson.optimizer().clone())?,
        };
        let mut tripped = Vec::new();
        let mut streaks = Streaks::default();
        let report = match &self.guards {
            None => grpo::unguarded(lesson.iterations(), |passes| {
                lesson.step(&trained, reference.as_deref(), &mut optimizer, passes)
            })?,
            Some(guards) => {
                let before = Streaks::before(context, &context.input(&self.model)?.path)?;
                let position = context.position();
                let mut passes = |iteration: usize, report: &StepReport| {
                    tripped = match iteration {
                        1 => {
                            let passed = guards.tripped(&lesson.completions(), report);
                            streaks = before.and(position, &passed);
                            streaks.halting(passed, guards)
                        }
                        _ => finite(report).err().into_iter().collect(),
                    };
                    tripped.is_empty()
                };
                lesson.step(&trained, reference.as_deref(), &mut optimizer, &mut passes)?
            }
        };

        metrics.extend(lesson.step_metrics(&report, &at));
        if let Some(guards) = &self.guards {
            let batches = guards.batches(&tripped);
            metrics.extend(halted_metrics(role, count, &tripped, batches, &at));
            metrics.push(metric("update", role, "limits_passed", streaks.passed() as f64, count, &at));
            if !tripped.is_empty() {
                data::write(&context.output("metrics"), &metrics)?;
                let halted = Halted::here(context, &tripped, batches as u32);
                context.progress(1, 1, halted.to_string());
                let back = guards.back_to(&tripped).unwrap_or(&self.model);
                return halted.hand_on(context, "model", back);
            }
        }
        data::write(&context.output("metrics"), &metrics)?;
        context.progress(1, 1, lesson.told(&metrics, &report));
        artifact::publish(context, "model", trained, Some(&self.model))?;
        streaks.leave(context, "model")?;
        Ok(optimizer.save(&context.output("model").join(OPTIMIZER))?)
    }
}

impl Update {
    /// The model that is trained.
    pub(super) fn model(&self) -> &Input<Model> {
        &self.model
    }

    /// The stage that makes the rewards, if one does.
    pub(super) fn rewards<'a>(&self, upstream: Upstream<'a>) -> Option<Feeder<'a, Reward>> {
        upstream.stage(&self.data)
    }

    /// The completions to learn from, if a stage samples them.
    pub(super) fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        if let Some(rewards) = self.rewards(upstream) {
            return rewards.stage.rollouts(rewards.upstream());
        }
        let preferences: Feeder<Prefer> = upstream.stage(&self.data)?;
        preferences.stage.rollouts(preferences.upstream())
    }

    /// Checks that the data are of the kind that the algorithm learns from, if a stage makes them.
    fn learns_from(&self, upstream: Upstream) -> Result<(), CheckError> {
        let (name, pairs) = (self.algorithm.name(), self.algorithm.is_on_pairs());
        let data = self.data.text();
        let message = if pairs && self.rewards(upstream).is_some() {
            format!(
                "`data` must be preferences for `{name}`, found the rewards `{data}`: a stage of `kind: prefer` with \
                 `by: {{ rewards: {{ data: {data} }} }}` makes pairs of them"
            )
        } else if !pairs && upstream.stage::<Prefer, _>(&self.data).is_some() {
            format!(
                "`data` must be rewards for `{name}`, found the preferences `{data}`: `dpo` and `ipo` learn from those"
            )
        } else {
            return Ok(());
        };
        Err(CheckError::at("data", message))
    }

    fn lesson<'a>(&'a self, context: &Context) -> anyhow::Result<Box<dyn TrainingBatch + 'a>> {
        let (loss, config) = match &self.algorithm {
            Algorithm::Grpo(config) => {
                return Ok(Box::new(RewardBatch { rows: artifact::rows(context, &self.data)?, config }));
            }
            Algorithm::Dpo(config) => (PairLoss::Dpo, config),
            Algorithm::Ipo(config) => (PairLoss::Ipo, config),
        };
        Ok(Box::new(PreferenceBatch { rows: artifact::rows(context, &self.data)?, loss, config }))
    }
}

/// 1 or 0 for a row, so that the mean over rows is a share.
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

/// The role that wrote the completions.
fn role(rows: &[RewardRow]) -> &str {
    rows.first().map_or("nobody", |row| &row.sample.role)
}

/// Whether the phase halts here; for each guard that tripped, the measured value and its limit; and the number of `batches` in a
/// row.
fn halted_metrics(
    role: &str,
    count: usize,
    tripped: &[Tripped],
    batches: usize,
    at: &Position,
) -> Vec<MetricRow> {
    let add = |phase: &str, name: &str, value| metric(phase, role, name, value, count, at);
    let mut metrics = vec![add("update", "halted", share(!tripped.is_empty()))];
    for Tripped { guard, value, limit } in tripped {
        metrics.push(add(analysis::PHASE, guard, *value));
        metrics.push(add(analysis::PHASE, &format!("{guard}{}", analysis::LIMIT), *limit));
    }
    if batches > 1 && !tripped.is_empty() {
        metrics.push(add(analysis::PHASE, analysis::IN_A_ROW, batches as f64));
    }
    metrics
}

/// Metrics of the completions and their rewards.
fn metrics(rows: &[RewardRow], marks: &ControlTokens, at: &Position) -> Vec<MetricRow> {
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
    mean("empty", all(|row| share(has_no_text(&row.text))));
    mean(MARKS_IN_TEXT, rows.iter().map(|row| Some(share(marks.occur_in(&row.text)))).collect());
    // Each term of the reward, by its name in the data.
    let names: Vec<&str> = rows
        .first()
        .map_or(Vec::new(), |row| row.components.iter().map(|component| component.name.as_str()).collect());
    for name in names {
        let of = |row: &RewardRow| row.component(name).and_then(|component| component.score);
        mean(&format!("{name}{}", analysis::SCORE), rows.iter().map(of).collect());
    }
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    rows.iter().for_each(|row| groups.entry(row.group).or_default().extend(row.advantage));
    if !groups.is_empty() {
        // Advantages are all 0, up to rounding, if the rewards are the same, and missing if the rewards are not known.
        let is_flat = |group: &&Vec<f64>| group.iter().all(|advantage| *advantage == group[0]);
        let flat = groups.values().filter(is_flat).count();
        add(analysis::FLAT_GROUPS, flat as f64 / groups.len() as f64, groups.len());
    }
    add("undetermined_verdicts", rows.iter().map(|row| f64::from(row.undetermined)).sum(), rows.len());
    metrics
}

/// Metrics of the step.
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
