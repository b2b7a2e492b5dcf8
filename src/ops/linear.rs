//! Matrix products with weights, and selected rows of matrices.

use candle_core::{Result, Tensor, bail};

use super::composition::{self, fused, scale};
use super::cpu::{read, tensor, uninit_vec, write};
use super::value::{Gradients, Value};
use kernels::{Matrix, matmul, matmul_panels};

/// x·Wᵀ for x \[N, in\] and W \[out, in\].
pub fn linear(x: &Value, weight: &Value) -> Result<Value> {
    let out = product(x, weight, None)?;
    let (x_kept, weight_kept) = (x.clone(), weight.clone());
    Ok(Value::result(out, &[x, weight], move |grad, gradients| {
        product_backward(&x_kept, &weight_kept, &grad, gradients)
    }))
}

/// residual + x·Wᵀ for residual \[N, out\], x \[N, in\] and W \[out, in\].
pub fn add_linear(residual: &Value, x: &Value, weight: &Value) -> Result<Value> {
    let out = product(x, weight, Some(residual))?;
    let (residual_kept, x_kept, weight_kept) = (residual.clone(), x.clone(), weight.clone());
    Ok(Value::result(out, &[residual, x, weight], move |grad, gradients| {
        product_backward(&x_kept, &weight_kept, &grad, gradients)?;
        gradients.add(&residual_kept, grad)
    }))
}

/// y + factor · x·Aᵀ·Bᵀ for y \[N, out\], x \[N, in\], A \[rank, in\] and B \[out, rank\]: the output of a layer with that of its
/// low-rank adapter. `y` must be a result of which there is no other copy, because on the CPU its numbers become those of the sum.
pub fn add_low_rank(y: Value, x: &Value, [a, b]: [&Value; 2], factor: f64) -> Result<Value> {
    let inner = scale(&linear(x, a)?, factor)?;
    let ((rows, rank), (outputs, width)) = (inner.tensor().dims2()?, b.tensor().dims2()?);
    if !fused(&[&y, &inner, b]) {
        return add_linear(&y, &inner, b);
    }
    if y.tensor().dims() != [rows, outputs] || rank != width {
        let (a, b) = (a.tensor().dims(), b.tensor().dims());
        bail!("an adapter of {a:?} and {b:?} does not fit its layer's output {:?}", y.tensor().dims());
    }
    let (numbers, panels) = (read(inner.tensor())?, b.panels()?);
    write(y.tensor(), |y| matmul_panels(Matrix::new(&numbers, rows, rank), panels, y, true))?;
    drop(numbers);
    let kept = (y.clone(), inner.clone(), b.clone());
    Ok(Value::result(y.tensor().clone(), &[&y, &inner, b], move |grad, gradients| {
        product_backward(&kept.1, &kept.2, &grad, gradients)?;
        gradients.add(&kept.0, grad)
    }))
}

fn product(x: &Value, weight: &Value, residual: Option<&Value>) -> Result<Tensor> {
    let ((rows, inner), (outputs, width)) = (x.tensor().dims2()?, weight.tensor().dims2()?);
    if inner != width || residual.is_some_and(|residual| residual.tensor().dims() != [rows, outputs]) {
        bail!(
            "a linear layer of {:?} does not fit its input {:?}",
            weight.tensor().dims(),
            x.tensor().dims()
        );
    }
    if !fused(&[x, weight]) {
        let out = x.tensor().matmul(&weight.tensor().t()?)?;
        return match residual {
            Some(residual) => residual.tensor() + out,
            None => Ok(out),
        };
    }
    let numbers = read(x.tensor())?;
    let panels = weight.panels()?;
    let mut out = match residual {
        Some(residual) => read(residual.tensor())?.to_vec(),
        // SAFETY: a product that is not added to anything is written whole.
        None => unsafe { uninit_vec(rows * outputs) },
    };
    matmul_panels(Matrix::new(&numbers, rows, inner), panels, &mut out, residual.is_some());
    tensor(out, (rows, outputs))
}

/// dx += dy·W and dW += dyᵀ·x.
fn product_backward(x: &Value, weight: &Value, grad: &Tensor, gradients: &mut Gradients) -> Result<()> {
    if !fused(&[x, weight]) {
        return composition::product_backward(x, weight, grad, gradients);
    }
    let ((rows, inner), outputs) = (x.tensor().dims2()?, weight.tensor().dim(0)?);
    let (numbers, weights, grads) = (read(x.tensor())?, read(weight.tensor())?, read(grad)?);
    let grads = Matrix::new(&grads, rows, outputs);
    gradients
        .add_with(weight, |sum, more| matmul(grads.t(), Matrix::new(&numbers, rows, inner), sum, more))?;
    gradients.add_with(x, |sum, more| matmul(grads, Matrix::new(&weights, outputs, inner), sum, more))
}

/// The rows of a matrix \[R, D\] with the given indices, \[N, D\]: embeddings, or the hidden states of some positions.
pub fn select_rows(matrix: &Value, indices: Vec<u32>) -> Result<Value> {
    let (rows, width) = matrix.tensor().dims2()?;
    if let Some(index) = indices.iter().find(|index| **index as usize >= rows) {
        bail!("row {index} of a matrix of {rows} rows (a token outside the vocabulary?)");
    }
    if !fused(&[matrix]) {
        return composition::select_rows(matrix, indices);
    }
    let numbers = read(matrix.tensor())?;
    let mut out = Vec::with_capacity(indices.len() * width);
    for &index in &indices {
        out.extend_from_slice(&numbers[index as usize * width..][..width]);
    }
    let out = tensor(out, (indices.len(), width))?;
    let kept = matrix.clone();
    Ok(Value::result(out, &[matrix], move |grad, gradients| {
        let grads = read(&grad)?;
        gradients.add_with(&kept, |sum, _| {
            for (grad, &index) in grads.chunks_exact(width).zip(&indices) {
                let row = &mut sum[index as usize * width..][..width];
                row.iter_mut().zip(grad).for_each(|(sum, g)| *sum += g);
            }
        })
    }))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::gradient_check::{check, random};
    use super::*;

    #[test]
    fn products_are_the_plain_composition_and_have_its_gradient() {
        let (x, weight, residual) = (random(&[70, 24], 1), random(&[40, 24], 2), random(&[70, 40], 3));
        check(&[x.clone(), weight.clone()], |v| linear(&v[0], &v[1]), |t| t[0].matmul(&t[1].t()?));
        check(
            &[residual, x, weight],
            |v| add_linear(&v[0], &v[1], &v[2]),
            |t| &t[0] + t[1].matmul(&t[2].t()?)?,
        );
    }

    #[test]
    fn a_layer_with_its_adapter_is_the_plain_composition_and_has_its_gradient() {
        let (x, weight) = (random(&[70, 24], 1), random(&[40, 24], 2));
        let (a, b) = (random(&[5, 24], 3), random(&[40, 5], 4));
        check(
            &[x, weight, a, b],
            |v| add_low_rank(linear(&v[0], &v[1])?, &v[0], [&v[2], &v[3]], 0.5),
            |t| {
                let adapted = t[0].matmul(&t[2].t()?)?.matmul(&t[3].t()?)?;
                t[0].matmul(&t[1].t()?)? + (adapted * 0.5)?
            },
        );
    }

    #[test]
    fn a_row_picked_twice_gets_both_gradients() {
        let indices = vec![3, 0, 3, 1];
        let index = Tensor::new(&indices[..], &Device::Cpu).unwrap();
        check(
            &[random(&[5, 24], 1)],
            |v| select_rows(&v[0], indices.clone()),
            |t| t[0].index_select(&index, 0),
        );
        let error = select_rows(&Value::constant(random(&[5, 24], 1)), vec![5]).err().unwrap().to_string();
        assert!(error.contains("row 5 of a matrix of 5 rows"), "{error}");
    }
}
