//! `triplay pipeline run` as a user sees it: what runs, what is kept, and what happens when it is stopped.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng;
use triplay::store::Seed;

use crate::space::{Seen, Space};

#[test]
fn a_run_plays_all_phases_and_a_second_one_has_nothing_to_do() {
    let space = Space::new();
    let first = space.triplay(&["pipeline", "run", "small.yaml"]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    let last = first.out.lines().last().unwrap();
    assert!(last.starts_with("ran 70, cached 0, failed 0 in "), "{last}");
    assert!(first.out.contains("after") && first.out.contains("mini"), "{}", first.out);
    let results = last.split(": ").last().unwrap();
    assert!(space.path(results).join("metrics.parquet").exists());

    let second = space.run(&[]);
    assert_eq!(
        (&second["ran"], &second["cached"], &second["status"]),
        (&0.into(), &70.into(), &"done".into())
    );
    for key in ["run", "failed", "skipped", "seconds", "results"] {
        assert!(second.get(key).is_some(), "{key}");
    }

    // A parameter of the last stage alone; then one that every red phase depends on.
    assert_eq!(space.run(&["--set", "label=other"])["ran"], 1);
    let changed = space.run(&["--set", "diversity=0.3"]);
    let ran = space.executed(&changed);
    assert!(ran.contains(&"play[1]/red[2]/update".to_owned()), "{ran:?}");
    // The pool is empty in the first step, so its rewards stay as they were and nothing after them runs.
    assert!(!ran.contains(&"play[1]/red[1]/update".to_owned()), "{ran:?}");
    let independent = |node: &String| !node.starts_with("play[") && node != "after";
    assert!(!ran.iter().any(independent), "{ran:?}");

    let models = space.path(second["results"].as_str().unwrap()).join("models");
    let attacker = models.join("play[2].red[2].update");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "optimizer.safetensors"] {
        assert!(attacker.join(file).exists(), "{file}");
    }
    assert!(!models.join("play[2].red[1].update").exists(), "handed-on checkpoints are dropped");
    shows_datasets(&space);
}

fn shows_datasets(space: &Space) {
    let show = |args: &[&str]| space.triplay(&[&["data", "show"], args].concat());
    let table = show(&["latest:play[1]/red[1]/attacks", "--rows", "2", "--columns", "seed,text,logprobs"]);
    assert_eq!(table.code, Some(0), "{}", table.err);
    let lines: Vec<&str> = table.out.lines().collect();
    assert!(lines[0].ends_with(": attacks, 16 rows"), "{}", lines[0]);
    assert!(lines[1].starts_with("seed") && lines[1].contains("text") && lines[1].ends_with("logprobs"));
    assert_eq!(lines.len(), 4);
    let rows = show(&["latest:play[1]/red[1]/rewards", "--json", "--rows", "16"]);
    let rows: Vec<serde_json::Value> =
        rows.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 16);
    for row in &rows {
        for column in ["reward", "advantage"] {
            assert!(row[column].is_number(), "{column}: {row}");
        }
        let terms: Vec<&serde_json::Value> =
            row["components"].as_array().unwrap().iter().map(|term| &term["name"]).collect();
        assert_eq!(terms, ["success", "meaning", "self_bleu", "cosine"]);
        assert!(row["components"].as_array().unwrap().iter().all(|term| term["score"].is_number()));
        assert_eq!(
            (&row["iteration"], &row["step"], &row["role"]),
            (&1.into(), &1.into(), &"attacker".into())
        );
        let ids = row["completion_ids"].as_array().unwrap();
        assert_eq!(ids.len(), row["logprobs"].as_array().unwrap().len());
    }
    let schema = show(&["latest:play[1]/red[1]/verdicts", "--schema"]);
    assert!(
        schema.out.contains("The evaluator's answer: the part of its completion that counts."),
        "{}",
        schema.out
    );
    show(&["latest:play[1]/red[1]/atacks"]).fails(2, "did you mean `play[1]/red[1]/attacks`?");
    show(&["latest:world.seeds", "--columns", "sed_id"])
        .fails(2, "there is no column `sed_id`; did you mean `seed_id`?");
    show(&["nothing.parquet"]).fails(2, "there is no file nothing.parquet; an output of a run is RUN:NODE");
    let model = show(&["latest:warmup"]).out;
    assert!(model.starts_with("qwen3 model: ") && model.contains("  model.safetensors\n"), "{model}");
}

#[test]
fn two_caches_and_one_or_two_threads_give_the_same_digests() {
    let space = Space::new();
    let run = |cache: &str, threads: &str| {
        let mut command = space.command(&["pipeline", "run", "small.yaml", "--json", "--cache", cache]);
        let summary = Seen::from(command.env("RAYON_NUM_THREADS", threads).output().unwrap()).json();
        assert_eq!(summary["cached"], 0);
        space.digests(&summary)
    };
    let (one, two, again) = (run("one", "1"), run("two", "2"), run("again", "2"));
    assert!(one.len() > 70);
    for (node, digest) in &one {
        assert_eq!(two.get(node), Some(digest), "{node}, 1 and 2 threads");
        assert_eq!(again.get(node), Some(digest), "{node}, a second time");
    }
}

#[test]
fn killed_at_any_moment_a_run_goes_on_to_the_same_end() {
    let space = Space::new();
    let begun = Instant::now();
    let whole = space.run(&["--cache", "whole"]);
    let (expected, length) = (space.digests(&whole), begun.elapsed());
    let mut random = Seed::from_u64(20).stream("kill");
    let mut kills = 0;
    while kills < 20 {
        let mut child = space.command(&["pipeline", "run", "small.yaml", "--json"]).spawn().unwrap();
        std::thread::sleep(length.mul_f64(random.random_range(0.0..0.25)));
        if child.try_wait().unwrap().is_some() {
            // The run ended before the kill: its result must be right, and the next run starts from nothing.
            let summary = Seen::from(child.wait_with_output().unwrap()).json();
            assert_eq!(space.digests(&summary), expected);
            fs::remove_dir_all(space.path(".triplay")).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let recorded = space.records(".triplay");
        if kills % 4 == 0 {
            let summary = space.run(&[]);
            assert_eq!(space.digests(&summary), expected, "after kill {kills}");
            assert_eq!(
                summary["cached"].as_u64(),
                Some(recorded as u64),
                "what was recorded is not run again"
            );
            fs::remove_dir_all(space.path(".triplay")).unwrap();
        }
    }
}

#[test]
fn an_interrupt_stops_at_once_and_says_how_to_go_on() {
    let space = Space::new();
    let child = space.command(&["pipeline", "run", "small.yaml", "--set", "steps=3"]).spawn().unwrap();
    while space.records(".triplay") < 5 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let seen = Seen::from(child.wait_with_output().unwrap());
    seen.fails(130, "nodes are done and kept. To continue: triplay pipeline run small.yaml --set steps=3");
    let recorded = space.records(".triplay") as u64;
    let summary = space.run(&["--set", "steps=3"]);
    assert_eq!(summary["cached"].as_u64(), Some(recorded));
}

#[test]
fn a_run_under_way_and_one_that_was_stopped_say_how_long_they_worked_and_what_is_lost() {
    let space = Space::new();
    space.write("long.yaml", &include_str!("small.yaml").replace("    steps: 60\n", "    steps: 1000000\n"));
    for signal in ["-INT", "-KILL"] {
        let child = space.command(&["pipeline", "run", "long.yaml"]).spawn().unwrap();
        let at_work = || {
            let runs = fs::read_dir(space.path("results/small")).into_iter().flatten().flatten();
            let events = runs.filter_map(|run| fs::read_to_string(run.path().join("events.jsonl")).ok());
            let lines: Vec<String> = events.collect();
            lines.iter().filter(|text| text.contains("\"progress\",\"node\":\"warmup\"")).count()
        };
        let before = at_work();
        while at_work() == before {
            std::thread::sleep(Duration::from_millis(50));
        }
        // More than shows as nothing.
        std::thread::sleep(Duration::from_millis(100));
        let shown = space.triplay(&["runs", "show", "latest"]).out;
        assert!(shown.contains(" s so far\n") && !shown.contains(", 0.0 s so far"), "{shown}");
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let seen = Seen::from(child.wait_with_output().unwrap());
        let shown = space.triplay(&["runs", "show", "latest"]).out;
        match signal {
            "-INT" => {
                let lost = seen.err.lines().find(|line| line.starts_with("  warmup begins again: "));
                let lost = lost.unwrap_or_else(|| panic!("{}", seen.err));
                assert!(
                    lost.contains(" of 1000000 steps, ") && lost.ends_with(" s of work are lost"),
                    "{lost}"
                );
                assert!(shown.contains(", took "), "{shown}");
            }
            _ => assert!(shown.contains(", last seen at work after "), "{shown}"),
        }
        let listed = space.triplay(&["runs", "list", "--json"]).out;
        let newest: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
        assert!(newest["seconds"].as_f64().unwrap() > 0.0, "{newest}");
    }
}

#[test]
fn shipped_pipelines_are_valid() {
    let space = Space::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // huggingface.yaml names checkpoints that are not there; huggingface.rs makes some.
        let is_whole = path.extension().is_some_and(|extension| extension == "yaml")
            && path.file_stem().is_some_and(|stem| stem != "huggingface");
        if is_whole {
            let seen = space.triplay(&["pipeline", "check", path.to_str().unwrap()]);
            assert_eq!(seen.code, Some(0), "{}", seen.err);
            checked += 1;
        }
    }
    assert!(checked > 0);
}

#[test]
fn the_latest_run_is_the_one_that_was_made_last_whatever_its_pipeline() {
    let space = Space::new();
    let run = |pipeline: &str, word: &str| {
        let stage = format!("{{ kind: exec, command: echo {word} }}");
        space.write("p.yaml", &format!("pipeline: {pipeline}\nstages: {{ say: {stage} }}\n"));
        assert_eq!(space.triplay(&["pipeline", "run", "p.yaml"]).code, Some(0));
    };
    run("one", "glowvenom");
    run("one", "moonbane");
    run("other", "ashroot");
    assert_eq!(space.triplay(&["data", "show", "latest:say"]).out, "ashroot\n");
}

#[test]
fn a_run_that_somebody_gave_a_name_keeps_its_place_and_later_ones_are_called_by_their_times() {
    let space = Space::new();
    space.write(
        "p.yaml",
        "pipeline: p\nparams: { word: moss }\nstages: { say: { kind: exec, command: [echo, $word] } }\n",
    );
    let run = |word: &str| -> String {
        let set = format!("word={word}");
        space.triplay(&["pipeline", "run", "p.yaml", "--json", "--set", &set]).json()["run"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let name = |from: &str, to: &str| {
        fs::rename(space.path("results/p").join(from), space.path("results/p").join(to)).unwrap();
    };
    let listed = || -> Vec<String> {
        let list = space.triplay(&["runs", "list"]).out;
        list.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let is_time = |name: &str| name.len() >= 15 && name.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let shown = |run: &str| space.triplay(&["data", "show", &format!("{run}:say")]).out;

    let first = run("moss");
    name(&first, "zzz");
    let second = run("ash");
    assert!(is_time(&second), "{second}");
    assert_ne!(second, first, "no two runs have one name, also where one was changed");
    assert_eq!(listed(), [&*second, "zzz"]);
    assert_eq!(shown("latest"), "ash\n");
    assert_eq!((shown("zzz"), shown(&first)), ("moss\n".into(), "moss\n".into()), "by either name");

    name(&second, "aaa");
    assert_eq!(listed(), ["aaa", "zzz"], "the newest first, whatever it is called");
    assert_eq!(shown("latest"), "ash\n");
    assert_eq!(space.triplay(&["pipeline", "run", "p.yaml", "--json", "--set", "word=ash"]).json()["ran"], 0);
    assert_eq!(fs::read_dir(space.path("results/p")).unwrap().count(), 2, "nothing is to do: no new run");
    let third = run("fern");
    assert!(is_time(&third), "{third}");
    assert_eq!(listed(), [&*third, "aaa", "zzz"]);
    assert_eq!(shown("latest"), "fern\n");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let space = Space::new();
    let stages = "{ say: { kind: exec, command: echo glowvenom } }";
    space.write("p.yaml", &format!("pipeline: p\nstages: {stages}\n"));
    assert_eq!(space.triplay(&["pipeline", "run", "p.yaml"]).code, Some(0));
    for args in [
        &["pipeline", "plan", "p.yaml", "--all"][..],
        &["pipeline", "explain", "p.yaml", "say"],
        &["pipeline", "run", "p.yaml"],
        &["runs", "list"],
        &["runs", "show"],
        &["cache", "stats"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let seen: Seen = space.command(args).stdout(writer).output().unwrap().into();
        assert_eq!((seen.code, seen.err.as_str()), (Some(0), ""), "{args:?}");
    }
}
