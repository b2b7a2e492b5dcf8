//! Any bytes as a pipeline file. Comments in it are the command line: a line `#set NAME=VALUE` is a `--set`,
//! `#ablation NAME` an `--ablation`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use engine::*;
use store::{Digest, Store};

struct Text;
impl ArtifactType for Text {
    const ACCEPTS: &'static [&'static str] = &["text"];
}

struct Any;
impl ArtifactType for Any {
    const ACCEPTS: &'static [&'static str] = &["*"];
}

/// Parameters of simple types, and a check that names places.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Say {
    text: String,
    #[serde(default)]
    upper: bool,
    #[serde(default)]
    level: Level,
    count: Option<u8>,
    #[serde(default)]
    rate: f32,
    style: Option<Style>,
    #[serde(default)]
    notes: Vec<Note>,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Level {
    #[default]
    Low,
    VeryHigh,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Style {
    Plain,
    Bold(u32),
    Mixed { parts: Vec<Style> },
    Pair(i64, String),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Note {
    by: String,
    #[serde(default)]
    at: [u16; 2],
    more: Option<Box<Note>>,
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

    fn check(&self) -> Result<(), CheckError> {
        if self.text.is_empty() {
            return Err(CheckError::at("text", "`text` is empty"));
        }
        if self.rate < 0.0 {
            return Err(format!("`rate` is below 0: {}", self.rate).into());
        }
        match self.notes.iter().position(|note| note.by.is_empty()) {
            Some(index) => Err(CheckError::at(format!("notes.{index}.by"), "a note is by `somebody`")),
            None => Ok(()),
        }
    }

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        Ok(fs::write(context.output("out"), &self.text)?)
    }
}

/// Inputs in lists and maps; the first output is evictable.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Join {
    parts: Vec<Input<Text>>,
    #[serde(default)]
    named: BTreeMap<String, Input<Any>>,
    one: Option<Input<Text>>,
    file: Option<InputFile>,
    #[serde(default)]
    variables: Vec<InputVariable>,
}

impl Stage for Join {
    const KIND: Kind = Kind {
        name: "join",
        version: 1,
        outputs: &[
            Output::evictable("joined", "text"),
            Output::new("length", "number"),
            Output::incidental("log", "text"),
        ],
        numerics: true,
        draws: true,
        excluded_from_key: &[],
    };

    fn run(&self, _: &mut Context) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Outputs as its parameters say, perhaps none; any other parameters.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Make {
    outputs: BTreeMap<String, String>,
    #[serde(default)]
    from: BTreeMap<String, Input<Any>>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

impl Stage for Make {
    const KIND: Kind =
        Kind { name: "make", version: 1, outputs: &[], numerics: false, draws: true, excluded_from_key: &[] };

    fn check(&self) -> Result<(), CheckError> {
        match self.outputs.keys().find(|name| !is_name(name)) {
            Some(name) => Err(CheckError::at("outputs", format!("`{name}` is not a name"))),
            None if self.outputs.is_empty() => Err(CheckError::at("outputs", "there are none")),
            None => Ok(()),
        }
    }

    fn outputs(&self) -> Vec<Output> {
        let output = |(name, artifact): (&String, &String)| Output {
            name: name.clone().into(),
            artifact: artifact.clone().into(),
            evictable: false,
            incidental: false,
        };
        self.outputs.iter().map(output).collect()
    }

    fn run(&self, _: &mut Context) -> anyhow::Result<()> {
        Ok(())
    }
}

pub fn registry() -> Registry {
    let numerics = |device: &str, dtype: &str| match device {
        "auto" | "cpu" => Ok(format!("cpu {dtype}")),
        other => Err(format!("there is no device `{other}`")),
    };
    Registry::default().with::<Say>().with::<Join>().with::<Make>().with_numerics(numerics)
}

struct Space {
    file: PathBuf,
    store: Store,
    registry: Registry,
}

fn space() -> &'static Space {
    static SPACE: OnceLock<Space> = OnceLock::new();
    SPACE.get_or_init(|| {
        let folder = crate::scratch();
        let store = Store::open(&folder.join("cache")).expect("a cache");
        Space { file: folder.join("p.yaml"), store, registry: registry() }
    })
}

/// More nodes than this are not planned: it would take long for nothing.
const MOST_PLANNED: usize = 5_000;

pub fn check(bytes: &[u8]) {
    let Space { file, store, registry } = space();
    fs::write(file, bytes).expect("the file is written");
    let text = String::from_utf8_lossy(bytes);
    let after = |word: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect()
    };
    let (settings, ablations) = (after("#set "), after("#ablation "));
    let digest = |path: &Path, _: &[String]| Ok(Digest::of_bytes(path.as_os_str().as_encoded_bytes()));
    let as_it_stands = LoadOptions { digest: &digest, ..LoadOptions::default() };
    let asked = LoadOptions { settings: &settings, ablations: &ablations, ..as_it_stands };
    let is_plain = settings.is_empty() && ablations.is_empty();
    for options in [as_it_stands, asked].iter().take(if is_plain { 1 } else { 2 }) {
        match load(file, options, registry) {
            Ok(graph) if graph.nodes.len() <= MOST_PLANNED => {
                planned(&graph, store);
                outline(file, options, registry).expect("what loads has an outline");
            }
            Ok(_) => {}
            Err(errors) => said(&text, file, &errors),
        }
    }
}

/// Each node comes after those that feed it, and what has no inputs to wait for is ready.
fn planned(graph: &Graph, store: &Store) {
    for id in graph.ids() {
        let node = graph.node(id);
        for feed in &node.feeds {
            match *feed {
                InputBinding::Output { node, output } => {
                    assert!(node < id, "{} comes before its input", graph.node(id).name);
                    assert!(output < graph.node(node).call.outputs().len());
                }
                InputBinding::File(index) => assert!(index < graph.files.len()),
                InputBinding::Variable(index) => assert!(index < graph.variables.len()),
            }
        }
    }
    let plan = Plan::new(graph, store);
    for id in graph.ids() {
        let waits = graph.node(id).sources().next().is_some();
        let is_ready = matches!(plan.state(id), State::Ready { .. });
        assert!(is_ready != waits, "{}", graph.node(id).name);
        assert_eq!(plan.manifest(id).is_some(), !waits);
        plan.report(id, false);
    }
    plan.digest_of_all();
}

/// Every error lies within the file and can be shown on a terminal.
fn said(text: &str, file: &Path, errors: &Diagnostics) {
    let shown = errors.to_string();
    let is_wrong = |c: char| c.is_control() && !"\n\t".contains(c);
    assert!(!shown.contains(is_wrong), "control characters in {shown:?}");
    assert!(!errors.0.is_empty());
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    for error in &errors.0 {
        let error = error.to_string();
        let rest = error.strip_prefix(&*file.to_string_lossy()).expect("it begins with the file");
        // Of the file as a whole.
        if rest.starts_with(": ") {
            continue;
        }
        let mut numbers = rest.split(':').skip(1).map(|part| part.parse::<usize>().expect("a number"));
        let (line, column) = (numbers.next().expect("a line"), numbers.next().expect("a column"));
        assert!((1..=lines.len()).contains(&line), "line {line} of {}: {error}", lines.len());
        let width = lines[line - 1].chars().count();
        assert!((1..=width + 1).contains(&column), "column {column} of {width}: {error}");
    }
}
