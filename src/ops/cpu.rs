//! Access to the numbers of CPU tensors, and matrix products on them.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail};
use gemm::Parallelism;

/// Keeps candle from starting its own pool of threads, whose workers spin for a millisecond after every
/// element-wise operation and so take the cores from rayon's, which do the work here. To be called first
/// thing in `main`.
pub fn keep_candle_to_one_thread() {
    // SAFETY: called before any other thread exists that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
}

/// The numbers of a tensor, readable while the guard of its storage is held.
struct Numbers<Guard> {
    storage: Guard,
    range: Range<usize>,
}

impl<Guard: Deref<Target = Storage>> Deref for Numbers<Guard> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => &numbers[self.range.clone()],
            _ => &[],
        }
    }
}

fn range(layout: &Layout) -> Result<Range<usize>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("a fused operation needs contiguous tensors")
    };
    Ok(start..end)
}

/// The numbers of a contiguous f32 tensor on the CPU.
pub fn read(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        bail!(
            "fused operations take f32 on the CPU, not {:?} on {:?}",
            tensor.dtype(),
            tensor.device().location()
        );
    }
    Ok(Numbers { range: range(layout)?, storage })
}

/// Lets `f` change the numbers of a contiguous f32 tensor on the CPU.
pub fn write(tensor: &Tensor, f: impl FnOnce(&mut [f32])) -> Result<()> {
    struct Change<F>(std::cell::Cell<Option<F>>);
    impl<F: FnOnce(&mut [f32])> InplaceOp1 for Change<F> {
        fn name(&self) -> &'static str {
            "write"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let CpuStorage::F32(numbers) = storage else { bail!("fused operations take f32") };
            if let Some(f) = self.0.take() {
                f(&mut numbers[range(layout)?]);
            }
            Ok(())
        }
    }
    tensor.inplace_op1(&Change(std::cell::Cell::new(Some(f))))
}

/// The tensor W \[out, in\] with the numbers of Wᵀ in memory: products of few rows with it are up to three
/// times as fast, because `gemm` then needs no copy of W first. [`super::linear`] takes both.
pub fn transposed_in_memory(weight: &Tensor) -> Result<Tensor> {
    weight.t()?.contiguous()?.t()
}

/// Whether a matrix lies transposed in memory, and the tensor that lies row by row.
pub fn row_major(matrix: &Tensor) -> Result<(Tensor, bool)> {
    if matrix.is_contiguous() { Ok((matrix.clone(), false)) } else { Ok((matrix.t()?, true)) }
}

pub fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(numbers, shape.into(), &Device::Cpu)
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
