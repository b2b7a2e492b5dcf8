//! Attention while sampling: one new token for each row, over the keys and values of the tokens before it.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{read, room, tensor};
use super::product::{Left, PANEL, Right, multiply};
use super::rope::{Heads, Rope};
use super::rows::Rows;
use super::simd::{kernel, softmax};

/// Rows that one task takes.
const ROWS: usize = 8;

/// Keys and values of rows that are being sampled. Memory grows with the tokens that are there, a block of
/// [`PANEL`] at a time.
pub struct KvCache {
    slots: Vec<Slot>,
    rope: Arc<Rope>,
}

#[derive(Clone)]
struct Slot {
    length: usize,
    /// For each layer, blocks of [`PANEL`] tokens. A block has the values \[PANEL, key heads, size\], then the
    /// keys \[key heads, size, PANEL\], turned.
    layers: Vec<Vec<f32>>,
}

impl KvCache {
    /// An empty cache for `rows` rows of as many tokens as `rope` has positions, in `layers` layers.
    pub fn new(rows: usize, layers: usize, rope: Arc<Rope>) -> KvCache {
        let slot = Slot { length: 0, layers: vec![Vec::new(); layers] };
        KvCache { slots: vec![slot; rows], rope }
    }

    pub fn rope(&self) -> &Arc<Rope> {
        &self.rope
    }

    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    /// The rows of a new cache: each a copy of the given row of this one.
    pub fn select(&self, rows: &[usize]) -> KvCache {
        KvCache { slots: rows.iter().map(|&row| self.slots[row].clone()).collect(), rope: self.rope.clone() }
    }

    /// Keeps the rows for which `keep` says so.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.slots.retain(|_| keep.next().copied().unwrap_or(false));
    }

    /// Takes in the keys and values of whole prompts, k and v \[N, KV·d\] not yet turned.
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<()> {
        let heads = Heads::of(k, k, &self.rope)?;
        let (width, rope) = (heads.kv_width(), &self.rope);
        let (k, v) = (read(k)?, read(v)?);
        let pieces = rows.split(&k, width).into_par_iter().zip(rows.split(&v, width));
        self.slots.par_iter_mut().zip(pieces).for_each(|(slot, (k, v))| {
            slot.length = k.len() / width;
            for (block, (k, v)) in k.chunks(PANEL * width).zip(v.chunks(PANEL * width)).enumerate() {
                store(k, v, block * PANEL, heads, rope, &mut slot.layers[layer]);
            }
        });
        Ok(())
    }

    /// Attention of one new token for each row, q \[R, H·d\], k and v \[R, KV·d\] not yet turned. The
    /// token's keys and values are added; [`KvCache::advance`] after the last layer makes room for the next.
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let heads = Heads::of(q, k, &self.rope)?;
        let (width, kv_width) = (heads.width(), heads.kv_width());
        let capacity = self.rope.positions();
        if self.slots.iter().any(|slot| slot.length >= capacity) {
            bail!("the cache of keys and values is full at {capacity} tokens");
        }
        let rope = &self.rope;
        let (qs, ks, vs) = (read(q)?, read(k)?, read(v)?);
        // SAFETY: `attend_one` writes what each query sees.
        let mut out = unsafe { room(qs.len()) };
        let inputs = ks.par_chunks(ROWS * kv_width).zip(vs.par_chunks(ROWS * kv_width));
        let slots = self.slots.par_chunks_mut(ROWS).zip(inputs);
        let queries = qs.par_chunks(ROWS * width).zip(out.par_chunks_mut(ROWS * width));
        slots.zip(queries).for_each(|((slots, (ks, vs)), (qs, out))| {
            // All are stored before any is read: a processor waits where it loads a vector of which it has just
            // stored one number.
            for (slot, (k, v)) in
                slots.iter_mut().zip(ks.chunks_exact(kv_width).zip(vs.chunks_exact(kv_width)))
            {
                store(k, v, slot.length, heads, rope, &mut slot.layers[layer]);
            }
            for (slot, (q, out)) in slots.iter().zip(qs.chunks_exact(width).zip(out.chunks_exact_mut(width)))
            {
                attend_one(q, &slot.layers[layer], slot.length, heads, rope, out);
            }
        });
        tensor(out, q.shape())
    }

    /// The token that all layers have attended to now belongs to the past.
    pub fn advance(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.length += 1);
    }
}

/// Adds tokens of one block behind the `at` that are there.
fn store(k: &[f32], v: &[f32], at: usize, heads: Heads, rope: &Rope, blocks: &mut Vec<f32>) {
    let (width, size) = (heads.kv_width(), heads.size);
    let (block, at_in_block) = (at / PANEL * 2 * PANEL * width, at % PANEL);
    if blocks.len() == block {
        let whole = rope.positions().next_multiple_of(PANEL) * 2 * width;
        blocks.reserve_exact(whole - block);
        blocks.resize(block + 2 * PANEL * width, 0.0);
    }
    let (values, keys) = blocks[block..].split_at_mut(PANEL * width);
    values[at_in_block * width..][..v.len()].copy_from_slice(v);
    let mut turned = k.to_vec();
    for (token, k) in turned.chunks_exact_mut(width).enumerate() {
        k.chunks_exact_mut(size).for_each(|k| rope.turn(k, at + token, 1.0));
    }
    // A line of the block has one number of each of its tokens.
    for (dimension, line) in keys.chunks_exact_mut(PANEL).enumerate() {
        for (to, from) in line[at_in_block..].iter_mut().zip(turned[dimension..].iter().step_by(width)) {
            *to = *from;
        }
    }
}

/// What the queries of a row's newest token, at position `at`, see.
fn attend_one(q: &[f32], blocks: &[f32], at: usize, heads: Heads, rope: &Rope, out: &mut [f32]) {
    let (size, kv_width, group) = (heads.size, heads.kv_width(), heads.group());
    let stride = (at + 1).next_multiple_of(PANEL);
    let mut queries = q.to_vec();
    queries.chunks_exact_mut(size).for_each(|query| rope.turn(query, at, heads.scale()));
    let mut scores = vec![0f32; group * stride];
    let group_width = group * size;
    for (kv, (queries, out)) in queries.chunks(group_width).zip(out.chunks_mut(group_width)).enumerate() {
        let queries = Left { numbers: queries, rows: group, row: size, steps: size, step: 1 };
        for (block, numbers) in blocks.chunks_exact(2 * PANEL * kv_width).enumerate() {
            let keys = &numbers[PANEL * kv_width + kv * size * PANEL..];
            let keys = Right { numbers: keys, columns: PANEL, step: PANEL };
            multiply(queries, keys, &mut scores[block * PANEL..], stride, false);
        }
        scores.chunks_exact_mut(stride).for_each(|scores| {
            probabilities(&mut scores[..=at]);
        });
        for (block, numbers) in blocks.chunks_exact(2 * PANEL * kv_width).enumerate() {
            let seen = PANEL.min(at + 1 - block * PANEL);
            let left =
                Left { numbers: &scores[block * PANEL..], rows: group, row: stride, steps: seen, step: 1 };
            for column in (0..size).step_by(PANEL) {
                // What lies behind a head of fewer than 32 numbers is read, not used.
                let values = &numbers[kv * size + column..];
                let values = Right { numbers: values, columns: PANEL.min(size - column), step: kv_width };
                multiply(left, values, &mut out[column..], size, block > 0);
            }
        }
    }
}

kernel! {
    fn probabilities(scores: &mut [f32]) -> f32 {
        softmax::<FUSED>(scores)
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
        let mut cache = KvCache::new(2, 1, rope);
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
