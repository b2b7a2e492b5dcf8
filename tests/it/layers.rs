//! A crate uses only crates of lower layers: the table of ARCHITECTURE.md, enforced. Cargo ensures that a crate uses only crates
//! that its Cargo.toml names.

use std::fs;
use std::path::Path;

const LAYERS: &[&[&str]] = &[
    &["store", "kernels", "output", "template", "hub"],
    &["engine", "data", "ops", "supervise"],
    &["exec", "runs", "model", "endpoint", "torch"],
    &["optim", "rollout", "game", "query"],
    &["grpo", "analysis", "serve"],
    &["stages"],
    &["report"],
    &["cli"],
];

fn layer(name: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&name))
        .unwrap_or_else(|| panic!("src/{name} is in no layer: add it to the table"))
}

/// Dependencies that only these crates may use.
const WITHIN: &[(&str, &[&str])] = &[
    ("arrow-", &["data", "runs", "analysis", "report", "query", "cli"]),
    ("parquet", &["data"]),
    ("candle-", &["ops", "model", "optim", "rollout", "grpo", "stages", "cli"]),
    ("polars", &["query"]),
    ("axum", &["serve"]),
    ("ureq", &["hub"]),
];

/// The crates that a manifest names, those of its tests too.
fn used(manifest: &str) -> Vec<&str> {
    let sections = manifest.lines().skip_while(|line| *line != "[dependencies]");
    let lines = sections.take_while(|line| !line.starts_with("[profile"));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).collect()
}

#[test]
fn crates_use_only_those_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, tested) = workspace.split_once("default-members = [").unwrap();
    let (tested, _) = tested.split_once(']').unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for entry in fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        // `cli` is part of the package at the root.
        let manifest = if name == "cli" { root } else { &path }.join("Cargo.toml");
        // `.ci/run` tests the program that has Polars.
        if !["cli", "query"].contains(&name) && !tested.contains(&format!("\"src/{name}\"")) {
            wrong.push(format!("src/{name} is not in default-members, so `cargo test` does not test it"));
        }
        for other in used(&fs::read_to_string(&manifest).unwrap()) {
            let ours = LAYERS.iter().any(|layer| layer.contains(&other));
            seen += usize::from(ours);
            if ours && layer(other) >= layer(name) {
                wrong.push(format!("{} names {other}, which is not below {name}", manifest.display()));
            }
            let kept =
                WITHIN.iter().filter(|(what, crates)| other.starts_with(what) && !crates.contains(&name));
            wrong.extend(
                kept.map(|(what, _)| format!("{} names {other}, but {what} stays out", manifest.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "only {seen} uses found: does the test still read the manifests?");
}

/// The files that write to standard output or error without `output`, which escapes text, and why.
const PAST_OUTPUT: &[(&str, &str)] = &[
    ("src/cli/progress.rs", "bars are drawn by indicatif; what is not ours in them goes through `output`"),
    ("src/cli/fetch.rs", "a bar is drawn by indicatif; what is not ours in it goes through `output`"),
    ("src/supervise/supervisor.rs", "its standard output and error are pipes to triplay"),
    ("src/endpoint/tests/processes.rs", "a test program, whose words go to `cargo test` and to itself"),
];

/// Calls that write there, and those that a file with the macros of `output` must not use.
const WRITERS: &[&str] = &[
    "stdout()",
    "stderr()",
    "ProgressBar",
    "dbg!(",
    "std::print",
    "std::eprint",
    "/dev/tty",
    "/dev/stdout",
    "/dev/stderr",
];

/// The lines of a source file that write to standard output or error without `output`.
fn past_output(source: &str) -> Vec<&str> {
    let imports = |name: &str| {
        let mut uses = source.split("use output::").skip(1).filter_map(|rest| rest.split(';').next());
        uses.any(|names| names.split(|c: char| !c.is_alphanumeric() && c != '_').any(|used| used == name))
    };
    let macros: Vec<String> = ["print", "println", "eprint", "eprintln"]
        .into_iter()
        .filter(|name| !imports(name))
        .map(|name| format!("{name}!("))
        .collect();
    let is_own = |line: &str, at: usize| line[..at].ends_with("output::") || line[..at].ends_with("Term::");
    let writes = |line: &&str| {
        let code = line.trim_start();
        let of_macro = macros.iter().any(|name| {
            let before = |at: usize| line[..at].chars().next_back();
            line.match_indices(name.as_str()).any(|(at, _)| before(at).is_none_or(|c| !c.is_alphanumeric()))
        });
        let named = WRITERS.iter().any(|name| line.match_indices(name).any(|(at, _)| !is_own(line, at)));
        !code.starts_with("//") && (of_macro || named)
    };
    source.lines().filter(writes).collect()
}

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn only_output_writes_to_the_terminal() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    assert!(files.len() > 200);
    let mut wrong = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let lines = past_output(&text);
        if PAST_OUTPUT.iter().any(|(allowed, _)| *allowed == name) {
            assert!(!lines.is_empty(), "{name} needs no exception any more");
        } else if !name.starts_with("src/output/") {
            wrong.extend(lines.iter().map(|line| format!("{name}: {}", line.trim())));
        }
    }
    assert!(
        wrong.is_empty(),
        "texts of models and strangers' names steer terminals: print with `output`\n{}",
        wrong.join("\n")
    );
}

#[test]
fn what_reaches_the_terminal_past_output_is_found() {
    for line in [
        "println!(\"{name}\");",
        "    let out = std::io::stdout().lock();",
        "write!(io::stderr(), \"\")",
        "dbg!(name)",
        "use output::println; eprintln!(\"\")",
    ] {
        assert_eq!(past_output(line).len(), 1, "{line}");
    }
    for line in ["use output::{Destination, println};\nprintln!()", "output::stdout()", "// println!()"] {
        assert!(past_output(line).is_empty(), "{line}");
    }
}
