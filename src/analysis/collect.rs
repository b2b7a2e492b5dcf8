//! Gathers the metrics and models of a run's nodes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;

use data::RunMetricRow;
use engine::{NodeOutput, NodeReport};
use runs::stage;
use store::{Digest, Store};

/// The metrics of all nodes, in the order of the run.
pub fn collect(nodes: &[NodeReport], store: &Store) -> anyhow::Result<Vec<RunMetricRow>> {
    let mut rows = Vec::new();
    for node in nodes {
        for output in node.outputs.iter().filter(|output| output.artifact == "metrics") {
            let Some(path) = store.verified(&output.digest)? else { continue };
            let metrics = data::metrics(&path, stage(&node.node).0)
                .with_context(|| format!("metrics of {}", node.node))?;
            rows.extend(metrics.into_iter().map(|metric| RunMetricRow { node: node.node.clone(), metric }));
        }
    }
    Ok(rows)
}

/// Reads a run's metrics.parquet.
pub fn read(path: &Path) -> anyhow::Result<Vec<RunMetricRow>> {
    Ok(data::read(path)?)
}

/// Writes a run's metrics.parquet atomically.
pub fn write(path: &Path, rows: &[RunMetricRow]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let permissions = fs::Permissions::from_mode(0o666);
    let new = tempfile::Builder::new().prefix(".writing-").permissions(permissions).tempfile_in(folder);
    let fail = || format!("cannot write {}", path.display());
    let new = new.with_context(fail)?.into_temp_path();
    data::write(&new, rows)?;
    new.persist(path).with_context(fail)
}

/// Links the models that the cache still has into `models/` of a run's folder, named by their nodes. Returns the errors; the other
/// models are linked in any case.
pub fn link_models(run: &Path, nodes: &[NodeReport], store: &Store) -> Vec<anyhow::Error> {
    let folder = run.join("models");
    if let Err(error) = store::create_private(&folder) {
        return vec![anyhow::Error::new(error).context(format!("cannot create {}", folder.display()))];
    }
    let mut failures = Vec::new();
    for (name, output) in link_names(nodes) {
        let target = store.blob_path(&output.digest);
        if target.exists()
            && let Err(error) = link_in_run(run, &Path::new("models").join(name), &target)
        {
            failures.push(error);
        }
    }
    failures
}

/// Links to a content of the cache at a path within the folder of a run, `results/PIPELINE/RUN`. An existing link is replaced. The
/// link is a relative one if both are in one project, which may be moved.
pub fn link_in_run(run: &Path, at: &Path, target: &Path) -> anyhow::Result<()> {
    let place = fs::canonicalize(run).unwrap_or_else(|_| run.to_owned());
    let project = place.ancestors().nth(3).filter(|project| project.parent().is_some());
    let target = match project.and_then(|project| target.strip_prefix(project).ok()) {
        Some(within) => {
            let up = 2 + at.components().count();
            let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
            target.push(within);
            target
        }
        None => target.to_owned(),
    };
    let link = run.join(at);
    point(&link, &target).with_context(|| format!("cannot link {}", link.display()))
}

/// Creates a symbolic link, or replaces an existing one.
fn point(link: &Path, target: &Path) -> io::Result<()> {
    match symlink(target, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && link.is_symlink() => {
            fs::remove_file(link)?;
            symlink(target, link)
        }
        made => made,
    }
}

/// The most bytes of a file name on common file systems.
const LONGEST: usize = 255;

/// Hexadecimal digits that distinguish otherwise equal names.
const DIGITS: usize = 16;

/// The name of each model's link: the node, and the output if the node has several. A name that would be too long or not unique
/// ends in the beginning of a digest of the whole.
fn link_names(nodes: &[NodeReport]) -> Vec<(String, &NodeOutput)> {
    let mut named = Vec::new();
    let mut uses: HashMap<String, usize> = HashMap::new();
    for node in nodes {
        let models = || node.outputs.iter().filter(|output| output.artifact == "model");
        let has_several = models().count() > 1;
        for output in models() {
            let mut name = node.node.replace('/', ".");
            if has_several {
                name = format!("{name}.{}", output.name);
            }
            *uses.entry(name.clone()).or_default() += 1;
            named.push((name, node, output));
        }
    }
    let tell_apart = |name: String, node: &NodeReport, output: &NodeOutput| {
        if name.len() <= LONGEST && uses[&name] == 1 {
            return name;
        }
        // No name of a node or an output contains this separator.
        let whole = format!("{}\0{}", node.node, output.name);
        let digest = Digest::of_bytes(whole.as_bytes()).to_string();
        let kept = (0..LONGEST - DIGITS).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        format!("{}-{}", &name[..kept], &digest[..DIGITS])
    };
    named.into_iter().map(|(name, node, output)| (tell_apart(name, node, output), output)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn node(name: &str, outputs: &[&str]) -> NodeReport {
        let digest = Digest::of_bytes(name.as_bytes());
        let output = |name: &&str| NodeOutput {
            name: (*name).to_owned(),
            artifact: "model".into(),
            digest,
            bytes: 0,
            passing: false,
        };
        NodeReport {
            node: name.into(),
            index: 0,
            kind: "exec".into(),
            cached: false,
            key: digest,
            position: Vec::new(),
            seconds: 0.0,
            params: Vec::new(),
            seed: None,
            outputs: outputs.iter().map(output).collect(),
        }
    }

    #[test]
    fn every_model_has_a_link_of_its_own_whose_name_a_file_may_have() {
        let long = |last: &str| format!("brew[{}{last}]", "é".repeat(200));
        let nodes = [
            node("play[1]/red[02]/update", &["model"]),
            node("a", &["b", "c"]),
            node("a/b", &["model"]),
            node(&long("glowvenom"), &["model"]),
            node(&long("moonbane"), &["model"]),
        ];
        let names: Vec<String> = link_names(&nodes).into_iter().map(|(name, _)| name).collect();
        assert_eq!((&*names[0], &*names[2]), ("play[1].red[02].update", "a.c"));
        assert!(names[1].starts_with("a.b-") && names[3].starts_with("a.b-"), "{names:?}");
        assert!(names[4].starts_with("brew[é") && names[4].len() <= LONGEST, "{names:?}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 6, "{names:?}");
        let alone = link_names(&nodes[4..]);
        assert_eq!(alone[0].0, names[5], "and it does not depend on what else is too long");
    }

    #[test]
    fn links_that_are_there_are_replaced_and_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("before", at("link")).unwrap();
        fs::write(at("file"), "glowvenom").unwrap();
        point(&at("link"), Path::new("now")).unwrap();
        assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("now"));
        assert!(point(&at("file"), Path::new("now")).is_err());
        assert_eq!(fs::read(at("file")).unwrap(), b"glowvenom");
    }
}
