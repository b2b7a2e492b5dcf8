//! The sizes of a new model, as a pipeline gives them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{Config, Family, RopeScaling};

/// Sizes of a new model of the Qwen3 family; the vocabulary comes from its tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Width of the model; must be a multiple of 2 × `heads`.
    pub hidden: usize,
    /// Number of transformer blocks.
    pub layers: usize,
    /// Number of attention heads of a block.
    pub heads: usize,
    /// Number of heads of keys and values, by default as many as `heads`, which must be a multiple of it.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward layers; 3 × `hidden` by default.
    #[serde(default)]
    pub intermediate: Option<usize>,
    /// Longest prompt with its completion, in tokens.
    #[serde(default = "default_positions")]
    pub positions: usize,
}

fn default_positions() -> usize {
    256
}

impl Architecture {
    /// Checks that the sizes fit each other. The error names the key, the rule and what was found.
    pub fn check(&self) -> Result<(), String> {
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        let counts = [
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", kv_heads),
            ("positions", self.positions),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(format!("`{name}` must be at least 1, found 0"));
        }
        if !self.hidden.is_multiple_of(2 * self.heads) {
            return Err(format!(
                "`hidden` must be a multiple of 2 × `heads` = {}, found {}",
                2 * self.heads,
                self.hidden
            ));
        }
        if !self.heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "`heads` must be a multiple of `kv_heads` = {kv_heads}, found {}",
                self.heads
            ));
        }
        self.config(1, 0, 0).check()
    }

    /// The configuration of a Qwen3 decoder of these sizes, for a tokenizer of `vocab_size` tokens.
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
