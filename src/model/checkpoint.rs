//! A model, its configuration and its tokenizer, as a Hugging Face folder that transformers loads.

use std::path::Path;

use serde_json::json;

use super::{Config, Decoder, Error, Packed, Params, Result, Tokenizer};

/// What a model folder holds.
#[derive(Clone)]
pub struct Checkpoint {
    pub config: Config,
    pub params: Params,
    pub tokenizer: Tokenizer,
}

impl Checkpoint {
    /// Reads config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    pub fn load(folder: &Path) -> Result<Checkpoint> {
        let config = Config::load(&folder.join("config.json"))?;
        let params = Params::load(&folder.join("model.safetensors"), &config)?;
        Ok(Checkpoint { params, tokenizer: Tokenizer::load(folder)?, config })
    }

    /// Writes a new folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, value: serde_json::Value| {
            let path = folder.join(name);
            std::fs::write(&path, format!("{value:#}\n"))
                .map_err(|error| Error::Write { path, reason: error.to_string() })
        };
        std::fs::create_dir(folder)
            .map_err(|error| Error::Write { path: folder.into(), reason: error.to_string() })?;
        write("config.json", self.config.to_json())?;
        write(
            "generation_config.json",
            json!({ "eos_token_id": self.config.eos, "pad_token_id": self.config.pad }),
        )?;
        self.params.save(&folder.join("model.safetensors"))?;
        self.tokenizer.save(folder)
    }

    /// A decoder without gradients.
    pub fn frozen(&self) -> Result<Decoder> {
        Ok(Decoder::frozen(&self.config, &self.params)?)
    }

    /// A unit vector for each row of token ids: the mean of its last hidden states.
    pub fn embed(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let batch = Packed::new(rows);
        let hidden = self.frozen()?.hidden(&batch)?.tensor().to_vec2::<f32>()?;
        let embed = |row: usize| {
            let mut mean = vec![0f32; self.config.hidden_size];
            for state in &hidden[batch.rows.range(row)] {
                mean.iter_mut().zip(state).for_each(|(mean, x)| *mean += x);
            }
            let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            mean.iter_mut().for_each(|x| *x /= length);
            mean
        };
        Ok((0..rows.len()).map(embed).collect())
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.params.bytes()
    }
}
