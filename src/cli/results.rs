//! `triplay results`: summarises seeds and ablations as tables and curves.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::args::RunCacheArgs;
use super::league::{LeagueDisplay, show};
use super::panel::PanelArgs;
use crate::analysis::{self, SeriesParams};
use crate::data::RunMetricRow;
use crate::engine::{self, NodeReport};
use crate::runs::{self, Run, RunRecord};
use output::{Destination, Overwrite, eprintln, first_bytes, println};

#[derive(Subcommand)]
pub(crate) enum ResultsCommand {
    /// Show the metrics of ablations: the mean over seeds and its 95 % interval, by Student's t
    Table(TableArgs),
    /// Evaluate the ablations of a run on a common panel: every final attacker against every final defender, with the warm-up
    /// and frozen models among them. Generates responses; its nodes are cached like those of any run
    Panel(PanelArgs),
    /// Draw a metric over the phases of ablations: in the terminal, as SVG or as PNG
    Plot(PlotArgs),
    /// Query the rows of all runs in SQL
    #[command(disable_help_flag = true)]
    Query {
        // The text is also that of `--help`, where an escaped bracket would show its backslash.
        #[allow(rustdoc::broken_intra_doc_links)]
        /// The query, and --run RUN, --pipeline NAME, --schema [TABLE], --rows N, --csv, --json, --markdown, --out FILE
        /// or --cache DIR; `triplay results query --help` explains them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SQL AND OPTIONS")]
        _args: Vec<OsString>,
    },
}

#[derive(Args)]
pub(crate) struct TableArgs {
    /// Runs (RUN@NAME for one ablation or seed) or metrics.parquet files [default with --league: latest]
    #[arg(required_unless_present = "league")]
    runs: Vec<String>,
    /// Show these ablations only
    #[arg(long = "ablation", value_delimiter = ',', value_name = "NAME,…")]
    ablations: Vec<String>,
    /// Show the attack success of every attacker against every defender, from `cross_play` stages, with the means of rows and
    /// columns
    #[arg(long, conflicts_with_all = ["phases", "metrics"])]
    league: bool,
    /// Show every phase and its changes
    #[arg(long)]
    phases: bool,
    /// Show this metric, such as `attack_success`, `attacks.diversity`, `train[0.5].loss` of a matrix, or the heading `attack`; may be
    /// repeated
    #[arg(long = "metric", value_name = "[SUBJECT.]METRIC")]
    metrics: Vec<String>,
    /// Print Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: RunCacheArgs,
}

#[derive(Args)]
pub(crate) struct PlotArgs {
    /// The metric, such as `attack_success`, `attacks.diversity`, `train[0.5].loss` of a matrix, or the heading `attack`
    #[arg(value_name = "[SUBJECT.]METRIC")]
    metric: String,
    /// Runs (RUN@NAME for one ablation or seed) or metrics.parquet files [default: latest]
    #[arg(value_name = "RUN")]
    runs: Vec<String>,
    /// The runs, as an option
    #[arg(long = "runs", value_name = "RUN", num_args = 1.., conflicts_with = "runs")]
    named: Vec<String>,
    /// Draw these ablations only
    #[arg(long = "ablation", value_delimiter = ',', value_name = "NAME,…")]
    ablations: Vec<String>,
    /// Write this .svg or .png file instead of drawing in the terminal
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    #[command(flatten)]
    cache: RunCacheArgs,
}

pub(crate) fn command(command: &ResultsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ResultsCommand::Table(args) => table(args),
        ResultsCommand::Panel(args) => super::panel::command(args),
        ResultsCommand::Plot(args) => plot(args),
        ResultsCommand::Query { .. } => super::query::command(),
    }
}

fn table(args: &TableArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    if args.league {
        return league(args);
    }
    let (mut runs, params) = read(&args.runs, &args.ablations)?;
    let measures = match args.metrics.is_empty() {
        true => analysis::shown(&runs.concat()),
        false => analysis::select(&mut runs, &args.metrics)?,
    };
    anyhow::ensure!(
        !measures.is_empty(),
        "these runs have no `evaluate`, no `measure` and no metrics of stages of your own; --metric SUBJECT.METRIC shows a metric of \
         training, `triplay data show RUN/metrics.parquet` lists them"
    );
    let summary = match args.phases {
        true => analysis::summarise_phases(&runs, measures),
        false => analysis::summarise(&runs, measures),
    };
    let summary = summary.with_params(&params);
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else if args.markdown {
        output::print(&summary.markdown())?;
    } else {
        output::print(&summary.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn league(args: &TableArgs) -> anyhow::Result<ExitCode> {
    let (runs, _) = read(&or_latest(args.runs.clone()), &args.ablations)?;
    let rows = runs.iter().enumerate().flat_map(|(run, rows)| rows.iter().map(move |row| (run, row)));
    let leagues = analysis::leagues(rows);
    anyhow::ensure!(
        !leagues.is_empty(),
        "`--league` needs a finished `cross_play` stage, found none; `triplay results panel RUN` runs one on the ablations of \
         a run"
    );
    show(&leagues, LeagueDisplay { markdown: args.markdown, json: args.json, more: json!({}) })
}

fn or_latest(names: Vec<String>) -> Vec<String> {
    if names.is_empty() { vec!["latest".into()] } else { names }
}

fn plot(args: &PlotArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let names = or_latest([args.runs.clone(), args.named.clone()].concat());
    let extension = |out: &PathBuf| out.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let extension = args.out.as_ref().map(extension);
    anyhow::ensure!(
        matches!(extension.as_deref(), None | Some("svg" | "png")),
        "`--out` must end in .svg or .png; leave it out to draw in the terminal"
    );
    let is_png = extension.as_deref() == Some("png");
    let is_own = move |path: &Path| match is_png {
        true => analysis::is_png(&first_bytes(path, 64)),
        false => analysis::is_svg(&first_bytes(path, 256)),
    };
    let out = args.out.as_ref();
    let with_force = |out| Destination::with_force(out, "picture of triplay", args.overwrite, is_own);
    let out = out.map(|out| with_force(out)).transpose()?;
    let (mut runs, _) = read(&names, &args.ablations)?;
    let measures = analysis::select(&mut runs, std::slice::from_ref(&args.metric))?;
    let measure = measures.first().context("a metric")?;
    let series = analysis::series(&runs, measure);
    let denominator = analysis::Denominator::of(&runs, measure);
    let picture = analysis::Picture::new(measure, &series, denominator);
    let Some(out) = out else {
        output::print_coloured(&analysis::terminal(&picture, console::colors_enabled()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let bytes = if is_png { analysis::png(&picture)? } else { analysis::svg(&picture).into_bytes() };
    out.write_bytes(&bytes)?;
    println!("{}: written", out.path().display());
    Ok(ExitCode::SUCCESS)
}

/// The metrics of each run or file, of the named ablations, or of all if none is named.
fn read(names: &[String], ablations: &[String]) -> anyhow::Result<(Vec<Vec<RunMetricRow>>, SeriesParams)> {
    if let Some(index) = (1..names.len()).find(|&index| names[..index].contains(&names[index])) {
        anyhow::bail!("{} is given twice: its seeds would count twice", names[index]);
    }
    let (mut runs, params) = pool_seeds(names.iter().map(|name| of(name)).collect::<anyhow::Result<_>>()?)?;
    let of_row = |row: &RunMetricRow| runs::variant(&row.node).0.to_owned();
    let known: BTreeSet<String> = runs.iter().flatten().map(of_row).collect();
    if let Some(unknown) = ablations.iter().find(|name| !known.contains(*name)) {
        let known: Vec<&str> = known.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        match engine::nearest(unknown, &known) {
            Some(near) => anyhow::bail!("there is no ablation `{unknown}`; did you mean `{near}`?"),
            None if known.is_empty() => {
                anyhow::bail!("there is no ablation `{unknown}`: the pipeline has none")
            }
            None => anyhow::bail!("there is no ablation `{unknown}`; there are {}", known.join(", ")),
        }
    }
    if !ablations.is_empty() {
        runs.iter_mut().for_each(|rows| rows.retain(|row| ablations.contains(&of_row(row))));
    }
    Ok((runs, params))
}

/// Metrics as tables and curves show them: nodes of a matrix over seeds are named as if the pipeline had these seeds.
#[derive(Default)]
pub(super) struct Shown {
    pub rows: Vec<RunMetricRow>,
    /// The parameters of each series.
    pub params: SeriesParams,
    /// Whether the seeds of a matrix repeat some nodes.
    repeats: bool,
}

impl Shown {
    pub(super) fn new(mut rows: Vec<RunMetricRow>, record: &RunRecord, nodes: &[NodeReport]) -> Shown {
        let nodes: HashMap<&str, &NodeReport> = nodes.iter().map(|node| (node.node.as_str(), node)).collect();
        let (mut params, mut repeats) = (SeriesParams::new(), false);
        let mut last = "";
        let mut of_pipeline: HashMap<&str, Vec<(String, String)>> = HashMap::new();
        for row in &mut rows {
            let Some(node) = nodes.get(row.node.as_str()) else { continue };
            let (.., rest) = runs::variant(&node.node);
            let variant = node.node.strip_suffix(rest).unwrap_or_default().trim_end_matches('/');
            let name = runs::repeated(node);
            repeats |= node.seed.is_some();
            if node.node != last {
                last = &node.node;
                let known = params.entry(analysis::name_of(&name).into_owned()).or_default();
                let of_pipeline = of_pipeline.entry(variant).or_insert_with(|| params_of(record, variant));
                for (name, value) in runs::told_by(node).chain(of_pipeline.iter()) {
                    if !known.iter().any(|(own, _)| own == name) {
                        known.push((name.clone(), value.clone()));
                    }
                }
            }
            row.node = name.into_owned();
        }
        Shown { rows, params, repeats }
    }
}

/// The parameters of an ablation except the seed, as typed.
fn params_of(record: &RunRecord, variant: &str) -> Vec<(String, String)> {
    let params = record.typed_params(variant).filter(|(name, _)| *name != "seed");
    let text = |(name, typed): (&str, Cow<str>)| {
        let text = record.params[variant][name].as_str().map_or_else(|| typed.into_owned(), str::to_owned);
        (name.to_owned(), text)
    };
    params.map(text).collect()
}

/// The metrics of a run or file, and the run's record.
struct Metrics {
    shown: Shown,
    /// `None` for a file.
    record: Option<RunRecord>,
}

impl Metrics {
    /// For each ablation, the pipeline with its parameters except the seed, and the seeds.
    fn settings(&self) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut settings: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
        let Some(record) = &self.record else { return settings };
        for variant in record.params.keys() {
            let node = format!("{variant}/");
            let ablation = if variant.is_empty() { "" } else { runs::variant(&node).0 };
            let mut params: BTreeMap<&str, Cow<str>> = record.typed_params(variant).collect();
            let seed = params.remove("seed").unwrap_or_default().into_owned();
            // Runs whose matrices have the seeds repeat each other with no seed of theirs.
            if self.shown.repeats {
                params.insert("run", record.run.as_str().into());
            }
            let ablation = settings.entry(ablation.to_owned()).or_default();
            ablation.0 = format!("{} {params:?}", record.pipeline);
            ablation.1.insert(seed);
        }
        let there: BTreeSet<&str> = self.shown.rows.iter().map(|row| runs::variant(&row.node).0).collect();
        settings.retain(|ablation, _| there.contains(ablation.as_str()));
        settings
    }
}

/// Pools runs as seeds of one ablation if only their seeds differ. Otherwise the run's name becomes part of the ablation's
/// name.
fn pool_seeds(mut all: Vec<Metrics>) -> anyhow::Result<(Vec<Vec<RunMetricRow>>, SeriesParams)> {
    let mut known: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut apart: BTreeSet<String> = BTreeSet::new();
    for (ablation, (setting, seeds)) in all.iter().flat_map(Metrics::settings) {
        let Some((other, others)) = known.get_mut(&ablation) else {
            known.insert(ablation, (setting, seeds));
            continue;
        };
        if *other != setting {
            apart.insert(ablation);
        } else if let Some(twice) = seeds.iter().find(|seed| others.contains(*seed)) {
            anyhow::bail!(
                "two of these runs have seed {twice} with the same parameters: it would count twice"
            );
        } else {
            others.extend(seeds);
        }
    }
    for metrics in &mut all {
        let Some(record) = &metrics.record else { continue };
        for row in &mut metrics.shown.rows {
            let (ablation, seed, node) = runs::variant(&row.node);
            if apart.contains(ablation) {
                let name =
                    [ablation, record.run.as_str()].join(if ablation.is_empty() { "" } else { " of " });
                let seed = seed.map_or(String::new(), |seed| format!("-s{seed}"));
                let named = format!("{name}{seed}/{node}");
                let (before, now) = (analysis::name_of(&row.node), analysis::name_of(&named).into_owned());
                if let Some(params) = metrics.shown.params.get(&*before).cloned() {
                    metrics.shown.params.entry(now).or_insert(params);
                }
                row.node = named;
            }
        }
    }
    let (mut runs, mut params) = (Vec::new(), SeriesParams::new());
    for metrics in all {
        runs.push(metrics.shown.rows);
        params.extend(metrics.shown.params);
    }
    Ok((runs, params))
}

fn of(name: &str) -> anyhow::Result<Metrics> {
    let file = Path::new(name);
    if file.is_file() {
        let shown = Shown { rows: analysis::read(file)?, ..Shown::default() };
        return Ok(Metrics { shown, record: None });
    }
    let (run, variant) = name.split_once('@').map_or((name, None), |(run, variant)| (run, Some(variant)));
    let found = Run::read(&Run::locate(run)?)?;
    let mut rows = match found.recorded("metrics.parquet")? {
        Some(path) => analysis::read(&path)?,
        None => {
            let RunRecord { run, status, nodes, cache, .. } = &found.record;
            let done = found.nodes.len();
            eprintln!(
                "note: run {run} is {status} after {done} of {nodes} nodes: only their metrics are shown"
            );
            let store = found.record.store()?;
            let gone =
                || format!("the cache {} of run {run} is gone, and with it the metrics", cache.display());
            analysis::collect(&found.nodes, &store.with_context(gone)?)?
        }
    };
    if let Some(wanted) = variant {
        // One ablation with all of its seeds, or a single variant.
        let is_wanted = |node: &str| {
            let (ablation, ..) = runs::variant(node);
            ablation == wanted || node.split_once('/').is_some_and(|(name, _)| name == wanted)
        };
        rows.retain(|row| is_wanted(&row.node));
        anyhow::ensure!(!rows.is_empty(), "run `{run}` has no ablation or seed `{wanted}`");
    }
    analysis::compare::judged_apart(&found, &rows)?.iter().for_each(|line| eprintln!("note: {line}"));
    Ok(Metrics { shown: Shown::new(rows, &found.record, &found.nodes), record: Some(found.record) })
}
