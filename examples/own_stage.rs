//! A separate program with all of triplay's commands and an additional stage kind. `docs/guides/add-a-stage-kind.md` adds such a kind to
//! triplay itself.
//!
//! ```sh
//! cargo run --release --example own_stage -- pipeline kinds deduplicate
//! cargo run --release --example own_stage -- pipeline schema
//! ```

use std::collections::HashSet;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use triplay::data::{self, AttackRow};
use triplay::engine::{ArtifactType, Context, Input, Kind, Output, Part, Registry, Stage};

/// Inputs of this type take datasets of attacks.
struct Attacks;

impl ArtifactType for Attacks {
    const ACCEPTS: &'static [&'static str] = &["attacks"];
}

/// Keeps the first of the attacks that have the same text.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Deduplicate {
    /// The attacks.
    data: Input<Attacks>,
}

impl Stage for Deduplicate {
    const KIND: Kind = Kind {
        name: "deduplicate",
        version: 1,
        outputs: &[Output::new("attacks", "attacks")],
        numerics: false,
        draws: false,
        excluded_from_key: &[],
    };

    const PARTS: &'static [(&'static str, Part)] = &[("data", Part::Source)];

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let attacks: Vec<AttackRow> = data::read(&context.input(&self.data)?.path)?;
        let all = attacks.len();
        let mut seen = HashSet::new();
        let kept: Vec<AttackRow> = attacks.into_iter().filter(|row| seen.insert(row.text.clone())).collect();
        context.progress(1, 1, format!("{} of {all} attacks kept", kept.len()));
        Ok(data::write(&context.output("attacks"), &kept)?)
    }
}

/// The stage kinds of triplay, and this one.
fn registry() -> Registry {
    triplay::stages::registry().with::<Deduplicate>()
}

fn main() -> ExitCode {
    triplay::cli::main_with(registry)
}
