//! The metrics of a run as curves over steps, for programs that plot numbers over time. A step is one update of any role, counted
//! through all phases and iterations of a variant, so that the curves of all roles share one axis. An evaluation has the step of
//! the last update before it. Supervised training counts its own steps.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Source;
use super::rows::Rows;
use engine::Purpose;

/// One value of a curve.
pub(crate) struct Scalar {
    /// Such as `update/attacker/kl` or `evaluation/play/after/defender/attack_success`.
    pub tag: String,
    pub step: u64,
    pub value: f64,
    /// Milliseconds since 1970: the start of the run plus the seconds of work of all nodes up to this one.
    pub time: i64,
}

/// The curves of each variant of a run, in its order.
pub(crate) fn scalars(source: &Source) -> anyhow::Result<BTreeMap<String, Vec<Scalar>>> {
    let record = &source.run.record;
    let began = record.began.parse::<jiff::Timestamp>().map_or(0, |moment| moment.as_millisecond());
    let ended = work_until(source);
    let rows = Rows::open(&source.tables.path("metrics"))?;
    let mut variants: BTreeMap<String, Vec<Scalar>> = BTreeMap::new();
    // For each variant: the number of updates so far, and the node of the last.
    let mut updates: HashMap<&str, (u64, &str)> = HashMap::new();
    let mut taken: HashSet<(&str, String, u64)> = HashSet::new();
    for row in rows.iter() {
        let [variant, node, kind, phase, subject, metric] =
            ["variant", "node", "kind", "phase", "subject", "metric"].map(|column| row.text(column));
        let Some(value) = row.number("value") else { continue };
        let (count, last) = updates.entry(variant).or_default();
        let purpose = record.purpose(kind);
        let supervised = phase.strip_prefix("step ").and_then(|number| number.parse().ok());
        if purpose == Purpose::Training && supervised.is_none() && *last != node {
            (*count, *last) = (*count + 1, node);
        }
        let (tag, step) = match (purpose, supervised) {
            (Purpose::Training, Some(step)) => (format!("{}/{metric}", bare(node)), step),
            (Purpose::Training, None) => (format!("{phase}/{subject}/{metric}"), *count),
            // The data of the next update.
            (Purpose::Judging, _) => (format!("{phase}/{subject}/{metric}"), *count + 1),
            (Purpose::CrossPlay, _) => (format!("cross_play/{phase}/{subject}/{metric}"), *count),
            _ => (format!("evaluation/{subject}/{metric}"), *count),
        };
        // Two evaluations at one step are two curves.
        let tag = match taken.insert((variant, tag.clone(), step)) {
            true => tag,
            false => of_node(&tag, node),
        };
        let name = if variant.is_empty() { node.to_owned() } else { format!("{variant}/{node}") };
        let seconds = ended.get(&name).copied().unwrap_or(0.0);
        let time = began + (seconds * 1e3) as i64;
        variants.entry(variant.to_owned()).or_default().push(Scalar { tag, step, value, time });
    }
    Ok(variants)
}

/// The tag with the node before the metric. Programs make a folder of the part before a `/`, and a curve of the last part; no
/// name may be both.
fn of_node(tag: &str, node: &str) -> String {
    let (first, rest) = tag.split_once('/').unwrap_or(("other", tag));
    format!("{first}/{}/{rest}", bare(node))
}

/// Seconds of work of all nodes up to each, in the order of the graph: runs do not record when a node ended.
fn work_until(source: &Source) -> HashMap<String, f64> {
    let mut nodes: Vec<_> = source.run.nodes.iter().collect();
    nodes.sort_by_key(|node| node.index);
    let mut sum = 0.0;
    let until = nodes.into_iter().map(|node| {
        sum += node.seconds;
        (node.node.clone(), sum)
    });
    until.collect()
}

/// A node's name without its rounds.
fn bare(node: &str) -> String {
    let mut bare = String::new();
    for part in node.split('/') {
        if !bare.is_empty() {
            bare.push('/');
        }
        let is_round = |inner: &str| inner.bytes().all(|byte| byte.is_ascii_digit());
        match part.split_once('[') {
            Some((name, rest)) if rest.strip_suffix(']').is_some_and(is_round) => bare += name,
            _ => bare += part,
        }
    }
    bare
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_curve_has_the_name_of_a_folder_of_curves() {
        let tag = "evaluation/defender/attack_success";
        let other = super::of_node(tag, "play[1]/again");
        assert_eq!(other, "evaluation/play/again/defender/attack_success");
        assert!(!other.starts_with(&format!("{tag}/")));
    }

    #[test]
    fn rounds_are_left_out_of_tags_and_labels_are_not() {
        assert_eq!(super::bare("play[1]/after_red"), "play/after_red");
        assert_eq!(super::bare("others[b]"), "others[b]");
    }
}
