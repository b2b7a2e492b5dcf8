//! Attacks as files of HarmBench: `behaviors.csv` for all, and a folder with `test_cases.json` and `completions.json` for each
//! evaluation, defender and measure of success. A behavior is a seed prompt. Its label is 1 if the attack succeeded.
//! Undetermined completions have no label, as in HarmBench before the classifier has run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use serde_json::{Map, Value, json};

use super::evaluations::{Attacked, evaluations, goals};
use super::{Source, create_json, free, safe};

const COLUMNS: [&str; 6] =
    ["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"];

pub(crate) fn write(sources: &[Source], folder: &Path) -> anyhow::Result<()> {
    let mut behaviors: BTreeMap<String, [String; 6]> = BTreeMap::new();
    for source in sources {
        let goals = goals(source)?;
        for evaluation in evaluations(source)? {
            for Attacked { metric, seeds } in evaluation.attacked() {
                let (mut cases, mut completions) = (Map::new(), Map::new());
                for (seed_id, attempts) in seeds {
                    let prompts = attempts.iter().map(|attempt| source.texts.show(&attempt.prompt).into());
                    cases.insert(seed_id.to_owned(), Value::Array(prompts.collect()));
                    let answers = attempts.iter().map(|attempt| {
                        let mut completion = json!({
                            "test_case": source.texts.show(&attempt.prompt),
                            "generation": source.texts.show(&attempt.response),
                        });
                        if let Some(value) = attempt.value {
                            completion["label"] = u8::from(value > 0.0).into();
                        }
                        completion
                    });
                    completions.insert(seed_id.to_owned(), Value::Array(answers.collect()));
                    let goal = goals.get(seed_id).map(|(seed, _)| seed.as_str()).unwrap_or_default();
                    let category =
                        attempts.first().map(|attempt| attempt.category.clone()).unwrap_or_default();
                    let row = [
                        source.texts.show(goal).into_owned(),
                        "standard".into(),
                        category,
                        String::new(),
                        String::new(),
                        seed_id.to_owned(),
                    ];
                    behaviors.entry(seed_id.to_owned()).or_insert(row);
                }
                let stem = format!("{}_{}", evaluation.name(&source.run.record.run), safe(metric));
                let place = free(folder, &stem, "");
                create_json(&place.join("test_cases.json"), &Value::Object(cases))?;
                create_json(&place.join("completions.json"), &Value::Object(completions))?;
            }
        }
    }
    ensure!(
        !behaviors.is_empty(),
        "these runs have not evaluated any attacks (yet): `evaluate`, `measure` and `cross_play` do"
    );
    let mut writer = csv::Writer::from_path(folder.join("behaviors.csv"))?;
    writer.write_record(COLUMNS)?;
    behaviors.values().try_for_each(|row| writer.write_record(row))?;
    Ok(writer.flush()?)
}
