//! The sum of the residual stream and a block's output.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::slice;
use super::simd::kernel;

/// Numbers that one task takes.
const BLOCK: usize = 1 << 14;

struct Add;

/// x + y, element by element, of tensors of the same shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&y.contiguous()?, Add)
}

kernel! {
    fn forward(x: &[f32], y: &[f32], out: &mut [f32]) {
        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
            *out = x + y;
        }
    }
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = vec![0f32; x.len()];
        let inputs = x.par_chunks(BLOCK).zip(y.par_chunks(BLOCK));
        out.par_chunks_mut(BLOCK).zip(inputs).for_each(|(out, (x, y))| forward(x, y, out));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn it_is_the_sum_and_has_its_gradient() {
        check(&[random(&[700, 24], 1), random(&[700, 24], 2)], |t| add(&t[0], &t[1]), |t| &t[0] + &t[1]);
    }
}
