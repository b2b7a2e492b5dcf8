//! config.json of the Qwen3, Qwen2 and Llama families, as transformers 4 and 5 write it.

use std::f64::consts::TAU;
use std::path::Path;

use serde_json::{Value, json};

use super::harmless::{BOOKKEEPING, INTERNAL_PREFIXES, SAMPLING};
use super::keys::{self, ConfigResult, Keys, brief};
use super::{Error, Result};

/// Families of decoders. They differ in the norms of queries and keys, in biases, and in their names in config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Qwen3,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Llama 2 and 3, and models with their architecture.
    Llama,
}

impl Family {
    const ALL: [Family; 3] = [Family::Qwen3, Family::Qwen2, Family::Llama];

    /// Its `model_type` in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Qwen3 => "qwen3",
            Family::Qwen2 => "qwen2",
            Family::Llama => "llama",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Family::Qwen3 => "Qwen3ForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Llama => "LlamaForCausalLM",
        }
    }
}

/// How rotary frequencies are scaled for rows longer than those of pre-training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// Low frequencies are divided by the factor, high ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_positions: f64,
    },
    /// Each frequency is divided by its own factor, as GGUF files store it.
    Factors(Vec<f64>),
}

/// The sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The architecture, which decides on biases and norms.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// The number of blocks.
    pub layers: usize,
    /// The number of query heads.
    pub heads: usize,
    /// The number of key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Added to the mean square before the root.
    pub rms_norm_epsilon: f64,
    /// The base of the wavelengths of rotary positions.
    pub rope_theta: f64,
    /// How wavelengths are stretched for long contexts.
    pub rope_scaling: RopeScaling,
    /// Longest row, in tokens.
    pub positions: usize,
    /// Whether the projections to queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the projection from the heads has a bias.
    pub o_bias: bool,
    /// Whether the MLP's projections have a bias.
    pub mlp_bias: bool,
    /// Whether the output weight is the embedding.
    pub tied: bool,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// The padding token, if the model has one.
    pub pad: Option<u32>,
}

/// Most layers of a configuration, which is checked before any weight is read.
const MOST_LAYERS: usize = 4096;

/// Reads `rope_parameters` or `rope_scaling`: the base, and the scaling of the frequencies.
fn rope(value: &Value, name: &str) -> ConfigResult<(Option<f64>, RopeScaling)> {
    let mut keys = Keys::of(value, name)?;
    let theta = keys.take("rope_theta")?;
    let kind: Option<String> = keys.alias(&["rope_type", "type"])?;
    keys.only("partial_rotary_factor", "1", is_one)?;
    let number = |keys: &mut Keys, key: &str| -> ConfigResult<f64> {
        let value: f64 = keys.need(key)?;
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        Err(format!("`{name}.{key}` must be a number above 0, found {value}"))
    };
    let scaling = match kind.as_deref() {
        None | Some("default") => {
            keys.only("factor", "1 with rope_type default", is_one)?;
            RopeScaling::None
        }
        Some("linear") => RopeScaling::Linear { factor: number(&mut keys, "factor")? },
        Some("llama3") => {
            let (low, high) = (number(&mut keys, "low_freq_factor")?, number(&mut keys, "high_freq_factor")?);
            if low >= high {
                return Err(format!(
                    "`{name}.low_freq_factor` must be below `high_freq_factor` = {high}, found {low}"
                ));
            }
            RopeScaling::Llama3 {
                factor: number(&mut keys, "factor")?,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_positions: number(&mut keys, "original_max_position_embeddings")?,
            }
        }
        Some(other) => {
            return Err(format!("`{name}.rope_type` must be default, linear or llama3, found `{other}`"));
        }
    };
    keys.harmless(&["original_max_position_embeddings"]);
    keys.finish()?;
    Ok((theta, scaling))
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

/// Reads the base of rotary angles and their scaling, which may be given in one key or in several.
fn ropes(keys: &mut Keys) -> ConfigResult<(f64, RopeScaling)> {
    let mut theta = keys.take::<f64>("rope_theta")?.map(|theta| ("rope_theta", theta));
    let mut scaling: Option<(&str, RopeScaling)> = None;
    // transformers 5 writes both into `rope_parameters`, transformers 4 writes `rope_scaling` beside `rope_theta`.
    for name in ["rope_parameters", "rope_scaling"] {
        let Some(value) = keys.take::<Value>(name)? else { continue };
        let (base, stretched) = rope(&value, name)?;
        match (base, theta) {
            (Some(base), Some((other, said))) if base != said => {
                return Err(format!(
                    "`{other}` is {said}, but `{name}` has a rope_theta of {base}: {KEEP_ONE}"
                ));
            }
            (Some(base), None) => theta = Some((name, base)),
            _ => {}
        }
        if let Some((other, said)) = &scaling
            && *said != stretched
        {
            return Err(format!("`{other}` and `{name}` differ: {KEEP_ONE}"));
        }
        scaling = Some((name, stretched));
    }
    let scaling = scaling.map_or(RopeScaling::None, |(_, scaling)| scaling);
    Ok((theta.map_or(10_000.0, |(_, theta)| theta), scaling))
}

const KEEP_ONE: &str = "both keys mean the same, keep the correct one";

fn ensure_in_vocabulary(key: &str, ids: &[u32], vocab_size: usize) -> ConfigResult<()> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(format!("`{key}` must be below `vocab_size` = {vocab_size}, found {id}")),
    }
}

/// Reads one id or a list of ids. Older conversions write −1 for none.
fn token_ids(keys: &mut Keys, key: &str) -> ConfigResult<Vec<u32>> {
    let ids = match keys.take::<Value>(key)? {
        None => return Ok(Vec::new()),
        Some(Value::Array(ids)) => ids,
        Some(id) => vec![id],
    };
    let ids = ids.into_iter().filter(|id| id.as_i64() != Some(-1));
    let id = |id: Value| {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        number.ok_or_else(|| format!("`{key}` must be a token id or a list of them, found {}", brief(&id)))
    };
    ids.map(id).collect()
}

/// The end tokens that a generation_config.json adds.
pub(super) fn generation_ends(json: &Value) -> ConfigResult<Vec<u32>> {
    let mut keys = Keys::of(json, "")?;
    let ends = token_ids(&mut keys, "eos_token_id")?;
    keys.harmless(&["pad_token_id", "transformers_version"]);
    keys.harmless(SAMPLING);
    keys.harmless_beginnings(INTERNAL_PREFIXES);
    keys.finish()?;
    Ok(ends)
}

impl Config {
    /// Reads config.json.
    pub fn load(path: &Path) -> Result<Config> {
        let json = keys::read_json(path)?;
        Config::of(&json).map_err(|reason| Error::Invalid { path: path.into(), reason })
    }

    fn of(json: &Value) -> ConfigResult<Config> {
        let mut keys = Keys::of(json, "")?;
        let model_type: String = keys.take("model_type")?.unwrap_or_default();
        let Some(family) = Family::ALL.into_iter().find(|family| family.model_type() == model_type) else {
            let known = Family::ALL.map(Family::model_type).join(", ");
            return Err(format!("`model_type` must be one of {known}, found `{model_type}`"));
        };
        let class = json!([family.class()]);
        keys.only("architectures", &class.to_string(), |value| *value == class)?;
        if keys.take::<Value>("quantization_config")?.is_some() {
            let reason = "`quantization_config` is not supported: use a GGUF file in a folder of its own";
            return Err(reason.into());
        }
        if keys.take::<Value>("auto_map")?.is_some() {
            return Err(
                "`auto_map` names custom model code, which triplay does not run: if the model does not \
                        need it, remove the key"
                    .into(),
            );
        }
        let layers = keys.need("num_hidden_layers")?;
        let (hidden_size, heads): (usize, usize) =
            (keys.need("hidden_size")?, keys.need("num_attention_heads")?);
        let (rope_theta, rope_scaling) = ropes(&mut keys)?;
        let attention_bias = keys.take("attention_bias")?.unwrap_or(false);
        let config = Config {
            family,
            vocab_size: keys.need("vocab_size")?,
            hidden_size,
            intermediate_size: keys.need("intermediate_size")?,
            layers,
            heads,
            kv_heads: keys.alias(&["num_key_value_heads", "num_kv_heads", "n_kv_heads"])?.unwrap_or(heads),
            head_size: match (keys.take("head_dim")?, family) {
                (Some(size), _) => size,
                // transformers' default, which does not follow from the other sizes.
                (None, Family::Qwen3) => 128,
                (None, _) if heads > 0 && !hidden_size.is_multiple_of(heads) => {
                    return Err(format!(
                        "`hidden_size` must be a multiple of `num_attention_heads` = {heads} without `head_dim`, \
                         found {hidden_size}"
                    ));
                }
                (None, _) => hidden_size / heads.max(1),
            },
            rms_norm_epsilon: keys.need("rms_norm_eps")?,
            rope_theta,
            rope_scaling,
            positions: keys.need("max_position_embeddings")?,
            // Qwen2 has biases without a key for them.
            qkv_bias: family == Family::Qwen2 || attention_bias,
            o_bias: family != Family::Qwen2 && attention_bias,
            mlp_bias: match family {
                Family::Llama => keys.take("mlp_bias")?.unwrap_or(false),
                _ => false,
            },
            tied: keys.take("tie_word_embeddings")?.unwrap_or(false),
            eos: token_ids(&mut keys, "eos_token_id")?,
            pad: token_ids(&mut keys, "pad_token_id")?.first().copied(),
        };
        let beginning = token_ids(&mut keys, "bos_token_id")?;
        ensure_in_vocabulary("bos_token_id", &beginning, config.vocab_size)?;
        keys.only("hidden_act", "silu", |value| ["silu", "swish"].map(Value::from).contains(value))?;
        keys.only("partial_rotary_factor", "1", is_one)?;
        keys.only("layer_types", &format!("\"full_attention\" for each of {layers} layers"), |value| {
            let full = |kind: &Value| kind == "full_attention" || kind == "attention";
            value.as_array().is_some_and(|kinds| kinds.len() == layers && kinds.iter().all(full))
        })?;
        match family {
            Family::Llama => keys.off(&["sliding_window"])?,
            Family::Qwen2 | Family::Qwen3 => {
                keys.off(&["mlp_bias"])?;
                // No effect while `use_sliding_window` is off.
                keys.harmless(&["sliding_window"]);
            }
        }
        // What counts is the type that the file states for each tensor.
        keys.alias::<String>(&["dtype", "torch_dtype"])?;
        keys.off(&[
            "use_sliding_window",
            "use_mrope",
            "rope_interleaved",
            "qk_layer_norms",
            "pruned_heads",
            "is_encoder_decoder",
            "is_decoder",
            "add_cross_attention",
            "cross_attention_hidden_size",
            "tie_encoder_decoder",
        ])?;
        keys.harmless(BOOKKEEPING);
        keys.harmless(SAMPLING);
        keys.harmless_beginnings(INTERNAL_PREFIXES);
        keys.finish()?;
        config.check()?;
        Ok(config)
    }

    /// Refuses sizes that no decoder can have; the error names the key.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_size),
            ("max_position_embeddings", self.positions),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| *size == 0 || *size > 1 << 31) {
            return Err(format!("`{name}` must be at least 1 and at most 2147483648, found {size}"));
        }
        if self.layers > MOST_LAYERS {
            return Err(format!("`num_hidden_layers` must be at most {MOST_LAYERS}, found {}", self.layers));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "`num_attention_heads` must be a multiple of `num_key_value_heads` = {}, found {}",
                self.kv_heads, self.heads
            ));
        }
        if !self.head_size.is_multiple_of(2) {
            return Err(format!("`head_dim` must be even, found {}", self.head_size));
        }
        ensure_in_vocabulary("eos_token_id", &self.eos, self.vocab_size)?;
        ensure_in_vocabulary("pad_token_id", self.pad.as_slice(), self.vocab_size)?;
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if !positive(self.rope_theta) || !positive(self.rms_norm_epsilon) {
            return Err(format!(
                "`rope_theta` and `rms_norm_eps` must be above 0, found {} and {}",
                self.rope_theta, self.rms_norm_epsilon
            ));
        }
        Ok(())
    }

    /// config.json as transformers 5 writes it.
    pub fn to_json(&self) -> Value {
        let mut rope = json!({ "rope_theta": self.rope_theta, "rope_type": "default" });
        match self.rope_scaling {
            // Only quantised models have factors, and they are never written.
            RopeScaling::None | RopeScaling::Factors(_) => {}
            RopeScaling::Linear { factor } => {
                rope["rope_type"] = "linear".into();
                rope["factor"] = factor.into();
            }
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_positions,
            } => {
                rope["rope_type"] = "llama3".into();
                rope["factor"] = factor.into();
                rope["low_freq_factor"] = low_frequency_factor.into();
                rope["high_freq_factor"] = high_frequency_factor.into();
                rope["original_max_position_embeddings"] = (original_positions as u64).into();
            }
        }
        let eos = match self.eos[..] {
            [] => Value::Null,
            [id] => id.into(),
            _ => self.eos.clone().into(),
        };
        let mut json = json!({
            "architectures": [self.family.class()],
            "attention_dropout": 0.0,
            "dtype": "float32",
            "eos_token_id": eos,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.positions,
            "model_type": self.family.model_type(),
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": self.pad,
            "rms_norm_eps": self.rms_norm_epsilon,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tied,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if self.family != Family::Qwen2 {
            json["attention_bias"] = self.qkv_bias.into();
        }
        if self.family == Family::Llama {
            json["mlp_bias"] = self.mlp_bias.into();
        }
        json
    }

    /// Whether the queries and keys of each head are normalised.
    pub fn qk_norm(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// Hugging Face's names of all parameters, and their shapes.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden_size;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.layers {
            let mut add =
                |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{name}"), shape));
            add("input_layernorm.weight", vec![hidden]);
            add("post_attention_layernorm.weight", vec![hidden]);
            if self.qk_norm() {
                add("self_attn.q_norm.weight", vec![self.head_size]);
                add("self_attn.k_norm.weight", vec![self.head_size]);
            }
            for module in Module::ALL {
                let [outputs, inputs] = module.shape(self);
                add(&format!("{}.weight", module.path()), vec![outputs, inputs]);
                if module.has_bias(self) {
                    add(&format!("{}.bias", module.path()), vec![outputs]);
                }
            }
        }
        all.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        all
    }

    /// Whether a table of rotary frequencies, as older checkpoints contain it, is that of this model, with or without scaling.
    /// The tolerance allows for tables that were saved in low precision.
    pub(super) fn has_frequencies(&self, table: &[f64]) -> bool {
        let plain = Config { rope_scaling: RopeScaling::None, ..self.clone() };
        [self, &plain].iter().any(|config| {
            let expected = config.rope_frequencies();
            let near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= 0.01 * expected + 1e-7;
            expected.len() == table.len() && table.iter().zip(&expected).all(near)
        })
    }

    /// The angle in radians by which each pair of dimensions rotates from one position to the next.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let frequency = |i: usize| self.rope_theta.powf(-2.0 * i as f64 / self.head_size as f64);
        let scaled = |(i, frequency): (usize, f64)| match &self.rope_scaling {
            RopeScaling::None => frequency,
            RopeScaling::Factors(factors) => frequency / factors.get(i).unwrap_or(&1.0),
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_positions,
            } => {
                // Rotations within the positions of pre-training; between the two bounds, the share that is kept.
                let turns = original_positions * frequency / TAU;
                let kept = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                let kept = kept.clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        };
        (0..self.head_size / 2).map(frequency).enumerate().map(scaled).collect()
    }
}

/// The linear layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Module {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Module {
    pub const ALL: [Module; 7] =
        [Module::Q, Module::K, Module::V, Module::O, Module::Gate, Module::Up, Module::Down];

    /// Its path within the block, such as `self_attn.q_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Module::Q => "self_attn.q_proj",
            Module::K => "self_attn.k_proj",
            Module::V => "self_attn.v_proj",
            Module::O => "self_attn.o_proj",
            Module::Gate => "mlp.gate_proj",
            Module::Up => "mlp.up_proj",
            Module::Down => "mlp.down_proj",
        }
    }

    /// The last part of its path, as in LoRA's target modules.
    pub fn name(self) -> &'static str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    /// The shape of its weight: outputs, inputs.
    pub fn shape(self, config: &Config) -> [usize; 2] {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_size, config.kv_heads * config.head_size);
        match self {
            Module::Q => [q, hidden],
            Module::K | Module::V => [kv, hidden],
            Module::O => [hidden, q],
            Module::Gate | Module::Up => [wide, hidden],
            Module::Down => [hidden, wide],
        }
    }

    fn has_bias(self, config: &Config) -> bool {
        match self {
            Module::Q | Module::K | Module::V => config.qkv_bias,
            Module::O => config.o_bias,
            Module::Gate | Module::Up | Module::Down => config.mlp_bias,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(change: impl FnOnce(&mut Value)) -> Result<Config> {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen3-tiny/config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
        change(&mut json);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, json.to_string()).unwrap();
        Config::load(&path)
    }

    #[test]
    fn what_is_written_is_read_again_and_both_ways_to_say_theta_are_known() {
        let config = load(|_| ()).unwrap();
        assert_eq!((config.head_size, config.kv_heads, config.rope_theta), (24, 2, 1e6));
        assert_eq!(load(|json| *json = config.to_json()).unwrap(), config);
        let older = load(|json| {
            json.as_object_mut().unwrap().remove("rope_parameters");
            json["rope_theta"] = 5e5.into();
        });
        assert_eq!(older.unwrap().rope_theta, 5e5);
    }

    #[test]
    fn both_ways_to_say_llama_3_scaling_are_known_and_written_again() {
        let scaling = json!({
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_type": "llama3",
        });
        let older = load(|json| {
            json.as_object_mut().unwrap().remove("rope_parameters");
            json["model_type"] = "llama".into();
            json["architectures"] = json!(["LlamaForCausalLM"]);
            json["rope_theta"] = 5e5.into();
            json["rope_scaling"] = scaling.clone();
        })
        .unwrap();
        let newer = load(|json| {
            json["model_type"] = "llama".into();
            json["architectures"] = json!(["LlamaForCausalLM"]);
            json["rope_parameters"] = scaling.clone();
            json["rope_parameters"]["rope_theta"] = 5e5.into();
        })
        .unwrap();
        assert_eq!(older, newer);
        assert_eq!(load(|json| *json = older.to_json()).unwrap(), older);
        let frequencies = older.rope_frequencies();
        assert_eq!(frequencies[0], 1.0, "the highest frequency is kept");
        let last = *frequencies.last().unwrap();
        assert!(
            (last - 5e5f64.powf(-22.0 / 24.0) / 8.0).abs() < 1e-12,
            "the lowest is divided by the factor"
        );
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused() {
        let cases = [
            ("model_type", json!("gpt2"), "`model_type` must be one of qwen3, qwen2, llama, found `gpt2`"),
            (
                "architectures",
                json!(["Qwen3ForSequenceClassification"]),
                "must be [\"Qwen3ForCausalLM\"], found",
            ),
            (
                "rope_scaling",
                json!({"rope_type": "yarn", "factor": 4}),
                "`rope_scaling.rope_type` must be default, linear or llama3, found `yarn`",
            ),
            ("rope_parameters", json!({"rope_type": "llama3"}), "has no `rope_parameters.low_freq_factor`"),
            (
                "rope_parameters",
                json!({"rope_type": "default", "mrope_section": [16, 24, 24]}),
                "unknown key `rope_parameters.mrope_section` ([16,24,24]): it might change what the model computes",
            ),
            (
                "rope_parameters",
                json!({"type": "linear", "rope_type": "default"}),
                "both keys mean the same, keep the correct one",
            ),
            (
                "rope_parameters",
                json!({"rope_theta": 1e6, "partial_rotary_factor": 0.5}),
                "must be 1, found 0.5",
            ),
            (
                "rope_scaling",
                json!({"rope_type": "linear", "factor": 2.0}),
                "`rope_parameters` and `rope_scaling` differ: both keys mean the same",
            ),
            (
                "rope_theta",
                json!(1e4),
                "`rope_theta` is 10000, but `rope_parameters` has a rope_theta of 1000000: both keys mean the same",
            ),
            ("hidden_act", json!("gelu"), "`hidden_act` must be silu, found \"gelu\""),
            (
                "use_sliding_window",
                json!(true),
                "`use_sliding_window` must be off (false, 0, null or empty), found true",
            ),
            (
                "layer_types",
                json!(["full_attention", "sliding_attention", "full_attention"]),
                "for each of 3 layers",
            ),
            (
                "quantization_config",
                json!({"quant_method": "awq"}),
                "`quantization_config` is not supported: use a GGUF file",
            ),
            ("auto_map", json!({"AutoModel": "x.Y"}), "`auto_map` names custom model code"),
            (
                "final_logit_softcapping",
                json!(30.0),
                "unknown key `final_logit_softcapping` (30.0): it might change",
            ),
            ("is_causal", json!(false), "unknown key `is_causal` (false)"),
            ("mlp_bias", json!(true), "`mlp_bias` must be off"),
            ("torch_dtype", json!("float16"), "`dtype` is \"float32\", but `torch_dtype` is \"float16\""),
            ("num_attention_heads", json!(0), "`num_attention_heads` must be at least 1"),
            ("num_key_value_heads", json!(3), "must be a multiple of `num_key_value_heads` = 3, found 4"),
            ("num_kv_heads", json!(4), "`num_key_value_heads` is 2, but `num_kv_heads` is 4"),
            ("eos_token_id", json!([2, 384]), "`eos_token_id` must be below `vocab_size` = 384, found 384"),
            (
                "eos_token_id",
                json!("</s>"),
                "`eos_token_id` must be a token id or a list of them, found \"</s>\"",
            ),
            ("bos_token_id", json!(9999), "`bos_token_id` must be below `vocab_size` = 384, found 9999"),
            ("hidden_size", json!("wide"), "`hidden_size` has the invalid value \"wide\": invalid type"),
        ];
        for (key, value, expected) in cases {
            let error = load(|json| json[key] = value).unwrap_err().to_string();
            assert!(error.contains(expected), "{key}: {error}");
        }
    }

    #[test]
    fn two_names_for_one_thing_that_agree_are_read() {
        let config = load(|json| {
            json["torch_dtype"] = json["dtype"].clone();
            json["num_kv_heads"] = 2.into();
            json["rope_scaling"] = json!({"rope_type": "default", "type": "default"});
            json["rope_theta"] = 1_000_000.into();
        });
        assert_eq!(config.unwrap(), load(|_| ()).unwrap());
    }

    /// As their makers publish them.
    #[test]
    fn configurations_of_public_models_are_read() {
        let text = include_str!("public_configurations.json");
        let all: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(all.len() > 12);
        for json in all {
            let config =
                Config::of(&json).unwrap_or_else(|error| panic!("{}: {error}", json["_name_or_path"]));
            assert_eq!(Config::of(&config.to_json()).unwrap(), config, "{}", json["_name_or_path"]);
        }
    }
}
