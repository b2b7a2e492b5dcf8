//! Attention while sampling: one new token for each row, over the keys and values of the tokens before it.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{read, tensor};
use super::rope::{Heads, Rope};
use super::rows::Rows;
use super::simd::{kernel, softmax};
use super::tile::TILE;

/// Keys and values of rows that are being sampled. Holds memory for `capacity` tokens a row from the start.
pub struct KvCache {
    slots: Vec<Slot>,
    capacity: usize,
    /// Capacity, padded: keys are read eight tokens at a time.
    stride: usize,
    rope: Arc<Rope>,
}

#[derive(Clone)]
struct Slot {
    length: usize,
    /// For each layer and key head \[size, stride\], turned.
    keys: Vec<Vec<f32>>,
    /// For each layer \[capacity, key heads, size\].
    values: Vec<Vec<f32>>,
}

impl KvCache {
    /// An empty cache for `rows` rows of as many tokens as `rope` has positions, of `layers` layers and keys
    /// of `kv_width` numbers a token.
    pub fn new(rows: usize, layers: usize, kv_width: usize, rope: Arc<Rope>) -> KvCache {
        let capacity = rope.positions();
        let stride = capacity.next_multiple_of(TILE);
        let empty = |tokens: usize| vec![vec![0f32; tokens * kv_width]; layers];
        let slots =
            (0..rows).map(|_| Slot { length: 0, keys: empty(stride), values: empty(capacity) }).collect();
        KvCache { slots, capacity, stride, rope }
    }

    pub fn rope(&self) -> &Arc<Rope> {
        &self.rope
    }

    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// The rows of a new cache: each a copy of the given row of this one.
    pub fn select(&self, rows: &[usize]) -> KvCache {
        let slots = rows.iter().map(|&row| self.slots[row].clone()).collect();
        KvCache { slots, capacity: self.capacity, stride: self.stride, rope: self.rope.clone() }
    }

    /// Keeps the rows for which `keep` says so.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.slots.retain(|_| keep.next().copied().unwrap_or(false));
    }

    /// Takes in the keys and values of whole prompts, k and v \[N, KV·d\] not yet turned.
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<()> {
        let heads = Heads::of(k, k, &self.rope)?;
        let (width, stride, rope) = (heads.kv_width(), self.stride, &self.rope);
        let (k, v) = (read(k)?, read(v)?);
        let pieces = rows.split(&k, width).into_par_iter().zip(rows.split(&v, width));
        self.slots.par_iter_mut().zip(pieces).for_each(|(slot, (k, v))| {
            slot.length = k.len() / width;
            slot.values[layer][..v.len()].copy_from_slice(v);
            for (token, k) in k.chunks_exact(width).enumerate() {
                store_key(k, token, heads, stride, rope, &mut slot.keys[layer]);
            }
        });
        Ok(())
    }

    /// Attention of one new token for each row, q \[R, H·d\], k and v \[R, KV·d\] not yet turned. The
    /// token's keys and values are added; [`KvCache::advance`] after the last layer makes room for the next.
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let heads = Heads::of(q, k, &self.rope)?;
        let (width, kv_width) = (heads.width(), heads.kv_width());
        if self.slots.iter().any(|slot| slot.length >= self.capacity) {
            bail!("the cache of keys and values is full at {} tokens", self.capacity);
        }
        let (stride, rope) = (self.stride, &self.rope);
        let (qs, ks, vs) = (read(q)?, read(k)?, read(v)?);
        let mut out = vec![0f32; qs.len()];
        let inputs = qs.par_chunks(width).zip(ks.par_chunks(kv_width)).zip(vs.par_chunks(kv_width));
        let slots = self.slots.par_iter_mut().zip(out.par_chunks_mut(width));
        slots.zip(inputs).for_each(|((slot, out), ((q, k), v))| {
            let at = slot.length;
            slot.values[layer][at * kv_width..][..kv_width].copy_from_slice(v);
            store_key(k, at, heads, stride, rope, &mut slot.keys[layer]);
            attend_one(q, &slot.keys[layer], &slot.values[layer], at, heads, rope, out);
        });
        tensor(out, q.shape())
    }

    /// The token that all layers have attended to now belongs to the past.
    pub fn advance(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.length += 1);
    }
}

fn store_key(k: &[f32], position: usize, heads: Heads, stride: usize, rope: &Rope, keys: &mut [f32]) {
    let mut turned = vec![0f32; heads.size];
    for (k, keys) in k.chunks_exact(heads.size).zip(keys.chunks_exact_mut(heads.size * stride)) {
        turned.copy_from_slice(k);
        rope.turn(&mut turned, position, 1.0);
        for (keys, number) in keys.chunks_exact_mut(stride).zip(&turned) {
            keys[position] = *number;
        }
    }
}

/// Σ over the rows of a matrix \[…, stride\], weighted, of `W` columns from `column` on.
#[inline(always)]
fn weighted_sum<const W: usize>(weights: &[f32], matrix: &[f32], column: usize, stride: usize) -> [f32; W] {
    let mut sum = [0f32; W];
    for (weight, row) in weights.iter().zip(matrix.chunks(stride)) {
        let row = &row[column..][..W];
        for lane in 0..W {
            sum[lane] += weight * row[lane];
        }
    }
    sum
}

/// The same for all columns that `out` has: as many at a time as keep the processor busy, then fewer.
#[inline(always)]
fn weighted_sums(weights: &[f32], matrix: &[f32], first: usize, stride: usize, out: &mut [f32]) {
    let mut done = 0;
    while out.len() - done >= 4 * TILE {
        let sum = weighted_sum::<{ 4 * TILE }>(weights, matrix, first + done, stride);
        out[done..done + 4 * TILE].copy_from_slice(&sum);
        done += 4 * TILE;
    }
    while out.len() - done >= TILE {
        out[done..done + TILE].copy_from_slice(&weighted_sum::<TILE>(weights, matrix, first + done, stride));
        done += TILE;
    }
    for (column, out) in out.iter_mut().enumerate().skip(done) {
        *out = weighted_sum::<1>(weights, matrix, first + column, stride)[0];
    }
}

kernel! {
    fn attend_one(q: &[f32], keys: &[f32], values: &[f32], at: usize, heads: Heads, rope: &Rope, out: &mut [f32]) {
        let (size, kv_width) = (heads.size, heads.kv_width());
        let stride = keys.len() / kv_width;
        let (mut query, mut scores) = (vec![0f32; size], vec![0f32; (at + 1).next_multiple_of(TILE)]);
        for (head, (q, out)) in q.chunks_exact(size).zip(out.chunks_exact_mut(size)).enumerate() {
            let kv = head / heads.group() * size;
            query.copy_from_slice(q);
            rope.turn(&mut query, at, heads.scale());
            weighted_sums(&query, &keys[kv * stride..], 0, stride, &mut scores);
            softmax(&mut scores[..=at]);
            weighted_sums(&scores[..=at], values, kv, kv_width, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention::causal_attention;
    use super::super::gradient_check::{frequencies, random};
    use super::super::value::Value;
    use super::*;

    #[test]
    fn token_by_token_over_the_cache_is_the_same_as_all_at_once() {
        let rope = Arc::new(Rope::new(&frequencies(8), 9));
        let (q, k, v) = (random(&[18, 32], 1), random(&[18, 16], 2), random(&[18, 16], 3));
        let whole = [&q, &k, &v].map(|x| Value::constant(x.clone()));
        let whole =
            causal_attention(&whole[0], &whole[1], &whole[2], &Arc::new(Rows::new([9, 9])), &rope).unwrap();
        let mut cache = KvCache::new(2, 1, 16, rope);
        let part = |x: &Tensor, from: usize, count: usize| {
            Tensor::cat(&[x.narrow(0, from, count).unwrap(), x.narrow(0, 9 + from, count).unwrap()], 0)
                .unwrap()
        };
        cache.fill(0, &part(&k, 0, 4), &part(&v, 0, 4), &Rows::new([4, 4])).unwrap();
        for token in 4..9 {
            let out = cache.attend(0, &part(&q, token, 1), &part(&k, token, 1), &part(&v, token, 1)).unwrap();
            cache.advance();
            let expected = part(whole.tensor(), token, 1);
            let difference: f32 =
                (out - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
            assert!(difference < 1e-6, "{difference}");
        }
        assert!(cache.attend(0, &part(&q, 0, 1), &part(&k, 0, 1), &part(&v, 0, 1)).is_err());
    }
}
