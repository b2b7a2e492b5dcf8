//! Causal self-attention with rotary positions over packed rows. Heads are grouped (GQA): query head h uses
//! key and value head h / (heads / kv_heads).
//!
//! Scores are kept as \[keys, queries\]: eight queries lie side by side, so that their softmax is as
//! vectorised as the products are. Probabilities are computed again in the backward pass, never stored.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

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

/// Probabilities \[keys, queries\] of the queries from position `first` on, of which there are `count`.
#[inline(always)]
fn probabilities(
    keys_t: &[f32],
    queries_t: &[f32],
    sizes: Sizes,
    first: usize,
    count: usize,
    out: &mut [f32],
) {
    for query in (0..count).step_by(TILE) {
        let seen = first + query + TILE;
        for key in (0..seen).step_by(TILE) {
            let keys = part(keys_t, 0, key, sizes.tokens);
            let tile = transposed_product(keys, part(queries_t, 0, query, sizes.queries), sizes.head);
            store(&tile, out, key, query, sizes.queries);
        }
        softmax_columns(&mut out[query..], sizes.queries, seen, first + query);
    }
}

kernel! {
    fn forward_row(q: &[f32], k: &[f32], v: &[f32], heads: Heads, rope: &Rope, out: &mut [f32]) {
        let (width, kv_width, size) = (heads.width(), heads.kv_width(), heads.size);
        let tokens = q.len() / width;
        let sizes = Sizes::of(tokens, size);
        let scratch = |rows: usize| vec![0f32; rows * sizes.head];
        let (mut keys, mut keys_t, mut values) = (scratch(sizes.tokens), scratch(sizes.tokens), scratch(sizes.tokens));
        let (mut queries, mut queries_t) = (scratch(sizes.queries), scratch(sizes.queries));
        let mut scores = vec![0f32; sizes.tokens * sizes.queries];
        for head in 0..heads.heads {
            if head % heads.group() == 0 {
                let at = head / heads.group() * size;
                gather(&k[at..], kv_width, size, &mut keys, sizes.head);
                turn_all(&mut keys[..tokens * sizes.head], sizes.head, size, rope, 0, 1.0);
                transpose(&keys, sizes.head, &mut keys_t, sizes.tokens);
                gather(&v[at..], kv_width, size, &mut values, sizes.head);
            }
            for first in (0..tokens).step_by(sizes.queries) {
                let count = sizes.queries.min(tokens - first);
                queries.fill(0.0);
                gather(&q[first * width + head * size..], width, size, &mut queries, sizes.head);
                turn_all(&mut queries[..count * sizes.head], sizes.head, size, rope, first, heads.scale());
                transpose(&queries, sizes.head, &mut queries_t, sizes.queries);
                probabilities(&keys_t, &queries_t, sizes, first, count, &mut scores);
                for query in (0..count).step_by(TILE) {
                    for d in (0..size).step_by(TILE) {
                        let p = part(&scores, 0, query, sizes.queries);
                        let tile = transposed_product(p, part(&values, 0, d, sizes.head), first + query + TILE);
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

kernel! {
    fn backward_row(q: &[f32], k: &[f32], v: &[f32], grad: &[f32], heads: Heads, rope: &Rope, out: RowGradients<'_>) {
        let (width, kv_width, size) = (heads.width(), heads.kv_width(), heads.size);
        let tokens = q.len() / width;
        let sizes = Sizes::of(tokens, size);
        let scratch = |rows: usize| vec![0f32; rows * sizes.head];
        let (mut keys, mut keys_t, mut d_keys) = (scratch(sizes.tokens), scratch(sizes.tokens), scratch(sizes.tokens));
        let (mut values, mut values_t, mut d_values) =
            (scratch(sizes.tokens), scratch(sizes.tokens), scratch(sizes.tokens));
        let (mut queries, mut queries_t) = (scratch(sizes.queries), scratch(sizes.queries));
        let (mut grads, mut grads_t) = (scratch(sizes.queries), scratch(sizes.queries));
        let mut d_queries = scratch(sizes.queries);
        let mut scores = vec![0f32; sizes.tokens * sizes.queries];
        let mut d_scores = scores.clone();
        for head in 0..heads.heads {
            let kv_at = head / heads.group() * size;
            if head % heads.group() == 0 {
                gather(&k[kv_at..], kv_width, size, &mut keys, sizes.head);
                turn_all(&mut keys[..tokens * sizes.head], sizes.head, size, rope, 0, 1.0);
                transpose(&keys, sizes.head, &mut keys_t, sizes.tokens);
                gather(&v[kv_at..], kv_width, size, &mut values, sizes.head);
                transpose(&values, sizes.head, &mut values_t, sizes.tokens);
                d_keys.fill(0.0);
                d_values.fill(0.0);
            }
            for first in (0..tokens).step_by(sizes.queries) {
                let count = sizes.queries.min(tokens - first);
                let at = first * width + head * size;
                queries.fill(0.0);
                grads.fill(0.0);
                gather(&q[at..], width, size, &mut queries, sizes.head);
                turn_all(&mut queries[..count * sizes.head], sizes.head, size, rope, first, heads.scale());
                transpose(&queries, sizes.head, &mut queries_t, sizes.queries);
                gather(&grad[at..], width, size, &mut grads, sizes.head);
                transpose(&grads, sizes.head, &mut grads_t, sizes.queries);
                probabilities(&keys_t, &queries_t, sizes, first, count, &mut scores);
                for query in (0..count).step_by(TILE) {
                    let seen = first + query + TILE;
                    for key in (0..seen).step_by(TILE) {
                        let of_values = part(&values_t, 0, key, sizes.tokens);
                        let of_grads = part(&grads_t, 0, query, sizes.queries);
                        let tile = transposed_product(of_values, of_grads, sizes.head);
                        store(&tile, &mut d_scores, key, query, sizes.queries);
                    }
                    softmax_columns_backward(&scores[query..], &mut d_scores[query..], sizes.queries, seen);
                    for d in (0..size).step_by(TILE) {
                        let ds = part(&d_scores, 0, query, sizes.queries);
                        let tile = transposed_product(ds, part(&keys, 0, d, sizes.head), seen);
                        store(&tile, &mut d_queries, query, d, sizes.head);
                    }
                }
                for (token, d_query) in d_queries.chunks_exact_mut(sizes.head).take(count).enumerate() {
                    rope.turn_back(&mut d_query[..size], first + token, heads.scale());
                    out.q[at + token * width..][..size].copy_from_slice(&d_query[..size]);
                }
                let all = count.next_multiple_of(TILE);
                for key in (0..first + all).step_by(TILE) {
                    // Queries before the key do not see it.
                    let query = key.saturating_sub(first);
                    for d in (0..size).step_by(TILE) {
                        let ds = part(&d_scores, key, query, sizes.queries);
                        let tile = product(ds, part(&queries, query, d, sizes.head), all - query);
                        store_sum(&tile, &mut d_keys, key, d, sizes.head);
                        let p = part(&scores, key, query, sizes.queries);
                        let tile = product(p, part(&grads, query, d, sizes.head), all - query);
                        store_sum(&tile, &mut d_values, key, d, sizes.head);
                    }
                }
            }
            if (head + 1) % heads.group() == 0 {
                for token in 0..tokens {
                    let (at, from) = (token * kv_width + kv_at, token * sizes.head);
                    rope.turn_back(&mut d_keys[from..from + size], token, 1.0);
                    out.k[at..at + size].copy_from_slice(&d_keys[from..from + size]);
                    out.v[at..at + size].copy_from_slice(&d_values[from..from + size]);
                }
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
        let Heads { heads, kv_heads, size } = Heads::of(q, k, rope)?;
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
            let piece = |x: &Tensor| x.narrow(0, range.start, tokens)?.reshape((tokens, (), size));
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
            outputs.push(p.matmul(&v)?.transpose(0, 1)?.reshape((tokens, ()))?);
        }
        Tensor::cat(&outputs, 0)
    }

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        // Sizes that are whole tiles and that are not, rows that are shorter and longer than a block.
        for (size, lengths) in [(8, vec![5, 1, 11]), (12, vec![16, 3]), (4, vec![QUERIES + 9, 2])] {
            let rows = Arc::new(Rows::new(lengths));
            let rope = Arc::new(Rope::new(size, 10_000.0, 80));
            let (tokens, wide, narrow) = (rows.tokens(), 4 * size, 2 * size);
            check(
                &[random(&[tokens, wide], 1), random(&[tokens, narrow], 2), random(&[tokens, narrow], 3)],
                |v| causal_attention(&v[0], &v[1], &v[2], &rows, &rope),
                |t| plain(&t[0], &t[1], &t[2], &rows, &rope),
            );
        }
    }
}
