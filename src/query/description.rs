//! Descriptions of tables and their columns.

use polars::prelude::DataType;

/// The description of a table.
pub(crate) struct TableDoc {
    pub name: &'static str,
    /// A description of one row.
    pub about: &'static str,
    pub columns: Vec<ColumnDoc>,
}

/// The description of a column.
pub(crate) struct ColumnDoc {
    pub name: String,
    /// `text`, `integer`, `number`, `boolean` or `list of text`.
    pub kind: &'static str,
    pub about: String,
}

/// The name of a type for people.
pub(crate) fn kind(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::String => "text",
        DataType::Boolean => "boolean",
        DataType::List(_) => "list of text",
        other if other.is_integer() => "integer",
        _ => "number",
    }
}
