//! The models that are served, by name. A name is an identity: it never means another model while the server runs. Adapters share
//! the weights of their base.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use super::error::ApiError;
use model::{Checkpoint, Compute, Decoder, Embedder, Purpose};
use store::Digest;

/// A model to serve.
#[derive(Clone, Debug)]
pub struct NamedModel {
    /// What requests call it.
    pub name: String,
    /// A Hugging Face folder, a folder with an adapter, a GGUF file or a sentence encoder.
    pub path: PathBuf,
}

/// A model that is served.
pub(crate) struct Served {
    pub name: String,
    pub path: PathBuf,
    /// Identifies the content of its files.
    pub digest: Digest,
    /// Identifies the weights that its adapter changes, or its own.
    base_digest: Digest,
    /// The model of the same weights that was there first.
    pub parent: Option<String>,
    /// Seconds since 1970.
    pub created: u64,
    /// Whether it was loaded by a request, and so may be unloaded by one.
    pub is_passing: bool,
    pub kind: Kind,
}

pub(crate) enum Kind {
    Decoder(Box<Loaded>),
    Encoder(Box<Embedder>),
}

/// A decoder with its tokenizer.
pub(crate) struct Loaded {
    pub checkpoint: Checkpoint,
    pub decoder: Decoder,
    /// The most tokens of a row: the model's positions, or what fits in the cache of keys and values.
    pub longest: usize,
}

/// No token stands for so many bytes of text. A text with more for each token that a row may have is refused unread.
const LONGEST_TOKEN: usize = 1024;

impl Loaded {
    /// Refuses a text that cannot fit into the context.
    pub(crate) fn ensure_short(&self, bytes: usize) -> Result<(), ApiError> {
        if bytes / LONGEST_TOKEN <= self.longest {
            return Ok(());
        }
        let longest = self.longest;
        Err(ApiError::too_long(format!(
            "the model has room for {longest} tokens; the text has {bytes} bytes: shorten it"
        )))
    }
}

impl Served {
    /// The decoder, for what a sentence encoder cannot do.
    pub(crate) fn loaded(&self) -> Result<&Loaded, ApiError> {
        self.decoder().ok_or_else(|| {
            let message = format!("`{}` is a sentence encoder: it only answers /v1/embeddings", self.name);
            ApiError::invalid("model", message)
        })
    }

    /// The decoder, if it is one.
    pub(crate) fn decoder(&self) -> Option<&Loaded> {
        match &self.kind {
            Kind::Decoder(loaded) => Some(loaded),
            Kind::Encoder(_) => None,
        }
    }
}

/// All served models.
pub(crate) struct Models {
    compute: Compute,
    /// Memory for keys and values, in bytes.
    cache: usize,
    /// In the order in which they were loaded.
    served: RwLock<Vec<Arc<Served>>>,
}

const ADAPTER: &str = "adapter_config.json";

impl Models {
    pub(crate) fn new(compute: Compute, cache: usize) -> Models {
        Models { compute, cache, served: RwLock::default() }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Served>> {
        self.served.read().unwrap_or_else(|error| error.into_inner()).clone()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Served>> {
        self.all().into_iter().find(|served| served.name == name)
    }

    /// The device and number type of the models.
    pub(crate) fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Loads a model, unless it is there with the same files. `is_passing`: a later request may unload it.
    pub(crate) fn load(&self, model: &NamedModel, is_passing: bool) -> anyhow::Result<()> {
        let NamedModel { name, path } = model;
        ensure!(!name.is_empty(), "a model must have a name, found an empty one");
        let of_model = || format!("model `{name}`");
        let identity = self.identify(path).with_context(of_model)?;
        let ensure_new = |known: Option<Arc<Served>>| match known {
            None => Ok(false),
            Some(known) if known.path == *path && known.digest == identity.digest => Ok(true),
            Some(known) => bail!(
                "`{name}` is {} already{}, and a name never changes its meaning: unload it, or use another name",
                known.path.display(),
                if known.path == *path { ", with other files than those that are there now" } else { "" }
            ),
        };
        if ensure_new(self.find(name))? {
            return Ok(());
        }
        let served = Arc::new(self.read(name, path, &identity, is_passing).with_context(of_model)?);
        let mut all = self.served.write().unwrap_or_else(|error| error.into_inner());
        // Another request may have loaded it meanwhile.
        if !ensure_new(all.iter().find(|known| known.name == *name).cloned())? {
            all.push(served);
        }
        Ok(())
    }

    /// Removes a model that a request loaded; `None` if there is none of this name. Rows that it is working on are finished.
    pub(crate) fn unload(&self, name: &str) -> Option<anyhow::Result<()>> {
        let mut all = self.served.write().unwrap_or_else(|error| error.into_inner());
        let at = all.iter().position(|served| served.name == name)?;
        if !all[at].is_passing {
            return Some(Err(anyhow::anyhow!(
                "`{name}` was named when the server was started: only models that a request loaded can be unloaded"
            )));
        }
        all.remove(at);
        Some(Ok(()))
    }

    /// Identifies what is at a path by the content of its files.
    fn identify(&self, path: &Path) -> anyhow::Result<Identity> {
        if path.is_dir() && Embedder::is_in(path) {
            let digest = Digest::of_file(&path.join("model.safetensors"))?;
            return Ok(Identity { digest, base: digest, form: Form::Encoder });
        }
        ensure!(
            model::is_there(path)?,
            "there is no {}; `triplay model fetch OWNER/NAME` downloads a model",
            path.display()
        );
        let has_adapter = model::is_there(&path.join(ADAPTER))?;
        let all = self.all();
        let decoders = || all.iter().filter_map(|served| Some((served, served.decoder()?)));
        // An adapter alone is for the base that is served.
        let base = match Checkpoint::base_folder(path) {
            Ok(base) => digest_of(Checkpoint::base_files(&base)?)?,
            Err(_) if has_adapter && decoders().next().is_some() => {
                let bases: BTreeMap<Digest, &str> =
                    decoders().map(|(served, _)| (served.base_digest, served.name.as_str())).collect();
                match bases.keys().collect::<Vec<_>>()[..] {
                    [only] => *only,
                    _ => bail!(
                        "{} names no base on this machine, and models of {} bases are served ({}): put the base's files \
                         beside the adapter's",
                        path.display(),
                        bases.len(),
                        bases.values().copied().collect::<Vec<_>>().join(", ")
                    ),
                }
            }
            Err(error) => return Err(error.into()),
        };
        if !has_adapter {
            return Ok(Identity { digest: base, base, form: Form::Weights });
        }
        let own = digest_of([ADAPTER, "adapter_model.safetensors"].map(|file| path.join(file)).into())?;
        let digest = Digest::of_bytes(format!("{base} {own}").as_bytes());
        Ok(Identity { digest, base, form: Form::Adapter })
    }

    fn read(&self, name: &str, path: &Path, identity: &Identity, is_passing: bool) -> anyhow::Result<Served> {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let served = |parent, kind| {
            let (name, path) = (name.to_owned(), path.to_owned());
            let (digest, base_digest) = (identity.digest, identity.base);
            Served { name, path, digest, base_digest, parent, created, is_passing, kind }
        };
        if identity.form == Form::Encoder {
            return Ok(served(None, Kind::Encoder(Box::new(Embedder::load(path, &self.compute)?))));
        }
        let has_adapter = identity.form == Form::Adapter;
        let all = self.all();
        let beside = all.iter().find_map(|served| {
            let loaded = served.decoder().filter(|_| served.base_digest == identity.base)?;
            Some((served, loaded))
        });
        let (checkpoint, decoder) = match beside {
            Some((_, beside)) => {
                let checkpoint = match has_adapter {
                    true => beside.checkpoint.with_adapter(path)?,
                    false => beside.checkpoint.base(),
                };
                let decoder = checkpoint.decoder_beside(Purpose::Scoring, &beside.decoder)?;
                (checkpoint, decoder)
            }
            None => {
                let checkpoint = Checkpoint::load(path, &self.compute)?;
                let decoder = checkpoint.decoder(Purpose::Scoring)?;
                (checkpoint, decoder)
            }
        };
        let longest = checkpoint.config.positions.min(self.cache / decoder.token_bytes().max(1)).max(1);
        let parent = beside.filter(|_| has_adapter).map(|(served, _)| served.name.clone());
        let loaded = Loaded { checkpoint, decoder, longest };
        Ok(served(parent, Kind::Decoder(Box::new(loaded))))
    }
}

/// What is at a path.
struct Identity {
    /// Identifies all of its files.
    digest: Digest,
    /// Identifies the weights that its adapter changes, or its own.
    base: Digest,
    form: Form,
}

#[derive(PartialEq)]
enum Form {
    Encoder,
    Weights,
    /// On the weights of a base.
    Adapter,
}

/// Identifies the content of files by name.
fn digest_of(files: Vec<PathBuf>) -> anyhow::Result<Digest> {
    let mut digests = String::new();
    for path in files {
        let digest = Digest::of_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        digests += &format!("{name} {digest}\n");
    }
    Ok(Digest::of_bytes(digests.as_bytes()))
}
