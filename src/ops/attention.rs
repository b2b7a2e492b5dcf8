//! Causal self-attention with rotary positions over packed rows, and over a cache of keys and values while
//! sampling. Heads are grouped (GQA): query head h uses key and value head h / (heads / kv_heads).
//!
//! Keys are kept transposed, \[head size, tokens\], so that the scores of a query are sums of scaled vectors
//! over tokens: that vectorises without reordering any sum. Probabilities are computed again in the backward
//! pass, never stored.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{slice, with};
use super::simd::{add_scaled, dot, kernel, softmax};

/// Where packed rows begin and end.
#[derive(Clone, Debug)]
pub struct Rows {
    /// One more than there are rows; the last is N.
    offsets: Vec<usize>,
}

impl Rows {
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Rows {
        let mut offsets = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            offsets.push(end);
        }
        Rows { offsets }
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// N, the tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.offsets[self.len()]
    }

    /// The tokens of one row, as a range of 0..N.
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row]..self.offsets[row + 1]
    }

    fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// One piece of `data`, which has `width` numbers a token, for each row.
    fn split<'a>(&self, data: &'a [f32], width: usize) -> Vec<&'a [f32]> {
        (0..self.len()).map(|row| &data[self.offsets[row] * width..self.offsets[row + 1] * width]).collect()
    }

    fn split_mut<'a>(&self, mut data: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let mut pieces = Vec::with_capacity(self.len());
        for length in self.lengths() {
            let (piece, rest) = data.split_at_mut(length * width);
            pieces.push(piece);
            data = rest;
        }
        pieces
    }
}

/// Rotary position embedding (Su et al. 2021) in the halves layout of Hugging Face: dimension i turns
/// together with dimension i + head size / 2.
#[derive(Debug)]
pub struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rope {
    /// Angles for `positions` positions: position · θ^(−2i / head size).
    pub fn new(head_size: usize, theta: f64, positions: usize) -> Rope {
        let half = head_size / 2;
        let angle = |i: usize| {
            let frequency = theta.powf(-2.0 * (i % half) as f64 / head_size as f64);
            ((i / half) as f32 * frequency as f32) as f64
        };
        let table = |f: fn(f64) -> f64| (0..positions * half).map(|i| f(angle(i)) as f32).collect();
        Rope { cos: table(f64::cos), sin: table(f64::sin), half }
    }

    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Turns one head's vector to its position, scaled.
    #[inline(always)]
    fn turn(&self, x: &[f32], position: usize, scale: f32, out: &mut [f32]) {
        let (cos, sin) = self.at(position);
        let (a, b) = x.split_at(self.half);
        let (out_a, out_b) = out.split_at_mut(self.half);
        for i in 0..self.half {
            out_a[i] = (a[i] * cos[i] - b[i] * sin[i]) * scale;
            out_b[i] = (b[i] * cos[i] + a[i] * sin[i]) * scale;
        }
    }

    /// The gradient through [`Rope::turn`]: turns back.
    #[inline(always)]
    fn turn_back(&self, grad: &[f32], position: usize, scale: f32, out: &mut [f32]) {
        let (cos, sin) = self.at(position);
        let (a, b) = grad.split_at(self.half);
        let (out_a, out_b) = out.split_at_mut(self.half);
        for i in 0..self.half {
            out_a[i] = (a[i] * cos[i] + b[i] * sin[i]) * scale;
            out_b[i] = (b[i] * cos[i] - a[i] * sin[i]) * scale;
        }
    }
}

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    size: usize,
}

impl Heads {
    fn of(q: &[usize], k: &[usize]) -> Heads {
        Heads { heads: q[1], kv_heads: k[1], size: q[2] }
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}

struct CausalAttention {
    rows: Arc<Rows>,
    rope: Arc<Rope>,
}

/// Softmax(q·kᵀ / √d)·v within each row, causal, positions from 0: q \[N, H, d\], k and v \[N, KV, d\], not
/// yet turned; the result is \[N, H, d\].
pub fn causal_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    rows: &Arc<Rows>,
    rope: &Arc<Rope>,
) -> Result<Tensor> {
    if q.dim(0)? != rows.tokens() || k.dims() != v.dims() {
        bail!(
            "attention over {} tokens of q {:?}, k {:?}, v {:?}",
            rows.tokens(),
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    if let Some(length) = rows.lengths().find(|length| *length > rope.positions()) {
        bail!("a row of {length} tokens is longer than the {} positions of the model", rope.positions());
    }
    let op = CausalAttention { rows: rows.clone(), rope: rope.clone() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// Keys of one head, turned and transposed: \[size, tokens\].
#[inline(always)]
fn turned_keys(k: &[f32], head: usize, heads: Heads, rope: &Rope, keys: &mut [f32]) {
    let (width, size) = (heads.kv_heads * heads.size, heads.size);
    let tokens = k.len() / width;
    let mut turned = vec![0f32; size];
    for token in 0..tokens {
        rope.turn(&k[token * width + head * size..][..size], token, 1.0, &mut turned);
        for (d, value) in turned.iter().enumerate() {
            keys[d * tokens + token] = *value;
        }
    }
}

/// Probabilities of one query over the first `scores.len()` of `stride` tokens.
#[inline(always)]
fn probabilities(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
    scores.fill(0.0);
    let seen = scores.len();
    for (d, q) in query.iter().enumerate() {
        add_scaled(*q, &keys[d * stride..d * stride + seen], scores);
    }
    softmax(scores);
}

kernel! {
    fn forward_row(q: &[f32], k: &[f32], v: &[f32], heads: Heads, rope: &Rope, out: &mut [f32]) {
        let (size, width, kv_width) = (heads.size, heads.heads * heads.size, heads.kv_heads * heads.size);
        let tokens = q.len() / width;
        let (mut keys, mut query, mut scores) = (vec![0f32; size * tokens], vec![0f32; size], vec![0f32; tokens]);
        for head in 0..heads.heads {
            let kv = head / heads.group();
            if head % heads.group() == 0 {
                turned_keys(k, kv, heads, rope, &mut keys);
            }
            for token in 0..tokens {
                rope.turn(&q[token * width + head * size..][..size], token, heads.scale(), &mut query);
                let scores = &mut scores[..=token];
                probabilities(&query, &keys, tokens, scores);
                let out = &mut out[token * width + head * size..][..size];
                for (other, p) in scores.iter().enumerate() {
                    add_scaled(*p, &v[other * kv_width + kv * size..][..size], out);
                }
            }
        }
    }
}

/// The gradients of one row.
struct RowGradients<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
}

kernel! {
    fn backward_row(q: &[f32], k: &[f32], v: &[f32], grad: &[f32], heads: Heads, rope: &Rope, out: RowGradients<'_>) {
        let (size, width, kv_width) = (heads.size, heads.heads * heads.size, heads.kv_heads * heads.size);
        let tokens = q.len() / width;
        let scratch = || vec![0f32; size * tokens];
        let (mut keys, mut values, mut key_rows, mut d_keys) = (scratch(), scratch(), scratch(), scratch());
        let (mut query, mut d_query) = (vec![0f32; size], vec![0f32; size]);
        let (mut scores, mut d_scores) = (vec![0f32; tokens], vec![0f32; tokens]);
        for head in 0..heads.heads {
            let kv = head / heads.group();
            if head % heads.group() == 0 {
                turned_keys(k, kv, heads, rope, &mut keys);
                for token in 0..tokens {
                    for d in 0..size {
                        values[d * tokens + token] = v[token * kv_width + kv * size + d];
                        key_rows[token * size + d] = keys[d * tokens + token];
                    }
                }
                d_keys.fill(0.0);
            }
            for token in 0..tokens {
                let at = token * width + head * size;
                rope.turn(&q[at..at + size], token, heads.scale(), &mut query);
                let (scores, d_scores) = (&mut scores[..=token], &mut d_scores[..=token]);
                probabilities(&query, &keys, tokens, scores);
                let grad = &grad[at..at + size];
                d_scores.fill(0.0);
                for (d, g) in grad.iter().enumerate() {
                    add_scaled(*g, &values[d * tokens..d * tokens + token + 1], d_scores);
                }
                // dS = P ∘ (dP − Σ P·dP)
                let mean = dot(scores, d_scores);
                for (d_score, p) in d_scores.iter_mut().zip(scores.iter()) {
                    *d_score = p * (*d_score - mean);
                }
                d_query.fill(0.0);
                for (other, (p, d_score)) in scores.iter().zip(d_scores.iter()).enumerate() {
                    add_scaled(*d_score, &key_rows[other * size..][..size], &mut d_query);
                    add_scaled(*d_score, &query, &mut d_keys[other * size..][..size]);
                    add_scaled(*p, grad, &mut out.v[other * kv_width + kv * size..][..size]);
                }
                rope.turn_back(&d_query, token, heads.scale(), &mut out.q[at..at + size]);
            }
            if (head + 1) % heads.group() == 0 {
                for token in 0..tokens {
                    let d_key = &d_keys[token * size..][..size];
                    rope.turn_back(d_key, token, 1.0, &mut out.k[token * kv_width + kv * size..][..size]);
                }
            }
        }
    }
}

impl CustomOp3 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let heads = Heads::of(l1.dims(), l2.dims());
        let (width, kv_width) = (heads.heads * heads.size, heads.kv_heads * heads.size);
        let mut out = vec![0f32; l1.shape().elem_count()];
        let q = self.rows.split(slice(s1, l1)?, width);
        let k = self.rows.split(slice(s2, l2)?, kv_width);
        let v = self.rows.split(slice(s3, l3)?, kv_width);
        self.rows.split_mut(&mut out, width).into_par_iter().enumerate().for_each(|(row, out)| {
            forward_row(q[row], k[row], v[row], heads, &self.rope, out);
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let heads = Heads::of(q.dims(), k.dims());
        let (width, kv_width) = (heads.heads * heads.size, heads.kv_heads * heads.size);
        let mut dq = vec![0f32; q.elem_count()];
        let (mut dk, mut dv) = (vec![0f32; k.elem_count()], vec![0f32; v.elem_count()]);
        with(q, |qs| {
            with(k, |ks| {
                with(v, |vs| {
                    with(grad, |grads| {
                        let (q, grad) = (self.rows.split(qs, width), self.rows.split(grads, width));
                        let (k, v) = (self.rows.split(ks, kv_width), self.rows.split(vs, kv_width));
                        let dq = self.rows.split_mut(&mut dq, width).into_par_iter();
                        let dk = self.rows.split_mut(&mut dk, kv_width).into_par_iter();
                        let dv = self.rows.split_mut(&mut dv, kv_width).into_par_iter();
                        dq.zip(dk).zip(dv).enumerate().for_each(|(row, ((dq, dk), dv))| {
                            let out = RowGradients { q: dq, k: dk, v: dv };
                            backward_row(q[row], k[row], v[row], grad[row], heads, &self.rope, out);
                        });
                        Ok(())
                    })
                })
            })
        })?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}

/// Keys and values of rows that are being sampled. Holds memory for `capacity` tokens a row from the start.
pub struct KvCache {
    slots: Vec<Slot>,
    capacity: usize,
    rope: Arc<Rope>,
}

#[derive(Clone)]
struct Slot {
    length: usize,
    /// For each layer and key head \[size, capacity\], turned.
    keys: Vec<Vec<f32>>,
    /// For each layer \[capacity, key heads, size\].
    values: Vec<Vec<f32>>,
}

impl KvCache {
    /// An empty cache for `rows` rows, `layers` layers and keys of `kv_width` numbers a token.
    pub fn new(
        rows: usize,
        layers: usize,
        kv_width: usize,
        capacity: usize,
        rope: Arc<Rope>,
    ) -> Result<KvCache> {
        if capacity > rope.positions() {
            bail!(
                "{capacity} tokens a row, but the model has {} positions: ask for fewer new tokens",
                rope.positions()
            );
        }
        let empty = || vec![vec![0f32; capacity * kv_width]; layers];
        let slots = (0..rows).map(|_| Slot { length: 0, keys: empty(), values: empty() }).collect();
        Ok(KvCache { slots, capacity, rope })
    }

    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// The rows of a new cache: each a copy of the given row of this one.
    pub fn select(&self, rows: &[usize]) -> KvCache {
        let slots = rows.iter().map(|&row| self.slots[row].clone()).collect();
        KvCache { slots, capacity: self.capacity, rope: self.rope.clone() }
    }

    /// Keeps the rows for which `keep` says so.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.slots.retain(|_| keep.next().copied().unwrap_or(false));
    }

    /// Takes in the keys and values of whole prompts, k and v \[N, KV, d\] not yet turned.
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<()> {
        let heads = Heads::of(k.dims(), k.dims());
        let (width, capacity, rope) = (heads.kv_heads * heads.size, self.capacity, &self.rope);
        with(k, |k| {
            with(v, |v| {
                let pieces = rows.split(k, width).into_par_iter().zip(rows.split(v, width));
                self.slots.par_iter_mut().zip(pieces).for_each(|(slot, (k, v))| {
                    slot.length = k.len() / width;
                    slot.values[layer][..v.len()].copy_from_slice(v);
                    for (token, k) in k.chunks_exact(width).enumerate() {
                        store_key(k, token, heads, capacity, rope, &mut slot.keys[layer]);
                    }
                });
                Ok(())
            })
        })
    }

    /// Attention of one new token for each row, q \[R, H, d\], k and v \[R, KV, d\] not yet turned. The
    /// token's keys and values are added; [`KvCache::advance`] after the last layer makes room for the next.
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let heads = Heads::of(q.dims(), k.dims());
        let (width, kv_width) = (heads.heads * heads.size, heads.kv_heads * heads.size);
        if self.slots.iter().any(|slot| slot.length >= self.capacity) {
            bail!("the cache of keys and values is full at {} tokens", self.capacity);
        }
        let (capacity, rope) = (self.capacity, &self.rope);
        let mut out = vec![0f32; q.elem_count()];
        with(q, |q| {
            with(k, |k| {
                with(v, |v| {
                    let inputs = q.par_chunks(width).zip(k.par_chunks(kv_width)).zip(v.par_chunks(kv_width));
                    let slots = self.slots.par_iter_mut().zip(out.par_chunks_mut(width));
                    slots.zip(inputs).for_each(|((slot, out), ((q, k), v))| {
                        let at = slot.length;
                        slot.values[layer][at * kv_width..][..kv_width].copy_from_slice(v);
                        store_key(k, at, heads, capacity, rope, &mut slot.keys[layer]);
                        attend_one(q, &slot.keys[layer], &slot.values[layer], at, heads, rope, out);
                    });
                    Ok(())
                })
            })
        })?;
        Tensor::from_vec(out, q.shape(), q.device())
    }

    /// The token that all layers have attended to now belongs to the past.
    pub fn advance(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.length += 1);
    }
}

fn store_key(k: &[f32], position: usize, heads: Heads, capacity: usize, rope: &Rope, keys: &mut [f32]) {
    let mut turned = vec![0f32; heads.size];
    for (head, k) in k.chunks_exact(heads.size).enumerate() {
        rope.turn(k, position, 1.0, &mut turned);
        for (d, value) in turned.iter().enumerate() {
            keys[(head * heads.size + d) * capacity + position] = *value;
        }
    }
}

kernel! {
    fn attend_one(q: &[f32], keys: &[f32], values: &[f32], at: usize, heads: Heads, rope: &Rope, out: &mut [f32]) {
        let (size, kv_width) = (heads.size, heads.kv_heads * heads.size);
        let capacity = keys.len() / kv_width;
        let (mut query, mut scores) = (vec![0f32; size], vec![0f32; at + 1]);
        for head in 0..heads.heads {
            let kv = head / heads.group();
            rope.turn(&q[head * size..][..size], at, heads.scale(), &mut query);
            probabilities(&query, &keys[kv * size * capacity..], capacity, &mut scores);
            let out = &mut out[head * size..][..size];
            for (other, p) in scores.iter().enumerate() {
                add_scaled(*p, &values[other * kv_width + kv * size..][..size], out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::gradient_check::{check, random};
    use super::*;

    /// Turning and attention in candle's own operations, one row at a time.
    fn plain(q: &Tensor, k: &Tensor, v: &Tensor, rows: &Rows, rope: &Rope) -> Result<Tensor> {
        let (heads, kv_heads, size) = (q.dim(1)?, k.dim(1)?, q.dim(2)?);
        let mut outputs = Vec::new();
        for row in 0..rows.len() {
            let range = rows.range(row);
            let tokens = range.len();
            let half = |table: &[f32]| {
                Tensor::from_slice(&table[..tokens * size / 2], (tokens, 1, size / 2), &Device::Cpu)
            };
            let (cos, sin) = (half(&rope.cos)?, half(&rope.sin)?);
            let turn = |x: &Tensor| {
                let (a, b) = (x.narrow(2, 0, size / 2)?, x.narrow(2, size / 2, size / 2)?);
                let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
                let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
                Tensor::cat(&[left, right], 2)
            };
            let piece = |x: &Tensor| x.narrow(0, range.start, tokens);
            let repeat = |x: Tensor| {
                x.unsqueeze(2)?
                    .broadcast_as((tokens, kv_heads, heads / kv_heads, size))?
                    .reshape((tokens, heads, size))
            };
            let by_head = |x: Tensor| x.transpose(0, 1)?.contiguous();
            let q = by_head(turn(&piece(q)?)?)?;
            let k = by_head(repeat(turn(&piece(k)?)?)?)?;
            let v = by_head(repeat(piece(v)?)?)?;
            let mask: Vec<f32> = (0..tokens * tokens)
                .map(|i| if i % tokens > i / tokens { f32::NEG_INFINITY } else { 0.0 })
                .collect();
            let mask = Tensor::from_vec(mask, (1, tokens, tokens), &Device::Cpu)?;
            let scores = (q.matmul(&k.t()?)? / (size as f64).sqrt())?.broadcast_add(&mask)?;
            let exp = scores.broadcast_sub(&scores.max_keepdim(2)?)?.exp()?;
            let p = exp.broadcast_div(&exp.sum_keepdim(2)?)?;
            outputs.push(p.matmul(&v)?.transpose(0, 1)?.contiguous()?);
        }
        Tensor::cat(&outputs, 0)
    }

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        let rows = Arc::new(Rows::new([5, 1, 11]));
        let rope = Arc::new(Rope::new(8, 10_000.0, 16));
        check(
            &[random(&[17, 4, 8], 1), random(&[17, 2, 8], 2), random(&[17, 2, 8], 3)],
            |t| causal_attention(&t[0], &t[1], &t[2], &rows, &rope),
            |t| plain(&t[0], &t[1], &t[2], &rows, &rope),
        );
    }

    #[test]
    fn token_by_token_over_the_cache_is_the_same_as_all_at_once() {
        let rope = Arc::new(Rope::new(8, 10_000.0, 16));
        let (q, k, v) = (random(&[18, 4, 8], 1), random(&[18, 2, 8], 2), random(&[18, 2, 8], 3));
        let whole = causal_attention(&q, &k, &v, &Arc::new(Rows::new([9, 9])), &rope).unwrap();
        let mut cache = KvCache::new(2, 1, 16, 9, rope).unwrap();
        let part = |x: &Tensor, from: usize, count: usize| {
            Tensor::cat(&[x.narrow(0, from, count).unwrap(), x.narrow(0, 9 + from, count).unwrap()], 0)
                .unwrap()
        };
        cache.fill(0, &part(&k, 0, 4), &part(&v, 0, 4), &Rows::new([4, 4])).unwrap();
        for token in 4..9 {
            let out = cache.attend(0, &part(&q, token, 1), &part(&k, token, 1), &part(&v, token, 1)).unwrap();
            cache.advance();
            let expected = part(&whole, token, 1);
            let difference: f32 =
                (out - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
            assert!(difference < 1e-6, "{difference}");
        }
        assert!(cache.attend(0, &part(&q, 0, 1), &part(&k, 0, 1), &part(&v, 0, 1)).is_err());
    }
}
