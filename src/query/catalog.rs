//! The tables that queries know: descriptions, and how they are opened.

use std::path::PathBuf;

use anyhow::Context;
use arrow_schema::DataType as Arrow;
use polars::prelude::{
    DataType, Field, LazyFrame, PlRefPath, ScanArgsParquet, Schema, SchemaRef as PolarsSchemaRef,
};

use crate::description::{ColumnDoc, TableDoc, kind};
use crate::overview;
use crate::params::ParamColumns;
use crate::records::unreadable;
use runs::{AXES, TABLES, Table, Tables};

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

/// Whether the parameters of variants are columns of this table.
pub(crate) fn has_params(name: &str) -> bool {
    name != AXES && TABLES.iter().any(|table| table.name == name)
}

/// Opens tables of runs.
pub(crate) struct Catalog<'a> {
    folders: &'a [PathBuf],
    sql: &'a str,
    /// The parameters that the query needs, once it needs a table that may have them.
    pub params: Option<ParamColumns>,
    /// The tables of the runs that have some, once a query needs them.
    tables: Option<Vec<Tables>>,
    /// The Parquet files of the opened tables.
    pub files: Vec<PathBuf>,
    pub warnings: Vec<String>,
}

impl<'a> Catalog<'a> {
    pub(crate) fn new(folders: &'a [PathBuf], sql: &'a str) -> Catalog<'a> {
        Catalog { folders, sql, params: None, tables: None, files: Vec::new(), warnings: Vec::new() }
    }

    /// The table of this name; `None` if there is none.
    pub(crate) fn open(&mut self, name: &str) -> anyhow::Result<Option<LazyFrame>> {
        let frame = if let Some(table) = TABLES.iter().find(|table| table.name == name) {
            let frame = self.scan(table)?;
            let schema = table.schema();
            let own: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            Some(if has_params(name) { self.params()?.beside(frame, &own) } else { frame })
        } else {
            let (frame, warnings) = overview::open(name, self.folders)?;
            self.warn(warnings);
            frame
        };
        Ok(frame)
    }

    /// A table of all runs.
    fn scan(&mut self, table: &Table) -> anyhow::Result<LazyFrame> {
        let files: Vec<PathBuf> = self.tables()?.iter().map(|tables| tables.path(table.name)).collect();
        self.files.extend(files.iter().cloned());
        let fields = table.schema();
        let schema: Schema =
            fields.fields().iter().map(|field| of(field.name(), field.data_type())).collect();
        scan(&files, schema.into())
    }

    fn params(&mut self) -> anyhow::Result<&ParamColumns> {
        if self.params.is_none() {
            let mut all = overview::assigned(self.folders);
            for tables in self.tables()? {
                all.extend(tables.axes()?);
            }
            self.params = Some(ParamColumns::new(&all, self.sql)?);
        }
        self.params.as_ref().context("the parameters were read")
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
