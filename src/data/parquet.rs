//! Parquet files of typed rows. A file's bytes depend on its rows alone: the same rows give the same bytes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, RowGroupMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::column::{Columns, Mismatch, Row, SPARSE};
use store::read;

/// The key of the file's metadata that names its schema.
const SCHEMA_KEY: &str = "triplay.schema";

/// Why a dataset could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or created.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        cause: std::io::Error,
    },
    /// The file is not valid Parquet, or damaged.
    #[error("{path} is not a readable Parquet file: {cause}\n  help: {}", remedy(.cause))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the reader of Parquet reported.
        cause: ParquetError,
    },
    /// The file holds more than is read.
    #[error("{path} must have at most {most}, found {found}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, with its unit.
        most: String,
        /// What the file has, with its unit.
        found: String,
    },
    /// The Parquet file could not be written.
    #[error("cannot write {path}: {cause}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the writer of Parquet reported.
        cause: ParquetError,
    },
    /// The JSON lines could not be written.
    #[error("cannot write {path}: {cause}")]
    Lines {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        cause: std::io::Error,
    },
    /// The columns are not those of the expected rows.
    #[error("{path} is not a dataset of {expected}: {reason}{}", it_seems(.found))]
    Schema {
        /// The file.
        path: PathBuf,
        /// The name of the expected schema.
        expected: &'static str,
        /// The first column that does not fit, and why.
        reason: String,
        /// The name of the schema in the file, if triplay wrote it.
        found: Option<String>,
    },
}

/// A result whose error is that of a dataset.
pub type Result<T> = std::result::Result<T, Error>;

fn remedy(cause: &ParquetError) -> &'static str {
    match cause.to_string() {
        text if text.contains("codec type") || text.contains("Disabled feature") => {
            "write it uncompressed, or compressed by snappy, zstd, gzip, lz4 or brotli"
        }
        _ => "it may be truncated; write or copy it again",
    }
}

fn it_seems(found: &Option<String>) -> String {
    found.as_ref().map(|found| format!("; its metadata says that it holds {found}")).unwrap_or_default()
}

/// Rows as columns, without sparse columns that say nothing.
fn batch<R: Row>(path: &Path, rows: &[R]) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    R::fields("", "", &mut fields);
    let mut arrays: Vec<ArrayRef> = Vec::new();
    R::arrays(&rows.iter().collect::<Vec<_>>(), &mut arrays);
    let columns = fields.into_iter().zip(arrays).filter_map(|(mut field, array)| {
        let is_sparse = field.metadata_mut().remove(SPARSE).is_some();
        (!is_sparse || array.null_count() < array.len()).then_some((field, array))
    });
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.unzip();
    let fail = |error: ArrowError| Error::Write { path: path.to_owned(), cause: error.into() };
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(fail)
}

/// Writes rows to a new file.
pub fn write<R: Row>(path: &Path, rows: &[R]) -> Result<()> {
    let batch = batch(path, rows)?;
    let mut writer = TableWriter::create(path, R::NAME, batch.schema())?;
    writer.write(&batch)?;
    writer.close()
}

/// Writes a file batch by batch.
pub struct TableWriter {
    path: PathBuf,
    writer: ArrowWriter<File>,
}

impl TableWriter {
    /// Creates a file whose metadata says that it holds `name`.
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

    /// Appends a batch, whose schema must be that of the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|cause| Error::Write { path: self.path.clone(), cause })
    }

    /// Writes the footer. Without it the file is not readable.
    pub fn close(self) -> Result<()> {
        let TableWriter { path, writer } = self;
        writer.close().map(drop).map_err(|cause| Error::Write { path, cause })
    }
}

/// Whether a file begins with the magic number of Parquet.
pub fn is_parquet(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    if path.is_file() {
        read::open(path)?.take(4).read_to_end(&mut start)?;
    }
    Ok(start == b"PAR1")
}

/// Reads a file of rows. Columns are found by name; other columns are ignored.
pub fn read<R: Row>(path: &Path) -> Result<Vec<R>> {
    let table = open(path)?;
    let mut rows = Vec::with_capacity(table.rows());
    let empty = [RecordBatch::new_empty(table.schema.clone())];
    let batches = if table.batches.is_empty() { &empty[..] } else { &table.batches };
    for batch in batches {
        let names = table.schema.fields().iter().map(|field| field.name().clone());
        let names = names.zip(batch.columns().iter().cloned()).collect();
        let columns = Columns { names, rows: batch.num_rows(), any_number: R::ANY_NUMBER };
        let read = R::read(&columns, "").and_then(|read| columns.check_logprob_lengths().map(|()| read));
        let read = read.map_err(|mismatch| Error::Schema {
            path: path.to_owned(),
            expected: R::NAME,
            reason: describe(&mismatch, rows.len()),
            found: table.name.clone().filter(|name| name != R::NAME),
        })?;
        rows.extend(read);
    }
    Ok(rows)
}

/// Describes a mismatch in a batch that follows `before` rows.
fn describe(mismatch: &Mismatch, before: usize) -> String {
    match mismatch {
        Mismatch::Missing { column } => format!("it has no column `{column}`"),
        Mismatch::Type { column, expected, found } => {
            format!("column `{column}` must be {expected}, found {found}")
        }
        Mismatch::Value { column, row, what } => {
            format!("column `{column}`, row {}: {what}", before + row)
        }
    }
}

/// The most columns of a file. No dataset of triplay's, nor any of prompts, has more.
const MOST_COLUMNS: usize = 10_000;

/// The most memory for the rows of a file that is read whole, in bytes: a few megabytes on disk may unpack to many of them.
const MOST_MEMORY: usize = 16 << 30;

/// The most bytes of a value, as the mean of a column chunk: its values are unpacked together. An imported text has at most a
/// quarter of that.
const MOST_VALUE: i64 = 64 << 20;

/// The metadata of a Parquet file.
pub struct Head {
    /// Names and types of the columns.
    pub schema: SchemaRef,
    /// The names of the columns, in the order of the file.
    pub columns: Vec<String>,
    /// The name of the rows' schema, if triplay wrote the file.
    pub name: Option<String>,
    rows: usize,
}

impl Head {
    /// The number of rows, as the footer says.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Reads only the metadata of a Parquet file.
pub fn head(path: &Path) -> Result<Head> {
    let builder = builder(path)?;
    let (schema, name) = (builder.schema().clone(), name(&builder));
    let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
    Ok(Head { schema, columns, name, rows })
}

/// The part of a file that is read.
pub struct Part<'a> {
    /// Indices of the columns in the file, each once and in order.
    pub columns: &'a [usize],
    /// Rows to skip from the beginning of the file.
    pub skip: usize,
    /// The most rows to read after these.
    pub rows: usize,
}

/// Rows per batch when they are not kept.
const BATCH: usize = 1_024;

/// Reads a part of any Parquet file in batches. Memory holds no more than one batch and its pages.
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

/// A whole Parquet file in memory.
pub struct Table {
    /// Names and types of the columns.
    pub schema: SchemaRef,
    /// The rows, in the order of the file.
    pub batches: Vec<RecordBatch>,
    /// The name of the rows' schema, if triplay wrote the file.
    pub name: Option<String>,
}

impl Table {
    /// The rows of a file in another format than Parquet.
    pub(crate) fn of<R: Row>(path: &Path, rows: &[R]) -> Result<Table> {
        let batch = batch(path, rows)?;
        Ok(Table { schema: batch.schema(), batches: vec![batch], name: Some(R::NAME.to_owned()) })
    }

    /// The number of rows of all batches.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Reads any Parquet file whole.
pub fn open(path: &Path) -> Result<Table> {
    let fail = |cause| Error::Read { path: path.to_owned(), cause };
    let builder = builder(path)?;
    let name = name(&builder);
    let schema = builder.schema().clone();
    let said = builder.metadata().file_metadata().num_rows();
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
    let table = Table { schema, batches, name };
    match table.rows() as i64 == said {
        true => Ok(table),
        false => {
            let cause = format!("its metadata says {said} rows, found {}", table.rows());
            Err(fail(ParquetError::General(cause)))
        }
    }
}

fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = read::open(path).map_err(|cause| Error::Open { path: path.to_owned(), cause })?;
    let fail = |cause| Error::Read { path: path.to_owned(), cause };
    let mut metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(fail)?;
    // The reader assumes that these are not negative.
    let mut chunks = metadata.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns);
    let is_before_the_file = |chunk: &ColumnChunkMetaData| {
        let begins = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
        begins < 0 || chunk.compressed_size() < 0
    };
    if chunks.any(is_before_the_file) {
        return Err(fail(ParquetError::General("a column has a negative offset or size".into())));
    }
    let mut chunks = metadata.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns);
    let mean = |chunk: &ColumnChunkMetaData| chunk.uncompressed_size() / chunk.num_values().max(1);
    if let Some(chunk) = chunks.find(|chunk| mean(chunk) > MOST_VALUE) {
        let most = format!("{} MiB for a value of a column", MOST_VALUE >> 20);
        let found = format!("{} MiB in `{}`", mean(chunk) >> 20, chunk.column_path().string());
        return Err(Error::TooLarge { path: path.to_owned(), most, found });
    }
    let columns = metadata.schema().fields().len();
    if columns > MOST_COLUMNS {
        let (most, found) = (format!("{MOST_COLUMNS} columns"), columns.to_string());
        return Err(Error::TooLarge { path: path.to_owned(), most, found });
    }
    if let Some(schema) = without_dictionaries(metadata.schema()) {
        let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
        metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options).map_err(fail)?;
    }
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata))
}

/// The same schema with dictionary-encoded columns as plain values. Pandas and Polars write categories as dictionaries.
fn without_dictionaries(schema: &Schema) -> Option<Schema> {
    let fields: Fields = schema.fields().iter().map(plain).collect();
    (fields != *schema.fields()).then(|| Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn plain(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Dictionary(_, values) => DataType::clone(values),
        DataType::List(item) => DataType::List(plain(item)),
        DataType::LargeList(item) => DataType::LargeList(plain(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        _ => return field.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

fn name(builder: &ParquetRecordBatchReaderBuilder<File>) -> Option<String> {
    let pairs = builder.metadata().file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == SCHEMA_KEY)?.value.clone()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::types::{Float32Type, Int8Type, Int32Type};
    use arrow_array::{DictionaryArray, Float64Array, Int64Array, LargeStringArray, ListArray, StringArray};

    use super::*;
    use crate::{MetricRow, PoolRow, Position, RewardRow, Sample, SeedRow, TextRow, cell};

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

    /// A row with an optional column.
    #[derive(Clone, Debug, PartialEq)]
    struct Said {
        text: String,
        turns: crate::Sparse<TextRow>,
    }

    impl crate::Column for Said {
        fn fields(_: &str, _: &str, fields: &mut Vec<Field>) {
            TextRow::fields("", "", fields);
            crate::Sparse::<TextRow>::fields("turns", "What was said before.", fields);
        }

        fn arrays(values: &[&Self], arrays: &mut Vec<ArrayRef>) {
            crate::Column::arrays(&values.iter().map(|row| &row.text).collect::<Vec<_>>(), arrays);
            crate::Column::arrays(&values.iter().map(|row| &row.turns).collect::<Vec<_>>(), arrays);
        }

        fn read(columns: &Columns, _: &str) -> std::result::Result<Vec<Self>, Mismatch> {
            let texts = <String as crate::Column>::read(columns, "text")?;
            let turns = <crate::Sparse<TextRow> as crate::Column>::read(columns, "turns")?;
            Ok(texts.into_iter().zip(turns).map(|(text, turns)| Said { text, turns }).collect())
        }
    }

    impl Row for Said {
        const NAME: &'static str = "texts";
        const ANY_NUMBER: bool = false;
    }

    #[test]
    fn a_sparse_column_is_there_only_where_it_says_something() {
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("a"), folder.path().join("b"));
        let text = |text: &str| TextRow { text: text.into() };
        let said = |turns: Vec<TextRow>| Said { text: "brew".into(), turns: crate::Sparse(turns) };
        for count in [0, 2] {
            let (rows, before) = (vec![said(Vec::new()); count], vec![text("brew"); count]);
            write(&path, &rows).unwrap();
            write(&plain, &before).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&plain).unwrap());
            assert_eq!(read::<Said>(&path).unwrap(), rows);
        }
        let rows = [said(Vec::new()), said(vec![text("what ?"), text("why ?")]), said(Vec::new())];
        write(&path, &rows).unwrap();
        assert_eq!(read::<Said>(&path).unwrap(), rows);
        let schema = open(&path).unwrap().schema;
        let metadata = schema.field_with_name("turns").unwrap().metadata();
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["description"]);
    }

    #[test]
    fn another_schema_is_named_even_where_the_file_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for count in [0, 3] {
            write(&path, &pool(count)).unwrap();
            let error = read::<RewardRow>(&path).unwrap_err().to_string();
            let expected = format!(
                "{} is not a dataset of rewards: it has no column `sample_id`; its metadata says that it holds pool",
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

    /// Writes a file as another program would.
    fn foreign(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        compressed(path, columns, Compression::UNCOMPRESSED);
    }

    fn compressed(path: &Path, columns: Vec<(&str, ArrayRef)>, how: Compression) {
        let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let batch =
            RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect())
                .unwrap();
        let properties = WriterProperties::builder().set_compression(how).build();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
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
        assert!(error.ends_with("column `text` must be Utf8, found Int64"), "{error}");
        foreign(&path, vec![("text", Arc::new(StringArray::from(vec![Some("a"), None])))]);
        let error = read::<TextRow>(&path).unwrap_err().to_string();
        assert!(error.ends_with("column `text`, row 1: must have a value, found none"), "{error}");
    }

    #[test]
    fn a_few_kilobytes_that_unpack_to_a_huge_value_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let write = |length: usize| {
            let text: ArrayRef = Arc::new(StringArray::from(vec!["a".repeat(length), "b".into()]));
            let how = Compression::ZSTD(Default::default());
            compressed(&path, vec![("text", text)], how);
        };
        write(160 << 20);
        assert!(std::fs::metadata(&path).unwrap().len() < 100_000);
        let error = read::<TextRow>(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("must have at most 64 MiB for a value of a column, found 80 MiB in `text`"),
            "{error}"
        );
        write(32 << 20);
        assert_eq!(read::<TextRow>(&path).unwrap().len(), 2);
    }

    #[test]
    fn every_compression_that_other_programs_write_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for how in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(Default::default()),
            Compression::GZIP(Default::default()),
            Compression::BROTLI(Default::default()),
            Compression::LZ4,
            Compression::LZ4_RAW,
        ] {
            let text: ArrayRef = Arc::new(StringArray::from(vec!["brew glowvenom"; 1000]));
            compressed(&path, vec![("text", text)], how);
            assert_eq!(read::<TextRow>(&path).unwrap().len(), 1000, "{how}");
        }
        let cause = ParquetError::NYI("The codec type LZO is not supported yet".into());
        let error = Error::Read { path: "x".into(), cause }.to_string();
        assert!(
            error
                .ends_with("help: write it uncompressed, or compressed by snappy, zstd, gzip, lz4 or brotli")
        );
    }

    #[test]
    fn texts_that_are_numbers_of_texts_elsewhere_are_read_as_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let column = |text: &str| -> ArrayRef {
            Arc::new(vec![text, "b", text].into_iter().collect::<DictionaryArray<Int8Type>>())
        };
        let mut names = vec![("label", column("a"))];
        names.extend(["text", "task", "split", "category", "seed_id"].map(|name| (name, column(name))));
        names.push((
            "answer",
            Arc::new(vec![Some("4"), None, None].into_iter().collect::<DictionaryArray<Int32Type>>()),
        ));
        foreign(&path, names);
        let rows = read::<SeedRow>(&path).unwrap();
        assert_eq!((rows[0].text.as_str(), rows[1].text.as_str()), ("text", "b"));
        assert_eq!((rows[0].answer.as_deref(), rows[1].answer.as_deref()), (Some("4"), None));
        let table = open(&path).unwrap();
        assert_eq!(cell(table.batches[0].column(0), 2), "a");
        assert_eq!(head(&path).unwrap().columns[..2], ["label", "text"]);
    }

    fn reward(advantage: f64, completion_ids: Vec<u32>, logprobs: Vec<f32>) -> RewardRow {
        RewardRow {
            advantage: Some(advantage),
            sample: Sample { completion_ids, logprobs, ..Sample::template("brew") },
            ..reward_row()
        }
    }

    fn component(score: Option<f64>) -> crate::Component {
        crate::Component { name: "success".into(), score, value: Some(1.0) }
    }

    fn reward_row() -> RewardRow {
        let origin = crate::Origin {
            seed_id: "a".into(),
            category: "potions".into(),
            split: "train".into(),
            task: "hazard".into(),
            seed: "brew".into(),
        };
        RewardRow {
            sample_id: 0,
            group: 0,
            origin,
            text: "brew".into(),
            reward: Some(1.0),
            advantage: Some(0.0),
            components: crate::Sparse(vec![component(Some(0.5))]),
            notes: crate::Sparse(vec![crate::Note { name: "meaning".into(), value: "kept".into() }]),
            undetermined: 0,
            sample: Sample::template("brew"),
            at: Position { iteration: 1, step: 1, rng_seed: "abc".into() },
        }
    }

    #[test]
    fn what_cannot_be_computed_with_is_named_by_row_and_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut rows = vec![reward_row(); 70_000];
        let mut said = |row: RewardRow| {
            rows[69_999] = row;
            write(&path, &rows).unwrap();
            let error = read::<RewardRow>(&path).unwrap_err().to_string();
            error.split_once(": ").unwrap().1.to_owned()
        };
        let rule = "must be a finite number";
        assert_eq!(
            said(reward(f64::NAN, vec![], vec![])),
            format!("column `advantage`, row 69999: {rule}, found NaN")
        );
        assert_eq!(
            said(RewardRow { reward: Some(f64::INFINITY), ..reward_row() }),
            format!("column `reward`, row 69999: {rule}, found inf")
        );
        assert_eq!(
            said(RewardRow {
                components: crate::Sparse(vec![component(None), component(Some(f64::NAN))]),
                ..reward_row()
            }),
            "column `components`, row 69999: must be a finite number, found NaN in `score` in item 1"
        );
        assert_eq!(
            said(reward(0.0, vec![1, 2], vec![-0.5, f32::NAN])),
            format!("column `logprobs`, row 69999: {rule}, found NaN in item 1")
        );
        assert_eq!(
            said(reward(0.0, vec![1, 2, 3], vec![-0.5])),
            "column `logprobs`, row 69999: must have as many items as `completion_ids` (3), found 1"
        );

        // Metrics may be NaN, to show what went wrong.
        let metric = |value| MetricRow {
            phase: "update".into(),
            subject: "attacker".into(),
            metric: "loss".into(),
            value,
            count: 1,
            at: reward_row().at,
        };
        write(&path, &[metric(f64::NAN)]).unwrap();
        assert!(read::<MetricRow>(&path).unwrap()[0].value.is_nan());
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_and_not_its_column_s_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let pool = |alpha: ArrayRef, embedding: ArrayRef, iteration: ArrayRef| {
            write(&path, &pool(2)).unwrap();
            let table = open(&path).unwrap();
            let names = table.schema.fields().iter().map(|field| field.name().as_str());
            let columns = names.zip(table.batches[0].columns()).map(|(name, array)| match name {
                "alpha" => (name, alpha.clone()),
                "embedding" => (name, embedding.clone()),
                "iteration" => (name, iteration.clone()),
                _ => (name, array.clone()),
            });
            foreign(&path, columns.collect());
            let error = read::<PoolRow>(&path).map_err(|error| error.to_string());
            error.map_err(|error| error.split_once(": ").unwrap().1.to_owned())
        };
        let whole = || -> ArrayRef { Arc::new(Int64Array::from(vec![1, 2])) };
        let lists = |second: Option<f32>| -> ArrayRef {
            let lists = vec![Some(vec![Some(1.0)]), Some(vec![Some(0.0), second])];
            Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))
        };
        assert_eq!(pool(whole(), lists(Some(1.0)), whole()).unwrap()[1].alpha, 2.0);
        let negative: ArrayRef = Arc::new(Int64Array::from(vec![1, -3]));
        assert_eq!(
            pool(whole(), lists(Some(1.0)), negative).unwrap_err(),
            "column `iteration`, row 1: must be a whole number from 0 that fits 32 bits, found -3"
        );
        assert_eq!(
            pool(whole(), lists(None), whole()).unwrap_err(),
            "column `embedding`, row 1: must have a value, found none in item 1"
        );
        let none: ArrayRef = Arc::new(Float64Array::from(vec![f64::NEG_INFINITY, 0.0]));
        assert!(
            pool(none, lists(Some(1.0)), whole())
                .unwrap_err()
                .starts_with("column `alpha`, row 0: must be a finite number, found -inf")
        );
    }

    #[test]
    fn a_damaged_file_is_read_whole_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let texts: Vec<TextRow> = (0..40).map(|row| TextRow { text: format!("brew {row}") }).collect();
        write(&path, &texts).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                std::fs::write(&path, &damaged).unwrap();
                if let Ok(rows) = read::<TextRow>(&path) {
                    assert_eq!(rows.len(), 40, "byte {at} ^ {flip}");
                }
            }
        }
    }
}
