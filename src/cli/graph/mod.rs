//! `triplay pipeline graph`: the stages of a pipeline and what feeds them, drawn by mermaid or Graphviz, or as JSON.

mod dot;
mod mermaid;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::FileArgs;
use crate::cli::registry;
use crate::engine::{self, Edge, EdgeRole, LoadOptions, Outline, OutlineNode, Shape};

#[derive(Args)]
pub struct GraphArgs {
    #[command(flatten)]
    pipeline: FileArgs,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
    /// Every round of every loop, instead of each loop once
    #[arg(long)]
    unroll: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For Markdown pages
    Mermaid,
    /// For Graphviz: `| dot -Tsvg`
    Dot,
    /// For programs
    Json,
}

pub fn command(args: &GraphArgs) -> anyhow::Result<ExitCode> {
    let options = LoadOptions {
        settings: &args.pipeline.settings,
        ablations: &args.pipeline.ablations,
        seeds: &args.pipeline.seeds,
        ..LoadOptions::default()
    };
    let (file, registry) = (&args.pipeline.file, registry());
    let outline = match args.unroll {
        false => engine::outline(file, &options, &registry)?,
        true => engine::outline_unrolled(file, &options, &registry)?,
    };
    let text = match args.format {
        Format::Mermaid => mermaid::draw(&outline),
        Format::Dot => dot::draw(&outline),
        Format::Json => serde_json::to_string_pretty(&json(&outline))? + "\n",
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// An arrow: all edges of one look from one node to another.
struct Arrow {
    from: usize,
    to: usize,
    /// From a round of a loop to the following one.
    back: bool,
    /// What is passed on, where the nodes at the ends do not say it.
    label: String,
}

fn arrows(outline: &Outline) -> Vec<Arrow> {
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

/// The outputs and variants that edges of one arrow pass on, a first output only among others; or the names
/// that a loop has for them, and its rounds.
fn label(edges: &[&Edge]) -> String {
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
fn lines(node: &OutlineNode) -> (String, Option<String>) {
    match &node.shape {
        Shape::Stage { kind, labels } if labels.is_empty() => {
            (Outline::short_name(&node.name).to_owned(), Some((*kind).to_owned()))
        }
        Shape::Stage { kind, labels } => {
            let name = Outline::short_name(&node.name);
            (format!("{name}[{}]", labels.join(", ")), Some((*kind).to_owned()))
        }
        Shape::Carried => (Outline::short_name(&node.name).to_owned(), None),
        Shape::File | Shape::Variable => (node.name.clone(), None),
    }
}

fn frame_label(outline: &Outline, frame: usize) -> String {
    let frame = &outline.frames[frame];
    let name = Outline::short_name(&frame.name);
    frame.repeat.map_or_else(|| name.to_owned(), |repeat| format!("{name} × {repeat}"))
}

/// How a language writes what nests.
trait Language {
    /// What ends a frame.
    const CLOSE: &'static str;

    /// The lines of a node.
    fn node(&self, node: usize) -> String;

    /// The lines that begin a frame.
    fn open(&self, frame: usize) -> String;
}

/// What is directly inside each frame, and inside none.
#[derive(Default)]
struct Nest {
    nodes: BTreeMap<Option<usize>, Vec<usize>>,
    frames: BTreeMap<Option<usize>, Vec<usize>>,
}

impl Nest {
    fn of(outline: &Outline) -> Nest {
        let mut nest = Nest::default();
        for (index, node) in outline.nodes.iter().enumerate() {
            nest.nodes.entry(node.frame).or_default().push(index);
        }
        for (index, frame) in outline.frames.iter().enumerate() {
            nest.frames.entry(frame.frame).or_default().push(index);
        }
        nest
    }

    /// Writes what is inside a frame, and so on inwards.
    fn write<L: Language>(&self, language: &L, within: Option<usize>, depth: usize, text: &mut String) {
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

fn json(outline: &Outline) -> Value {
    let id = |node: usize| format!("n{node}");
    let frame_id = |frame: Option<usize>| frame.map(|frame| format!("f{frame}"));
    let nodes: Vec<Value> = outline
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let (shape, kind, labels) = match &node.shape {
                Shape::Stage { kind, labels } => ("stage", Some(*kind), &labels[..]),
                Shape::Carried => ("carried", None, &[][..]),
                Shape::File => ("file", None, &[][..]),
                Shape::Variable => ("variable", None, &[][..]),
            };
            json!({ "id": id(index), "name": node.name, "type": shape, "kind": kind, "variants": labels,
                "loop": frame_id(node.frame) })
        })
        .collect();
    let loops: Vec<Value> = outline
        .frames
        .iter()
        .enumerate()
        .map(|(index, frame)| {
            json!({ "id": frame_id(Some(index)), "name": frame.name, "repeat": frame.repeat,
                "loop": frame_id(frame.frame) })
        })
        .collect();
    let edges: Vec<Value> = outline
        .edges
        .iter()
        .map(|edge| {
            let (role, carried) = match &edge.role {
                EdgeRole::Feeds => ("feeds", None),
                EdgeRole::Carry => ("carry", Some(&edge.input)),
                EdgeRole::Next => ("next", Some(&edge.input)),
                EdgeRole::Result { name, .. } => ("result", Some(name)),
            };
            let round = if let EdgeRole::Result { round, .. } = &edge.role { *round } else { None };
            json!({ "from": id(edge.from.node), "to": id(edge.to), "variant": edge.from.variant,
                "output": edge.from.output, "input": edge.input, "role": role, "carried": carried, "round": round })
        })
        .collect();
    json!({ "pipeline": outline.pipeline, "nodes": nodes, "loops": loops, "edges": edges })
}
