//! What a stage kind says of itself.

use std::borrow::Cow;

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
