//! Crates use only those of the layers below: the table of ARCHITECTURE.md, enforced. Cargo sees to it that no crate
//! uses one that its Cargo.toml does not name.

use std::fs;
use std::path::Path;

const LAYERS: &[&[&str]] = &[
    &["store", "kernels", "output"],
    &["engine", "data", "ops"],
    &["exec", "runs", "model"],
    &["optim", "rollout", "game", "query"],
    &["grpo", "analysis"],
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

/// What stays within some crates.
const WITHIN: &[(&str, &[&str])] = &[
    ("arrow-", &["data", "runs", "analysis", "report", "query", "cli"]),
    ("parquet", &["data"]),
    ("candle-", &["ops", "model", "optim", "rollout", "grpo", "stages", "cli"]),
    ("polars", &["query"]),
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
        // The commands are the package at the root.
        let manifest = if name == "cli" { root } else { &path }.join("Cargo.toml");
        if name != "cli" && !tested.contains(&format!("\"src/{name}\"")) {
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
