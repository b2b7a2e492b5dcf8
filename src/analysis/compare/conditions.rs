//! What has to be the same in two evaluations for their numbers to be about the subjects: the judge, the prompts, how
//! answers are drawn, the labels that verdicts are held against, and the code. It is read off the manifests of the nodes' keys, which name the content of every
//! input. Datasets that an evaluation was handed, as `measure` is, are followed to the nodes that made them.

use engine::{Change, NodeReport, Part, What, differences};
use runs::Lineage;

/// What differs between two evaluations beside their subjects.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Why their numbers are not comparable, in words.
    pub differing: Vec<String>,
    /// What could not be looked at, and what only some metrics depend on.
    pub notes: Vec<String>,
}

/// Compares what an evaluation of each run was made of.
pub fn conditions(a: At, b: At) -> Conditions {
    let mut found = Conditions::default();
    follow(a, b, &mut found);
    found
}

/// A node, and what it was made of.
pub type At<'x> = (&'x Lineage<'x>, &'x NodeReport);

fn follow(a: At, b: At, found: &mut Conditions) {
    if a.1.key == b.1.key {
        return;
    }
    let (Some(before), Some(now)) = (a.0.manifest(a.1), b.0.manifest(b.1)) else {
        found.notes.push(format!(
            "what {} was made of is not in the cache any more: whether judge, prompts and decoding are the same is not known",
            a.1.node
        ));
        return;
    };
    if !b.0.knows_parts(b.1) {
        found.notes.push(format!(
            "{} is of a version that did not say which of its inputs judge and ask: whether they are the same is not known",
            b.1.node
        ));
        return;
    }
    for change in differences(&before, &now) {
        let head = change.path.split('.').next().unwrap_or_default();
        let part = b.0.part(b.1, &change.path);
        match change.what {
            // Draws may differ: that is what tests are for.
            What::Seed | What::Position | What::Format => {}
            What::Numerics => found.notes.push(format!("{}: {change}", a.1.node)),
            What::Kind | What::Code => found.differing.push(said("code", a.1, &change)),
            _ if part == Some(Part::Instrument) => {
                found.notes.push(format!("another {head}: the metrics that need it are not comparable"));
            }
            _ if part == Some(Part::OwnJudge) => {
                found.notes.push(format!("judged_… is the word of each run's own {head}, and they differ"));
            }
            _ if part == Some(Part::Subject) => {}
            What::Input if part == Some(Part::Source) => {
                let makers = (maker(a.0, &change.from), maker(b.0, &change.to));
                match makers {
                    (Some(from), Some(to)) if from.kind == to.kind => {
                        follow((a.0, from), (b.0, to), found);
                    }
                    _ => found.differing.push(said("prompts", a.1, &change)),
                }
            }
            _ => {
                let role = match part {
                    Some(Part::Judge) => "judge",
                    Some(Part::Prompts) => "prompts",
                    // The verdicts are the subject's; what they are held against is not.
                    Some(Part::Labels) => "labels",
                    _ => "decoding",
                };
                found.differing.push(said(role, a.1, &change));
            }
        }
    }
}

fn maker<'r>(lineage: &Lineage<'r>, digest: &serde_json::Value) -> Option<&'r NodeReport> {
    Some(lineage.maker(digest.as_str()?)?.0)
}

fn said(role: &str, node: &NodeReport, change: &Change) -> String {
    format!("{role}: {change} ({})", node.node)
}
