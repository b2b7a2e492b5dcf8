//! The cache of keys and values, on any device and in any number type.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::composition::{padding, rotate, softmax};
use super::kv_cache::KvCache;
use super::rope::{Heads, Rope};
use super::rows::Rows;

/// Keys and values of rows that are being sampled.
pub enum Cache {
    /// f32 on the CPU.
    Fused(KvCache),
    /// Other number types, and GPUs.
    Tensors(TensorCache),
}

impl Cache {
    /// An empty cache for `rows` rows of as many tokens as `rope` has positions, of `layers` layers.
    pub fn new(fused: bool, rows: usize, layers: usize, rope: Arc<Rope>) -> Cache {
        if fused {
            Cache::Fused(KvCache::new(rows, layers, rope))
        } else {
            Cache::Tensors(TensorCache::new(rows, rope))
        }
    }

    /// The table of rotations that its keys were rotated with.
    pub fn rope(&self) -> &Arc<Rope> {
        match self {
            Cache::Fused(cache) => cache.rope(),
            Cache::Tensors(cache) => &cache.rope,
        }
    }

    /// The rows of a new cache: each a copy of the given row of this one.
    pub fn select(&self, rows: &[usize]) -> Result<Cache> {
        Ok(match self {
            Cache::Fused(cache) => Cache::Fused(cache.select(rows)),
            Cache::Tensors(cache) => Cache::Tensors(cache.select(rows)?),
        })
    }

    /// Keeps the rows whose `keep` is true.
    pub fn retain(&mut self, keep: &[bool]) -> Result<()> {
        match self {
            Cache::Fused(cache) => cache.retain(keep),
            Cache::Tensors(cache) => {
                let rows: Vec<usize> =
                    keep.iter().enumerate().filter(|(_, keep)| **keep).map(|(row, _)| row).collect();
                *cache = cache.select(&rows)?;
            }
        }
        Ok(())
    }

    /// Stores the keys and values of whole prompts, k and v \[N, KV·d\] not yet rotated. Layers must come in order.
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<()> {
        match self {
            Cache::Fused(cache) => cache.fill(layer, k, v, rows),
            Cache::Tensors(cache) => cache.fill(k, v, rows),
        }
    }

    /// Attention of one new token for each row, q \[R, H·d\], k and v \[R, KV·d\] not yet rotated. The token's keys and values
    /// are added. After the last layer, call [`Cache::advance`].
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        match self {
            Cache::Fused(cache) => cache.attend(layer, q, k, v),
            Cache::Tensors(cache) => cache.attend(layer, q, k, v),
        }
    }

    /// Goes on to the next token, once all layers have added the current one.
    pub fn advance(&mut self) {
        match self {
            Cache::Fused(cache) => cache.advance(),
            Cache::Tensors(cache) => cache.columns += 1,
        }
    }
}

/// Keys and values of rows that are being sampled, as tensors \[rows, key heads, capacity, size\] per layer. Rows are padded
/// at the front, so that the next tokens of all rows are in the same column.
pub struct TensorCache {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// Columns of padding of each row.
    pads: Vec<usize>,
    /// Columns in use.
    columns: usize,
    rope: Arc<Rope>,
}

impl TensorCache {
    fn new(rows: usize, rope: Arc<Rope>) -> TensorCache {
        TensorCache { keys: Vec::new(), values: Vec::new(), pads: vec![0; rows], columns: 0, rope }
    }

    fn rows(&self) -> usize {
        self.pads.len()
    }

    /// The rows of a new cache: each a copy of the given row of this one.
    fn select(&self, rows: &[usize]) -> Result<TensorCache> {
        let select = |tensors: &[Tensor]| {
            tensors
                .iter()
                .map(|tensor| {
                    let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
                    tensor.index_select(&Tensor::new(rows, tensor.device())?, 0)
                })
                .collect::<Result<Vec<_>>>()
        };
        let pads = rows.iter().map(|row| self.pads[*row]).collect();
        let (keys, values) = (select(&self.keys)?, select(&self.values)?);
        Ok(TensorCache { keys, values, pads, columns: self.columns, rope: self.rope.clone() })
    }

    /// Cosines and sines \[rows, 1, columns, d/2\] of the columns from `first` on.
    fn angles(&self, first: usize, count: usize, like: &Tensor) -> Result<(Tensor, Tensor)> {
        let positions: Vec<u32> = self
            .pads
            .iter()
            .flat_map(|pad| (first..first + count).map(|column| column.saturating_sub(*pad) as u32))
            .collect();
        let positions = Tensor::new(positions, like.device())?;
        let (cos, sin) = self.rope.tensors(like.device(), like.dtype())?;
        let shape = (self.rows(), 1, count, ());
        Ok((
            cos.index_select(&positions, 0)?.reshape(shape)?,
            sin.index_select(&positions, 0)?.reshape(shape)?,
        ))
    }

    /// Stores the keys and values of whole prompts, k and v \[N, KV·d\] not yet rotated. Layers must come in order.
    fn fill(&mut self, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<()> {
        let heads = Heads::of(k, k, &self.rope)?;
        let (count, longest, capacity) = (rows.len(), rows.longest(), self.rope.positions());
        self.pads = (0..count).map(|row| longest - rows.range(row).len()).collect();
        self.columns = longest;
        let (from, _) = padding(rows, true, k.device())?;
        let split = |x: &Tensor| {
            x.index_select(&from, 0)?
                .reshape((count, longest, heads.kv_heads, ()))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (cos, sin) = self.angles(0, longest, k)?;
        let into_cache = |x: Tensor| {
            let shape = (count, heads.kv_heads, capacity, heads.size);
            let cache = Tensor::zeros(shape, x.dtype(), x.device())?;
            cache.slice_set(&x.contiguous()?, 2, 0)?;
            Ok::<_, candle_core::Error>(cache)
        };
        self.keys.push(into_cache(rotate(&split(k)?, &cos, &sin)?)?);
        self.values.push(into_cache(split(v)?)?);
        Ok(())
    }

    /// Attention of one new token for each row, q \[R, H·d\], k and v \[R, KV·d\] not yet rotated.
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let heads = Heads::of(q, k, &self.rope)?;
        let (rows, seen) = (self.rows(), self.columns + 1);
        if seen > self.rope.positions() {
            candle_core::bail!("the cache of keys and values is full at {} tokens", self.columns);
        }
        let (cos, sin) = self.angles(self.columns, 1, q)?;
        let k = rotate(&k.reshape((rows, heads.kv_heads, 1, heads.size))?, &cos, &sin)?;
        self.keys[layer].slice_set(&k.contiguous()?, 2, self.columns)?;
        let v = v.reshape((rows, heads.kv_heads, 1, heads.size))?;
        self.values[layer].slice_set(&v.contiguous()?, 2, self.columns)?;
        let q = rotate(&q.reshape((rows, heads.kv_heads, heads.group(), heads.size))?, &cos, &sin)?;
        let hidden: Vec<f32> = self
            .pads
            .iter()
            .flat_map(|pad| (0..seen).map(move |column| if column < *pad { f32::NEG_INFINITY } else { 0.0 }))
            .collect();
        let mask = Tensor::from_vec(hidden, (rows, 1, 1, seen), q.device())?.to_dtype(q.dtype())?;
        let keys = self.keys[layer].narrow(2, 0, seen)?;
        let scores = (q.matmul(&keys.t()?)? * f64::from(heads.scale()))?.broadcast_add(&mask)?;
        let values = self.values[layer].narrow(2, 0, seen)?;
        softmax(&scores)?.matmul(&values)?.reshape((rows, heads.width()))
    }
}
