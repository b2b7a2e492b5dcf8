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

/// The crates of this workspace that a manifest names, those of tests too.
fn used(manifest: &str) -> Vec<&str> {
    let dependencies = manifest.lines().skip_while(|line| !line.starts_with("[dependencies]"));
    let names = dependencies.filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| LAYERS.iter().any(|layer| layer.contains(name))).collect()
}

#[test]
fn crates_use_only_those_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for entry in fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        // The commands are the package at the root.
        let manifest = if name == "cli" { root } else { &path }.join("Cargo.toml");
        for other in used(&fs::read_to_string(&manifest).unwrap()) {
            seen += 1;
            if layer(other) >= layer(name) {
                wrong.push(format!("{} names {other}, which is not below {name}", manifest.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 45, "only {seen} uses found: does the test still read the manifests?");
}
