//! Which loops stopped before their last round, and why: what their decisions recorded.

use std::path::PathBuf;

use crate::engine::{DECISION, NodeReport, stops};
use crate::store::Digest;
use crate::store::read::{self, MOST_TEXT};

/// A line for each loop that stopped; `blob` says where content lies.
pub fn stopped(nodes: &[NodeReport], blob: impl Fn(&Digest) -> PathBuf) -> Vec<String> {
    let line = |node: &NodeReport| {
        let decision = node.outputs.first().filter(|output| output.artifact == DECISION)?;
        let (name, round) = loop_and_round(&node.node).filter(|_| stops(&decision.digest))?;
        let why = node.outputs.get(1).and_then(|output| read::bytes(&blob(&output.digest), MOST_TEXT).ok());
        let why = why.map_or_else(String::new, |why| format!(": {}", String::from_utf8_lossy(&why).trim()));
        Some(format!("{name} stopped in round {round}{why}"))
    };
    nodes.iter().filter_map(line).collect()
}

/// Of `play[1]/red[03]/until`, `play[1]/red` and 3.
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
    fn a_loop_that_stopped_is_named_with_its_round_and_the_reason() {
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
                outputs: vec![
                    output("decision", DECISION, Digest::of_file(&place).unwrap()),
                    output("why", "text", digest),
                ],
            }
        };
        let nodes = [node("s1/play[1]/red[02]/until", false), node("s1/play[1]/red[03]/until", true)];
        assert_eq!(
            stopped(&nodes, |digest| folder.path().join(digest.to_string())),
            ["s1/play[1]/red stopped in round 3: attack_success of defender is 0.5, above 0.4"]
        );
    }
}
