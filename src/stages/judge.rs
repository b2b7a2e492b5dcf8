//! `judge`: the evaluator says of each response whether it is negative, rejective or positive.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Judgeable, Model, Player};
use crate::data::{self, JudgedRow, VerdictRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::game::{Class, Prompt, Role, label};
use crate::rollout::Sampling;

/// The evaluator says of each response whether it is negative (unsafe), rejective (a plain refusal) or
/// positive (safe and helpful).
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// What to judge: responses, or labelled pairs when the evaluator is trained.
    data: Input<Judgeable>,
    /// The evaluator.
    model: Input<Model>,
    /// Verdicts for each pair; they are one group of GRPO when the evaluator is trained.
    #[serde(default = "one")]
    group: usize,
    /// How verdicts are drawn: greedily by default; an evaluator in training samples at temperature 1.
    #[serde(default = "greedy")]
    sampling: Sampling,
    /// The template of the evaluator's prompt; knows `prompt` and `response`.
    #[serde(default = "default_prompt")]
    prompt: String,
    /// Whether the prompt is the user's message in the model's chat template.
    #[serde(default)]
    chat: bool,
}

fn one() -> usize {
    1
}

/// A label is one word and the end of text.
fn greedy() -> Sampling {
    Sampling { temperature: 0.0, max_new_tokens: 3, ..Sampling::default() }
}

fn default_prompt() -> String {
    Role::Evaluator.default_prompt().into()
}

impl Stage for Judge {
    const KIND: Kind =
        Kind { name: "judge", version: 2, outputs: &[Output::new("verdicts", "verdicts")], numerics: true };

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 {
            return Err("`group` is at least 1".into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        Prompt::asked(Role::Evaluator, &self.prompt, self.chat)
            .map(|_| ())
            .map_err(|error| CheckError::at("prompt", error))
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let pairs = artifact::rows::<JudgedRow, _>(context, &self.data)?;
        let asked: Vec<(usize, &JudgedRow)> =
            pairs.iter().enumerate().flat_map(|pair| std::iter::repeat_n(pair, self.group)).collect();
        let prompt = Prompt::asked(Role::Evaluator, &self.prompt, self.chat)?;
        let prompts = asked
            .iter()
            .map(|(_, pair)| prompt.render(&[&pair.attack, &pair.text]))
            .collect::<Result<_, _>>()?;
        let player =
            Player { model: &self.model, role: Role::Evaluator, chat: self.chat, sampling: &self.sampling };
        let samples = artifact::sample(context, &player, prompts, "verdicts")?;
        let at = artifact::position(context);
        let rows: Vec<VerdictRow> = asked
            .into_iter()
            .zip(samples)
            .enumerate()
            .map(|(index, ((group, pair), sample))| VerdictRow {
                verdict_id: index as u32,
                response_id: pair.response_id,
                attack_id: pair.attack_id,
                origin: pair.origin.clone(),
                attack: pair.attack.clone(),
                response: pair.text.clone(),
                defender: pair.defender.clone(),
                weight: pair.weight,
                group: group as u32,
                class: label(Class::parse(&sample.completion)).to_owned(),
                text: sample.completion.clone(),
                sample,
                at: at.clone(),
            })
            .collect();
        Ok(data::write(&context.output("verdicts"), &rows)?)
    }
}
