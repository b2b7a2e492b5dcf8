//! config.json of the Qwen3 family, as transformers writes and reads it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Error, Result};

/// The sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_size: usize,
    pub rms_norm_epsilon: f64,
    pub rope_theta: f64,
    /// Longest row, in tokens.
    pub positions: usize,
    /// Whether the output weight is the embedding.
    pub tied: bool,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

/// What a pipeline says of a new model; the vocabulary comes from its tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward block; three times `hidden` by default.
    #[serde(default)]
    pub intermediate: Option<usize>,
    /// Longest row, in tokens.
    #[serde(default = "default_positions")]
    pub positions: usize,
}

fn default_positions() -> usize {
    256
}

impl Architecture {
    pub fn check(&self) -> std::result::Result<(), String> {
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        if self.layers == 0 || self.heads == 0 || kv_heads == 0 || self.positions == 0 {
            return Err("`layers`, `heads`, `kv_heads` and `positions` are at least 1".into());
        }
        if !self.hidden.is_multiple_of(2 * self.heads) {
            return Err(format!(
                "`hidden` ({}) is a multiple of twice `heads` ({})",
                self.hidden, self.heads
            ));
        }
        if !self.heads.is_multiple_of(kv_heads) {
            return Err(format!("`heads` ({}) is a multiple of `kv_heads` ({kv_heads})", self.heads));
        }
        Ok(())
    }

    pub fn config(&self, vocab_size: usize, eos: u32, pad: u32) -> Config {
        Config {
            vocab_size,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate.unwrap_or(3 * self.hidden),
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            head_size: self.hidden / self.heads,
            rms_norm_epsilon: 1e-6,
            rope_theta: 10_000.0,
            positions: self.positions,
            tied: true,
            eos: Some(eos),
            pad: Some(pad),
        }
    }
}

/// The keys of config.json that matter here.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    /// transformers 4.
    rope_theta: Option<f64>,
    /// transformers 5.
    rope_parameters: Option<RopeParameters>,
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    eos_token_id: Option<Value>,
    pad_token_id: Option<u32>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    hidden_act: Option<String>,
    /// transformers 4.
    rope_scaling: Option<Value>,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: f64,
    #[serde(default)]
    rope_type: Option<String>,
}

impl Config {
    /// Reads config.json; another family than Qwen3 is an error.
    pub fn load(path: &Path) -> Result<Config> {
        let text = std::fs::read(path).map_err(|cause| Error::Read { path: path.into(), cause })?;
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        let raw: Raw = serde_json::from_slice(&text)
            .map_err(|error| invalid(format!("not a model configuration: {error}")))?;
        if raw.model_type != "qwen3" {
            return Err(invalid(format!(
                "model_type `{}` is not supported; there is: qwen3",
                raw.model_type
            )));
        }
        if let Some(kind) = raw.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref())
            && kind != "default"
        {
            return Err(invalid(format!("rope_type `{kind}` is not supported; there is: default")));
        }
        let unknown = [
            (raw.attention_bias, "attention_bias"),
            (raw.use_sliding_window, "use_sliding_window"),
            (raw.rope_scaling.as_ref().is_some_and(|scaling| !scaling.is_null()), "rope_scaling"),
            (raw.hidden_act.as_deref().is_some_and(|name| name != "silu"), "a hidden_act other than silu"),
        ];
        if let Some((_, what)) = unknown.iter().find(|(asked, _)| *asked) {
            return Err(invalid(format!("{what} is not supported")));
        }
        let theta = raw.rope_parameters.map(|rope| rope.rope_theta).or(raw.rope_theta);
        let eos = match &raw.eos_token_id {
            Some(Value::Array(ids)) => ids.first().and_then(Value::as_u64),
            other => other.as_ref().and_then(Value::as_u64),
        };
        let config = Config {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_size: raw.head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads.max(1)),
            rms_norm_epsilon: raw.rms_norm_eps,
            rope_theta: theta.unwrap_or(10_000.0),
            positions: raw.max_position_embeddings,
            tied: raw.tie_word_embeddings,
            eos: eos.and_then(|id| u32::try_from(id).ok()),
            pad: raw.pad_token_id,
        };
        if config.kv_heads == 0
            || !config.heads.is_multiple_of(config.kv_heads)
            || !config.head_size.is_multiple_of(2)
        {
            return Err(invalid("heads, key-value heads and head size do not fit together".into()));
        }
        Ok(config)
    }

    /// config.json as transformers 5 writes it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "dtype": "float32",
            "eos_token_id": self.eos,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.positions,
            "model_type": "qwen3",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": self.pad,
            "rms_norm_eps": self.rms_norm_epsilon,
            "rope_parameters": { "rope_theta": self.rope_theta, "rope_type": "default" },
            "tie_word_embeddings": self.tied,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }

    /// Names and shapes of all parameters, as Hugging Face has them.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, wide) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.heads * self.head_size, self.kv_heads * self.head_size);
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden])];
        for layer in 0..self.layers {
            let shapes: [(&str, Vec<usize>); 11] = [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("self_attn.q_norm", vec![self.head_size]),
                ("self_attn.k_norm", vec![self.head_size]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![wide, hidden]),
                ("mlp.up_proj", vec![wide, hidden]),
                ("mlp.down_proj", vec![hidden, wide]),
            ];
            all.extend(shapes.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        }
        all.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab_size, hidden]));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(change: impl FnOnce(&mut Value)) -> Result<Config> {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/qwen3-tiny/config.json");
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
    fn what_would_be_computed_wrongly_is_refused() {
        let error = |key: &str, value: Value| load(|json| json[key] = value).unwrap_err().to_string();
        assert!(
            error("model_type", "gpt2".into())
                .contains("model_type `gpt2` is not supported; there is: qwen3")
        );
        assert!(error("attention_bias", true.into()).contains("attention_bias is not supported"));
        assert!(
            error("rope_scaling", json!({"rope_type": "yarn"})).contains("rope_scaling is not supported")
        );
        assert!(error("hidden_act", "gelu".into()).contains("hidden_act other than silu"));
    }
}
