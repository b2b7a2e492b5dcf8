//! The engine with stages of its own: what runs, what is reused, what is kept.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::progress::{Outcome, Progress};
use super::*;
use crate::store::Store;

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
    const KIND: Kind =
        Kind { name: "say", version: 1, outputs: &[Output::new("out", "text")], numerics: false };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        anyhow::ensure!(self.text != "fail", "told to fail");
        assert!(self.text != "panic", "told to panic");
        let text = if self.upper { self.text.to_uppercase() } else { self.text.clone() };
        Ok(fs::write(context.output("out"), text)?)
    }
}

/// Joins texts; the result is bulky. With `first` only the first character of each counts.
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
        outputs: &[Output::bulky("joined", "text"), Output::new("length", "number")],
        numerics: false,
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
    const KIND: Kind =
        Kind { name: "double", version: 1, outputs: &[Output::new("out", "number")], numerics: false };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let number: u64 = fs::read_to_string(&context.input(&self.number)?.path)?.parse()?;
        Ok(fs::write(context.output("out"), (number * 2).to_string())?)
    }
}

fn registry() -> Registry {
    Registry::default().with::<Say>().with::<Join>().with::<Double>()
}

/// Remembers which stages were run.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Progress for Log {
    fn run_started(&self, _: &str, _: usize) {}
    fn node_started(&self, node: &str, _: &str) {
        self.0.lock().unwrap().push(node.to_owned());
    }
    fn node_progress(&self, _: u64, _: u64, _: &str) {}
    fn node_finished(&self, _: &str, _: Outcome, _: f64) {}
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
        Store::open(&self.folder.path().join("cache"), || panic!("the cache is held")).unwrap()
    }

    fn load(&self, yaml: &str, settings: &[&str]) -> Result<Graph, Diagnostics> {
        let file = self.folder.path().join("p.yaml");
        fs::write(&file, yaml).unwrap();
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        load(&file, &LoadOptions { settings: &settings, ..LoadOptions::default() }, &registry())
    }

    fn run(&self, yaml: &str, settings: &[&str]) -> Ran {
        let graph = self.load(yaml, settings).unwrap_or_else(|error| panic!("{error}"));
        let (log, mut nodes) = (Log::default(), Vec::new());
        let report = run(&graph, &self.store(), &Memory::new(1 << 20), &log, &mut |node| {
            nodes.push(node.clone());
            Ok(())
        });
        Ran { executed: log.0.into_inner().unwrap(), nodes, report }
    }

    /// The text of the error, without the folder of the file.
    fn error(&self, yaml: &str, settings: &[&str]) -> String {
        let error = self.load(yaml, settings).err().expect("an error").to_string();
        error.replace(&format!("{}/", self.folder.path().display()), "")
    }
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
fn handed_on_bulky_outputs_are_dropped_and_made_again_where_they_are_needed() {
    let space = Space::new();
    let first = space.run(LOOP, &[]);
    let kept: Vec<bool> = (1..=4).map(|round| first.has(&space, &format!("grow[{round}]/more"))).collect();
    assert_eq!(kept, [false, false, false, true]);
    // A new consumer of every round needs the dropped texts: they are made again, one after the other.
    let yaml = LOOP.replace(
        "size: { kind: double",
        "again: { kind: join, parts: [text, text] }\n      size: { kind: double",
    );
    let second = space.run(&yaml, &[]);
    assert_eq!(
        second.executed,
        [
            "grow[1]/again",
            "grow[1]/more",
            "grow[2]/again",
            "grow[2]/more",
            "grow[3]/again",
            "grow[3]/more",
            "grow[4]/again"
        ]
    );
    assert!(!second.has(&space, "grow[3]/more"), "and dropped again");
    let all = space.run(&LOOP.replace("repeat:", "keep: all\n    repeat:").replace("zzz", "y"), &["tail=y"]);
    assert!((1..=4).all(|round| all.has(&space, &format!("grow[{round}]/more"))));
}

#[test]
fn a_failed_stage_leaves_nothing_and_what_was_done_stays() {
    let space = Space::new();
    let failed = space.run(LOOP, &["tail=fail"]);
    assert_eq!((failed.report.ran, failed.report.skipped), (1, 9));
    assert_eq!(failed.report.failure.unwrap().to_string(), "b: told to fail");
    let panicked = space.run(LOOP, &["tail=panic"]);
    assert_eq!(
        panicked.report.failure.unwrap().to_string(),
        "b: panicked: told to panic: a defect of triplay"
    );
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
        space.error(&yaml, &[]).starts_with("p.yaml:3:28: there is no file "),
        "{}",
        space.error(&yaml, &[])
    );
}

#[test]
fn a_cache_on_a_path_that_cannot_be_made_says_so() {
    let error = Store::open(Path::new("/dev/null/cache"), || {}).unwrap_err().to_string();
    assert!(error.starts_with("cannot create the cache folder /dev/null/cache/blobs: "), "{error}");
}

/// Errors of a pipeline, word for word.
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
            "p.yaml:4:25: `text`: invalid type: integer `3`, expected a string\n  |\n4 |   a: { kind: say, text: 3 }\n  |                         ^",
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
            "p.yaml:5:28: `a` does not name a variant\n  |\n5 |   b: { kind: join, parts: [a] }\n  |                            ^\n  help: `a` has the variants p, q: write a[p]",
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
    assert_eq!(space.error(&good, &["word=3"]), "p.yaml: --set word=3: expected text, found a whole number");
    assert_eq!(
        space.error("pipelin: x\nstages: {}\n", &[]),
        "p.yaml:1:1: a pipeline has no key `pipelin`\n  |\n1 | pipelin: x\n  | ^^^^^^^\n  help: did you mean `pipeline`?"
    );
}

#[test]
fn a_huge_file_is_refused_unread() {
    let space = Space::new();
    let path = space.folder.path().join("huge.yaml");
    fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let error = load(&path, &LoadOptions::default(), &registry()).err().unwrap().to_string();
    assert!(error.contains("a pipeline file of 100 MiB is refused: the limit is 1 MiB"), "{error}");
}
