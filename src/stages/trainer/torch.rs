//! Steps in PyTorch: the job for the worker, and what its files mean.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use torch::{Batch, Config, Wanted};

use super::{Torch, TorchDtype, TrainedBy};
use crate::artifact::{self, Model};
use crate::site;
use engine::{CheckError, Context, Input};
use grpo::{PairReport, StepGuard, StepReport};
use model::{Checkpoint, LoraConfig, Params};
use optim::{AdamW, AdamWConfig};

/// The optimizer's state among the worker's files.
const STATE: &str = "optimizer.safetensors";

/// Checks `torch` of the site file.
pub(crate) fn check_torch(config: &Config) -> Result<(), CheckError> {
    config.check().map_err(|(key, message)| CheckError::at(key, message))
}

/// A model before its first step. If only an adapter is trained elsewhere, the weights of the base are not read.
pub(crate) fn start(
    context: &Context,
    model: &Input<Model>,
    lora: Option<&LoraConfig>,
    trainer: &TrainedBy,
) -> anyhow::Result<Arc<Checkpoint>> {
    let path = &context.input(model)?.path;
    let adapted = lora.is_some() || model::is_there(&path.join("adapter_config.json"))?;
    let whole = trainer.is_here() || !adapted || !model::is_there(&path.join("config.json"))?;
    if whole || is_quantised(path)? {
        return artifact::model(context, model);
    }
    let compute = artifact::compute(context)?;
    let config = Checkpoint::config(path)?;
    Ok(Arc::new(Checkpoint::with_base(path, path, config, Params::default(), &compute)?))
}

fn is_quantised(folder: &Path) -> anyhow::Result<bool> {
    Ok(Checkpoint::base_files(folder)?.iter().any(|file| file.extension().is_some_and(|end| end == "gguf")))
}

/// What the worker is asked to compute.
pub(crate) struct Job<'a> {
    /// `grpo`, `dpo`, `ipo` or `sft`.
    pub loss: &'static str,
    /// The settings of the loss and of the optimizer.
    pub settings: Value,
    pub batch: Batch,
    /// The learning rate of each step.
    pub rates: Vec<f64>,
    /// The model before the steps, and the input that it comes from, unless it is new.
    pub trained: &'a Checkpoint,
    pub from: Option<&'a Input<Model>>,
    /// What the loss or a guard measures the divergence from: a model, or the model without its adapter.
    pub reference: Option<Option<&'a Input<Model>>>,
    /// The optimizer's state.
    pub state: Option<PathBuf>,
}

/// What the worker computed. Nothing of it counts until it is put into a model.
pub(crate) struct Computed {
    /// The report of each step, of the model before it.
    pub reports: Vec<StepReport>,
    folder: PathBuf,
    /// The path of the worker's log.
    log: String,
    /// Tokens a second and memory, for people.
    pub note: String,
}

/// Has the worker take the steps.
pub(crate) fn steps(context: &mut Context, settings: &Torch, job: Job) -> anyhow::Result<Computed> {
    let config: Option<Config> = context.torch().map(|torch| site::read("torch", torch)).transpose()?;
    let config = config.unwrap_or_default();
    let model = &job.trained.config;
    job.batch.check(model.vocab_size, model.positions).map_err(anyhow::Error::msg)?;
    let folder = context.scratch();
    let out = folder.join("out");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let batch = folder.join("batch.safetensors");
    job.batch.write(&batch).map_err(anyhow::Error::msg)?;
    let reference = match job.reference {
        None => Value::Null,
        Some(Some(reference)) => place(context, reference)?,
        Some(None) => {
            let mut base = policy(context, &job, &folder)?;
            base["adapter"] = Value::Null;
            base
        }
    };
    let steps = job.rates.len();
    let asked = json!({
        "loss": job.loss,
        "config": job.settings,
        "rates": job.rates,
        "dtype": dtype(context, settings)?,
        "model": policy(context, &job, &folder)?,
        "reference": reference,
        "state": job.state,
        "batch": batch,
        "out": out,
    });
    let (devices, logs) = (context.devices(), context.servers()?);
    let mut watch = |done: usize, total: usize, note: &str| context.progress(done, total, note);
    let answer = torch::ask(&config, &devices, &logs, asked, &mut watch)?;
    let reports: Vec<StepReport> = answer.reports.iter().map(report).collect();
    let is_finite = |report: &&StepReport| report.loss.is_finite() && report.grad_norm.is_finite();
    let stopped = reports.len() < steps && reports.last().filter(is_finite).is_none();
    if reports.len() != steps && !stopped {
        let what = format!("the PyTorch worker must report {steps} steps, found {}", reports.len());
        return Err(torch::Trouble::new(what).with_log(&answer.log).into());
    }
    let tokens: usize = reports.iter().map(|report| report.tokens).sum();
    let (rate, memory) = (tokens as f64 / answer.seconds.max(1e-9), answer.peak_bytes as f64 / 1e9);
    context.record_served(json!({
        "trainer": "torch",
        "device": answer.device,
        "versions": answer.versions,
        "seconds": answer.seconds,
        "completion_tokens_per_second": rate,
        "peak_bytes": answer.peak_bytes,
    }));
    let note = format!("{rate:.0} tokens/s and {memory:.1} GB in PyTorch");
    Ok(Computed { reports, folder: out, log: answer.log, note })
}

impl Computed {
    /// Decides on each step as if it had not been taken yet. Returns the last report that was looked at.
    pub(crate) fn decide(&self, passes: &mut StepGuard) -> StepReport {
        let mut last = StepReport::default();
        for (index, report) in self.reports.iter().enumerate() {
            last = *report;
            if !passes(index + 1, report) {
                break;
            }
        }
        last
    }

    /// Puts the numbers after the steps into the model. Returns the optimizer's state.
    pub(crate) fn put_into(&self, trained: &Params, config: &AdamWConfig) -> anyhow::Result<AdamW> {
        let (mut weights, mut moments) = (Wanted::new(), Wanted::new());
        for (name, var) in trained.iter() {
            weights.insert(name.to_owned(), var.dims().to_vec());
            for part in ["mean", "square"] {
                moments.insert(format!("{name}.{part}"), vec![var.elem_count()]);
            }
        }
        let read = |name: &str, wanted: &Wanted, besides: &[&str]| {
            torch::read(&self.folder.join(name), wanted, besides)
                .map_err(|trouble| trouble.with_log(&self.log))
        };
        let weights = read("weights.safetensors", &weights, &[])?;
        read(STATE, &moments, &["step"])?;
        let state = self.folder.join(STATE);
        let optimizer = AdamW::load(&state, trained, config.clone())?;
        for ((_, var), values) in trained.iter().zip(weights.into_values()) {
            let values = Tensor::from_vec(values, var.shape(), &Device::Cpu)?;
            var.set(&values.to_dtype(var.dtype())?.to_device(var.device())?)?;
        }
        Ok(optimizer)
    }
}

/// The number type, as the worker calls it.
fn dtype(context: &Context, torch: &Torch) -> anyhow::Result<String> {
    let of_pipeline = context.numerics().dtype;
    let of_pipeline = of_pipeline.split('-').next().unwrap_or_default();
    Ok(match torch.dtype {
        Some(TorchDtype::F32) => "f32".into(),
        Some(TorchDtype::Bf16) => "bf16".into(),
        None => of_pipeline.into(),
    })
}

/// Where the worker finds the model to train.
fn policy(context: &Context, job: &Job, scratch: &Path) -> anyhow::Result<Value> {
    let Some(from) = job.from else {
        let folder = scratch.join("model");
        if !folder.exists() {
            job.trained.save(&folder)?;
        }
        return Ok(json!({ "folder": folder, "base": "", "adapter": null }));
    };
    let mut place = place(context, from)?;
    if let Some(adapter) = job.trained.adapter.as_ref().filter(|_| place["adapter"].is_null()) {
        // A new adapter.
        let folder = scratch.join("adapter");
        if !folder.exists() {
            std::fs::create_dir(&folder)?;
            adapter.save(&folder, job.trained.config.layers)?;
        }
        place["adapter"] = json!(folder);
    }
    Ok(place)
}

/// Where the worker finds a model: its folder, the digest of its base, and the folder of its adapter.
fn place(context: &Context, input: &Input<Model>) -> anyhow::Result<Value> {
    let path = std::path::absolute(&context.input(input)?.path)?;
    anyhow::ensure!(
        path.is_dir() && !is_quantised(&path)?,
        "{}: PyTorch must be given a folder with safetensors, found a quantised file: use the checkpoint that it was made from",
        path.display()
    );
    let adapter = model::is_there(&path.join("adapter_config.json"))?.then_some(&path);
    Ok(json!({ "folder": path, "base": artifact::base_digest(context, &path)?, "adapter": adapter }))
}

fn report(report: &torch::Report) -> StepReport {
    let &torch::Report { loss, kl, entropy, clipped, grad_norm, tokens, pairs } = report;
    let pairs = pairs.map(|pairs| PairReport {
        chosen_reward: pairs.chosen_reward,
        rejected_reward: pairs.rejected_reward,
        accuracy: pairs.accuracy,
        margin: pairs.margin,
    });
    StepReport { loss, kl, entropy, clipped, grad_norm, tokens, pairs }
}
