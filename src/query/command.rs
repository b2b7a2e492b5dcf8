//! The command line, and the output of an answer: a table, a file, or rows for another program.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use serde_json::{Map, Value, json};

use engine::nearest;
use output::{Destination, Overwrite, allow_broken_pipe, eprintln, print, println, several};
use runs::{Run, read_from};

use crate::answer::Answer;
use crate::catalog::{described, has_params};
use crate::description::{ColumnDoc, TableDoc};
use crate::grid::Grid;
use crate::parquet::write_parquet;
use crate::sql::query;

/// Query the rows of all runs in SQL
#[derive(Parser)]
#[command(name = "triplay-query", bin_name = "triplay results query", version)]
pub(crate) struct QueryArgs {
    /// The query in Polars SQL, such as "SELECT run, status FROM runs"
    #[arg(required_unless_present = "schema")]
    sql: Option<String>,
    /// Query only this run, given by its name or folder; may be repeated
    #[arg(long = "run", value_name = "RUN")]
    runs: Vec<String>,
    /// Query only the runs of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Read the outputs of runs from this cache [default: TRIPLAY_CACHE if it knows the run, else the run's own]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Show the available tables, or one of them, instead: columns, types and descriptions
    #[arg(long, value_name = "TABLE", num_args = 0..=1)]
    schema: Option<Option<String>>,
    /// The most rows that a table shows; other formats have all rows
    #[arg(long, value_name = "N", default_value_t = 50)]
    rows: usize,
    /// Print CSV
    #[arg(long, group = "form")]
    csv: bool,
    /// Print one JSON object a row
    #[arg(long, group = "form")]
    json: bool,
    /// Print a Markdown table
    #[arg(long, group = "form")]
    markdown: bool,
    /// Write all rows to a file: .parquet, .csv or .jsonl
    #[arg(long, short, value_name = "FILE", group = "form")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

pub(crate) fn command(args: &QueryArgs) -> anyhow::Result<ExitCode> {
    read_from(args.cache.as_deref())?;
    if let Some(table) = &args.schema {
        if args.sql.is_some() {
            bail!("--schema shows the tables and takes no SQL");
        }
        schema(table.as_deref(), args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let write = args.out.as_deref().map(ending).transpose()?;
    if let (Some(out), Some(ending)) = (&args.out, write) {
        // Checked before the query runs.
        destination(args, out, ending, None)?;
    }
    let folders = folders(args)?;
    let asked = query(args.sql.as_deref().unwrap_or_default(), &folders)?;
    warn(&asked.warnings);
    let mut answer = asked.answer;
    match (&args.out, write) {
        (Some(out), Some(ending)) => file(args, &mut answer, out, ending)?,
        _ if args.csv => allow_broken_pipe(csv(&mut answer, output::stdout()).map(drop))?,
        _ if args.json => allow_broken_pipe(jsonl(&mut answer, output::stdout()).map(drop))?,
        _ if args.markdown => markdown(&mut answer, args.rows)?,
        _ => table(&mut answer, args.rows)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The folders of the queried runs, oldest first, each once.
fn folders(args: &QueryArgs) -> anyhow::Result<Vec<PathBuf>> {
    let pipeline = args.pipeline.as_deref();
    if !args.runs.is_empty() {
        let found = args.runs.iter().map(|run| Run::locate(run)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut seen = BTreeSet::new();
        let mut folders = Vec::new();
        for folder in found {
            let is_of =
                pipeline.is_none_or(|name| folder.parent().is_some_and(|parent| parent.ends_with(name)));
            if is_of && seen.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone())) {
                folders.push(folder);
            }
        }
        anyhow::ensure!(!folders.is_empty(), "none of these runs is of `{}`", pipeline.unwrap_or_default());
        return Ok(folders);
    }
    let mut folders = Run::all(pipeline);
    folders.reverse();
    match pipeline {
        _ if !folders.is_empty() => Ok(folders),
        None => bail!("there are no runs in results/ here; `triplay pipeline run FILE` makes one"),
        Some(name) => {
            let all = Run::all(None);
            let known: BTreeSet<String> = all
                .iter()
                .filter_map(|run| Some(run.parent()?.file_name()?.to_string_lossy().into_owned()))
                .collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            match nearest(name, &known) {
                Some(near) => bail!("there are no runs of `{name}`; did you mean `{near}`?"),
                None if known.is_empty() => {
                    bail!("there are no runs in results/ here; `triplay pipeline run FILE` makes one")
                }
                None => bail!("there are no runs of `{name}`; there are runs of {}", known.join(", ")),
            }
        }
    }
}

/// The most warnings that are printed.
const WARNINGS: usize = 5;

fn warn(warnings: &[String]) {
    warnings.iter().take(WARNINGS).for_each(|warning| eprintln!("warning: {warning}"));
    if warnings.len() > WARNINGS {
        eprintln!("warning: {} more like these", warnings.len() - WARNINGS);
    }
}

#[derive(Clone, Copy)]
enum Ending {
    Csv,
    Jsonl,
    Parquet,
}

fn ending(out: &Path) -> anyhow::Result<Ending> {
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => Ok(Ending::Csv),
        Some("jsonl") => Ok(Ending::Jsonl),
        Some("parquet") => Ok(Ending::Parquet),
        _ => bail!("{} must end in .csv, .jsonl or .parquet", out.display()),
    }
}

/// The destination of an answer. An earlier answer with the same columns is replaced; while the columns are unknown, any table of
/// this format passes.
fn destination(
    args: &QueryArgs,
    out: &Path,
    ending: Ending,
    columns: Option<Vec<String>>,
) -> anyhow::Result<Destination> {
    let what = columns.as_ref().map_or_else(|| "table".to_owned(), |columns| output::describe_table(columns));
    let is_own = move |path: &Path| match (&columns, ending) {
        (Some(columns), Ending::Csv) => output::is_csv(path, columns),
        (Some(columns), Ending::Jsonl) => output::is_jsonl(path, columns),
        (Some(columns), Ending::Parquet) => data::head(path).is_ok_and(|head| head.columns == *columns),
        (None, Ending::Csv) => true,
        (None, Ending::Jsonl) => output::begins_with(path, b"{"),
        (None, Ending::Parquet) => output::begins_with(path, b"PAR1"),
    };
    Destination::with_force(out, what, args.overwrite, is_own)
}

fn file(args: &QueryArgs, answer: &mut Answer, out: &Path, ending: Ending) -> anyhow::Result<()> {
    let columns = answer.headings.iter().map(|heading| heading.name.clone()).collect();
    let mut rows = 0;
    destination(args, out, ending, Some(columns))?.write(|path| {
        rows = match ending {
            Ending::Csv => csv(answer, std::fs::File::create(path)?)?,
            Ending::Jsonl => jsonl(answer, std::fs::File::create(path)?)?,
            Ending::Parquet => write_parquet(answer, path)?,
        };
        Ok(())
    })?;
    println!("{}: {}", out.display(), several(rows, "row"));
    Ok(())
}

fn csv(answer: &mut Answer, out: impl Write) -> anyhow::Result<usize> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(answer.headings.iter().map(|heading| &heading.name))?;
    let mut rows = 0;
    while let Some(batch) = answer.batch()? {
        for row in 0..batch.rows() {
            writer.write_record(batch.cells(row).map(|cell| match cell {
                Value::Null => String::new(),
                Value::String(text) => text,
                other => other.to_string(),
            }))?;
        }
        rows += batch.rows();
    }
    writer.flush()?;
    Ok(rows)
}

fn jsonl(answer: &mut Answer, out: impl Write) -> anyhow::Result<usize> {
    let mut writer = BufWriter::new(out);
    let mut rows = 0;
    while let Some(batch) = answer.batch()? {
        for row in 0..batch.rows() {
            let names = answer.headings.iter().map(|heading| heading.name.clone());
            writeln!(writer, "{}", Value::Object(names.zip(batch.json(row)).collect::<Map<_, _>>()))?;
        }
        rows += batch.rows();
    }
    writer.flush()?;
    Ok(rows)
}

/// Passes the first rows to `take`. Returns the number of all rows.
fn first(answer: &mut Answer, limit: usize, mut take: impl FnMut(Vec<Value>)) -> anyhow::Result<usize> {
    let mut rows = 0;
    while let Some(batch) = answer.batch()? {
        for row in 0..batch.rows().min(limit.saturating_sub(rows)) {
            take(batch.cells(row).collect());
        }
        rows += batch.rows();
    }
    Ok(rows)
}

fn more(rows: usize, limit: usize) -> Option<String> {
    let hidden = rows.saturating_sub(limit);
    (hidden > 0).then(|| {
        format!("and {}: --rows N shows more of them, --csv and -o FILE all", several(hidden, "more row"))
    })
}

fn table(answer: &mut Answer, limit: usize) -> anyhow::Result<()> {
    let headings: Vec<(String, bool)> =
        answer.headings.iter().map(|heading| (heading.name.clone(), heading.numeric)).collect();
    let mut grid = Grid::new(headings.iter().map(|(name, numeric)| (name.as_str(), *numeric)));
    let rows = first(answer, limit, |cells| grid.push(cells.into_iter()))?;
    let (lines, hidden) = grid.lines(width());
    let mut text = lines.join("\n") + "\n";
    if !hidden.is_empty() {
        text += &format!("not shown: {} (select fewer columns, or --csv)\n", hidden.join(", "));
    }
    if let Some(more) = more(rows, limit.max(grid.rows())) {
        text += &(more + "\n");
    }
    if rows == 0 {
        eprintln!("no rows");
    }
    print(&text)
}

fn markdown(answer: &mut Answer, limit: usize) -> anyhow::Result<()> {
    let bars = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let safe = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let mut text = bars(answer.headings.iter().map(|heading| safe(&heading.name)).collect());
    text += &bars(answer.headings.iter().map(|of| if of.numeric { "---:" } else { "---" }.into()).collect());
    let rows = first(answer, limit, |cells| {
        let shown = |cell: &Value| match cell {
            Value::Null => String::new(),
            Value::String(text) => safe(text),
            Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or(f64::NAN)),
            other => safe(&other.to_string()),
        };
        text += &bars(cells.iter().map(shown).collect());
    })?;
    if let Some(more) = more(rows, limit) {
        text += &format!("\n{more}\n");
    }
    print(&text)
}

/// Columns of the terminal; 80 if standard output is not a terminal.
fn width() -> usize {
    console::Term::stdout().size_checked().map_or(80, |(_, columns)| columns.into())
}

fn schema(table: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let mut tables = described();
    if let Some(wanted) = table {
        let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
        if !names.contains(&wanted) {
            match nearest(wanted, &names) {
                Some(near) => bail!("there is no table `{wanted}`; did you mean `{near}`?"),
                None => bail!("there is no table `{wanted}`; there are {}", names.join(", ")),
            }
        }
        tables.retain(|table| table.name == wanted);
    }
    let texts: Vec<String> = tables.iter().map(if as_json { in_json } else { in_words }).collect();
    print(&texts.join(if as_json { "" } else { "\n" }))
}

/// One JSON object for each table.
fn in_json(table: &TableDoc) -> String {
    let columns = table
        .columns
        .iter()
        .map(|column| json!({ "name": column.name, "type": column.kind, "about": column.about }))
        .collect::<Vec<_>>();
    format!("{}\n", json!({ "table": table.name, "row": table.about, "columns": columns }))
}

fn in_words(table: &TableDoc) -> String {
    let longest = |of: fn(&ColumnDoc) -> usize| table.columns.iter().map(of).max().unwrap_or(0);
    let (name, kind) = (longest(|column| column.name.len()), longest(|column| column.kind.len()));
    let mut text = format!("{}: a row is {}\n", table.name, table.about);
    for column in &table.columns {
        text += &format!("  {:name$}  {:kind$}  {}\n", column.name, column.kind, column.about);
    }
    if has_params(table.name) {
        text +=
            "and a column for each parameter of its variant that the query names; * adds those that differ\n";
    }
    text
}
