//! `generate`: the attacker wraps seed prompts. Draws seeds, samples a group of attacks for each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Model, Player, Seeds};
use crate::data::{self, AttackRow, Sample, SeedRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::game::{Prompt, Role};
use crate::rollout::Sampling;

/// The attacker wraps seed prompts: draws seeds and samples a group of attacks for each.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// The attacker.
    model: Input<Model>,
    /// The seeds to draw from.
    data: Input<Seeds>,
    /// How many seeds to draw; 0 makes no attacks.
    prompts: usize,
    /// Attacks for each seed; they are one group of GRPO.
    #[serde(default = "one")]
    group: usize,
    /// Draw only from seeds of this split, such as `train` or `heldout`.
    #[serde(default = "default_split")]
    split: String,
    /// Draw only from seeds of this task: `hazard`, `benign` or `arithmetic` in the sandbox.
    #[serde(default = "default_task")]
    task: String,
    /// How attacks are drawn.
    #[serde(default)]
    sampling: Sampling,
    /// The template of the attacker's prompt; knows `seed`.
    #[serde(default = "default_prompt")]
    prompt: String,
    /// Whether the prompt is the user's message in the model's chat template.
    #[serde(default)]
    chat: bool,
}

fn one() -> usize {
    1
}

fn default_split() -> String {
    "train".into()
}

fn default_task() -> String {
    "hazard".into()
}

fn default_prompt() -> String {
    Role::Attacker.default_prompt().into()
}

impl Stage for Generate {
    const KIND: Kind =
        Kind { name: "generate", version: 2, outputs: &[Output::new("attacks", "attacks")], numerics: true };

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 {
            return Err("`group` is at least 1".into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        Prompt::asked(Role::Attacker, &self.prompt, self.chat)
            .map(|_| ())
            .map_err(|error| CheckError::at("prompt", error))
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let seeds = artifact::rows::<SeedRow, _>(context, &self.data)?;
        let eligible: Vec<&SeedRow> =
            seeds.iter().filter(|row| row.split == self.split && row.task == self.task).collect();
        anyhow::ensure!(
            !eligible.is_empty(),
            "`{}` has no seeds of split `{}` and task `{}`",
            self.data.text(),
            self.split,
            self.task
        );
        let drawn = artifact::draw(eligible.len(), self.prompts, context.seed());
        let chosen: Vec<&SeedRow> =
            drawn.iter().flat_map(|&index| std::iter::repeat_n(eligible[index], self.group)).collect();
        let prompt = Prompt::asked(Role::Attacker, &self.prompt, self.chat)?;
        let prompts = chosen.iter().map(|seed| prompt.render(&[&seed.text])).collect::<Result<_, _>>()?;
        let player =
            Player { model: &self.model, role: Role::Attacker, chat: self.chat, sampling: &self.sampling };
        let samples = artifact::sample(context, &player, prompts, "attacks")?;
        let at = artifact::position(context);
        let rows: Vec<AttackRow> = chosen
            .iter()
            .zip(samples)
            .enumerate()
            .map(|(index, (seed, sample))| attack(index, self.group, seed, sample, &at))
            .collect();
        Ok(data::write(&context.output("attacks"), &rows)?)
    }
}

fn attack(index: usize, group: usize, seed: &SeedRow, sample: Sample, at: &data::Position) -> AttackRow {
    AttackRow {
        attack_id: index as u32,
        origin: artifact::origin(seed),
        technique: None,
        group: (index / group) as u32,
        text: sample.completion.clone(),
        answer: seed.answer.clone(),
        sample,
        at: at.clone(),
    }
}
