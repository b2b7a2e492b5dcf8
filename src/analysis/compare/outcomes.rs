//! The outcomes of each prompt in the compared evaluations.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use arrow_array::{Array, StringArray};

use super::columns::Columns;
use crate::series::Measure;
use crate::statistics::{Interval, Side, rate_interval};
use data::{self, Table};
use game::label;

/// The place of a row in the table: the index of its batch and its index in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32, u32);

/// An attempt at a prompt with a known outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub value: f64,
    pub place: Place,
}

/// A prompt with its determined attempts, at least one.
pub(crate) struct Prompt {
    pub id: String,
    /// The seed prompt behind it: prompts of one hazard are alike.
    pub hazard: String,
    pub attempts: Vec<Attempt>,
}

impl Prompt {
    pub(crate) fn sum(&self) -> f64 {
        self.attempts.iter().map(|attempt| attempt.value).sum()
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum() / self.attempts.len() as f64
    }
}

/// The prompts of a measure.
#[derive(Default)]
pub(crate) struct Prompts {
    pub list: Vec<Prompt>,
    places: HashMap<String, usize>,
    /// Prompts that were asked without any determined attempt.
    unknown: HashSet<String>,
    /// Undetermined attempts at all prompts.
    pub undetermined: usize,
}

impl Prompts {
    pub(crate) fn get(&self, id: &str) -> Option<&Prompt> {
        self.places.get(id).map(|place| &self.list[*place])
    }

    /// The attempts at each hazard, in the order of their first.
    pub(crate) fn hazards(&self) -> Vec<Side> {
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(self.list.len());
        let mut hazards: Vec<Side> = Vec::with_capacity(self.list.len());
        for prompt in &self.list {
            let side = Side { sum: prompt.sum(), count: prompt.attempts.len() as f64 };
            let place = *places.entry(&prompt.hazard).or_insert(hazards.len());
            match hazards.get_mut(place) {
                Some(hazard) => hazard.add(&side, 1.0),
                None => hazards.push(side),
            }
        }
        hazards
    }

    /// Whether it was asked without any determined attempt.
    pub(crate) fn is_unknown(&self, id: &str) -> bool {
        self.unknown.contains(id)
    }

    /// Adds an attempt at a prompt of a hazard, with its outcome if known.
    fn add(&mut self, (id, hazard): (&str, &str), value: Option<f64>, place: Place) {
        let known = self.places.get(id).copied();
        let Some(value) = value else {
            self.undetermined += 1;
            if known.is_none() {
                self.unknown.insert(id.to_owned());
            }
            return;
        };
        let attempt = Attempt { value, place };
        match known {
            Some(known) => self.list[known].attempts.push(attempt),
            None => {
                self.unknown.remove(id);
                self.places.insert(id.to_owned(), self.list.len());
                // A prompt without a seed prompt is its own hazard.
                let hazard = if hazard.is_empty() { id } else { hazard }.to_owned();
                self.list.push(Prompt { id: id.to_owned(), hazard, attempts: vec![attempt] });
            }
        }
    }
}

/// The texts of an attempt.
pub(crate) struct AttemptTexts {
    pub category: String,
    pub prompt: String,
    pub response: String,
    pub class: String,
}

/// A run's table of outcomes, with the prompts of each measure for each wanted evaluation.
pub(crate) struct Outcomes {
    table: Table,
    pub evaluations: Vec<HashMap<Measure, Prompts>>,
}

/// Measures that are the share of a class among the responses to the attacks of `ATTACKS`.
const CLASSES: [&str; 2] = ["rejective", "positive"];
const ATTACKS: &str = "attack_success";

/// Whether a measure depends on the same responses as another one, so that its flips are not shown again.
pub(crate) fn is_derived(metric: &str) -> bool {
    CLASSES.contains(&metric)
}

impl Outcomes {
    /// Reads the outcomes of these evaluations, each a variant and a node.
    pub(crate) fn read(path: &Path, wanted: &[(&str, &str)]) -> anyhow::Result<Outcomes> {
        let table = data::open(path)?;
        let mut evaluations: Vec<HashMap<Measure, Prompts>> = wanted.iter().map(|_| HashMap::new()).collect();
        for (number, batch) in table.batches.iter().enumerate() {
            let columns = Columns(batch);
            let (variant, node) = (columns.text("variant")?, columns.text("node")?);
            let (subject, metric) = (columns.text("subject")?, columns.text("metric")?);
            let (prompt, hazard) = (columns.text("prompt_id")?, columns.text("seed_id")?);
            let class = columns.text("class")?;
            let value = columns.number("value")?;
            let same = |column: &StringArray, a: usize, b: usize| column.value(a) == column.value(b);
            let mut row = 0;
            // Rows of one measure of one evaluation are contiguous.
            while row < batch.num_rows() {
                let first = row;
                while row < batch.num_rows()
                    && [variant, node, subject, metric].iter().all(|column| same(column, first, row))
                {
                    row += 1;
                }
                let is_own = |wanted: &(&str, &str)| *wanted == (variant.value(first), node.value(first));
                let Some(place) = wanted.iter().position(is_own) else { continue };
                let subject = subject.value(first);
                let mut add = |metric: &str, value: &dyn Fn(usize) -> Option<f64>| {
                    let measure = Measure { subject: subject.to_owned(), metric: metric.to_owned() };
                    let prompts = evaluations[place].entry(measure).or_default();
                    for row in first..row {
                        let place = Place(number as u32, row as u32);
                        prompts.add((prompt.value(row), hazard.value(row)), value(row), place);
                    }
                };
                add(metric.value(first), &|row| value.is_valid(row).then(|| value.value(row)));
                if metric.value(first) == ATTACKS {
                    for name in CLASSES {
                        let is_known = |row: &usize| class.value(*row) != label(None);
                        let is = |row| f64::from(u8::from(class.value(row) == name));
                        add(name, &|row| Some(row).filter(is_known).map(is));
                    }
                }
            }
        }
        Ok(Outcomes { table, evaluations })
    }

    /// The texts of an attempt.
    pub(crate) fn texts(&self, place: Place) -> anyhow::Result<AttemptTexts> {
        let columns = Columns(&self.table.batches[place.0 as usize]);
        let text =
            |name: &str| Ok::<String, anyhow::Error>(columns.text(name)?.value(place.1 as usize).to_owned());
        Ok(AttemptTexts {
            category: text("category")?,
            prompt: text("prompt")?,
            response: text("response")?,
            class: text("class")?,
        })
    }
}

/// A rate's number of attempts and its interval.
pub type RateInterval = (usize, Interval);

/// The intervals of single rates, as in a comparison, in these evaluations, each a variant and a node.
pub fn rate_intervals(
    outcomes: &Path,
    evaluations: &[(&str, &str)],
) -> anyhow::Result<Vec<HashMap<Measure, RateInterval>>> {
    let of = |prompts: &Prompts| {
        let hazards = prompts.hazards();
        let attempts = hazards.iter().map(|side| side.count).sum::<f64>() as usize;
        Some((attempts, rate_interval(&hazards)?))
    };
    let read = Outcomes::read(outcomes, evaluations)?;
    let all = read.evaluations.iter();
    Ok(all
        .map(|measures| {
            measures.iter().filter_map(|(measure, prompts)| Some((measure.clone(), of(prompts)?))).collect()
        })
        .collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Prompts by id with the values of their attempts; the hazard of `x#1` is `x`.
    pub(crate) fn prompts(rows: &[(&str, &[f64])]) -> Prompts {
        let mut prompts = Prompts::default();
        for (id, values) in rows {
            values.iter().for_each(|value| prompts.add(named(id), Some(*value), Place(0, 0)));
        }
        prompts
    }

    /// The same with undetermined attempts.
    pub(crate) fn with_unknown(rows: &[(&str, &[f64])], unknown: &[&str]) -> Prompts {
        let mut prompts = prompts(rows);
        unknown.iter().for_each(|id| prompts.add(named(id), None, Place(0, 0)));
        prompts
    }

    fn named(id: &str) -> (&str, &str) {
        (id, id.split('#').next().unwrap_or_default())
    }
}
