//! The nodes that wrote, answered and measured a run's rows, with the checkpoints that they used.

use std::collections::{HashMap, HashSet};

use super::NodeName;
use crate::made_of::Provenance;
use crate::source::Source;
use data::AttackRow;
use engine::{NodeReport, Part, Purpose};
use runs::recorded_at;

/// A node's name as in tables.
pub(crate) fn name(node: &NodeReport) -> NodeName<'_> {
    let name = runs::variant(&node.node).2;
    (node.node.strip_suffix(name).unwrap_or_default().trim_end_matches('/'), name)
}

fn makes(node: &NodeReport, artifact: &str) -> bool {
    node.outputs.iter().any(|output| output.artifact == artifact)
}

pub(crate) fn attackers<'a>(source: &'a Source, makers: &Provenance) -> HashMap<NodeName<'a>, String> {
    let is_written =
        |node: &&NodeReport| makes(node, "attacks") && source.run.record.purpose(&node.kind) != Purpose::Data;
    let nodes = source.run.nodes.iter().filter(is_written);
    nodes.filter_map(|node| Some((name(node), makers.attacker(node)?))).collect()
}

pub(crate) fn defenders<'a>(
    source: &'a Source,
    makers: &Provenance,
) -> HashMap<NodeName<'a>, HashMap<String, String>> {
    let nodes = source.run.nodes.iter().filter(|node| makes(node, "responses"));
    nodes.map(|node| (name(node), makers.defenders(node))).collect()
}

/// The nodes that measure by a world's oracle; the others use a judge.
pub(crate) fn oracles<'a>(source: &'a Source, makers: &Provenance) -> HashSet<NodeName<'a>> {
    let record = &source.run.record;
    // A kind that always asks a world needs no further check.
    let always = |node: &NodeReport| {
        record.purpose(&node.kind) == Purpose::Evaluation
            && record.part(&node.kind, "world") == Some(Part::Judge)
    };
    let asks =
        |node: &&NodeReport| always(node) || makers.inputs(node).iter().any(|(path, _)| path == "world");
    source.run.nodes.iter().filter(|node| makes(node, "outcomes")).filter(asks).map(name).collect()
}

/// The techniques of the attacks of benchmarks, by their texts.
pub(crate) fn techniques(source: &Source, makers: &Provenance) -> anyhow::Result<HashMap<String, String>> {
    let mut found = HashMap::new();
    let mut seen: Vec<String> = Vec::new();
    for node in source.run.nodes.iter().filter(|node| makes(node, "outcomes")) {
        for (path, digest) in makers.inputs(node) {
            if path != "benchmark" || seen.contains(&digest) {
                continue;
            }
            let place = store::Digest::from_hex(digest.as_bytes());
            let place = place.zip(source.store.as_ref());
            let place =
                place.map(|(digest, store)| recorded_at(store.blob_path(&digest), &digest)).transpose()?;
            for attack in
                place.flatten().map(|path| data::read::<AttackRow>(&path)).transpose()?.unwrap_or_default()
            {
                found.extend(attack.technique.map(|technique| (attack.text, technique)));
            }
            seen.push(digest);
        }
    }
    Ok(found)
}
