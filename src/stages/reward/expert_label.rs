//! `expert_label`: the evaluator's reward of TriPlay-RL (arXiv 2601.18292, section 3): 1 for the label by the experts' vote,
//! otherwise 0. A verdict that cannot be read gets 0, since the right label is known. If the experts' label is undetermined, so
//! is the score.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Completion, CompletionKind};
use super::term::{Scores, Term};
use crate::artifact::{self, Completions, Labels};
use crate::judge::Judge;
use data::LabelRow;
use engine::{CheckError, Input, Upstream};
use game::Class;

/// 1 for the label of the experts, otherwise 0.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpertLabel {
    /// The experts' labels of the pairs that were judged.
    labels: Input<Labels>,
    /// Which classes count as different.
    #[serde(default)]
    classes: Classes,
}

/// The classes that an evaluator learns to distinguish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Classes {
    /// Negative, rejective, positive.
    #[default]
    Three,
    /// Unsafe and safe: a refusal counts as much as a helpful response.
    Two,
}

impl Term for ExpertLabel {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let labels = artifact::rows::<LabelRow, _>(batch.context, &self.labels)?;
        let of = |verdict: &Completion| {
            let is_of = |label: &&LabelRow| {
                (label.attack.as_str(), label.text.as_str()) == (verdict.attack, verdict.response)
            };
            labels
                .get(verdict.group as usize)
                .filter(is_of)
                .ok_or_else(|| batch.missing_row_error(verdict, "label", &self.labels.text()))
        };
        let labels = batch.completions.iter().map(of).collect::<anyhow::Result<Vec<&LabelRow>>>()?;
        let said = batch.completions.iter().map(|verdict| verdict.class.map(str::to_owned));
        let classes: Vec<Option<Class>> =
            batch.completions.iter().map(|verdict| verdict.class.and_then(Class::parse)).collect();
        let score = |(class, label): (&Option<Class>, &&LabelRow)| {
            Some(score(*class, Class::parse(&label.class)?, self.classes))
        };
        Ok(Scores {
            scores: classes.iter().zip(&labels).map(score).collect(),
            undetermined: classes.iter().map(|class| u32::from(class.is_none())).collect(),
            notes: vec![
                ("verdict", said.collect()),
                ("label", labels.iter().map(|label| Some(label.class.clone())).collect()),
            ],
        })
    }

    fn scored(&self) -> &'static [CompletionKind] {
        &[CompletionKind::Verdict]
    }

    fn agree(&self, data: &Input<Completions>, upstream: Upstream) -> Result<(), CheckError> {
        let Some(judge) = upstream.stage::<Judge, _>(data) else { return Ok(()) };
        match upstream.is_same(&self.labels, judge.upstream(), &judge.stage.data) {
            Some(false) => {
                let (judged, place) = (judge.stage.data.text(), judge.place("data"));
                let message = format!(
                    "`labels` must be the pairs that were judged, `{judged}`, found `{}`: see {place}",
                    self.labels.text()
                );
                Err(CheckError::at("labels", message))
            }
            _ => Ok(()),
        }
    }
}

fn score(class: Option<Class>, label: Class, classes: Classes) -> f64 {
    let right = class.is_some_and(|class| match classes {
        Classes::Three => class == label,
        Classes::Two => (class == Class::Negative) == (label == Class::Negative),
    });
    f64::from(u8::from(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_experts_label_earns_one_or_its_side_where_only_sides_count() {
        let score = |class, classes| score(class, Class::Positive, classes);
        assert_eq!(score(Some(Class::Positive), Classes::Three), 1.0);
        assert_eq!(score(Some(Class::Rejective), Classes::Three), 0.0);
        assert_eq!(score(Some(Class::Rejective), Classes::Two), 1.0);
        assert_eq!(score(Some(Class::Negative), Classes::Two), 0.0);
        assert_eq!(score(None, Classes::Two), 0.0);
    }
}
