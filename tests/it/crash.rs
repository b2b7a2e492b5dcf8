//! Crashes while a run writes: no record is lost, no wrong output is served, and no lock stays.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use triplay::store::{FAIL_POINTS, FAIL_POINTS_OF_GC};

use crate::space::{Seen, Space};

/// The command of every run here.
const SMALL: [&str; 8] =
    ["pipeline", "run", "small.yaml", "--json", "--set", "rounds=1", "--set", "prompts=2"];

fn expected(space: &Space) -> std::collections::BTreeMap<String, String> {
    let whole = space.triplay(&[&SMALL[..], &["--cache", "whole"]].concat()).json();
    space.digests(&whole)
}

fn failing(space: &Space, step: &str, action: &str, pass: usize) -> Seen {
    let mut command = space.command(&SMALL);
    command.env("TRIPLAY_FAIL", format!("{step}:{action}:{pass}")).output().unwrap().into()
}

/// Runs to the end and asserts that the results are right and that recorded nodes did not run again.
fn goes_on(space: &Space, expected: &std::collections::BTreeMap<String, String>, what: &str) {
    let recorded = space.records(".triplay") as u64;
    let summary = space.triplay(&SMALL).json();
    assert_eq!(space.digests(&summary), *expected, "{what}");
    assert!(summary["cached"].as_u64().unwrap() >= recorded, "{what}: {recorded} were recorded: {summary}");
    assert_eq!(summary["again"], 0, "{what}");
    is_clean(space, what);
}

/// Asserts that nothing is damaged except a truncated record, and that killed processes left nothing behind.
fn is_clean(space: &Space, what: &str) {
    let verified = space.triplay(&["cache", "verify", "--json"]);
    let verified: serde_json::Value = serde_json::from_str(&verified.out).unwrap();
    assert!(verified["damaged_records"].as_u64().unwrap() <= 1, "{what}: {verified}");
    assert_eq!(verified["damaged_blobs"].as_array().unwrap().len(), 0, "{what}");
    for folder in ["sessions", "tmp"] {
        let left = names(space, folder);
        assert_eq!(left, [""; 0], "{what}: {folder} has what the killed one left");
    }
    for folder in ["", "records", "roots"] {
        let left = names(space, folder);
        let left: Vec<&String> = left.iter().filter(|name| name.starts_with('.')).collect();
        assert_eq!(left, [""; 0], "{what}: {folder} has what the killed one left");
    }
}

fn names(space: &Space, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(space.path(".triplay").join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn killed_at_each_step_of_writing_a_run_goes_on_to_the_same_end() {
    let space = Space::new();
    let expected = expected(&space);
    for step in FAIL_POINTS {
        for pass in [1, 9] {
            let seen = failing(&space, step, "kill", pass);
            // Not every step is reached nine times.
            assert!(seen.code.is_none() || (pass > 1 && seen.code == Some(0)), "{step}: {}", seen.err);
            goes_on(&space, &expected, &format!("killed at {step} ({pass})"));
            fs::remove_dir_all(space.path(".triplay")).unwrap();
        }
    }
}

#[test]
fn a_full_disk_and_a_broken_one_are_said_at_each_step_and_harm_nothing() {
    let space = Space::new();
    let expected = expected(&space);
    for (action, text) in [
        ("enospc", "No space left on device (os error 28)\n  help: free some space"),
        ("eio", "Input/output error (os error 5)\n  help: the disk reports an error"),
    ] {
        for step in FAIL_POINTS {
            // Some steps are reached once.
            let once = step.starts_with("root.rename") || *step == "session";
            let seen = failing(&space, step, action, if once { 1 } else { 2 });
            assert!(!seen.err.contains("panicked"), "{step}: {}", seen.err);
            // A session is announced again when something is written.
            let is_tried_again = *step == "session";
            assert_eq!(seen.code == Some(0), is_tried_again, "{step}: {}", seen.err);
            if !step.starts_with("file.") && !is_tried_again {
                assert!(seen.err.contains(text), "{step}: {}", seen.err);
            }
            goes_on(&space, &expected, &format!("{action} at {step}"));
            fs::remove_dir_all(space.path(".triplay")).unwrap();
        }
    }
}

#[test]
fn gc_that_is_killed_at_any_step_or_finds_the_disk_full_loses_nothing() {
    let space = Space::new();
    let expected = expected(&space);
    for step in FAIL_POINTS_OF_GC {
        for action in ["kill", "enospc"] {
            // Two runs, one of which is released: there is something to delete and something to keep.
            space.triplay(&[&SMALL[..], &["--seeds", "8"]].concat()).json();
            assert_eq!(space.triplay(&["runs", "rm", "latest"]).code, Some(0));
            space.triplay(&SMALL).json();
            let mut gc = space.command(&["cache", "gc"]);
            let seen: Seen = gc.env("TRIPLAY_FAIL", format!("{step}:{action}")).output().unwrap().into();
            let code = if action == "kill" { None } else { Some(2) };
            assert_eq!(seen.code, code, "{step}: {}", seen.err);
            let goes_on = || {
                let summary = space.triplay(&SMALL).json();
                assert_eq!(
                    (space.digests(&summary), &summary["ran"]),
                    (expected.clone(), &0.into()),
                    "{step}"
                );
                is_clean(&space, &format!("gc: {action} at {step}"));
            };
            goes_on();
            let collected = space.triplay(&["cache", "gc", "--json"]).json();
            assert_ne!(collected["records"], 0, "{step}: what is let go of goes: {collected}");
            assert_eq!(names(&space, "claims"), [""; 0], "{step}");
            goes_on();
            fs::remove_dir_all(space.path(".triplay")).unwrap();
            fs::remove_dir_all(space.path("results")).unwrap();
        }
    }
}

#[test]
fn five_processes_on_one_cache_compute_each_key_once() {
    let space = Space::new();
    let expected = expected(&space);
    let runs: Vec<Child> = (0..5).map(|_| space.command(&SMALL).spawn().unwrap()).collect();
    let mut ran = 0;
    for run in runs {
        let seen = Seen::from(run.wait_with_output().unwrap());
        let summary = seen.json();
        ran += summary["ran"].as_u64().unwrap();
        assert_eq!(space.digests(&summary), expected);
    }
    assert_eq!(ran as usize, space.records(".triplay"));
}

/// The program as if on a host of this name that shares the folder, where kernel locks are not reliable.
fn on_host(space: &Space, host: &str, args: &[&str]) -> Command {
    let mut command = space.command(args);
    command.env("TRIPLAY_LOCKING", "leases").env("TRIPLAY_HOST", format!("{host}:{host}"));
    command.env("TRIPLAY_EXPIRY_SECONDS", "3");
    command
}

#[test]
fn twenty_processes_of_two_hosts_on_one_folder_compute_each_key_once_without_locks_of_the_kernel() {
    let space = Space::new();
    let expected = expected(&space);
    let hosts = ["cauldron", "kettle"];
    let runs: Vec<Child> =
        (0..20).map(|number| on_host(&space, hosts[number % 2], &SMALL).spawn().unwrap()).collect();
    let mut ran = 0;
    for run in runs {
        let summary = Seen::from(run.wait_with_output().unwrap()).json();
        ran += summary["ran"].as_u64().unwrap();
        assert_eq!(space.digests(&summary), expected);
    }
    assert_eq!(ran as usize, space.records(".triplay"));
    let verified = space.triplay(&["cache", "verify", "--json"]).json();
    assert_eq!(
        (verified["damaged_blobs"].as_array().unwrap().len(), &verified["damaged_records"]),
        (0, &0.into())
    );
    for folder in ["claims", "sessions", "tmp"] {
        assert_eq!(fs::read_dir(space.path(".triplay").join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn what_a_host_that_died_was_at_is_taken_over_by_another_and_nothing_recorded_is_lost() {
    let space = Space::new();
    let expected = expected(&space);
    for _ in 0..3 {
        let mut first = on_host(&space, "cauldron", &SMALL).spawn().unwrap();
        while space.records(".triplay") < 5 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let second = on_host(&space, "kettle", &SMALL).spawn().unwrap();
        first.kill().unwrap();
        first.wait().unwrap();
        let recorded = space.records(".triplay") as u64;
        // Two other processes are alive, and one of them deletes what no run needs.
        let gc = on_host(&space, "spoon", &["cache", "gc", "--json"]).output().unwrap();
        assert_eq!(Seen::from(gc).code, Some(0));
        let summary = Seen::from(second.wait_with_output().unwrap()).json();
        assert_eq!(space.digests(&summary), expected);
        assert!(
            summary["ran"].as_u64().unwrap() <= expected_nodes(&summary) - 5,
            "{recorded} were recorded: {summary}"
        );
        fs::remove_dir_all(space.path(".triplay")).unwrap();
    }
}

fn expected_nodes(summary: &serde_json::Value) -> u64 {
    summary["ran"].as_u64().unwrap() + summary["cached"].as_u64().unwrap()
}

/// Sends a signal that does not end the process, such as STOP.
fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn gc_that_stood_still_while_others_went_on_throws_nothing_away() {
    let space = Space::new();
    let expected = expected(&space);
    let run = |host: &str| Seen::from(on_host(&space, host, &SMALL).output().unwrap()).json();
    run("cauldron");
    assert_eq!(on_host(&space, "cauldron", &["runs", "rm", "latest"]).status().unwrap().code(), Some(0));
    // It has listed the unused blobs, and deletes them when it continues.
    let mut gc = on_host(&space, "cauldron", &["cache", "gc"]);
    gc.env("TRIPLAY_FAIL", "collect.looked:stop");
    let gc = gc.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", gc.id())).unwrap();
    while !state().contains(") T ") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let summary = run("kettle");
    assert_eq!((space.digests(&summary), &summary["ran"]), (expected.clone(), &0.into()));
    signal(&gc, "CONT");
    let seen = Seen::from(gc.wait_with_output().unwrap());
    seen.fails(2, "this process was suspended for so long that others took it for dead; run it again");
    let summary = run("kettle");
    assert_eq!((space.digests(&summary), &summary["ran"]), (expected, &0.into()), "nothing is lost");
}

#[test]
fn who_waits_for_another_process_says_so_and_other_keys_do_not_wait() {
    let space = Space::new();
    space.write("slow.yaml", "pipeline: slow\nparams: { own: a }\nstages:\n  slow: { kind: exec, command: 'sleep 1; echo moss > out', outputs: { out: text } }\n  own: { kind: exec, command: 'echo glowvenom > out', outputs: { out: text }, env: { own: $own } }\n");
    let first = space.command(&["pipeline", "run", "slow.yaml", "--json"]).spawn().unwrap();
    while fs::read_dir(space.path(".triplay/claims")).map_or(0, Iterator::count) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = space.triplay(&["pipeline", "run", "slow.yaml", "--json", "--set", "own=b", "--jobs", "1"]);
    let who = format!("waiting: process {} on ", first.id());
    assert!(second.err.contains(&who) && second.err.contains(" computes slow"), "{}", second.err);
    let (first, second) = (Seen::from(first.wait_with_output().unwrap()).json(), second.json());
    assert_eq!((&first["ran"], &second["ran"], &second["cached"]), (&2.into(), &1.into(), &1.into()));
}

#[test]
fn who_waits_takes_over_when_the_other_process_dies() {
    let space = Space::new();
    space.write("slow.yaml", "pipeline: slow\nstages:\n  slow: { kind: exec, command: 'sleep 2; echo moss > out', outputs: { out: text } }\n");
    let mut first = space.command(&["pipeline", "run", "slow.yaml", "--json"]).spawn().unwrap();
    while fs::read_dir(space.path(".triplay/claims")).map_or(0, Iterator::count) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = space.command(&["pipeline", "run", "slow.yaml", "--json"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    first.kill().unwrap();
    first.wait().unwrap();
    let seen = Seen::from(second.wait_with_output().unwrap());
    assert_eq!(seen.json()["ran"], 1);
}

#[test]
fn gc_beside_two_runs_takes_nothing_that_they_need() {
    let space = Space::new();
    let expected = expected(&space);
    let other = [&SMALL[..], &["--set", "seed=6"]].concat();
    // Something to delete: a run with a deleted folder.
    let gone = space.triplay(&[&SMALL[..], &["--set", "seed=7"]].concat()).json();
    fs::remove_dir_all(space.path(gone["results"].as_str().unwrap())).unwrap();
    let mut runs = [space.command(&SMALL).spawn().unwrap(), space.command(&other).spawn().unwrap()];
    let mut collected = 0;
    while runs.iter_mut().any(|run| run.try_wait().unwrap().is_none()) {
        collected += space.triplay(&["cache", "gc", "--json"]).json()["blobs"].as_u64().unwrap();
    }
    let [first, second] = runs.map(|run| Seen::from(run.wait_with_output().unwrap()).json());
    assert_eq!(space.digests(&first), expected);
    assert!(collected > 20, "the run that was gone is thrown away");
    assert_eq!((&first["again"], &second["again"]), (&0.into(), &0.into()));
    let last = space.triplay(&["cache", "gc", "--json"]).json();
    for args in [&SMALL[..], &other] {
        let summary = space.triplay(args).json();
        assert_eq!(summary["ran"], 0, "nothing was lost, and {last}");
    }
}

#[test]
fn a_run_whose_folder_was_moved_away_keeps_what_it_needs_until_runs_rm_lets_go_of_it() {
    let space = Space::new();
    let cache = space.path("cache");
    let cache = ["--cache", cache.to_str().unwrap()];
    let project = space.path("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("small.yaml"), include_str!("small.yaml")).unwrap();
    let run = |folder: &Path| -> serde_json::Value {
        let mut command = space.command(&[&SMALL[..], &cache].concat());
        Seen::from(command.current_dir(folder).output().unwrap()).json()
    };
    let first = run(&project);
    // Moved, or on a disk that is not mounted.
    let moved = space.path("moved");
    fs::rename(&project, &moved).unwrap();
    let gc = || space.triplay(&[&["cache", "gc", "--json"][..], &cache].concat()).json();
    let kept = gc();
    assert_eq!((&kept["blobs"], &kept["runs_unseen"]), (&0.into(), &1.into()));
    assert_eq!(run(&moved)["ran"], 0, "nothing was lost");
    assert_eq!(gc()["runs_unseen"], 0, "the cache recognises it");
    fs::rename(&moved, &project).unwrap();
    let folder = moved.join(first["results"].as_str().unwrap());
    let rm = |more: &[&str]| {
        space.triplay(&[&["runs", "rm", folder.to_str().unwrap()][..], &cache, more].concat())
    };
    rm(&[]).fails(2, "cannot be seen from here: it may belong to another user");
    let removed = rm(&["--force"]);
    assert!(removed.out.starts_with("released "), "{}{}", removed.out, removed.err);
    assert_ne!(gc()["blobs"], 0);
}

#[test]
fn a_clock_that_was_set_back_confuses_nobody() {
    let space = Space::new();
    let first = space.triplay(&SMALL).json();
    let results = space.path(first["results"].as_str().unwrap());
    // A clock that was ahead made the run.
    let ahead = space.path("results/small/20991231-235959");
    fs::rename(&results, &ahead).unwrap();
    let record = fs::read_to_string(ahead.join("run.json")).unwrap();
    let began = record.lines().find(|line| line.contains("\"began\"")).unwrap();
    fs::write(ahead.join("run.json"), record.replace(began, "  \"began\": \"2099-12-31T23:59:59Z\","))
        .unwrap();
    let second = space.triplay(&[&SMALL[..], &["--set", "label=later"]].concat()).json();
    assert_eq!((&second["ran"], &second["run"]), (&1.into(), &"20991231-235959-2".into()));
    let shown = space.triplay(&["runs", "show", "latest", "--json"]).json();
    assert_eq!(shown["run"]["run"], second["run"], "the latest is the one that was made last");
    // The renamed run is known by its new name, and neither run is old.
    space.triplay(&["cache", "gc", "--older-than", "1h"]);
    assert_eq!(space.triplay(&[&SMALL[..], &["--set", "label=later"]].concat()).json()["ran"], 0);
}

/// A copy of the program that every user may run.
fn program(space: &Space) -> PathBuf {
    fs::set_permissions(space.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = space.path("triplay");
    if fs::hard_link(env!("CARGO_BIN_EXE_triplay"), &program).is_err() {
        fs::copy(env!("CARGO_BIN_EXE_triplay"), &program).unwrap();
    }
    program
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The program, run by another user with umask 077.
fn by(user: u32, group: u32, program: &Path, folder: &Path, args: &[&str]) -> Seen {
    let script = format!("umask 077; exec {} {}", program.display(), args.join(" "));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).current_dir(folder).env("CI", "1").env_remove("TRIPLAY_CACHE");
    command.uid(user).gid(group).output().unwrap().into()
}

#[test]
fn two_users_of_a_group_share_one_cache() {
    if !is_root() {
        return eprintln!("only root can run programs as two users");
    }
    let space = Space::new();
    let program = program(&space);
    let (cache, group) = (space.path("shared"), 20_000);
    fs::create_dir(&cache).unwrap();
    std::os::unix::fs::chown(&cache, Some(20_001), Some(group)).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o2770)).unwrap();
    let homes = [20_001, 20_002].map(|user| {
        let home = space.path(&user.to_string());
        fs::create_dir(&home).unwrap();
        fs::write(home.join("small.yaml"), include_str!("small.yaml")).unwrap();
        std::os::unix::fs::chown(&home, Some(user), Some(group)).unwrap();
        (user, home)
    });
    let run = |who: usize, more: &[&str]| {
        let cache = cache.to_str().unwrap();
        by(homes[who].0, group, &program, &homes[who].1, &[&SMALL[..], &["--cache", cache], more].concat())
            .json()
    };
    let first = run(0, &[]);
    let second = run(1, &[]);
    assert_eq!((&second["ran"], &second["cached"]), (&0.into(), &first["ran"]));
    // One user's run is in a folder that the other cannot see, and its blobs are kept.
    run(0, &["--set", "label=own"]);
    fs::set_permissions(&homes[0].1, fs::Permissions::from_mode(0o700)).unwrap();
    let gc = by(
        20_002,
        group,
        &program,
        &homes[1].1,
        &["cache", "gc", "--json", "--cache", cache.to_str().unwrap()],
    );
    let collected = gc.json();
    assert_eq!((&collected["blobs"], &collected["records"]), (&0.into(), &0.into()), "{collected}");
    assert_eq!((&collected["runs_unseen"], &collected["runs_deleted"]), (&2.into(), &0.into()));
    assert_eq!(run(0, &["--set", "label=own"])["ran"], 0);
    assert_eq!(run(1, &["--set", "diversity=0.3"])["failed"], 0);
    assert_eq!(run(0, &["--set", "diversity=0.3"])["ran"], 0);
    let stranger = by(
        20_003,
        20_003,
        &program,
        &homes[1].1,
        &["pipeline", "plan", "small.yaml", "--cache", cache.to_str().unwrap()],
    );
    stranger.fails(2, "choose a cache folder you may write to");
}

#[test]
fn a_cache_that_may_only_be_read_serves_what_it_has_and_says_what_it_cannot() {
    let space = Space::new();
    let program = program(&space);
    // A cache that is shared with all users of the machine on purpose.
    fs::create_dir(space.path(".triplay")).unwrap();
    fs::set_permissions(space.path(".triplay"), fs::Permissions::from_mode(0o755)).unwrap();
    let first = space.triplay(&SMALL).json();
    fn all(path: &Path, act: &dyn Fn(&Path)) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().flatten().for_each(|entry| all(&entry.path(), act));
        }
        act(path);
    }
    all(&space.path(".triplay"), &|path| {
        let mode = fs::metadata(path).unwrap().mode();
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o555)).unwrap();
    });
    fs::set_permissions(space.path("results"), fs::Permissions::from_mode(0o777)).unwrap();
    all(&space.path("results"), &|path| {
        if path.is_dir() && !path.is_symlink() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
    });
    let (user, group) = if is_root() { (65_534, 65_534) } else { (own_id(), own_group()) };
    let run = |args: &[&str]| by(user, group, &program, &space.path(""), args);
    let again = run(&SMALL).json();
    assert_eq!((&again["ran"], &again["cached"]), (&0.into(), &first["ran"]));
    assert_eq!(
        run(&["pipeline", "plan", "small.yaml", "--set", "rounds=1", "--set", "prompts=2", "--exit-code"])
            .code,
        Some(0)
    );
    assert_eq!(run(&["data", "show", "latest:world.seeds", "--rows", "1"]).code, Some(0));
    assert_eq!(run(&["cache", "verify"]).code, Some(0));
    let more = run(&[&SMALL[..], &["--set", "label=other"]].concat());
    more.fails(2, "choose a cache folder you may write to, with --cache DIR or TRIPLAY_CACHE");
    all(&space.path(".triplay"), &|path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    });
}

fn own_id() -> u32 {
    fs::metadata("/proc/self").map_or(0, |own| own.uid())
}

fn own_group() -> u32 {
    fs::metadata("/proc/self").map_or(0, |own| own.gid())
}
