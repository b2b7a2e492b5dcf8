//! Operations as compositions of candle's own. They run on devices and in number types that have no fused kernels, and tests
//! compare the kernels with them. Intermediate results are not kept: the backward pass of an operation recomputes them in
//! candle's graph, which lives only that long.

use candle_core::{D, DType, Result, Tensor, Var};

use super::cpu::on_cpu_f32;
use super::rope::{Heads, Rope};
use super::rows::{Rows, Spans};
use super::value::{Gradients, Value};

/// Whether the fused kernels can work on these: f32 on the CPU.
pub(super) fn fused(values: &[&Value]) -> bool {
    values.iter().all(|value| on_cpu_f32(value.tensor()))
}

/// The result of `f`; candle differentiates it in the backward pass.
pub(super) fn composition(
    inputs: &[&Value],
    f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Value> {
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.tensor().clone()).collect();
    let out = f(&tensors)?;
    let kept: Vec<Value> = inputs.iter().map(|input| (*input).clone()).collect();
    Ok(Value::result(out, inputs, move |grad, gradients| {
        let mut variables = Vec::with_capacity(kept.len());
        let mut tensors = Vec::with_capacity(kept.len());
        for input in &kept {
            let variable = gradients.wants(input).then(|| Var::from_tensor(input.tensor())).transpose()?;
            tensors.push(variable.as_ref().map_or(input.tensor(), Var::as_tensor).clone());
            variables.push(variable);
        }
        let out = f(&tensors)?;
        let mut found = (out * grad)?.sum_all()?.backward()?;
        for (input, variable) in kept.iter().zip(&variables) {
            if let Some(gradient) = variable.as_ref().and_then(|variable| found.remove(variable)) {
                gradients.add(input, gradient)?;
            }
        }
        Ok(())
    }))
}

/// The number type of sums and exponentials: f32 for smaller types.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// See [`super::rms_norm()`].
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    let runs = x.reshape(((), weight.elem_count()))?.to_dtype(wide(x.dtype()))?;
    let scale = (runs.sqr()?.mean_keepdim(1)? + epsilon)?.sqrt()?;
    runs.broadcast_div(&scale)?.to_dtype(x.dtype())?.broadcast_mul(weight)?.reshape(x.shape())
}

/// See [`super::swiglu()`].
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// Softmax over the last dimension.
pub(super) fn softmax(scores: &Tensor) -> Result<Tensor> {
    let wide_scores = scores.to_dtype(wide(scores.dtype()))?;
    let shifted = wide_scores.broadcast_sub(&wide_scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?.to_dtype(scores.dtype())
}

/// Rotates vectors \[…, d\] by angles whose cosines and sines broadcast to \[…, d/2\].
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let left = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let right = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Tensor::cat(&[left, right], D::Minus1)
}

/// See [`super::attention_of`]. Each row is padded at the end: its queries, and the keys of its prefix and its own, where the
/// causal mask hides the padding.
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    spans: &Spans,
    rows: &Rows,
    rope: &Rope,
    heads: Heads,
) -> Result<Tensor> {
    let queries = spans.rows();
    let (count, asking, seen, size) = (rows.len(), queries.longest(), rows.longest(), heads.size);
    if queries.tokens() == 0 {
        return q.zeros_like();
    }
    // Padding is a copy of the first token, at position 0.
    let mut of_keys = vec![0u32; count * seen];
    let (mut of_queries, mut positions) = (vec![0u32; count * asking], vec![0u32; count * asking]);
    let mut back = Vec::with_capacity(queries.tokens());
    for row in 0..count {
        for (to, token) in of_keys[row * seen..].iter_mut().zip(rows.prefix(row).chain(rows.range(row))) {
            *to = token as u32;
        }
        let first = rows.first(row) + spans.firsts()[row];
        for (at, query) in queries.range(row).enumerate() {
            let to = row * asking + at;
            (of_queries[to], positions[to]) = (query as u32, (first + at) as u32);
            back.push(to as u32);
        }
    }
    let device = q.device();
    let (cos, sin) = rope.tensors(device, q.dtype())?;
    let split = |x: &Tensor, from: Vec<u32>, heads: usize| {
        let from = Tensor::new(from, device)?;
        x.index_select(&from, 0)?.reshape((count, (), heads, size))?.transpose(1, 2)?.contiguous()
    };
    let positions = Tensor::new(positions, device)?;
    let of_positions = |angles: &Tensor| angles.index_select(&positions, 0)?.reshape((count, 1, asking, ()));
    let q = split(q, of_queries, heads.heads)?;
    let q = (rotate(&q, &of_positions(&cos)?, &of_positions(&sin)?)? * f64::from(heads.scale()))?;
    let repeat = |x: Tensor| {
        let shape = (count, heads.kv_heads, heads.group(), seen, heads.size);
        x.unsqueeze(2)?.broadcast_as(shape)?.reshape((count, heads.heads, seen, heads.size))
    };
    let k = split(k, of_keys.clone(), heads.kv_heads)?;
    let k = repeat(rotate(&k, &cos.narrow(0, 0, seen)?, &sin.narrow(0, 0, seen)?)?)?;
    let v = repeat(split(v, of_keys, heads.kv_heads)?)?;
    let shape = (count, 1, asking, seen);
    let later = Tensor::arange(0, seen as u32, device)?.broadcast_as(shape)?;
    let later = later.gt(&positions.reshape((count, 1, asking, 1))?.broadcast_as(shape)?)?;
    let number = |x: f32| Tensor::new(x, device)?.to_dtype(q.dtype())?.broadcast_as(shape);
    let mask = later.where_cond(&number(f32::NEG_INFINITY)?, &number(0.0)?)?;
    let p = softmax(&q.matmul(&k.t()?)?.broadcast_add(&mask)?)?;
    let back = Tensor::new(back, device)?;
    p.matmul(&v)?.transpose(1, 2)?.reshape((count * asking, heads.width()))?.index_select(&back, 0)
}

/// Number of tokens whose logits exist at the same time.
fn block(vocabulary: usize) -> usize {
    ((64 << 20) / (4 * vocabulary.max(1))).clamp(16, 4096)
}

/// Log-probabilities of the whole vocabulary after some tokens, at the temperature 1 / `sharpness`.
fn log_softmax(hidden: &Tensor, weight: &Tensor, sharpness: f64) -> Result<Tensor> {
    let logits = hidden.matmul(&weight.t()?)?;
    let scores = (logits.to_dtype(wide(logits.dtype()))? * sharpness)?;
    let shifted = scores.broadcast_sub(&scores.max_keepdim(1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)
}

/// The divergence at each position, as [`super::compared_log_probabilities`] tells it: in f32, or f64 where the hidden states are.
pub(super) fn divergences(hidden: [&Tensor; 2], weights: [&Tensor; 2], sharpness: f64) -> Result<Vec<f32>> {
    let tokens = hidden[0].dim(0)?;
    let block = block(weights[0].dim(0)?);
    let mut all = Vec::with_capacity(tokens);
    for start in (0..tokens).step_by(block) {
        let count = block.min(tokens - start);
        let log_of =
            |model: usize| log_softmax(&hidden[model].narrow(0, start, count)?, weights[model], sharpness);
        let (p, q) = (log_of(0)?, log_of(1)?);
        let divergence = (p.exp()? * (&p - &q)?)?.sum(1)?;
        all.extend(divergence.to_dtype(DType::F32)?.to_vec1::<f32>()?);
    }
    Ok(all)
}

/// See [`super::token_log_probabilities`]: in f32, or f64 where the hidden states are.
pub(super) fn token_log_probabilities(
    hidden: &Value,
    weight: &Value,
    targets: Vec<u32>,
    sharpness: f64,
) -> Result<Value> {
    let tokens = targets.len();
    let block = block(weight.tensor().dim(0)?);
    let targets = Tensor::from_vec(targets, (tokens, 1), hidden.tensor().device())?;
    let blocks = move || (0..tokens).step_by(block).map(move |start| (start, block.min(tokens - start)));
    let mut parts = Vec::new();
    for (start, count) in blocks() {
        let log_p = log_softmax(&hidden.tensor().narrow(0, start, count)?, weight.tensor(), sharpness)?;
        let chosen = log_p.gather(&targets.narrow(0, start, count)?, 1)?.squeeze(1)?;
        let entropy = (log_p.exp()? * &log_p)?.sum(1)?.neg()?;
        parts.push(Tensor::stack(&[chosen, entropy], 0)?);
    }
    let out = match parts.is_empty() {
        true => Tensor::zeros((2, 0), wide(hidden.tensor().dtype()), hidden.tensor().device())?,
        false => Tensor::cat(&parts, 1)?,
    };
    let kept = (hidden.clone(), weight.clone());
    Ok(Value::result(out, &[hidden, weight], move |grad, gradients| {
        let (hidden, weight) = (&kept.0, &kept.1);
        let mut d_hidden = Vec::new();
        // Blocks are summed in f32 even if the model is computed in a smaller type.
        let mut d_weight: Option<Tensor> = None;
        for (start, count) in blocks() {
            let states = hidden.tensor().narrow(0, start, count)?;
            let log_p = log_softmax(&states, weight.tensor(), sharpness)?;
            let p = log_p.exp()?;
            let entropy = (&p * &log_p)?.sum_keepdim(1)?.neg()?;
            let grad = grad.narrow(1, start, count)?;
            let (d_chosen, d_entropy) = (grad.get(0)?.unsqueeze(1)?, grad.get(1)?.unsqueeze(1)?);
            // ∂ log p_t / ∂ score = 1[t] − p;  ∂ H / ∂ score = −p (log p + H)
            let along = log_p.broadcast_add(&entropy)?.broadcast_mul(&d_entropy)?;
            let d_scores = (p * along.broadcast_add(&d_chosen)?.neg()?)?;
            let d_scores =
                d_scores.scatter_add(&targets.narrow(0, start, count)?, &d_chosen.contiguous()?, 1)?;
            let d_logits = (d_scores * sharpness)?.to_dtype(states.dtype())?;
            if gradients.wants(weight) {
                let more = d_logits.t()?.matmul(&states)?;
                let more = more.to_dtype(wide(more.dtype()))?;
                d_weight = Some(match d_weight {
                    Some(sum) => (sum + more)?,
                    None => more,
                });
            }
            d_hidden.push(d_logits.matmul(weight.tensor())?);
        }
        if let Some(sum) = d_weight {
            gradients.add(weight, sum.to_dtype(weight.tensor().dtype())?)?;
        }
        match d_hidden.is_empty() {
            true => Ok(()),
            false => gradients.add(hidden, Tensor::cat(&d_hidden, 0)?),
        }
    }))
}

/// See [`super::select_rows`]. Gradients of a row that was selected several times are summed in f32.
pub(super) fn select_rows(matrix: &Value, indices: Vec<u32>) -> Result<Value> {
    let indices = Tensor::new(indices, matrix.tensor().device())?;
    let (out, kept) = (matrix.tensor().index_select(&indices, 0)?, matrix.clone());
    Ok(Value::result(out, &[matrix], move |grad, gradients| {
        let like = kept.tensor();
        let zeros = Tensor::zeros(like.shape(), wide(like.dtype()), like.device())?;
        let sum = zeros.index_add(&indices, &grad.to_dtype(zeros.dtype())?.contiguous()?, 0)?;
        gradients.add(&kept, sum.to_dtype(like.dtype())?)
    }))
}

/// dx = dy·W and dW = dyᵀ·x of y = x·Wᵀ.
pub(super) fn product_backward(
    x: &Value,
    weight: &Value,
    grad: &Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    if gradients.wants(weight) {
        gradients.add(weight, grad.t()?.matmul(x.tensor())?)?;
    }
    if gradients.wants(x) {
        gradients.add(x, grad.matmul(weight.tensor())?)?;
    }
    Ok(())
}

/// x in another number type; its gradient has the type of x.
pub fn cast(x: &Value, dtype: DType) -> Result<Value> {
    if x.tensor().dtype() == dtype {
        return Ok(x.clone());
    }
    let kept = x.clone();
    Ok(Value::result(x.tensor().to_dtype(dtype)?, &[x], move |grad, gradients| {
        gradients.add(&kept, grad.to_dtype(kept.tensor().dtype())?)
    }))
}

/// x + bias for x \[N, D\] and bias \[D\].
pub fn add_bias(x: &Value, bias: &Value) -> Result<Value> {
    let out = x.tensor().broadcast_add(bias.tensor())?;
    let kept = (x.clone(), bias.clone());
    Ok(Value::result(out, &[x, bias], move |grad, gradients| {
        if gradients.wants(&kept.1) {
            gradients.add(&kept.1, grad.sum(0)?)?;
        }
        gradients.add(&kept.0, grad)
    }))
}

/// x + y.
pub fn add(x: &Value, y: &Value) -> Result<Value> {
    let kept = (x.clone(), y.clone());
    Ok(Value::result((x.tensor() + y.tensor())?, &[x, y], move |grad, gradients| {
        if gradients.wants(&kept.0) {
            gradients.add(&kept.0, grad.copy()?)?;
        }
        gradients.add(&kept.1, grad)
    }))
}

/// x · factor.
pub(super) fn scale(x: &Value, factor: f64) -> Result<Value> {
    let kept = x.clone();
    Ok(Value::result((x.tensor() * factor)?, &[x], move |grad, gradients| {
        gradients.add(&kept, (grad * factor)?)
    }))
}
