//! Tests of the program by itself. `cargo test` builds the program because of this integration test; the tests of `triplay` run
//! it by `triplay results query`.

use std::process::{Command, Output};

fn query(caller: Option<&str>, args: &[&str]) -> Output {
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_triplay-query"));
    command.args(args).current_dir(empty.path()).env_remove(runs::LAYOUT);
    command.envs(caller.map(|layout| (runs::LAYOUT, layout))).output().unwrap()
}

#[test]
fn it_serves_only_a_triplay_that_knows_the_same_tables() {
    for caller in [None, Some(runs::layout().to_string())] {
        let tables = query(caller.as_deref(), &["--schema", "attacks"]);
        assert!(tables.status.success() && tables.stdout.starts_with(b"attacks: a row is "), "{tables:?}");
    }
    // Also with options that this version does not know.
    let other = query(Some("00"), &["--an-option-of-another-version"]);
    let said = String::from_utf8(other.stderr).unwrap();
    assert_eq!(other.status.code(), Some(2));
    assert!(
        said.contains("found another layout of tables; `cargo build --release --workspace` builds both"),
        "{said}"
    );
}

#[test]
fn help_is_that_of_the_command_that_people_type() {
    let help = String::from_utf8(query(None, &["--help"]).stdout).unwrap();
    assert!(help.contains("Usage: triplay results query "), "{help}");
}
