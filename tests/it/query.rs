//! `triplay results query`, as a user sees it. It starts `triplay-query`, which `cargo test` builds, but `cargo test --test it`
//! does not: run `cargo build --release` first.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::space::{Seen, Space};

impl Space {
    fn query(&self, sql: &str, more: &[&str]) -> Seen {
        self.triplay(&[&["results", "query", sql], more].concat())
    }

    /// The rows of an answer.
    fn asked(&self, sql: &str) -> Vec<Value> {
        let seen = self.query(sql, &["--json"]);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        seen.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A space with a run of two seeds, and its folder.
fn played() -> (Space, PathBuf) {
    let space = Space::new();
    let summary = space.run(&["--seeds", "5,6"]);
    let folder = space.path(summary["results"].as_str().unwrap());
    (space, folder)
}

#[test]
#[ignore = "needs triplay-query"]
fn rows_of_all_runs_are_asked_together_and_agree_with_what_datasets_hold() {
    let (space, _) = played();
    space.run(&["--set", "diversity=0"]);
    let runs = space.asked("SELECT run, status, nodes, variants FROM runs ORDER BY run");
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert_eq!((&runs[0]["variants"], &runs[1]["variants"]), (&2.into(), &1.into()));

    let sql =
        "SELECT variant, node, count(*) AS n FROM attacks GROUP BY variant, node ORDER BY variant, node";
    let counts: BTreeMap<String, u64> = space
        .asked(sql)
        .iter()
        .map(|row| {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            (format!("{}:{}", text("variant"), text("node")), row["n"].as_u64().unwrap())
        })
        .collect();
    let shown = space.triplay(&["data", "show", "latest:play[2]/red[2]/attacks", "--json", "--rows", "1000"]);
    assert_eq!(shown.out.lines().count() as u64, counts[":play[2]/red[2]/attacks"]);

    // The words of the first column of other tables.
    let places = |sql: &str| -> Vec<String> {
        space.asked(sql).iter().map(|row| row["after"].as_str().unwrap().to_owned()).collect()
    };
    let of_steps = places(
        "SELECT after FROM metrics WHERE metric = 'reward' AND subject = 'attacker' AND variant = '' GROUP BY after ORDER BY after",
    );
    assert_eq!(of_steps, ["1.1", "1.2", "2.1", "2.2"]);
    assert_eq!(places("SELECT after FROM outcomes GROUP BY after"), ["mini"]);

    // Joined with the rows from which each row was made.
    let sql = "SELECT count(*) AS n, sum(CASE WHEN a.text = r.attack THEN 1 ELSE 0 END) AS same FROM responses r \
               JOIN attacks a ON a.run = r.run AND a.dataset = r.source AND a.attack_id = r.attack_id \
               WHERE a.node = r.node OR r.kind = 'respond'";
    let joined = &space.asked(sql)[0];
    assert!(joined["n"].as_u64() > Some(100) && joined["n"] == joined["same"], "{joined}");

    let params =
        space.asked("SELECT run, value, number FROM params WHERE name = 'diversity' ORDER BY number");
    assert_eq!((&params[0]["number"], params.len()), (&0.0.into(), 3), "{params:?}");
    let kept =
        space.asked("SELECT variant, node, kept FROM checkpoints WHERE kind = 'sft' AND node = 'warmup'");
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|row| row["kept"] == true), "{kept:?}");

    // Limited to runs and to a pipeline.
    let one = ["--run", "latest", "--csv"];
    assert_eq!(space.query("SELECT count(*) AS n FROM runs", &one).out, "n\n1\n");
    let named = ["--pipeline", "small", "--csv"];
    assert_eq!(space.query("SELECT count(*) AS n FROM runs", &named).out, "n\n2\n");
    space.query("SELECT run FROM runs", &["--pipeline", "smal"]).fails(2, "did you mean `small`?");
}

#[test]
#[ignore = "needs triplay-query"]
fn answers_are_tables_that_fit_and_files_that_other_programs_read() {
    let (space, _) = played();
    let sql = "SELECT node, attack_id, text, logprob FROM attacks";
    let table = space.query(sql, &["--rows", "3"]);
    let lines: Vec<&str> = table.out.lines().collect();
    assert_eq!(lines.len(), 5, "{}", table.out);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", table.out);
    assert!(lines[0].starts_with("node ") && lines[4].starts_with("and 317 more rows: "), "{}", table.out);

    for (file, rows) in [("a.csv", 321), ("a.jsonl", 320)] {
        let seen = space.query(sql, &["-o", file]);
        assert_eq!(seen.out, format!("{file}: 320 rows\n"), "{}", seen.err);
        assert_eq!(fs::read_to_string(space.path(file)).unwrap().lines().count(), rows);
    }
    let seen = space.query(sql, &["-o", "a.parquet"]);
    assert_eq!(seen.out, "a.parquet: 320 rows\n", "{}", seen.err);
    let read = triplay::data::open(&space.path("a.parquet")).unwrap();
    assert_eq!((read.rows(), read.schema.field(3).name().as_str()), (320, "logprob"));
    space.query(sql, &["-o", "a.txt"]).fails(2, "a.txt must end in .csv, .jsonl or .parquet");

    let markdown = space.query("SELECT run, nodes FROM runs", &["--markdown"]);
    assert!(markdown.out.starts_with("| run | nodes |\n| --- | ---: |\n| 2"), "{}", markdown.out);
    // A reader that closes the pipe early is no error.
    let mut child = space.command(&["results", "query", "SELECT * FROM attacks", "--csv"]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let schema = space.triplay(&["results", "query", "--schema"]);
    for table in ["runs", "params", "checkpoints", "metrics", "outcomes", "rewards"] {
        assert!(schema.out.contains(&format!("{table}: a row is ")), "{}", schema.out);
    }
    // A heading, or a column with its type and meaning.
    let is_told =
        |line: &str| !line.starts_with(' ') || line.split("  ").filter(|part| !part.is_empty()).count() >= 3;
    assert!(schema.out.lines().all(is_told), "{}", schema.out);
    let schema = space.triplay(&["results", "query", "--schema", "labels"]);
    assert!(schema.out.contains("\n  votes            list of text  Votes, as"), "{}", schema.out);
}

#[test]
#[ignore = "needs triplay-query"]
fn what_is_wrong_with_a_query_is_said_without_a_panic() {
    let (space, _) = played();
    for (sql, expected) in [
        ("SELECT * FROM atacks", "error: there is no table `atacks`; did you mean `attacks`?\n"),
        (
            "SELECT * FROM tokens",
            "error: there is no table `tokens`; there are runs, params, checkpoints, metrics",
        ),
        ("SELECT loprob FROM attacks", "error: there is no column `loprob`; did you mean `logprob` (of "),
        (
            "SELECT bytes FROM attacks",
            "error: no table here has a column `bytes`; it is one of checkpoints\n",
        ),
        (
            "SELEC 1",
            "error: the SQL is not valid: Expected: an SQL statement, found: SELEC at Line: 1, Column: 1",
        ),
        ("SELECT run FROM runs ORDER BY 7", "error: the SQL is not valid: ORDER BY ordinal"),
        ("SELECT text::int FROM attacks", "error: the query failed: conversion from `str` to `i32` failed"),
        ("SELECT min(votes) FROM labels", "error: the query failed: `min` operation not supported"),
        ("SHOW TABLES", "error: `triplay results query --schema` shows the tables"),
        ("", "error: the SQL is not valid: one (and only one) statement"),
    ] {
        space.query(sql, &[]).fails(2, expected);
    }
    space.triplay(&["results", "query", "--schema", "attack"]).fails(2, "did you mean `attacks`?");
    space.triplay(&["results", "query"]).fails(2, "required");
    Space::new()
        .query("SELECT 1", &[])
        .fails(2, "there are no runs in results/ here; `triplay pipeline run FILE`");
}

#[test]
#[ignore = "needs triplay-query"]
fn runs_that_are_half_finished_or_damaged_do_not_stop_a_query() {
    let (space, first) = played();
    let pipeline = include_str!("small.yaml").trim_end().to_owned()
        + "\n  broken: { kind: exec, command: [\"false\"], inputs: { of: after.attacks }, outputs: { out: text } }\n";
    space.write("small.yaml", &pipeline);
    let seen = space.triplay(&["pipeline", "run", "small.yaml", "--set", "rounds=1"]);
    assert_eq!(seen.code, Some(1), "{}{}", seen.out, seen.err);
    let runs = space.asked("SELECT status FROM runs ORDER BY run");
    assert_eq!(runs[1]["status"], "failed");
    let sql = "SELECT r.status, count(*) AS n FROM outcomes o JOIN runs r ON o.run = r.run \
               GROUP BY r.status ORDER BY r.status";
    let counts = space.asked(sql);
    assert_eq!(
        (&counts[0]["status"], counts[0]["n"] == counts[1]["n"]),
        (&"done".into(), false),
        "{counts:?}"
    );

    // A truncated file is named, with a command that makes it again.
    let tables = first.join("tables");
    let made = fs::read_dir(&tables).unwrap().next().unwrap().unwrap().path();
    let file = made.join("attacks.parquet");
    let bytes = fs::read(&file).unwrap();
    for length in [0, 10, bytes.len() / 2, bytes.len() - 3] {
        fs::write(&file, &bytes[..length]).unwrap();
        let seen = space.query("SELECT count(text) FROM attacks WHERE logprob < 0", &[]);
        seen.fails(2, "attacks.parquet is not a readable Parquet file: ");
        assert!(seen.err.contains("help: remove results/small/"), "{}", seen.err);
    }
    assert_eq!(
        space.query("SELECT run FROM metrics LIMIT 1", &[]).code,
        Some(0),
        "other tables are not opened"
    );
    fs::remove_dir_all(&tables).unwrap();
    assert_eq!(space.query("SELECT count(text) FROM attacks", &[]).code, Some(0));

    // A run whose record cannot be read is left out and named.
    fs::write(first.join("run.json"), "{").unwrap();
    let seen = space.query("SELECT count(*) AS n FROM runs", &["--csv"]);
    assert_eq!((seen.code, seen.out.as_str()), (Some(0), "n\n1\n"), "{}", seen.err);
    assert!(
        seen.err.starts_with("warning: results/small/") && seen.err.contains("triplay runs rm"),
        "{}",
        seen.err
    );
}

#[test]
fn without_its_program_a_query_says_how_to_get_it() {
    let seen = ask_alone("");
    seen.fails(
        2,
        "error: `results query` needs the program `triplay-query`, which must be beside triplay or in PATH; ",
    );
    assert!(seen.err.contains("cargo build --release") && seen.err.lines().count() == 1, "{}", seen.err);
}

#[test]
#[ignore = "needs triplay-query"]
fn its_program_may_be_elsewhere_in_path() {
    let programs = Path::new(env!("CARGO_BIN_EXE_triplay")).parent().unwrap();
    let seen = ask_alone(programs.to_str().unwrap());
    assert!(seen.out.starts_with("runs: a row is a run\n"), "{}{}", seen.out, seen.err);
}

/// Asks for a schema with a `triplay` that has no other program beside it.
fn ask_alone(path: &str) -> Seen {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let alone = folder.path().join("triplay");
    fs::hard_link(env!("CARGO_BIN_EXE_triplay"), &alone).unwrap();
    let mut command = Command::new(&alone);
    command.args(["results", "query", "--schema", "runs"]).env("PATH", path).output().unwrap().into()
}

#[test]
#[ignore = "needs triplay-query"]
fn help_and_wrong_options_are_those_of_the_command() {
    let space = Space::new();
    let help = space.triplay(&["results", "query", "--help"]);
    assert!(help.code == Some(0) && help.out.contains("Usage: triplay results query "), "{}", help.out);
    space.query("SELECT run FROM runs", &["--cvs"]).fails(2, "unexpected argument '--cvs' found");
    // A text that begins like an option, after `--`.
    space
        .triplay(&["results", "query", "--", "-- nothing\nSELECT run FROM runs"])
        .fails(2, "there are no runs in results/");
}
