//! The description of a stage kind.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A stage kind's static description.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The value of `kind:` in a pipeline.
    pub name: &'static str,
    /// Raised whenever the stage produces different outputs from the same parameters and inputs.
    pub version: u32,
    /// A bare stage name refers to the first output. Empty if they depend on the parameters.
    pub outputs: &'static [Output],
    /// Whether results depend on the device and number type that models are computed with.
    pub numerics: bool,
    /// Whether it draws, or writes the round of the loops around it to its outputs: then its seed and its position count for
    /// the key. A stage that does not draw and has the same inputs in every round is computed once.
    pub draws: bool,
    /// Parameters that do not count for the key: they change how the work is done, not its result.
    pub excluded_from_key: &'static [&'static str],
}

/// An output that a kind declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The name by which inputs refer to it: `stage.name`.
    pub name: Cow<'static, str>,
    /// The type of artifact: an input takes it if its [`super::ArtifactType::ACCEPTS`] names it.
    pub artifact: Cow<'static, str>,
    /// Large and cheap to make again: evicted inside loops once its successor is recorded.
    pub evictable: bool,
    /// Describes the work, as a log does, and is not a result: it may differ between executions, and may be missing.
    pub incidental: bool,
    /// The path at which a command writes it, in its folder, if that is not the name.
    pub file: Option<String>,
}

impl Output {
    /// Declares an output that is kept and counts as a result.
    pub const fn new(name: &'static str, artifact: &'static str) -> Output {
        Output {
            name: Cow::Borrowed(name),
            artifact: Cow::Borrowed(artifact),
            evictable: false,
            incidental: false,
            file: None,
        }
    }

    /// Declares an output that is evicted inside loops once its successor is recorded.
    pub const fn evictable(name: &'static str, artifact: &'static str) -> Output {
        Output {
            name: Cow::Borrowed(name),
            artifact: Cow::Borrowed(artifact),
            evictable: true,
            incidental: false,
            file: None,
        }
    }

    /// Declares an output that describes the work, such as a log, and may differ between executions.
    pub const fn incidental(name: &'static str, artifact: &'static str) -> Output {
        Output {
            name: Cow::Borrowed(name),
            artifact: Cow::Borrowed(artifact),
            evictable: false,
            incidental: true,
            file: None,
        }
    }
}

/// The purpose of a kind's nodes. Readers of a run use it instead of names of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Makes initial data: worlds, vocabularies, empty datasets. Its rows are not answers of a model.
    Data,
    /// A step of the game, or a program of the user's: samples, collects, replays, rewards.
    #[default]
    Play,
    /// Labels completions.
    Judging,
    /// Trains a model; its metrics are those of a step.
    Training,
    /// Measures models.
    Evaluation,
    /// Measures every pair of models: many evaluations in one.
    CrossPlay,
}

/// The part that an input or parameter of a kind has in its results, for comparisons of two nodes. One without a part
/// determines how answers are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The subject of a comparison, or something without influence.
    Subject,
    /// A subject that gives some of the metrics itself.
    OwnJudge,
    /// The judge or the ground truth.
    Judge,
    /// The prompts.
    Prompts,
    /// The labels that verdicts are compared with.
    Labels,
    /// A dataset that other nodes made: comparisons look at what it was made of.
    Source,
    /// An instrument of a few metrics. If it differs, only those metrics are not comparable.
    Instrument,
}

/// What a kind tells readers of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindFacts {
    /// What nodes of the kind are for.
    pub purpose: Purpose,
    /// By the path of the parameter, in which `*` stands for any key.
    #[serde(default)]
    pub parts: BTreeMap<String, Part>,
}

impl KindFacts {
    /// The part of the parameter at a path, by the longest path that leads to it.
    pub fn part(&self, path: &str) -> Option<Part> {
        let leads = |known: &str| {
            let mut steps = path.split('.');
            known.split('.').all(|own| steps.next().is_some_and(|step| own == "*" || own == step))
        };
        let found = self.parts.iter().filter(|(known, _)| leads(known));
        found.max_by_key(|(known, _)| known.split('.').count()).map(|(_, part)| *part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_says_what_a_parameter_is() {
        let parts =
            [("labelled", Part::Subject), ("labelled.*.labels", Part::Labels), ("data", Part::Source)];
        let parts = parts.map(|(path, part)| (path.to_owned(), part)).into();
        let facts = KindFacts { purpose: Purpose::Evaluation, parts };
        assert_eq!(facts.part("labelled.heldout.labels"), Some(Part::Labels));
        assert_eq!(facts.part("labelled.heldout.verdicts"), Some(Part::Subject));
        assert_eq!(facts.part("labelled"), Some(Part::Subject));
        assert_eq!((facts.part("data.0"), facts.part("sampling.temperature")), (Some(Part::Source), None));
    }
}
