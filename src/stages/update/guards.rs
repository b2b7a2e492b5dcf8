//! Guards: what halts a phase, and what a halted phase hands on.
//!
//! A batch tells of the model that sampled it. Where it says that something is wrong with that model, the step before
//! it was one too many: the phase goes back to the model before that step and stays there. The next phase, another
//! round of the loop around this one, goes on from it.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::{self, Model};
use engine::{CheckError, Context, Input};
use grpo::{self, StepReport};
use store::read::{self, MOST_TEXT};

/// What a halted phase says of itself, in the folder of the model that it hands on.
const HALTED: &str = "halted.json";

/// Limits to what a batch may say of the model that sampled it. Where one is passed, or loss or gradient are no
/// numbers, `previous` is what comes out, of this step and all others of the phase.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guards {
    /// The largest divergence from the reference, in nats a token: exact at each position, the mean over tokens.
    #[serde(default)]
    kl: Option<f64>,
    /// The smallest mean entropy, nats a token: below it the model says always the same.
    #[serde(default)]
    min_entropy: Option<f64>,
    /// The largest mean entropy, nats a token: above it the model talks at random.
    #[serde(default)]
    max_entropy: Option<f64>,
    /// The largest mean length of a completion, in tokens.
    #[serde(default)]
    max_tokens: Option<f64>,
    /// The largest share of 3-grams of tokens that their completion had before.
    #[serde(default)]
    repetition: Option<f64>,
    /// The last model whose own batch was within the limits. In a loop: `carry: { model: x, previous: x }` and
    /// `next: { model: update.model, previous: model }`.
    pub previous: Input<Model>,
}

/// A limit that was passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tripped {
    /// The key of the limit; `finite` of loss and gradient, which needs none.
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
    pub fn check(&self) -> Result<(), CheckError> {
        let limits = [
            ("kl", self.kl),
            ("min_entropy", self.min_entropy),
            ("max_entropy", self.max_entropy),
            ("max_tokens", self.max_tokens),
            ("repetition", self.repetition),
        ];
        let wrong = |limit: &Option<f64>| limit.is_some_and(|limit| !(0.0..f64::INFINITY).contains(&limit));
        if let Some((name, _)) = limits.iter().find(|(_, limit)| wrong(limit)) {
            return Err(CheckError::at(format!("guards.{name}"), format!("`{name}` is a number from 0 on")));
        }
        match (self.min_entropy, self.max_entropy) {
            (Some(least), Some(most)) if least > most => {
                Err(CheckError::at("guards.min_entropy", "`min_entropy` must be at most `max_entropy`"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the divergence has to be known.
    pub fn needs_reference(&self) -> bool {
        self.kl.is_some()
    }

    /// The limits that a batch has passed. A measure that is no number has passed any.
    pub fn tripped(&self, completions: &[&[u32]], report: &StepReport) -> Vec<Tripped> {
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
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Whether loss and gradient are numbers.
pub fn finite(report: &StepReport) -> Result<(), Tripped> {
    match [report.loss, report.grad_norm].into_iter().find(|value| !value.is_finite()) {
        Some(value) => Err(Tripped { guard: "finite", value, limit: f64::MAX }),
        None => Ok(()),
    }
}

/// Where and why a phase halted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halted {
    /// The rounds of the loops around the phase, outermost first.
    phase: Vec<u32>,
    /// The round of the phase.
    round: u32,
    /// The guards that tripped.
    pub why: String,
}

impl Halted {
    /// Here, now.
    pub fn here(context: &Context, tripped: &[Tripped]) -> Halted {
        let why: Vec<String> = tripped.iter().map(Tripped::to_string).collect();
        let (phase, round) = phase(context.position());
        Halted { phase: phase.to_vec(), round, why: why.join(" and ") }
    }

    /// What the model in a folder says, if it was halted earlier in the phase that this node is in.
    pub fn before(context: &Context, model: &Path) -> anyhow::Result<Option<Halted>> {
        let path = model.join(HALTED);
        if !model::is_there(&path)? {
            return Ok(None);
        }
        let text =
            read::bytes(&path, MOST_TEXT).with_context(|| format!("cannot read {}", path.display()))?;
        let halted: Halted = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not what `update` writes: remove it to train the model", path.display())
        })?;
        let (phase, round) = phase(context.position());
        Ok((halted.phase == phase && halted.round < round).then_some(halted))
    }

    /// Hands a model on as it is, with this beside it.
    pub fn hand_on(&self, context: &Context, output: &str, model: &Input<Model>) -> anyhow::Result<()> {
        pass_on(context, output, model)?;
        let path = context.output(output).join(HALTED);
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Hands a model on as it is, without what an earlier phase said of itself.
pub fn pass_on(context: &Context, output: &str, model: &Input<Model>) -> anyhow::Result<()> {
    artifact::pass_on(context, output, model)?;
    let path = context.output(output).join(HALTED);
    // It may be a link into the store, where nothing is written to.
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

impl fmt::Display for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&analysis::halted_line(&self.why, self.round))
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
    fn a_limit_that_is_passed_is_named_and_what_is_no_number_passes_any() {
        let healthy = StepReport { kl: 0.5, entropy: 1.0, ..StepReport::default() };
        assert_eq!(guards("1.0").tripped(&[], &healthy), []);
        let said = |report: StepReport| {
            let tripped = guards("1.0").tripped(&[], &report);
            tripped.iter().map(Tripped::to_string).collect::<Vec<_>>().join(" and ")
        };
        assert_eq!(said(StepReport { kl: 0.71, ..healthy }), "kl 0.71 above 0.5");
        assert_eq!(
            said(StepReport { entropy: 0.25, loss: f64::NAN, ..healthy }),
            "loss or gradient NaN, no number and entropy 0.25 below 1"
        );
        assert_eq!(said(StepReport { kl: f64::NAN, ..healthy }), "kl NaN above 0.5");
        assert_eq!(guards("null").tripped(&[], &StepReport { entropy: 0.0, ..healthy }), []);
    }
}
