//! What a pipeline says of a new model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{Config, Family, RopeScaling};

/// Sizes of a new model of the Qwen3 family; the vocabulary comes from its tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Width of the model; a multiple of twice `heads`.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Heads of keys and values, which divide `heads`; as many by default.
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
    pub fn check(&self) -> Result<(), String> {
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        if self.layers == 0 || self.heads == 0 || kv_heads == 0 || self.positions == 0 {
            return Err("`layers`, `heads`, `kv_heads` and `positions` must be at least 1".into());
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
        self.config(1, 0, 0).check()
    }

    pub fn config(&self, vocab_size: usize, eos: u32, pad: u32) -> Config {
        Config {
            family: Family::Qwen3,
            vocab_size,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate.unwrap_or(3 * self.hidden),
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            head_size: self.hidden / self.heads,
            rms_norm_epsilon: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            positions: self.positions,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            tied: true,
            eos: vec![eos],
            pad: Some(pad),
        }
    }
}
