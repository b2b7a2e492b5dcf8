//! What counts for a key, and what of it a record keeps.

use serde_json::{Value, json};

use super::*;

fn key(space: &Space, yaml: &str, settings: &[&str], node: &str) -> store::Digest {
    let graph = space.load(yaml, settings).unwrap_or_else(|error| panic!("{error}"));
    let store = space.store();
    let plan = Plan::new(&graph, &store);
    plan.key(graph.find(node).unwrap()).unwrap()
}

/// Draws nothing.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Copy {
    from: Input<Text>,
    /// The speed, which does not count.
    #[serde(default)]
    haste: f64,
}

impl Stage for Copy {
    const KIND: Kind = Kind {
        name: "copy",
        version: 3,
        outputs: &[Output::new("out", "text")],
        numerics: false,
        draws: false,
        excluded_from_key: &["haste"],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        fs::copy(&context.input(&self.from)?.path, context.output("out"))?;
        Ok(())
    }
}

const COPIES: &str = "
pipeline: copies
stages:
  a: { kind: say, text: abc, seed: 1 }
  loop:
    repeat: 3
    carry: { x: a }
    stages: { more: { kind: copy, from: a } }
    next: { x: more }
  end: { kind: join, parts: [a, a.out, loop.x] }
";

fn load_copies(space: &Space, yaml: &str, seeds: &[u64]) -> Graph {
    let file = space.folder.path().join("copies.yaml");
    fs::write(&file, yaml).unwrap();
    let options = LoadOptions { seeds, ..LoadOptions::default() };
    load(&file, &options, &registry().with::<Copy>()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn keys_are_pinned_since_caches_are_shared_by_versions() {
    let space = Space::new();
    let yaml = "pipeline: t\nstages:\n  a: { kind: say, text: \"1\" }\n  b: { kind: join, parts: [a, a] }\n";
    assert_eq!(
        key(&space, yaml, &[], "a").to_string(),
        "75adf9527cd32c2146dcc598811ea9473c42c570d6678681888d23eb07f30b3d"
    );
    space.run(yaml, &[]);
    assert_eq!(
        key(&space, yaml, &[], "b").to_string(),
        "a915598e466b22ac2f2e406e2b2117357dccae7131c1999788c37543acb81c63"
    );
}

#[test]
fn the_words_that_name_an_input_do_not_count_and_neither_does_how_often_it_is_named_in_them() {
    let space = Space::new();
    let graph = load_copies(&space, COPIES, &[]);
    let other = load_copies(&space, &COPIES.replace("[a, a.out, loop.x]", "[a.out, a, loop.x]"), &[]);
    let store = space.store();
    let root = store.add_root(space.folder.path(), "").unwrap();
    run_graph(&graph, &store, &root);
    let key = |graph: &Graph| Plan::new(graph, &store).key(graph.find("end").unwrap()).unwrap();
    assert_eq!(key(&graph), key(&other));
}

fn run_graph(graph: &Graph, store: &Store, root: &Root) -> Report {
    let options = RunOptions { jobs: Some(1), ..RunOptions::default() };
    let memory = Memory::new(1 << 20);
    run(held(graph, store, root), root, store, &memory, &options, &Log::default(), &mut |_| Ok(()))
}

#[test]
fn what_does_not_draw_is_computed_once_for_all_rounds_and_seeds() {
    let space = Space::new();
    let (store, graph) = (space.store(), load_copies(&space, COPIES, &[1, 2, 3, 4, 5]));
    let root = store.add_root(space.folder.path(), "").unwrap();
    let report = run_graph(&graph, &store, &root);
    // Only `end` for each seed, because `a` has a seed of its own.
    assert_eq!((graph.nodes.len(), report.ran, report.cached), (25, 7, 18));
}

const PHASES: &str = "
pipeline: phases
params: { text: a }
stages:
  first: { kind: say, text: $text }
  play:
    repeat: 2
    carry: { t: first }
    stages:
      red:
        repeat: 2
        carry: { u: t }
        stages: { draw: { kind: say, text: $text }, again: { kind: say, text: $text } }
        next: { u: again }
      blue:
        repeat: 2
        carry: { u: red.u }
        stages: { draw: { kind: say, text: $text } }
        next: { u: draw }
    next: { t: blue.u }
";

#[test]
fn every_use_draws_for_itself_and_ablations_and_renamed_stages_draw_the_same() {
    let space = Space::new();
    let seeds = |yaml: &str, settings: &[&str]| -> Vec<store::Seed> {
        let graph = space.load(yaml, settings).unwrap_or_else(|error| panic!("{error}"));
        graph.ids().map(|id| graph.node(id).seed).collect()
    };
    let own = seeds(PHASES, &[]);
    let distinct: std::collections::BTreeSet<_> = own.iter().collect();
    assert_eq!((own.len(), distinct.len()), (13, 13), "no two draw the same");
    assert_eq!(seeds(PHASES, &["text=b"]), own, "whatever a parameter is");
    let renamed = PHASES.replace("draw", "throw").replace("red", "rouge").replace("blue", "bleu");
    assert_eq!(seeds(&renamed, &[]), own, "names do not count");
    let more = PHASES.replace("  play:", "  other: { kind: join, parts: [first] }\n  play:");
    assert!(own.iter().all(|seed| seeds(&more, &[]).contains(seed)), "nor do stages of other kinds");
    assert!(seeds(PHASES, &["seed=2"]).iter().all(|seed| !own.contains(seed)));
}

#[test]
fn what_does_not_count_changes_no_key_and_reaches_the_stage_all_the_same() {
    let space = Space::new();
    let hasty = COPIES.replace("from: a }", "from: a, haste: 2.5 }");
    let (store, graph, other) =
        (space.store(), load_copies(&space, COPIES, &[]), load_copies(&space, &hasty, &[]));
    let root = store.add_root(space.folder.path(), "").unwrap();
    run_graph(&graph, &store, &root);
    let id = other.find("loop[1]/more").unwrap();
    let plan = Plan::new(&other, &store);
    assert!(plan.is_done());
    assert_eq!(plan.job(id).unwrap().params["haste"], 2.5);
}

#[test]
fn a_record_keeps_what_its_key_is_the_hash_of() {
    let space = Space::new();
    let (store, graph) = (space.store(), load_copies(&space, COPIES, &[]));
    let root = store.add_root(space.folder.path(), "").unwrap();
    run_graph(&graph, &store, &root);
    let plan = Plan::new(&graph, &store);
    for id in graph.ids() {
        let key = plan.key(id).unwrap();
        let line = store.whole_record(&key).unwrap().unwrap();
        let mut record: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(key_of(&record["job"]), Some(key), "{}", graph.node(id).name);
        let job = plan.job(id).unwrap();
        assert_eq!(job.key(graph.node(id).call.kind), Some(key), "as a worker computes it");
        let read: Job = serde_json::from_value(json!(job)).unwrap();
        assert_eq!(read.key(graph.node(id).call.kind), Some(key), "also of a job that was written and read");
        // Anything else is another key.
        record["job"]["version"] = json!(9);
        assert_ne!(key_of(&record["job"]), Some(key));
    }
}

#[test]
fn a_record_of_other_outputs_is_none_of_a_node() {
    let space = Space::new();
    let yaml = "pipeline: t\nstages:\n  a: { kind: say, text: \"1\" }\n";
    let key = key(&space, yaml, &[], "a");
    let blob = json!({ "name": "other", "artifact": "text", "digest": key, "bytes": 1 });
    space.store().write_record(&key, &json!({ "seconds": 1.0, "outputs": [blob], "job": {} })).unwrap();
    assert_eq!(space.run(yaml, &[]).executed, ["a"]);
}

#[test]
fn a_stage_that_takes_many_inputs_is_looked_through_in_no_time() {
    let space = Space::new();
    let parts = vec!["a"; 20_000].join(", ");
    let yaml = format!(
        "pipeline: t\nstages:\n  a: {{ kind: say, text: x }}\n  b: {{ kind: join, parts: [{parts}] }}\n"
    );
    let ran = space.run(&yaml, &[]);
    assert_eq!((ran.report.ran, ran.text(&space, "b").len()), (2, 20_000));
}

#[test]
fn a_seed_for_what_does_not_draw_is_refused() {
    let space = Space::new();
    let file = space.folder.path().join("copies.yaml");
    fs::write(&file, COPIES.replace("from: a }", "from: a, seed: 3 }")).unwrap();
    let error = load(&file, &LoadOptions::default(), &registry().with::<Copy>()).err().unwrap().to_string();
    assert!(error.contains("`seed` must be left out: this stage draws no random numbers"), "{error}");
}
