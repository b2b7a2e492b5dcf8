//! What has to be the same in two evaluations for their numbers to be about the subjects: the judge, the prompts, how
//! answers are drawn, the labels that verdicts are held against, and the code. It is read off the manifests of the nodes' keys, which name the content of every
//! input. Datasets that an evaluation was handed, as `measure` is, are followed to the nodes that made them.

use engine::{Change, NodeReport, What, differences};
use runs::Lineage;

/// What differs between two evaluations beside their subjects.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Why their numbers are not comparable, in words.
    pub differing: Vec<String>,
    /// What could not be looked at, and what only some metrics depend on.
    pub notes: Vec<String>,
}

/// Where the parameters of a kind of node belong. What is named nowhere decides how answers are drawn.
struct Roles {
    /// What is compared, and what has no influence.
    subjects: &'static [&'static str],
    /// Datasets that other nodes made.
    made: &'static [&'static str],
    judge: &'static [&'static str],
    prompts: &'static [&'static str],
}

fn roles(kind: &str) -> Roles {
    const NOTHING: &[&str] = &[];
    match kind {
        // The oracle of the world judges; the evaluator is a subject itself.
        "evaluate" => Roles {
            subjects: &["phase", "attacker", "defender", "evaluator", "others"],
            made: NOTHING,
            judge: &["world"],
            prompts: &["seeds", "benchmark", "benign", "pairs"],
        },
        "measure" => Roles {
            // But for the labels in `labelled`.
            subjects: &["phase", "evaluator", "labelled"],
            made: &["verdicts", "attacks", "benign", "meanings"],
            judge: NOTHING,
            prompts: NOTHING,
        },
        "judge" | "meaning" => {
            Roles { subjects: NOTHING, made: &["data"], judge: &["model"], prompts: NOTHING }
        }
        "respond" => Roles { subjects: &["models"], made: &["data"], judge: NOTHING, prompts: &["benign"] },
        "generate" => {
            Roles { subjects: &["model", "history"], made: NOTHING, judge: NOTHING, prompts: &["data"] }
        }
        // What a command is given is what it measures; the command itself is how.
        "exec" => Roles { subjects: &["inputs"], made: NOTHING, judge: &["command"], prompts: NOTHING },
        _ => Roles { subjects: NOTHING, made: NOTHING, judge: NOTHING, prompts: NOTHING },
    }
}

/// Instruments of a few metrics, which may be other ones.
const INSTRUMENTS: [(&str, &str); 1] = [("embedder", "embedding_diversity and vendi")];

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
    let roles = roles(&a.1.kind);
    for change in differences(&before, &now) {
        let head = change.path.split('.').next().unwrap_or_default();
        if let Some((_, metrics)) = INSTRUMENTS.iter().find(|(name, _)| *name == head) {
            found.notes.push(format!("another {head}: {metrics} are not comparable"));
            continue;
        }
        match change.what {
            // Draws may differ: that is what tests are for.
            What::Seed | What::Position | What::Format => {}
            What::Numerics => found.notes.push(format!("{}: {change}", a.1.node)),
            What::Kind | What::Code => found.differing.push(said("code", a.1, &change)),
            _ if a.1.kind == "evaluate" && head == "evaluator" => {
                found.notes.push("judged_… is the word of each run's own evaluator, and they differ".into());
            }
            // The verdicts are the subject's; what they are held against is not.
            _ if is_labels(&a.1.kind, &change.path) => {
                found.differing.push(said("labels", a.1, &change));
            }
            _ if roles.subjects.contains(&head) => {}
            What::Input if roles.made.contains(&head) => {
                let makers = (maker(a.0, &change.from), maker(b.0, &change.to));
                match makers {
                    (Some(from), Some(to)) if from.kind == to.kind => {
                        follow((a.0, from), (b.0, to), found);
                    }
                    _ => found.differing.push(said("prompts", a.1, &change)),
                }
            }
            _ => {
                let role = match () {
                    () if roles.judge.contains(&head) => "judge",
                    () if roles.prompts.contains(&head) => "prompts",
                    () => "decoding",
                };
                found.differing.push(said(role, a.1, &change));
            }
        }
    }
}

/// Whether a parameter is the labels that an evaluator's verdicts are held against: `labelled.heldout.labels`.
fn is_labels(kind: &str, path: &str) -> bool {
    kind == "measure" && path.starts_with("labelled.") && path.ends_with(".labels")
}

fn maker<'r>(lineage: &Lineage<'r>, digest: &serde_json::Value) -> Option<&'r NodeReport> {
    Some(lineage.maker(digest.as_str()?)?.0)
}

fn said(role: &str, node: &NodeReport, change: &Change) -> String {
    format!("{role}: {change} ({})", node.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_yardstick_and_verdicts_on_them_the_subject() {
        assert!(is_labels("measure", "labelled.heldout.labels"));
        assert!(!is_labels("measure", "labelled.heldout.verdicts"));
        assert!(
            !is_labels("measure", "labelled.heldout"),
            "a set that only one has is a metric that only one has"
        );
        assert!(!is_labels("judge", "labels"));
    }
}
