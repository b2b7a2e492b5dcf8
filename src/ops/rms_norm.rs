//! Root mean square layer normalisation (Zhang and Sennrich 2019): y = x · w / sqrt(mean(x²) + ε).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{slice, with};
use super::simd::{dot, kernel};

/// Rows that one task takes, and whose share of the weight's gradient is summed first.
const BLOCK: usize = 128;

struct RmsNorm {
    epsilon: f32,
}

/// Normalises over the last dimension: `x` \[…, D\], `weight` \[D\].
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op2(weight, RmsNorm { epsilon: epsilon as f32 })
}

kernel! {
    fn forward(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    }
}

kernel! {
    fn backward(x: &[f32], weight: &[f32], grad: &[f32], epsilon: f32, dx: &mut [f32], dw: &mut [f32]) {
        let width = weight.len();
        let mut weighted = vec![0f32; width];
        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, grad), dx) in rows {
            let scale = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
            for (((gw, dw), (g, w)), x) in weighted.iter_mut().zip(dw.iter_mut()).zip(grad.iter().zip(weight)).zip(x) {
                *gw = g * w;
                *dw += g * x * scale;
            }
            let along = dot(&weighted, x) * scale * scale * scale / width as f32;
            for ((dx, gw), x) in dx.iter_mut().zip(&weighted).zip(x) {
                *dx = gw * scale - x * along;
            }
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut y = vec![0f32; x.len()];
        let block = BLOCK * weight.len();
        y.par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .for_each(|(y, x)| forward(x, weight, self.epsilon, y));
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = with(x, |xs| {
            with(weight, |weights| {
                with(grad, |grads| {
                    let (width, block) = (weights.len(), BLOCK * weights.len());
                    let mut dx = vec![0f32; xs.len()];
                    let mut parts = vec![0f32; xs.len().div_ceil(block).max(1) * width];
                    let inputs = xs.par_chunks(block).zip(grads.par_chunks(block));
                    let outputs = dx.par_chunks_mut(block).zip(parts.par_chunks_mut(width));
                    inputs.zip(outputs).for_each(|((x, grad), (dx, dw))| {
                        backward(x, weights, grad, self.epsilon, dx, dw);
                    });
                    let mut dw = vec![0f32; width];
                    for part in parts.chunks_exact(width) {
                        dw.iter_mut().zip(part).for_each(|(dw, part)| *dw += part);
                    }
                    Ok((dx, dw))
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        Ok((Some(dx), Some(Tensor::from_vec(dw, weight.shape(), weight.device())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        let (x, weight) = (random(&[300, 24], 1), random(&[24], 2));
        let plain = |x: &Tensor, weight: &Tensor| {
            let scale = (x.sqr()?.mean_keepdim(1)? + 1e-6)?.sqrt()?;
            x.broadcast_div(&scale)?.broadcast_mul(weight)
        };
        check(&[x, weight], |t| rms_norm(&t[0], &t[1], 1e-6), |t| plain(&t[0], &t[1]));
    }
}
