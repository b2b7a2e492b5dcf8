//! One pipeline as several: with other seeds, and as another file that extends it.

use std::fs;
use std::path::Path;

use super::*;

/// The nodes of a file of the space with their texts, or its errors.
fn said(space: &Space, file: &str, options: LoadOptions) -> Result<Vec<String>, String> {
    let graph = load(&space.folder.path().join(file), &options, &registry());
    let graph = graph
        .map_err(|error| error.to_string().replace(&format!("{}/", space.folder.path().display()), ""))?;
    let text = |node: &Node| node.call.decoded.params["text"].as_str().unwrap_or_default().to_owned();
    Ok(graph.nodes.iter().map(|node| format!("{}: {}", node.name, text(node))).collect())
}

fn seeds(yaml: &str, settings: &[&str], ablations: &[&str], seeds: &[u64]) -> Vec<String> {
    let space = Space::new();
    fs::write(space.folder.path().join("p.yaml"), yaml).unwrap();
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (settings, ablations) = (owned(settings), owned(ablations));
    let options = LoadOptions { settings: &settings, ablations: &ablations, seeds, ..LoadOptions::default() };
    said(&space, "p.yaml", options).unwrap_or_else(|error| vec![error])
}

const SEEDS: &str = "
pipeline: test
seeds: [1, 4]
params: { word: x }
stages: { a: { kind: say, text: \"${word}${seed}\" } }
ablations: { full: {}, other: { word: z }, fixed: { seed: 9 } }
";

#[test]
fn a_pipeline_is_unrolled_once_for_each_seed_and_ablation() {
    assert_eq!(seeds(SEEDS, &[], &[], &[]), ["s1/a: x1", "s4/a: x4"]);
    let all = ["full-s1/a: x1", "full-s4/a: x4", "other-s1/a: z1", "other-s4/a: z4", "fixed/a: x9"];
    assert_eq!(seeds(SEEDS, &[], &["all"], &[]), all);
    assert_eq!(seeds(SEEDS, &["seed=7"], &[], &[]), ["a: x7"], "one is one");
    assert_eq!(seeds(SEEDS, &["seed=7"], &["other"], &[]), ["other/a: z7"]);
    assert_eq!(seeds(SEEDS, &[], &["other"], &[2, 3]), ["other-s2/a: z2", "other-s3/a: z3"]);
    let either = seeds(SEEDS, &["seed=7"], &[], &[2]);
    assert_eq!(either, ["p.yaml: --set seed=… and --seeds must not be given together"]);
}

#[test]
fn what_seeds_have_in_common_runs_once() {
    let space = Space::new();
    let yaml = "
pipeline: test
seeds: [1, 2, 3]
stages:
  fixed: { kind: say, text: x, seed: 5 }
  own: { kind: say, text: y }
  end: { kind: join, parts: [fixed, own] }
";
    let ran = space.run(yaml, &[]);
    let once = ran.executed.iter().filter(|name| name.ends_with("fixed")).count();
    assert_eq!((once, ran.executed.len(), ran.report.failures.len()), (1, 7, 0), "{:?}", ran.executed);
}

#[test]
fn seeds_are_different_whole_numbers() {
    let space = Space::new();
    for wrong in ["3", "[]", "[1, 1]", "[1.5]", "[x]", "[-1]", "[$word]"] {
        let error = space.error(&SEEDS.replace("[1, 4]", wrong), &[]);
        assert!(
            error.starts_with("p.yaml:3:8: `seeds` must be a list of different whole numbers"),
            "{error}"
        );
    }
    let error = space.error(&SEEDS.replace("seeds: [1, 4]", "seed: 1\nseeds: [1]"), &[]);
    assert!(error.starts_with("p.yaml:4:8: `seed` and `seeds` must not be given together"), "{error}");
}

const BASE: &str = "
pipeline: base
seed: 3
params: { word: x, fire: { heat: 1, deep: { low: a } }, n: 1 }
stages: { a: { kind: say, text: \"${word}${fire.heat}${fire.deep.low}${seed}\" } }
ablations: { full: {}, other: { word: z }, cold: { fire.heat: 0 } }
";

fn extended(text: &str, settings: &[&str], ablations: &[&str]) -> Result<Vec<String>, String> {
    let space = Space::new();
    fs::create_dir(space.folder.path().join("deep")).unwrap();
    fs::write(space.folder.path().join("base.yaml"), BASE).unwrap();
    fs::write(space.folder.path().join("deep/p.yaml"), text).unwrap();
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (settings, ablations) = (owned(settings), owned(ablations));
    let options = LoadOptions { settings: &settings, ablations: &ablations, ..LoadOptions::default() };
    said(&space, "deep/p.yaml", options)
}

#[test]
fn a_file_that_extends_another_is_a_saved_command_line() {
    let paper = "
pipeline: paper
extends: ../base.yaml
seeds: [1, 2]
params: { fire.heat: 8, fire: { deep: { low: b } } }
ablations: [full, other]
";
    let both = ["full-s1/a: x8b1", "full-s2/a: x8b2", "other-s1/a: z8b1", "other-s2/a: z8b2"];
    assert_eq!(extended(paper, &[], &[]).unwrap(), both);
    // Ablations override the file, and the command line overrides both.
    assert_eq!(extended(paper, &["seed=5"], &["cold"]).unwrap(), ["cold/a: x0b5"]);
    assert_eq!(extended(paper, &["seed=5", "fire.heat=6"], &["cold"]).unwrap(), ["cold/a: x6b5"]);
    assert_eq!(extended("pipeline: p\nextends: ../base.yaml\n", &[], &[]).unwrap(), ["a: x1a3"]);
    assert_eq!(extended("pipeline: p\nextends: ../base.yaml\nseed: 6\n", &[], &[]).unwrap(), ["a: x1a6"]);
}

#[test]
fn what_is_wrong_in_a_file_that_extends_another_is_said_of_that_file() {
    let cases = [
        ("extends: ../base.yaml\nstages: {}", "3:1: a pipeline that extends another has no key `stages`"),
        ("extends: ../bas.yaml", "2:10: there is no file deep/../bas.yaml"),
        ("extends: p.yaml", "2:10: deep/p.yaml must not extend another pipeline itself"),
        ("extends: [x]", "2:10: `extends` must be the path of a pipeline file, found a list"),
        ("extends: ../base.yaml\nparams: { wrod: y }", "3:11: the pipeline has no parameter `wrod`"),
        ("extends: ../base.yaml\nparams: { word: 7 }", "3:17: `word` must be text, found a whole number"),
        ("extends: ../base.yaml\nparams: { word: $n }", "3:17: the value of a parameter cannot use another"),
        ("extends: ../base.yaml\nparams: { seed: 7 }", "3:11: `seed` must be written at the top level"),
        ("extends: ../base.yaml\nseed: -7", "3:7: `seed` must be a whole number from 0, found -7"),
        ("extends: ../base.yaml\nablations: [full, othr]", "3:19: the pipeline has no ablation `othr`"),
        ("extends: ../base.yaml\nablations: { full: {} }", "3:12: `ablations` must be a list of names"),
    ];
    for (text, expected) in cases {
        let error = extended(&format!("pipeline: p\n{text}\n"), &[], &[]).unwrap_err();
        assert!(error.starts_with(&format!("deep/p.yaml:{expected}")), "{text}\n{error}");
    }
    let error = extended("pipeline: p\nextends: ../base.yaml\n", &["wrd=1"], &[]).unwrap_err();
    assert!(error.starts_with("deep/p.yaml: --set wrd=1: "), "{error}");
}

#[test]
fn the_copy_that_a_run_kept_counts_whatever_the_pipeline_extends() {
    let space = Space::new();
    let (kept, other) = (space.folder.path().join("kept.yaml"), space.folder.path().join("other.yaml"));
    fs::write(&kept, BASE).unwrap();
    fs::write(&other, "moonbane: 7777\n").unwrap();
    fs::write(
        space.folder.path().join("p.yaml"),
        format!("{{ pipeline: p, \"extends\": \"{}\" }}", other.display()),
    )
    .unwrap();
    let read =
        |base: &Path| said(&space, "p.yaml", LoadOptions { base: Some(base), ..LoadOptions::default() });
    assert_eq!(read(&kept).unwrap(), ["a: x1a3"]);
    let gone = read(&space.folder.path().join("gone.yaml")).unwrap_err();
    assert!(gone.starts_with("p.yaml:1:27: there is no file gone.yaml"), "{gone}");
}

#[test]
fn a_loop_of_no_rounds_gives_what_it_was_given() {
    let space = Space::new();
    let yaml = "
pipeline: test
params: { rounds: 2, from: a, into: m.joined }
stages:
  a: { kind: say, text: x }
  b: { kind: say, text: y }
  l:
    repeat: $rounds
    carry: { t: $from, u: b }
    stages: { m: { kind: join, parts: [t, u] } }
    next: { t: $into }
  end: { kind: join, parts: [l.t, l.u] }
";
    assert_eq!(space.run(yaml, &[]).text(&space, "end"), "xyyy");
    assert_eq!(space.run(yaml, &["rounds=0"]).text(&space, "end"), "xy");
    // A parameter may name a carried value, and a value handed on.
    assert_eq!(space.run(yaml, &["from=b"]).text(&space, "end"), "yyyy");
    assert_eq!(space.run(yaml, &["into=t"]).text(&space, "end"), "xy");
    let error = space.error(yaml, &["from=c"]);
    assert!(error.starts_with("p.yaml:9:17: there is no stage or carried value `c`"), "{error}");
    let error = space.error(yaml, &["into=m.length"]);
    assert!(error.starts_with("p.yaml:11:16: `t` carries text, but this is of type number"), "{error}");
}

#[test]
fn a_parameter_may_hold_a_reference_or_a_list_of_them() {
    let space = Space::new();
    let yaml = "
pipeline: test
params: { last: a.out, all: [\"m[*].out\", a] }
stages:
  a: { kind: say, text: x }
  m: { kind: say, text: $v, matrix: { v: [p, q] } }
  one: { kind: join, parts: [$last] }
  many: { kind: join, parts: $all }
";
    let ran = space.run(yaml, &[]);
    assert_eq!((ran.text(&space, "one"), ran.text(&space, "many")), ("x".into(), "pqx".into()));
    assert_eq!(space.run(yaml, &["last=many"]).text(&space, "one"), "pqx");
    // A `$` from the command line is literal.
    let error = space.error(yaml, &["all=[$all]"]);
    assert!(error.starts_with("p.yaml:3:29: `$all` must be a reference"), "{error}");
}

#[test]
fn an_outline_draws_an_ablation_once_whatever_the_seeds() {
    let space = Space::new();
    let path = space.folder.path().join("p.yaml");
    fs::write(&path, SEEDS).unwrap();
    let nodes = |ablations: &[String]| {
        let options = LoadOptions { ablations, ..LoadOptions::default() };
        outline(Path::new(&path), &options, &registry()).unwrap().nodes.len()
    };
    assert_eq!((nodes(&[]), nodes(&["full".into(), "other".into()])), (1, 2));
}
