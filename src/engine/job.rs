//! One node's work as a plain value: the key is its hash, the record keeps it, and a process of its own reads it. It knows no
//! graph: an input is its content.
//!
//! These count for the key, and nothing else: the format of keys, the stage's kind and code version, its parameters with
//! every default filled in, the device and number type of models, the content of each input, and, if the stage draws, its
//! seed and the rounds of the loops around it. Names, comments, the order of keys, paths and the number of threads do not
//! count.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::input;
use super::kind::Kind;
use store::{Digest, Seed, Selection, canonical_digest};

/// A file or folder of the user's.
#[derive(Clone, Debug)]
pub struct UserFile {
    /// Its path, relative to the working directory.
    pub path: PathBuf,
    /// What counts of it, if it is a folder.
    pub selection: Selection,
    /// The digest of what counts.
    pub digest: Digest,
}

/// Raised when the meaning of keys or records changes.
const FORMAT: u32 = 3;

/// A node's work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// For people: `play[1]/red[03]/update`.
    pub name: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The name of the stage's kind.
    pub kind: String,
    /// The code version of the kind, which counts for the key.
    pub version: u32,
    /// The stage is decoded from these: with every default, and each input marked with its number.
    pub params: Value,
    /// Indexed by their numbers.
    pub inputs: Vec<Content>,
    /// The device and number type of models.
    pub numerics: Numerics,
    /// Whether the stage draws. If not, neither seed nor position count.
    pub draws: bool,
    /// The seed of everything that the stage draws.
    #[serde(with = "seed_as_hex")]
    pub seed: Seed,
    /// The rounds of the loops around it, outermost first, from 1.
    pub position: Vec<u32>,
    /// The outputs to make, in the order of their indices.
    pub outputs: Vec<JobOutput>,
    /// How long it may take, and how often it is tried.
    pub limits: Limits,
    /// What the site file says of the endpoints that its inputs are used through.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, Value>,
    /// What the site file says of the trainer `torch`, for a stage that may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch: Option<Value>,
    /// The numbers of the GPUs that it has to itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<u32>,
    /// The names of the host's units that it has to itself, the GPUs among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_units: Vec<String>,
}

/// The device and number type of models.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Numerics {
    /// As in the pipeline.
    pub device: String,
    /// The number type as in the pipeline, such as `f32`.
    pub dtype: String,
    /// What results depend on: it is in the keys of the stages that compute with models.
    pub resolved: String,
}

impl Numerics {
    /// The number of the GPU, if one is named.
    pub(super) fn ordinal(&self) -> Option<u32> {
        self.device.strip_prefix("cuda:")?.parse().ok()
    }
}

/// How often a job is tried again, and after which failures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// The number of further tries.
    pub times: u32,
    /// The wait before the first retry; doubled before each further one.
    pub wait: Duration,
    /// The failures after which it is tried again.
    #[serde(default)]
    pub on: Retried,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { times: 3, wait: Duration::from_secs(1), on: Retried::default() }
    }
}

/// The failures after which a job is tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retried {
    /// Those that the stage marks as [`super::Transient`].
    #[default]
    Transient,
    /// All.
    Any,
    /// Those of a command with one of these exit codes, or one of these texts in its log. The stage marks them as
    /// [`super::Transient`].
    Of {
        /// Exit codes.
        exit: Vec<u8>,
        /// Texts, each a part of a log.
        text: Vec<String>,
    },
}

/// The content of an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// An output of another job, or a file or folder of the user's at `path`.
    Digest {
        /// The digest of the content.
        digest: Digest,
        /// Where the user's file or folder is; `None` for outputs of jobs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
        /// What counts of a user's folder.
        #[serde(default, skip_serializing_if = "is_everything")]
        selection: Selection,
        /// Whether a server loads it, which counts for the key: a server computes otherwise.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        loaded: bool,
    },
    /// Something that a server has.
    Served {
        /// The name by which the server knows it.
        model: String,
        /// Which of its versions it is.
        revision: Option<String>,
        /// The name of the endpoint, which does not count for the key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
    },
    /// The value of an environment variable; `None` if it is not set.
    Variable {
        /// The variable's name.
        variable: String,
        /// Its value, which counts for the key.
        value: Option<String>,
    },
}

fn is_everything(selection: &Selection) -> bool {
    *selection == Selection::default()
}

/// An output to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutput {
    pub name: String,
    /// The type of artifact.
    pub artifact: String,
    /// Describes the work, as a log does, and is not a result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incidental: bool,
    /// A loop hands it on and does not keep it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
}

/// How long a job may take and how often it is tried. None of it counts for the key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(default)]
    pub retry: Retry,
}

impl Job {
    /// What counts for the key, as recorded.
    pub fn counted(&self, kind: &Kind) -> Value {
        let inputs = self.inputs.iter().map(|content| content.borrowed().counted());
        let drawn = self.draws.then_some((&self.position[..], self.seed));
        counted(of_call(kind, &self.params, &self.numerics), inputs, drawn)
    }

    /// The key of its outputs; `None` if an input's content is unknown.
    pub fn key(&self, kind: &Kind) -> Option<Digest> {
        key_of(&self.counted(kind))
    }
}

/// What counts for a key: of the call, of the inputs, and where the stage draws.
pub(super) fn counted(
    mut call: Map<String, Value>,
    inputs: impl Iterator<Item = Value>,
    drawn: Option<(&[u32], Seed)>,
) -> Value {
    call.insert("inputs".into(), inputs.collect());
    if let Some((position, seed)) = drawn {
        call.insert("position".into(), json!(position));
        call.insert("seed".into(), json!(seed.to_hex()));
    }
    Value::Object(call)
}

/// The key of a job from what was recorded of it; `None` if that is not a record of a job.
pub fn key_of(counted: &Value) -> Option<Digest> {
    let mut fields = counted.as_object()?.clone();
    let mut take = |name: &str| fields.remove(name);
    let inputs: Vec<Content> = serde_json::from_value(take("inputs")?).ok()?;
    let drawn: Option<(Vec<u32>, String)> = match (take("position"), take("seed")) {
        (Some(position), Some(seed)) => {
            Some((serde_json::from_value(position).ok()?, serde_json::from_value(seed).ok()?))
        }
        _ => None,
    };
    let mut key = Key::of_call(&canonical_digest(&Value::Object(fields)));
    for content in &inputs {
        key.input(content.borrowed());
    }
    if let Some((position, seed)) = drawn {
        key.draws(&position, Seed::from_hex(&seed)?.bytes());
    }
    Some(key.digest())
}

/// What was recorded of a job, for people and for lineage: the content of each input in its place among the parameters.
pub fn in_place(mut counted: Value) -> Value {
    let inputs = counted.as_object_mut().and_then(|fields| fields.remove("inputs")).unwrap_or_default();
    let params = input::replace(&counted["params"], &|number| inputs[number].clone());
    counted["params"] = params;
    counted
}

/// The content of an input, borrowed.
pub(super) enum Borrowed<'a> {
    Digest(Digest, Option<&'a UserFile>, bool),
    Served { endpoint: Option<&'a str>, model: &'a str, revision: Option<&'a str> },
    Variable(&'a str, Option<&'a str>),
}

impl Borrowed<'_> {
    /// As it is recorded: the path of a file does not count.
    pub(crate) fn counted(&self) -> Value {
        match self.to_owned() {
            Content::Digest { digest, loaded: false, .. } => json!({ "digest": digest }),
            Content::Digest { digest, loaded: true, .. } => json!({ "digest": digest, "loaded": true }),
            Content::Served { model, revision, .. } => json!({ "model": model, "revision": revision }),
            variable @ Content::Variable { .. } => json!(variable),
        }
    }

    pub(crate) fn to_owned(&self) -> Content {
        match self {
            Borrowed::Digest(digest, file, loaded) => Content::Digest {
                digest: *digest,
                path: file.map(|file| file.path.clone()),
                selection: file.map(|file| file.selection.clone()).unwrap_or_default(),
                loaded: *loaded,
            },
            Borrowed::Served { endpoint, model, revision } => Content::Served {
                model: (*model).to_owned(),
                revision: revision.map(str::to_owned),
                endpoint: endpoint.map(str::to_owned),
            },
            Borrowed::Variable(name, value) => {
                Content::Variable { variable: (*name).to_owned(), value: value.map(str::to_owned) }
            }
        }
    }
}

impl Content {
    fn borrowed(&self) -> Borrowed<'_> {
        match self {
            Content::Digest { digest, loaded, .. } => Borrowed::Digest(*digest, None, *loaded),
            Content::Served { model, revision, endpoint } => {
                Borrowed::Served { endpoint: endpoint.as_deref(), model, revision: revision.as_deref() }
            }
            Content::Variable { variable, value } => Borrowed::Variable(variable, value.as_deref()),
        }
    }
}

/// Builds a key. Every part has a fixed length or carries its own, so that no two jobs share an encoding.
pub(super) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn of_call(call: &Digest) -> Key {
        Key(call.bytes().to_vec())
    }

    fn text(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    pub(crate) fn input(&mut self, content: Borrowed) {
        match content {
            Borrowed::Digest(digest, _, loaded) => {
                self.0.push(if loaded { b'l' } else { b'd' });
                self.0.extend(digest.bytes());
            }
            Borrowed::Served { model, revision, .. } => {
                self.0.push(if revision.is_some() { b'r' } else { b'm' });
                self.text(model);
                self.text(revision.unwrap_or_default());
            }
            Borrowed::Variable(name, value) => {
                self.0.push(if value.is_some() { b'v' } else { b'n' });
                self.text(name);
                self.text(value.unwrap_or_default());
            }
        }
    }

    pub(crate) fn draws(&mut self, position: &[u32], seed: &[u8; 32]) {
        self.0.push(b's');
        self.0.extend((position.len() as u64).to_le_bytes());
        self.0.extend(position.iter().flat_map(|round| round.to_le_bytes()));
        self.0.extend(seed);
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of_bytes(&self.0)
    }
}

/// What counts of a stage of the file: the same for all executions.
pub(super) fn of_call(kind: &Kind, params: &Value, numerics: &Numerics) -> Map<String, Value> {
    let mut params = input::replace(params, &input::numbered);
    if let Some(fields) = params.as_object_mut() {
        fields.retain(|name, _| !kind.excluded_from_key.contains(&name.as_str()));
    }
    let mut fields = Map::new();
    for (name, value) in [
        ("format", json!(FORMAT)),
        ("kind", json!(kind.name)),
        ("version", json!(kind.version)),
        ("numerics", json!(kind.numerics.then_some(&numerics.resolved))),
        ("params", params),
    ] {
        fields.insert(name.into(), value);
    }
    fields
}

mod seed_as_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use store::Seed;

    pub(crate) fn serialize<S: Serializer>(seed: &Seed, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&seed.to_hex())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Seed, D::Error> {
        let text = String::deserialize(deserializer)?;
        Seed::from_hex(&text)
            .ok_or_else(|| D::Error::custom(format!("a seed must be 64 hexadecimal digits, found {text:?}")))
    }
}
