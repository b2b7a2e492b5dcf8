//! `triplay pipeline schema`: the JSON Schema of pipeline files, for editors.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::cli::registry;
use crate::engine::schema;
use output::println;

#[derive(Args)]
pub struct SchemaArgs {
    /// Write it to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn command(args: &SchemaArgs) -> anyhow::Result<ExitCode> {
    let text = serde_json::to_string_pretty(&schema::document(&registry()))? + "\n";
    match &args.out {
        None => output::print(&text)?,
        Some(file) => {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
            let file = file.display();
            println!("{file}: written. Begin a pipeline with\n# yaml-language-server: $schema={file}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
