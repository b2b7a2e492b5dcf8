//! The cache of keys and values, on any device and in any number type.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::composition::{rotate, softmax};
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
            Cache::Tensors(TensorCache::new(vec![rope.positions(); rows], rope))
        }
    }

    /// An empty cache with the same rotations, for rows that will have at most so many tokens each.
    pub fn fresh(&self, capacities: &[usize], layers: usize) -> Cache {
        match self {
            Cache::Fused(cache) => Cache::Fused(cache.fresh(capacities, layers)),
            Cache::Tensors(cache) => {
                Cache::Tensors(TensorCache::new(capacities.to_vec(), cache.rope.clone()))
            }
        }
    }

    /// Adds the rows of a cache that [`Cache::fresh`] made after those of this one.
    pub fn append(&mut self, other: Cache) -> Result<()> {
        match (self, other) {
            (Cache::Fused(cache), Cache::Fused(other)) => cache.append(other),
            (Cache::Tensors(cache), Cache::Tensors(other)) => cache.append(other)?,
            _ => candle_core::bail!("caches of different devices or number types cannot be joined"),
        }
        Ok(())
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
    /// The most tokens of each row.
    capacities: Vec<usize>,
    /// Columns in use.
    columns: usize,
    rope: Arc<Rope>,
}

impl TensorCache {
    fn new(capacities: Vec<usize>, rope: Arc<Rope>) -> TensorCache {
        let pads = vec![0; capacities.len()];
        TensorCache { keys: Vec::new(), values: Vec::new(), pads, capacities, columns: 0, rope }
    }

    /// The columns that the rows need once all are as long as they may be.
    fn needed(&self) -> usize {
        self.pads.iter().zip(&self.capacities).map(|(pad, capacity)| pad + capacity).max().unwrap_or(0)
    }

    /// Adds the rows of another cache. The rows that have fewer tokens get padding at the front.
    fn append(&mut self, mut other: TensorCache) -> Result<()> {
        if self.rows() == 0 {
            *self = other;
            return Ok(());
        }
        // Padding that is left of rows which are gone.
        let unused = self.pads.iter().copied().min().unwrap_or(0);
        let columns = (self.columns - unused).max(other.columns);
        let shift = |cache: &mut TensorCache, unused: usize| {
            let more = columns - (cache.columns - unused);
            cache.pads.iter_mut().for_each(|pad| *pad = *pad - unused + more);
            more
        };
        let fronts = [(unused, shift(self, unused)), (0, shift(&mut other, 0))];
        let needed = self.needed().max(other.needed());
        let join = |own: &Tensor, others: &Tensor| {
            let parts = [(own, self.columns), (others, other.columns)];
            let laid = parts.into_iter().zip(fronts).map(|((tensor, used), (unused, more))| {
                let (rows, heads, _, size) = tensor.dims4()?;
                let laid = Tensor::zeros((rows, heads, needed, size), tensor.dtype(), tensor.device())?;
                laid.slice_set(&tensor.narrow(2, unused, used - unused)?.contiguous()?, 2, more)?;
                Ok(laid)
            });
            Tensor::cat(&laid.collect::<Result<Vec<_>>>()?, 0)
        };
        let all = |own: &[Tensor], others: &[Tensor]| {
            own.iter().zip(others).map(|(own, others)| join(own, others)).collect::<Result<Vec<_>>>()
        };
        let (keys, values) = (all(&self.keys, &other.keys)?, all(&self.values, &other.values)?);
        (self.keys, self.values, self.columns) = (keys, values, columns);
        self.pads.extend(other.pads);
        self.capacities.extend(other.capacities);
        Ok(())
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
        let of = |numbers: &[usize]| rows.iter().map(|row| numbers[*row]).collect();
        let (pads, capacities) = (of(&self.pads), of(&self.capacities));
        let (keys, values) = (select(&self.keys)?, select(&self.values)?);
        Ok(TensorCache { keys, values, pads, capacities, columns: self.columns, rope: self.rope.clone() })
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
        let (count, longest) = (rows.len(), rows.longest());
        self.pads = (0..count).map(|row| longest - rows.range(row).len()).collect();
        self.columns = longest;
        let capacity = self.needed().max(longest);
        let from = padded(rows, k.device())?;
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
        if self.pads.iter().zip(&self.capacities).any(|(pad, capacity)| seen - pad > *capacity) {
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

/// For each token of a batch \[rows · longest\] that is padded at the front its index among the packed ones; 0 for padding.
fn padded(rows: &Rows, device: &Device) -> Result<Tensor> {
    let longest = rows.longest();
    let mut from = vec![0u32; rows.len() * longest];
    for row in 0..rows.len() {
        let range = rows.range(row);
        let first = (row + 1) * longest - range.len();
        from[first..].iter_mut().zip(range).for_each(|(from, token)| *from = token as u32);
    }
    Tensor::new(from, device)
}
