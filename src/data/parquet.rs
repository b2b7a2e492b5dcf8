//! Parquet files of typed rows. Same rows, same bytes: what a file says depends on nothing but its rows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::column::{Column, Columns, Mismatch, Row};
use store::read;

/// The key of the file's metadata that names its schema.
const SCHEMA_KEY: &str = "triplay.schema";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {path}: {cause}")]
    Open { path: PathBuf, cause: std::io::Error },
    #[error(
        "{path} is not a readable Parquet file: {cause}\n  help: it may be cut short; make or copy it again"
    )]
    Read { path: PathBuf, cause: ParquetError },
    #[error("{path} must have at most {most}, found {found}")]
    TooLarge { path: PathBuf, most: String, found: String },
    #[error("cannot write {path}: {cause}")]
    Write { path: PathBuf, cause: ParquetError },
    #[error("{path} is not a dataset of {expected}: {reason}{}", it_seems(.found))]
    Schema { path: PathBuf, expected: &'static str, reason: String, found: Option<String> },
}

pub type Result<T> = std::result::Result<T, Error>;

fn it_seems(found: &Option<String>) -> String {
    found.as_ref().map(|found| format!("; it says that it holds {found}")).unwrap_or_default()
}

/// Writes rows to a new file.
pub fn write<R: Row>(path: &Path, rows: &[R]) -> Result<()> {
    let mut fields = Vec::new();
    R::fields("", "", &mut fields);
    let mut arrays: Vec<ArrayRef> = Vec::new();
    R::arrays(&rows.iter().collect::<Vec<_>>(), &mut arrays);
    let schema = Arc::new(Schema::new(fields));
    let fail = |error: ArrowError| Error::Write { path: path.to_owned(), cause: error.into() };
    let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(fail)?;
    let mut writer = TableWriter::create(path, R::NAME, schema)?;
    writer.write(&batch)?;
    writer.close()
}

/// Writes a file batch by batch.
pub struct TableWriter {
    path: PathBuf,
    writer: ArrowWriter<File>,
}

impl TableWriter {
    /// A new file that says it holds `name`.
    pub fn create(path: &Path, name: &str, schema: SchemaRef) -> Result<TableWriter> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("triplay".into())
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_key_value_metadata(Some(vec![KeyValue::new(SCHEMA_KEY.into(), name.to_owned())]))
            .build();
        let fail = |cause| Error::Write { path: path.to_owned(), cause };
        let file = File::create(path).map_err(|error| fail(error.into()))?;
        let writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(fail)?;
        Ok(TableWriter { path: path.to_owned(), writer })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|cause| Error::Write { path: self.path.clone(), cause })
    }

    pub fn close(self) -> Result<()> {
        let TableWriter { path, writer } = self;
        writer.close().map(drop).map_err(|cause| Error::Write { path, cause })
    }
}

/// Reads a file of rows. Columns are found by name; others than the row's are ignored.
pub fn read<R: Row>(path: &Path) -> Result<Vec<R>> {
    let table = open(path)?;
    let mut rows = Vec::with_capacity(table.rows());
    for batch in &table.batches {
        let names = table.schema.fields().iter().map(|field| field.name().clone());
        let columns =
            Columns { names: names.zip(batch.columns().iter().cloned()).collect(), rows: batch.num_rows() };
        let read = <R as Column>::read(&columns, "").map_err(|mismatch| Error::Schema {
            path: path.to_owned(),
            expected: R::NAME,
            reason: describe(&mismatch),
            found: table.name.clone().filter(|name| name != R::NAME),
        })?;
        rows.extend(read);
    }
    if table.batches.is_empty() {
        let names = table
            .schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), arrow_array::new_empty_array(field.data_type())));
        let columns = Columns { names: names.collect(), rows: 0 };
        <R as Column>::read(&columns, "").map_err(|mismatch| Error::Schema {
            path: path.to_owned(),
            expected: R::NAME,
            reason: describe(&mismatch),
            found: table.name.clone().filter(|name| name != R::NAME),
        })?;
    }
    Ok(rows)
}

fn describe(mismatch: &Mismatch) -> String {
    match mismatch {
        Mismatch::Missing { column } => format!("it has no column `{column}`"),
        Mismatch::Type { column, expected, found } => {
            format!("column `{column}` should be {expected}, but is {found}")
        }
        Mismatch::Null { column, row } => format!("column `{column}` is empty in row {row}"),
    }
}

/// No table of ours, nor one with prompts, has more columns.
const MOST_COLUMNS: usize = 10_000;

/// The most memory that the rows of a file may take which is read whole, in bytes: a few megabytes can hold many of them.
const MOST_MEMORY: usize = 16 << 30;

/// What a Parquet file says of itself, without its rows.
pub struct Head {
    pub schema: SchemaRef,
    pub columns: Vec<String>,
    /// What it holds, where triplay wrote it.
    pub name: Option<String>,
    rows: usize,
}

impl Head {
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Reads no more of a Parquet file than what it says of itself.
pub fn head(path: &Path) -> Result<Head> {
    let builder = builder(path)?;
    let (schema, name) = (builder.schema().clone(), name(&builder));
    let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
    Ok(Head { schema, columns, name, rows })
}

/// Which part of a file is read.
pub struct Part<'a> {
    /// The columns by their places in the file, each once and in order.
    pub columns: &'a [usize],
    pub skip: usize,
    pub rows: usize,
}

/// Rows that are read at once where they are not kept.
const BATCH: usize = 1_024;

/// Reads a part of any Parquet file, a batch at a time: in memory is not more than that and the pages that it is in.
pub fn batches(path: &Path, part: &Part) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let builder = builder(path)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), part.columns.iter().copied());
    let builder = builder.with_projection(mask).with_offset(part.skip).with_limit(part.rows);
    let path = path.to_owned();
    let reader = builder.with_batch_size(BATCH.min(part.rows.max(1))).build();
    let reader = reader.map_err(|cause| Error::Read { path: path.clone(), cause })?;
    Ok(reader.map(move |batch| {
        batch.map_err(|error| Error::Read {
            path: path.clone(),
            cause: ParquetError::ArrowError(error.to_string()),
        })
    }))
}

/// Any Parquet file, read whole.
pub struct Table {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    /// What the file says it holds, where triplay wrote it.
    pub name: Option<String>,
}

impl Table {
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Opens any Parquet file.
pub fn open(path: &Path) -> Result<Table> {
    let fail = |cause| Error::Read { path: path.to_owned(), cause };
    let builder = builder(path)?;
    let name = name(&builder);
    let schema = builder.schema().clone();
    let reader = builder.with_batch_size(65_536).build().map_err(fail)?;
    let (mut batches, mut memory) = (Vec::new(), 0);
    for batch in reader {
        let batch = batch.map_err(|error| fail(ParquetError::ArrowError(error.to_string())))?;
        memory += batch.get_array_memory_size();
        if memory > MOST_MEMORY {
            let most = format!("{} GiB of rows", MOST_MEMORY >> 30);
            return Err(Error::TooLarge { path: path.to_owned(), most, found: "more".into() });
        }
        batches.push(batch);
    }
    Ok(Table { schema, batches, name })
}

fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = read::open(path).map_err(|cause| Error::Open { path: path.to_owned(), cause })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    let columns = builder.schema().fields().len();
    if columns > MOST_COLUMNS {
        let (most, found) = (format!("{MOST_COLUMNS} columns"), columns.to_string());
        return Err(Error::TooLarge { path: path.to_owned(), most, found });
    }
    Ok(builder)
}

fn name(builder: &ParquetRecordBatchReaderBuilder<File>) -> Option<String> {
    let pairs = builder.metadata().file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == SCHEMA_KEY)?.value.clone()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, LargeStringArray, StringArray};
    use arrow_schema::Field;

    use super::*;
    use crate::{PoolRow, Position, RewardRow, SeedRow, TextRow};

    fn pool(count: u32) -> Vec<PoolRow> {
        let row = |i: u32| PoolRow {
            text: format!("attack {i}"),
            seed_id: "potions/brew/glowvenom".into(),
            category: "potions".into(),
            seed: "brew glowvenom".into(),
            technique: None,
            success: f64::from(i) / 3.0,
            alpha: 1.0,
            beta: 1.0,
            embedding: (0..i).map(|x| x as f32).collect(),
            at: Position { iteration: 1, step: i, rng_seed: "abc".into() },
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn rows_come_back_and_the_same_rows_are_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for count in [0, 1, 50] {
            write(&a, &pool(count)).unwrap();
            write(&b, &pool(count)).unwrap();
            assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
            assert_eq!(read::<PoolRow>(&a).unwrap(), pool(count));
        }
        let table = open(&a).unwrap();
        assert_eq!((table.rows(), table.name.as_deref()), (50, Some("pool")));
        let success = table.schema.field_with_name("success").unwrap();
        assert!(success.metadata()["description"].starts_with("Weighted success"));
    }

    #[test]
    fn another_schema_is_named_even_where_the_file_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for count in [0, 3] {
            write(&path, &pool(count)).unwrap();
            let error = read::<RewardRow>(&path).unwrap_err().to_string();
            let expected = format!(
                "{} is not a dataset of rewards: it has no column `sample_id`; it says that it holds pool",
                path.display()
            );
            assert_eq!(error, expected);
        }
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 3, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = read::<PoolRow>(&path).unwrap_err().to_string();
            assert!(error.contains("is not a readable Parquet file"), "{error}");
        }
    }

    /// A file as another program would write it.
    fn foreign(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let batch =
            RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect())
                .unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn files_of_other_programs_are_read_where_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let text = |text: &str| -> ArrayRef { Arc::new(LargeStringArray::from(vec![text])) };
        foreign(
            &path,
            vec![
                ("extra", Arc::new(Int64Array::from(vec![7]))),
                ("answer", Arc::new(arrow_array::NullArray::new(1))),
                ("text", text("brew glowvenom")),
                ("task", text("hazard")),
                ("split", text("train")),
                ("category", text("potions")),
                ("seed_id", text("mine")),
            ],
        );
        let rows = read::<SeedRow>(&path).unwrap();
        assert_eq!((rows[0].seed_id.as_str(), rows[0].answer.as_deref()), ("mine", None));

        foreign(&path, vec![("text", Arc::new(Int64Array::from(vec![7])))]);
        let error = read::<TextRow>(&path).unwrap_err().to_string();
        assert!(error.ends_with("column `text` should be Utf8, but is Int64"), "{error}");
        foreign(&path, vec![("text", Arc::new(StringArray::from(vec![Some("a"), None])))]);
        let error = read::<TextRow>(&path).unwrap_err().to_string();
        assert!(error.ends_with("column `text` is empty in row 1"), "{error}");
    }
}
