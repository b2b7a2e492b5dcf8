//! The user's files that were changed while a run was under way.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::engine::{Graph, NodeReport};
use crate::store::{Digest, Selection};

/// Most nodes that a line names.
const MOST_NODES: usize = 3;

/// A line for each file of the user's that has another content than the run used for these nodes, which are recorded.
pub(crate) fn changed_files(
    graph: &Graph,
    recorded: &[NodeReport],
    digest: &dyn Fn(&Path, &Selection) -> io::Result<Digest>,
) -> Vec<String> {
    let mut readers: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let recorded: HashSet<&str> = recorded.iter().map(|node| node.node.as_str()).collect();
    for id in graph.selected().filter(|id| recorded.contains(graph.node(*id).name.as_str())) {
        for file in graph.files_of(id) {
            readers.entry(file).or_default().push(&graph.node(id).name);
        }
    }
    let mut lines = Vec::new();
    for (file, mut nodes) in readers {
        let file = &graph.files[file];
        let how = match digest(&file.path, &file.selection) {
            Ok(now) if now == file.digest => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => "removed",
            _ => "changed",
        };
        nodes.dedup();
        let more = nodes.len().saturating_sub(MOST_NODES);
        nodes.truncate(MOST_NODES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!(
            "note: {} was {how} while the run was under way: what is recorded was made from its earlier content, and the next run executes \
             {}{more} again",
            file.path.display(),
            nodes.join(", ")
        ));
    }
    lines
}
