//! The evaluator: its verdicts on the fresh pairs and on pairs with a known class, against the truth and the experts.

use super::Evaluation;
use crate::artifact;
use crate::asking::ModelQuery;
use crate::rows;
use crate::trial::{self, Observation, PromptIdentity};
use data::{AttackRow, PairRow, ResponseRow, Sample, VerdictRow};
use engine::Context;
use game::{Class, LabelPair, Outcome, Role, has_no_text};
use rollout::Sampling;
use store::Seed;

impl Evaluation<'_> {
    fn judge(
        &self,
        context: &mut Context,
        pairs: &[(&str, &str)],
        what: &str,
    ) -> anyhow::Result<Vec<(Option<Class>, Sample)>> {
        let sampling = Sampling { max_new_tokens: 3, ..self.greedy.clone() };
        let query = ModelQuery::with_default_prompt(Role::Evaluator, &self.stage.evaluator, &sampling);
        trial::judge(context, &query, pairs, what)
    }

    /// Measures the evaluator on the fresh pairs: against the truth, against the experts, and the success rate by its verdicts.
    /// Empty responses do not count in its accuracy.
    pub(super) fn verdicts(
        &mut self,
        context: &mut Context,
        attacks: &[AttackRow],
        responses: &[ResponseRow],
    ) -> anyhow::Result<Vec<VerdictRow>> {
        let pairs: Vec<(&str, &str)> =
            responses.iter().map(|row| (row.attack.as_str(), row.text.as_str())).collect();
        let said = self.judge(context, &pairs, "verdicts")?;
        let experts = Seed::from_u64(0).child("experts");
        let (mut truths, mut labels, mut voted) = (Vec::new(), Vec::new(), Vec::new());
        let mut outcomes: Vec<Outcome> = Vec::new();
        for ((response, (said, _)), attack) in responses.iter().zip(&said).zip(attacks.iter().cycle()) {
            outcomes.push(self.outcome(&response.defender, attack, *said));
            if has_no_text(&response.text) {
                continue;
            }
            let (said, category) = (*said, &response.origin.category);
            let reference = self.class(&response.origin.seed_id, &response.text)?;
            truths.push((response, LabelPair { reference, said }));
            let label =
                self.world.experts.label(reference, category, &response.attack, &response.text, experts);
            voted.push(LabelPair { reference, said: label });
            labels.extend(label.map(|reference| LabelPair { reference, said }));
        }
        let asked = truths.iter().map(|(response, verdict)| Observation {
            origin: &response.origin,
            prompt: &response.attack,
            response: &response.text,
            class: verdict.said,
            hit: verdict.said.map(|said| said == verdict.reference),
        });
        self.outcomes.add("evaluator", "accuracy_fresh", PromptIdentity::Attempts, asked);
        let truths: Vec<LabelPair> = truths.into_iter().map(|(_, verdict)| verdict).collect();
        self.rates.verdicts("evaluator", "fresh", &truths);
        self.rates.share("evaluator", "undetermined", truths.iter().map(|verdict| verdict.said.is_none()));
        self.rates.verdicts("evaluator", "experts", &labels);
        self.rates.verdicts("experts", "fresh", &voted);
        self.rates.success("judged_success", &outcomes);
        let row = |(response, (class, sample)): (&ResponseRow, (Option<Class>, Sample))| {
            let (id, said) = (response.response_id as usize, (sample.completion.clone(), sample));
            rows::verdict(id, id, &rows::judged(response), class, said, &self.at)
        };
        Ok(responses.iter().zip(said).map(row).collect())
    }

    /// Measures the evaluator on pairs with a known class.
    pub(super) fn pairs(&mut self, context: &mut Context) -> anyhow::Result<()> {
        let rows = artifact::rows::<PairRow, _>(context, &self.stage.pairs)?;
        let pairs: Vec<(&str, &str)> =
            rows.iter().map(|row| (row.attack.as_str(), row.response.as_str())).collect();
        let said = self.judge(context, &pairs, "pairs")?;
        let mut known: Vec<&PairRow> = Vec::new();
        let mut verdicts: Vec<LabelPair> = Vec::new();
        for (row, (said, _)) in rows.iter().zip(said).filter(|(row, _)| !has_no_text(&row.response)) {
            let Some(reference) = row.class.as_deref().and_then(Class::parse) else { continue };
            known.push(row);
            verdicts.push(LabelPair { reference, said });
        }
        self.rates.verdicts("evaluator", "heldout", &verdicts);
        let asked = known.into_iter().zip(&verdicts).map(|(row, verdict)| Observation {
            origin: &row.origin,
            prompt: &row.attack,
            response: &row.response,
            class: verdict.said,
            hit: verdict.said.map(|said| said == verdict.reference),
        });
        self.outcomes.add("evaluator", "accuracy_heldout", PromptIdentity::Pairs, asked);
        Ok(())
    }
}
