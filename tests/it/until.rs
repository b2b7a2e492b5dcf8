//! A loop that stops by a metric: what runs, what is reported, and what is reused.

use serde_json::Value;

use crate::space::Space;

const PIPELINE: &str = r#"
pipeline: until
seed: 4
stages:
  world: { kind: sandbox, sft: 600, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup:
    kind: sft
    data: world.sft
    tokenizer: vocabulary
    init: { hidden: 32, layers: 1, heads: 2, positions: 96 }
    steps: 1
    batch: 16
    lr: 1e-2
  learn:
    repeat: { at_most: 40, until: { metric: train.metrics, name: loss, subject: sft, phase: step 20, below: 4, in_a_row: 2 } }
    carry: { model: warmup.model }
    stages:
      train: { kind: sft, model: model, data: world.sft, steps: 20, batch: 16, lr: 1e-2 }
    next: { model: train.model }
  after: { kind: exec, command: ls model, inputs: { model: learn.model } }
"#;

#[test]
fn a_loop_stops_when_its_metric_says_so_and_what_follows_is_as_after_so_many_rounds() {
    let space = Space::new();
    space.write("p.yaml", PIPELINE);
    let seen = space.triplay(&["pipeline", "run", "p.yaml", "--json"]);
    let summary = seen.json();
    let executed = space.executed(&summary);
    let rounds = executed.iter().filter(|node| node.ends_with("/train")).count();
    assert!((2..40).contains(&rounds), "{executed:?}");
    // World, vocabulary, warm-up and what comes after; a decision in each round but the first.
    assert_eq!(executed.len(), 4 + rounds + rounds - 1);
    assert_eq!((&summary["skipped"], &summary["failed"]), (&0.into(), &0.into()));
    let start = format!("learn stopped in round {rounds}: loss of sft is ");
    let line = seen.err.lines().find(|line| line.starts_with(&start));
    assert!(line.is_some_and(|line| line.ends_with(", below 4")), "{}", seen.err);

    // A repeated run has nothing to do, and reports the same.
    let again = space.triplay(&["pipeline", "run", "p.yaml", "--json"]);
    assert_eq!((&again.json()["ran"], &again.json()["results"]), (&0.into(), &summary["results"]));
    let shown = space.triplay(&["runs", "show", "latest"]);
    assert!(
        shown.out.contains(&format!("\nloop      learn stopped in round {rounds}: loss of sft is ")),
        "{}",
        shown.out
    );

    // A plan knows the decision, and explains a round that is not reached by it.
    let plan: Value = space.triplay(&["pipeline", "plan", "p.yaml", "--json"]).json();
    assert_eq!((&plan["run"], &plan["unknown"]), (&0.into(), &0.into()));
    assert_eq!(plan["loops"][0]["stopped"], rounds);
    let explained = space.triplay(&["pipeline", "explain", "p.yaml", "learn[40]/train"]);
    let expected = format!(
        "learn[40]/train: skipped: its loop does not reach this round\nwhy: learn stops in round {rounds}\n"
    );
    assert_eq!(explained.out, expected);

    // With `repeat: N` for the same number of rounds, nothing is left to run.
    let until = PIPELINE.lines().find(|line| line.contains("repeat:")).unwrap();
    space.write("p.yaml", &PIPELINE.replace(until, &format!("    repeat: {rounds}")));
    let fixed = space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json();
    assert_eq!((&fixed["ran"], &fixed["cached"]), (&0.into(), &(4 + rounds).into()));
}

#[test]
fn a_metric_that_is_not_there_is_said_with_those_that_are() {
    let space = Space::new();
    space.write("p.yaml", &PIPELINE.replace("name: loss", "name: los"));
    let seen = space.triplay(&["pipeline", "run", "p.yaml"]);
    seen.fails(1, "error: learn[02]/until: train.metrics: `until` must name one of its metrics, found none that fits\n  help: there are loss (subject sft, phase step 1), grad_norm");
}

#[test]
fn a_target_in_a_round_runs_the_rounds_before_it_and_one_that_is_not_reached_is_skipped() {
    let space = Space::new();
    space.write("p.yaml", PIPELINE);
    let run = |target: &str| space.triplay(&["pipeline", "run", "p.yaml", target, "--json"]);
    let plan = space.triplay(&["pipeline", "plan", "p.yaml", "learn[2]/train"]);
    assert!(
        plan.out.ends_with("p.yaml: 5 nodes: 0 cached, 1 to run, 4 not known until those are done\n"),
        "{}",
        plan.out
    );
    let second = run("learn[2]/train");
    assert_eq!(second.json()["ran"], 5);
    assert!(!second.err.contains("learn ran") && !second.err.contains("learn stopped"), "{}", second.err);
    let last = run("learn[40]/train");
    assert!(last.err.contains("learn stopped in round "), "{}", last.err);
    let summary = last.json();
    assert_eq!((&summary["status"], &summary["cached"]), (&"done".into(), &5.into()));
    assert!(!space.executed(&summary).contains(&"learn[40]/train".to_owned()));
    assert_eq!(run("learn[40]/train").json()["run"], summary["run"], "nothing to do");
    let whole = space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json();
    assert_eq!(space.executed(&whole), ["after"]);
}
