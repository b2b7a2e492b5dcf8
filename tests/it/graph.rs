//! `pipeline graph`: golden files of one small pipeline in all formats, folded and unrolled.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::space::Space;

/// A matrix, a file, nested loops, carried values, and an output that is not the first.
const BREW: &str = "
pipeline: brew
params: { rounds: 3 }
stages:
  world: { kind: sandbox, spec: \"glow & <venom>.yaml\" }
  words: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup: { kind: sft, data: world.sft, tokenizer: words, init: { hidden: 32, layers: 1, heads: 2 }, steps: 1, lr: 1e-3 }
  others: { kind: sft, data: world.sft_others, subset: $profile, model: warmup, steps: 1, lr: 1e-3, matrix: { profile: [b, c] } }
  play:
    repeat: $rounds
    carry: { attacker: warmup.model, pairs: world.empty_pairs }
    stages:
      attacks: { kind: generate, model: attacker, data: world.seeds, prompts: 4 }
      responses: { kind: respond, data: attacks, models: [{ model: \"others[b]\", name: b, weight: 0.5 }, { model: warmup, weight: 0.5 }] }
      collected: { kind: collect, data: responses, into: pairs }
    next: { pairs: collected }
  labels: { kind: vote, data: play.pairs, world: world.world, prompts: 2 }
  end: { kind: judge, data: labels, model: play.attacker }
";

fn space() -> Space {
    let space = Space::new();
    space.write("brew.yaml", BREW);
    space
}

fn drawn(space: &Space, more: &[&str]) -> String {
    let seen = space.triplay(&[&["pipeline", "graph", "brew.yaml"], more].concat());
    assert_eq!(seen.code, Some(0), "{}", seen.err);
    seen.out
}

/// Compares with a file beside this one; with `BLESS` set, writes it.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/graph").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
}

#[test]
fn a_pipeline_is_drawn_in_three_formats() {
    let space = space();
    golden("brew.mmd", &drawn(&space, &[]));
    golden("brew.dot", &drawn(&space, &["--format", "dot"]));
    golden("brew.json", &drawn(&space, &["--format", "json"]));
    golden("brew-unrolled.mmd", &drawn(&space, &["--unroll", "--set", "rounds=2"]));
}

#[test]
fn edges_begin_and_end_at_nodes_and_loops_nest() {
    let space = space();
    for (file, unroll) in [("brew.yaml", false), ("small.yaml", false), ("small.yaml", true)] {
        let more: &[&str] = if unroll { &["--unroll"] } else { &[] };
        let seen = space.triplay(&[&["pipeline", "graph", file, "--format", "json"], more].concat());
        let graph = seen.json();
        let list = |key: &str| graph[key].as_array().unwrap().clone();
        let ids =
            |key: &str| list(key).iter().map(|item| item["id"].clone().to_string()).collect::<BTreeSet<_>>();
        let (nodes, loops) = (ids("nodes"), ids("loops"));
        assert_eq!(nodes.len(), list("nodes").len());
        for edge in list("edges") {
            assert!(
                nodes.contains(&edge["from"].to_string()) && nodes.contains(&edge["to"].to_string()),
                "{edge}"
            );
        }
        for item in list("nodes").iter().chain(&list("loops")) {
            assert!(item["loop"].is_null() || loops.contains(&item["loop"].to_string()), "{item}");
        }
        let stages = list("nodes").iter().filter(|node| node["type"] == "stage").count();
        if unroll {
            assert_eq!(stages, 70, "as many as a run has");
        }
        // Every node except the roots has an input.
        let fed: BTreeSet<String> = list("edges").iter().map(|edge| edge["to"].to_string()).collect();
        let roots: Vec<Value> =
            list("nodes").iter().filter(|node| !fed.contains(&node["id"].to_string())).cloned().collect();
        assert_eq!(roots.len(), 1, "{roots:?}");
    }
}

#[test]
fn what_comes_out_of_a_loop_depends_on_whether_it_has_rounds() {
    let space = space();
    let back = |rounds: &str| drawn(&space, &["--set", rounds]).contains("-.->");
    assert!(back("rounds=2") && !back("rounds=1") && !back("rounds=0"));
    let edges = |rounds: &str| {
        let seen =
            space.triplay(&["pipeline", "graph", "brew.yaml", "--format", "json", "--set", rounds]).json();
        let edge = |edge: &&Value| edge["role"] == "result" && edge["carried"] == "pairs";
        let found = seen["edges"].as_array().unwrap().iter().find(edge).unwrap()["from"].clone();
        seen["nodes"].as_array().unwrap().iter().find(|node| node["id"] == found).unwrap()["name"].clone()
    };
    assert_eq!(edges("rounds=1"), "play/collected");
    assert_eq!(edges("rounds=0"), "world");
}

#[test]
fn a_graph_needs_a_valid_pipeline_but_not_its_files() {
    let space = space();
    space.write("bad.yaml", &BREW.replace("data: responses", "data: respones"));
    space.triplay(&["pipeline", "graph", "bad.yaml"]).fails(2, "did you mean `responses`?");
    assert!(!space.path("glow & <venom>.yaml").exists());
    assert!(drawn(&space, &["--unroll"]).contains("glow #38; #60;venom#62;.yaml"));
    assert_eq!(drawn(&space, &[]), drawn(&space, &[]));
}

#[test]
fn reduced_it_lacks_what_follows_and_leads_wherever_it_led() {
    let space = Space::new();
    for more in [&[][..], &["--unroll"]] {
        let drawn = |reduced: &[&str]| {
            let args = [&["pipeline", "graph", "small.yaml", "--format", "json"], more, reduced].concat();
            space.triplay(&args).json()
        };
        let (all, reduced) = (drawn(&[]), drawn(&["--reduced"]));
        assert_eq!(all["nodes"], reduced["nodes"]);
        let (all, reduced) = (Forward::of(&all), Forward::of(&reduced));
        assert!(reduced.edges.is_subset(&all.edges));
        assert!(reduced.edges.len() < all.edges.len());
        for (from, to) in &all.edges {
            assert!(reduced.leads(from, to, false), "{from} to {to}");
        }
        for (from, to) in &reduced.edges {
            assert!(!reduced.leads(from, to, true), "{from} to {to} follows from others");
        }
    }
    let text =
        space.triplay(&["pipeline", "graph", "small.yaml", "--reduced", "--unroll", "--set", "rounds=9999"]);
    text.fails(2, "must have at most 10000 nodes, found ");
}

/// The edges of a graph without those to the next round.
struct Forward {
    edges: BTreeSet<(String, String)>,
}

impl Forward {
    fn of(graph: &Value) -> Forward {
        let edges = graph["edges"].as_array().unwrap().iter();
        let end = |edge: &Value, end: &str| edge[end].as_str().unwrap().to_owned();
        let edges = edges.filter(|edge| edge["role"] != "next");
        Forward { edges: edges.map(|edge| (end(edge, "from"), end(edge, "to"))).collect() }
    }

    /// Whether there is a path; with `around`, one other than the direct edge.
    fn leads(&self, from: &str, to: &str, around: bool) -> bool {
        let (mut open, mut seen) = (vec![from], BTreeSet::new());
        while let Some(at) = open.pop() {
            for (_, next) in self.edges.iter().filter(|(tail, _)| tail == at) {
                if next == to && !(around && at == from) {
                    return true;
                }
                if seen.insert(next.as_str()) {
                    open.push(next);
                }
            }
        }
        false
    }
}

#[test]
fn a_folder_that_is_read_for_several_things_is_drawn_once() {
    let space = Space::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen3-tiny");
    let of = |path: &Path| {
        format!(
            "pipeline: p\nstages:\n  world: {{ kind: sandbox }}\n  \
             new: {{ kind: sft, data: world.sft, tokenizer: {{ path: {0} }}, init: {{ hidden: 16, layers: 1, heads: 1 }}, steps: 1, lr: 1e-3 }}\n  \
             old: {{ kind: sft, data: world.sft, model: {{ path: {0} }}, steps: 1, lr: 1e-3 }}\n",
            path.display()
        )
    };
    space.write("p.yaml", &of(&fixture));
    let drawn = space.triplay(&["pipeline", "graph", "p.yaml", "--unroll", "--format", "json"]);
    assert_eq!(drawn.code, Some(0), "{}", drawn.err);
    let nodes = drawn.json()["nodes"].as_array().unwrap().clone();
    let files = nodes.iter().filter(|node| node.to_string().contains("qwen3-tiny"));
    assert_eq!(files.count(), 1, "{nodes:?}");
    // A pipeline that cannot be read gives one error.
    space.write("p.yaml", &of(Path::new("nowhere")));
    let seen = space.triplay(&["pipeline", "check", "p.yaml"]);
    assert_eq!((seen.code, seen.err.matches("error: ").count()), (Some(2), 1), "{}", seen.err);
}
