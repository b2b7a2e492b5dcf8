//! Attention while sampling: one new token for each row, over the keys and values of the tokens before it.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{read, tensor, uninit_vec};
use super::rope::{Heads, Rope};
use super::rows::Rows;
use kernels::{PANEL, kernel, multiply_add, softmax};

/// Rows of one task.
const ROWS: usize = 8;

/// Keys and values of rows that are being sampled. Memory grows with the tokens, in blocks of [`PANEL`].
pub struct KvCache {
    slots: Vec<Slot>,
    rope: Arc<Rope>,
}

#[derive(Clone)]
struct Slot {
    length: usize,
    /// The most tokens of the row.
    capacity: usize,
    /// For each layer, blocks of [`PANEL`] tokens. A block has for each key head the values \[PANEL, size\], then the rotated
    /// keys \[size, PANEL\], so that a query reads contiguous memory.
    layers: Vec<Vec<f32>>,
}

impl KvCache {
    /// An empty cache for `rows` rows of as many tokens as `rope` has positions, in `layers` layers.
    pub fn new(rows: usize, layers: usize, rope: Arc<Rope>) -> KvCache {
        let slot = Slot { length: 0, capacity: rope.positions(), layers: vec![Vec::new(); layers] };
        KvCache { slots: vec![slot; rows], rope }
    }

    /// An empty cache for rows that will have at most so many tokens each, no more than the rotations of this one.
    pub fn fresh(&self, capacities: &[usize], layers: usize) -> KvCache {
        let slot = |capacity: &usize| Slot {
            length: 0,
            capacity: (*capacity).min(self.rope.positions()),
            layers: vec![Vec::new(); layers],
        };
        KvCache { slots: capacities.iter().map(slot).collect(), rope: self.rope.clone() }
    }

    /// Adds the rows of another cache with the same rotations after those of this one.
    pub fn append(&mut self, other: KvCache) {
        self.slots.extend(other.slots);
    }

    pub fn rope(&self) -> &Arc<Rope> {
        &self.rope
    }

    /// The rows of a new cache: each a copy of the given row of this one.
    pub fn select(&self, rows: &[usize]) -> KvCache {
        KvCache { slots: rows.iter().map(|&row| self.slots[row].clone()).collect(), rope: self.rope.clone() }
    }

    /// Keeps the rows whose `keep` is true.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.slots.retain(|_| keep.next().copied().unwrap_or(false));
    }

    /// Stores the keys and values of whole prompts, k and v \[N, KV·d\] not yet rotated.
    pub fn fill(&mut self, layer: usize, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<()> {
        let heads = Heads::of(k, k, &self.rope)?;
        let (width, rope) = (heads.kv_width(), &self.rope);
        let (k, v) = (read(k)?, read(v)?);
        let pieces = rows.split(&k, width).into_par_iter().zip(rows.split(&v, width));
        self.slots.par_iter_mut().zip(pieces).for_each(|(slot, (k, v))| {
            let mut scratch = vec![0f32; PANEL * width];
            for (block, (k, v)) in k.chunks(PANEL * width).zip(v.chunks(PANEL * width)).enumerate() {
                let at = block * PANEL;
                store(k, v, at, heads, rope, &mut scratch, slot.block(layer, at, heads));
            }
            slot.length = k.len() / width;
        });
        Ok(())
    }

    /// Attention of one new token for each row, q \[R, H·d\], k and v \[R, KV·d\] not yet rotated. The token's keys and values
    /// are added. After the last layer, call [`KvCache::advance`].
    pub fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let heads = Heads::of(q, k, &self.rope)?;
        let (width, kv_width) = (heads.width(), heads.kv_width());
        if [q, k, v].iter().any(|x| x.dim(0).ok() != Some(self.slots.len())) {
            let (rows, shapes) = (self.slots.len(), [q, k, v].map(Tensor::dims));
            bail!("queries, keys and values of shapes {shapes:?} are not one token for each of {rows} rows");
        }
        if let Some(slot) = self.slots.iter().find(|slot| slot.length >= slot.capacity) {
            bail!("the cache of keys and values is full at {} tokens", slot.capacity);
        }
        let longest = self.slots.iter().map(|slot| slot.length + 1).max().unwrap_or(0);
        // With few rows, each thread takes some.
        let together = self.slots.len().div_ceil(rayon::current_num_threads()).clamp(1, ROWS);
        let rope = &self.rope;
        let (qs, ks, vs) = (read(q)?, read(k)?, read(v)?);
        // SAFETY: `attend` writes the output of each query.
        let mut out = unsafe { uninit_vec(qs.len()) };
        let inputs = ks.par_chunks(together * kv_width).zip(vs.par_chunks(together * kv_width));
        let slots = self.slots.par_chunks_mut(together).zip(inputs);
        let queries = qs.par_chunks(together * width).zip(out.par_chunks_mut(together * width));
        slots.zip(queries).for_each(|((slots, (ks, vs)), (qs, out))| {
            let mut scratch = vec![0f32; longest.next_multiple_of(PANEL) + width.max(kv_width)];
            // All rows are stored before any is read: a processor stalls when it loads a vector of which it has just stored
            // one number.
            for (slot, (k, v)) in
                slots.iter_mut().zip(ks.chunks_exact(kv_width).zip(vs.chunks_exact(kv_width)))
            {
                let at = slot.length;
                store(k, v, at, heads, rope, &mut scratch, slot.block(layer, at, heads));
            }
            for (slot, (q, out)) in slots.iter().zip(qs.chunks_exact(width).zip(out.chunks_exact_mut(width)))
            {
                attend(q, &slot.layers[layer], slot.length, heads, rope, &mut scratch, out);
            }
        });
        tensor(out, q.shape())
    }

    /// Goes on to the next token, once all layers have added the current one.
    pub fn advance(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.length += 1);
    }
}

impl Slot {
    /// The block of token `at` in a layer; created with its first token.
    fn block(&mut self, layer: usize, at: usize, heads: Heads) -> &mut [f32] {
        let (blocks, length) = (&mut self.layers[layer], 2 * PANEL * heads.kv_width());
        let start = at / PANEL * length;
        if blocks.len() == start {
            blocks.reserve_exact(self.capacity.div_ceil(PANEL) * length - start);
            blocks.resize(start + length, 0.0);
        }
        &mut blocks[start..start + length]
    }
}

kernel! {
    /// Stores the tokens from position `at` on in their block.
    fn store(k: &[f32], v: &[f32], at: usize, heads: Heads, rope: &Rope, scratch: &mut [f32], block: &mut [f32]) {
        let (width, size, at_in_block) = (heads.kv_width(), heads.size, at % PANEL);
        let turned = &mut scratch[..k.len()];
        turned.copy_from_slice(k);
        for (token, k) in turned.chunks_exact_mut(width).enumerate() {
            k.chunks_exact_mut(size).for_each(|k| rope.rotate(k, at + token, 1.0));
        }
        for (head, block) in block.chunks_exact_mut(2 * PANEL * size).enumerate() {
            let (values, keys) = block.split_at_mut(PANEL * size);
            let first = head * size;
            for (to, from) in values.chunks_exact_mut(size).skip(at_in_block).zip(v.chunks_exact(width)) {
                to.copy_from_slice(&from[first..first + size]);
            }
            // A line of keys has one number of each token.
            for (line, first) in keys.chunks_exact_mut(PANEL).zip(first..) {
                for (to, from) in line[at_in_block..].iter_mut().zip(turned[first..].iter().step_by(width)) {
                    *to = *from;
                }
            }
        }
    }
}

kernel! {
    /// The output of the queries of a row's newest token, at position `at`.
    fn attend(q: &[f32], blocks: &[f32], at: usize, heads: Heads, rope: &Rope, scratch: &mut [f32], out: &mut [f32]) {
        let size = heads.size;
        let (queries, scores) = scratch.split_at_mut(q.len());
        queries.copy_from_slice(q);
        for (head, (query, out)) in queries.chunks_exact_mut(size).zip(out.chunks_exact_mut(size)).enumerate() {
            rope.rotate(query, at, heads.scale());
            let first = head / heads.group() * 2 * PANEL * size;
            let blocks = || blocks.chunks_exact(2 * PANEL * heads.kv_width()).map(|block| &block[first..]);
            for (scores, block) in scores.chunks_exact_mut(PANEL).zip(blocks()) {
                scores.copy_from_slice(&weighted_sum::<FUSED>(query, &block[PANEL * size..], PANEL));
            }
            softmax::<FUSED>(&mut scores[..=at]);
            for (column, out) in out.chunks_mut(PANEL).enumerate() {
                out.fill(0.0);
                for (scores, block) in scores[..=at].chunks(PANEL).zip(blocks()) {
                    // Numbers behind a head of fewer than 32 are read, but not used.
                    let seen = weighted_sum::<FUSED>(scores, &block[column * PANEL..], size);
                    out.iter_mut().zip(seen).for_each(|(out, seen)| *out += seen);
                }
            }
        }
    }
}

/// Numbers that are summed at a time.
const LANES: usize = PANEL / 2;

/// Σ weight · line, over lines of [`PANEL`] numbers that begin every `step` numbers.
#[inline(always)]
fn weighted_sum<const FUSED: bool>(weights: &[f32], lines: &[f32], step: usize) -> [f32; PANEL] {
    // Four sums that do not wait for each other: two halves of the line, from even and from odd lines.
    let mut sums = [[0f32; LANES]; 4];
    let mut add = |sum: usize, weight: f32, line: &[f32]| {
        for lane in 0..LANES {
            sums[sum][lane] = multiply_add::<FUSED>(weight, line[lane], sums[sum][lane]);
            sums[sum + 1][lane] = multiply_add::<FUSED>(weight, line[LANES + lane], sums[sum + 1][lane]);
        }
    };
    for (at, pair) in weights.chunks(2).enumerate() {
        let lines = &lines[2 * at * step..];
        add(0, pair[0], &lines[..PANEL]);
        if let Some(weight) = pair.get(1) {
            add(2, *weight, &lines[step..step + PANEL]);
        }
    }
    std::array::from_fn(|lane| sums[lane / LANES][lane % LANES] + sums[2 + lane / LANES][lane % LANES])
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
