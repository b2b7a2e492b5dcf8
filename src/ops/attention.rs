//! Causal self-attention with rotary positions over packed rows. Heads are grouped (GQA): query head h uses
//! key and value head h / (heads / kv_heads).
//!
//! Scores are kept as \[keys, queries\]: eight queries lie side by side, so that their softmax is as
//! vectorised as the products are. Probabilities are computed again in the backward pass, never stored.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::composition::{self, composition, fused};
use super::cpu::{read, tensor};
use super::rope::{Heads, Rope};
use super::rows::Rows;
use super::simd::{exp, kernel};
use super::tile::{TILE, part, product, store, store_sum, transposed_product};
use super::value::{Gradients, Value};

/// Queries whose scores exist at the same time: bounds memory for long rows.
const QUERIES: usize = 64;

/// Softmax(q·kᵀ / √d)·v within each row, causal, positions from 0: q \[N, H·d\], k and v \[N, KV·d\], not
/// yet turned; the result is \[N, H·d\].
pub fn causal_attention(
    q: &Value,
    k: &Value,
    v: &Value,
    rows: &Arc<Rows>,
    rope: &Arc<Rope>,
) -> Result<Value> {
    let heads = Heads::of(q.tensor(), k.tensor(), rope)?;
    if q.tensor().dim(0)? != rows.tokens()
        || k.tensor().dim(0)? != rows.tokens()
        || k.tensor().dims() != v.tensor().dims()
    {
        let (q, k, v) = (q.tensor().dims(), k.tensor().dims(), v.tensor().dims());
        bail!("attention over {} tokens of q {q:?}, k {k:?}, v {v:?}", rows.tokens());
    }
    if rows.longest() > rope.positions() {
        bail!("a row of {} tokens, but angles for {} positions", rows.longest(), rope.positions());
    }
    if !fused(&[q, k, v]) {
        let (rows, rope) = (rows.clone(), rope.clone());
        return composition(&[q, k, v], move |t| {
            composition::attention(&t[0], &t[1], &t[2], &rows, &rope, heads)
        });
    }
    let (qs, ks, vs) = (read(q.tensor())?, read(k.tensor())?, read(v.tensor())?);
    let mut out = vec![0f32; qs.len()];
    let (width, kv_width) = (heads.width(), heads.kv_width());
    let inputs =
        rows.split(&qs, width).into_par_iter().zip(rows.split(&ks, kv_width)).zip(rows.split(&vs, kv_width));
    rows.split_mut(&mut out, width)
        .into_par_iter()
        .zip(inputs)
        .for_each(|(out, ((q, k), v))| forward_row(q, k, v, heads, rope, out));
    let out = tensor(out, q.tensor().shape())?;
    let kept = ([q.clone(), k.clone(), v.clone()], rows.clone(), rope.clone());
    Ok(Value::result(out, &[q, k, v], move |grad, gradients| {
        attention_backward(&kept.0, &kept.1, &kept.2, heads, &grad, gradients)
    }))
}

fn attention_backward(
    [q, k, v]: &[Value; 3],
    rows: &Rows,
    rope: &Rope,
    heads: Heads,
    grad: &Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    let (qs, ks, vs, grads) = (read(q.tensor())?, read(k.tensor())?, read(v.tensor())?, read(grad)?);
    let (width, kv_width) = (heads.width(), heads.kv_width());
    let (mut dq, mut dk, mut dv) = (vec![0f32; qs.len()], vec![0f32; ks.len()], vec![0f32; vs.len()]);
    let of_queries = rows.split(&qs, width).into_par_iter().zip(rows.split(&grads, width));
    let of_keys = rows.split(&ks, kv_width).into_par_iter().zip(rows.split(&vs, kv_width));
    let outputs = rows.split_mut(&mut dq, width).into_par_iter();
    let outputs = outputs.zip(rows.split_mut(&mut dk, kv_width)).zip(rows.split_mut(&mut dv, kv_width));
    outputs.zip(of_queries).zip(of_keys).for_each(|((((dq, dk), dv), (q, grad)), (k, v))| {
        backward_row(q, k, v, grad, heads, rope, RowGradients { q: dq, k: dk, v: dv });
    });
    gradients.add(q, tensor(dq, q.tensor().shape())?)?;
    gradients.add(k, tensor(dk, k.tensor().shape())?)?;
    gradients.add(v, tensor(dv, v.tensor().shape())?)
}

/// Sizes of the matrices of one head of one row; padding is zero.
#[derive(Clone, Copy)]
struct Sizes {
    /// Tokens of the row, padded.
    tokens: usize,
    /// Numbers of a head, padded.
    head: usize,
    /// Queries at a time, padded.
    queries: usize,
}

impl Sizes {
    fn of(tokens: usize, head: usize) -> Sizes {
        let tokens = tokens.next_multiple_of(TILE);
        Sizes { tokens, head: head.next_multiple_of(TILE), queries: tokens.min(QUERIES) }
    }
}

/// Copies the vectors of one head, \[tokens, d\] with `width` numbers from one token to the next, to a matrix
/// \[…, stride\].
#[inline(always)]
fn gather(from: &[f32], width: usize, size: usize, to: &mut [f32], stride: usize) {
    for (from, to) in from.chunks(width).zip(to.chunks_exact_mut(stride)) {
        to[..size].copy_from_slice(&from[..size]);
    }
}

/// Turns each vector of a matrix \[…, stride\] to its position, scaled.
#[inline(always)]
fn turn_all(matrix: &mut [f32], stride: usize, size: usize, rope: &Rope, first: usize, scale: f32) {
    for (token, vector) in matrix.chunks_exact_mut(stride).enumerate() {
        rope.turn(&mut vector[..size], first + token, scale);
    }
}

#[inline(always)]
fn transpose(from: &[f32], columns: usize, to: &mut [f32], rows: usize) {
    for (row, from) in from.chunks_exact(columns).take(rows).enumerate() {
        for (column, number) in from.iter().enumerate() {
            to[column * rows + row] = *number;
        }
    }
}

/// Probabilities of eight queries in place of their scores \[keys, …\]; query i is at position `first` + i and
/// sees the keys up to there, of `seen`.
#[inline(always)]
fn softmax_columns(scores: &mut [f32], stride: usize, seen: usize, first: usize) {
    let hidden = |key: usize, query: usize| key > first + query;
    let mut most = [f32::NEG_INFINITY; TILE];
    for (key, row) in scores.chunks_mut(stride).take(seen).enumerate() {
        for query in 0..TILE {
            let score = if hidden(key, query) { f32::NEG_INFINITY } else { row[query] };
            most[query] = if score > most[query] { score } else { most[query] };
        }
    }
    let mut total = [0f32; TILE];
    for (key, row) in scores.chunks_mut(stride).take(seen).enumerate() {
        for query in 0..TILE {
            let p = exp(row[query] - most[query]);
            row[query] = if hidden(key, query) { 0.0 } else { p };
            total[query] += row[query];
        }
    }
    let scale = total.map(|total| 1.0 / total);
    for row in scores.chunks_mut(stride).take(seen) {
        for query in 0..TILE {
            row[query] *= scale[query];
        }
    }
}

/// What both passes need of one key head, and of a block of queries that look at it.
struct Head<'a> {
    heads: Heads,
    rope: &'a Rope,
    sizes: Sizes,
    /// Turned, \[tokens, head\], and transposed.
    keys: Vec<f32>,
    keys_t: Vec<f32>,
    /// \[tokens, head\]
    values: Vec<f32>,
    /// Turned and scaled, \[queries, head\], and transposed.
    queries: Vec<f32>,
    queries_t: Vec<f32>,
    /// Probabilities \[keys, queries\].
    p: Vec<f32>,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn new(tokens: usize, heads: Heads, rope: &'a Rope) -> Head<'a> {
        let sizes = Sizes::of(tokens, heads.size);
        let of_keys = || vec![0f32; sizes.tokens * sizes.head];
        let of_queries = || vec![0f32; sizes.queries * sizes.head];
        let p = vec![0f32; sizes.tokens * sizes.queries];
        let (keys, keys_t, values) = (of_keys(), of_keys(), of_keys());
        Head { heads, rope, sizes, keys, keys_t, values, queries: of_queries(), queries_t: of_queries(), p }
    }

    /// Takes in the keys and values of a row from those of its head on.
    #[inline(always)]
    fn load_keys(&mut self, k: &[f32], v: &[f32]) {
        let (kv_width, size, stride) = (self.heads.kv_width(), self.heads.size, self.sizes.head);
        gather(k, kv_width, size, &mut self.keys, stride);
        turn_all(&mut self.keys[..k.len().div_ceil(kv_width) * stride], stride, size, self.rope, 0, 1.0);
        transpose(&self.keys, stride, &mut self.keys_t, self.sizes.tokens);
        gather(v, kv_width, size, &mut self.values, stride);
    }

    /// Takes in the `count` queries from position `first` on and computes their probabilities; `q` begins
    /// with the first one's.
    #[inline(always)]
    fn load_queries(&mut self, q: &[f32], first: usize, count: usize) {
        let (Sizes { tokens, head, queries: block }, size) = (self.sizes, self.heads.size);
        self.queries.fill(0.0);
        gather(q, self.heads.width(), size, &mut self.queries, head);
        turn_all(&mut self.queries[..count * head], head, size, self.rope, first, self.heads.scale());
        transpose(&self.queries, head, &mut self.queries_t, block);
        for query in (0..count).step_by(TILE) {
            let seen = first + query + TILE;
            for key in (0..seen).step_by(TILE) {
                let keys = part(&self.keys_t, 0, key, tokens);
                let tile = transposed_product(keys, part(&self.queries_t, 0, query, block), head);
                store(&tile, &mut self.p, key, query, block);
            }
            softmax_columns(&mut self.p[query..], block, seen, first + query);
        }
    }
}

kernel! {
    fn forward_row(q: &[f32], k: &[f32], v: &[f32], heads: Heads, rope: &Rope, out: &mut [f32]) {
        let (width, size) = (heads.width(), heads.size);
        let tokens = q.len() / width;
        if tokens == 0 {
            return;
        }
        let mut at_work = Head::new(tokens, heads, rope);
        let sizes = at_work.sizes;
        for head in 0..heads.heads {
            if head % heads.group() == 0 {
                let at = head / heads.group() * size;
                at_work.load_keys(&k[at..], &v[at..]);
            }
            for first in (0..tokens).step_by(sizes.queries) {
                let count = sizes.queries.min(tokens - first);
                at_work.load_queries(&q[first * width + head * size..], first, count);
                for query in (0..count).step_by(TILE) {
                    for d in (0..size).step_by(TILE) {
                        let p = part(&at_work.p, 0, query, sizes.queries);
                        let values = part(&at_work.values, 0, d, sizes.head);
                        let tile = transposed_product(p, values, first + query + TILE);
                        for (i, numbers) in tile.iter().enumerate().take(count - query) {
                            let numbers = &numbers[..TILE.min(size - d)];
                            let at = (first + query + i) * width + head * size + d;
                            out[at..at + numbers.len()].copy_from_slice(numbers);
                        }
                    }
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

/// P ∘ (dP − Σ P·dP) in place of dP, for eight queries.
#[inline(always)]
fn softmax_columns_backward(p: &[f32], d: &mut [f32], stride: usize, seen: usize) {
    let mut along = [0f32; TILE];
    for (p, d) in p.chunks(stride).zip(d.chunks(stride)).take(seen) {
        for query in 0..TILE {
            along[query] += p[query] * d[query];
        }
    }
    for (p, d) in p.chunks(stride).zip(d.chunks_mut(stride)).take(seen) {
        for query in 0..TILE {
            d[query] = p[query] * (d[query] - along[query]);
        }
    }
}

/// What the backward pass has besides, in the same layouts.
struct HeadBackward {
    values_t: Vec<f32>,
    grads: Vec<f32>,
    grads_t: Vec<f32>,
    d_queries: Vec<f32>,
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
    d_scores: Vec<f32>,
}

impl HeadBackward {
    #[inline(always)]
    fn new(sizes: Sizes) -> HeadBackward {
        let of_keys = || vec![0f32; sizes.tokens * sizes.head];
        let of_queries = || vec![0f32; sizes.queries * sizes.head];
        HeadBackward {
            values_t: of_keys(),
            grads: of_queries(),
            grads_t: of_queries(),
            d_queries: of_queries(),
            d_keys: of_keys(),
            d_values: of_keys(),
            d_scores: vec![0f32; sizes.tokens * sizes.queries],
        }
    }

    /// Gradients of the loaded queries, and of their scores, from those of what they saw.
    #[inline(always)]
    fn of_queries(&mut self, head: &Head, grad: &[f32], first: usize, count: usize) {
        let Sizes { tokens, head: stride, queries: block } = head.sizes;
        self.grads.fill(0.0);
        gather(grad, head.heads.width(), head.heads.size, &mut self.grads, stride);
        transpose(&self.grads, stride, &mut self.grads_t, block);
        for query in (0..count).step_by(TILE) {
            let seen = first + query + TILE;
            for key in (0..seen).step_by(TILE) {
                let values = part(&self.values_t, 0, key, tokens);
                let tile = transposed_product(values, part(&self.grads_t, 0, query, block), stride);
                store(&tile, &mut self.d_scores, key, query, block);
            }
            softmax_columns_backward(&head.p[query..], &mut self.d_scores[query..], block, seen);
            for d in (0..stride).step_by(TILE) {
                let d_scores = part(&self.d_scores, 0, query, block);
                let tile = transposed_product(d_scores, part(&head.keys, 0, d, stride), seen);
                store(&tile, &mut self.d_queries, query, d, stride);
            }
        }
        for (token, d_query) in self.d_queries.chunks_exact_mut(stride).take(count).enumerate() {
            head.rope.turn_back(&mut d_query[..head.heads.size], first + token, head.heads.scale());
        }
    }

    /// Adds what the loaded queries contribute to the gradients of keys and values.
    #[inline(always)]
    fn add_to_keys(&mut self, head: &Head, first: usize, count: usize) {
        let Sizes { head: stride, queries: block, .. } = head.sizes;
        let count = count.next_multiple_of(TILE);
        for key in (0..first + count).step_by(TILE) {
            // Queries before the key do not see it.
            let query = key.saturating_sub(first);
            for d in (0..stride).step_by(TILE) {
                let d_scores = part(&self.d_scores, key, query, block);
                let tile = product(d_scores, part(&head.queries, query, d, stride), count - query);
                store_sum(&tile, &mut self.d_keys, key, d, stride);
                let p = part(&head.p, key, query, block);
                let tile = product(p, part(&self.grads, query, d, stride), count - query);
                store_sum(&tile, &mut self.d_values, key, d, stride);
            }
        }
    }
}

kernel! {
    fn backward_row(q: &[f32], k: &[f32], v: &[f32], grad: &[f32], heads: Heads, rope: &Rope, out: RowGradients<'_>) {
        let (width, kv_width, size) = (heads.width(), heads.kv_width(), heads.size);
        let tokens = q.len() / width;
        if tokens == 0 {
            return;
        }
        let mut at_work = Head::new(tokens, heads, rope);
        let sizes = at_work.sizes;
        let mut backward = HeadBackward::new(sizes);
        for head in 0..heads.heads {
            let kv_at = head / heads.group() * size;
            if head % heads.group() == 0 {
                at_work.load_keys(&k[kv_at..], &v[kv_at..]);
                transpose(&at_work.values, sizes.head, &mut backward.values_t, sizes.tokens);
                backward.d_keys.fill(0.0);
                backward.d_values.fill(0.0);
            }
            for first in (0..tokens).step_by(sizes.queries) {
                let count = sizes.queries.min(tokens - first);
                let at = first * width + head * size;
                at_work.load_queries(&q[at..], first, count);
                backward.of_queries(&at_work, &grad[at..], first, count);
                for (token, d_query) in backward.d_queries.chunks_exact(sizes.head).take(count).enumerate() {
                    out.q[at + token * width..][..size].copy_from_slice(&d_query[..size]);
                }
                backward.add_to_keys(&at_work, first, count);
            }
            if (head + 1) % heads.group() == 0 {
                for token in 0..tokens {
                    let (at, from) = (token * kv_width + kv_at, token * sizes.head);
                    rope.turn_back(&mut backward.d_keys[from..from + size], token, 1.0);
                    out.k[at..at + size].copy_from_slice(&backward.d_keys[from..from + size]);
                    out.v[at..at + size].copy_from_slice(&backward.d_values[from..from + size]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, frequencies, random};
    use super::*;

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        // Sizes that are whole tiles and that are not, rows that are shorter and longer than a block.
        for (size, lengths) in [(8, vec![5, 0, 1, 11]), (12, vec![16, 3]), (4, vec![QUERIES + 9, 2])] {
            let rows = Arc::new(Rows::new(lengths));
            let rope = Arc::new(Rope::new(&frequencies(size), 80));
            let (tokens, wide, narrow) = (rows.tokens(), 4 * size, 2 * size);
            check(
                &[random(&[tokens, wide], 1), random(&[tokens, narrow], 2), random(&[tokens, narrow], 3)],
                |v| causal_attention(&v[0], &v[1], &v[2], &rows, &rope),
                |t| {
                    let heads = Heads::of(&t[0], &t[1], &rope)?;
                    composition::attention(&t[0], &t[1], &t[2], &rows, &rope, heads)
                },
            );
        }
    }
}
