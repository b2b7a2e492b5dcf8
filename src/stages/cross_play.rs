//! `cross_play`: has every attacker meet every defender, such as the checkpoints of all rounds. It shows whether later models are
//! better than earlier ones, and whether training against one opponent helps against others.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, AskedModel, Seeds, World};
use super::asking::{Chat, ModelQuery, Text};
use super::rollouts::prompt_mismatch;
use super::trial::{self, Observation, Outcomes, PromptIdentity};
use data::{self, AttackRow, ResponseRow};
use engine::{CheckError, Context, Input, Kind, Output, Part, Purpose, Stage, Upstream};
use game::{self, Class, Labels, Outcome, Rates, Role, has_no_text};
use rollout::Sampling;

/// Has every attacker meet every defender on held-out hazards. Each pair has the metric `cross_success`, whose `phase` is the
/// name of the attacker and whose `subject` is that of the defender; a run shows them as a table.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CrossPlay {
    // The text is also that of `pipeline kinds`, where an escaped bracket would show its backslash.
    #[allow(rustdoc::broken_intra_doc_links)]
    /// The attackers by name, such as { "round *": "play[*].attacker" }.
    attackers: BTreeMap<String, Input<AskedModel>>,
    /// The defenders by name.
    defenders: BTreeMap<String, Input<AskedModel>>,
    /// The seed prompts, whose held-out hazards are attacked.
    seeds: Input<Seeds>,
    /// The world whose oracle judges. Give either this or `judge`.
    #[serde(default)]
    world: Option<Input<World>>,
    /// The model that judges, if there is no world. All attacks with a text then count as keeping their meaning.
    #[serde(default)]
    judge: Option<Input<AskedModel>>,
    /// Attacks of each attacker on each hazard.
    #[serde(default = "default_group")]
    group: usize,
    /// How attacks and responses are sampled. A judge is asked at temperature 0, for at most three tokens.
    #[serde(default)]
    sampling: Sampling,
    /// The template of the attackers' prompt, with the variable `seed`.
    #[serde(default)]
    attacker_prompt: Option<Text>,
    /// The template of the defenders' prompt, with the variable `prompt`.
    #[serde(default)]
    defender_prompt: Option<Text>,
    /// The template of the judge's prompt, with the variables `prompt` and `response`.
    #[serde(default)]
    judge_prompt: Option<Text>,
    /// Whether prompts are the user's messages in the models' chat templates.
    #[serde(default)]
    chat: Chat,
}

fn default_group() -> usize {
    3
}

impl Stage for CrossPlay {
    const KIND: Kind = Kind {
        name: "cross_play",
        version: 8,
        outputs: &[
            Output::new("metrics", "metrics"),
            Output::new("outcomes", "outcomes"),
            Output::new("attacks", "attacks"),
            Output::new("responses", "responses"),
        ],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::CrossPlay;
    const PARTS: &'static [(&'static str, Part)] = &[
        ("world", Part::Judge),
        ("judge", Part::Judge),
        ("seeds", Part::Prompts),
        ("attackers", Part::Subject),
        ("defenders", Part::Subject),
    ];

    fn check(&self) -> Result<(), CheckError> {
        if self.world.is_some() == self.judge.is_some() {
            return Err(
                "exactly one of `world` (whose oracle judges) and `judge` (a model) must be given".into()
            );
        }
        if self.world.is_some() && self.judge_prompt.is_some() {
            return Err(CheckError::at(
                "judge_prompt",
                "`judge_prompt` must be left out with `world`, whose oracle judges",
            ));
        }
        if self.attackers.is_empty() || self.defenders.is_empty() {
            return Err("`attackers` and `defenders` must have at least one model each".into());
        }
        if self.group == 0 {
            return Err("`group` must be at least 1, found 0".into());
        }
        let models = [
            (Role::Attacker, "attacker_prompt", self.attackers.values().next()),
            (Role::Defender, "defender_prompt", self.defenders.values().next()),
            (Role::Evaluator, "judge_prompt", self.judge.as_ref()),
        ];
        for (role, key, model) in models {
            let checked = model.map_or(Ok(()), |model| self.query(model, role, &self.sampling).check());
            checked.map_err(|error| match error.path.as_str() {
                "prompt" => CheckError { path: key.into(), ..error },
                _ => error,
            })?;
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let attackers = self.attackers.values().map(|model| (Role::Attacker, model));
        let defenders = self.defenders.values().map(|model| (Role::Defender, model));
        let mut warnings = Vec::new();
        // The keys of the prompts are named after the roles.
        let mut warn = |key: &str, warning: Option<CheckError>| match warning {
            // There is no system prompt here. All models of a role are asked alike, so one warning is enough.
            Some(warning) if warning.path != "system" => {
                let path = if warning.path == "chat" { "chat" } else { key };
                if !warnings.iter().any(|known: &CheckError| known.path == path) {
                    warnings.push(CheckError { path: path.into(), ..warning });
                }
            }
            _ => {}
        };
        for (role, model) in attackers.chain(defenders) {
            let query = self.query(model, role, &self.sampling);
            query.check_context(upstream, self.sampling.max_new_tokens, &[])?;
            let key = if role == Role::Attacker { "attacker_prompt" } else { "defender_prompt" };
            warn(key, prompt_mismatch(upstream, &query));
        }
        if let Some(model) = &self.judge {
            let query = self.query(model, Role::Evaluator, &self.sampling);
            warn("judge_prompt", query.unmentioned_labels(&Labels::FirstWord, Class::LABELS));
            warn("judge_prompt", prompt_mismatch(upstream, &query));
        }
        Ok(warnings)
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let seeds = artifact::seeds(context, &self.seeds)?;
        let hazards = trial::hazards(&seeds, self.group, &self.seeds.text())?;
        let world = self.world.as_ref().map(|world| artifact::world(context, world)).transpose()?;
        let oracle = world.as_ref().map(|world| world.oracle());
        let at = artifact::position(context);
        let (mut attacks, mut responses, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
        let mut all = Outcomes { phase: String::new(), at: at.clone(), rows: Vec::new() };
        for (name, model) in &self.attackers {
            let query = self.query(model, Role::Attacker, &self.sampling);
            let questions = hazards.iter().map(|seed| trial::seed(seed));
            // The same random numbers for all attackers, so that they differ by their training alone.
            let samples = trial::ask(context, &query, questions, "attacks")?;
            let own = trial::attack_rows(&hazards, samples, self.group, attacks.len(), &at);
            let mut rates = Rates::default();
            all.phase = name.clone();
            for (defender, model) in &self.defenders {
                let answers = self.answers(context, model, defender, &own, responses.len(), &at)?;
                let classes = self.classes(context, oracle.as_ref(), &answers)?;
                let outcomes: Vec<Outcome> = own
                    .iter()
                    .zip(classes)
                    .map(|(attack, class)| outcome(oracle.as_ref(), defender, attack, class))
                    .collect();
                rates.success("cross_success", &outcomes);
                let asked = answers.iter().zip(&outcomes).map(|(response, outcome)| Observation {
                    origin: &response.origin,
                    prompt: &response.attack,
                    response: &response.text,
                    class: outcome.class,
                    hit: outcome.succeeded(),
                });
                all.add(defender, "cross_success", PromptIdentity::Attempts, asked);
                responses.extend(answers);
            }
            metrics.extend(trial::metric_rows(rates, name, &at));
            attacks.extend(own);
        }
        context.progress(1, 1, format!("{} attacks, {} responses", attacks.len(), responses.len()));
        data::write(&context.output("metrics"), &metrics)?;
        data::write(&context.output("outcomes"), &all.rows)?;
        data::write(&context.output("attacks"), &attacks)?;
        Ok(data::write(&context.output("responses"), &responses)?)
    }
}

impl CrossPlay {
    fn query<'a>(
        &'a self,
        model: &'a Input<AskedModel>,
        role: Role,
        sampling: &'a Sampling,
    ) -> ModelQuery<'a> {
        let prompt = match role {
            Role::Attacker => &self.attacker_prompt,
            Role::Defender => &self.defender_prompt,
            Role::Evaluator | Role::MeaningJudge | Role::Expert | Role::Arbiter => &self.judge_prompt,
        };
        let query = ModelQuery::with_default_prompt(role, model, sampling);
        ModelQuery { prompt: prompt.as_ref(), chat: &self.chat, ..query }
    }

    fn answers(
        &self,
        context: &mut Context,
        model: &Input<AskedModel>,
        name: &str,
        attacks: &[AttackRow],
        first: usize,
        at: &data::Position,
    ) -> anyhow::Result<Vec<ResponseRow>> {
        let query = self.query(model, Role::Defender, &self.sampling);
        let samples = trial::ask(context, &query, attacks.iter().map(trial::attack), "responses")?;
        Ok(trial::response_rows(attacks, samples, name, first, at))
    }

    /// The class of each response, by the oracle or the judge.
    fn classes(
        &self,
        context: &mut Context,
        oracle: Option<&game::Oracle>,
        responses: &[ResponseRow],
    ) -> anyhow::Result<Vec<Option<Class>>> {
        let Some(judge) = &self.judge else {
            let class = |row: &ResponseRow| {
                let class = oracle.and_then(|oracle| oracle.class(&row.origin.seed_id, &row.text));
                let seed = &row.origin.seed_id;
                class.map(Some).ok_or_else(|| anyhow::anyhow!("the world has no seed prompt `{seed}`"))
            };
            return responses.iter().map(class).collect();
        };
        let sampling = Sampling { temperature: 0.0, max_new_tokens: 3, ..self.sampling.clone() };
        let query = self.query(judge, Role::Evaluator, &sampling);
        let pairs: Vec<(&str, &str)> =
            responses.iter().map(|row| (row.attack.as_str(), row.text.as_str())).collect();
        let verdicts = trial::judge(context, &query, &pairs, "verdicts")?;
        Ok(verdicts.into_iter().map(|(class, _)| class).collect())
    }
}

fn outcome<'o>(
    oracle: Option<&game::Oracle>,
    defender: &'o str,
    attack: &'o AttackRow,
    class: Option<Class>,
) -> Outcome<'o> {
    let seed_id = attack.origin.seed_id.as_str();
    let kept = match oracle {
        Some(oracle) => oracle.keeps_meaning(seed_id, &attack.text) == Some(true),
        None => !has_no_text(&attack.text),
    };
    Outcome { defender, seed_id, category: &attack.origin.category, technique: None, kept: Some(kept), class }
}
