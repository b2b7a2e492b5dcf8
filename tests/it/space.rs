//! A temporary folder in which the real program runs, and the program's output as a user sees it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) struct Space {
    folder: tempfile::TempDir,
}

/// Copies a folder with everything in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The beginning of a pipeline: a small world, and `warmup`, a model of it that is trained in a moment and ends the text.
pub(crate) const WARMUP: &str = "seed: 3
stages:
  world: { kind: sandbox, sft: 300, sft_others: 50, benchmark: 8, pairs: 8, benign: 1 }
  vocabulary: { kind: tokenizer, data: world.vocabulary, algorithm: word_level }
  warmup:
    kind: sft
    data: world.sft
    tokenizer: vocabulary
    init: { hidden: 32, layers: 1, heads: 2, positions: 96 }
    steps: 30
    lr: 1e-2
";

/// Exit code and output of a finished program.
pub(crate) struct Seen {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Seen {
    fn from(output: Output) -> Seen {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Seen { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Asserts success.
    pub(crate) fn ok(self) -> Seen {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self
    }

    /// Asserts an error: its exit code and a part of its text; nothing may have panicked.
    pub(crate) fn fails(&self, code: i32, expected: &str) {
        assert!(!self.err.contains("panicked"), "{}", self.err);
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert!(self.err.contains(expected), "expected `{expected}` in:\n{}", self.err);
    }
}

impl Space {
    /// A folder with `small.yaml` in it.
    pub(crate) fn new() -> Space {
        let space = Space { folder: tempfile::tempdir().unwrap() };
        space.write("small.yaml", include_str!("small.yaml"));
        space
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_triplay"));
        command.args(args).current_dir(self.folder.path()).env_remove("TRIPLAY_CACHE").env("CI", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn triplay(&self, args: &[&str]) -> Seen {
        self.command(args).output().unwrap().into()
    }

    /// Runs with 4 GB of address space: sizes that a hostile file claims must not be allocated.
    pub(crate) fn limited(&self, args: &[&str]) -> Seen {
        let script = format!("ulimit -v 4000000; exec {} {}", env!("CARGO_BIN_EXE_triplay"), args.join(" "));
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(self.folder.path()).output().unwrap().into()
    }

    /// Runs small.yaml to its end and returns the summary.
    pub(crate) fn run(&self, more: &[&str]) -> Value {
        self.triplay(&[&["pipeline", "run", "small.yaml", "--json"], more].concat()).json()
    }

    fn nodes(&self, summary: &Value) -> Vec<Value> {
        let file = self.path(summary["results"].as_str().unwrap()).join("nodes.jsonl");
        fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The nodes that were executed in the run of a summary.
    pub(crate) fn executed(&self, summary: &Value) -> Vec<String> {
        // Where there was nothing to do the summary names the run before.
        if summary["ran"] == 0 {
            return Vec::new();
        }
        let nodes = self.nodes(summary).into_iter().filter(|node| node["cached"] == false);
        nodes.map(|node| node["node"].as_str().unwrap().to_owned()).collect()
    }

    /// The digests of the run of a summary, by node and output.
    pub(crate) fn digests(&self, summary: &Value) -> BTreeMap<String, String> {
        let mut digests = BTreeMap::new();
        for node in self.nodes(summary) {
            for output in node["outputs"].as_array().unwrap() {
                let name = format!("{}.{}", node["node"].as_str().unwrap(), output["name"].as_str().unwrap());
                digests.insert(name, output["digest"].as_str().unwrap().to_owned());
            }
        }
        digests
    }

    /// The number of nodes with intact records in the cache.
    pub(crate) fn records(&self, cache: &str) -> usize {
        let mut keys = std::collections::BTreeSet::new();
        for file in fs::read_dir(self.path(cache).join("records")).into_iter().flatten().flatten() {
            let text = fs::read(file.path()).unwrap_or_default();
            keys.extend(triplay::store::sealed_lines(&text, |_| {}).map(|line| line[8..72].to_vec()));
        }
        keys.len()
    }
}
