//! Translates the keys that `reward` had before `terms`.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use engine::CheckError;

/// The error for a stage with these keys, which shows how to write it now.
pub(crate) fn translation(params: &Value) -> Option<CheckError> {
    const RETIRED: [&str; 4] = ["rule", "scale_rewards", "combine", "component_weights"];
    let key = RETIRED.into_iter().find(|key| params.get(key).is_some())?;
    let message = match rule(params) {
        Some(written) => format!(
            "`{key}` is no longer a key: a reward is a list of `terms`. With the values of its parameters, this stage is \
             now\n{written}  help: put `$names` back where they stood; see docs/guides/change-the-reward.md"
        ),
        None => format!(
            "`{key}` is no longer a key: {}\n  help: docs/guides/change-the-reward.md",
            match key {
                "rule" => "`data` is what to reward, and `terms` is a list of terms",
                "component_weights" =>
                    "give each entry of `terms` its `weight`, and write `advantage: { normalize: gdpo }`",
                "combine" => "write `advantage: { normalize: gdpo }`, or nothing for a sum",
                _ => "write `advantage: { normalize: group }`, or `batch` or `none`",
            }
        ),
    };
    Some(CheckError::at(key, message))
}

/// The stage as it is written now.
fn rule(params: &Value) -> Option<String> {
    let (role, rule) = params.get("rule")?.as_object()?.iter().next()?;
    let rule = rule.as_object()?;
    let gdpo = params.get("combine").and_then(Value::as_str) == Some("gdpo");
    let own = params.get("component_weights").and_then(Value::as_object);
    let (data, terms) = match role.as_str() {
        "attacker" => ("attacks", attacker(rule, gdpo.then_some(own).flatten())),
        "defender" => {
            ("responses", vec![term("class_value", &taken(rule, &["verdicts"]), values(rule), 1.0)])
        }
        "evaluator" => {
            ("verdicts", vec![term("expert_label", &taken(rule, &["labels", "classes"]), None, 1.0)])
        }
        _ => return None,
    };
    let mut text = format!("    data: {}\n    terms:\n", flow(rule.get(data)?));
    terms.into_iter().for_each(|term| text += &format!("      - {term}\n"));
    if let Some(undetermined) = rule.get("undetermined") {
        let _ = writeln!(text, "    undetermined: {}", flow(undetermined));
    }
    let normalize = if gdpo { Some("gdpo") } else { params.get("scale_rewards").and_then(Value::as_str) };
    if let Some(normalize) = normalize {
        let _ = writeln!(text, "    advantage: {{ normalize: {normalize} }}");
    }
    Some(text)
}

/// The terms of R_red. `own` weights replace the default ones.
fn attacker(rule: &Map<String, Value>, own: Option<&Map<String, Value>>) -> Vec<String> {
    let weights = rule.get("weights").and_then(Value::as_object).cloned().unwrap_or_default();
    let number = |key: &str, default: f64| weights.get(key).and_then(Value::as_f64).unwrap_or(default);
    let weight = |key: &str, factor: f64| match own {
        Some(own) => own.get(key).and_then(Value::as_f64).unwrap_or(1.0),
        None => factor,
    };
    let meaning = rule.get("meaning").map(|input| ("meanings".to_owned(), input.clone()));
    let with = |keys: &[&str]| {
        let mut keys = taken(rule, keys);
        let sharpness = weights.get("sharpness").filter(|_| keys.iter().any(|(key, _)| key == "pool"));
        keys.extend(sharpness.map(|sharpness| ("sharpness".to_owned(), sharpness.clone())));
        keys
    };
    let judged = |keys: &[&str]| taken(rule, keys).into_iter().chain(meaning.clone()).collect::<Vec<_>>();
    let diversity = number("diversity", 1.0);
    let mut terms = vec![
        term("success", &judged(&["verdicts"]), weights.get("values"), weight("attack", 1.0)),
        term("meaning", &judged(&[]), None, weight("semantic", number("semantic", 0.3))),
        term("self_bleu", &with(&["pool"]), None, weight("self_bleu", diversity * number("self_bleu", 2.0))),
    ];
    if rule.contains_key("embedder") {
        let mut keys = with(&["pool", "embedder"]);
        keys.extend(weights.get("neighbours").map(|count| ("neighbours".to_owned(), count.clone())));
        terms.push(term("cosine", &keys, None, weight("cosine", diversity * number("cosine", 0.0))));
    }
    if let Some(coverage) = rule.get("coverage").and_then(Value::as_object) {
        let mut keys = taken(rule, &["pool"]);
        keys.extend(taken(coverage, &["examples", "embedder", "threshold"]));
        let factor = coverage.get("weight").and_then(Value::as_f64).unwrap_or(1.0);
        terms.push(term("coverage", &keys, None, weight("coverage", factor)));
    }
    terms
}

fn values(rule: &Map<String, Value>) -> Option<&Value> {
    rule.get("weights")?.get("values")
}

fn taken(map: &Map<String, Value>, keys: &[&str]) -> Vec<(String, Value)> {
    keys.iter().filter_map(|key| Some(((*key).to_owned(), map.get(*key)?.clone()))).collect()
}

fn term(kind: &str, keys: &[(String, Value)], values: Option<&Value>, weight: f64) -> String {
    let mut keys: Map<String, Value> = keys.iter().cloned().collect();
    keys.extend(values.map(|values| ("values".to_owned(), values.clone())));
    let weight =
        if weight == 1.0 { String::new() } else { format!(", weight: {}", (weight * 1e9).round() / 1e9) };
    format!("{{ {kind}: {}{weight} }}", flow(&Value::Object(keys)))
}

/// A value in YAML's flow style.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".into(),
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(params: &Value) -> String {
        translation(params).unwrap().message
    }

    #[test]
    fn the_stage_of_before_is_shown_as_it_is_written_now() {
        let attacker = json!({
            "rule": { "attacker": {
                "attacks": "attacks", "verdicts": "verdicts", "meaning": "meanings", "pool": "pool",
                "embedder": "warmup.model", "weights": { "diversity": 0.04, "self_bleu": 2, "cosine": 4 },
            } },
            "scale_rewards": "batch",
        });
        let expected = "
    data: attacks
    terms:
      - { success: { meanings: meanings, verdicts: verdicts } }
      - { meaning: { meanings: meanings }, weight: 0.3 }
      - { self_bleu: { pool: pool }, weight: 0.08 }
      - { cosine: { embedder: warmup.model, pool: pool }, weight: 0.16 }
    advantage: { normalize: batch }
";
        let sorted = |text: &str| {
            // Keys of a JSON map are in the order of its feature, which another crate may choose.
            let mut words: Vec<&str> = text.split([' ', ',', '\n']).filter(|word| !word.is_empty()).collect();
            words.sort_unstable();
            words.join(" ")
        };
        let found = said(&attacker);
        assert!(sorted(&found).contains("0.08") && found.contains("`rule` is no longer a key"), "{found}");
        let stage = &found[found.find("\n    data").unwrap()..found.find("  help").unwrap()];
        assert_eq!(sorted(stage), sorted(expected), "{found}");

        let evaluator =
            json!({ "rule": { "evaluator": { "verdicts": "v", "labels": "l", "classes": "two" } } });
        assert!(said(&evaluator).contains("data: v\n    terms:\n      - { expert_label: {"));
        let gdpo = json!({
            "rule": { "attacker": { "attacks": "a", "verdicts": "v", "pool": "p" } },
            "combine": "gdpo", "component_weights": { "semantic": 0.5 },
        });
        assert!(said(&gdpo).contains("- { meaning: {}, weight: 0.5 }"));
        assert!(said(&gdpo).contains("advantage: { normalize: gdpo }"));
        assert!(said(&json!({ "scale_rewards": "none" })).contains("`scale_rewards` is no longer a key"));
        assert!(translation(&json!({ "data": "attacks", "terms": [] })).is_none());
    }
}
