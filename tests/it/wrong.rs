//! Wrong pipelines and the exact output of `triplay pipeline check`. `wrong/NAME.yaml` is the pipeline, `wrong/NAME.txt` the
//! output. A first line `# args: …` adds to the command line. `BLESS=1` rewrites the outputs: read them before you commit them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::space::Seen;

const FEWEST: usize = 45;

#[test]
fn every_wrong_pipeline_is_told_what_is_wrong_where_and_what_to_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/wrong");
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".yaml")).collect();
    names.sort();
    assert!(names.len() >= FEWEST);
    let mut different = Vec::new();
    for name in names {
        let said = check(&folder, &name);
        let golden = folder.join(&name).with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &said).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            different.push(format!("--- {name}, expected:\n{expected}\n--- but it says:\n{said}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn check(folder: &Path, name: &str) -> String {
    let text = fs::read(folder.join(name)).unwrap();
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let more = String::from_utf8_lossy(first.strip_prefix(b"# args: ").unwrap_or_default()).into_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_triplay"));
    command.args(["pipeline", "check", name]).args(more.split_whitespace()).current_dir(folder);
    let seen: Seen = command.output().unwrap().into();
    assert_eq!((seen.code, seen.out.as_str()), (Some(2), ""), "{name}: {}", seen.err);
    seen.err
}
