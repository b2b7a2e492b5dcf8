//! The commands around a run: `plan`, `explain`, `runs`, `cache`, `--check` and `--trace`.

use std::fs;

use serde_json::Value;

use crate::space::{Seen, Space};

const BREW: &str = "
pipeline: brew
params: { word: glowvenom, times: 2 }
ablations:
  full: {}
  moss: { word: moonmoss }
stages:
  word: { kind: exec, command: 'echo ${word} > out', outputs: { out: text } }
  also: { kind: exec, command: 'cat word > out', inputs: { word: word }, outputs: { out: text } }
  count: { kind: exec, command: 'wc -c < word > out', inputs: { word: also }, outputs: { out: text } }
  fixed: { kind: exec, command: 'echo ${times} > out', outputs: { out: text } }
";

fn brew() -> Space {
    let space = Space::new();
    space.write("brew.yaml", BREW);
    space
}

fn run(space: &Space, more: &[&str]) -> Value {
    space.triplay(&[&["pipeline", "run", "brew.yaml", "--json"], more].concat()).json()
}

fn plan(space: &Space, more: &[&str]) -> Seen {
    space.triplay(&[&["pipeline", "plan", "brew.yaml"], more].concat())
}

/// The nodes of a plan as JSON, with their statuses.
fn statuses(plan: &Value) -> Vec<(String, String)> {
    let nodes = plan["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| (node["node"].as_str().unwrap().into(), node["status"].as_str().unwrap().into()))
        .collect()
}

fn expect(statuses: &[(String, String)], expected: &[(&str, &str)]) {
    let told: Vec<(&str, &str)> =
        statuses.iter().map(|(node, status)| (node.as_str(), status.as_str())).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_plan_says_what_would_run_and_why_and_is_what_runs() {
    let space = brew();
    let first = plan(&space, &["--json", "--exit-code"]);
    assert_eq!(first.code, Some(3));
    let first: Value = serde_json::from_str(&first.out).unwrap();
    expect(
        &statuses(&first),
        &[("word", "run"), ("also", "unknown"), ("count", "unknown"), ("fixed", "run")],
    );
    assert!(!space.path("results").exists(), "a plan leaves nothing");
    assert_eq!(run(&space, &[])["ran"], 4);
    assert_eq!(plan(&space, &["--exit-code"]).code, Some(0));
    assert_eq!(plan(&space, &["--set", "times=3"]).code, Some(0), "3 is only for who asks");

    let changed = plan(&space, &["--set", "word=moonmoss"]);
    assert_eq!(
        changed.out,
        "run      word   parameter command: \"echo glowvenom > out\" → \"echo moonmoss > out\"\n\
         unknown  also   until word is done\n\
         unknown  count  until word is done\n\
         brew.yaml: 4 nodes: 1 cached, 1 to run, 2 not known until those are done\n"
    );
    let dry = space.triplay(&["pipeline", "run", "brew.yaml", "--dry-run", "--set", "word=moonmoss"]);
    assert_eq!(dry.out, changed.out);
    let dry = ["pipeline", "run", "brew.yaml", "--dry-run", "--exit-code", "--set", "word=moonmoss"];
    assert_eq!(space.triplay(&dry).code, Some(3));
    // A word of the same length: `count` has the same output, so that nothing after it would run.
    assert_eq!(run(&space, &["--set", "word=moonvenom"])["ran"], 3);

    let output = space.triplay(&["runs", "show", "latest", "--json"]).json();
    let word = &output["nodes"][0]["outputs"][0]["digest"].as_str().unwrap().to_owned();
    fs::remove_file(space.path(&format!(".triplay/blobs/{}/{word}", &word[..2]))).unwrap();
    let lost = plan(&space, &["--set", "word=moonvenom"]);
    assert!(
        lost.out.starts_with("run  word  blob missing: its output `out` is recorded but not in the cache\n")
            || lost.out.contains("blob missing: its output `out`"),
        "{}",
        lost.out
    );
    assert_eq!(run(&space, &["--set", "word=moonvenom"])["ran"], 1);
}

#[test]
fn an_explanation_names_what_changed_from_what_to_what_and_where_it_came_from() {
    let space = brew();
    run(&space, &[]);
    let explain = |args: &[&str]| space.triplay(&[&["pipeline", "explain", "brew.yaml"], args].concat());
    let same = explain(&["count"]);
    assert!(same.out.starts_with("count: cached: it would not run\n"), "{}", same.out);
    assert!(same.out.contains("the same as in run "), "{}", same.out);
    let changed = explain(&["word", "--set", "word=moonmoss"]);
    assert!(changed.out.starts_with("word: would run\n"), "{}", changed.out);
    assert!(
        changed.out.contains("  parameter command: \"echo glowvenom > out\" → \"echo moonmoss > out\"\n")
    );
    let unknown = explain(&["count", "--set", "word=moonmoss"]);
    assert!(
        unknown.out.contains("why: until word is done\n     word: parameter command: "),
        "{}",
        unknown.out
    );

    let first = space.triplay(&["runs", "show", "latest", "--json"]).json()["run"]["run"]
        .as_str()
        .unwrap()
        .to_owned();
    run(&space, &["--set", "word=moonmoss"]);
    let against = explain(&["count", "--set", "word=moonmoss", "--against", &first]);
    assert!(against.out.contains("  input inputs.word: content "), "{}", against.out);
    assert!(against.out.contains("  because of word: parameter command: "), "{}", against.out);
    let json = explain(&["count", "--set", "word=moonmoss", "--against", &first, "--json"]).json();
    assert_eq!(json["changes"][0]["what"], "input");
    assert_eq!(json["manifest"]["kind"], "exec");
    explain(&["cuont"]).fails(2, "the pipeline has no node `cuont`; did you mean `count`?");
    explain(&["count", "--against", "nothing"]).fails(2, "there is no run `nothing`; the newest are ");
}

#[test]
fn numbers_are_shown_and_compared_as_they_are_typed() {
    let space = Space::new();
    space.write(
        "brew.yaml",
        "pipeline: brew
params: { version: 3.1, strength: 5, heat: [0.10, 1e3], note: x }
stages:
  word: { kind: exec, command: 'echo ${version} ${strength} > out', outputs: { out: text } }
",
    );
    let name = |run: &str| space.triplay(&["runs", "show", run, "--json"]).json()["run"]["run"].clone();
    run(&space, &["--set", "version=3.10", "--set", "strength=007"]);
    assert_eq!(space.triplay(&["data", "show", "latest:word"]).out, "3.10 007\n");
    let shown = space.triplay(&["runs", "show", "latest"]).out;
    for line in ["  heat: [0.10,1e3]\n", "  note: \"x\"\n", "  strength: 007\n", "  version: 3.10\n"] {
        assert!(shown.contains(line), "{line}{shown}");
    }
    let params = &space.triplay(&["runs", "show", "latest", "--json"]).json()["run"]["params"][""];
    assert_eq!((&params["strength"], &params["version"]), (&7.into(), &3.1.into()), "they stay numbers");
    let first = name("latest");
    run(&space, &["--set", "strength=007"]);
    let compared = space.triplay(&["runs", "compare", first.as_str().unwrap(), "latest"]).out;
    assert!(compared.contains("parameters  version: 3.10 → 3.1\n"), "{compared}");
    space.triplay(&["pipeline", "check", "brew.yaml", "--set", "note=2023023902_2"]).fails(
        2,
        "--set note=2023023902_2: `note` must be text, found a whole number\n  help: quotes make it text: '\"2023023902_2\"'\n",
    );
}

#[test]
fn ablations_run_side_by_side_and_are_compared() {
    let space = brew();
    let both = run(&space, &["--ablation", "all"]);
    assert_eq!((&both["ran"], &both["cached"]), (&7.into(), &1.into()), "`fixed` is shared");
    let shown = space.triplay(&["data", "show", "latest@moss:word"]);
    assert_eq!(shown.out, "moonmoss\n");
    let compared = space.triplay(&["runs", "compare", "latest@full", "latest@moss", "--all"]);
    assert_eq!(compared.code, Some(0), "{}", compared.err);
    for line in [
        "  word: \"glowvenom\" → \"moonmoss\"",
        "  1 the same, 3 different, 0 only in A, 0 only in B",
        "  first difference at word",
        "    parameter command: \"echo glowvenom > out\" → \"echo moonmoss > out\"",
    ] {
        assert!(compared.out.contains(line), "{line}\n{}", compared.out);
    }
    let json = space.triplay(&["runs", "compare", "latest@full", "latest@moss", "--json"]).json();
    assert_eq!(json["first"]["node"], "word");
    assert_eq!(json["different"].as_array().unwrap().len(), 3);
    space
        .triplay(&["runs", "compare", "latest@ful", "latest@moss"])
        .fails(2, "has no ablation `ful`; it has full, moss");
    space.triplay(&["pipeline", "run", "brew.yaml", "--ablation", "mos"]).fails(2, "did you mean `moss`?");
    assert_eq!(run(&space, &["--ablation", "moss"])["ran"], 0);
}

#[test]
fn runs_are_listed_shown_and_removed_and_gc_frees_what_was_theirs_alone() {
    let space = brew();
    space.triplay(&["runs", "show"]).fails(2, "there are no runs in results/ here");
    run(&space, &[]);
    run(&space, &["--set", "word=moonmoss"]);
    let list = space.triplay(&["runs", "list"]).out;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("run ") && lines[1].ends_with("word=moonmoss"), "{list}");
    let shown = space.triplay(&["runs", "show", "latest", "--json"]).json();
    assert_eq!(shown["run"]["params"][""]["word"], "moonmoss");
    assert_eq!(shown["run"]["kinds"]["exec"], 3);
    for key in ["machine", "began", "triplay", "digest", "cache"] {
        assert!(!shown["run"][key].is_null(), "{key}");
    }
    let folder = space.path(&format!("results/brew/{}", shown["run"]["run"].as_str().unwrap()));
    assert_eq!(fs::read_to_string(folder.join("pipeline.yaml")).unwrap(), BREW);

    let dry = space.triplay(&["cache", "gc", "--dry-run", "--json"]).json();
    assert_eq!((&dry["blobs"], &dry["records"]), (&0.into(), &0.into()));
    assert_eq!(space.triplay(&["runs", "rm", "latest"]).code, Some(0));
    let dry = space.triplay(&["cache", "gc", "--dry-run"]);
    assert!(dry.out.starts_with("would free"), "{}", dry.out);
    let freed = space.triplay(&["cache", "gc", "--json"]).json();
    assert_eq!(
        (&freed["blobs"], &freed["records"]),
        (&2.into(), &3.into()),
        "the word and how it is counted"
    );
    assert_eq!(run(&space, &[])["ran"], 0, "what the other run names is there");
    assert_eq!(run(&space, &["--set", "word=moonmoss"])["ran"], 3);
    let stats = space.triplay(&["cache", "stats", "--json"]).json();
    assert_eq!((&stats["runs"], &stats["unused_blobs"]), (&2.into(), &0.into()));
    let old = space.triplay(&["cache", "gc", "--older-than", "0s", "--json", "--dry-run"]).json();
    assert_eq!(
        old["kept_blobs"].as_u64().unwrap() + old["blobs"].as_u64().unwrap(),
        stats["blobs"].as_u64().unwrap()
    );
    let small = space.triplay(&["cache", "gc", "--max-size", "1B", "--json"]).json();
    assert_eq!((&small["kept_blobs"], &small["runs_let_go"]), (&0.into(), &2.into()));
    assert_eq!(run(&space, &[])["ran"], 4, "and is made again where it is wanted");
    space
        .triplay(&["cache", "gc", "--older-than", "soon"])
        .fails(2, "`--older-than` must be a duration such as 12h, 30d or 2w, found soon");
    space
        .triplay(&["cache", "gc", "--max-size", "much"])
        .fails(2, "`--max-size` must be a size such as 500MB");
}

#[test]
fn a_flipped_bit_anywhere_in_a_run_or_its_cache_is_never_served() {
    let space = Space::new();
    let args = ["pipeline", "run", "small.yaml", "--json", "--set", "rounds=1", "--set", "prompts=2"];
    let first = space.triplay(&args).json();
    let expected = space.digests(&first);
    let results = space.path(first["results"].as_str().unwrap());
    let mut files = vec![
        fs::read_dir(space.path(".triplay/records")).unwrap().next().unwrap().unwrap().path(),
        results.join("nodes.jsonl"),
        results.join("run.json"),
        results.join("metrics.parquet"),
    ];
    // A blob of each kind of artifact.
    let shown = space.triplay(&["runs", "show", "latest", "--json"]).json();
    let mut seen = std::collections::BTreeSet::new();
    for node in shown["nodes"].as_array().unwrap() {
        for output in node["outputs"].as_array().unwrap() {
            let digest = output["digest"].as_str().unwrap();
            let path = space.path(&format!(".triplay/blobs/{}/{digest}", &digest[..2]));
            if seen.insert(output["artifact"].as_str().unwrap().to_owned()) && path.exists() {
                files.push(if path.is_dir() { path.join("config.json") } else { path });
            }
        }
    }
    assert!(files.len() > 12);
    for path in files.iter().filter(|path| path.exists()) {
        let whole = fs::read(path).unwrap();
        let mut altered = whole.clone();
        altered[whole.len() / 2] ^= 16;
        let mode = fs::metadata(path).unwrap().permissions();
        let _ = fs::remove_file(path);
        fs::write(path, &altered).unwrap();
        fs::set_permissions(path, mode).unwrap();
        // triplay must detect the change and read or make the file again, never serve it.
        let verified = space.triplay(&["cache", "verify", "--json"]);
        assert!(verified.code == Some(1) || !path.starts_with(space.path(".triplay")), "{}", path.display());
        let again = space.triplay(&args);
        let summary = again.json();
        assert_eq!(space.digests(&summary), expected, "{}: {}", path.display(), again.err);
        if !path.starts_with(space.path(".triplay")) {
            fs::write(path, &whole).unwrap();
        }
    }
}

#[test]
fn a_check_says_what_is_not_deterministic_and_keeps_the_original() {
    let space = Space::new();
    space.write(
        "vague.yaml",
        "pipeline: vague\nstages:\n  sure: { kind: exec, command: 'echo moss > out', outputs: { out: text } }\n  vague: { kind: exec, command: 'cat sure > out; cat /proc/sys/kernel/random/uuid >> out', inputs: { sure: sure }, outputs: { out: text } }\n",
    );
    let run = |more: &[&str]| space.triplay(&[&["pipeline", "run", "vague.yaml"], more].concat());
    assert_eq!(run(&[]).code, Some(0));
    let before = space.triplay(&["data", "show", "latest:vague"]).out;
    let sure = run(&["--check", "sure"]);
    assert_eq!(sure.code, Some(0), "{}", sure.err);
    assert!(sure.err.contains("check: sure: all outputs are the same"), "{}", sure.err);
    let vague = run(&["--check", "sure", "--check", "vague"]);
    vague.fails(1, "check: vague is not deterministic: its output `out` differs\n  recorded ");
    assert!(vague.err.contains(" bytes differ, the first at "), "{}", vague.err);
    assert_eq!(space.triplay(&["data", "show", "latest:vague"]).out, before, "the original stays");
    run(&["--check", "vage"]).fails(2, "did you mean `vague`?");
}

#[test]
fn a_trace_has_an_event_for_each_node_on_lanes_that_do_not_overlap() {
    let space = brew();
    run(&space, &["--trace", "trace.json"]);
    let trace: Value = serde_json::from_str(&fs::read_to_string(space.path("trace.json")).unwrap()).unwrap();
    let events: Vec<&Value> =
        trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").collect();
    let names: std::collections::BTreeSet<&str> =
        events.iter().map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["also", "count", "fixed", "load", "plan", "word"]);
    for a in &events {
        for b in &events {
            let time = |event: &Value, key: &str| event[key].as_u64().unwrap();
            let apart = time(a, "ts") + time(a, "dur") <= time(b, "ts")
                || time(b, "ts") + time(b, "dur") <= time(a, "ts");
            assert!(a["name"] == b["name"] || a["tid"] != b["tid"] || apart, "{a} and {b}");
        }
    }
    // The critical path has a lane of its own.
    let all = trace["traceEvents"].as_array().unwrap();
    let is_critical = |event: &&Value| {
        event["args"]["name"].as_str().is_some_and(|name| name.starts_with("critical path ("))
    };
    let lane = &all.iter().find(is_critical).unwrap()["tid"];
    let path: Vec<&Value> = events.iter().copied().filter(|event| event["tid"] == *lane).collect();
    assert!(!path.is_empty() && path.iter().all(|event| event["args"]["outcome"] == "ran"), "{path:?}");
    assert!(path.is_sorted_by_key(|event| event["ts"].as_u64()));
    space
        .triplay(&["pipeline", "run", "brew.yaml", "--set", "times=5", "--trace", "no/trace.json"])
        .fails(2, "error: cannot write no/trace.json: there is no folder no: make it first");
}

#[test]
fn a_failure_stops_or_is_passed_by_and_a_time_that_is_up_ends_a_command() {
    let space = Space::new();
    space.write(
        "bad.yaml",
        "pipeline: bad\nstages:\n  bad: { kind: exec, command: 'sleep 60', timeout: 200ms, outputs: { out: text } }\n  after: { kind: exec, command: 'cat bad', inputs: { bad: bad } }\n  good: { kind: exec, command: 'echo moss > out', outputs: { out: text } }\n  flaky: { kind: exec, command: 'exit 75', retry: { times: 2, wait: 10ms } }\n",
    );
    let stopped = space.triplay(&["pipeline", "run", "bad.yaml", "--jobs", "1"]);
    stopped.fails(1, "error: bad: timed out after 200ms");
    assert!(
        stopped.out.lines().last().unwrap().starts_with("ran 0, cached 0, failed 1, skipped 3"),
        "{}",
        stopped.out
    );
    let passed = space.triplay(&["pipeline", "run", "bad.yaml", "--keep-going"]);
    passed.fails(1, "error: flaky: exit code 75");
    assert!(passed.err.contains("trying again in 20ms (2 of 2)"), "{}", passed.err);
    assert!(
        passed.out.lines().last().unwrap().starts_with("ran 1, cached 0, failed 2, skipped 1"),
        "{}",
        passed.out
    );
}

#[test]
fn a_run_that_was_killed_is_called_so_and_keeps_nothing_from_being_collected() {
    let space = Space::new();
    space.write("slow.yaml", "pipeline: slow\nstages:\n  quick: { kind: exec, command: 'echo moss > out', outputs: { out: text } }\n  slow: { kind: exec, command: 'sleep 60', inputs: { quick: quick } }\n");
    let mut child = space.command(&["pipeline", "run", "slow.yaml"]).spawn().unwrap();
    let told = || {
        let runs = fs::read_dir(space.path("results/slow")).into_iter().flatten().flatten();
        runs.filter_map(|run| fs::metadata(run.path().join("nodes.jsonl")).ok()).any(|nodes| nodes.len() > 0)
    };
    while !told() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let status = || space.triplay(&["runs", "show", "latest", "--json"]).json()["run"]["status"].clone();
    assert_eq!(status(), "running");
    space.triplay(&["runs", "rm", "latest"]).fails(2, "is running; --force removes it anyway");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status(), "killed");
    let shown = space.triplay(&["runs", "show", "latest", "--json"]).json();
    assert_eq!((&shown["run"]["ran"], &shown["run"]["skipped"]), (&1.into(), &1.into()));
    let kept = space.triplay(&["cache", "gc", "--json"]).json();
    assert_eq!(kept["blobs"], 0, "it is a root all the same");
    let old = space.triplay(&["cache", "gc", "--older-than", "0s", "--json"]).json();
    assert_eq!(old["kept_blobs"].as_u64().unwrap() + old["blobs"].as_u64().unwrap(), 2);
    space.triplay(&["cache", "stats", "--cache", "nowhere"]).fails(2, "there is no cache at nowhere");
}
