//! Where the completions come from that a model learns from: what their sampling and the update have to agree on.

use super::artifact::Model;
use engine::{CheckError, Fed, Input, Upstream};
use rollout::Sampling;

/// A stage whose completions can be rewarded.
pub trait Sampler {
    fn sampling(&self) -> &Sampling;
    /// Completions of one prompt.
    fn group(&self) -> usize;
    /// Whose completions they are, and the key of each.
    fn models(&self) -> Vec<(String, &Input<Model>)>;
    /// Whether completions are as long as `max_new_tokens` says.
    fn is_free(&self) -> bool {
        true
    }
}

/// The completions that an update learns from, as the stage that samples them has them.
pub struct Rollouts<'a> {
    by: &'a dyn Sampler,
    upstream: Upstream<'a>,
    place: Box<dyn Fn(&str) -> String + 'a>,
}

impl<'a> Rollouts<'a> {
    pub fn of<S: Sampler>(fed: Fed<'a, S>) -> Rollouts<'a> {
        Rollouts { by: fed.stage, upstream: fed.upstream(), place: Box::new(move |key| fed.place(key)) }
    }

    /// The temperature at which their log-probabilities were recorded.
    pub fn temperature(&self) -> f64 {
        match self.by.sampling().temperature {
            0.0 => 1.0,
            temperature => temperature,
        }
    }

    /// What the loss says of them in its own parameters.
    pub fn hold_against(&self, temperature: f64, longest: Option<usize>) -> Result<(), CheckError> {
        let expected = self.temperature();
        if temperature != expected {
            let place = (self.place)("sampling.temperature");
            let message = format!(
                "`temperature` must be that of sampling, {expected:?}, found {temperature:?}: see {place}; left out, it is \
                 taken from there"
            );
            return Err(CheckError::at("algorithm.grpo", message));
        }
        let tokens = self.by.sampling().max_new_tokens;
        match longest {
            Some(longest) if longest < tokens && self.by.is_free() => {
                let place = (self.place)("sampling.max_new_tokens");
                let message = format!(
                    "`max_completion_length` must be at least the longest completion that is sampled, {tokens}, found \
                     {longest}: see {place}"
                );
                Err(CheckError::at("algorithm.grpo", message))
            }
            _ => Ok(()),
        }
    }

    /// Why nothing can be learnt from them, if that is so.
    pub fn barren(&self) -> Option<String> {
        if self.by.group() == 1 {
            return Some(format!(
                "nothing is learnt from the rewards: {} is 1, and advantages are relative to the group, so all are 0",
                (self.place)("group")
            ));
        }
        (self.by.sampling().temperature == 0.0).then(|| {
            format!(
                "nothing is learnt from the rewards: {} is 0, so all completions of a group are the same",
                (self.place)("sampling.temperature")
            )
        })
    }

    /// The model that one of them is of, if that is another than `model` of the stage with this `upstream`.
    pub fn of_other(&self, upstream: Upstream, model: &Input<Model>) -> Option<String> {
        let is_other =
            |(_, other): &(_, &Input<Model>)| upstream.is_same(model, self.upstream, *other) == Some(false);
        let (key, other) = self.by.models().into_iter().find(is_other)?;
        Some(format!(
            "`{}` learns from completions of another model, `{}`: see {}",
            model.text(),
            other.text(),
            (self.place)(&key)
        ))
    }
}
