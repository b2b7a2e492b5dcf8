//! `publish:` of a stage: its outputs appear in the folder of the run, below `outputs/`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::analysis;
use crate::data::is_parquet;
use crate::engine::{Graph, NodeReport};
use crate::runs::PUBLISHED;
use crate::store::{Digest, Store, copy_content, read};
use output::{Destination, NewFolder};

/// Whether any stage that is to run publishes its outputs.
pub(crate) fn publishes(graph: &Graph) -> bool {
    graph.selected().any(|id| graph.node(id).call.policy.publish.is_some())
}

/// Publishes what the nodes made, and leaves what stands there already. What a loop handed on and did not keep is left out.
/// Returns a line for everything that could not be published.
pub(crate) fn publish(graph: &Graph, nodes: &[NodeReport], store: &Store, folder: &Path) -> Vec<String> {
    if !publishes(graph) {
        return Vec::new();
    }
    let done: HashMap<&str, &NodeReport> = nodes.iter().map(|node| (node.node.as_str(), node)).collect();
    let mut missing = Vec::new();
    for node in graph.selected().map(|id| graph.node(id)) {
        let Some(publish) = &node.call.policy.publish else { continue };
        let Some(done) = done.get(node.name.as_str()) else { continue };
        for (index, path) in node.published() {
            let Some(output) = done.outputs.get(index).filter(|output| !output.passing) else { continue };
            let source = store.blob_path(&output.digest);
            let at = Path::new(PUBLISHED).join(&path);
            if let Err(error) = put(&source, &output.digest, folder, at, publish.copy) {
                let what = format!("output `{}` of {} is not published", output.name, node.name);
                missing.push(format!("{what}: {error:#}"));
            }
        }
    }
    missing
}

fn put(source: &Path, digest: &Digest, run: &Path, mut at: PathBuf, copy: bool) -> anyhow::Result<()> {
    ensure!(source.exists(), "it is no longer in the cache");
    if at.extension().is_none() && source.is_file() && is_parquet(source)? {
        at.set_extension("parquet");
    }
    // Never through a link: it may be one of an earlier `publish` that leads into the cache, or a stranger's.
    let around = read::inside(run, &at.parent().unwrap_or(Path::new("")).to_string_lossy())
        .context("remove the link, or run the pipeline with other parameters for a new run")?;
    let place = run.join(&at);
    fs::create_dir_all(&around).with_context(|| format!("cannot create {}", around.display()))?;
    if !copy {
        return analysis::link_in_run(run, &at, source);
    }
    match place.symlink_metadata() {
        Ok(there) if there.is_symlink() => fs::remove_file(&place)?,
        Ok(_) => return Ok(()),
        Err(_) => {}
    }
    let copy = |new: &Path| -> anyhow::Result<()> {
        let copied = copy_content(source, new, false)?;
        let is_whole = copied.digest.is_none_or(|found| found == *digest);
        ensure!(
            is_whole,
            "it is damaged in the cache: run `triplay cache verify`, and then the pipeline again"
        );
        Ok(())
    };
    match source.is_dir() {
        true => NewFolder::new(&place)?.make(copy),
        false => Destination::new(&place, "copy of an output", |_| false)?.write(copy),
    }
}
