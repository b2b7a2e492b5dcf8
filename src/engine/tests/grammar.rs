//! What a pipeline may contain, and the errors of wrong ones. `tests/it/wrong` has more errors, with the stages of the
//! program.

use std::fs;
use std::time::Duration;

use super::*;

impl Space {
    /// The names of a pipeline's nodes, each with its text if it has one.
    fn said(&self, yaml: &str, settings: &[&str], ablations: &[&str]) -> Vec<String> {
        let graph = self.load_ablations(yaml, settings, ablations).unwrap_or_else(|error| panic!("{error}"));
        let said = |node: &Node| match node.call.decoded.params.get("text") {
            Some(text) => format!("{}: {}", node.name, text.as_str().unwrap()),
            None => node.name.clone(),
        };
        graph.nodes.iter().map(said).collect()
    }
}

/// The exact errors of a pipeline.
#[test]
fn errors_name_the_place_and_the_remedy() {
    let space = Space::new();
    let stages = |text: &str| format!("pipeline: test\nparams: {{ word: x }}\nstages:\n{text}");
    let cases: &[(&str, &str)] = &[
        (
            "  a: { kind: say, txt: x }\n",
            "p.yaml:4:19: stage `a` (kind say) has no key `txt`\n  |\n4 |   a: { kind: say, txt: x }\n  |                   ^^^\n  help: did you mean `text`?",
        ),
        (
            "  a: { kind: sya, text: x }\n",
            "p.yaml:4:14: there is no stage kind `sya`\n  |\n4 |   a: { kind: sya, text: x }\n  |              ^^^\n  help: did you mean `say`?",
        ),
        (
            "  a: { kind: say }\n",
            "p.yaml:4:3: stage `a` (kind say) needs the key `text`\n  |\n4 |   a: { kind: say }\n  |   ^",
        ),
        (
            "  a: { kind: say, text: $wrod }\n",
            "p.yaml:4:25: there is no parameter `wrod`\n  |\n4 |   a: { kind: say, text: $wrod }\n  |                         ^^^^^\n  help: did you mean `word`?",
        ),
        (
            "  a: { kind: say, text: 3 }\n",
            "p.yaml:4:25: `text` must be text, found a whole number\n  |\n4 |   a: { kind: say, text: 3 }\n  |                         ^\n  help: quotes make it text: '3'",
        ),
        (
            "  speak: { kind: say, text: x }\n  b: { kind: join, parts: [speek] }\n",
            "p.yaml:5:28: there is no stage or carried value `speek`\n  |\n5 |   b: { kind: join, parts: [speek] }\n  |                            ^^^^^\n  help: did you mean `speak`?",
        ),
        (
            "  a: { kind: say, text: x }\n  b: { kind: join, parts: [a.uot] }\n",
            "p.yaml:5:28: `a` (kind say) has no output `uot`\n  |\n5 |   b: { kind: join, parts: [a.uot] }\n  |                            ^^^^^\n  help: did you mean `out`?",
        ),
        (
            "  a: { kind: say, text: x }\n  b: { kind: double, number: a }\n",
            "p.yaml:5:30: `number` takes number, but `a` is of type text\n  |\n5 |   b: { kind: double, number: a }\n  |                              ^",
        ),
        (
            "  a: { kind: join, parts: [c] }\n  b: { kind: join, parts: [a] }\n  c: { kind: join, parts: [b] }\n",
            "p.yaml:5:28: a cycle: a → c → b → a\n  |\n5 |   b: { kind: join, parts: [a] }\n  |                            ^\n  help: a stage cannot use what comes after it; carry a value through `repeat` instead",
        ),
        (
            "  a: { kind: say, text: x, matrix: { v: [p, q] } }\n  b: { kind: join, parts: [a] }\n",
            "p.yaml:5:28: `a` must name one of its variants: it has a matrix\n  |\n5 |   b: { kind: join, parts: [a] }\n  |                            ^\n  help: `a` has the variants p, q: write a[p]",
        ),
        (
            "  a: { kind: say, text: x }\n  l:\n    repeat: 2\n    carry: { t: a }\n    stages: { m: { kind: join, parts: [t] } }\n    nxt: { t: m }\n",
            "p.yaml:9:5: a loop has no key `nxt`\n  |\n9 |     nxt: { t: m }\n  |     ^^^\n  help: did you mean `next`?",
        ),
        (
            "  a: { kind: say, text: x }\n  l:\n    repeat: 2\n    carry: { t: a }\n    stages: { m: { kind: join, parts: [t] } }\n    next: { t: m.length }\n",
            "p.yaml:9:16: `t` carries text, but this is of type number\n  |\n9 |     next: { t: m.length }\n  |                ^^^^^^^^",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(space.error(&stages(text), &[]), *expected);
    }
    let good = stages("  a: { kind: say, text: $word }\n");
    assert_eq!(
        space.error(&good, &["wrd=y"]),
        "p.yaml: --set wrd=y: the pipeline has no parameter `wrd`\n  help: did you mean `word`?"
    );
    assert_eq!(
        space.error(&good, &["word=3"]),
        "p.yaml: --set word=3: `word` must be text, found a whole number\n  help: quotes make it text: '\"3\"'"
    );
    // As typed, whatever number that is.
    for typed in ["2023023902_2", "007", "3.10", "1e3", "0x10"] {
        let set = format!("word={typed}");
        let error = space.error(&good, &[&set]);
        assert!(error.ends_with(&format!("help: quotes make it text: '\"{typed}\"'")), "{error}");
    }
    assert_eq!(
        space.error("pipelin: x\nstages: { a: { kind: say, text: x } }\n", &[]),
        "p.yaml:1:1: a pipeline has no key `pipelin`\n  |\n1 | pipelin: x\n  | ^^^^^^^\n  help: did you mean `pipeline`?"
    );
}

#[test]
fn a_huge_file_is_refused_unread() {
    let space = Space::new();
    let path = space.folder.path().join("huge.yaml");
    fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let error = load(&path, &LoadOptions::default(), &registry()).err().unwrap().to_string();
    assert!(error.contains("it must have at most 1 MiB, found 100 MiB"), "{error}");
}

/// A pipeline with these keys and these stages.
fn pipeline(head: &str, stages: &str) -> String {
    format!("pipeline: test\n{head}\nstages:\n{stages}\n")
}

#[test]
fn parameters_are_of_any_type_and_maps_have_parts() {
    let space = Space::new();
    let yaml = pipeline(
        "params: { say: { loud: true, words: { first: ho } }, list: [a], any: }",
        "  a: { kind: say, text: $say.words.first, upper: $say.loud }\n  b: { kind: say, text: \"${say.words.first}/${say.loud}/${list}/${any}\" }",
    );
    assert_eq!(space.said(&yaml, &[], &[]), ["a: ho", "b: ho/true/[\"a\"]/null"]);
    let set = ["say.words.first=hey", "say={loud: false}", "list=[1, 2.5]", "any={x: 1}"];
    assert_eq!(space.said(&yaml, &set, &[]), ["a: hey", "b: hey/false/[1,2.5]/{\"x\":1}"]);
    for (set, expected) in [
        ("say.loud=loudly", "`say.loud` must be true or false, found text"),
        ("say.wrds=1", "the parameter `say` has no key `wrds`\n  help: did you mean `words`?"),
        ("say={words: {frist: x}}", "the parameter `say.words` has no key `frist`"),
        ("list.x=1", "`list` must be a map, found a list"),
        ("list=x", "`list` must be a list, found text"),
        ("list=[", "not a YAML value: "),
    ] {
        let error = space.error(&yaml, &[set]);
        assert!(error.starts_with(&format!("p.yaml: --set {set}: {expected}")), "{error}");
    }
}

#[test]
fn a_number_keeps_its_text_until_something_asks_for_a_number() {
    let space = Space::new();
    let yaml = pipeline(
        "params: { n: 007, version: 3.10, many: [1_000, 0x10, .5] }",
        "  a: { kind: say, text: \"${n} ${version} ${many}\" }",
    );
    assert_eq!(space.said(&yaml, &[], &[]), ["a: 007 3.10 [1000,16,0.5]"]);
    assert_eq!(space.said(&yaml, &["n=08", "version=3.1"], &[]), ["a: 08 3.1 [1000,16,0.5]"]);
    let graph = space.load_ablations(&yaml, &["n=-012"], &[]).unwrap();
    let variant = &graph.variants[0];
    assert_eq!((&variant.params["n"], &variant.params["version"]), (&(-12).into(), &3.1.into()));
    let typed: Vec<(&str, &str)> =
        variant.typed.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(typed, [("many", "[1_000,0x10,.5]"), ("n", "-012"), ("version", "3.10")]);
}

#[test]
fn ablations_stand_side_by_side_in_one_graph() {
    let space = Space::new();
    let yaml = pipeline(
        "params: { word: x, more: { tail: y, n: 1 } }\nablations: { full: {}, other: { word: z, more.tail: q }, third: { more: { n: 2 }, seed: 9 } }",
        "  a: { kind: say, text: \"${word}${more.tail}${more.n}\" }",
    );
    assert_eq!(space.said(&yaml, &[], &[]), ["a: xy1"]);
    assert_eq!(space.said(&yaml, &[], &["other", "other"]), ["other/a: zq1"]);
    let all = ["full/a: xy1", "other/a: zq1", "third/a: xy2"];
    assert_eq!(space.said(&yaml, &[], &["all", "full"]), all);
    assert_eq!(space.said(&yaml, &["word=w"], &["other"]), ["other/a: wq1"], "--set comes last");
    let graph = space.load_ablations(&yaml, &[], &["third", "full"]).unwrap();
    let names: Vec<_> = graph.variants.iter().map(|variant| variant.ablation.clone().unwrap()).collect();
    assert_eq!(names, ["third", "full"]);
    assert_eq!(graph.variants[0].params["more"], serde_json::json!({"tail": "y", "n": 2}));
    assert_eq!(graph.variants[0].params["seed"], 9);
    assert_ne!(graph.nodes[0].seed, graph.nodes[1].seed);
    let error = space.load_ablations(&yaml, &[], &["othr"]).err().unwrap().to_string();
    assert!(error.ends_with("has no ablation `othr`\n  help: did you mean `other`?"), "{error}");
}

#[test]
fn what_is_wrong_in_an_ablation_is_said_even_if_it_is_not_asked_for() {
    let yaml = pipeline(
        "params: { word: x }\nablations: { full: {}, other: { word: 3 }, none: { wrod: y } }",
        "  a: { kind: say, text: $word, uper: true }",
    );
    let error = Space::new().error(&yaml, &[]);
    let heads: Vec<&str> = error.lines().filter(|line| line.contains("p.yaml:")).collect();
    assert_eq!(
        heads,
        [
            "p.yaml:3:39: `word` must be text, found a whole number (in the ablation `other`)",
            "error: p.yaml:3:52: the pipeline has no parameter `wrod` (in the ablation `none`)",
            "error: p.yaml:5:32: stage `a` (kind say) has no key `uper`",
        ]
    );
}

#[test]
fn a_matrix_takes_values_of_any_type_and_maps_from_labels() {
    let space = Space::new();
    let matrix = |head: &str, matrix: &str| {
        let stages = format!("  a: {{ kind: say, text: \"${{x}}\", matrix: {{ {matrix} }} }}");
        space.said(&pipeline(head, &stages), &[], &[])
    };
    assert_eq!(matrix("", "x: [1, 2.5, true]"), ["a[1]: 1", "a[2.5]: 2.5", "a[true]: true"]);
    assert_eq!(matrix("", "x: [[p, q], [r]]"), ["a[p-q]: [\"p\",\"q\"]", "a[r]: [\"r\"]"]);
    assert_eq!(matrix("", "x: [{ name: m, k: 1 }]"), ["a[m]: {\"name\":\"m\",\"k\":1}"]);
    assert_eq!(matrix("", "x: { small: 1, large: 2 }"), ["a[small]: 1", "a[large]: 2"]);
    assert_eq!(matrix("params: { all: [p, q] }", "x: $all"), ["a[p]: p", "a[q]: q"]);
    let parts = pipeline(
        "",
        "  a: { kind: say, text: $x.word, seed: $x.n, matrix: { x: { s: { word: w, n: 1 }, t: { word: v, n: 2 } } } }",
    );
    assert_eq!(space.said(&parts, &[], &[]), ["a[s]: w", "a[t]: v"]);
    let graph = space.load(&parts, &[]).unwrap();
    assert_ne!(graph.nodes[0].seed, graph.nodes[1].seed);
}

#[test]
fn a_matrix_excludes_and_includes() {
    let space = Space::new();
    let matrix = |more: &str| {
        let stages = format!(
            "  a: {{ kind: say, text: \"${{x}}${{y}}${{z}}\", matrix: {{ x: [p, q], y: [1, 2], {more} }} }}"
        );
        space.said(&pipeline("params: { z: . }", &stages), &[], &[])
    };
    assert_eq!(matrix("exclude: [{ x: p, y: 2 }]"), ["a[p,1]: p1.", "a[q,1]: q1.", "a[q,2]: q2."]);
    assert_eq!(
        matrix("exclude: [{ x: p }], include: [{ x: p, y: 3, z: \"!\" }]"),
        ["a[q,1]: q1.", "a[q,2]: q2.", "a[p,3]: p3!"]
    );
    assert_eq!(
        matrix("include: [{ x: q, z: \"!\" }]"),
        ["a[p,1]: p1.", "a[p,2]: p2.", "a[q,1]: q1!", "a[q,2]: q2!"]
    );
    assert_eq!(matrix("exclude: [{ y: 2 }], include: [{ z: \"!\" }]"), ["a[p,1]: p1!", "a[q,1]: q1!"]);
}

#[test]
fn a_star_in_a_list_stands_for_all_variants() {
    let space = Space::new();
    let yaml = pipeline(
        "",
        "  a: { kind: say, text: \"${x}${y}\", matrix: { x: [p, q], y: [1, 2] } }\n  all: { kind: join, parts: [\"a[*]\", \"a[q,1].out\"] }\n  some: { kind: join, parts: [\"a[*,2].out\"] }",
    );
    let ran = space.run(&yaml, &[]);
    assert_eq!(ran.text(&space, "all"), "p1p2q1q2q1");
    assert_eq!(ran.text(&space, "some"), "p2q2");
}

#[test]
fn in_the_brackets_of_a_reference_an_axis_is_its_label() {
    let space = Space::new();
    let matrix = "matrix: { x: { low: 1, high: { deep: 2 } }, y: [3, 4] }";
    let yaml = pipeline(
        "params: { n: 4 }",
        &format!(
            "  a: {{ kind: say, text: \"${{x}}-${{y}} \", {matrix} }}\n  \
             b: {{ kind: join, parts: [\"a[${{x}},${{y}}].out\", \"a[low,${{n}}]\"], {matrix} }}"
        ),
    );
    let ran = space.run(&yaml, &[]);
    assert_eq!(ran.text(&space, "b[high,3]"), "{\"deep\":2}-3 1-4 ");
    assert_eq!(ran.text(&space, "b[low,4]"), "1-4 1-4 ");
}

#[test]
fn how_a_stage_is_run_is_no_part_of_its_key() {
    let space = Space::new();
    let yaml = |more: &str| {
        pipeline("resources: { gpu: 2, api: 4 }", &format!("  a: {{ kind: say, text: x{more} }}"))
    };
    space.run(&yaml(""), &[]);
    let more = ", resources: { gpu: 1, api: 4 }, timeout: 1h 30m, retry: { times: 5, wait: 10s }";
    assert!(space.run(&yaml(more), &[]).executed.is_empty());
    let graph = space.load(&yaml(more), &[]).unwrap();
    let policy = &graph.nodes[0].call.policy;
    assert_eq!(policy.resources, [("api".to_owned(), 4), ("gpu".to_owned(), 1)].into());
    assert_eq!(policy.timeout, Some(Duration::from_secs(5400)));
    assert_eq!(policy.retry, Retry { times: 5, wait: Duration::from_secs(10), on: Retried::Any });
    assert_eq!(graph.resources["api"], Limit { units: 4, per_minute: None, of: LimitOf::Run });
    let graph = space.load(&yaml(", timeout: 90, retry: 0"), &[]).unwrap();
    let policy = &graph.nodes[0].call.policy;
    assert_eq!((policy.timeout, policy.retry.times), (Some(Duration::from_secs(90)), 0));
}

#[test]
fn an_outer_stage_that_is_carried_on_is_kept() {
    let space = Space::new();
    let yaml = pipeline(
        "",
        "  a: { kind: say, text: x }\n  b: { kind: join, parts: [a] }\n  l:\n    repeat: 3\n    carry: { t: a }\n    stages: { m: { kind: join, parts: [t] } }\n    next: { t: b }",
    );
    let graph = space.load(&yaml, &[]).unwrap();
    assert!(graph.nodes.iter().all(|node| node.passing.is_empty()));
}

#[test]
fn whatever_is_in_the_file_is_answered() {
    let space = Space::new();
    let deep = format!("pipeline: t\nstages: {}{}\n", "[".repeat(3000), "]".repeat(3000));
    let nested: String = (0..500).map(|depth| " ".repeat(depth) + "a:\n").collect();
    let chain: String =
        (0..20_000).map(|i| format!("  s{i}: {{ kind: join, parts: [s{}] }}\n", i + 1)).collect();
    let texts = [
        "",
        "\u{feff}",
        "---",
        "a",
        "- a",
        "{",
        "[",
        "&a *a",
        "*a",
        "? a",
        "<<: x",
        "!!binary x",
        "%YAML 9.9",
        "\0",
        "\t",
        "\r",
        "pipeline: t\nstages: { a: { kind: say, text: $, upper: ${} } }",
        "pipeline: t\nstages: { a: &a { b: *a } }",
        "pipeline: t\nseed: 9223372036854775808\nstages: { a: { kind: say, text: x, seed: 1e999 } }",
        "pipeline: t\nstages: { a: { kind: say, text: x, matrix: { a: [], include: [], exclude: {} } } }",
        "pipeline: t\nstages: { a: { kind: say, text: x, matrix: { a: [\"]\", \"*\", \"\"] } }, b: { kind: join, parts: [\"a[]]\"] } }",
        "pipeline: t\nstages: { l: { repeat: 1000000, stages: { m: { repeat: 1000000, stages: { n: { repeat: 0, stages: { a: { kind: say, text: x } } } } } } } }",
        &deep,
        &nested,
        &pipeline("", &chain),
    ];
    for text in texts {
        let error = space.error(text, &[]);
        assert!(error.contains("p.yaml"), "{error}");
    }
}

/// A list of `item` of the numbers below `count`.
fn many(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(", ")
}

#[test]
fn what_is_short_to_write_and_endless_to_write_out_is_refused() {
    let say = |i: usize| format!("s{i}: {{ kind: say, text: x }}");
    let twins = many(19, |i| format!("a{i}: [1, 2]"));
    let matrix = |i: usize| format!("s{i}: {{ kind: say, text: x, matrix: {{ {twins} }} }}");
    // Long labels and comments use up the budget quickly.
    let labels = many(20, |i| format!("{}{i}", "x".repeat(25_000)));
    let labelled = format!("a: {{ kind: say, text: x, matrix: {{ v: [{labels}] }} }}");
    let join = |i: usize| format!("b{i}: {{ kind: join, parts: [\"a[*]\"] }}");
    let joined = format!("{labelled}, {}", many(1_000, join));
    let ablations = |of: &str| format!("ablations: {{ {} }}", many(200, |i| format!("a{i}: {of}")));
    let large = format!("{}\nparams: {{ p: {} }}", ablations("{}"), "x".repeat(400_000));
    let twice = "a: { kind: say, text: \"${p}${p}\" }".to_owned();
    let numbers = many(2_000, |i| i.to_string());
    let wide = format!("a: {{ kind: say, text: x, matrix: {{ v: [{numbers}] }} }}");
    let carried = many(1_000, |i| format!("c{i}: s0"));
    let carrying =
        format!("{}, l: {{ repeat: 999999, carry: {{ {carried} }}, stages: {{ {} }} }}", say(0), say(1));
    let again =
        format!("{wide}, l: {{ repeat: 10000, stages: {{ b: {{ kind: join, parts: [\"a[*]\"] }} }} }}");
    let long =
        "the pipeline must take at most 256 MiB with its parameters, variants and ablations written out";
    let cases = [
        (String::new(), many(10, matrix), long),
        (String::new(), joined, long),
        (large, twice, long),
        (ablations("{ q: 1 }"), say(0), "the pipeline has no parameter `q`"),
        (String::new(), carrying, "the pipeline must unroll to at most 10000000 inputs, found more"),
        (String::new(), again, "the pipeline must unroll to at most 10000000 inputs, found more"),
    ];
    for (head, stages, expected) in cases {
        let error = Space::new().error(&pipeline(&head, &format!("  {{ {stages} }}")), &[]);
        assert!(error.contains(expected), "{}", &error[..error.len().min(300)]);
    }
}

#[test]
fn stages_of_ever_so_many_sorts_take_what_they_say() {
    let space = Space::new();
    let numbers = many(66_000, |i| i.to_string());
    let yaml = pipeline(
        &format!("params: {{ n: [{numbers}] }}"),
        "  a: { kind: say, text: x, resources: { cpu: $n }, matrix: { n: $n } }",
    );
    let graph = space.load(&yaml, &[]).unwrap_or_else(|error| panic!("{error}"));
    let store = space.store();
    let plan = Plan::new(&graph, &store);
    assert_eq!(plan.needs(NodeId(65_999)).amounts, [("cpu".to_owned(), 65_999)].into());
}

#[test]
fn a_timeout_beyond_all_time_is_none() {
    let yaml = pipeline("", "  a: { kind: say, text: x, timeout: 9223372036854775807 }");
    assert_eq!(Space::new().run(&yaml, &[]).report.ran, 1);
}

#[test]
fn variants_in_a_map_do_not_take_the_place_of_what_is_beside_them() {
    let yaml = pipeline(
        "",
        "  a: { kind: say, text: \"${x}\", matrix: { x: [p, q] } }\n  b: { kind: join, parts: { q: \"a[p]\", \"*\": \"a[*]\" } }",
    );
    let error = Space::new().error(&yaml, &[]);
    assert!(error.starts_with("p.yaml:5:40: duplicate key `q`"), "{error}");
}
