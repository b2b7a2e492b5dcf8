//! Writes an outline in DOT, Graphviz's language.

use std::fmt::Write;

use super::drawing::{Arrow, Language, Nest, arrows, frame_label, lines};
use crate::engine::{Outline, Shape};

const HEAD: &str = r##"  graph [rankdir=TB, fontname="Helvetica", fontsize=11, nodesep=0.25, ranksep=0.35];
  node [shape=box, style="rounded,filled", fillcolor=white, color="#30506a", fontname="Helvetica", fontsize=11, margin="0.12,0.05", height=0.3];
  edge [color="#56687a", fontname="Helvetica", fontsize=9, fontcolor="#56687a", arrowsize=0.6];
"##;

const CARRIED: &str = r##", style="rounded,dashed,filled", color="#8896a0", fontsize=10, height=0.22"##;

const OUTSIDE: &str = r##", style=filled, fillcolor="#f6f1e4", color="#a08a50", fontsize=10"##;

struct Dot<'a>(&'a Outline);

impl Language for Dot<'_> {
    const CLOSE: &'static str = "}";

    fn node(&self, index: usize) -> String {
        let node = &self.0.nodes[index];
        let (name, kind) = lines(node);
        let second = kind.map_or_else(String::new, |kind| {
            format!("<br/><font point-size=\"9\" color=\"#60707c\">{}</font>", escape(&kind))
        });
        let (shape, style) = match node.shape {
            Shape::Stage { .. } => ("", ""),
            Shape::Carried => ("", CARRIED),
            Shape::File => (", shape=note", OUTSIDE),
            Shape::Variable => (", shape=hexagon", OUTSIDE),
            Shape::Served => (", shape=cylinder", OUTSIDE),
        };
        format!("n{index} [label=<{}{second}>{shape}{style}];", escape(&name))
    }

    fn open(&self, frame: usize) -> String {
        let fill = ["#f3f6f8", "#e6ecf0"][depth(self.0, frame) % 2];
        let label = escape(&frame_label(self.0, frame));
        format!(
            "subgraph cluster_{frame} {{\n  label=<<b>{label}</b>>; labeljust=l; style=\"rounded,filled\"; \
             color=\"#b4c0c8\"; fillcolor=\"{fill}\";"
        )
    }
}

pub(crate) fn draw(outline: &Outline) -> String {
    let name = outline.pipeline.replace('\\', "\\\\").replace('"', "\\\"");
    let mut text = format!("digraph \"{name}\" {{\n{HEAD}");
    Nest::of(outline).write(&Dot(outline), None, 1, &mut text);
    for arrow in arrows(outline) {
        let lines: Vec<String> = arrow.label.lines().map(escape).collect();
        let label = (!lines.is_empty()).then(|| format!("label=<{}>", lines.join("<br/>")));
        let style = [label, colours(outline, &arrow).map(str::to_owned)];
        let style = style.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let style = if style.is_empty() { style } else { format!(" [{style}]") };
        let _ = writeln!(text, "  n{} -> n{}{style};", arrow.from, arrow.to);
    }
    text + "}\n"
}

/// Highlights edges to the next round, and greys edges into a loop from stages outside all loops.
fn colours(outline: &Outline, arrow: &Arrow) -> Option<&'static str> {
    let (from, to) = (&outline.nodes[arrow.from], &outline.nodes[arrow.to]);
    if arrow.back {
        return Some(r##"style=dashed, constraint=false, color="#b4552d""##);
    }
    let is_aside = from.frame.is_none() && to.frame.is_some() && to.shape != Shape::Carried;
    is_aside.then_some(r##"color="#a3b1bd", fontcolor="#8796a3""##)
}

/// The number of frames around a frame.
fn depth(outline: &Outline, frame: usize) -> usize {
    outline.frames[frame].frame.map_or(0, |around| 1 + depth(outline, around))
}

/// Escapes text for an HTML-like label of Graphviz.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    text.replace(char::is_control, " ")
}
