//! `sft`: trains a new model, or a given one, on prompts and completions.

use anyhow::Context as _;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Model, SftRows, Vocabulary};
use super::asking::Trainer;
use data::{self, MetricRow, SftRow};
use engine::{CheckError, Context, Input, Kind, Output, Purpose, Stage, Views};
use grpo::{SupervisedConfig, supervised_step};
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
        version: 4,
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
        let mut optimizer = AdamW::new(checkpoint.trained(), self.optimizer.clone())?;
        let at = artifact::position(context);
        let mut metrics = Vec::new();
        let (mut tokens, begun) = (0, std::time::Instant::now());
        for step in 0..self.steps {
            let examples: Vec<(&[u32], &[u32])> = (0..self.batch)
                .map(|_| {
                    let row = random.random_range(0..rows.len());
                    (&prompts[row][..], &completions[row][..])
                })
                .collect();
            let lr = self.lr * self.schedule.factor(step, self.steps);
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
                    let (step, steps, left) = (step + 1, self.steps, left.display());
                    return Err(error).with_context(|| {
                        format!("step {step} of {steps} (the model before it is in {left})")
                    });
                }
            };
            tokens +=
                examples.iter().map(|(prompt, completion)| prompt.len() + completion.len()).sum::<usize>();
            let rate = tokens as f64 / begun.elapsed().as_secs_f64();
            context.progress(step + 1, self.steps, format!("loss {:.3}, {rate:.0} tokens/s", report.loss));
            if step % REPORT == 0 || step + 1 == self.steps {
                let metric = |metric: &str, value: f64| MetricRow {
                    phase: format!("step {}", step + 1),
                    subject: "sft".into(),
                    metric: metric.into(),
                    value,
                    count: report.tokens as u64,
                    at: at.clone(),
                };
                metrics.extend([
                    metric("loss", report.loss),
                    metric("grad_norm", report.grad_norm),
                    metric("lr", lr),
                ]);
            }
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
    /// The model before the first step, which training may change.
    fn start(&self, context: &Context) -> anyhow::Result<Checkpoint> {
        if let Some(model) = &self.model {
            let adapter = context.seed().child("adapter");
            return Ok(artifact::model(context, model)?.to_train(self.lora.as_ref(), adapter)?);
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
