//! Products with quantised weights, by candle's kernels, for models that are not trained.

use candle_core::quantized::QMatMul;
use candle_core::{DType, Module, Result, Tensor};

use super::value::Value;

/// x·Wᵀ for x \[N, in\] and a quantised W \[out, in\]; without a gradient.
pub fn quantized_linear(x: &Value, weight: &QMatMul) -> Result<Value> {
    let dtype = x.tensor().dtype();
    let numbers = x.tensor().to_dtype(DType::F32)?.contiguous()?;
    // candle has another kernel for a single row, which sums in another order. But a row must not depend on whether others
    // are beside it.
    let rows = numbers.dim(0)?;
    let numbers = if rows == 1 { Tensor::cat(&[&numbers, &numbers], 0)? } else { numbers };
    let out = weight.forward(&numbers)?.narrow(0, 0, rows)?;
    Ok(Value::constant(out.to_dtype(dtype)?.contiguous()?))
}

/// Rows of a quantised matrix \[R, D\], \[N, D\] in f32.
pub fn quantized_rows(matrix: &QMatMul, indices: &[u32]) -> Result<Value> {
    let device = match matrix {
        QMatMul::QTensor(tensor) => tensor.device(),
        QMatMul::Tensor(tensor) | QMatMul::TensorF16(tensor) => tensor.device().clone(),
    };
    let rows = matrix.embedding(&Tensor::new(indices, &device)?)?;
    Ok(Value::constant(rows.to_dtype(DType::F32)?))
}
