//! Log-probabilities of given tokens, and the entropy of the distributions they come from, straight from
//! hidden states: logits exist for one block of tokens at a time, forward and backward, so that memory does
//! not grow with tokens × vocabulary.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::composition::{self, fused};
use super::cpu::{read, tensor};
use super::product::{Matrix, matmul};
use super::simd::{dot, exp, kernel, max, softmax, sum};
use super::value::{Gradients, Value};

/// Tokens whose logits exist at the same time.
const BLOCK: usize = 512;

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
    let (hiddens, weights) = (read(hidden.tensor())?, read(weight.tensor())?);
    let mut out = vec![0f32; 2 * tokens];
    let (log_probabilities, entropies) = out.split_at_mut(tokens);
    let mut logits = vec![0f32; BLOCK.min(tokens) * vocabulary];
    let blocks = log_probabilities.chunks_mut(BLOCK).zip(entropies.chunks_mut(BLOCK));
    for (((log_probabilities, entropies), hidden), targets) in
        blocks.zip(hiddens.chunks(BLOCK * width)).zip(targets.chunks(BLOCK))
    {
        let rows = targets.len();
        let logits = &mut logits[..rows * vocabulary];
        matmul(Matrix::new(hidden, rows, width), Matrix::new(&weights, vocabulary, width).t(), logits, false);
        let outputs = log_probabilities.par_iter_mut().zip(entropies.par_iter_mut());
        logits.par_chunks_mut(vocabulary).zip(outputs).zip(targets).for_each(
            |((logits, (lp, entropy)), target)| {
                (*lp, *entropy) = statistics(logits, sharpness, *target as usize);
            },
        );
    }
    let out = tensor(out, (2, tokens))?;
    let kept = (hidden.clone(), weight.clone());
    Ok(Value::result(out, &[hidden, weight], move |grad, gradients| {
        log_probabilities_backward(&kept.0, &kept.1, &targets, sharpness, &grad, gradients)
    }))
}

fn log_probabilities_backward(
    hidden: &Value,
    weight: &Value,
    targets: &[u32],
    sharpness: f32,
    grad: &Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    let (tokens, (vocabulary, width)) = (targets.len(), weight.tensor().dims2()?);
    let (hiddens, weights, grads) = (read(hidden.tensor())?, read(weight.tensor())?, read(grad)?);
    let (d_lp, d_entropy) = grads.split_at(tokens);
    let mut d_hidden = vec![0f32; tokens * width];
    let mut logits = vec![0f32; BLOCK.min(tokens) * vocabulary];
    let w = Matrix::new(&weights, vocabulary, width);
    for start in (0..tokens).step_by(BLOCK) {
        let block = start..(start + BLOCK).min(tokens);
        let rows = block.len();
        let logits = &mut logits[..rows * vocabulary];
        let h = Matrix::new(&hiddens[block.start * width..block.end * width], rows, width);
        matmul(h, w.t(), logits, false);
        let grads = d_lp[block.clone()].par_iter().zip(&d_entropy[block.clone()]);
        let rows_at_work = logits.par_chunks_mut(vocabulary).zip(&targets[block.clone()]).zip(grads);
        rows_at_work.for_each(|((logits, target), (d_lp, d_entropy))| {
            gradient(logits, sharpness, *target as usize, *d_lp, *d_entropy);
        });
        let d_logits = Matrix::new(logits, rows, vocabulary);
        matmul(d_logits, w, &mut d_hidden[block.start * width..block.end * width], false);
        gradients.add_with(weight, |sum, more| matmul(d_logits.t(), h, sum, more))?;
    }
    gradients.add(hidden, tensor(d_hidden, (tokens, width))?)
}

kernel! {
    /// One row of logits, scaled, becomes e^(score − most); returns log Σ e^score, the largest score and the sum
    /// of what the row became.
    pub fn exponentials(logits: &mut [f32], sharpness: f32) -> (f32, f32, f32) {
        for logit in logits.iter_mut() {
            *logit *= sharpness;
        }
        let most = max(logits);
        for logit in logits.iter_mut() {
            *logit = exp::<FUSED>(*logit - most);
        }
        let total = sum(logits);
        (most + total.ln(), most, total)
    }
}

kernel! {
    /// One row of logits becomes probabilities; returns log-probability of the target and entropy.
    fn statistics(logits: &mut [f32], sharpness: f32, target: usize) -> (f32, f32) {
        for logit in logits.iter_mut() {
            *logit *= sharpness;
        }
        let scores = logits.to_vec();
        let log_total = softmax::<FUSED>(logits);
        // H = log Z − Σ p·score
        (scores[target] - log_total, log_total - dot::<FUSED>(logits, &scores))
    }
}

kernel! {
    /// One row of logits becomes the gradient with respect to itself.
    fn gradient(logits: &mut [f32], sharpness: f32, target: usize, d_log_probability: f32, d_entropy: f32) {
        for logit in logits.iter_mut() {
            *logit *= sharpness;
        }
        let scores = logits.to_vec();
        let log_total = softmax::<FUSED>(logits);
        let entropy = log_total - dot::<FUSED>(logits, &scores);
        for (p, score) in logits.iter_mut().zip(&scores) {
            // ∂ log p_t / ∂ score = 1[t] − p;  ∂ H / ∂ score = −p (log p + H)
            *p *= -d_log_probability - d_entropy * (score - log_total + entropy);
            *p *= sharpness;
        }
        logits[target] += d_log_probability * sharpness;
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn log_probability_and_entropy_are_the_plain_composition_and_have_its_gradient() {
        let (tokens, temperature) = (BLOCK + 37, 0.7);
        let targets: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % 19).collect();
        let index = Tensor::from_vec(targets.clone(), (tokens, 1), &candle_core::Device::Cpu).unwrap();
        let plain = |hidden: &Tensor, weight: &Tensor| {
            let logits = (hidden.matmul(&weight.t()?)? / temperature)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
            let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
            let entropy = (log_p.exp()? * &log_p)?.sum(1)?.neg()?;
            Tensor::stack(&[log_p.gather(&index, 1)?.squeeze(1)?, entropy], 0)
        };
        check(
            &[random(&[tokens, 12], 1), random(&[19, 12], 2)],
            |t| token_log_probabilities(&t[0], &t[1], targets.clone(), temperature),
            |t| plain(&t[0], &t[1]),
        );
    }

    #[test]
    fn exponentials_and_their_sum_are_probabilities() {
        let logits: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let mut weights = logits.clone();
        let (log_total, most, total) = exponentials(&mut weights, 2.0);
        for (weight, logit) in weights.iter().zip(logits) {
            assert!((weight / total - (2.0 * logit - log_total).exp()).abs() < 1e-6);
            assert!((weight.ln() + most - 2.0 * logit).abs() < 1e-5);
        }
    }
}
