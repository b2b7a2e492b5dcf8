//! Tables: the rows of all nodes of a run together, one Parquet file for each kind of row, for queries, comparisons and reports.
//! They are created on first use and stay in the run's folder, `tables/<stamp>/`, so that they outlive the cache. The stamp
//! depends on the finished nodes, so a run under way gets new tables as it continues.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use rayon::prelude::*;

use super::folder::{NODES, Run, place_in, read_in, recorded_at};
use super::lineage::Lineage;
use super::variant::{stage, variant};
use super::widen::{AFTER, CONVERSATION, NOTES, Place, TOKENS, TURN, TURNS, widened};
use data::{
    self, AttackRow, Column, ComparisonRow, ComponentRow, LabelRow, MeaningRow, MetricRow, NoteRow,
    OutcomeRow, PreferenceRow, ResponseRow, RewardRow, TableWriter, VerdictRow,
};
use engine::{NodeOutput, NodeReport, Purpose};
use store::Digest;
use store::read::{self, MAX_LIST_BYTES, MAX_TEXT_BYTES};

/// Raised when the content of tables changes.
const FORMAT: u32 = 4;

/// A kind of rows.
pub struct Table {
    /// The name in SQL, such as `attacks`, and of the file.
    pub name: &'static str,
    /// A description of one row.
    pub about: &'static str,
    /// The artifact type whose rows these are; or a column of lists in it whose items these are.
    of: (&'static str, Option<&'static str>),
    /// The artifact types that these rows are made from: such an output of the node, or else its input `data`, is their source.
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
        let has = |name: &str| own.iter().any(|field| field.name() == name);
        let (has_tokens, has_turns, has_notes, has_phase) =
            (has(TOKENS), has(TURNS), has(NOTES), has("phase"));
        // Token ids serve training only; tables hold text.
        own.retain(|field| !matches!(field.data_type(), DataType::List(_)) || field.name() == "votes");
        fields.extend(own.into_iter().map(|field| field.with_nullable(true)));
        let told = [
            (has_turns || has_notes || self.of.1.is_some(), &EPISODE[..1]),
            (has_turns, &EPISODE[1..]),
            (has_tokens, &MEASURED[..]),
            (has_phase, &PLACED[..]),
        ];
        for (name, data_type, about) in told.into_iter().filter(|(has, _)| *has).flat_map(|(_, told)| told) {
            fields.push(described(name, data_type.clone(), about));
        }
        Arc::new(Schema::new(fields))
    }
}

/// The environment variable in which `triplay` passes its layout to `triplay-query`.
pub const LAYOUT: &str = "TRIPLAY_TABLES";

/// The digest of the layout of all tables. Programs with the same layout can read each other's tables.
pub fn layout() -> Digest {
    let mut text = FORMAT.to_string();
    for table in &TABLES {
        for field in table.schema().fields() {
            text += &format!("\n{}.{}: {}", table.name, field.name(), field.data_type());
        }
    }
    Digest::of_bytes(text.as_bytes())
}

/// The columns that all tables begin with.
const SHARED: [(&str, DataType, &str); 10] = [
    ("run", DataType::Utf8, "Name of the run."),
    ("pipeline", DataType::Utf8, "Name of its pipeline."),
    ("ablation", DataType::Utf8, "The ablation; empty if there is none."),
    ("variant", DataType::Utf8, "Ablation and seed as in the names of nodes, such as `full-s1`."),
    ("variant_seed", DataType::UInt64, "The seed, if the run or the node's matrix has several."),
    (
        "node",
        DataType::Utf8,
        "The node that made the row, without the variant, such as `play[1]/red[03]/attacks`.",
    ),
    ("scope", DataType::Utf8, "The loop round or the evaluation that the row belongs to."),
    ("kind", DataType::Utf8, "The node's stage kind."),
    ("dataset", DataType::Utf8, "First 16 hexadecimal digits of the digest of the node's output."),
    (
        "source",
        DataType::Utf8,
        "The same digits of the dataset that it was made from; ids such as `attack_id` refer to that one.",
    ),
];

/// The columns that replace token ids and their log-probabilities.
const MEASURED: [(&str, DataType, &str); 2] = [
    ("tokens", DataType::UInt32, "Tokens of the completion."),
    ("logprob", DataType::Float64, "Sum of their log-probabilities, in nats."),
];

/// The column that places a row in the order of the run.
const PLACED: [(&str, DataType, &str); 1] = [(
    AFTER,
    DataType::Utf8,
    "The phase after which it was measured, as tables and curves name it: `warm-up`, `1 red`, or `1.3` for a training step.",
)];

/// The columns that place a row in its episode.
const EPISODE: [(&str, DataType, &str); 2] = [
    (TURN, DataType::UInt32, "Turn of its episode, from 1."),
    (CONVERSATION, DataType::Utf8, "The earlier turns, a line for each speaker."),
];

/// The table of the parameters that matrices give to nodes. No dataset has its rows.
pub const AXES: &str = "axes";

fn axes(fields: &mut Vec<Field>) {
    fields.extend([
        described("name", DataType::Utf8, "Name of the axis, or of another parameter that the matrix gives."),
        described("value", DataType::Utf8, "Its value as text, as it was typed; of a map or list the label."),
        described("number", DataType::Float64, "Its value, if it is a number."),
    ]);
}

fn fields<R: Column>(fields: &mut Vec<Field>) {
    R::fields("", "", fields);
}

/// All kinds of rows. Each has the name of its artifact, or of the column of lists in it.
pub static TABLES: [Table; 13] = [
    Table {
        name: "metrics",
        about: "a number that a stage reports",
        sources: &[],
        of: ("metrics", None),
        fields: fields::<MetricRow>,
    },
    Table {
        name: "outcomes",
        about: "a prompt of an evaluation and its outcome",
        sources: &[],
        of: ("outcomes", None),
        fields: fields::<OutcomeRow>,
    },
    Table {
        name: "attacks",
        about: "an attack",
        sources: &[],
        of: ("attacks", None),
        fields: fields::<AttackRow>,
    },
    Table {
        name: "responses",
        about: "a response to an attack",
        sources: &["attacks"],
        of: ("responses", None),
        fields: fields::<ResponseRow>,
    },
    Table {
        name: "verdicts",
        about: "a verdict on a response",
        sources: &["responses", "labels"],
        of: ("verdicts", None),
        fields: fields::<VerdictRow>,
    },
    Table {
        name: "labels",
        about: "the experts' label of a pair",
        sources: &[],
        of: ("labels", None),
        fields: fields::<LabelRow>,
    },
    Table {
        name: "meanings",
        about: "a judge's answer on an attack's meaning",
        sources: &["attacks"],
        of: ("meanings", None),
        fields: fields::<MeaningRow>,
    },
    Table {
        name: "rewards",
        about: "the reward of a completion",
        sources: &["attacks", "responses", "verdicts"],
        of: ("rewards", None),
        fields: fields::<RewardRow>,
    },
    Table {
        name: "components",
        about: "the part of one term in a completion's reward",
        sources: &["attacks", "responses", "verdicts"],
        of: ("rewards", Some("components")),
        fields: fields::<ComponentRow>,
    },
    Table {
        name: "notes",
        about: "a note of a reward's term about a completion",
        sources: &["attacks", "responses", "verdicts"],
        of: ("rewards", Some("notes")),
        fields: fields::<NoteRow>,
    },
    Table {
        name: "comparisons",
        about: "a judge's answer on which of two completions is better",
        sources: &["attacks", "responses"],
        of: ("comparisons", None),
        fields: fields::<ComparisonRow>,
    },
    Table {
        name: "preferences",
        about: "two completions of one prompt, the better and the worse",
        sources: &["attacks", "responses", "rewards"],
        of: ("preferences", None),
        fields: fields::<PreferenceRow>,
    },
    Table {
        name: AXES,
        about: "a parameter that a matrix gives to a node",
        sources: &[],
        of: ("", None),
        fields: axes,
    },
];

/// A parameter of a variant.
#[derive(Clone)]
pub struct ParamRow {
    /// Name of the run.
    pub run: String,
    /// Name of its pipeline.
    pub pipeline: String,
    /// Ablation and seed, as in the names of nodes.
    pub variant: String,
    /// The node that a matrix gave it to, without the variant; empty if it holds for all nodes.
    pub node: String,
    /// Name of the parameter.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// The tables of one run.
pub struct Tables {
    folder: PathBuf,
    /// The number of datasets that are gone from the cache, so that the tables lack their rows.
    pub missing: usize,
}

impl Tables {
    /// The tables of a run. They are created if there are none for its finished nodes.
    pub fn of(folder: &Path) -> anyhow::Result<Tables> {
        let nodes = read_in(folder, NODES, MAX_LIST_BYTES)?;
        let stamp = format!("{FORMAT}-{}", &Digest::of_bytes(&nodes).to_string()[..STAMP]);
        let beside = place_in(folder, "tables")?;
        if let Some(tables) = Tables::kept(folder, &beside, &stamp)? {
            return Ok(tables);
        }
        // A folder that is not a run's fails before anything is created in it.
        let run = Run::read(folder)?;
        // If the folder cannot be written, as on a shared disk, tables go to the user's own cache.
        let parent = match making_place(&beside) {
            Ok(_) => beside,
            Err(_) => own_cache(folder)?,
        };
        let place = parent.join(&stamp);
        if let Some(tables) = Tables::kept(folder, &parent, &stamp)? {
            return Ok(tables);
        }
        let fail = || format!("cannot create tables in {}", parent.display());
        let making = making_place(&parent).with_context(fail)?;
        let missing =
            make(&run, making.path()).with_context(|| format!("tables of run {}", run.record.run))?;
        fs::write(making.path().join(MISSING), missing.to_string()).with_context(fail)?;
        // Readable by those who may read the run.
        let making = making.keep();
        store::share_as(&parent, &making).with_context(fail)?;
        // Tables that lacked more are replaced. Another process may have created the same ones meanwhile.
        if place.exists() && Tables::open(&parent, &stamp)?.missing != missing {
            let _ = fs::remove_dir_all(&place);
        }
        if fs::rename(&making, &place).is_err() {
            let _ = fs::remove_dir_all(&making);
            anyhow::ensure!(place.exists(), fail());
        }
        sweep(&parent, &place);
        Tables::open(&parent, &stamp)
    }

    /// Existing tables, unless they lack datasets and the cache now has a different number of them.
    fn kept(run: &Path, parent: &Path, stamp: &str) -> anyhow::Result<Option<Tables>> {
        if !place_in(parent, stamp)?.exists() {
            return Ok(None);
        }
        let tables = Tables::open(parent, stamp)?;
        let same = tables.missing == 0 || Run::read(run).is_ok_and(|run| missing(&run) == tables.missing);
        Ok(same.then_some(tables))
    }

    /// The tables of several runs, in their order. Missing ones are created in parallel.
    pub fn of_all(folders: &[PathBuf]) -> Vec<anyhow::Result<Tables>> {
        folders.par_iter().map(|folder| Tables::of(folder)).collect()
    }

    fn open(parent: &Path, stamp: &str) -> anyhow::Result<Tables> {
        let folder = place_in(parent, stamp)?;
        let missing = read::text(&place_in(&folder, MISSING)?, MAX_TEXT_BYTES).unwrap_or_default();
        for table in &TABLES {
            place_in(&folder, &format!("{}.parquet", table.name))?;
        }
        Ok(Tables { folder, missing: missing.parse().unwrap_or(0) })
    }

    /// The parameters that matrices gave to nodes.
    pub fn axes(&self) -> anyhow::Result<Vec<ParamRow>> {
        let table = data::open(&self.path(AXES))?;
        let mut rows = Vec::new();
        for batch in &table.batches {
            let column = |name: &str| {
                let column = batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
                column.with_context(|| format!("{} has no text `{name}`", self.path(AXES).display()))
            };
            let (run, pipeline, variant) = (column("run")?, column("pipeline")?, column("variant")?);
            let (node, name, value) = (column("node")?, column("name")?, column("value")?);
            rows.extend((0..batch.num_rows()).map(|row| ParamRow {
                run: run.value(row).to_owned(),
                pipeline: pipeline.value(row).to_owned(),
                variant: variant.value(row).to_owned(),
                node: node.value(row).to_owned(),
                name: name.value(row).to_owned(),
                value: value.value(row).to_owned(),
            }));
        }
        Ok(rows)
    }

    /// The Parquet file of the table of this name.
    pub fn path(&self, table: &str) -> PathBuf {
        self.folder.join(format!("{table}.parquet"))
    }
}

/// The file with the number of missing datasets.
const MISSING: &str = "missing";

/// Datasets that are read in parallel before their rows are written.
const AT_ONCE: usize = 64;

/// Tables of fewer nodes are removed after this time: a process may be reading them.
const GRACE: Duration = Duration::from_secs(60);

/// Unfinished tables of a killed process are removed after this time.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Digits of the digest in a stamp.
const STAMP: usize = 16;

/// The prefix of folders in which tables are being created.
const MAKING: &str = ".making-";

/// Whether a folder in `tables/` has a name as triplay gives tables, of any format.
pub(super) fn is_stamp(name: &str) -> bool {
    name.split_once('-').is_some_and(|(format, digest)| {
        !format.is_empty()
            && format.bytes().all(|byte| byte.is_ascii_digit())
            && digest.len() == STAMP
            && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

pub(super) fn is_making(name: &str) -> bool {
    name.starts_with(MAKING)
}

/// Whether a file has a name as in a folder of tables.
pub(super) fn is_table(name: &str) -> bool {
    name == MISSING || name.ends_with(".parquet")
}

/// Creates a new folder in this one, which is created too.
fn making_place(parent: &Path) -> std::io::Result<tempfile::TempDir> {
    if parent.is_symlink() {
        // In a folder from a stranger it may lead anywhere.
        return Err(std::io::Error::other(format!("{} is a symbolic link", parent.display())));
    }
    store::create_private(parent)?;
    tempfile::Builder::new().prefix(MAKING).tempdir_in(parent)
}

/// The place of tables if the folder of their run cannot be written.
fn own_cache(run: &Path) -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.filter(|cache| cache.is_absolute()).with_context(|| {
        format!("{} is not writable; set XDG_CACHE_HOME to a folder that is", run.display())
    })?;
    let run = fs::canonicalize(run).with_context(|| format!("cannot find {}", run.display()))?;
    let name = Digest::of_bytes(run.as_os_str().as_encoded_bytes()).to_string();
    Ok(cache.join("triplay").join("tables").join(&name[..16]))
}

/// Removes tables beside these that are no longer needed.
fn sweep(parent: &Path, place: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let grace = match (is_making(&name), is_stamp(&name)) {
            (true, _) => ABANDONED,
            (_, true) => GRACE,
            // Not created by triplay.
            _ => continue,
        };
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if path != place && age.is_some_and(|age| age > grace) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// The datasets of all tables, for each table in the order of the graph.
fn datasets(run: &Run) -> Vec<(&'static Table, &NodeReport, &NodeOutput)> {
    let mut nodes: Vec<&NodeReport> = run.nodes.iter().collect();
    nodes.retain(|node| run.record.purpose(&node.kind) != Purpose::Data);
    nodes.sort_by_key(|node| node.index);
    let mut datasets = Vec::new();
    for table in &TABLES {
        for node in &nodes {
            let own = node.outputs.iter().filter(|output| output.artifact == table.of.0);
            datasets.extend(own.map(|output| (table, *node, output)));
        }
    }
    datasets
}

/// The number of datasets that the cache does not have.
fn missing(run: &Run) -> usize {
    let has = |output: &NodeOutput| run.record.blob(&output.digest).exists();
    datasets(run).iter().filter(|(_, _, output)| !has(output)).count()
}

/// Writes all tables of a run into a folder. Returns the number of datasets that are gone.
fn make(run: &Run, folder: &Path) -> anyhow::Result<usize> {
    let store = run.record.store()?;
    let store = store.with_context(|| format!("its cache {} is gone", run.record.cache.display()))?;
    let lineage = Lineage::new(run, Some(&store));
    let mut missing = 0;
    let schemas: HashMap<&str, SchemaRef> = TABLES.iter().map(|table| (table.name, table.schema())).collect();
    let writer = |name: &'static str| -> anyhow::Result<(&'static str, TableWriter)> {
        let path = folder.join(format!("{name}.parquet"));
        Ok((name, TableWriter::create(&path, name, schemas[name].clone())?))
    };
    let mut writers =
        TABLES.iter().map(|table| writer(table.name)).collect::<anyhow::Result<HashMap<_, _>>>()?;
    let mut write = |table: &str, batch: RecordBatch| -> anyhow::Result<()> {
        Ok(writers.get_mut(table).map_or(Ok(()), |writer| writer.write(&batch))?)
    };
    let rows = |(table, node, output): &(&Table, &NodeReport, &NodeOutput)| -> anyhow::Result<_> {
        let about = || format!("{} of {}", output.name, node.node);
        let path = recorded_at(store.blob_path(&output.digest), &output.digest).with_context(about)?;
        let Some(path) = path else { return Ok(None) };
        let rows = match table.of {
            ("metrics", _) => data::metrics_table(&path, stage(&node.node).0).with_context(about)?,
            _ => data::open(&path).with_context(about)?,
        };
        let place = place(run, node, &output.digest.to_string()[..16], table, &lineage);
        let widened = |batch| widened(batch, table.of.1, &schemas[table.name], &place);
        let widened = rows.batches.iter().map(widened);
        Ok(Some(widened.collect::<anyhow::Result<Vec<RecordBatch>>>()?))
    };
    for some in datasets(run).chunks(AT_ONCE) {
        let read: Vec<_> = some.par_iter().map(rows).collect();
        for ((table, ..), batches) in some.iter().zip(read) {
            match batches? {
                Some(batches) => batches.into_iter().try_for_each(|batch| write(table.name, batch))?,
                None => missing += 1,
            }
        }
    }
    for node in run.nodes.iter().filter(|node| !node.params.is_empty()) {
        let place = place(run, node, "", &TABLES[0], &lineage);
        write(AXES, widened(&axes_of(node)?, None, &schemas[AXES], &place)?)?;
    }
    for writer in writers.into_values() {
        writer.close()?;
    }
    Ok(missing)
}

/// The rows of a node in the table [`AXES`].
fn axes_of(node: &NodeReport) -> anyhow::Result<RecordBatch> {
    let (names, values): (Vec<&str>, Vec<&str>) =
        node.params.iter().map(|(name, value)| (name.as_str(), value.as_str())).unzip();
    let numbers: Float64Array = values.iter().map(|value| value.parse::<f64>().ok()).collect();
    let columns: [(&str, ArrayRef); 3] = [
        ("name", Arc::new(StringArray::from(names))),
        ("value", Arc::new(StringArray::from(values))),
        ("number", Arc::new(numbers)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn place(run: &Run, node: &NodeReport, dataset: &str, table: &Table, lineage: &Lineage) -> Place {
    let (ablation, seed, name) = variant(&node.node);
    let seed = seed.or(node.seed);
    let full = node.node.strip_suffix(name).unwrap_or_default().trim_end_matches('/');
    let several =
        node.outputs.iter().filter(|output| TABLES.iter().any(|table| table.of.0 == output.artifact));
    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
    let evaluates = matches!(run.record.purpose(&node.kind), Purpose::Evaluation | Purpose::CrossPlay);
    let scope = if several.count() > 1 && evaluates { name } else { parent };
    let inputs = if table.sources.is_empty() { Vec::new() } else { lineage.inputs(node) };
    let source = source(node, table, &inputs);
    let texts =
        [run.record.run.as_str(), &run.record.pipeline, ablation, full, name, scope, &node.kind, dataset];
    Place { texts: texts.map(str::to_owned), seed, source, inputs }
}

/// The digest of the dataset that a node's rows were made from: an output of the node itself, or an input, of an artifact type
/// that the table names.
fn source(node: &NodeReport, table: &Table, inputs: &[(String, String)]) -> String {
    if table.sources.is_empty() {
        return String::new();
    }
    if let Some(own) = node.outputs.iter().find(|output| table.sources.contains(&output.artifact.as_str())) {
        return own.digest.to_string();
    }
    let data =
        inputs.iter().find(|(path, _)| matches!(path.as_str(), "data" | "by.judge.data" | "by.rewards.data"));
    data.map(|(_, digest)| digest.clone()).unwrap_or_default()
}

fn described(name: &str, data_type: DataType, about: &str) -> Field {
    let metadata = HashMap::from([("description".to_owned(), about.to_owned())]);
    Field::new(name, data_type, true).with_metadata(metadata)
}
