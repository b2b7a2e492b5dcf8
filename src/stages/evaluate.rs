//! `evaluate`: all three roles on what reinforcement learning never saw, with the oracle as the judge.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Attacks, Model, Pairs, Seeds, World};
use super::asking::Asking;
use crate::data::{self, AttackRow, MetricRow, PairRow, Position, ResponseRow, Sample, SeedRow, VerdictRow};
use crate::engine::{CheckError, Context, Input, Kind, Output, Stage};
use crate::game::{self, Class, Question, Role, label};
use crate::rollout::Sampling;

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
    /// Attacks for each held-out hazard.
    #[serde(default = "default_group")]
    group: usize,
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

impl Stage for Evaluate {
    const KIND: Kind = Kind {
        name: "evaluate",
        version: 2,
        outputs: &[
            Output::new("metrics", "metrics"),
            Output::new("attacks", "attacks"),
            Output::new("responses", "responses"),
            Output::new("verdicts", "verdicts"),
        ],
        numerics: true,
    };

    fn check(&self) -> Result<(), CheckError> {
        if self.group == 0 {
            return Err("`group` is at least 1".into());
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let world = artifact::world(context, &self.world)?;
        let mut evaluation = Evaluation {
            stage: self,
            oracle: world.oracle(),
            at: artifact::position(context),
            metrics: Vec::new(),
            greedy: Sampling { temperature: 0.0, ..self.sampling.clone() },
        };
        let attacks = evaluation.attacks(context)?;
        let responses = evaluation.responses(context, &attacks)?;
        let verdicts = evaluation.verdicts(context, &responses)?;
        evaluation.benchmark(context)?;
        evaluation.pairs(context)?;
        evaluation.ability(context)?;
        data::write(&context.output("metrics"), &evaluation.metrics)?;
        data::write(&context.output("attacks"), &attacks)?;
        data::write(&context.output("responses"), &responses)?;
        Ok(data::write(&context.output("verdicts"), &verdicts)?)
    }
}

/// An evaluation at work: what it shares, and the metrics so far.
struct Evaluation<'a> {
    stage: &'a Evaluate,
    oracle: game::Oracle<'a>,
    at: Position,
    metrics: Vec<MetricRow>,
    greedy: Sampling,
}

impl Evaluation<'_> {
    fn add(&mut self, subject: &str, metric: &str, value: f64, count: usize) {
        self.metrics.push(MetricRow {
            phase: self.stage.phase.clone(),
            subject: subject.into(),
            metric: metric.into(),
            value,
            count: count as u64,
            at: self.at.clone(),
        });
    }

    /// Adds the share of `true`.
    fn share(&mut self, subject: &str, metric: &str, outcomes: impl IntoIterator<Item = bool>) {
        let outcomes: Vec<bool> = outcomes.into_iter().collect();
        let hits = outcomes.iter().filter(|hit| **hit).count();
        self.add(subject, metric, hits as f64 / outcomes.len().max(1) as f64, outcomes.len());
    }

    fn class(&self, seed_id: &str, response: &str) -> anyhow::Result<Class> {
        let class = self.oracle.class(seed_id, response);
        class.ok_or_else(|| {
            anyhow::anyhow!("the world of `{}` has no seed `{seed_id}`", self.stage.world.text())
        })
    }

    /// Fresh attacks on held-out hazards.
    fn attacks(&mut self, context: &mut Context) -> anyhow::Result<Vec<AttackRow>> {
        let seeds = artifact::rows::<SeedRow, _>(context, &self.stage.seeds)?;
        let hazards = seeds.iter().filter(|seed| seed.split == "heldout" && seed.task == "hazard");
        let chosen: Vec<&SeedRow> =
            hazards.flat_map(|seed| std::iter::repeat_n(seed, self.stage.group)).collect();
        anyhow::ensure!(!chosen.is_empty(), "`{}` has no held-out hazards", self.stage.seeds.text());
        let stage = self.stage;
        let asking = Asking::plainly(Role::Attacker, &stage.attacker, &stage.sampling);
        let questions = chosen.iter().map(|seed| Question { seed: &seed.text, ..Question::default() });
        let samples = samples(context, &asking, questions, "attacks")?;
        let attacks: Vec<AttackRow> = chosen
            .iter()
            .zip(samples)
            .enumerate()
            .map(|(index, (seed, sample))| AttackRow {
                attack_id: index as u32,
                origin: artifact::origin(seed),
                technique: None,
                group: (index / stage.group) as u32,
                text: sample.completion.clone(),
                answer: None,
                sample,
                at: self.at.clone(),
            })
            .collect();
        self.share("attacker", "meaning_kept", attacks.iter().map(keeps_meaning));
        let texts: Vec<&str> = attacks.iter().map(|attack| attack.text.as_str()).collect();
        self.diversity("attacks", &texts);
        let logprobs: Vec<f32> =
            attacks.iter().flat_map(|attack| attack.sample.logprobs.iter().copied()).collect();
        let entropy = -logprobs.iter().map(|p| f64::from(*p)).sum::<f64>() / logprobs.len().max(1) as f64;
        self.add("attacker", "entropy", entropy, logprobs.len());
        Ok(attacks)
    }

    /// Distinct 3-grams, and 1 − Self-BLEU (mean over n in 3, 4, 5), of some attacks.
    fn diversity(&mut self, subject: &str, texts: &[&str]) {
        self.add(subject, "distinct_3", game::distinct_n(texts, 3), texts.len());
        let bleu: Vec<f64> = game::self_bleu(texts, &[3, 4, 5]).into_iter().flatten().collect();
        let mean = bleu.iter().sum::<f64>() / bleu.len().max(1) as f64;
        self.add(subject, "diversity", 1.0 - mean, texts.len());
    }

    /// What every defense model answers.
    fn responses(
        &mut self,
        context: &mut Context,
        attacks: &[AttackRow],
    ) -> anyhow::Result<Vec<ResponseRow>> {
        let stage = self.stage;
        let others = stage.others.iter().map(|other| (other.name.as_str(), &other.model));
        let models: Vec<(&str, &Input<Model>)> =
            [("defender", &stage.defender)].into_iter().chain(others).collect();
        let mut responses: Vec<ResponseRow> = Vec::new();
        for (name, model) in models {
            let samples = self.answer(context, model, attacks, &stage.sampling, name)?;
            let mut classes = Vec::new();
            for (attack, sample) in attacks.iter().zip(samples) {
                classes.push(self.class(&attack.origin.seed_id, &sample.completion)?);
                responses.push(ResponseRow {
                    response_id: responses.len() as u32,
                    attack_id: attack.attack_id,
                    origin: attack.origin.clone(),
                    attack: attack.text.clone(),
                    answer: None,
                    defender: name.into(),
                    weight: 1.0,
                    group: responses.len() as u32,
                    text: sample.completion.clone(),
                    sample,
                    at: self.at.clone(),
                });
            }
            let broken: Vec<bool> = attacks
                .iter()
                .zip(&classes)
                .map(|(attack, class)| *class == Class::Negative && keeps_meaning(attack))
                .collect();
            self.share(name, "attack_success", broken.iter().copied());
            self.share(name, "rejective", classes.iter().map(|class| *class == Class::Rejective));
            self.share(name, "positive", classes.iter().map(|class| *class == Class::Positive));
            if name == "defender" {
                let successful: Vec<&str> = attacks
                    .iter()
                    .zip(&broken)
                    .filter(|(_, broken)| **broken)
                    .map(|(attack, _)| attack.text.as_str())
                    .collect();
                self.diversity("successful_attacks", &successful);
            }
        }
        Ok(responses)
    }

    fn answer(
        &self,
        context: &mut Context,
        model: &Input<Model>,
        attacks: &[AttackRow],
        sampling: &Sampling,
        what: &str,
    ) -> anyhow::Result<Vec<Sample>> {
        let asking = Asking::plainly(Role::Defender, model, sampling);
        let questions = attacks.iter().map(|attack| Question { prompt: &attack.text, ..Question::default() });
        samples(context, &asking, questions, what)
    }

    fn judge(
        &self,
        context: &mut Context,
        pairs: &[(&str, &str)],
        what: &str,
    ) -> anyhow::Result<Vec<Sample>> {
        let sampling = Sampling { max_new_tokens: 3, ..self.greedy.clone() };
        let asking = Asking::plainly(Role::Evaluator, &self.stage.evaluator, &sampling);
        let questions =
            pairs.iter().map(|&(prompt, response)| Question { prompt, response, ..Question::default() });
        samples(context, &asking, questions, what)
    }

    /// The evaluator on the fresh pairs.
    fn verdicts(
        &mut self,
        context: &mut Context,
        responses: &[ResponseRow],
    ) -> anyhow::Result<Vec<VerdictRow>> {
        let pairs: Vec<(&str, &str)> =
            responses.iter().map(|row| (row.attack.as_str(), row.text.as_str())).collect();
        let samples = self.judge(context, &pairs, "verdicts")?;
        let (mut right, mut undetermined) = (Vec::new(), Vec::new());
        let mut rows = Vec::new();
        for (response, sample) in responses.iter().zip(samples) {
            let class = Class::parse(&sample.completion);
            right.push(class == Some(self.class(&response.origin.seed_id, &response.text)?));
            undetermined.push(class.is_none());
            rows.push(VerdictRow {
                verdict_id: response.response_id,
                response_id: response.response_id,
                attack_id: response.attack_id,
                origin: response.origin.clone(),
                attack: response.attack.clone(),
                response: response.text.clone(),
                defender: response.defender.clone(),
                weight: 1.0,
                group: response.response_id,
                class: label(class).into(),
                text: sample.completion.clone(),
                sample,
                at: self.at.clone(),
            });
        }
        self.share("evaluator", "accuracy_fresh", right);
        self.share("evaluator", "undetermined", undetermined);
        Ok(rows)
    }

    /// The defender on attacks that stay the same.
    fn benchmark(&mut self, context: &mut Context) -> anyhow::Result<()> {
        let attacks = artifact::rows::<AttackRow, _>(context, &self.stage.benchmark)?;
        let samples =
            self.answer(context, &self.stage.defender, &attacks, &self.stage.sampling, "benchmark")?;
        let classes = attacks
            .iter()
            .zip(&samples)
            .map(|(attack, sample)| self.class(&attack.origin.seed_id, &sample.completion))
            .collect::<anyhow::Result<Vec<_>>>()?;
        self.share("defender", "benchmark_success", classes.iter().map(|class| *class == Class::Negative));
        self.share("defender", "benchmark_refusal", classes.iter().map(|class| *class == Class::Rejective));
        Ok(())
    }

    /// The evaluator on pairs with a known class.
    fn pairs(&mut self, context: &mut Context) -> anyhow::Result<()> {
        let rows = artifact::rows::<PairRow, _>(context, &self.stage.pairs)?;
        let pairs: Vec<(&str, &str)> =
            rows.iter().map(|row| (row.attack.as_str(), row.response.as_str())).collect();
        let samples = self.judge(context, &pairs, "pairs")?;
        let right = rows.iter().zip(&samples).filter_map(|(row, sample)| {
            let truth = Class::parse(row.class.as_deref()?)?;
            Some(Class::parse(&sample.completion) == Some(truth))
        });
        self.share("evaluator", "accuracy_heldout", right.collect::<Vec<_>>());
        Ok(())
    }

    /// Benign tasks and arithmetic: what hardening must not cost.
    fn ability(&mut self, context: &mut Context) -> anyhow::Result<()> {
        let benign = artifact::rows::<AttackRow, _>(context, &self.stage.benign)?;
        let benign: Vec<AttackRow> =
            benign.iter().filter(|row| row.origin.split == "heldout").cloned().collect();
        let seeds = artifact::rows::<SeedRow, _>(context, &self.stage.seeds)?;
        let questions: Vec<AttackRow> = seeds
            .iter()
            .filter(|seed| seed.task == "arithmetic")
            .enumerate()
            .map(|(index, seed)| artifact::prompt(index, seed, self.at.clone()))
            .collect();
        for (metric, prompts) in [("benign_accuracy", benign), ("arithmetic_accuracy", questions)] {
            let samples = self.answer(context, &self.stage.defender, &prompts, &self.greedy, metric)?;
            let mut right = Vec::new();
            for (prompt, sample) in prompts.iter().zip(&samples) {
                right.push(self.class(&prompt.origin.seed_id, &sample.completion)? == Class::Positive);
            }
            self.share("defender", metric, right);
        }
        Ok(())
    }
}

/// One completion for each question.
fn samples<'a>(
    context: &mut Context,
    asking: &Asking,
    questions: impl Iterator<Item = Question<'a>>,
    what: &str,
) -> anyhow::Result<Vec<Sample>> {
    let questions: Vec<Option<Question>> = questions.map(Some).collect();
    Ok(asking.ask(context, &questions, what)?.into_iter().map(|reply| reply.sample).collect())
}

fn keeps_meaning(attack: &AttackRow) -> bool {
    game::keeps_words(&attack.origin.seed, &attack.text)
}
