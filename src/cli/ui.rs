//! `triplay ui`: the page of a run, live.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::registry::registry;
use super::report::TextArgs;
use crate::report::{Live, Page};
use crate::runs::Run;
use output::{eprintln, println};

#[derive(Args)]
pub struct UiArgs {
    /// A run's name, the beginning of it, or RUN@NAME for one ablation or seed of it [default: always the newest run]
    run: Option<String>,
    /// Listen at this port [default: any that is free]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Listen at this address; others than this machine's own can be reached by others
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    #[command(flatten)]
    texts: TextArgs,
}

pub fn command(args: &UiArgs) -> anyhow::Result<ExitCode> {
    // `latest` is the newest, also when another one begins.
    let run = args.run.clone().filter(|run| run != "latest");
    if let Some(run) = &run {
        Run::locate(run.split_once('@').map_or(run.as_str(), |(run, _)| run))?;
    }
    let is_own = args.host.eq_ignore_ascii_case("localhost")
        || args.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_own {
        eprintln!(
            "warning: {} is not this machine alone: whoever can reach it and knows the address below can read the \
             run, and on its way nothing is encrypted",
            args.host
        );
    }
    let live = Live::new(run, args.texts.texts(), registry());
    let page = Page::open(&args.host, args.port, live)?;
    crate::exec::on_interrupt(|| std::process::exit(0)).context("cannot listen for Ctrl-C")?;
    println!("{}", page.address);
    eprintln!("Ctrl-C ends it");
    page.serve()?;
    Ok(ExitCode::SUCCESS)
}
