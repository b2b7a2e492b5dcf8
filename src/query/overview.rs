//! The tables made of runs' records: `runs`, `params` and `checkpoints`. Each column has its name, description and value in one
//! place.

use std::path::PathBuf;

use polars::prelude::{Column, DataFrame, IntoLazy, LazyFrame, NamedFrom, Series};
use serde_json::Value;

use crate::description::{ColumnDoc, TableDoc, kind};
use crate::records::{record, records};
use engine::{NodeOutput, NodeReport};
use runs::{self, ParamRow, Run};

/// A column of rows of type `R`.
struct ColumnSpec<R: 'static> {
    name: &'static str,
    about: &'static str,
    column: fn(&[R]) -> Series,
}

/// Columns, each with a name, a description, and the value in a row.
macro_rules! made {
    ($row:ty: $($name:ident, $about:literal, $value:expr;)*) => {
        &[$(ColumnSpec {
            name: stringify!($name),
            about: $about,
            column: |rows| {
                let value: fn(&$row) -> _ = $value;
                Series::new(stringify!($name).into(), rows.iter().map(value).collect::<Vec<_>>())
            },
        }),*]
    };
}

const RUNS: &[ColumnSpec<Run>] = made! { Run:
    run, "Name of the run.", |run| run.record.run.clone();
    pipeline, "Name of its pipeline.", |run| run.record.pipeline.clone();
    status, "`running`, `done`, `failed`, `interrupted`, or `killed` if it ended without a status.", |run| run.record.status.clone();
    began, "When it began (RFC 3339): as text it sorts by time.", |run| run.record.began.clone();
    seconds, "Its duration in seconds.", |run| run.record.seconds;
    nodes, "Nodes of its graph.", |run| run.record.nodes as u64;
    ran, "Nodes that were executed.", |run| run.record.ran as u64;
    cached, "Nodes that were found in the cache.", |run| run.record.cached as u64;
    again, "Nodes that were executed although recorded, because a deleted output was needed.", |run| run.record.again as u64;
    failed, "Nodes that failed.", |run| run.record.failed as u64;
    skipped, "Nodes that were not reached.", |run| run.record.skipped as u64;
    variants, "Ablations and seeds that it runs side by side; 1 if there are none.", |run| run.record.params.len() as u64;
    settings, "Its `--set` options.", |run| run.record.settings.join(" ");
    targets, "The nodes that it was asked for; empty if it was asked for all.", |run| run.record.targets.join(" ");
    digest, "Digest of the names and keys of all nodes, once all are done: runs with equal results have equal digests.",
        |run| run.record.digest.map(|digest| digest.to_string());
    triplay, "Version of triplay.", |run| run.record.triplay.clone();
    file, "The pipeline's file.", |run| run.record.file.display().to_string();
    folder, "The run's folder.", |run| run.folder.display().to_string();
    cache, "The cache that holds its outputs.", |run| run.record.cache.display().to_string();
    host, "Name of the machine.", |run| run.record.machine.host.clone();
    system, "Its operating system and architecture.", |run| run.record.machine.system.clone();
    processor, "Its processor.", |run| run.record.machine.processor.clone();
    cores, "Its cores.", |run| run.record.machine.cores as u64;
    memory, "Its memory in bytes.", |run| run.record.machine.memory;
};

/// A parameter of a run.
struct Param {
    run: String,
    pipeline: String,
    ablation: String,
    variant: String,
    seed: Option<u64>,
    name: String,
    value: Value,
    /// The value as it was typed.
    typed: String,
}

impl Param {
    fn text(&self) -> String {
        match &self.value {
            Value::String(text) => text.clone(),
            _ => self.typed.clone(),
        }
    }
}

/// The parameters of the variants of all runs. Runs that cannot be read are reported by the tables that need them.
pub(crate) fn assigned(folders: &[PathBuf]) -> Vec<ParamRow> {
    let (runs, _) = records(folders, record);
    let mut rows = Vec::new();
    for param in runs.iter().flat_map(params) {
        let mut values = vec![(param.name.clone(), param.text())];
        values_within(&param.name, &param.value, &mut values);
        rows.extend(values.into_iter().map(|(name, value)| ParamRow {
            run: param.run.clone(),
            pipeline: param.pipeline.clone(),
            variant: param.variant.clone(),
            node: String::new(),
            name,
            value,
        }));
    }
    rows
}

/// The values in a map, by their paths: `train.lr`.
fn values_within(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        found.push((path.clone(), text));
        values_within(&path, value, found);
    }
}

const PARAMS: &[ColumnSpec<Param>] = made! { Param:
    run, "Name of the run.", |row| row.run.clone();
    pipeline, "Name of its pipeline.", |row| row.pipeline.clone();
    ablation, "The ablation; empty if there is none.", |row| row.ablation.clone();
    variant, "Ablation and seed as in the names of nodes, such as `full-s1`.", |row| row.variant.clone();
    variant_seed, "The seed, if the run has several.", |row| row.seed;
    name, "Name of the parameter.", |row| row.name.clone();
    value, "Its value as text, as it was typed; lists and maps as JSON.", Param::text;
    number, "Its value, if it is a number.", |row| row.value.as_f64();
};

/// A model that a node of a run made.
struct Checkpoint {
    run: String,
    pipeline: String,
    node: NodeReport,
    output: NodeOutput,
    kept: bool,
}

impl Checkpoint {
    fn variant(&self) -> (String, Option<u64>, String, String) {
        let (ablation, seed, name) = runs::variant(&self.node.node);
        let full = self.node.node.strip_suffix(name).unwrap_or_default().trim_end_matches('/');
        (ablation.to_owned(), seed, name.to_owned(), full.to_owned())
    }

    fn position(&self, depth: usize) -> u32 {
        self.node.position.get(depth).copied().unwrap_or(0)
    }
}

const CHECKPOINTS: &[ColumnSpec<Checkpoint>] = made! { Checkpoint:
    run, "Name of the run.", |row| row.run.clone();
    pipeline, "Name of its pipeline.", |row| row.pipeline.clone();
    ablation, "The ablation; empty if there is none.", |row| row.variant().0;
    variant, "Ablation and seed as in the names of nodes, such as `full-s1`.", |row| row.variant().3;
    variant_seed, "The seed, if the run has several.", |row| row.variant().1;
    node, "The node that made it, without the variant, such as `play[1]/red[03]/update`.", |row| row.variant().2;
    output, "The name of the node's output.", |row| row.output.name.clone();
    kind, "The node's stage kind.", |row| row.node.kind.clone();
    iteration, "Round of the outermost loop, from 1; 0 outside loops.", |row| row.position(0);
    step, "Round of the loop within, from 1; 0 where there is none.", |row| row.position(1);
    key, "The node's key: a hash of everything that its outputs depend on.", |row| row.node.key.to_string();
    digest, "The digest of its content.", |row| row.output.digest.to_string();
    bytes, "Its size in bytes.", |row| row.output.bytes;
    seconds, "Seconds of work when it was made, possibly in an earlier run.", |row| row.node.seconds;
    cached, "Whether this run found it in the cache.", |row| row.node.cached;
    kept, "Whether the cache still has it.", |row| row.kept;
};

const ABOUT: [(&str, &str); 3] = [
    ("runs", "a run"),
    ("params", "a parameter of one of a run's ablations and seeds"),
    ("checkpoints", "a model that a run made"),
];

/// The descriptions of the tables.
pub(crate) fn described() -> Vec<TableDoc> {
    let [runs, params, checkpoints] = ABOUT;
    vec![document(runs, RUNS), document(params, PARAMS), document(checkpoints, CHECKPOINTS)]
}

fn document<R>((name, about): (&'static str, &'static str), columns: &[ColumnSpec<R>]) -> TableDoc {
    let columns = columns.iter().map(|made| ColumnDoc {
        name: made.name.to_owned(),
        kind: kind((made.column)(&[]).dtype()),
        about: made.about.to_owned(),
    });
    TableDoc { name, about, columns: columns.collect() }
}

/// The table of this name, if it is one of these, and warnings about runs that could not be read.
pub(crate) fn open(name: &str, folders: &[PathBuf]) -> anyhow::Result<(Option<LazyFrame>, Vec<String>)> {
    let (frame, warnings) = match name {
        "runs" => {
            let (runs, warnings) = records(folders, record);
            (frame(RUNS, &runs)?, warnings)
        }
        "params" => {
            let (runs, warnings) = records(folders, record);
            (frame(PARAMS, &runs.iter().flat_map(params).collect::<Vec<_>>())?, warnings)
        }
        "checkpoints" => {
            let (runs, warnings) = records(folders, |folder| Ok(checkpoints(Run::read(folder)?)));
            (frame(CHECKPOINTS, &runs.into_iter().flatten().collect::<Vec<_>>())?, warnings)
        }
        _ => return Ok((None, Vec::new())),
    };
    Ok((Some(frame.lazy()), warnings))
}

fn frame<R>(columns: &[ColumnSpec<R>], rows: &[R]) -> anyhow::Result<DataFrame> {
    let columns: Vec<Column> = columns.iter().map(|made| (made.column)(rows).into()).collect();
    Ok(DataFrame::new(rows.len(), columns)?)
}

fn params(run: &Run) -> Vec<Param> {
    let mut rows = Vec::new();
    for (variant, params) in &run.record.params {
        // In the form of a node's name.
        let node = format!("{variant}/");
        let (ablation, seed, _) = if variant.is_empty() { ("", None, "") } else { runs::variant(&node) };
        for (name, typed) in run.record.typed_params(variant) {
            rows.push(Param {
                run: run.record.run.clone(),
                pipeline: run.record.pipeline.clone(),
                ablation: ablation.to_owned(),
                variant: variant.clone(),
                seed,
                name: name.to_owned(),
                value: params[name].clone(),
                typed: typed.into_owned(),
            });
        }
    }
    rows
}

fn checkpoints(run: Run) -> Vec<Checkpoint> {
    let mut nodes: Vec<&NodeReport> = run.nodes.iter().collect();
    nodes.sort_by_key(|node| node.index);
    let mut rows = Vec::new();
    for node in nodes {
        for output in node.outputs.iter().filter(|output| output.artifact == "model") {
            rows.push(Checkpoint {
                run: run.record.run.clone(),
                pipeline: run.record.pipeline.clone(),
                kept: run.record.blob(&output.digest).exists(),
                node: node.clone(),
                output: output.clone(),
            });
        }
    }
    rows
}
