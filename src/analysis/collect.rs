//! Gathers what the nodes of a run reported.

use std::fs;
use std::path::Path;

use anyhow::Context;

use data::{self, MetricRow, RunMetricRow};
use engine::NodeReport;
use store::Store;

/// The metrics of all nodes, in the order of the run.
pub fn collect(nodes: &[NodeReport], store: &Store) -> anyhow::Result<Vec<RunMetricRow>> {
    let mut rows = Vec::new();
    for node in nodes {
        for output in node.outputs.iter().filter(|output| output.artifact == "metrics") {
            let Some(path) = store.verified(&output.digest)? else { continue };
            let metrics =
                data::read::<MetricRow>(&path).with_context(|| format!("metrics of {}", node.node))?;
            rows.extend(metrics.into_iter().map(|metric| RunMetricRow { node: node.node.clone(), metric }));
        }
    }
    Ok(rows)
}

/// Reads a run's metrics.parquet.
pub fn read(path: &Path) -> anyhow::Result<Vec<RunMetricRow>> {
    Ok(data::read(path)?)
}

/// Writes a run's metrics.parquet.
pub fn write(path: &Path, rows: &[RunMetricRow]) -> anyhow::Result<()> {
    Ok(data::write(path, rows)?)
}

/// Links the models that the cache still holds into a folder, by the node that made them.
pub fn link_models(folder: &Path, nodes: &[NodeReport], store: &Store) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for node in nodes {
        for output in node.outputs.iter().filter(|output| output.artifact == "model") {
            let target = store.blob_path(&output.digest);
            if target.exists() {
                let link = folder.join(node.node.replace('/', "."));
                std::os::unix::fs::symlink(&target, &link)
                    .with_context(|| format!("cannot link {}", link.display()))?;
            }
        }
    }
    Ok(())
}
