//! Rotary position embedding, and the sizes of attention heads.

use std::sync::OnceLock;

use candle_core::{DType, Device, Result, Tensor, bail};

/// Rotary position embedding (Su et al. 2021) in the layout of Hugging Face: dimension i rotates together with dimension
/// i + head size / 2.
#[derive(Debug)]
pub struct Rope {
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
    half: usize,
    /// The same as tensors \[positions, d/2\], kept for the device and number type of the first call.
    tensors: OnceLock<(Tensor, Tensor)>,
}

impl Rope {
    /// Angles for `positions` positions: position · frequency, for each pair of dimensions.
    pub fn new(frequencies: &[f64], positions: usize) -> Rope {
        let half = frequencies.len();
        let angle = |i: usize| ((i / half) as f32 * frequencies[i % half] as f32) as f64;
        let table = |f: fn(f64) -> f64| (0..positions * half).map(|i| f(angle(i)) as f32).collect();
        Rope { cos: table(f64::cos), sin: table(f64::sin), half, tensors: OnceLock::new() }
    }

    /// Cosines and sines \[positions, d/2\] on a device.
    pub(super) fn tensors(&self, device: &Device, dtype: DType) -> Result<(Tensor, Tensor)> {
        let fits = |(cos, _): &&(Tensor, Tensor)| cos.dtype() == dtype && cos.device().same_device(device);
        if let Some(kept) = self.tensors.get().filter(fits) {
            return Ok(kept.clone());
        }
        let make =
            |table: &[f32]| Tensor::from_slice(table, (self.positions(), self.half), device)?.to_dtype(dtype);
        let made = (make(&self.cos)?, make(&self.sin)?);
        // Tensors for another device stay, if there are some.
        let _ = self.tensors.set(made.clone());
        Ok(made)
    }

    /// The most tokens of a row.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Rotates one head's vector to its position and scales it.
    #[inline(always)]
    pub(super) fn rotate(&self, x: &mut [f32], position: usize, scale: f32) {
        let at = position * self.half;
        let (cos, sin) = (&self.cos[at..][..self.half], &self.sin[at..][..self.half]);
        let (a, b) = x.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = ((*a * cos - *b * sin) * scale, (*b * cos + *a * sin) * scale);
        }
    }

    /// The gradient of [`Rope::rotate`]: rotates back.
    #[inline(always)]
    pub(super) fn rotate_back(&self, grad: &mut [f32], position: usize, scale: f32) {
        let at = position * self.half;
        let (cos, sin) = (&self.cos[at..][..self.half], &self.sin[at..][..self.half]);
        let (a, b) = grad.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = ((*a * cos + *b * sin) * scale, (*b * cos - *a * sin) * scale);
        }
    }
}

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub size: usize,
}

impl Heads {
    /// From queries \[…, H·d\] and keys \[…, KV·d\].
    pub(crate) fn of(q: &Tensor, k: &Tensor, rope: &Rope) -> Result<Heads> {
        let size = 2 * rope.half;
        let heads = Heads { heads: q.dim(1)? / size, kv_heads: k.dim(1)? / size, size };
        let fits = heads.width() == q.dim(1)? && heads.kv_width() == k.dim(1)?;
        if !fits || heads.kv_heads == 0 || !heads.heads.is_multiple_of(heads.kv_heads) {
            bail!("queries {:?} and keys {:?} are not heads of {size} numbers", q.dims(), k.dims());
        }
        Ok(heads)
    }

    /// Query heads per key head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    pub(crate) fn width(&self) -> usize {
        self.heads * self.size
    }

    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.size
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}
