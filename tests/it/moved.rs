//! Projects and caches that move: runs are found again, and what they need stays.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::space::{Seen, Space};

/// A stage of one's own with metrics, a model, a text and a log.
const PIPELINE: &str = "
pipeline: brew
stages:
  brew:
    kind: exec
    command: echo boiling; mkdir m; echo '{}' > m/config.json; echo '{\"moss\":3}' > n.json; echo potion > t
    outputs: { notes: { type: text, path: t }, model: { type: model, path: m }, moss: { type: metrics, path: n.json } }
";

/// A folder with projects in it and a program that runs in one of them.
struct Yard(Space);

impl Yard {
    /// With one project that was run once, and the run's folder in it.
    fn with(project: &str, more: &[&str]) -> (Yard, String) {
        let yard = Yard(Space::new());
        fs::create_dir(yard.0.path(project)).unwrap();
        fs::write(yard.0.path(project).join("p.yaml"), PIPELINE).unwrap();
        let summary = yard.run(project, more);
        assert_eq!(summary["ran"], 1);
        (yard, summary["results"].as_str().unwrap().to_owned())
    }

    fn run(&self, project: &str, more: &[&str]) -> Value {
        self.triplay(project, &[&["pipeline", "run", "p.yaml", "--json"], more].concat()).json()
    }

    fn triplay(&self, project: &str, args: &[&str]) -> Seen {
        self.0.command(args).current_dir(self.0.path(project)).output().unwrap().into()
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.0.path(from), self.0.path(to)).unwrap();
    }

    fn real(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.0.path("")).unwrap().join(path)
    }

    /// The only root's files.
    fn root(&self, cache: &str, name: &str) -> String {
        let root = fs::read_dir(self.0.path(cache).join("roots")).unwrap().next().unwrap().unwrap().path();
        fs::read_to_string(root.join(name)).unwrap()
    }

    fn blobs(&self, project: &str, more: &[&str]) -> u64 {
        let stats = self.triplay(project, &[&["cache", "stats", "--json"], more].concat()).json();
        stats["blobs"].as_u64().unwrap()
    }

    /// Each command that reads what the run left, and a part of what it prints.
    fn read_all(&self, project: &str, more: &[&str]) {
        for (args, expected) in [
            (&["data", "show", "latest:brew"][..], "potion\n"),
            (&["data", "show", "latest:brew.model"], "config.json"),
            (&["data", "get", "latest:brew", "-o", "copy", "--force"], "copy: 1 file, 7 B"),
            (&["runs", "log", "latest:brew"], "boiling\n"),
            (&["runs", "list"], "brew"),
            (&["runs", "show"], "done"),
            (&["runs", "compare", "latest", "latest"], "moss"),
            (&["results", "table", "latest"], "3.000"),
            (&["results", "plot", "moss", "latest"], "moss of brew"),
            (&["report", "-o", "report.html"], "report.html: "),
        ] {
            let seen = self.triplay(project, &[args, more].concat());
            assert!(
                seen.code == Some(0) && seen.out.contains(expected),
                "{args:?}: {}{}",
                seen.out,
                seen.err
            );
            assert!(!seen.err.contains("gone"), "{args:?}: {}", seen.err);
        }
        let tables = format!("{project}/results/brew");
        for run in fs::read_dir(self.0.path(&tables)).unwrap().flatten() {
            // The next command makes them again.
            let _ = fs::remove_dir_all(run.path().join("tables"));
        }
    }
}

#[test]
fn a_project_that_moves_with_its_cache_has_all_that_it_had() {
    for cache in [&[][..], &["--cache", ".cache/deep/triplay"]] {
        let (yard, results) = Yard::with("here", cache);
        let folder = cache.last().copied().unwrap_or(".triplay");
        yard.rename("here", "there");
        yard.read_all("there", &[]);
        let link = yard.0.path("there").join(&results).join("models/brew");
        assert!(link.read_link().unwrap().is_relative() && link.join("config.json").is_file());
        assert_eq!(yard.run("there", cache)["ran"], 0);
        // Another project at the old place is no part of it.
        fs::create_dir_all(yard.0.path("here").join("results/brew")).unwrap();
        let collected = yard.triplay("there", &[&["cache", "gc", "--json"], cache].concat()).json();
        assert_eq!((&collected["blobs"], &collected["runs_unseen"]), (&0.into(), &0.into()), "{folder}");
        let removed = yard.triplay("there", &[&["runs", "rm", "latest"], cache].concat());
        assert!(removed.out.contains("`triplay cache gc` frees what only it used"), "{}", removed.out);
        assert_ne!(yard.triplay("there", &[&["cache", "gc", "--json"], cache].concat()).json()["blobs"], 0);
        assert_eq!(yard.blobs("there", cache), 0, "{folder}");
    }
}

#[test]
fn a_copied_project_reads_its_own_cache_though_the_original_is_there() {
    let (yard, _) = Yard::with("here", &[]);
    let copied =
        std::process::Command::new("cp").args(["-r", "here", "copy"]).current_dir(yard.0.path("")).status();
    assert!(copied.unwrap().success());
    let shown = yard.triplay("copy", &["runs", "show", "--json"]).json();
    assert_eq!(shown["run"]["cache"], yard.real("copy/.triplay").to_str().unwrap());
    yard.triplay("copy", &["runs", "rm", "latest"]);
    yard.triplay("copy", &["cache", "gc"]);
    assert_eq!(yard.blobs("copy", &[]), 0);
    yard.triplay("here", &["cache", "gc"]);
    yard.read_all("here", &[]);
}

#[test]
fn a_shared_cache_recognises_a_project_that_moved_once_anything_reads_a_run_there() {
    let readers: [&[&str]; 4] = [
        &["runs", "list"],
        &["cache", "gc", "--cache", "../cache"],
        &["data", "show", "latest:brew"],
        &["report"],
    ];
    for reader in readers {
        let cache = ["--cache", "../cache"];
        let (yard, results) = Yard::with("here", &cache);
        yard.rename("here", "there");
        let seen = yard.triplay("there", reader);
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        assert_eq!(yard.root("cache", "folder"), format!("../there/{results}\n"), "{reader:?}");
        let collected = yard.triplay("", &["cache", "gc", "--json", "--cache", "cache"]).json();
        assert_eq!((&collected["blobs"], &collected["runs_unseen"]), (&0.into(), &0.into()));
        assert_eq!(yard.run("there", &cache)["ran"], 0);
        yard.read_all("there", &[]);
        yard.triplay("there", &["runs", "rm", "latest"]);
        yard.triplay("there", &[&["cache", "gc"][..], &cache].concat());
        assert_eq!(yard.blobs("there", &cache), 0, "nothing of it stays for the old place");
    }
}

#[test]
fn a_run_that_may_have_been_copied_from_a_disk_that_is_away_is_released_by_force_only() {
    let cache = ["--cache", "../cache"];
    let (yard, results) = Yard::with("here", &cache);
    let copied =
        std::process::Command::new("cp").args(["-r", "here", "copy"]).current_dir(yard.0.path("")).status();
    assert!(copied.unwrap().success());
    // To read the copy changes nothing while the original can be seen.
    yard.read_all("copy", &[]);
    assert_eq!(yard.root("cache", "folder"), format!("../here/{results}\n"));
    yard.rename("here", "away");
    yard.read_all("copy", &[]);
    let gc = || yard.triplay("copy", &[&["cache", "gc", "--json"][..], &cache].concat()).json();
    assert_eq!((&gc()["blobs"], &gc()["runs_unseen"]), (&0.into(), &0.into()));
    let removed = yard.triplay("copy", &["runs", "rm", "latest"]);
    let original = yard.real("here").join(&results);
    let force = format!("`triplay runs rm --force {}` releases it", original.display());
    assert!(removed.out.contains(&force), "{}", removed.out);
    let kept = gc();
    assert_eq!(
        (&kept["blobs"], &kept["folders"]["unseen"][0]),
        (&0.into(), &original.to_str().unwrap().into())
    );
    yard.rename("away", "here");
    yard.read_all("here", &[]);
    yard.rename("here", "away");
    let original = original.to_str().unwrap();
    let released = yard.triplay("copy", &[&["runs", "rm", "--force", original][..], &cache].concat());
    assert!(released.out.starts_with("released "), "{}{}", released.out, released.err);
    assert_ne!(gc()["blobs"], 0);
}

#[test]
fn commands_that_read_find_a_cache_that_moved_by_option_and_variable() {
    let (yard, results) = Yard::with("here", &["--cache", "../cache"]);
    yard.rename("cache", "moved");
    for args in
        [&["data", "show", "latest:brew"][..], &["judge", "--with", "m"], &["results", "panel", "latest"]]
    {
        let seen = yard.triplay("here", args);
        assert!(seen.code == Some(2) && seen.err.contains("cache"), "{args:?}: {}", seen.err);
    }
    yard.read_all("here", &["--cache", "../moved"]);
    let export = ["runs", "export", "latest", "--to", "tensorboard", "-o", "out", "--cache", "../moved"];
    assert_eq!(yard.triplay("here", &export).out, "out: 1 file\n");
    let with = |cache: &str, args: &[&str]| -> Seen {
        let mut command = yard.0.command(args);
        command.current_dir(yard.0.path("here")).env("TRIPLAY_CACHE", cache).output().unwrap().into()
    };
    assert_eq!(with("../moved", &["data", "show", "latest:brew"]).out, "potion\n");
    assert_eq!(with("../moved", &["runs", "log", "latest:brew"]).out, "boiling\n");
    let shown = with("../moved", &["runs", "show", "--json"]).json();
    assert_eq!(shown["run"]["cache"], yard.real("moved").to_str().unwrap());
    let none = yard.triplay("here", &["data", "show", "latest:brew", "--cache", "../none"]);
    none.fails(2, "`--cache` must be the folder of a cache, found none at ../none");
    assert!(!yard.0.path("none").exists());
    // Another cache that does not know the run counts only as an option.
    yard.rename("moved", "cache");
    fs::create_dir(yard.0.path("other")).unwrap();
    fs::write(yard.0.path("other/p.yaml"), PIPELINE.replace("potion", "moss")).unwrap();
    yard.run("other", &[]);
    assert_eq!(with("../other/.triplay", &["data", "show", "latest:brew"]).out, "potion\n");
    yard.triplay("here", &["data", "show", "latest:brew", "--cache", "../other/.triplay"])
        .fails(2, "`brew` is no longer in the cache ");
    let record = fs::read_to_string(yard.0.path("here").join(results).join("run.json")).unwrap();
    assert!(record.contains(yard.real("cache").to_str().unwrap()), "{record}");
}

#[test]
fn a_run_that_was_moved_out_of_its_project_is_kept_once_it_was_read() {
    let (yard, results) = Yard::with("here", &[]);
    let archive = yard.0.path("archive");
    fs::rename(yard.0.path("here").join(results), &archive).unwrap();
    let shown = yard.triplay("here", &["data", "show", "../archive:brew"]);
    assert_eq!(shown.out, "potion\n", "{}", shown.err);
    assert_eq!(yard.triplay("here", &["cache", "gc", "--json"]).json()["blobs"], 0);
    fs::remove_dir_all(archive).unwrap();
    assert_ne!(yard.triplay("here", &["cache", "gc", "--json"]).json()["blobs"], 0, "it was deleted there");
}

#[test]
#[ignore = "needs triplay-query"]
fn queries_find_a_cache_that_moved_too() {
    let (yard, _) = Yard::with("here", &["--cache", "../cache"]);
    yard.rename("cache", "moved");
    let asked =
        yard.triplay("here", &["results", "query", "SELECT cache FROM runs", "--csv", "--cache", "../moved"]);
    assert!(asked.out.ends_with("moved\n"), "{}{}", asked.out, asked.err);
    assert!(Path::new(asked.out.lines().last().unwrap()).is_absolute());
}
