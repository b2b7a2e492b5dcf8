//! The conditions of two evaluations that must be equal before their numbers can be compared: the judge, the prompts, the
//! decoding, the labels that verdicts are compared with, and the code. They are read from the manifests of the nodes' keys, which
//! name the content of every input. The datasets of an evaluation such as `measure` are followed to the nodes that made them.

use std::collections::{BTreeSet, HashMap};

use data::RunMetricRow;
use engine::{Change, NodeReport, Part, Purpose, What, differences};
use runs::{Lineage, Run, variant};

/// The differences of two evaluations apart from their subjects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    /// Differences that make the numbers incomparable.
    pub differing: Vec<String>,
    /// Conditions that could not be checked, or that affect only some metrics.
    pub notes: Vec<String>,
}

/// Compares the conditions of an evaluation of each run.
pub(crate) fn conditions(a: At, b: At) -> Conditions {
    let mut found = Conditions::default();
    follow(a, b, &mut found);
    found
}

/// Evaluations of one variant that report the same metrics by different judges, such as the oracle of a world and a model: a line
/// for each, of the first such metric. The change between them is not one of the models alone.
pub fn judged_apart(run: &Run, rows: &[RunMetricRow]) -> anyhow::Result<Vec<String>> {
    let store = run.record.store()?;
    let lineage = Lineage::new(run, store.as_ref());
    let mut nodes: Vec<&NodeReport> = run.nodes.iter().collect();
    nodes.retain(|node| run.record.purpose(&node.kind) == Purpose::Evaluation);
    nodes.sort_by_key(|node| node.index);
    let mut measures: HashMap<&str, BTreeSet<(&str, &str)>> = HashMap::new();
    for row in rows {
        measures.entry(&row.node).or_default().insert((&row.metric.subject, &row.metric.metric));
    }
    let own_variant = |node: &NodeReport| node.node.strip_suffix(variant(&node.node).2).map(str::to_owned);
    let mut lines: Vec<String> = Vec::new();
    for (place, after) in nodes.iter().enumerate() {
        let before = nodes[..place].iter().rfind(|before| own_variant(before) == own_variant(after));
        let Some(before) = before else { continue };
        let of = |node: &NodeReport| measures.get(node.node.as_str());
        let Some((in_before, in_after)) = of(before).zip(of(after)) else { continue };
        let Some((subject, metric)) = in_after.intersection(in_before).next() else { continue };
        let why = match before.kind == after.kind {
            false => Some(format!("kind {} → {}", before.kind, after.kind)),
            true => {
                let differing = conditions((&lineage, before), (&lineage, after)).differing;
                differing.iter().find_map(|line| line.strip_prefix("judge: ").map(str::to_owned))
            }
        };
        let (before, after) = (variant(&before.node).2, variant(&after.node).2);
        let line = why.map(|why| {
            format!(
                "{before} and {after} have different judges of {subject}.{metric} ({why}): a change between them is of the judge, too"
            )
        });
        // Once for all ablations and seeds.
        lines.extend(line.filter(|line| !lines.contains(line)));
    }
    Ok(lines)
}

/// A node, with the lineage of its run.
pub(crate) type At<'x> = (&'x Lineage<'x>, &'x NodeReport);

fn follow(a: At, b: At, found: &mut Conditions) {
    if a.1.key == b.1.key {
        return;
    }
    let (Some(before), Some(now)) = (a.0.manifest(a.1), b.0.manifest(b.1)) else {
        found.notes.push(format!(
            "the record of {} is no longer in the cache: whether judge, prompts and decoding are the same is unknown",
            a.1.node
        ));
        return;
    };
    if !b.0.knows_parts(b.1) {
        found.notes.push(format!(
            "{} is from a version that did not record the roles of its inputs: whether judge and prompts are the same is unknown",
            b.1.node
        ));
        return;
    }
    for change in differences(&before, &now) {
        let head = change.path.split('.').next().unwrap_or_default();
        let part = b.0.part(b.1, &change.path);
        match change.what {
            // Draws may differ: tests account for them.
            What::Seed | What::Position | What::Format => {}
            What::Numerics => found.notes.push(format!("{}: {change}", a.1.node)),
            What::Kind | What::Code => found.differing.push(said("code", a.1, &change)),
            _ if part == Some(Part::Instrument) => {
                found.notes.push(format!("different {head}: the metrics that need it are not comparable"));
            }
            _ if part == Some(Part::OwnJudge) => {
                found
                    .notes
                    .push(format!("judged_… metrics come from each run's own {head}, and these differ"));
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
                    // The verdicts belong to the subject; the labels that they are compared with do not.
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
