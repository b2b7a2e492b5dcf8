//! The gate of the feed-forward block: silu(gate) · up, with silu(x) = x·σ(x) (Shazeer 2020).

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::composition::{self, composition, fused};
use super::cpu::{read, tensor, uninit_vec};
use super::value::Value;
use kernels::{kernel, sigmoid};

/// Numbers of one task.
const BLOCK: usize = 1 << 14;

/// silu(gate) · up, element by element.
pub fn swiglu(gate: &Value, up: &Value) -> Result<Value> {
    if gate.tensor().dims() != up.tensor().dims() {
        bail!(
            "`gate` must have the shape of `up`, {:?}, found {:?}",
            up.tensor().dims(),
            gate.tensor().dims()
        );
    }
    if !fused(&[gate, up]) {
        return composition(&[gate, up], |t| composition::swiglu(&t[0], &t[1]));
    }
    let (gates, ups) = (read(gate.tensor())?, read(up.tensor())?);
    // SAFETY: every number is written, here and below.
    let mut out = unsafe { uninit_vec(gates.len()) };
    let inputs = gates.par_chunks(BLOCK).zip(ups.par_chunks(BLOCK));
    out.par_chunks_mut(BLOCK).zip(inputs).for_each(|(out, (gate, up))| forward(gate, up, out));
    let out = tensor(out, gate.tensor().shape())?;
    let kept = (gate.clone(), up.clone());
    Ok(Value::result(out, &[gate, up], move |grad, gradients| {
        let (gates, ups, grads) = (read(kept.0.tensor())?, read(kept.1.tensor())?, read(&grad)?);
        // SAFETY: as above.
        let (mut dgate, mut dup) = unsafe { (uninit_vec(gates.len()), uninit_vec(gates.len())) };
        let inputs = gates.par_chunks(BLOCK).zip(ups.par_chunks(BLOCK)).zip(grads.par_chunks(BLOCK));
        let outputs = dgate.par_chunks_mut(BLOCK).zip(dup.par_chunks_mut(BLOCK));
        inputs
            .zip(outputs)
            .for_each(|(((gate, up), grad), (dgate, dup))| backward(gate, up, grad, dgate, dup));
        gradients.add(&kept.0, tensor(dgate, grad.shape())?)?;
        gradients.add(&kept.1, tensor(dup, grad.shape())?)
    }))
}

kernel! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g * sigmoid::<FUSED>(*g) * u;
        }
    }
}

kernel! {
    fn backward(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((dg, du), g), u), d) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(grad) {
            let s = sigmoid::<FUSED>(*g);
            *du = d * g * s;
            *dg = d * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        let (gate, up) = (random(&[700, 24], 1), random(&[700, 24], 2));
        check(&[gate, up], |t| swiglu(&t[0], &t[1]), |t| composition::swiglu(&t[0], &t[1]));
    }
}
