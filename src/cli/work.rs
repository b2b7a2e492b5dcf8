//! `triplay work`: runs one job in a process of its own. Its standard output is a protocol for the run that started it.

use std::process::ExitCode;

use super::args::WorkArgs;
use super::registry::registry;
use crate::engine::{End, work};

pub(crate) fn command(args: &WorkArgs) -> anyhow::Result<ExitCode> {
    Ok(match work(&args.job, &args.cache.cache, &registry()) {
        End::Recorded | End::Found | End::Elsewhere => ExitCode::SUCCESS,
        End::InputsMissing | End::Failed { .. } => ExitCode::FAILURE,
    })
}
