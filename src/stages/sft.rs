//! `sft`: trains a new model, or a given one, on prompts and completions.

use std::path::Path;

use anyhow::Context as _;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::artifact::{self, Model, SftRows, Vocabulary};
use super::asking::Trainer;
use super::trainer::{self, TrainedBy};
use data::{self, MetricRow, SftRow};
use engine::{CheckError, Context, Input, Kind, Output, Purpose, Stage, Views};
use grpo::{StepReport, SupervisedConfig, supervised_step, unguarded};
use model::{Architecture, Checkpoint, LoraConfig, Params, Tokenizer};
use optim::{AdamW, AdamWConfig, Schedule};

/// Trains a new model, or a given one, on prompts and completions.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sft {
    /// The prompts and completions to learn from.
    data: Input<SftRows>,
    /// Learn only from rows of this subset; from all rows by default.
    #[serde(default)]
    subset: Option<String>,
    /// The model to train further. Without it, `init` and `tokenizer` make a new one.
    #[serde(default)]
    model: Option<Input<Model>>,
    /// Train a low-rank adapter on the frozen `model`; all weights by default.
    #[serde(default)]
    lora: Option<LoraConfig>,
    /// The sizes of a new model.
    #[serde(default)]
    init: Option<Architecture>,
    /// The tokenizer of a new model.
    #[serde(default)]
    tokenizer: Option<Input<Vocabulary>>,
    /// The number of training steps.
    steps: usize,
    /// Examples for each step, drawn with replacement.
    #[serde(default = "default_batch")]
    batch: usize,
    /// The learning rate, before the schedule.
    lr: f64,
    /// How the learning rate changes; constant by default.
    #[serde(default)]
    schedule: Schedule,
    /// Settings of AdamW.
    #[serde(default)]
    optimizer: AdamWConfig,
    /// Gradients with a larger norm are scaled down to this norm.
    #[serde(default = "default_norm")]
    max_grad_norm: f64,
    /// Examples in one forward and backward pass; bounds memory.
    #[serde(default = "default_micro_batch")]
    micro_batch: usize,
    /// Keep only the activations between blocks and compute the others again: less memory for about a third more time.
    #[serde(default)]
    gradient_checkpointing: bool,
    /// What computes the steps; this process by default.
    #[serde(default, skip_serializing_if = "TrainedBy::is_here")]
    trainer: TrainedBy,
}

fn default_batch() -> usize {
    64
}

fn default_norm() -> f64 {
    1.0
}

fn default_micro_batch() -> usize {
    256
}

/// Steps between two reported losses.
const REPORT: usize = 20;

impl Stage for Sft {
    const KIND: Kind = Kind {
        name: "sft",
        version: 3,
        outputs: &[Output::new("model", "model"), Output::new("metrics", "metrics")],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Training;

    fn views() -> Views {
        Views::default().with(|stage: &Sft| stage as &dyn Trainer)
    }

    fn check(&self) -> Result<(), CheckError> {
        match (&self.model, &self.init, &self.tokenizer) {
            (Some(_), None, None) => {}
            (None, Some(init), Some(_)) => init.check().map_err(|message| CheckError::at("init", message))?,
            _ => {
                return Err(
                    "either `model`, or both `init` and `tokenizer` for a new model, must be given".into()
                );
            }
        }
        if let Some(lora) = &self.lora {
            if self.model.is_none() {
                return Err("`lora` must be used with a `model`, found none".into());
            }
            lora.check().map_err(|message| CheckError::at("lora", message))?;
        }
        let above_0 = |value: f64| value > 0.0 && value.is_finite();
        if self.steps == 0 || self.batch == 0 || self.micro_batch == 0 {
            let found = format!("{}, {} and {}", self.steps, self.batch, self.micro_batch);
            return Err(
                format!("`steps`, `batch` and `micro_batch` must be at least 1, found {found}").into()
            );
        }
        if !above_0(self.lr) || !above_0(self.max_grad_norm) {
            let found = format!("{} and {}", self.lr, self.max_grad_norm);
            return Err(format!("`lr` and `max_grad_norm` must be above 0, found {found}").into());
        }
        Ok(self.optimizer.check()?)
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let checkpoint = self.start(context)?;
        let rows = artifact::rows::<SftRow, _>(context, &self.data)?;
        let of_subset = |row: &&SftRow| self.subset.as_ref().is_none_or(|subset| *subset == row.subset);
        let rows: Vec<&SftRow> = rows.iter().filter(of_subset).collect();
        let subset = self.subset.as_deref().unwrap_or("any");
        anyhow::ensure!(!rows.is_empty(), "`{}` has no rows of subset `{subset}`", self.data.text());
        let tokenizer = &checkpoint.tokenizer;
        let prompts = tokenizer.encode_all(&rows.iter().map(|row| &row.prompt).collect::<Vec<_>>())?;
        let mut completions =
            tokenizer.encode_all(&rows.iter().map(|row| &row.completion).collect::<Vec<_>>())?;
        completions.iter_mut().for_each(|completion| completion.push(tokenizer.eos));

        let mut random = context.seed().stream("batches");
        let mut draw = || (0..self.batch).map(|_| random.random_range(0..rows.len())).collect::<Vec<usize>>();
        let at = artifact::position(context);
        let reported = |step: usize, report: &StepReport| {
            let metric = |metric: &str, value: f64| MetricRow {
                phase: format!("step {}", step + 1),
                subject: "sft".into(),
                metric: metric.into(),
                value,
                count: report.tokens as u64,
                at: at.clone(),
            };
            let is_reported = step.is_multiple_of(REPORT) || step + 1 == self.steps;
            let all = [
                metric("loss", report.loss),
                metric("grad_norm", report.grad_norm),
                metric("lr", self.rate(step)),
            ];
            all.into_iter().filter(move |_| is_reported)
        };
        let failed_at = |step: usize, left: &Path| {
            format!("step {} of {} (the model before it is in {})", step + 1, self.steps, left.display())
        };
        let mut metrics = Vec::new();
        if let TrainedBy::Torch(torch) = &self.trainer {
            let mut batch = torch::Batch::default();
            prompts.iter().zip(&completions).for_each(|(prompt, completion)| batch.push(prompt, completion));
            batch.order = (0..self.steps).map(|_| draw()).collect();
            let job = trainer::Job {
                loss: "sft",
                settings: json!({
                    "optimizer": self.optimizer,
                    "max_grad_norm": self.max_grad_norm,
                    "micro_batch": self.micro_batch,
                    "gradient_checkpointing": self.gradient_checkpointing,
                }),
                batch,
                rates: (0..self.steps).map(|step| self.rate(step)).collect(),
                trained: &checkpoint,
                from: self.model.as_ref(),
                reference: None,
                state: None,
            };
            let computed = trainer::steps(context, torch, job)?;
            computed.put_into(checkpoint.trained(), &self.optimizer)?;
            if let Err(error) = unguarded(1, |passes| Ok(computed.decide(passes))) {
                let left = context.failure_path("model")?;
                artifact::publish_at(context, &left, &checkpoint, self.model.as_ref())?;
                return Err(error).context(failed_at(computed.reports.len() - 1, &left));
            }
            for (step, report) in computed.reports.iter().enumerate() {
                metrics.extend(reported(step, report));
            }
            let loss = computed.reports.last().map_or(0.0, |report| report.loss);
            context.progress(self.steps, self.steps, format!("loss {loss:.3}, {}", computed.note));
            data::write(&context.output("metrics"), &metrics)?;
            return artifact::publish(context, "model", checkpoint, self.model.as_ref());
        }
        let mut optimizer = AdamW::new(checkpoint.trained(), self.optimizer.clone())?;
        let (mut tokens, begun) = (0, std::time::Instant::now());
        for step in 0..self.steps {
            let examples: Vec<(&[u32], &[u32])> =
                draw().into_iter().map(|row| (&prompts[row][..], &completions[row][..])).collect();
            let lr = self.rate(step);
            let config = SupervisedConfig {
                lr,
                max_grad_norm: self.max_grad_norm,
                micro_batch: self.micro_batch,
                gradient_checkpointing: self.gradient_checkpointing,
            };
            let outcome = supervised_step(&checkpoint, &mut optimizer, &examples, &config);
            let report = match outcome {
                Ok(report) => report,
                Err(error) => {
                    // The step that failed has not touched the parameters.
                    let left = context.failure_path("model")?;
                    checkpoint.save(&left)?;
                    return Err(error).context(failed_at(step, &left));
                }
            };
            tokens +=
                examples.iter().map(|(prompt, completion)| prompt.len() + completion.len()).sum::<usize>();
            let rate = tokens as f64 / begun.elapsed().as_secs_f64();
            context.progress(step + 1, self.steps, format!("loss {:.3}, {rate:.0} tokens/s", report.loss));
            metrics.extend(reported(step, &report));
        }
        data::write(&context.output("metrics"), &metrics)?;
        artifact::publish(context, "model", checkpoint, self.model.as_ref())
    }
}

impl Trainer for Sft {
    fn model(&self) -> Option<&Input<Model>> {
        self.model.as_ref()
    }

    fn positions(&self) -> Option<usize> {
        Some(self.init.as_ref()?.positions)
    }
}

impl Sft {
    /// The learning rate of a step, from 0.
    fn rate(&self, step: usize) -> f64 {
        self.lr * self.schedule.factor(step, self.steps)
    }

    /// The model before the first step, which training may change.
    fn start(&self, context: &Context) -> anyhow::Result<Checkpoint> {
        if let Some(model) = &self.model {
            let adapter = context.seed().child("adapter");
            let model = trainer::start(context, model, self.lora.as_ref(), &self.trainer)?;
            return Ok(model.to_train(self.lora.as_ref(), adapter)?);
        }
        let (Some(init), Some(tokenizer)) = (&self.init, &self.tokenizer) else {
            anyhow::bail!(
                "either `model`, or both `init` and `tokenizer`, must be given: a defect of triplay"
            );
        };
        let compute = artifact::compute(context)?;
        let tokenizer = Tokenizer::load(&context.input(tokenizer)?.path, None)?;
        let config = init.config(tokenizer.vocab_size(), tokenizer.eos, tokenizer.pad);
        let params = Params::init(&config, context.seed().child("parameters"), &compute)?;
        Ok(Checkpoint { config, params, adapter: None, tokenizer, compute })
    }
}
