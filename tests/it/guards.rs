//! Guards: a phase that goes wrong is halted, and the next one continues.

use std::fs;

use serde_json::Value;

use crate::space::Space;

const GUARDS: &str = "guards: { kl: 1e-6, previous: previous }";

const PIPELINE: &str = r#"
pipeline: guarded
seed: 3
params: { rounds: 2, steps: 4 }
stages:
  world: { kind: sandbox, sft: 300, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup:
    kind: sft
    data: world.sft
    tokenizer: vocabulary
    init: { hidden: 32, layers: 1, heads: 2, positions: 96 }
    steps: 20
    batch: 16
    lr: 1e-2
  play:
    repeat: $rounds
    carry: { attacker: warmup.model }
    stages:
      red:
        repeat: $steps
        carry: { model: attacker, previous: attacker }
        stages:
          attacks: { kind: generate, model: model, data: world.seeds, prompts: 4, group: 4, sampling: { max_new_tokens: 8 } }
          responses: { kind: respond, data: attacks, models: [{ model: warmup.model }], sampling: { max_new_tokens: 8 } }
          verdicts: { kind: judge, data: responses, model: warmup.model }
          rewards:
            kind: reward
            data: attacks
            terms:
              - { success: { verdicts: verdicts, values: { negative: 3, rejective: 2, positive: 1 } } }
              - { meaning: {}, weight: 0.5 }
              - { self_bleu: { pool: world.empty_pool }, weight: 2 }
            advantage: { normalize: none }
          update:
            kind: update
            model: model
            data: rewards
            reference: warmup.model
            algorithm: { grpo: { lr: 1e-2, kl: 0.05, entropy_coef: 0.1 } }
            guards: { kl: 1e-6, previous: previous }
        next: { model: update.model, previous: model }
    next: { attacker: red.model }
"#;

fn metrics(space: &Space, results: &str) -> Vec<Value> {
    let file = format!("{results}/metrics.parquet");
    let seen = space.triplay(&["data", "show", &file, "--json", "--rows", "10000"]);
    seen.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_guard_halts_the_phase_and_the_next_phase_goes_on() {
    let space = Space::new();
    space.write("p.yaml", PIPELINE);
    let seen = space.triplay(&["pipeline", "run", "p.yaml", "--json"]);
    // At the first step the model is the reference. The step moves it away, which the second batch shows.
    let lines: Vec<&str> = seen.err.lines().filter(|line| line.contains("halted: kl")).collect();
    assert_eq!(lines.len(), 2, "{}", seen.err);
    for (line, round) in lines.iter().zip(1..) {
        assert!(line.contains(&format!("play[{round}]/red[2]/update")), "{line}");
        assert!(line.ends_with(" above 1e-6; back to the model before step 1"), "{line}");
    }
    let told = lines.iter().find(|line| line.starts_with("play[1]/red[2]/update: halted: kl "));
    assert!(told.is_some(), "{}", seen.err);

    let summary = seen.json();
    let digests = space.digests(&summary);
    let model = |round: u32, step: u32| digests[&format!("play[{round}]/red[{step}]/update.model")].clone();
    assert_ne!(model(1, 1), model(1, 2));
    // Later steps hand the model on unchanged; in the second round another file names the step at which it halted.
    assert!(model(1, 2) == model(1, 3) && model(1, 3) == model(1, 4));
    assert_ne!(model(1, 4), model(2, 1));
    assert_ne!(model(1, 2), model(2, 2));
    assert_eq!(model(2, 2), model(2, 4));

    // The output is the model before step 1, with the file that gives the reason.
    let results = summary["results"].as_str().unwrap();
    let models = space.path(results).join("models");
    let last = models.join("play[2].red[4].update");
    let read = |name: &str| fs::read(last.join(name)).unwrap();
    assert_eq!(read("model.safetensors"), fs::read(models.join("warmup/model.safetensors")).unwrap());
    let halted: Value = serde_json::from_slice(&read("halted.json")).unwrap();
    assert_eq!((&halted["phase"], &halted["round"]), (&serde_json::json!([2]), &2.into()));
    assert!(halted["why"].as_str().unwrap().starts_with("kl "), "{halted}");

    let rows = metrics(&space, results);
    let value = |node: &str, phase: &str, metric: &str| {
        let found = rows
            .iter()
            .find(|row| (row["node"] == node) && (row["phase"] == phase) && (row["metric"] == metric));
        found.map(|row| row["value"].as_f64().unwrap())
    };
    let halted = |step: u32| value(&format!("play[1]/red[{step}]/update"), "update", "halted");
    assert_eq!([1, 2, 3, 4].map(halted), [Some(0.0), Some(1.0), Some(1.0), Some(1.0)]);
    assert!(value("play[1]/red[2]/update", "halted", "kl").unwrap() > 1e-6);
    assert_eq!(value("play[1]/red[2]/update", "halted", "kl_limit"), Some(1e-6));
    assert_eq!(value("play[1]/red[3]/update", "halted", "kl"), None);

    // A repeated run has nothing to do, and still reports the halt.
    let again = space.triplay(&["pipeline", "run", "p.yaml"]);
    assert!(again.err.contains("play[1]/red[2]/update: halted: kl "), "{}", again.err);
}

#[test]
fn limits_that_hold_change_nothing() {
    let space = Space::new();
    space.write("p.yaml", PIPELINE);
    let run = |guards: &str| {
        space.write("p.yaml", &PIPELINE.replace(GUARDS, guards));
        let seen =
            space.triplay(&["pipeline", "run", "p.yaml", "--json", "--set", "rounds=1", "--set", "steps=2"]);
        assert!(!seen.err.contains("halted: "), "{}", seen.err);
        space.digests(&seen.json())["play[1]/red[2]/update.model"].clone()
    };
    let wide = "guards: { kl: 50, min_entropy: 0, max_entropy: 20, max_tokens: 8, repetition: 1, previous: previous }";
    let plain = run("");
    assert_eq!(run(wide), plain);
}

#[test]
fn guards_that_make_no_sense_are_errors() {
    let space = Space::new();
    space.write("p.yaml", PIPELINE);
    let fails = |guards: &str, expected: &str| {
        space.write("p.yaml", &PIPELINE.replace(GUARDS, guards));
        space.triplay(&["pipeline", "check", "p.yaml"]).fails(2, expected);
    };
    fails("guards: { kl: -1, previous: previous }", "`kl` must be at least 0, found -1");
    fails(
        "guards: { min_entropy: 2, max_entropy: 1, previous: previous }",
        "`min_entropy` must be at most `max_entropy` = 1, found 2",
    );
    fails("guards: { kl: 1 }", "previous");
}
