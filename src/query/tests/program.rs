//! The program by itself. That there is an integration test is also why `cargo test` builds it, beside `triplay`, whose
//! tests call it by `triplay results query`.

use std::process::{Command, Output};

fn query(args: &[&str]) -> Output {
    let empty = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_triplay-query")).args(args).current_dir(empty.path()).output().unwrap()
}

#[test]
fn it_serves_the_triplay_of_its_own_version_only() {
    let version = env!("CARGO_PKG_VERSION");
    let tables = query(&["--called-by", version, "--schema", "attacks"]);
    assert!(tables.status.success() && tables.stdout.starts_with(b"attacks: a row is "), "{tables:?}");

    let other = query(&["--called-by", "0.0.1", "--schema"]);
    let said = String::from_utf8(other.stderr).unwrap();
    assert_eq!(other.status.code(), Some(2));
    assert!(
        said.contains(&format!("must be of the version of triplay, 0.0.1, found {version}"))
            && said.contains("cargo build --release"),
        "{said}"
    );
}

#[test]
fn help_is_that_of_the_command_that_people_type() {
    let help = String::from_utf8(query(&["--help"]).stdout).unwrap();
    assert!(help.contains("Usage: triplay results query ") && !help.contains("called-by"), "{help}");
}
