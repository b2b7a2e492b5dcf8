//! The decoder of the Qwen3 family. One forward pass serves training, scoring and sampling; what differs is
//! where attention finds the earlier tokens, and whether the weights are followed by a gradient.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::{Config, Params};
use crate::ops::{KvCache, Rope, Rows, add, causal_attention, rms_norm, swiglu, token_log_probabilities};

/// Token rows one after the other, without padding.
#[derive(Clone, Debug)]
pub struct Packed {
    pub ids: Vec<u32>,
    pub rows: Arc<Rows>,
}

impl Packed {
    pub fn new<R: AsRef<[u32]>>(rows: &[R]) -> Packed {
        let ids = rows.iter().flat_map(|row| row.as_ref().iter().copied()).collect();
        Packed { ids, rows: Arc::new(Rows::new(rows.iter().map(|row| row.as_ref().len()))) }
    }
}

/// A decoder over given weights.
pub struct Decoder {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// The output weight \[V, D\].
    head: Tensor,
    epsilon: f64,
    rope: Arc<Rope>,
    kv_width: usize,
}

struct Layer {
    input_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    post_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    head_size: usize,
}

/// Where attention finds the tokens before.
enum Past<'a> {
    /// In the batch itself.
    Batch(&'a Arc<Rows>),
    /// In the batch itself, which is kept in a cache.
    Fill(&'a Arc<Rows>, &'a mut KvCache),
    /// In the cache; the batch has one new token a row.
    Cache(&'a mut KvCache),
}

impl Decoder {
    /// A decoder whose results carry gradients to the parameters.
    pub fn trainable(config: &Config, params: &Params) -> Result<Decoder> {
        Decoder::new(config, |name| Ok(params.var(name)?.as_tensor().clone()))
    }

    /// A decoder whose results carry none: nothing is recorded on the way.
    pub fn frozen(config: &Config, params: &Params) -> Result<Decoder> {
        Decoder::new(config, |name| Ok(params.var(name)?.as_detached_tensor()))
    }

    fn new(config: &Config, weight: impl Fn(&str) -> Result<Tensor>) -> Result<Decoder> {
        let layer = |index: usize| {
            let of = |name: &str| weight(&format!("model.layers.{index}.{name}.weight"));
            Ok(Layer {
                input_norm: of("input_layernorm")?,
                q: of("self_attn.q_proj")?,
                k: of("self_attn.k_proj")?,
                v: of("self_attn.v_proj")?,
                o: of("self_attn.o_proj")?,
                q_norm: of("self_attn.q_norm")?,
                k_norm: of("self_attn.k_norm")?,
                post_norm: of("post_attention_layernorm")?,
                gate: of("mlp.gate_proj")?,
                up: of("mlp.up_proj")?,
                down: of("mlp.down_proj")?,
                head_size: config.head_size,
            })
        };
        let embedding = weight("model.embed_tokens.weight")?;
        Ok(Decoder {
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: weight("model.norm.weight")?,
            head: if config.tied { embedding.clone() } else { weight("lm_head.weight")? },
            embedding,
            epsilon: config.rms_norm_epsilon,
            rope: Arc::new(Rope::new(config.head_size, config.rope_theta, config.positions)),
            kv_width: config.kv_heads * config.head_size,
        })
    }

    /// Hidden states after the last norm, \[N, D\].
    pub fn hidden(&self, batch: &Packed) -> Result<Tensor> {
        self.forward(&batch.ids, &mut Past::Batch(&batch.rows))
    }

    /// An empty cache for `rows` rows of at most `capacity` tokens.
    pub fn cache(&self, rows: usize, capacity: usize) -> Result<KvCache> {
        KvCache::new(rows, self.layers.len(), self.kv_width, capacity, self.rope.clone())
    }

    /// Reads whole prompts into an empty cache; the logits after each row's last token, \[rows, V\].
    pub fn prefill(&self, batch: &Packed, cache: &mut KvCache) -> Result<Tensor> {
        let hidden = self.forward(&batch.ids, &mut Past::Fill(&batch.rows, cache))?;
        let last: Vec<u32> = (0..batch.rows.len()).map(|row| batch.rows.range(row).end as u32 - 1).collect();
        let last = Tensor::from_vec(last, batch.rows.len(), hidden.device())?;
        self.logits(&hidden.index_select(&last, 0)?)
    }

    /// Feeds one new token to each row of the cache; the logits for the next, \[rows, V\].
    pub fn step(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        let hidden = self.forward(ids, &mut Past::Cache(cache))?;
        cache.advance();
        self.logits(&hidden)
    }

    /// Next-token logits \[M, V\] for hidden states \[M, D\].
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        hidden.matmul(&self.head.t()?)
    }

    /// For each row's tokens from `starts[row]` on: log-probability at this temperature and entropy of the
    /// distribution that it comes from, as \[2, M\], rows one after the other. Starts are at least 1.
    pub fn token_log_probabilities(
        &self,
        batch: &Packed,
        starts: &[usize],
        temperature: f64,
    ) -> Result<Tensor> {
        let (mut before, mut targets) = (Vec::new(), Vec::new());
        for (row, start) in starts.iter().enumerate() {
            let range = batch.rows.range(row);
            for token in range.start + start..range.end {
                before.push(token as u32 - 1);
                targets.push(batch.ids[token]);
            }
        }
        let hidden = self.hidden(batch)?;
        let before = Tensor::from_vec(before, targets.len(), hidden.device())?;
        token_log_probabilities(&hidden.index_select(&before, 0)?, &self.head, targets, temperature)
    }

    fn forward(&self, ids: &[u32], past: &mut Past) -> Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let attended =
                layer.attention(index, &rms_norm(&x, &layer.input_norm, self.epsilon)?, self, past)?;
            x = add(&x, &attended)?;
            let h = rms_norm(&x, &layer.post_norm, self.epsilon)?;
            let wide = swiglu(&linear(&h, &layer.gate)?, &linear(&h, &layer.up)?)?;
            x = add(&x, &linear(&wide, &layer.down)?)?;
        }
        rms_norm(&x, &self.norm, self.epsilon)
    }
}

impl Layer {
    fn attention(&self, index: usize, h: &Tensor, decoder: &Decoder, past: &mut Past) -> Result<Tensor> {
        let tokens = h.dim(0)?;
        let heads = |x: Tensor| x.reshape((tokens, (), self.head_size));
        let q = rms_norm(&heads(linear(h, &self.q)?)?, &self.q_norm, decoder.epsilon)?;
        let k = rms_norm(&heads(linear(h, &self.k)?)?, &self.k_norm, decoder.epsilon)?;
        let v = heads(linear(h, &self.v)?)?;
        let out = match past {
            Past::Batch(rows) => causal_attention(&q, &k, &v, rows, &decoder.rope)?,
            Past::Fill(rows, cache) => {
                cache.fill(index, &k, &v, rows)?;
                causal_attention(&q, &k, &v, rows, &decoder.rope)?
            }
            Past::Cache(cache) => cache.attend(index, &q, &k, &v)?,
        };
        linear(&out.reshape((tokens, ()))?, &self.o)
    }
}

/// x·Wᵀ for x \[N, in\] and W \[out, in\].
fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}
