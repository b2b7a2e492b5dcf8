//! The algorithms of `update`, as a pipeline names them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use engine::CheckError;
use grpo::{GrpoConfig, PairLoss, PreferenceConfig};

/// How a model learns: from rewards, or from preferences between two completions.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    /// Group-relative policy optimization (GRPO), from rewards.
    Grpo(GrpoConfig),
    /// Direct preference optimization (DPO, Rafailov et al. 2023), from preferences.
    Dpo(PreferenceConfig),
    /// Identity preference optimization (IPO, Azar et al. 2023), from preferences: its target is a margin of 1/(2β) per token.
    Ipo(PreferenceConfig),
}

impl Algorithm {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Algorithm::Grpo(_) => "grpo",
            Algorithm::Dpo(_) => "dpo",
            Algorithm::Ipo(_) => "ipo",
        }
    }

    /// Whether it learns from preferences.
    pub(crate) fn is_on_pairs(&self) -> bool {
        !matches!(self, Algorithm::Grpo(_))
    }

    /// Checks that a reference is given if one is needed.
    pub(crate) fn check_reference(&self, has_reference: bool) -> Result<(), CheckError> {
        match self {
            _ if has_reference => Ok(()),
            Algorithm::Grpo(config) if config.kl > 0.0 => {
                Err("`reference` must be given for a KL penalty, such as `reference: warmup.model`; or write `lora` or `kl: 0`"
                    .into())
            }
            Algorithm::Grpo(_) => Ok(()),
            Algorithm::Dpo(_) | Algorithm::Ipo(_) => {
                let name = self.name();
                Err(format!("`reference` must be given for `{name}`, such as `reference: warmup.model`; or write `lora`").into())
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), CheckError> {
        let checked = match self {
            Algorithm::Grpo(config) => config.check(),
            Algorithm::Dpo(config) => config.check(PairLoss::Dpo),
            Algorithm::Ipo(config) => config.check(PairLoss::Ipo),
        };
        checked.map_err(|message| CheckError::at(format!("algorithm.{}", self.name()), message))
    }
}
