//! Samples: attacks and responses with the evaluator's verdicts, the truth, and the rewards, joined from the tables of a run. The
//! success of attacks by category and technique is computed from the same rows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type};
use arrow_array::{Array, ArrayRef};

use super::made_of::Provenance;
use super::model::{Matrix, Samples};
use super::source::Source;
use data::{self, AttackRow};
use engine::{NodeReport, Part, Purpose};
use runs::{Tables, recorded_at, redacted};

/// The reward's term for an attack's success, and the note with its technique.
const SUCCESS: &str = "success";
const TECHNIQUE: &str = "technique";

/// Metrics of evaluations whose prompts are not rows of a dataset, with the task of these prompts.
const ASKED: [(&str, &str); 3] =
    [("benchmark_success", "hazard"), ("benign_accuracy", "benign"), ("arithmetic_accuracy", "arithmetic")];

/// The samples under construction.
pub(crate) struct SampleBuilder {
    samples: Samples,
    places: HashMap<String, i32>,
    /// The value of each term of a reward, by name; as long as the samples once they are finished.
    components: Vec<(String, Vec<Option<f32>>)>,
    /// The number of attacks so far.
    attacks: u32,
    redact: bool,
    /// Whether titles name the run.
    several: bool,
    matrices: Vec<Matrix>,
}

/// A row's texts and numbers; unset ones are none.
#[derive(Default)]
struct Row<'a> {
    /// The same for all rows of one attack: ablation and seed, the dataset, and the attack's number in it.
    key: RowKey<'a>,
    variant: &'a str,
    node: &'a str,
    scope: &'a str,
    at: (u32, u32),
    seed_id: Option<&'a str>,
    category: Option<&'a str>,
    task: Option<&'a str>,
    split: Option<&'a str>,
    technique: Option<&'a str>,
    seed: Option<&'a str>,
    conversation: Option<&'a str>,
    attack: Option<&'a str>,
    defender: Option<&'a str>,
    response: Option<&'a str>,
    verdict: Option<&'a str>,
    truth: Option<&'a str>,
    label: Option<&'a str>,
    reward: Option<(&'a Rewards<'a>, usize)>,
    attacker_checkpoint: Option<&'a str>,
    defender_checkpoint: Option<&'a str>,
}

impl SampleBuilder {
    /// With `redact`, texts of prompts and models are replaced by their lengths. `several` is set for more than one run.
    pub(crate) fn new(redact: bool, several: bool) -> SampleBuilder {
        let (samples, places, components, matrices) = Default::default();
        SampleBuilder { samples, places, components, attacks: 0, redact, several, matrices }
    }

    /// Adds the rows of a run.
    pub(crate) fn add(&mut self, source: &Source, tables: &Tables) -> anyhow::Result<()> {
        let open = |name: &str| Rows::open(&tables.path(name), source);
        let [attacks, responses, verdicts, labels, outcomes] =
            ["attacks", "responses", "verdicts", "labels", "outcomes"].map(open);
        let [rewards, components, notes] = ["rewards", "components", "notes"].map(open);
        let (attacks, responses, verdicts) = (attacks?, responses?, verdicts?);
        let (labels, outcomes) = (labels?, outcomes?);
        let (rewards, components, notes) = (rewards?, components?, notes?);
        let makers = Provenance::new(source);
        let wrote = attackers(source, &makers);
        let answered = defenders(source, &makers);
        let techniques = techniques(source, &makers)?;
        let known = Joined {
            run: source.title(),
            attacks: Attacks::new(&attacks),
            verdicts: Verdicts::new(&verdicts),
            rewards: Rewards::new(&rewards, &components, &notes),
            outcomes: Outcomes::new(&outcomes, &oracles(source, &makers)),
            wrote: &wrote,
            answered: &answered,
            techniques: &techniques,
        };
        let mut rows: Vec<Row> = Vec::with_capacity(responses.count + outcomes.count);
        from_responses(&known, &responses, &mut rows);
        from_labels(&known, &labels, &mut rows);
        from_evaluations(&known, &outcomes, &mut rows);
        // In the order of the pipeline, so that new rows of a run under way come last.
        let order: HashMap<NodeName, u32> =
            source.run.nodes.iter().map(|node| (name(node), node.index)).collect();
        rows.sort_by_key(|row| order.get(&(row.variant, row.node)));
        let mut numbers: HashMap<RowKey, u32> = HashMap::new();
        for row in rows {
            let number = *numbers.entry(row.key).or_insert_with(|| {
                self.attacks += 1;
                self.attacks - 1
            });
            self.push(&known.run, number, row);
        }
        let of = if self.several { format!(" ({})", known.run) } else { String::new() };
        self.matrices.extend(by_reward(&known.rewards, &rewards, &of));
        self.matrices.extend(by_benchmark(&known, &outcomes, &of));
        Ok(())
    }

    /// The samples, and the matrices by category and technique.
    pub(crate) fn finish(mut self) -> (Samples, Vec<Matrix>) {
        let samples = self.samples.reward.len();
        self.components.iter_mut().for_each(|(_, column)| column.resize(samples, None));
        self.samples.components = self.components;
        (self.samples, self.matrices)
    }

    fn push(&mut self, run: &str, attack_number: u32, row: Row) {
        let verdict = row.verdict.filter(|class| !class.is_empty());
        let texts = [row.seed, row.conversation, row.attack, row.response].map(|text| self.prose(text));
        let learner = row.reward.and_then(|(rewards, at)| rewards.role[at]);
        let [
            run,
            variant,
            scope,
            seed_id,
            category,
            task,
            split,
            technique,
            defender,
            verdict,
            truth,
            label,
            learner,
        ] = [
            Some(run),
            Some(row.variant),
            Some(row.scope),
            row.seed_id,
            row.category,
            row.task,
            row.split,
            row.technique,
            row.defender,
            verdict,
            row.truth,
            row.label,
            learner,
        ]
        .map(|text| self.place(text));
        let checkpoints = [row.attacker_checkpoint, row.defender_checkpoint].map(|text| self.place(text));
        let samples = &mut self.samples;
        samples.attack_number.push(attack_number);
        samples.run.push(run);
        samples.variant.push(variant);
        samples.scope.push(scope);
        samples.iteration.push(row.at.0);
        samples.step.push(row.at.1);
        samples.seed_id.push(seed_id);
        samples.category.push(category);
        samples.task.push(task);
        samples.split.push(split);
        samples.technique.push(technique);
        samples.defender.push(defender);
        samples.verdict.push(verdict);
        samples.truth.push(truth);
        samples.label.push(label);
        samples.learner.push(learner);
        [&mut samples.seed, &mut samples.conversation, &mut samples.attack, &mut samples.response]
            .into_iter()
            .zip(texts)
            .for_each(|(column, text)| column.push(text));
        [&mut samples.attacker_checkpoint, &mut samples.defender_checkpoint]
            .into_iter()
            .zip(checkpoints)
            .for_each(|(column, checkpoint)| column.push(checkpoint));
        let number = |column: &dyn Fn(&Rewards, usize) -> Option<f64>| {
            row.reward.and_then(|(rewards, at)| column(rewards, at)).map(short)
        };
        samples.reward.push(number(&|rewards, at| rewards.reward[at]));
        samples.advantage.push(number(&|rewards, at| rewards.advantage[at]));
        let sample = samples.reward.len();
        for (name, share) in row.reward.map(|(rewards, at)| &rewards.components[at][..]).unwrap_or_default() {
            let known = self.components.iter().position(|(known, _)| known == name);
            let place = known.unwrap_or_else(|| {
                self.components.push(((*name).to_owned(), Vec::new()));
                self.components.len() - 1
            });
            let column = &mut self.components[place].1;
            column.resize(sample, None);
            column[sample - 1] = share.map(short);
        }
    }

    /// Adds a text of a prompt or a model.
    fn prose(&mut self, text: Option<&str>) -> i32 {
        match text {
            Some(text) if self.redact => {
                let redacted = redacted(text);
                self.place(Some(&redacted))
            }
            text => self.place(text),
        }
    }

    /// A text's index among all strings.
    fn place(&mut self, text: Option<&str>) -> i32 {
        let Some(text) = text else { return -1 };
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = self.samples.strings.len() as i32;
        self.samples.strings.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }
}

/// A row for each response, of training and of evaluations.
fn from_responses<'a>(known: &'a Joined, rows: &'a Rows, found: &mut Vec<Row<'a>>) {
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
fn from_labels<'a>(known: &'a Joined, rows: &'a Rows, found: &mut Vec<Row<'a>>) {
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
fn from_evaluations<'a>(known: &'a Joined, rows: &'a Rows, found: &mut Vec<Row<'a>>) {
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

/// Four decimals are enough for display, and keep the file small.
fn short(value: f64) -> f32 {
    ((value * 1e4).round() / 1e4) as f32
}

/// Ablation and seed, and the rest of a node's name, as in tables.
type NodeName<'a> = (&'a str, &'a str);

/// Ablation and seed, the first digits of a dataset's digest, and a number in it.
type RowKey<'a> = (&'a str, &'a str, u32);

/// The data that rows are joined with.
struct Joined<'a> {
    run: String,
    attacks: Attacks<'a>,
    verdicts: Verdicts<'a>,
    rewards: Rewards<'a>,
    outcomes: Outcomes<'a>,
    /// The checkpoint that wrote the attacks of a node.
    wrote: &'a HashMap<NodeName<'a>, String>,
    /// The checkpoints that responded in a node, by their names in it.
    answered: &'a HashMap<NodeName<'a>, HashMap<String, String>>,
    /// For the attacks of benchmarks.
    techniques: &'a HashMap<String, String>,
}

impl<'a> Joined<'a> {
    /// The checkpoint that has this name in a node.
    fn defender(&self, node: NodeName<'a>, name: Option<&str>) -> Option<&'a str> {
        self.answered.get(&node)?.get(name?).map(String::as_str)
    }
}

/// The columns that all tables have, and those of an origin and a position.
struct Shared<'a> {
    variant: Vec<Option<&'a str>>,
    node: Vec<Option<&'a str>>,
    scope: Vec<Option<&'a str>>,
    dataset: Vec<Option<&'a str>>,
    source: Vec<Option<&'a str>>,
    seed_id: Vec<Option<&'a str>>,
    category: Vec<Option<&'a str>>,
    task: Vec<Option<&'a str>>,
    split: Vec<Option<&'a str>>,
    seed: Vec<Option<&'a str>>,
    conversation: Vec<Option<&'a str>>,
    iteration: Vec<Option<u32>>,
    step: Vec<Option<u32>>,
}

impl<'a> Shared<'a> {
    fn new(rows: &'a Rows) -> Shared<'a> {
        Shared {
            variant: rows.texts("variant"),
            node: rows.texts("node"),
            scope: rows.texts("scope"),
            dataset: rows.texts("dataset"),
            source: rows.texts("source"),
            seed_id: rows.texts("seed_id"),
            category: rows.texts("category"),
            task: rows.texts("task"),
            split: rows.texts("split"),
            seed: rows.texts("seed"),
            conversation: rows.texts("conversation"),
            iteration: rows.numbers("iteration"),
            step: rows.numbers("step"),
        }
    }

    fn text(&self, column: &[Option<&'a str>], row: usize) -> &'a str {
        column[row].unwrap_or_default()
    }

    fn row(&self, row: usize) -> Row<'a> {
        Row {
            variant: self.text(&self.variant, row),
            node: self.text(&self.node, row),
            scope: self.text(&self.scope, row),
            at: (self.iteration[row].unwrap_or(0), self.step[row].unwrap_or(0)),
            seed_id: self.seed_id[row],
            category: self.category[row],
            task: self.task[row],
            split: self.split[row],
            seed: self.seed[row],
            conversation: self.conversation[row],
            ..Row::default()
        }
    }
}

struct Attacks<'a> {
    shared: Shared<'a>,
    technique: Vec<Option<&'a str>>,
    by_id: HashMap<RowKey<'a>, usize>,
}

impl<'a> Attacks<'a> {
    fn new(rows: &'a Rows) -> Attacks<'a> {
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

struct Verdicts<'a> {
    shared: Shared<'a>,
    id: Vec<Option<u32>>,
    class: Vec<Option<&'a str>>,
    /// The verdicts on a row of responses or labels.
    of: HashMap<RowKey<'a>, Vec<usize>>,
}

impl<'a> Verdicts<'a> {
    fn new(rows: &'a Rows) -> Verdicts<'a> {
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

struct Rewards<'a> {
    role: Vec<Option<&'a str>>,
    technique: Vec<Option<&'a str>>,
    reward: Vec<Option<f64>>,
    advantage: Vec<Option<f64>>,
    /// The values of the terms of a row's reward, in the order of the terms.
    components: Vec<Vec<(&'a str, Option<f64>)>>,
    /// The score of the term `success`, if the reward has it.
    success: Vec<Option<f64>>,
    by_sample: HashMap<RowKey<'a>, usize>,
}

impl<'a> Rewards<'a> {
    fn new(rows: &'a Rows, terms: &'a Rows, notes: &'a Rows) -> Rewards<'a> {
        let mut by_sample = HashMap::with_capacity(rows.count);
        for (row, (_, key)) in samples(rows).enumerate() {
            // If several stages rewarded the same rows, the first counts.
            by_sample.entry(key).or_insert(row);
        }
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
struct Outcomes<'a> {
    /// By ablation and seed, seed prompt, model, attack and response.
    truths: HashMap<[&'a str; 5], &'a str>,
    /// Whether each row comes from the oracle.
    is_true: Vec<bool>,
}

impl<'a> Outcomes<'a> {
    fn new(rows: &'a Rows, oracles: &HashSet<NodeName>) -> Outcomes<'a> {
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

/// The rows of a table that belong to the selected ablation or seed.
struct Rows {
    columns: HashMap<String, Vec<ArrayRef>>,
    /// The selected rows of the file, unless all are.
    kept: Option<Vec<bool>>,
    count: usize,
}

impl Rows {
    fn open(path: &Path, source: &Source) -> anyhow::Result<Rows> {
        let table = data::open(path)?;
        let count = table.rows();
        let mut columns: HashMap<String, Vec<ArrayRef>> = HashMap::new();
        for batch in &table.batches {
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                columns.entry(field.name().clone()).or_default().push(column.clone());
            }
        }
        let mut rows = Rows { columns, kept: None, count };
        if source.only.is_some() {
            let is_own = |name: Option<&str>| source.has(&format!("{}/", name.unwrap_or_default()));
            let kept: Vec<bool> = rows.texts("variant").into_iter().map(is_own).collect();
            rows.count = kept.iter().filter(|kept| **kept).count();
            rows.kept = Some(kept);
        }
        Ok(rows)
    }

    /// The values of a column; nulls if there is no such column, or one of another type.
    fn values<'a, T: Clone>(
        &'a self,
        name: &str,
        read: impl Fn(&'a ArrayRef) -> Option<Vec<Option<T>>>,
    ) -> Vec<Option<T>> {
        let mut values = Vec::with_capacity(self.count);
        for array in self.columns.get(name).into_iter().flatten() {
            values.extend(read(array).unwrap_or_else(|| vec![None; array.len()]));
        }
        if let Some(kept) = &self.kept {
            let mut kept = kept.iter();
            values.retain(|_| kept.next().copied().unwrap_or(false));
        }
        values.resize(self.count, None);
        values
    }

    fn texts(&self, name: &str) -> Vec<Option<&str>> {
        self.values(name, |array| Some(array.as_string_opt::<i32>()?.iter().collect()))
    }

    fn numbers(&self, name: &str) -> Vec<Option<u32>> {
        self.values(name, |array| Some(array.as_primitive_opt::<UInt32Type>()?.iter().collect()))
    }

    fn reals(&self, name: &str) -> Vec<Option<f64>> {
        self.values(name, |array| Some(array.as_primitive_opt::<Float64Type>()?.iter().collect()))
    }
}

/// A node's name as in tables.
fn name(node: &NodeReport) -> NodeName<'_> {
    let name = runs::variant(&node.node).2;
    (node.node.strip_suffix(name).unwrap_or_default().trim_end_matches('/'), name)
}

fn makes(node: &NodeReport, artifact: &str) -> bool {
    node.outputs.iter().any(|output| output.artifact == artifact)
}

fn attackers<'a>(source: &'a Source, makers: &Provenance) -> HashMap<NodeName<'a>, String> {
    let is_written =
        |node: &&NodeReport| makes(node, "attacks") && source.run.record.purpose(&node.kind) != Purpose::Data;
    let nodes = source.run.nodes.iter().filter(is_written);
    nodes.filter_map(|node| Some((name(node), makers.attacker(node)?))).collect()
}

fn defenders<'a>(source: &'a Source, makers: &Provenance) -> HashMap<NodeName<'a>, HashMap<String, String>> {
    let nodes = source.run.nodes.iter().filter(|node| makes(node, "responses"));
    nodes.map(|node| (name(node), makers.defenders(node))).collect()
}

/// The nodes that measure by a world's oracle; the others use a judge.
fn oracles<'a>(source: &'a Source, makers: &Provenance) -> HashSet<NodeName<'a>> {
    let record = &source.run.record;
    // A kind that always asks a world needs no further check.
    let always = |node: &NodeReport| {
        record.purpose(&node.kind) == Purpose::Evaluation
            && record.part(&node.kind, "world") == Some(Part::Judge)
    };
    let asks =
        |node: &&NodeReport| always(node) || makers.inputs(node).iter().any(|(path, _)| path == "world");
    source.run.nodes.iter().filter(|node| makes(node, "outcomes")).filter(asks).map(name).collect()
}

/// The techniques of the attacks of benchmarks, by their texts.
fn techniques(source: &Source, makers: &Provenance) -> anyhow::Result<HashMap<String, String>> {
    let mut found = HashMap::new();
    let mut seen: Vec<String> = Vec::new();
    for node in source.run.nodes.iter().filter(|node| makes(node, "outcomes")) {
        for (path, digest) in makers.inputs(node) {
            if path != "benchmark" || seen.contains(&digest) {
                continue;
            }
            let place = store::Digest::from_hex(digest.as_bytes());
            let place = place.zip(source.store.as_ref());
            let place =
                place.map(|(digest, store)| recorded_at(store.blob_path(&digest), &digest)).transpose()?;
            for attack in
                place.flatten().map(|path| data::read::<AttackRow>(&path)).transpose()?.unwrap_or_default()
            {
                found.extend(attack.technique.map(|technique| (attack.text, technique)));
            }
            seen.push(digest);
        }
    }
    Ok(found)
}

/// Sums of values by two names, in alphabetical order.
#[derive(Default)]
struct Cells<'a>(BTreeMap<(&'a str, &'a str), Cell>);

/// The sum of known values, and the numbers of known and unknown ones.
#[derive(Clone, Copy, Default)]
struct Cell {
    sum: f64,
    count: u64,
    undetermined: u64,
}

impl<'a> Cells<'a> {
    fn add(&mut self, row: &'a str, column: &'a str, value: Option<f64>) {
        let cell = self.0.entry((row, column)).or_default();
        match value {
            Some(value) => (cell.sum, cell.count) = (cell.sum + value, cell.count + 1),
            None => cell.undetermined += 1,
        }
    }

    /// A coverage map of the means; `None` without values.
    fn matrix(&self, title: String) -> Option<Matrix> {
        let rows: BTreeSet<&str> = self.0.keys().map(|(row, _)| *row).collect();
        let columns: BTreeSet<&str> = self.0.keys().map(|(_, column)| *column).collect();
        fn each<T>(
            Cells(cells): &Cells,
            [rows, columns]: [&BTreeSet<&str>; 2],
            of: impl Fn(Cell) -> T,
        ) -> Vec<Vec<T>> {
            let cell = |row: &str, column: &str| of(cells.get(&(row, column)).copied().unwrap_or_default());
            rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect()
        }
        let names = [&rows, &columns];
        (!rows.is_empty()).then(|| Matrix {
            section: "coverage".into(),
            title,
            rows_label: "category".into(),
            columns_label: "technique (the first of several)".into(),
            rows: rows.iter().map(|row| (*row).to_owned()).collect(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            unit: "share".into(),
            values: each(self, names, |cell| (cell.count > 0).then(|| cell.sum / cell.count as f64)),
            counts: each(self, names, |cell| cell.count),
            undetermined: each(self, names, |cell| cell.undetermined),
            ..Matrix::default()
        })
    }
}

/// The success of training attacks by category and the technique that the coverage reward found.
fn by_reward(rewards: &Rewards, rows: &Rows, of: &str) -> Option<Matrix> {
    let mut cells = Cells::default();
    for (row, category) in rows.texts("category").into_iter().enumerate() {
        if let (Some(category), Some(technique)) = (category, rewards.technique[row]) {
            cells.add(category, technique, rewards.success[row]);
        }
    }
    cells.matrix(format!("Success of attacks in training, by category and technique{of}"))
}

/// The success of benchmark attacks at the last evaluation of each ablation and seed.
fn by_benchmark(known: &Joined, rows: &Rows, of: &str) -> Option<Matrix> {
    let shared = Shared::new(rows);
    let (metrics, prompts, values) = (rows.texts("metric"), rows.texts("prompt"), rows.reals("value"));
    let own = |row: &usize| metrics[*row] == Some("benchmark_success");
    let mut last: HashMap<&str, &str> = HashMap::new();
    for row in (0..rows.count).filter(own) {
        last.insert(shared.text(&shared.variant, row), shared.text(&shared.node, row));
    }
    let mut cells = Cells::default();
    for row in (0..rows.count).filter(own) {
        let node = shared.text(&shared.node, row);
        if last.get(shared.text(&shared.variant, row)) == Some(&node)
            && let Some(technique) = prompts[row].and_then(|prompt| known.techniques.get(prompt))
            && let Some(category) = shared.category[row]
        {
            // The first part of `authority+dare/owl`: a column for each combination would be too much.
            cells.add(category, technique.split(['+', '/']).next().unwrap_or(technique), values[row]);
        }
    }
    cells.matrix(format!(
        "Success of benchmark attacks after the last evaluation, by category and technique{of}"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::StringArray;

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

    #[test]
    fn what_is_redacted_says_how_long_it_was_and_nothing_else() {
        let mut gathering = SampleBuilder::new(true, false);
        let row = || Row {
            seed: Some("brew glowvenom"),
            attack: Some("how do i brew glowvenom ?"),
            response: Some(""),
            category: Some("potions"),
            ..Row::default()
        };
        gathering.push("r", 0, row());
        let (samples, _) = gathering.finish();
        assert!(!samples.strings.iter().any(|text| text.contains("glowvenom")), "{:?}", samples.strings);
        assert_eq!(samples.strings[samples.seed[0] as usize], "[redacted: 14 characters]");
        assert_eq!(samples.strings[samples.attack[0] as usize], "[redacted: 25 characters]");
        assert_eq!(samples.strings[samples.response[0] as usize], "");
        assert_eq!(samples.strings[samples.category[0] as usize], "potions");
        assert_eq!(samples.technique, [-1]);

        let mut gathering = SampleBuilder::new(false, false);
        gathering.push("r", 0, row());
        gathering.push("r", 0, row());
        let (samples, _) = gathering.finish();
        assert_eq!(samples.attack[0], samples.attack[1], "a text stands there once");
        assert_eq!(samples.strings[samples.attack[0] as usize], "how do i brew glowvenom ?");
        assert!(samples.components.is_empty());
    }
}
