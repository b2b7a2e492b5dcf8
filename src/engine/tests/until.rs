//! Loops that stop by a metric: which rounds are executed, what feeds the stages after the loop, and that no key depends on it.

use super::*;

/// Stops if the metric was above a bound in each of these rounds.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bound {
    metric: Vec<Input<Number>>,
    above: u64,
}

impl Stage for Bound {
    const KIND: Kind = Kind {
        name: "until",
        version: 1,
        outputs: &[Output::new("decision", DECISION), Output::new("why", "text")],
        numerics: false,
        draws: false,
        excluded_from_key: &[],
    };

    fn check(&self) -> Result<(), CheckError> {
        if self.above == 99 { Err("`above` must not be 99".into()) } else { Ok(()) }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut numbers = Vec::new();
        for metric in &self.metric {
            numbers.push(fs::read_to_string(&context.input(metric)?.path)?.parse::<u64>()?);
        }
        fs::write(context.output("why"), format!("{numbers:?} above {}", self.above))?;
        Ok(write_decision(&context.output("decision"), numbers.iter().all(|number| *number > self.above))?)
    }
}

/// A text that grows by one character each round.
const GROW: &str = "
pipeline: test
params: { most: 5, above: 4, in_a_row: 1, keep: last }
stages:
  a: { kind: say, text: abc }
  b: { kind: say, text: z }
  grow:
    repeat: { at_most: $most, until: { metric: more.length, above: $above, in_a_row: $in_a_row } }
    keep: $keep
    carry: { text: a }
    stages:
      more: { kind: join, parts: [text, b] }
      size: { kind: double, number: more.length }
    next: { text: more.joined }
  end: { kind: join, parts: [grow.text, a] }
";

/// The same with a fixed number of rounds.
fn fixed(rounds: usize) -> String {
    let (before, after) = GROW.split_once("    repeat:").unwrap();
    let (_, after) = after.split_once('\n').unwrap();
    format!("{before}    repeat: {rounds}\n{after}")
}

impl Ran {
    fn names(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.node.as_str()).collect()
    }

    fn key(&self, node: &str) -> Digest {
        self.nodes.iter().find(|report| report.node == node).unwrap().key
    }
}

#[test]
fn a_loop_stops_after_the_round_in_which_its_metric_says_so() {
    let space = Space::new();
    let ran = space.run(GROW, &[]);
    assert_eq!(
        ran.executed,
        [
            "a",
            "b",
            "grow[1]/more",
            "grow[1]/size",
            "grow[1]/until",
            "grow[2]/more",
            "grow[2]/size",
            "grow[2]/until",
            "end"
        ]
    );
    assert_eq!(ran.text(&space, "end"), "abczzabc");
    let report = &ran.report;
    assert_eq!((report.ran, report.unreached, report.skipped, report.failures.len()), (9, 9, 0, 0));
    assert_eq!(ran.text(&space, "grow[1]/until"), "go on\n");
    assert_eq!(ran.text(&space, "grow[2]/until"), "stop\n");
    let again = space.run(GROW, &[]);
    assert_eq!((again.report.ran, again.report.cached, again.report.unreached), (0, 9, 9));
    let sorted = |ran: &Ran| {
        let mut nodes: Vec<(u32, String)> =
            ran.nodes.iter().map(|report| (report.index, report.node.clone())).collect();
        nodes.sort();
        nodes
    };
    assert_eq!(sorted(&again), sorted(&ran));
}

#[test]
fn a_loop_whose_metric_never_says_so_has_all_its_rounds() {
    let space = Space::new();
    let ran = space.run(GROW, &["above=100"]);
    assert_eq!((ran.report.ran, ran.report.unreached, ran.report.failures.len()), (18, 0, 0));
    assert_eq!(ran.text(&space, "end"), "abczzzzzabc");
    assert_eq!(ran.text(&space, "grow[5]/until"), "go on\n");
}

#[test]
fn keys_are_those_of_a_loop_with_as_many_rounds() {
    let space = Space::new();
    let stopped = space.run(GROW, &[]);
    let two = space.run(&fixed(2), &[]);
    assert_eq!((two.report.ran, two.report.cached), (0, 7));
    for node in ["grow[1]/more", "grow[2]/more", "grow[2]/size", "end"] {
        assert_eq!(stopped.key(node), two.key(node), "{node}");
    }
    // And the other way round: after five rounds, a run decides, and makes the evicted value of the last round again.
    let space = Space::new();
    space.run(&fixed(5), &[]);
    let stopped = space.run(GROW, &[]);
    assert_eq!(stopped.executed, ["grow[1]/until", "grow[2]/until", "grow[1]/more", "grow[2]/more", "end"]);
    assert_eq!(stopped.text(&space, "end"), "abczzabc");
}

#[test]
fn a_plan_says_what_is_decided_later_and_knows_what_was_decided() {
    let space = Space::new();
    let (graph, store) = (space.load(GROW, &[]).unwrap(), space.store());
    let plan = Plan::new(&graph, &store);
    let state = |plan: &Plan, name: &str| plan.state(graph.find(name).unwrap());
    assert!(matches!(state(&plan, "grow[2]/size"), State::Waiting { .. }));
    assert!(matches!(state(&plan, "end"), State::Waiting { .. }));
    assert_eq!((plan.stopped(0), plan.unreached(), plan.is_done()), (None, 0, false));
    space.run(GROW, &[]);
    let store = space.store();
    let plan = Plan::new(&graph, &store);
    assert_eq!((plan.stopped(0), plan.unreached(), plan.is_done()), (Some(2), 9, true));
    assert_eq!(state(&plan, "grow[3]/more"), State::Unreached);
    assert_eq!(state(&plan, "grow[5]/until"), State::Unreached);
    assert_eq!(plan.key(graph.find("grow[3]/more").unwrap()), None);
    // The digest of a run covers the nodes that it reached.
    let ran = space.run(GROW, &[]);
    let mut nodes: Vec<&NodeReport> = ran.nodes.iter().collect();
    nodes.sort_by_key(|node| node.index);
    let digest = digest_of_keys(nodes.iter().map(|node| (node.node.as_str(), node.key)));
    assert_eq!(plan.digest_of_all(), Some(digest));
}

#[test]
fn a_run_that_broke_off_goes_on_with_the_same_decisions() {
    let space = Space::new();
    let graph = space.load(GROW, &[]).unwrap();
    for broken_off in 1..9 {
        let space = Space::new();
        let store = space.store();
        let root = store.add_root(space.folder.path(), "").unwrap();
        let (memory, options) = (Memory::new(1 << 20), RunOptions { jobs: Some(1), ..RunOptions::default() });
        let mut told = 0;
        let plan = held(&graph, &store, &root);
        let report = run(plan, &root, &store, &memory, &options, &Log::default(), &mut |_| {
            told += 1;
            anyhow::ensure!(told < broken_off, "broken off");
            Ok(())
        });
        assert!(!report.failures.is_empty());
        let rest = space.run(GROW, &[]);
        assert_eq!(rest.report.ran + report.ran, 9, "broken off at {broken_off}");
        assert_eq!((rest.report.unreached, rest.text(&space, "end")), (9, "abczzabc".into()));
        assert!(rest.has(&space, "grow[2]/more"));
    }
    let rest = space.run(GROW, &[]);
    // Another cache with the same content decides the same.
    let other = Space::new();
    let there = other.run(GROW, &[]);
    let decided = |ran: &Ran| [ran.key("grow[2]/until"), ran.key("end")];
    assert_eq!(decided(&there), decided(&rest));
}

#[test]
fn several_rounds_in_a_row_have_to_say_so() {
    let space = Space::new();
    let ran = space.run(GROW, &["in_a_row=2"]);
    // After the first round there is always another.
    assert!(!ran.names().contains(&"grow[1]/until"));
    assert_eq!(ran.text(&space, "grow[2]/until"), "go on\n");
    assert_eq!(ran.text(&space, "grow[3]/until"), "stop\n");
    assert_eq!((ran.text(&space, "end"), ran.report.unreached), ("abczzzabc".into(), 6));
}

#[test]
fn each_seed_and_each_ablation_decides_for_itself() {
    let space = Space::new();
    let seeds = GROW.replace("params:", "seeds: [1, 2]\nparams:");
    let ran = space.run(&seeds, &[]);
    assert_eq!((ran.report.failures.len(), ran.report.unreached), (0, 18));
    let yaml = format!("{GROW}ablations: {{ long: {{ above: 6 }}, short: {{ above: 1 }} }}\n");
    let graph = space.load_ablations(&yaml, &[], &["all"]).unwrap();
    let store = space.store();
    let root = store.add_root(space.folder.path(), "").unwrap();
    let (log, mut nodes) = (Log::default(), Vec::new());
    let (memory, options) = (Memory::new(1 << 20), RunOptions { jobs: Some(2), ..RunOptions::default() });
    let report = run(held(&graph, &store, &root), &root, &store, &memory, &options, &log, &mut |node| {
        nodes.push(node.clone());
        Ok(())
    });
    assert!(report.failures.is_empty());
    let ran = Ran { executed: Vec::new(), nodes, report };
    assert_eq!(ran.text(&space, "long/end"), "abczzzzabc");
    assert_eq!(ran.text(&space, "short/end"), "abczabc");
    assert_eq!(ran.key("long/grow[1]/more"), ran.key("short/grow[1]/more"));
}

const NESTED: &str = "
pipeline: test
stages:
  a: { kind: say, text: x }
  b: { kind: say, text: y }
  outer:
    repeat: { at_most: 4, until: { metric: look.length, above: 5 } }
    carry: { t: a }
    stages:
      inner:
        repeat: { at_most: 3, until: { metric: m.length, above: 2 } }
        carry: { u: t }
        stages: { m: { kind: join, parts: [u, b] } }
        next: { u: m.joined }
      look: { kind: join, parts: [inner.u] }
    next: { t: inner.u }
  end: { kind: join, parts: [outer.t, \"outer[1].t\", \"outer[4].t\"] }
";

#[test]
fn loops_stop_within_loops() {
    let space = Space::new();
    let ran = space.run(NESTED, &[]);
    assert_eq!(ran.report.failures.len(), 0);
    // 1: x y y (3 long), stops in its second round; then one round each: 4, 5, 6 long.
    let rounds: Vec<&str> = ran.names().into_iter().filter(|name| name.ends_with("/m")).collect();
    assert_eq!(
        rounds,
        [
            "outer[1]/inner[1]/m",
            "outer[1]/inner[2]/m",
            "outer[2]/inner[1]/m",
            "outer[3]/inner[1]/m",
            "outer[4]/inner[1]/m"
        ]
    );
    assert_eq!(ran.text(&space, "end"), ["xyyyyy", "xyy", "xyyyyy"].concat());
    let again = space.run(NESTED, &[]);
    assert_eq!((again.report.ran, again.report.unreached), (0, ran.report.unreached));
    let sooner = space.run(&NESTED.replace("above: 5", "above: 3"), &[]);
    assert_eq!(sooner.text(&space, "end"), ["xyyy", "xyy", "xyyy"].concat());
}

#[test]
fn a_round_that_was_not_run_handed_on_what_the_last_one_did() {
    let space = Space::new();
    let yaml = format!(
        "{GROW}  rounds: {{ kind: join, parts: [\"grow[0].text\", \"grow[1].text\", \"grow[4].text\"] }}\n"
    );
    let ran = space.run(&yaml, &[]);
    assert_eq!(ran.text(&space, "rounds"), ["abc", "abcz", "abczz"].concat());
}

#[test]
fn what_the_round_in_which_a_loop_stopped_hands_on_is_kept() {
    let there = |ran: &Ran, space: &Space| -> Vec<bool> {
        (1..=2).map(|round| ran.has(space, &format!("grow[{round}]/more"))).collect()
    };
    let space = Space::new();
    let ran = space.run(GROW, &[]);
    assert_eq!(there(&ran, &space), [false, true]);
    let passing = |ran: &Ran, node: &str| {
        let node = ran.nodes.iter().find(|report| report.node == node).unwrap();
        node.outputs[0].passing
    };
    assert_eq!((passing(&ran, "grow[1]/more"), passing(&ran, "grow[2]/more")), (true, false));
    let space = Space::new();
    let all = space.run(GROW, &["keep=all"]);
    assert_eq!(there(&all, &space), [true, true]);
    // An earlier run that went on evicted what is now the last value.
    let space = Space::new();
    space.run(&fixed(5), &[]);
    let ran = space.run(GROW, &[]);
    assert_eq!(there(&ran, &space), [false, true]);
    assert!(!passing(&ran, "grow[2]/more"));
}

#[test]
fn rounds_hand_on_checkpoints_that_go_before_the_loop_is_at_its_end() {
    let space = Space::new();
    // Until the decisions are made, stages after the loop may use any of them.
    let graph = space.load(GROW, &["above=100"]).unwrap();
    let (store, log) = (space.store(), Log::default());
    let root = store.add_root(space.folder.path(), "").unwrap();
    let (memory, options) = (Memory::new(1 << 20), RunOptions { jobs: Some(1), ..RunOptions::default() });
    let (mut first, mut left) = (None, None);
    run(held(&graph, &store, &root), &root, &store, &memory, &options, &log, &mut |node| {
        if node.node == "grow[1]/more" {
            first = Some(node.outputs[0].digest);
        }
        if node.node == "grow[5]/more" {
            left = first.map(|digest| store.has_blob(&digest));
        }
        Ok(())
    });
    assert_eq!(left, Some(false));
}

#[test]
fn a_file_that_a_loop_hands_on_is_one_like_any_other() {
    let space = Space::new();
    let (one, two) = (space.folder.path().join("one"), space.folder.path().join("two"));
    fs::write(&one, "1").unwrap();
    fs::write(&two, "2").unwrap();
    let yaml = format!(
        "
pipeline: test
stages:
  a: {{ kind: say, text: x }}
  l:
    repeat: {{ at_most: 3, until: {{ metric: m.length, above: 2 }} }}
    carry: {{ t: a, f: {{ path: {} }}, g: a }}
    stages: {{ m: {{ kind: join, parts: [t, f] }} }}
    next: {{ t: m.joined, f: {{ path: {} }}, g: f }}
  end: {{ kind: join, parts: [l.t, l.f, l.g] }}
",
        one.display(),
        two.display()
    );
    let ran = space.run(&yaml, &[]);
    assert_eq!((ran.text(&space, "end"), ran.report.unreached), ("x1222".into(), 2));
    fs::write(&two, "3").unwrap();
    assert_eq!(space.run(&yaml, &[]).text(&space, "end"), "x1333");
}

#[test]
fn a_failure_within_a_round_ends_the_loop_and_what_comes_after_it() {
    let space = Space::new();
    let ran = space.run(&GROW.replace("text: z", "text: fail"), &[]);
    assert_eq!((ran.report.ran, ran.report.failures.len(), ran.report.unreached), (1, 1, 0));
    assert_eq!(ran.report.skipped, 16);
}

#[test]
fn what_is_wrong_with_an_until_is_said_where_it_stands() {
    let space = Space::new();
    let until = "{ metric: more.length, above: $above, in_a_row: $in_a_row }";
    let repeat = format!("{{ at_most: $most, until: {until} }}");
    let cases = [
        ("at_most: $most", "at_most: 0", "`at_most` must be a whole number from 1 to 1000000, found 0"),
        ("at_most: $most", "at_mos: 3", "`repeat` has no key `at_mos`"),
        (
            &format!("at_most: $most, until: {until}"),
            "at_most: 3",
            "`repeat` needs the key `until`: { at_most: N, until: … }",
        ),
        (
            until,
            "3",
            "`until` must be a map such as { metric: STAGE.metrics, name: …, above: … }, found a whole number",
        ),
        (
            &repeat,
            "soon",
            "`repeat` must be a whole number from 0 to 1000000, or { at_most: N, until: … }, found `soon`",
        ),
        (
            &repeat,
            "-1",
            "`repeat` must be a whole number from 0 to 1000000, or { at_most: N, until: … }, found -1",
        ),
        ("$in_a_row", "6", "`in_a_row` must be a whole number from 1 to `at_most` = 5, found 6"),
        (
            "metric: more.length",
            "metric: 3",
            "`metric` must be a reference to metrics of a stage in the loop",
        ),
        ("metric: more.length", "metric: mor.length", "there is no stage or carried value `mor`"),
        (
            "metric: more.length",
            "metric: more.joined",
            "`metric.0` takes number, but `more.joined` is of type text",
        ),
        ("metric: more.length, above", "metric: more.length, abov", "has no key `abov`"),
        ("above: $above", "above: 99", "`above` must not be 99"),
        (
            "size: {",
            "until: {",
            "`until` must not name a stage here: it names the node that decides whether this loop goes on",
        ),
        (
            "[grow.text, a]",
            "[\"grow[*].text\", a]",
            "`grow` must have a fixed number of rounds for `grow[*]`, found an `until`",
        ),
        (
            "b: { kind: say, text: z }",
            "b: { kind: until }",
            "`until` is not a kind of stage: it belongs to a loop",
        ),
    ];
    for (from, to, message) in cases {
        let yaml = GROW.replace(from, to);
        assert_ne!(yaml, GROW, "{from}");
        let error = space.error(&yaml, &[]);
        assert!(error.starts_with("p.yaml:"), "{error}");
        assert!(error.contains(message), "{to}: {error}");
    }
    let outside = GROW.replace("  grow:", "  c: { kind: join, parts: [b] }\n  grow:");
    let error = space.error(&outside.replace("metric: more.length", "metric: c.length"), &[]);
    assert!(
        error.contains("`metric` must come from a stage in this loop, found one from outside"),
        "{error}"
    );
}

#[test]
fn a_loop_of_loops_that_is_too_much_is_refused() {
    let space = Space::new();
    // Each reader of the result waits for as many decisions as there are rounds, and any of them may feed it.
    let reader = |index| format!("  r{index}: {{ kind: join, parts: [grow.text] }}\n");
    let yaml = GROW.to_owned() + &(0..110).map(reader).collect::<String>();
    let error = space.error(&yaml, &["most=50000"]);
    assert!(
        error.starts_with("p.yaml: the pipeline must unroll to at most 10000000 inputs, found more"),
        "{error}"
    );
}

#[test]
fn an_outline_shows_what_decides() {
    let space = Space::new();
    let path = space.folder.path().join("p.yaml");
    fs::write(&path, GROW).unwrap();
    let folded = outline(&path, &LoadOptions::default(), &registry()).unwrap();
    assert_eq!((folded.frames[0].repeat, folded.frames[0].at_most), (Some(5), true));
    let feeds = |outline: &Outline, to: &str| -> Vec<String> {
        let name = |node: usize| outline.nodes[node].name.clone();
        outline.edges.iter().filter(|edge| name(edge.to) == to).map(|edge| name(edge.from.node)).collect()
    };
    assert_eq!(feeds(&folded, "grow/until"), ["grow/more"]);
    let whole = outline_unrolled(&path, &LoadOptions::default(), &registry()).unwrap();
    let rounds = (1..=5).map(|round| format!("grow[{round}]/more"));
    assert_eq!(feeds(&whole, "end"), rounds.chain(["a".into()]).collect::<Vec<_>>());
    assert_eq!(feeds(&whole, "grow[3]/until"), ["grow[3]/more"]);
}
