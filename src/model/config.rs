//! config.json of the Qwen3, Qwen2 and Llama families, as transformers 4 and 5 write it.

use std::f64::consts::TAU;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Error, Result};

/// Families of decoders. They differ in norms of queries and keys, in biases and in their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Qwen3,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Llama 2, 3 and what has their architecture.
    Llama,
}

impl Family {
    const ALL: [Family; 3] = [Family::Qwen3, Family::Qwen2, Family::Llama];

    /// What config.json calls it.
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

/// How rotary frequencies are stretched for rows longer than those of pre-training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// Low frequencies are divided by the factor, high ones kept, those between mixed (Llama 3.1).
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_positions: f64,
    },
    /// Each frequency is divided by its own factor, as GGUF files say it.
    Factors(Vec<f64>),
}

/// The sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_size: usize,
    pub rms_norm_epsilon: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// Longest row, in tokens.
    pub positions: usize,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    /// Whether the output weight is the embedding.
    pub tied: bool,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}

/// What a configuration may ask for before any weight is looked at.
const MOST_LAYERS: usize = 4096;

/// The keys of config.json that matter here.
#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    /// transformers 4, as is `rope_scaling`.
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// transformers 5 has both in one.
    rope_parameters: Option<Rope>,
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    eos_token_id: Option<Value>,
    pad_token_id: Option<Value>,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    hidden_act: Option<String>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Value>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl Rope {
    fn scaling(&self) -> std::result::Result<RopeScaling, String> {
        let need = |value: Option<f64>, key: &str| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err(format!("rope scaling: `{key}` is {value}, expected a number above 0")),
            None => Err(format!("rope scaling has no `{key}`")),
        };
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: need(self.factor, "factor")? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: need(self.factor, "factor")?,
                low_frequency_factor: need(self.low_freq_factor, "low_freq_factor")?,
                high_frequency_factor: need(self.high_freq_factor, "high_freq_factor")?,
                original_positions: need(
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            }),
            Some(other) => {
                Err(format!("rope_type `{other}` is not supported; there are: default, linear, llama3"))
            }
        }
    }
}

/// One id or a list of them.
pub(super) fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        other => other.and_then(id).into_iter().collect(),
    }
}

impl Config {
    /// Reads config.json.
    pub fn load(path: &Path) -> Result<Config> {
        let text = std::fs::read(path).map_err(|cause| Error::Read { path: path.into(), cause })?;
        let parse = || -> std::result::Result<Config, String> {
            let json: Value = serde_json::from_slice(&text)
                .map_err(|error| format!("not a model configuration: {error}"))?;
            Config::of(&json)
        };
        parse().map_err(|reason| Error::Invalid { path: path.into(), reason })
    }

    fn of(json: &Value) -> std::result::Result<Config, String> {
        let model_type = json["model_type"].as_str().unwrap_or_default();
        let Some(family) = Family::ALL.into_iter().find(|family| family.model_type() == model_type) else {
            let known = Family::ALL.map(Family::model_type).join(", ");
            return Err(format!("model_type `{model_type}` is not supported; there are: {known}"));
        };
        let raw: Raw =
            Raw::deserialize(json).map_err(|error| format!("not a model configuration: {error}"))?;
        let unknown = [
            (raw.use_sliding_window, "use_sliding_window"),
            (raw.hidden_act.as_deref().is_some_and(|name| name != "silu"), "a hidden_act other than silu"),
            (raw.partial_rotary_factor.is_some_and(|factor| factor != 1.0), "partial_rotary_factor"),
            (
                raw.quantization_config.is_some(),
                "quantization_config (GGUF files are: put one in a folder of its own)",
            ),
        ];
        if let Some((_, what)) = unknown.iter().find(|(asked, _)| *asked) {
            return Err(format!("{what} is not supported"));
        }
        let ropes = [&raw.rope_parameters, &raw.rope_scaling].into_iter().flatten();
        let theta = ropes.clone().find_map(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0);
        let mut rope_scaling = RopeScaling::None;
        for rope in ropes {
            if rope_scaling == RopeScaling::None {
                rope_scaling = rope.scaling()?;
            }
        }
        // Qwen2 has biases without saying so.
        let attention_bias = raw.attention_bias.unwrap_or(false);
        let config = Config {
            family,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_size: raw.head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1)),
            rms_norm_epsilon: raw.rms_norm_eps,
            rope_theta: theta,
            rope_scaling,
            positions: raw.max_position_embeddings,
            qkv_bias: family == Family::Qwen2 || attention_bias,
            o_bias: family != Family::Qwen2 && attention_bias,
            mlp_bias: family == Family::Llama && raw.mlp_bias,
            tied: raw.tie_word_embeddings,
            eos: token_ids(raw.eos_token_id.as_ref()),
            // Older conversions have −1 for none.
            pad: token_ids(raw.pad_token_id.as_ref()).first().copied(),
        };
        config.check()?;
        Ok(config)
    }

    /// Sizes that cannot be a decoder's are named.
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
            return Err(format!("`{name}` is {size}: no model has that"));
        }
        if self.layers > MOST_LAYERS {
            return Err(format!("`num_hidden_layers` is {}: at most {MOST_LAYERS} are read", self.layers));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "num_attention_heads ({}) is no multiple of num_key_value_heads ({})",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_size.is_multiple_of(2) {
            return Err(format!("head_dim ({}) is odd", self.head_size));
        }
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if !positive(self.rope_theta) || !positive(self.rms_norm_epsilon) {
            return Err("rope_theta and rms_norm_eps are numbers above 0".into());
        }
        Ok(())
    }

    /// config.json as transformers 5 writes it.
    pub fn to_json(&self) -> Value {
        let mut rope = json!({ "rope_theta": self.rope_theta, "rope_type": "default" });
        match self.rope_scaling {
            // Quantised models, which have the latter, are not written.
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

    /// Whether queries and keys are normalised, each head on its own.
    pub fn qk_norm(&self) -> bool {
        self.family == Family::Qwen3
    }

    /// Names and shapes of all parameters, as Hugging Face has them.
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

    /// The angle by which each pair of dimensions turns from one position to the next.
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
                // How often it turns within the rows of pre-training, between the two bounds as a share.
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

    /// Within its block, such as `self_attn.q_proj`.
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

    /// The last part of its path, by which LoRA's target modules name it.
    pub fn name(self) -> &'static str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    /// Outputs and inputs.
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
            json["rope_theta"] = 5e5.into();
            json["rope_scaling"] = scaling.clone();
        })
        .unwrap();
        let newer = load(|json| {
            json["model_type"] = "llama".into();
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
        let error = |key: &str, value: Value| load(|json| json[key] = value).unwrap_err().to_string();
        assert!(
            error("model_type", "gpt2".into())
                .contains("model_type `gpt2` is not supported; there are: qwen3, qwen2, llama")
        );
        assert!(error("rope_scaling", json!({"rope_type": "yarn"})).contains("rope_type `yarn`"));
        assert!(
            error("rope_parameters", json!({"rope_type": "llama3", "factor": 2.0}))
                .contains("rope scaling has no `low_freq_factor`")
        );
        assert!(error("hidden_act", "gelu".into()).contains("hidden_act other than silu"));
        assert!(error("num_attention_heads", 0.into()).contains("`num_attention_heads` is 0"));
        assert!(error("num_key_value_heads", 3.into()).contains("is no multiple of"));
        assert!(error("hidden_size", "wide".into()).contains("not a model configuration"));
    }
}
