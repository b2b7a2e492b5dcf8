//! The parts that all losses on completions share: the reference's log-probabilities, the policy's in micro-batches, the
//! gradient of a loss through the decoder, and the step. Knows no particular loss.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::shards::{Shards, micro_batches};
use model::{Checkpoint, Decoder, Packed, Purpose};
use ops::Value;
use optim::{AdamW, clip};

/// A prompt and what follows it, as token ids.
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'a> {
    pub prompt: &'a [u32],
    pub completion: &'a [u32],
}

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

/// The reference's log-probabilities and distributions for samples.
#[derive(Default)]
pub struct Reference {
    /// Log-probabilities of each sample's completion; empty for a loss without KL penalty.
    logprobs: Vec<Vec<f32>>,
    /// The reference's decoder, and for each sample the hidden states that predict its completion.
    exact: Option<(Decoder, Vec<Tensor>)>,
}

impl Reference {
    /// A reference of log-probabilities alone.
    pub fn of_logprobs(logprobs: Vec<Vec<f32>>) -> Reference {
        Reference { logprobs, exact: None }
    }

    /// A model's log-probabilities and distributions on sequences, computed for at most `most` sequences at a time.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        sequences: &[Sequence],
        temperature: f64,
        most: usize,
    ) -> Result<Reference> {
        let decoder = checkpoint.decoder(Purpose::Scoring).map_err(candle_core::Error::wrap)?;
        let of_micro_batch = |micro_batch: Range<usize>| {
            let sequences = &sequences[micro_batch];
            let (batch, starts) = pack(sequences);
            let (hidden, targets) = decoder.predicting(&batch, &starts)?;
            let scored = decoder.scored(&hidden, targets, temperature)?;
            let scored = on_cpu(&scored.tensor().get(0)?)?.to_vec1::<f32>()?;
            let mut begin = 0;
            let row = |sequence: &Sequence| {
                let (at, length) = (begin, sequence.completion.len());
                begin += length;
                Ok((scored[at..begin].to_vec(), hidden.tensor().narrow(0, at, length)?))
            };
            sequences.iter().map(row).collect::<Result<Vec<(Vec<f32>, Tensor)>>>()
        };
        let lengths: Vec<usize> = sequences.iter().map(Sequence::tokens).collect();
        let micro_batches = micro_batches(&checkpoint.compute, &lengths, most);
        // On a GPU one after the other, because micro-batches are to bound its memory.
        let rows: Vec<Vec<_>> = match checkpoint.compute.fused() {
            true => micro_batches.into_par_iter().map(of_micro_batch).collect::<Result<_>>()?,
            false => micro_batches.into_iter().map(of_micro_batch).collect::<Result<_>>()?,
        };
        let (logprobs, hidden) = rows.into_iter().flatten().unzip();
        Ok(Reference { logprobs, exact: Some((decoder, hidden)) })
    }

    /// Log-probabilities of the tokens of a sequence's completion; empty if the loss needs none.
    pub(super) fn logprobs(&self, row: usize) -> &[f32] {
        self.logprobs.get(row).map_or(&[], Vec::as_slice)
    }

    /// The divergence of the policy's distributions from the reference's, summed over the tokens of these samples.
    fn divergence(
        &self,
        policy: &Decoder,
        hidden: &Value,
        rows: &[usize],
        temperature: f64,
    ) -> Result<Option<f64>> {
        let Some((decoder, of_samples)) = &self.exact else { return Ok(None) };
        let of_rows: Vec<&Tensor> = rows.iter().map(|&row| &of_samples[row]).collect();
        let of_rows = Value::constant(Tensor::cat(&of_rows, 0)?);
        let all = policy.divergences(hidden, (decoder, &of_rows), temperature)?;
        Ok(Some(all.into_iter().map(f64::from).sum()))
    }
}

impl Sequence<'_> {
    /// Tokens of prompt and completion together.
    fn tokens(&self) -> usize {
        self.prompt.len() + self.completion.len()
    }
}

/// A small tensor of any device and type, as f32 on the CPU for the loss.
pub(crate) fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

/// Prompts and completions as packed rows, and where the completions start.
pub(crate) fn pack(sequences: &[Sequence]) -> (Packed, Vec<usize>) {
    let rows: Vec<Vec<u32>> =
        sequences.iter().map(|sequence| [sequence.prompt, sequence.completion].concat()).collect();
    (Packed::new(&rows), sequences.iter().map(|sequence| sequence.prompt.len()).collect())
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
    let decoder = training(policy, pass.gradient_checkpointing)?;
    let tokens = |sequences: &[Sequence]| sequences.iter().map(Sequence::tokens).sum();
    let lengths: Vec<usize> = sequences.chunks(pass.unit_size).map(tokens).collect();
    let shards = Shards::new(&policy.compute, &lengths, pass.micro_batch, policy.trained().bytes());
    let (sum, made) = shards.accumulate(|units, sum| {
        let rows: Vec<usize> =
            units.iter().flat_map(|unit| unit * pass.unit_size..(unit + 1) * pass.unit_size).collect();
        let micro: Vec<Sequence> = rows.iter().map(|&row| sequences[row]).collect();
        let (batch, starts) = pack(&micro);
        let (hidden, targets) = decoder.predicting(&batch, &starts)?;
        let scored = decoder.scored(&hidden, targets, pass.temperature)?;
        let output = PolicyOutput {
            logprobs: on_cpu(&scored.tensor().get(0)?)?,
            entropies: on_cpu(&scored.tensor().get(1)?)?.to_vec1::<f32>()?,
            kl: reference.divergence(&decoder, &hidden, &rows, pass.temperature)?,
        };
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

/// A decoder whose results carry gradients to the trained parameters of `policy`.
pub(crate) fn training(policy: &Checkpoint, checkpointing: bool) -> Result<Decoder> {
    policy.decoder(Purpose::Training { checkpointing }).map_err(candle_core::Error::wrap)
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
