//! Stages with everything filled in, as YAML, and where each value comes from.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;

use super::compile::{Step, Variant};
use super::diagnostic::{At, Diagnostics};
use super::load::{Compiled, LoadOptions, compiled, unrolled};
use super::producer::Producer;
use super::sections::Section;
use super::settings::as_typed;
use super::tree::{Key, Tree, Value};
use crate::graph::{Graph, Node, StageTemplate};
use crate::stage::Registry;

/// Comments begin in this column at the latest, unless a value is longer.
const WIDEST: usize = 60;

/// A stage of the file with everything filled in.
pub struct StageText {
    /// With the loops around it, as in `play/red/attacks`, and the label of its variant.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// How many of its values each role and each kind's defaults give: `roles.attacker` and a number.
    pub shared: BTreeMap<String, usize>,
    call: Arc<StageTemplate>,
    /// Lines of YAML, and the comment of each.
    lines: Vec<(String, String)>,
}

impl StageText {
    /// Whether a node is an execution of this stage.
    pub fn is_of(&self, node: &Node) -> bool {
        Arc::ptr_eq(&self.call, &node.call)
    }

    /// YAML, with the origin of each value as a comment.
    pub fn yaml(&self) -> String {
        let width = |line: &str| line.chars().count();
        let widest = self.lines.iter().map(|(line, _)| width(line)).filter(|width| *width <= WIDEST).max();
        let column = widest.unwrap_or(0);
        let line = |(line, comment): &(String, String)| match comment.is_empty() {
            true => format!("{line}\n"),
            false => {
                format!("{line}{:space$}  # {comment}\n", "", space = column.saturating_sub(width(line)))
            }
        };
        self.lines.iter().map(line).collect()
    }
}

/// Reads, checks and unrolls a pipeline file, and shows its stages, each loop once.
pub fn load_shown(
    path: &Path,
    options: &LoadOptions,
    registry: &Registry,
) -> Result<(Graph, Vec<StageText>), Diagnostics> {
    let compiled = compiled(path, options, registry)?;
    let mut stages = Vec::new();
    for (program, variant) in &compiled.programs {
        let around = variant.name().map_or(String::new(), |name| format!("{name}/"));
        steps(&compiled, &program.steps, &around, &mut stages);
    }
    Ok((unrolled(path, options, compiled)?, stages))
}

fn steps(file: &Compiled, all: &[Step], around: &str, found: &mut Vec<StageText>) {
    for step in all {
        match step {
            Step::Stage(stage) => {
                found.extend(
                    stage.variants.iter().map(|Variant { maker, .. }| stage_text(file, maker, around)),
                );
            }
            Step::Loop(of) => {
                let within = format!("{around}{}/", of.name);
                steps(file, &of.steps, &within, found);
                found.extend(of.until.iter().map(|until| stage_text(file, &until.maker, &within)));
            }
        }
    }
}

fn stage_text(file: &Compiled, maker: &Producer, around: &str) -> StageText {
    let kind = maker.call.kind.name;
    let name = format!("{around}{}", maker.name);
    let mut writer = Writer { file, kind, lines: Vec::new() };
    let key = as_typed(&Tree::new(Value::Text(name.clone()), maker.at));
    writer.lines.push((format!("{key}:"), writer.origin(maker.at)));
    writer.lines.push((format!("  kind: {kind}"), String::new()));
    maker.common.iter().for_each(|(key, tree)| writer.entry(1, key, tree, None));
    writer.map(1, &maker.body, Some(&maker.call.decoded.params));
    let lines = writer.lines;
    let mut shared = BTreeMap::new();
    maker.common.iter().for_each(|(_, tree)| count(file, tree, &mut shared));
    count(file, &maker.body, &mut shared);
    StageText { name, kind, shared, call: maker.call.clone(), lines }
}

/// The part of the file that a place is in.
fn section(file: &Compiled, at: At) -> Option<&Section> {
    file.sections.iter().find(|section| section.has(at.line, at.column))
}

/// Counts the values that roles and defaults give. One that is a map or a list counts once.
fn count(file: &Compiled, tree: &Tree, found: &mut BTreeMap<String, usize>) {
    if let Some(section) = section(file, tree.at).filter(|section| section.is_shared()) {
        *found.entry(section.name.clone()).or_default() += 1;
        return;
    }
    match &tree.value {
        Value::List(items) => items.iter().for_each(|item| count(file, item, found)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| count(file, value, found)),
        _ => {}
    }
}

struct Writer<'a> {
    file: &'a Compiled,
    kind: &'static str,
    lines: Vec<(String, String)>,
}

impl Writer<'_> {
    /// The entries of a map, with those that it leaves out; `decoded` is what it was read as.
    fn map(&mut self, depth: usize, tree: &Tree, decoded: Option<&Json>) {
        let Value::Map(entries) = &tree.value else { return };
        entries.iter().for_each(|(key, value)| {
            self.entry(depth, key, value, decoded.and_then(|decoded| decoded.get(&key.name)));
        });
        let fields = decoded.and_then(Json::as_object);
        // An input is read as something else.
        let is_same = |fields: &&serde_json::Map<String, Json>| {
            // The stage itself is none. It may leave out a default that it was given.
            depth == 1
                || entries
                    .iter()
                    .all(|(key, value)| fields.contains_key(&key.name) || matches!(value.value, Value::Null))
        };
        for (key, value) in fields.filter(is_same).into_iter().flatten() {
            if !value.is_null() && tree.get(key).is_none() {
                self.default(depth, key, value);
            }
        }
    }

    fn entry(&mut self, depth: usize, key: &Key, tree: &Tree, decoded: Option<&Json>) {
        let name = as_typed(&Tree::new(Value::Text(key.name.clone()), key.at));
        let lead = format!("{:indent$}{name}:", "", indent = 2 * depth);
        match &tree.value {
            Value::Map(entries) if !entries.is_empty() => {
                self.lines.push((lead, String::new()));
                self.map(depth + 1, tree, decoded);
            }
            Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => {
                self.lines.push((lead, String::new()));
                for (index, item) in items.iter().enumerate() {
                    let first = self.lines.len();
                    self.map(depth + 2, item, decoded.and_then(|decoded| decoded.get(index)));
                    let dash = format!("{:indent$}- ", "", indent = 2 * depth + 2);
                    match self.lines.get_mut(first) {
                        Some((line, _)) => line.replace_range(..dash.len(), &dash),
                        None => self.lines.push((dash + &as_typed(item), self.origin(item.at))),
                    }
                }
            }
            _ => self.lines.push((format!("{lead} {}", as_typed(tree)), self.origin(tree.at))),
        }
    }

    fn default(&mut self, depth: usize, key: &str, value: &Json) {
        let lead = format!("{:indent$}{key}:", "", indent = 2 * depth);
        match value {
            Json::Object(fields) if !fields.is_empty() => {
                self.lines.push((lead, String::new()));
                fields.iter().for_each(|(key, value)| self.default(depth + 1, key, value));
            }
            _ => self.lines.push((format!("{lead} {value}"), format!("default of {}", self.kind))),
        }
    }

    /// Where a value was typed, and the parameter that stands there.
    fn origin(&self, at: At) -> String {
        if at == At::OF_SITE {
            return "the site file".into();
        }
        let source = &self.file.source;
        let place = format!("{}:{}", source.path.display(), at.line);
        let typed = source.text_at(at);
        let parameter = if typed.starts_with('$') { format!(", {typed}") } else { String::new() };
        match section(self.file, at) {
            Some(section) if section.name.contains('.') => format!("{} ({place}){parameter}", section.name),
            _ => format!("{place}{parameter}"),
        }
    }
}
