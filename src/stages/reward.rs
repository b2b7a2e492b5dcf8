//! `reward`: what each completion earned, component by component, and its advantage within its group.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Attacks, Labels, Model, Responses, SuccessPool, Verdicts};
use crate::data::{self, AttackRow, LabelRow, Origin, ResponseRow, RewardRow, Sample, VerdictRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::game::{self, AttackerReward, Class, DefenderReward};
use crate::grpo::{self, ScaleRewards};

/// What each completion earned, component by component, and its advantage within its group.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// Whose reward it is, and what it is computed from.
    rule: Rule,
    /// What centred rewards are divided by to make advantages.
    #[serde(default)]
    scale_rewards: ScaleRewards,
}

/// Whose reward it is, and what it is computed from.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Rule {
    /// Success weighted over the defense models, plus kept meaning, minus likeness to the pool.
    Attacker(AttackerRule),
    /// The value of the class that the evaluator gave the response.
    Defender(DefenderRule),
    /// 1 for the label of the experts, 0 for another.
    Evaluator(EvaluatorRule),
}

/// The attacker's reward.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AttackerRule {
    /// The attacks that are rewarded.
    attacks: Input<Attacks>,
    /// The verdicts on the responses of all defense models to these attacks.
    verdicts: Input<Verdicts>,
    /// The successful attacks that the diversity penalty compares with.
    pool: Input<SuccessPool>,
    /// Embeds attacks for the cosine part of the diversity penalty, which is left out without it.
    #[serde(default)]
    embedder: Option<Input<Model>>,
    /// The weights of the terms of the reward.
    #[serde(default)]
    weights: AttackerReward,
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
}

/// The evaluator's reward.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EvaluatorRule {
    /// The verdicts that are rewarded.
    verdicts: Input<Verdicts>,
    /// The experts' labels of the pairs that were judged.
    labels: Input<Labels>,
}

impl Stage for Reward {
    const KIND: Kind =
        Kind { name: "reward", version: 4, outputs: &[Output::new("rewards", "rewards")], numerics: true };

    fn check(&self) -> Result<(), CheckError> {
        match &self.rule {
            Rule::Attacker(rule) if rule.weights.cosine > 0.0 && rule.embedder.is_none() => {
                Err(CheckError::at(
                    "rule.attacker",
                    "the cosine part of the diversity penalty needs an `embedder` (or weights: { cosine: 0 })",
                ))
            }
            _ => Ok(()),
        }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut rows = match &self.rule {
            Rule::Attacker(rule) => rule.rows(context)?,
            Rule::Defender(rule) => rule.rows(context)?,
            Rule::Evaluator(rule) => rule.rows(context)?,
        };
        let rewards: Vec<f64> = rows.iter().map(|row| row.reward).collect();
        let groups: Vec<u32> = rows.iter().map(|row| row.group).collect();
        for (row, advantage) in rows.iter_mut().zip(grpo::advantages(&rewards, &groups, self.scale_rewards)) {
            row.advantage = advantage;
        }
        let mean = rewards.iter().sum::<f64>() / rewards.len().max(1) as f64;
        context.progress(1, 1, format!("reward {mean:.3}"));
        Ok(data::write(&context.output("rewards"), &rows)?)
    }
}

impl AttackerRule {
    /// R_red of DESIGN section 5 for each attack, over the verdicts of all defense models.
    fn rows(&self, context: &Context) -> anyhow::Result<Vec<RewardRow>> {
        let attacks = artifact::rows::<AttackRow, _>(context, &self.attacks)?;
        let verdicts = artifact::rows::<VerdictRow, _>(context, &self.verdicts)?;
        let pool = artifact::pool(context, &self.pool)?;
        let mut by_attack: BTreeMap<u32, Vec<(f64, Option<Class>)>> = BTreeMap::new();
        for verdict in verdicts.iter() {
            by_attack
                .entry(verdict.attack_id)
                .or_default()
                .push((verdict.weight, Class::parse(&verdict.class)));
        }
        let texts: Vec<&str> = attacks.iter().map(|attack| attack.text.as_str()).collect();
        let embeddings = artifact::embed(context, self.embedder.as_ref(), &texts)?;
        let bleu = pool.self_bleu(&texts);
        let cosine = pool.cosine(&embeddings, self.weights.neighbours)?;
        Ok(attacks
            .iter()
            .enumerate()
            .map(|(index, attack)| {
                let empty = Vec::new();
                let verdicts = by_attack.get(&attack.attack_id).unwrap_or(&empty);
                let reward = self.weights.reward(&game::AttackOutcome {
                    verdicts,
                    keeps_meaning: game::keeps_words(&attack.origin.seed, &attack.text),
                    self_bleu: bleu[index],
                    cosine: cosine[index],
                });
                RewardRow {
                    reward: reward.total,
                    attack_success: Some(reward.attack),
                    semantic: Some(reward.semantic),
                    self_bleu: Some(reward.self_bleu),
                    self_bleu_penalty: Some(reward.self_bleu_penalty),
                    cosine: self.embedder.as_ref().map(|_| reward.cosine),
                    cosine_penalty: self.embedder.as_ref().map(|_| reward.cosine_penalty),
                    undetermined: verdicts.iter().filter(|(_, class)| class.is_none()).count() as u32,
                    ..row(context, attack.group, &attack.origin, &attack.text, &attack.sample)
                }
            })
            .collect())
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
                let Some(verdict) = verdicts.get(&response.response_id) else {
                    anyhow::bail!(
                        "response {} has no verdict: are `responses` and `verdicts` of the same step?",
                        response.response_id
                    );
                };
                let class = Class::parse(&verdict.class);
                Ok(RewardRow {
                    reward: self.weights.reward(class),
                    verdict: Some(verdict.class.clone()),
                    undetermined: u32::from(class.is_none()),
                    ..row(context, response.group, &response.origin, &response.text, &response.sample)
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
            let Some(label) = labels.get(verdict.group as usize) else {
                anyhow::bail!(
                    "verdict {} has no label: were `verdicts` judged on `labels`?",
                    verdict.verdict_id
                );
            };
            let Some(expected) = Class::parse(&label.class) else { continue };
            let class = Class::parse(&verdict.class);
            rows.push(RewardRow {
                reward: game::evaluator_reward(class, expected),
                verdict: Some(verdict.class.clone()),
                label: Some(label.class.clone()),
                undetermined: u32::from(class.is_none()),
                ..row(context, verdict.group, &verdict.origin, &verdict.text, &verdict.sample)
            });
        }
        anyhow::ensure!(!rows.is_empty(), "the experts left every pair undetermined: nothing to learn from");
        Ok(rows)
    }
}

/// A row with what all rules share; the rule fills in its components.
fn row(context: &Context, group: u32, origin: &Origin, text: &str, sample: &Sample) -> RewardRow {
    RewardRow {
        group,
        origin: origin.clone(),
        text: text.to_owned(),
        reward: 0.0,
        advantage: 0.0,
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
