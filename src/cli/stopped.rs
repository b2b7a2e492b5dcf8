//! Reports which loops stopped by a metric and which did not, with the reasons that their decisions recorded.

use std::path::PathBuf;

use crate::engine::{DECISION, NodeReport, stops};
use crate::store::Digest;
use crate::store::read::{self, MAX_TEXT_BYTES};

/// A line for each loop that stopped and, if the run `is_done`, for each that ran all its rounds. `blob` gives the path of a
/// blob.
pub(crate) fn stopped(nodes: &[NodeReport], is_done: bool, blob: impl Fn(&Digest) -> PathBuf) -> Vec<String> {
    let mut last: Vec<(&str, u32, &NodeReport)> = Vec::new();
    for node in nodes.iter().filter(|node| decision(node).is_some()) {
        let Some((name, round)) = loop_and_round(&node.node) else { continue };
        match last.iter_mut().find(|(known, ..)| *known == name) {
            Some(known) if known.1 < round => *known = (name, round, node),
            Some(_) => {}
            None => last.push((name, round, node)),
        }
    }
    let line = |(name, round, node): (&str, u32, &NodeReport)| {
        let why =
            node.outputs.get(1).and_then(|output| read::bytes(&blob(&output.digest), MAX_TEXT_BYTES).ok());
        let why = why.map_or_else(String::new, |why| format!(": {}", String::from_utf8_lossy(&why).trim()));
        match decision(node)? {
            true => Some(format!("{name} stopped in round {round}{why}")),
            false => is_done.then(|| format!("{name} ran all its {round} rounds{why}")),
        }
    };
    last.into_iter().filter_map(line).collect()
}

/// The decision of a node, true to stop the loop; `None` for other nodes.
fn decision(node: &NodeReport) -> Option<bool> {
    let output = node.outputs.first().filter(|output| output.artifact == DECISION)?;
    Some(stops(&output.digest))
}

/// Loop and round of a node: `play[1]/red[03]/until` gives `play[1]/red` and 3.
fn loop_and_round(node: &str) -> Option<(&str, u32)> {
    let (around, _) = node.rsplit_once('/')?;
    let (name, round) = around.strip_suffix(']')?.rsplit_once('[')?;
    Some((name, round.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{NodeOutput, write_decision};

    #[test]
    fn a_loop_is_named_with_the_round_in_which_it_ended_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str, stop: bool| {
            let place = folder.path().join("decision");
            write_decision(&place, stop).unwrap();
            let output = |name: &str, artifact: &str, digest| NodeOutput {
                name: name.into(),
                artifact: artifact.into(),
                digest,
                bytes: 0,
                passing: false,
            };
            let why = b"attack_success of defender is 0.5, above 0.4\n";
            let digest = Digest::of_bytes(why);
            std::fs::write(folder.path().join(digest.to_string()), why).unwrap();
            NodeReport {
                node: name.into(),
                index: 0,
                kind: "until".into(),
                cached: false,
                key: digest,
                position: Vec::new(),
                seconds: 0.0,
                params: Vec::new(),
                seed: None,
                outputs: vec![
                    output("decision", DECISION, Digest::of_file(&place).unwrap()),
                    output("why", "text", digest),
                ],
            }
        };
        let nodes = [
            node("s1/play[1]/red[03]/until", true),
            node("s1/play[1]/red[02]/until", false),
            node("s2/play[1]/red[05]/until", false),
        ];
        let told = |is_done| stopped(&nodes, is_done, |digest| folder.path().join(digest.to_string()));
        let one = "s1/play[1]/red stopped in round 3: attack_success of defender is 0.5, above 0.4";
        assert_eq!(told(false), [one]);
        let other = "s2/play[1]/red ran all its 5 rounds: attack_success of defender is 0.5, above 0.4";
        assert_eq!(told(true), [one, other]);
    }
}
