//! Root mean square layer normalisation (Zhang and Sennrich 2019): y = x · w / sqrt(mean(x²) + ε).

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::composition::{self, composition, fused};
use super::cpu::{read, tensor, uninit_vec};
use super::value::{Gradients, Value};
use kernels::{dot, kernel};

/// Rows of one task. Each task first sums its own part of the weight's gradient.
const BLOCK: usize = 128;

/// Normalises every D consecutive numbers of `x`, for `weight` \[D\]: hidden states, or the vector of each head.
pub fn rms_norm(x: &Value, weight: &Value, epsilon: f64) -> Result<Value> {
    let width = weight.tensor().elem_count();
    if !x.tensor().elem_count().is_multiple_of(width) {
        bail!("a norm over {width} numbers does not fit {:?}", x.tensor().dims());
    }
    if !fused(&[x, weight]) {
        return composition(&[x, weight], move |t| composition::rms_norm(&t[0], &t[1], epsilon));
    }
    let epsilon = epsilon as f32;
    let (xs, weights) = (read(x.tensor())?, read(weight.tensor())?);
    // SAFETY: every run is written.
    let mut y = unsafe { uninit_vec(xs.len()) };
    let block = BLOCK * width;
    y.par_chunks_mut(block).zip(xs.par_chunks(block)).for_each(|(y, x)| forward(x, &weights, epsilon, y));
    let out = tensor(y, x.tensor().shape())?;
    let kept = (x.clone(), weight.clone());
    Ok(Value::result(out, &[x, weight], move |grad, gradients| {
        norm_backward(&kept.0, &kept.1, epsilon, &grad, gradients)
    }))
}

fn norm_backward(
    x: &Value,
    weight: &Value,
    epsilon: f32,
    grad: &Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    let (xs, weights, grads) = (read(x.tensor())?, read(weight.tensor())?, read(grad)?);
    let (width, block) = (weights.len(), BLOCK * weights.len());
    let mut parts = vec![0f32; xs.len().div_ceil(block) * width];
    let mut add_to = |dx: &mut [f32]| {
        let inputs = xs.par_chunks(block).zip(grads.par_chunks(block));
        let outputs = dx.par_chunks_mut(block).zip(parts.par_chunks_mut(width));
        inputs.zip(outputs).for_each(|((x, grad), (dx, dw))| backward(x, &weights, grad, epsilon, dx, dw));
    };
    if gradients.wants(x) {
        gradients.add_with(x, |dx, _| add_to(dx))?;
    } else {
        add_to(&mut vec![0f32; xs.len()]);
    }
    gradients.add_with(weight, |dw, _| {
        for part in parts.chunks_exact(width) {
            dw.iter_mut().zip(part).for_each(|(dw, part)| *dw += part);
        }
    })
}

kernel! {
    fn forward(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = 1.0 / (dot::<FUSED>(x, x) / width as f32 + epsilon).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    }
}

kernel! {
    /// Adds to the gradients of x and of the weight.
    fn backward(x: &[f32], weight: &[f32], grad: &[f32], epsilon: f32, dx: &mut [f32], dw: &mut [f32]) {
        let width = weight.len();
        let mut weighted = vec![0f32; width];
        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, grad), dx) in rows {
            let scale = 1.0 / (dot::<FUSED>(x, x) / width as f32 + epsilon).sqrt();
            for (((gw, dw), (g, w)), x) in weighted.iter_mut().zip(dw.iter_mut()).zip(grad.iter().zip(weight)).zip(x) {
                *gw = g * w;
                *dw += g * x * scale;
            }
            let along = dot::<FUSED>(&weighted, x) * scale * scale * scale / width as f32;
            for ((dx, gw), x) in dx.iter_mut().zip(&weighted).zip(x) {
                *dx += gw * scale - x * along;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        let (x, weight) = (random(&[300, 24], 1), random(&[24], 2));
        check(&[x, weight], |t| rms_norm(&t[0], &t[1], 1e-6), |t| composition::rms_norm(&t[0], &t[1], 1e-6));
    }
}
