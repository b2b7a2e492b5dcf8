//! `publish`: outputs of stages in the folder of the run.

use std::fs;
use std::path::PathBuf;

use crate::space::Space;

/// A stage with two outputs, a matrix, a loop, and a dataset of a kind of triplay's.
const GARDEN: &str = r#"
pipeline: garden
stages:
  world: { kind: sandbox, sft: 20, sft_others: 10, benchmark: 9, pairs: 9, benign: 1, publish: data }
  draw:
    kind: exec
    command: mkdir -p plots tree/deep; echo plot > plots/heat.svg; echo leaf > tree/deep/leaf
    outputs: { heat: { type: text, path: plots/heat.svg }, tree: folder }
    publish: figures
  jar: { kind: exec, command: "echo ${herb} > jar.txt", outputs: { jar: { type: text, path: jar.txt } }, matrix: { herb: [moss, rue] }, publish: jars }
  named: { kind: exec, command: "echo ${herb} > out", outputs: { out: text }, matrix: { herb: [moss, rue] }, publish: "by/${herb}" }
  simmer:
    repeat: 2
    carry: { brew: draw.heat }
    stages:
      stir: { kind: exec, command: cat in > out; echo moss >> out, inputs: { in: brew }, outputs: { out: text }, publish: { path: brews, copy: true } }
    next: { brew: stir }
"#;

fn run(space: &Space, yaml: &str) -> (serde_json::Value, PathBuf) {
    space.write("garden.yaml", yaml);
    let summary = space.triplay(&["pipeline", "run", "garden.yaml", "--json"]).json();
    let folder = space.path(summary["results"].as_str().unwrap());
    (summary, folder)
}

#[test]
fn outputs_appear_in_the_folder_of_the_run_as_links_or_copies() {
    let space = Space::new();
    let (_, folder) = run(&space, GARDEN);
    let outputs = folder.join("outputs");
    let read = |path: &str| fs::read_to_string(outputs.join(path)).unwrap();
    assert_eq!(read("figures/plots/heat.svg"), "plot\n");
    assert_eq!(read("figures/tree/deep/leaf"), "leaf\n");
    assert_eq!((read("jars/moss/jar.txt"), read("jars/rue/jar.txt")), ("moss\n".into(), "rue\n".into()));
    assert_eq!((read("by/moss/out"), read("by/rue/out")), ("moss\n".into(), "rue\n".into()));
    assert_eq!(read("simmer[2]/brews/out"), "plot\nmoss\nmoss\n");
    assert!(outputs.join("figures/tree").is_symlink() && !outputs.join("simmer[1]/brews/out").is_symlink());
    // The copy is the user's: it can be written, and the cache keeps its own.
    fs::write(outputs.join("simmer[1]/brews/out"), "mine").unwrap();
    assert_eq!(space.triplay(&["data", "show", "latest:simmer[1]/stir"]).ok().out, "plot\nmoss\n");
    let seeds = outputs.join("data/seeds.parquet");
    assert!(space.triplay(&["data", "show", seeds.to_str().unwrap()]).ok().out.contains("seed_id"));
    // `runs rm` removes what triplay made, and not what somebody changed.
    let run = folder.to_str().unwrap();
    space.triplay(&["runs", "rm", run]).fails(2, "outputs/simmer[1]/brews/out");
    fs::write(outputs.join("simmer[1]/brews/out"), "plot\nmoss\n").unwrap();
    space.triplay(&["runs", "rm", run]).ok();
    assert!(!folder.exists());
}

#[test]
fn what_is_published_counts_for_no_key_and_is_put_into_the_run_that_is_there() {
    let space = Space::new();
    let plain = GARDEN.replace(", publish: jars", "");
    let (_, folder) = run(&space, &plain);
    assert!(!folder.join("outputs/jars").exists());
    let (summary, again) = run(&space, GARDEN);
    assert_eq!((summary["ran"].as_u64(), &again), (Some(0), &folder), "nothing is new for the cache");
    assert_eq!(fs::read_to_string(folder.join("outputs/jars/rue/jar.txt")).unwrap(), "rue\n");
}

#[test]
fn two_stages_that_publish_at_one_path_and_paths_out_of_the_run_are_errors() {
    let space = Space::new();
    let check = |one: &str, two: &str| {
        let stage = |name: &str, publish: &str| {
            format!(
                "  {name}: {{ kind: exec, command: echo moss > out, outputs: {{ out: text }}, publish: {publish} }}\n"
            )
        };
        space.write("p.yaml", &format!("pipeline: p\nstages:\n{}{}", stage("a", one), stage("b", two)));
        space.triplay(&["pipeline", "check", "p.yaml"])
    };
    check("x", "y").ok();
    check("x", "x").fails(2, "p.yaml: a and b must publish at different paths, found `x/out` and `x/out`");
    check("x", "x/out/y").fails(2, "found `x/out` and `x/out/y/out`");
    check("x-1", "x").ok();
    for path in ["/tmp/x", "../x", "x/../../y", "''", "7"] {
        check(path, "y").fails(2, "`publish` must be a path within the run's folder such as figures");
    }
    check("{ path: x, copy: yes please }", "y").fails(2, "`copy` must be true or false");
    check("{ paht: x }", "y").fails(2, "`publish` has no key `paht`");
}

#[test]
fn nothing_is_published_through_a_link() {
    let space = Space::new();
    let yaml = |first: &str, second: &str| {
        format!(
            "pipeline: p\nstages:\n  a: {{ kind: exec, command: mkdir d; echo moss > d/o, outputs: {{ d: folder }}{first} }}\n  \
             b: {{ kind: exec, command: echo rue > out, outputs: {{ out: text }}{second} }}\n"
        )
    };
    let publish = |yaml: &str| {
        space.write("p.yaml", yaml);
        let seen = space.triplay(&["pipeline", "run", "p.yaml"]).ok();
        let line = seen.out.lines().last().unwrap_or_default();
        (space.path(line.rsplit(' ').next().unwrap()), seen.err)
    };
    // The earlier `publish` left a link to a folder of the cache.
    publish(&yaml(", publish: x", ""));
    let (folder, err) = publish(&yaml("", ", publish: x/d"));
    assert!(err.contains("output `out` of b is not published: remove the link"), "{err}");
    space.triplay(&["cache", "verify"]).ok();
    assert_eq!(fs::read_dir(folder.join("outputs/x/d")).unwrap().count(), 1);
    // A stranger's link in place of the folder.
    fs::remove_dir_all(folder.join("outputs")).unwrap();
    fs::create_dir(space.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(space.path("elsewhere"), folder.join("outputs")).unwrap();
    let (_, err) = publish(&yaml("", ", publish: { path: y, copy: true }"));
    assert!(err.contains("is a symbolic link, which may lead anywhere"), "{err}");
    assert_eq!(fs::read_dir(space.path("elsewhere")).unwrap().count(), 0);
}
