//! Access to the numbers of CPU tensors.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail};

/// Keeps candle from starting its own pool of threads, whose workers spin for a millisecond after every element-wise
/// operation and so take cores from rayon's. Also keeps it from adding stack frames to its errors, which users see. Must be
/// called first in `main`.
pub fn configure_candle() {
    for (name, value) in [("CANDLE_NUM_THREADS", "1"), ("RUST_LIB_BACKTRACE", "0")] {
        // SAFETY: called before any other thread exists that could read the environment.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Whether the fused operations apply: f32 on the CPU.
pub fn on_cpu_f32(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().is_cpu()
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

/// An uninitialised vector, for numbers that are all written before any is read. Filling it with zeros first would take about
/// a tenth of the time of sampling.
///
/// SAFETY: the caller writes every number before it reads any or drops the vector.
#[allow(clippy::uninit_vec)]
pub(crate) unsafe fn uninit_vec(count: usize) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(count);
    // SAFETY: the capacity is there, and every bit pattern is an f32.
    unsafe { numbers.set_len(count) };
    numbers
}

/// A tensor of these numbers on the CPU.
pub(crate) fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(numbers, shape.into(), &Device::Cpu)
}
