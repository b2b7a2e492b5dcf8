//! The end of a run: whatever goes wrong after the last node, the outcomes of the nodes are reported and recorded.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::space::{Seen, Space};

fn status(space: &Space) -> String {
    let shown = space.triplay(&["runs", "show", "latest", "--json"]).json();
    shown["run"]["status"].as_str().unwrap().to_owned()
}

/// The links among the models of a summary's run: their names and the content of their targets.
fn models(space: &Space, summary: &Value) -> Vec<(String, String)> {
    let folder = space.path(summary["results"].as_str().unwrap()).join("models");
    let mut models: Vec<(String, String)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    models.sort();
    models
}

#[test]
fn a_run_whose_nodes_have_several_models_or_long_labels_is_done_and_links_them_all() {
    let space = Space::new();
    let (moss, ash) = (format!("{}moss", "m".repeat(300)), format!("{}ash", "m".repeat(300)));
    space.write(
        "many.yaml",
        &format!(
            "pipeline: many\nstages:\n  \
             two: {{ kind: exec, command: 'echo left > a; echo right > b', outputs: {{ a: model, b: model }} }}\n  \
             one: {{ kind: exec, command: 'echo one > m', outputs: {{ m: model }} }}\n  \
             long: {{ kind: exec, matrix: {{ herb: {{ {moss}: 1, {ash}: 2 }} }}, command: 'echo ${{herb}} > m', outputs: {{ m: model }} }}\n"
        ),
    );
    let run = || space.triplay(&["pipeline", "run", "many.yaml", "--json"]);
    let first = run();
    assert_eq!(first.code, Some(0), "{}", first.err);
    let summary = first.json();
    let models = models(&space, &summary);
    let texts: Vec<&str> = models.iter().map(|(_, text)| text.trim()).collect();
    let mut all = texts.clone();
    all.sort();
    assert_eq!(all, ["1", "2", "left", "one", "right"], "{models:?}");
    for (name, text) in [("one", "one\n"), ("two.a", "left\n"), ("two.b", "right\n")] {
        assert!(models.contains(&(name.into(), text.into())), "{models:?}");
    }
    assert!(models.iter().filter(|(name, _)| name.starts_with("long[mmm") && name.len() <= 255).count() == 2);
    assert_eq!(status(&space), "done");
    let again = run().json();
    assert_eq!((&again["ran"], &again["results"]), (&0.into(), &summary["results"]), "nothing is left to do");
}

#[test]
fn what_goes_wrong_after_the_last_node_is_a_warning_and_the_run_is_done() {
    let space = Space::new();
    // A command that blocks a file that the run writes at its end.
    let results = space.path("results/spoilt");
    for (name, expected) in [("metrics.parquet", "metrics.parquet"), ("models", "models: File exists")] {
        let spoil = match name {
            "models" => "touch",
            _ => "mkdir",
        };
        space.write(
            "spoilt.yaml",
            &format!(
                "pipeline: spoilt\nstages:\n  \
                 spoil: {{ kind: exec, command: 'for run in {}/*; do {spoil} $run/{name}; done; echo {name}' }}\n  \
                 model: {{ kind: exec, command: 'echo moss > m', outputs: {{ m: model }}, inputs: {{ spoil: spoil }} }}\n",
                results.display()
            ),
        );
        let _ = fs::remove_dir_all(&results);
        let first = space.triplay(&["pipeline", "run", "spoilt.yaml", "--json"]);
        let summary = first.json();
        assert!(first.err.contains("warning: ") && first.err.contains(expected), "{}", first.err);
        assert!(first.err.contains(" lacks these; the outputs of nodes are kept"), "{}", first.err);
        assert_eq!((&summary["status"], status(&space)), (&"done".into(), "done".into()));
        let shown = space.triplay(&["runs", "show"]);
        assert!(shown.out.contains("\nlacks     cannot "), "{}", shown.out);

        // The incomplete run does not count as complete: a new run collects the files, and is named from then on.
        let second = space.triplay(&["pipeline", "run", "spoilt.yaml", "--json"]).json();
        assert_eq!((&second["ran"], &second["cached"]), (&0.into(), &2.into()));
        assert_ne!(second["results"], summary["results"]);
        assert_eq!(models(&space, &second).len(), 1);
        let third = space.triplay(&["pipeline", "run", "spoilt.yaml", "--json"]).json();
        assert_eq!(third["results"], second["results"]);
    }
}

#[test]
fn metrics_that_are_gone_at_the_end_are_a_warning_and_the_others_are_gathered() {
    let space = Space::new();
    space.run(&[]);
    for (node, file) in [("after", "one.parquet"), ("warmup", "two.parquet")] {
        let seen = space.triplay(&["data", "export", &format!("latest:{node}.metrics"), "-o", file]);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
    }
    let blobs = space.path("own/blobs");
    space.write(
        "bad.yaml",
        &format!(
            "pipeline: bad\nstages:\n  \
             one: {{ kind: exec, command: 'cp in m; echo > t', inputs: {{ in: {{ path: one.parquet }} }}, outputs: {{ m: metrics, t: text }} }}\n  \
             spoil: {{ kind: exec, command: 'for blob in $(grep -l PAR1 {}/*/*); do rm -f $blob; done', inputs: {{ t: one.t }} }}\n  \
             two: {{ kind: exec, command: cp in m, inputs: {{ in: {{ path: two.parquet }}, log: spoil.log }}, outputs: {{ m: metrics }} }}\n",
            blobs.display()
        ),
    );
    let seen = space.triplay(&["pipeline", "run", "bad.yaml", "--json", "--cache", "own"]);
    let summary = seen.json();
    assert!(seen.err.contains("warning: output `m` of one is damaged or gone\n"), "{}", seen.err);
    assert_eq!((&summary["status"], status(&space)), (&"done".into(), "done".into()));
    let metrics = format!("{}/metrics.parquet", summary["results"].as_str().unwrap());
    let shown = space.triplay(&["data", "show", &metrics, "--rows", "1", "--json"]);
    assert!(shown.out.contains("\"node\":\"two\""), "{}{}", shown.out, shown.err);
}

#[test]
fn failures_of_nodes_are_told_whatever_goes_wrong_afterwards() {
    let space = Space::new();
    let results = space.path("results/bad");
    space.write(
        "bad.yaml",
        &format!(
            "pipeline: bad\nstages:\n  bad: {{ kind: exec, command: 'for run in {}/*; do mkdir $run/metrics.parquet; done; exit 3' }}\n",
            results.display()
        ),
    );
    let seen = space.triplay(&["pipeline", "run", "bad.yaml"]);
    seen.fails(1, "error: bad: exit code 3");
    assert!(
        seen.err.contains("warning: cannot write ") && seen.err.contains("metrics.parquet"),
        "{}",
        seen.err
    );
    assert_eq!(status(&space), "failed");
    // Standard output cannot be written, and then the record cannot be written.
    space.write("bad.yaml", "pipeline: bad\nstages: { bad: { kind: exec, command: exit 3 } }\n");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let seen: Seen = space.command(&["pipeline", "run", "bad.yaml"]).stdout(full).output().unwrap().into();
    seen.fails(1, "error: bad: exit code 3");
    assert!(seen.err.contains("error: cannot write to standard output: "), "{}", seen.err);
    // The record is the last file that is written in this way.
    let seen = (2..9)
        .map(|pass| -> Seen {
            let mut command = space.command(&["pipeline", "run", "bad.yaml"]);
            command.env("TRIPLAY_FAIL", format!("file.write:enospc:{pass}")).output().unwrap().into()
        })
        .find(|seen| seen.err.contains("[1/1] bad failed"))
        .unwrap();
    seen.fails(1, "error: bad: exit code 3");
    assert!(seen.err.contains("run.json: No space left on device"), "{}", seen.err);
    assert_eq!(status(&space), "killed");
}

#[test]
fn an_interrupt_after_the_end_leaves_what_the_run_came_to() {
    let space = Space::new();
    space.write("one.yaml", "pipeline: one\nstages: { say: { kind: exec, command: echo glowvenom } }\n");
    // A reader that does not read: the run writes its record and then blocks on standard output.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let fill = writer.try_clone().unwrap();
    rustix::fs::fcntl_setfl(&fill, rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b' '; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&fill, rustix::fs::OFlags::empty()).unwrap();
    drop(fill);
    let child = space.command(&["pipeline", "run", "one.yaml"]).stdout(writer).spawn().unwrap();
    let is_recorded = || {
        let runs = fs::read_dir(space.path("results/one")).into_iter().flatten().flatten();
        let mut records = runs.filter_map(|run| fs::read_to_string(run.path().join("run.json")).ok());
        records.any(|record| record.contains("\"status\": \"done\""))
    };
    while !is_recorded() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let seen = Seen::from(child.wait_with_output().unwrap());
    assert_eq!(seen.code, Some(130), "{}", seen.err);
    drop(reader);
    assert_eq!(status(&space), "done");
}

#[test]
fn the_pipeline_that_is_kept_is_the_one_that_ran_though_its_file_was_changed_meanwhile() {
    let space = Space::new();
    let base =
        "pipeline: base\nparams: { herb: moss }\nstages: { say: { kind: exec, command: [echo, $herb] } }\n";
    let own = "pipeline: own\nextends: base.yaml\nparams: { herb: ash }\n";
    space.write("base.yaml", base);
    space.write("own.yaml", own);
    assert_eq!(space.triplay(&["pipeline", "run", "base.yaml"]).code, Some(0));
    // While the cache is being cleaned, the run has read its pipeline but not begun.
    let store = triplay::store::Store::open(&space.path(".triplay")).unwrap();
    let cleaning = store.claim("cleaning").unwrap();
    let mut child = space.command(&["pipeline", "run", "own.yaml"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let who = format!("waiting: process {} on ", std::process::id());
    assert!(lines.next().unwrap().unwrap().starts_with(&who));
    space.write("base.yaml", "pipeline: other\n");
    space.write("own.yaml", "changed: meanwhile\n");
    drop(cleaning);
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let run = fs::read_dir(space.path("results/own")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_to_string(run.join("pipeline.yaml")).unwrap(), own);
    assert_eq!(fs::read_to_string(run.join("extends.yaml")).unwrap(), base);
    assert_eq!(space.triplay(&["data", "show", "own/latest:say"]).out, "ash\n");
}

#[test]
fn a_check_of_outputs_that_do_not_fit_into_memory_says_where_they_differ() {
    let space = Space::new();
    let make = |name: &str| format!("truncate -s 2G {name}; cat /proc/sys/kernel/random/uuid >> {name}");
    space.write(
        "large.yaml",
        &format!(
            "pipeline: large\nstages:\n  \
             file: {{ kind: exec, command: '{}', outputs: {{ out: file }} }}\n  \
             model: {{ kind: exec, command: 'mkdir out; {}', outputs: {{ out: model }} }}\n",
            make("out"),
            make("out/model.safetensors")
        ),
    );
    assert_eq!(space.triplay(&["pipeline", "run", "large.yaml", "--jobs", "1"]).code, Some(0));
    let seen = space.limited(&[
        "pipeline",
        "run",
        "large.yaml",
        "--jobs",
        "1",
        "--check",
        "file",
        "--check",
        "model",
    ]);
    assert_eq!(seen.code, Some(1), "{}", seen.err);
    assert_eq!(seen.err.matches(" bytes differ, the first at 21474836").count(), 2, "{}", seen.err);
    assert!(seen.err.contains("\n  model.safetensors: "), "{}", seen.err);
}
