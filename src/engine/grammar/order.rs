//! The order of siblings: each after those that it refers to.

use std::collections::{HashMap, HashSet};

use petgraph::algo::{astar, kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::decode::{Draft, origin};
use super::diagnostic::At;
use super::errors::Errors;
use super::reference::Reference;
use crate::input::InputSource;

/// An order in which every sibling comes after those it refers to, otherwise that of the file. Reports a cycle, and then
/// ignores its last reference.
pub(crate) fn order(errors: &Errors, drafts: &[Draft]) -> Vec<usize> {
    let mut graph = needs(drafts);
    loop {
        // The sorted graph has each sibling before those that it needs; reversed, each comes after them.
        if let Ok(order) = toposort(&graph, None) {
            return order.into_iter().rev().map(NodeIndex::index).collect();
        }
        if errors.are_many() {
            // Nothing will run: an order that is right except for the cycles is enough.
            return kosaraju_scc(&graph).into_iter().flatten().map(NodeIndex::index).collect();
        }
        for cycle in cycles(&graph) {
            if !errors.are_many() {
                let names: Vec<&str> = cycle.iter().map(|sibling| name(drafts, *sibling)).collect();
                let closing = cycle.iter().rev().take(2).collect::<Vec<_>>();
                let at = match closing[..] {
                    [to, from] => graph.find_edge(*from, *to).map(|edge| graph[edge]),
                    _ => None,
                };
                let error = errors.error(at.unwrap_or_default(), format!("a cycle: {}", names.join(" → ")));
                let help = "a stage cannot use what comes after it; carry a value through `repeat` instead";
                errors.add::<()>(error.help(help));
            }
            if let [.., from, to] = cycle[..]
                && let Some(edge) = graph.find_edge(from, to)
            {
                graph.remove_edge(edge);
            }
        }
    }
}

fn name<'a>(drafts: &'a [Draft], sibling: NodeIndex) -> &'a str {
    drafts[sibling.index()].key().name.as_str()
}

/// An edge from each sibling to each that it refers to, with the place of the first such reference.
fn needs(drafts: &[Draft]) -> DiGraph<(), At> {
    let mut graph = DiGraph::with_capacity(drafts.len(), drafts.len());
    let nodes: Vec<NodeIndex> = drafts.iter().map(|_| graph.add_node(())).collect();
    let index: HashMap<&str, NodeIndex> =
        drafts.iter().zip(&nodes).map(|(draft, node)| (draft.key().name.as_str(), *node)).collect();
    for (draft, node) in drafts.iter().zip(&nodes) {
        let mut seen = HashSet::new();
        for (name, at) in free_names(draft) {
            if let Some(need) = index.get(&*name).filter(|need| seen.insert(**need)) {
                graph.add_edge(*node, *need, at);
            }
        }
    }
    graph
}

/// One cycle of each strongly connected component, from its first sibling in the file back to it.
fn cycles(graph: &DiGraph<(), At>) -> Vec<Vec<NodeIndex>> {
    let mut cycles = Vec::new();
    for knot in kosaraju_scc(graph) {
        let Some(first) = knot.iter().min().copied() else { continue };
        let way = |need: NodeIndex| astar(graph, need, |sibling| sibling == first, |_| 1, |_| 0);
        let ways = graph.edges(first).filter_map(|edge| Some((edge.id(), way(edge.target())?)));
        if let Some((_, (_, path))) = ways.min_by_key(|(edge, (length, _))| (*length, *edge)) {
            cycles.push([&[first][..], &path].concat());
        }
    }
    // In the order of the file.
    cycles.sort();
    cycles
}

/// The names that a draft uses from the scope around it.
fn free_names(draft: &Draft) -> Vec<(String, At)> {
    let name = |origin: &InputSource| match origin {
        InputSource::Reference(text) => Reference::parse(text).ok().map(|reference| reference.name),
        _ => None,
    };
    match draft {
        Draft::Broken(_) => Vec::new(),
        Draft::Stage(stage) => {
            let uses = stage.variants.iter().filter_map(|(_, variant)| variant.as_ref());
            uses.flat_map(|variant| variant.decoded.uses.iter().zip(&variant.uses))
                .filter_map(|(found, at)| Some((name(&found.origin)?, *at)))
                .collect()
        }
        Draft::Loop { carry, body, next, until, .. } => {
            let entry = |tree: &super::tree::Tree| Some((name(&origin(tree)?)?, tree.at));
            let carried: HashSet<&str> = carry.iter().map(|(key, _)| key.name.as_str()).collect();
            let stages: HashSet<&str> = body.iter().map(|draft| draft.key().name.as_str()).collect();
            let inner = body.iter().flat_map(free_names);
            let inner = inner.chain(next.iter().filter_map(|(_, tree)| entry(tree)));
            let read =
                until.iter().flat_map(|until| until.variant.decoded.uses.iter().zip(&until.variant.uses));
            let inner = inner.chain(read.filter_map(|(found, at)| Some((name(&found.origin)?, *at))));
            let free =
                inner.filter(|(name, _)| !carried.contains(name.as_str()) && !stages.contains(name.as_str()));
            carry.iter().filter_map(|(_, tree)| entry(tree)).chain(free).collect()
        }
    }
}
