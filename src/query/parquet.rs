//! Answers as Parquet files.

use std::fs::File;
use std::path::Path;

use polars::prelude::{ParquetCompression, ParquetWriter};

use crate::answer::Answer;

/// Writes all rows of an answer to a new file, batch by batch. Returns their number.
pub(crate) fn write_parquet(answer: &mut Answer, path: &Path) -> anyhow::Result<usize> {
    let file = File::create(path)?;
    let mut writer =
        ParquetWriter::new(file).with_compression(ParquetCompression::Snappy).batched(&answer.schema)?;
    let mut rows = 0;
    while let Some(batch) = answer.batch()? {
        writer.write_batch(&batch.frame)?;
        rows += batch.rows();
    }
    writer.finish()?;
    Ok(rows)
}
