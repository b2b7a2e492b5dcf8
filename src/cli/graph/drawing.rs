//! Arrows, labels and nested frames, shared by the languages in which a graph is drawn.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::engine::{Edge, EdgeRole, Outline, OutlineNode, Shape};

/// An arrow: all edges from one node to another that are drawn alike.
pub(crate) struct Arrow {
    pub from: usize,
    pub to: usize,
    /// Whether it goes from one round of a loop to the next.
    pub back: bool,
    /// The outputs and variants that it passes on, if the nodes at its ends do not tell.
    pub label: String,
}

pub(crate) fn arrows(outline: &Outline) -> Vec<Arrow> {
    let mut order = Vec::new();
    let mut passed: BTreeMap<_, Vec<&Edge>> = BTreeMap::new();
    for edge in &outline.edges {
        let ends = (edge.from.node, edge.to, edge.role == EdgeRole::Next);
        let edges = passed.entry(ends).or_default();
        if edges.is_empty() {
            order.push(ends);
        }
        edges.push(edge);
    }
    let arrow = |ends: (usize, usize, bool)| {
        let (from, to, back) = ends;
        Arrow { from, to, back, label: label(&passed[&ends]) }
    };
    order.into_iter().map(arrow).collect()
}

/// The outputs and variants that the edges of one arrow pass on, or the names and rounds of a loop's results. A first output is
/// named only beside others.
pub(crate) fn label(edges: &[&Edge]) -> String {
    let among_others = edges.iter().any(|edge| !edge.from.is_first);
    let mut passed: Vec<(&str, Vec<String>)> = Vec::new();
    for edge in edges {
        let from = &edge.from;
        let output = from.output.as_deref().filter(|_| !from.is_first || among_others);
        let (name, round) = match &edge.role {
            EdgeRole::Result { name, round } => (name.as_str(), round.map(|round| round.to_string())),
            _ => (output.unwrap_or_default(), None),
        };
        let known = passed.iter().position(|(known, _)| *known == name).unwrap_or(passed.len());
        if known == passed.len() {
            passed.push((name, Vec::new()));
        }
        let variants = &mut passed[known].1;
        let variant = round.or_else(|| from.variant.clone());
        variants.extend(variant.filter(|variant| !variants.contains(variant)));
    }
    let label = |(name, variants): &(&str, Vec<String>)| match (variants.is_empty(), name.is_empty()) {
        (true, _) => (*name).to_owned(),
        (false, true) => format!("[{}]", variants.join(", ")),
        (false, false) => format!("[{}].{name}", variants.join(", ")),
    };
    passed.iter().map(label).filter(|label| !label.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The lines of a node's label: its name, its variants, its kind.
pub(crate) fn lines(node: &OutlineNode) -> (String, Option<String>) {
    match &node.shape {
        Shape::Stage { kind, labels } if labels.is_empty() => {
            (Outline::short_name(&node.name).to_owned(), Some((*kind).to_owned()))
        }
        Shape::Stage { kind, labels } => {
            let name = Outline::short_name(&node.name);
            (format!("{name}[{}]", labels.join(", ")), Some((*kind).to_owned()))
        }
        Shape::Carried => (Outline::short_name(&node.name).to_owned(), None),
        Shape::File | Shape::Variable | Shape::Served => (node.name.clone(), None),
    }
}

pub(crate) fn frame_label(outline: &Outline, frame: usize) -> String {
    let frame = &outline.frames[frame];
    let name = Outline::short_name(&frame.name);
    let at_most = if frame.at_most { "at most " } else { "" };
    frame.repeat.map_or_else(|| name.to_owned(), |repeat| format!("{name} × {at_most}{repeat}"))
}

/// How a language writes nodes and frames.
pub(crate) trait Language {
    /// The line that ends a frame.
    const CLOSE: &'static str;

    /// The lines of a node.
    fn node(&self, node: usize) -> String;

    /// The lines that begin a frame.
    fn open(&self, frame: usize) -> String;
}

/// The nodes and frames directly inside each frame, and outside all frames (`None`).
#[derive(Default)]
pub(crate) struct Nest {
    nodes: BTreeMap<Option<usize>, Vec<usize>>,
    frames: BTreeMap<Option<usize>, Vec<usize>>,
}

impl Nest {
    pub(crate) fn of(outline: &Outline) -> Nest {
        let mut nest = Nest::default();
        for (index, node) in outline.nodes.iter().enumerate() {
            nest.nodes.entry(node.frame).or_default().push(index);
        }
        for (index, frame) in outline.frames.iter().enumerate() {
            nest.frames.entry(frame.frame).or_default().push(index);
        }
        nest
    }

    /// Writes the content of a frame, recursively.
    pub(crate) fn write<L: Language>(
        &self,
        language: &L,
        within: Option<usize>,
        depth: usize,
        text: &mut String,
    ) {
        let add = |text: &mut String, lines: &str| {
            for line in lines.lines() {
                let _ = writeln!(text, "{:width$}{line}", "", width = 2 * depth);
            }
        };
        for &node in self.nodes.get(&within).into_iter().flatten() {
            add(text, &language.node(node));
        }
        for &frame in self.frames.get(&within).into_iter().flatten() {
            add(text, &language.open(frame));
            self.write(language, Some(frame), depth + 1, text);
            add(text, L::CLOSE);
        }
    }
}
