//! The attacker and the defenders: fresh attacks on held-out hazards, and a fixed benchmark.

use super::Evaluation;
use super::diversity::Techniques;
use crate::artifact::{self, AskedModel};
use crate::asking::ModelQuery;
use crate::trial::{self, Observation, PromptIdentity};
use data::{AttackRow, ResponseRow};
use engine::{Context, Input};
use game::{Class, Outcome, Role};

impl Evaluation<'_> {
    /// Fresh attacks on held-out hazards.
    pub(super) fn attacks(&mut self, context: &mut Context) -> anyhow::Result<Vec<AttackRow>> {
        let stage = self.stage;
        let seeds = artifact::seeds(context, &stage.seeds)?;
        let hazards = trial::hazards(&seeds, stage.group, &stage.seeds.text())?;
        let query = ModelQuery::with_default_prompt(Role::Attacker, &stage.attacker, &stage.sampling);
        let questions = hazards.iter().map(|seed| trial::seed(seed));
        let samples = trial::ask(context, &query, questions, "attacks")?;
        let attacks = trial::attack_rows(&hazards, samples, stage.group, 0, &self.at);
        let kept: Vec<bool> = attacks.iter().map(|attack| self.keeps_meaning(attack)).collect();
        self.rates.share("attacker", "meaning_kept", kept);
        let (nll, tokens) = trial::nll(&attacks);
        self.rates.add("attacker", "nll", nll, tokens);
        Ok(attacks)
    }

    /// The responses of every defender.
    pub(super) fn responses(
        &mut self,
        context: &mut Context,
        attacks: &[AttackRow],
        techniques: &Techniques,
    ) -> anyhow::Result<Vec<ResponseRow>> {
        let all: Vec<(&AttackRow, Option<&str>)> =
            attacks.iter().zip(techniques.of.iter().map(Option::as_deref)).collect();
        self.diversity(context, "attacks", &all, techniques)?;
        let stage = self.stage;
        let others = stage.others.iter().map(|other| (other.name.as_str(), &other.model));
        let models: Vec<(&str, &Input<AskedModel>)> =
            [("defender", &stage.defender)].into_iter().chain(others).collect();
        let mut responses: Vec<ResponseRow> = Vec::new();
        for (name, model) in models {
            let samples = self.answer(context, model, attacks, &stage.sampling, name)?;
            responses.extend(trial::response_rows(attacks, samples, name, responses.len(), &self.at));
        }
        let mut outcomes = Vec::with_capacity(responses.len());
        for (response, (attack, technique)) in responses.iter().zip(all.iter().cycle()) {
            let class = self.class(&response.origin.seed_id, &response.text)?;
            let outcome = self.outcome(&response.defender, attack, Some(class));
            outcomes.push(Outcome { technique: *technique, ..outcome });
        }
        self.rates.success("attack_success", &outcomes);
        for of in responses.chunks(attacks.len()).zip(outcomes.chunks(attacks.len())) {
            let asked = of.0.iter().zip(of.1).map(|(response, outcome)| Observation {
                origin: &response.origin,
                prompt: &response.attack,
                response: &response.text,
                class: outcome.class,
                hit: outcome.succeeded(),
            });
            self.outcomes.add(&of.0[0].defender, "attack_success", PromptIdentity::Attempts, asked);
        }
        self.rates.success_by_cell("attack_success", &outcomes);
        self.rates.response_rates(&outcomes);
        let broken = all.iter().zip(&outcomes).filter(|(_, outcome)| outcome.succeeded() == Some(true));
        let successful: Vec<(&AttackRow, Option<&str>)> = broken.map(|(attack, _)| *attack).collect();
        self.diversity(context, "successful_attacks", &successful, techniques)?;
        Ok(responses)
    }

    /// The outcome of an attack on a defender, given the class of the response.
    pub(super) fn outcome<'o>(
        &self,
        defender: &'o str,
        attack: &'o AttackRow,
        class: Option<Class>,
    ) -> Outcome<'o> {
        Outcome {
            defender,
            seed_id: &attack.origin.seed_id,
            category: &attack.origin.category,
            technique: attack.technique.as_deref(),
            kept: Some(self.keeps_meaning(attack)),
            class,
        }
    }

    /// Measures the defender on the fixed benchmark, whose attacks keep their meaning.
    pub(super) fn benchmark(&mut self, context: &mut Context) -> anyhow::Result<()> {
        let attacks = artifact::rows::<AttackRow, _>(context, &self.stage.benchmark)?;
        let samples =
            self.answer(context, &self.stage.defender, &attacks, &self.stage.sampling, "benchmark")?;
        let mut outcomes = Vec::with_capacity(attacks.len());
        for (attack, sample) in attacks.iter().zip(&samples) {
            let class = self.class(&attack.origin.seed_id, &sample.completion)?;
            outcomes.push(Outcome { kept: Some(true), ..self.outcome("defender", attack, Some(class)) });
        }
        self.rates.success("benchmark_success", &outcomes);
        self.rates.success_by_cell("benchmark_success", &outcomes);
        let refused = outcomes.iter().map(|outcome| outcome.class == Some(Class::Rejective));
        self.rates.share("defender", "benchmark_refusal", refused);
        let asked = |hit: fn(&Outcome) -> Option<bool>| {
            attacks.iter().zip(&samples).zip(&outcomes).map(move |((attack, sample), outcome)| Observation {
                origin: &attack.origin,
                prompt: &attack.text,
                response: &sample.completion,
                class: outcome.class,
                hit: hit(outcome),
            })
        };
        let refused = |outcome: &Outcome| outcome.class.map(|class| class == Class::Rejective);
        self.outcomes.add(
            "defender",
            "benchmark_success",
            PromptIdentity::Fixed,
            asked(|outcome| outcome.succeeded()),
        );
        self.outcomes.add("defender", "benchmark_refusal", PromptIdentity::Fixed, asked(refused));
        Ok(())
    }
}
