//! What feeds a reward: whether verdicts are on what is rewarded, and who sampled it.

use super::attacker::AttackerRule;
use super::{Reward, Rule};
use crate::artifact::{Attacks, Meanings, Verdicts};
use crate::generate::Generate;
use crate::judge::Judge;
use crate::meaning::Meaning;
use crate::respond::Respond;
use crate::rollouts::Rollouts;
use engine::{CheckError, Fed, Input, Upstream};

impl Reward {
    /// The completions that are rewarded, where a stage samples them.
    pub fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        match &self.rule {
            Rule::Attacker(rule) => upstream.stage::<Generate, _>(rule.judged().attacks).map(Rollouts::of),
            Rule::Defender(rule) => upstream.stage::<Respond, _>(&rule.responses).map(Rollouts::of),
            Rule::Evaluator(rule) => upstream.stage::<Judge, _>(&rule.verdicts).map(Rollouts::of),
        }
    }

    /// The judge whose verdicts are rewarded.
    pub fn judge<'a>(&self, upstream: Upstream<'a>) -> Option<Fed<'a, Judge>> {
        match &self.rule {
            Rule::Evaluator(rule) => upstream.stage(&rule.verdicts),
            Rule::Attacker(_) | Rule::Defender(_) => None,
        }
    }

    /// The rule of the attacker, if it is that.
    pub fn attacker(&self) -> Option<&AttackerRule> {
        match &self.rule {
            Rule::Attacker(rule) => Some(rule),
            Rule::Defender(_) | Rule::Evaluator(_) => None,
        }
    }

    /// That there is something to learn from: a reward that is always the same teaches nothing.
    pub(super) fn check_differs(&self) -> Result<(), CheckError> {
        match &self.rule {
            Rule::Attacker(rule) if rule.is_nothing() => Err(CheckError::at(
                "rule.attacker.weights",
                "one of the rewards must count: with all of `values` 0, and without `semantic`, diversity penalty and \
                 `coverage`, every attack earns 0 and nothing is learnt",
            )),
            Rule::Defender(rule) if rule.weights.is_constant() => Err(CheckError::at(
                "rule.defender.weights",
                "`values` must differ: every response earns the same, so nothing is learnt",
            )),
            _ => Ok(()),
        }
    }

    /// Holds what was judged against what is rewarded.
    pub(super) fn of_one_step(&self, upstream: Upstream) -> Result<(), CheckError> {
        match &self.rule {
            Rule::Attacker(rule) => rule.judged().of_one_step(upstream),
            Rule::Defender(rule) => {
                judged(upstream, &rule.verdicts, &rule.responses, "rule.defender.verdicts")
            }
            Rule::Evaluator(rule) => {
                judged(upstream, &rule.verdicts, &rule.labels, "rule.evaluator.verdicts")
            }
        }
    }
}

/// That verdicts are on these responses or labels.
fn judged<T>(
    upstream: Upstream,
    verdicts: &Input<Verdicts>,
    rewarded: &Input<T>,
    key: &str,
) -> Result<(), CheckError> {
    let Some(judge) = upstream.stage::<Judge, _>(verdicts) else { return Ok(()) };
    match upstream.is_same(rewarded, judge.upstream(), &judge.stage.data) {
        Some(false) => Err(other(key, &rewarded.text(), &judge.place("data"), &judge.stage.data.text())),
        _ => Ok(()),
    }
}

fn other(key: &str, rewarded: &str, place: &str, found: &str) -> CheckError {
    let judged = key.rsplit('.').next().unwrap_or(key);
    CheckError::at(
        key,
        format!("`{judged}` must be on `{rewarded}`, which is rewarded, but {place} is `{found}`"),
    )
}

/// What is judged for the attacker's reward, and of what.
pub struct Judged<'a> {
    pub attacks: &'a Input<Attacks>,
    pub verdicts: &'a Input<Verdicts>,
    pub meaning: Option<&'a Input<Meanings>>,
}

impl Judged<'_> {
    fn of_one_step(&self, upstream: Upstream) -> Result<(), CheckError> {
        if let Some(judge) = upstream.stage::<Judge, _>(self.verdicts)
            && let Some(respond) = judge.upstream().stage::<Respond, _>(&judge.stage.data)
            && let Some(data) = respond.stage.attacks_input()
            && upstream.is_same(self.attacks, respond.upstream(), data) == Some(false)
        {
            let place = respond.place("data");
            return Err(other("rule.attacker.verdicts", &self.attacks.text(), &place, &data.text()));
        }
        if let Some(input) = self.meaning
            && let Some(meaning) = upstream.stage::<Meaning, _>(input)
            && upstream.is_same(self.attacks, meaning.upstream(), &meaning.stage.data) == Some(false)
        {
            let (place, found) = (meaning.place("data"), meaning.stage.data.text());
            return Err(other("rule.attacker.meaning", &self.attacks.text(), &place, &found));
        }
        Ok(())
    }
}
