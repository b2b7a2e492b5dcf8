//! `update`: takes one training step, on rewards or on preferences.

mod algorithm;
mod guards;
mod lesson;
mod metrics;
mod preferences;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::algorithm::Algorithm;
use self::guards::{Guards, Halted, Streaks, finite};
use self::lesson::{Lesson, RewardBatch, TrainingBatch};
use self::metrics::{gap_metrics, halted_metrics, metric};
use self::preferences::PreferenceBatch;
use super::artifact::{self, Model, TrainingData};
use super::asking::Trainer;
use super::prefer::Prefer;
use super::reward::Reward;
use super::rollouts::{Learner, Rollouts};
use super::trainer::{self, TrainedBy};
use analysis::{PASSED_THROUGH, UPDATE_NORM};
use engine::{CheckError, Context, Feeder, Input, Kind, Output, Purpose, Stage, Upstream, Views};
use grpo::{self, PairLoss, StepGuard, StepReport};
use model::LoraConfig;
use optim::{AdamW, distance};

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
    /// What computes the step; this process by default.
    #[serde(default, skip_serializing_if = "TrainedBy::is_here")]
    trainer: TrainedBy,
    /// Limits that halt the phase. Without them, a loss or gradient that is not finite is an error.
    #[serde(default)]
    guards: Option<Guards>,
}

impl Stage for Update {
    const KIND: Kind = Kind {
        name: "update",
        version: 12,
        outputs: &[Output::evictable("model", "model"), Output::new("metrics", "metrics")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Training;

    fn views() -> Views {
        Views::default()
            .with(|stage: &Update| stage as &dyn Trainer)
            .with(|stage: &Update| stage as &dyn Learner)
    }

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
            rollouts.check_served().map_err(|message| CheckError::at("data", message))?;
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
        let before = trainer::start(context, &self.model, self.lora.as_ref(), &self.trainer)?;
        let at = artifact::position(context);
        let (role, count) = (lesson.role(), lesson.count());
        let mut metrics = lesson.metrics(&before.tokenizer.marks, &at);
        let served_gap = lesson.served_gap();
        metrics.extend(served_gap.iter().flat_map(|gap| gap_metrics(role, gap, &at)));
        if self.guards.is_some()
            && let Some(halted) = Halted::before(context, &context.input(&self.model)?.path)?
        {
            metrics.push(metric("update", role, PASSED_THROUGH, 1.0, count, &at));
            metrics.push(metric("update", role, "halted", 1.0, count, &at));
            data::write(&context.output("metrics"), &metrics)?;
            context.progress(1, 1, format!("halted before: {}", halted.why));
            return halted.hand_on(context, "model", &self.model);
        }
        if !lesson.has_signal() {
            metrics.push(metric("update", role, PASSED_THROUGH, 1.0, count, &at));
            data::write(&context.output("metrics"), &metrics)?;
            context.progress(1, 1, lesson.nothing());
            guards::publish_unchanged(context, "model", &self.model)?;
            // Such a batch does not show whether the model is within the limits.
            let before = Streaks::before(context, &context.input(&self.model)?.path)?;
            return before.at(context.position()).leave(context, "model");
        }
        let trained = before.to_train(self.lora.as_ref(), context.seed().child("adapter"))?;
        let needs_reference =
            lesson.needs_reference() || self.guards.as_ref().is_some_and(Guards::needs_reference);
        let state = context.input(&self.model)?.path.join(OPTIMIZER);
        // A new adapter has other parameters than those that the state is for.
        let goes_on = before.adapter.is_some() == trained.adapter.is_some();
        let mut optimizer = match goes_on && model::is_there(&state)? {
            true => AdamW::load(&state, trained.trained(), lesson.optimizer().clone())?,
            false => AdamW::new(trained.trained(), lesson.optimizer().clone())?,
        };
        // `trained` has copies of these weights, unless its adapter is new.
        let start = match goes_on {
            true => before.trained().clone(),
            false => trained.trained().copy(&trained.compute)?,
        };
        let computed = match &self.trainer {
            TrainedBy::Here => None,
            TrainedBy::Torch(torch) => {
                let Lesson { loss, settings, rows, lr } = lesson.for_torch();
                let job = trainer::Job {
                    loss,
                    settings,
                    batch: rows,
                    rates: vec![lr; lesson.iterations()],
                    trained: &trained,
                    from: Some(&self.model),
                    reference: needs_reference.then_some(self.reference.as_ref()),
                    state: (goes_on && model::is_there(&state)?).then_some(state),
                };
                Some(trainer::steps(context, torch, job)?)
            }
        };
        let reference = match &self.reference {
            _ if !needs_reference || computed.is_some() => None,
            Some(reference) => Some(artifact::model(context, reference)?),
            None => Some(Arc::new(trained.base())),
        };
        let mut step = |passes: &mut StepGuard| match &computed {
            None => lesson.step(&trained, reference.as_deref(), &mut optimizer, passes),
            Some(computed) => Ok(computed.decide(passes)),
        };
        let mut tripped = Vec::new();
        let mut streaks = Streaks::default();
        let report = match &self.guards {
            None => grpo::unguarded(lesson.iterations(), step)?,
            Some(guards) => {
                let before = Streaks::before(context, &context.input(&self.model)?.path)?;
                let position = context.position();
                let mut passes = |iteration: usize, report: &StepReport| {
                    tripped = match iteration {
                        1 => {
                            let passed =
                                guards.tripped(&lesson.completions(), served_gap.map(|gap| gap.mean), report);
                            streaks = before.and(position, &passed);
                            streaks.halting(passed, guards)
                        }
                        _ => finite(report).err().into_iter().collect(),
                    };
                    tripped.is_empty()
                };
                step(&mut passes)?
            }
        };

        metrics.extend(lesson.step_metrics(&report, needs_reference, &at));
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
        let mut told = lesson.told(&metrics, &report);
        if let Some(computed) = &computed {
            optimizer = computed.put_into(trained.trained(), lesson.optimizer())?;
            told += &format!(", {}", computed.note);
        }
        metrics.push(metric("update", role, UPDATE_NORM, distance(&start, trained.trained())?, count, &at));
        data::write(&context.output("metrics"), &metrics)?;
        context.progress(1, 1, told);
        artifact::publish(context, "model", trained, Some(&self.model))?;
        streaks.leave(context, "model")?;
        Ok(optimizer.save(&context.output("model").join(OPTIMIZER))?)
    }
}

impl Trainer for Update {
    fn model(&self) -> Option<&Input<Model>> {
        Some(&self.model)
    }
}

impl Learner for Update {
    fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        if let Some(rewards) = upstream.stage::<Reward, _>(&self.data) {
            return rewards.stage.rollouts(rewards.upstream());
        }
        let preferences: Feeder<Prefer> = upstream.stage(&self.data)?;
        preferences.stage.rollouts(preferences.upstream())
    }
}

impl Update {
    /// Checks that the data are of the kind that the algorithm learns from, if a stage makes them.
    fn learns_from(&self, upstream: Upstream) -> Result<(), CheckError> {
        let (name, pairs) = (self.algorithm.name(), self.algorithm.is_on_pairs());
        let data = self.data.text();
        let message = if pairs && upstream.stage::<Reward, _>(&self.data).is_some() {
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
                let rows: Arc<Vec<data::RewardRow>> = artifact::rows(context, &self.data)?;
                let lacks = |row: &data::RewardRow| {
                    row.advantage.is_some() && row.sample.was_asked() && !row.sample.has_tokens()
                };
                if let Some(row) = rows.iter().position(lacks) {
                    anyhow::bail!(
                        "row {row} of `{}` must have the token ids of its completion, found none: a server that does not tell \
                         them cannot sample for training; use `{{ endpoint: NAME, load: {} }}`, or sample in this process",
                        self.data.text(),
                        self.model.text()
                    );
                }
                return Ok(Box::new(RewardBatch { rows, config }));
            }
            Algorithm::Dpo(config) => (PairLoss::Dpo, config),
            Algorithm::Ipo(config) => (PairLoss::Ipo, config),
        };
        Ok(Box::new(PreferenceBatch { rows: artifact::rows(context, &self.data)?, loss, config }))
    }
}
