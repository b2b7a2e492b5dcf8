//! The decoder of the Qwen3 family. One forward pass serves training, scoring and sampling; what differs is
//! where attention finds the earlier tokens, and whether the weights are followed by a gradient.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{Config, Params};
use crate::ops::{
    Gradients, KvCache, Rope, Rows, Spans, Value, add_linear, attention_of, causal_attention, linear,
    rms_norm, select_rows, swiglu, token_log_probabilities,
};

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
    /// All weights in name order.
    weights: BTreeMap<String, Value>,
    embedding: Value,
    layers: Vec<Layer>,
    norm: Value,
    /// The output weight \[V, D\].
    head: Value,
    config: Config,
}

struct Layer {
    input_norm: Value,
    q: Value,
    k: Value,
    v: Value,
    o: Value,
    q_norm: Value,
    k_norm: Value,
    post_norm: Value,
    gate: Value,
    up: Value,
    down: Value,
}

/// Where attention finds the tokens before.
enum Past<'a> {
    /// In the batch itself.
    Batch(&'a Arc<Rows>, &'a Arc<Rope>),
    /// In the batch itself, which is kept in a cache.
    Fill(&'a Arc<Rows>, &'a mut KvCache),
    /// In the cache; the batch has one new token a row.
    Cache(&'a mut KvCache),
}

impl Past<'_> {
    /// The rows of the batch where they are read whole.
    fn rows(&self) -> Option<&Arc<Rows>> {
        match self {
            Past::Batch(rows, _) | Past::Fill(rows, _) => Some(rows),
            Past::Cache(_) => None,
        }
    }
}

impl Decoder {
    /// A decoder whose results carry gradients to the parameters.
    pub fn trainable(config: &Config, params: &Params) -> Result<Decoder> {
        Decoder::new(config, params, Value::parameter)
    }

    /// A decoder whose results carry none: nothing is kept on the way.
    pub fn frozen(config: &Config, params: &Params) -> Result<Decoder> {
        Decoder::new(config, params, Value::constant)
    }

    fn new(config: &Config, params: &Params, value: fn(Tensor) -> Value) -> Result<Decoder> {
        let weights: BTreeMap<String, Value> =
            params.iter().map(|(name, var)| (name.to_owned(), value(var.as_detached_tensor()))).collect();
        let weight = |name: &str| match weights.get(name) {
            Some(weight) => Ok(weight.clone()),
            None => bail!("there is no parameter `{name}`"),
        };
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
            })
        };
        Ok(Decoder {
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: weight("model.norm.weight")?,
            head: weight(if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" })?,
            embedding: weight("model.embed_tokens.weight")?,
            config: config.clone(),
            weights,
        })
    }

    /// The gradient of each parameter in name order.
    pub fn gradients(&self, mut gradients: Gradients) -> Result<Vec<Tensor>> {
        let gradient = |(name, weight): (&String, &Value)| match gradients.take(weight) {
            Some(gradient) => Ok(gradient),
            None => bail!("parameter `{name}` has no gradient: no result depends on it"),
        };
        self.weights.iter().map(gradient).collect()
    }

    /// Hidden states after the last norm, \[N, D\].
    pub fn hidden(&self, batch: &Packed) -> Result<Value> {
        let rope = self.rope(batch.rows.longest())?;
        self.forward(&batch.ids, &mut Past::Batch(&batch.rows, &rope), None)
    }

    /// An empty cache for `rows` rows of at most `capacity` tokens.
    pub fn cache(&self, rows: usize, capacity: usize) -> Result<KvCache> {
        Ok(KvCache::new(rows, self.layers.len(), self.rope(capacity)?))
    }

    /// Angles for the positions of rows of at most `longest` tokens.
    fn rope(&self, longest: usize) -> Result<Arc<Rope>> {
        if longest > self.config.positions {
            bail!(
                "a row of {longest} tokens, but the model has {} positions: shorten the prompt or the completion",
                self.config.positions
            );
        }
        Ok(Arc::new(Rope::new(self.config.head_size, self.config.rope_theta, longest)))
    }

    /// Reads whole prompts into an empty cache; the logits after each row's last token, \[rows, V\].
    pub fn prefill(&self, batch: &Packed, cache: &mut KvCache) -> Result<Tensor> {
        let rows = &batch.rows;
        let last = Spans::new((0..rows.len()).map(|row| rows.range(row).len() - 1..rows.range(row).len()));
        let hidden = self.forward(&batch.ids, &mut Past::Fill(rows, cache), Some(&Arc::new(last)))?;
        self.logits(&hidden)
    }

    /// Feeds one new token to each row of the cache; the logits for the next, \[rows, V\].
    pub fn step(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        let hidden = self.forward(ids, &mut Past::Cache(cache), None)?;
        cache.advance();
        self.logits(&hidden)
    }

    /// Next-token logits \[M, V\] for hidden states \[M, D\].
    pub fn logits(&self, hidden: &Value) -> Result<Tensor> {
        Ok(linear(hidden, &self.head)?.tensor().clone())
    }

    /// For each row's tokens from `starts[row]` on: log-probability at this temperature and entropy of the
    /// distribution that it comes from, as \[2, M\], rows one after the other. Starts are at least 1.
    pub fn token_log_probabilities(
        &self,
        batch: &Packed,
        starts: &[usize],
        temperature: f64,
    ) -> Result<Value> {
        let rows = &batch.rows;
        let (mut predicting, mut targets) = (Vec::new(), Vec::new());
        for (row, start) in starts.iter().enumerate() {
            let range = rows.range(row);
            if *start == 0 {
                bail!("row {row} has no token before its first prediction: its prompt is empty");
            }
            predicting.push(start - 1..range.len().max(*start) - 1);
            targets.extend_from_slice(&batch.ids[(range.start + start).min(range.end)..range.end]);
        }
        let (spans, rope) = (Arc::new(Spans::new(predicting)), self.rope(rows.longest())?);
        let hidden = self.forward(&batch.ids, &mut Past::Batch(rows, &rope), Some(&spans))?;
        token_log_probabilities(&hidden, &self.head, targets, temperature)
    }

    /// Hidden states after the last norm: of all tokens, or of those of `wanted`, for which alone the last layer
    /// then works.
    fn forward(&self, ids: &[u32], past: &mut Past, wanted: Option<&Arc<Spans>>) -> Result<Value> {
        let epsilon = self.config.rms_norm_epsilon;
        let mut x = select_rows(&self.embedding, ids.to_vec())?;
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            x = layer.forward(index, x, epsilon, past, wanted.filter(|_| last))?;
        }
        rms_norm(&x, &self.norm, epsilon)
    }
}

impl Layer {
    /// The states of the tokens of `wanted`, or of all, from those of all.
    fn forward(
        &self,
        index: usize,
        mut x: Value,
        epsilon: f64,
        past: &mut Past,
        wanted: Option<&Arc<Spans>>,
    ) -> Result<Value> {
        let mut h = rms_norm(&x, &self.input_norm, epsilon)?;
        let k = rms_norm(&linear(&h, &self.k)?, &self.k_norm, epsilon)?;
        let v = linear(&h, &self.v)?;
        if let (Some(wanted), Some(rows)) = (wanted, past.rows()) {
            (h, x) = (select_rows(&h, wanted.indices(rows))?, select_rows(&x, wanted.indices(rows))?);
        }
        let q = rms_norm(&linear(&h, &self.q)?, &self.q_norm, epsilon)?;
        let attended = self.attention(index, &q, &k, &v, past, wanted)?;
        let x = add_linear(&x, &attended, &self.o)?;
        let h = rms_norm(&x, &self.post_norm, epsilon)?;
        let wide = swiglu(&linear(&h, &self.gate)?, &linear(&h, &self.up)?)?;
        add_linear(&x, &wide, &self.down)
    }

    /// What the heads see, before the output projection.
    fn attention(
        &self,
        index: usize,
        q: &Value,
        k: &Value,
        v: &Value,
        past: &mut Past,
        wanted: Option<&Arc<Spans>>,
    ) -> Result<Value> {
        let (rows, rope) = match past {
            Past::Batch(rows, rope) => (*rows, *rope),
            Past::Fill(rows, cache) => {
                cache.fill(index, k.tensor(), v.tensor(), rows)?;
                (*rows, cache.rope())
            }
            Past::Cache(cache) => {
                return Ok(Value::constant(cache.attend(index, q.tensor(), k.tensor(), v.tensor())?));
            }
        };
        match wanted {
            Some(spans) => attention_of(q, spans, k, v, rows, rope),
            None => causal_attention(q, k, v, rows, rope),
        }
    }
}
