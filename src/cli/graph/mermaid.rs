//! Writes an outline in mermaid's language, which Markdown viewers draw.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::drawing::{Arrow, Language, Nest, arrows, frame_label, lines};
use crate::engine::{Outline, Shape};

struct Mermaid<'a> {
    outline: &'a Outline,
    /// The carried values that a round hands on.
    handed_on: BTreeSet<usize>,
}

impl Language for Mermaid<'_> {
    const CLOSE: &'static str = "end";

    fn node(&self, index: usize) -> String {
        let node = &self.outline.nodes[index];
        let (name, kind) = lines(node);
        let name = escape(&name);
        match node.shape {
            Shape::Stage { .. } => {
                format!("n{index}[\"{name}<br/><i>{}</i>\"]", escape(&kind.unwrap_or_default()))
            }
            Shape::Carried if self.handed_on.contains(&index) => {
                format!("n{index}([\"{name}\"]):::carried\nn{index}next([\"next {name}\"]):::carried")
            }
            Shape::Carried => format!("n{index}([\"{name}\"]):::carried"),
            Shape::File => format!("n{index}[/\"{name}\"/]:::file"),
            Shape::Variable => format!("n{index}{{{{\"{name}\"}}}}:::file"),
            Shape::Served => format!("n{index}[(\"{name}\")]:::file"),
        }
    }

    fn open(&self, frame: usize) -> String {
        format!("subgraph f{frame}[\"{}\"]", escape(&frame_label(self.outline, frame)))
    }
}

/// A value that is handed to the next round gets a node of its own at the end of the loop: an edge back to the beginning would
/// make mermaid's layout turn the loop upside down.
pub(crate) fn draw(outline: &Outline) -> String {
    let arrows = arrows(outline);
    let handed_on = arrows.iter().filter(|arrow| arrow.back).map(|arrow| arrow.to).collect();
    let mut text = String::from("flowchart TB\n");
    Nest::of(outline).write(&Mermaid { outline, handed_on }, None, 1, &mut text);
    for Arrow { from, to, back, label } in arrows {
        let (arrow, end) = if back { ("-.->", "next") } else { ("-->", "") };
        let lines: Vec<String> = label.lines().map(escape).collect();
        let label = if lines.is_empty() { label } else { format!("|\"{}\"|", lines.join("<br/>")) };
        let _ = writeln!(text, "  n{from} {arrow}{label} n{to}{end}");
    }
    text += "  classDef carried fill:#fff,stroke:#888,stroke-dasharray:3 2\n";
    text + "  classDef file fill:#f6f1e4,stroke:#a08a50\n"
}

/// Escapes text for a quoted label.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '"' | '#' | '<' | '>' | '&' | '`' | '|' | '\\' => {
                let _ = write!(escaped, "#{};", char as u32);
            }
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}
