//! `triplay data show`: prints a Parquet file or a dataset of a run as a table, and a text output unchanged.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use output::one_line;
use serde_json::Value;

use super::args::ShowArgs;
use crate::data::{self, Head, Part};
use crate::runs::{Run, recorded_at};
use crate::store::read;

pub(crate) fn command(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let (path, artifact) = locate(&args.target)?;
    let out = &mut BufWriter::new(output::stdout());
    let mut write = || -> anyhow::Result<()> {
        if artifact.as_deref() == Some("text") {
            std::io::copy(&mut read::open(&path)?, out)?;
        } else {
            let table = data::head(&path)?;
            if args.schema { schema(&table, out)? } else { rows(&path, &table, args, out)? }
        }
        Ok(out.flush()?)
    };
    output::allow_broken_pipe(write())?;
    Ok(ExitCode::SUCCESS)
}

/// Finds a file, or an output of a run's node and its type.
pub(super) fn locate(target: &str) -> anyhow::Result<(PathBuf, Option<String>)> {
    let path = Path::new(target);
    if path.exists() {
        return Ok((path.to_owned(), None));
    }
    let Some((run, node)) = target.split_once(':') else {
        bail!(
            "there is no file {target}; a dataset of a run is RUN:NODE, such as latest:play[1]/red[01]/attacks"
        )
    };
    let run = Run::find(run)?;
    let (output, path) = run.output(node)?;
    if path.is_dir() {
        bail!("`{node}` must be a dataset, found a {}: {}", output.artifact, path.display());
    }
    let found = recorded_at(path, &output.digest).with_context(|| {
        format!("`{node}`; run `triplay cache verify`, which puts damaged files aside, and then the pipeline again")
    })?;
    let Some(path) = found else {
        bail!(
            "`{node}` is no longer in the cache {}; run the pipeline again to make it",
            run.record.cache.display()
        )
    };
    Ok((path, Some(output.artifact.clone())))
}

/// Prints the columns, their types and meanings.
fn schema(table: &Head, out: &mut dyn Write) -> anyhow::Result<()> {
    let fields = table.schema.fields();
    let width = |text: fn(&arrow_schema::Field) -> String| {
        fields.iter().map(|f| text(f).chars().count()).max().unwrap_or(0)
    };
    let kind = |field: &arrow_schema::Field| match field.data_type() {
        arrow_schema::DataType::List(item) => format!("list of {}", item.data_type()),
        other => other.to_string(),
    };
    let name = |field: &arrow_schema::Field| one_line(field.name()).into_owned();
    let (name_width, kind_width) = (width(name), width(kind));
    for field in fields {
        let about = field.metadata().get("description").map(String::as_str).unwrap_or("");
        let line = format!("{:name_width$}  {:kind_width$}  {about}", name(field), kind(field));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Most characters shown of a cell.
const CELL: usize = 60;

fn rows(path: &Path, table: &Head, args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<()> {
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
    for batch in data::batches(path, &Part { columns: &columns, skip: args.skip, rows: args.rows })? {
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
