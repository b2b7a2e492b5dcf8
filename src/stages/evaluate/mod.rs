//! `evaluate`: measures all three roles on held-out data by the sandbox's oracle. A file for each role asks its questions;
//! [`game::Rates`] computes the metrics.

mod ability;
mod attack;
mod diversity;
mod judgement;
mod turns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, AskedModel, Attacks, Pairs, Seeds, World};
use super::asking::ModelQuery;
use super::rollouts::prompt_mismatch;
use super::trial::{self, Outcomes};
use data::{self, AttackRow, Position, Sample};
use engine::{CheckError, Context, Input, Kind, Output, Part, Purpose, Stage, Upstream};
use game::{self, Class, Rates, Role};
use rollout::Sampling;

/// Measures all three roles on held-out data by the sandbox's oracle. The models are asked with the sandbox's prompts.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evaluate {
    /// The name of this evaluation in tables, such as the phase that it follows.
    phase: String,
    /// The attacker, which wraps the held-out hazards.
    attacker: Input<AskedModel>,
    /// The defender. It responds to the attacks, the benchmark, the benign prompts and the arithmetic questions.
    defender: Input<AskedModel>,
    /// The evaluator, whose verdicts are compared with the oracle's.
    evaluator: Input<AskedModel>,
    /// Frozen defenders that are attacked too.
    #[serde(default)]
    others: Vec<Other>,
    /// The seed prompts: held-out hazards are attacked, arithmetic questions measure ability.
    seeds: Input<Seeds>,
    /// A fixed set of attacks.
    benchmark: Input<Attacks>,
    /// Benign prompts; only the held-out ones are used.
    benign: Input<Attacks>,
    /// Held-out pairs with their true class, for the evaluator.
    pairs: Input<Pairs>,
    /// The world whose oracle judges.
    world: Input<World>,
    /// Embeds attacks to measure their diversity: a sentence encoder, or any model.
    #[serde(default)]
    embedder: Option<Input<AskedModel>>,
    /// Attacks on each held-out hazard.
    #[serde(default = "default_group")]
    group: usize,
    /// Turns of each episode: after the first, the attacker continues with each defender. `attack_success@turn=k` is the success
    /// after k turns; all other metrics are about first turns.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    turns: usize,
    /// How attacks, and the responses to attacks and to the benchmark, are sampled. Benign prompts, arithmetic questions and the
    /// evaluator are asked at temperature 0, the evaluator for at most three tokens; the other limits are the same.
    #[serde(default)]
    sampling: Sampling,
}

/// A frozen defender that is attacked too.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Other {
    /// The model.
    model: Input<AskedModel>,
    /// Its name in tables.
    name: String,
}

fn default_group() -> usize {
    3
}

fn one() -> usize {
    1
}

fn is_one(turns: &usize) -> bool {
    *turns == 1
}

impl Stage for Evaluate {
    const KIND: Kind = Kind {
        name: "evaluate",
        version: 12,
        outputs: &[
            Output::new("metrics", "metrics"),
            Output::new("outcomes", "outcomes"),
            Output::new("attacks", "attacks"),
            Output::new("responses", "responses"),
            Output::new("verdicts", "verdicts"),
        ],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Evaluation;
    const PARTS: &'static [(&'static str, Part)] = &[
        ("phase", Part::Subject),
        ("attacker", Part::Subject),
        ("defender", Part::Subject),
        ("evaluator", Part::OwnJudge),
        ("others", Part::Subject),
        ("world", Part::Judge),
        ("seeds", Part::Prompts),
        ("benchmark", Part::Prompts),
        ("benign", Part::Prompts),
        ("pairs", Part::Prompts),
        ("embedder", Part::Instrument),
    ];

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 || self.turns == 0 {
            let found = format!("{} and {}", self.group, self.turns);
            return Err(format!("`group` and `turns` must be at least 1, found {found}").into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let others = self.others.iter().map(|other| (Role::Defender, &other.model));
        let own = [(Role::Attacker, &self.attacker), (Role::Defender, &self.defender)];
        for (role, model) in own.into_iter().chain(others) {
            let query = ModelQuery::with_default_prompt(role, model, &self.sampling);
            query.check_context(upstream, self.sampling.max_new_tokens, &[])?;
        }
        // Models are asked with the sandbox's prompts.
        let asked = [
            ("attacker", Role::Attacker, &self.attacker),
            ("defender", Role::Defender, &self.defender),
            ("evaluator", Role::Evaluator, &self.evaluator),
        ];
        let warning = |(key, role, model)| {
            let warning =
                prompt_mismatch(upstream, &ModelQuery::with_default_prompt(role, model, &self.sampling))?;
            Some(CheckError { path: String::from(key), ..warning })
        };
        Ok(asked.into_iter().filter_map(warning).collect())
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let world = artifact::world(context, &self.world)?;
        let mut evaluation = Evaluation {
            stage: self,
            world: &world,
            oracle: world.oracle(),
            at: artifact::position(context),
            rates: Rates::default(),
            outcomes: Outcomes {
                phase: self.phase.clone(),
                at: artifact::position(context),
                rows: Vec::new(),
            },
            greedy: Sampling { temperature: 0.0, ..self.sampling.clone() },
        };
        let mut attacks = evaluation.attacks(context)?;
        let techniques = evaluation.techniques(context, &attacks)?;
        let mut responses = evaluation.responses(context, &attacks, &techniques)?;
        // Of a model that a server has, the control tokens are not known.
        if context.endpoint(&self.evaluator)?.is_none_or(|endpoint| endpoint.model.is_none()) {
            let judge = artifact::model(context, &self.evaluator)?;
            trial::marks(
                &mut evaluation.rates,
                &judge.tokenizer.marks,
                attacks.iter().map(|row| row.text.as_str()),
                responses.iter().map(|row| (row.defender.as_str(), row.text.as_str())),
            );
        }
        let verdicts = evaluation.verdicts(context, &attacks, &responses)?;
        if self.turns > 1 {
            evaluation.turns(context, &mut attacks, &mut responses)?;
        }
        evaluation.benchmark(context)?;
        evaluation.pairs(context)?;
        evaluation.ability(context)?;
        context.progress(1, 1, format!("{} attacks, {} responses", attacks.len(), responses.len()));
        let metrics = trial::metric_rows(evaluation.rates, &self.phase, &evaluation.at);
        data::write(&context.output("metrics"), &metrics)?;
        data::write(&context.output("outcomes"), &evaluation.outcomes.rows)?;
        data::write(&context.output("attacks"), &attacks)?;
        data::write(&context.output("responses"), &responses)?;
        Ok(data::write(&context.output("verdicts"), &verdicts)?)
    }
}

/// A running evaluation: what its parts share, the rates so far, and the observations behind them.
struct Evaluation<'a> {
    stage: &'a Evaluate,
    world: &'a game::World,
    oracle: game::Oracle<'a>,
    at: Position,
    rates: Rates,
    outcomes: Outcomes,
    greedy: Sampling,
}

impl Evaluation<'_> {
    /// The true class of a response.
    fn class(&self, seed_id: &str, response: &str) -> anyhow::Result<Class> {
        let class = self.oracle.class(seed_id, response);
        class.ok_or_else(|| {
            anyhow::anyhow!("the world of `{}` has no seed prompt `{seed_id}`", self.stage.world.text())
        })
    }

    fn keeps_meaning(&self, attack: &AttackRow) -> bool {
        self.oracle.keeps_meaning(&attack.origin.seed_id, &attack.text) == Some(true)
    }

    /// The responses of a defender to prompts.
    fn answer(
        &self,
        context: &mut Context,
        model: &Input<AskedModel>,
        prompts: &[AttackRow],
        sampling: &Sampling,
        what: &str,
    ) -> anyhow::Result<Vec<Sample>> {
        let query = ModelQuery::with_default_prompt(Role::Defender, model, sampling);
        trial::ask(context, &query, prompts.iter().map(trial::attack), what)
    }
}
