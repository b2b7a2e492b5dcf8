//! Metrics of stages of one's own over a matrix with seeds: in tables, curves, lists, comparisons, reports and SQL.

use serde_json::Value;

use crate::report::Page;
use crate::space::{Seen, Space};

/// A matrix of 2 × 3, of which one axis is seeds. The loss is heat + seed / 100, and falls by 1 a step before that. `sum` takes
/// all results, `mean` those of one heat.
const TRAINED: &str = r#"pipeline: p
params: { base: 0, heats: [0.5, 2e-1] }
stages:
  train:
    kind: exec
    random: true
    matrix: { heat: $heats, seeds: [1, 2, 3] }
    command: >-
      loss=$(awk "BEGIN { print ${base} + ${heat} + ${seed} / 100 }");
      echo "{\"loss\": $loss, \"val\": {\"accuracy\": 0.5}}" > m.json;
      for step in 1 2; do echo "{\"step\": $step, \"rate\": $(awk "BEGIN { print 3 - $step + $loss }")}"; done > curve.jsonl;
      echo $TRIPLAY_SEED > seed
    outputs: { metrics: { type: metrics, path: m.json }, curve: { type: metrics, path: curve.jsonl }, seed: text }
  mean:
    kind: exec
    matrix: { heat: $heats }
    command: cat seeds/*
    inputs: { seeds/*: "train[${heat},*].seed" }
    outputs: {}
  sum:
    kind: exec
    command: echo '{"nodes":' $(ls all | wc -l)'}' > m.json
    inputs: { all/*: "train[*].metrics" }
    outputs: { metrics: { type: metrics, path: m.json } }
"#;

fn trained(more: &[&str]) -> (Space, Seen) {
    let space = Space::new();
    space.write("p.yaml", TRAINED);
    let ran = run(&space, more);
    (space, ran)
}

fn run(space: &Space, more: &[&str]) -> Seen {
    let ran = space.triplay(&[&["pipeline", "run", "p.yaml"], more].concat());
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    ran
}

fn line<'s>(seen: &'s Seen, first: &str) -> Vec<&'s str> {
    let line = seen.out.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("{first}: {}{}", seen.out, seen.err)).split_whitespace().collect()
}

#[test]
fn seeds_of_a_matrix_are_repetitions_with_the_parameters_beside_them() {
    let (space, ran) = trained(&[]);
    assert!(!ran.err.contains("warning"), "{}", ran.err);
    for seen in [ran, space.triplay(&["results", "table", "latest"])] {
        let heading = line(&seen, "variant");
        assert_eq!(heading[..4], ["variant", "seeds", "heat", "train.loss"], "{}", seen.out);
        assert_eq!(
            line(&seen, "0.5")[..6],
            ["0.5", "3", "0.5", "0.520", "[0.495,", "0.545]"],
            "{}",
            seen.out
        );
        assert_eq!(
            line(&seen, "2e-1")[..6],
            ["2e-1", "3", "2e-1", "0.220", "[0.195,", "0.245]"],
            "{}",
            seen.out
        );
        assert!(seen.out.contains("\nas it stands"), "`sum` is in no matrix: {}", seen.out);
        assert!(seen.out.contains("difference from 0.5 of the last values"), "{}", seen.out);
    }
    let table = space.triplay(&["results", "table", "latest", "--json"]).json();
    let found = &table["lines"][1];
    assert_eq!((&table["params"][0], &found["params"]["heat"]), (&"heat".into(), &0.2.into()), "{table:#}");
    assert_eq!(found["estimates"][0]["count"], 3, "{table:#}");
    let plot = space.triplay(&["results", "plot", "rate", "latest"]);
    assert!(plot.out.contains("mean and 95 % interval over 3 seeds"), "{}{}", plot.out, plot.err);
    // Each has a seed of its own, and the same for both heats.
    let shown = |node: &str| space.triplay(&["data", "show", &format!("latest:{node}")]).out;
    assert_eq!(shown("train[0.5,2].seed"), shown("train[2e-1,2].seed"));
    assert_eq!(shown("mean[0.5].log").lines().count(), 3);
    assert_ne!(shown("train[0.5,2].seed"), shown("train[0.5,3].seed"));
    assert_eq!(shown("sum"), "{\"nodes\": 6}\n");

    let list = space.triplay(&["runs", "list"]);
    assert!(list.out.contains("  metric ") && list.out.contains("train.loss 0.220 to 0.520"), "{}", list.out);
}

#[test]
fn runs_are_compared_variant_by_variant_and_seed_by_seed() {
    let (space, _) = trained(&[]);
    run(&space, &["--set", "base=1"]);
    let folders = space.triplay(&["runs", "list", "--json"]).out;
    let name = |line: &str| serde_json::from_str::<Value>(line).unwrap()["run"].as_str().unwrap().to_owned();
    let names: Vec<String> = folders.lines().map(name).collect();
    let (before, after) = (&names[1], &names[0]);
    let compared = space.triplay(&["runs", "compare", before, after, "--json"]).json();
    let found = |metric: &str| {
        let metrics = compared["metrics"].as_array().unwrap();
        metrics.iter().find(|own| own["metric"] == metric).unwrap_or_else(|| panic!("{compared:#}")).clone()
    };
    for (metric, a) in [("train[0.5] loss", 0.52), ("train[2e-1] loss", 0.22)] {
        let found = found(metric);
        assert!((found["a"].as_f64().unwrap() - a).abs() < 1e-9, "{found:#}");
        assert!((found["difference"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{found:#}");
        assert_eq!(
            (found["seeds"].as_array().unwrap().len(), &found["test"]),
            (3, &"sign".into()),
            "{found:#}"
        );
    }
    let rate = found("train[0.5] rate");
    assert!((rate["a"].as_f64().unwrap() - 1.52).abs() < 1e-9, "of the last step: {rate:#}");
    assert_eq!(found("sum nodes")["difference"], 0.0);
    let shown = space.triplay(&["runs", "compare", before, after]);
    assert_eq!(line(&shown, "train[2e-1].loss")[1..4], ["0.220", "1.220", "1.000"], "{}", shown.out);
    assert!(
        shown.out.contains("sum: other parameters or inputs in B, and the same outputs (1 node)"),
        "{}",
        shown.out
    );
    let shown = space.triplay(&["runs", "compare", before, after, "--all"]);
    assert!(shown.out.contains("\ntrain[2e-1]\n") && shown.out.contains("    seed 3"), "{}", shown.out);

    // Both runs in one table: the parameter that differs is a column, and seeds of a matrix are not pooled.
    let table = space.triplay(&["results", "table", before, after, "--metric", "loss"]);
    assert_eq!(line(&table, "variant")[2..4], ["heat", "base"], "{}", table.out);
    assert_eq!(line(&table, &format!("{after}[0.5]"))[1..4], ["3", "0.5", "1"], "{}", table.out);
}

/// A sweep of `lrs` and two metrics beside it: with the base, the loss rises by the learning rate.
const SWEEP: &str = r#"pipeline: sweep
params: { base: 0, lrs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], more: { heat: 0.5, cool: 1 } }
stages:
  train:
    kind: exec
    random: true
    matrix: { lr: $lrs, seeds: [1, 2] }
    command: >-
      echo "{\"loss\": $(awk "BEGIN { print 1 + ${base} * ${lr} + ${seed} / 100 }")}" > m.json
    outputs: { metrics: { type: metrics, path: m.json } }
  eval:
    kind: exec
    command: >-
      echo '{"score":' ${base}', "heat":' ${more.heat}', "cool":' ${more.cool}'}' > m.json
    outputs: { metrics: { type: metrics, path: m.json } }
"#;

#[test]
fn a_comparison_of_a_sweep_names_every_metric_and_what_it_leaves_out() {
    let space = Space::new();
    space.write("p.yaml", SWEEP);
    let name =
        |more: &[&str]| run(&space, &[more, &["--json"]].concat()).json()["run"].as_str().unwrap().to_owned();
    let first = name(&[]);
    let second = name(&["--set", "base=1", "--set", "more.heat=0.9"]);
    let third = name(&["--set", "lrs=[10, 11]"]);
    let compare = |more: &[&str]| {
        let seen = space.triplay(&[&["runs", "compare", &first], more].concat());
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        seen
    };

    // The largest differences, and each metric at least once.
    let seen = compare(&[&second]);
    for (row, values) in [
        ("eval.score", ["0.000", "1.000"]),
        ("eval.cool", ["1.000", "1.000"]),
        ("train[10].loss", ["1.015", "11.015"]),
        ("train[6].loss", ["1.015", "7.015"]),
    ] {
        assert_eq!(line(&seen, row)[1..3], values, "{}", seen.out);
    }
    assert!(seen.out.contains("\nand 5 more: 5 of train[*].loss\n"), "{}", seen.out);
    assert!(!seen.out.contains("train[5].loss"), "{}", seen.out);
    assert!(seen.out.contains("\nparameters  base: 0 → 1; more.heat: 0.5 → 0.9\n"), "{}", seen.out);

    // One common variant: the others have no rows.
    let seen = compare(&[&third]);
    assert_eq!(line(&seen, "train[10].loss")[1..3], ["1.015", "1.015"], "{}", seen.out);
    assert!(seen.out.contains("\nonly A has 9: 9 of train[*].loss\n"), "{}", seen.out);
    assert!(seen.out.contains("\nonly B has 1: train[11].loss\n"), "{}", seen.out);

    // All commands take the same names.
    for (name, variants) in
        [("loss", 10), ("train.loss", 10), ("train[*].loss", 10), ("train[3].loss", 1), ("eval.score", 1)]
    {
        let seen = compare(&[&second, "--metric", name]);
        let subjects = seen.out.lines().filter(|line| line.starts_with("train[") || *line == "eval").count();
        assert_eq!(subjects, variants, "{}", seen.out);
        let table = space.triplay(&["results", "table", &first, "--metric", name, "--json"]).json();
        let lines = table["lines"].as_array().unwrap();
        assert_eq!(lines.iter().filter(|line| line["aspect"] == "last").count(), variants, "{table:#}");
        let plot = space.triplay(&["results", "plot", name, &first]);
        assert_eq!(plot.code, Some(0), "{}", plot.err);
    }
    let wrong = "no metric `train[12].loss`; there is train[10].loss, train[1].loss, ";
    space.triplay(&["runs", "compare", &first, &second, "--metric", "train[12].loss"]).fails(2, wrong);
    space.triplay(&["results", "table", &first, "--metric", "train[12].loss"]).fails(2, wrong);
    space.triplay(&["results", "plot", "train[12].loss", &first]).fails(2, wrong);

    // Names that are too long differ where they are shown.
    let plot = space.triplay(&["results", "plot", "train[3].loss", &first, &second]);
    let names: Vec<&str> = plot.out.lines().filter_map(|line| Some(line.split_once(" …")?.1)).collect();
    assert!(names.len() == 2 && names[0] != names[1], "{}", plot.out);
    for run in [&first, &second] {
        assert!(names.iter().any(|name| format!("{run}[3]").ends_with(name)), "{}", plot.out);
    }
}

#[test]
fn a_report_has_a_column_and_a_curve_for_each_variant() {
    let (space, _) = trained(&[]);
    let (seen, Page { report, .. }) = Page::of(&space, &["latest"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    let headline = &report["headline"];
    assert_eq!(headline["columns"], serde_json::json!(["0.5", "2e-1", "p"]), "{headline:#}");
    assert_eq!(headline["seeds"][0], 3, "{headline:#}");
    let loss = headline["rows"].as_array().unwrap().iter().find(|row| row["metric"] == "loss").unwrap();
    let last = &loss["cells"][1]["last"];
    assert!((last["value"].as_f64().unwrap() - 0.22).abs() < 1e-9 && last["low"].is_number(), "{loss:#}");
    let panels = report["panels"].as_array().unwrap();
    let rate =
        panels.iter().find(|panel| panel["title"] == "train.rate").unwrap_or_else(|| panic!("{panels:#?}"));
    assert_eq!(
        (&rate["ticks"], rate["series"].as_array().unwrap().len()),
        (&serde_json::json!(["step 1", "step 2"]), 2)
    );
}

#[test]
#[ignore = "needs triplay-query"]
fn sql_has_the_parameters_as_columns() {
    let (space, _) = trained(&[]);
    run(&space, &["--set", "base=1"]);
    let ask = |sql: &str| {
        let seen = space.triplay(&["results", "query", sql, "--csv"]);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        seen.out
    };
    assert_eq!(
        ask(
            "SELECT heat, base, variant_seed, value AS loss FROM metrics WHERE metric = 'loss' AND base = 1 \
             AND heat < 0.3 ORDER BY variant_seed"
        ),
        "heat,base,variant_seed,loss\n0.2,1,1,1.21\n0.2,1,2,1.22\n0.2,1,3,1.23\n"
    );
    assert_eq!(
        ask(
            "SELECT heat, avg(value) AS nodes, count(*) AS n FROM metrics WHERE metric = 'nodes' GROUP BY heat"
        ),
        "heat,nodes,n\n,6.0,2\n",
        "what is in no matrix has no value"
    );
    let all = ask("SELECT * FROM metrics WHERE metric = 'loss'");
    assert!(all.lines().next().unwrap().ends_with(",rng_seed,after,base,seed,heat"), "{all}");
    assert_eq!(
        ask("SELECT DISTINCT node, name, value, number FROM axes WHERE node = 'train[2e-1,3]' ORDER BY name"),
        "node,name,value,number\n\"train[2e-1,3]\",heat,2e-1,0.2\n\"train[2e-1,3]\",seed,3,3.0\n"
    );
    let wrong = space.triplay(&["results", "query", "SELECT haet FROM metrics"]);
    wrong.fails(2, "there is no column `haet`; did you mean the parameter `heat`?");
}

#[test]
fn a_matrix_over_seeds_that_is_wrong_says_how() {
    let space = Space::new();
    let check = |matrix: &str, more: &str| {
        let stage = format!(
            "pipeline: p\nstages:\n  a: {{ kind: exec, command: 'echo ${{seed}}', matrix: {matrix}{more} }}\n"
        );
        space.write("p.yaml", &stage);
        space.triplay(&["pipeline", "check", "p.yaml"])
    };
    check("{ seeds: [1, 01] }", "").fails(2, "matrix axis `seeds` has the value `01` twice");
    check("{ seeds: [a] }", "")
        .fails(2, "`seeds` must be a list of whole numbers from 0, such as [1, 2, 3], found [\"a\"]");
    check("{ seeds: [1], seed: [2] }", "").fails(2, "`seed` and `seeds` must not be given together");
    check("{ seeds: [1] }", ", random: true, seed: 3")
        .fails(2, "`seed` must be left out: the `seeds` of the matrix");
    check("{ seeds: [1, 1] }", "").fails(2, "matrix axis `seeds` has the value `1` twice");
    check("{ h: [x], seeds: [1], include: [{ h: y, seed: z }] }", "")
        .fails(2, "`seed` must be a whole number from 0, found z");
    let unused = "pipeline: p\nstages:\n  a: { kind: exec, command: ls, matrix: { seeds: [1, 2] } }\n";
    space.write("p.yaml", unused);
    let seen = space.triplay(&["pipeline", "check", "p.yaml"]);
    assert!(seen.err.contains("stage `a` does not use the axis `seeds` of its matrix"), "{}", seen.err);
    assert!(
        seen.err.contains("${seed} where its value is meant; a command that draws has `random: true`"),
        "{}",
        seen.err
    );
}
