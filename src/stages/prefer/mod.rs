//! `prefer`: compares two completions of one prompt, by a judge or by their rewards.

mod compare;
mod earned;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::compare::ByJudge;
use self::earned::ByRewards;
use super::rollouts::Rollouts;
use data::{self, PreferenceRow};
use engine::{CheckError, Context, Kind, Output, Purpose, Stage, Upstream};

/// Compares two completions of one prompt: by a judge, which sees each pair in both orders, or by their rewards. DPO and IPO
/// learn from these preferences.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prefer {
    /// What decides which completion is better.
    by: By,
}

/// What decides which completion is better.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    /// A model that sees each pair in both orders: preferences from a pairwise judge, as in AdvGame (Paulus et al. 2025).
    Judge(Box<ByJudge>),
    /// The rewards: the best completion of a group against the worst.
    Rewards(ByRewards),
}

const PREFERENCES: Output = Output::new("preferences", "preferences");
const COMPARISONS: Output = Output::new("comparisons", "comparisons");
const METRICS: Output = Output::new("metrics", "metrics");

impl Stage for Prefer {
    const KIND: Kind = Kind {
        name: "prefer",
        version: 3,
        outputs: &[PREFERENCES, COMPARISONS, METRICS],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Judging;
    const ROLES: &'static [(&'static str, &'static str)] = &[("by.judge", "arbiter")];

    fn check(&self) -> Result<(), CheckError> {
        match &self.by {
            By::Judge(judge) => judge.check().map_err(|error| within("by.judge", error)),
            By::Rewards(rewards) => rewards.check().map_err(|error| within("by.rewards", error)),
        }
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let (at, found) = match &self.by {
            By::Judge(judge) => ("by.judge", judge.agree(upstream)),
            By::Rewards(_) => ("by.rewards", Ok(Vec::new())),
        };
        let found = found.map_err(|error| within(at, error))?;
        let unpaired_reason = self.rollouts(upstream).and_then(|rollouts| rollouts.unpaired_reason());
        let unpaired_reason = unpaired_reason.map(|message| CheckError::at("data", message));
        Ok(found.into_iter().chain(unpaired_reason).map(|warning| within(at, warning)).collect())
    }

    fn outputs(&self) -> Vec<Output> {
        match &self.by {
            By::Judge(_) => vec![PREFERENCES, COMPARISONS, METRICS],
            By::Rewards(_) => vec![PREFERENCES],
        }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let (rows, note) = match &self.by {
            By::Judge(judge) => {
                let compared = judge.compare(context)?;
                data::write(&context.output("comparisons"), &compared.comparisons)?;
                data::write(&context.output("metrics"), &compared.metrics)?;
                (compared.preferences, compared.note)
            }
            By::Rewards(rewards) => rewards.rows(context)?,
        };
        context.progress(1, 1, note);
        Ok(data::write::<PreferenceRow>(&context.output("preferences"), &rows)?)
    }
}

impl Prefer {
    /// The completions in the pairs, if a stage samples them.
    pub(super) fn rollouts<'a>(&self, upstream: Upstream<'a>) -> Option<Rollouts<'a>> {
        match &self.by {
            By::Judge(judge) => judge.rollouts(upstream),
            By::Rewards(rewards) => rewards.rollouts(upstream),
        }
    }
}

/// The same error, for a key of the map at `place`.
fn within(place: &str, error: CheckError) -> CheckError {
    let path = if error.path.is_empty() { place.to_owned() } else { format!("{place}.{}", error.path) };
    CheckError { path, ..error }
}
