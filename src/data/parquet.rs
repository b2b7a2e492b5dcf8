//! Parquet files of typed rows. Same rows, same bytes: what a file says depends on nothing but its rows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::column::{Column, Columns, Mismatch, Row};

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
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by("triplay".into())
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(vec![KeyValue::new(SCHEMA_KEY.into(), R::NAME.to_owned())]))
        .build();
    let fail = |cause| Error::Write { path: path.to_owned(), cause };
    let file = File::create(path).map_err(|error| fail(error.into()))?;
    let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|error| fail(error.into()))?;
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).map_err(fail)?;
    writer.write(&batch).map_err(fail)?;
    writer.close().map_err(fail)?;
    Ok(())
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
    let file = File::open(path).map_err(|cause| Error::Open { path: path.to_owned(), cause })?;
    let fail = |cause| Error::Read { path: path.to_owned(), cause };
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(fail)?;
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    let name = metadata
        .and_then(|pairs| pairs.iter().find(|pair| pair.key == SCHEMA_KEY))
        .and_then(|pair| pair.value.clone());
    let schema = builder.schema().clone();
    let reader = builder.with_batch_size(65_536).build().map_err(fail)?;
    let batches = reader
        .collect::<std::result::Result<Vec<_>, ArrowError>>()
        .map_err(|error| fail(ParquetError::ArrowError(error.to_string())))?;
    Ok(Table { schema, batches, name })
}
