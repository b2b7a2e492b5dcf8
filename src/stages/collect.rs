//! `collect`: keeps pairs of attack and response for the evaluator to learn from.

use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Pairs, Responses};
use super::generate::Generate;
use super::respond::Respond;
use super::turns;
use data::{self, PairRow, ResponseRow};
use engine::{CheckError, Context, Input, Kind, Output, Stage, Upstream};

/// Keeps pairs of attack and response for the evaluator to learn from.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collect {
    /// The responses to take pairs from.
    data: Input<Responses>,
    /// The pairs collected so far.
    into: Input<Pairs>,
    /// How many responses to take, drawn at random; all by default.
    #[serde(default)]
    take: Option<usize>,
    /// The largest number of pairs; the oldest leave first.
    #[serde(default = "default_capacity")]
    capacity: usize,
}

fn default_capacity() -> usize {
    2000
}

impl Stage for Collect {
    const KIND: Kind = Kind {
        name: "collect",
        version: 1,
        outputs: &[Output::new("pairs", "pairs")],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    fn check(&self) -> Result<(), CheckError> {
        if self.capacity == 0 { Err("`capacity` must be at least 1, found 0".into()) } else { Ok(()) }
    }

    fn agree(&self, upstream: Upstream) -> Result<Vec<CheckError>, CheckError> {
        let Some(responses) = upstream.stage::<Respond, _>(&self.data) else { return Ok(Vec::new()) };
        let attacks = responses.stage.attacks_inputs();
        let mut attacks = attacks.filter_map(|attacks| responses.upstream().stage::<Generate, _>(attacks));
        match attacks.find(|attacks| attacks.stage.has_turns()) {
            None => Ok(Vec::new()),
            Some(attacks) => {
                let (name, place) = (self.data.text(), attacks.place("continue"));
                let message = format!(
                    "`data` must be responses to first turns, since this stage would lose their conversation; found `{name}`: see {place}"
                );
                Err(CheckError::at("data", message))
            }
        }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let responses = artifact::rows::<ResponseRow, _>(context, &self.data)?;
        turns::none(&self.data.text(), responses.iter().map(|row| (row.response_id, &row.turns)))?;
        let mut pairs = artifact::rows::<PairRow, _>(context, &self.into)?.to_vec();
        let mut order: Vec<usize> = (0..responses.len()).collect();
        order.shuffle(&mut context.seed().stream("collect"));
        order.truncate(self.take.unwrap_or(responses.len()));
        order.sort_unstable();
        pairs.extend(order.into_iter().map(|index| {
            let row = &responses[index];
            PairRow {
                origin: row.origin.clone(),
                answer: row.answer.clone(),
                attack: row.attack.clone(),
                response: row.text.clone(),
                defender: row.defender.clone(),
                class: None,
                at: row.at.clone(),
            }
        }));
        pairs.drain(..pairs.len().saturating_sub(self.capacity));
        context.progress(1, 1, format!("{} pairs", pairs.len()));
        Ok(data::write(&context.output("pairs"), &pairs)?)
    }
}
