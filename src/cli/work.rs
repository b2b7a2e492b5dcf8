//! `triplay work`: runs one job in a process of its own. Its standard output is a protocol for the run that started it.

use std::process::ExitCode;

use anyhow::Context;

use super::args::WorkArgs;
use super::registry::registry;
use crate::engine::{End, work};
use crate::exec::{keep_unfinished, on_interrupt};
use output::eprintln;

pub(crate) fn command(args: &WorkArgs) -> anyhow::Result<ExitCode> {
    let listens = on_interrupt(|| {
        keep_unfinished().iter().for_each(|line| eprintln!("  {line}"));
        // Servers outlive this process, and would keep its adapters.
        #[cfg(feature = "models")]
        crate::stages::unload_adapters();
        std::process::exit(130);
    });
    listens.context("cannot listen for Ctrl-C")?;
    Ok(match work(&args.job, &args.cache.cache, &registry()) {
        End::Recorded | End::Found | End::Elsewhere => ExitCode::SUCCESS,
        End::InputsMissing | End::FileChanged { .. } | End::Failed { .. } => ExitCode::FAILURE,
    })
}
