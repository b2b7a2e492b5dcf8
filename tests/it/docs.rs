//! Checks the examples of `docs/first-pipeline.md`, `docs/pipelines.md`, `docs/data.md`, `docs/serving.md`, `docs/training.md`,
//! `docs/results.md` and the guides: writes their files, runs their
//! commands, each section in a folder of its own, and compares the output with the page. `moving.rs` checks the pages on moving.
//!
//! A fenced block with `file=NAME` in its info string is a file. A `console` block has commands (`$ …`, for `sh`) and, below
//! each, its standard output and error together. `…` stands for any text within a line, a line of `…` for any lines. The number
//! of spaces between words does not matter. A command must succeed; a page that shows another exit status writes `; echo $?`.
//!
//! Models compute other digits on other processors. So of a `console rough` block only the sentences must be printed, in their
//! order. A sentence is a line without digits that is not indented.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::space::Space;

/// A step that a page tells its readers to do.
enum Step {
    Write { name: String, text: String },
    Run { command: String, expected: Vec<String>, rough: bool },
}

struct Section {
    title: String,
    steps: Vec<Step>,
}

#[test]
fn the_first_pipeline_is_explained_line_by_line_and_does_what_the_page_says() {
    says_what_is_true("docs/first-pipeline.md", 4);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/first-pipeline.md")).unwrap();
    let pieces = page.split("```yaml\n").skip(1).map(|piece| piece.split("```").next().unwrap());
    let file = std::fs::read_to_string(root.join("pipelines/first.yaml")).unwrap();
    assert_eq!(pieces.collect::<String>(), file, "the pieces of the page are the file");
}

#[test]
fn the_page_on_pipelines_says_what_is_true() {
    says_what_is_true("docs/pipelines.md", 50);
}

#[test]
fn the_page_on_data_says_what_is_true() {
    says_what_is_true("docs/data.md", 5);
}

#[test]
fn the_page_on_serving_says_what_is_true() {
    says_what_is_true("docs/serving.md", 6);
}

#[test]
fn the_page_on_training_says_what_is_true() {
    says_what_is_true("docs/training.md", 4);
}

#[test]
#[ignore = "needs triplay-query"]
fn the_page_on_results_says_what_is_true() {
    says_what_is_true("docs/results.md", 10);
}

#[test]
fn the_guide_to_rewards_says_what_is_true_and_shows_the_term_as_it_is() {
    says_what_is_true("docs/guides/change-the-reward.md", 6);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/guides/change-the-reward.md")).unwrap();
    let source = std::fs::read_to_string(root.join("src/stages/reward/overlong.rs")).unwrap();
    assert!(
        page.contains(&format!("```rust file=overlong.rs\n{source}```\n")),
        "the page shows another overlong.rs"
    );
    for (file, lines) in
        [("mod.rs", "mod overlong;"), ("term.rs", "    overlong: super::overlong::Overlong,")]
    {
        let source = std::fs::read_to_string(root.join("src/stages/reward").join(file)).unwrap();
        assert!(source.contains(lines) && page.contains(lines), "{file}: {lines}");
    }
}

/// Checks a page, which must have more than `least` commands.
fn says_what_is_true(page: &str, least: usize) {
    says_what_is_true_in(&|_| (), page, least);
}

/// The same; `prepare` fills the folder in which each section begins.
pub(crate) fn says_what_is_true_in(prepare: &dyn Fn(&Space), page: &str, least: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let mut sections = read(&std::fs::read_to_string(path).unwrap());
    let commands =
        |section: &Section| section.steps.iter().filter(|step| matches!(step, Step::Run { .. })).count();
    assert!(sections.iter().map(commands).sum::<usize>() > least, "the page is read");
    let lacks = |program: &str| std::process::Command::new(program).arg("--version").output().is_err();
    if lacks("python3") {
        sections.retain(|section| !section.title.contains("(needs python3)"));
    }
    if lacks("curl") {
        let asks = |step: &Step| matches!(step, Step::Run { command, .. } if command.contains("curl "));
        sections.retain(|section| !section.steps.iter().any(asks));
    }
    let different: Vec<String> = sections.iter().flat_map(|section| play(section, prepare)).collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Does the steps of a section and returns the differences.
fn play(section: &Section, prepare: &dyn Fn(&Space)) -> Vec<String> {
    let space = Space::new();
    std::fs::remove_file(space.path("small.yaml")).unwrap();
    prepare(&space);
    let mut different = Vec::new();
    for step in &section.steps {
        match step {
            Step::Write { name, text } => {
                std::fs::create_dir_all(space.path(name).parent().unwrap()).unwrap();
                space.write(name, text);
            }
            Step::Run { command, expected, rough } => {
                let (succeeded, printed) = run(&space, command);
                let lines: Vec<&str> = printed.lines().collect();
                let as_expected =
                    if *rough { sentences_match(expected, &lines) } else { all_match(expected, &lines) };
                if !succeeded || !as_expected {
                    let (title, expected) = (&section.title, expected.join("\n"));
                    different.push(format!(
                        "--- {title}\n$ {command}\n--- expected:\n{expected}\n--- printed (succeeded: {succeeded}):\n{printed}"
                    ));
                }
            }
        }
    }
    different
}

/// Whether a command succeeded, and what it printed.
fn run(space: &Space, command: &str) -> (bool, String) {
    let programs = Path::new(env!("CARGO_BIN_EXE_triplay")).parent().unwrap();
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(PathBuf::from(programs)).chain(std::env::split_paths(&inherited));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1\n{command}")]).current_dir(space.path(""));
    shell.env("PATH", std::env::join_paths(paths).unwrap()).env("CI", "1").env_remove("TRIPLAY_CACHE");
    let output = shell.stdin(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// The sections of a page that have steps. `##` begins a section.
fn read(page: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push(Section { title: title.to_owned(), steps: Vec::new() });
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let Some(section) = sections.last_mut() else { continue };
        if let Some((_, name)) = info.split_once("file=") {
            section.steps.push(Step::Write { name: name.to_owned(), text: block.join("\n") + "\n" });
        } else if info == "console" || info == "console rough" {
            section.steps.extend(commands(&block, info != "console"));
        }
    }
    sections.retain(|section| !section.steps.is_empty());
    sections
}

fn commands(block: &[&str], rough: bool) -> Vec<Step> {
    let starts = |line: &&str| line.starts_with("$ ");
    let mut steps = Vec::new();
    let mut lines = block.iter().copied().peekable();
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ ").expect("a console block begins with a command").to_owned();
        let mut expected = Vec::new();
        while let Some(line) = lines.next_if(|line| !starts(line)) {
            expected.push(line.to_owned());
        }
        steps.push(Step::Run { command, expected, rough });
    }
    steps
}

/// Whether the sentences of `expected` are printed, in their order.
fn sentences_match(expected: &[String], printed: &[&str]) -> bool {
    let is_sentence = |line: &&String| {
        let is_rough =
            line.starts_with(' ') || line.contains('…') || line.bytes().any(|byte| byte.is_ascii_digit());
        !is_rough && line.split_whitespace().count() > 1
    };
    let mut printed = printed.iter().map(|line| squeezed(line));
    expected.iter().filter(is_sentence).all(|line| printed.any(|printed| printed == squeezed(line)))
}

fn all_match(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => {
            (0..=printed.len()).any(|skipped| all_match(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed.split_first().is_some_and(|(first, others)| {
            matches(&squeezed(line), &squeezed(first)) && all_match(rest, others)
        }),
    }
}

/// The line with one space between words; its indentation stays.
fn squeezed(line: &str) -> String {
    let words = line.trim_start();
    let indent = &line[..line.len() - words.len()];
    format!("{indent}{}", words.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether a line is as expected, where `…` stands for anything.
fn matches(expected: &str, line: &str) -> bool {
    match expected.split_once('…') {
        None => expected == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(end, _)| end).chain([rest.len()]);
            ends.into_iter().any(|end| matches(after, &rest[end..]))
        }),
    }
}

#[test]
fn what_a_page_expects_is_held_against_what_was_printed() {
    for (expected, line, is_match) in [
        ("ran 2 in … s", "ran 2 in 0.1 s", true),
        ("ran 2 in … s", "ran 3 in 0.1 s", false),
        ("…", "", true),
        ("a…", "b", false),
        ("… b … d", "a b c d", true),
        ("… b … d", "a b c", false),
    ] {
        assert_eq!(matches(expected, line), is_match, "{expected} and {line}");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(all_match(&lines("a\n…\nz"), &["a", "b", "c", "z"]));
    assert!(all_match(&lines("a  b\n  c"), &["a b", "  c"]));
    assert!(!all_match(&lines("a\n  c"), &["a", "c"]));
    assert!(!all_match(&lines("a"), &["a", "b"]));
    assert!(!all_match(&lines("a\nb"), &["a"]));
    let page = "## empty\n## full\ntext\n```sh file=x/y\nb\n```\n```console\n$ c\nd\n$ e\n```\n";
    let sections = read(page);
    assert_eq!((sections.len(), sections[0].steps.len()), (1, 3));
}
