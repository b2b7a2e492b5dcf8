//! Agreement of several judges on the same responses: the verdicts of the run, the truth if the run knows it, and the verdicts of
//! another judge.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use serde::Serialize;

use super::number::percent;
use super::statistics::{self, Kappa};
use data::{self, OutcomeRow, ResponseRow, VerdictRow};
use engine::{NodeReport, Purpose};
use game::{Class, has_no_text, label};
use runs::{Lineage, Run};
use store::{Digest, Store};

/// The names of the judges in tables.
const TRUTH: &str = "truth";
const STORED: &str = "stored";
const AGAIN: &str = "again";

/// Responses of a run, with the verdicts on each.
pub struct Judged {
    /// The node that generated the responses.
    pub node: String,
    /// The digest of its responses.
    pub digest: Digest,
    /// The responses that are not empty.
    pub responses: Vec<ResponseRow>,
    /// For each judge, a class for each response; `None` if undetermined.
    verdicts: BTreeMap<&'static str, Vec<Option<Class>>>,
}

/// The datasets of responses of a run: those of evaluations, or if `wanted` names nodes, those of nodes whose names begin with
/// one of them.
pub fn judged(run: &Run, store: &Store, wanted: &[String]) -> anyhow::Result<Vec<Judged>> {
    let lineage = Lineage::new(run, Some(store));
    let has = |node: &&NodeReport| node.outputs.iter().any(|output| output.artifact == "responses");
    let mut nodes: Vec<&NodeReport> = run.nodes.iter().filter(has).collect();
    nodes.sort_by_key(|node| node.index);
    anyhow::ensure!(!nodes.is_empty(), "run {} has no responses to judge", run.record.run);
    let known: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
    for name in wanted {
        if !known.iter().any(|node| node.starts_with(name.as_str())) {
            let near = engine::nearest(name, &known).map(|near| format!("; did you mean `{near}`?"));
            anyhow::bail!(
                "run {} has no responses of a node `{name}`{}",
                run.record.run,
                near.unwrap_or_default()
            );
        }
    }
    let purpose = |node: &NodeReport| run.record.purpose(&node.kind);
    let evaluates = |node: &&NodeReport| matches!(purpose(node), Purpose::Evaluation | Purpose::CrossPlay);
    let any_evaluation = nodes.iter().any(evaluates);
    nodes.retain(|node| match wanted {
        [] => !any_evaluation || evaluates(node),
        _ => wanted.iter().any(|name| node.node.starts_with(name.as_str())),
    });
    // By the responses that they judged; among several the first in the pipeline.
    let makes = |node: &NodeReport, artifact| node.outputs.iter().any(|output| output.artifact == artifact);
    let judges = |node: &&NodeReport| purpose(node) == Purpose::Judging && makes(node, "verdicts");
    let mut judges: Vec<&NodeReport> = run.nodes.iter().filter(judges).collect();
    judges.sort_by_key(|judge| std::cmp::Reverse(judge.index));
    let judged = |judge: &&NodeReport| lineage.inputs(judge).into_iter().find(|(path, _)| path == "data");
    let judges: HashMap<String, &NodeReport> =
        judges.into_iter().filter_map(|judge| Some((judged(&judge)?.1, judge))).collect();
    nodes.into_iter().map(|node| of(store, &lineage, &judges, node)).collect()
}

/// The responses of a node and the run's verdicts on them.
fn of(
    store: &Store,
    lineage: &Lineage,
    judges: &HashMap<String, &NodeReport>,
    node: &NodeReport,
) -> anyhow::Result<Judged> {
    let output = |node: &NodeReport, artifact: &str| {
        node.outputs.iter().find(|output| output.artifact == artifact).map(|output| output.digest)
    };
    let Some(digest) = output(node, "responses") else { anyhow::bail!("`{}` has no responses", node.node) };
    let mut responses: Vec<ResponseRow> = read(store, &digest, &node.node)?;
    // No judge is asked about empty responses: all judges would agree.
    responses.retain(|row| !has_no_text(&row.text));
    let mut verdicts = BTreeMap::new();
    // The evaluation's own verdicts, or those of the stage that judged these responses.
    let judge = judges.get(&digest.to_string());
    if let Some(stored) = output(node, "verdicts").or_else(|| output(judge?, "verdicts")) {
        let rows: Vec<VerdictRow> = read(store, &stored, &node.node)?;
        verdicts.insert(STORED, classes(&responses, &rows));
    }
    if let Some(outcomes) = output(node, "outcomes") {
        let rows: Vec<OutcomeRow> = read(store, &outcomes, &node.node)?;
        let known: HashMap<[&str; 4], Option<Class>> = rows
            .iter()
            .filter(|row| matches!(row.metric.as_str(), "attack_success" | "cross_success"))
            .map(|row| ([&row.subject, &row.seed_id, &row.prompt, &row.response], row))
            .map(|(key, row)| (key.map(String::as_str), Class::parse(&row.class)))
            .collect();
        let class = |row: &ResponseRow| {
            let key = [&row.defender, &row.origin.seed_id, &row.attack, &row.text].map(String::as_str);
            known.get(&key).copied().flatten()
        };
        let said: Vec<Option<Class>> = responses.iter().map(class).collect();
        // An oracle knows the truth; any other judge gives only its opinion.
        let by_oracle = lineage.inputs(node).iter().any(|(path, _)| path == "world");
        if said.iter().any(Option::is_some) {
            verdicts.entry(if by_oracle { TRUTH } else { STORED }).or_insert(said);
        }
    }
    Ok(Judged { node: node.node.clone(), digest, responses, verdicts })
}

fn read<R: data::Row>(store: &Store, digest: &Digest, node: &str) -> anyhow::Result<Vec<R>> {
    let path = store.verified(digest)?.with_context(|| read_again(node))?;
    Ok(data::read(&path)?)
}

/// Advice for a node whose record or outputs are gone from the cache.
pub(super) fn read_again(node: &str) -> String {
    format!("the cache no longer has the outputs of `{node}`; run the pipeline again to make them")
}

/// The class of each response; among several verdicts on one the first.
fn classes(responses: &[ResponseRow], verdicts: &[VerdictRow]) -> Vec<Option<Class>> {
    let mut known: HashMap<(u32, &str), Option<Class>> = HashMap::new();
    for row in verdicts {
        known.entry((row.response_id, row.response.as_str())).or_insert(Class::parse(&row.class));
    }
    responses.iter().map(|row| known.get(&(row.response_id, row.text.as_str())).copied().flatten()).collect()
}

impl Judged {
    /// Adds the other judge's verdicts.
    pub fn add(&mut self, verdicts: &[VerdictRow]) {
        let classes = classes(&self.responses, verdicts);
        self.verdicts.insert(AGAIN, classes);
    }
}

/// The agreement of judges on responses.
#[derive(Serialize)]
pub struct Agreement {
    /// The number of responses that were judged.
    pub responses: usize,
    /// The rates of each judge's classes.
    pub judges: Vec<JudgeRates>,
    /// The agreement of each two judges.
    pub pairs: Vec<Pair>,
    /// Krippendorff's α of all judges; an undetermined verdict counts as missing.
    pub alpha: Option<f64>,
    /// By the node that generated the responses.
    pub nodes: Vec<NodeAgreement>,
}

/// The rates of a judge's classes.
#[derive(Serialize)]
pub struct JudgeRates {
    pub judge: &'static str,
    pub negative: usize,
    pub rejective: usize,
    pub positive: usize,
    pub undetermined: usize,
}

/// Two judges.
#[derive(Serialize)]
pub struct Pair {
    pub a: &'static str,
    pub b: &'static str,
    /// Responses that both judged, and the number of those on which they agree.
    pub both: usize,
    pub agree: usize,
    /// Cohen's κ over responses to which both gave a class.
    pub kappa: Option<Kappa>,
}

/// The agreement on one dataset of responses.
#[derive(Serialize)]
pub struct NodeAgreement {
    pub node: String,
    pub responses: usize,
    /// For each judge, the share of negative verdicts among those with a class: successful attacks, whether or not they keep the
    /// meaning. `None` without any class.
    pub negative: BTreeMap<&'static str, Option<f64>>,
    /// Cohen's κ between the stored verdicts, or the truth, and the other judge's.
    pub kappa: Option<f64>,
}

/// The agreement of judges on the same responses, in total and by node.
pub fn agreement(all: &[Judged]) -> Agreement {
    // The truth first, then the judges in the order of judging.
    let judges = [TRUTH, STORED, AGAIN]
        .into_iter()
        .filter(|judge| all.iter().any(|one| one.verdicts.contains_key(judge)));
    let judges: Vec<&'static str> = judges.collect();
    let column = |judge: &str| -> Vec<Option<Class>> {
        let of = |one: &Judged| {
            one.verdicts.get(judge).cloned().unwrap_or_else(|| vec![None; one.responses.len()])
        };
        all.iter().flat_map(of).collect()
    };
    let columns: Vec<(&'static str, Vec<Option<Class>>)> =
        judges.iter().map(|judge| (*judge, column(judge))).collect();
    let items: Vec<Vec<Class>> = (0..columns.first().map_or(0, |(_, column)| column.len()))
        .map(|row| columns.iter().filter_map(|(_, column)| column[row]).collect())
        .collect();
    let mut pairs = Vec::new();
    for (index, (a, left)) in columns.iter().enumerate() {
        for (b, right) in &columns[index + 1..] {
            let table = table(left, right);
            let agree: u64 = (0..table.len()).map(|class| table[class][class]).sum();
            let both: u64 = table.iter().flatten().sum();
            pairs.push(Pair {
                a,
                b,
                both: both as usize,
                agree: agree as usize,
                kappa: statistics::kappa(&table),
            });
        }
    }
    Agreement {
        responses: items.len(),
        judges: columns.iter().map(|(judge, column)| rates(judge, column)).collect(),
        pairs,
        alpha: statistics::alpha(items.iter().map(Vec::as_slice)),
        nodes: all.iter().map(of_node).collect(),
    }
}

fn of_node(one: &Judged) -> NodeAgreement {
    let negative = |column: &Vec<Option<Class>>| {
        let known: Vec<Class> = column.iter().copied().flatten().collect();
        let negative = known.iter().filter(|class| **class == Class::Negative).count();
        (!known.is_empty()).then(|| negative as f64 / known.len() as f64)
    };
    let before = one.verdicts.get(STORED).or_else(|| one.verdicts.get(TRUTH));
    let kappa = before
        .zip(one.verdicts.get(AGAIN))
        .and_then(|(before, again)| statistics::kappa(&table(before, again)));
    NodeAgreement {
        node: one.node.clone(),
        responses: one.responses.len(),
        negative: one.verdicts.iter().map(|(judge, column)| (*judge, negative(column))).collect(),
        kappa: kappa.map(|kappa| kappa.value),
    }
}

fn rates(judge: &'static str, column: &[Option<Class>]) -> JudgeRates {
    let count = |class: Option<Class>| column.iter().filter(|said| **said == class).count();
    JudgeRates {
        judge,
        negative: count(Some(Class::Negative)),
        rejective: count(Some(Class::Rejective)),
        positive: count(Some(Class::Positive)),
        undetermined: count(None),
    }
}

/// The counts of the first judge's class (row) and the second's (column), over responses that both judged.
fn table(a: &[Option<Class>], b: &[Option<Class>]) -> Vec<Vec<u64>> {
    let count = Class::ALL.len();
    let place = |class: Class| Class::ALL.iter().position(|known| *known == class).unwrap_or(0);
    let mut table = vec![vec![0; count]; count];
    for (a, b) in a.iter().zip(b).filter_map(|(a, b)| a.zip(*b)) {
        table[place(a)][place(b)] += 1;
    }
    table
}

impl Agreement {
    /// Formats it for people, at most 80 columns wide.
    pub fn text(&self) -> String {
        // There is no share of zero responses.
        let share = |count: usize, all: usize| match all {
            0 => "-  ".to_owned(),
            _ => format!("{} %", percent(count as f64 / all as f64)),
        };
        let mut text = format!(
            "{:8}{:>10}{:>12}{:>11}{:>11}{:>14}\n",
            "judge",
            "responses",
            "negative",
            "rejective",
            "positive",
            label(None)
        );
        for judge in &self.judges {
            let known = self.responses - judge.undetermined;
            text += &format!(
                "{:8}{:>10}{:>12}{:>11}{:>11}{:>14}\n",
                judge.judge,
                self.responses,
                share(judge.negative, known),
                share(judge.rejective, known),
                share(judge.positive, known),
                judge.undetermined,
            );
        }
        if self.judges.iter().any(|judge| judge.undetermined > 0) {
            text += "shares are of the responses to which the judge gives a class\n";
        }
        text += &format!(
            "\n{:20}{:>8}{:>12}{:>12}   {}\n",
            "agreement", "both", "agree", "Cohen's κ", "95 % interval"
        );
        for pair in &self.pairs {
            let name = format!("{} – {}", pair.a, pair.b);
            text += &format!("{name:20}{:>8}{:>12}", pair.both, share(pair.agree, pair.both));
            text += &match &pair.kappa {
                Some(Kappa { value, interval: Some(interval), .. }) => {
                    format!("{value:>12.3}   {:.3} to {:.3}\n", interval.low, interval.high)
                }
                Some(kappa) => format!("{:>12.3}   not known\n", kappa.value),
                None => format!("{:>12}   one class only\n", "-"),
            };
        }
        if let Some(alpha) = self.alpha {
            text += &format!("Krippendorff's α of all: {alpha:.3}\n");
        }
        let width = self.nodes.iter().map(|node| node.node.chars().count()).max().unwrap_or(0).clamp(4, 29);
        text += "\npercent negative by each judge, and κ between the stored and the new verdicts\n";
        text += &format!("{:width$}{:>11}", "node", "responses");
        self.judges.iter().for_each(|judge| text += &format!("{:>10}", judge.judge));
        text += &format!("{:>10}\n", "κ");
        for node in &self.nodes {
            text +=
                &format!("{:width$}{:>11}", console::truncate_str(&node.node, width, "…"), node.responses);
            for judge in &self.judges {
                text += &match node.negative.get(judge.judge).copied().flatten() {
                    Some(negative) => format!("{:>10}", percent(negative)),
                    None => format!("{:>10}", "-"),
                };
            }
            text += &node.kappa.map_or(format!("{:>10}\n", "-"), |kappa| format!("{kappa:>10.3}\n"));
        }
        text
    }
}
