//! Causal self-attention with rotary positions over packed rows. Heads are grouped (GQA): query head h uses
//! key and value head h / (heads / kv_heads).
//!
//! A row and those that continue it are a family. Each key head of a family is one task: it loads the prefix once, and sums its
//! gradients in the order of the rows. The backward pass recomputes the probabilities instead of storing them.

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

/// Softmax(q·kᵀ / √d)·v within each row and the prefix that it continues, causal, positions from 0: q \[N, H·d\], k and v \[N, KV·d\], not yet rotated; the
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
    let families = Families::new(spans, rows, heads);
    let (qs, ks, vs) = (read(q.tensor())?, read(k.tensor())?, read(v.tensor())?);
    let parts = families.by_head(&qs, &ks, &vs, |family, kv_head, _| family.forward(kv_head, rope));
    let out = tensor(families.queries_of(&parts), q.tensor().shape())?;
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
    let families = Families::new(spans, rows, heads);
    let (qs, ks, vs, grads) = (read(q.tensor())?, read(k.tensor())?, read(v.tensor())?, read(grad)?);
    let grads = families.queries.split(&grads, heads.width());
    let parts = families
        .by_head(&qs, &ks, &vs, |family, kv_head, index| family.backward(grads[index], kv_head, rope));
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        dq.push(part.q);
        dk.push(part.k);
        dv.push(part.v);
    }
    gradients.add(q, tensor(families.queries_of(&dq), q.tensor().shape())?)?;
    gradients.add(k, tensor(families.keys_of(&dk), k.tensor().shape())?)?;
    gradients.add(v, tensor(families.keys_of(&dv), v.tensor().shape())?)
}

/// A row of a family, and those of its tokens that ask.
struct Member {
    /// The position of its first token.
    first: usize,
    tokens: usize,
    /// The position of its first query.
    first_query: usize,
    queries: usize,
}

/// A batch by families.
struct Families {
    heads: Heads,
    members: Vec<Vec<Member>>,
    /// The keys and the queries of each family.
    keys: Rows,
    queries: Rows,
}

impl Families {
    fn new(spans: &Spans, rows: &Rows, heads: Heads) -> Families {
        let families = rows.families();
        let member = |row: usize| Member {
            first: rows.first(row),
            tokens: rows.range(row).len(),
            first_query: rows.first(row) + spans.firsts()[row],
            queries: spans.rows().range(row).len(),
        };
        Families {
            heads,
            members: families.iter().map(|rows| rows.clone().map(member).collect()).collect(),
            keys: rows.joined(&families),
            queries: spans.rows().joined(&families),
        }
    }

    /// The results of `work` for each family and key head, in this order. `work` also gets the number of the family.
    fn by_head<R: Send>(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        work: impl Fn(&Family, usize, usize) -> R + Sync,
    ) -> Vec<R> {
        let (heads, kv_width) = (self.heads, self.heads.kv_width());
        let q = self.queries.split(q, heads.width());
        let (k, v) = (self.keys.split(k, kv_width), self.keys.split(v, kv_width));
        let tasks = (0..self.members.len() * heads.kv_heads).into_par_iter();
        let task = |task: usize| {
            let (index, kv_head) = (task / heads.kv_heads, task % heads.kv_heads);
            let members = &self.members[index];
            work(&Family { members, heads, q: q[index], k: k[index], v: v[index] }, kv_head, index)
        };
        tasks.map(task).collect()
    }

    /// What [`Families::by_head`] computed for the queries, as \[M, H·d\].
    fn queries_of(&self, parts: &[Vec<f32>]) -> Vec<f32> {
        self.side_by_side(parts, &self.queries, self.heads.group() * self.heads.size)
    }

    /// What it computed for the keys or values, as \[N, KV·d\].
    fn keys_of(&self, parts: &[Vec<f32>]) -> Vec<f32> {
        self.side_by_side(parts, &self.keys, self.heads.size)
    }

    /// The parts of a family's key heads, each with `width` numbers per token, side by side.
    fn side_by_side(&self, parts: &[Vec<f32>], rows: &Rows, width: usize) -> Vec<f32> {
        let (kv_heads, whole) = (self.heads.kv_heads, self.heads.kv_heads * width);
        // SAFETY: every number is one of a part.
        let mut out = unsafe { uninit_vec(rows.tokens() * whole) };
        let families = rows.split_mut(&mut out, whole).into_par_iter().zip(parts.par_chunks(kv_heads));
        families.for_each(|(out, parts)| {
            for (head, part) in parts.iter().enumerate() {
                for (to, from) in out.chunks_exact_mut(whole).zip(part.chunks_exact(width)) {
                    to[head * width..][..width].copy_from_slice(from);
                }
            }
        });
        out
    }
}

/// A row and the rows that continue it, with their queries, keys and values.
struct Family<'a> {
    members: &'a [Member],
    heads: Heads,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// The gradients of one key head of a family: of its queries \[M, group · d\], keys and values \[N, d\].
struct HeadGradients {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Family<'_> {
    /// Numbers per query of the heads that share a key head.
    fn group_width(&self) -> usize {
        self.heads.group() * self.heads.size
    }

    /// Zeros for the queries of one key head.
    fn zeros(&self) -> Vec<f32> {
        vec![0.0; self.q.len() / self.heads.kv_heads]
    }

    /// Room for any of the members, or `None` if no token asks.
    fn head<'a>(&self, rope: &'a Rope) -> Option<Head<'a>> {
        let queries =
            self.members.iter().map(|member| member.queries).max().filter(|queries| *queries > 0)?;
        let tokens = self.members.iter().map(|member| member.first + member.tokens).max()?;
        Some(Head::new(tokens, queries, self.heads, rope))
    }

    /// The members, each with the numbers of the family's keys and queries before its own.
    fn members(&self) -> impl Iterator<Item = (&Member, usize, usize)> {
        self.members.iter().scan((0, 0), |before, member| {
            let (keys, queries) = *before;
            *before = (keys + member.tokens, queries + member.queries);
            Some((member, keys, queries))
        })
    }

    /// The keys and values of one head from token `key` of the family on; none if a row without tokens is the last.
    fn keys_from(&self, key: usize, kv_head: usize) -> [&[f32]; 2] {
        let at = key * self.heads.kv_width() + kv_head * self.heads.size;
        [self.k, self.v].map(|numbers| numbers.get(at..).unwrap_or_default())
    }

    /// The output of the heads that share a key head, \[M, group · d\].
    fn forward(&self, kv_head: usize, rope: &Rope) -> Vec<f32> {
        let mut all = self.zeros();
        let Some(mut at_work) = self.head(rope) else { return all };
        let (width, size, part) = (self.heads.width(), self.heads.size, self.group_width());
        for (member, key, query) in self.members() {
            at_work.load_keys(self.keys_from(key, kv_head), member);
            for head in 0..self.heads.group() {
                for (start, count) in blocks(member.queries) {
                    let first = member.first_query + start;
                    let q = &self.q[(query + start) * width + kv_head * part + head * size..];
                    at_work.load_queries(q, first, count);
                    for group in groups(count) {
                        let out = &mut all[(query + start + group.start) * part + head * size..];
                        let seen = first + group.end;
                        at_work.over_seen(&at_work.p, &group, seen, &at_work.values, out, part);
                    }
                }
            }
        }
        all
    }

    /// The gradients of one key head and its queries, given that of the family's output.
    fn backward(&self, grad: &[f32], kv_head: usize, rope: &Rope) -> HeadGradients {
        let of_keys = self.k.len() / self.heads.kv_heads;
        let mut out = HeadGradients { q: self.zeros(), k: vec![0.0; of_keys], v: vec![0.0; of_keys] };
        let Some(mut at_work) = self.head(rope) else { return out };
        let mut backward = HeadBackward::new(&at_work);
        let (width, size, part) = (self.heads.width(), self.heads.size, self.group_width());
        for (index, (member, key, query)) in self.members().enumerate() {
            at_work.load_keys(self.keys_from(key, kv_head), member);
            backward.load_values(&at_work, member);
            for head in 0..self.heads.group() {
                for (start, count) in blocks(member.queries) {
                    let first = member.first_query + start;
                    let at = (query + start) * width + kv_head * part + head * size;
                    at_work.load_queries(&self.q[at..], first, count);
                    backward.of_queries(&at_work, &grad[at..], first, count);
                    let d_queries = backward.d_queries.chunks_exact(at_work.stride).take(count);
                    let to = out.q[(query + start) * part + head * size..].chunks_mut(part);
                    d_queries.zip(to).for_each(|(d_query, to)| to[..size].copy_from_slice(&d_query[..size]));
                    backward.add_to_keys(&at_work, first, count);
                }
            }
            if index > 0 {
                backward.store_keys(&at_work, member, key, &mut out);
            }
        }
        // Those of the prefix are whole once all members have added to them.
        backward.store_keys(&at_work, &self.members[0], 0, &mut out);
        out
    }
}

/// Queries 0..count in blocks: the first of each and how many it has.
fn blocks(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(QUERIES).map(move |start| (start, QUERIES.min(count - start)))
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
        for (number, to) in from.iter().zip(to.chunks_mut(stride)) {
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

    /// Loads the keys and values of a row for this head, with which `k` and `v` begin, after those of its prefix.
    fn load_keys(&mut self, [k, v]: [&[f32]; 2], row: &Member) {
        let (kv_width, size, stride) = (self.heads.kv_width(), self.heads.size, self.stride);
        let own = row.first * stride..(row.first + row.tokens) * stride;
        let keys = &mut self.keys[own.clone()];
        gather(k, kv_width, size, keys, stride);
        rotate_all(keys, stride, size, self.rope, row.first, 1.0);
        transpose(keys, stride, &mut self.keys_t[row.first..], self.seen);
        gather(v, kv_width, size, &mut self.values[own], stride);
    }

    /// Loads the `count` queries from position `first` on, with which `q` begins, and computes their probabilities. Those of
    /// keys that a query does not see are 0, up to the end of their panel.
    fn load_queries(&mut self, q: &[f32], first: usize, count: usize) {
        let (size, stride) = (self.heads.size, self.stride);
        let queries = &mut self.queries[..count * stride];
        gather(q, self.heads.width(), size, queries, stride);
        rotate_all(queries, stride, size, self.rope, first, self.heads.scale());
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

    /// Prepares for the keys and values of a row, which `head` has loaded.
    fn load_values(&mut self, head: &Head, row: &Member) {
        let own = row.first * head.stride..(row.first + row.tokens) * head.stride;
        transpose(&head.values[own.clone()], head.stride, &mut self.values_t[row.first..], head.seen);
        self.d_keys[own.clone()].fill(0.0);
        self.d_values[own].fill(0.0);
    }

    /// Computes the gradients of the loaded queries and of their scores from the gradient of their output.
    fn of_queries(&mut self, head: &Head, grad: &[f32], first: usize, count: usize) {
        let (size, stride) = (head.heads.size, head.stride);
        gather(grad, head.heads.width(), size, &mut self.grads[..count * stride], stride);
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

    /// Writes the gradients of a row's keys and values to those of its family, from token `key` on.
    fn store_keys(&mut self, head: &Head, row: &Member, key: usize, out: &mut HeadGradients) {
        let (size, stride) = (head.heads.size, head.stride);
        let to = out.k[key * size..].chunks_exact_mut(size).zip(out.v[key * size..].chunks_exact_mut(size));
        for (position, (d_key, d_value)) in (row.first..row.first + row.tokens).zip(to) {
            let from = position * stride..position * stride + size;
            head.rope.rotate_back(&mut self.d_keys[from.clone()], position, 1.0);
            d_key.copy_from_slice(&self.d_keys[from.clone()]);
            d_value.copy_from_slice(&self.d_values[from]);
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
    fn rows_that_continue_one_are_those_that_each_begin_with_its_copy() {
        // A prefix of more than a block, one without a token, one that nothing continues, rows without tokens.
        let families = [(QUERIES + 3, vec![5, 0, 70]), (0, vec![3, 2]), (4, vec![]), (9, vec![1, 12, 0])];
        let shared = Arc::new(Rows::of_families(families.clone()));
        let rope = Arc::new(Rope::new(&frequencies(8), 2 * QUERIES + 20));
        let (mut copied, mut lengths, mut spans, mut next) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (prefix, rows) in families {
            let start = next;
            for (index, length) in [prefix].into_iter().chain(rows).enumerate() {
                let before = if index == 0 { 0 } else { prefix };
                copied.extend((start..start + before).chain(next..next + length).map(|token| token as u32));
                lengths.push(before + length);
                spans.push(before..before + length);
                next += length;
            }
        }
        let (copies, spans) = (Arc::new(Rows::new(lengths)), Arc::new(Spans::new(spans)));
        let copied = Tensor::new(copied, &candle_core::Device::Cpu).unwrap();
        let (tokens, rope_kept) = (shared.tokens(), rope.clone());
        check(
            &[random(&[tokens, 32], 1), random(&[tokens, 16], 2), random(&[tokens, 16], 3)],
            |v| causal_attention(&v[0], &v[1], &v[2], &shared, &rope),
            |t| {
                let heads = Heads::of(&t[0], &t[1], &rope_kept)?;
                let [k, v] = [1, 2].map(|at| t[at].index_select(&copied, 0));
                composition::attention([&t[0], &k?, &v?], &spans, &copies, &rope_kept, heads)
            },
        );
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
