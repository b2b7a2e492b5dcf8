//! What a stage kind says of itself.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A stage kind's static description.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// What `kind:` says in a pipeline.
    pub name: &'static str,
    /// Raised whenever the code changes what the stage makes from the same parameters and inputs.
    pub version: u32,
    /// The first output is the one that a bare stage name refers to. Empty where they depend on the parameters.
    pub outputs: &'static [Output],
    /// Whether results depend on the device and number type that models are computed with.
    pub numerics: bool,
    /// Whether it draws, or says in what it makes in which round of the loops around it that was made: its seed and its
    /// position count. What does not draw and has the same inputs in every round is computed once.
    pub draws: bool,
    /// Parameters that do not count: they change how the work is done, and not what comes of it.
    pub uncounted: &'static [&'static str],
}

/// An output that a kind declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub name: Cow<'static, str>,
    /// The type of artifact: an input takes it if its [`super::ArtifactType::ACCEPTS`] names it.
    pub artifact: Cow<'static, str>,
    /// Large and cheap to make again: dropped inside loops once its successor is recorded.
    pub bulky: bool,
    /// Tells how the work went and is no result: it may come out different, and nobody misses it.
    pub incidental: bool,
}

impl Output {
    pub const fn new(name: &'static str, artifact: &'static str) -> Output {
        Output {
            name: Cow::Borrowed(name),
            artifact: Cow::Borrowed(artifact),
            bulky: false,
            incidental: false,
        }
    }

    pub const fn bulky(name: &'static str, artifact: &'static str) -> Output {
        Output {
            name: Cow::Borrowed(name),
            artifact: Cow::Borrowed(artifact),
            bulky: true,
            incidental: false,
        }
    }

    pub const fn incidental(name: &'static str, artifact: &'static str) -> Output {
        Output {
            name: Cow::Borrowed(name),
            artifact: Cow::Borrowed(artifact),
            bulky: false,
            incidental: true,
        }
    }
}

/// What nodes of a kind are there for. Who looks at a run asks for this instead of for names of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Makes what everything begins with: worlds, vocabularies, empty datasets. Its rows are nobody's answers.
    Data,
    /// A step of the game, or a program of the user's: samples, keeps, draws again, rewards.
    #[default]
    Play,
    /// Says of completions what they are.
    Judging,
    /// Trains a model; its metrics are those of a step.
    Training,
    /// Measures models.
    Evaluation,
    /// Measures every pair of models: many evaluations in one.
    CrossPlay,
}

/// What an input or parameter of a kind is to what comes of it, for who compares two nodes. One that says nothing
/// decides how answers are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What is compared, or has no influence.
    Subject,
    /// The same, and some metrics are its own word.
    OwnJudge,
    /// Who or what says what is true.
    Judge,
    /// What is asked.
    Prompts,
    /// What verdicts are held against.
    Labels,
    /// A dataset that other nodes made: what counts is what that was made of.
    Source,
    /// An instrument of a few metrics, which may be another one: those are then not comparable.
    Instrument,
}

/// What a kind says of itself to who looks at a run later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindFacts {
    pub purpose: Purpose,
    /// By the path of the parameter, in which `*` stands for any key.
    #[serde(default)]
    pub parts: BTreeMap<String, Part>,
}

impl KindFacts {
    /// What the parameter at a path is: by the longest path that leads to it.
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
