//! The tables that queries know: descriptions, and how they are opened.

use std::path::PathBuf;

use anyhow::Context;
use arrow_schema::DataType as Arrow;
use polars::prelude::{
    DataType, Field, LazyFrame, PlRefPath, ScanArgsParquet, Schema, SchemaRef as PolarsSchemaRef,
};

use crate::overview;
use crate::trouble::ErrorExplainer;
use runs::{Run, TABLES, Tables};

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

/// All tables, those of runs' records first.
pub(crate) fn described() -> Vec<TableDoc> {
    let mut tables = overview::described();
    for table in &TABLES {
        let schema = table.schema();
        let columns = schema.fields().iter().map(|field| ColumnDoc {
            name: field.name().clone(),
            kind: kind(&polars_type(field.data_type())),
            about: field.metadata().get("description").cloned().unwrap_or_default(),
        });
        tables.push(TableDoc { name: table.name, about: table.about, columns: columns.collect() });
    }
    tables
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

/// Opens tables of runs.
pub(crate) struct Catalog<'a> {
    folders: &'a [PathBuf],
    /// The tables of the runs that have some, once a query needs them.
    tables: Option<Vec<Tables>>,
    pub warnings: Vec<String>,
}

impl<'a> Catalog<'a> {
    pub(crate) fn new(folders: &'a [PathBuf]) -> Catalog<'a> {
        Catalog { folders, tables: None, warnings: Vec::new() }
    }

    /// The table of this name; `None` if there is none.
    pub(crate) fn open(
        &mut self,
        name: &str,
        trouble: &mut ErrorExplainer,
    ) -> anyhow::Result<Option<LazyFrame>> {
        let frame = if let Some(table) = TABLES.iter().find(|table| table.name == name) {
            let files: Vec<PathBuf> = self.tables()?.iter().map(|tables| tables.path(name)).collect();
            trouble.files.extend(files.iter().cloned());
            let fields = table.schema();
            let schema: Schema =
                fields.fields().iter().map(|field| of(field.name(), field.data_type())).collect();
            Some(scan(&files, schema.into())?)
        } else {
            let (frame, warnings) = overview::open(name, self.folders)?;
            self.warn(warnings);
            frame
        };
        Ok(frame)
    }

    /// The tables of all runs. A run that cannot be read is left out with a warning.
    fn tables(&mut self) -> anyhow::Result<&[Tables]> {
        if self.tables.is_none() {
            let (mut found, mut warnings) = (Vec::new(), Vec::new());
            for (folder, tables) in self.folders.iter().zip(Tables::of_all(self.folders)) {
                match tables {
                    Ok(tables) => {
                        if tables.missing > 0 {
                            warnings.push(format!(
                                "{}: {} datasets are no longer in the cache and their rows are left out; run the \
                                 pipeline again to make them",
                                folder.display(),
                                tables.missing
                            ));
                        }
                        found.push(tables);
                    }
                    Err(error) => warnings.push(unreadable(folder, &error)),
                }
            }
            self.warn(warnings);
            anyhow::ensure!(
                !found.is_empty(),
                "none of the {} runs can be read{}",
                self.folders.len(),
                self.warnings.first().map(|first| format!(": {first}")).unwrap_or_default()
            );
            self.tables = Some(found);
        }
        Ok(self.tables.as_deref().unwrap_or_default())
    }

    /// Adds warnings without repetitions.
    fn warn(&mut self, warnings: Vec<String>) {
        for warning in warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}

/// The warning about a run that is left out, with advice.
pub(crate) fn unreadable(folder: &std::path::Path, error: &anyhow::Error) -> String {
    format!("{} is left out: {error:#}; `triplay runs rm {}` removes it", folder.display(), folder.display())
}

/// The records of runs; those that cannot be read are left out with a warning.
pub(crate) fn records<T: Send>(
    folders: &[PathBuf],
    read: impl Fn(&std::path::Path) -> anyhow::Result<T> + Sync,
) -> (Vec<T>, Vec<String>) {
    use rayon::prelude::*;
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    let all: Vec<anyhow::Result<T>> = folders.par_iter().map(|folder| read(folder)).collect();
    for (folder, one) in folders.iter().zip(all) {
        match one {
            Ok(one) => found.push(one),
            Err(error) => warnings.push(unreadable(folder, &error)),
        }
    }
    (found, warnings)
}

/// Many files as one table. With a known schema no file is opened before the query runs, and a table without files still has its
/// columns.
fn scan(files: &[PathBuf], schema: PolarsSchemaRef) -> anyhow::Result<LazyFrame> {
    let paths = files.iter().map(|file| Ok(PlRefPath::new(file.to_str().context("a path is not UTF-8")?)));
    let paths = paths.collect::<anyhow::Result<Vec<_>>>()?;
    let args = ScanArgsParquet { schema: Some(schema), glob: false, ..Default::default() };
    Ok(LazyFrame::scan_parquet_files(paths.into(), args)?)
}

fn of(name: &str, data_type: &Arrow) -> Field {
    Field::new(name.into(), polars_type(data_type))
}

/// The types in tables of runs.
fn polars_type(data_type: &Arrow) -> DataType {
    match data_type {
        Arrow::Boolean => DataType::Boolean,
        Arrow::UInt32 => DataType::UInt32,
        Arrow::UInt64 => DataType::UInt64,
        Arrow::Float64 => DataType::Float64,
        Arrow::List(item) => DataType::List(Box::new(polars_type(item.data_type()))),
        _ => DataType::String,
    }
}

/// Reads only a run's record.
pub(crate) fn record(folder: &std::path::Path) -> anyhow::Result<Run> {
    let record = Run::read_record(folder)?;
    Ok(Run { folder: folder.to_owned(), record, nodes: Vec::new(), ablation: None, damaged: 0 })
}
