//! `empty`: makes the empty datasets that a loop begins with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use data::{self, PairRow, PoolRow};
use engine::{Context, Kind, Output, Purpose, Stage};

/// Makes an empty pool of attacks and an empty collection of pairs, for a loop to begin with.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

impl Stage for Empty {
    const KIND: Kind = Kind {
        name: "empty",
        version: 1,
        outputs: &[Output::new("pool", "pool"), Output::new("pairs", "pairs")],
        numerics: false,
        draws: false,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Data;

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        data::write::<PoolRow>(&context.output("pool"), &[])?;
        Ok(data::write::<PairRow>(&context.output("pairs"), &[])?)
    }
}
