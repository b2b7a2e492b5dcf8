//! `runs compare`: how a change affected the metrics, prompt by prompt.

use serde_json::Value;

use crate::space::{Seen, Space};

/// Runs a pipeline to its end and returns the name of the run.
fn run(space: &Space, file: &str, more: &[&str]) -> String {
    let summary = space.triplay(&[&["pipeline", "run", file, "--json"], more].concat());
    assert_eq!(summary.code, Some(0), "{}", summary.err);
    summary.json()["run"].as_str().unwrap().to_owned()
}

/// small.yaml with one round of one step.
const SHORT: [&str; 4] = ["--set", "rounds=1", "--set", "steps=1"];

fn metric<'v>(compared: &'v Value, name: &str) -> &'v Value {
    let metrics = compared["metrics"].as_array().unwrap();
    metrics.iter().find(|metric| metric["metric"] == name).unwrap_or_else(|| panic!("{name}: {compared:#}"))
}

fn fits(seen: &Seen) {
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    for line in seen.out.lines().skip_while(|line| !line.starts_with("metrics after")) {
        assert!(line.chars().count() <= 80, "{line}\n{}", seen.out);
        assert!(!line.contains('\u{1b}'), "{line}");
    }
}

#[test]
fn metrics_are_tested_prompt_by_prompt_and_flipped_prompts_are_shown() {
    let space = Space::new();
    let first = run(&space, "small.yaml", &SHORT);
    let second =
        run(&space, "small.yaml", &[&SHORT[..], &["--set", "diversity=0.4", "--set", "prompts=5"]].concat());
    let third =
        run(&space, "small.yaml", &[&SHORT[..], &["--set", "diversity=0.2", "--set", "prompts=3"]].concat());

    let compared = space.triplay(&["runs", "compare", &first, &second, &third, "--json"]).json();
    assert_eq!((&compared["after_a"], &compared["after_b"]), (&"mini".into(), &"mini".into()));
    let benchmark = metric(&compared, "defender benchmark_success");
    assert_eq!((&benchmark["test"], &benchmark["prompts"]), (&"mcnemar".into(), &24.into()));
    assert!(benchmark["interval"]["low"].is_number() && benchmark["detectable"].is_number(), "{benchmark}");
    assert!(benchmark["p_adjusted"].as_f64() >= benchmark["p"].as_f64(), "{benchmark}");
    // Responses of two defenders to each attack: two attempts.
    let fresh = metric(&compared, "evaluator accuracy_fresh");
    assert_eq!(fresh["test"], "bootstrap", "{fresh}");
    let of = |key: &str| fresh[key].as_u64().unwrap();
    assert!(of("prompts") < of("a_attempts") && of("a_attempts") <= 2 * of("prompts"), "{fresh}");
    assert!(of("a_attempts") + of("a_undetermined") <= 2 * 80, "{fresh}");
    assert_eq!(metric(&compared, "defender rejective")["test"], "mcnemar");
    // One seed, and no outcomes of single prompts.
    let diversity = metric(&compared, "attacks diversity");
    assert!(diversity["test"].is_null() && diversity["difference"].is_number(), "{diversity}");
    assert_eq!(compared["more"][0]["b"], third.as_str());
    assert!(metric(&compared["more"][0], "defender benchmark_success")["p"].is_number());
    // The p-values of both pairs are adjusted together.
    let alone = space.triplay(&["runs", "compare", &first, &second, "--json"]).json();
    let tests = |compared: &Value| compared["tests"].as_u64().unwrap();
    assert!(
        tests(&compared) > tests(&alone) && tests(&compared) == tests(&compared["more"][0]),
        "{compared:#}"
    );
    for flip in compared["flips"].as_array().unwrap() {
        let [a, b] = ["a", "b"].map(|side| {
            let of = |key: &str| flip[side][key].as_f64().unwrap();
            of("hits") / of("attempts")
        });
        assert!(a != b && (b > a) == (flip["direction"] == "gained"), "{flip}");
        assert!(flip["prompt_id"].is_string() && flip["a"]["response"].is_string(), "{flip}");
    }

    let shown = space.triplay(&["runs", "compare", &first, &second, &third, "--all", "--flips", "2"]);
    fits(&shown);
    for expected in [
        "metrics after mini; ",
        "  benchmark_success ",
        " McN ",
        "p decides: below 0.05 ",
        "\nrates: ",
        "C - A",
    ] {
        assert!(shown.out.contains(expected), "{expected}\n{}", shown.out);
    }

    // Without options, what matters; the rest when it is asked for.
    let short = space.triplay(&["runs", "compare", &first, &second]);
    fits(&short);
    for expected in [
        &format!("A  {first}  small  done\n"),
        "\nparameters  diversity: ",
        "\nmetrics after mini; ",
        "  benchmark_success ",
        "p decides: below 0.05 the metric differs.",
        "\nmore: --metric NAME ",
    ] {
        assert!(short.out.contains(expected), "{expected}\n{}", short.out);
    }
    for unexpected in ["distinct_1", "\nrates: ", "prompts that flipped:"] {
        assert!(!short.out.contains(unexpected), "{unexpected}\n{}", short.out);
    }
    let with_flips = space.triplay(&["runs", "compare", &first, &second, "--flips", "1"]);
    assert_eq!(
        with_flips.out.contains("\nprompts that flipped: "),
        compared["flips"] != Value::Array(vec![])
    );
    for name in ["benchmark_success", "defender.benchmark_success", "defender benchmark_success", "bench"] {
        let one = space.triplay(&["runs", "compare", &first, &second, "--metric", name]);
        fits(&one);
        assert!(one.out.contains("  benchmark_success ") && one.out.contains("\nrates: "), "{}", one.out);
        assert!(!one.out.contains("accuracy_fresh"), "{}", one.out);
    }
    space
        .triplay(&["runs", "compare", &first, &second, "--metric", "benchmark_sucess"])
        .fails(2, "no metric `benchmark_sucess`; did you mean `benchmark_success`?");

    // A run compared with itself has no difference.
    let same = space.triplay(&["runs", "compare", &first, &first, "--json"]).json();
    assert_eq!((&same["flips"], &same["different"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert!(same["metrics"].as_array().unwrap().iter().all(|metric| metric["difference"] == 0.0), "{same:#}");

    space
        .triplay(&["runs", "compare", &first, &second, "--at", "minni"])
        .fails(2, "has no evaluation after `minni`; did you mean `mini`?");
    fits(&space.triplay(&["runs", "compare", &first, &second, "--at", "after"]));
    space.triplay(&["runs", "compare", &first]).fails(2, "2 values required");
}

#[test]
fn evaluations_that_were_not_alike_are_refused_unless_forced() {
    let space = Space::new();
    let first = run(&space, "small.yaml", &SHORT);
    let small = include_str!("small.yaml");
    let more = small.replace(
        "    group: 1\n    sampling: { max_new_tokens: 12 }",
        "    group: 2\n    sampling: { max_new_tokens: 11 }",
    );
    assert_ne!(more, small);
    space.write("more.yaml", &more);
    let second = run(&space, "more.yaml", &SHORT);
    let refused = space.triplay(&["runs", "compare", &first, &second]);
    refused.fails(2, "were not evaluated alike:\n  decoding: parameter group: 1 → 2 (after)\n");
    refused.fails(2, "decoding: parameter sampling.max_new_tokens: 12 → 11 (after)\n  help: ");
    let forced = space.triplay(&["runs", "compare", &first, &second, "--force"]);
    fits(&forced);
    assert!(
        forced.out.contains("  - not comparable, but forced: decoding: parameter group: 1 → 2"),
        "{}",
        forced.out
    );
    let forced = space.triplay(&["runs", "compare", &first, &second, "--force", "--json"]).json();
    let success = metric(&forced, "defender rejective");
    assert_eq!(success["test"], "bootstrap", "another number of attempts");
    assert_eq!(success["b_attempts"].as_u64().unwrap(), 2 * success["a_attempts"].as_u64().unwrap());

    // Other prompts.
    space.write("fewer.yaml", &small.replace("benchmark: 24", "benchmark: 20"));
    let third = run(&space, "fewer.yaml", &SHORT);
    space.triplay(&["runs", "compare", &first, &third]).fails(2, "  prompts: input benchmark: content ");
    let forced = space.triplay(&["runs", "compare", &first, &third, "--force", "--json"]).json();
    let benchmark = metric(&forced, "defender benchmark_success");
    let count = |name: &str| benchmark[name].as_u64().unwrap();
    assert_eq!(
        (count("prompts") + count("only_a"), count("prompts") + count("only_b")),
        (24, 20),
        "{benchmark}"
    );
    assert!(forced["notes"].to_string().contains("left out: "), "{}", forced["notes"]);
}

#[test]
fn seeds_are_compared_as_the_table_does_and_each_has_its_line() {
    let space = Space::new();
    let small = include_str!("small.yaml").trim_end().to_owned();
    space.write("seeds.yaml", &(small + "\nablations: { full: {}, flat: { diversity: 0, prompts: 5 } }\n"));
    let seeded = run(&space, "seeds.yaml", &["--seeds", "5,6", "--ablation", "all"]);
    let (full, flat) = (format!("{seeded}@full"), format!("{seeded}@flat"));
    let compared = space.triplay(&["runs", "compare", &full, &flat, "--json"]).json();
    assert_eq!(compared["seeds"], serde_json::json!([5, 6]));
    let success = metric(&compared, "defender attack_success");
    assert!(["student_t", "sign"].contains(&success["test"].as_str().unwrap()), "{success}");
    let seeds = success["seeds"].as_array().unwrap();
    assert_eq!(seeds.len(), 2);
    let mean = seeds.iter().map(|seed| seed["a"].as_f64().unwrap()).sum::<f64>() / 2.0;
    assert!((mean - success["a"].as_f64().unwrap()).abs() < 1e-12);
    assert_eq!(metric(&compared, "attacks diversity")["test"], "student_t");
    assert_eq!(metric(&compared, "attacks diversity")["mirrors"], "attacks self_bleu");
    for (name, short) in
        [("defender attack_success", "attack_success"), ("attacks diversity", "attacks.diversity")]
    {
        says_what_the_table_says(&space, metric(&compared, name), &seeded, short);
    }
    let shown = space.triplay(&["runs", "compare", &full, &flat, "--all"]);
    fits(&shown);
    for expected in ["    seed 5 ", "    seed 6 ", " t ", "paired t over seeds.", "p decides: "] {
        assert!(shown.out.contains(expected), "{expected}\n{}", shown.out);
    }
    // One seed of an ablation against the same seed of another, and a whole run, which is no single ablation.
    let one =
        space.triplay(&["runs", "compare", &format!("{full}-s5"), &format!("{flat}-s5"), "--json"]).json();
    assert_eq!(metric(&one, "defender benchmark_success")["test"], "mcnemar");
    let alone = run(&space, "small.yaml", &["--set", "prompts=5"]);
    let one = space.triplay(&["runs", "compare", &alone, &flat, "--json"]).json();
    assert_eq!(metric(&one, "defender benchmark_success")["test"], "mcnemar", "the seed that both have");
    assert_eq!(one["notes"][0], format!("only {flat} has seed 6: left out"));
    let whole = space.triplay(&["runs", "compare", &seeded, &seeded, "--json"]).json();
    assert!(whole["notes"][0].as_str().unwrap().contains("has several ablations (flat, full)"), "{whole:#}");
}

/// Asserts that a compared metric (A: full, B: flat) has the values, differences and intervals of `results table`.
fn says_what_the_table_says(space: &Space, compared: &Value, run: &str, metric: &str) {
    let table = space.triplay(&["results", "table", run, "--metric", metric, "--json"]).json();
    let near = |found: &Value, expected: f64| (found.as_f64().unwrap() - expected).abs() < 1e-12;
    let lines = table["lines"].as_array().unwrap();
    for (aspect, ablation, value, interval) in [
        ("last", "full", "a", "a_interval"),
        ("last", "flat", "b", "b_interval"),
        ("difference", "flat", "difference", "interval"),
    ] {
        let of = |line: &&Value| line["aspect"] == aspect && line["ablation"] == ablation;
        let estimate = &lines.iter().find(of).unwrap_or_else(|| panic!("{table:#}"))["estimates"][0];
        let mean = estimate["mean"].as_f64().unwrap();
        assert!(near(&compared[value], mean), "{value} of {compared:#} {estimate}");
        let ends = |estimate: &Value| [estimate["low"].as_f64(), estimate["high"].as_f64()];
        match (ends(&estimate["interval"]), ends(&compared[interval])) {
            ([Some(low), Some(high)], [Some(a), Some(b)]) => {
                assert!(
                    (low - a).abs() < 1e-12 && (high - b).abs() < 1e-12,
                    "{interval}: {compared:#} {estimate}"
                );
                let least = if aspect == "difference" { -1.0 } else { 0.0 };
                assert!(low <= mean && mean <= high, "{estimate}");
                assert!(metric != "attack_success" || (low >= least && high <= 1.0), "{estimate}");
            }
            (table, compared) => assert_eq!(table, compared, "{interval}"),
        }
    }
}

#[test]
fn a_run_that_did_not_finish_is_compared_with_what_it_has() {
    let space = Space::new();
    let first = run(&space, "small.yaml", &SHORT);
    let more = "
  broken: { kind: exec, command: \"exit 1\", inputs: { in: after.metrics } }
";
    space.write("broken.yaml", &(include_str!("small.yaml").trim_end().to_owned() + more));
    let failed =
        space.triplay(&[&["pipeline", "run", "broken.yaml", "--set", "diversity=0.5"], &SHORT[..]].concat());
    assert_eq!(failed.code, Some(1), "{}", failed.err);
    let shown = space.triplay(&["runs", "compare", &first, "latest"]);
    fits(&shown);
    assert!(shown.out.contains(" is not finished: "), "{}", shown.out);
    assert!(shown.out.contains("  benchmark_success "), "{}", shown.out);
}
