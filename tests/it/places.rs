//! Files that a user names for commands to write: repeating a command works, and a slip loses no file.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::space::Space;

const OWN: &str = "pipeline: mine\nstages: { say: { kind: exec, command: echo glowvenom } }\n";

/// For each command that writes a file: the name of what it writes, its arguments, whose last is the file, and the text of a
/// foreign file of the same format.
const WRITERS: &[(&str, &[&str], &str)] = &[
    ("trace of triplay", &["pipeline", "run", "small.yaml", "--trace", "a.json"], "{\"traceEvents\":[]}"),
    (
        "schema of triplay's pipelines",
        &["pipeline", "schema", "--out", "b.json"],
        "{\n  \"$schema\": \"https://json-schema.org/draft/2020-12/schema\",\n  \"title\": \"mine\"\n}\n",
    ),
    ("report of triplay", &["report", "latest", "-o", "c.html"], "<!doctype html>\n<title>mine</title>\n"),
    (
        "picture of triplay",
        &["results", "plot", "attack_success", "latest", "-o", "d.svg"],
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1 1\"></svg>",
    ),
    (
        "picture of triplay",
        &["results", "plot", "attack_success", "latest", "-o", "d.png"],
        "\x1b\u{0}PNG of somebody else",
    ),
    (
        "table with the columns seed_id, category, split, task, …",
        &["data", "export", "latest:world.seeds", "--out", "e.csv"],
        "name,phone\nbrewer,7\n",
    ),
    (
        "table with the columns seed_id, category, split, task, …",
        &["data", "export", "latest:world.seeds", "--out", "e.jsonl"],
        "{\"name\":\"brewer\"}\n",
    ),
    (
        "table with the columns seed_id, category, split, task, …",
        &["data", "export", "latest:world.seeds", "--out", "e.parquet"],
        "PAR1",
    ),
    (
        "Parquet file of seed prompts by triplay",
        &["data", "import", "in.csv", "--task", "hazard", "--out", "f.parquet"],
        "PAR1",
    ),
];

/// Those of `triplay-query`.
const QUERIES: &[(&str, &[&str], &str)] = &[
    (
        "table with the columns run, status",
        &["results", "query", "SELECT run, status FROM runs", "--out", "g.csv"],
        "run,stamina\n7,8\n",
    ),
    (
        "table with the columns run, status",
        &["results", "query", "SELECT run, status FROM runs", "--out", "g.jsonl"],
        "{\"run\":\"uphill\"}\n",
    ),
    ("table", &["results", "query", "SELECT run, status FROM runs", "--out", "g.parquet"], "no such thing"),
];

#[test]
fn what_is_there_is_replaced_only_by_the_command_that_wrote_it() {
    replace_only_what_they_wrote(WRITERS);
}

#[test]
#[ignore = "needs triplay-query"]
fn what_is_there_is_replaced_only_by_the_query_that_wrote_it() {
    replace_only_what_they_wrote(QUERIES);
}

fn replace_only_what_they_wrote(writers: &[(&str, &[&str], &str)]) {
    let space = Space::new();
    space.write("in.csv", "text\nbrew glowvenom\n");
    space.run(&[]);
    for (what, args, foreign) in writers {
        let out = args.last().unwrap();
        let triplay = || space.triplay(args);
        let path = space.path(out);
        for turn in ["first", "again"] {
            let seen = triplay();
            assert_eq!(seen.code, Some(0), "{args:?} {turn}: {}", seen.err);
        }
        let written = fs::metadata(&path).unwrap().len();
        assert!(written > 20, "{args:?}");
        fs::write(&path, "").unwrap();
        assert_eq!(triplay().code, Some(0), "{args:?}: nothing is lost with an empty file");
        assert!(fs::metadata(&path).unwrap().len() > 20, "{args:?}");

        for text in [OWN, foreign] {
            fs::write(&path, text).unwrap();
            let remedy = format!(
                "error: {out} must be new or an earlier {what}, found another file; name another file, remove it first, or replace it with --force\n"
            );
            let remedy = match (*what, text == OWN) {
                // `run --force` would mean something else.
                ("trace of triplay", _) => {
                    remedy.replace(", remove it first, or replace it with --force", ", or remove it first")
                }
                // Before the query is executed, its answer may be any table.
                ("table with the columns run, status", true) if out.ends_with("jsonl") => {
                    remedy.replace(" with the columns run, status", "")
                }
                _ => remedy,
            };
            triplay().fails(2, &remedy);
            assert_eq!(fs::read_to_string(&path).unwrap(), *text, "{args:?}");
        }
        let forced = || space.triplay(&[*args, &["--force"]].concat());
        if *what != "trace of triplay" {
            let seen = forced();
            assert_eq!(seen.code, Some(0), "{args:?}: {}", seen.err);
            assert!(fs::metadata(&path).unwrap().len() > 20, "{args:?}");
        }
        // A link is neither followed nor replaced.
        let target = space.path("mine.yaml");
        fs::write(&target, OWN).unwrap();
        fs::remove_file(&path).unwrap();
        symlink("mine.yaml", &path).unwrap();
        triplay().fails(
            2,
            &format!("error: {out} must not be a symbolic link, found one to mine.yaml; name its target"),
        );
        assert!(forced().code == Some(2) && path.is_symlink(), "{args:?}");
        assert_eq!(fs::read_to_string(&target).unwrap(), OWN, "{args:?}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        triplay().fails(2, &format!("error: {out} must be a file, found a folder; name a file for the "));
        assert!(forced().code == Some(2) && path.is_dir(), "{args:?}");
        fs::remove_dir(&path).unwrap();
        // Opening a pipe would block.
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        triplay().fails(
            2,
            &format!("error: {out} must be a file, found a device, a pipe or a socket; name a file"),
        );
        assert_eq!(forced().code, Some(2), "{args:?}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_place_that_cannot_be_written_is_known_before_anything_runs() {
    let space = Space::new();
    space.write("mine.yaml", OWN);
    let run = |trace: &str| space.triplay(&["pipeline", "run", "mine.yaml", "--trace", trace]);
    run("mine.yaml").fails(
        2,
        "error: mine.yaml must be new or an earlier trace of triplay, found another file; name another file, or remove it first",
    );
    run("/dev/null").fails(2, "error: /dev/null must be a file, found a device");
    run("none/trace.json")
        .fails(2, "error: cannot write none/trace.json: there is no folder none: make it first");
    assert!(!space.path("results").exists() && !space.path(".triplay").exists());
    assert_eq!(fs::read_to_string(space.path("mine.yaml")).unwrap(), OWN);
}

#[test]
fn a_trace_outlives_a_later_run_that_cannot_begin_and_is_there_where_nothing_is_to_do() {
    let space = Space::new();
    space.write("mine.yaml", OWN);
    let run = |more: &[&str]| {
        space.triplay(&[&["pipeline", "run", "mine.yaml", "--trace", "trace.json"], more].concat())
    };
    assert_eq!(run(&[]).code, Some(0));
    let trace = || fs::read_to_string(space.path("trace.json")).unwrap();
    assert!(trace().contains("\"name\":\"say\""), "{}", trace());
    run(&["--set", "none=1"]).fails(2, "none");
    assert!(trace().contains("\"name\":\"say\""), "{}", trace());
    assert_eq!(run(&[]).code, Some(0));
    assert!(trace().contains("\"name\":\"plan\"") && !trace().contains("\"name\":\"say\""), "{}", trace());
}

#[test]
fn a_file_beside_a_run_that_is_called_as_the_judges_pipeline_stays() {
    let space = Space::new();
    let summary = space.run(&[]);
    let path = space.path(summary["results"].as_str().unwrap()).join("judge.yaml");
    fs::write(&path, OWN).unwrap();
    space
        .triplay(&["judge", "latest", "--with", "latest:warmup"])
        .fails(2, "judge.yaml must be new or an earlier pipeline of `triplay judge`");
    assert_eq!(fs::read_to_string(&path).unwrap(), OWN);
}
