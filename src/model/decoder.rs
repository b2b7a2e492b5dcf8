//! The decoder of all families. One forward pass serves training, scoring and sampling. They differ in where attention
//! finds the earlier tokens, and in which weights get a gradient.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::quantized::QMatMul;
use candle_core::{DType, Result, Tensor, bail};

use super::config::{Config, Module};
use super::lora::{Adapter, PEFT_PREFIX};
use super::packed::{Completions, Packed};
use super::{Compute, Params};
use ops::{
    Cache, Comparison, Gradients, OutputHead, Rope, Rows, Spans, Value, add, add_bias, add_linear,
    add_low_rank, attention_of, cast, causal_attention, compared_log_probabilities, linear, quantized_linear,
    quantized_rows, rms_norm, select_rows, swiglu, token_log_probabilities,
};

/// What a decoder is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Results carry gradients to the adapter's parameters, or to all parameters if there is no adapter.
    Training {
        /// Keep only the hidden states between blocks, and recompute the rest in the backward pass.
        checkpointing: bool,
    },
    /// Results carry no gradients, so nothing is kept for a backward pass.
    Scoring,
}

/// A decoder over given weights.
pub struct Decoder {
    /// The trained parameters, in name order.
    trained: BTreeMap<String, Value>,
    embedding: Matrix,
    layers: Vec<Arc<Layer>>,
    norm: Value,
    /// The output weight \[V, D\].
    head: Matrix,
    /// All values by name.
    values: BTreeMap<String, Value>,
    /// What the values without an adapter were made from.
    params: Params,
    config: Config,
    compute: Compute,
    checkpointing: bool,
}

/// A weight \[out, in\].
#[derive(Clone)]
enum Matrix {
    Full(Value),
    Quantized(Arc<QMatMul>),
}

impl Matrix {
    fn linear(&self, x: &Value) -> Result<Value> {
        match self {
            Matrix::Full(weight) => linear(x, weight),
            Matrix::Quantized(weight) => quantized_linear(x, weight),
        }
    }

    fn rows(&self, indices: &[u32], dtype: DType) -> Result<Value> {
        match self {
            Matrix::Full(weight) => select_rows(weight, indices.to_vec()),
            Matrix::Quantized(weight) => cast(&quantized_rows(weight, indices)?, dtype),
        }
    }

    /// The whole matrix; a quantised one is unpacked.
    fn full(&self, dtype: DType) -> Result<Value> {
        match self {
            Matrix::Full(weight) => Ok(weight.clone()),
            Matrix::Quantized(weight) => Ok(Value::constant(weight.dequantize_f16()?.to_dtype(dtype)?)),
        }
    }
}

/// A linear layer, which may have a bias and an adapter.
struct Linear {
    weight: Matrix,
    bias: Option<Value>,
    adapter: Option<LowRank>,
}

/// scale · x·Aᵀ·Bᵀ
struct LowRank {
    a: Value,
    b: Value,
    scale: f64,
}

impl Linear {
    fn forward(&self, x: &Value) -> Result<Value> {
        self.finish(x, self.weight.linear(x)?)
    }

    /// residual + the layer's output for x.
    fn add_to(&self, residual: &Value, x: &Value) -> Result<Value> {
        let sum = match &self.weight {
            Matrix::Full(weight) => add_linear(residual, x, weight)?,
            Matrix::Quantized(weight) => add(residual, &quantized_linear(x, weight)?)?,
        };
        self.finish(x, sum)
    }

    fn finish(&self, x: &Value, mut y: Value) -> Result<Value> {
        if let Some(bias) = &self.bias {
            y = add_bias(&y, bias)?;
        }
        if let Some(LowRank { a, b, scale }) = &self.adapter {
            y = add_low_rank(y, x, [a, b], *scale)?;
        }
        Ok(y)
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        let weight = match &self.weight {
            Matrix::Full(weight) => Some(weight),
            Matrix::Quantized(_) => None,
        };
        let adapter = self.adapter.iter().flat_map(|adapter| [&adapter.a, &adapter.b]);
        weight.into_iter().chain(&self.bias).chain(adapter)
    }
}

struct Layer {
    input_norm: Value,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Norms of queries and keys, in families that have them.
    qk_norm: Option<[Value; 2]>,
    post_norm: Value,
    gate: Linear,
    up: Linear,
    down: Linear,
    epsilon: f64,
}

/// Where attention finds the earlier tokens.
enum KvMode<'a> {
    /// In the batch itself.
    Batch(&'a Arc<Rows>, &'a Arc<Rope>),
    /// In the batch itself, whose keys and values are stored in a cache.
    Prefill(&'a Arc<Rows>, &'a mut Cache),
    /// In the cache; the batch has one new token per row.
    Cache(&'a mut Cache),
}

impl KvMode<'_> {
    /// The rows of the batch, if it has them whole.
    fn rows(&self) -> Option<&Arc<Rows>> {
        match self {
            KvMode::Batch(rows, _) | KvMode::Prefill(rows, _) => Some(rows),
            KvMode::Cache(_) => None,
        }
    }
}

impl Decoder {
    pub(super) fn new(
        config: &Config,
        params: &Params,
        adapter: Option<&Adapter>,
        compute: &Compute,
        purpose: Purpose,
        beside: Option<&Decoder>,
    ) -> Result<Decoder> {
        let training = matches!(purpose, Purpose::Training { .. });
        if training {
            params.ensure_trainable()?;
        }
        let train_base = training && adapter.is_none();
        let shared = beside.filter(|other| !train_base && other.params.are_same(params));
        let mut weights = Weights {
            params,
            adapter,
            compute,
            train_base,
            train_adapter: training,
            made: shared.map(Decoder::base_values).unwrap_or_default(),
            trained: BTreeMap::new(),
        };
        let layers = (0..config.layers)
            .map(|index| Layer::new(&mut weights, config, index).map(Arc::new))
            .collect::<Result<_>>()?;
        let head = weights.matrix(if config.tied { EMBEDDING } else { "lm_head.weight" })?;
        let embedding = match params.quantized(EMBEDDING) {
            Some(matrix) => Matrix::Quantized(matrix.clone()),
            None => Matrix::Full(weights.value(EMBEDDING)?),
        };
        let norm = weights.value("model.norm.weight")?;
        Ok(Decoder {
            trained: weights.trained,
            values: weights.made,
            layers,
            norm,
            head,
            embedding,
            params: params.clone(),
            config: config.clone(),
            compute: compute.clone(),
            checkpointing: purpose == Purpose::Training { checkpointing: true },
        })
    }

    /// The gradient of each trained parameter in name order.
    pub fn gradients(&self, mut gradients: Gradients) -> Result<Vec<Tensor>> {
        let gradient = |(name, weight): (&String, &Value)| match gradients.take(weight) {
            Some(gradient) => Ok(gradient),
            None => bail!("parameter `{name}` has no gradient: no result depends on it"),
        };
        self.trained.iter().map(gradient).collect()
    }

    /// The values of the weights, without those of an adapter.
    fn base_values(&self) -> BTreeMap<String, Value> {
        let is_base = |name: &&String| !name.starts_with(PEFT_PREFIX);
        let base = self.values.iter().filter(|(name, _)| is_base(name));
        base.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Hidden states after the last norm, \[N, D\].
    pub fn hidden(&self, batch: &Packed) -> Result<Value> {
        let rope = self.rope(batch.rows.longest())?;
        self.forward(&batch.ids, &mut KvMode::Batch(&batch.rows, &rope), None)
    }

    /// A unit vector for each row of token ids: the mean of its last hidden states.
    pub fn embed(&self, rows: &[Vec<u32>]) -> super::Result<Vec<Vec<f32>>> {
        let batch = Packed::new(rows);
        let hidden = self.hidden(&batch)?.tensor().to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let embed = |row: usize| {
            let mut mean = vec![0f32; self.config.hidden_size];
            for state in &hidden[batch.rows.range(row)] {
                mean.iter_mut().zip(state).for_each(|(mean, x)| *mean += x);
            }
            let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            mean.iter_mut().for_each(|x| *x /= length);
            mean
        };
        Ok((0..rows.len()).map(embed).collect())
    }

    /// An empty cache for `rows` rows of at most `capacity` tokens.
    pub fn cache(&self, rows: usize, capacity: usize) -> Result<Cache> {
        Ok(Cache::new(self.compute.fused(), rows, self.layers.len(), self.rope(capacity)?))
    }

    /// An empty cache that shares the rotations of another one, for rows that will have at most so many tokens each.
    pub fn fresh_cache(&self, like: &Cache, capacities: &[usize]) -> Cache {
        like.fresh(capacities, self.layers.len())
    }

    /// The number of rows of `capacity` tokens whose keys and values fit in `bytes`; at least one.
    pub fn rows_within(&self, bytes: usize, capacity: usize) -> usize {
        (bytes / self.token_bytes().saturating_mul(capacity).max(1)).max(1)
    }

    /// Memory of the keys and values of one token, in bytes.
    pub fn token_bytes(&self) -> usize {
        let Config { layers, kv_heads, head_size, .. } = self.config;
        2 * layers * kv_heads * head_size * self.compute.dtype.size_in_bytes()
    }

    /// Angles for the positions of rows of at most `longest` tokens.
    fn rope(&self, longest: usize) -> Result<Arc<Rope>> {
        if longest > self.config.positions {
            bail!(
                "a row must have at most {} tokens, the model's positions, found {longest}: shorten the text or lower \
                 `max_new_tokens`",
                self.config.positions
            );
        }
        Ok(Arc::new(Rope::new(&self.config.rope_frequencies(), longest)))
    }

    /// Reads whole prompts into an empty cache; returns the logits after each row's last token, \[rows, V\].
    pub fn prefill(&self, batch: &Packed, cache: &mut Cache) -> Result<Tensor> {
        let rows = &batch.rows;
        let last: Vec<usize> = (0..rows.len()).map(|row| rows.range(row).len() - 1).collect();
        self.logits(&self.prefill_from(batch, &last, cache)?)
    }

    /// The same, but returns the hidden states \[M, D\] of each row's tokens from `firsts[row]` on, rows one after the other.
    pub fn prefill_from(&self, batch: &Packed, firsts: &[usize], cache: &mut Cache) -> Result<Value> {
        let rows = &batch.rows;
        let wanted = Spans::new(firsts.iter().enumerate().map(|(row, first)| *first..rows.range(row).len()));
        self.forward(&batch.ids, &mut KvMode::Prefill(rows, cache), Some(&Arc::new(wanted)))
    }

    /// Feeds one new token to each row of the cache; returns the logits for the next token, \[rows, V\].
    pub fn step(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor> {
        let hidden = self.forward(ids, &mut KvMode::Cache(cache), None)?;
        cache.advance();
        self.logits(&hidden)
    }

    /// Next-token logits \[M, V\] for hidden states \[M, D\].
    pub fn logits(&self, hidden: &Value) -> Result<Tensor> {
        Ok(self.head.linear(hidden)?.tensor().clone())
    }

    /// For each token of the completions: its log-probability at this temperature and the entropy of the distribution that it
    /// comes from, as \[2, M\].
    pub fn token_log_probabilities(&self, completions: &Completions, temperature: f64) -> Result<Value> {
        self.scored(&self.predicting(completions)?, completions.targets().to_vec(), temperature)
    }

    /// The same from the hidden states that predict these tokens.
    pub fn scored(&self, hidden: &Value, targets: Vec<u32>, temperature: f64) -> Result<Value> {
        token_log_probabilities(hidden, &self.head.full(self.compute.dtype)?, targets, temperature)
    }

    /// The same beside another model, whose hidden states predict the same tokens.
    pub fn compared(
        &self,
        hidden: &Value,
        (other, of_other): (&Decoder, &Value),
        targets: Vec<u32>,
        temperature: f64,
    ) -> Result<Comparison> {
        let [own, reference] = [self, other].map(|decoder| decoder.head.full(decoder.compute.dtype));
        let own = OutputHead { hidden, weight: &own? };
        compared_log_probabilities(
            own,
            OutputHead { hidden: of_other, weight: &reference? },
            targets,
            temperature,
        )
    }

    /// The hidden states \[M, D\] from which the tokens of the completions are predicted.
    pub fn predicting(&self, completions: &Completions) -> Result<Value> {
        let Packed { ids, rows } = &completions.batch;
        let rope = self.rope(rows.longest())?;
        let hidden = self.forward(ids, &mut KvMode::Batch(rows, &rope), Some(&completions.predicting))?;
        select_rows(&hidden, completions.predicted_by.clone())
    }

    /// Hidden states after the last norm, of all tokens or of those of `wanted`. The last layer then computes only those.
    fn forward(&self, ids: &[u32], past: &mut KvMode, wanted: Option<&Arc<Spans>>) -> Result<Value> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.vocab_size) {
            bail!("token {id} is outside the vocabulary of {}", self.config.vocab_size);
        }
        let mut x = self.embedding.rows(ids, self.compute.dtype)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let wanted = wanted.filter(|_| index + 1 == self.layers.len());
            x = match &*past {
                KvMode::Batch(rows, rope) if self.checkpointing => {
                    let (kept, rows, rope) = (layer.clone(), Arc::clone(rows), Arc::clone(rope));
                    let (parameters, wanted): (Vec<&Value>, _) = (layer.values().collect(), wanted.cloned());
                    x.checkpoint(&parameters, move |x| {
                        kept.forward(index, x, &mut KvMode::Batch(&rows, &rope), wanted.as_ref())
                    })?
                }
                _ => layer.forward(index, &x, past, wanted)?,
            };
        }
        rms_norm(&x, &self.norm, self.config.rms_norm_epsilon)
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";

/// Makes a decoder's values from parameters, each once.
struct Weights<'a> {
    params: &'a Params,
    adapter: Option<&'a Adapter>,
    compute: &'a Compute,
    train_base: bool,
    train_adapter: bool,
    /// Values by name, in the number type of the computation.
    made: BTreeMap<String, Value>,
    trained: BTreeMap<String, Value>,
}

impl Weights<'_> {
    fn of(&mut self, params: &Params, name: &str, train: bool) -> Result<Value> {
        if let Some(made) = self.made.get(name) {
            return Ok(made.clone());
        }
        let Some(var) = params.get(name) else { bail!("there is no parameter `{name}`") };
        let tensor = var.as_detached_tensor();
        let value = if train { Value::parameter(tensor) } else { Value::constant(tensor) };
        if train {
            self.trained.insert(name.to_owned(), value.clone());
        }
        let value = cast(&value, self.compute.dtype)?;
        self.made.insert(name.to_owned(), value.clone());
        Ok(value)
    }

    fn value(&mut self, name: &str) -> Result<Value> {
        self.of(self.params, name, self.train_base)
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix> {
        if let Some(quantized) = self.params.quantized(name) {
            return Ok(Matrix::Quantized(quantized.clone()));
        }
        Ok(Matrix::Full(self.value(name)?))
    }

    fn linear(&mut self, layer: usize, module: Module) -> Result<Linear> {
        let path = format!("model.layers.{layer}.{}", module.path());
        let bias = format!("{path}.bias");
        let bias = self.params.get(&bias).is_some().then(|| self.value(&bias)).transpose()?;
        let adapter = match self.adapter.and_then(|adapter| Some((adapter, adapter.names(layer, module)?))) {
            Some((adapter, [a, b])) => Some(LowRank {
                a: self.of(&adapter.params, &a, self.train_adapter)?,
                b: self.of(&adapter.params, &b, self.train_adapter)?,
                scale: adapter.scale(),
            }),
            None => None,
        };
        Ok(Linear { weight: self.matrix(&format!("{path}.weight"))?, bias, adapter })
    }
}

impl Layer {
    fn new(weights: &mut Weights, config: &Config, index: usize) -> Result<Layer> {
        let norm =
            |weights: &mut Weights, name: &str| weights.value(&format!("model.layers.{index}.{name}.weight"));
        let qk_norm = match config.qk_norm() {
            true => Some([norm(weights, "self_attn.q_norm")?, norm(weights, "self_attn.k_norm")?]),
            false => None,
        };
        Ok(Layer {
            input_norm: norm(weights, "input_layernorm")?,
            q: weights.linear(index, Module::Q)?,
            k: weights.linear(index, Module::K)?,
            v: weights.linear(index, Module::V)?,
            o: weights.linear(index, Module::O)?,
            qk_norm,
            post_norm: norm(weights, "post_attention_layernorm")?,
            gate: weights.linear(index, Module::Gate)?,
            up: weights.linear(index, Module::Up)?,
            down: weights.linear(index, Module::Down)?,
            epsilon: config.rms_norm_epsilon,
        })
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        let linears = [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down];
        let norms = [&self.input_norm, &self.post_norm].into_iter().chain(self.qk_norm.iter().flatten());
        norms.chain(linears.into_iter().flat_map(Linear::values))
    }

    /// The output states of the tokens of `wanted`, or of all tokens, from the input states of all tokens.
    fn forward(
        &self,
        index: usize,
        x: &Value,
        past: &mut KvMode,
        wanted: Option<&Arc<Spans>>,
    ) -> Result<Value> {
        let mut h = rms_norm(x, &self.input_norm, self.epsilon)?;
        let (mut k, v) = (self.k.forward(&h)?, self.v.forward(&h)?);
        let mut x = x.clone();
        if let (Some(wanted), Some(rows)) = (wanted, past.rows()) {
            (h, x) = (select_rows(&h, wanted.indices(rows))?, select_rows(&x, wanted.indices(rows))?);
        }
        let mut q = self.q.forward(&h)?;
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            (q, k) = (rms_norm(&q, q_norm, self.epsilon)?, rms_norm(&k, k_norm, self.epsilon)?);
        }
        let attended = self.attention(index, &q, &k, &v, past, wanted)?;
        let x = self.o.add_to(&x, &attended)?;
        let h = rms_norm(&x, &self.post_norm, self.epsilon)?;
        let wide = swiglu(&self.gate.forward(&h)?, &self.up.forward(&h)?)?;
        self.down.add_to(&x, &wide)
    }

    /// The output of the heads, before the output projection.
    fn attention(
        &self,
        index: usize,
        q: &Value,
        k: &Value,
        v: &Value,
        past: &mut KvMode,
        wanted: Option<&Arc<Spans>>,
    ) -> Result<Value> {
        let (rows, rope) = match past {
            KvMode::Batch(rows, rope) => (*rows, *rope),
            KvMode::Prefill(rows, cache) => {
                cache.fill(index, k.tensor(), v.tensor(), rows)?;
                (*rows, cache.rope())
            }
            KvMode::Cache(cache) => {
                return Ok(Value::constant(cache.attend(index, q.tensor(), k.tensor(), v.tensor())?));
            }
        };
        match wanted {
            Some(spans) => attention_of(q, spans, k, v, rows, rope),
            None => causal_attention(q, k, v, rows, rope),
        }
    }
}
