//! Products with quantised weights, by candle's kernels. The weights are frozen; gradients pass through them.

use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{DType, Module, Result};

use super::value::Value;

/// x·Wᵀ for x \[N, in\] and a quantised W \[out, in\].
pub fn quantized_linear(x: &Value, weight: &Arc<QMatMul>) -> Result<Value> {
    let dtype = x.tensor().dtype();
    let out = weight.forward(&x.tensor().to_dtype(DType::F32)?.contiguous()?)?.to_dtype(dtype)?;
    let (kept, weight) = (x.clone(), weight.clone());
    Ok(Value::result(out, &[x], move |grad, gradients| {
        let weight = weight.dequantize_f16()?.to_dtype(dtype)?;
        gradients.add(&kept, grad.matmul(&weight)?)
    }))
}

/// Rows of a quantised matrix \[R, D\], \[N, D\] in f32.
pub fn quantized_rows(matrix: &QMatMul, indices: &[u32]) -> Result<Value> {
    let device = match matrix {
        QMatMul::QTensor(tensor) => tensor.device(),
        QMatMul::Tensor(tensor) | QMatMul::TensorF16(tensor) => tensor.device().clone(),
    };
    let rows = matrix.embedding(&candle_core::Tensor::new(indices, &device)?)?;
    Ok(Value::constant(rows.to_dtype(DType::F32)?))
}
