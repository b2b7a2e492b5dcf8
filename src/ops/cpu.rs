//! Access to the numbers of CPU tensors, and small matrix products on them.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use gemm::Parallelism;

/// The numbers behind a storage, which must be contiguous f32.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a fused operation needs contiguous tensors")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Keeps candle from starting its own pool of threads, whose workers spin for a millisecond after every
/// element-wise operation and so take the cores from rayon's, which do the work here. To be called first
/// thing in `main`.
pub fn keep_candle_to_one_thread() {
    // SAFETY: called before any other thread exists that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
}

/// Calls `f` with the numbers of a tensor.
pub fn with<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => bail!("fused operations run on the CPU; this tensor is on {:?}", tensor.device().location()),
    }
}

/// A matrix view: row-major storage of `rows` × `columns`, or its transpose.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Matrix<'a> {
        assert_eq!(data.len(), rows * columns, "a matrix has rows × columns numbers");
        Matrix { data, rows, columns, transposed: false }
    }

    pub fn t(self) -> Matrix<'a> {
        Matrix { transposed: !self.transposed, ..self }
    }

    fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// Strides from one row and from one column to the next.
    fn strides(&self) -> (isize, isize) {
        if self.transposed { (1, self.columns as isize) } else { (self.columns as isize, 1) }
    }
}

/// out = a·b, or out += a·b; `out` is row-major.
pub fn matmul(a: Matrix, b: Matrix, out: &mut [f32], accumulate: bool) {
    let ((m, k), (inner, n)) = (a.shape(), b.shape());
    assert_eq!(k, inner, "matrix shapes fit");
    assert_eq!(out.len(), m * n, "the product has m × n numbers");
    let ((a_row, a_column), (b_row, b_column)) = (a.strides(), b.strides());
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: the lengths were checked against the shapes that the strides walk over.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
