//! The nodes that differ between two runs, and the parameters and code that caused it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::engine::{Change, NodeReport, differences};
use crate::runs::{self, Run, RunRecord};
use output::println;

/// Most changed parameters that the short form names.
const MOST_CHANGES: usize = 4;

/// Most nondeterministic nodes that are listed.
const LISTED: usize = 10;

/// Two runs, node by node.
pub(crate) struct Nodes<'r> {
    a: &'r Run,
    b: &'r Run,
    params: Vec<String>,
    kinds: Vec<String>,
    same: usize,
    different: Vec<&'r str>,
    nondeterministic: Vec<&'r str>,
    only_a: Vec<&'r str>,
    only_b: Vec<&'r str>,
    /// The first node with different keys, and what changed.
    first: Option<(&'r str, Vec<Change>)>,
}

impl<'r> Nodes<'r> {
    pub(crate) fn new(a: &'r Run, b: &'r Run) -> Nodes<'r> {
        let by_name = |run: &'r Run| -> BTreeMap<&'r str, &'r NodeReport> {
            run.nodes.iter().map(|node| (node.node.as_str(), node)).collect()
        };
        let (in_a, in_b) = (by_name(a), by_name(b));
        let pairs: Vec<(&str, Pair)> = in_order(a, b)
            .into_iter()
            .map(|name| (name, Pair { a: in_a.get(name).copied(), b: in_b.get(name).copied() }))
            .collect();
        let names = |wanted: fn(&Pair) -> bool| -> Vec<&'r str> {
            pairs.iter().filter(|(_, pair)| wanted(pair)).map(|(name, _)| *name).collect()
        };
        let parted = |pair: &Pair| pair.is_in_both() && !pair.same_key();
        let first = pairs.iter().find(|(_, pair)| parted(pair));
        Nodes {
            a,
            b,
            params: changed_params(a, b),
            kinds: changed_kinds(&a.record, &b.record),
            same: names(|pair| pair.is_in_both() && pair.same_key()).len(),
            different: names(|pair| pair.is_in_both() && !pair.same_key()),
            nondeterministic: names(|pair| pair.is_in_both() && pair.same_key() && !pair.same_outputs()),
            only_a: names(|pair| pair.b.is_none()),
            only_b: names(|pair| pair.a.is_none()),
            first: first.map(|(name, pair)| (*name, changes(a, b, pair))),
        }
    }

    pub(crate) fn json(&self) -> Map<String, Value> {
        let first = self.first.as_ref().map(|(name, changes)| json!({ "node": name, "changes": changes }));
        let fields = json!({
            "a": self.a.title(), "b": self.b.title(), "params": self.params, "kinds": self.kinds, "same": self.same,
            "different": self.different, "nondeterministic": self.nondeterministic, "only_a": self.only_a,
            "only_b": self.only_b, "first": first,
        });
        fields.as_object().cloned().unwrap_or_default()
    }

    /// Prints which runs are compared. `letter` is the label of the second.
    pub(crate) fn print_runs(&self, letter: &str) {
        let (a, b) = (self.a, self.b);
        println!("A  {}  {}  {}", a.title(), a.record.pipeline, a.record.status);
        println!("{letter}  {}  {}  {}", b.title(), b.record.pipeline, b.record.status);
        for run in [a, b].iter().filter(|run| run.record.status != "done") {
            println!("   {} is not finished: only the nodes that both have are compared", run.title());
        }
    }

    /// Prints in a few lines where the runs differ.
    pub(crate) fn print_short(&self, letter: &str) {
        for (title, lines) in [("parameters", &self.params), ("code", &self.kinds)] {
            if !lines.is_empty() {
                let more = lines.len().saturating_sub(MOST_CHANGES);
                let more = if more > 0 { format!("; and {more} more (--all)") } else { String::new() };
                let shown: Vec<&str> = lines.iter().take(MOST_CHANGES).map(String::as_str).collect();
                println!("{title:12}{}{more}", shown.join("; "));
            }
        }
        println!("{:12}{}", "nodes", self.counts(letter));
        if let Some((name, changes)) = &self.first {
            let change = changes.first().map_or(String::new(), |change| format!(": {change}"));
            let more =
                if changes.len() > 1 { format!("; and {} more", changes.len() - 1) } else { String::new() };
            println!("{:12}{name}{change}{more}", "first at");
        }
        if !self.nondeterministic.is_empty() {
            println!(
                "{:12}{} nodes with the same key have other outputs",
                "unequal",
                self.nondeterministic.len()
            );
        }
    }

    fn counts(&self, letter: &str) -> String {
        let (same, different) = (self.same, self.different.len());
        let (only_a, only_b) = (self.only_a.len(), self.only_b.len());
        let all =
            format!("{same} the same, {different} different, {only_a} only in A, {only_b} only in {letter}");
        match different + only_a + only_b {
            0 if !self.params.is_empty() => format!("{all}: no node depends on these parameters"),
            _ => all,
        }
    }

    /// Prints the whole comparison for people.
    pub(crate) fn print(&self, letter: &str) {
        section("parameters", &self.params);
        section("code", &self.kinds);
        println!("\nnodes");
        println!("  {}", self.counts(letter));
        if let Some((name, changes)) = &self.first {
            println!("  first difference at {name}");
            changes.iter().for_each(|change| println!("    {change}"));
        }
        for name in self.nondeterministic.iter().take(LISTED) {
            println!("  {name} has the same key but different outputs: it is not deterministic");
        }
    }
}

/// A node in two runs.
struct Pair<'a> {
    a: Option<&'a NodeReport>,
    b: Option<&'a NodeReport>,
}

impl Pair<'_> {
    fn is_in_both(&self) -> bool {
        self.a.is_some() && self.b.is_some()
    }

    fn same_key(&self) -> bool {
        self.a.map(|node| node.key) == self.b.map(|node| node.key)
    }

    fn same_outputs(&self) -> bool {
        let digests = |node: Option<&NodeReport>| {
            node.map(|node| node.outputs.iter().map(|output| output.digest).collect::<Vec<_>>())
        };
        digests(self.a) == digests(self.b)
    }
}

fn section(title: &str, lines: &[String]) {
    println!("\n{title}");
    if lines.is_empty() {
        println!("  the same");
    }
    lines.iter().for_each(|line| println!("  {line}"));
}

/// All parameters of a run; those in maps by their paths, such as `train.lr`. If it has several ablations, their names precede
/// those of the parameters.
fn flat_params(run: &Run) -> BTreeMap<String, String> {
    let several = run.record.params.len() > 1;
    let mut flat = BTreeMap::new();
    for (ablation, params) in &run.record.params {
        for (name, typed) in run.record.typed_params(ablation) {
            let path = if several { format!("{ablation}/{name}") } else { name.to_owned() };
            match &params[name] {
                Value::Object(fields) => add_fields(&path, fields, &mut flat),
                _ => drop(flat.insert(path, typed.into_owned())),
            }
        }
    }
    flat
}

fn add_fields(path: &str, fields: &Map<String, Value>, flat: &mut BTreeMap<String, String>) {
    if fields.is_empty() {
        flat.insert(path.to_owned(), "{}".to_owned());
    }
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match value {
            Value::Object(fields) => add_fields(&path, fields, flat),
            value => drop(flat.insert(path, value.to_string())),
        }
    }
}

fn changed_params(a: &Run, b: &Run) -> Vec<String> {
    let (a, b) = (flat_params(a), flat_params(b));
    changed(&a, &b)
}

fn changed_kinds(a: &RunRecord, b: &RunRecord) -> Vec<String> {
    let with_program = |record: &RunRecord| -> BTreeMap<String, String> {
        let kinds =
            record.kinds.iter().map(|(kind, version)| (format!("kind {kind}"), format!("version {version}")));
        kinds.chain([("triplay".to_owned(), record.triplay.clone())]).collect()
    };
    changed(&with_program(a), &with_program(b))
}

fn changed(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let shown = |value: Option<&String>| value.map_or("nothing".to_owned(), String::clone);
    let differing = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    differing.map(|name| format!("{name}: {} → {}", shown(a.get(name)), shown(b.get(name)))).collect()
}

/// The nodes of both runs: those of the first in its order, then those that only the second has.
fn in_order<'a>(a: &'a Run, b: &'a Run) -> Vec<&'a str> {
    let order = |run: &'a Run| -> Vec<&'a str> {
        let mut nodes: Vec<&NodeReport> = run.nodes.iter().collect();
        nodes.sort_by_key(|node| node.index);
        nodes.into_iter().map(|node| node.node.as_str()).collect()
    };
    let mut names = order(a);
    let known: BTreeSet<&str> = names.iter().copied().collect();
    names.extend(order(b).into_iter().filter(|name| !known.contains(name)));
    names
}

/// What differs between the manifests of a node in two runs.
fn changes(a: &Run, b: &Run, pair: &Pair) -> Vec<Change> {
    let manifest = |run: &Run, node: Option<&NodeReport>| {
        let store = run.record.store().ok()??;
        runs::manifest(&store, &node?.key)
    };
    match (manifest(a, pair.a), manifest(b, pair.b)) {
        (Some(a), Some(b)) => differences(&a, &b),
        _ => Vec::new(),
    }
}
