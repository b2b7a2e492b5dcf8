//! A CSV file for each table of runs, the rows of all runs one after the other. Lists are JSON. A null is written like an empty
//! text.

use std::path::Path;

use serde_json::Value;

use super::Source;
use super::rows::Rows;
use runs::{TABLES, Texts};

pub(crate) fn write(sources: &[Source], folder: &Path) -> anyhow::Result<()> {
    for table in &TABLES {
        let schema = table.schema();
        let mut writer = csv::Writer::from_path(folder.join(format!("{}.csv", table.name)))?;
        writer.write_record(schema.fields().iter().map(|field| field.name()))?;
        for source in sources {
            let rows = Rows::open(&source.tables.path(table.name))?;
            for batch in &rows.table.batches {
                let columns: Vec<_> =
                    schema.fields().iter().map(|field| batch.column_by_name(field.name())).collect();
                for row in 0..batch.num_rows() {
                    let cells = columns.iter().zip(schema.fields()).map(|(column, field)| {
                        let value = column.map_or(Value::Null, |column| data::cell(column, row));
                        text(value, source.texts, field.name())
                    });
                    writer.write_record(cells)?;
                }
            }
        }
        writer.flush()?;
    }
    Ok(())
}

fn text(value: Value, texts: Texts, column: &str) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if Texts::are_in(column) => texts.show(&text).into_owned(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}
