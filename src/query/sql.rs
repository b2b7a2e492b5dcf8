//! From SQL and the folders of runs to an answer.

use std::path::PathBuf;

use polars::prelude::LazyFrame;
use polars::sql::{SQLContext, extract_table_identifiers};

use crate::answer::Answer;
use crate::catalog::Catalog;
use crate::trouble::{Quiet, Trouble};

/// An answer, and what the asker should know about what it is made of.
pub struct Asked {
    pub answer: Answer,
    /// Runs that could not be read, and rows that are not there any more.
    pub warnings: Vec<String>,
}

/// Answers a query over the runs in these folders. Only the tables that it names are opened; those of a run that has
/// none yet are made.
pub fn query(sql: &str, folders: &[PathBuf]) -> anyhow::Result<Asked> {
    let quiet = Quiet::new();
    let mut trouble = Trouble::default();
    let begins = sql.split_whitespace().next().unwrap_or_default();
    // Polars would list those that were opened: none.
    anyhow::ensure!(
        !begins.eq_ignore_ascii_case("show"),
        "`triplay results query --schema` shows the tables"
    );
    const CHANGES: [&str; 8] = ["insert", "update", "delete", "merge", "drop", "create", "truncate", "alter"];
    anyhow::ensure!(
        !CHANGES.iter().any(|word| begins.eq_ignore_ascii_case(word)),
        "only SELECT can be asked, also after WITH: runs are not changed by SQL"
    );
    let named = quiet
        .guarded(|| extract_table_identifiers(sql, false, true))
        .map_err(|failure| trouble.explain(failure))?;
    let mut catalog = Catalog::new(folders);
    let mut tables: Vec<(String, LazyFrame)> = Vec::new();
    // Other names are those of common table expressions, or wrong: Polars tells.
    for name in &named {
        if let Some(frame) = catalog.open(name, &mut trouble)? {
            tables.push((name.clone(), frame));
        }
    }
    let planned = quiet.guarded(|| {
        let mut context = SQLContext::new();
        tables.into_iter().for_each(|(name, frame)| context.register(&name, frame));
        let mut frame = context.execute(sql)?;
        let schema = frame.collect_schema()?;
        Ok((frame, schema))
    });
    let (frame, schema) = planned.map_err(|failure| trouble.explain(failure))?;
    Ok(Asked { answer: Answer::begin(frame, schema, trouble, quiet), warnings: catalog.warnings })
}
