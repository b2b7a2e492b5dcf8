//! `triplay data import`: converts files of other datasets to seed prompts. Findings go to standard output, warnings to
//! standard error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use crate::data::import::{Duplicates, FORMATS, FileReport, Format, Options, Report, import};
use crate::data::{self, Row, SeedRow, write};
use output::{Destination, Overwrite, eprintln, one_line, println, several};

#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Files of a known dataset (see --as), or your own: .csv, .tsv, .json, .jsonl or .parquet
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The Parquet file to write; without it, the command only reports
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// The dataset that the files come from [default: recognised by their columns]
    #[arg(long = "as", value_name = "FORMAT", value_parser = format_parser())]
    format: Option<&'static Format>,
    /// Put all rows in this split [default: the file's, else `train`]
    #[arg(long, value_parser = ["train", "heldout"])]
    split: Option<String>,
    /// The task of all rows; required if the file does not say it [default: the file's]
    #[arg(long, value_parser = ["hazard", "benign"])]
    task: Option<String>,
    /// Report rows that are also in this file, such as an evaluation set; may be repeated
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Leave out rows that are also in a file of --against, exactly or nearly
    #[arg(long, requires = "against")]
    drop_overlap: bool,
    /// Keep exact duplicates of earlier rows
    #[arg(long)]
    keep_duplicates: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn format_parser() -> impl TypedValueParser<Value = &'static Format> {
    let names = FORMATS.each_ref().map(|format| format.name);
    PossibleValuesParser::new(names).try_map(|name| Format::named(&name).ok_or("no such format"))
}

pub(crate) fn command(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let out = args.out.as_ref().map(|out| destination(out, args)).transpose()?;
    let options = Options {
        format: args.format,
        task: args.task.clone(),
        split: args.split.clone(),
        keep_duplicates: args.keep_duplicates,
        drop_overlap: args.drop_overlap,
    };
    let (rows, report) = import(&args.files, &args.against, &options)?;
    warn(&report, args);
    if let Some(out) = out.filter(|_| !rows.is_empty()) {
        out.write(|path| Ok(write(path, &rows)?))?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&JsonReport { out: args.out.as_deref(), report: &report })?);
    } else {
        tell(&report, args);
    }
    if rows.is_empty() {
        bail!("no row is left to import");
    }
    Ok(ExitCode::SUCCESS)
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct JsonReport<'a> {
    out: Option<&'a Path>,
    #[serde(flatten)]
    report: &'a Report,
}

/// The file to write. Seed prompts of an earlier import are replaced.
fn destination(out: &Path, args: &ImportArgs) -> anyhow::Result<Destination> {
    if out.extension().is_none_or(|ending| ending != "parquet") {
        bail!(
            "`--out` must end in .parquet, found {}; `triplay data export` converts it to other formats",
            out.display()
        );
    }
    let target = out.canonicalize().ok();
    for input in args.files.iter().chain(&args.against) {
        if target.is_some() && input.canonicalize().ok() == target {
            bail!(
                "`--out` must not be one of the files that are read, found {}; name another file",
                out.display()
            );
        }
    }
    let is_seeds =
        |path: &Path| data::head(path).is_ok_and(|head| head.name.as_deref() == Some(<SeedRow as Row>::NAME));
    Destination::with_force(out, "Parquet file of seed prompts by triplay", args.overwrite, is_seeds)
}

/// Warns of each dataset's licence, once, and of training rows that are also in an evaluation set.
fn warn(report: &Report, args: &ImportArgs) {
    let mut known = BTreeSet::new();
    for file in &report.files {
        if let Some(licence) = file.licence.filter(|_| known.insert(file.format)) {
            eprintln!("warning: {} is licensed: {licence} ({})", file.title, file.path);
        }
    }
    for overlap in report.overlaps.iter().filter(|overlap| overlap.train > 0 && !args.drop_overlap) {
        let are = if overlap.train == 1 { "is" } else { "are" };
        let rows = several(overlap.train, "row");
        eprintln!("warning: {rows} of split train {are} also in {}", overlap.path);
    }
}

fn tell(report: &Report, args: &ImportArgs) {
    for file in &report.files {
        println!("{}: {}, {}", file.path, file.title, file.because);
        println!("  task {}", file.task);
        println!("  {}", what_became_of(file));
        if !file.ignored.is_empty() {
            println!("  {}", ignored(file));
        }
        for (remark, count) in &file.remarks {
            println!("  {}: {remark}", several(*count, "row"));
        }
    }
    if report.duplicates.total() > 0 {
        let fate = if args.keep_duplicates { "kept" } else { "left out" };
        let Duplicates { exact, near, across_files, .. } = &report.duplicates;
        println!("duplicates: {exact} exact, {fate}; {near} near, kept; {across_files} of them across files");
        for (count, what) in [(report.of_another_task, "task"), (report.of_another_split, "split")] {
            if count > 0 {
                println!("  {count} of them have another {what} than the earlier row");
            }
        }
        examples(&report.duplicates);
    }
    for overlap in &report.overlaps {
        let Duplicates { exact, near, .. } = &overlap.twins;
        let fate = match overlap.twins.total() {
            0 => "",
            _ if args.drop_overlap => ", left out",
            _ => ", kept; --drop-overlap leaves them out",
        };
        let texts = several(overlap.rows, "text");
        println!("overlap with {} ({texts}): {exact} exact, {near} near{fate}", overlap.path);
        examples(&overlap.twins);
    }
    let place = match &args.out {
        Some(out) if report.kept > 0 => out.display().to_string(),
        _ => "not written".to_owned(),
    };
    let categories = match report.categories.len() {
        1 => "1 category".to_owned(),
        count => format!("{count} categories"),
    };
    let (splits, tasks) = (counts(&report.splits), counts(&report.tasks));
    println!("{place}: {} ({splits}; {tasks}; {categories})", several(report.kept, "seed"));
}

fn what_became_of(file: &FileReport) -> String {
    let dropped: Vec<String> =
        file.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let dropped =
        if dropped.is_empty() { String::new() } else { format!("; left out: {}", dropped.join(", ")) };
    let made = match file.made_ids {
        0 => String::new(),
        count => format!("; {} made from the text", several(count, "id")),
    };
    format!("{}, {} kept{dropped}{made}", several(file.rows, "row"), file.kept)
}

fn ignored(file: &FileReport) -> String {
    let columns = if file.ignored.len() == 1 { "column" } else { "columns" };
    let each = file.ignored.iter().map(|ignored| {
        let near = ignored.did_you_mean.map(|name| format!(" (did you mean {name}?)"));
        format!("{}{}", one_line(&ignored.column), near.unwrap_or_default())
    });
    format!("ignored {columns}: {}", each.collect::<Vec<_>>().join(", "))
}

fn counts(counts: &BTreeMap<String, usize>) -> String {
    let each = counts.iter().map(|(name, count)| format!("{name} {count}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Most characters shown of an example's text.
const SHOWN: usize = 50;

fn examples(twins: &Duplicates) {
    for example in &twins.examples {
        let likeness = if example.exact { "exact" } else { "near " };
        let line = one_line(&example.text);
        let text = match line.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line.into_owned(),
        };
        println!("  {likeness}  {} is {}: {text}", example.row, example.same_as);
    }
}
