//! Permissions of the files of runs and commands: prompts and answers are private to their owner unless a folder is shared on
//! purpose, and executable files stay executable.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::space::{Seen, Space};

/// Runs with this umask.
fn with_umask(space: &Space, umask: &str, args: &[&str]) -> Seen {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_triplay")]);
    let output = command.args(args).current_dir(space.path("")).env_remove("TRIPLAY_CACHE").output().unwrap();
    let seen = Seen::from(output);
    assert_eq!(seen.code, Some(0), "{args:?}: {}", seen.err);
    seen
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// The files below a folder that a user with these permissions can reach.
fn reached(folder: &Path, enter: u32, read: u32, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, mode) = (entry.path(), entry.metadata().unwrap().mode());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() && mode & enter != 0 => reached(&path, enter, read, found),
            kind if kind.is_file() && mode & read != 0 => found.push(path),
            _ => {}
        }
    }
}

/// The files of a space that users of the group, or all others, can read.
fn readable(space: &Space, by: &str) -> Vec<PathBuf> {
    let (enter, read) = if by == "group" { (0o010, 0o040) } else { (0o001, 0o004) };
    let mut found = Vec::new();
    reached(&space.path(""), enter, read, &mut found);
    found
}

#[test]
#[ignore = "needs triplay-query"]
fn what_a_run_leaves_is_its_owners_alone() {
    let space = Space::new();
    let before = readable(&space, "others");
    assert_eq!(before, [space.path("small.yaml")]);
    with_umask(&space, "000", &["pipeline", "run", "small.yaml", "--cache", "deep/cache"]);
    with_umask(&space, "000", &["results", "query", "SELECT COUNT(*) FROM attacks"]);
    with_umask(
        &space,
        "000",
        &["pipeline", "run", "small.yaml", "--cache", "deep/cache", "--set", "steps=1"],
    );
    for by in ["others", "group"] {
        assert_eq!(readable(&space, by), before, "{by}");
    }
    // Files that a command writes where the user says have the permissions of the umask.
    let export = |umask: &str, out: &str| {
        with_umask(&space, umask, &["runs", "export", "latest", "--to", "csv", "--out", out]);
        with_umask(&space, umask, &["data", "export", "latest:world.seeds", "--out", &format!("{out}.csv")]);
        let written =
            [out, &format!("{out}/attacks.csv"), &format!("{out}.csv")].map(|name| space.path(name));
        written.map(|path| mode(&path))
    };
    assert_eq!(export("022", "public"), [0o755, 0o644, 0o644]);
    assert_eq!(export("077", "own"), [0o700, 0o600, 0o600]);
}

#[test]
#[ignore = "needs triplay-query"]
fn a_folder_that_is_there_keeps_its_permissions_and_one_of_a_group_is_the_groups() {
    let space = Space::new();
    let make = |name: &str, mode: u32| {
        fs::create_dir(space.path(name)).unwrap();
        fs::set_permissions(space.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    make("open", 0o755);
    make("team", 0o2770);
    make("results", 0o2775);
    with_umask(&space, "077", &["pipeline", "run", "small.yaml", "--cache", "open"]);
    assert_eq!((mode(&space.path("open")), mode(&space.path("open/blobs"))), (0o755, 0o755));
    let run = fs::read_dir(space.path("results/small")).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&space.path("results/small")), mode(&run)), (0o2770, 0o2770), "and nobody else's");
    with_umask(&space, "077", &["results", "query", "SELECT COUNT(*) FROM attacks"]);
    let tables = fs::read_dir(run.join("tables")).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&run.join("tables")), mode(&tables)), (0o2770, 0o2770));
    with_umask(&space, "077", &["pipeline", "run", "small.yaml", "--cache", "team/cache"]);
    let cache = space.path("team/cache");
    assert_eq!((mode(&cache), mode(&cache.join("blobs"))), (0o2770, 0o2770));
    let mut files = Vec::new();
    reached(&cache.join("blobs"), 0o010, 0o040, &mut files);
    assert!(files.len() > 10, "{files:?}");
}

#[test]
#[ignore = "needs triplay-query"]
fn tables_are_not_written_through_a_link_in_a_strangers_run() {
    let space = Space::new();
    let summary = space.run(&[]);
    let run = space.path(summary["results"].as_str().unwrap());
    fs::create_dir(space.path("mine")).unwrap();
    std::os::unix::fs::symlink(space.path("mine"), run.join("tables")).unwrap();
    let mut query = space.command(&["results", "query", "SELECT COUNT(*) AS attacks FROM attacks", "--csv"]);
    let seen = Seen::from(query.env("XDG_CACHE_HOME", space.path("own")).output().unwrap());
    seen.fails(2, "tables is a symbolic link, which may lead anywhere");
    assert_eq!(fs::read_dir(space.path("mine")).unwrap().count(), 0);
}

#[test]
fn what_a_command_makes_executable_stays_so() {
    let space = Space::new();
    let pipeline = r#"
pipeline: tools
stages:
  make:
    kind: exec
    command: |
      printf '#!/bin/sh\necho glowvenom\n' > tool; chmod 755 tool
      mkdir kit; cp tool kit/run; echo plain > kit/read
      ln -s tool linked; mkdir more; ln -s ../tool more/run
      cp tool twice; ln twice thrice
    outputs:
      tool: { type: text, path: tool }
      kit: { type: model, path: kit }
      linked: { type: text, path: linked }
      more: { type: model, path: more }
      twice: { type: text, path: twice }
  use:
    kind: exec
    inputs: { tool: make.tool, kit: make.kit, linked: make.linked, more: make.more, twice: make.twice }
    command: (./tool; ./kit/run; ./linked; ./more/run; ./twice) > said; test ! -x kit/read
    outputs: { said: { type: text, path: said } }
"#;
    space.write("tools.yaml", pipeline);
    let summary = space.triplay(&["pipeline", "run", "tools.yaml", "--json"]).json();
    assert_eq!(space.triplay(&["data", "show", "latest:use"]).out, "glowvenom\n".repeat(5));
    // In the cache, linked into the run, and made again.
    let kit = space.path(summary["results"].as_str().unwrap()).join("models/make.kit");
    assert_eq!((mode(&kit.join("run")) & 0o111, mode(&kit.join("read")) & 0o111), (0o100, 0));
    let digests = space.digests(&summary);
    let again = ["pipeline", "run", "tools.yaml", "--json", "--cache", "elsewhere"];
    assert_eq!(space.digests(&space.triplay(&again).json()), digests);
    let twice = Command::new(kit.join("run")).output().unwrap();
    assert_eq!(twice.stdout, b"glowvenom\n");
}
