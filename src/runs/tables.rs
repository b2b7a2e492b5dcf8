//! The rows of all nodes of a run together, a Parquet file for each kind of row: what queries, comparisons and reports
//! read. They are made when they are first asked for and stay in the run's folder, `tables/<stamp>/`, so that they
//! outlive the cache; the stamp is of the nodes that are done, so a run under way gets new ones as it goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{
    Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use rayon::prelude::*;

use super::folder::Run;
use super::lineage::Lineage;
use super::variant::variant;
use crate::data::{
    self, AttackRow, Column, LabelRow, MeaningRow, MetricRow, OutcomeRow, ResponseRow, RewardRow,
    TableWriter, VerdictRow,
};
use crate::engine::NodeReport;
use crate::store::{Digest, Store};

/// Raised when what stands in tables changes.
const FORMAT: u32 = 1;

/// A kind of rows.
pub struct Table {
    pub name: &'static str,
    /// What a row is.
    pub about: &'static str,
    /// The artifacts that rows of this kind are made of: the newest dataset that the node took is their source.
    sources: &'static [&'static str],
    fields: fn(&mut Vec<Field>),
}

impl Table {
    /// The columns with their descriptions.
    pub fn schema(&self) -> SchemaRef {
        let mut fields: Vec<Field> = Vec::new();
        for (name, data_type, about) in SHARED {
            fields.push(described(name, data_type.clone(), about));
        }
        let mut own = Vec::new();
        (self.fields)(&mut own);
        let has_tokens = own.iter().any(|field| field.name() == TOKENS);
        // Token ids are for training: what is read here is text.
        own.retain(|field| !matches!(field.data_type(), DataType::List(_)) || field.name() == "votes");
        fields.extend(own.into_iter().map(|field| field.with_nullable(true)));
        if has_tokens {
            for (name, data_type, about) in MEASURED {
                fields.push(described(name, data_type.clone(), about));
            }
        }
        Arc::new(Schema::new(fields))
    }
}

/// The columns that all tables begin with.
const SHARED: [(&str, DataType, &str); 10] = [
    ("run", DataType::Utf8, "Name of the run."),
    ("pipeline", DataType::Utf8, "Name of its pipeline."),
    ("ablation", DataType::Utf8, "The ablation; empty of the pipeline as it stands."),
    ("variant", DataType::Utf8, "Ablation and seed as in the names of nodes, such as `full-s1`."),
    ("variant_seed", DataType::UInt64, "The seed, where the run has several."),
    (
        "node",
        DataType::Utf8,
        "The node that made the row, without the variant, such as `play[1]/red[03]/attacks`.",
    ),
    (
        "scope",
        DataType::Utf8,
        "What the row belongs to: the round of the loop that the node is in, or the evaluation.",
    ),
    ("kind", DataType::Utf8, "The node's stage kind."),
    ("dataset", DataType::Utf8, "First 16 hexadecimal digits of the digest of the node's output."),
    (
        "source",
        DataType::Utf8,
        "Those of the dataset that it was made of: ids such as `attack_id` are of that one.",
    ),
];

/// The columns that stand for token ids and their log-probabilities.
const MEASURED: [(&str, DataType, &str); 2] = [
    ("tokens", DataType::UInt32, "Tokens of the completion."),
    ("logprob", DataType::Float64, "Sum of their log-probabilities, in nats."),
];

const TOKENS: &str = "completion_ids";
const LOGPROBS: &str = "logprobs";

fn fields<R: Column>(fields: &mut Vec<Field>) {
    R::fields("", "", fields);
}

/// All kinds of rows; each is called as its artifact.
pub const TABLES: [Table; 8] = [
    Table {
        name: "metrics",
        about: "a number that a stage reports",
        sources: &[],
        fields: fields::<MetricRow>,
    },
    Table {
        name: "outcomes",
        about: "a prompt of an evaluation and what came of it",
        sources: &[],
        fields: fields::<OutcomeRow>,
    },
    Table { name: "attacks", about: "an attack", sources: &[], fields: fields::<AttackRow> },
    Table {
        name: "responses",
        about: "a response to an attack",
        sources: &["attacks"],
        fields: fields::<ResponseRow>,
    },
    Table {
        name: "verdicts",
        about: "a verdict on a response",
        sources: &["responses", "labels"],
        fields: fields::<VerdictRow>,
    },
    Table { name: "labels", about: "the experts' label of a pair", sources: &[], fields: fields::<LabelRow> },
    Table {
        name: "meanings",
        about: "a judge's word on an attack's meaning",
        sources: &["attacks"],
        fields: fields::<MeaningRow>,
    },
    Table {
        name: "rewards",
        about: "what a completion earned",
        sources: &["attacks", "responses", "verdicts"],
        fields: fields::<RewardRow>,
    },
];

/// The tables of one run.
pub struct Tables {
    folder: PathBuf,
    /// Datasets that the cache has let go of, whose rows are not in the tables.
    pub missing: usize,
}

impl Tables {
    /// The tables of a run; made now if there are none of what it has done so far.
    pub fn of(folder: &Path) -> anyhow::Result<Tables> {
        let nodes = folder.join("nodes.jsonl");
        let nodes = fs::read(&nodes).with_context(|| format!("cannot read {}", nodes.display()))?;
        let stamp = format!("{FORMAT}-{}", &Digest::of_bytes(&nodes).to_string()[..16]);
        let tables = folder.join("tables");
        let kept = tables.join(&stamp);
        if kept.exists() {
            return Tables::open(kept);
        }
        let run = Run::read(folder)?;
        // Where the folder cannot be written, as on a shared disk, they go where temporary files go.
        let parent = match fs::create_dir_all(&tables) {
            Ok(()) => tables,
            Err(_) => std::env::temp_dir().join("triplay-tables"),
        };
        let place = parent.join(&stamp);
        if place.exists() {
            return Tables::open(place);
        }
        let fail = || format!("cannot make tables in {}", parent.display());
        fs::create_dir_all(&parent).with_context(fail)?;
        let making = tempfile::Builder::new().prefix(".making-").tempdir_in(&parent).with_context(fail)?;
        let missing =
            make(&run, making.path()).with_context(|| format!("tables of run {}", run.record.run))?;
        fs::write(making.path().join("missing"), missing.to_string()).with_context(fail)?;
        // Another process may have made the same meanwhile; those of earlier nodes are of no use any more.
        let older: Vec<PathBuf> = fs::read_dir(&parent)
            .with_context(fail)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| parent.ends_with("tables") && path.is_dir() && *path != place)
            .filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
            .collect();
        let making = making.keep();
        if fs::rename(&making, &place).is_err() {
            let _ = fs::remove_dir_all(&making);
            anyhow::ensure!(place.exists(), fail());
        }
        older.iter().for_each(|path| drop(fs::remove_dir_all(path)));
        Tables::open(place)
    }

    /// Those of several runs, in their order; what has to be made is made side by side.
    pub fn of_all(folders: &[PathBuf]) -> Vec<anyhow::Result<Tables>> {
        folders.par_iter().map(|folder| Tables::of(folder)).collect()
    }

    fn open(folder: PathBuf) -> anyhow::Result<Tables> {
        let missing = fs::read_to_string(folder.join("missing")).unwrap_or_default().parse().unwrap_or(0);
        Ok(Tables { folder, missing })
    }

    /// The Parquet file of the table of this name.
    pub fn path(&self, table: &str) -> PathBuf {
        self.folder.join(format!("{table}.parquet"))
    }
}

/// Writes all tables of a run into a folder; says how many datasets were not there any more.
fn make(run: &Run, folder: &Path) -> anyhow::Result<usize> {
    // Opening a cache that is gone would make a new one.
    anyhow::ensure!(run.record.cache.is_dir(), "its cache {} is gone", run.record.cache.display());
    let store = Store::open(&run.record.cache)?;
    let lineage = Lineage::new(run, &store);
    let mut nodes: Vec<&NodeReport> = run.nodes.iter().collect();
    nodes.sort_by_key(|node| node.index);
    let mut missing = 0;
    for table in &TABLES {
        let schema = table.schema();
        let mut writer =
            TableWriter::create(&folder.join(format!("{}.parquet", table.name)), table.name, schema.clone())?;
        for node in nodes.iter().filter(|node| !matches!(node.kind.as_str(), "sandbox" | "empty")) {
            for output in node.outputs.iter().filter(|output| output.artifact == table.name) {
                let path = store.blob_path(&output.digest);
                if !path.exists() {
                    missing += 1;
                    continue;
                }
                let rows = data::open(&path).with_context(|| format!("{} of {}", output.name, node.node))?;
                let place = place(run, node, &output.digest, table, &lineage);
                for batch in &rows.batches {
                    writer.write(&widened(batch, &schema, &place)?)?;
                }
            }
        }
        writer.close()?;
    }
    Ok(missing)
}

/// Where rows come from: the values of [`SHARED`].
struct Place {
    texts: [String; 9],
    seed: Option<u64>,
}

fn place(run: &Run, node: &NodeReport, digest: &Digest, table: &Table, lineage: &Lineage) -> Place {
    let (ablation, seed, name) = variant(&node.node);
    let full = node.node.strip_suffix(name).unwrap_or_default().trim_end_matches('/');
    let several =
        node.outputs.iter().filter(|output| TABLES.iter().any(|table| table.name == output.artifact));
    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
    let scope = if several.count() > 1 && node.kind != "update" { name } else { parent };
    let source = source(node, table, lineage);
    let texts = [
        &run.record.run,
        &run.record.pipeline,
        ablation,
        full,
        name,
        scope,
        &node.kind,
        &digest.to_string()[..16],
        source.get(..16).unwrap_or_default(),
    ];
    Place { texts: texts.map(str::to_owned), seed }
}

/// The digest of what a node made its rows of: an input of the artifact that the table says, or an output of its own.
fn source(node: &NodeReport, table: &Table, lineage: &Lineage) -> String {
    if table.sources.is_empty() {
        return String::new();
    }
    if let Some(own) = node.outputs.iter().find(|output| table.sources.contains(&output.artifact.as_str())) {
        return own.digest.to_string();
    }
    let inputs = lineage.inputs(node);
    // A reward's rule names several datasets: the one that earned it is called after what the role writes.
    let named = inputs.iter().find(|(path, _)| {
        matches!(
            path.as_str(),
            "data" | "rule.attacker.attacks" | "rule.defender.responses" | "rule.evaluator.verdicts"
        )
    });
    named.map(|(_, digest)| digest.clone()).unwrap_or_default()
}

/// A node's rows with the columns of the table.
fn widened(batch: &RecordBatch, schema: &SchemaRef, place: &Place) -> anyhow::Result<RecordBatch> {
    let rows = batch.num_rows();
    let text = |text: &String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)))
    };
    let [run, pipeline, ablation, variant, rest @ ..] = &place.texts;
    let mut columns: Vec<ArrayRef> = [run, pipeline, ablation, variant].map(text).into();
    columns.push(Arc::new(UInt64Array::from(vec![place.seed; rows])));
    columns.extend(rest.iter().map(text));
    for field in schema.fields().iter().skip(SHARED.len()) {
        let column = match field.name().as_str() {
            "tokens" => batch.column_by_name(TOKENS).map(lengths),
            "logprob" => batch.column_by_name(LOGPROBS).map(sums),
            name => batch.column_by_name(name).cloned(),
        };
        // Runs of earlier versions lack columns.
        let column = column.filter(|column| column.data_type() == field.data_type());
        columns.push(column.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
    }
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

fn lengths(lists: &ArrayRef) -> ArrayRef {
    let lists = lists.as_list_opt::<i32>();
    Arc::new(UInt32Array::from_iter_values(
        lists.into_iter().flat_map(|lists| (0..lists.len()).map(|row| lists.value_length(row) as u32)),
    ))
}

fn sums(lists: &ArrayRef) -> ArrayRef {
    let sum = |list: Option<ArrayRef>| {
        let list = list?;
        let values = list.as_primitive_opt::<Float32Type>()?;
        Some(values.values().iter().map(|value| f64::from(*value)).sum::<f64>())
    };
    let lists = lists.as_list_opt::<i32>();
    Arc::new(lists.into_iter().flat_map(|lists| lists.iter().map(sum)).collect::<Float64Array>())
}

fn described(name: &str, data_type: DataType, about: &str) -> Field {
    let metadata = std::collections::HashMap::from([("description".to_owned(), about.to_owned())]);
    Field::new(name, data_type, true).with_metadata(metadata)
}
