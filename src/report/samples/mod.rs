//! Samples: attacks and responses with the evaluator's verdicts, the truth, and the rewards. [`rows`] reads the tables of a run,
//! [`join`] joins their rows, [`nodes`] finds who made them, and [`coverage`] computes the success of attacks by category and
//! technique from the same rows.

mod coverage;
mod join;
mod nodes;
mod rows;

use std::collections::HashMap;

use self::coverage::{by_benchmark, by_reward};
use self::join::{
    Attacks, Joined, Outcomes, Rewards, Verdicts, from_evaluations, from_labels, from_responses,
};
use self::nodes::{attackers, defenders, name, oracles, techniques};
use self::rows::Rows;
use super::made_of::Provenance;
use super::model::{Matrix, Samples};
use super::source::Source;
use runs::{Tables, redacted};

/// Ablation and seed, and the rest of a node's name, as in tables.
type NodeName<'a> = (&'a str, &'a str);

/// Ablation and seed, the first digits of a dataset's digest, and a number in it.
type RowKey<'a> = (&'a str, &'a str, u32);

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

/// Four decimals are enough for display, and keep the file small.
fn short(value: f64) -> f32 {
    ((value * 1e4).round() / 1e4) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

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
