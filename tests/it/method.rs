//! The terms of the method that small.yaml does not use: coverage, decoupled advantages, replay, several datasets,
//! and datasets that are empty.

use serde_json::Value;
use triplay::data::{self, AttackRow, MeaningRow};

use crate::space::{Seen, Space};

const HEAD: &str = r#"
pipeline: method
seed: 4
params: { prompts: 4, replayed: 3, normalize: gdpo, data: [attacks, again] }
stages:
  world: { kind: sandbox, sft: 300, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup:
    kind: sft
    data: world.sft
    tokenizer: vocabulary
    init: { hidden: 32, layers: 1, heads: 2, positions: 96 }
    steps: 60
    batch: 16
    lr: 1e-2
  attacks: { kind: generate, model: warmup.model, data: world.seeds, prompts: $prompts, group: 4, sampling: { max_new_tokens: 12 } }
  first: { kind: respond, data: attacks, models: [{ model: warmup.model }], sampling: { max_new_tokens: 8 } }
  judged: { kind: judge, data: first, model: warmup.model }
  rewards:
    kind: reward
    data: attacks
    terms:
      - { success: { verdicts: judged, values: { negative: 1, rejective: 1, positive: 1 } } }
      - { meaning: {}, weight: 0.3 }
      - { self_bleu: { pool: world.empty_pool }, weight: 2 }
      - { coverage: { pool: world.empty_pool, examples: world.benign, threshold: 0 }, weight: 0.25 }
    advantage: { normalize: $normalize }
  pool: { kind: pool, data: rewards, into: world.empty_pool, threshold: 0 }
  again: { kind: replay, data: pool, prompts: $replayed }
  responses:
    kind: respond
    data: $data
    models: [{ model: warmup.model, weight: 1 }, { model: warmup.model, name: never, weight: 0 }]
    sampling: { max_new_tokens: 8 }
  verdicts: { kind: judge, data: responses, model: warmup.model }
  learnt: { kind: pool, verdicts: verdicts, into: pool, decay: 0.5 }
  update: { kind: update, model: warmup.model, data: rewards, algorithm: { grpo: { lr: 1e-4 } } }
"#;

fn rows(space: &Space, node: &str) -> Vec<Value> {
    let seen = space.triplay(&["data", "show", &format!("latest:{node}"), "--json", "--rows", "1000"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    seen.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The score of a reward's term.
fn score<'a>(row: &'a Value, name: &str) -> &'a Value {
    let mut terms = row["components"].as_array().unwrap().iter();
    &terms.find(|term| term["name"] == name).unwrap()["score"]
}

/// A term's note on a row.
fn note<'a>(row: &'a Value, name: &str) -> Option<&'a str> {
    let mut notes = row["notes"].as_array().unwrap().iter();
    notes.find(|note| note["name"] == name)?["value"].as_str()
}

fn run(space: &Space, settings: &[&str]) -> Seen {
    space.write("p.yaml", HEAD);
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let seen = space.triplay(&[&["pipeline", "run", "p.yaml", "--json"], &settings[..]].concat());
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    seen
}

#[test]
fn coverage_replay_and_posteriors_do_what_they_say() {
    let space = Space::new();
    run(&space, &[]);
    let rewards = rows(&space, "rewards");
    assert_eq!(rewards.len(), 16);
    for row in &rewards {
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        // The pool is empty: every success is the first of its cell.
        let rare = number(score(row, "success")) > 0.0 && note(row, "technique").is_some();
        assert_eq!(number(score(row, "coverage")), if rare { 1.0 } else { 0.0 }, "{row}");
        assert!(["kept", "lost"].contains(&note(row, "meaning").unwrap()));
        let total: f64 =
            row["components"].as_array().unwrap().iter().map(|term| number(&term["value"])).sum();
        assert!((number(&row["reward"]) - total).abs() < 1e-12, "{row}");
    }
    // The advantages of GDPO are relative to the batch too.
    let advantages: Vec<f64> = rewards.iter().map(|row| row["advantage"].as_f64().unwrap()).collect();
    assert!(advantages.iter().sum::<f64>().abs() < 1e-9);

    let (pool, again) = (rows(&space, "pool"), rows(&space, "again"));
    assert_eq!((pool.len(), again.len()), (16, 3));
    for row in &again {
        let known = pool.iter().find(|known| known["text"] == row["text"]).unwrap();
        for column in ["seed_id", "category", "seed", "technique"] {
            assert_eq!(row[column], known[column], "{column}");
        }
        assert_eq!((&row["role"], &row["task"]), (&"template".into(), &"hazard".into()));
    }

    // Both datasets, each attack with a number of its own; the model with weight 0 is never asked.
    let responses = rows(&space, "responses");
    let numbers: Vec<u64> = responses.iter().map(|row| row["attack_id"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..19).collect::<Vec<u64>>());
    assert!(responses.iter().all(|row| row["defender"] == "defender"));

    let mut answered = 0;
    for (before, after) in pool.iter().zip(rows(&space, "learnt")) {
        let number = |row: &Value, column: &str| row[column].as_f64().unwrap();
        assert_eq!(number(before, "alpha"), 1.0 + number(before, "success"));
        assert_eq!(number(before, "beta"), 2.0 - number(before, "success"));
        // Each prompt was answered once, or more often if its text occurs again; decayed counts are at most 0.5 each.
        let seen = number(&after, "alpha") + number(&after, "beta") - 2.0;
        assert!(seen == 1.0 || seen >= 1.5, "{after}");
        answered += usize::from(seen >= 1.5);
    }
    assert!(answered > 0, "no answer was counted");
}

#[test]
fn empty_datasets_pass_through() {
    let space = Space::new();
    let seen = run(&space, &["prompts=0"]);
    for node in ["attacks", "first", "judged", "rewards", "pool", "again", "responses", "verdicts", "learnt"]
    {
        assert_eq!(rows(&space, node).len(), 0, "{node}");
    }
    let digests = space.digests(&seen.json());
    assert_eq!(digests["update.model"], digests["warmup.model"]);
    let metrics = rows(&space, "update.metrics");
    let passed = metrics.iter().find(|row| row["metric"] == "passed_through").unwrap();
    assert_eq!(passed["value"], 1.0);

    // Without replayed rows, the result is as if there were no replay.
    let seen = run(&space, &["replayed=0"]).json();
    let alone = run(&space, &["replayed=0", "data=[attacks]"]).json();
    assert_eq!(space.digests(&seen)["responses.responses"], space.digests(&alone)["responses.responses"]);
}

#[test]
fn what_makes_no_sense_is_an_error_that_says_what_does() {
    let space = Space::new();
    let fails = |from: &str, to: &str, expected: &str| {
        assert!(HEAD.contains(from), "{from}");
        space.write("p.yaml", &HEAD.replace(from, to));
        space.triplay(&["pipeline", "check", "p.yaml"]).fails(2, expected);
    };
    fails(
        "name: never, weight: 0",
        "name: never, weight: 0.5",
        "the weights of the models must add up to 1, found 1.5",
    );
    let first = "- { success: { verdicts: judged";
    fails("normalize: $normalize", "normalize: most", "help: there are: group, batch, none, gdpo");
    fails("weight: 0.25", "weight: heavy", "`terms.3.weight` must be a number, found text");
    fails(
        "- { meaning: {}",
        "- { meaning: {}, name: success",
        "each term must have its own name, found `success` twice",
    );
    fails(
        "- { meaning: {}",
        "- { meaning: {}, name: Meaning-1",
        "`name` must begin with a lower-case letter",
    );
    fails(
        "- { meaning: {}",
        "- { name: meaning",
        "a term must have one kind, found none: the kinds are success, ",
    );
    fails(
        first,
        "- { meaning: {}, success: { verdicts: judged",
        "a term must have one kind, found success and meaning",
    );
    let coverage = "coverage: { pool: world.empty_pool";
    fails(
        coverage,
        "coverage: { success: win, pool: world.empty_pool",
        "`success` must be the name of a term above, found `win`",
    );
    let density = "density: { embedder: warmup.model, times: luck, pool: world.empty_pool }, name: x }\n      - { coverage: { pool: world.empty_pool";
    fails(
        coverage,
        density,
        "`times` must be the name of a term above, found `luck`; the terms above are success, meaning, self_bleu",
    );
    fails(
        "verdicts: verdicts, into: pool",
        "into: pool",
        "`data` (rewards to take attacks from) or `verdicts` must be given",
    );
    fails("decay: 0.5", "decay: 1.5", "`decay` must be between 0 and 1, found 1.5");
    fails("data: $data", "data: []", "`data` (attacks) or `benign` (prompts) must be given, found neither");
    fails("data: $data", "data: [attacks, pool]", "pool");
}

#[test]
fn rewards_need_verdicts_and_meanings_of_the_same_step() {
    let space = Space::new();
    let fails = |from: &str, to: &str, expected: &str| {
        assert!(HEAD.contains(from), "{from}");
        space.write("p.yaml", &HEAD.replace(from, to));
        space.triplay(&["pipeline", "run", "p.yaml"]).fails(1, expected);
    };
    let other = "  other: { kind: judge, data: none, model: warmup.model }\n  none: { kind: respond, data: nothing, models: [{ model: warmup.model }] }\n  nothing: { kind: replay, data: world.empty_pool, prompts: 4 }\n  rewards:\n";
    space.write("p.yaml", HEAD);
    let text = HEAD.replace("  rewards:\n", other).replace("verdicts: judged", "verdicts: other");
    space.write("p.yaml", &text);
    space
        .triplay(&["pipeline", "run", "p.yaml"])
        .fails(2, "`verdicts` must be on `attacks`, which is rewarded, but `data` of `none`");
    let examples = "examples: attacks";
    fails(
        "examples: world.benign",
        examples,
        "`examples` must have attacks with a `technique`, such as the sandbox's `benign`, found none in `attacks`",
    );
}

#[test]
fn a_judge_of_meaning_takes_the_place_of_the_seeds_words() {
    let space = Space::new();
    let digests = space.digests(&run(&space, &["replayed=0"]).json());
    let digest = &digests["attacks.attacks"];
    let attacks: Vec<AttackRow> =
        data::read(&space.path(&format!(".triplay/blobs/{}/{digest}", &digest[..2]))).unwrap();
    let classes = ["kept", "lost", "undetermined"];
    let judged: Vec<MeaningRow> = (attacks.iter().zip(classes.iter().cycle()))
        .map(|(attack, class)| MeaningRow {
            attack_id: attack.attack_id,
            origin: attack.origin.clone(),
            attack: attack.text.clone(),
            class: (*class).into(),
            text: (*class).into(),
            sample: attack.sample.clone(),
            at: attack.at.clone(),
        })
        .collect();
    let judge = "meanings: { path: meanings.parquet }";
    let pipeline = HEAD
        .replace("{ success: { verdicts: judged", &format!("{{ success: {{ {judge}, verdicts: judged"))
        .replace("{ meaning: {}", &format!("{{ meaning: {{ {judge} }}"));
    let meanings = |rows: &[MeaningRow]| {
        data::write(&space.path("meanings.parquet"), rows).unwrap();
        space.write("p.yaml", &pipeline);
        space.triplay(&["pipeline", "run", "p.yaml", "--json"])
    };
    let seen = meanings(&judged);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    for ((row, attack), class) in rows(&space, "rewards").iter().zip(&attacks).zip(classes.iter().cycle()) {
        // An empty attack keeps no meaning, whatever the judge says.
        let class = if attack.text.is_empty() { "lost" } else { class };
        assert_eq!(note(row, "meaning"), Some(class));
        let expected = match class {
            "kept" => Value::from(1.0),
            "lost" => Value::from(0.0),
            _ => Value::Null,
        };
        assert_eq!(*score(row, "meaning"), expected, "{row}");
        assert!(class == "kept" || *score(row, "success") == expected, "{row}");
        assert!(class != "undetermined" || row["undetermined"].as_u64() >= Some(1), "{row}");
    }
    // If all attacks except one keep their meaning, judged attacks succeed, each as the first of its cell, and GDPO has
    // differences to learn from.
    let mut kept: Vec<MeaningRow> =
        judged.iter().map(|row| MeaningRow { class: "kept".into(), ..row.clone() }).collect();
    kept[0].class = "lost".into();
    assert_eq!(meanings(&kept).code, Some(0));
    let rewards = rows(&space, "rewards");
    assert!(rewards.iter().any(|row| score(row, "coverage") == 1.0), "{rewards:?}");
    assert!(rewards.iter().any(|row| row["advantage"].as_f64() > Some(0.1)), "{rewards:?}");

    meanings(&judged[1..])
        .fails(1, "attack 0 of `attacks` must have a meaning in `meanings.parquet`, found none");
    let mut strange = judged;
    strange[0].class = "maybe".into();
    meanings(&strange).fails(
        1,
        "`class` of attack 0 in `meanings.parquet` must be kept, lost or undetermined, found `maybe`",
    );
}
