//! The gate of the feed-forward block: silu(gate) · up, with silu(x) = x·σ(x) (Shazeer 2020).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{slice, with};
use super::simd::{kernel, sigmoid};

/// Numbers that one task takes.
const BLOCK: usize = 1 << 14;

struct SwiGlu;

/// silu(gate) · up, element by element.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

kernel! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g * sigmoid(*g) * u;
        }
    }
}

kernel! {
    fn backward(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((dg, du), g), u), d) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(grad) {
            let s = sigmoid(*g);
            *du = d * g * s;
            *dg = d * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = vec![0f32; gate.len()];
        let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
        out.par_chunks_mut(BLOCK).zip(inputs).for_each(|(out, (gate, up))| forward(gate, up, out));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = with(gate, |gates| {
            with(up, |ups| {
                with(grad, |grads| {
                    let (mut dgate, mut dup) = (vec![0f32; gates.len()], vec![0f32; gates.len()]);
                    let inputs =
                        gates.par_chunks(BLOCK).zip(ups.par_chunks(BLOCK)).zip(grads.par_chunks(BLOCK));
                    let outputs = dgate.par_chunks_mut(BLOCK).zip(dup.par_chunks_mut(BLOCK));
                    inputs.zip(outputs).for_each(|(((gate, up), grad), (dgate, dup))| {
                        backward(gate, up, grad, dgate, dup);
                    });
                    Ok((dgate, dup))
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device()).map(Some);
        Ok((tensor(dgate)?, tensor(dup)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        let (gate, up) = (random(&[700, 24], 1), random(&[700, 24], 2));
        check(&[gate, up], |t| swiglu(&t[0], &t[1]), |t| t[0].silu()?.mul(&t[1]));
    }
}
