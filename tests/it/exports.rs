//! `triplay runs export`, as far as it can be tested without the other programs; tests/peers/exports_round_trip.py reads the
//! files with them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::space::{Seen, Space};

impl Space {
    fn export(&self, to: &str, out: &str, more: &[&str]) -> Seen {
        self.triplay(&[&["runs", "export", "latest", "--to", to, "-o", out], more].concat())
    }

    fn exported(&self, to: &str, out: &str, more: &[&str]) -> Vec<PathBuf> {
        let seen = self.export(to, out, more);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        let files = files(&self.path(out));
        let several = if files.len() == 1 { "file" } else { "files" };
        assert_eq!(seen.out, format!("{out}: {} {several}\n", files.len()));
        files
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_run_is_written_for_each_program() {
    let space = Space::new();
    space.run(&["--seeds", "5,6"]);

    // A log for each seed and each of the three measured models.
    let logs = space.exported("inspect", "inspect", &[]);
    assert_eq!(logs.len(), 6, "{logs:?}");
    for path in &logs {
        let log = json(path);
        assert_eq!((&log["version"], &log["status"]), (&2.into(), &"success".into()));
        let samples = log["samples"].as_array().unwrap();
        assert_eq!(log["results"]["total_samples"], samples.len());
        let sample = &samples[0];
        assert_eq!(sample["messages"][0]["content"], sample["input"]);
        let score = &log["results"]["scores"][0];
        let of = |sample: &Value| sample["scores"][score["name"].as_str().unwrap()]["value"].as_f64();
        let values: Vec<f64> = samples.iter().filter_map(of).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((mean - score["metrics"]["mean"]["value"].as_f64().unwrap()).abs() < 1e-9, "{score}");
        assert!(log["eval"]["model"].as_str().unwrap().contains('/'), "{}", log["eval"]["model"]);
    }

    let artifacts = space.exported("jbb", "jbb", &[]);
    assert_eq!(artifacts.len(), 6, "fresh attacks on two models, a benchmark on one: {artifacts:?}");
    let artifact = json(&artifacts[0]);
    let jailbreaks = artifact["jailbreaks"].as_array().unwrap();
    let broken = jailbreaks.iter().filter(|one| one["jailbroken"] == true).count();
    assert_eq!(artifact["parameters"]["total_number_of_jailbreaks"], broken);
    assert!(jailbreaks[0]["goal"].as_str().unwrap().contains(' '), "{}", jailbreaks[0]);

    let harmbench = space.exported("harmbench", "harmbench", &[]);
    assert_eq!(harmbench.len(), 13, "{harmbench:?}");
    let tables = space.exported("csv", "csv", &[]);
    assert_eq!(tables.len(), 13, "{tables:?}");
    let outcomes = fs::read_to_string(space.path("csv/outcomes.csv")).unwrap();
    assert!(outcomes.starts_with("run,pipeline,ablation,variant,variant_seed,node,"), "{outcomes}");

    let events = space.exported("tensorboard", "tensorboard", &[]);
    assert_eq!(events.len(), 2, "one for each seed: {events:?}");
    let bytes = fs::read(&events[0]).unwrap();
    // Length of the first record, which is the version.
    assert_eq!(bytes[..8], 24u64.to_le_bytes());
    assert!(memchr::memmem::find(&bytes, b"brain.Event:2").is_some());
    assert!(memchr::memmem::find(&bytes, b"update/attacker/kl").is_some());

    space.exported("mlflow-files", "mlruns", &[]);
    let experiment = fs::read_dir(space.path("mlruns")).unwrap().next().unwrap().unwrap().path();
    let run =
        fs::read_dir(&experiment).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
    let run = run.unwrap();
    assert!(fs::read_to_string(run.join("meta.yaml")).unwrap().contains("status: 3\n"));
    assert_eq!(fs::read_to_string(run.join("params/rounds")).unwrap(), "2");
    let history = fs::read_to_string(run.join("metrics/update/attacker/kl")).unwrap();
    let steps: Vec<&str> = history.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(steps, ["1", "2", "7", "8"], "updates of all roles share their steps");
}

#[test]
fn what_is_there_is_not_overwritten_and_one_file_is_one_file() {
    let space = Space::new();
    space.run(&[]);
    space.exported("csv", "out", &[]);
    space
        .export("csv", "out", &[])
        .fails(2, "error: out must be a new or empty folder, found files in it; name a new folder, or remove it first\n");
    space.export("jbb", "one.json", &[]).fails(
        2,
        "error: cannot write one.json: there are 3 files to write: name a folder instead of one.json\n",
    );
    assert!(!space.path("one.json").exists());
    space.write("one.json", "{\"parameters\": {\"method\": \"PAIR\"}}");
    space.export("jbb", "one.json", &[]).fails(
        2,
        "error: one.json must be new or an earlier export of triplay, found another file; name another file, remove it first, or replace it with --force\n",
    );
    space.export("csv", "none/out", &[]).fails(2, "error: there is no folder none: make it first\n");
    space.export("csv", "x", &["--reveal", "--redact"]).fails(2, "cannot be used with");
    space.triplay(&["runs", "export", "none", "--to", "csv", "-o", "x"]).fails(2, "there is no run `none`");
    space.triplay(&["runs", "export", "latest@full", "--to", "csv", "-o", "x"]).fails(
        2,
        "`latest@full` must be a whole run, from which each ablation and seed is exported: write `latest`",
    );
    let left: Vec<PathBuf> = files(&space.path(""))
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(".writing"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn texts_that_no_sandbox_made_up_stay_where_they_are() {
    let space = Space::new();
    let summary = space.run(&[]);
    let models = format!("{}/models", summary["results"].as_str().unwrap());
    let seeds = space.triplay(&["data", "export", "latest:world.seeds", "-o", "seeds.parquet"]);
    assert_eq!(seeds.code, Some(0), "{}", seeds.err);
    space.write(
        "own.yaml",
        &format!(
            "pipeline: own\nstages:\n  \
             attacks: {{ kind: generate, model: {{ path: {models}/warmup }}, data: {{ path: seeds.parquet }}, prompts: 4, group: 2, sampling: {{ max_new_tokens: 8 }} }}\n"
        ),
    );
    assert_eq!(space.triplay(&["pipeline", "run", "own.yaml"]).code, Some(0));
    let seen = space.export("csv", "own", &[]);
    assert!(seen.err.contains("note: texts are omitted") && seen.err.contains("--reveal"), "{}", seen.err);
    let read = |out: &str| fs::read_to_string(space.path(out).join("attacks.csv")).unwrap();
    assert!(read("own").contains(",[redacted: "), "{}", read("own"));
    let texts = space.triplay(&["data", "show", "latest:attacks", "--json", "--columns", "seed"]);
    let seed = serde_json::from_str::<Value>(texts.out.lines().next().unwrap()).unwrap();
    let seed = seed["seed"].as_str().unwrap();
    assert!(!read("own").contains(seed), "{}", read("own"));
    space.exported("csv", "revealed", &["--reveal"]);
    assert!(read("revealed").contains(seed) && !read("revealed").contains("[redacted: "));
    space.export("inspect", "x", &[]).fails(2, "these runs have not evaluated anything (yet)");

    // Texts of the sandbox are exported, unless `--redact` is given.
    let small = ["runs", "export", "small/latest", "--to", "csv", "-o"];
    assert_eq!(space.triplay(&[&small[..], &["small"]].concat()).code, Some(0));
    assert!(!read("small").contains("[redacted: "));
    assert_eq!(space.triplay(&[&small[..], &["hidden", "--redact"]].concat()).code, Some(0));
    assert!(read("hidden").contains("[redacted: "));
}
