//! What is tried again, and what an attempt leaves for the next one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::exec::{play, ran, start, text, wait_for};
use crate::space::{Seen, Space};

/// A command that appends to `diary` each time it runs, and then does `last`.
fn stage(space: &Space, last: &str, more: &str) -> String {
    let diary = space.path("diary");
    let _ = fs::remove_file(&diary);
    format!("  a: {{ kind: exec, command: 'echo begun >> {}; {last}'{more} }}\n", diary.display())
}

/// How often the command ran, and the error.
fn tried(space: &Space, last: &str, more: &str) -> (usize, String) {
    let seen = play(space, &stage(space, last, more), &[]);
    let times = fs::read_to_string(space.path("diary")).unwrap().lines().count();
    (times, seen.err)
}

#[test]
fn a_retry_means_any_failure_unless_it_says_which() {
    let space = Space::new();
    let with = |what: &str| format!(", retry: {{ times: 2, wait: 1ms{what} }}");
    for (last, more, expected) in [
        ("exit 3", String::new(), 1),
        ("exit 3", ", retry: 0".into(), 1),
        ("exit 75", ", retry: 0".into(), 1),
        ("exit 3", with(""), 3),
        ("kill -9 $$", with(""), 3),
        ("true", with("") + ", outputs: { out: text }", 3),
        ("exit 75", with(", on: { exit: 3 }"), 1),
        ("exit 3", with(", on: { exit: [75, 3] }"), 3),
        ("kill -9 $$", with(", on: { exit: 137 }"), 3),
        ("echo CUDA out of memory; exit 1", with(", on: { text: CUDA out of memory }"), 3),
        ("echo out of cheese; exit 1", with(", on: { text: [CUDA out of memory, disk] }"), 1),
        ("echo disk full; exit 1", with(", on: { exit: 9, text: [CUDA out of memory, disk] }"), 3),
        ("echo disk full; exit 9", with(", on: { exit: 9 }") + ", on: process", 3),
        ("echo disk full; exit 9", with("") + ", on: process", 3),
    ] {
        let (times, err) = tried(&space, last, &more);
        assert_eq!(times, expected, "{last}{more}: {err}");
        assert_eq!(err.matches("trying again in ").count(), expected - 1, "{err}");
    }
    let (_, err) = tried(&space, "sleep 5", ", timeout: 100ms, retry: { times: 1, wait: 1ms }");
    assert!(err.contains("a: timed out after 100ms; trying again in 1ms (1 of 1)"), "{err}");
}

#[test]
fn a_stage_that_succeeds_at_another_attempt_is_done_and_its_key_knows_no_retry() {
    let space = Space::new();
    let last = format!("test $(wc -l < {}) -gt 2 && echo moss > out", space.path("diary").display());
    let outputs = ", outputs: { out: text }";
    let command = stage(&space, &last, &format!("{outputs}, retry: {{ times: 3, wait: 1ms }}"));
    play(&space, &command, &[]).json();
    assert_eq!(text(&space, "a"), "moss\n");
    assert_eq!(fs::read_to_string(space.path("diary")).unwrap().lines().count(), 3);
    play(&space, &stage(&space, &last, outputs), &[]).json();
    assert!(!space.path("diary").exists(), "it is cached");
}

#[test]
fn a_retry_that_is_written_wrong_is_answered_with_the_right_form() {
    let space = Space::new();
    for (retry, expected) in [
        ("soon", "`retry` must be a whole number or a map such as { times: 5, wait: 10s }, found text"),
        ("{ times: 1, exit: [3] }", "`retry` has no key `exit`"),
        ("{ on: [3] }", "`on` must be a map such as { exit: [75], text: out of memory }, found a list"),
        ("{ on: {} }", "`on` must have `exit` or `text`, found neither"),
        ("{ on: { exit: 0 } }", "`exit` must be exit codes of failures, from 1 to 255, found 0"),
        ("{ on: { exit: [75, oom] } }", "`exit` must be exit codes of failures, from 1 to 255, found `oom`"),
        ("{ on: { text: '' } }", "`text` must be text of the log, found ``"),
        ("{ on: { exits: 3 } }", "`on` has no key `exits`"),
    ] {
        let seen = play(&space, &format!("  a: {{ kind: exec, command: a, retry: {retry} }}\n"), &[]);
        seen.fails(2, expected);
    }
    let seen = play(&space, "  a: { kind: sandbox, retry: { on: { exit: 3 } } }\n", &[]);
    seen.fails(2, "`on` of `retry` must be left out for the kind sandbox: it has no exit code");
}

/// The path after `words` in an error.
fn place_in(err: &str, words: &str) -> PathBuf {
    let line = err.lines().find_map(|line| line.trim_start().strip_prefix(words));
    line.unwrap_or_else(|| panic!("`{words}` in {err}")).trim_start_matches(": ").into()
}

#[test]
fn what_a_failing_stage_had_written_is_kept_under_its_name_and_goes_with_the_run() {
    let space = Space::new();
    let outputs = "outputs: { model: folder, notes: text, last: text, none: text, out: text }";
    let command = "mkdir -p model/step_1; echo moss > model/step_1/w; ln -s step_1 model/last; echo 1 > notes; \
                   ln -s notes last; ln -s /etc/hostname out; chmod a-w model; exit 3";
    for on in ["", ", on: process"] {
        let stages = format!("  ab: {{ kind: exec, command: '{command}', {outputs}{on} }}\n");
        let seen = play(&space, &stages, &[]);
        seen.fails(1, "ab: exit code 3\n  its log is empty\n  what it had written of `model`: ");
        let model = place_in(&seen.err, "what it had written of `model`");
        assert!(model.ends_with("ab/model"), "{}", seen.err);
        assert_eq!(fs::read_to_string(model.join("last/w")).unwrap(), "moss\n");
        assert_eq!(fs::read_to_string(model.with_file_name("notes")).unwrap(), "1\n");
        assert!(!seen.err.contains("`none`") && !seen.err.contains("`out`"), "{}", seen.err);
        assert!(fs::exists("/etc/hostname").unwrap());
        assert_eq!(fs::read_dir(space.path(".triplay/tmp")).unwrap().count(), 0);
        space.triplay(&["runs", "rm", "latest"]);
        space.triplay(&["cache", "gc"]);
        assert!(!model.exists());
    }
    let late = "  a: { kind: exec, command: 'echo 1 > m; sleep 60', outputs: { m: text }, timeout: 300ms }\n";
    let seen = play(&space, late, &[]);
    assert!(place_in(&seen.err, "what it had written of `m`").exists(), "{}", seen.err);
    let wrong = "  a: { kind: exec, command: 'echo moss > t', outputs: { t: texts } }\n";
    let seen = play(&space, wrong, &[]);
    assert!(place_in(&seen.err, "what it had written of `t`").exists(), "{}", seen.err);
    assert_eq!(ran(&space, "  a: { kind: exec, command: 'echo moss' }\n", &[]), ["a"]);
    let left = fs::read_dir(space.path(".triplay/failed")).unwrap().flatten();
    assert!(
        left.filter(|run| fs::read_dir(run.path()).unwrap().count() > 0).count() <= 2,
        "a success leaves nothing"
    );
}

#[test]
fn what_an_interrupted_stage_had_written_is_kept_too() {
    for on in ["", ", on: process"] {
        let space = Space::new();
        let command = "echo begun; mkdir m; echo moss > m/w; sleep 60";
        let stages = format!("  a: {{ kind: exec, command: '{command}', outputs: {{ m: folder }}{on} }}\n");
        let child = start(&space, &stages);
        wait_for("the output", || find(&space, "m/w").is_some());
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let seen = Seen::from(child.wait_with_output().unwrap());
        seen.fails(130, "what a had written of `m`: ");
        let kept = place_in(&seen.err, "what a had written of `m`");
        assert_eq!(fs::read_to_string(kept.join("w")).unwrap(), "moss\n");
        assert_eq!(space.triplay(&["runs", "log", "latest:a"]).out, "begun\n");
    }
}

#[test]
fn what_a_killed_stage_had_written_is_kept_by_the_next_process() {
    for on in ["", ", on: process"] {
        let space = Space::new();
        let command = "mkdir m; echo moss > m/w; sleep 60";
        let stages = format!("  a: {{ kind: exec, command: '{command}', outputs: {{ m: folder }}{on} }}\n");
        let mut child = start(&space, &stages);
        wait_for("the output", || find(&space, "m/w").is_some());
        let job = Command::new("pgrep")
            .args(["-P", &child.id().to_string(), "-f", "triplay work"])
            .output()
            .unwrap();
        let job = String::from_utf8(job.stdout).unwrap();
        let seen = match job.trim() {
            "" => {
                child.kill().unwrap();
                child.wait().unwrap();
                play(&space, "  b: { kind: exec, command: 'true' }\n", &[])
            }
            // The run learns of it at once.
            job => {
                assert!(Command::new("kill").args(["-KILL", job]).status().unwrap().success());
                Seen::from(child.wait_with_output().unwrap())
            }
        };
        let kept = place_in(
            &seen.err.replace("note: ", ""),
            "what a had written of `m` when its process was killed",
        );
        assert_eq!(fs::read_to_string(kept.join("w")).unwrap(), "moss\n", "{on}");
        let again = play(&space, "  b: { kind: exec, command: 'true' }\n", &[]);
        assert!(!again.err.contains("had written"), "{}", again.err);
    }
}

#[test]
fn an_output_of_an_earlier_attempt_is_named_if_the_next_one_wrote_none() {
    let space = Space::new();
    let last = format!("test $(wc -l < {}) -gt 1 || echo moss > m; exit 3", space.path("diary").display());
    let seen =
        play(&space, &stage(&space, &last, ", outputs: { m: text }, retry: { times: 1, wait: 1ms }"), &[]);
    let kept = place_in(&seen.err, "what an earlier attempt had written of `m`");
    assert_eq!(fs::read_to_string(kept).unwrap(), "moss\n", "{}", seen.err);
}

#[test]
fn what_a_job_by_hand_saves_stays() {
    let space = Space::new();
    let stages = "  a: { kind: exec, command: 'echo moss > k/half; echo half > m; exit 3', outputs: { m: text }, keep: k }\n";
    space.write("p.yaml", &format!("pipeline: p\nstages:\n{stages}"));
    let job = space.triplay(&["pipeline", "explain", "p.yaml", "a", "--job"]);
    space.write("job.json", &job.out);
    assert_eq!(space.triplay(&["work", "job.json"]).code, Some(1));
    space.triplay(&["cache", "gc"]);
    assert_eq!(fs::read_to_string(space.path(".triplay/failed/work/a/m")).unwrap(), "half\n");
    let kept = fs::read_dir(space.path(".triplay/unfinished")).unwrap().next().unwrap().unwrap().path();
    assert!(kept.join("content/half").exists());
}

/// A file of this name in what processes have not finished writing.
fn find(space: &Space, name: &str) -> Option<PathBuf> {
    let folders =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let scratch =
        folders(space.path(".triplay/tmp")).flat_map(folders).map(|path| path.join(".scratch").join(name));
    scratch.into_iter().find(|path| path.exists())
}

/// Goes on from what is in `state`, a step at a time, and fails after each step but the fourth.
const STEPS: &str = "
  a:
    kind: exec
    command: |
      test -d state || exit 9
      echo step >> state/steps; cat state/steps; mkdir -p state/deep
      test $(wc -l < state/steps) -ge 4 || exit 3
      cp state/steps out
    keep: state
    outputs: { out: text }
";

#[test]
fn what_a_stage_keeps_is_given_to_its_next_attempt_until_one_succeeds() {
    let space = Space::new();
    let unfinished = || fs::read_dir(space.path(".triplay/unfinished")).into_iter().flatten().count();
    // Two attempts, then one in another run, then one in a process of its own.
    play(&space, &format!("{STEPS}    retry: {{ times: 1, wait: 1ms }}\n"), &[])
        .fails(1, "exit code 3\n  | step\n  | step\n");
    assert_eq!(unfinished(), 1);
    space.triplay(&["cache", "gc"]);
    play(&space, STEPS, &[]).fails(1, "exit code 3\n  | step\n  | step\n  | step\n  the whole log");
    assert_eq!(ran(&space, &format!("{STEPS}    on: process\n"), &[]), ["a"]);
    assert_eq!(text(&space, "a"), "step\n".repeat(4));
    assert_eq!(unfinished(), 0, "it succeeded");
    let elsewhere = STEPS.replace("state", "other");
    play(&space, &elsewhere, &[]).fails(1, "exit code 3\n  | step\n  the whole log");
    assert_eq!(unfinished(), 1, "another command has another key");
    let seen = space.command(&["pipeline", "run", "p.yaml", "--check", "a"]).output().unwrap();
    assert_eq!(seen.status.code(), Some(1));
    for _ in 0..4 {
        space.triplay(&["runs", "rm", "latest"]);
    }
    space.triplay(&["cache", "gc"]);
    assert_eq!(unfinished(), 0, "no run will go on with it");
}

#[test]
fn what_a_killed_stage_keeps_is_there_when_its_run_is_given_again() {
    let space = Space::new();
    let stages = "
  a:
    kind: exec
    command: 'test -e ckpt/half && cp ckpt/half out && exit; echo moss > ckpt/half; sleep 60'
    keep: ckpt
    outputs: { out: text }
";
    let mut child = start(&space, stages);
    let there = || {
        let kept = fs::read_dir(space.path(".triplay/unfinished")).into_iter().flatten().flatten();
        kept.map(|key| key.path().join("content/half")).any(|half| half.exists())
    };
    wait_for("the checkpoint", there);
    child.kill().unwrap();
    child.wait().unwrap();
    space.triplay(&["cache", "gc"]);
    assert_eq!(ran(&space, stages, &[]), ["a"]);
    assert_eq!(text(&space, "a"), "moss\n");
    assert!(!there());
    assert!(ran(&space, &stages.replace("    keep: ckpt\n", ""), &[]).is_empty(), "it does not count");
    for (keep, expected) in [
        ("out", "`keep`: `out` and `out` conflict"),
        ("out/in", "`keep`: `out` and `out/in` conflict"),
        ("../a", "`keep`: `../a` must be a path within the command's folder"),
    ] {
        play(&space, &stages.replace("keep: ckpt", &format!("keep: {keep}")), &[]).fails(2, expected);
    }
}

#[test]
fn a_log_is_printed_while_the_command_runs_and_afterwards() {
    let space = Space::new();
    let go = space.path("go");
    let stages = format!(
        "  done: {{ kind: exec, command: echo ready, outputs: {{}} }}\n  \
         a: {{ kind: exec, command: 'echo one; while test ! -e {}; do sleep 0.05; done; echo two; exit 3' }}\n  \
         b: {{ kind: exec, command: echo three, inputs: {{ log: a.log }} }}\n",
        go.display()
    );
    let child = start(&space, &stages);
    let log = |node: &str| space.triplay(&["runs", "log", node]);
    wait_for("its first line", || log("latest:a").out == "one\n");
    log("latest:b").fails(2, "has no log of `b`: it has not started; at work: a");
    let follow = space.command(&["runs", "log", "--follow", "latest:a"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    fs::write(&go, "").unwrap();
    let followed = Seen::from(follow.wait_with_output().unwrap());
    assert_eq!((followed.code, followed.out.as_str()), (Some(0), "one\ntwo\n"), "{}", followed.err);
    Seen::from(child.wait_with_output().unwrap()).fails(1, "a: exit code 3");
    assert_eq!(log("latest:a").out, "one\ntwo\n");
    assert_eq!(log("latest:done").out, "ready\n");
    log("latest:b").fails(2, "has no log of `b`: it has not started");
    log("a").fails(2, "must be RUN:NODE, such as latest:train, found `a`");
    assert_eq!(space.triplay(&["runs", "log", "--follow", "latest:a"]).out, "one\ntwo\n");
}

#[test]
fn who_follows_a_log_reads_each_attempt_and_the_end_of_a_success() {
    let space = Space::new();
    let stage = format!(
        "  a: {{ kind: exec, command: 'echo begun >> {0}; cat {0}; sleep 0.7; test $(wc -l < {0}) -gt 1', \
         retry: {{ times: 1, wait: 700ms }} }}\n",
        space.path("diary").display()
    );
    space.write("p.yaml", &format!("pipeline: p\nablations: {{ full: {{}} }}\nstages:\n{stage}"));
    let child = space.command(&["pipeline", "run", "p.yaml", "--ablation", "full"]).spawn().unwrap();
    wait_for("its beginning", || space.path("diary").exists());
    let followed = space.triplay(&["runs", "log", "-f", "latest@full:a"]);
    assert_eq!(followed.out, "begun\nbegun\nbegun\n", "{}", followed.err);
    assert_eq!(Seen::from(child.wait_with_output().unwrap()).code, Some(0));
    assert_eq!(space.triplay(&["runs", "log", "latest@full:a"]).out, "begun\nbegun\n");
}
