//! `triplay pipeline plan`, `pipeline run --dry-run` and `pipeline explain`: what would run, and why.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::bail;
use serde_json::{Value, json};

use super::args::{ExplainArgs, PlanArgs, RunArgs};
use super::pipeline::{find, load, load_selected, open, print_warnings};
use crate::engine::{
    Change, Content, Graph, GraphVariant, InputBinding, NodeId, NodeReport, Plan, Reason, State, What,
    differences,
};
use crate::runs::{self, Run, bare_rounds};
use crate::store::{Digest, Selection, Store, ignored_below};
use output::{println, several};

/// Most ignored files of a folder that are named.
const NAMED: usize = 5;

/// Most nodes that are listed without `--all`.
const LISTED: usize = 40;

pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let store = open(&args.cache)?;
    let digest = |path: &Path, selection: &Selection| store.digest_of(path, selection, args.paranoid);
    let graph = load_selected(&args.pipeline, &args.nodes, &digest)?;
    print_warnings(&graph);
    let plan = Plan::new(&graph, &store);
    let told = ExplainedPlan::new(&plan, &store, EarlierRuns::newest(&graph));
    let view = View { json: args.json, all: args.all, exit_code: args.exit_code };
    told.show(&args.pipeline.file, &view)
}

pub(crate) fn dry_run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    plan(&PlanArgs {
        pipeline: args.pipeline.clone(),
        nodes: args.nodes.clone(),
        cache: args.cache.clone(),
        json: args.json,
        all: false,
        exit_code: args.exit_code,
        paranoid: args.paranoid,
    })
}

struct View {
    json: bool,
    all: bool,
    exit_code: bool,
}

/// The status of a node in a plan. A node is `Unknown` while its key depends on outputs of nodes that would run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Hit,
    Run,
    Unknown,
    /// In a round that its loop does not reach.
    Skipped,
}

impl Status {
    fn of(plan: &Plan, id: NodeId) -> Status {
        match plan.state(id) {
            State::Done { .. } => Status::Hit,
            State::Waiting { .. } => Status::Unknown,
            State::Unreached | State::LeftOut => Status::Skipped,
            _ => Status::Run,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Status::Hit => "hit",
            Status::Run => "run",
            Status::Unknown => "unknown",
            Status::Skipped => "skipped",
        }
    }
}

/// The keys of earlier runs, to compare with.
struct EarlierRuns {
    /// The newest of them.
    title: Option<String>,
    /// The key of each node, and the run that it is from.
    keys: HashMap<String, (Digest, Rc<str>)>,
    /// The names of the pipeline's variants.
    variants: HashSet<String>,
}

impl EarlierRuns {
    /// The key of each node in the newest run that has the node.
    fn newest(graph: &Graph) -> EarlierRuns {
        // Most runs that are read; those that were interrupted before their first node do not count.
        const RUNS: usize = 10;
        let mut keys = HashMap::new();
        let mut title = None;
        let folders = Run::all(Some(&graph.pipeline)).into_iter();
        let read = folders.filter_map(|folder| Some((Run::read_nodes(&folder).ok()?.0, folder)));
        for (nodes, folder) in read.filter(|(nodes, _)| !nodes.is_empty()).take(RUNS) {
            let run: Rc<str> = folder.file_name().unwrap_or_default().to_string_lossy().into();
            for node in nodes {
                keys.entry(bare_rounds(&node.node)).or_insert_with(|| (node.key, run.clone()));
            }
            title.get_or_insert_with(|| run.to_string());
        }
        EarlierRuns { title, keys, variants: variants(graph) }
    }

    fn of(run: &Run, graph: &Graph) -> EarlierRuns {
        let title: Rc<str> = run.title().into();
        let key = |node: &NodeReport| (bare_rounds(&node.node), (node.key, title.clone()));
        let keys = run.nodes.iter().map(key).collect();
        EarlierRuns { title: Some(title.to_string()), keys, variants: variants(graph) }
    }

    /// The key of a node in these runs, by its name with or without the variant; and the run.
    fn key(&self, name: &str) -> Option<(Digest, &str)> {
        let bare = name.split_once('/').filter(|(variant, _)| self.variants.contains(*variant));
        let key = |name: &str| self.keys.get(&bare_rounds(name)).map(|(key, run)| (*key, &**run));
        key(name).or_else(|| key(bare?.1))
    }
}

fn variants(graph: &Graph) -> HashSet<String> {
    graph.variants.iter().filter_map(GraphVariant::name).collect()
}

/// A plan with its reasons.
struct ExplainedPlan<'a> {
    plan: &'a Plan<'a>,
    store: &'a Store,
    past: EarlierRuns,
    awaited: Vec<NodeId>,
}

/// A loop that may stop before its last round, and the round in which it stopped, if that is decided.
struct LoopStatus<'a> {
    name: &'a str,
    at_most: u32,
    stopped: Option<u32>,
    /// Whether all decisions are made, and none stops the loop.
    runs_all_rounds: bool,
}

impl LoopStatus<'_> {
    fn line(&self) -> String {
        let LoopStatus { name, at_most, .. } = self;
        match self.stopped {
            Some(round) => format!("{name}: stops in round {round} of at most {at_most}"),
            None if self.runs_all_rounds => {
                format!("{name}: runs all of at most {}", several(*at_most as usize, "round"))
            }
            None => format!("{name}: at most {}, decided as it runs", several(*at_most as usize, "round")),
        }
    }

    fn json(&self) -> Value {
        json!({ "loop": self.name, "at_most": self.at_most, "stopped": self.stopped, "decided": self.stopped.is_some() || self.runs_all_rounds })
    }
}

/// The loops that may stop before their last round, without those inside rounds that are not reached and those that targets
/// leave before they end.
fn loops<'a>(plan: &Plan<'a>) -> Vec<LoopStatus<'a>> {
    let graph: &'a Graph = plan.graph;
    let is = |id: Option<&NodeId>, state: State| id.is_some_and(|id| plan.state(*id) == state);
    let reached = graph.loops.iter().enumerate().filter(|(index, one)| {
        let is_left = plan.stopped(*index).is_none() && is(one.decisions.last(), State::LeftOut);
        !is_left && !is(one.decisions.first(), State::Unreached)
    });
    let told = reached.map(|(index, one)| LoopStatus {
        name: &one.name,
        at_most: one.at_most,
        stopped: plan.stopped(index),
        runs_all_rounds: one.decisions.iter().all(|id| plan.outputs(*id).is_some()),
    });
    told.collect()
}

/// Names the loop that stops before this node's round, and the round in which it stops.
fn stopped_before(plan: &Plan, id: NodeId) -> Option<String> {
    let mut gate = plan.graph.node(id).gate?;
    // The latest decision that was made is the one that stops the loop.
    while plan.outputs(gate).is_none() {
        gate = plan.graph.node(gate).gate?;
    }
    let (by, round) = plan.graph.node(gate).decides?;
    Some(format!("{} stops in round {round}", plan.graph.loops[by as usize].name))
}

/// The reason of a node's status.
struct StatusReason {
    text: String,
    json: Value,
}

impl<'a> ExplainedPlan<'a> {
    fn new(plan: &'a Plan<'a>, store: &'a Store, past: EarlierRuns) -> ExplainedPlan<'a> {
        ExplainedPlan { plan, store, past, awaited: plan.awaited() }
    }

    fn name(&self, id: NodeId) -> &'a str {
        &self.plan.graph.node(id).name
    }

    /// The key and manifest with which a node ran before.
    fn before(&self, id: NodeId) -> Option<(Digest, Value)> {
        let (key, _) = self.past.key(self.name(id))?;
        Some((key, runs::manifest(self.store, &key)?))
    }

    /// What changed of a node, as far as it is known; what a user changed comes before the outputs that it reads.
    fn changes(&self, id: NodeId) -> Option<Vec<Change>> {
        let (_, before) = self.before(id)?;
        let mut changes = differences(&before, &self.plan.manifest(id));
        changes.sort_by_key(|change| self.is_fed(id, change));
        Some(changes)
    }

    /// Whether a change is that of an output that a node reads, and not of a file of the user's.
    fn is_fed(&self, id: NodeId, change: &Change) -> bool {
        let graph = self.plan.graph;
        let is_own = |feed: &InputBinding| match feed {
            InputBinding::File(index) => change.to == json!(graph.files[*index].digest),
            InputBinding::Served(index) => change.to == json!(graph.served[*index].text()),
            _ => false,
        };
        change.what == What::Input && !graph.node(id).feeds.iter().any(is_own)
    }

    fn why(&self, id: NodeId) -> StatusReason {
        match self.plan.why(id).map(|why| why.reason) {
            _ if self.plan.state(id) == State::Unreached => {
                let stopped = stopped_before(self.plan, id).unwrap_or_default();
                StatusReason { json: json!({ "stopped": stopped }), text: stopped }
            }
            _ if Status::of(self.plan, id) == Status::Unknown => {
                let until = self.name(self.awaited[id.index()]);
                StatusReason { text: format!("until {until} is done"), json: json!({ "until": until }) }
            }
            Some(Reason::BlobMissing { output }) => {
                let output = &self.plan.graph.node(id).call.outputs()[output].name;
                StatusReason {
                    text: format!("blob missing: its output `{output}` is recorded but not in the cache"),
                    json: json!({ "blob_missing": output }),
                }
            }
            Some(Reason::NeededBy { node }) => {
                let by = self.name(node);
                StatusReason {
                    text: format!("its evicted output is needed by {by}"),
                    json: json!({ "needed_by": by }),
                }
            }
            Some(Reason::Forced) => StatusReason { text: "forced".into(), json: json!({ "forced": true }) },
            Some(Reason::NoRecord | Reason::Check) => match self.changes(id) {
                None => StatusReason { text: "has not been run".into(), json: json!({ "new": true }) },
                Some(changes) if changes.is_empty() => StatusReason {
                    text: "its record is missing".into(),
                    json: json!({ "record_missing": true }),
                },
                Some(changes) => {
                    let texts: Vec<String> = changes.iter().map(Change::to_string).collect();
                    StatusReason { text: texts.join("; "), json: json!({ "changed": changes }) }
                }
            },
            None => StatusReason { text: String::new(), json: Value::Null },
        }
    }

    fn show(&self, file: &Path, view: &View) -> anyhow::Result<ExitCode> {
        let ids: Vec<(NodeId, Status)> =
            self.plan.graph.selected().map(|id| (id, Status::of(self.plan, id))).collect();
        let count = |wanted: Status| ids.iter().filter(|(_, status)| *status == wanted).count();
        let [hit, run, unknown, skipped] =
            [Status::Hit, Status::Run, Status::Unknown, Status::Skipped].map(count);
        let loops = loops(self.plan);
        if view.json {
            let nodes: Vec<Value> = ids
                .iter()
                .map(|(id, status)| {
                    let (node, why) = (self.plan.graph.node(*id), self.why(*id));
                    json!({
                        "node": node.name, "kind": node.call.kind.name, "status": status.name(),
                        "key": self.plan.key(*id), "reason": why.json,
                    })
                })
                .collect();
            let pipeline = &self.plan.graph.pipeline;
            let mut counts =
                json!({ "pipeline": pipeline, "hit": hit, "run": run, "unknown": unknown, "nodes": nodes });
            if !loops.is_empty() {
                counts["skipped"] = skipped.into();
                counts["loops"] = loops.iter().map(LoopStatus::json).collect();
            }
            println!("{counts}");
        } else {
            self.lines(&ids, view.all);
            let shown = if view.all { loops.len() } else { loops.len().min(LISTED) };
            loops[..shown].iter().for_each(|at_most| println!("{}", at_most.line()));
            println!(
                "{}: {}: {hit} cached, {}{}",
                file.display(),
                several(ids.len(), "node"),
                if skipped > 0 { format!("{skipped} skipped, ") } else { String::new() },
                match (run, unknown) {
                    (0, 0) => "nothing to do".into(),
                    (run, 0) => format!("{run} to run"),
                    (run, unknown) => format!("{run} to run, {unknown} not known until those are done"),
                }
            );
        }
        let something = run + unknown > 0;
        Ok(if view.exit_code && something { ExitCode::from(3) } else { ExitCode::SUCCESS })
    }

    fn lines(&self, ids: &[(NodeId, Status)], all: bool) {
        let open: Vec<&(NodeId, Status)> = ids
            .iter()
            .filter(|(_, status)| all || !matches!(status, Status::Hit | Status::Skipped))
            .collect();
        let shown = if all { open.len() } else { open.len().min(LISTED) };
        let width = open[..shown].iter().map(|(id, _)| self.name(*id).chars().count()).max().unwrap_or(0);
        for (id, status) in &open[..shown] {
            let line = format!("{:7}  {:width$}  {}", status.name(), self.name(*id), self.why(*id).text);
            println!("{}", line.trim_end());
        }
        if open.len() > shown {
            println!("…and {} more (--all lists them)", open.len() - shown);
        }
    }
}

pub(crate) fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let store = open(&args.cache)?;
    let graph = load(&args.pipeline, &|path, selection| store.digest_of(path, selection, false))?;
    let id = find(&graph, &args.node)?;
    let plan = Plan::new(&graph, &store);
    if args.job {
        let Some(job) = plan.job(id) else {
            if let Some(stopped) = stopped_before(&plan, id).filter(|_| plan.state(id) == State::Unreached) {
                bail!("`{}` has no job: {stopped}", args.node);
            }
            let first = &graph.node(plan.awaited()[id.index()]).name;
            bail!("the job of `{}` is not known until `{first}` is done", args.node);
        };
        println!("{}", serde_json::to_string_pretty(&job)?);
        return Ok(ExitCode::SUCCESS);
    }
    let past = match &args.against {
        None => EarlierRuns::newest(&graph),
        Some(run) => EarlierRuns::of(&Run::find(run)?, &graph),
    };
    let told = ExplainedPlan::new(&plan, &store, past);
    let status = Status::of(&plan, id);
    let found = told.past.key(told.name(id)).map(|(_, run)| run.to_owned());
    let against = found.or_else(|| told.past.title.clone());
    let changes = told.changes(id);
    let ignored = ignored(&plan.job(id).map(|job| job.inputs).unwrap_or_default())?;
    if args.json {
        let why = told.why(id);
        println!(
            "{}",
            json!({
                "node": args.node, "status": status.name(), "key": plan.key(id), "reason": why.json,
                "against": against, "changes": changes, "manifest": plan.manifest(id),
                "ignored": ignored.iter().map(Ignored::json).collect::<Vec<_>>(),
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: {}", args.node, in_words(status));
    ignored.iter().for_each(|ignored| println!("{ignored}"));
    if let Some(key) = plan.key(id) {
        println!("key: {key}");
    }
    let changed = changes.as_ref().filter(|changes| !changes.is_empty());
    if let (Status::Unknown, Some(changes), Some(run)) = (status, changed, &against) {
        println!("its own changes since run {run}:");
        changes.iter().for_each(|change| println!("  {change}"));
    }
    if status != Status::Hit && !(status == Status::Run && changed.is_some()) {
        println!("why: {}", told.why(id).text);
    }
    if status == Status::Skipped {
        return Ok(ExitCode::SUCCESS);
    }
    if status == Status::Unknown {
        let first = told.awaited[id.index()];
        println!("     {}: {}", told.name(first), told.why(first).text);
        return Ok(ExitCode::SUCCESS);
    }
    match (against, told.before(id)) {
        (None, _) => println!("there is no earlier run of `{}` to compare with", graph.pipeline),
        (Some(run), None) => {
            if args.against.is_some() && told.past.key(&args.node).is_none() {
                bail!("run {run} has no finished node `{}`", args.node);
            }
            println!("there is no record of an earlier `{}` (latest run: {run})", args.node);
        }
        (Some(run), Some((key, _))) => match changes.unwrap_or_default() {
            changes if changes.is_empty() => println!("the same as in run {run}"),
            changes => {
                println!("different from run {run} (key {}):", key.short());
                changes.iter().for_each(|change| println!("  {change}"));
                print_causes(&told, id, &changes);
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Files and folders of a user's folder that a node ignores.
struct Ignored {
    folder: PathBuf,
    /// Their paths in it; those of folders end in `/`.
    names: Vec<String>,
}

impl Ignored {
    fn json(&self) -> Value {
        json!({ "folder": self.folder, "names": self.names })
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (folder, names) = (self.folder.display(), &self.names[..self.names.len().min(NAMED)]);
        write!(f, "ignored in {folder}: {}", names.join(", "))?;
        match self.names.len() - names.len() {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        write!(f, " ({})", self.names.len())
    }
}

/// What is ignored in the folders among a node's inputs.
fn ignored(inputs: &[Content]) -> anyhow::Result<Vec<Ignored>> {
    let mut found: Vec<Ignored> = Vec::new();
    for input in inputs {
        if let Content::Digest { path: Some(folder), selection, .. } = input
            && folder.is_dir()
            && !selection.ignore.is_empty()
            && found.iter().all(|known| known.folder != *folder)
        {
            let names = ignored_below(folder, selection)?;
            found.extend((!names.is_empty()).then(|| Ignored { folder: folder.clone(), names }));
        }
    }
    Ok(found)
}

/// Prints the nodes upstream that caused the changes of outputs that a node reads, with what changed of themselves.
fn print_causes(told: &ExplainedPlan, id: NodeId, changes: &[Change]) {
    let mut causes: BTreeMap<&str, String> = BTreeMap::new();
    let mut open = vec![(id, changes.to_vec())];
    let mut seen = HashSet::from([id]);
    while let Some((id, changes)) = open.pop() {
        if !changes.iter().any(|change| told.is_fed(id, change)) {
            continue;
        }
        for source in told.plan.graph.sources(told.plan.graph.node(id)).filter(|source| seen.insert(*source))
        {
            let changes = told.changes(source).unwrap_or_default();
            let own = changes.iter().filter(|change| !told.is_fed(source, change));
            let own: Vec<String> = own.map(Change::to_string).collect();
            match own.is_empty() {
                true => open.push((source, changes)),
                false => drop(causes.insert(told.name(source), own.join("; "))),
            }
        }
    }
    for (name, cause) in causes {
        println!("  because of {name}: {cause}");
    }
}

fn in_words(status: Status) -> &'static str {
    match status {
        Status::Hit => "cached: it would not run",
        Status::Run => "would run",
        Status::Skipped => "skipped: its loop does not reach this round",
        Status::Unknown => "not known until the nodes before it are done",
    }
}
