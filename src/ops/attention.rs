//! Causal self-attention with rotary positions over packed rows. Heads are grouped (GQA): query head h uses
//! key and value head h / (heads / kv_heads).
//!
//! Each row is one task. The backward pass recomputes the probabilities instead of storing them.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::composition::{self, composition, fused};
use super::cpu::{read, tensor, uninit_vec};
use super::rope::{Heads, Rope};
use super::rows::{Rows, Spans};
use super::value::{Gradients, Value};
use kernels::{Left, PANEL, Right, TILE_ROWS, dot, kernel, multiply, softmax};

/// Queries whose scores exist at the same time: bounds memory for long rows.
const QUERIES: usize = 64;

/// Softmax(q·kᵀ / √d)·v within each row, causal, positions from 0: q \[N, H·d\], k and v \[N, KV·d\], not yet rotated; the
/// result is \[N, H·d\].
pub fn causal_attention(
    q: &Value,
    k: &Value,
    v: &Value,
    rows: &Arc<Rows>,
    rope: &Arc<Rope>,
) -> Result<Value> {
    attention_of(q, &Arc::new(Spans::whole(rows)), k, v, rows, rope)
}

/// The same for the queries of some tokens only, those of `spans`: q and the result are \[M, H·d\].
pub fn attention_of(
    q: &Value,
    spans: &Arc<Spans>,
    k: &Value,
    v: &Value,
    rows: &Arc<Rows>,
    rope: &Arc<Rope>,
) -> Result<Value> {
    let heads = Heads::of(q.tensor(), k.tensor(), rope)?;
    if q.tensor().dim(0)? != spans.rows().tokens()
        || !spans.fit(rows)
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
        let (spans, rows, rope) = (spans.clone(), rows.clone(), rope.clone());
        return composition(&[q, k, v], move |t| {
            composition::attention([&t[0], &t[1], &t[2]], &spans, &rows, &rope, heads)
        });
    }
    let (qs, ks, vs) = (read(q.tensor())?, read(k.tensor())?, read(v.tensor())?);
    // SAFETY: `forward_row` writes the output of each query.
    let mut out = unsafe { uninit_vec(qs.len()) };
    let (width, kv_width) = (heads.width(), heads.kv_width());
    let of_queries = spans.rows().split(&qs, width).into_par_iter().zip(spans.firsts());
    let of_keys = rows.split(&ks, kv_width).into_par_iter().zip(rows.split(&vs, kv_width));
    let outputs = spans.rows().split_mut(&mut out, width).into_par_iter();
    outputs
        .zip(of_queries)
        .zip(of_keys)
        .for_each(|((out, (q, first)), (k, v))| forward_row(q, *first, k, v, heads, rope, out));
    let out = tensor(out, q.tensor().shape())?;
    let kept = ([q.clone(), k.clone(), v.clone()], spans.clone(), rows.clone(), rope.clone());
    Ok(Value::result(out, &[q, k, v], move |grad, gradients| {
        attention_backward(&kept.0, &kept.1, &kept.2, &kept.3, heads, &grad, gradients)
    }))
}

fn attention_backward(
    [q, k, v]: &[Value; 3],
    spans: &Spans,
    rows: &Rows,
    rope: &Rope,
    heads: Heads,
    grad: &Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    let (qs, ks, vs, grads) = (read(q.tensor())?, read(k.tensor())?, read(v.tensor())?, read(grad)?);
    let (width, kv_width) = (heads.width(), heads.kv_width());
    let (mut dq, mut dk, mut dv) = (vec![0f32; qs.len()], vec![0f32; ks.len()], vec![0f32; vs.len()]);
    let queries = spans.rows();
    let of_queries = queries.split(&qs, width).into_par_iter().zip(queries.split(&grads, width));
    let of_queries = of_queries.zip(spans.firsts());
    let of_keys = rows.split(&ks, kv_width).into_par_iter().zip(rows.split(&vs, kv_width));
    let outputs = queries.split_mut(&mut dq, width).into_par_iter();
    let outputs = outputs.zip(rows.split_mut(&mut dk, kv_width)).zip(rows.split_mut(&mut dv, kv_width));
    outputs.zip(of_queries).zip(of_keys).for_each(|((((dq, dk), dv), ((q, grad), first)), (k, v))| {
        backward_row(q, *first, k, v, grad, heads, rope, RowGradients { q: dq, k: dk, v: dv });
    });
    gradients.add(q, tensor(dq, q.tensor().shape())?)?;
    gradients.add(k, tensor(dk, k.tensor().shape())?)?;
    gradients.add(v, tensor(dv, v.tensor().shape())?)
}

/// Copies the vectors of one head, \[tokens, size\] at a distance of `width` numbers, to a matrix \[tokens, stride\].
#[inline(always)]
fn gather(from: &[f32], width: usize, size: usize, to: &mut [f32], stride: usize) {
    for (from, to) in from.chunks(width).zip(to.chunks_exact_mut(stride)) {
        to[..size].copy_from_slice(&from[..size]);
    }
}

/// Rotates each vector of a matrix \[…, stride\] to its position and scales it.
#[inline(always)]
fn rotate_all(matrix: &mut [f32], stride: usize, size: usize, rope: &Rope, first: usize, scale: f32) {
    for (token, vector) in matrix.chunks_exact_mut(stride).enumerate() {
        rope.rotate(&mut vector[..size], first + token, scale);
    }
}

/// \[rows, columns\] → \[columns, stride\]
#[inline(always)]
fn transpose(from: &[f32], columns: usize, to: &mut [f32], stride: usize) {
    for (row, from) in from.chunks_exact(columns).enumerate() {
        for (number, to) in from.iter().zip(to.chunks_exact_mut(stride)) {
            to[row] = *number;
        }
    }
}

/// One key head and a block of its queries, as both passes need them. Vectors are padded with zeros to whole panels, so that
/// products need no special case at the edges.
struct Head<'a> {
    heads: Heads,
    rope: &'a Rope,
    /// Numbers from one token's vector to the next.
    stride: usize,
    /// Numbers from one query's scores to the next.
    seen: usize,
    /// Rotated, \[tokens, stride\], and transposed, \[stride, seen\].
    keys: Vec<f32>,
    keys_t: Vec<f32>,
    /// \[tokens, stride\]
    values: Vec<f32>,
    /// Rotated and scaled, \[queries, stride\].
    queries: Vec<f32>,
    /// Probabilities \[queries, seen\].
    p: Vec<f32>,
}

impl<'a> Head<'a> {
    fn new(tokens: usize, queries: usize, heads: Heads, rope: &'a Rope) -> Head<'a> {
        let (stride, seen) = (heads.size.next_multiple_of(PANEL), tokens.next_multiple_of(PANEL));
        let queries = queries.min(QUERIES);
        Head {
            heads,
            rope,
            stride,
            seen,
            keys: vec![0.0; tokens * stride],
            keys_t: vec![0.0; seen * stride],
            values: vec![0.0; tokens * stride],
            queries: vec![0.0; queries * stride],
            p: vec![0.0; queries * seen],
        }
    }

    /// Loads the keys and values of a row for this head, with which `k` and `v` begin.
    fn load_keys(&mut self, k: &[f32], v: &[f32]) {
        let (kv_width, size, stride) = (self.heads.kv_width(), self.heads.size, self.stride);
        gather(k, kv_width, size, &mut self.keys, stride);
        rotate_all(&mut self.keys, stride, size, self.rope, 0, 1.0);
        transpose(&self.keys, stride, &mut self.keys_t, self.seen);
        gather(v, kv_width, size, &mut self.values, stride);
    }

    /// Loads the `count` queries from position `first` on, with which `q` begins, and computes their probabilities. Those of
    /// keys that a query does not see are 0, up to the end of their panel.
    fn load_queries(&mut self, q: &[f32], first: usize, count: usize) {
        let (size, stride) = (self.heads.size, self.stride);
        gather(q, self.heads.width(), size, &mut self.queries, stride);
        rotate_all(&mut self.queries[..count * stride], stride, size, self.rope, first, self.heads.scale());
        for group in groups(count) {
            let shown = (first + group.end).next_multiple_of(PANEL);
            scores(
                &self.queries[group.start * stride..],
                &group,
                &self.keys_t,
                size,
                &mut self.p,
                self.seen,
                shown,
            );
            for query in group {
                softmax_row(&mut self.p[query * self.seen..][..shown], first + query + 1);
            }
        }
    }

    /// For a group of the loaded queries, writes Σ over the tokens that they see of `weights` \[queries, seen\] times the
    /// vectors \[tokens, stride\] to `out`, which has a vector every `out_stride` numbers.
    fn over_seen(
        &self,
        weights: &[f32],
        group: &Range<usize>,
        seen: usize,
        vectors: &[f32],
        out: &mut [f32],
        out_stride: usize,
    ) {
        let numbers = &weights[group.start * self.seen..];
        let left = Left { numbers, rows: group.len(), row: self.seen, steps: seen, step: 1 };
        for column in (0..self.heads.size).step_by(PANEL) {
            let columns = PANEL.min(self.heads.size - column);
            let right = Right { numbers: &vectors[column..], columns, step: self.stride };
            multiply(left, right, &mut out[column..], out_stride, false);
        }
    }

    /// For every key up to the last loaded query, adds Σ over the queries that see it of `weights`
    /// \[queries, seen\] times the vectors \[queries, stride\].
    fn add_over_queries(
        &self,
        weights: &[f32],
        first: usize,
        count: usize,
        vectors: &[f32],
        out: &mut [f32],
    ) {
        for keys in groups(first + count) {
            // Queries before the key do not see it.
            let query = keys.start.saturating_sub(first);
            let numbers = &weights[query * self.seen + keys.start..];
            let left = Left { numbers, rows: keys.len(), row: 1, steps: count - query, step: self.seen };
            for column in (0..self.stride).step_by(PANEL) {
                let numbers = &vectors[query * self.stride + column..];
                let right = Right { numbers, columns: PANEL, step: self.stride };
                multiply(left, right, &mut out[keys.start * self.stride + column..], self.stride, true);
            }
        }
    }
}

/// Tokens 0..count in groups of as many as a tile has rows.
fn groups(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(TILE_ROWS).map(move |start| start..(start + TILE_ROWS).min(count))
}

/// Writes the products of a group of vectors with the first `count` of the vectors in `others`, which are transposed, to the
/// group's rows of `out`.
fn scores(
    vectors: &[f32],
    group: &Range<usize>,
    others: &[f32],
    size: usize,
    out: &mut [f32],
    stride: usize,
    count: usize,
) {
    let left =
        Left { numbers: vectors, rows: group.len(), row: size.next_multiple_of(PANEL), steps: size, step: 1 };
    for column in (0..count).step_by(PANEL) {
        let right = Right { numbers: &others[column..], columns: PANEL, step: stride };
        multiply(left, right, &mut out[group.start * stride + column..], stride, false);
    }
}

kernel! {
    /// Probabilities in place of the first `seen` scores, and zeros in place of the others.
    fn softmax_row(scores: &mut [f32], seen: usize) {
        let (visible, hidden) = scores.split_at_mut(seen);
        softmax::<FUSED>(visible);
        hidden.fill(0.0);
    }
}

kernel! {
    /// P ∘ (dP − Σ P·dP) in place of dP.
    fn softmax_row_backward(p: &[f32], d: &mut [f32]) {
        let along = dot::<FUSED>(p, d);
        for (d, p) in d.iter_mut().zip(p) {
            *d = p * (*d - along);
        }
    }
}

/// `q` are the queries of the tokens from `first` on, `k` and `v` the whole row's.
fn forward_row(q: &[f32], first: usize, k: &[f32], v: &[f32], heads: Heads, rope: &Rope, out: &mut [f32]) {
    let (width, size) = (heads.width(), heads.size);
    let (queries, tokens) = (q.len() / width, k.len() / heads.kv_width());
    if queries == 0 {
        return;
    }
    let mut at_work = Head::new(tokens, queries, heads, rope);
    for head in 0..heads.heads {
        if head % heads.group() == 0 {
            let at = head / heads.group() * size;
            at_work.load_keys(&k[at..], &v[at..]);
        }
        for start in (0..queries).step_by(QUERIES) {
            let count = QUERIES.min(queries - start);
            at_work.load_queries(&q[start * width + head * size..], first + start, count);
            for group in groups(count) {
                let seen = first + start + group.end;
                let out = &mut out[(start + group.start) * width + head * size..];
                at_work.over_seen(&at_work.p, &group, seen, &at_work.values, out, width);
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

/// Further data of the backward pass, in the same layouts.
struct HeadBackward {
    values_t: Vec<f32>,
    grads: Vec<f32>,
    d_queries: Vec<f32>,
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
    d_scores: Vec<f32>,
}

impl HeadBackward {
    fn new(head: &Head) -> HeadBackward {
        let like = |numbers: &[f32]| vec![0f32; numbers.len()];
        HeadBackward {
            values_t: like(&head.keys_t),
            grads: like(&head.queries),
            d_queries: like(&head.queries),
            d_keys: like(&head.keys),
            d_values: like(&head.keys),
            d_scores: like(&head.p),
        }
    }

    /// Computes the gradients of the loaded queries and of their scores from the gradient of their output.
    fn of_queries(&mut self, head: &Head, grad: &[f32], first: usize, count: usize) {
        let (size, stride) = (head.heads.size, head.stride);
        gather(grad, head.heads.width(), size, &mut self.grads, stride);
        for group in groups(count) {
            let (seen, shown) = (first + group.end, (first + group.end).next_multiple_of(PANEL));
            let grads = &self.grads[group.start * stride..];
            scores(grads, &group, &self.values_t, size, &mut self.d_scores, head.seen, shown);
            for query in group.clone() {
                let at = query * head.seen;
                softmax_row_backward(&head.p[at..][..shown], &mut self.d_scores[at..][..shown]);
            }
            let d_queries = &mut self.d_queries[group.start * stride..];
            head.over_seen(&self.d_scores, &group, seen, &head.keys, d_queries, stride);
        }
        for (token, d_query) in self.d_queries.chunks_exact_mut(stride).take(count).enumerate() {
            head.rope.rotate_back(&mut d_query[..size], first + token, head.heads.scale());
        }
    }

    /// Adds what the loaded queries contribute to the gradients of keys and values.
    fn add_to_keys(&mut self, head: &Head, first: usize, count: usize) {
        head.add_over_queries(&self.d_scores, first, count, &head.queries, &mut self.d_keys);
        head.add_over_queries(&head.p, first, count, &self.grads, &mut self.d_values);
    }
}

#[allow(clippy::too_many_arguments)]
fn backward_row(
    q: &[f32],
    first: usize,
    k: &[f32],
    v: &[f32],
    grad: &[f32],
    heads: Heads,
    rope: &Rope,
    out: RowGradients<'_>,
) {
    let (width, kv_width, size) = (heads.width(), heads.kv_width(), heads.size);
    let (queries, tokens) = (q.len() / width, k.len() / kv_width);
    if queries == 0 {
        return;
    }
    let mut at_work = Head::new(tokens, queries, heads, rope);
    let mut backward = HeadBackward::new(&at_work);
    let stride = at_work.stride;
    for head in 0..heads.heads {
        let kv_at = head / heads.group() * size;
        if head % heads.group() == 0 {
            at_work.load_keys(&k[kv_at..], &v[kv_at..]);
            transpose(&at_work.values, stride, &mut backward.values_t, at_work.seen);
            backward.d_keys.fill(0.0);
            backward.d_values.fill(0.0);
        }
        for start in (0..queries).step_by(QUERIES) {
            let count = QUERIES.min(queries - start);
            let at = start * width + head * size;
            at_work.load_queries(&q[at..], first + start, count);
            backward.of_queries(&at_work, &grad[at..], first + start, count);
            for (query, d_query) in backward.d_queries.chunks_exact(stride).take(count).enumerate() {
                out.q[at + query * width..][..size].copy_from_slice(&d_query[..size]);
            }
            backward.add_to_keys(&at_work, first + start, count);
        }
        if (head + 1) % heads.group() == 0 {
            for token in 0..tokens {
                let (at, from) = (token * kv_width + kv_at, token * stride);
                rope.rotate_back(&mut backward.d_keys[from..from + size], token, 1.0);
                out.k[at..at + size].copy_from_slice(&backward.d_keys[from..from + size]);
                out.v[at..at + size].copy_from_slice(&backward.d_values[from..from + size]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{check, frequencies, random};
    use super::super::linear::select_rows;
    use super::*;

    #[test]
    fn it_is_the_plain_composition_and_has_its_gradient() {
        // Sizes of whole tiles and of parts of one, rows shorter and longer than a block.
        for (size, lengths) in [(8, vec![5, 0, 1, 11]), (12, vec![16, 3]), (4, vec![QUERIES + 9, 2])] {
            let rows = Arc::new(Rows::new(lengths));
            let rope = Arc::new(Rope::new(&frequencies(size), 80));
            let (tokens, wide, narrow) = (rows.tokens(), 4 * size, 2 * size);
            check(
                &[random(&[tokens, wide], 1), random(&[tokens, narrow], 2), random(&[tokens, narrow], 3)],
                |v| causal_attention(&v[0], &v[1], &v[2], &rows, &rope),
                |t| {
                    let heads = Heads::of(&t[0], &t[1], &rope)?;
                    composition::attention([&t[0], &t[1], &t[2]], &Spans::whole(&rows), &rows, &rope, heads)
                },
            );
        }
    }

    #[test]
    fn queries_of_some_tokens_are_those_of_all_left_out() {
        let rows = Arc::new(Rows::new([QUERIES + 20, 3, 11]));
        let rope = Arc::new(Rope::new(&frequencies(8), 90));
        let spans = Arc::new(Spans::new([3..QUERIES + 19, 2..2, 5..11]));
        let indices = spans.indices(&rows);
        let index = Tensor::new(&indices[..], &candle_core::Device::Cpu).unwrap();
        check(
            &[
                random(&[rows.tokens(), 16], 1),
                random(&[rows.tokens(), 8], 2),
                random(&[rows.tokens(), 8], 3),
            ],
            |v| attention_of(&select_rows(&v[0], indices.clone())?, &spans, &v[1], &v[2], &rows, &rope),
            |t| {
                let heads = Heads::of(&t[0], &t[1], &rope)?;
                let qkv = [&t[0], &t[1], &t[2]];
                composition::attention(qkv, &Spans::whole(&rows), &rows, &rope, heads)?
                    .index_select(&index, 0)
            },
        );
    }
}
