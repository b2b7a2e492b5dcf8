//! Preferences: pairs by a judge and by rewards, and what DPO and IPO learn from them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use triplay::data::{self, RewardRow};

use crate::space::{Seen, Space};

/// The sandbox's evaluator as the judge: it is asked about the first of each order.
const PIPELINE: &str = r#"
pipeline: preferences
seed: 3
params: { prompts: 12 }
stages:
  world: { kind: sandbox, sft: 300, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup:
    kind: sft
    data: world.sft
    tokenizer: vocabulary
    init: { hidden: 32, layers: 1, heads: 2, positions: 96 }
    steps: 150
    batch: 32
    lr: 1e-2
  attacks: { kind: generate, model: warmup.model, data: world.seeds, prompts: $prompts, sampling: { max_new_tokens: 24 } }
  responses:
    kind: respond
    data: attacks
    models: [{ model: warmup.model }]
    group: 4
    sampling: { max_new_tokens: 16, temperature: 0.9 }
  preferences:
    kind: prefer
    by:
      judge:
        data: responses
        model: warmup.model
        prompt: "{% if second %}<evaluator> {{ prompt }} <sep> {{ first }} <sep>{% endif %}"
        labels: { mass: 0, choice: { first: positive, second: negative } }
  update: { kind: update, model: warmup.model, data: preferences, reference: warmup.model, algorithm: { dpo: { lr: 2e-3, beta: 0.2 } } }
  again: { kind: update, model: update.model, data: preferences, reference: warmup.model, algorithm: { dpo: { lr: 2e-3, beta: 0.2 } } }
"#;

/// Pairs of attacks by the defender's responses to them, and pairs of responses by their rewards.
const OTHERS: &str = r#"
  tries: { kind: generate, model: warmup.model, data: world.seeds, prompts: 6, group: 3, sampling: { max_new_tokens: 24 } }
  tried: { kind: respond, data: tries, models: [{ model: warmup.model }], sampling: { max_new_tokens: 16 } }
  stronger:
    kind: prefer
    by:
      judge:
        data: tries
        responses: tried
        model: warmup.model
        pairs: 2
        prompt: "{% if second == second_response %}{% endif %}<evaluator> {{ first }} <sep> {{ first_response }} <sep>"
        labels: { mass: 0, choice: { first: negative, second: positive } }
  verdicts: { kind: judge, data: responses, model: warmup.model }
  rewards: { kind: reward, data: responses, terms: [{ class_value: { verdicts: verdicts } }] }
  earned: { kind: prefer, by: { rewards: { data: rewards, margin: 2 } } }
  learnt: { kind: update, model: warmup.model, data: earned, lora: { rank: 4 }, algorithm: { ipo: { lr: 1e-3 } } }
"#;

fn rows(space: &Space, output: &str) -> Vec<Value> {
    let seen = space.triplay(&["data", "show", &format!("latest:{output}"), "--json", "--rows", "10000"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    seen.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(space: &Space, text: &str, settings: &[&str]) -> Seen {
    space.write("p.yaml", text);
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let seen = space.triplay(&[&["pipeline", "run", "p.yaml", "--json"], &settings[..]].concat());
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    seen
}

/// The metrics that a node reported, by name.
fn metrics(space: &Space, node: &str) -> BTreeMap<String, f64> {
    let named = |row: &Value| (row["metric"].as_str().unwrap().to_owned(), row["value"].as_f64().unwrap());
    rows(space, &format!("{node}.metrics")).iter().map(named).collect()
}

#[test]
fn a_pair_is_preferred_where_both_orders_agree_and_the_update_widens_its_margin() {
    let space = Space::new();
    run(&space, PIPELINE, &[]);
    let (preferences, comparisons) = (rows(&space, "preferences"), rows(&space, "preferences.comparisons"));
    let mut decided = BTreeSet::new();
    let mut ties = 0;
    for orders in comparisons.chunks(2) {
        let [one, other] = orders else { panic!("{orders:?}") };
        assert_eq!(
            (&one["pair_id"], &one["first_id"], &one["first"]),
            (&other["pair_id"], &other["second_id"], &other["second"])
        );
        let of_pair = preferences.iter().find(|row| row["pair_id"] == one["pair_id"]);
        let classes = [one, other].map(|row| row["class"].as_str().unwrap());
        let better = match classes {
            ["first", "second"] => one["first_id"].as_u64(),
            ["second", "first"] => one["second_id"].as_u64(),
            _ => None,
        };
        assert_eq!(of_pair.and_then(|row| row["chosen_id"].as_u64()), better, "{one}");
        ties += usize::from(
            one["first"] == one["second"] || (classes[0] == classes[1] && classes[0] != "undetermined"),
        );
        if let Some(row) = of_pair {
            decided.insert(row["pair_id"].as_u64());
            // The answer to the order that shows the better one first names the first.
            assert_eq!((&row["answer"], &row["answer_reversed"]), (&"positive".into(), &"negative".into()));
            assert_ne!(row["chosen"], row["rejected"]);
        }
    }
    assert_eq!(comparisons.len(), 2 * 12 * 4);
    assert_eq!(decided.len(), preferences.len());
    assert!(preferences.len() > 4, "{}", preferences.len());
    let compared = metrics(&space, "preferences");
    assert_eq!(compared["compared"], 48.0);
    assert_eq!(compared["ties"], ties as f64 / 48.0);

    // The first step starts at the reference, so all margins are 0. The second sees its effect on the same pairs.
    let (first, second) = (metrics(&space, "update"), metrics(&space, "again"));
    assert_eq!(first["pairs"], preferences.len() as f64);
    assert!(first["margin"].abs() < 1e-5 && (first["loss"] - 2f64.ln()).abs() < 1e-5, "{first:?}");
    assert!(second["margin"] > 0.02 && second["loss"] < first["loss"] - 0.01, "{second:?}");
    assert!(second["accuracy"] > 0.6 && second["kl"] > first["kl"], "{second:?}");
    assert!((second["margin"] - (second["chosen_reward"] - second["rejected_reward"])).abs() < 1e-9);
    assert!(second["grad_norm"] > 0.0 && !second.contains_key("clipped"), "{second:?}");
}

#[test]
fn ipo_and_smoothed_losses_learn_from_the_same_pairs_and_a_guard_halts_them() {
    let space = Space::new();
    let dpo = "algorithm: { dpo: { lr: 2e-3, beta: 0.2 } } }";
    assert_eq!(PIPELINE.matches(dpo).count(), 2);
    run(&space, &PIPELINE.replace(dpo, "algorithm: { ipo: { lr: 2e-3, beta: 0.5 } } }"), &[]);
    let (first, second) = (metrics(&space, "update"), metrics(&space, "again"));
    // (0 − 1 / (2β))²
    assert!((first["loss"] - 1.0).abs() < 1e-5 && second["loss"] < 0.999, "{first:?} {second:?}");
    assert!(second["margin"] > 0.0, "{second:?}");

    let robust = "dpo: { lr: 2e-3, loss_type: robust, label_smoothing: 0.1, num_iterations: 3 } }";
    let text = PIPELINE.replace("dpo: { lr: 2e-3, beta: 0.2 } }", robust);
    let again = "model: update.model, data: preferences,";
    assert!(text.contains(again));
    let guarded = format!("{again} guards: {{ kl: 1e-6, previous: warmup.model }},");
    let seen = run(&space, &text.replace(again, &guarded), &[]);
    assert!(metrics(&space, "update")["margin"] > 0.0);
    assert_eq!(metrics(&space, "again")["halted"], 1.0);
    let seen = seen.json();
    let digests = space.digests(&seen);
    assert_ne!(digests["update.model"], digests["warmup.model"]);
    assert_ne!(digests["again.model"], digests["update.model"]);
}

#[test]
fn attacks_are_compared_by_what_they_got_and_rewards_make_pairs_too() {
    let space = Space::new();
    run(&space, &format!("{PIPELINE}{OTHERS}"), &[]);
    let (stronger, tried) = (rows(&space, "stronger.comparisons"), rows(&space, "tried"));
    assert_eq!(stronger.len(), 2 * 6 * 2);
    for row in &stronger {
        let of = |id: &str| tried.iter().find(|response| response["attack_id"] == row[id]).unwrap();
        assert_eq!((&of("first_id")["attack"], &row["asked"]), (&row["first"], &row["seed"]));
        let prompt = row["prompt"].as_str().unwrap();
        let is_asked = !prompt.is_empty();
        assert!(!is_asked || prompt.contains(of("first_id")["text"].as_str().unwrap()), "{row}");
    }

    let rewards = rows(&space, "rewards");
    let earned = rows(&space, "earned");
    assert!(!earned.is_empty());
    for row in &earned {
        let of = |id: &str| {
            let found = rewards.iter().find(|reward| reward["sample_id"] == row[id]).unwrap();
            assert_eq!(found["group"], row["group"]);
            found["reward"].as_f64().unwrap()
        };
        // Positive against negative, +1 against −1: no other pair is 2 apart.
        assert_eq!((of("chosen_id"), of("rejected_id"), row["margin"].as_f64()), (1.0, -1.0, Some(2.0)));
    }
    // With an adapter the reference is the model without it.
    assert_eq!(metrics(&space, "learnt")["pairs"], earned.len() as f64);
    assert_eq!(metrics(&space, "learnt")["passed_through"], 0.0);
}

#[test]
fn without_pairs_the_model_stays_as_it_is() {
    let space = Space::new();
    let seen = run(&space, PIPELINE, &["prompts=0"]).json();
    let digests = space.digests(&seen);
    assert_eq!(digests["update.model"], digests["warmup.model"]);
    let metrics = metrics(&space, "update");
    assert_eq!((metrics["pairs"], metrics["passed_through"]), (0.0, 1.0));
}

#[test]
fn what_cannot_be_compared_or_learnt_from_is_an_error() {
    let space = Space::new();
    let text = format!("{PIPELINE}{OTHERS}");
    let digests = space.digests(&run(&space, &text, &[]).json());
    let digest = &digests["rewards.rewards"];
    let path = space.path(&format!(".triplay/blobs/{}/{digest}", &digest[..2]));
    let mut rewards: Vec<RewardRow> = data::read(&path).unwrap();
    data::write(&space.path("rewards.parquet"), &rewards).unwrap();
    let fails = |from: &str, to: &str, expected: &str| {
        assert!(text.contains(from), "{from}");
        space.write("p.yaml", &text.replace(from, to));
        space.triplay(&["pipeline", "run", "p.yaml"]).fails(1, expected);
    };
    // The content of a file is unknown until it is read.
    fails(
        "model: update.model, data: preferences",
        "model: update.model, data: { path: rewards.parquet }",
        "rewards.parquet is not a dataset of preferences: ",
    );
    // No pair can be made from a group with several prompts.
    rewards.iter_mut().for_each(|row| row.group = 0);
    data::write(&space.path("rewards.parquet"), &rewards).unwrap();
    fails(
        "data: rewards, margin: 2",
        "data: { path: rewards.parquet }",
        "group 0 of `rewards.parquet` must have completions of one prompt, found several",
    );
    let warned = |from: &str, to: &str, expected: &str| {
        assert!(text.contains(from), "{from}");
        space.write("p.yaml", &text.replace(from, to));
        let seen = space.triplay(&["pipeline", "check", "p.yaml"]);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        assert!(seen.err.contains(expected), "{}", seen.err);
    };
    warned("    group: 4\n", "", "there are no pairs: `group` of `responses` (p.yaml:");
    warned(
        "temperature: 0.9",
        "temperature: 0",
        "there are only ties: `sampling.temperature` of `responses`",
    );
}
