//! The parts that all losses on completions share: the reference's log-probabilities, the policy's in micro-batches, the
//! gradient of a loss through the decoder, and the step. Knows no particular loss.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::shards::Shards;
use model::{Checkpoint, Completions, Decoder, Purpose};
use ops::Value;
use optim::{AdamW, clip};

/// A prompt and its completion, as token ids.
pub(crate) type Sequence<'a> = (&'a [u32], &'a [u32]);

/// What a step reports; means are over completion tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// The loss that was differentiated.
    pub loss: f64,
    /// Divergence from the reference, exact at each position; 0 without a reference. If only the reference's
    /// log-probabilities are given, the k3 estimate.
    pub kl: f64,
    /// Nats.
    pub entropy: f64,
    /// Share of tokens whose ratio was clipped.
    pub clipped: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Completion tokens.
    pub tokens: usize,
    /// Of a step on pairs.
    pub pairs: Option<PairReport>,
}

/// What a step on pairs also reports, as TRL does; means are over pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairReport {
    /// β (log π − log π_ref) of the chosen completion, in nats, summed over its tokens.
    pub chosen_reward: f64,
    /// The same of the rejected completion.
    pub rejected_reward: f64,
    /// Share of pairs whose chosen completion has the greater reward.
    pub accuracy: f64,
    /// Chosen minus rejected reward.
    pub margin: f64,
}

/// What a loss measures the policy's distance from.
#[derive(Default)]
pub enum Reference {
    /// Nothing.
    #[default]
    None,
    /// The log-probabilities of each sequence's completion.
    Logprobs(Vec<Vec<f32>>),
    /// A model, and for each sequence the hidden states \[M, D\] that predict its completion.
    Model(Box<Decoder>, Vec<Tensor>),
}

impl Reference {
    /// A model's distributions on sequences, computed for at most `most` sequences at a time.
    pub(super) fn of(checkpoint: &Checkpoint, sequences: &[Sequence], most: usize) -> Result<Reference> {
        let decoder = checkpoint.decoder(Purpose::Scoring).map_err(candle_core::Error::wrap)?;
        let shards = Shards::new(&checkpoint.compute, sequences, 1, most, 0);
        let (_, hidden) = shards.accumulate(|rows, _| {
            let micro: Vec<Sequence> = rows.iter().map(|&row| sequences[row]).collect();
            let hidden = decoder.predicting(&Completions::new(&micro)?)?;
            let mut begin = 0;
            let of_row = |(&row, (_, completion)): (&usize, &Sequence)| {
                let at = begin;
                begin += completion.len();
                Ok((row, hidden.tensor().narrow(0, at, completion.len())?))
            };
            rows.iter().zip(&micro).map(of_row).collect::<Result<Vec<_>>>()
        })?;
        let by_row: BTreeMap<usize, Tensor> = hidden.into_iter().flatten().collect();
        Ok(Reference::Model(Box::new(decoder), by_row.into_values().collect()))
    }

    /// The log-probabilities and entropies of a micro-batch's completions under the policy, \[2, M\], and the output that a loss
    /// needs.
    fn compare(
        &self,
        policy: &Decoder,
        rows: &[usize],
        completions: &Completions,
        temperature: f64,
    ) -> Result<(Value, PolicyOutput)> {
        let hidden = policy.predicting(completions)?;
        let targets = completions.targets().to_vec();
        let (scored, reference, kl) = match self {
            Reference::None => (policy.scored(&hidden, targets, temperature)?, Vec::new(), None),
            Reference::Logprobs(all) => {
                let of_rows = rows.iter().flat_map(|&row| &all[row]).copied().collect();
                (policy.scored(&hidden, targets, temperature)?, of_rows, None)
            }
            Reference::Model(decoder, all) => {
                let of_rows: Vec<&Tensor> = rows.iter().map(|&row| &all[row]).collect();
                let of_rows = Value::constant(Tensor::cat(&of_rows, 0)?);
                let found = policy.compared(&hidden, (decoder, &of_rows), targets, temperature)?;
                let kl = found.divergences.into_iter().map(f64::from).sum();
                (found.scored, found.other, Some(kl))
            }
        };
        let output = PolicyOutput {
            logprobs: on_cpu(&scored.tensor().get(0)?)?,
            entropies: on_cpu(&scored.tensor().get(1)?)?.to_vec1::<f32>()?,
            reference,
            kl,
        };
        Ok((scored, output))
    }
}

/// A small tensor of any device and type, as f32 on the CPU for the loss.
pub(crate) fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

/// How a batch goes through the policy.
pub(crate) struct Pass {
    /// The temperature of log-probabilities.
    pub temperature: f64,
    /// Number of consecutive sequences that form a unit, such as a pair: a micro-batch has all of them or none.
    pub unit_size: usize,
    /// Most units that are differentiated at the same time.
    pub micro_batch: usize,
    pub gradient_checkpointing: bool,
}

/// The policy's output for a micro-batch: for the M tokens of its completions, one after the other.
pub(crate) struct PolicyOutput {
    /// Log-probabilities, \[M\], on the CPU.
    pub logprobs: Tensor,
    /// Entropies in nats, M.
    pub entropies: Vec<f32>,
    /// Log-probabilities of the reference, M; empty without one.
    pub reference: Vec<f32>,
    /// Σ over the tokens of the exact divergence from the reference, if it is a model.
    pub kl: Option<f64>,
}

/// The gradient of each parameter in name order, summed over all micro-batches, and what `loss` returned for each. `loss` gets
/// the numbers of a micro-batch's units, and returns its gradient by log-probabilities and entropies, \[2, M\].
pub(crate) fn accumulate<R: Send>(
    policy: &Checkpoint,
    sequences: &[Sequence],
    reference: &Reference,
    pass: &Pass,
    loss: impl Fn(&[usize], &PolicyOutput) -> Result<(Tensor, R)> + Sync,
) -> Result<(Vec<Tensor>, Vec<R>)> {
    let decoder = training(policy, pass.gradient_checkpointing, reference)?;
    let bytes = policy.trained().bytes();
    let shards = Shards::new(&policy.compute, sequences, pass.unit_size, pass.micro_batch, bytes);
    let (sum, made) = shards.accumulate(|units, sum| {
        let rows: Vec<usize> =
            units.iter().flat_map(|unit| unit * pass.unit_size..(unit + 1) * pass.unit_size).collect();
        let micro: Vec<Sequence> = rows.iter().map(|&row| sequences[row]).collect();
        let completions = Completions::new(&micro)?;
        let (scored, output) = reference.compare(&decoder, &rows, &completions, pass.temperature)?;
        let (gradient, made) = loss(units, &output)?;
        let like = scored.tensor();
        let gradient = gradient.to_device(like.device())?.to_dtype(like.dtype())?;
        scored.backward(gradient, sum)?;
        Ok(made)
    })?;
    Ok((decoder.gradients(sum)?, made))
}

/// The number of steps on a batch, and their size.
pub(crate) struct Steps {
    pub num_iterations: usize,
    /// Gradients with a greater norm are scaled down to this one.
    pub max_grad_norm: f64,
    pub lr: f64,
}

/// Decides before each step whether to take it, given its number, from 1, and the report on the model before it.
pub type StepGuard<'a> = dyn FnMut(usize, &StepReport) -> bool + 'a;

/// Takes steps with the result of `gradients`, each only if its report passes. Returns the last report.
pub(crate) fn take_steps(
    policy: &Checkpoint,
    optimizer: &mut AdamW,
    steps: &Steps,
    gradients: impl Fn() -> Result<(Vec<Tensor>, StepReport)>,
    passes: &mut StepGuard,
) -> Result<StepReport> {
    let mut report = StepReport::default();
    for iteration in 1..=steps.num_iterations {
        let (mut gradients, this) = gradients()?;
        report = StepReport { grad_norm: clip(&mut gradients, steps.max_grad_norm)?, ..this };
        if !passes(iteration, &report) {
            break;
        }
        optimizer.step(policy.trained(), &gradients, steps.lr)?;
    }
    Ok(report)
}

/// Takes steps without guards. A loss or gradient that is not finite is an error, which names the iteration if there are
/// several.
pub fn unguarded(
    num_iterations: usize,
    steps: impl FnOnce(&mut StepGuard) -> Result<StepReport>,
) -> Result<StepReport> {
    let mut broken = Ok(());
    let report = steps(&mut |iteration, report| {
        broken = ensure_finite(report).map_err(|error| match num_iterations {
            1 => error,
            all => error.context(format!("iteration {iteration} of {all}")),
        });
        broken.is_ok()
    })?;
    broken.map(|()| report)
}

/// A decoder whose results carry gradients to the trained parameters of `policy`. It shares a frozen base with the reference.
pub(crate) fn training(policy: &Checkpoint, checkpointing: bool, reference: &Reference) -> Result<Decoder> {
    let purpose = Purpose::Training { checkpointing };
    let decoder = match reference {
        Reference::Model(decoder, _) => policy.decoder_beside(purpose, decoder),
        _ => policy.decoder(purpose),
    };
    decoder.map_err(candle_core::Error::wrap)
}

/// Refuses empty prompts. Micro-batches do not know their rows' numbers in the batch, so it is checked here.
pub(crate) fn ensure_prompts<'a>(mut prompts: impl Iterator<Item = &'a [u32]>) -> Result<()> {
    match prompts.position(|prompt| prompt.is_empty()) {
        Some(row) => bail!("row {row} has an empty prompt: a prediction needs a token before it"),
        None => Ok(()),
    }
}

pub(crate) fn ensure_finite(report: &StepReport) -> Result<()> {
    if report.loss.is_finite() && report.grad_norm.is_finite() {
        return Ok(());
    }
    bail!(
        "loss and gradient norm must be finite, found {} and {}: lower the learning rate, or check with `triplay model \
         score` whether the model was damaged before",
        report.loss,
        report.grad_norm
    )
}
