//! Nodes side by side, retries, equal keys, and missing or damaged outputs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

/// Works for a while, and logs it to a file that all share.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Busy {
    name: String,
    /// The log file, which does not count for the key.
    diary: PathBuf,
    #[serde(default)]
    after: Vec<Input<Text>>,
    #[serde(default)]
    milliseconds: u64,
    /// How often it fails before it succeeds.
    #[serde(default)]
    failures: usize,
    /// Whether failures are transient.
    #[serde(default)]
    transient: bool,
    /// Writes a different output each time.
    #[serde(default)]
    random: bool,
}

impl Stage for Busy {
    const KIND: Kind = Kind {
        name: "busy",
        version: 1,
        outputs: &[Output::new("out", "text")],
        numerics: false,
        draws: true,
        excluded_from_key: &["diary", "milliseconds"],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let tell = |what: &str| -> anyhow::Result<()> {
            let mut diary = File::options().create(true).append(true).open(&self.diary)?;
            Ok(diary.write_all(format!("{what} {}\n", self.name).as_bytes())?)
        };
        tell("begin")?;
        for step in 0..self.milliseconds / 5 {
            std::thread::sleep(Duration::from_millis(5));
            context.progress(step as usize, self.milliseconds as usize / 5, "busy");
        }
        tell("end")?;
        let begun = fs::read_to_string(&self.diary)?;
        let before = begun.lines().filter(|line| **line == *format!("begin {}", self.name)).count();
        if before <= self.failures {
            let error = anyhow::anyhow!("failure {before}");
            return Err(if self.transient { Transient::of(error) } else { error });
        }
        let text = if self.random { format!("{:?}", std::time::Instant::now()) } else { self.name.clone() };
        Ok(fs::write(context.output("out"), text)?)
    }
}

struct Yard {
    space: Space,
}

impl Yard {
    fn new() -> Yard {
        Yard { space: Space::new() }
    }

    fn diary(&self) -> PathBuf {
        self.space.folder.path().join("diary")
    }

    fn cache(&self) -> PathBuf {
        self.space.folder.path().join("cache")
    }

    /// What the stages logged since the last call.
    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.diary()).unwrap_or_default();
        let _ = fs::remove_file(self.diary());
        text.lines().map(str::to_owned).collect()
    }

    fn began(&self) -> Vec<String> {
        let mut began: Vec<String> =
            self.told().iter().filter_map(|line| line.strip_prefix("begin ").map(str::to_owned)).collect();
        began.sort();
        began
    }

    fn graph(&self, head: &str, stages: &str, ablations: &[&str]) -> Graph {
        let diary = format!("diary: {}, kind: busy", self.diary().display());
        let yaml = format!("pipeline: yard\n{head}\nstages:\n{}", stages.replace("busy", &diary));
        let file = self.space.folder.path().join("yard.yaml");
        fs::write(&file, yaml).unwrap();
        let registry = registry().with::<Busy>();
        let ablations: Vec<String> = ablations.iter().map(|name| (*name).to_owned()).collect();
        let options = LoadOptions { ablations: &ablations, ..LoadOptions::default() };
        load(&file, &options, &registry).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn run(&self, graph: &Graph, options: &RunOptions) -> (Report, Vec<NodeReport>) {
        run_on(&self.cache(), graph, options)
    }
}

fn run_on(cache: &Path, graph: &Graph, options: &RunOptions) -> (Report, Vec<NodeReport>) {
    let store = Store::open(cache).unwrap();
    let mut nodes = Vec::new();
    let root = store.add_root(cache.parent().unwrap(), "").unwrap();
    let plan = held(graph, &store, &root);
    let report = run(plan, &root, &store, &Memory::new(1 << 20), options, &Log::default(), &mut |node| {
        nodes.push(node.clone());
        Ok(())
    });
    nodes.sort_by_key(|node| node.index);
    (report, nodes)
}

fn jobs(jobs: u32) -> RunOptions {
    RunOptions { jobs: Some(jobs), ..RunOptions::default() }
}

/// The most stages whose names begin with `prefix` that were at work at the same time.
fn most_at_once(told: &[String], prefix: &str) -> i32 {
    let (mut now, mut most) = (0, 0);
    for line in told {
        let (what, name) = line.split_once(' ').unwrap();
        if name.starts_with(prefix) {
            now += if what == "begin" { 1 } else { -1 };
            most = most.max(now);
        }
    }
    most
}

const FOUR: &str = "
  a: { busy, name: a, milliseconds: 60 }
  b: { busy, name: b, milliseconds: 60 }
  c: { busy, name: c, milliseconds: 60 }
  d: { busy, name: d, milliseconds: 60 }
  end: { kind: join, parts: [a, b, c, d] }
";

#[test]
fn as_many_nodes_run_side_by_side_as_there_are_jobs_and_the_results_are_the_same() {
    let mut digests = Vec::new();
    for (number, expected) in [(1, 1), (2, 2), (4, 4)] {
        let yard = Yard::new();
        let (report, nodes) = yard.run(&yard.graph("", FOUR, &[]), &jobs(number));
        assert_eq!((report.ran, report.failures.len()), (5, 0));
        assert_eq!(most_at_once(&yard.told(), ""), expected, "{number} jobs");
        digests
            .push(nodes.iter().map(|node| (node.node.clone(), node.outputs[0].digest)).collect::<Vec<_>>());
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_resource_is_taken_by_no_more_than_there_is_of_it() {
    let yard = Yard::new();
    let stages = "
  x1: { busy, name: x1, milliseconds: 40, resources: { api: 1 } }
  x2: { busy, name: x2, milliseconds: 40, resources: { api: 1 } }
  x3: { busy, name: x3, milliseconds: 40, resources: { api: 1 } }
  y1: { busy, name: y1, milliseconds: 40 }
  y2: { busy, name: y2, milliseconds: 40 }
";
    let (report, _) = yard.run(&yard.graph("resources: { api: 1 }", stages, &[]), &jobs(2));
    assert_eq!(report.ran, 5);
    let told = yard.told();
    assert_eq!((most_at_once(&told, "x"), most_at_once(&told, "y")), (1, 2));
    assert_eq!(most_at_once(&told, ""), 3, "a stage that takes no cpu does not wait for one");
}

#[test]
fn who_needs_much_does_not_wait_for_all_who_need_little() {
    let yard = Yard::new();
    let small = |name: &str| format!("  {name}: {{ busy, name: {name}, milliseconds: 20 }}\n");
    let begin = small("begin");
    let big = "  big: { busy, name: big, after: [begin], resources: { cpu: 2 } }\n";
    let rest: String = (0..12).map(|number| small(&format!("s{number}"))).collect();
    yard.run(&yard.graph("", &(begin + big + &rest), &[]), &jobs(2));
    let began = yard.began();
    let place = began.iter().position(|name| name == "big").unwrap();
    assert!(place < 6, "it is the second of the graph: {began:?}");
}

const TWO_CHAINS: &str = "
  bad: { busy, name: bad, failures: 9 }
  worse: { kind: join, parts: [bad] }
  a: { busy, name: a, milliseconds: 30 }
  b: { busy, name: b, after: [a] }
";

#[test]
fn a_failure_stops_what_has_not_begun_unless_it_is_to_go_on() {
    let yard = Yard::new();
    let (report, _) = yard.run(&yard.graph("", TWO_CHAINS, &[]), &jobs(2));
    assert_eq!(report.failures[0].to_string(), "bad: failure 1");
    assert_eq!((report.ran, report.skipped), (1, 2), "running nodes end and are kept");

    let yard = Yard::new();
    let options = RunOptions { keep_going: true, ..jobs(1) };
    let (report, nodes) = yard.run(&yard.graph("", TWO_CHAINS, &[]), &options);
    assert_eq!((report.ran, report.skipped, report.failures.len()), (2, 1, 1));
    assert_eq!(nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_transient_failure_is_tried_again_and_any_other_if_the_stage_says_so() {
    let yard = Yard::new();
    let stage = |more: &str| format!("  a: {{ busy, name: a, {more} }}\n");
    let run = |more: &str| {
        let report = yard.run(&yard.graph("", &stage(more), &[]), &jobs(1)).0;
        (report.failures.first().map(ToString::to_string), yard.began().len())
    };
    let wait = "retry: { times: 3, wait: 10ms }";
    assert_eq!(run(&format!("failures: 2, transient: true, {wait}")), (None, 3));
    assert_eq!(run(&format!("failures: 8, transient: true, {wait}")), (Some("a: failure 4".into()), 4));
    assert_eq!(run("failures: 1"), (Some("a: failure 1".into()), 1));
    assert_eq!(run(&format!("failures: 2, {wait}")), (None, 3));
    assert_eq!(run("failures: 1, transient: true, retry: 0"), (Some("a: failure 1".into()), 1));
}

#[test]
fn a_stage_whose_time_is_up_ends_and_says_so() {
    let yard = Yard::new();
    let stage = "  a: { busy, name: a, milliseconds: 10000, timeout: 50ms }\n";
    let (report, _) = yard.run(&yard.graph("", stage, &[]), &jobs(1));
    assert_eq!(report.failures[0].to_string(), "a: timed out after 50ms");
    assert_eq!(yard.told(), ["begin a"], "it did not get to its end");
}

#[test]
fn nodes_with_the_same_key_are_computed_once_in_a_run() {
    let yard = Yard::new();
    let stages = "
  a: { busy, name: same, milliseconds: 40, seed: 1 }
  b: { busy, name: same, milliseconds: 40, seed: 1 }
  end: { kind: join, parts: [a, b] }
";
    let (report, _) = yard.run(&yard.graph("", stages, &[]), &jobs(2));
    assert_eq!((report.ran, report.cached), (2, 1));
    assert_eq!(yard.began(), ["same"]);
}

#[test]
fn ablations_share_what_they_have_in_common_within_one_run() {
    let yard = Yard::new();
    let head = "params: { tail: t }\nablations: { full: {}, other: { tail: u }, third: { tail: v } }";
    let stages = "
  a: { busy, name: a, milliseconds: 30 }
  b: { busy, name: b, after: [a] }
  c: { busy, name: $tail, after: [b] }
";
    let graph = yard.graph(head, stages, &["all"]);
    let (report, nodes) = yard.run(&graph, &jobs(3));
    assert_eq!((graph.nodes.len(), report.ran, report.cached), (9, 5, 4));
    assert_eq!(yard.began(), ["a", "b", "t", "u", "v"]);
    assert_eq!(nodes[4].node, "other/b");
    assert_eq!(
        yard.run(&yard.graph(head, stages, &[]), &jobs(1)).0.ran,
        0,
        "`full` is the pipeline as it stands"
    );
}

#[test]
fn two_runs_on_one_cache_compute_each_key_once() {
    let yard = Yard::new();
    let stages = "
  loop:
    repeat: 12
    carry: { last: a }
    stages:
      one: { busy, name: one, after: [last], milliseconds: 10 }
      two: { busy, name: two, after: [one] }
    next: { last: two }
  a: { busy, name: a }
";
    let graph = yard.graph("", stages, &[]);
    let cache = yard.cache();
    let reports: Vec<(Report, Vec<NodeReport>)> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..5).map(|_| scope.spawn(|| run_on(&cache, &graph, &jobs(2)))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(reports.iter().map(|(report, _)| report.ran).sum::<usize>(), 25);
    assert!(reports.iter().all(|(report, _)| report.failures.is_empty() && report.ran + report.cached == 25));
    assert_eq!(yard.began().len(), 25);
    let digests = |nodes: &[NodeReport]| nodes.iter().map(|node| node.outputs[0].digest).collect::<Vec<_>>();
    assert!(reports.iter().all(|(_, nodes)| digests(nodes) == digests(&reports[0].1)));
    for folder in ["claims", "sessions", "tmp"] {
        assert_eq!(fs::read_dir(cache.join(folder)).unwrap().count(), 0, "{folder}");
    }
}

fn blob(yard: &Yard, nodes: &[NodeReport], node: &str) -> PathBuf {
    let output = &nodes.iter().find(|report| report.node == node).unwrap().outputs[0];
    Store::open(&yard.cache()).unwrap().blob_path(&output.digest)
}

const CHAIN: &str = "
  a: { busy, name: a }
  b: { busy, name: b, after: [a] }
  c: { busy, name: c, after: [b] }
";

#[test]
fn what_is_lost_is_made_again_and_nothing_else() {
    let yard = Yard::new();
    let graph = yard.graph("", CHAIN, &[]);
    let (_, nodes) = yard.run(&graph, &jobs(1));
    yard.told();
    fs::remove_file(blob(&yard, &nodes, "b")).unwrap();
    let store = Store::open(&yard.cache()).unwrap();
    let plan = Plan::new(&graph, &store);
    let reason = |name: &str| plan.why(graph.find(name).unwrap()).map(|why| why.reason);
    assert_eq!(
        (reason("a"), reason("b"), reason("c")),
        (None, Some(Reason::BlobMissing { output: 0 }), None)
    );
    let (report, _) = yard.run(&graph, &jobs(1));
    assert_eq!((report.ran, report.cached, yard.began()), (1, 2, vec!["b".to_owned()]));
}

#[test]
fn a_damaged_input_is_found_out_and_made_again() {
    let yard = Yard::new();
    let (_, nodes) = yard.run(&yard.graph("", CHAIN, &[]), &jobs(1));
    yard.told();
    let path = blob(&yard, &nodes, "b");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, "B").unwrap();
    let longer = format!("{CHAIN}  d: {{ busy, name: d, after: [b] }}\n");
    let (report, _) = yard.run(&yard.graph("", &longer, &[]), &jobs(1));
    assert_eq!((report.ran, report.again, report.failures.len()), (1, 1, 0));
    assert_eq!(yard.began(), ["b", "d"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "b");
}

#[test]
fn a_check_finds_a_stage_that_is_not_deterministic_and_keeps_the_original() {
    let yard = Yard::new();
    let stages =
        "  sure: { busy, name: sure }\n  vague: { busy, name: vague, random: true, after: [sure] }\n";
    let graph = yard.graph("", stages, &[]);
    let (_, nodes) = yard.run(&graph, &jobs(1));
    let original = fs::read_to_string(blob(&yard, &nodes, "vague")).unwrap();
    yard.told();
    let check = ["sure", "vague"].map(|name| graph.find(name).unwrap()).to_vec();
    let (report, _) = yard.run(&graph, &RunOptions { check, ..jobs(1) });
    assert_eq!((report.ran, report.cached, yard.began().len()), (0, 2, 2));
    let differences: Vec<(&str, usize)> =
        report.checked.iter().map(|checked| (checked.node.as_str(), checked.differences.len())).collect();
    assert_eq!(differences, [("sure", 0), ("vague", 1)]);
    let difference = &report.checked[1].differences[0];
    assert_ne!(fs::read_to_string(&difference.path).unwrap(), original);
    assert_eq!(fs::read_to_string(blob(&yard, &nodes, "vague")).unwrap(), original);
}

#[test]
fn what_comes_out_different_when_it_is_made_again_is_said_and_the_next_run_goes_on_from_it() {
    let yard = Yard::new();
    let stages = "  vague: { busy, name: vague, random: true }\n  end: { busy, name: end, after: [vague] }\n";
    let graph = yard.graph("", stages, &[]);
    let (_, nodes) = yard.run(&graph, &jobs(1));
    fs::remove_file(blob(&yard, &nodes, "vague")).unwrap();
    let (report, _) = yard.run(&graph, &jobs(1));
    let error = report.failures[0].to_string();
    assert!(error.contains("its output `out` came out different"), "{error}");
    let (report, _) = yard.run(&graph, &jobs(1));
    assert_eq!((report.ran, report.cached, report.failures.len()), (1, 1, 0));
}

#[test]
fn a_forced_node_is_executed_again_and_what_follows_uses_its_new_output() {
    let yard = Yard::new();
    let stages = "  sure: { busy, name: sure }\n  vague: { busy, name: vague, random: true, after: [sure] }\n  end: { busy, name: end, after: [vague] }\n  same: { busy, name: same, after: [sure] }\n";
    let graph = yard.graph("", stages, &[]);
    let (_, before) = yard.run(&graph, &jobs(1));
    let original = fs::read_to_string(blob(&yard, &before, "vague")).unwrap();
    yard.told();
    let mut forced = yard.graph("", stages, &[]);
    forced.force(&["sure", "vague"].map(|name| forced.find(name).unwrap()));
    let (report, after) = yard.run(&forced, &jobs(1));
    // `sure` gives the same, so `same` is cached; `vague` gives something else, so `end` follows it.
    assert_eq!((report.ran, report.cached, report.again, report.failures.len()), (3, 1, 0, 0));
    assert_eq!(yard.began(), ["end", "sure", "vague"]);
    assert_ne!(fs::read_to_string(blob(&yard, &after, "vague")).unwrap(), original);
    assert_eq!(
        fs::read_to_string(blob(&yard, &before, "vague")).unwrap(),
        original,
        "the earlier run keeps it"
    );
    // Without the force, the next run finds the new outputs.
    assert_eq!(yard.run(&graph, &jobs(1)).0.cached, 4);
}

#[test]
fn a_key_of_several_forced_nodes_is_executed_once() {
    for most in [1, 4] {
        let yard = Yard::new();
        let stages = "  a: { busy, name: x, seed: 1, milliseconds: 20 }\n  b: { busy, name: x, seed: 1, milliseconds: 20 }\n  c: { busy, name: x, seed: 1, milliseconds: 20 }\n";
        yard.run(&yard.graph("", stages, &[]), &jobs(1));
        yard.told();
        let mut graph = yard.graph("", stages, &[]);
        graph.force(&graph.ids().collect::<Vec<_>>());
        let (report, nodes) = yard.run(&graph, &jobs(most));
        assert_eq!((report.ran, report.cached, nodes.len()), (1, 2, 3));
        assert_eq!(yard.began(), ["x"]);
    }
}

/// Runs a stage that reads `bytes` bytes, which are changed while it is at work. Returns the report.
fn changed_under_way(yard: &Yard, bytes: usize) -> Report {
    let file = yard.space.folder.path().join("word");
    fs::write(&file, vec![b'a'; bytes]).unwrap();
    let retry = "retry: { times: 5, wait: 1ms }";
    let stages = format!(
        "  read: {{ busy, name: read, after: [{{ path: {} }}], milliseconds: 60, {retry} }}\n",
        file.display()
    );
    let graph = yard.graph("", &stages, &[]);
    let report = std::thread::scope(|scope| {
        let run = scope.spawn(|| yard.run(&graph, &jobs(1)).0);
        while !yard.diary().exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        fs::write(&file, "glowvenom").unwrap();
        run.join().unwrap()
    });
    assert_eq!(yard.began(), ["read"], "to try again is of no use");
    assert_eq!(yard.run(&yard.graph("", &stages, &[]), &jobs(1)).0.ran, 1, "with the new content");
    report
}

#[test]
fn a_small_file_that_is_saved_while_the_run_is_under_way_changes_nothing_for_it() {
    let report = changed_under_way(&Yard::new(), 4);
    assert_eq!((report.ran, report.failures.len()), (1, 0));
}

#[test]
fn a_large_file_that_changes_while_a_stage_reads_it_fails_the_stage_and_its_outputs_are_kept_aside() {
    let yard = Yard::new();
    let error = changed_under_way(&yard, 17 << 20).failures[0].to_string();
    assert!(
        error.contains("word was changed while the stage read it: its outputs may be of either content"),
        "{error}"
    );
    let (_, kept) =
        error.split_once("\n  help: run again to use the new content\n  its output `out` is kept").unwrap();
    assert!(Path::new(kept.split_once(": ").unwrap().1).is_file(), "{error}");
}

#[test]
fn a_failed_key_is_executed_once_however_many_nodes_have_it() {
    let yard = Yard::new();
    let stages = "
  a: { busy, name: bad, failures: 9, milliseconds: 20, seed: 1 }
  b: { busy, name: bad, failures: 9, milliseconds: 20, seed: 1 }
  c: { busy, name: bad, failures: 9, milliseconds: 20, seed: 1 }
  d: { busy, name: d }
";
    let options = RunOptions { keep_going: true, ..jobs(2) };
    let (report, _) = yard.run(&yard.graph("", stages, &[]), &options);
    assert_eq!((report.ran, report.failures.len(), yard.began()), (1, 3, vec!["bad".into(), "d".into()]));
    assert_eq!(report.failures[1].to_string(), "b: a failed, and this node has the same key");
}

#[test]
fn while_a_node_waits_to_be_tried_again_others_have_its_resources() {
    let yard = Yard::new();
    let stages = "
  a: { busy, name: a, failures: 1, transient: true, retry: { times: 1, wait: 300ms } }
  b: { busy, name: b, milliseconds: 20 }
";
    let (report, _) = yard.run(&yard.graph("", stages, &[]), &jobs(1));
    assert_eq!((report.ran, report.failures.len()), (2, 0));
    assert_eq!(yard.told(), ["begin a", "end a", "begin b", "end b", "begin a", "end a"]);
}

/// Reads its input, and damages it `times` times.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Spoil {
    text: Input<Text>,
    /// A file with the number of times left.
    times: PathBuf,
}

impl Stage for Spoil {
    const KIND: Kind = Kind {
        name: "spoil",
        version: 1,
        outputs: &[Output::new("out", "text")],
        numerics: false,
        draws: false,
        excluded_from_key: &["times"],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let input = context.input(&self.text)?.clone();
        let left: u32 = fs::read_to_string(&self.times)?.parse()?;
        if left > 0 {
            fs::write(&self.times, (left - 1).to_string())?;
            fs::set_permissions(&input.path, fs::Permissions::from_mode(0o644))?;
            fs::write(&input.path, format!("damaged {left}"))?;
        }
        let text = context.load(&input, |path| Ok((fs::read_to_string(path)?, 1)))?;
        Ok(fs::write(context.output("out"), &*text)?)
    }
}

fn spoilt(times: u32) -> (Yard, Report, String) {
    let yard = Yard::new();
    let left = yard.space.folder.path().join("times");
    fs::write(&left, times.to_string()).unwrap();
    let yaml = format!(
        "pipeline: t\nstages:\n  a: {{ kind: say, text: whole }}\n  b: {{ kind: spoil, text: a, times: {} }}\n",
        left.display()
    );
    let file = yard.space.folder.path().join("t.yaml");
    fs::write(&file, yaml).unwrap();
    let graph = load(&file, &LoadOptions::default(), &registry().with::<Spoil>()).unwrap();
    let (report, nodes) = yard.run(&graph, &jobs(1));
    let text = nodes.iter().find(|node| node.node == "b").map(|_| blob(&yard, &nodes, "b"));
    let text = text.map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default();
    (yard, report, text)
}

#[test]
fn what_was_loaded_from_a_damaged_input_is_not_used_again_from_memory() {
    let (_, report, text) = spoilt(1);
    assert_eq!((report.failures.len(), text.as_str()), (0, "whole"));
}

#[test]
fn an_input_that_is_damaged_each_time_it_is_made_ends_the_node_and_says_so() {
    let (_, report, _) = spoilt(1000);
    let error = report.failures[0].to_string();
    assert!(error.starts_with("b: an input was missing or damaged 4 times"), "{error}");
}

#[test]
fn a_time_limit_and_a_wait_beyond_the_clocks_end_are_no_limit_and_no_end() {
    let yard = Yard::new();
    let stage = "  a: { busy, name: a, timeout: 9000000000000000000, failures: 1, transient: true, retry: { times: 1, wait: 1ms } }\n";
    let (report, _) = yard.run(&yard.graph("", stage, &[]), &jobs(1));
    assert_eq!((report.ran, report.failures.len()), (1, 0));
}

/// The graph of these stages, with the kind `noisy`.
fn noisy(yard: &Yard, stages: &str) -> Graph {
    let file = yard.space.folder.path().join("t.yaml");
    fs::write(&file, format!("pipeline: t\nstages:\n{stages}")).unwrap();
    load(&file, &LoadOptions::default(), &registry().with::<Noisy>()).unwrap()
}

#[test]
fn a_node_whose_log_came_out_otherwise_when_it_was_made_again_gives_its_reader_another_key() {
    let yard = Yard::new();
    let stages = "  vague: { kind: noisy }\n  reads: { kind: join, parts: [vague.log] }\n";
    let load_it = |more: &str| noisy(&yard, &format!("{stages}{more}"));
    let (_, nodes) = yard.run(&load_it(""), &jobs(1));
    // Both outputs are lost, and a new node needs the log.
    let vague = nodes.iter().find(|node| node.node == "vague").unwrap();
    let store = Store::open(&yard.cache()).unwrap();
    vague.outputs.iter().for_each(|output| fs::remove_file(store.blob_path(&output.digest)).unwrap());
    let graph = load_it("  also: { kind: join, parts: [vague.log, vague.log] }\n");
    let (report, nodes) = yard.run(&graph, &jobs(1));
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let also = nodes.iter().find(|node| node.node == "also").unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(
        &Store::open(&yard.cache()).unwrap().whole_record(&also.key).unwrap().unwrap(),
    )
    .unwrap();
    let log = fs::read_to_string(blob(&yard, &nodes, "also")).unwrap();
    let read = record["job"]["inputs"][0]["digest"].take();
    let half = &log[..log.len() / 2];
    assert_eq!(read, store::Digest::of_bytes(half.as_bytes()).to_string(), "the key is of what was read");
}

#[test]
fn a_log_that_alone_is_lost_is_made_again_for_who_reads_it() {
    let yard = Yard::new();
    let stages = "  vague: { kind: noisy }\n";
    let load_it = |more: &str| noisy(&yard, &format!("{stages}{more}"));
    let (_, nodes) = yard.run(&load_it(""), &jobs(1));
    let store = Store::open(&yard.cache()).unwrap();
    fs::remove_file(store.blob_path(&nodes[0].outputs[1].digest)).unwrap();
    let (report, _) = yard.run(&load_it("  reads: { kind: join, parts: [vague.log] }\n"), &jobs(1));
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_eq!((report.ran, report.again), (1, 1));
}

/// Always makes the same output, and a log that always differs.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Noisy {}

impl Stage for Noisy {
    const KIND: Kind = Kind {
        name: "noisy",
        version: 1,
        outputs: &[Output::new("out", "text"), Output::incidental("log", "text")],
        numerics: false,
        draws: false,
        excluded_from_key: &[],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        fs::write(context.output("out"), "same")?;
        Ok(fs::write(context.output("log"), format!("{:?}", std::time::Instant::now()))?)
    }
}

#[test]
fn the_critical_path_is_the_longest_chain_and_what_is_left_is_no_less() {
    let yard = Yard::new();
    let stages = "
  a: { busy, name: a, milliseconds: 100 }
  b: { busy, name: b, after: [a] }
  c: { busy, name: c, after: [a, b] }
  alone: { busy, name: alone }
";
    let graph = yard.graph("", stages, &[]);
    let names = |ids: &[NodeId]| ids.iter().map(|id| graph.node(*id).name.clone()).collect::<Vec<_>>();
    let seconds = |id: NodeId| if graph.node(id).name == "alone" { 2.5 } else { 1.0 };
    let (path, length) = graph.critical_path(seconds);
    assert_eq!((names(&path), length), (vec!["a".into(), "b".into(), "c".into()], 3.0));
    let store = Store::open(&yard.cache()).unwrap();
    assert_eq!(Plan::new(&graph, &store).time_left(|_| Some(2)), None, "nothing of the kind has run");
    yard.run(&yard.graph("", "  a: { busy, name: a, milliseconds: 100 }\n", &[]), &jobs(1));
    store.refresh().unwrap();
    // Three nodes of a tenth of a second each are left, two of them in a chain.
    let left = |jobs: u32| Plan::new(&graph, &store).time_left(|_| Some(jobs)).unwrap();
    assert!(left(1) >= 0.3 && left(9) >= 0.2 && left(9) < left(1), "{} {}", left(1), left(9));
}

#[test]
fn twins_that_are_made_again_are_told_of_once() {
    let yard = Yard::new();
    let stages = "
  a: { busy, name: same }
  b: { busy, name: same }
";
    let (_, nodes) = yard.run(&yard.graph("", stages, &[]), &jobs(1));
    let path = blob(&yard, &nodes, "a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, "damaged").unwrap();
    let more =
        format!("{stages}  c: {{ busy, name: c, after: [a] }}\n  d: {{ busy, name: d, after: [b] }}\n");
    let (report, nodes) = yard.run(&yard.graph("", &more, &[]), &jobs(2));
    assert_eq!((report.failures.len(), report.ran, report.cached), (0, 2, 2));
    assert_eq!(nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}
