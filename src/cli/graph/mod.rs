//! `triplay pipeline graph`: draws the stages of a pipeline and their inputs for mermaid or Graphviz, or writes them as JSON.

mod dot;
mod drawing;
mod mermaid;

use std::process::ExitCode;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::args::FileArgs;
use crate::cli::registry::registry;
use crate::engine::{self, EdgeRole, LoadOptions, Outline, Shape};

#[derive(Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pipeline: FileArgs,
    /// The format
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
    /// Draw every round of every loop, instead of each loop once
    #[arg(long)]
    unroll: bool,
    /// Leave out arrows that others imply: if `a` feeds `b` and both feed `c`, the arrow from `a` to `c`
    #[arg(long)]
    reduced: bool,
}

/// Most nodes of a graph that is reduced: the reduction takes memory quadratic in the number of nodes.
const MOST_REDUCED: usize = 10_000;

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For Markdown pages
    Mermaid,
    /// For Graphviz: `| dot -Tsvg`
    Dot,
    /// For programs
    Json,
}

pub(crate) fn command(args: &GraphArgs) -> anyhow::Result<ExitCode> {
    let site = super::pipeline::site(&args.pipeline)?;
    let options = LoadOptions {
        site: Some(&site),
        settings: &args.pipeline.settings,
        ablations: &args.pipeline.ablations,
        seeds: &args.pipeline.seeds,
        ..LoadOptions::default()
    };
    let (file, registry) = (&args.pipeline.file, registry());
    let mut outline = match args.unroll {
        false => engine::outline(file, &options, &registry)?,
        true => engine::outline_unrolled(file, &options, &registry)?,
    };
    if args.reduced {
        let nodes = outline.nodes.len();
        ensure!(
            nodes <= MOST_REDUCED,
            "a graph that is drawn --reduced must have at most {MOST_REDUCED} nodes, found {nodes}; leave out --unroll or \
             --reduced"
        );
        outline.reduce();
    }
    let text = match args.format {
        Format::Mermaid => mermaid::draw(&outline),
        Format::Dot => dot::draw(&outline),
        Format::Json => serde_json::to_string_pretty(&json(&outline))? + "\n",
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
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
                Shape::Served => ("served", None, &[][..]),
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
            let mut one = json!({ "id": frame_id(Some(index)), "name": frame.name, "repeat": frame.repeat,
                "loop": frame_id(frame.frame) });
            if frame.at_most {
                one["at_most"] = true.into();
            }
            one
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
