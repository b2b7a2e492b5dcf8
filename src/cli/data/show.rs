//! `triplay data show`: prints a dataset as a table, a text as it is, the files of a folder, and the sizes of a model.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use super::{Content, Target, folder, table};
use crate::cli::args::ShowArgs;
use crate::data;
use crate::store::read;

pub(crate) fn command(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let target = Target::find(&args.target)?;
    check_options(args, &target)?;
    let out = &mut BufWriter::new(output::stdout());
    let mut write = || -> anyhow::Result<()> {
        match target.content {
            Content::Table => {
                let dataset = data::head(&target.path)?;
                match args.schema {
                    true => table::schema(&dataset, out)?,
                    false => table::rows(&target.path, &dataset, args, out)?,
                }
            }
            Content::Text => text(&target.path, args, out)?,
            Content::Folder => folder::show(&target.path, args, out)?,
            Content::Binary => bail!(
                "`{}` cannot be shown: it is {} ({} bytes); `triplay data get` copies it",
                args.target,
                target.describe(),
                target.path.metadata()?.len()
            ),
        }
        Ok(out.flush()?)
    };
    output::allow_broken_pipe(write())?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses options that only datasets have.
fn check_options(args: &ShowArgs, target: &Target) -> anyhow::Result<()> {
    let given = [("--columns", args.columns.is_some()), ("--schema", args.schema), ("--json", args.json)];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) if target.content != Content::Table => {
            bail!("`{}` must be a dataset for {option}, found {}", args.target, target.describe())
        }
        _ => Ok(()),
    }
}

/// Prints a text unchanged, or those of its lines that `--rows` and `--skip` choose.
fn text(path: &Path, args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut file = read::open(path)?;
    if args.rows.is_none() && args.skip == 0 {
        std::io::copy(&mut file, out)?;
        return Ok(());
    }
    let lines = BufReader::new(file).split(b'\n').skip(args.skip).take(args.rows.unwrap_or(usize::MAX));
    for line in lines {
        out.write_all(&line?)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
