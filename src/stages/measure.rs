//! `measure`: the rates of `evaluate` from datasets, where no oracle knows the truth: a judge's verdicts stand for it.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Attacks, Labels, Meanings, Model, Verdicts};
use super::trial;
use crate::data::{self, AttackRow, LabelRow, MeaningRow, VerdictRow};
use crate::engine::{Context, Input, Kind, Output, Stage};
use crate::game::{Class, KEPT, Outcome, Rates, Verdict};

/// Measures what `evaluate` does from datasets, where no oracle knows the truth: a judge's verdicts stand for it. Names of
/// metrics are the same.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// What this evaluation is called in tables, such as the phase that it follows.
    phase: String,
    /// A judge's verdicts on responses to attacks, of one defense model or several: success, refusals.
    #[serde(default)]
    verdicts: Option<Input<Verdicts>>,
    /// The attacks that were judged: adds their diversity, entropy and techniques.
    #[serde(default)]
    attacks: Option<Input<Attacks>>,
    /// Tells how varied the attacks are by their embeddings: a sentence encoder, or any model.
    #[serde(default)]
    embedder: Option<Input<Model>>,
    /// A judge's word on which of the attacks keep their seed's meaning; the others are failures. By default all keep it.
    #[serde(default)]
    meanings: Option<Input<Meanings>>,
    /// A judge's verdicts on responses to benign prompts: over-refusal.
    #[serde(default)]
    benign: Option<Input<Verdicts>>,
    /// The evaluator's verdicts on the same responses as `verdicts`: its accuracy by the judge, and what it would call
    /// success.
    #[serde(default)]
    evaluator: Option<Input<Verdicts>>,
    /// The evaluator's verdicts on labelled pairs, by the name of the set, such as `heldout` or `experts`.
    #[serde(default)]
    labelled: BTreeMap<String, Labelled>,
}

/// A set of labelled pairs and verdicts on them.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Labelled {
    /// The labels.
    labels: Input<Labels>,
    /// The verdicts, of `judge` with `data` the labels.
    verdicts: Input<Verdicts>,
}

impl Stage for Measure {
    const KIND: Kind =
        Kind { name: "measure", version: 1, outputs: &[Output::new("metrics", "metrics")], numerics: true };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut rates = Rates::default();
        let attacks = match &self.attacks {
            Some(input) => artifact::rows::<AttackRow, _>(context, input)?.to_vec(),
            None => Vec::new(),
        };
        let kept = self.kept(context)?;
        if !kept.is_empty() {
            rates.share("attacker", "meaning_kept", kept.values().copied());
        }
        if !attacks.is_empty() {
            let texts: Vec<&str> = attacks.iter().map(|attack| attack.text.as_str()).collect();
            rates.diversity("attacks", &texts);
            if self.embedder.is_some() {
                let embeddings = artifact::embed(context, self.embedder.as_ref(), &texts)?;
                let embeddings: Vec<&[f32]> = embeddings.iter().map(Vec::as_slice).collect();
                rates.embeddings("attacks", &embeddings);
            }
            let (entropy, tokens) = trial::entropy(&attacks);
            rates.add("attacker", "entropy", entropy, tokens);
        }
        if let Some(verdicts) = &self.verdicts {
            let verdicts = artifact::rows::<VerdictRow, _>(context, verdicts)?;
            self.attacked(context, &mut rates, &verdicts, &attacks, &kept)?;
        }
        if let Some(benign) = &self.benign {
            let verdicts = artifact::rows::<VerdictRow, _>(context, benign)?;
            answered(&mut rates, &verdicts);
        }
        for (set, labelled) in &self.labelled {
            let labels = artifact::rows::<LabelRow, _>(context, &labelled.labels)?;
            let verdicts = artifact::rows::<VerdictRow, _>(context, &labelled.verdicts)?;
            let truth: HashMap<u32, &str> =
                labels.iter().map(|label| (label.response_id, label.class.as_str())).collect();
            let pairs = verdicts.iter().map(|row| (truth.get(&row.response_id).copied(), row.class.as_str()));
            compare(&mut rates, set, pairs);
        }
        let metrics = trial::metric_rows(rates, &self.phase, &artifact::position(context));
        Ok(data::write(&context.output("metrics"), &metrics)?)
    }
}

impl Measure {
    /// Whether each attack keeps its meaning, where a judge was asked.
    fn kept(&self, context: &Context) -> anyhow::Result<HashMap<u32, bool>> {
        let Some(meanings) = &self.meanings else { return Ok(HashMap::new()) };
        let rows = artifact::rows::<MeaningRow, _>(context, meanings)?;
        Ok(rows.iter().map(|row| (row.attack_id, row.class == KEPT)).collect())
    }

    /// Attacks by the judge's verdicts, and beside it the evaluator's.
    fn attacked(
        &self,
        context: &Context,
        rates: &mut Rates,
        verdicts: &[VerdictRow],
        attacks: &[AttackRow],
        kept: &HashMap<u32, bool>,
    ) -> anyhow::Result<()> {
        let by_id: HashMap<u32, &AttackRow> =
            attacks.iter().map(|attack| (attack.attack_id, attack)).collect();
        let judged: Vec<Outcome> = verdicts.iter().map(|row| outcome(row, &by_id, kept)).collect();
        rates.success("attack_success", &judged);
        rates.success_by_cell("attack_success", &judged);
        rates.manners(&judged);
        // On one defense model, so that no attack counts twice.
        let first = verdicts.first().map_or("", |row| row.defender.as_str());
        let succeeded = verdicts.iter().zip(&judged).filter(|(_, outcome)| outcome.succeeded());
        let on_first = succeeded.filter(|(row, _)| row.defender == first);
        let successful: Vec<&str> = on_first.map(|(row, _)| row.attack.as_str()).collect();
        rates.diversity("successful_attacks", &successful);
        if let Some(input) = &self.evaluator {
            let own = artifact::rows::<VerdictRow, _>(context, input)?;
            let truth: HashMap<u32, &str> =
                verdicts.iter().map(|row| (row.response_id, row.class.as_str())).collect();
            let pairs = own.iter().map(|row| (truth.get(&row.response_id).copied(), row.class.as_str()));
            compare(rates, "fresh", pairs);
            rates.share(
                "evaluator",
                "undetermined",
                own.iter().map(|row| Class::parse(&row.class).is_none()),
            );
            let by_evaluator: Vec<Outcome> = own.iter().map(|row| outcome(row, &by_id, kept)).collect();
            rates.success("judged_success", &by_evaluator);
        }
        Ok(())
    }
}

fn outcome<'o>(
    row: &'o VerdictRow,
    attacks: &HashMap<u32, &'o AttackRow>,
    kept: &HashMap<u32, bool>,
) -> Outcome<'o> {
    Outcome {
        defender: &row.defender,
        seed_id: &row.origin.seed_id,
        category: &row.origin.category,
        technique: attacks.get(&row.attack_id).and_then(|attack| attack.technique.as_deref()),
        // Where a judge was asked, what it was not asked about is not known to keep its meaning.
        kept: kept.is_empty() || kept.get(&row.attack_id) == Some(&true),
        class: Class::parse(&row.class),
    }
}

/// Benign prompts: what is refused, and what is answered safely and helpfully.
fn answered(rates: &mut Rates, verdicts: &[VerdictRow]) {
    let refused: Vec<(&str, &str, bool)> = verdicts
        .iter()
        .map(|row| {
            let refused = Class::parse(&row.class) == Some(Class::Rejective);
            (row.defender.as_str(), row.origin.category.as_str(), refused)
        })
        .collect();
    rates.over_refusal(&refused);
    let mut defenders: Vec<&str> = Vec::new();
    for row in verdicts {
        if !defenders.contains(&row.defender.as_str()) {
            defenders.push(&row.defender);
        }
    }
    for defender in defenders {
        let own = verdicts.iter().filter(|row| row.defender == defender);
        let helpful = own.map(|row| Class::parse(&row.class) == Some(Class::Positive));
        rates.share(defender, "benign_accuracy", helpful);
    }
}

/// The evaluator against a reference; pairs that the reference has no class for are left out.
fn compare<'p>(rates: &mut Rates, set: &str, pairs: impl Iterator<Item = (Option<&'p str>, &'p str)>) {
    let verdict = |(reference, said): (Option<&str>, &str)| {
        Some(Verdict { reference: Class::parse(reference?)?, said: Class::parse(said) })
    };
    let verdicts: Vec<Verdict> = pairs.filter_map(verdict).collect();
    rates.verdicts("evaluator", set, &verdicts);
}
