//! `meaning`: R_sem of TriPlay-RL (arXiv 2601.18292, section 3): 1 where an attack keeps the meaning of its seed, else 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::batch::{Batch, What};
use super::term::{Scores, Term, Undetermined};
use super::upstream::{Judged, on_the_same};
use crate::artifact::{Completions, Meanings};
use engine::{CheckError, Input, Upstream};
use game::Meaning;

/// 1 where an attack keeps the meaning of its seed, else 0.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeaningKept {
    /// A judge's words on whether these attacks keep their seeds' meaning. By default an attack keeps it that has every
    /// word of its seed.
    #[serde(default)]
    meanings: Option<Input<Meanings>>,
}

impl Term for MeaningKept {
    fn scores(&self, batch: &Batch) -> anyhow::Result<Scores> {
        let meanings = batch.meanings(self.meanings.as_ref())?;
        let label = |meaning: &Option<Meaning>| Some(Meaning::label_of(*meaning).to_owned());
        Ok(Scores {
            scores: meanings.iter().map(|meaning| score(*meaning, batch.undetermined)).collect(),
            notes: vec![("meaning", meanings.iter().map(label).collect())],
            undetermined: meanings.iter().map(|meaning| u32::from(meaning.is_none())).collect(),
        })
    }

    fn scored(&self) -> &'static [What] {
        &[What::Attack]
    }

    fn agree(&self, data: &Input<Completions>, upstream: Upstream) -> Result<(), CheckError> {
        let meanings = self.meanings.as_ref().and_then(|meanings| Judged::meaning(upstream, meanings));
        on_the_same(upstream, data, "meanings", meanings)
    }
}

/// A meaning that is not known, or lost where the worst is assumed.
pub fn resolved(meaning: Option<Meaning>, undetermined: Undetermined) -> Option<Meaning> {
    match undetermined {
        Undetermined::Skip => meaning,
        Undetermined::Worst => meaning.or(Some(Meaning::Lost)),
    }
}

fn score(meaning: Option<Meaning>, undetermined: Undetermined) -> Option<f64> {
    resolved(meaning, undetermined).map(|meaning| f64::from(u8::from(meaning == Meaning::Kept)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_meaning_is_one_and_what_nobody_knows_is_unknown_or_lost() {
        let all = [Some(Meaning::Kept), Some(Meaning::Lost), None];
        assert_eq!(all.map(|meaning| score(meaning, Undetermined::Skip)), [Some(1.0), Some(0.0), None]);
        assert_eq!(all.map(|meaning| score(meaning, Undetermined::Worst)), [Some(1.0), Some(0.0), Some(0.0)]);
    }
}
