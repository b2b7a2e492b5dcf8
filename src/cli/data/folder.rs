//! Folders as lists of their files, and models by their sizes.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::cli::args::ShowArgs;
use crate::store::files_below;
use output::{one_line, several, size};

/// Prints the files of a folder with their sizes, in the order of their names; before them, what is known of a model.
pub(super) fn show(folder: &Path, args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    #[cfg(feature = "models")]
    if let Some(model) = model(folder) {
        writeln!(out, "{model}")?;
    }
    let size_of = |(name, file): (String, PathBuf)| Ok((name, file.metadata()?.len()));
    let files: Vec<(String, u64)> =
        files_below(folder, None)?.into_iter().map(size_of).collect::<std::io::Result<_>>()?;
    let total = files.iter().map(|(_, size)| size).sum();
    writeln!(out, "{}: {}, {}", folder.display(), several(files.len(), "file"), size(total))?;
    let chosen = files.iter().skip(args.skip).take(args.rows.unwrap_or(usize::MAX));
    let chosen: Vec<(&str, String)> = chosen.map(|(name, bytes)| (name.as_str(), size(*bytes))).collect();
    let width = chosen.iter().map(|(_, size)| size.chars().count()).max().unwrap_or(0);
    for (name, size) in chosen {
        writeln!(out, "{size:>width$}  {}", one_line(name))?;
    }
    Ok(())
}

/// The sizes of a model with a config.json that triplay reads.
#[cfg(feature = "models")]
fn model(folder: &Path) -> Option<String> {
    let config = crate::model::Checkpoint::config(folder).ok()?;
    let parameters: usize =
        config.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    Some(format!(
        "{} model: {parameters} parameters, {} layers, {} hidden, {} heads, {} positions, vocabulary of {}",
        config.family.model_type(),
        config.layers,
        config.hidden_size,
        config.heads,
        config.positions,
        config.vocab_size
    ))
}
