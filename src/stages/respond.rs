//! `respond`: every defense model answers every attack. Benign prompts can be mixed in, so that a defender
//! in training also meets what it should help with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Attacks, Model, Player};
use crate::data::{self, AttackRow, ResponseRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::game::{Prompt, Role};
use crate::rollout::Sampling;

/// Every defense model answers every attack. Benign prompts can be mixed in, so that a defender in training
/// also meets what it should help with.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// The attacks to answer.
    data: Input<Attacks>,
    /// The defense models, each with its weight in the attacker's reward.
    models: Vec<Defense>,
    /// Benign prompts to mix in; none by default.
    #[serde(default)]
    benign: Option<Benign>,
    /// Responses of each model to each attack; they are one group of GRPO.
    #[serde(default = "one")]
    group: usize,
    /// How responses are drawn.
    #[serde(default)]
    sampling: Sampling,
    /// The template of the defender's prompt; knows `prompt`. By default the attack, between the sandbox's marks
    /// where it is not a message of a chat.
    #[serde(default = "default_prompt")]
    prompt: String,
}

/// A defense model and its weight w_i in the attacker's reward.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Defense {
    /// The model.
    model: Input<Model>,
    /// What it is called in datasets; each model has another name.
    #[serde(default = "default_name")]
    name: String,
    /// w_i: what breaking this model counts in the attacker's reward.
    #[serde(default = "default_weight")]
    weight: f64,
    /// Whether the prompt is the user's message in the model's chat template.
    #[serde(default)]
    chat: bool,
}

/// Benign prompts that are mixed in.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Benign {
    /// The prompts to draw from.
    data: Input<Attacks>,
    /// How many prompts to draw.
    prompts: usize,
    /// Draw only from prompts of this split.
    #[serde(default = "default_split")]
    split: String,
}

fn one() -> usize {
    1
}

fn default_name() -> String {
    "defender".into()
}

fn default_weight() -> f64 {
    1.0
}

fn default_split() -> String {
    "train".into()
}

fn default_prompt() -> String {
    Role::Defender.default_prompt().into()
}

impl Stage for Respond {
    const KIND: Kind = Kind {
        name: "respond",
        version: 2,
        outputs: &[Output::new("responses", "responses")],
        numerics: true,
    };

    fn check(&self) -> Result<(), CheckError> {
        if self.models.is_empty() || self.group == 0 {
            return Err("needs at least one model, and `group` of at least 1".into());
        }
        for (index, defense) in self.models.iter().enumerate() {
            if self.models[..index].iter().any(|other| other.name == defense.name) {
                let message = format!("two models are called `{}`: give each a `name`", defense.name);
                return Err(CheckError::at(format!("models.{index}"), message));
            }
        }
        let wrong = |defense: &Defense| !(0.0..f64::INFINITY).contains(&defense.weight);
        if let Some(index) = self.models.iter().position(wrong) {
            return Err(CheckError::at(format!("models.{index}.weight"), "a model's `weight` is at least 0"));
        }
        if self.models.iter().all(|defense| defense.weight == 0.0) {
            return Err(CheckError::at("models", "of the models' weights one is above 0"));
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        Prompt::parse(Role::Defender, &self.prompt)
            .map(|_| ())
            .map_err(|error| CheckError::at("prompt", error))
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let attacks = self.attacks(context)?;
        let at = artifact::position(context);
        let mut rows: Vec<ResponseRow> = Vec::new();
        for (index, defense) in self.models.iter().enumerate() {
            let asked: Vec<&AttackRow> =
                attacks.iter().flat_map(|attack| std::iter::repeat_n(attack, self.group)).collect();
            let prompt = Prompt::asked(Role::Defender, &self.prompt, defense.chat)?;
            let prompts =
                asked.iter().map(|attack| prompt.render(&[&attack.text])).collect::<Result<_, _>>()?;
            let what = format!("responses {}/{}", index + 1, self.models.len());
            let player = Player {
                model: &defense.model,
                role: Role::Defender,
                chat: defense.chat,
                sampling: &self.sampling,
            };
            let samples = artifact::sample(context, &player, prompts, &what)?;
            for (position, (attack, sample)) in asked.iter().zip(samples).enumerate() {
                rows.push(ResponseRow {
                    response_id: rows.len() as u32,
                    attack_id: attack.attack_id,
                    origin: attack.origin.clone(),
                    attack: attack.text.clone(),
                    answer: attack.answer.clone(),
                    defender: defense.name.clone(),
                    weight: defense.weight,
                    group: (index * attacks.len() + position / self.group) as u32,
                    text: sample.completion.clone(),
                    sample,
                    at: at.clone(),
                });
            }
        }
        Ok(data::write(&context.output("responses"), &rows)?)
    }
}

impl Respond {
    /// The attacks, then the benign prompts drawn for this node, numbered on.
    fn attacks(&self, context: &Context) -> anyhow::Result<Vec<AttackRow>> {
        let mut attacks = artifact::rows::<AttackRow, _>(context, &self.data)?.to_vec();
        if let Some(benign) = &self.benign {
            let pool = artifact::rows::<AttackRow, _>(context, &benign.data)?;
            let pool: Vec<&AttackRow> = pool.iter().filter(|row| row.origin.split == benign.split).collect();
            anyhow::ensure!(
                !pool.is_empty(),
                "`{}` has no rows of split `{}`",
                benign.data.text(),
                benign.split
            );
            let first = attacks.iter().map(|attack| attack.attack_id.saturating_add(1)).max().unwrap_or(0);
            let drawn = artifact::draw(pool.len(), benign.prompts, context.seed().child("benign"));
            for (number, index) in drawn.into_iter().enumerate() {
                attacks.push(AttackRow {
                    attack_id: first.saturating_add(number as u32),
                    ..pool[index].clone()
                });
            }
        }
        Ok(attacks)
    }
}
