//! `triplay pipeline graph`: the stages of a pipeline and what feeds them, drawn by mermaid or Graphviz, or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::FileArgs;
use crate::engine::{self, Edge, EdgeRole, LoadOptions, Outline, OutlineNode, Shape};
use crate::stages;

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
    let options = LoadOptions { settings: &args.pipeline.settings, ..LoadOptions::default() };
    let (file, registry) = (&args.pipeline.file, stages::registry());
    let outline = match args.unroll {
        false => engine::outline(file, &options, &registry)?,
        true => engine::outline_unrolled(file, &options, &registry)?,
    };
    match args.format {
        Format::Mermaid => print!("{}", mermaid(&outline)),
        Format::Dot => print!("{}", dot(&outline)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&json(&outline))?),
    }
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
/// that a loop has for them.
fn label(edges: &[&Edge]) -> String {
    let among_others = edges.iter().any(|edge| !edge.from.is_first);
    let mut passed: Vec<(&str, Vec<&str>)> = Vec::new();
    for edge in edges {
        let from = &edge.from;
        let output = from.output.as_deref().filter(|_| !from.is_first || among_others);
        let name = if let EdgeRole::Result(name) = &edge.role { name } else { output.unwrap_or_default() };
        let known = passed.iter().position(|(known, _)| *known == name).unwrap_or(passed.len());
        if known == passed.len() {
            passed.push((name, Vec::new()));
        }
        let variants = &mut passed[known].1;
        variants.extend(from.variant.as_deref().filter(|variant| !variants.contains(variant)));
    }
    let label = |(name, variants): &(&str, Vec<&str>)| match (variants.is_empty(), name.is_empty()) {
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

/// Writes nodes and frames inside `within`, in their order, and so on inwards.
fn nest(
    outline: &Outline,
    within: Option<usize>,
    depth: usize,
    open: &dyn Fn(usize) -> String,
    close: &str,
    node: &dyn Fn(usize) -> String,
    text: &mut String,
) {
    let indent = "  ".repeat(depth);
    for (index, _) in outline.nodes.iter().enumerate().filter(|(_, node)| node.frame == within) {
        let _ = writeln!(text, "{indent}{}", node(index));
    }
    for (index, _) in outline.frames.iter().enumerate().filter(|(_, frame)| frame.frame == within) {
        for line in open(index).lines() {
            let _ = writeln!(text, "{indent}{line}");
        }
        nest(outline, Some(index), depth + 1, open, close, node, text);
        let _ = writeln!(text, "{indent}{close}");
    }
}

fn mermaid(outline: &Outline) -> String {
    let escape = |text: &str| {
        let mut escaped = String::new();
        for char in text.chars() {
            match char {
                '"' | '#' | '<' | '>' | '&' | '`' | '\\' | '|' | '[' | ']' | '{' | '}' | '(' | ')' => {
                    let _ = write!(escaped, "#{};", char as u32);
                }
                '\n' | '\r' => escaped.push(' '),
                other => escaped.push(other),
            }
        }
        escaped
    };
    let node = |index: usize| {
        let node = &outline.nodes[index];
        let (name, kind) = lines(node);
        let name = escape(&name);
        match node.shape {
            Shape::Stage { .. } => {
                format!("n{index}[\"{name}<br/><i>{}</i>\"]", escape(&kind.unwrap_or_default()))
            }
            Shape::Carried => format!("n{index}([\"{name}\"]):::carried"),
            Shape::File => format!("n{index}[/\"{name}\"/]:::file"),
            Shape::Variable => format!("n{index}{{{{\"{name}\"}}}}:::file"),
        }
    };
    let open = |frame: usize| format!("subgraph f{frame}[\"{}\"]", escape(&frame_label(outline, frame)));
    let mut text = String::from("flowchart TB\n");
    nest(outline, None, 1, &open, "end", &node, &mut text);
    for Arrow { from, to, back, label } in arrows(outline) {
        let arrow = if back { "-.->" } else { "-->" };
        let lines: Vec<String> = label.lines().map(escape).collect();
        let label = if lines.is_empty() { label } else { format!("|\"{}\"|", lines.join("<br/>")) };
        let _ = writeln!(text, "  n{from} {arrow}{label} n{to}");
    }
    text += "  classDef carried fill:#fff,stroke:#888,stroke-dasharray:3 2\n";
    text + "  classDef file fill:#f6f1e4,stroke:#a08a50\n"
}

fn dot(outline: &Outline) -> String {
    let html = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', "&quot;").replace(['\n', '\r'], " ")
    };
    let node = |index: usize| {
        let node = &outline.nodes[index];
        let (name, kind) = lines(node);
        let second = kind.map_or_else(String::new, |kind| {
            format!("<br/><font point-size=\"9\" color=\"#60707c\">{}</font>", html(&kind))
        });
        let style = match node.shape {
            Shape::Stage { .. } => "",
            Shape::Carried => {
                ", shape=box, style=\"rounded,dashed,filled\", fillcolor=white, color=\"#8896a0\", height=0.22, fontsize=10"
            }
            Shape::File => {
                ", shape=note, style=filled, fillcolor=\"#f6f1e4\", color=\"#a08a50\", fontsize=10"
            }
            Shape::Variable => {
                ", shape=hexagon, style=filled, fillcolor=\"#f6f1e4\", color=\"#a08a50\", fontsize=10"
            }
        };
        format!("n{index} [label=<{}{second}>{style}];", html(&name))
    };
    let open = |frame: usize| {
        let fill = ["#f3f6f8", "#e6ecf0"][frame_depth(outline, frame) % 2];
        let label = html(&frame_label(outline, frame));
        format!(
            "subgraph cluster_{frame} {{\n  label=<<b>{label}</b>>; labeljust=l; style=\"rounded,filled\"; \
             color=\"#b4c0c8\"; fillcolor=\"{fill}\";"
        )
    };
    let mut text =
        format!("digraph \"{}\" {{\n", outline.pipeline.replace('\\', "\\\\").replace('"', "\\\""));
    text += "  graph [rankdir=TB, fontname=\"Helvetica\", fontsize=11, nodesep=0.25, ranksep=0.35];\n";
    text += "  node [shape=box, style=\"rounded,filled\", fillcolor=white, color=\"#30506a\", fontname=\"Helvetica\", \
             fontsize=11, margin=\"0.12,0.05\", height=0.3];\n";
    text += "  edge [color=\"#56687a\", fontname=\"Helvetica\", fontsize=9, fontcolor=\"#56687a\", arrowsize=0.6];\n";
    nest(outline, None, 1, &open, "}", &node, &mut text);
    for Arrow { from, to, back, label } in arrows(outline) {
        let lines: Vec<String> = label.lines().map(html).collect();
        let label = (!lines.is_empty()).then(|| format!("label=<{}>", lines.join("<br/>")));
        // What a loop only reads from around it stands back behind what flows inside it.
        let nodes = &outline.nodes;
        let is_aside = nodes[from].frame != nodes[to].frame
            && nodes[to].shape != Shape::Carried
            && nodes[from].frame.is_none();
        let style = match (back, is_aside) {
            (true, _) => Some("style=dashed, constraint=false, color=\"#b4552d\""),
            (false, true) => Some("color=\"#a3b1bd\", fontcolor=\"#8796a3\""),
            (false, false) => None,
        };
        let style = [label, style.map(str::to_owned)].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let style = if style.is_empty() { style } else { format!(" [{style}]") };
        let _ = writeln!(text, "  n{from} -> n{to}{style};");
    }
    text + "}\n"
}

fn frame_depth(outline: &Outline, frame: usize) -> usize {
    outline.frames[frame].frame.map_or(0, |around| 1 + frame_depth(outline, around))
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
                EdgeRole::Result(name) => ("result", Some(name)),
            };
            json!({ "from": id(edge.from.node), "to": id(edge.to), "variant": edge.from.variant,
                "output": edge.from.output, "input": edge.input, "role": role, "carried": carried })
        })
        .collect();
    json!({ "pipeline": outline.pipeline, "nodes": nodes, "loops": loops, "edges": edges })
}
