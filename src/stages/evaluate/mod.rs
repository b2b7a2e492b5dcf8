//! `evaluate`: all three roles on what reinforcement learning never saw, with the oracle as the judge. What each role
//! is asked stands in a file of its own; what is made of the answers is in [`game::Rates`].

mod ability;
mod attack;
mod diversity;
mod judgement;
mod turns;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Attacks, Model, Pairs, Seeds, World};
use super::asking::Asking;
use super::rollouts::other_than_trained;
use super::trial::{self, Outcomes};
use data::{self, AttackRow, Position, Sample};
use engine::{CheckError, Context, Input, Kind, Output, Part, Purpose, Stage, Upstream};
use game::{self, Class, Rates, Role};
use rollout::Sampling;

/// Evaluates all three roles on what reinforcement learning never saw, with the oracle as the judge.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// What this evaluation is called in tables, such as the phase that it follows.
    phase: String,
    /// The attacker, which wraps the held-out hazards.
    attacker: Input<Model>,
    /// The defender that is attacked, and asked the benign prompts and arithmetic questions.
    defender: Input<Model>,
    /// The evaluator, whose verdicts are compared with the oracle's.
    evaluator: Input<Model>,
    /// Frozen defense models that are attacked too.
    #[serde(default)]
    others: Vec<Other>,
    /// Held-out hazards are attacked; arithmetic questions measure ability.
    seeds: Input<Seeds>,
    /// Attacks that stay the same.
    benchmark: Input<Attacks>,
    /// Benign prompts, of which the held-out ones are used.
    benign: Input<Attacks>,
    /// Pairs with their true class.
    pairs: Input<Pairs>,
    /// The world whose oracle judges.
    world: Input<World>,
    /// Tells how varied attacks are by their embeddings: a sentence encoder, or any model.
    #[serde(default)]
    embedder: Option<Input<Model>>,
    /// Attacks for each held-out hazard.
    #[serde(default = "default_group")]
    group: usize,
    /// Turns of each attack: after the first the attacker goes on with each defense model, which `attack_success@turn=k` is of. The
    /// other metrics are of first turns.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    turns: usize,
    /// How attacks are drawn. Everything else is asked greedily, with the same limits.
    #[serde(default)]
    sampling: Sampling,
}

/// A frozen defense model that is attacked too.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Other {
    /// The model.
    model: Input<Model>,
    /// What it is called in tables.
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
        version: 11,
        outputs: &[
            Output::new("metrics", "metrics"),
            Output::new("outcomes", "outcomes"),
            Output::new("attacks", "attacks"),
            Output::new("responses", "responses"),
            Output::new("verdicts", "verdicts"),
        ],
        numerics: true,
        draws: true,
        uncounted: &[],
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
            return Err("`group` and `turns` must be at least 1".into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let others = self.others.iter().map(|other| (Role::Defender, &other.model));
        let own = [(Role::Attacker, &self.attacker), (Role::Defender, &self.defender)];
        for (role, model) in own.into_iter().chain(others) {
            let asking = Asking::plainly(role, model, &self.sampling);
            asking.room(upstream, self.sampling.max_new_tokens, &[])?;
        }
        // Models are asked in the sandbox's way.
        let asked = [
            ("attacker", Role::Attacker, &self.attacker),
            ("defender", Role::Defender, &self.defender),
            ("evaluator", Role::Evaluator, &self.evaluator),
        ];
        let warning = |(key, role, model)| {
            let warning = other_than_trained(upstream, &Asking::plainly(role, model, &self.sampling))?;
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
        let judge = artifact::model(context, &self.evaluator)?;
        trial::marks(
            &mut evaluation.rates,
            &judge.tokenizer.marks,
            attacks.iter().map(|row| row.text.as_str()),
            responses.iter().map(|row| (row.defender.as_str(), row.text.as_str())),
        );
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

/// An evaluation at work: what it shares, the rates so far, and what they are made of.
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
            anyhow::anyhow!("the world of `{}` has no seed `{seed_id}`", self.stage.world.text())
        })
    }

    fn keeps_meaning(&self, attack: &AttackRow) -> bool {
        self.oracle.keeps_meaning(&attack.origin.seed_id, &attack.text) == Some(true)
    }

    /// What a defense model says to prompts.
    fn answer(
        &self,
        context: &mut Context,
        model: &Input<Model>,
        prompts: &[AttackRow],
        sampling: &Sampling,
        what: &str,
    ) -> anyhow::Result<Vec<Sample>> {
        let asking = Asking::plainly(Role::Defender, model, sampling);
        trial::ask(context, &asking, prompts.iter().map(trial::attack), what)
    }
}
