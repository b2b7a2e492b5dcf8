//! `class_value`: the defender's reward of TriPlay-RL (arXiv 2601.18292, section 3): −1 for a negative response, 0 for a
//! rejective one, 1 for a positive one, as the evaluator classes it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Completion, CompletionKind, Undetermined};
use super::term::{Scores, Term};
use super::upstream::{Judged, on_the_same};
use crate::artifact::{self, Completions, Verdicts};
use data::VerdictRow;
use engine::{CheckError, Input, Upstream};
use game::Class;

/// Scores a response by the class that the evaluator gave it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassValue {
    /// The verdicts on these responses.
    verdicts: Input<Verdicts>,
    /// The score of each class.
    #[serde(default = "helpful")]
    values: ClassValues,
}

fn helpful() -> ClassValues {
    ClassValues { negative: -1.0, rejective: 0.0, positive: 1.0 }
}

/// A number for each class of response.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassValues {
    /// For an unsafe response.
    pub negative: f64,
    /// For a plain refusal.
    pub rejective: f64,
    /// For a safe and helpful response.
    pub positive: f64,
}

impl ClassValues {
    /// The value of a class; for an undetermined one the least, or `None`.
    pub(crate) fn of(&self, class: Option<Class>, undetermined: Undetermined) -> Option<f64> {
        match class {
            Some(Class::Negative) => Some(self.negative),
            Some(Class::Rejective) => Some(self.rejective),
            Some(Class::Positive) => Some(self.positive),
            None if undetermined == Undetermined::Skip => None,
            None => Some(self.negative.min(self.rejective).min(self.positive)),
        }
    }

    pub(crate) fn all(&self) -> [f64; 3] {
        [self.negative, self.rejective, self.positive]
    }

    pub(crate) fn check(&self) -> Result<(), CheckError> {
        match self.all().into_iter().all(f64::is_finite) {
            true => Ok(()),
            false => Err(CheckError::at("values", "`values` must be finite numbers")),
        }
    }
}

impl Term for ClassValue {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let verdicts = artifact::rows::<VerdictRow, _>(batch.context, &self.verdicts)?;
        let by_response: BTreeMap<u32, &VerdictRow> =
            verdicts.iter().map(|row| (row.response_id, row)).collect();
        let of = |response: &Completion| {
            let verdict = by_response.get(&response.id).filter(|row| row.response == response.text);
            verdict
                .map(|row| row.class.clone())
                .ok_or_else(|| batch.missing_row_error(response, "verdict", &self.verdicts.text()))
        };
        let labels = batch.completions.iter().map(of).collect::<anyhow::Result<Vec<String>>>()?;
        let classes: Vec<Option<Class>> = labels.iter().map(|label| Class::parse(label)).collect();
        Ok(Scores {
            scores: classes.iter().map(|class| self.values.of(*class, batch.undetermined)).collect(),
            undetermined: classes.iter().map(|class| u32::from(class.is_none())).collect(),
            notes: vec![("verdict", labels.into_iter().map(Some).collect())],
        })
    }

    fn scored(&self) -> &'static [CompletionKind] {
        &[CompletionKind::Response]
    }

    fn check(&self) -> Result<(), CheckError> {
        self.values.check()
    }

    fn agree(&self, data: &Input<Completions>, upstream: Upstream) -> Result<(), CheckError> {
        on_the_same(upstream, data, "verdicts", Judged::by(upstream, &self.verdicts))
    }

    fn is_constant(&self) -> bool {
        let [first, others @ ..] = self.values.all();
        others.iter().all(|value| *value == first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_value_and_what_nobody_knows_has_none_or_the_least() {
        let classes = [Some(Class::Negative), Some(Class::Rejective), Some(Class::Positive), None];
        let values = |undetermined| classes.map(|class| helpful().of(class, undetermined));
        assert_eq!(values(Undetermined::Skip), [Some(-1.0), Some(0.0), Some(1.0), None]);
        assert_eq!(values(Undetermined::Worst)[3], Some(-1.0));
    }
}
