//! `triplay pipeline schema`: the JSON Schema of pipeline files, for editors.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::registry::registry;
use crate::engine::schema;
use output::{Destination, Overwrite, first_bytes, println};

#[derive(Args)]
pub(crate) struct SchemaArgs {
    /// Write the schema to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

pub(crate) fn command(args: &SchemaArgs) -> anyhow::Result<ExitCode> {
    let text = text()?;
    match &args.out {
        None => output::print(&text)?,
        Some(file) => {
            Destination::with_force(file, "schema of triplay's pipelines", args.overwrite, is_schema)?
                .write_bytes(text.as_bytes())?;
            let file = file.display();
            println!("{file}: written. Begin a pipeline with\n# yaml-language-server: $schema={file}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The JSON Schema of pipeline files.
pub(crate) fn text() -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&schema::document(&registry()))? + "\n")
}

/// Whether a file is a schema that this or an earlier version wrote, by its `$schema` and title.
fn is_schema(path: &Path) -> bool {
    let first_bytes = first_bytes(path, 256);
    let text = String::from_utf8_lossy(&first_bytes);
    text.starts_with("{\n  \"$schema\": ") && text.contains("\n  \"title\": \"triplay pipeline\",\n")
}
