//! Undetermined verdicts: they are left out of training and of every rate, and each rate is reported with their count.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use triplay::data::{self, MetricRow, RewardRow, VerdictRow};

use crate::space::Space;

const PIPELINE: &str = "\
pipeline: judged
seed: 3
params: { verdicts: given.parquet, undetermined: skip }
stages:
  world: { kind: sandbox, sft: 60, sft_others: 10, benchmark: 9, pairs: 9, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup: { kind: sft, data: world.sft, tokenizer: vocabulary, init: { hidden: 16, layers: 1, heads: 1 }, steps: 9, lr: 1e-3 }
  attacks: { kind: generate, model: warmup.model, data: world.seeds, prompts: 3, group: 1, sampling: { max_new_tokens: 8 } }
  responses: { kind: respond, data: attacks, models: [{ model: warmup.model }], group: 4, sampling: { max_new_tokens: 8 } }
";

const JUDGED: &str = "  verdicts: { kind: judge, data: responses, model: warmup.model }\n";

const MEASURED: &str = "  \
  rewards: { kind: reward, data: responses, terms: [{ class_value: { verdicts: { path: $verdicts } } }], undetermined: $undetermined }
  update: { kind: update, model: warmup.model, data: rewards, algorithm: { grpo: { lr: 1e-3 } } }
  measured: { kind: measure, phase: red, attacks: attacks, verdicts: { path: $verdicts } }
";

/// A folder with verdicts on twelve responses, four to each attack, in files of these classes in turn.
fn space(files: &[(&str, [&str; 4])]) -> Space {
    let space = Space::new();
    space.write("judge.yaml", &format!("{PIPELINE}{JUDGED}"));
    space.write("measure.yaml", &format!("{PIPELINE}{MEASURED}"));
    assert_eq!(space.triplay(&["pipeline", "run", "judge.yaml"]).code, Some(0));
    let export = ["data", "export", "latest:verdicts", "-o", "judged.parquet"];
    assert_eq!(space.triplay(&export).code, Some(0));
    let mut rows: Vec<VerdictRow> = data::read(&space.path("judged.parquet")).unwrap();
    assert_eq!(rows.len(), 12);
    for (file, classes) in files {
        rows.iter_mut().zip(classes.iter().cycle()).for_each(|(row, class)| row.class = (*class).to_owned());
        data::write(&space.path(file), &rows).unwrap();
    }
    space
}

const ONE: [&str; 4] = ["negative", "negative", "positive", "undetermined"];
const ALL: [&str; 4] = ["undetermined"; 4];

impl Space {
    /// The table of a run with these verdicts.
    fn measure(&self, verdicts: &str, more: &[&str]) -> String {
        let set = format!("verdicts={verdicts}");
        let seen = self.triplay(&[&["pipeline", "run", "measure.yaml", "--set", &set], more].concat());
        assert_eq!(seen.code, Some(0), "{}{}", seen.out, seen.err);
        seen.out
    }

    /// The name of a run with these verdicts.
    fn measured_run(&self, verdicts: &str) -> String {
        let set = format!("verdicts={verdicts}");
        let summary = self.triplay(&["pipeline", "run", "measure.yaml", "--set", &set, "--json"]).json();
        summary["run"].as_str().unwrap().to_owned()
    }

    fn rows<R: data::Row>(&self, output: &str) -> Vec<R> {
        let _ = fs::remove_file(self.path("rows.parquet"));
        let seen = self.triplay(&["data", "export", &format!("latest:{output}"), "-o", "rows.parquet"]);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        data::read(&self.path("rows.parquet")).unwrap()
    }

    /// The metrics of the defender that `measured` reports, with their counts.
    fn measured(&self, metric: &str) -> Option<(f64, u64)> {
        let rows: Vec<MetricRow> = self.rows("measured.metrics");
        let mut own = rows.into_iter().filter(|row| row.subject == "defender" && row.metric == metric);
        own.next().map(|row| (row.value, row.count))
    }

    fn model(&self, node: &str) -> Value {
        let seen = self.triplay(&["runs", "show", "latest", "--json"]);
        let nodes = seen.json()["nodes"].as_array().unwrap().clone();
        let own = nodes.iter().find(|own| own["node"] == node).unwrap().clone();
        own["outputs"][0]["digest"].clone()
    }
}

#[test]
fn a_response_that_could_not_be_judged_has_no_reward_and_does_not_move_its_group() {
    let space = space(&[("one.parquet", ONE), ("all.parquet", ALL)]);
    space.measure("one.parquet", &[]);
    let rows: Vec<RewardRow> = space.rows("rewards");
    let rewards: Vec<Option<f64>> = rows.iter().map(|row| row.reward).collect();
    assert_eq!(rewards[..4], [Some(-1.0), Some(-1.0), Some(1.0), None]);
    // (r − mean) / deviation of the three that are known: −1/3 and √(4/3).
    let advantages: Vec<Option<f64>> = rows.iter().map(|row| row.advantage).collect();
    let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-3;
    assert!(near(advantages[0], -0.577) && near(advantages[1], -0.577) && near(advantages[2], 1.155));
    assert_eq!(advantages[3], None);
    let update: Vec<MetricRow> = space.rows("update.metrics");
    let of = |metric: &str| update.iter().find(|row| row.metric == metric).map(|row| (row.value, row.count));
    assert_eq!(of("reward").map(|(_, count)| count), Some(9));
    assert_eq!(of("reward_undetermined"), Some((0.25, 12)));

    space.measure("one.parquet", &["--set", "undetermined=worst"]);
    let rows: Vec<RewardRow> = space.rows("rewards");
    assert_eq!(rows[3].reward, Some(-1.0), "as bad as the worst class");

    // If all verdicts are undetermined, nothing is learnt, and the run says so.
    space.measure("all.parquet", &[]);
    assert_eq!(space.model("update"), space.model("warmup"), "the model is handed on as it is");
    let update: Vec<MetricRow> = space.rows("update.metrics");
    for metric in ["marks_in_text", "passed_through"] {
        assert!(update.iter().any(|row| row.metric == metric), "{metric}: {update:?}");
    }
    let rows: Vec<RewardRow> = space.rows("rewards");
    assert!(rows.iter().all(|row| (row.reward, row.advantage, row.undetermined) == (None, None, 1)));
}

#[test]
#[ignore = "needs triplay-query"]
fn rates_are_of_what_could_be_judged_and_say_what_could_not() {
    let space = space(&[("one.parquet", ONE), ("all.parquet", ALL)]);
    let out = space.measure("one.parquet", &[]);
    assert_eq!(space.measured("attack_success"), Some((6.0 / 9.0, 9)));
    assert_eq!(space.measured("attack_success_undetermined"), Some((0.25, 12)));
    assert!(out.contains("\nred      66.7*      -     0.0*"), "{out}");
    assert!(out.contains("\nobservations: attack 9, refuse 9, divers 3\n"), "{out}");
    assert!(
        out.contains("\n* undetermined and left out, percent of all: attack 25.0, refuse 25.0\n"),
        "{out}"
    );

    // All verdicts are undetermined: there is no rate, but the evaluation is shown.
    let out = space.measure("all.parquet", &[]);
    assert_eq!(space.measured("attack_success"), None);
    assert_eq!(space.measured("attack_success_undetermined"), Some((1.0, 12)));
    assert!(out.contains("\nred         -*      -       -*"), "{out}");
    assert!(out.contains("attack 100.0, refuse 100.0\n"), "{out}");
    let table = space.triplay(&["results", "table", "latest", "--metric", "attack_success"]);
    assert!(
        table.out.contains("attack  attack undet.") && table.out.contains("-          100.0"),
        "{}",
        table.out
    );
    let plot = space.triplay(&["results", "plot", "attack_success"]);
    assert!(plot.out.contains("of 0; 100.0 % undetermined, left out"), "{}{}", plot.out, plot.err);
    let query = "SELECT count(value) AS known, count(*) AS n FROM outcomes WHERE metric = 'attack_success'";
    let found = space.triplay(&["results", "query", query, "--run", "latest", "--json"]).json();
    assert_eq!((&found["known"], &found["n"]), (&0.into(), &12.into()), "{found}");
}

#[test]
fn a_silent_defender_is_no_unknown_one() {
    let space = space(&[]);
    // A completion without an answer is an empty response.
    let silent =
        PIPELINE.replace("[{ model: warmup.model }]", "[{ model: warmup.model, answer: { after: never } }]");
    let measured = MEASURED.replace("{ path: $verdicts }", "verdicts");
    space.write("silent.yaml", &format!("{silent}{JUDGED}{measured}"));
    let seen = space.triplay(&["pipeline", "run", "silent.yaml"]);
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    let rows: Vec<VerdictRow> = space.rows("verdicts");
    assert!(rows.iter().all(|row| (row.response.as_str(), row.class.as_str()) == ("", "rejective")));
    assert!(rows.iter().all(|row| row.sample.prompt_ids.is_empty()), "nobody was asked");
    assert_eq!(space.measured("attack_success"), Some((0.0, 12)));
    assert_eq!(space.measured("rejective"), Some((1.0, 12)));
    assert_eq!(space.measured("attack_success_undetermined"), None);
    let update: Vec<MetricRow> = space.rows("update.metrics");
    assert!(update.iter().any(|row| (row.metric.as_str(), row.value) == ("empty", 1.0)));
    assert!(update.iter().any(|row| row.metric == "marks_in_text"), "{update:?}");
}

#[test]
fn comparisons_leave_out_what_could_not_be_judged_and_say_so() {
    let space = space(&[("one.parquet", ONE), ("all.parquet", ALL), ("good.parquet", ["positive"; 4])]);
    let [one, good, all] =
        ["one.parquet", "good.parquet", "all.parquet"].map(|file| space.measured_run(file));
    let compare = |a: &str, b: &str| {
        let seen = space.triplay(&["runs", "compare", a, b, "--force", "--json"]);
        let of = |metric: &str| {
            let metrics = seen.json()["metrics"].as_array().unwrap().clone();
            let name = format!("defender {metric}");
            metrics.into_iter().find(|found| found["metric"] == name.as_str()).unwrap()
        };
        (of("attack_success"), of("attack_success_undetermined"))
    };
    let (rate, unknown) = compare(&one, &good);
    assert_eq!((rate["a"].as_f64(), rate["b"].as_f64()), (Some(6.0 / 9.0), Some(0.0)), "{rate}");
    assert_eq!((&rate["a_undetermined"], &rate["b_undetermined"]), (&3.into(), &0.into()), "{rate}");
    assert_eq!((&rate["a_attempts"], &rate["b_attempts"]), (&9.into(), &12.into()), "{rate}");
    assert_eq!((unknown["a"].as_f64(), unknown["b"].as_f64()), (Some(0.25), Some(0.0)), "none is 0");
    let (rate, _) = compare(&one, &all);
    assert_eq!((&rate["b"], &rate["difference"], &rate["p"]), (&Value::Null, &Value::Null, &Value::Null));
    let seen = space.triplay(&["runs", "compare", &one, &good, "--force"]);
    assert!(seen.out.contains("undetermined attempts, left out: "), "{}", seen.out);
    let seen = space.triplay(&["runs", "compare", &one, &good, "--force", "--all"]);
    let undetermined: Vec<&str> = seen.out.lines().filter(|line| line.contains("undet")).collect();
    assert!(undetermined.iter().any(|line| line.ends_with("prompts  attempts  undet.")), "{}", seen.out);
}

#[test]
fn other_programs_are_told_nothing_of_what_nobody_knows() {
    let space = space(&[("one.parquet", ONE), ("all.parquet", ALL)]);
    space.measure("one.parquet", &[]);
    let export = |to: &str, out: &str| -> Vec<PathBuf> {
        let seen = space.triplay(&["runs", "export", "latest", "--to", to, "-o", out]);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        let mut found = Vec::new();
        files(&space.path(out), &mut found);
        found
    };
    let read = |path: &Path| serde_json::from_str::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    let completions = |files: &[PathBuf]| -> Vec<Option<u64>> {
        let own = files.iter().filter(|path| {
            path.ends_with("completions.json") && path.to_string_lossy().contains("attack_success")
        });
        let all: Vec<Value> = own
            .flat_map(|path| read(path).as_object().unwrap().values().cloned().collect::<Vec<_>>())
            .collect();
        all.iter().flat_map(|list| list.as_array().unwrap()).map(|one| one["label"].as_u64()).collect()
    };
    let labels = completions(&export("harmbench", "completions"));
    assert_eq!(labels.iter().filter(|label| label.is_none()).count(), 3, "{labels:?}");
    assert_eq!(labels.iter().flatten().sum::<u64>(), 6, "{labels:?}");
    let log = read(&export("inspect", "logs")[0]);
    let scores = log["results"]["scores"].as_array().unwrap();
    let success = scores.iter().find(|score| score["name"] == "attack_success").unwrap();
    assert_eq!(
        (&success["scored_samples"], &success["unscored_samples"]),
        (&9.into(), &3.into()),
        "{success}"
    );
    assert_eq!(success["metrics"]["mean"]["value"].as_f64(), Some(6.0 / 9.0), "{success}");

    // One attempt at the first behavior is undetermined. The rate is over the other behaviors.
    let mut rows: Vec<VerdictRow> = data::read(&space.path("one.parquet")).unwrap();
    let unknown = rows[4..].iter_mut().filter(|row| row.class == "undetermined");
    unknown.for_each(|row| row.class = "positive".into());
    data::write(&space.path("first.parquet"), &rows).unwrap();
    space.measure("first.parquet", &[]);
    let jbb = read(&export("jbb", "jbb")[0]);
    let parameters = &jbb["parameters"];
    assert_eq!(
        (&parameters["attack_success_rate"], &parameters["number_of_submitted_prompts"]),
        (&1.0.into(), &2.into())
    );
    assert_eq!(parameters["method_parameters"]["number_of_undetermined_behaviors"], 1, "{parameters}");
    assert_eq!(space.measured("attack_success@4"), Some((1.0, 2)), "the same rule");

    space.measure("all.parquet", &[]);
    assert!(completions(&export("harmbench", "none")).iter().all(Option::is_none));
    let log = read(&export("inspect", "none-logs")[0]);
    assert_eq!(log["results"]["scores"][0]["metrics"], serde_json::json!({}), "no mean of nothing");
    let jbb = space.triplay(&["runs", "export", "latest", "--to", "jbb", "-o", "none-jbb"]);
    jbb.fails(2, "all outcomes of attacks in these runs are undetermined");
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}
