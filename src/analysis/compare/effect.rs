//! Changes that did nothing: nodes that ran with something else and made the same, rewards that differ while no advantage does, and
//! phases of training that changed no weights.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use arrow_array::Array;

use super::columns::Columns;
use super::side::Side;
use crate::unchanged::with_any_rounds;
use engine::{DECISION, NodeReport};
use output::several;
use runs::variant;

/// Advantages that differ by less are the same: the constant that keeps their division finite makes a small difference.
const SAME: f64 = 0.01;

/// A line for everything that did nothing.
pub(crate) fn without_effect(a: &Side, b: &Side) -> anyhow::Result<Vec<String>> {
    let pairs = changed(a, b);
    let mut lines = same_outputs(&pairs);
    lines.extend(same_advantages(a, b, &pairs)?);
    for line in &a.unchanged {
        lines.push(if b.unchanged.contains(line) {
            format!("A and B: {line}")
        } else {
            format!("A: {line}")
        });
    }
    lines.extend(
        b.unchanged.iter().filter(|line| !a.unchanged.contains(line)).map(|line| format!("B: {line}")),
    );
    Ok(lines)
}

type Pair<'s> = (&'s NodeReport, &'s NodeReport);

/// The nodes of both runs that ran with something else in each, in the order of the first.
fn changed<'s>(a: &'s Side, b: &'s Side) -> Vec<Pair<'s>> {
    let in_b: HashMap<&str, &NodeReport> =
        b.part.nodes.iter().map(|node| (node.node.as_str(), node)).collect();
    let pair = |node: &'s NodeReport| Some((node, *in_b.get(node.node.as_str())?));
    let mut pairs: Vec<Pair> = a.part.nodes.iter().filter_map(pair).collect();
    pairs.retain(|(a, b)| a.key != b.key && !a.outputs.is_empty());
    pairs.sort_by_key(|(a, _)| a.index);
    pairs
}

/// The stage of a node, whatever its variant and its rounds.
fn stage(node: &NodeReport) -> String {
    with_any_rounds(variant(&node.node).2)
}

/// The pairs by their stages, in order.
fn by_stage<'p, 's>(pairs: impl Iterator<Item = &'p Pair<'s>>) -> Vec<(String, Vec<&'p Pair<'s>>)>
where
    's: 'p,
{
    let mut stages: Vec<(String, Vec<&Pair>)> = Vec::new();
    for pair in pairs {
        let stage = stage(pair.0);
        match stages.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, own)) => own.push(pair),
            None => stages.push((stage, vec![pair])),
        }
    }
    stages
}

/// Stages that ran with other parameters or inputs and made the same outputs in all of their nodes.
fn same_outputs(pairs: &[Pair]) -> Vec<String> {
    let made = |node: &NodeReport| node.outputs.iter().map(|output| output.digest).collect::<Vec<_>>();
    // A decision is one of two: that it is the same says little.
    let decides = |node: &NodeReport| node.outputs.iter().any(|output| output.artifact == DECISION);
    let stages = by_stage(pairs.iter().filter(|(a, _)| !decides(a)));
    let is_same = |pairs: &[&Pair]| pairs.iter().all(|(a, b)| made(a) == made(b));
    let line = |(stage, pairs): &(String, Vec<&Pair>)| {
        let nodes = several(pairs.len(), "node");
        format!("{stage}: other parameters or inputs in B, and the same outputs ({nodes})")
    };
    stages.iter().filter(|(_, pairs)| is_same(pairs)).map(line).collect()
}

/// Rewards of the same completions that differ, while no advantage does.
fn same_advantages(a: &Side, b: &Side, pairs: &[Pair]) -> anyhow::Result<Vec<String>> {
    let rewards = |node: &NodeReport| {
        let output = node.outputs.iter().find(|output| output.artifact == "rewards")?;
        Some(output.digest.to_string()[..DIGITS].to_owned())
    };
    let is_other = |(a, b): &&Pair| rewards(a).is_some_and(|a| rewards(b).is_some_and(|b| a != b));
    let stages = by_stage(pairs.iter().filter(is_other));
    if stages.is_empty() {
        return Ok(Vec::new());
    }
    let (mut of_a, mut of_b) = (HashSet::new(), HashSet::new());
    for (a, b) in stages.iter().flat_map(|(_, pairs)| pairs.iter().copied()) {
        of_a.extend(rewards(a));
        of_b.extend(rewards(b));
    }
    let (in_a, in_b) = (Rewards::read(&a.rewards, &of_a)?, Rewards::read(&b.rewards, &of_b)?);
    let mut lines = Vec::new();
    for (stage, pairs) in &stages {
        let both = pairs.iter().filter_map(|(a, b)| Some((in_a.get(&rewards(a)?)?, in_b.get(&rewards(b)?)?)));
        let alike: Vec<(&Rewards, &Rewards)> = both.filter(|(a, b)| a.are_of_the_same(b)).collect();
        if !alike.is_empty() && alike.iter().all(|(a, b)| a.has_other_rewards(b) && a.has_same_advantages(b))
        {
            lines.push(format!(
                "{stage}: the rewards differ, but every advantage is the same ({} of {} with the same completions): \
                 advantages are relative to their group, where a factor or an offset of the whole reward changes nothing",
                alike.len(),
                pairs.len()
            ));
        }
    }
    Ok(lines)
}

/// Digits of a dataset's digest in tables.
const DIGITS: usize = 16;

/// The rewards of a node, row by row.
#[derive(Default)]
struct Rewards {
    /// The node that the rows are of: nodes with the same dataset have the same rows.
    node: (String, String),
    /// The completions: the first digits of their dataset's digest, and their numbers in it.
    source: String,
    samples: Vec<u32>,
    rewards: Vec<Option<f64>>,
    advantages: Vec<Option<f64>>,
}

impl Rewards {
    /// The rewards in a run's table, by dataset.
    fn read(path: &Path, wanted: &HashSet<String>) -> anyhow::Result<BTreeMap<String, Rewards>> {
        let mut found: BTreeMap<String, Rewards> = BTreeMap::new();
        for batch in &data::open(path)?.batches {
            let columns = Columns(batch);
            let (variant, node) = (columns.text("variant")?, columns.text("node")?);
            let (dataset, source) = (columns.text("dataset")?, columns.text("source")?);
            let samples = columns.whole("sample_id")?;
            let (rewards, advantages) = (columns.number("reward")?, columns.number("advantage")?);
            for row in (0..batch.num_rows()).filter(|row| wanted.contains(dataset.value(*row))) {
                let node = (variant.value(row).to_owned(), node.value(row).to_owned());
                let own = found.entry(dataset.value(row).to_owned()).or_insert_with(|| Rewards {
                    node: node.clone(),
                    source: source.value(row).to_owned(),
                    ..Rewards::default()
                });
                if own.node == node {
                    own.samples.push(samples.value(row));
                    own.rewards.push(rewards.is_valid(row).then(|| rewards.value(row)));
                    own.advantages.push(advantages.is_valid(row).then(|| advantages.value(row)));
                }
            }
        }
        Ok(found)
    }

    fn are_of_the_same(&self, other: &Rewards) -> bool {
        self.source == other.source && self.samples == other.samples
    }

    fn has_other_rewards(&self, other: &Rewards) -> bool {
        self.rewards != other.rewards
    }

    fn has_same_advantages(&self, other: &Rewards) -> bool {
        let is_same = |(a, b): (&Option<f64>, &Option<f64>)| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= SAME,
            (a, b) => a.is_none() && b.is_none(),
        };
        self.advantages.iter().zip(&other.advantages).all(is_same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_the_same_up_to_the_constant_in_their_division() {
        let rewards = |advantages: &[Option<f64>]| Rewards {
            source: "abc".into(),
            samples: (0..advantages.len() as u32).collect(),
            rewards: vec![Some(1.0); advantages.len()],
            advantages: advantages.to_vec(),
            ..Rewards::default()
        };
        let a = rewards(&[Some(0.75), Some(-0.75), None]);
        assert!(a.has_same_advantages(&rewards(&[Some(0.7498), Some(-0.7498), None])));
        assert!(!a.has_same_advantages(&rewards(&[Some(0.5), Some(-0.5), None])));
        assert!(!a.has_same_advantages(&rewards(&[Some(0.75), Some(-0.75), Some(0.0)])));
        assert!(a.are_of_the_same(&a) && !a.are_of_the_same(&rewards(&[None])) && !a.has_other_rewards(&a));
    }
}
