//! Evaluations as logs of Inspect (inspect-ai): the JSON form of an `EvalLog`, version 2, one for each evaluation and measured
//! model. A sample is a prompt, with the messages and a score for each metric that counts it. Attempts at the same prompt are
//! epochs. An undetermined attempt has no score. Files have names that `inspect view` and `list_eval_logs` find.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::ensure;
use serde_json::{Map, Value, json};

use super::evaluations::{Evaluation, Outcome, evaluations, goals};
use super::{Source, create_json, free, safe};
use runs::shown;
use store::Digest;

pub(crate) fn write(sources: &[Source], folder: &Path) -> anyhow::Result<()> {
    let mut any = false;
    for source in sources {
        let goals = goals(source)?;
        for evaluation in evaluations(source)? {
            any = true;
            let log = log(source, &evaluation, &goals);
            let text = |key: &str| log["eval"][key].as_str().unwrap_or_default().to_owned();
            let stamp = text("created").replace(':', "-");
            let stem = format!("{stamp}_{}_{}", text("task"), text("task_id"));
            create_json(&free(folder, &stem, ".json"), &log)?;
        }
    }
    ensure!(any, "these runs have not evaluated anything (yet): `evaluate` and `measure` do");
    Ok(())
}

type Goals = HashMap<String, (String, String)>;

fn log(source: &Source, evaluation: &Evaluation, goals: &Goals) -> Value {
    let record = &source.run.record;
    // An identifier as long as those of Inspect.
    let id = |what: &str| {
        Digest::of_bytes(format!("{what} {}", evaluation.name(&record.run)).as_bytes()).to_string()[..22]
            .to_owned()
    };
    let created = began(&record.began);
    let model = match &evaluation.checkpoint {
        Some((node, _)) => format!("triplay/{node}"),
        None => format!("triplay/{}", evaluation.subject),
    };
    let samples = samples(source, evaluation, goals, &model);
    let ids: Vec<Value> = {
        let mut seen = HashSet::new();
        let ids = samples.iter().map(|sample| sample["id"].clone());
        ids.filter(|id| seen.insert(id.to_string())).collect()
    };
    let epochs = evaluation.outcomes.iter().map(|outcome| outcome.attempt).max().unwrap_or(1);
    let task = [&record.pipeline, &evaluation.variant, &evaluation.phase, &evaluation.subject];
    let task =
        task.iter().filter(|part| !part.is_empty()).map(|part| safe(part)).collect::<Vec<_>>().join("-");
    json!({
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": id("eval"),
            "run_id": record.run,
            "created": created,
            // Underscores separate the parts of a log's file name.
            "task": task.replace('_', "-"),
            "task_id": id("task"),
            "task_version": 0,
            "task_file": shown(&record.file),
            "task_attribs": {},
            "task_args": source.run.record.params.get(&evaluation.variant).cloned().unwrap_or(json!({})),
            "dataset": { "name": evaluation.node, "samples": ids.len(), "sample_ids": ids, "shuffled": false },
            "model": model,
            "model_args": {},
            "config": { "epochs": epochs },
            "packages": { "triplay": record.triplay },
            "metadata": {
                "run": record.run,
                "run_status": record.status,
                "pipeline": record.pipeline,
                "variant": evaluation.variant,
                "node": evaluation.node,
                "phase": evaluation.phase,
                "subject": evaluation.subject,
                "checkpoint": evaluation.checkpoint.as_ref().map(|(_, digest)| digest),
            },
        },
        "plan": { "name": "plan", "steps": [], "config": {} },
        "results": results(evaluation, samples.len()),
        "stats": { "started_at": created, "completed_at": created, "model_usage": {} },
        "samples": samples,
    })
}

/// A time as Inspect reads it; 1970 for runs without one.
fn began(text: &str) -> String {
    let moment = text.parse::<jiff::Timestamp>().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

fn results(evaluation: &Evaluation, samples: usize) -> Value {
    let mut metrics: BTreeMap<&str, (f64, usize, usize)> = BTreeMap::new();
    for outcome in &evaluation.outcomes {
        let (sum, known, unknown) = metrics.entry(&outcome.metric).or_default();
        match outcome.value {
            Some(value) => (*sum, *known) = (*sum + value, *known + 1),
            None => *unknown += 1,
        }
    }
    let scores = metrics.iter().map(|(metric, (sum, known, unknown))| {
        let mean = json!({ "mean": { "name": "mean", "value": sum / *known as f64, "params": {} } });
        json!({
            "name": metric,
            "scorer": metric,
            "scored_samples": known,
            "unscored_samples": unknown,
            "params": {},
            "metrics": if *known > 0 { mean } else { json!({}) },
        })
    });
    let scores: Vec<Value> = scores.collect();
    json!({ "total_samples": samples, "completed_samples": samples, "scores": scores })
}

fn samples(source: &Source, evaluation: &Evaluation, goals: &Goals, model: &str) -> Vec<Value> {
    // Metrics of the same prompt and answer are scores of one sample.
    let mut places: HashMap<(&str, u32, &str, &str), usize> = HashMap::new();
    let mut merged: Vec<(&Outcome, Map<String, Value>)> = Vec::new();
    for outcome in &evaluation.outcomes {
        let key =
            (outcome.prompt_id.as_str(), outcome.attempt, outcome.prompt.as_str(), outcome.response.as_str());
        let place = *places.entry(key).or_insert(merged.len());
        if place == merged.len() {
            merged.push((outcome, Map::new()));
        }
        if let Some(value) = outcome.value {
            let score = json!({ "value": value, "answer": outcome.class });
            merged[place].1.insert(outcome.metric.clone(), score);
        }
    }
    let mut taken: HashSet<(String, u32)> = HashSet::new();
    let show = |text: &str| source.texts.show(text).into_owned();
    let sample = |(outcome, scores): (&Outcome, Map<String, Value>)| {
        // Different prompts of the same name, such as an attack and a benchmark prompt for one seed prompt.
        let mut id = outcome.prompt_id.clone();
        let mut number = 2;
        while !taken.insert((id.clone(), outcome.attempt)) {
            id = format!("{}~{number}", outcome.prompt_id);
            number += 1;
        }
        let (seed, answer) = goals.get(&outcome.seed_id).cloned().unwrap_or_default();
        let (prompt, response) = (show(&outcome.prompt), show(&outcome.response));
        let message =
            json!({ "role": "assistant", "content": response, "source": "generate", "model": model });
        json!({
            "id": id,
            "epoch": outcome.attempt,
            "input": prompt,
            "target": show(if answer.is_empty() { &seed } else { &answer }),
            "messages": [{ "role": "user", "content": prompt, "source": "input" }, message],
            "output": {
                "model": model,
                "choices": [{ "message": message, "stop_reason": "stop" }],
                "completion": response,
            },
            "scores": scores,
            "metadata": {
                "seed_id": outcome.seed_id, "category": outcome.category, "class": outcome.class, "seed": show(&seed),
            },
            "store": {}, "events": [], "model_usage": {}, "attachments": {},
        })
    };
    merged.into_iter().map(sample).collect()
}
