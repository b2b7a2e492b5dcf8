//! `triplay data`: shows, copies, imports and exports datasets and the other outputs of runs.

pub(super) mod export;
mod folder;
pub(super) mod get;
pub(super) mod import;
pub(super) mod show;
mod table;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::data::is_parquet;
use crate::runs::Run;
use crate::store::{Digest, Store, read};

/// A file or folder that a command line names: one of the user's, or an output of a run's node.
struct Target {
    path: PathBuf,
    /// Of an output: its type, and the digest that was recorded.
    recorded: Option<(String, Digest)>,
    content: Content,
}

/// What to do about damage.
const REMEDY: &str =
    "run `triplay cache verify`, which puts damaged files aside, and then the pipeline again";

/// What a target holds, as far as printing it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A Parquet file.
    Table,
    Text,
    Folder,
    /// Bytes that are none of these.
    Binary,
}

impl Content {
    /// The content with its article, for errors.
    fn name(self) -> &'static str {
        match self {
            Content::Table => "a dataset",
            Content::Text => "a text",
            Content::Folder => "a folder",
            Content::Binary => "a binary file",
        }
    }
}

impl Target {
    /// Finds what `text` names; an output of a run must have its recorded content. Folders are not read for that: only their list is
    /// shown.
    fn find(text: &str) -> anyhow::Result<Target> {
        let target = Target::locate(text)?;
        if target.content != Content::Folder && target.recorded.is_some() {
            target.verify(Digest::of_file(&target.path)?, text)?;
        }
        Ok(target)
    }

    /// Finds what `text` names, without reading all of it.
    fn locate(text: &str) -> anyhow::Result<Target> {
        let path = Path::new(text);
        if path.exists() {
            return Target::new(path.to_owned(), None);
        }
        let Some((run, node)) = text.split_once(':') else {
            bail!(
                "there is no file {text}; an output of a run is RUN:NODE, such as latest:play[1]/red[01]/attacks"
            )
        };
        let run = Run::find(run)?;
        let (output, path) = run.output(node)?;
        // A symbolic link may lead anywhere.
        ensure!(
            !path.is_symlink(),
            "`{node}`; {REMEDY}: {} is damaged: it must be a file or a folder, found a symbolic link",
            path.display()
        );
        if path.exists() {
            return Target::new(path, Some((output.artifact.clone(), output.digest)));
        }
        if output.passing {
            bail!(
                "`{node}` was evicted: its loop keeps only the last of these; with `keep: all` in the loop, the next run of the \
                 pipeline makes all of them again and keeps them"
            )
        }
        let cache = run.record.cache.display();
        ensure!(
            Store::is_in(&run.record.cache),
            "`{node}`: the cache {cache} of run {} is gone; if it was moved, name its new place with --cache DIR",
            run.record.run
        );
        bail!("`{node}` is no longer in the cache {cache}; run the pipeline again to make it")
    }

    fn new(path: PathBuf, recorded: Option<(String, Digest)>) -> anyhow::Result<Target> {
        let content = content(&path, recorded.as_ref().map(|(artifact, _)| artifact.as_str()));
        let content = content.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Target { path, recorded, content })
    }

    /// An error if `found`, the digest of its content, is not the recorded one.
    fn verify(&self, found: Digest, text: &str) -> anyhow::Result<()> {
        let Some((_, recorded)) = &self.recorded else { return Ok(()) };
        recorded.ensure_is(found, &self.path).with_context(|| format!("`{text}`; {REMEDY}"))
    }

    /// The digest of its content: the recorded one, or that of a user's file or folder.
    fn digest(&self) -> io::Result<Digest> {
        self.recorded.as_ref().map_or_else(|| Digest::of_path(&self.path), |(_, digest)| Ok(*digest))
    }

    /// What it is, for errors: its type and content.
    fn describe(&self) -> String {
        match &self.recorded {
            Some((artifact, _)) => format!("{} of type `{artifact}`", self.content.name()),
            None => self.content.name().to_owned(),
        }
    }
}

fn content(path: &Path, artifact: Option<&str>) -> io::Result<Content> {
    if path.is_dir() {
        return Ok(Content::Folder);
    }
    let mut first = Vec::new();
    read::open(path)?.take(SNIFFED).read_to_end(&mut first)?;
    Ok(match artifact {
        Some("text") => Content::Text,
        _ if is_parquet(path)? => Content::Table,
        _ if is_text(&first) => Content::Text,
        _ => Content::Binary,
    })
}

/// Bytes at the beginning of a file by which texts are recognised.
const SNIFFED: u64 = 8192;

/// Whether bytes are the beginning of a text in UTF-8, which may be cut within a character.
fn is_text(bytes: &[u8]) -> bool {
    let is_whole = |error: std::str::Utf8Error| error.error_len().is_none() && bytes.len() as u64 == SNIFFED;
    !bytes.contains(&0) && std::str::from_utf8(bytes).map_or_else(is_whole, |_| true)
}
