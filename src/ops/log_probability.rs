//! Log-probabilities of given tokens, and the entropy of the distributions that they come from, straight from hidden states.
//! Logits exist for one part of the vocabulary at a time, forward and backward, so memory grows neither with tokens ×
//! vocabulary nor with the vocabulary.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::composition::{self, fused};
use super::cpu::{read, tensor, uninit_vec};
use super::value::{Gradients, Value};
use kernels::{Matrix, Panels, exp, fold, kernel, matmul, matmul_panels, max};

/// Tokens of the vocabulary whose logits exist at the same time.
pub(super) const PART: usize = 2048;

/// For hidden states \[M, D\] and the output weight \[V, D\]: \[2, M\], the log-probability of each of the M
/// targets at this temperature, and the entropy (nats) of each distribution. Both have gradients.
pub fn token_log_probabilities(
    hidden: &Value,
    weight: &Value,
    targets: Vec<u32>,
    temperature: f64,
) -> Result<Value> {
    let ((tokens, width), (vocabulary, inner)) = (hidden.tensor().dims2()?, weight.tensor().dims2()?);
    if targets.len() != tokens || width != inner {
        bail!(
            "{} targets for {tokens} hidden states of {width} numbers and weights of {inner}",
            targets.len()
        );
    }
    if let Some(target) = targets.iter().find(|target| **target as usize >= vocabulary) {
        bail!("token {target} is outside the vocabulary of {vocabulary}");
    }
    if !fused(&[hidden, weight]) {
        return composition::token_log_probabilities(hidden, weight, targets, 1.0 / temperature);
    }
    let sharpness = (1.0 / temperature) as f32;
    let mut rows = vec![RunningSums::default(); tokens];
    let own = (&*read(hidden.tensor())?, &*read(weight.tensor())?);
    for_parts([own], (tokens, vocabulary), |part, [logits]| {
        let work = logits.par_chunks_mut(part.len()).zip(&mut rows).zip(&targets);
        work.for_each(|((logits, row), target)| add_part(logits, sharpness, target_in(&part, *target), row));
        Ok(())
    })?;
    scored(hidden, weight, targets, sharpness, rows)
}

/// The value of [`token_log_probabilities`], once the sums over the whole vocabulary are known.
pub(super) fn scored(
    hidden: &Value,
    weight: &Value,
    targets: Vec<u32>,
    sharpness: f32,
    rows: Vec<RunningSums>,
) -> Result<Value> {
    let out = rows.iter().map(RunningSums::log_probability);
    let out: Vec<f32> = out.chain(rows.iter().map(RunningSums::entropy)).collect();
    let out = tensor(out, (2, targets.len()))?;
    let kept = (hidden.clone(), weight.clone());
    Ok(Value::result(out, &[hidden, weight], move |grad, gradients| {
        backward(&kept.0, &kept.1, &targets, sharpness, &rows, &grad, gradients)
    }))
}

/// The number of a token within a part of the vocabulary; out of range if it is in another part.
pub(super) fn target_in(part: &Range<usize>, target: u32) -> usize {
    (target as usize).wrapping_sub(part.start)
}

/// Calls `work` with each part of the vocabulary and, for each model, the logits of all tokens in that part, \[tokens, part\].
/// A model is given by its hidden states and output weight.
pub(super) fn for_parts<const MODELS: usize>(
    models: [(&[f32], &[f32]); MODELS],
    (tokens, vocabulary): (usize, usize),
    mut work: impl FnMut(Range<usize>, [&mut [f32]; MODELS]) -> Result<()>,
) -> Result<()> {
    // SAFETY: a part's product is written before `work` reads it.
    let mut buffers = models.map(|_| unsafe { uninit_vec(tokens * PART.min(vocabulary)) });
    for start in (0..vocabulary).step_by(PART) {
        let part = start..(start + PART).min(vocabulary);
        for ((hidden, weight), logits) in models.iter().zip(&mut buffers) {
            let width = weight.len() / vocabulary;
            let weight = Matrix::new(&weight[part.start * width..part.end * width], part.len(), width);
            let logits = &mut logits[..tokens * part.len()];
            matmul_panels(Matrix::new(hidden, tokens, width), &Panels::of(weight.t()), logits, false);
        }
        let length = tokens * part.len();
        work(part, buffers.each_mut().map(|logits| &mut logits[..length]))?;
    }
    Ok(())
}

fn backward(
    hidden: &Value,
    weight: &Value,
    targets: &[u32],
    sharpness: f32,
    rows: &[RunningSums],
    grad: &Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    let (tokens, (vocabulary, width)) = (targets.len(), weight.tensor().dims2()?);
    let (hiddens, weights, grads) = (read(hidden.tensor())?, read(weight.tensor())?, read(grad)?);
    let (d_lp, d_entropy) = grads.split_at(tokens);
    let mut d_hidden = vec![0f32; tokens * width];
    for_parts([(&*hiddens, &*weights)], (tokens, vocabulary), |part, [logits]| {
        let grads = d_lp.par_iter().zip(d_entropy);
        let work = logits.par_chunks_mut(part.len()).zip(targets).zip(rows).zip(grads);
        work.for_each(|(((logits, target), row), (d_lp, d_entropy))| {
            let target = target_in(&part, *target);
            gradient(logits, sharpness, target, row.log_total(), row.entropy(), *d_lp, *d_entropy);
        });
        let d_logits = Matrix::new(logits, tokens, part.len());
        let numbers = part.start * width..part.end * width;
        let weight_part = Matrix::new(&weights[numbers.clone()], part.len(), width);
        matmul(d_logits, weight_part, &mut d_hidden, part.start > 0);
        gradients.add_with(weight, |sum, _| {
            matmul(d_logits.t(), Matrix::new(&hiddens, tokens, width), &mut sum[numbers], true)
        })
    })?;
    gradients.add(hidden, tensor(d_hidden, (tokens, width))?)
}

/// Running sums of a token's distribution, over the parts of the vocabulary so far.
#[derive(Clone, Copy)]
pub(super) struct RunningSums {
    /// The largest score so far.
    most: f32,
    /// Σ e^(score − most)
    total: f32,
    /// Σ e^(score − most) · (score − most)
    weighted: f32,
    /// The score of the target.
    score: f32,
}

impl Default for RunningSums {
    fn default() -> Self {
        RunningSums { most: f32::NEG_INFINITY, total: 0.0, weighted: 0.0, score: 0.0 }
    }
}

impl RunningSums {
    /// Of the target.
    pub(super) fn log_probability(&self) -> f32 {
        self.score - self.log_total()
    }

    /// log Σ e^score
    fn log_total(&self) -> f32 {
        self.most + self.total.ln()
    }

    /// H = log Z − Σ p · score
    fn entropy(&self) -> f32 {
        self.total.ln() - self.weighted / self.total
    }
}

kernel! {
    /// Adds a part of a row's logits to its sums. `target` is out of range if it is in another part.
    pub(super) fn add_part(logits: &mut [f32], sharpness: f32, target: usize, row: &mut RunningSums) {
        let most = (max(logits) * sharpness).max(row.most);
        if let Some(logit) = logits.get(target) {
            row.score = *logit * sharpness;
        }
        // Rescales the sums so far from the old maximum to the new one.
        if row.total > 0.0 {
            let lower = row.most - most;
            let factor = exp::<FUSED>(lower);
            row.weighted = factor * (row.weighted + row.total * lower);
            row.total *= factor;
        }
        let [total, weighted] = fold(logits, |logit, [total, weighted]| {
            let below = logit * sharpness - most;
            let e = exp::<FUSED>(below);
            [total + e, weighted + e * below]
        });
        row.most = most;
        row.total += total;
        row.weighted += weighted;
    }
}

kernel! {
    /// Replaces a part of a row's logits by their gradient.
    fn gradient(
        logits: &mut [f32],
        sharpness: f32,
        target: usize,
        log_total: f32,
        entropy: f32,
        d_log_probability: f32,
        d_entropy: f32,
    ) {
        for logit in logits.iter_mut() {
            // ∂ log p_t / ∂ score = 1[t] − p;  ∂ H / ∂ score = −p (log p + H)
            let log_p = *logit * sharpness - log_total;
            *logit = exp::<FUSED>(log_p) * sharpness * (-d_log_probability - d_entropy * (log_p + entropy));
        }
        if let Some(logit) = logits.get_mut(target) {
            *logit += d_log_probability * sharpness;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn log_probability_and_entropy_are_the_plain_composition_and_have_its_gradient() {
        let (tokens, vocabulary, temperature) = (11, PART + 19, 0.7);
        let targets: Vec<u32> = (0..tokens as u32).map(|i| i * 207 % vocabulary as u32).collect();
        let index = Tensor::from_vec(targets.clone(), (tokens, 1), &candle_core::Device::Cpu).unwrap();
        let plain = |hidden: &Tensor, weight: &Tensor| {
            let logits = (hidden.matmul(&weight.t()?)? / temperature)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
            let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
            let entropy = (log_p.exp()? * &log_p)?.sum(1)?.neg()?;
            Tensor::stack(&[log_p.gather(&index, 1)?.squeeze(1)?, entropy], 0)
        };
        check(
            &[random(&[tokens, 4], 1), random(&[vocabulary, 4], 2)],
            |t| token_log_probabilities(&t[0], &t[1], targets.clone(), temperature),
            |t| plain(&t[0], &t[1]),
        );
    }
}
