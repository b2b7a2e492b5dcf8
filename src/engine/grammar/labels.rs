//! Names that stand for several things, by label: the variants of a stage and the rounds of a loop.

use std::borrow::Cow;
use std::collections::HashMap;

use super::matrix::Combination;

/// What a name with `[*]` stands for.
#[derive(Clone, Copy)]
pub(crate) enum Several<'a> {
    Variants(&'a [Combination<'a>]),
    /// The rounds of a loop, from 1.
    Rounds(usize),
    /// The rounds of a loop that may stop before the last.
    AtMost(usize),
}

/// The variants of the stages and the rounds of the loops in a scope and those around it.
#[derive(Default)]
pub(crate) struct Labels<'a> {
    pub around: Option<&'a Labels<'a>>,
    /// `None` for a name that stands for one thing.
    pub names: HashMap<&'a str, Option<Several<'a>>>,
}

impl Labels<'_> {
    /// The variants or rounds of a name.
    pub(crate) fn of(&self, name: &str) -> Option<Several<'_>> {
        let mut scope = Some(self);
        std::iter::from_fn(|| {
            let here = scope?;
            scope = here.around;
            Some(here)
        })
        .find_map(|scope| scope.names.get(name))
        .copied()
        .flatten()
    }
}

/// Variants and rounds by the labels that references name them by.
impl Several<'_> {
    pub(crate) fn labels(&self) -> Box<dyn Iterator<Item = Cow<'_, str>> + '_> {
        match self {
            Several::Variants(all) => Box::new(all.iter().map(|one| Cow::Borrowed(one.label.as_str()))),
            Several::Rounds(repeat) | Several::AtMost(repeat) => {
                let width = repeat.to_string().len();
                Box::new((1..=*repeat).map(move |round| Cow::Owned(format!("{round:0width$}"))))
            }
        }
    }
}
