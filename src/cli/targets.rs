//! The nodes that a command line names: by the name of a node, stage or loop, or by a pattern.

use std::collections::BTreeSet;

use anyhow::bail;

use crate::engine::{self, Graph, NodeId};
use crate::runs::bare_rounds;
use crate::store::is_like;

/// A node's name in the forms in which people write it: without leading zeros in rounds, with and without its variant.
struct Named {
    id: NodeId,
    full: String,
    /// Where the name begins without the variant.
    own: usize,
}

impl Named {
    /// All nodes of the graph that are not left out.
    fn all(graph: &Graph) -> Vec<Named> {
        let prefixes: Vec<String> =
            graph.variants.iter().filter_map(|variant| Some(variant.name()? + "/")).collect();
        let named = |id: NodeId| {
            let full = bare_rounds(&graph.node(id).name);
            let own = prefixes.iter().find(|prefix| full.starts_with(*prefix)).map_or(0, String::len);
            Named { id, full, own }
        };
        graph.selected().map(named).collect()
    }

    fn own(&self) -> &str {
        &self.full[self.own..]
    }

    /// Whether the whole name, with or without the variant, matches a pattern.
    fn is(&self, pattern: &str) -> bool {
        is_like(pattern, &self.full) || is_like(pattern, self.own())
    }

    /// Whether it belongs to a stage, a loop, a round or a variant of this name.
    fn is_within(&self, name: &str) -> bool {
        let starts = |path: &str| {
            path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '[']))
        };
        starts(&self.full) || self.own().split('/').any(starts) || starts(self.own())
    }
}

/// The nodes that these names and patterns mean, in the order of the graph. One that means no node is an error.
pub(crate) fn targets(graph: &Graph, names: &[String]) -> anyhow::Result<Vec<NodeId>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let all = Named::all(graph);
    let mut found = BTreeSet::new();
    for name in names {
        // With the slash, a round at the end loses its zeros too.
        let bare = bare_rounds(&format!("{name}/"));
        let bare = bare.trim_end_matches('/');
        let ways: [&dyn Fn(&Named) -> bool; 2] = [&|node| node.is(bare), &|node| node.is_within(bare)];
        let ids = |way: &&dyn Fn(&Named) -> bool| -> Vec<NodeId> {
            all.iter().filter(|node| way(node)).map(|node| node.id).collect()
        };
        match ways.iter().map(ids).find(|ids| !ids.is_empty()) {
            Some(ids) => found.extend(ids),
            None => bail!(unknown(graph, &all, name)),
        }
    }
    Ok(found.into_iter().collect())
}

/// The error for a name that means no node.
fn unknown(graph: &Graph, all: &[Named], name: &str) -> String {
    let mut known: BTreeSet<&str> = all.iter().flat_map(|node| [node.full.as_str(), node.own()]).collect();
    // A segment without its brackets is the name of a stage or a loop.
    let segments = all.iter().flat_map(|node| node.own().split('/'));
    known.extend(segments.map(|segment| segment.split_once('[').map_or(segment, |(stage, _)| stage)));
    let known: Vec<&str> = known.into_iter().collect();
    let help = match engine::nearest(name, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`triplay pipeline plan FILE --all` lists the nodes".into(),
    };
    format!(
        "`{name}` must name a node or a stage of `{}`, found none of this name\n  help: {help}",
        graph.pipeline
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_what_belongs_to_it() {
        let node = |full: &str, own: usize| Named { id: NodeId(0), full: full.into(), own };
        let node = node("s1/play[1]/red[3]/attacks[low]", 3);
        for name in
            ["s1", "play", "red", "play[1]", "play[1]/red", "play[1]/red[3]", "attacks", "attacks[low]"]
        {
            assert!(node.is_within(name), "{name}");
        }
        for name in ["", "pla", "red[3]/x", "low", "play[2]", "1]", "s"] {
            assert!(!node.is_within(name), "{name}");
        }
        assert!(node.is("play[1]/red[3]/attacks[low]") && node.is("s1/*") && node.is("play*"));
    }
}
