//! What feeds a reward: whether what its terms read is on what is rewarded, and who sampled it.

use super::batch::What;
use super::term::{Weighted, within_term};
use super::{Reward, Term};
use crate::artifact::{Attacks, Completions, Judgeable, Meanings, Verdicts};
use crate::generate::Generate;
use crate::judge::Judge;
use crate::meaning::Meaning;
use crate::respond::Respond;
use crate::rollouts::Rollouts;
use engine::{CheckError, Fed, Input, Upstream};

impl Reward {
    /// The completions that are rewarded, where a stage samples them.
    pub fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        // All turns of an episode are sampled alike, and its first turn says what its group is.
        sampled(upstream, self.earlier.first().unwrap_or(&self.data))
    }

    /// Whether it rewards episodes of several turns.
    pub fn has_episodes(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// The judge whose verdicts are rewarded.
    pub fn judge<'a>(&self, upstream: Upstream<'a>) -> Option<Fed<'a, Judge>> {
        upstream.stage(&self.data)
    }

    /// Its terms: where each stands, its name and itself.
    pub fn terms(&self) -> impl Iterator<Item = (String, &str, &dyn Term)> {
        let place = |(index, term): (usize, &Weighted)| format!("terms.{index}.{}", term.key());
        self.terms
            .iter()
            .enumerate()
            .filter_map(move |entry| Some((place(entry), entry.1.name(), entry.1.term()?)))
    }

    /// What types cannot say about the terms.
    pub(super) fn check_terms(&self) -> Result<(), CheckError> {
        if self.terms.is_empty() {
            let message =
                "`terms` must have one term at least, such as `- { class_value: { verdicts: verdicts } }`";
            return Err(CheckError::at("terms", message));
        }
        let at = |index: usize, error: CheckError| within_term(&format!("terms.{index}"), error);
        for (index, term) in self.terms.iter().enumerate() {
            term.check().map_err(|error| at(index, error))?;
            let above: Vec<&str> = self.terms[..index].iter().map(Weighted::name).collect();
            if above.contains(&term.name()) {
                let message = format!(
                    "each term must have a name of its own, found `{}` twice: give one of them another `name`",
                    term.name()
                );
                return Err(at(index, message.into()));
            }
            let Some((key, read)) = term.term().and_then(Term::reads) else { continue };
            if !above.contains(&read) {
                let above = if above.is_empty() { "none".into() } else { above.join(", ") };
                let message =
                    format!("`{key}` must be the name of a term above, found `{read}`; above: {above}");
                return Err(at(index, CheckError::at(format!("{}.{key}", term.key()), message)));
            }
        }
        if !self.terms.iter().any(Weighted::teaches) {
            let message = "a term must have a weight and scores that differ: every completion earns the same, so nothing is \
                           learnt";
            return Err(CheckError::at("terms", message));
        }
        Ok(())
    }

    /// Holds what terms score and read against what is rewarded.
    pub(super) fn hold_against(&self, upstream: Upstream) -> Result<(), CheckError> {
        let rewarded = self.rewarded(upstream);
        for (place, _, term) in self.terms() {
            if let Some(what) = rewarded.filter(|what| !term.scored().contains(what)) {
                let kind = place.rsplit('.').next().unwrap_or_default();
                let message = format!(
                    "`{kind}` scores {}, but `data` is `{}`, which holds {}",
                    What::list(term.scored()),
                    self.data.text(),
                    what.plural()
                );
                return Err(CheckError::at(place, message));
            }
            term.agree(&self.data, upstream).map_err(|error| within_term(&place, error))?;
        }
        Ok(())
    }

    /// That all turns of an episode are of one model and sampled alike, since they are learnt from together.
    pub(super) fn hold_turns_against_each_other(&self, upstream: Upstream) -> Result<(), CheckError> {
        let Some(last) = sampled(upstream, &self.data) else { return Ok(()) };
        for (index, input) in self.earlier.iter().enumerate() {
            let Some(earlier) = sampled(upstream, input) else { continue };
            earlier
                .hold_against_turn(&last, &self.data.text())
                .map_err(|message| CheckError::at(format!("earlier.{index}"), message))?;
        }
        Ok(())
    }

    /// What is rewarded, where a stage that samples says so.
    fn rewarded(&self, upstream: Upstream) -> Option<What> {
        let is = |found: bool, what| found.then_some(what);
        is(upstream.stage::<Generate, _>(&self.data).is_some(), What::Attack)
            .or(is(upstream.stage::<Respond, _>(&self.data).is_some(), What::Response))
            .or(is(self.judge(upstream).is_some(), What::Verdict))
    }
}

/// Completions, where a stage samples them.
fn sampled<'a>(upstream: Upstream<'a>, input: &Input<Completions>) -> Option<Rollouts<'a>> {
    let attacks = || upstream.stage::<Generate, _>(input).map(Rollouts::of);
    let responses = || upstream.stage::<Respond, _>(input).map(Rollouts::of);
    attacks().or_else(responses).or_else(|| upstream.stage::<Judge, _>(input).map(Rollouts::of))
}

/// What a judge judged: the sources of that stage, its input, and where it stands.
pub type Source<'a, T> = (Upstream<'a>, &'a Input<T>, String);

/// What judges judged.
pub struct Judged;

impl Judged {
    /// What verdicts are on.
    pub fn by<'a>(upstream: Upstream<'a>, verdicts: &Input<Verdicts>) -> Option<Source<'a, Judgeable>> {
        let judge = upstream.stage::<Judge, _>(verdicts)?;
        Some((judge.upstream(), &judge.stage.data, judge.place("data")))
    }

    /// The attacks that the responses answer which verdicts are on.
    pub fn answers<'a>(upstream: Upstream<'a>, verdicts: &Input<Verdicts>) -> Option<Source<'a, Attacks>> {
        let judge = upstream.stage::<Judge, _>(verdicts)?;
        let respond = judge.upstream().stage::<Respond, _>(&judge.stage.data)?;
        Some((respond.upstream(), respond.stage.attacks_input()?, respond.place("data")))
    }

    /// The attacks whose meaning was judged.
    pub fn meaning<'a>(upstream: Upstream<'a>, meanings: &Input<Meanings>) -> Option<Source<'a, Attacks>> {
        let meaning = upstream.stage::<Meaning, _>(meanings)?;
        Some((meaning.upstream(), &meaning.stage.data, meaning.place("data")))
    }
}

/// That what was judged is what is rewarded, `key` being the input that comes of it.
pub fn on_the_same<T, U>(
    upstream: Upstream,
    rewarded: &Input<T>,
    key: &str,
    judged: Option<Source<U>>,
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
