//! The diffs of the guides apply to the sources as they are, and what comes of them compiles.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::space::copy_folder;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of a hunk: those that are there, and those that take their place.
struct Hunk {
    before: Vec<String>,
    after: Vec<String>,
}

/// The hunks of all `diff` blocks of a page, by the file that they change.
fn diffs(page: &str) -> BTreeMap<String, Vec<Hunk>> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut files: BTreeMap<String, Vec<Hunk>> = BTreeMap::new();
    for block in text.split("```diff\n").skip(1).map(|block| block.split("```").next().unwrap()) {
        let mut file = String::new();
        for line in block.lines() {
            if let Some(name) = line.strip_prefix("+++ b/") {
                file = name.to_owned();
            } else if line.starts_with("@@ ") {
                let hunk = Hunk { before: Vec::new(), after: Vec::new() };
                files.entry(file.clone()).or_default().push(hunk);
            } else if !line.starts_with("--- ") {
                let hunk = files.get_mut(&file).and_then(|hunks| hunks.last_mut()).expect("a hunk has begun");
                let (sign, rest) = line.split_at(line.len().min(1));
                if sign != "+" {
                    hunk.before.push(rest.to_owned());
                }
                if sign != "-" {
                    hunk.after.push(rest.to_owned());
                }
            }
        }
    }
    files
}

/// The text with all hunks applied, each at the one place where its lines stand.
fn applied(name: &str, hunks: &[Hunk]) -> String {
    let mut text = fs::read_to_string(root().join(name)).unwrap_or_default();
    for hunk in hunks {
        let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let (before, after) = (lines(&hunk.before), lines(&hunk.after));
        assert_eq!(
            text.matches(&before).count(),
            1 + usize::from(before.is_empty()) * text.len(),
            "{name}:\n{before}"
        );
        text = text.replacen(&before, &after, 1);
    }
    text
}

const GUIDES: [&str; 2] = ["docs/guides/add-a-stage-kind.md", "docs/guides/add-a-model-family.md"];

#[test]
fn the_diffs_of_the_guides_apply() {
    for guide in GUIDES {
        let diffs = diffs(guide);
        assert!(!diffs.is_empty(), "{guide}");
        for (name, hunks) in diffs {
            assert_ne!(applied(&name, &hunks), fs::read_to_string(root().join(&name)).unwrap_or_default());
        }
    }
}

#[test]
#[ignore = "compiles; .ci/run does it after clippy, which has checked all dependencies"]
fn what_the_guides_add_compiles() {
    let workspace = tempfile::tempdir().unwrap();
    let there = |name: &str| -> PathBuf { workspace.path().join(name) };
    for folder in
        ["src", "pipelines", "datasets", "examples", "benches", "trainers", "tests/peers", "tests/it"]
    {
        copy_folder(&root().join(folder), &there(folder));
    }
    for file in ["Cargo.toml", "Cargo.lock", "README.md"] {
        fs::copy(root().join(file), there(file)).unwrap();
    }
    for (name, hunks) in GUIDES.iter().flat_map(|guide| diffs(guide)) {
        fs::write(there(&name), applied(&name, &hunks)).unwrap();
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["clippy", "--release", "--offline", "--lib", "--", "-D", "warnings"]);
    let output = cargo.current_dir(workspace.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
