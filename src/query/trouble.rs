//! Errors of queries, with advice. Polars may panic on unsupported queries: panics are caught here, and nothing of them reaches
//! the terminal.

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use polars::prelude::{PolarsError, PolarsResult};

use crate::catalog::described;
use engine::nearest;

/// The failure of a Polars call.
#[derive(Debug)]
pub(crate) enum Failure {
    Error(PolarsError),
    Panic(String),
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// Keeps panic messages from the terminal while a query runs: they become errors. Polars' threads may all panic, so the first
/// message is kept.
pub(crate) struct PanicHookGuard {
    before: Option<Hook>,
}

static SAID: Mutex<Option<String>> = Mutex::new(None);

impl PanicHookGuard {
    pub(crate) fn new() -> PanicHookGuard {
        let before = std::panic::take_hook();
        *SAID.lock().unwrap_or_else(PoisonError::into_inner) = None;
        std::panic::set_hook(Box::new(|info| {
            SAID.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(|| message(info.payload()));
        }));
        PanicHookGuard { before: Some(before) }
    }

    pub(crate) fn guarded<T>(&self, work: impl FnOnce() -> PolarsResult<T>) -> Result<T, Failure> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(outcome) => outcome.map_err(Failure::Error),
            Err(payload) => {
                let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(Failure::Panic(said.unwrap_or_else(|| message(payload.as_ref()))))
            }
        }
    }
}

impl Drop for PanicHookGuard {
    fn drop(&mut self) {
        // The hook cannot be changed during a panic.
        if let Some(before) = self.before.take().filter(|_| !std::thread::panicking()) {
            std::panic::set_hook(before);
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it gave no reason").to_owned()
}

/// The context of a failing query.
#[derive(Default)]
pub(crate) struct ErrorExplainer {
    /// The Parquet files that it reads.
    pub files: Vec<PathBuf>,
    /// The parameters that its tables have as columns.
    pub params: Vec<String>,
}

impl ErrorExplainer {
    /// The error for people.
    pub(crate) fn explain(&self, failure: Failure) -> anyhow::Error {
        let error = match failure {
            Failure::Error(error) => error,
            Failure::Panic(said) => {
                return self.broken_file().unwrap_or_else(|| {
                    anyhow!("Polars does not support this query: {said}\n  help: split the query, for example using WITH")
                });
            }
        };
        let text = innermost(&error).to_string();
        if let Some(table) =
            quoted_after(&text, "relation '").or_else(|| quoted_after(&text, "no table or alias named '"))
        {
            return unknown_table(table);
        }
        match innermost(&error) {
            PolarsError::ColumnNotFound(message) | PolarsError::SchemaFieldNotFound(message) => {
                unknown_column(message, &self.params)
            }
            PolarsError::Duplicate(message) => {
                let name = quoted_after(message, "name '").unwrap_or("the same");
                anyhow!("two columns have the name `{name}`; rename one of them with AS")
            }
            PolarsError::SQLInterface(_) | PolarsError::SQLSyntax(_) => {
                let text = text.strip_prefix("sql parser error: ").unwrap_or(&text);
                anyhow!("the SQL is not valid: {text}")
            }
            _ => self.broken_file().unwrap_or_else(|| anyhow!("the query failed: {}", first_line(&text))),
        }
    }

    /// Most failures of a running query are unreadable files, which Polars does not name.
    fn broken_file(&self) -> Option<anyhow::Error> {
        self.files.iter().find_map(|file| {
            let error = data::open(file).err()?;
            let tables = file.parent().and_then(Path::parent).unwrap_or(Path::new("."));
            // Without the general advice about files.
            let cause = error.to_string();
            Some(anyhow!(
                "{}\n  help: remove {} and run the query again: it is made again from the data that the cache still has",
                cause.split("\n  help:").next().unwrap_or_default(),
                tables.display()
            ))
        })
    }
}

/// Polars wraps errors in their context.
fn innermost(error: &PolarsError) -> &PolarsError {
    match error {
        PolarsError::Context { error, .. } | PolarsError::ExprContext { error, .. } => innermost(error),
        other => other,
    }
}

fn quoted_after<'t>(text: &'t str, before: &str) -> Option<&'t str> {
    text.split_once(before)?.1.split('\'').next()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn unknown_table(name: &str) -> anyhow::Error {
    let tables = described();
    let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
    match nearest(name, &names) {
        Some(near) => anyhow!("there is no table `{name}`; did you mean `{near}`?"),
        None => anyhow!("there is no table `{name}`; there are {}", names.join(", ")),
    }
}

fn unknown_column(message: &str, params: &[String]) -> anyhow::Error {
    let line = first_line(message);
    let name = match line.split('"').nth(1) {
        Some(quoted) => quoted,
        None => line.split_whitespace().next().unwrap_or_default().trim_matches(['\'', '`', ':', ';']),
    };
    let tables = described();
    let mut names: Vec<&str> =
        tables.iter().flat_map(|table| &table.columns).map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |column: &str| {
        let having = tables.iter().filter(|table| table.columns.iter().any(|known| known.name == column));
        having.map(|table| table.name).collect::<Vec<_>>().join(", ")
    };
    // Polars names a column of the second table of a join `column:table`.
    if let Some((column, table)) = name.split_once(':').filter(|(column, _)| names.contains(column)) {
        return anyhow!(
            "Polars cannot group or order by `{table}.{column}` here, since the first table has a `{column}` too\n  help: \
             use that of the first table, or join in a WITH that selects it by another name"
        );
    }
    if names.contains(&name) {
        return anyhow!("no table here has a column `{name}`; it is one of {}", of(name));
    }
    let columns = names.len();
    names.extend(params.iter().map(String::as_str));
    match nearest(name, &names) {
        Some(near) if !names[..columns].contains(&near) => {
            anyhow!("there is no column `{name}`; did you mean the parameter `{near}`?")
        }
        Some(near) => anyhow!("there is no column `{name}`; did you mean `{near}` (of {})?", of(near)),
        None => anyhow!("there is no column `{name}`; `triplay results query --schema` shows all of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_within_a_query_becomes_an_error_that_says_why() {
        let quiet = PanicHookGuard::new();
        let outcome = quiet.guarded::<()>(|| panic!("not yet {}", "implemented"));
        drop(quiet);
        let failure = outcome.expect_err("a panic is a failure");
        let error = ErrorExplainer::default().explain(failure).to_string();
        assert!(error.starts_with("Polars does not support this query: not yet implemented\n"), "{error}");
    }

    #[test]
    fn names_in_messages_of_polars_are_found() {
        let unknown = |message: &str| unknown_column(message, &["heat".into()]).to_string();
        let of_params = unknown("unable to find column \"haet\"; valid columns: [\"run\"]");
        assert_eq!(of_params, "there is no column `haet`; did you mean the parameter `heat`?");
        let of_schema = unknown("unable to find column \"loprob\"; valid columns: [\"run\"]");
        assert!(
            of_schema.starts_with("there is no column `loprob`; did you mean `logprob` (of "),
            "{of_schema}"
        );
        assert!(
            unknown("zzzzzz\n\nResolved plan until failure:").starts_with("there is no column `zzzzzz`; ")
        );
    }
}
