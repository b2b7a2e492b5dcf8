//! The engine with stages of its own: what runs, what is reused, what is kept. `grammar` tests what a pipeline may contain.

mod grammar;
mod jobs;
mod roles;
mod rounds;
mod scheduling;
mod until;
mod variants;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::progress::{Outcome, Progress};
use super::*;
use store::{Digest, Root, Store};

struct Text;
impl ArtifactType for Text {
    const ACCEPTS: &'static [&'static str] = &["text"];
}

struct Number;
impl ArtifactType for Number {
    const ACCEPTS: &'static [&'static str] = &["number"];
}

/// Writes its text.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Say {
    text: String,
    #[serde(default)]
    upper: bool,
}

impl Stage for Say {
    const KIND: Kind = Kind {
        name: "say",
        version: 1,
        outputs: &[Output::new("out", "text")],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        anyhow::ensure!(self.text != "fail", "told to fail");
        assert!(self.text != "panic", "told to panic");
        let text = if self.upper { self.text.to_uppercase() } else { self.text.clone() };
        Ok(fs::write(context.output("out"), text)?)
    }
}

/// Joins texts; the result is evictable. With `first` only the first character of each counts.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Join {
    parts: Vec<Input<Text>>,
    #[serde(default)]
    first: bool,
}

impl Stage for Join {
    const KIND: Kind = Kind {
        name: "join",
        version: 1,
        outputs: &[Output::evictable("joined", "text"), Output::new("length", "number")],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let mut joined = String::new();
        for part in &self.parts {
            let text = fs::read_to_string(&context.input(part)?.path)?;
            joined += if self.first { &text[..1] } else { &text };
        }
        fs::write(context.output("length"), joined.len().to_string())?;
        Ok(fs::write(context.output("joined"), joined)?)
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Double {
    number: Input<Number>,
}

impl Stage for Double {
    const KIND: Kind = Kind {
        name: "double",
        version: 1,
        outputs: &[Output::new("out", "number")],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let number: u64 = fs::read_to_string(&context.input(&self.number)?.path)?.parse()?;
        Ok(fs::write(context.output("out"), (number * 2).to_string())?)
    }
}

fn registry() -> Registry {
    Registry::default()
        .with::<Say>()
        .with::<Join>()
        .with::<Double>()
        .with::<roles::Sing>()
        .with_until::<until::Bound>()
}

/// Remembers which stages were run.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Progress for Log {
    fn run_started(&self, _: &str, _: usize) {}
    fn node_started(&self, node: &str, _: &str, _: bool) {
        self.0.lock().unwrap().push(node.to_owned());
    }
    fn node_progress(&self, _: &str, _: u64, _: u64, _: &str) {}
    fn node_finished(&self, _: &str, _: Outcome, _: f64) {}
    fn nodes_cached(&self, _: usize) {}
    fn message(&self, _: &str) {}
    fn run_finished(&self) {}
}

struct Space {
    folder: tempfile::TempDir,
}

struct Ran {
    executed: Vec<String>,
    nodes: Vec<NodeReport>,
    report: Report,
}

impl Ran {
    fn text(&self, space: &Space, node: &str) -> String {
        let output = &self.nodes.iter().find(|report| report.node == node).unwrap().outputs[0];
        fs::read_to_string(space.store().blob_path(&output.digest)).unwrap()
    }

    fn has(&self, space: &Space, node: &str) -> bool {
        let output = &self.nodes.iter().find(|report| report.node == node).unwrap().outputs[0];
        space.store().has_blob(&output.digest)
    }
}

impl Space {
    fn new() -> Space {
        Space { folder: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> Store {
        Store::open(&self.folder.path().join("cache")).unwrap()
    }

    fn load(&self, yaml: &str, settings: &[&str]) -> Result<Graph, Diagnostics> {
        self.load_ablations(yaml, settings, &[])
    }

    fn load_ablations(&self, yaml: &str, set: &[&str], ablations: &[&str]) -> Result<Graph, Diagnostics> {
        let file = self.folder.path().join("p.yaml");
        fs::write(&file, yaml).unwrap();
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (settings, ablations) = (owned(set), owned(ablations));
        let options = LoadOptions { settings: &settings, ablations: &ablations, ..LoadOptions::default() };
        load(&file, &options, &registry())
    }

    fn run(&self, yaml: &str, settings: &[&str]) -> Ran {
        let graph = self.load(yaml, settings).unwrap_or_else(|error| panic!("{error}"));
        let (log, mut nodes) = (Log::default(), Vec::new());
        let (store, options) = (self.store(), RunOptions { jobs: Some(1), ..RunOptions::default() });
        let root = store.add_root(self.folder.path(), "").unwrap();
        let report = run(
            held(&graph, &store, &root),
            &root,
            &store,
            &Memory::new(1 << 20),
            &options,
            &log,
            &mut |node| {
                nodes.push(node.clone());
                Ok(())
            },
        );
        Ran { executed: log.0.into_inner().unwrap(), nodes, report }
    }

    /// The text of the error, without the folder of the file.
    fn error(&self, yaml: &str, settings: &[&str]) -> String {
        let error = self.load(yaml, settings).err().expect("an error").to_string();
        error.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn held<'a>(graph: &'a Graph, store: &'a Store, root: &Root) -> Plan<'a> {
    let cleaned = store.cleaned_by_now(|_| {}).unwrap();
    Plan::new(graph, store).hold(cleaned, root, &|_| {}).unwrap()
}

const LOOP: &str = "
pipeline: test
params: { rounds: 4, tail: z }
stages:
  a: { kind: say, text: abc }
  b: { kind: say, text: $tail }
  grow:
    repeat: $rounds
    carry: { text: a }
    stages:
      more: { kind: join, parts: [text, b] }
      size: { kind: double, number: more.length }
    next: { text: more.joined }
  end: { kind: join, parts: [grow.text, a] }
";

#[test]
fn a_second_run_executes_nothing() {
    let space = Space::new();
    let first = space.run(LOOP, &[]);
    assert_eq!(first.report.ran, 11);
    assert_eq!(first.text(&space, "end"), "abczzzzabc");
    let second = space.run(LOOP, &[]);
    assert_eq!((second.report.ran, second.report.cached), (0, 11));
    assert!(second.executed.is_empty());
    assert_eq!(second.text(&space, "end"), "abczzzzabc");
}

#[test]
fn a_changed_parameter_runs_exactly_what_depends_on_it() {
    let space = Space::new();
    space.run(LOOP, &[]);
    let longer = space.run(LOOP, &["rounds=5"]);
    assert_eq!(longer.executed, ["grow[5]/more", "grow[5]/size", "end"]);
    let other = space.run(&LOOP.replace("text: abc", "text: abd"), &[]);
    assert!(!other.executed.contains(&"b".to_owned()));
    assert!(other.executed.contains(&"a".to_owned()) && other.executed.contains(&"end".to_owned()));
}

#[test]
fn names_comments_and_the_order_of_keys_do_not_matter() {
    let space = Space::new();
    space.run(LOOP, &[]);
    let renamed = LOOP
        .replace("more: { kind", "further: { # renamed\n        kind")
        .replace("more.", "further.")
        .replace("kind: say, text: abc", "upper: false, text: abc, kind: say");
    assert!(space.run(&renamed, &[]).executed.is_empty());
}

#[test]
fn equal_content_stops_a_rerun_early() {
    let space = Space::new();
    let yaml = "
pipeline: test
stages:
  a: { kind: say, text: abc }
  initial: { kind: join, parts: [a], first: true }
  end: { kind: join, parts: [initial] }
";
    space.run(yaml, &[]);
    assert_eq!(space.run(&yaml.replace("abc", "axx"), &[]).executed, ["a", "initial"]);
}

#[test]
fn a_seed_changes_every_key() {
    let space = Space::new();
    space.run(LOOP, &[]);
    assert_eq!(space.run(LOOP, &["seed=1"]).report.ran, 11);
}

#[test]
fn handed_on_evictable_outputs_are_dropped_and_made_again_where_they_are_needed() {
    let space = Space::new();
    let first = space.run(LOOP, &[]);
    let kept: Vec<bool> = (1..=4).map(|round| first.has(&space, &format!("grow[{round}]/more"))).collect();
    assert_eq!(kept, [false, false, false, true]);
    // A new consumer of every round needs the evicted texts: they are made again, one after the other.
    let yaml = LOOP.replace(
        "size: { kind: double",
        "again: { kind: join, parts: [text, text] }\n      size: { kind: double",
    );
    let second = space.run(&yaml, &[]);
    assert_eq!(
        second.executed,
        [
            "grow[1]/more",
            "grow[1]/again",
            "grow[2]/more",
            "grow[2]/again",
            "grow[3]/more",
            "grow[3]/again",
            "grow[4]/again"
        ]
    );
    assert!(!second.has(&space, "grow[3]/more"), "and evicted again");
    let all = space.run(&LOOP.replace("repeat:", "keep: all\n    repeat:").replace("zzz", "y"), &["tail=y"]);
    assert!((1..=4).all(|round| all.has(&space, &format!("grow[{round}]/more"))));
}

#[test]
fn a_failed_stage_leaves_nothing_and_what_was_done_stays() {
    let space = Space::new();
    let failed = space.run(LOOP, &["tail=fail"]);
    assert_eq!((failed.report.ran, failed.report.skipped), (1, 9));
    assert_eq!(failed.report.failures[0].to_string(), "b: told to fail");
    let panicked = space.run(LOOP, &["tail=panic"]);
    assert_eq!(panicked.report.failures[0].to_string(), "b: panicked: told to panic: a defect of triplay");
    assert!(!space.run(LOOP, &[]).executed.contains(&"a".to_owned()));
}

#[test]
fn a_matrix_makes_variants_that_references_can_name() {
    let space = Space::new();
    let yaml = "
pipeline: test
stages:
  a: { kind: say, text: \"${x}-${y}\", matrix: { x: [p, q], y: [1, 2] } }
  end: { kind: join, parts: [\"a[p,1]\", \"a[q, 2].out\"] }
";
    assert_eq!(space.run(yaml, &[]).text(&space, "end"), "p-1q-2");
}

#[test]
fn files_from_outside_count_by_content() {
    let space = Space::new();
    let path = space.folder.path().join("input.txt");
    let yaml =
        format!("pipeline: test\nstages:\n  a: {{ kind: join, parts: [{{ path: {} }}] }}\n", path.display());
    fs::write(&path, "one").unwrap();
    space.run(&yaml, &[]);
    assert_eq!(space.run(&yaml, &[]).report.ran, 0);
    fs::write(&path, "two").unwrap();
    assert_eq!(space.run(&yaml, &[]).report.ran, 1);
    fs::remove_file(&path).unwrap();
    assert!(
        space.error(&yaml, &[]).starts_with("p.yaml:3:36: there is no file "),
        "{}",
        space.error(&yaml, &[])
    );
}

#[test]
fn a_cache_on_a_path_that_cannot_be_made_says_so() {
    let error = Store::open(Path::new("/dev/null/cache")).err().unwrap().to_string();
    assert!(error.starts_with("cannot create the cache folder /dev/null/cache: "), "{error}");
}
