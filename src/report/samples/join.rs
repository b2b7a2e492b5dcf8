//! Joins a run's tables: each row of responses, labels and evaluations with its attack, verdict, truth and reward.

use std::collections::{HashMap, HashSet};

use super::rows::{Rows, Shared};
use super::{NodeName, Row, RowKey};

/// The reward's term for an attack's success, and the note with its technique.
const SUCCESS: &str = "success";
const TECHNIQUE: &str = "technique";

/// Metrics of evaluations whose prompts are not rows of a dataset, with the task of these prompts.
const ASKED: [(&str, &str); 3] =
    [("benchmark_success", "hazard"), ("benign_accuracy", "benign"), ("arithmetic_accuracy", "arithmetic")];

/// The data that rows are joined with.
pub(crate) struct Joined<'a> {
    pub run: String,
    pub attacks: Attacks<'a>,
    pub verdicts: Verdicts<'a>,
    pub rewards: Rewards<'a>,
    pub outcomes: Outcomes<'a>,
    /// The checkpoint that wrote the attacks of a node.
    pub wrote: &'a HashMap<NodeName<'a>, String>,
    /// The checkpoints that responded in a node, by their names in it.
    pub answered: &'a HashMap<NodeName<'a>, HashMap<String, String>>,
    /// For the attacks of benchmarks.
    pub techniques: &'a HashMap<String, String>,
}

impl<'a> Joined<'a> {
    /// The checkpoint that has this name in a node.
    fn defender(&self, node: NodeName<'a>, name: Option<&str>) -> Option<&'a str> {
        self.answered.get(&node)?.get(name?).map(String::as_str)
    }
}

/// A row for each response, of training and of evaluations.
pub(crate) fn from_responses<'a>(known: &'a Joined, rows: &'a Rows, found: &mut Vec<Row<'a>>) {
    let shared = Shared::new(rows);
    let (ids, attack_ids) = (rows.numbers("response_id"), rows.numbers("attack_id"));
    let (attacks, texts, defenders) = (rows.texts("attack"), rows.texts("text"), rows.texts("defender"));
    for row in 0..rows.count {
        let own = shared.row(row);
        let source = shared.source[row].unwrap_or_default();
        let dataset = shared.dataset[row].unwrap_or_default();
        let (id, attack_id) = (ids[row].unwrap_or(0), attack_ids[row].unwrap_or(0));
        // For files from outside only the responses themselves are known.
        let key = match source {
            "" => (own.variant, dataset, attack_id),
            source => (own.variant, source, attack_id),
        };
        let attack = known.attacks.find(key);
        let earned = known.rewards.find(key, "attacker");
        let earned = earned.or_else(|| known.rewards.find((own.variant, dataset, id), "defender"));
        let technique = attack.and_then(|attack| known.attacks.technique[attack]);
        let verdict = known.verdicts.first((own.variant, dataset, id));
        let wrote = attack.and_then(|attack| known.wrote.get(&known.attacks.node(attack)));
        found.push(Row {
            key,
            attack: attacks[row],
            defender: defenders[row],
            response: texts[row],
            technique: technique.or_else(|| earned.and_then(|(rewards, row)| rewards.technique[row])),
            verdict: verdict.and_then(|verdict| known.verdicts.class[verdict]),
            truth: known.outcomes.truth(&own, [defenders[row], attacks[row], texts[row]]),
            reward: earned,
            attacker_checkpoint: wrote.map(String::as_str),
            defender_checkpoint: known.defender((own.variant, own.node), defenders[row]),
            ..own
        });
    }
}

/// A row for each verdict on a pair with an expert label: the evaluator learns from these.
pub(crate) fn from_labels<'a>(known: &'a Joined, rows: &'a Rows, found: &mut Vec<Row<'a>>) {
    let shared = Shared::new(rows);
    let ids = rows.numbers("response_id");
    let (attacks, texts, defenders) = (rows.texts("attack"), rows.texts("text"), rows.texts("defender"));
    let classes = rows.texts("class");
    for row in 0..rows.count {
        let key = (
            shared.variant[row].unwrap_or_default(),
            shared.dataset[row].unwrap_or_default(),
            ids[row].unwrap_or(0),
        );
        let own = || {
            let own = shared.row(row);
            Row {
                key,
                attack: attacks[row],
                defender: defenders[row],
                response: texts[row],
                truth: known.outcomes.truth(&own, [defenders[row], attacks[row], texts[row]]),
                label: classes[row],
                ..own
            }
        };
        let verdicts = known.verdicts.of.get(&key).map(Vec::as_slice).unwrap_or_default();
        if verdicts.is_empty() {
            found.push(own());
        }
        for &verdict in verdicts {
            let earned = known.rewards.find(known.verdicts.key(verdict), "evaluator");
            found.push(Row { verdict: known.verdicts.class[verdict], reward: earned, ..own() });
        }
    }
}

/// A row for each benchmark attack and benign prompt of an evaluation.
pub(crate) fn from_evaluations<'a>(known: &'a Joined, rows: &'a Rows, found: &mut Vec<Row<'a>>) {
    let shared = Shared::new(rows);
    let (metrics, subjects, classes) = (rows.texts("metric"), rows.texts("subject"), rows.texts("class"));
    let (prompts, responses) = (rows.texts("prompt"), rows.texts("response"));
    let is_true = &known.outcomes.is_true;
    for row in 0..rows.count {
        let task = ASKED.iter().find(|(metric, _)| metrics[row] == Some(metric)).map(|(_, task)| *task);
        let Some(task) = task else { continue };
        let own = shared.row(row);
        let technique = prompts[row].and_then(|prompt| known.techniques.get(prompt));
        found.push(Row {
            // Each prompt is a row of its own.
            key: (own.variant, shared.dataset[row].unwrap_or_default(), row as u32),
            task: Some(task),
            split: Some(if task == "hazard" { "benchmark" } else { "heldout" }),
            attack: prompts[row],
            defender: subjects[row],
            response: responses[row],
            verdict: classes[row].filter(|_| !is_true[row]),
            truth: classes[row].filter(|_| is_true[row]),
            technique: technique.map(String::as_str),
            defender_checkpoint: known.defender((own.variant, own.node), subjects[row]),
            ..own
        });
    }
}

pub(crate) struct Attacks<'a> {
    shared: Shared<'a>,
    technique: Vec<Option<&'a str>>,
    by_id: HashMap<RowKey<'a>, usize>,
}

impl<'a> Attacks<'a> {
    pub(crate) fn new(rows: &'a Rows) -> Attacks<'a> {
        let shared = Shared::new(rows);
        let ids = rows.numbers("attack_id");
        let mut by_id = HashMap::with_capacity(rows.count);
        for (row, id) in ids.iter().enumerate() {
            let key = (shared.text(&shared.variant, row), shared.text(&shared.dataset, row), id.unwrap_or(0));
            // Nodes with equal outputs have equal rows.
            by_id.entry(key).or_insert(row);
        }
        Attacks { technique: rows.texts("technique"), shared, by_id }
    }

    fn find(&self, key: RowKey<'a>) -> Option<usize> {
        self.by_id.get(&key).copied()
    }

    fn node(&self, row: usize) -> NodeName<'a> {
        (self.shared.text(&self.shared.variant, row), self.shared.text(&self.shared.node, row))
    }
}

pub(crate) struct Verdicts<'a> {
    shared: Shared<'a>,
    id: Vec<Option<u32>>,
    class: Vec<Option<&'a str>>,
    /// The verdicts on a row of responses or labels.
    of: HashMap<RowKey<'a>, Vec<usize>>,
}

impl<'a> Verdicts<'a> {
    pub(crate) fn new(rows: &'a Rows) -> Verdicts<'a> {
        let shared = Shared::new(rows);
        let judged = rows.numbers("response_id");
        let mut of: HashMap<RowKey, Vec<usize>> = HashMap::with_capacity(rows.count);
        for (row, id) in judged.iter().enumerate() {
            let key = (shared.text(&shared.variant, row), shared.text(&shared.source, row), id.unwrap_or(0));
            let own = of.entry(key).or_default();
            // If several stages judged the same rows, the first counts.
            let first = own.first().map(|first| shared.node[*first]);
            if first.is_none_or(|first| first == shared.node[row]) {
                own.push(row);
            }
        }
        Verdicts { id: rows.numbers("verdict_id"), class: rows.texts("class"), shared, of }
    }

    /// The first verdict on a row.
    fn first(&self, key: RowKey<'a>) -> Option<usize> {
        self.of.get(&key).and_then(|rows| rows.first().copied())
    }

    /// The key of its reward.
    fn key(&self, row: usize) -> RowKey<'a> {
        let text = |column: &[Option<&'a str>]| column[row].unwrap_or_default();
        (text(&self.shared.variant), text(&self.shared.dataset), self.id[row].unwrap_or(0))
    }
}

/// The node of each row, and its dataset and sample.
fn samples<'a>(rows: &'a Rows) -> impl Iterator<Item = (&'a str, RowKey<'a>)> {
    let shared = Shared::new(rows);
    let ids = rows.numbers("sample_id");
    (0..rows.count).map(move |row| {
        let text = |column: &[Option<&'a str>]| column[row].unwrap_or_default();
        (text(&shared.node), (text(&shared.variant), text(&shared.source), ids[row].unwrap_or(0)))
    })
}

pub(crate) struct Rewards<'a> {
    pub role: Vec<Option<&'a str>>,
    pub technique: Vec<Option<&'a str>>,
    pub reward: Vec<Option<f64>>,
    pub advantage: Vec<Option<f64>>,
    /// The values of the terms of a row's reward, in the order of the terms.
    pub components: Vec<Vec<(&'a str, Option<f64>)>>,
    /// The score of the term `success`, if the reward has it.
    pub success: Vec<Option<f64>>,
    by_sample: HashMap<RowKey<'a>, usize>,
}

impl<'a> Rewards<'a> {
    pub(crate) fn new(rows: &'a Rows, terms: &'a Rows, notes: &'a Rows) -> Rewards<'a> {
        let mut by_sample = HashMap::with_capacity(rows.count);
        for (row, (node, key)) in samples(rows).enumerate() {
            // If several stages rewarded the same rows, the first counts. In its rewards of episodes that do not say where earlier
            // turns are, these come first and may have the same numbers.
            let (first, last) = by_sample.entry(key).or_insert((node, row));
            if *first == node {
                *last = row;
            }
        }
        let by_sample: HashMap<RowKey, usize> =
            by_sample.into_iter().map(|(key, (_, row))| (key, row)).collect();
        let mut rewards = Rewards {
            role: rows.texts("role"),
            technique: vec![None; rows.count],
            reward: rows.reals("reward"),
            advantage: rows.reals("advantage"),
            components: vec![Vec::new(); rows.count],
            success: vec![None; rows.count],
            by_sample,
        };
        let nodes: Vec<&str> = samples(rows).map(|(node, _)| node).collect();
        let of = |by_sample: &HashMap<RowKey, usize>, node: &str, key: RowKey| {
            by_sample.get(&key).copied().filter(|row| nodes[*row] == node)
        };
        let (names, scores, values) = (terms.texts("name"), terms.reals("score"), terms.reals("value"));
        for (term, (node, key)) in samples(terms).enumerate() {
            let Some(row) = of(&rewards.by_sample, node, key) else { continue };
            let name = names[term].unwrap_or_default();
            match rewards.components[row].iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = values[term],
                None => rewards.components[row].push((name, values[term])),
            }
            if name == SUCCESS {
                rewards.success[row] = scores[term];
            }
        }
        let (names, values) = (notes.texts("name"), notes.texts("value"));
        for (note, (node, key)) in samples(notes).enumerate() {
            if let Some(row) = of(&rewards.by_sample, node, key).filter(|_| names[note] == Some(TECHNIQUE)) {
                rewards.technique[row] = values[note];
            }
        }
        rewards
    }

    /// The reward of a role for a row of a dataset.
    fn find(&self, key: RowKey<'a>, role: &str) -> Option<(&Rewards<'a>, usize)> {
        let row = *self.by_sample.get(&key)?;
        (self.role[row] == Some(role)).then_some((self, row))
    }
}

/// The truth about attacks and responses from the oracle of a world. A judge's opinion does not count.
pub(crate) struct Outcomes<'a> {
    /// By ablation and seed, seed prompt, model, attack and response.
    truths: HashMap<[&'a str; 5], &'a str>,
    /// Whether each row comes from the oracle.
    is_true: Vec<bool>,
}

impl<'a> Outcomes<'a> {
    pub(crate) fn new(rows: &'a Rows, oracles: &HashSet<NodeName>) -> Outcomes<'a> {
        let shared = Shared::new(rows);
        let node = |row: usize| (shared.text(&shared.variant, row), shared.text(&shared.node, row));
        let is_true: Vec<bool> = (0..rows.count).map(|row| oracles.contains(&node(row))).collect();
        let (metrics, subjects, classes) = (rows.texts("metric"), rows.texts("subject"), rows.texts("class"));
        let (prompts, responses) = (rows.texts("prompt"), rows.texts("response"));
        let mut truths = HashMap::new();
        let of_attacks =
            |row: &usize| matches!(metrics[*row], Some("attack_success" | "cross_success")) && is_true[*row];
        for row in (0..rows.count).filter(of_attacks) {
            let key = [shared.variant[row], shared.seed_id[row], subjects[row], prompts[row], responses[row]];
            truths.entry(key.map(Option::unwrap_or_default)).or_insert(classes[row].unwrap_or_default());
        }
        Outcomes { truths, is_true }
    }

    /// The true class of a model's response to an attack.
    fn truth(&self, own: &Row, [defender, attack, response]: [Option<&str>; 3]) -> Option<&'a str> {
        let key = [Some(own.variant), own.seed_id, defender, attack, response];
        self.truths.get(&key.map(Option::unwrap_or_default)).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, StringArray};

    use super::*;

    #[test]
    fn what_a_judge_said_is_no_truth() {
        let columns = [
            ("variant", ["", "", "", ""]),
            ("node", ["after", "measured", "with_world", "with_judge"]),
            ("kind", ["evaluate", "measure", "cross_play", "cross_play"]),
            ("metric", ["attack_success", "attack_success", "cross_success", "cross_success"]),
            ("subject", ["a", "b", "c", "d"]),
            ("seed_id", ["s/1", "s/1", "s/1", "s/1"]),
            ("prompt", ["p", "p", "p", "p"]),
            ("response", ["r", "r", "r", "r"]),
            ("class", ["negative", "positive", "rejective", "negative"]),
        ];
        let column = |(name, texts): (&str, [&str; 4])| {
            (name.to_owned(), vec![Arc::new(StringArray::from(texts.to_vec())) as ArrayRef])
        };
        let rows = Rows { columns: columns.into_iter().map(column).collect(), kept: None, count: 4 };
        let outcomes = Outcomes::new(&rows, &HashSet::from([("", "after"), ("", "with_world")]));
        assert_eq!(outcomes.is_true, [true, false, true, false]);
        let of = |subject| outcomes.truths.get(&["", "s/1", subject, "p", "r"]).copied();
        assert_eq!([of("a"), of("b"), of("c"), of("d")], [Some("negative"), None, Some("rejective"), None]);
    }
}
