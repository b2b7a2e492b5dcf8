//! A report of runs: all data that the page draws.

use std::borrow::Cow;

use super::book::{MetricIndex, Rates};
use super::graph::{self, Plan};
use super::headline::headline;
use super::made_of::Provenance;
use super::matrices;
use super::model::{Matrix, Report, RunInfo, Samples};
use super::panels::panels;
use super::samples::SampleBuilder;
use super::source::{Source, VERIFY};
use analysis::compare::rate_intervals;
use anyhow::Context;
use engine::{NodeReport, Registry};
use runs::{Events, Tables, shown, variant};

/// The treatment of texts of prompts and models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// Shown if all of them come from the sandbox's made-up world, otherwise left out.
    BySandbox,
    /// Shown, wherever they come from.
    Shown,
    /// Left out, wherever they come from.
    LeftOut,
}

impl Texts {
    fn are_left_out(self, sources: &[Source]) -> bool {
        match self {
            Texts::BySandbox => !sources.iter().all(Source::is_sandbox),
            Texts::Shown => false,
            Texts::LeftOut => true,
        }
    }
}

/// The samples of runs, the matrices computed from them, and notices.
#[derive(Default)]
pub struct Gathered {
    /// Attacks and responses.
    pub samples: Samples,
    /// Confusion matrices, cross-play and coverage maps.
    pub matrices: Vec<Matrix>,
    /// The rates that were counted from these rows.
    pub rates: Rates,
    /// What was left out or could not be read, for the reader.
    pub notices: Vec<String>,
}

/// Joins the samples of all runs.
pub fn samples(sources: &[Source], texts: Texts) -> anyhow::Result<Gathered> {
    let folders: Vec<_> = sources.iter().map(|source| source.run.folder.clone()).collect();
    let mut gathering = SampleBuilder::new(texts.are_left_out(sources), sources.len() > 1);
    let (mut notices, mut rates) = (Vec::new(), Rates::new());
    for (source, tables) in sources.iter().zip(Tables::of_all(&folders)) {
        if source.store.is_none() && tables.is_err() {
            let cache = shown(&source.record().cache);
            notices.push(format!("{}: its cache {cache} is gone, and so are its samples", source.title()));
            continue;
        }
        let tables =
            tables.map_err(|error| error.context(format!("samples of {}; {VERIFY}", source.title())))?;
        if tables.missing > 0 {
            notices.push(format!(
                "{}: {} datasets are no longer in the cache, and their rows are left out",
                source.title(),
                tables.missing
            ));
        }
        gathering.add(source, &tables)?;
        rates.extend(rates_of(source, &tables)?);
    }
    let (samples, matrices) = gathering.finish();
    Ok(Gathered { samples, matrices, rates, notices })
}

/// The intervals of rates, from the outcomes of single prompts.
fn rates_of(source: &Source, tables: &Tables) -> anyhow::Result<Rates> {
    let kept = |node: &&NodeReport| node.outputs.iter().any(|output| output.artifact == "outcomes");
    let nodes: Vec<&str> = source.run.nodes.iter().filter(kept).map(|node| node.node.as_str()).collect();
    let evaluations: Vec<(&str, &str)> = nodes
        .iter()
        .map(|name| {
            let (.., node) = variant(name);
            (name.strip_suffix(node).unwrap_or_default().trim_end_matches('/'), node)
        })
        .collect();
    let found = rate_intervals(&tables.path("outcomes"), &evaluations)
        .with_context(|| format!("outcomes of {}; {VERIFY}", source.title()))?;
    let named = |node: &str| (source.run.folder.clone(), node.to_owned());
    Ok(nodes.into_iter().map(named).zip(found).collect())
}

/// A report on runs. `gathered` has their samples as far as they have been joined.
pub fn report(sources: &[Source], texts: Texts, registry: &Registry, gathered: &Gathered) -> Report {
    let redacted = texts.are_left_out(sources);
    let book = MetricIndex::new(sources, &gathered.rates);
    let mut notices = about_texts(texts, redacted, sources);
    let (mut runs, mut graphs, mut checkpoints) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        let plan = Plan::read(source, registry);
        let left_out = left_out(source);
        if let (Err(error), true) = (&plan, left_out.is_empty()) {
            let first = format!("{error:#}");
            let first = first.lines().next().unwrap_or_default();
            notices.push(format!(
                "{}: this version of triplay cannot read its pipeline, so the picture shows only the stages of \
                 its nodes: {first}",
                source.title()
            ));
        }
        let plan = plan.ok();
        notices.extend(left_out);
        notices.extend(notices_of(source, redacted));
        graphs.push(graph::graph(source, plan.as_ref()));
        checkpoints.extend(Provenance::new(source).checkpoints());
        runs.push(run_info(source, plan.as_ref()));
    }
    notices.extend(gathered.notices.iter().cloned());
    if book.left_out > 0 {
        let left_out = book.left_out;
        notices.push(format!("{left_out} more combinations of matrices are in `triplay results table`."));
    }
    let mut all_matrices = matrices::matrices(&book, sources);
    all_matrices.extend(gathered.matrices.iter().cloned());
    all_matrices.extend(matrices::by_category(&book));
    let log = sources.iter().filter(|source| source.is_running());
    let log = log.flat_map(|source| log_lines(&source.events, redacted)).collect();
    Report {
        title: title(sources),
        triplay: env!("CARGO_PKG_VERSION").into(),
        made: now(),
        redacted,
        notices,
        runs,
        graphs,
        headline: headline(&book),
        panels: panels(&book),
        matrices: all_matrices,
        checkpoints,
        log,
    }
}

/// The report before the first run.
pub(crate) fn nothing_yet() -> Report {
    Report {
        title: "triplay".into(),
        triplay: env!("CARGO_PKG_VERSION").into(),
        made: now(),
        notices: vec![
            "There are no runs here yet: `triplay pipeline run FILE` makes one, which then appears here."
                .into(),
        ],
        ..Report::default()
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn title(sources: &[Source]) -> String {
    match sources {
        [source] => format!("{} {}", source.record().pipeline, source.title()),
        _ => {
            let mut pipelines: Vec<&str> =
                sources.iter().map(|source| source.record().pipeline.as_str()).collect();
            pipelines.dedup();
            format!("{}, {} runs", pipelines.join(" and "), sources.len())
        }
    }
}

/// States whether texts are shown, and why.
fn about_texts(texts: Texts, redacted: bool, sources: &[Source]) -> Vec<String> {
    let harmful = !sources.iter().all(Source::is_sandbox);
    match (texts, redacted) {
        (Texts::BySandbox, true) => vec![
            "Texts of prompts and models are left out, since not all are known to be of the sandbox's made-up world; \
             --reveal shows them."
                .into(),
        ],
        (Texts::LeftOut, _) => {
            vec!["Texts of prompts and models are left out, as --redact asked for.".into()]
        }
        (Texts::Shown, _) if harmful => {
            vec![
                "Texts of prompts and models are shown, as --reveal asked for: handle this page with care."
                    .into(),
            ]
        }
        _ => Vec::new(),
    }
}

/// Notices about files of a run's pipeline that differ from the recorded ones.
fn left_out(source: &Source) -> Vec<String> {
    let why = |name| {
        let error = source.run.recorded_text(name).err()?;
        Some(format!("{}: its {name} is left out: {error:#}.", source.title()))
    };
    ["pipeline.yaml", "extends.yaml"].into_iter().filter_map(why).collect()
}

/// Notices about a run for the reader.
fn notices_of(source: &Source, redacted: bool) -> Vec<String> {
    let (record, title) = (source.record(), source.title());
    let done = source.run.nodes.len();
    let mut notices = Vec::new();
    if !record.targets.is_empty() {
        let targets = record.targets.join(", ");
        notices
            .push(format!("{title} was asked for {targets}: stages that this does not need are left out."));
    }
    let of = match source.only {
        None => format!("{done} of {} nodes are done", record.nodes),
        Some(_) => format!("{done} of its nodes are done"),
    };
    match record.status.as_str() {
        "done" => {}
        "running" => notices.push(format!("{title} is running: {of}.")),
        "killed" => notices.push(format!(
            "{title} is half-finished: {of}, then it was killed, or its machine stopped. The command that \
             started it continues where it stopped."
        )),
        "interrupted" => notices.push(format!(
            "{title} is half-finished: {of}, then it was interrupted. The command that started it continues where it stopped."
        )),
        "failed" => notices.push(format!("{title} failed: {of}.")),
        other => notices.push(format!("{title} is {other}: {of}.")),
    }
    for (node, why) in source.events.failed.iter().filter(|(node, _)| source.has(node)) {
        // The error of a failed command may contain texts.
        let why =
            why.as_deref().map(|why| if redacted { why.lines().next().unwrap_or_default() } else { why });
        notices.push(match why {
            Some(why) => format!("{node} failed: {why}"),
            None => format!("{node} failed."),
        });
    }
    if !source.is_running() && record.status != "done" {
        let stopped: Vec<&str> =
            source.events.at_work.keys().filter(|node| source.has(node)).map(String::as_str).collect();
        if !stopped.is_empty() {
            notices.push(format!("{title} was at work on {} when it ended.", stopped.join(", ")));
        }
    }
    notices.extend(matrices::halted(source));
    if source.run.damaged > 0 {
        notices.push(format!("{title}: {} damaged lines of nodes.jsonl are left out.", source.run.damaged));
    }
    if source.missing > 0 {
        notices.push(format!(
            "{title}: the metrics of {} nodes are no longer in the cache; run the pipeline again to compute them.",
            source.missing
        ));
    }
    if !source.has_outcomes() {
        notices.push(format!(
            "{title} is from an older version of triplay, whose evaluations did not keep the outcome of each prompt: \
             samples have no truth, and benchmarks no prompts."
        ));
    }
    notices
}

fn run_info(source: &Source, plan: Option<&Plan>) -> RunInfo {
    let record = source.record();
    let cached = source.run.nodes.iter().filter(|node| node.cached).count();
    let nodes = match (&source.only, plan) {
        (None, _) => record.nodes,
        (Some(_), Some(plan)) => plan.nodes(),
        (Some(_), None) => source.run.nodes.len(),
    };
    let done = source.run.nodes.len();
    let failed = source.events.failed.keys().filter(|node| source.has(node)).count();
    let failed = if source.only.is_none() { failed.max(record.failed) } else { failed };
    let machine = &record.machine;
    // Files that differ from the recorded ones are left out, with a notice.
    let recorded = |name: &str| source.run.recorded_text(name).ok().flatten();
    let pipeline = recorded("pipeline.yaml").unwrap_or_default();
    RunInfo {
        run: source.title(),
        pipeline: record.pipeline.clone(),
        file: shown(&record.file),
        status: record.status.clone(),
        began: record.began.clone(),
        seconds: record.seconds,
        nodes,
        ran: done - cached,
        cached,
        failed,
        skipped: if source.is_running() { 0 } else { nodes.saturating_sub(done + failed) },
        triplay: record.triplay.clone(),
        // Without the host's name: reports are for other people too.
        machine: vec![
            ("system".into(), machine.system.clone()),
            ("processor".into(), machine.processor.clone()),
            ("cores".into(), machine.cores.to_string()),
            ("memory".into(), bytesize::ByteSize(machine.memory).to_string()),
        ],
        variants: record
            .params
            .iter()
            .map(|(variant, params)| {
                let text = |(name, typed): (&str, Cow<str>)| {
                    let text = params[name].as_str().map_or_else(|| typed.into_owned(), str::to_owned);
                    (name.to_owned(), text)
                };
                (variant.clone(), record.typed_params(variant).map(text).collect())
            })
            .collect(),
        pipeline_yaml: match recorded("extends.yaml") {
            Some(extended) => format!("{pipeline}\n# ---- the file that it extends ----\n\n{extended}"),
            None => pipeline,
        },
        reproduce: reproduce(source, plan),
    }
}

/// The commands that run it again, after the required preparations.
fn reproduce(source: &Source, plan: Option<&Plan>) -> Vec<String> {
    let record = source.record();
    let mut lines = vec![format!("# triplay {}, on {}", record.triplay, record.machine.system)];
    for file in plan.iter().flat_map(|plan| &plan.files) {
        lines.push(format!("# needs {}", shown(file)));
    }
    let mut command = format!("triplay pipeline run {}", quoted(&shown(&record.file)));
    for setting in &record.settings {
        command += &format!(" --set {}", quoted(setting));
    }
    let names: Vec<String> = record.params.keys().map(|name| format!("{name}/")).collect();
    let (mut ablations, mut seeds): (Vec<&str>, Vec<Option<u64>>) = (Vec::new(), Vec::new());
    for (ablation, seed, _) in names.iter().map(|name| variant(name.trim_start_matches('/'))) {
        if !ablation.is_empty() && !ablations.contains(&ablation) {
            ablations.push(ablation);
        }
        if !seeds.contains(&seed) {
            seeds.push(seed);
        }
    }
    for ablation in ablations {
        command += &format!(" --ablation {}", quoted(ablation));
    }
    // If some variants have no seed of their own, the file has the seeds.
    let seeds: Option<Vec<String>> = seeds.iter().map(|seed| seed.map(|seed| seed.to_string())).collect();
    if let Some(mut seeds) = seeds {
        seeds.sort_by_key(|seed| seed.parse::<u64>().unwrap_or(0));
        command += &format!(" --seeds {}", seeds.join(","));
    }
    lines.push(command);
    lines.push("triplay report latest".into());
    lines
}

/// A word of a command line, quoted for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_=./,:@%+~".contains(char);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The newest lines of a run under way, and the progress of nodes at work. The output of commands may contain texts: if those are
/// left out, a message is cut to its first line, and `exec` has no note.
fn log_lines(events: &Events, redacted: bool) -> Vec<String> {
    let at_work = events.at_work.iter().map(|(node, at_work)| {
        let note = if redacted && at_work.kind == "exec" { "" } else { &at_work.note };
        format!("at work   {node}  {note}")
    });
    let line = |line: &String| match redacted {
        true => line.lines().next().unwrap_or_default().to_owned(),
        false => line.clone(),
    };
    events.lines.iter().map(line).chain(at_work).map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{log_lines, quoted};
    use runs::{AtWork, Events};

    #[test]
    fn a_log_without_texts_has_no_words_of_commands() {
        let mut events = Events::default();
        events.lines.push("10:00:00  say  failed: it ended with 3\nglowvenom".into());
        for (node, kind) in [("say", "exec"), ("train", "sft")] {
            let note = format!("1/2 of {kind}");
            events.at_work.insert(node.into(), AtWork { kind: kind.into(), note });
        }
        let failed = "10:00:00  say  failed: it ended with 3";
        let redacted = log_lines(&events, true);
        assert_eq!(redacted, [failed, "at work   say", "at work   train  1/2 of sft"]);
        assert!(log_lines(&events, false)[0].ends_with("glowvenom"));
    }

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted("blue_kl=0.2"), "blue_kl=0.2");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$(rm)"), "'$(rm)'");
        assert_eq!(quoted(""), "''");
    }
}
