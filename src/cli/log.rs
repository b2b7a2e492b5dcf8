//! `triplay runs log`: what the command of a node printed, also while it runs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use super::args::RunsLogArgs;
use crate::engine;
use crate::runs::{Events, Run, bare_rounds, hint_for_node, recorded_at};
use crate::store::read;

/// The interval between two looks at a log that grows.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn command(args: &RunsLogArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let Some((name, node)) = args.target.split_once(':') else {
        bail!("the log to print must be RUN:NODE, such as latest:train, found `{}`", args.target)
    };
    let run = Run::find(name)?;
    let printed = match run.node(node) {
        Some(known) => print_output(&run, &known.node),
        None => Follower::of(&run, name, node).print(args.follow),
    };
    output::allow_broken_pipe(printed)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the log of a finished node.
fn print_output(run: &Run, node: &str) -> anyhow::Result<()> {
    let (output, path) = run
        .output(&format!("{node}.log"))
        .with_context(|| format!("`{node}` must be a command (kind exec), which alone has a log"))?;
    let found = recorded_at(path, &output.digest).with_context(|| format!("the log of `{node}`"))?;
    let Some(path) = found else { bail!("the log of `{node}` is no longer in the cache") };
    let mut out = output::stdout();
    io::copy(&mut read::open(&path)?, &mut out)?;
    Ok(out.flush()?)
}

/// Prints the log of a node that is not finished.
struct Follower<'a> {
    run: &'a Run,
    /// The run as it was named.
    name: &'a str,
    node: &'a str,
    events: Events,
    /// What is printed at present: an attempt's log.
    log: Option<File>,
}

impl Follower<'_> {
    fn of<'a>(run: &'a Run, name: &'a str, node: &'a str) -> Follower<'a> {
        Follower { run, name, node, events: Events::of(&run.folder), log: None }
    }

    fn print(&mut self, follow: bool) -> anyhow::Result<()> {
        loop {
            // In this order: what it printed last is there once it has ended.
            let ended = !follow || self.has_ended()?;
            self.print_more()?;
            if ended {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        if self.log.is_some() {
            return Ok(());
        }
        // It may have begun and ended between two looks.
        let now = Run::find(self.name)?;
        if let Some(done) = now.node(self.node) {
            return print_output(&now, &done.node);
        }
        let (run, node) = (&self.run.record.run, self.node);
        let known = now.nodes.iter().map(|node| node.node.as_str());
        let known: Vec<&str> = known.chain(self.events.at_work.keys().map(String::as_str)).collect();
        if let Some(hint) = hint_for_node(node, &known).filter(|_| self.whole_name().is_none()) {
            bail!("run {run} has no log of `{node}`; {hint}")
        }
        let at_work: Vec<&str> = self.events.at_work.keys().map(String::as_str).collect();
        match at_work[..] {
            _ if self.whole_name().is_some() => {
                bail!("run {run} has no log of `{node}`: it has printed nothing yet, or is no command")
            }
            [] => bail!("run {run} has no log of `{node}`: it has not started"),
            _ => {
                bail!("run {run} has no log of `{node}`: it has not started; at work: {}", at_work.join(", "))
            }
        }
    }

    /// The node's whole name, if it has started and is not done.
    fn whole_name(&self) -> Option<String> {
        let mut names = self.events.at_work.keys().chain(self.events.failed.keys());
        names.find(|name| self.is_meant(name)).cloned()
    }

    /// Whether this is the whole name of the node.
    fn is_meant(&self, name: &str) -> bool {
        // The nodes of several seeds of an ablation are named `s1/…`, and `full-s1/…` as a whole.
        let own = match &self.run.ablation {
            None => Some(name),
            Some(ablation) => {
                name.strip_prefix(ablation.as_str()).and_then(|rest| rest.strip_prefix(['/', '-']))
            }
        };
        own.is_some_and(|own| bare_rounds(own) == bare_rounds(self.node))
    }

    fn has_ended(&mut self) -> anyhow::Result<bool> {
        if Run::read_record(&self.run.folder)?.status != "running" {
            return Ok(true);
        }
        self.events.refresh();
        let name = self.whole_name();
        if name.as_ref().is_some_and(|name| self.events.at_work.contains_key(name)) {
            return Ok(false);
        }
        // Between two attempts it is neither at work nor ended.
        let (nodes, _) = Run::read_nodes(&self.run.folder)?;
        let is_done = nodes.iter().any(|node| self.is_meant(&node.node));
        Ok(is_done || name.is_some_and(|name| self.events.failed.contains_key(&name)))
    }

    /// Prints what is new.
    fn print_more(&mut self) -> anyhow::Result<()> {
        let record = &self.run.record;
        let path = self
            .whole_name()
            .map(|name| engine::failed_folder(&record.cache, &record.root, &name).join("log"));
        let mut out = output::stdout();
        if let Some(log) = &mut self.log {
            io::copy(log, &mut out)?;
        }
        if let Some(next) = path.filter(|path| self.is_other(path)) {
            let mut next = read::open(&next).with_context(|| format!("cannot read {}", next.display()))?;
            io::copy(&mut next, &mut out)?;
            self.log = Some(next);
        }
        Ok(out.flush()?)
    }

    /// Whether there is a log that is not the present one: that of the first or the next attempt.
    fn is_other(&self, path: &PathBuf) -> bool {
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let present = self.log.as_ref().and_then(|log| log.metadata().ok()).map(inode);
        fs::metadata(path).ok().map(inode).is_some_and(|there| Some(there) != present)
    }
}
