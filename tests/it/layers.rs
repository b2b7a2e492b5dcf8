//! Modules import only downwards: the table of ARCHITECTURE.md, enforced.

use std::fs;
use std::path::Path;

const LAYERS: &[&[&str]] = &[
    &["store"],
    &["engine", "data", "ops"],
    &["model", "runs"],
    &["optim", "rollout", "game"],
    &["grpo", "analysis"],
    &["stages"],
    &["report"],
    &["cli"],
];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("src/{module} is in no layer: add it to the table"))
}

/// The modules of this crate that a source text names.
fn imports(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let names = code.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>());
    names.map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()).collect()
}

fn check(module: &str, path: &Path, wrong: &mut Vec<String>, seen: &mut usize) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            check(module, &entry.unwrap().path(), wrong, seen);
        }
        return;
    }
    // Fonts and the parts of pages lie beside the code.
    if path.extension().is_none_or(|extension| extension != "rs") {
        return;
    }
    for import in imports(&fs::read_to_string(path).unwrap()) {
        *seen += 1;
        let allowed = import == module || layer(&import) < layer(module);
        if !allowed {
            wrong.push(format!("{} imports crate::{import}, which is not below {module}", path.display()));
        }
    }
}

#[test]
fn modules_import_only_downwards() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check(path.file_name().unwrap().to_str().unwrap(), &path, &mut wrong, &mut seen);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 25, "only {seen} imports found: does the test still read the sources?");
}
