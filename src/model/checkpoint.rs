//! A model, its configuration, its adapter and its tokenizer, as a Hugging Face folder that transformers and
//! PEFT load.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::config::generation_ends;
use super::keys::{is_there, read_json, read_json_if_there};
use super::lora::{self, Adapter, LoraConfig};
use super::weights::Weights;
use super::{Compute, Config, Decoder, Error, Params, Purpose, Result, Tokenizer, gguf};
use store::Seed;

/// The content of a model folder.
#[derive(Clone)]
pub struct Checkpoint {
    /// The sizes of the decoder.
    pub config: Config,
    /// All weights; not trained if there is an adapter.
    pub params: Params,
    /// The LoRA adapter, if one is trained instead of the weights.
    pub adapter: Option<Adapter>,
    /// The tokenizer and its chat template.
    pub tokenizer: Tokenizer,
    /// The device and number type of the parameters.
    pub compute: Compute,
}

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

impl Checkpoint {
    /// Reads a folder: config.json, the weights, tokenizer.json and, if present, generation_config.json,
    /// tokenizer_config.json, the chat template and a LoRA adapter. Or reads a GGUF file, alone or in its folder. If an
    /// adapter's folder has no model, the model is in the folder that its adapter_config.json names.
    pub fn load(path: &Path, compute: &Compute) -> Result<Checkpoint> {
        if !is_there(path)? {
            let reason =
                "there is no such file or folder; `triplay model fetch OWNER/NAME` downloads a model".into();
            return Err(Error::Invalid { path: path.into(), reason });
        }
        if let Some(file) = gguf::file_of(path) {
            return gguf::load(&file, path.is_dir().then_some(path), compute);
        }
        let base = Checkpoint::base_folder(path)?;
        let config = Checkpoint::config(&base)?;
        let params = Params::load(&base, &config, compute)?;
        Checkpoint::with_base(path, &base, config, params, compute)
    }

    /// The same, if the weights of the base have been read already.
    pub fn with_base(
        folder: &Path,
        base: &Path,
        config: Config,
        params: Params,
        compute: &Compute,
    ) -> Result<Checkpoint> {
        let adapter = match is_there(&folder.join(lora::CONFIG))? {
            true => Some(Adapter::load(folder, &config, compute)?),
            false if is_there(&folder.join(lora::WEIGHTS))? => {
                let reason = format!("has {} but no {}", lora::WEIGHTS, lora::CONFIG);
                return Err(Error::Invalid { path: folder.into(), reason });
            }
            false => None,
        };
        let with_tokenizer = if is_there(&folder.join("tokenizer.json"))? { folder } else { base };
        let tokenizer = Tokenizer::load(with_tokenizer, config.eos.first().copied())?;
        Checkpoint::of(
            config,
            params,
            adapter,
            tokenizer,
            compute.clone(),
            &with_tokenizer.join("tokenizer.json"),
        )
    }

    /// Assembles a checkpoint from parts; `path` is the tokenizer's, for the error if it does not match the model.
    pub(super) fn of(
        config: Config,
        params: Params,
        adapter: Option<Adapter>,
        tokenizer: Tokenizer,
        compute: Compute,
        path: &Path,
    ) -> Result<Checkpoint> {
        if let Some((token, id)) = tokenizer.last().filter(|(_, id)| *id as usize >= config.vocab_size) {
            let reason = format!(
                "token ids must be below the model's `vocab_size` = {}, found {id} (`{token}`): use the model's own tokenizer",
                config.vocab_size
            );
            return Err(Error::Invalid { path: path.into(), reason });
        }
        Ok(Checkpoint { config, params, adapter, tokenizer, compute })
    }

    /// The folder of the model that a folder's adapter changes: itself, or the one that its adapter_config.json names.
    pub fn base_folder(folder: &Path) -> Result<PathBuf> {
        let adapter = folder.join(lora::CONFIG);
        if is_there(&folder.join(CONFIG))? || !is_there(&adapter)? {
            return Ok(folder.into());
        }
        let invalid = |reason: String| Error::Invalid { path: adapter.clone(), reason };
        let json = read_json(&adapter)?;
        let name = json["base_model_name_or_path"].as_str().unwrap_or_default();
        let places = [folder.join(name), PathBuf::from(name)];
        places.into_iter().find(|place| !name.is_empty() && place.join(CONFIG).exists()).ok_or_else(|| {
            invalid(format!(
                "`base_model_name_or_path` must be a model folder on this machine, found `{name}`: put the model's files \
                 ({CONFIG}, model.safetensors, tokenizer.json) beside the adapter's"
            ))
        })
    }

    /// The positions of a model according to its folder or GGUF file; `None`, without a reason, if they cannot be read.
    pub fn positions(path: &Path) -> Option<usize> {
        match gguf::file_of(path) {
            Some(file) => gguf::positions(&file),
            None => Some(Checkpoint::config(&Checkpoint::base_folder(path).ok()?).ok()?.positions),
        }
    }

    /// config.json, with the end tokens that generation_config.json adds.
    pub fn config(folder: &Path) -> Result<Config> {
        let mut config = Config::load(&folder.join(CONFIG))?;
        let path = folder.join(GENERATION);
        if let Some(json) = read_json_if_there(&path)? {
            let invalid = |reason| Error::Invalid { path: path.clone(), reason };
            for id in generation_ends(&json).map_err(invalid)? {
                if !config.eos.contains(&id) {
                    config.eos.push(id);
                }
            }
            config.check().map_err(invalid)?;
        }
        Ok(config)
    }

    /// A model that can be trained without changing this one: it has its own copy of all weights, or of the adapter alone.
    /// `lora` puts a new adapter on a model that has none; an adapter that it already has must have the same settings.
    pub fn to_train(&self, lora: Option<&LoraConfig>, seed: Seed) -> Result<Checkpoint> {
        self.params.ensure_trainable()?;
        let adapter = match (&self.adapter, lora) {
            (Some(adapter), Some(lora)) if !lora.is_like(&adapter.config) => {
                let reason = format!(
                    "`lora` must match the model's adapter ({}), found {}: use the same settings, remove `lora`, or start \
                     from the model without its adapter",
                    adapter.config, lora
                );
                return Err(candle_core::Error::Msg(reason).into());
            }
            (Some(adapter), _) => {
                Some(Adapter { config: adapter.config.clone(), params: adapter.params.copy(&self.compute)? })
            }
            (None, Some(lora)) => Some(Adapter::init(&self.config, lora, seed, &self.compute)?),
            (None, None) => None,
        };
        let params = match adapter {
            Some(_) => self.params.clone(),
            None => self.params.copy(&self.compute)?,
        };
        Ok(Checkpoint { params, adapter, ..self.clone() })
    }

    /// The parameters that training changes.
    pub fn trained(&self) -> &Params {
        self.adapter.as_ref().map_or(&self.params, |adapter| &adapter.params)
    }

    /// The model with the adapter of a folder in place of its own, if any, and with the folder's tokenizer if it has one.
    pub fn with_adapter(&self, folder: &Path) -> Result<Checkpoint> {
        let adapter = Some(Adapter::load(folder, &self.config, &self.compute)?);
        let path = folder.join("tokenizer.json");
        let tokenizer = match is_there(&path)? {
            true => Tokenizer::load(folder, self.config.eos.first().copied())?,
            false => self.tokenizer.clone(),
        };
        let (config, params) = (self.config.clone(), self.params.clone());
        Checkpoint::of(config, params, adapter, tokenizer, self.compute.clone(), &path)
    }

    /// The model without its adapter.
    pub fn base(&self) -> Checkpoint {
        Checkpoint { adapter: None, ..self.clone() }
    }

    /// The model with its adapter merged into its weights.
    pub fn merged(&self) -> Result<Checkpoint> {
        let params = match &self.adapter {
            Some(adapter) => adapter.merge(&self.config, &self.params, &self.compute)?,
            None => self.params.clone(),
        };
        Ok(Checkpoint { params, adapter: None, ..self.clone() })
    }

    /// The tokens that end a text.
    pub fn ends(&self) -> Vec<u32> {
        let mut ends = self.config.eos.clone();
        if !ends.contains(&self.tokenizer.eos) {
            ends.push(self.tokenizer.eos);
        }
        ends
    }

    /// Writes a new folder with all weights, merged if there is an adapter.
    pub fn save(&self, folder: &Path) -> Result<()> {
        if self.adapter.is_some() {
            return self.merged()?.save(folder);
        }
        if self.params.frozen {
            let reason = "quantised weights cannot be written: use their GGUF file".into();
            return Err(Error::Write { path: folder.into(), reason });
        }
        let write = |name: &str, value: serde_json::Value| {
            let path = folder.join(name);
            std::fs::write(&path, format!("{value:#}\n"))
                .map_err(|error| Error::Write { path, reason: error.to_string() })
        };
        create(folder)?;
        write(CONFIG, self.config.to_json())?;
        let eos = match self.ends()[..] {
            [id] => id.into(),
            _ => serde_json::Value::from(self.ends()),
        };
        write(GENERATION, json!({ "eos_token_id": eos, "pad_token_id": self.config.pad }))?;
        self.params.save(&folder.join("model.safetensors"))?;
        self.tokenizer.save(folder)
    }

    /// Writes a new folder with the adapter and, beside it, the files of its base from the folder `base`: as hard links with
    /// `share`, which promises that nobody changes them, otherwise as copies.
    pub fn save_adapter(&self, folder: &Path, base: &Path, share: bool) -> Result<()> {
        let Some(adapter) = &self.adapter else {
            return Err(Error::Write { path: folder.into(), reason: "the model has no adapter".into() });
        };
        create(folder)?;
        for path in Checkpoint::base_files(base)? {
            let Some(name) = path.file_name() else { continue };
            let to = folder.join(name);
            let linked = share && std::fs::hard_link(&path, &to).is_ok();
            if !linked {
                std::fs::copy(&path, &to)
                    .map_err(|error| Error::Write { path: to, reason: error.to_string() })?;
            }
        }
        adapter.save(folder, self.config.layers)
    }

    /// The files of a folder's model, without those of an adapter.
    pub fn base_files(folder: &Path) -> Result<Vec<PathBuf>> {
        let mut files = match gguf::file_of(folder) {
            Some(file) => vec![file],
            None => Weights::files(folder)?,
        };
        let names = [
            CONFIG,
            GENERATION,
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
            super::chat::FILE,
        ];
        let folder = if folder.is_file() { folder.parent().unwrap_or(folder) } else { folder };
        for path in names.iter().map(|name| folder.join(name)) {
            if is_there(&path)? {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// A decoder of this model.
    pub fn decoder(&self, purpose: Purpose) -> Result<Decoder> {
        self.decoder_with(purpose, None)
    }

    /// A decoder that uses the weights, as laid out for products, of the decoder of another checkpoint with the same `params`, so
    /// that adapters of one base need no more memory than their own. Weights that are trained are never shared.
    pub fn decoder_beside(&self, purpose: Purpose, other: &Decoder) -> Result<Decoder> {
        self.decoder_with(purpose, Some(other))
    }

    fn decoder_with(&self, purpose: Purpose, beside: Option<&Decoder>) -> Result<Decoder> {
        let adapter = self.adapter.as_ref();
        Ok(Decoder::new(&self.config, &self.params, adapter, &self.compute, purpose, beside)?)
    }

    /// A unit vector for each row of token ids: the mean of its last hidden states.
    pub fn embed(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        self.decoder(Purpose::Scoring)?.embed(rows)
    }

    /// Memory of the weights in bytes; with an adapter only the adapter's, since the base is shared.
    pub fn bytes(&self) -> usize {
        self.trained().bytes()
    }
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir(folder)
        .map_err(|error| Error::Write { path: folder.into(), reason: error.to_string() })
}
