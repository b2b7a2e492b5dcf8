//! Datasets as JSON Lines, for programs that read no Parquet.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value};

use super::cell::{cell, is_known};
use super::{Error, Part, Result, batches, head};

/// Writes the rows of a Parquet file to a new file, an object a line. Numbers that JSON cannot represent (NaN, infinite) become
/// null; columns of a type that JSON cannot represent are an error.
pub fn write_lines(from: &Path, to: &Path) -> Result<()> {
    let head = head(from)?;
    let columns: Vec<usize> = (0..head.columns.len()).collect();
    if let Some(field) = head.schema.fields().iter().find(|field| !is_known(field.data_type())) {
        return Err(Error::Schema {
            path: from.to_owned(),
            expected: "JSON Lines",
            reason: format!(
                "column `{}` is {}, which JSON cannot represent: write it as text",
                field.name(),
                field.data_type()
            ),
            found: None,
        });
    }
    let fail = |cause| Error::Lines { path: to.to_owned(), cause };
    let mut writer = BufWriter::new(File::create(to).map_err(fail)?);
    for batch in batches(from, &Part { columns: &columns, skip: 0, rows: head.rows() })? {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let cells = head.columns.iter().zip(batch.columns());
            let object: Map<String, Value> =
                cells.map(|(name, column)| (name.clone(), cell(column, row))).collect();
            serde_json::to_writer(&mut writer, &object).map_err(|error| fail(error.into()))?;
            writer.write_all(b"\n").map_err(fail)?;
        }
    }
    writer.flush().map_err(fail)
}
