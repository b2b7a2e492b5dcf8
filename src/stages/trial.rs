//! What `evaluate`, `cross_play` and `measure` share: asking models on held-out data, and turning the results into rows.

use std::collections::HashMap;

use super::artifact;
use super::asking::ModelQuery;
use super::rows::{self, Asked};
use data::{
    AttackRow, MetricRow, Origin, OutcomeRow, Position, ResponseRow, Sample, SeedRow, Sparse, VerdictRow,
};
use engine::Context;
use game::{Class, Question, Rates, has_no_text, label};
use model::ControlTokens;
use store::Digest;

/// The model's sample for each question; without a question, an empty sample.
pub(crate) fn ask<'q>(
    context: &mut Context,
    query: &ModelQuery,
    questions: impl Iterator<Item = Option<Question<'q>>>,
    what: &str,
) -> anyhow::Result<Vec<Sample>> {
    let questions: Vec<Option<Question>> = questions.collect();
    Ok(query.ask(context, &questions, what)?.into_iter().map(|reply| reply.sample).collect())
}

/// A question to an attacker.
pub(crate) fn seed(row: &SeedRow) -> Option<Question<'_>> {
    Some(Question { seed: &row.text, ..Question::default() })
}

/// A question to a defender; none about an empty attack.
pub(crate) fn attack(row: &AttackRow) -> Option<Question<'_>> {
    (!has_no_text(&row.text)).then(|| Question { prompt: &row.text, ..Question::default() })
}

/// The evaluator's class and sample for each pair of a prompt and a response. It is not asked about an empty response, whose
/// class is known.
pub(crate) fn judge(
    context: &mut Context,
    query: &ModelQuery,
    pairs: &[(&str, &str)],
    what: &str,
) -> anyhow::Result<Vec<(Option<Class>, Sample)>> {
    let questions = pairs.iter().map(|&(prompt, response)| {
        (!has_no_text(response)).then(|| Question { prompt, response, ..Question::default() })
    });
    let samples = ask(context, query, questions, what)?;
    let class = |((_, response), sample): (&(&str, &str), Sample)| match has_no_text(response) {
        true => (Some(Class::NOTHING), sample),
        false => (Class::parse(&sample.completion), sample),
    };
    Ok(pairs.iter().zip(samples).map(class).collect())
}

/// The held-out hazards, each `group` times.
pub(crate) fn hazards<'s>(
    seeds: &'s [SeedRow],
    group: usize,
    name: &str,
) -> anyhow::Result<Vec<&'s SeedRow>> {
    let hazards = seeds.iter().filter(|seed| seed.split == "heldout" && seed.task == "hazard");
    let chosen: Vec<&SeedRow> = hazards.flat_map(|seed| std::iter::repeat_n(seed, group)).collect();
    anyhow::ensure!(!chosen.is_empty(), "`{name}` has no rows of split `heldout` and task `hazard`");
    Ok(chosen)
}

/// The attacks that an attacker sampled on hazards, `group` on each, with ids from `first`.
pub(crate) fn attack_rows(
    hazards: &[&SeedRow],
    samples: Vec<Sample>,
    group: usize,
    first: usize,
    at: &Position,
) -> Vec<AttackRow> {
    let row = |(index, (seed, sample)): (usize, (&&SeedRow, Sample))| {
        let id = first + index;
        let asked = Asked { origin: artifact::origin(seed), answer: None, turns: Sparse::default() };
        rows::attack(id, id / group, asked, (sample.completion.clone(), sample), at)
    };
    hazards.iter().zip(samples).enumerate().map(row).collect()
}

/// The responses that a defender sampled, with ids from `first`.
pub(crate) fn response_rows(
    attacks: &[AttackRow],
    samples: Vec<Sample>,
    defender: &str,
    first: usize,
    at: &Position,
) -> Vec<ResponseRow> {
    let row = |(index, (attack, sample)): (usize, (&AttackRow, Sample))| {
        let (id, said) = (first + index, (sample.completion.clone(), sample));
        rows::response(id, id, attack, (defender, 1.0), said, at)
    };
    attacks.iter().zip(samples).enumerate().map(row).collect()
}

/// The attacker's negative log-likelihood per token, in nats, which estimates its entropy; and the number of tokens.
pub(crate) fn nll(attacks: &[AttackRow]) -> (f64, usize) {
    let logprobs: Vec<f32> =
        attacks.iter().flat_map(|attack| attack.sample.logprobs.iter().copied()).collect();
    let sum: f64 = logprobs.iter().map(|logprob| f64::from(*logprob)).sum();
    (-sum / logprobs.len().max(1) as f64, logprobs.len())
}

/// Adds the shares of attacks, and of each defender's responses, that spell a control token of the judge. Such a text would
/// imitate the template of the judge's prompt if texts were not tokenized separately from it.
pub(crate) fn marks<'t>(
    rates: &mut Rates,
    marks: &ControlTokens,
    attacks: impl Iterator<Item = &'t str>,
    responses: impl Iterator<Item = (&'t str, &'t str)>,
) {
    rates.share("attacks", MARKS_IN_TEXT, attacks.map(|text| marks.occur_in(text)));
    let mut of_defenders: Vec<(&str, Vec<bool>)> = Vec::new();
    for (defender, text) in responses {
        let is_spelled = marks.occur_in(text);
        match of_defenders.iter_mut().find(|(name, _)| *name == defender) {
            Some((_, of)) => of.push(is_spelled),
            None => of_defenders.push((defender, vec![is_spelled])),
        }
    }
    for (defender, of) in of_defenders {
        rates.share(defender, MARKS_IN_TEXT, of);
    }
}

/// The metric of texts that spell a control token.
pub(crate) const MARKS_IN_TEXT: &str = "marks_in_text";

/// Rates as rows of metrics.
pub(crate) fn metric_rows(rates: Rates, phase: &str, at: &Position) -> Vec<MetricRow> {
    let row = |rate: game::Rate| MetricRow {
        phase: phase.into(),
        subject: rate.subject,
        metric: rate.metric,
        value: rate.value,
        count: rate.count as u64,
        at: at.clone(),
    };
    rates.0.into_iter().map(row).collect()
}

/// A prompt, the response and their result.
#[derive(Clone, Copy)]
pub(crate) struct Observation<'a> {
    pub origin: &'a Origin,
    pub prompt: &'a str,
    pub response: &'a str,
    pub class: Option<Class>,
    /// Whether it counts for the metric; `None` if that is not known.
    pub hit: Option<bool>,
}

impl<'a> Observation<'a> {
    /// A judged pair.
    pub(crate) fn judged(row: &'a VerdictRow, class: Option<Class>, hit: Option<bool>) -> Observation<'a> {
        Observation { origin: &row.origin, prompt: &row.attack, response: &row.response, class, hit }
    }
}

/// How evaluations identify the prompts of one seed prompt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PromptIdentity {
    /// Attempts at the seed prompt, which differ between evaluations: all have the id of the seed prompt.
    Attempts,
    /// Fixed prompts, the same in every evaluation.
    Fixed,
    /// Fixed prompts with their responses, the same in every evaluation.
    Pairs,
}

/// What an evaluation asked, with the results, as rows.
pub(crate) struct Outcomes {
    pub phase: String,
    pub at: Position,
    pub rows: Vec<OutcomeRow>,
}

impl Outcomes {
    /// Adds the observations behind a metric of a subject.
    pub(crate) fn add<'a>(
        &mut self,
        subject: &str,
        metric: &str,
        prompts: PromptIdentity,
        asked: impl IntoIterator<Item = Observation<'a>>,
    ) {
        let mut seen: HashMap<String, u32> = HashMap::new();
        for one in asked {
            let seed_id = one.origin.seed_id.as_str();
            // By content, so that a prompt keeps its id if others are removed or reordered.
            let short = |text: &str| Digest::of_bytes(text.as_bytes()).to_string()[..8].to_owned();
            let prompt_id = match prompts {
                PromptIdentity::Attempts => seed_id.to_owned(),
                PromptIdentity::Fixed => format!("{seed_id}#{}", short(one.prompt)),
                PromptIdentity::Pairs => format!("{seed_id}#{}{}", short(one.prompt), short(one.response)),
            };
            let attempt = *seen.entry(prompt_id.clone()).and_modify(|number| *number += 1).or_insert(1);
            self.rows.push(OutcomeRow {
                phase: self.phase.clone(),
                subject: subject.into(),
                metric: metric.into(),
                prompt_id,
                attempt,
                seed_id: seed_id.to_owned(),
                category: one.origin.category.clone(),
                prompt: one.prompt.into(),
                response: one.response.into(),
                class: label(one.class).into(),
                value: one.hit.map(|hit| f64::from(u8::from(hit))),
                at: self.at.clone(),
            });
        }
    }
}
