//! Answers SQL over the folders of runs.

use std::path::PathBuf;

use polars::prelude::LazyFrame;
use polars::sql::{SQLContext, extract_table_identifiers};

use crate::answer::Answer;
use crate::catalog::Catalog;
use crate::trouble::{ErrorExplainer, PanicHookGuard};

/// An answer, with warnings.
pub(crate) struct QueryResult {
    pub answer: Answer,
    /// Runs that could not be read, and rows that are gone.
    pub warnings: Vec<String>,
}

/// Answers a query over the runs in these folders. Only the tables that it names are opened; missing tables of a run are created.
pub(crate) fn query(sql: &str, folders: &[PathBuf]) -> anyhow::Result<QueryResult> {
    let quiet = PanicHookGuard::new();
    let mut trouble = ErrorExplainer::default();
    let begins = sql.split_whitespace().next().unwrap_or_default();
    // Polars would list the opened tables, which are none yet.
    anyhow::ensure!(
        !begins.eq_ignore_ascii_case("show"),
        "`triplay results query --schema` shows the tables"
    );
    const CHANGES: [&str; 8] = ["insert", "update", "delete", "merge", "drop", "create", "truncate", "alter"];
    anyhow::ensure!(
        !CHANGES.iter().any(|word| begins.eq_ignore_ascii_case(word)),
        "a query must be a SELECT, which may follow WITH: SQL does not change runs"
    );
    let named = quiet
        .guarded(|| extract_table_identifiers(sql, false, true))
        .map_err(|failure| trouble.explain(failure))?;
    let mut catalog = Catalog::new(folders, sql);
    let mut tables: Vec<(String, LazyFrame)> = Vec::new();
    // Other names are common table expressions, or wrong; Polars reports those.
    for name in &named {
        if let Some(frame) = catalog.open(name)? {
            tables.push((name.clone(), frame));
        }
    }
    trouble.files = std::mem::take(&mut catalog.files);
    trouble.params = catalog.params.take().map(|params| params.known).unwrap_or_default();
    let planned = quiet.guarded(|| {
        let mut context = SQLContext::new();
        tables.into_iter().for_each(|(name, frame)| context.register(&name, frame));
        let mut frame = context.execute(sql)?;
        let schema = frame.collect_schema()?;
        Ok((frame, schema))
    });
    let (frame, schema) = planned.map_err(|failure| trouble.explain(failure))?;
    Ok(QueryResult { answer: Answer::begin(frame, schema, trouble, quiet), warnings: catalog.warnings })
}
