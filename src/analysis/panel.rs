//! The common panel: the attackers and defenders that a run's ablations trained, and their common opponents. Success against
//! one's own defender depends on the attacker and the defender; against common opponents it depends on the attacker alone.
//!
//! A run's evaluations name the models: the first evaluation of an ablation has the models that training began with, the last
//! those that it ended with, and both have the frozen ones. The panel samples as the last one did.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::rejudge::read_again;
use engine::NodeReport;
use runs::{Lineage, Run, variant};
use store::{Digest, Store};

/// The kind of stage that names attackers and defenders.
const EVALUATE: &str = "evaluate";

/// The models that meet in one seed, and how they are sampled.
#[derive(Debug, PartialEq)]
pub struct Panel {
    /// `None` if the run has only one seed.
    pub seed: Option<u64>,
    /// Models by the names that tables show.
    pub attackers: BTreeMap<String, Digest>,
    /// As `attackers`.
    pub defenders: BTreeMap<String, Digest>,
    /// The seeds dataset whose held-out hazards are attacked, and the world whose oracle judges.
    pub seeds: Digest,
    /// The world whose oracle judges.
    pub world: Digest,
    /// The parameters of sampling.
    pub sampling: Value,
}

/// The models and parameters of an evaluation.
struct Evaluation<'r> {
    node: &'r NodeReport,
    params: Value,
    inputs: BTreeMap<String, Digest>,
}

impl<'r> Evaluation<'r> {
    fn read(lineage: &Lineage, node: &'r NodeReport) -> anyhow::Result<Evaluation<'r>> {
        let manifest = lineage.manifest(node).with_context(|| read_again(&node.node))?;
        let inputs = lineage.inputs(node).into_iter();
        let inputs = inputs.map(|(path, digest)| Ok((path, digest.parse().map_err(anyhow::Error::msg)?)));
        let inputs: anyhow::Result<BTreeMap<String, Digest>> = inputs.collect();
        Ok(Evaluation { node, params: manifest["params"].clone(), inputs: inputs? })
    }

    fn input(&self, path: &str) -> anyhow::Result<Digest> {
        let found = self.inputs.get(path).copied();
        found
            .with_context(|| format!("the record of `{}` must name its `{path}`, found none", self.node.node))
    }

    /// The frozen defenders by their names in tables.
    fn others(&self) -> anyhow::Result<Vec<(String, Digest)>> {
        let others = self.params["others"].as_array().map_or(&[][..], Vec::as_slice);
        let named = others.iter().enumerate().map(|(place, other)| {
            let name = other["name"].as_str().unwrap_or_default();
            Ok((format!("frozen {name}"), self.input(&format!("others.{place}.model"))?))
        });
        named.collect()
    }
}

/// The panel of each seed of a run, and notes for the user.
pub fn panel(run: &Run, store: &Store) -> anyhow::Result<(Vec<Panel>, Vec<String>)> {
    let lineage = Lineage::new(run, Some(store));
    let mut nodes: Vec<&NodeReport> = run.nodes.iter().filter(|node| node.kind == EVALUATE).collect();
    nodes.sort_by_key(|node| node.index);
    ensure!(
        !nodes.is_empty(),
        "run {} must have evaluated its models: the panel is made of the attackers and defenders of its `{EVALUATE}` \
         stages, found none",
        run.record.run
    );
    // By seed and ablation, both in the order of the run.
    let mut variants: Vec<(Option<u64>, &str, Vec<&NodeReport>)> = Vec::new();
    for node in nodes {
        let (ablation, seed, _) = variant(&node.node);
        match variants.iter_mut().find(|(of, name, _)| (*of, *name) == (seed, ablation)) {
            Some((_, _, nodes)) => nodes.push(node),
            None => variants.push((seed, ablation, vec![node])),
        }
    }
    let mut panels: BTreeMap<Option<u64>, Panel> = BTreeMap::new();
    let mut ends: BTreeMap<&str, &str> = BTreeMap::new();
    let mut has_turns = false;
    for (seed, ablation, nodes) in &variants {
        let (first, last) = match nodes[..] {
            [] => continue,
            [only] => (None, only),
            [first, .., last] => (Some(first), last),
        };
        let (.., end) = variant(&last.node);
        ends.entry(end).or_insert(&last.node);
        let last = Evaluation::read(&lineage, last)?;
        has_turns |= last.params["turns"].as_u64() > Some(1);
        add(&lineage, &mut panels, *seed, ablation, first, last)?;
    }
    let panels: Vec<Panel> = panels.into_values().collect();
    same_names(&panels)?;
    let mut notes = Vec::new();
    if ends.len() > 1 {
        let ends: Vec<&str> = ends.into_values().collect();
        notes.push(format!("the last evaluations are of different phases: {}", ends.join(", ")));
    }
    if has_turns {
        notes.push(
            "the evaluations of the run have conversations, but the panel has single turns: successes in later turns \
             do not show"
                .into(),
        );
    }
    Ok((panels, notes))
}

/// Checks that all seeds have the same opponents, since means are over seeds.
fn same_names(panels: &[Panel]) -> anyhow::Result<()> {
    let names = |panel: &Panel| -> BTreeSet<String> {
        let of = |role: &str, models: &BTreeMap<String, Digest>| -> Vec<String> {
            models.keys().map(|name| format!("{role} `{name}`")).collect()
        };
        [of("attacker", &panel.attackers), of("defender", &panel.defenders)].into_iter().flatten().collect()
    };
    for (before, after) in panels.iter().zip(panels.iter().skip(1)) {
        let (first, second) = (names(before), names(after));
        if let Some(one) = first.symmetric_difference(&second).next() {
            bail!(
                "all seeds of a panel must have the same attackers and defenders, found {one} in some only; run the \
                 pipeline to its end first"
            );
        }
    }
    Ok(())
}

/// Adds the models that an ablation began and ended with.
fn add(
    lineage: &Lineage,
    panels: &mut BTreeMap<Option<u64>, Panel>,
    seed: Option<u64>,
    ablation: &str,
    first: Option<&NodeReport>,
    last: Evaluation,
) -> anyhow::Result<()> {
    let own = Panel {
        seed,
        attackers: BTreeMap::new(),
        defenders: BTreeMap::new(),
        seeds: last.input("seeds")?,
        world: last.input("world")?,
        sampling: last.params["sampling"].clone(),
    };
    let panel = panels.entry(seed).or_insert(own);
    ensure!(
        (panel.seeds, panel.world, &panel.sampling)
            == (last.input("seeds")?, last.input("world")?, &last.params["sampling"]),
        "all ablations of a panel must be asked alike: `{}` has other `seeds`, `world` or `sampling` than the ablations \
         before it",
        last.node.node
    );
    let name = if ablation.is_empty() { "as it stands" } else { ablation };
    if let Some(first) = first {
        let first = Evaluation::read(lineage, first)?;
        let phase = first.params["phase"].as_str().unwrap_or("first").to_owned();
        put(&mut panel.attackers, &phase, name, first.input("attacker")?)?;
        put(&mut panel.defenders, &phase, name, first.input("defender")?)?;
    }
    for (other, digest) in last.others()? {
        put(&mut panel.defenders, &other, name, digest)?;
    }
    put(&mut panel.attackers, name, name, last.input("attacker")?)?;
    put(&mut panel.defenders, name, name, last.input("defender")?)
}

/// Adds a model that several ablations may share. A different model of the same name gets the ablation's name behind its own.
fn put(
    models: &mut BTreeMap<String, Digest>,
    name: &str,
    ablation: &str,
    digest: Digest,
) -> anyhow::Result<()> {
    for name in [name.to_owned(), format!("{name} of {ablation}")] {
        match models.get(&name) {
            Some(known) if *known == digest => return Ok(()),
            Some(_) => {}
            None => {
                models.insert(name, digest);
                return Ok(());
            }
        }
    }
    bail!(
        "`{name}` must be one model, found two in ablation `{ablation}`; rename the ablation or the evaluation's phase"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_which_one_lacks_an_ablation_are_no_panel() {
        let panel = |seed: u64, attackers: &[&str]| {
            let model = Digest::of_bytes(&seed.to_le_bytes());
            let attackers = attackers.iter().map(|name| ((*name).to_owned(), model)).collect();
            let (defenders, sampling) = (BTreeMap::new(), Value::Null);
            Panel { seed: Some(seed), attackers, defenders, seeds: model, world: model, sampling }
        };
        same_names(&[panel(5, &["flat", "full"]), panel(6, &["flat", "full"])]).unwrap();
        let error = same_names(&[panel(5, &["flat", "full"]), panel(6, &["full"])]).unwrap_err();
        let found = "all seeds of a panel must have the same attackers and defenders, found attacker `flat` in some only";
        assert!(error.to_string().starts_with(found), "{error}");
    }

    #[test]
    fn what_ablations_share_meets_once_and_what_differs_by_the_name_of_its_ablation() {
        let model = |text: &str| Digest::of_bytes(text.as_bytes());
        let mut models = BTreeMap::new();
        put(&mut models, "warm-up", "full", model("a")).unwrap();
        put(&mut models, "warm-up", "flat", model("a")).unwrap();
        put(&mut models, "warm-up", "slow", model("b")).unwrap();
        put(&mut models, "full", "full", model("c")).unwrap();
        let names: Vec<&str> = models.keys().map(String::as_str).collect();
        assert_eq!(names, ["full", "warm-up", "warm-up of slow"]);
        let error = put(&mut models, "warm-up", "slow", model("d")).unwrap_err();
        assert!(error.to_string().starts_with("`warm-up` must be one model, found two in ablation `slow`"));
    }
}
