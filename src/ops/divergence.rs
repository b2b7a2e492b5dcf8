//! Log-probabilities of given tokens under a model beside those under another one, and the KL divergence of their distributions,
//! straight from their hidden states, with the logits of one part of the vocabulary at a time. The divergence has no gradient:
//! losses estimate it from the tokens that were drawn.

use candle_core::{DType, Result, bail};
use rayon::prelude::*;

use super::composition;
use super::cpu::read;
use super::log_probability::{self, for_parts, scored, target_in, token_log_probabilities};
use super::value::Value;
use kernels::{exp, fold, kernel, max};

/// Hidden states \[M, D\] and the output weight \[V, D\] of a model; D is its own.
#[derive(Clone, Copy)]
pub struct OutputHead<'a> {
    /// Hidden states \[M, D\], after the last norm.
    pub hidden: &'a Value,
    /// The output weight \[V, D\].
    pub weight: &'a Value,
}

impl OutputHead<'_> {
    /// M and V.
    fn shape(&self) -> Result<(usize, usize)> {
        Ok((self.hidden.tensor().dims2()?.0, self.weight.tensor().dims2()?.0))
    }
}

/// M tokens under two models.
pub struct Comparison {
    /// What [`token_log_probabilities`] computes for the first model, \[2, M\].
    pub scored: Value,
    /// The log-probability of each token under the second model; it has no gradient.
    pub other: Vec<f32>,
    /// KL(first ‖ second) in nats at each position.
    pub divergences: Vec<f32>,
}

/// Compares a model with another one on M targets, at this temperature.
pub fn compared_log_probabilities(
    own: OutputHead,
    other: OutputHead,
    targets: Vec<u32>,
    temperature: f64,
) -> Result<Comparison> {
    let ((tokens, vocabulary), (others, words)) = (own.shape()?, other.shape()?);
    if (tokens, vocabulary) != (others, words) {
        bail!("{tokens} positions over {vocabulary} tokens, but {others} over {words} of the other model");
    }
    if !composition::fused(&[own.hidden, own.weight, other.hidden, other.weight]) {
        let scored = token_log_probabilities(own.hidden, own.weight, targets.clone(), temperature)?;
        let of_other = token_log_probabilities(other.hidden, other.weight, targets, temperature)?;
        let hidden = [own.hidden.tensor(), other.hidden.tensor()];
        let weights = [own.weight.tensor(), other.weight.tensor()];
        return Ok(Comparison {
            scored,
            other: of_other.tensor().get(0)?.to_dtype(DType::F32)?.to_vec1()?,
            divergences: composition::divergences(hidden, weights, 1.0 / temperature)?,
        });
    }
    let sharpness = (1.0 / temperature) as f32;
    let mut rows = vec![Sums::default(); tokens];
    let first = (&*read(own.hidden.tensor())?, &*read(own.weight.tensor())?);
    let second = (&*read(other.hidden.tensor())?, &*read(other.weight.tensor())?);
    for_parts([first, second], (tokens, vocabulary), |part, [p, q]| {
        let both = p.par_chunks_mut(part.len()).zip(q.par_chunks_mut(part.len()));
        both.zip(&mut rows).zip(&targets).for_each(|(((p, q), row), target)| {
            let target = target_in(&part, *target);
            log_probability::add_part(p, sharpness, target, &mut row.own);
            log_probability::add_part(q, sharpness, target, &mut row.other);
            add_part(p, q, sharpness, &mut row.both);
        });
        Ok(())
    })?;
    Ok(Comparison {
        other: rows.iter().map(|row| row.other.log_probability()).collect(),
        divergences: rows.iter().map(|row| row.both.divergence()).collect(),
        scored: scored(
            own.hidden,
            own.weight,
            targets,
            sharpness,
            rows.into_iter().map(|row| row.own).collect(),
        )?,
    })
}

/// Running sums of a token.
#[derive(Clone, Copy, Default)]
struct Sums {
    own: log_probability::RunningSums,
    other: log_probability::RunningSums,
    both: RunningSums,
}

/// Running sums of two distributions, over the parts of the vocabulary so far.
#[derive(Clone, Copy)]
struct RunningSums {
    /// The largest score of p so far, and Σ e^(score − most).
    most: f32,
    total: f32,
    /// Σ e^(score − most) · (score of p − score of q)
    apart: f32,
    /// The same two of q.
    other_most: f32,
    other_total: f32,
}

impl Default for RunningSums {
    fn default() -> Self {
        let most = f32::NEG_INFINITY;
        RunningSums { most, total: 0.0, apart: 0.0, other_most: most, other_total: 0.0 }
    }
}

impl RunningSums {
    /// Σ p · (score of p − score of q) − log Z of p + log Z of q. Only rounding can make it negative.
    fn divergence(&self) -> f32 {
        let normalised = (self.other_most - self.most) + (self.other_total.ln() - self.total.ln());
        let divergence = self.apart / self.total + normalised;
        // A NaN stays one.
        if divergence < 0.0 { 0.0 } else { divergence }
    }
}

kernel! {
    /// Adds a part of two rows of logits to their sums, and leaves other numbers in their place.
    fn add_part(p: &mut [f32], q: &mut [f32], sharpness: f32, row: &mut RunningSums) {
        let most = (max(p) * sharpness).max(row.most);
        let other_most = (max(q) * sharpness).max(row.other_most);
        // Rescales the sums so far from the old maxima to the new ones.
        if row.total > 0.0 {
            let factor = exp::<FUSED>(row.most - most);
            (row.total, row.apart) = (row.total * factor, row.apart * factor);
            row.other_total *= exp::<FUSED>(row.other_most - other_most);
        }
        let [other_total, _] = fold(q, |logit, [total, none]| {
            [total + exp::<FUSED>(logit * sharpness - other_most), none]
        });
        // q becomes the score of p minus that of q.
        for (p, q) in p.iter().zip(q.iter_mut()) {
            *q = (*p - *q) * sharpness;
        }
        for p in p.iter_mut() {
            *p = exp::<FUSED>(*p * sharpness - most);
        }
        for (p, q) in p.iter().zip(q.iter_mut()) {
            *q *= *p;
        }
        let [total, _] = fold(p, |e, [total, none]| [total + e, none]);
        let [apart, _] = fold(q, |weighted, [total, none]| [total + weighted, none]);
        (row.most, row.other_most) = (most, other_most);
        row.total += total;
        row.apart += apart;
        row.other_total += other_total;
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::random;
    use super::super::log_probability::PART;
    use super::*;
    use candle_core::{DType, Device, Tensor};

    fn exact(p: (&Tensor, &Tensor), q: (&Tensor, &Tensor), temperature: f64) -> Vec<f64> {
        let log_softmax = |(hidden, weight): (&Tensor, &Tensor)| -> Result<Tensor> {
            let [hidden, weight] = [hidden, weight].map(|t| t.to_dtype(DType::F64).unwrap());
            let scores = (hidden.matmul(&weight.t()?)? / temperature)?;
            let shifted = scores.broadcast_sub(&scores.max_keepdim(1)?)?;
            shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)
        };
        let (p, q) = (log_softmax(p).unwrap(), log_softmax(q).unwrap());
        let divergence = (p.exp().unwrap() * (&p - &q).unwrap()).unwrap().sum(1).unwrap();
        divergence.to_vec1().unwrap()
    }

    #[test]
    fn a_comparison_has_the_log_probabilities_of_both_and_the_divergence_of_the_whole_distributions() {
        let (tokens, vocabulary) = (7, 2 * PART + 19);
        let targets: Vec<u32> = (0..tokens as u32).map(|token| token * 677 % vocabulary as u32).collect();
        // Models of other widths.
        let p = (random(&[tokens, 6], 1), random(&[vocabulary, 6], 2));
        let q = (random(&[tokens, 4], 3), random(&[vocabulary, 4], 4));
        // f32 is fused; another number type takes the composition.
        for (dtype, precision) in [(DType::F32, 1e-5), (DType::F64, 1e-6)] {
            let of = |(hidden, weight): &(Tensor, Tensor)| {
                [hidden, weight].map(|tensor| Value::constant(tensor.to_dtype(dtype).unwrap()))
            };
            let (own, other) = (of(&p), of(&q));
            let [a, b] = [&own, &other].map(|own| OutputHead { hidden: &own[0], weight: &own[1] });
            for temperature in [0.5, 1.0, 3.0] {
                let found = compared_log_probabilities(a, b, targets.clone(), temperature).unwrap();
                let expected = exact((&p.0, &p.1), (&q.0, &q.1), temperature);
                for (found, expected) in found.divergences.iter().zip(&expected) {
                    let difference = (f64::from(*found) - expected).abs();
                    assert!(difference < precision * (1.0 + expected), "{found} {expected}");
                }
                let alone = |head: OutputHead| {
                    let scored =
                        token_log_probabilities(head.hidden, head.weight, targets.clone(), temperature)
                            .unwrap();
                    scored.tensor().to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()
                };
                let scored = found.scored.tensor().to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
                assert_eq!((scored, found.other), (alone(a), alone(b).swap_remove(0)));
                let same = compared_log_probabilities(a, a, targets.clone(), temperature).unwrap();
                assert!(same.divergences.iter().all(|found| *found < 1e-6));
            }
        }
        let [p, q] = [&p, &q].map(|(hidden, weight)| [hidden, weight].map(|x| Value::constant(x.clone())));
        let fewer = Value::constant(Tensor::zeros((3, 6), DType::F32, &Device::Cpu).unwrap());
        let a = OutputHead { hidden: &fewer, weight: &p[1] };
        let error = compared_log_probabilities(a, OutputHead { hidden: &q[0], weight: &q[1] }, targets, 1.0);
        assert!(error.err().unwrap().to_string().contains("3 positions over"));
    }
}
