//! Preferences by a judge. It is asked about each pair in both orders, so that a judge that prefers a position makes ties.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rand::seq::SliceRandom;

use crate::artifact::{self, AskedModel, Comparable, Responses};
use crate::asking::{
    Chat, JudgeReply, ModelQuery, SkippedCounts, Text, TokenLimit, TooLong, greedy_label, mass_note,
};
use crate::respond::Respond;
use crate::rollouts::Rollouts;
use crate::turns;
use data::{AttackRow, ComparisonRow, MetricRow, Origin, Position, PreferenceRow, ResponseRow, Sample};
use engine::{CheckError, Context, Input, Upstream};
use game::{Answer, COMPARISON, Choice, Labels, Question, Role, has_no_text, label};
use rollout::Sampling;
use store::Seed;

/// Shows a judge two completions of a group and asks which is better, in both orders. If the two answers disagree, the pair
/// is a tie: it is in `comparisons`, and nothing is learnt from it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByJudge {
    /// What to compare: attacks or responses, with `group` completions of each prompt. Completions that no model was asked
    /// for are in no pair.
    data: Input<Comparable>,
    /// The judge.
    model: Input<AskedModel>,
    /// With attacks: the responses to them, so that the judge sees what the attacks achieved. If an attack has several, the
    /// judge sees the first.
    #[serde(default)]
    responses: Option<Input<Responses>>,
    /// How many pairs of each group to compare. The members form a ring in random order; neighbours are compared first, then
    /// members farther apart, at most all pairs. By default only neighbours: as many pairs as the group has members, or one
    /// pair in a group of two.
    #[serde(default)]
    pairs: Option<usize>,
    /// How answers are sampled: greedily by default.
    #[serde(default = "greedy_label")]
    sampling: Sampling,
    /// How the answer is read: as `first` or `second`. By default the judge chooses between `A` and `B`.
    #[serde(default = "letters")]
    labels: Labels,
    /// The template of the judge's prompt, with the variables `first` and `second`, the two completions; `prompt`, which both
    /// answer; `seed`; and with `responses` also `first_response` and `second_response`. Required, since no model of the
    /// sandbox compares. A model that judges a single completion can be asked about the first of the two, in both orders.
    #[serde(default)]
    prompt: Option<Text>,
    /// The template of the chat's system prompt. It may use the same variables as `prompt`, or none.
    #[serde(default)]
    system: Option<Text>,
    /// Whether the prompt is the user's message in the model's chat template. A map means `true` and passes arguments to
    /// that template, such as { enable_thinking: false }.
    #[serde(default)]
    chat: Chat,
    /// The part of a completion that counts as its text. By default (`final`) what follows the thinking at its beginning,
    /// `<think> … </think>`; `all` shows the thinking to the other side too. A completion without this part has an empty text.
    #[serde(default)]
    answer: Option<Answer>,
    /// What to do if a prompt and the longest completion together exceed the model's context.
    #[serde(default)]
    too_long: TooLong,
}

impl ByJudge {
    fn query(&self) -> ModelQuery<'_> {
        let ByJudge { model, prompt, system, chat, answer, too_long, sampling, .. } = self;
        let (prompt, system, answer) = (prompt.as_ref(), system.as_ref(), answer.as_ref());
        ModelQuery { role: Role::Arbiter, model, prompt, system, chat, answer, too_long: *too_long, sampling }
    }
}

/// Which of two completions is better.
const ORDER: &[&str] = &["first", "second"];

fn letters() -> Labels {
    let letter = |(label, letter): (&&str, &str)| ((*label).to_owned(), letter.to_owned());
    Labels::Choice(Choice { texts: ORDER.iter().zip(["A", "B"]).map(letter).collect(), mass: None })
}

impl ByJudge {
    pub(crate) fn check(&self) -> Result<(), CheckError> {
        if self.pairs == Some(0) {
            return Err(CheckError::at("pairs", "`pairs` must be at least 1, found 0"));
        }
        if self.prompt.is_none() {
            let message = format!("`prompt` must be given, such as \"{COMPARISON}\"");
            return Err(CheckError { path: String::new(), message });
        }
        self.sampling.check().map_err(|message| CheckError::at("sampling", message))?;
        let query = self.query();
        query.check_labels(&self.labels, ORDER)?;
        let uses = ["first_response", "second_response"].map(|variable| query.uses(variable));
        match (&self.responses, uses) {
            (None, [false, false]) | (Some(_), [true, true]) => Ok(()),
            (None, _) => {
                let message = "`responses` must be given where `prompt` or `system` uses `first_response` or `second_response`";
                Err(CheckError { path: String::new(), message: message.into() })
            }
            (Some(_), _) => {
                let message = "`prompt` or `system` must use `first_response` and `second_response` where `responses` is given";
                Err(CheckError::at("responses", message))
            }
        }
    }

    pub(crate) fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        if let Some(input) = &self.responses
            && let Some(respond) = upstream.stage::<Respond, _>(input)
            && let Some(attacks) = respond.stage.attacks_input()
            && upstream.is_same(&self.data, respond.upstream(), attacks) == Some(false)
        {
            let message = format!(
                "`responses` must be responses to `{}`, which is compared, but {} is `{}`",
                self.data.text(),
                respond.place("data"),
                attacks.text()
            );
            return Err(CheckError::at("responses", message));
        }
        let query = self.query();
        let completion = match self.labels {
            Labels::Choice(_) => 1,
            _ => self.sampling.max_new_tokens,
        };
        let room = query.check_context(upstream, completion, &self.longest(upstream))?;
        Ok(room.into_iter().chain(query.unmentioned_labels(&self.labels, ORDER)).collect())
    }

    /// The maximum lengths of the texts in the prompt, if stages make them.
    fn longest(&self, upstream: Upstream) -> Vec<TokenLimit> {
        let Some(compared) = self.rollouts(upstream) else { return Vec::new() };
        let mut longest = compared.conversation();
        longest.push(compared.longest());
        if let Some(responses) = self.responses.as_ref().and_then(|input| Rollouts::of(upstream, input)) {
            longest.extend([responses.longest(), responses.longest()]);
        }
        longest
    }

    pub(crate) fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        Rollouts::of(upstream, &self.data)
    }

    /// Asks the judge about the pairs of all groups.
    pub(crate) fn compare(&self, context: &mut Context) -> anyhow::Result<Compared> {
        let given = self.given(context)?;
        let completions = given.completions(self)?;
        let pairs = self.pairs(&completions, context.seed())?;
        // Each pair in both orders, one after the other.
        let shown: Vec<Shown> = pairs
            .iter()
            .flat_map(|&[a, b]| [[a, b], [b, a]])
            .map(|order| order.map(|index| &completions[index]))
            .collect();
        let questions: Vec<Option<Question>> = shown.iter().map(question).collect();
        let verdicts = self.query().judge(context, &questions, "comparisons", &self.labels, ORDER)?;
        let at = artifact::position(context);
        let mut tally = Tally::default();
        let mut preferences = Vec::new();
        for (index, (orders, verdicts)) in shown.chunks(2).zip(verdicts.chunks(2)).enumerate() {
            let outcome = Outcome::of(orders[0], [verdicts[0].class, verdicts[1].class]);
            tally.count(outcome, verdicts);
            if let Outcome::Better(chosen) = outcome {
                let answers = [&verdicts[chosen], &verdicts[1 - chosen]];
                preferences.push(preference(index, orders[chosen], answers, &at));
            }
        }
        let missing = SkippedCounts::of(verdicts.iter().map(|verdict| &verdict.reply));
        let note = format!("{tally}{missing}{}", mass_note(&verdicts));
        let role = shown.first().map_or("nobody", |[first, _]| &first.sample.role);
        let metrics = tally.metrics(role, &at);
        let said = shown.into_iter().zip(verdicts).enumerate();
        let comparisons = said.map(|(index, (shown, verdict))| comparison(index / 2, shown, verdict, &at));
        Ok(Compared { preferences, comparisons: comparisons.collect(), metrics, note })
    }

    fn given(&self, context: &Context) -> anyhow::Result<Given> {
        match artifact::rows::<ResponseRow, _>(context, &self.data) {
            Ok(responses) if self.responses.is_none() => {
                turns::none(&self.data.text(), responses.iter().map(|row| (row.response_id, &row.turns)))?;
                Ok(Given::Responses(responses))
            }
            Ok(_) => anyhow::bail!(
                "`{}` must be attacks where `responses` are given, found responses",
                self.data.text()
            ),
            // The type of a file that is given by its path is not known.
            Err(error) => {
                let attacks = artifact::rows::<AttackRow, _>(context, &self.data).map_err(|_| error)?;
                turns::none(&self.data.text(), attacks.iter().map(|row| (row.attack_id, &row.turns)))?;
                let responses =
                    self.responses.as_ref().map(|input| artifact::rows::<ResponseRow, _>(context, input));
                Ok(Given::Attacks(attacks, responses.transpose()?))
            }
        }
    }

    /// The pairs of all groups, as indices of `completions`.
    fn pairs(&self, completions: &[Completion], seed: Seed) -> anyhow::Result<Vec<[usize; 2]>> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, completion) in completions.iter().enumerate() {
            if completion.sample.was_asked() {
                groups.entry(completion.group).or_default().push(index);
            }
        }
        let seed = seed.child("pairs");
        let mut pairs = Vec::new();
        for (group, mut members) in groups {
            let prompt = |index: usize| &completions[index].sample.prompt_ids;
            anyhow::ensure!(
                members.iter().all(|&member| prompt(member) == prompt(members[0])),
                "group {group} of `{}` must have completions of one prompt, found several",
                self.data.text()
            );
            members.shuffle(&mut seed.stream(group.to_string()));
            pairs.extend(of_ring(&members, self.pairs));
        }
        Ok(pairs)
    }
}

/// Pairs of members of a ring: neighbours, or `count` of all pairs, the nearest first. Among pairs of equal distance, pairs
/// without a common member come first.
fn of_ring(ring: &[usize], count: Option<usize>) -> Vec<[usize; 2]> {
    let members = ring.len();
    let at_distance = |distance: usize| {
        // Halfway around the ring, each pair would occur twice, from both sides.
        let starts = if 2 * distance == members { distance } else { members };
        let turn = move |turn: usize| (0..starts).filter(move |start| start / distance % 2 == turn);
        turn(0).chain(turn(1)).map(move |start| [ring[start], ring[(start + distance) % members]])
    };
    match count {
        None => (1..=(members / 2).min(1)).flat_map(at_distance).collect(),
        Some(count) => (1..=members / 2).flat_map(at_distance).take(count).collect(),
    }
}

/// The result of comparing.
pub(crate) struct Compared {
    /// The pairs with a better completion.
    pub preferences: Vec<PreferenceRow>,
    /// The judge's answers on all pairs.
    pub comparisons: Vec<ComparisonRow>,
    pub metrics: Vec<MetricRow>,
    pub note: String,
}

/// The completions to compare, and the responses to attacks.
enum Given {
    Responses(Arc<Vec<ResponseRow>>),
    Attacks(Arc<Vec<AttackRow>>, Option<Arc<Vec<ResponseRow>>>),
}

/// A completion to compare.
struct Completion<'a> {
    id: u32,
    group: u32,
    origin: &'a Origin,
    /// The prompt that it answers.
    asked: &'a str,
    text: &'a str,
    /// The response to an attack; empty if it is not shown.
    response: &'a str,
    sample: &'a Sample,
}

/// Two completions in the order in which a judge sees them.
type Shown<'a> = [&'a Completion<'a>; 2];

impl Given {
    fn completions(&self, by: &ByJudge) -> anyhow::Result<Vec<Completion<'_>>> {
        let (attacks, responses) = match self {
            Given::Responses(rows) => return Ok(rows.iter().map(Completion::of_response).collect()),
            Given::Attacks(attacks, None) => {
                return Ok(attacks.iter().map(|row| Completion::of_attack(row, "")).collect());
            }
            Given::Attacks(attacks, Some(responses)) => (attacks, responses),
        };
        // In reverse, so that the first response to each attack is kept.
        let answered: BTreeMap<u32, &ResponseRow> =
            responses.iter().rev().map(|row| (row.attack_id, row)).collect();
        let mut completions = Vec::new();
        for row in attacks.iter() {
            let response = answered.get(&row.attack_id).filter(|response| response.attack == row.text);
            let Some(response) = response else {
                anyhow::bail!(
                    "attack {} of `{}` must have a response in `{}`, found none: both must be of the same step",
                    row.attack_id,
                    by.data.text(),
                    by.responses.as_ref().map(Input::text).unwrap_or_default()
                );
            };
            completions.push(Completion::of_attack(row, &response.text));
        }
        Ok(completions)
    }
}

impl<'a> Completion<'a> {
    fn of_response(row: &'a ResponseRow) -> Completion<'a> {
        Completion {
            id: row.response_id,
            group: row.group,
            origin: &row.origin,
            asked: &row.attack,
            text: &row.text,
            response: "",
            sample: &row.sample,
        }
    }

    fn of_attack(row: &'a AttackRow, response: &'a str) -> Completion<'a> {
        Completion {
            id: row.attack_id,
            group: row.group,
            origin: &row.origin,
            asked: &row.origin.seed,
            text: &row.text,
            response,
            sample: &row.sample,
        }
    }
}

/// The question about two completions; none if they are equal or one is empty.
fn question<'a>([first, second]: &Shown<'a>) -> Option<Question<'a>> {
    let is_asked = first.text != second.text && !has_no_text(first.text) && !has_no_text(second.text);
    is_asked.then_some(Question {
        seed: &first.origin.seed,
        prompt: first.asked,
        first: first.text,
        second: second.text,
        first_response: first.response,
        second_response: second.response,
        ..Question::default()
    })
}

/// The result of a judge's two answers on a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The completion at this index of the first order is better.
    Better(usize),
    /// The answers for the two orders disagree, or the completions are equal.
    Tie,
    /// An answer could not be read, or the judge was not asked.
    Undetermined,
}

impl Outcome {
    /// Of the answers for the two orders, as indices: the second order is the reverse of the first.
    fn of([first, second]: Shown, words: [Option<usize>; 2]) -> Outcome {
        match words {
            _ if first.text == second.text => Outcome::Tie,
            [Some(word), Some(reversed)] if word != reversed => Outcome::Better(word),
            [Some(_), Some(_)] => Outcome::Tie,
            _ => Outcome::Undetermined,
        }
    }
}

/// The numbers of outcomes, and how often the judge preferred the completion that was shown first.
#[derive(Default)]
struct Tally {
    better: usize,
    ties: usize,
    undetermined: usize,
    words: usize,
    first: usize,
}

impl Tally {
    fn count(&mut self, outcome: Outcome, verdicts: &[JudgeReply]) {
        *match outcome {
            Outcome::Better(_) => &mut self.better,
            Outcome::Tie => &mut self.ties,
            Outcome::Undetermined => &mut self.undetermined,
        } += 1;
        self.words += verdicts.iter().filter(|verdict| verdict.class.is_some()).count();
        self.first += verdicts.iter().filter(|verdict| verdict.class == Some(0)).count();
    }
}

impl Tally {
    fn metrics(&self, role: &str, at: &Position) -> Vec<MetricRow> {
        let pairs = self.better + self.ties + self.undetermined;
        let row = |name: &str, value: f64, count: usize| MetricRow {
            phase: "update".into(),
            subject: role.to_owned(),
            metric: name.to_owned(),
            value,
            count: count as u64,
            at: at.clone(),
        };
        let share = |name, part: usize, of: usize| row(name, part as f64 / of as f64, of);
        let mut metrics = vec![row("compared", pairs as f64, pairs)];
        if pairs > 0 {
            metrics.push(share("ties", self.ties, pairs));
            metrics.push(share("undetermined_pairs", self.undetermined, pairs));
        }
        if self.words > 0 {
            metrics.push(share("first_preferred", self.first, self.words));
        }
        metrics
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { better, ties, undetermined, words, first } = self;
        write!(f, "{better} preferences, {ties} ties, {undetermined} undetermined")?;
        if *words > 0 {
            let share = 100.0 * *first as f64 / *words as f64;
            write!(f, "; {share:.0} % of answers prefer the completion shown first")?;
        }
        Ok(())
    }
}

/// The preference for the first of two completions, with the answers for this order and the reverse.
fn preference(
    index: usize,
    [chosen, rejected]: Shown,
    answers: [&JudgeReply; 2],
    at: &Position,
) -> PreferenceRow {
    let [answer, answer_reversed] = answers.map(|verdict| Some(verdict.reply.text.clone()));
    PreferenceRow {
        pair_id: index as u32,
        group: chosen.group,
        origin: chosen.origin.clone(),
        role: chosen.sample.role.clone(),
        prompt: chosen.sample.prompt.clone(),
        prompt_ids: chosen.sample.prompt_ids.clone(),
        chosen_id: chosen.id,
        chosen: chosen.text.to_owned(),
        chosen_ids: chosen.sample.completion_ids.clone(),
        chosen_finished: chosen.sample.finished,
        rejected_id: rejected.id,
        rejected: rejected.text.to_owned(),
        rejected_ids: rejected.sample.completion_ids.clone(),
        rejected_finished: rejected.sample.finished,
        margin: None,
        answer,
        answer_reversed,
        at: at.clone(),
    }
}

fn comparison(index: usize, [first, second]: Shown, verdict: JudgeReply, at: &Position) -> ComparisonRow {
    ComparisonRow {
        pair_id: index as u32,
        group: first.group,
        origin: first.origin.clone(),
        asked: first.asked.to_owned(),
        first_id: first.id,
        first: first.text.to_owned(),
        second_id: second.id,
        second: second.text.to_owned(),
        class: verdict.class.map_or(label(None), |class| ORDER[class]).to_owned(),
        text: verdict.reply.text,
        sample: verdict.reply.sample,
        at: at.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn pairs_of_a_ring_are_all_different_and_the_nearest_come_first() {
        assert_eq!(of_ring(&[], None), [[0; 2]; 0]);
        assert_eq!(of_ring(&[7], Some(3)), [[0; 2]; 0]);
        assert_eq!(of_ring(&[7, 5], None), [[7, 5]]);
        assert_eq!(of_ring(&[0, 1, 2, 3], None), [[0, 1], [2, 3], [1, 2], [3, 0]]);
        assert_eq!(of_ring(&[0, 1, 2, 3], Some(2)), [[0, 1], [2, 3]]);
        for members in 2..9 {
            let ring: Vec<usize> = (0..members).collect();
            let all = of_ring(&ring, Some(1000));
            let different: BTreeSet<[usize; 2]> = all.iter().map(|&[a, b]| [a.min(b), a.max(b)]).collect();
            assert_eq!((all.len(), different.len()), (members * (members - 1) / 2, all.len()), "{members}");
            assert!(all.iter().all(|[a, b]| a != b));
        }
    }

    #[test]
    fn a_judge_that_prefers_a_place_makes_ties() {
        let origin = Origin {
            seed_id: "brew".into(),
            category: "potions".into(),
            split: "train".into(),
            task: "hazard".into(),
            seed: "brew glowvenom".into(),
        };
        let sample = Sample::template("no .");
        let completion = |text| Completion {
            id: 0,
            group: 0,
            origin: &origin,
            asked: "brew glowvenom",
            text,
            response: "",
            sample: &sample,
        };
        let (a, b) = (completion("no ."), completion("steep it ."));
        let of = |words| Outcome::of([&a, &b], words);
        assert_eq!(of([Some(0), Some(1)]), Outcome::Better(0));
        assert_eq!(of([Some(1), Some(0)]), Outcome::Better(1));
        assert_eq!(of([Some(0), Some(0)]), Outcome::Tie);
        assert_eq!(of([Some(1), Some(1)]), Outcome::Tie);
        assert_eq!(of([Some(0), None]), Outcome::Undetermined);
        assert_eq!(Outcome::of([&a, &a], [None, None]), Outcome::Tie);
        assert!(question(&[&a, &b]).is_some() && question(&[&a, &a]).is_none());
        assert!(question(&[&a, &completion("")]).is_none());
    }
}
