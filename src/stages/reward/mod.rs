//! `reward`: what each completion earned, component by component, and its advantage within its group.

mod attacker;
mod combine;
mod upstream;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::attacker::AttackerRule;
use self::combine::{Combine, ComponentWeights};
use super::artifact::{self, Labels, Responses, Verdicts};
use data::{self, LabelRow, Origin, ResponseRow, RewardRow, Sample, VerdictRow};
use engine::{CheckError, Context, Input, Kind, Output, Stage, Upstream};
use game::{self, Class, Classes, DefenderReward, Undetermined};
use grpo::ScaleRewards;

/// What each completion earned, component by component, and its advantage within its group.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// Whose reward it is, and what it is computed from.
    rule: Rule,
    /// What centred rewards are divided by to make advantages.
    #[serde(default)]
    scale_rewards: ScaleRewards,
    /// How the components of a reward become one advantage.
    #[serde(default)]
    combine: Combine,
    /// What each component of the attacker's reward counts in `combine: gdpo`; 1 each by default.
    #[serde(default)]
    component_weights: Option<ComponentWeights>,
}

/// Whose reward it is, and what it is computed from.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Rule {
    /// Success weighted over the defense models, plus kept meaning and rare cells, minus likeness to the pool.
    Attacker(Box<AttackerRule>),
    /// The value of the class that the evaluator gave the response.
    Defender(DefenderRule),
    /// 1 for the label of the experts, 0 for another.
    Evaluator(EvaluatorRule),
}

/// The defender's reward.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DefenderRule {
    /// The responses that are rewarded.
    responses: Input<Responses>,
    /// The verdicts on these responses.
    verdicts: Input<Verdicts>,
    /// What each class of response is worth.
    #[serde(default)]
    weights: DefenderReward,
    /// What an undetermined verdict is worth: by default the response has no reward, is not learnt from and is not in its
    /// group's mean; `worst` gives it the lowest of the weights.
    #[serde(default)]
    undetermined: Undetermined,
}

/// The evaluator's reward.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EvaluatorRule {
    /// The verdicts that are rewarded.
    verdicts: Input<Verdicts>,
    /// The experts' labels of the pairs that were judged.
    labels: Input<Labels>,
    /// The classes that are told apart.
    #[serde(default)]
    classes: Classes,
}

impl Stage for Reward {
    const KIND: Kind = Kind {
        name: "reward",
        version: 9,
        outputs: &[Output::new("rewards", "rewards")],
        numerics: true,
        draws: true,
        uncounted: &[],
    };

    fn check(&self) -> Result<(), CheckError> {
        if let Rule::Attacker(rule) = &self.rule {
            rule.check()?;
        }
        self.check_differs()?;
        self.check_combine()
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        self.of_one_step(upstream)?;
        Ok(Vec::new())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut rows = match &self.rule {
            Rule::Attacker(rule) => rule.rows(context)?,
            Rule::Defender(rule) => rule.rows(context)?,
            Rule::Evaluator(rule) => rule.rows(context)?,
        };
        let advantages = self.advantages(&rows);
        rows.iter_mut().zip(advantages).for_each(|(row, advantage)| row.advantage = advantage);
        if rows.is_empty() {
            context.progress(1, 1, "nothing to reward");
            return Ok(data::write(&context.output("rewards"), &rows)?);
        }
        let known: Vec<f64> = rows.iter().filter_map(|row| row.reward).collect();
        let unknown = rows.len() - known.len();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let mean = if known.is_empty() { "not known".into() } else { format!("{mean:.3}") };
        let unknown =
            if unknown > 0 { format!(", {unknown} without, since undetermined") } else { String::new() };
        context.progress(1, 1, format!("reward {mean}{unknown}"));
        Ok(data::write(&context.output("rewards"), &rows)?)
    }
}

impl DefenderRule {
    fn rows(&self, context: &Context) -> anyhow::Result<Vec<RewardRow>> {
        let responses = artifact::rows::<ResponseRow, _>(context, &self.responses)?;
        let verdicts = artifact::rows::<VerdictRow, _>(context, &self.verdicts)?;
        let verdicts: BTreeMap<u32, &VerdictRow> =
            verdicts.iter().map(|row| (row.response_id, row)).collect();
        responses
            .iter()
            .map(|response| {
                let known = verdicts.get(&response.response_id);
                let Some(verdict) = known.filter(|row| row.response == response.text) else {
                    anyhow::bail!(
                        "response {} of `{}` has no verdict in `{}`: are they of the same step?",
                        response.response_id,
                        self.responses.text(),
                        self.verdicts.text()
                    );
                };
                let class = Class::parse(&verdict.class);
                Ok(RewardRow {
                    reward: self.weights.reward(class, self.undetermined),
                    verdict: Some(verdict.class.clone()),
                    undetermined: u32::from(class.is_none()),
                    ..row(
                        context,
                        response.response_id,
                        response.group,
                        &response.origin,
                        &response.text,
                        &response.sample,
                    )
                })
            })
            .collect()
    }
}

impl EvaluatorRule {
    /// 1 for the experts' label; pairs that the experts left undetermined are not trained on.
    fn rows(&self, context: &Context) -> anyhow::Result<Vec<RewardRow>> {
        let verdicts = artifact::rows::<VerdictRow, _>(context, &self.verdicts)?;
        let labels = artifact::rows::<LabelRow, _>(context, &self.labels)?;
        let mut rows = Vec::new();
        for verdict in verdicts.iter() {
            let is_of =
                |label: &&LabelRow| (&label.attack, &label.text) == (&verdict.attack, &verdict.response);
            let Some(label) = labels.get(verdict.group as usize).filter(is_of) else {
                anyhow::bail!(
                    "verdict {} of `{}` has no label in `{}`: were they judged on these?",
                    verdict.verdict_id,
                    self.verdicts.text(),
                    self.labels.text()
                );
            };
            let Some(expected) = Class::parse(&label.class) else { continue };
            let class = Class::parse(&verdict.class);
            rows.push(RewardRow {
                reward: Some(game::evaluator_reward(class, expected, self.classes)),
                verdict: Some(verdict.class.clone()),
                label: Some(label.class.clone()),
                undetermined: u32::from(class.is_none()),
                ..row(
                    context,
                    verdict.verdict_id,
                    verdict.group,
                    &verdict.origin,
                    &verdict.text,
                    &verdict.sample,
                )
            });
        }
        Ok(rows)
    }
}

/// A row with what all rules share; the rule fills in its components.
fn row(
    context: &Context,
    sample_id: u32,
    group: u32,
    origin: &Origin,
    text: &str,
    sample: &Sample,
) -> RewardRow {
    RewardRow {
        sample_id,
        group,
        origin: origin.clone(),
        text: text.to_owned(),
        reward: None,
        advantage: None,
        attack_success: None,
        semantic: None,
        meaning: None,
        self_bleu: None,
        self_bleu_penalty: None,
        cosine: None,
        cosine_penalty: None,
        technique: None,
        coverage: None,
        verdict: None,
        label: None,
        undetermined: 0,
        sample: sample.clone(),
        at: artifact::position(context),
    }
}
