//! `triplay pipeline run` and `check`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::args::{CacheArgs, DEFAULT_CACHE, FileArgs, NodeArgs, PipelineShowArgs, RunArgs};
use super::changed::changed_files;
use super::ledger::{RUNNING, RunDisplay, RunProgress, last_line, summary};
use super::publish::{publish, publishes};
use super::registry::registry;
use super::results::Shown;
use super::stopped::stopped;
use super::targets::targets;
use super::trace::Trace;
use super::{compare, progress};
use crate::analysis;
use crate::data::RunMetricRow;
use crate::engine::progress::Progress;
use crate::engine::{
    self, Diagnostics, Graph, LoadOptions, Memory, NodeId, NodeReport, Plan, Program, Registry, Report,
    RunOptions, Site, StageText, State,
};
use crate::exec::own_program;
use crate::runs::{self, Machine, Run, RunFolder, RunRecord, digests};
use crate::store::{Digest, Selection, Store};
use output::{eprintln, println, several};

/// Bytes of loaded models and datasets kept between nodes.
const MEMORY: usize = 256 << 20;

pub(crate) fn load(
    args: &FileArgs,
    digest: &dyn Fn(&Path, &Selection) -> std::io::Result<Digest>,
) -> anyhow::Result<Graph> {
    load_by(args, digest, engine::load)
}

/// Loads a pipeline with what the command line adds to it, by a function of the engine.
fn load_by<T>(
    args: &FileArgs,
    digest: &dyn Fn(&Path, &Selection) -> std::io::Result<Digest>,
    load: fn(&Path, &LoadOptions, &Registry) -> Result<T, Diagnostics>,
) -> anyhow::Result<T> {
    if !args.settings.is_empty() && !args.file.exists() {
        check_stray_setting(&args.file.to_string_lossy())?;
    }
    let site = site(args)?;
    let options = LoadOptions {
        site: Some(&site),
        settings: &args.settings,
        ablations: &args.ablations,
        seeds: &args.seeds,
        digest,
        ..LoadOptions::default()
    };
    Ok(load(&args.file, &options, &registry())?)
}

/// What this place has: the site file that is named, or the one beside the pipeline.
pub(crate) fn site(args: &FileArgs) -> anyhow::Result<Site> {
    let registry = registry();
    Ok(match &args.site {
        Some(path) => Site::read(path, &registry)?,
        None => Site::beside(&args.file, &registry)?,
    })
}

/// An error if a word is a setting without its own `--set`. Outside of brackets, no name of a node has a `=`.
fn check_stray_setting(word: &str) -> anyhow::Result<()> {
    let is_setting =
        word.split_once('=').is_some_and(|(name, _)| !name.is_empty() && !name.contains(['[', '/']));
    ensure!(
        !is_setting,
        "each value must have a `--set` of its own, found `{word}` without one\n  help: write --set {}",
        quoted(word)
    );
    Ok(())
}

/// Loads a pipeline with only its targets and what they need, or with all nodes, and with those to force among them.
pub(crate) fn load_selected(
    args: &FileArgs,
    nodes: &NodeArgs,
    digest: &dyn Fn(&Path, &Selection) -> std::io::Result<Digest>,
) -> anyhow::Result<Graph> {
    nodes.targets.iter().try_for_each(|name| check_stray_setting(name))?;
    let mut graph = load(args, digest)?;
    // Before others are left out, so that a name of one of these is known.
    let forced = targets(&graph, &nodes.force)?;
    if !nodes.targets.is_empty() {
        let targets = targets(&graph, &nodes.targets)?;
        graph.select(&targets);
    }
    if let Some(id) = forced.iter().find(|id| graph.node(**id).left_out) {
        bail!("--force {}: the targets must need the node, found that they do not", graph.node(*id).name);
    }
    graph.force(&forced);
    Ok(graph)
}

/// Prints the warnings of a pipeline: what is allowed, but probably not meant.
pub(crate) fn print_warnings(graph: &Graph) {
    graph.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

pub(crate) fn check(args: &FileArgs) -> anyhow::Result<ExitCode> {
    let (graph, stages) = load_by(args, &Digest::of_input, engine::load_shown)?;
    print_warnings(&graph);
    println!("{}: valid, {}", args.file.display(), several(graph.nodes.len(), "node"));
    let shared: Vec<&StageText> = stages.iter().filter(|stage| !stage.shared.is_empty()).collect();
    let widest = shared.iter().map(|stage| stage.name.chars().count()).max().unwrap_or(0);
    for stage in shared {
        let from: Vec<String> = stage
            .shared
            .iter()
            .map(|(origin, count)| format!("{} from {origin}", several(*count, "value")))
            .collect();
        println!("  {:widest$}  {}", stage.name, from.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints stages with everything filled in.
pub(crate) fn show(args: &PipelineShowArgs) -> anyhow::Result<ExitCode> {
    args.targets.iter().try_for_each(|name| check_stray_setting(name))?;
    let (graph, stages) = load_by(&args.pipeline, &Digest::of_input, engine::load_shown)?;
    print_warnings(&graph);
    let nodes = targets(&graph, &args.targets)?;
    let is_meant =
        |stage: &&StageText| args.targets.is_empty() || nodes.iter().any(|id| stage.is_of(graph.node(*id)));
    let texts: Vec<String> = stages.iter().filter(is_meant).map(StageText::yaml).collect();
    output::print(&texts.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn open(cache: &CacheArgs) -> anyhow::Result<Store> {
    cache.name();
    Ok(Store::open(&cache.cache)?)
}

/// Reports which process is cleaning the cache while this one waits.
fn waiting(by: &str) {
    eprintln!("waiting: {by} cleans the cache");
}

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    Ok(execute(args, false)?.0)
}

/// Runs the nodes of a pipeline that are not cached. Returns the exit code and the run's folder. A `quiet` run prints nothing on
/// standard output.
pub(crate) fn execute(args: &RunArgs, quiet: bool) -> anyhow::Result<(ExitCode, PathBuf)> {
    let begun = Instant::now();
    // If the file cannot be written, the error comes before anything runs.
    let trace = args.trace.as_ref().map(|path| Trace::new(path, begun)).transpose()?;
    let store = open(&args.cache)?;
    let hash = |path: &Path, selection: &Selection| store.digest_of(path, selection, args.paranoid);
    let graph = load_selected(&args.pipeline, &args.nodes, &hash)?;
    print_warnings(&graph);
    if let Some(trace) = &trace {
        trace.phase("load", begun);
    }
    let planned = Instant::now();
    let check = args.check.iter().map(|name| find(&graph, name)).collect::<anyhow::Result<Vec<NodeId>>>()?;
    if let Some(id) = check.iter().find(|id| graph.node(**id).left_out) {
        bail!("--check {}: the targets must need the node, found that they do not", graph.node(*id).name);
    }
    // Fails for a read-only cache, from which nothing is evicted either.
    let _ = store.begin_session();
    store.take_kept().iter().for_each(|line| eprintln!("note: {line}"));
    let cleaned = store.cleaned_by_now(waiting)?;
    // Other processes may have written records while this one hashed files or waited.
    store.refresh()?;
    // Checks in parallel whether the newest run's folder is unchanged.
    let (plan, newest) = std::thread::scope(|scope| {
        let newest = scope.spawn(|| newest_complete_run(&graph.pipeline, &store));
        (Plan::new(&graph, &store), newest.join().unwrap_or(None))
    });
    if let Some(trace) = &trace {
        trace.phase("plan", planned);
    }
    let digest = plan.is_done().then(|| plan.digest_of_all()).flatten();
    if let Some(digest) = digest.filter(|_| check.is_empty())
        && let Some((folder, record)) = newest.filter(|(folder, record)| {
            record.digest == Some(digest) || !args.nodes.targets.is_empty() && has_all(folder, &plan)
        })
    {
        warn_trace(trace.as_ref().map_or(Ok(()), Trace::write));
        // `publish` counts for no key: it may be new.
        if publishes(&graph) {
            let unpublished = publish(&graph, &Run::read_nodes(&folder)?.0, &store, &folder);
            unpublished.iter().for_each(|what| eprintln!("warning: {what}"));
        }
        if !quiet {
            show_last_run(args, begun, &plan, &folder, record)?;
        }
        return Ok((ExitCode::SUCCESS, folder));
    }
    let (run, mut folder) = RunFolder::create(&graph.pipeline)?;
    let began = jiff::Timestamp::now().to_string();
    let root = store.add_root(&folder.path, &began)?;
    keep_text(&graph.text, &folder.path.join("pipeline.yaml"))?;
    if let Some(base) = &graph.extends {
        keep_text(base, &folder.path.join("extends.yaml"))?;
    }
    let record = record(args, &graph, &store, Begun { run, began, root: root.id().to_owned() });
    runs::write_record(&folder.path, &record)?;
    let show = RunDisplay { reporter: progress::reporter(), json: args.json, command: command(args), trace };
    let ledger = Arc::new(RunProgress::new(show, begun, record, folder.path.clone()));
    ledger.stop_on_interrupt()?;

    let mut nodes: Vec<NodeReport> = Vec::new();
    let program = Some(Program { path: own_program().context("cannot find triplay's own file")? });
    let options = RunOptions { keep_going: args.keep_going, program, check, jobs: args.jobs };
    let plan = match plan.hold(cleaned, &root, &waiting) {
        Ok(plan) => plan,
        Err(error) => {
            let (_, closed) = ledger.close("failed", |_| {});
            return Err(closed.err().unwrap_or(error));
        }
    };
    let report =
        engine::run(plan, &root, &store, &Memory::new(MEMORY), &options, ledger.as_ref(), &mut |node| {
            folder.add(node)?;
            nodes.push(node.clone());
            Ok(())
        });
    // From here on the outcomes of all nodes are final. Failures are reported first; a later error is reported as well, but
    // changes no outcome.
    for failure in &report.failures {
        ledger.log_failure(&failure.node, format!("{:#}", failure.cause));
        eprintln!("error: {failure}");
    }
    let CollectedFiles { metrics, files, missing } = collect_files(&graph, &store, &folder.path, &mut nodes);
    warn_missing(&missing, &folder.path);
    let status = if report.failures.is_empty() { "done" } else { "failed" };
    let digest = report.failures.is_empty().then(|| digest_of(nodes.iter()));
    let unchanged = analysis::unchanged(&metrics);
    let (record, closed) = ledger.close(status, |record| {
        let shown = Shown::new(metrics.clone(), record, &nodes);
        record.main = analysis::main_metric(&shown.rows);
        (record.digest, record.files, record.incomplete) = (digest, files, missing);
        record.unchanged = unchanged;
    });
    changed_files(&graph, &nodes, &hash).iter().for_each(|line| ledger.message(line));
    ledger.show_critical_path(&graph);
    warn_trace(ledger.write_trace());
    print_phases(&metrics);
    let is_whole = report.failures.is_empty() && args.nodes.targets.is_empty();
    stopped(&nodes, is_whole, |digest| store.blob_path(digest)).iter().for_each(|line| eprintln!("{line}"));
    for name in args.check.iter().filter(|name| report.checked.iter().all(|checked| checked.node != **name)) {
        // After a failure the error says why the node was not checked.
        if report.failures.is_empty() {
            eprintln!("check: {name} is in a round that its loop did not reach: there is nothing to compare");
        }
    }
    let differ = print_checks(&report, &store);
    let text = match (args.json, quiet) {
        (true, _) => summary(&record, &folder.path) + "\n",
        (_, true) => String::new(),
        _ => tables(&graph, &metrics, (&record, &nodes)) + &last_line(&record, &folder.path) + "\n",
    };
    let printed = output::print(&text).context("cannot write to standard output");
    if record.status == "done" && !args.json && !quiet {
        suggest_next(&metrics);
    }
    let mut code = ExitCode::SUCCESS;
    for error in [closed, printed].into_iter().filter_map(Result::err) {
        eprintln!("error: {error:#}");
        code = ExitCode::from(2);
    }
    if !report.failures.is_empty() || differ {
        code = ExitCode::FAILURE;
    }
    Ok((code, folder.path))
}

/// Writes a file of the pipeline into the run's folder, as triplay read it: the file may have changed since.
fn keep_text(text: &str, kept: &Path) -> anyhow::Result<()> {
    // Never through a link that another user of a shared `results` folder made.
    let write = || File::create_new(kept)?.write_all(text.as_bytes());
    write().with_context(|| format!("cannot write {}", kept.display()))
}

/// Says on a terminal what to look at after a run.
fn suggest_next(metrics: &[RunMetricRow]) {
    if progress::is_on_terminal() {
        match metrics.is_empty() {
            true => eprintln!("next: triplay runs show latest"),
            false => eprintln!("next: triplay report latest -o report.html, or triplay ui"),
        }
    }
}

/// The node of this name, or an error with a suggestion.
pub(crate) fn find(graph: &Graph, name: &str) -> anyhow::Result<NodeId> {
    if let Some(id) = graph.find(name) {
        return Ok(id);
    }
    let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    match engine::nearest(name, &names) {
        Some(near) => bail!("the pipeline has no node `{name}`; did you mean `{near}`?"),
        None => bail!("the pipeline has no node `{name}`; `triplay pipeline plan FILE --all` lists them"),
    }
}

/// The newest run of this pipeline, if it is done, its folder is complete and unchanged, and this cache has its root.
fn newest_complete_run(pipeline: &str, store: &Store) -> Option<(PathBuf, RunRecord)> {
    let folder = Run::all(Some(pipeline)).into_iter().next()?;
    let record = Run::read_record(&folder).ok()?;
    let is_whole = record.status == "done" && record.incomplete.is_empty() && store.has_root(&record.root);
    (is_whole && digests(&folder).ok()? == record.files).then_some((folder, record))
}

/// Whether a run has all nodes of a plan, with the same keys.
fn has_all(folder: &Path, plan: &Plan) -> bool {
    let Ok((nodes, _)) = Run::read_nodes(folder) else { return false };
    let known: HashMap<&str, Digest> = nodes.iter().map(|node| (node.node.as_str(), node.key)).collect();
    let is_known = |id: NodeId| known.get(plan.graph.node(id).name.as_str()).copied() == plan.key(id);
    plan.graph.selected().filter(|id| plan.state(*id) != State::Unreached).all(is_known)
}

/// Shows the last run instead of making a new one, because nothing has changed since.
fn show_last_run(
    args: &RunArgs,
    begun: Instant,
    plan: &Plan,
    folder: &Path,
    record: RunRecord,
) -> anyhow::Result<()> {
    let cached = plan.graph.selected().count() - plan.unreached();
    let record = RunRecord { ran: 0, again: 0, cached, seconds: begun.elapsed().as_secs_f64(), ..record };
    if args.json {
        println!("{}", summary(&record, folder));
    } else {
        let path = folder.join("metrics.parquet");
        let metrics = if path.exists() { analysis::read(&path)? } else { Vec::new() };
        print_phases(&metrics);
        let (nodes, _) = Run::read_nodes(folder)?;
        stopped(&nodes, record.targets.is_empty(), |digest| record.blob(digest))
            .iter()
            .for_each(|line| eprintln!("{line}"));
        output::print(&tables(plan.graph, &metrics, (&record, &nodes)))?;
        println!("{}", last_line(&record, folder));
    }
    Ok(())
}

/// The digest of all names and keys, in the order of the graph.
fn digest_of<'a>(nodes: impl Iterator<Item = &'a NodeReport>) -> Digest {
    engine::digest_of_keys(nodes.map(|node| (node.node.as_str(), node.key)))
}

/// A run that is about to begin.
struct Begun {
    run: String,
    began: String,
    root: String,
}

fn record(args: &RunArgs, graph: &Graph, store: &Store, Begun { run, began, root }: Begun) -> RunRecord {
    let params =
        graph.variants.iter().map(|variant| (variant.name().unwrap_or_default(), json!(variant.params)));
    let typed = graph.variants.iter().filter(|variant| !variant.typed.is_empty());
    let typed = typed.map(|variant| (variant.name().unwrap_or_default(), variant.typed.clone()));
    let known = registry();
    let used = graph.selected().map(|id| graph.node(id).call.kind);
    let kinds: BTreeMap<String, u32> = used.map(|kind| (kind.name.to_owned(), kind.version)).collect();
    RunRecord {
        run,
        pipeline: graph.pipeline.clone(),
        file: args.pipeline.file.clone(),
        params: params.collect(),
        typed: typed.collect(),
        settings: graph.settings.clone(),
        targets: args.nodes.targets.clone(),
        forced: args.nodes.force.clone(),
        triplay: env!("CARGO_PKG_VERSION").into(),
        facts: kinds.keys().filter_map(|name| Some((name.clone(), known.facts(name)?))).collect(),
        kinds,
        machine: Machine::here(),
        began,
        cache: store.root().to_owned(),
        root,
        digest: None,
        files: BTreeMap::new(),
        main: None,
        incomplete: Vec::new(),
        unchanged: Vec::new(),
        nodes: graph.selected().count(),
        status: RUNNING.into(),
        ran: 0,
        cached: 0,
        again: 0,
        failed: 0,
        skipped: 0,
        seconds: 0.0,
    }
}

/// The files that a run collects in its folder after the last node.
struct CollectedFiles {
    metrics: Vec<RunMetricRow>,
    files: BTreeMap<String, Digest>,
    /// One line for everything that could not be collected.
    missing: Vec<String>,
}

/// Collects metrics and models in the run's folder, in the order of the graph. Errors go to `missing`, because they do not
/// change the outcome of the nodes.
fn collect_files(graph: &Graph, store: &Store, folder: &Path, nodes: &mut [NodeReport]) -> CollectedFiles {
    nodes.sort_by_key(|node| node.index);
    let (mut metrics, mut missing) = (Vec::new(), Vec::new());
    for node in nodes.iter() {
        let kept = node.outputs.iter().filter(|output| output.artifact == "metrics" && !output.passing);
        for output in kept.filter(|output| matches!(store.verified(&output.digest), Ok(None))) {
            missing.push(format!("output `{}` of {} is damaged or gone", output.name, node.node));
        }
        match analysis::collect(std::slice::from_ref(node), store) {
            Ok(rows) => metrics.extend(rows),
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    if let Err(error) = analysis::write(&folder.join("metrics.parquet"), &metrics) {
        missing.push(format!("{error:#}"));
    }
    let unlinked = analysis::link_models(folder, nodes, store);
    missing.extend(unlinked.iter().map(|error| format!("{error:#}")));
    missing.extend(publish(graph, nodes, store, folder));
    let files = digests(folder).unwrap_or_else(|error| {
        missing.push(format!("{error:#}"));
        BTreeMap::new()
    });
    CollectedFiles { metrics, files, missing }
}

/// Warns if the trace was not written: a run is valid without it.
fn warn_trace(traced: anyhow::Result<()>) {
    if let Err(error) = traced {
        eprintln!("warning: the trace was not written: {error:#}");
    }
}

/// Most missing things that are named.
const MOST_MISSING: usize = 5;

fn warn_missing(missing: &[String], folder: &Path) {
    missing.iter().take(MOST_MISSING).for_each(|what| eprintln!("warning: {what}"));
    if missing.len() > MOST_MISSING {
        eprintln!("warning: and {} more", missing.len() - MOST_MISSING);
    }
    if !missing.is_empty() {
        eprintln!(
            "warning: {} lacks these; the outputs of nodes are kept, and the same command collects them in a new run",
            folder.display()
        );
    }
}

/// Tables of the evaluations of each ablation, or a summary over seeds if there are several, and the league tables of
/// `cross_play` stages.
fn tables(graph: &Graph, metrics: &[RunMetricRow], (record, nodes): (&RunRecord, &[NodeReport])) -> String {
    let mut text = String::new();
    let is_own = analysis::usual(metrics).is_empty();
    if is_own || graph.variants.iter().any(|variant| variant.seed.is_some()) {
        let measures = analysis::shown(metrics);
        if !measures.is_empty() {
            let Shown { rows, params, .. } = Shown::new(metrics.to_vec(), record, nodes);
            text += &analysis::summarise(&[rows], measures).with_params(&params).text();
        }
        return text + &league(metrics);
    }
    for variant in &graph.variants {
        let prefix = variant.name().map_or(String::new(), |name| format!("{name}/"));
        let own: Vec<RunMetricRow> =
            metrics.iter().filter(|row| row.node.starts_with(&prefix)).cloned().collect();
        let table = analysis::table(&own) + &league(&own);
        if !table.is_empty() {
            text += &variant.name().map_or(String::new(), |name| format!("\n== {name}"));
            text += &table;
        }
    }
    text
}

/// The league tables of `cross_play` stages; empty without such a stage.
fn league(metrics: &[RunMetricRow]) -> String {
    analysis::leagues_text(&analysis::leagues(metrics.iter().map(|row| (0, row))))
}

/// Reports the phases that a guard halted, those that changed no weights, and those with steps that had nothing to learn from.
fn print_phases(metrics: &[RunMetricRow]) {
    let lines = [analysis::halted(metrics), analysis::unchanged(metrics), analysis::flat(metrics)];
    lines.iter().flatten().for_each(|line| eprintln!("{line}"));
}

/// Prints the results of `--check`. Returns whether any output differs.
fn print_checks(report: &Report, store: &Store) -> bool {
    let mut differ = false;
    for checked in &report.checked {
        if checked.differences.is_empty() {
            eprintln!("check: {}: all outputs are the same", checked.node);
        }
        for difference in &checked.differences {
            differ = true;
            let what = compare::files(&store.blob_path(&difference.recorded), &difference.path);
            eprintln!(
                "check: {} is not deterministic: its output `{}` differs\n  recorded {}, which is kept; now {}\n  {}\n  the new output is {}",
                checked.node,
                difference.output,
                difference.recorded.short(),
                difference.now.short(),
                what.replace('\n', "\n  "),
                difference.path.display()
            );
        }
    }
    differ
}

/// The command that continues this run.
fn command(args: &RunArgs) -> String {
    let mut command = format!("triplay pipeline run {}", args.pipeline.file.display());
    for target in &args.nodes.targets {
        command += &format!(" {}", quoted(target));
    }
    for node in &args.nodes.force {
        command += &format!(" --force {}", quoted(node));
    }
    for setting in &args.pipeline.settings {
        command += &format!(" --set {}", quoted(setting));
    }
    for ablation in &args.pipeline.ablations {
        command += &format!(" --ablation {ablation}");
    }
    if !args.pipeline.seeds.is_empty() {
        let seeds: Vec<String> = args.pipeline.seeds.iter().map(u64::to_string).collect();
        command += &format!(" --seeds {}", seeds.join(","));
    }
    if let Some(site) = &args.pipeline.site {
        command += &format!(" --site {}", quoted(&site.to_string_lossy()));
    }
    if args.cache.cache.as_os_str() != DEFAULT_CACHE {
        command += &format!(" --cache {}", args.cache.cache.display());
    }
    command
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_alphanumeric() || "_-./=:@,+%".contains(char);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
