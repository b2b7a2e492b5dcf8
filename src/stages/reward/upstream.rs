//! The stages that feed a reward: checks that the inputs of its terms are about the completions to reward, and finds the stage
//! that sampled these.

use super::batch::CompletionKind;
use super::term::{Weighted, within_term};
use super::{Reward, Term};
use crate::artifact::{Attacks, Judgeable, Meanings, Verdicts};
use crate::generate::Generate;
use crate::judge::Judge;
use crate::meaning::Meaning;
use crate::respond::Respond;
use crate::rollouts::Rollouts;
use engine::{CheckError, Input, Upstream};

impl Reward {
    /// The completions to reward, if a stage samples them.
    pub(crate) fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        // All turns of an episode are sampled alike, and its group is that of its first turn.
        Rollouts::of(upstream, self.earlier.first().unwrap_or(&self.data))
    }

    /// Whether it rewards episodes of several turns.
    pub(crate) fn has_episodes(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// The place, name and struct of each term.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (String, &str, &dyn Term)> {
        let place = |(index, term): (usize, &Weighted)| format!("terms.{index}.{}", term.key());
        self.terms
            .iter()
            .enumerate()
            .filter_map(move |entry| Some((place(entry), entry.1.name(), entry.1.term()?)))
    }

    /// Checks of the terms beyond their types.
    pub(super) fn check_terms(&self) -> Result<(), CheckError> {
        if self.terms.is_empty() {
            let message =
                "`terms` must have at least one term, such as `- { class_value: { verdicts: verdicts } }`";
            return Err(CheckError::at("terms", message));
        }
        let at = |index: usize, error: CheckError| within_term(&format!("terms.{index}"), error);
        for (index, term) in self.terms.iter().enumerate() {
            term.check().map_err(|error| at(index, error))?;
            let above: Vec<&str> = self.terms[..index].iter().map(Weighted::name).collect();
            if above.contains(&term.name()) {
                let message = format!(
                    "each term must have its own name, found `{}` twice: give one of them another `name`",
                    term.name()
                );
                return Err(at(index, message.into()));
            }
            let Some((key, read)) = term.term().and_then(Term::reads) else { continue };
            if !above.contains(&read) {
                let above = if above.is_empty() { "none".into() } else { above.join(", ") };
                let message = format!(
                    "`{key}` must be the name of a term above, found `{read}`; the terms above are {above}"
                );
                return Err(at(index, CheckError::at(format!("{}.{key}", term.key()), message)));
            }
        }
        if !self.terms.iter().any(Weighted::has_signal) {
            let message = "at least one term must have a weight and scores that differ: otherwise all rewards are equal \
                           and teach nothing";
            return Err(CheckError::at("terms", message));
        }
        Ok(())
    }

    /// Checks that the terms can score the rewarded completions, and that their inputs are about these.
    pub(super) fn check_upstream(&self, upstream: Upstream) -> Result<(), CheckError> {
        let rewarded = self.rewarded(upstream);
        for (place, _, term) in self.terms() {
            if let Some(what) = rewarded.filter(|what| !term.scored().contains(what)) {
                let kind = place.rsplit('.').next().unwrap_or_default();
                let message = format!(
                    "`data` must hold {} for `{kind}`, found {} in `{}`",
                    CompletionKind::list(term.scored()),
                    what.plural(),
                    self.data.text()
                );
                return Err(CheckError::at(place, message));
            }
            term.agree(&self.data, upstream).map_err(|error| within_term(&place, error))?;
        }
        Ok(())
    }

    /// Checks that all turns of an episode have the same model and sampling, since one update learns from all of them.
    pub(super) fn check_turns(&self, upstream: Upstream) -> Result<(), CheckError> {
        let Some(last) = Rollouts::of(upstream, &self.data) else { return Ok(()) };
        for (index, input) in self.earlier.iter().enumerate() {
            let Some(earlier) = Rollouts::of(upstream, input) else { continue };
            earlier
                .check_turn(&last, &self.data.text())
                .map_err(|message| CheckError::at(format!("earlier.{index}"), message))?;
        }
        Ok(())
    }

    /// The kind of the completions to reward, if a stage samples them.
    fn rewarded(&self, upstream: Upstream) -> Option<CompletionKind> {
        let is = |found: bool, what| found.then_some(what);
        is(upstream.stage::<Generate, _>(&self.data).is_some(), CompletionKind::Attack)
            .or(is(upstream.stage::<Respond, _>(&self.data).is_some(), CompletionKind::Response))
            .or(is(upstream.stage::<Judge, _>(&self.data).is_some(), CompletionKind::Verdict))
    }
}

/// The input of a judge: the upstream of that stage, the input, and its place.
pub(crate) type JudgeInput<'a, T> = (Upstream<'a>, &'a Input<T>, String);

/// Finds the inputs of judges.
pub(crate) struct Judged;

impl Judged {
    /// The pairs that the verdicts are on.
    pub(crate) fn by<'a>(
        upstream: Upstream<'a>,
        verdicts: &Input<Verdicts>,
    ) -> Option<JudgeInput<'a, Judgeable>> {
        let judge = upstream.stage::<Judge, _>(verdicts)?;
        Some((judge.upstream(), &judge.stage.data, judge.place("data")))
    }

    /// The attacks whose responses the verdicts are on.
    pub(crate) fn answers<'a>(
        upstream: Upstream<'a>,
        verdicts: &Input<Verdicts>,
    ) -> Option<JudgeInput<'a, Attacks>> {
        let judge = upstream.stage::<Judge, _>(verdicts)?;
        let respond = judge.upstream().stage::<Respond, _>(&judge.stage.data)?;
        Some((respond.upstream(), respond.stage.attacks_input()?, respond.place("data")))
    }

    /// The attacks whose meaning was judged.
    pub(crate) fn meaning<'a>(
        upstream: Upstream<'a>,
        meanings: &Input<Meanings>,
    ) -> Option<JudgeInput<'a, Attacks>> {
        let meaning = upstream.stage::<Meaning, _>(meanings)?;
        Some((meaning.upstream(), &meaning.stage.data, meaning.place("data")))
    }
}

/// Checks that the input `key`, which is about `judged`, is about the rewarded completions.
pub(crate) fn on_the_same<T, U>(
    upstream: Upstream,
    rewarded: &Input<T>,
    key: &str,
    judged: Option<JudgeInput<U>>,
) -> Result<(), CheckError> {
    let Some((source, input, place)) = judged else { return Ok(()) };
    if upstream.is_same(rewarded, source, input) != Some(false) {
        return Ok(());
    }
    let message = format!(
        "`{key}` must be on `{}`, which is rewarded, but {place} is `{}`",
        rewarded.text(),
        input.text()
    );
    Err(CheckError::at(key, message))
}
