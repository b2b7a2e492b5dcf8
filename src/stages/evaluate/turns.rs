//! Episodes of several turns: the attacker continues with each defender; success after each number of turns.

use super::Evaluation;
use crate::artifact::AskedModel;
use crate::asking::ModelQuery;
use crate::rows::{self, Asked};
use crate::trial::{self, Observation, PromptIdentity};
use crate::turns;
use data::{AttackRow, ResponseRow};
use engine::{Context, Input};
use game::{Class, Question, Role, has_no_text};

impl Evaluation<'_> {
    /// Adds the later turns to the rows, for one defender after the other.
    pub(super) fn turns(
        &mut self,
        context: &mut Context,
        attacks: &mut Vec<AttackRow>,
        responses: &mut Vec<ResponseRow>,
    ) -> anyhow::Result<()> {
        let stage = self.stage;
        let others = stage.others.iter().map(|other| (other.name.as_str(), &other.model));
        let models: Vec<(&str, &Input<AskedModel>)> =
            [("defender", &stage.defender)].into_iter().chain(others).collect();
        let first: Vec<ResponseRow> = responses.clone();
        let by_model = first.chunks((first.len() / models.len()).max(1));
        for ((name, model), first) in models.into_iter().zip(by_model) {
            let mut episodes: Vec<Vec<Option<bool>>> = vec![Vec::new(); first.len()];
            let mut last = first.to_vec();
            self.after(name, &last, &mut episodes)?;
            for turn in 2..=stage.turns {
                let asked = self.next_attacks(context, &last, attacks.len(), turn)?;
                last = self.next_responses(context, model, &asked, name, responses.len(), turn)?;
                self.after(name, &last, &mut episodes)?;
                attacks.extend(asked);
                responses.extend(last.iter().cloned());
            }
            self.rates.success_after_turns("attack_success", name, &episodes);
        }
        Ok(())
    }

    /// Adds the outcomes of one more turn, and whether each episode has succeeded by then.
    fn after(
        &mut self,
        name: &str,
        responses: &[ResponseRow],
        episodes: &mut [Vec<Option<bool>>],
    ) -> anyhow::Result<()> {
        let mut classes: Vec<Class> = Vec::with_capacity(responses.len());
        for (row, episode) in responses.iter().zip(episodes.iter_mut()) {
            let class = self.class(&row.origin.seed_id, &row.text)?;
            let kept = self.oracle.keeps_meaning(&row.origin.seed_id, &row.attack) == Some(true);
            episode.push(Some(kept && class == Class::Negative));
            classes.push(class);
        }
        let turns = episodes.first().map_or(0, Vec::len);
        let asked =
            responses.iter().zip(&classes).zip(episodes.iter()).map(|((row, class), episode)| Observation {
                origin: &row.origin,
                prompt: &row.attack,
                response: &row.text,
                class: Some(*class),
                hit: game::succeeded_within(episode, turns),
            });
        self.outcomes.add(name, &game::after_turns("attack_success", turns), PromptIdentity::Attempts, asked);
        Ok(())
    }

    /// The attacker's next turn in each episode, with ids from `first`.
    fn next_attacks(
        &self,
        context: &mut Context,
        responses: &[ResponseRow],
        first: usize,
        turn: usize,
    ) -> anyhow::Result<Vec<AttackRow>> {
        let query =
            ModelQuery::with_default_prompt(Role::Attacker, &self.stage.attacker, &self.stage.sampling);
        let before: Vec<_> = responses.iter().map(turns::after).collect();
        let conversations: Vec<_> = before.iter().map(|turns| turns::conversation(turns)).collect();
        let questions = responses.iter().zip(&conversations).map(|(row, conversation)| {
            Some(Question { seed: &row.origin.seed, conversation, ..Question::default() })
        });
        let samples = trial::ask(context, &query, questions, &format!("attacks, turn {turn}"))?;
        let row = |(index, ((response, turns), sample))| {
            let (response, sample): (&ResponseRow, data::Sample) = (response, sample);
            let asked = Asked { origin: response.origin.clone(), answer: response.answer.clone(), turns };
            let id = first + index;
            rows::attack(id, id, asked, (sample.completion.clone(), sample), &self.at)
        };
        Ok(responses.iter().zip(before).zip(samples).enumerate().map(row).collect())
    }

    /// A defender's responses in a later turn, with ids from `first`.
    fn next_responses(
        &self,
        context: &mut Context,
        model: &Input<AskedModel>,
        attacks: &[AttackRow],
        name: &str,
        first: usize,
        turn: usize,
    ) -> anyhow::Result<Vec<ResponseRow>> {
        let query = ModelQuery::with_default_prompt(Role::Defender, model, &self.stage.sampling);
        let conversations: Vec<_> = attacks.iter().map(|row| turns::conversation(&row.turns)).collect();
        let questions = attacks.iter().zip(&conversations).map(|(row, conversation)| {
            let question = Question { prompt: &row.text, conversation, ..Question::default() };
            (!has_no_text(&row.text)).then_some(question)
        });
        let samples = trial::ask(context, &query, questions, &format!("{name}, turn {turn}"))?;
        Ok(trial::response_rows(attacks, samples, name, first, &self.at))
    }
}
