//! `triplay data export`: writes a dataset as CSV, JSON Lines or Parquet for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::{Content, Target};
use crate::cli::args::RunCacheArgs;
use crate::data::{self, Head, Table};
use crate::store::read;
use output::{Destination, Overwrite, println};

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// A Parquet file, or RUN:NODE or RUN:NODE.OUTPUT, such as `latest:play[1]/red[01]/attacks`
    target: String,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
    /// The format [default: by the ending of the file's name]
    #[arg(long)]
    to: Option<To>,
    #[command(flatten)]
    cache: RunCacheArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// Lists as JSON; missing values and empty texts are both empty cells
    Csv,
    /// One object a row
    Jsonl,
    /// An unchanged copy of the file
    Parquet,
}

pub(crate) fn command(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let ending = args.out.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    let Some(to) = args.to.or_else(|| To::from_str(ending, true).ok()) else {
        bail!(
            "`--out` must end in .csv, .jsonl or .parquet, found {}; or name the format with --to",
            args.out.display()
        );
    };
    let source = Target::find(&args.target)?;
    if source.content != Content::Table {
        bail!(
            "`{}` must be a dataset, found {}; `triplay data get` copies it as it is",
            args.target,
            source.describe()
        );
    }
    let path = source.path;
    let target = args.out.canonicalize().ok();
    if target.is_some() && path.canonicalize().ok() == target {
        bail!("`--out` must not be the file that is read, found {}; name another file", args.out.display());
    }
    let out = destination(args, to, &path)?;
    let table = data::open(&path)?;
    out.write(|out| match to {
        To::Csv => csv(&table, out),
        To::Jsonl => jsonl(&table, out),
        // Copies the bytes alone: blobs of the cache are read-only.
        To::Parquet => Ok(std::io::copy(&mut read::open(&path)?, &mut File::create(out)?).map(drop)?),
    })?;
    println!("{}: {}", args.out.display(), output::several(table.rows(), "row"));
    Ok(ExitCode::SUCCESS)
}

/// The file to write. An earlier export with the same columns is replaced.
fn destination(args: &ExportArgs, to: To, dataset: &Path) -> anyhow::Result<Destination> {
    let Head { columns, name, .. } = data::head(dataset)?;
    let what = output::describe_table(&columns);
    let is_own = move |out: &Path| match to {
        To::Csv => output::is_csv(out, &columns),
        To::Jsonl => output::is_jsonl(out, &columns),
        To::Parquet => {
            let same = |head: Head| (name.is_some() && head.name == name) || head.columns == columns;
            data::head(out).is_ok_and(same)
        }
    };
    Destination::with_force(&args.out, what, args.overwrite, is_own)
}

fn csv(table: &Table, out: &Path) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_path(out)?;
    writer.write_record(table.schema.fields().iter().map(|field| field.name()))?;
    for cells in rows(table) {
        writer.write_record(cells.into_iter().map(|cell| match cell {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        }))?;
    }
    Ok(writer.flush()?)
}

fn jsonl(table: &Table, out: &Path) -> anyhow::Result<()> {
    let mut writer = BufWriter::new(File::create(out)?);
    for cells in rows(table) {
        let names = table.schema.fields().iter().map(|field| field.name().clone());
        writeln!(writer, "{}", Value::Object(names.zip(cells).collect::<Map<_, _>>()))?;
    }
    Ok(writer.flush()?)
}

fn rows(table: &Table) -> impl Iterator<Item = Vec<Value>> {
    table.batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(|row| batch.columns().iter().map(|array| data::cell(array, row)).collect())
    })
}
