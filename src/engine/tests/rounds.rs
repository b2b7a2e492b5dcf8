//! Values that rounds of a loop handed on, used outside the loop.

use super::*;

const ROUNDS: &str = "
pipeline: test
params: { rounds: 3, which: \"l[2].t\" }
stages:
  a: { kind: say, text: x }
  b: { kind: say, text: y }
  l:
    repeat: $rounds
    carry: { t: a }
    stages: { m: { kind: join, parts: [t, b] } }
    next: { t: m.joined }
  one: { kind: join, parts: [$which, b] }
  all: { kind: join, parts: [b, \"l[*].t\"] }
";

#[test]
fn a_round_of_a_loop_is_named_by_its_number() {
    let space = Space::new();
    let one = |which: &str| space.run(ROUNDS, &[&format!("which={which}")]).text(&space, "one");
    assert_eq!(
        ["l[0].t", "l[1].t", "l[2].t", "l[3].t", "l.t"].map(one),
        ["xy", "xyy", "xyyy", "xyyyy", "xyyyy"]
    );
    assert_eq!(one("l[03].t"), "xyyyy", "as nodes are named");
}

#[test]
fn all_rounds_stand_in_a_list_in_order() {
    let space = Space::new();
    assert_eq!(space.run(ROUNDS, &[]).text(&space, "all"), "yxyxyyxyyy");
    let none = space.run(ROUNDS, &["rounds=0", "which=l[0].t"]);
    assert_eq!((none.text(&space, "all"), none.text(&space, "one")), ("y".into(), "xy".into()));
}

#[test]
fn a_round_that_does_not_exist_names_those_that_do() {
    let space = Space::new();
    let cases = [
        ("l[4].t", "3", "loop `l` has no round `4`", "it has rounds 1 to 3; 0 is the initial value"),
        ("l[last].t", "3", "loop `l` has no round `last`", "it has rounds 1 to 3; 0 is the initial value"),
        ("l[2].t", "1", "loop `l` has no round `2`", "it has round 1; 0 is the initial value"),
        ("l[1].t", "0", "loop `l` has no round `1`", "it has no rounds; 0 is the initial value"),
        ("l[2].u", "3", "loop `l` does not carry `u`", "there are: t"),
        ("l[2]", "3", "`l[2]` is a loop", "name a value that it carries: l.t"),
    ];
    for (which, rounds, message, help) in cases {
        let error = space.error(ROUNDS, &[&format!("which={which}"), &format!("rounds={rounds}")]);
        let expected = format!(
            "p.yaml:12:30: {message}\n   |\n12 |   one: {{ kind: join, parts: [$which, b] }}\n   |                              ^^^^^^\n  help: {help}"
        );
        assert_eq!(error, expected);
    }
    let one = ROUNDS.replace("carry: { t: a }", "carry: { t: a, u: \"k[*].t\" }").replace(
        "  b: {",
        "  k: { repeat: 2, carry: { t: a }, stages: { m: { kind: join, parts: [t] } }, next: { t: m } }\n  b: {",
    );
    let error = space.error(&one, &[]);
    assert!(error.contains("`k[*].t` stands for all rounds, but this input takes one"), "{error}");
    assert!(error.ends_with("name one, such as k[1].t, or write k.t for the last"), "{error}");
    // Inside a loop its own rounds do not exist yet.
    let error = space.error(&ROUNDS.replace("parts: [t, b]", "parts: [t, \"l[1].t\"]"), &[]);
    assert!(error.contains("a cycle: l → l"), "{error}");
}

const NESTED: &str = "
pipeline: test
stages:
  a: { kind: say, text: x }
  b: { kind: say, text: y }
  outer:
    repeat: 2
    carry: { t: a, first: a }
    stages:
      inner:
        repeat: 2
        carry: { u: t }
        stages: { m: { kind: join, parts: [u, b] } }
        next: { u: m.joined }
      look: { kind: join, parts: [\"inner[0].u\", \"inner[1].u\"] }
    next: { t: inner.u, first: look }
  end: { kind: join, parts: [\"outer[1].first\", \"outer[2].first\"] }
";

#[test]
fn rounds_of_an_inner_loop_are_those_of_the_round_around_it() {
    let space = Space::new();
    assert_eq!(space.run(NESTED, &[]).text(&space, "end"), "xxyxyyxyyy");
}

#[test]
fn what_a_round_handed_on_stays_until_those_that_name_it_are_done() {
    let space = Space::new();
    let ran = space.run(ROUNDS, &[]);
    assert_eq!((ran.report.ran, ran.report.again, ran.report.failures.len()), (7, 0, 0));
    let there: Vec<bool> = ["l[1]/m", "l[2]/m", "l[3]/m"].iter().map(|node| ran.has(&space, node)).collect();
    assert_eq!(there, [false, false, true], "and is evicted then");
    // For a later node it is made again.
    let later = space.run(&format!("{ROUNDS}  later: {{ kind: join, parts: [\"l[2].t\"] }}\n"), &[]);
    assert_eq!(later.text(&space, "later"), "xyy");
    assert_eq!((later.report.ran, later.report.again), (1, 2));
}

#[test]
fn an_outline_says_which_round_is_meant() {
    let space = Space::new();
    let path = space.folder.path().join("p.yaml");
    fs::write(&path, ROUNDS).unwrap();
    let outline = outline(&path, &LoadOptions::default(), &registry()).unwrap();
    let name = |node: usize| outline.nodes[node].name.as_str();
    let results: Vec<(&str, &str, Option<usize>)> = outline
        .edges
        .iter()
        .filter_map(|edge| match &edge.role {
            EdgeRole::Result { round, .. } => Some((name(edge.from.node), name(edge.to), *round)),
            _ => None,
        })
        .collect();
    let all = [Some(1), Some(2), None].map(|round| ("l/m", "all", round));
    assert_eq!(results, [&[("l/m", "one", Some(2))], &all[..]].concat());
}

#[test]
fn what_seeds_share_is_dropped_once_all_of_them_are_done() {
    let space = Space::new();
    // Only `end` depends on the seed here.
    let fixed = "
pipeline: test
seeds: [1, 2]
stages:
  a: { kind: say, text: x, seed: 1 }
  l:
    repeat: 3
    carry: { t: a }
    stages: { m: { kind: join, parts: [t, a], seed: 1 } }
    next: { t: m.joined }
  end: { kind: join, parts: [l.t] }
";
    let ran = space.run(fixed, &[]);
    assert_eq!((ran.report.ran, ran.report.cached, ran.report.failures.len()), (6, 4, 0));
    let there = ["s1/l[1]/m", "s2/l[2]/m", "s1/l[3]/m", "s2/l[3]/m"].map(|node| ran.has(&space, node));
    assert_eq!(there, [false, false, true, true]);
}
