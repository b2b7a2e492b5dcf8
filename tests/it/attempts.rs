//! What is tried again, and what an attempt leaves for the next one.

use std::fs;

use crate::exec::{play, text};
use crate::space::Space;

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
