//! The defender's general ability, which training against attacks must not reduce: benign prompts and arithmetic.

use super::Evaluation;
use crate::artifact;
use crate::trial::{Observation, PromptIdentity};
use data::{AttackRow, Sample};
use engine::Context;
use game::Class;

impl Evaluation<'_> {
    /// Measures what the defender answers correctly, and which benign prompts it refuses.
    pub(super) fn ability(&mut self, context: &mut Context) -> anyhow::Result<()> {
        let benign = artifact::rows::<AttackRow, _>(context, &self.stage.benign)?;
        let benign: Vec<AttackRow> =
            benign.iter().filter(|row| row.origin.split == "heldout").cloned().collect();
        let samples = self.asked(context, "benign_accuracy", &benign)?;
        let refused: Vec<(&str, &str, Option<bool>)> = benign
            .iter()
            .zip(&samples)
            .map(|(prompt, sample)| {
                ("defender", prompt.origin.category.as_str(), Some(self.oracle.declines(&sample.completion)))
            })
            .collect();
        self.rates.over_refusal(&refused);
        let asked =
            benign.iter().zip(&samples).zip(&refused).map(|((prompt, sample), (.., refused))| Observation {
                origin: &prompt.origin,
                prompt: &prompt.text,
                response: &sample.completion,
                class: self.oracle.class(&prompt.origin.seed_id, &sample.completion),
                hit: *refused,
            });
        self.outcomes.add("defender", "over_refusal", PromptIdentity::Fixed, asked);
        let seeds = artifact::seeds(context, &self.stage.seeds)?;
        let questions: Vec<AttackRow> = seeds
            .iter()
            .filter(|seed| seed.task == "arithmetic")
            .enumerate()
            .map(|(index, seed)| artifact::prompt(index, seed, self.at.clone()))
            .collect();
        self.asked(context, "arithmetic_accuracy", &questions)?;
        Ok(())
    }

    /// The defender's greedy responses to prompts. Adds the share of correct ones as `metric`.
    fn asked(
        &mut self,
        context: &mut Context,
        metric: &str,
        prompts: &[AttackRow],
    ) -> anyhow::Result<Vec<Sample>> {
        let samples = self.answer(context, &self.stage.defender, prompts, &self.greedy, metric)?;
        let mut classes = Vec::with_capacity(prompts.len());
        for (prompt, sample) in prompts.iter().zip(&samples) {
            classes.push(self.class(&prompt.origin.seed_id, &sample.completion)?);
        }
        self.rates.share("defender", metric, classes.iter().map(|class| *class == Class::Positive));
        let asked = prompts.iter().zip(&samples).zip(&classes).map(|((prompt, sample), class)| Observation {
            origin: &prompt.origin,
            prompt: &prompt.text,
            response: &sample.completion,
            class: Some(*class),
            hit: Some(*class == Class::Positive),
        });
        self.outcomes.add("defender", metric, PromptIdentity::Fixed, asked);
        Ok(samples)
    }
}
