//! `triplay runs rm`: it removes runs, and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::space::Space;

const ONE: &str = "pipeline: brew\nparams: { herb: moss }\nstages:\n  say: { kind: exec, command: 'echo ${herb} > out', outputs: { out: text } }\n";

/// A space with a run of `brew`, and its folder.
fn ran() -> (Space, PathBuf) {
    let space = Space::new();
    space.write("brew.yaml", ONE);
    let summary = space.triplay(&["pipeline", "run", "brew.yaml", "--json"]).json();
    let folder = space.path(summary["results"].as_str().unwrap());
    (space, folder)
}

#[test]
fn a_folder_that_is_no_run_is_not_removed() {
    let (space, folder) = ran();
    let nodes = fs::read(folder.join("nodes.jsonl")).unwrap();
    let record = fs::read_to_string(folder.join("run.json")).unwrap();
    let rm = |place: &str| space.triplay(&["runs", "rm", place, "--force"]);
    let make = |place: &str, nodes: &[u8], record: Option<&str>| {
        fs::create_dir_all(space.path(place)).unwrap();
        fs::write(space.path(place).join("nodes.jsonl"), nodes).unwrap();
        if let Some(record) = record {
            fs::write(space.path(place).join("run.json"), record).unwrap();
        }
        fs::write(space.path(place).join("thesis.tex"), "years of work").unwrap();
    };
    let own = "{\"event\":\"login\"}\n";
    make("logs", own.as_bytes(), None);
    make("copied", &nodes, Some(&record));
    make("edited", &nodes, Some(&record.replace("\"done\"", "\"ever\"")));
    make("results/brew/mine", &nodes, None);
    make("results/brew/20261129-120000", own.as_bytes(), None);
    make("elsewhere/brew/run", &nodes, Some("{}"));
    for place in [
        "logs",
        "copied",
        "edited",
        "results/brew/mine",
        "results/brew/20261129-120000",
        "elsewhere/brew/run",
    ] {
        rm(place).fails(2, "is not the folder of a run: it must have a ");
        assert!(space.path(place).join("thesis.tex").exists(), "{place}");
    }
    space.triplay(&["runs", "rm", ""]).fails(2, "found an empty text");
    space.triplay(&["runs", "rm", "/"]).fails(2, "found an empty text");
    assert!(folder.exists());
}

#[test]
fn a_folder_that_is_no_run_is_left_as_it_is_by_commands_that_read_runs() {
    let (space, _) = ran();
    let seen = |name: &str| {
        let mut names: Vec<_> =
            fs::read_dir(space.path(name)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    fs::create_dir(space.path("logs")).unwrap();
    space.write("logs/nodes.jsonl", "{}\n");
    for args in [
        &["runs", "export", "logs", "--to", "csv", "-o", "out"][..],
        &["report", "logs"],
        &["runs", "show", "logs"],
        &["results", "table", "logs"],
    ] {
        space.triplay(args).fails(
            2,
            "logs is not the folder of a run: it must have a record run.json beside its nodes.jsonl",
        );
        assert_eq!(seen("logs"), ["nodes.jsonl"], "{args:?}");
    }
    space.write("logs/run.json", "{}\n");
    for args in [&["runs", "export", "logs", "--to", "csv", "-o", "out"][..], &["runs", "show", "logs"]] {
        space.triplay(args).fails(2, "logs/run.json is not a run record");
        assert_eq!(seen("logs"), ["nodes.jsonl", "run.json"], "{args:?}");
    }
}

#[test]
fn a_run_with_files_of_the_users_own_in_it_is_removed_only_by_force() {
    let (space, folder) = ran();
    // Files that triplay adds later, when it reads a run, are its own.
    assert_eq!(space.triplay(&["runs", "export", "latest", "--to", "csv", "-o", "out"]).code, Some(0));
    assert!(folder.join("tables").is_dir());
    let stamp = fs::read_dir(folder.join("tables")).unwrap().next().unwrap().unwrap().path();
    fs::write(folder.join("notes.md"), "glowvenom works").unwrap();
    fs::create_dir(folder.join("plots")).unwrap();
    fs::write(folder.join("models/mine.txt"), "").unwrap();
    fs::write(stamp.join("mine.csv"), "").unwrap();
    fs::create_dir(folder.join("tables/mine")).unwrap();
    symlink("notes.md", folder.join("metrics.csv")).unwrap();
    let refused = space.triplay(&["runs", "rm", "latest"]);
    refused.fails(
        2,
        "has files in it that triplay did not write: metrics.csv, models/mine.txt, notes.md, plots/, tables/",
    );
    assert!(
        refused.err.contains(" and 1 more; move them away, or remove them too with --force"),
        "{}",
        refused.err
    );
    assert!(folder.join("run.json").exists() && folder.join("plots").exists(), "nothing was removed");

    let removed = space.triplay(&["runs", "rm", "latest", "--force"]);
    assert_eq!(removed.code, Some(0), "{}", removed.err);
    assert!(removed.out.contains(" with metrics.csv, models/mine.txt, notes.md, "), "{}", removed.out);
    assert!(!folder.exists());
}

#[test]
fn all_runs_are_looked_at_before_any_is_removed() {
    let (space, first) = ran();
    let second = space.triplay(&["pipeline", "run", "brew.yaml", "--json", "--set", "herb=ash"]).json();
    let second = space.path(second["results"].as_str().unwrap());
    fs::write(second.join("notes.md"), "").unwrap();
    let names = [&first, &second].map(|path| path.to_str().unwrap());
    space.triplay(&[&["runs", "rm"], &names[..]].concat()).fails(2, "notes.md");
    assert!(first.exists());
    fs::remove_file(second.join("notes.md")).unwrap();
    let twice = [names[0], names[1], names[0]];
    assert_eq!(space.triplay(&[&["runs", "rm"], &twice[..]].concat()).out.lines().count(), 2);
    assert!(!first.exists() && !second.exists());
}

#[test]
fn a_link_to_a_run_is_not_followed() {
    let (space, folder) = ran();
    symlink(&folder, space.path("results/brew/best")).unwrap();
    for name in ["results/brew/best", "results/brew/best/", "results/brew/best/.", "best"] {
        space.triplay(&["runs", "rm", name, "--force"]).fails(2, "is a symbolic link to ");
    }
    assert!(folder.join("run.json").exists() && space.path("results/brew/best").is_symlink());
    // A link among the models is removed, and its target stays.
    fs::write(space.path("checkpoint"), "moss").unwrap();
    symlink(space.path("checkpoint"), folder.join("models/own")).unwrap();
    assert_eq!(space.triplay(&["runs", "rm", folder.to_str().unwrap()]).code, Some(0));
    assert!(space.path("checkpoint").exists() && !folder.exists());
}

#[test]
fn a_run_that_was_killed_before_it_had_a_record_is_removed_where_runs_are() {
    let (space, folder) = ran();
    let mut command = space.command(&["pipeline", "run", "brew.yaml", "--set", "herb=ash"]);
    let killed = command.env("TRIPLAY_FAIL", "file.write:kill").output().unwrap();
    assert_eq!(killed.status.code(), None);
    let runs = || fs::read_dir(space.path("results/brew")).unwrap().map(|run| run.unwrap().path());
    let young = runs().find(|run| *run != folder).unwrap();
    assert!(young.join("nodes.jsonl").exists() && !young.join("run.json").exists());
    let name = young.file_name().unwrap().to_str().unwrap();
    let removed = space.triplay(&["runs", "rm", name]);
    assert_eq!(removed.code, Some(0), "{}", removed.err);
    assert!(!young.exists() && folder.exists());

    // So is a run with a damaged record, and a renamed run.
    let record = fs::read(folder.join("run.json")).unwrap();
    fs::write(folder.join("run.json"), &record[..record.len() / 2]).unwrap();
    let named = space.path("results/brew/favourite");
    assert_eq!(space.triplay(&["runs", "rm", folder.to_str().unwrap()]).code, Some(0));
    let summary = space.triplay(&["pipeline", "run", "brew.yaml", "--json"]).json();
    fs::rename(space.path(summary["results"].as_str().unwrap()), &named).unwrap();
    assert_eq!(space.triplay(&["runs", "rm", "favourite"]).code, Some(0));
    assert_eq!(runs().count(), 0);
}

#[test]
fn to_remove_a_copy_of_a_run_takes_nothing_from_the_run() {
    let space = Space::new();
    space.write(
        "p.yaml",
        "pipeline: p\nstages:\n  a: { kind: exec, command: 'echo moss > out', outputs: { out: text } }\n",
    );
    let summary = space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json();
    let run = summary["results"].as_str().unwrap();
    let copy = format!("{run}-backup");
    assert!(
        std::process::Command::new("cp")
            .args(["-r", run, &copy])
            .current_dir(space.path(""))
            .status()
            .unwrap()
            .success()
    );
    let removed = space.triplay(&["runs", "rm", &copy]);
    assert_eq!(removed.code, Some(0), "{}", removed.err);
    assert_eq!(space.triplay(&["cache", "gc", "--json"]).json()["blobs"], 0);
    assert_eq!(space.triplay(&["pipeline", "run", "p.yaml", "--json"]).json()["ran"], 0);
}
