//! Guards: limits that halt a phase, and the model that a halted phase hands on.
//!
//! A batch describes the model that sampled it. If it passes a limit, the step that made this model was one too many: the phase
//! returns to the model before that step and keeps it. The next phase, another round of the loop around this one, continues from
//! it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::artifact::{self, Model};
use engine::{CheckError, Context, Input, Inputs};
use grpo::{self, StepReport};
use store::read::{self, MAX_TEXT_BYTES};

/// The guard, and the metric, of the distance between server and trainer.
pub(crate) const SERVED_GAP: &str = "served_gap";

/// The record of a halted phase, in the folder of the model that it hands on.
const HALTED: &str = "halted.json";

/// The record, in a model's folder, of the limits that its batch had passed.
const STREAKS: &str = "beyond_limits.json";

/// Limits for what a batch says about the model that sampled it. If one is passed, or the loss or gradient is not finite, the
/// phase halts: this step and all later steps of the phase output `previous`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guards {
    /// The largest divergence from the reference, in nats per token: exact at each position, averaged over tokens.
    #[serde(default)]
    kl: Option<f64>,
    /// The smallest mean entropy, in nats per token; below it, the model always says the same.
    #[serde(default)]
    min_entropy: Option<f64>,
    /// The largest mean entropy, in nats per token; above it, the model's text is random.
    #[serde(default)]
    max_entropy: Option<f64>,
    /// The largest mean length of a completion, in tokens.
    #[serde(default)]
    max_tokens: Option<f64>,
    /// The largest share of token 3-grams that occurred earlier in the same completion.
    #[serde(default)]
    repetition: Option<f64>,
    /// The largest mean difference, in nats per token, between the log-probabilities of the server that sampled the completions
    /// and the trainer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    served_gap: Option<f64>,
    /// How many batches in a row must pass the same limit: with 2, a single outlier halts nothing. A loss or gradient that is not
    /// finite halts at once.
    #[serde(default = "one")]
    in_a_row: usize,
    /// The last model whose own batch was within the limits. In a loop: `carry: { model: x, previous: x }` and
    /// `next: { model: update.model, previous: model }`. With `in_a_row`, a list of that many models: the one before `model`, the
    /// one before that, and so on.
    previous: Inputs<Model>,
}

fn one() -> usize {
    1
}

fn once() -> u32 {
    1
}

/// A limit that was passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tripped {
    /// The key of the limit; `finite` for loss and gradient, which need none.
    pub guard: &'static str,
    pub value: f64,
    pub limit: f64,
}

impl fmt::Display for Tripped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&analysis::tripped(self.guard, self.value, self.limit))
    }
}

impl Guards {
    /// For how many batches in a row a phase halts. A loss or gradient that is not finite concerns this batch alone.
    pub(crate) fn batches(&self, tripped: &[Tripped]) -> usize {
        if tripped.iter().all(|tripped| tripped.guard == FINITE) { 1 } else { self.in_a_row }
    }

    /// The model to which a halted phase returns: the one before the first of those batches.
    pub(crate) fn back_to(&self, tripped: &[Tripped]) -> Option<&Input<Model>> {
        self.previous.iter().take(self.batches(tripped)).next_back()
    }

    pub(crate) fn check(&self, model: &Input<Model>) -> Result<(), CheckError> {
        let previous = self.previous.iter().count();
        if self.in_a_row == 0 {
            return Err(CheckError::at("guards.in_a_row", "`in_a_row` must be at least 1, found 0"));
        }
        if previous != self.in_a_row {
            let message = format!(
                "`previous` must have as many models as `in_a_row` = {}, found {previous}: the model before this one, then the \
                 one before that",
                self.in_a_row
            );
            return Err(CheckError::at("guards.previous", message));
        }
        if self.previous.iter().any(|previous| previous.text() == model.text()) {
            let message = "`previous` must be the model before this one, found `model` itself: the phase could not go back";
            return Err(CheckError::at("guards.previous", message));
        }
        let limits = [
            ("kl", self.kl),
            ("min_entropy", self.min_entropy),
            ("max_entropy", self.max_entropy),
            ("max_tokens", self.max_tokens),
            ("repetition", self.repetition),
            (SERVED_GAP, self.served_gap),
        ];
        let wrong = |limit: &Option<f64>| limit.is_some_and(|limit| !(0.0..f64::INFINITY).contains(&limit));
        if let Some((name, Some(limit))) = limits.iter().find(|(_, limit)| wrong(limit)) {
            let message = format!("`{name}` must be at least 0, found {limit}");
            return Err(CheckError::at(format!("guards.{name}"), message));
        }
        match (self.min_entropy, self.max_entropy) {
            (Some(least), Some(most)) if least > most => {
                let message = format!("`min_entropy` must be at most `max_entropy` = {most}, found {least}");
                Err(CheckError::at("guards.min_entropy", message))
            }
            _ => Ok(()),
        }
    }

    /// Whether the divergence must be computed.
    pub(crate) fn needs_reference(&self) -> bool {
        self.kl.is_some()
    }

    /// The limits that a batch has passed. NaN passes any limit.
    pub(crate) fn tripped(
        &self,
        completions: &[&[u32]],
        served_gap: Option<f64>,
        report: &StepReport,
    ) -> Vec<Tripped> {
        let tokens: usize = completions.iter().map(|completion| completion.len()).sum();
        let length = tokens as f64 / completions.len().max(1) as f64;
        let repetition = grpo::repetition(completions.iter().copied());
        let above = |guard, value: f64, limit: Option<f64>| {
            limit.filter(|limit| value.is_nan() || value > *limit).map(|limit| Tripped {
                guard,
                value,
                limit,
            })
        };
        let below = |guard, value: f64, limit: Option<f64>| {
            limit.filter(|limit| value.is_nan() || value < *limit).map(|limit| Tripped {
                guard,
                value,
                limit,
            })
        };
        [
            finite(report).err(),
            above("kl", report.kl, self.kl),
            below("min_entropy", report.entropy, self.min_entropy),
            above("max_entropy", report.entropy, self.max_entropy),
            above("max_tokens", length, self.max_tokens),
            above("repetition", repetition, self.repetition),
            served_gap.and_then(|gap| above(SERVED_GAP, gap, self.served_gap)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// For each guard, how many batches in a row have passed its limit, this one included. It is stored beside the model, which is
/// trained all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Streaks {
    /// The rounds of the outer loops, and the round of the last of these batches.
    phase: Vec<u32>,
    round: u32,
    batches: BTreeMap<String, usize>,
}

impl Streaks {
    /// The streaks up to the batch before this one, if the model comes from the previous round of the same phase.
    pub(crate) fn before(context: &Context, model: &Path) -> anyhow::Result<Streaks> {
        let (phase, round) = phase(context.position());
        let known = left::<Streaks>(model, STREAKS)?;
        let follows = |streaks: &Streaks| streaks.phase == phase && streaks.round + 1 == round;
        Ok(known.filter(follows).unwrap_or_default())
    }

    /// Adds the limits that this batch has passed; the streaks of all others end.
    pub(crate) fn and(&self, position: &[u32], tripped: &[Tripped]) -> Streaks {
        let longer = |tripped: &Tripped| {
            let before = self.batches.get(tripped.guard).copied().unwrap_or(0);
            (tripped.guard.to_owned(), before + 1)
        };
        let (phase, round) = phase(position);
        Streaks { phase: phase.to_vec(), round, batches: tripped.iter().map(longer).collect() }
    }

    /// The same streaks after a batch without anything to learn from.
    pub(crate) fn at(&self, position: &[u32]) -> Streaks {
        let (phase, round) = phase(position);
        Streaks { phase: phase.to_vec(), round, batches: self.batches.clone() }
    }

    /// The limits that halt the phase.
    pub(crate) fn halting(&self, tripped: Vec<Tripped>, guards: &Guards) -> Vec<Tripped> {
        let is_long = |tripped: &Tripped| {
            tripped.guard == FINITE || self.batches.get(tripped.guard) >= Some(&guards.in_a_row)
        };
        tripped.into_iter().filter(is_long).collect()
    }

    /// How many limits were passed.
    pub(crate) fn passed(&self) -> usize {
        self.batches.len()
    }

    /// Writes them beside the model that was trained.
    pub(crate) fn leave(&self, context: &Context, output: &str) -> anyhow::Result<()> {
        if self.batches.is_empty() { Ok(()) } else { leave(&context.output(output), STREAKS, self) }
    }
}

/// The guard of loss and gradient, which needs no limit.
const FINITE: &str = "finite";

/// Checks that loss and gradient are finite.
pub(crate) fn finite(report: &StepReport) -> Result<(), Tripped> {
    match [report.loss, report.grad_norm].into_iter().find(|value| !value.is_finite()) {
        Some(value) => Err(Tripped { guard: FINITE, value, limit: f64::MAX }),
        None => Ok(()),
    }
}

/// Where and why a phase halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Halted {
    /// The rounds of the loops around the phase, outermost first.
    phase: Vec<u32>,
    /// The round of the phase.
    round: u32,
    /// How many batches in a row caused it.
    #[serde(default = "once")]
    batches: u32,
    /// The guards that tripped.
    pub why: String,
}

impl Halted {
    /// Halts at the position of this node.
    pub(crate) fn here(context: &Context, tripped: &[Tripped], batches: u32) -> Halted {
        let why: Vec<String> = tripped.iter().map(Tripped::to_string).collect();
        let (phase, round) = phase(context.position());
        Halted { phase: phase.to_vec(), round, batches, why: why.join(" and ") }
    }

    /// The record in a model's folder, if the phase of this node halted in an earlier round.
    pub(crate) fn before(context: &Context, model: &Path) -> anyhow::Result<Option<Halted>> {
        let (phase, round) = phase(context.position());
        let is_earlier = |halted: &Halted| halted.phase == phase && halted.round < round;
        Ok(left::<Halted>(model, HALTED)?.filter(is_earlier))
    }

    /// Hands a model on unchanged, with this record beside it.
    pub(crate) fn hand_on(
        &self,
        context: &Context,
        output: &str,
        model: &Input<Model>,
    ) -> anyhow::Result<()> {
        publish_unchanged(context, output, model)?;
        leave(&context.output(output), HALTED, self)
    }
}

/// The record of this name beside a model.
fn left<T: DeserializeOwned>(model: &Path, name: &str) -> anyhow::Result<Option<T>> {
    let path = model.join(name);
    if !model::is_there(&path)? {
        return Ok(None);
    }
    let text =
        read::bytes(&path, MAX_TEXT_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
    let left = serde_json::from_slice(&text);
    left.map(Some).with_context(|| {
        format!("{} must be as `update` writes it: remove it to train the model", path.display())
    })
}

/// Writes a record beside a model.
fn leave(model: &Path, name: &str, what: &impl Serialize) -> anyhow::Result<()> {
    let path = model.join(name);
    std::fs::write(&path, serde_json::to_string_pretty(what)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Hands a model on unchanged, without the records of an earlier phase.
pub(crate) fn publish_unchanged(context: &Context, output: &str, model: &Input<Model>) -> anyhow::Result<()> {
    artifact::publish_unchanged(context, output, model)?;
    for name in [HALTED, STREAKS] {
        let path = context.output(output).join(name);
        // It may be a link into the store, where nothing is written to.
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

impl fmt::Display for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&analysis::halted_line(&self.why, self.round, self.batches))
    }
}

/// The rounds of the loops around a phase, and its own round; 0 outside loops.
fn phase(position: &[u32]) -> (&[u32], u32) {
    position.split_last().map_or((&[], 0), |(round, around)| (around, *round))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(limits: &str) -> Guards {
        serde_json::from_value(serde_json::json!({
            "previous": "x",
            "kl": 0.5,
            "min_entropy": serde_json::from_str::<serde_json::Value>(limits).unwrap(),
        }))
        .unwrap()
    }

    #[test]
    fn a_limit_must_be_passed_as_often_in_a_row_as_is_asked() {
        let guards: Guards =
            serde_json::from_value(serde_json::json!({ "kl": 0.5, "in_a_row": 2, "previous": ["x", "y"] }))
                .unwrap();
        let model = serde_json::from_value(serde_json::json!("m")).unwrap();
        assert_eq!((guards.check(&model), guards.back_to(&[]).unwrap().text()), (Ok(()), "x".to_owned()));
        let kl = Tripped { guard: "kl", value: 0.7, limit: 0.5 };
        assert_eq!(guards.back_to(&[kl]).unwrap().text(), "y");
        let entropy = Tripped { guard: "min_entropy", value: 0.1, limit: 0.2 };
        let first = Streaks::default().and(&[1, 4], &[kl]);
        assert_eq!(first.halting(vec![kl], &guards), []);
        let second = first.and(&[1, 5], &[kl, entropy]);
        assert_eq!(second.halting(vec![kl, entropy], &guards), [kl]);
        let other = first.and(&[1, 5], &[entropy]).and(&[1, 6], &[kl]);
        assert_eq!(other.halting(vec![kl], &guards), [], "one batch between was within the limit");
        let nan = finite(&StepReport { loss: f64::NAN, ..StepReport::default() }).unwrap_err();
        assert_eq!(Streaks::default().and(&[1], &[nan]).halting(vec![nan], &guards).len(), 1);
        let few: Guards =
            serde_json::from_value(serde_json::json!({ "in_a_row": 2, "previous": "x" })).unwrap();
        let said = few.check(&model).unwrap_err().message;
        assert!(said.starts_with("`previous` must have as many models as `in_a_row` = 2, found 1"), "{said}");
    }

    #[test]
    fn a_limit_that_is_passed_is_named_and_what_is_no_number_passes_any() {
        let healthy = StepReport { kl: 0.5, entropy: 1.0, ..StepReport::default() };
        assert_eq!(guards("1.0").tripped(&[], None, &healthy), []);
        let said = |report: StepReport| {
            let tripped = guards("1.0").tripped(&[], None, &report);
            tripped.iter().map(Tripped::to_string).collect::<Vec<_>>().join(" and ")
        };
        assert_eq!(said(StepReport { kl: 0.71, ..healthy }), "kl 0.71 above 0.5");
        assert_eq!(
            said(StepReport { entropy: 0.25, loss: f64::NAN, ..healthy }),
            "loss or gradient NaN, not finite and entropy 0.25 below 1"
        );
        assert_eq!(said(StepReport { kl: f64::NAN, ..healthy }), "kl NaN above 0.5");
        assert_eq!(guards("null").tripped(&[], None, &StepReport { entropy: 0.0, ..healthy }), []);
    }
}
