//! Runs of a part of a pipeline: which nodes names and patterns mean, and what such a run leaves.

use crate::space::Space;

/// A loop of ten rounds between two stages, a matrix, and a stage that nothing else needs.
const GARDEN: &str = r#"
pipeline: garden
params: { rounds: 10 }
stages:
  dew: { kind: exec, command: echo dew > brew, outputs: { brew: text } }
  jar: { kind: exec, command: "echo ${herb} > jar", outputs: { jar: text }, matrix: { herb: [moss, rue] } }
  simmer:
    repeat: $rounds
    carry: { brew: dew }
    stages:
      stir: { kind: exec, command: cat in > out; echo moss >> out, inputs: { in: brew }, outputs: { out: text } }
      count: { kind: exec, command: wc -l < in, inputs: { in: stir } }
    next: { brew: stir }
  taste: { kind: exec, command: [cat, a, b], inputs: { a: simmer.brew, b: "jar[rue]" } }
"#;

fn garden() -> Space {
    let space = Space::new();
    space.write("garden.yaml", GARDEN);
    space
}

impl Space {
    /// The nodes that a plan of these targets shows.
    fn planned(&self, file: &str, targets: &[&str]) -> Vec<String> {
        let plan = self.triplay(&[&["pipeline", "plan", file, "--json"], targets].concat()).json();
        plan["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap().into()).collect()
    }
}

#[test]
fn a_target_brings_along_what_it_needs_and_nothing_else() {
    let space = garden();
    let planned = |targets: &[&str]| space.planned("garden.yaml", targets);
    assert_eq!(planned(&["dew"]), ["dew"]);
    assert_eq!(planned(&["jar[rue]"]), ["jar[rue]"]);
    assert_eq!(planned(&["jar"]), ["jar[moss]", "jar[rue]"]);
    assert_eq!(planned(&["jar[?ue]", "dew"]), ["dew", "jar[rue]"]);
    // With and without leading zeros, as a round, and by patterns, which match whole names.
    let second = ["dew", "simmer[01]/stir", "simmer[02]/stir"];
    for name in ["simmer[02]/stir", "simmer[2]/stir", "*[2]/st?r"] {
        assert_eq!(planned(&[name]), second, "{name}");
    }
    assert_eq!(planned(&["simmer[2]"]), [&second[..], &["simmer[02]/count"]].concat());
    assert_eq!(planned(&["count"]).len(), 21);
    assert_eq!(planned(&["simmer"]).len(), 21);
    assert_eq!(planned(&["taste"]).len(), 13);
    assert_eq!(planned(&["*"]).len(), 24);
    assert_eq!(planned(&[]).len(), 24);
}

#[test]
fn a_target_that_means_nothing_is_told_the_nearest() {
    let space = garden();
    let plan = |target: &str| space.triplay(&["pipeline", "plan", "garden.yaml", target]);
    plan("tast").fails(2, "`tast` must name a node or a stage of `garden`, found none of this name\n  help: did you mean `taste`?");
    plan("simmer[3]/stri").fails(2, "did you mean `simmer[3]/stir`?");
    plan("x*y").fails(2, "`triplay pipeline plan FILE --all` lists the nodes");
    space.triplay(&["pipeline", "run", "garden.yaml", "simer"]).fails(2, "did you mean `simmer`?");
    assert!(!space.path("results").exists());
    let check = ["pipeline", "run", "garden.yaml", "dew", "--check", "taste"];
    space.triplay(&check).fails(2, "--check taste: the targets must need the node");
    let force = ["pipeline", "run", "garden.yaml", "dew", "--force", "taste"];
    space.triplay(&force).fails(2, "--force taste: the targets must need the node, found that they do not");
}

#[test]
fn a_run_of_targets_is_whole_and_says_what_it_was_asked_for() {
    let space = garden();
    let run = |targets: &[&str]| {
        space.triplay(&[&["pipeline", "run", "garden.yaml", "--json"], targets].concat()).json()
    };
    let first = run(&["simmer[2]"]);
    assert_eq!((&first["status"], &first["ran"], &first["skipped"]), (&"done".into(), &4.into(), &0.into()));
    let list = space.triplay(&["runs", "list"]).out;
    let line = list.lines().nth(1).unwrap();
    assert!(line.contains("done") && line.ends_with("only simmer[2]"), "{list}");
    let show = space.triplay(&["runs", "show"]).out;
    assert!(show.contains("targets   simmer[2]\n") && show.contains("nodes     4: ran 4, "), "{show}");
    let record = space.triplay(&["runs", "show", "--json"]).json();
    assert_eq!(record["run"]["targets"], serde_json::json!(["simmer[2]"]));
    // Nothing to do: no new run. The rest goes on from there.
    assert_eq!(run(&["simmer[2]"])["run"], first["run"]);
    assert_eq!(run(&["dew"])["run"], first["run"]);
    let whole = run(&[]);
    assert_eq!((&whole["ran"], &whole["cached"]), (&20.into(), &4.into()));
    assert_eq!(run(&["taste"])["run"], whole["run"], "the whole run has it");
    assert_eq!(run(&["taste"])["cached"], 13);
}

#[test]
fn with_seeds_a_name_without_the_seed_means_all_of_them() {
    let space = Space::new();
    let stage = "{ kind: exec, command: echo $TRIPLAY_SEED, random: true }";
    space.write(
        "dice.yaml",
        &format!("pipeline: dice\nseeds: [1, 2]\nstages: {{ a: {stage}, b: {stage} }}\n"),
    );
    assert_eq!(space.planned("dice.yaml", &["a"]), ["s1/a", "s2/a"]);
    assert_eq!(space.planned("dice.yaml", &["s2/a"]), ["s2/a"]);
    assert_eq!(space.planned("dice.yaml", &["s2"]), ["s2/a", "s2/b"]);
    assert_eq!(space.planned("dice.yaml", &["b", "--seeds", "3"]), ["s3/b"]);
}

#[test]
fn a_target_within_a_phase_keeps_its_checkpoint_and_the_next_run_trains_on() {
    let space = Space::new();
    let first = space.run(&["play[1]/red[1]/update"]);
    let cached = first["ran"].as_u64().unwrap();
    let show = space.triplay(&["runs", "show"]).out;
    assert!(show.contains("targets   play[1]/red[1]/update"), "{show}");
    let model = space.path(first["results"].as_str().unwrap()).join("models/play[1].red[1].update");
    assert!(model.join("model.safetensors").exists(), "the target's output stays");
    let whole = space.run(&[]);
    assert_eq!((&whole["cached"], &whole["again"]), (&cached.into(), &0.into()));
    let fresh = space.run(&["--cache", "other"]);
    assert_eq!(space.digests(&whole), space.digests(&fresh));
}

/// The content of an output of the latest run.
fn shown(space: &Space, what: &str) -> String {
    space.triplay(&["data", "show", what]).out
}

#[test]
fn a_forced_node_runs_again_and_nothing_that_is_recorded_is_lost() {
    let space = Space::new();
    for on in ["", ", on: process"] {
        space.write(
            "p.yaml",
            &format!(
                "pipeline: p\nstages:\n  vague: {{ kind: exec, command: date +%s%N > out, outputs: {{ out: text }}{on} }}\n  \
                 copy: {{ kind: exec, command: [cat, in], inputs: {{ in: vague }} }}\n  sure: {{ kind: exec, command: [echo, moss]{on} }}\n"
            ),
        );
        let run = |args: &[&str]| space.triplay(&[&["pipeline", "run", "p.yaml"], args].concat());
        assert_eq!(run(&[]).code, Some(0));
        let first = space.triplay(&["runs", "list", "--json"]).out;
        let first: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
        let first = first["run"].as_str().unwrap();
        let old = shown(&space, &format!("{first}:copy"));

        let plan = space.triplay(&["pipeline", "plan", "p.yaml", "--force", "vague", "--force", "su*"]).out;
        assert!(
            plan.contains(
                "run      vague  forced\nunknown  copy   until vague is done\nrun      sure   forced\n"
            ),
            "{plan}"
        );
        let same = run(&["--force", "su*"]);
        assert!(same.out.starts_with("ran 1, cached 2, "), "{}{}", same.out, same.err);
        let other = run(&["--force", "vague"]);
        assert!(other.out.starts_with("ran 2, cached 1, "), "{}{}", other.out, other.err);
        let said = "vague: its output `out` differs from the recorded one, which earlier runs keep";
        assert!(other.err.contains(said), "{}", other.err);
        let new = shown(&space, "latest:copy");
        assert_ne!(new, old);

        // The next run finds the new outputs; the first run keeps its own, also through a gc.
        assert!(run(&[]).out.starts_with("ran 0, cached 3, "));
        assert_eq!(space.triplay(&["cache", "gc"]).code, Some(0));
        assert_eq!(shown(&space, &format!("{first}:copy")), old);
        assert_eq!(shown(&space, "latest:copy"), new);
        assert_eq!(space.triplay(&["cache", "verify"]).code, Some(0));
    }
    let force = ["pipeline", "run", "p.yaml", "sure", "--force", "vague"];
    space.triplay(&force).fails(2, "--force vague: the targets must need the node, found that they do not");
}
