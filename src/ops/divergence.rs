//! The KL divergence of two models' distributions over the next token, straight from their hidden states, with the logits of
//! one part of the vocabulary at a time. It has no gradient: losses estimate it from the tokens that were drawn.

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::composition;
use super::cpu::read;
use super::log_probability::for_parts;
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

/// KL(p ‖ q) in nats at this temperature for each of the M positions.
pub fn divergences(p: OutputHead, q: OutputHead, temperature: f64) -> Result<Vec<f32>> {
    let ((tokens, _), (vocabulary, _)) = (p.hidden.tensor().dims2()?, p.weight.tensor().dims2()?);
    let (others, words) = (q.hidden.tensor().dim(0)?, q.weight.tensor().dim(0)?);
    if (tokens, vocabulary) != (others, words) {
        bail!("{tokens} positions over {vocabulary} tokens, but {others} over {words} of the other model");
    }
    if !composition::fused(&[p.hidden, p.weight, q.hidden, q.weight]) {
        return composition::divergences(
            [p.hidden.tensor(), q.hidden.tensor()],
            [p.weight.tensor(), q.weight.tensor()],
            1.0 / temperature,
        );
    }
    let sharpness = (1.0 / temperature) as f32;
    let mut rows = vec![RunningSums::default(); tokens];
    let own = (&*read(p.hidden.tensor())?, &*read(p.weight.tensor())?);
    let other = (&*read(q.hidden.tensor())?, &*read(q.weight.tensor())?);
    for_parts([own, other], (tokens, vocabulary), |part, [p, q]| {
        let both = p.par_chunks_mut(part.len()).zip(q.par_chunks_mut(part.len())).zip(&mut rows);
        both.for_each(|((p, q), row)| add_part(p, q, sharpness, row));
        Ok(())
    })?;
    Ok(rows.iter().map(RunningSums::divergence).collect())
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
    /// Adds a part of two rows of logits to their sums.
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
    fn divergences_are_those_of_the_whole_distributions() {
        let (tokens, vocabulary) = (7, 2 * PART + 19);
        // Models of other widths.
        let p = (random(&[tokens, 6], 1), random(&[vocabulary, 6], 2));
        let q = (random(&[tokens, 4], 3), random(&[vocabulary, 4], 4));
        let of = |(hidden, weight): &(Tensor, Tensor)| {
            [hidden, weight].map(|tensor| Value::constant(tensor.clone()))
        };
        let (own, other) = (of(&p), of(&q));
        for temperature in [0.5, 1.0, 3.0] {
            let [a, b] = [&own, &other].map(|own| OutputHead { hidden: &own[0], weight: &own[1] });
            let found = divergences(a, b, temperature).unwrap();
            let expected = exact((&p.0, &p.1), (&q.0, &q.1), temperature);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5 * (1.0 + expected), "{found} {expected}");
            }
            assert!(divergences(a, a, temperature).unwrap().iter().all(|found| *found < 1e-6));
            // Another number type takes the composition.
            let wide: Vec<Value> = own
                .iter()
                .chain(&other)
                .map(|value| Value::constant(value.tensor().to_dtype(DType::F64).unwrap()))
                .collect();
            let [a, b] = [0, 2].map(|at| OutputHead { hidden: &wide[at], weight: &wide[at + 1] });
            for (found, expected) in divergences(a, b, temperature).unwrap().iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
        let fewer = Value::constant(Tensor::zeros((3, 6), DType::F32, &Device::Cpu).unwrap());
        let [a, b] = [
            OutputHead { hidden: &fewer, weight: &own[1] },
            OutputHead { hidden: &other[0], weight: &other[1] },
        ];
        assert!(divergences(a, b, 1.0).unwrap_err().to_string().contains("3 positions over"));
    }
}
