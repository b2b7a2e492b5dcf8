//! The rows of a table by the names of their columns.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use data::{self, Table};

/// The rows of one Parquet file.
pub(crate) struct Rows {
    pub table: Table,
}

/// One of them.
pub(crate) struct Row<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl Rows {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Rows> {
        Ok(Rows { table: data::open(path)? })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.table.batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| Row { batch, row }))
    }
}

impl<'a> Row<'a> {
    /// The text in a column; empty if there is none.
    pub(crate) fn text(&self, column: &str) -> &'a str {
        let array = self.batch.column_by_name(column);
        let texts = array.and_then(|array| array.as_string_opt::<i32>());
        texts.filter(|texts| texts.is_valid(self.row)).map_or("", |texts| texts.value(self.row))
    }

    /// The number in a column of any numeric type.
    pub(crate) fn number(&self, column: &str) -> Option<f64> {
        let array = self.batch.column_by_name(column).filter(|array| array.is_valid(self.row))?;
        match array.data_type() {
            DataType::Float64 => Some(array.as_primitive::<Float64Type>().value(self.row)),
            DataType::UInt32 => Some(array.as_primitive::<UInt32Type>().value(self.row).into()),
            DataType::UInt64 => Some(array.as_primitive::<UInt64Type>().value(self.row) as f64),
            _ => None,
        }
    }
}
