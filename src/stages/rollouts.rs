//! The completions that a model learns from: the stage that samples them, and the settings that it and `update` must agree on.

use super::artifact::Model;
use super::asking::{ModelQuery, TokenLimit, Trainer};
use engine::{CheckError, Feeder, Input, Through, Upstream};
use game::Labels;
use rollout::Sampling;

/// A stage that samples completions, which can be rewarded.
pub(crate) trait SamplingStage {
    fn sampling(&self) -> &Sampling;
    /// Completions of each prompt; `None` if the stage does not fix their number.
    fn group(&self) -> Option<usize>;
    /// The key of each model, and how the model is asked.
    fn queries(&self) -> Vec<(String, ModelQuery<'_>)>;
    /// Whether `max_new_tokens` limits the completions; it does not with a `choice`.
    fn is_free(&self) -> bool {
        true
    }
    /// The maximum lengths of the texts in its prompts, as far as stages of this pipeline sample them, oldest first.
    fn asked(&self, upstream: Upstream) -> Vec<TokenLimit>;
    /// How a label is read from a completion, if one is.
    fn labels(&self) -> Option<&Labels> {
        None
    }
}

/// A stage that trains a model on completions.
pub(crate) trait Learner: Trainer {
    /// The completions to learn from, if a stage samples them.
    fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>>;
}

/// The completions that an update learns from, as the stage that samples them declares them.
pub(crate) struct Rollouts<'a>(Feeder<'a, dyn SamplingStage>);

impl<'a> Rollouts<'a> {
    /// The completions of an input, if a stage samples them.
    pub(crate) fn of<T>(upstream: Upstream<'a>, input: &Input<T>) -> Option<Rollouts<'a>> {
        upstream.view(input).map(Rollouts)
    }

    /// The maximum length of a completion.
    pub(crate) fn longest(&self) -> TokenLimit {
        let tokens = self.0.stage.sampling().max_new_tokens;
        TokenLimit { tokens, place: self.0.place("sampling.max_new_tokens") }
    }

    /// The maximum lengths of the texts in their prompts, then that of a completion.
    pub(crate) fn conversation(&self) -> Vec<TokenLimit> {
        self.0.stage.asked(self.0.upstream()).into_iter().chain([self.longest()]).collect()
    }

    /// The temperature at which their log-probabilities were recorded.
    pub(crate) fn temperature(&self) -> f64 {
        match self.0.stage.sampling().temperature {
            0.0 => 1.0,
            temperature => temperature,
        }
    }

    /// Checks the parameters of the loss that depend on the sampling.
    pub(crate) fn check_settings(&self, temperature: f64, longest: Option<usize>) -> Result<(), CheckError> {
        let expected = self.temperature();
        if temperature != expected {
            let place = self.0.place("sampling.temperature");
            let message = format!(
                "`temperature` must be that of sampling, {expected:?}, found {temperature:?}: see {place}; leave it out to \
                 take it from there"
            );
            return Err(CheckError::at("algorithm.grpo", message));
        }
        let tokens = self.0.stage.sampling().max_new_tokens;
        match longest {
            Some(longest) if longest < tokens && self.0.stage.is_free() => {
                let place = self.0.place("sampling.max_new_tokens");
                let message = format!(
                    "`max_completion_length` must be at least `max_new_tokens` of sampling = {tokens}, found {longest}: \
                     see {place}"
                );
                Err(CheckError::at("algorithm.grpo", message))
            }
            _ => Ok(()),
        }
    }

    /// Checks that another turn of the same episodes, `name`, has the same models and sampling.
    pub(crate) fn check_turn(&self, other: &Rollouts, name: &str) -> Result<(), String> {
        let (own, others) = (self.0.stage.queries(), other.0.stage.queries());
        for ((key, query), (others_key, another)) in own.iter().zip(&others) {
            if self.0.upstream().is_same(query.model, other.0.upstream(), another.model) == Some(false) {
                return Err(format!(
                    "all turns must have the same model, found `{}` in {} and `{}` in {}",
                    query.model.text(),
                    self.0.place(key),
                    another.model.text(),
                    other.0.place(others_key)
                ));
            }
        }
        match self.0.stage.sampling() == other.0.stage.sampling() {
            true => Ok(()),
            false => Err(format!(
                "all turns must have the `sampling` of the last turn, `{name}`; found another: see {} and {}",
                self.0.place("sampling"),
                other.0.place("sampling")
            )),
        }
    }

    /// Checks that a server samples them as the trainer needs them.
    pub(crate) fn check_served(&self) -> Result<(), String> {
        let Sampling { top_k, top_p, min_p, .. } = self.0.stage.sampling();
        let truncates = (*top_k, *top_p, *min_p) != (0, 1.0, 0.0) && self.0.stage.is_free();
        for (key, query) in self.0.stage.queries() {
            match query.model.through() {
                Through::Process => {}
                Through::Served => {
                    return Err(format!(
                        "`{}` must be a model that triplay has loaded, since a trainer learns from its completions: see {}; \
                         use `{{ endpoint: NAME, load: MODEL }}`",
                        query.model.text(),
                        self.0.place(&key)
                    ));
                }
                Through::Loaded if truncates => {
                    return Err(format!(
                        "`top_k`, `top_p` and `min_p` must be left out where a server samples for training, since its \
                         log-probabilities then are of another distribution than the trainer's: see {}",
                        self.0.place("sampling")
                    ));
                }
                Through::Loaded => {}
            }
        }
        Ok(())
    }

    /// Why an update cannot learn from them, if it cannot.
    pub(crate) fn unlearnable_reason(&self) -> Option<String> {
        if self.0.stage.group() == Some(1) {
            return Some(format!(
                "nothing is learnt from the rewards: {} is 1, and advantages are relative to the group, so all are 0",
                self.0.place("group")
            ));
        }
        (self.0.stage.sampling().temperature == 0.0).then(|| {
            format!(
                "nothing is learnt from the rewards: {} is 0, so all completions of a group are the same",
                self.0.place("sampling.temperature")
            )
        })
    }

    /// Why no pair of them has a better one, if so.
    pub(crate) fn unpaired_reason(&self) -> Option<String> {
        if self.0.stage.group() == Some(1) {
            return Some(format!("there are no pairs: {} is 1", self.0.place("group")));
        }
        (self.0.stage.sampling().temperature == 0.0).then(|| {
            format!(
                "there are only ties: {} is 0, so all completions of a group are the same",
                self.0.place("sampling.temperature")
            )
        })
    }

    /// A warning if one of the completions is of another model than `model` of the stage with this `upstream`.
    pub(crate) fn model_mismatch(&self, upstream: Upstream, model: &Input<Model>) -> Option<String> {
        let is_other = |(_, query): &(_, ModelQuery)| {
            upstream.is_same(model, self.0.upstream(), query.model) == Some(false)
        };
        let (key, query) = self.0.stage.queries().into_iter().find(is_other)?;
        Some(format!(
            "`{}` learns from completions of another model, `{}`: see {}",
            model.text(),
            query.model.text(),
            self.0.place(&key)
        ))
    }
}

/// A warning if the model was trained in this role, but on completions to another `prompt`, `system` or `chat`.
pub(crate) fn prompt_mismatch(upstream: Upstream, query: &ModelQuery) -> Option<CheckError> {
    since(upstream, query.model, query)
}

/// The same for the last step that trained `model` in that role.
fn since<T>(upstream: Upstream, model: &Input<T>, query: &ModelQuery) -> Option<CheckError> {
    let update: Feeder<dyn Learner> = upstream.view(model)?;
    let model = update.stage.model()?;
    let before = || since(update.upstream(), model, query);
    let Some(rollouts) = update.stage.rollouts(update.upstream()) else { return before() };
    let is_trained = |(_, other): &(_, ModelQuery)| {
        other.role == query.role
            && update.upstream().is_same(model, rollouts.0.upstream(), other.model) == Some(true)
    };
    let trained: Vec<(String, ModelQuery)> =
        rollouts.0.stage.queries().into_iter().filter(is_trained).collect();
    let Some((of, first)) = trained.first() else { return before() };
    if trained.iter().any(|(_, other)| query.first_difference(other).is_none()) {
        return None;
    }
    let key = query.first_difference(first)?;
    let around = of.rsplit_once('.').map_or(String::new(), |(around, _)| format!("{around}."));
    Some(trained_with(query, key, &rollouts.0.place(&format!("{around}{key}"))))
}

/// A warning if the judge was trained with other labels.
pub(crate) fn labels_mismatch(upstream: Upstream, query: &ModelQuery, labels: &Labels) -> Option<CheckError> {
    let update: Feeder<dyn Learner> = upstream.view(query.model)?;
    let trained = update.stage.rollouts(update.upstream())?;
    let is_other = trained.0.stage.labels().is_some_and(|others| !others.reads_as(labels));
    is_other.then(|| trained_with(query, "labels", &trained.0.place("labels")))
}

/// The warning that a model was trained with another `key`, given at `place`.
fn trained_with(query: &ModelQuery, key: &str, place: &str) -> CheckError {
    let model = query.model.text();
    let message =
        format!("`{model}` was trained with another `{key}` than it is asked with here: see {place}");
    CheckError::at(key, message)
}
