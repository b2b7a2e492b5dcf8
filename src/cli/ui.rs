//! `triplay ui`: serves the live report of a run.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::args::RunCacheArgs;
use super::registry::registry;
use super::report::TextArgs;
use crate::report::{Live, Page};
use crate::runs::Run;
use output::{eprintln, println};

#[derive(Args)]
pub(crate) struct UiArgs {
    /// A run's name, the beginning of it, or RUN@NAME for one ablation or seed of it [default: always the newest run]
    run: Option<String>,
    /// Listen on this port [default: any free port]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Listen on this address; other machines can reach it unless it is a loopback address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    cache: RunCacheArgs,
}

pub(crate) fn command(args: &UiArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    // `latest` means the newest run at any time: the page switches when a newer one begins.
    let run = args.run.clone().filter(|run| run != "latest");
    if let Some(run) = &run {
        Run::locate(run.split_once('@').map_or(run.as_str(), |(run, _)| run))?;
    }
    let is_own = args.host.eq_ignore_ascii_case("localhost")
        || args.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_own {
        eprintln!(
            "warning: other machines may reach {}: everybody who knows the address below can read the run, and nothing is \
             encrypted",
            args.host
        );
    }
    let live = Live::new(run, args.texts.texts(), registry());
    let page = Page::open(&args.host, args.port, live)?;
    crate::exec::on_interrupt(|| std::process::exit(0)).context("cannot listen for Ctrl-C")?;
    println!("{}", page.address);
    eprintln!("Press Ctrl-C to stop");
    page.serve()?;
    Ok(ExitCode::SUCCESS)
}
