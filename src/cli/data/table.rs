//! Datasets as tables.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::bail;
use arrow_schema::{DataType, Field};
use serde_json::Value;

use crate::cli::args::ShowArgs;
use crate::data::{self, Head, Part};
use output::one_line;

/// Prints the columns, their types and meanings.
pub(super) fn schema(table: &Head, out: &mut dyn Write) -> anyhow::Result<()> {
    let fields = table.schema.fields();
    let width =
        |text: fn(&Field) -> String| fields.iter().map(|f| text(f).chars().count()).max().unwrap_or(0);
    let kind = |field: &Field| kind(field.data_type());
    let name = |field: &Field| one_line(field.name()).into_owned();
    let (name_width, kind_width) = (width(name), width(kind));
    for field in fields {
        let about = field.metadata().get("description").map(String::as_str).unwrap_or("");
        let line = format!("{:name_width$}  {:kind_width$}  {about}", name(field), kind(field));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The name of a type: nested columns by the names of their fields.
fn kind(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item) => format!("list of {}", kind(item.data_type())),
        DataType::Struct(fields) => {
            let names: Vec<_> = fields.iter().map(|field| one_line(field.name())).collect();
            format!("{{{}}}", names.join(", "))
        }
        other => other.to_string(),
    }
}

/// Rows that are shown if `--rows` does not say how many.
const ROWS: usize = 20;

/// Most characters shown of a cell.
const CELL: usize = 60;

/// Prints the chosen rows and columns.
pub(super) fn rows(path: &Path, table: &Head, args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let fields = table.schema.fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let chosen: Vec<usize> = match &args.columns {
        None => (0..names.len()).collect(),
        Some(columns) => {
            columns.iter().map(|column| position(column, &names)).collect::<anyhow::Result<_>>()?
        }
    };
    let columns: Vec<usize> = chosen.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let places: Vec<usize> = chosen.iter().filter_map(|column| columns.binary_search(column).ok()).collect();
    let mut cells: Vec<Vec<Value>> = Vec::new();
    for batch in
        data::batches(path, &Part { columns: &columns, skip: args.skip, rows: args.rows.unwrap_or(ROWS) })?
    {
        let batch = batch?;
        let row = |row| places.iter().map(|&place| data::cell(batch.column(place), row)).collect();
        cells.extend((0..batch.num_rows()).map(row));
    }
    if args.json {
        for row in cells {
            let object: serde_json::Map<String, Value> =
                chosen.iter().map(|&column| names[column].to_owned()).zip(row).collect();
            writeln!(out, "{}", Value::Object(object))?;
        }
        return Ok(());
    }
    let held = table.name.as_deref().map(|name| format!("{name}, ")).unwrap_or_default();
    writeln!(out, "{}: {held}{} rows", path.display(), table.rows())?;
    let texts: Vec<Vec<String>> = cells.iter().map(|row| row.iter().map(short).collect()).collect();
    let numeric: Vec<bool> = chosen.iter().map(|&column| fields[column].data_type().is_numeric()).collect();
    let headings: Vec<_> = chosen.iter().map(|&column| one_line(names[column])).collect();
    let widths: Vec<usize> = (0..chosen.len())
        .map(|column| {
            let cells = texts.iter().map(|row| row[column].chars().count());
            cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    // Shows all columns that `--columns` names, otherwise as many as fit.
    let mut used = 0;
    let fitting = widths.iter().take_while(|width| {
        used += **width + 2;
        used <= terminal_width() + 2
    });
    let shown = if args.columns.is_some() { widths.len() } else { fitting.count().max(1) };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.take(shown).enumerate().map(|(column, text)| {
            let pad = " ".repeat(widths[column] - text.chars().count());
            if numeric[column] { format!("{pad}{text}") } else { format!("{text}{pad}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    writeln!(out, "{}", line(&mut headings.iter().map(|heading| &**heading)))?;
    for row in &texts {
        writeln!(out, "{}", line(&mut row.iter().map(String::as_str)))?;
    }
    if shown < widths.len() {
        writeln!(out, "not shown: {} (choose with --columns A,B)", headings[shown..].join(", "))?;
    }
    Ok(())
}

fn position(column: &str, names: &[&str]) -> anyhow::Result<usize> {
    if let Some(index) = names.iter().position(|name| *name == column) {
        return Ok(index);
    }
    match crate::engine::nearest(column, names) {
        Some(near) => bail!("there is no column `{column}`; did you mean `{near}`?"),
        None => bail!("there is no column `{column}`; there are {}", names.join(", ")),
    }
}

/// A value shortened to one line of at most [`CELL`] characters.
fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => one_line(text).into_owned(),
        Value::Array(items) if items.is_empty() => "[]".into(),
        Value::Array(items) => {
            let first: Vec<String> = items.iter().take(3).map(short).collect();
            let more = if items.len() > 3 { format!(", … {}", items.len()) } else { String::new() };
            format!("[{}{more}]", first.join(", "))
        }
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(value) => format!("{:.4}", value).trim_end_matches('0').trim_end_matches('.').to_owned(),
            None => number.to_string(),
        },
        other => other.to_string(),
    };
    if text.chars().count() <= CELL { text } else { text.chars().take(CELL - 1).collect::<String>() + "…" }
}

/// Columns of the terminal; 100 if standard output is no terminal.
fn terminal_width() -> usize {
    match console::Term::stdout().size_checked() {
        Some((_, columns)) => columns.into(),
        None => 100,
    }
}
