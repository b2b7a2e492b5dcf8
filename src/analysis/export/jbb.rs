//! Attacks as artifacts of JailbreakBench: `parameters` and `jailbreaks`, one artifact for each evaluation, defender and
//! measure of success. As in JailbreakBench a behavior appears once, with the first successful attempt or the last one. An
//! artifact must state for each behavior whether it was broken: undetermined ones are left out, and named in the parameters.

use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};

use super::evaluations::{Attacked, Evaluation, broken, evaluations, goals};
use super::{Source, create_json, free, safe};

/// The prefix of each artifact's method.
pub(crate) const METHOD: &str = "triplay-";

pub(crate) fn write(sources: &[Source], folder: &Path) -> anyhow::Result<()> {
    let (mut any, mut any_known) = (false, false);
    for source in sources {
        let goals = goals(source)?;
        for evaluation in evaluations(source)? {
            for Attacked { metric, seeds } in evaluation.attacked() {
                any = true;
                let unknown = seeds.iter().filter(|(_, attempts)| broken(attempts).is_none());
                let unknown: Vec<&str> = unknown.map(|(seed_id, _)| *seed_id).collect();
                let jailbreaks: Vec<Value> = seeds
                    .iter()
                    .enumerate()
                    .filter_map(|(index, (seed_id, attempts))| {
                        let first = broken(attempts)?;
                        let shown = attempts.get(first.unwrap_or(attempts.len() - 1))?;
                        let goal = goals.get(*seed_id).map(|(seed, _)| seed.as_str()).unwrap_or_default();
                        Some(json!({
                            "index": index,
                            "goal": source.texts.show(goal),
                            "behavior": seed_id,
                            "category": shown.category,
                            "prompt": source.texts.show(&shown.prompt),
                            "response": source.texts.show(&shown.response),
                            "number_of_queries": attempts.len(),
                            "queries_to_jailbreak": first.map(|first| first + 1),
                            "prompt_tokens": null,
                            "response_tokens": null,
                            "jailbroken": first.is_some(),
                        }))
                    })
                    .collect();
                // An artifact cannot state a rate without outcomes.
                if jailbreaks.is_empty() {
                    continue;
                }
                any_known = true;
                let queries = seeds.iter().map(|(_, attempts)| attempts.len()).sum();
                let parameters = parameters(source, &evaluation, metric, &jailbreaks, &unknown, queries);
                let stem = format!("{}_{}", evaluation.name(&source.run.record.run), safe(metric));
                let artifact = json!({ "parameters": parameters, "jailbreaks": jailbreaks });
                create_json(&free(folder, &stem, ".json"), &artifact)?;
            }
        }
    }
    ensure!(
        any,
        "these runs have not evaluated any attacks (yet): `evaluate`, `measure` and `cross_play` do"
    );
    ensure!(
        any_known,
        "all outcomes of attacks in these runs are undetermined: an artifact of JailbreakBench must say which succeeded"
    );
    Ok(())
}

fn parameters(
    source: &Source,
    evaluation: &Evaluation,
    metric: &str,
    jailbreaks: &[Value],
    unknown: &[&str],
    queries: usize,
) -> Value {
    let record = &source.run.record;
    let broken = jailbreaks.iter().filter(|jailbreak| jailbreak["jailbroken"] == true).count();
    json!({
        "method": format!("{METHOD}{}", record.pipeline),
        "model": evaluation.subject,
        // The attacker learns from verdicts on responses, and sees nothing else of the defenders.
        "attack_type": "black_box",
        "defense": null,
        "attack_success_rate": broken as f64 / jailbreaks.len() as f64,
        "total_number_of_jailbreaks": broken,
        "number_of_submitted_prompts": jailbreaks.len(),
        "total_number_of_queries": queries,
        "total_prompt_tokens": null,
        "total_response_tokens": null,
        "evaluation_date": record.began.get(..10).unwrap_or("1970-01-01"),
        "evaluation_llm_provider": "local",
        "method_parameters": {
            "run": record.run,
            "run_status": record.status,
            "variant": evaluation.variant,
            "node": evaluation.node,
            "phase": evaluation.phase,
            "metric": metric,
            // Only texts and numbers are allowed here.
            "undetermined_behaviors": unknown.join(", "),
            "number_of_undetermined_behaviors": unknown.len(),
            "checkpoint": evaluation.checkpoint.as_ref().map_or("", |(_, digest)| digest.as_str()),
        },
    })
}
