//! Folders as inputs and outputs of commands: nested ones, links in them, and what is no file.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::exec::{play, ran, text};
use crate::space::Space;

/// The files and folders below a folder, with their permissions.
fn below(folder: &Path) -> Vec<(String, bool, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        found.push((entry.file_name().into_string().unwrap(), metadata.is_dir(), metadata.mode() & 0o777));
        if metadata.is_dir() {
            found.extend(below(&path));
        }
    }
    found.sort();
    found
}

/// A folder of folders, with a script, a link to a file and one to a folder, names with odd characters, and an empty folder.
const NESTED: &str = "
  made:
    kind: exec
    command: |
      mkdir -p 'out/step 1/deep' out/empty/er out/.hidden
      echo glowvenom > 'out/step 1/deep/a\\b: *?'
      echo moss > out/.hidden/seed
      printf '#!/bin/sh\\necho runs\\n' > out/run.sh; chmod +x out/run.sh
      ln -s 'step 1' out/last; ln -s 'step 1/deep/a\\b: *?' out/herb
    outputs: { out: folder }
  read:
    kind: exec
    command: find in | LC_ALL=C sort; cat in/last/deep/*; in/run.sh; cat in/herb in/.hidden/seed > out
    inputs: { in: made }
    outputs: { out: text }
";

#[test]
fn a_nested_folder_is_an_artifact_and_comes_as_it_was_written() {
    let space = Space::new();
    let summary = play(&space, NESTED, &[]).json();
    assert_eq!(summary["ran"], 2);
    assert_eq!(text(&space, "read"), "glowvenom\nmoss\n");
    let herb = "deep/a\\b: *?";
    let listed = [
        "in",
        "in/.hidden",
        "in/.hidden/seed",
        "in/herb",
        "in/last",
        "in/last/deep",
        &format!("in/last/{herb}"),
        "in/run.sh",
        "in/step 1",
        "in/step 1/deep",
        &format!("in/step 1/{herb}"),
    ];
    assert_eq!(text(&space, "read.log"), format!("{}\nglowvenom\nruns\n", listed.join("\n")));
    assert!(ran(&space, NESTED, &[]).is_empty(), "cached");

    let digest = space.digests(&summary)["made.out"].clone();
    let blob = space.path(".triplay/blobs").join(&digest[..2]).join(&digest);
    let found = below(&blob);
    assert!(!found.iter().any(|(name, ..)| name == "empty"), "{found:?}");
    for (name, is_folder, mode) in &found {
        let expected = if *is_folder {
            0o700
        } else if name == "run.sh" {
            0o500
        } else {
            0o400
        };
        assert_eq!(*mode, expected, "{name}");
    }
    assert_eq!(
        fs::metadata(blob.join("herb")).unwrap().ino(),
        fs::metadata(blob.join("last").join(herb)).unwrap().ino(),
        "the same content is stored once"
    );
}

#[test]
fn a_nested_folder_is_verified_made_again_and_freed_as_a_whole() {
    let space = Space::new();
    let summary = play(&space, NESTED, &[]).json();
    let verified = space.triplay(&["cache", "verify", "--json"]);
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    assert_eq!(space.triplay(&["cache", "gc", "--json"]).json()["blobs"], 0, "the run needs all of it");
    assert_eq!(text(&space, "read"), "glowvenom\nmoss\n");

    let digest = space.digests(&summary)["made.out"].clone();
    let blob = space.path(".triplay/blobs").join(&digest[..2]).join(&digest);
    fs::remove_file(blob.join("step 1/deep/a\\b: *?")).unwrap();
    let verified = space.triplay(&["cache", "verify"]);
    assert!(verified.code == Some(1) && verified.out.contains("damaged"), "{}{}", verified.out, verified.err);
    assert_eq!(ran(&space, NESTED, &[]), ["made"], "it comes out as it was");
    assert_eq!(space.triplay(&["cache", "verify"]).code, Some(0));

    for _ in 0..2 {
        space.triplay(&["runs", "rm", "latest"]);
    }
    space.triplay(&["cache", "gc"]);
    let shelves = fs::read_dir(space.path(".triplay/blobs")).unwrap().flatten();
    let left: usize = shelves.map(|shelf| fs::read_dir(shelf.path()).unwrap().count()).sum();
    assert_eq!(left, 0, "no run needs anything");
}

#[test]
fn of_what_is_written_in_a_nested_folder_each_file_counts() {
    let space = Space::new();
    let stage = |write: &str| {
        format!(
            "  made: {{ kind: exec, command: 'mkdir -p out/a/b; {write}', outputs: {{ out: folder }} }}\n"
        )
    };
    let digest = |write: &str| {
        let summary = play(&space, &stage(write), &[]).json();
        space.digests(&summary)["made.out"].clone()
    };
    let one = digest("echo moss > out/a/b/c");
    assert_eq!(digest("mkdir out/empty; echo moss > out/a/b/c"), one, "an empty folder does not count");
    assert_ne!(digest("echo moss > out/a/c"), one);
    assert_ne!(digest("echo fern > out/a/b/c"), one);
    assert_ne!(digest("echo moss > out/a/b/c; chmod +x out/a/b/c"), one);
}

#[test]
fn what_is_no_file_in_a_nested_folder_is_named_by_its_path() {
    let space = Space::new();
    for (write, expected) in [
        ("mkfifo out/a/pipe", "output `out`: `a/pipe`: it must be a regular file, found a pipe"),
        ("ln -s /etc/passwd out/a/link", "output `out`: `a/link`: it is a symbolic link that leads out of"),
        ("ln -s none out/a/link", "output `out`: `a/link`: it is a link to none, which does not exist"),
        (
            "ln -s ../a out/a/link",
            "output `out`: `a/link`: it is a symbolic link to a folder that contains it",
        ),
        (
            "touch out/a/$(printf \"\\377\")",
            "output `out`: the name of each file must be UTF-8, found \"\\xFF\" in `a`",
        ),
    ] {
        let stage = format!(
            "  made: {{ kind: exec, command: 'mkdir -p out/a; {write}', outputs: {{ out: folder }} }}\n"
        );
        play(&space, &stage, &[]).fails(1, expected);
    }
    fs::create_dir_all(space.path("mine/a")).unwrap();
    symlink("../..", space.path("mine/a/link")).unwrap();
    play(&space, "  read: { kind: exec, command: [ls, in], inputs: { in: { path: mine } } }\n", &[])
        .fails(2, "leads out of the folder");
}

/// A folder of sources with things that no command needs.
fn write_sources(space: &Space) {
    for (name, text) in [
        ("src/a.py", "print(1)\n"),
        ("src/__pycache__/a.pyc", "1"),
        ("src/.git/HEAD", "main"),
        ("src/.ipynb_checkpoints/a.ipynb", "{}"),
        ("src/deep/b.py", "print(2)\n"),
        ("src/deep/__pycache__/b.pyc", "2"),
        ("src/deep/b.log", "1\n"),
        ("src/notes.txt", "1\n"),
    ] {
        fs::create_dir_all(space.path(name).parent().unwrap()).unwrap();
        space.write(name, text);
    }
}

/// Lists its folder.
fn list(more: &str) -> String {
    format!(
        "  list: {{ kind: exec, command: 'find in -type f | sort', inputs: {{ in: {{ path: src }} }}{more} }}\n"
    )
}

#[test]
fn what_is_ignored_neither_counts_nor_reaches_the_command() {
    let space = Space::new();
    write_sources(&space);
    assert_eq!(ran(&space, &list(""), &[]), ["list"]);
    assert_eq!(text(&space, "list"), "in/a.py\nin/deep/b.log\nin/deep/b.py\nin/notes.txt\n");
    for name in ["src/__pycache__/a.pyc", "src/deep/__pycache__/c.pyc", "src/.git/HEAD"] {
        space.write(name, "changed");
        assert!(ran(&space, &list(""), &[]).is_empty(), "{name} does not count");
    }
    let more = ", ignore: ['*.log', /notes.txt]";
    assert_eq!(ran(&space, &list(more), &[]), ["list"], "the folder has another content for it");
    assert_eq!(text(&space, "list"), "in/a.py\nin/deep/b.py\n");
    space.write("src/deep/b.log", "2\n");
    space.write("src/notes.txt", "2\n");
    assert!(ran(&space, &list(more), &[]).is_empty());
    let same = ", ignore: ['*.log', notes.*], on: process";
    assert!(ran(&space, &list(same), &[]).is_empty(), "the patterns themselves do not count");
    space.write("src/deep/b.py", "print(3)\n");
    assert_eq!(ran(&space, &list(same), &[]), ["list"], "in a process of its own too");
    assert_eq!(text(&space, "list"), "in/a.py\nin/deep/b.py\n");
}

#[test]
fn a_file_beside_the_pipeline_ignores_for_all_its_commands_and_a_stage_may_say_otherwise() {
    let space = Space::new();
    write_sources(&space);
    space.write(".triplayignore", "# built\n*.log\n/src/notes.txt\n/deep\n");
    play(&space, &list(""), &[]).json();
    assert_eq!(
        text(&space, "list"),
        "in/a.py\nin/deep/b.py\n",
        "paths are relative to the pipeline's folder"
    );
    play(&space, &list(", ignore: ['!*.log', '!.git', '!__pycache__', '*.py']"), &[]).json();
    let listed = "in/.git/HEAD\nin/__pycache__/a.pyc\nin/deep/__pycache__/b.pyc\nin/deep/b.log\n";
    assert_eq!(text(&space, "list"), listed);

    fs::create_dir(space.path("pipelines")).unwrap();
    let pipeline = format!("pipeline: p\nstages:\n{}", list(""));
    space.write("pipelines/p.yaml", &pipeline);
    space.write("pipelines/.triplayignore", "/src/notes.txt\n*.py\n");
    assert_eq!(space.triplay(&["pipeline", "run", "pipelines/p.yaml"]).code, Some(0));
    assert_eq!(text(&space, "list"), "in/deep/b.log\nin/notes.txt\n", "only that beside the pipeline counts");

    space.write(".triplayignore", "*.log\na[\n");
    let seen = play(&space, &list(""), &[]);
    seen.fails(2, "/.triplayignore: `[` must have a `]` after it, found `a[`");
    fs::remove_file(space.path(".triplayignore")).unwrap();
    symlink("secret[", space.path(".triplayignore")).unwrap();
    space.write("secret[", "a secret[\n");
    let seen = play(&space, &list(""), &[]);
    seen.fails(2, ".triplayignore is a symbolic link, which may lead anywhere: put the file itself there");
    fs::remove_file(space.path(".triplayignore")).unwrap();
    let seen = play(&space, &list(", ignore: ['a[']"), &[]);
    seen.fails(2, "`ignore` must be patterns as in .gitignore: `[` must have a `]` after it, found `a[`");
    play(&space, &list(", ignore: '*.py'"), &[]).fails(2, "`ignore` must be a list, found text");
}

#[test]
fn what_is_ignored_is_said_by_explain() {
    let space = Space::new();
    write_sources(&space);
    let stages = list(", ignore: ['*.log']")
        + "  plain: { kind: exec, command: a, inputs: { a: { path: small.yaml } } }\n";
    space.write("p.yaml", &format!("pipeline: p\nstages:\n{stages}"));
    let explain = |node: &str| space.triplay(&["pipeline", "explain", "p.yaml", node]);
    let line =
        "ignored in src: .git/, .ipynb_checkpoints/, __pycache__/, deep/__pycache__/, deep/b.log (5)\n";
    let seen = explain("list");
    assert!(seen.out.contains(line), "{}{}", seen.out, seen.err);
    assert!(!explain("plain").out.contains("ignored"));
    for name in ["x.log", "y.log"] {
        space.write(&format!("src/{name}"), "");
    }
    let seen = explain("list");
    assert!(seen.out.contains("deep/__pycache__/, deep/b.log and 2 more (7)\n"), "{}", seen.out);
    let json = space.triplay(&["pipeline", "explain", "p.yaml", "list", "--json"]).json();
    assert_eq!(json["ignored"][0]["folder"], "src");
    assert_eq!(json["ignored"][0]["names"].as_array().unwrap().len(), 7);
}
