//! Sentence embeddings by frozen encoders of the BERT family, in the layout of sentence-transformers
//! (all-MiniLM-L6-v2): mean of the last hidden states, normalised.

use std::path::Path;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde_json::Value;
use tokenizers::{PaddingParams, TruncationParams};

use super::harmless::{BOOKKEEPING, INTERNAL_PREFIXES, SAMPLING};
use super::keys::{self, ConfigResult, Keys, read_json, read_json_if_there};
use super::marks::ControlTokens;
use super::weights::Weights;
use super::{Compute, Error, Result};

/// Number of texts that are embedded at the same time.
const BATCH: usize = 32;

/// A frozen sentence encoder.
pub struct Embedder {
    model: BertModel,
    /// Without marks: texts are data.
    tokenizer: tokenizers::Tokenizer,
    longest: usize,
    compute: Compute,
    bytes: usize,
}

const SENTENCE: &str = "sentence_bert_config.json";

type Check = fn(&Value) -> ConfigResult<()>;

/// The files that sentence-transformers writes beside the encoder, and their checks.
const SENTENCE_TRANSFORMERS_FILES: [(&str, Check); 4] = [
    ("modules.json", check_modules),
    ("1_Pooling/config.json", check_pooling),
    (SENTENCE, check_sentence),
    ("config_sentence_transformers.json", check_library),
];

/// Checks that config.json asks for what [`BertModel`] computes.
fn check(json: &Value) -> ConfigResult<()> {
    let mut keys = Keys::of(json, "")?;
    keys.only("position_embedding_type", "absolute", |kind| kind == "absolute")?;
    keys.off(&[
        "is_decoder",
        "add_cross_attention",
        "is_encoder_decoder",
        "pruned_heads",
        "quantization_config",
        "auto_map",
    ])?;
    // Read by candle.
    keys.harmless(&[
        "model_type",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
        "pad_token_id",
    ]);
    // The model's heads are not used, and dropout is for training.
    keys.harmless(&[
        "architectures",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "eos_token_id",
        "tie_word_embeddings",
    ]);
    keys.alias::<String>(&["dtype", "torch_dtype"])?;
    keys.harmless(BOOKKEEPING);
    keys.harmless(SAMPLING);
    keys.harmless_beginnings(INTERNAL_PREFIXES);
    keys.finish()
}

/// Checks the modules between a text and its vector: an encoder, mean pooling, and perhaps normalisation, which is done here
/// in any case.
fn check_modules(json: &Value) -> ConfigResult<()> {
    let known = ["Transformer", "Pooling", "Normalize"];
    for module in json.as_array().ok_or("must be a list of modules")? {
        let kind = module["type"].as_str().unwrap_or_default();
        if !known.contains(&kind.rsplit('.').next().unwrap_or_default()) {
            return Err(format!("its modules must be among {}, found `{kind}`", known.join(", ")));
        }
    }
    Ok(())
}

fn check_pooling(json: &Value) -> ConfigResult<()> {
    let mut keys = Keys::of(json, "")?;
    keys.only("pooling_mode", "mean", |mode| mode == "mean")?;
    if keys.take("pooling_mode_mean_tokens")? == Some(false) {
        return Err(
            "`pooling_mode_mean_tokens` must be true, found false: only mean pooling is supported".into()
        );
    }
    keys.off(&[
        "pooling_mode_cls_token",
        "pooling_mode_max_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
    ])?;
    // No effect: triplay gives encoders no prompts.
    keys.harmless(&["word_embedding_dimension", "embedding_dimension", "include_prompt"]);
    keys.finish()
}

fn check_sentence(json: &Value) -> ConfigResult<()> {
    let mut keys = Keys::of(json, "")?;
    keys.take::<usize>("max_seq_length")?;
    // tokenizer.json defines whether case matters.
    keys.off(&["do_lower_case"])?;
    keys.harmless(&["transformer_task", "modality_config", "module_output_name"]);
    keys.finish()
}

fn check_library(json: &Value) -> ConfigResult<()> {
    let mut keys = Keys::of(json, "")?;
    keys.off(&["default_prompt_name"])?;
    keys.harmless(&["__version__", "prompts", "similarity_fn_name", "model_type"]);
    keys.finish()
}

impl Embedder {
    /// Whether a folder holds an encoder, by the model_type of its config.json.
    pub fn is_in(folder: &Path) -> bool {
        read_json(&folder.join("config.json")).is_ok_and(|config| config["model_type"] == "bert")
    }

    /// Reads config.json, model.safetensors and tokenizer.json, and sentence-transformers' files on pooling and length if
    /// they are present.
    pub fn load(folder: &Path, compute: &Compute) -> Result<Embedder> {
        let path = folder.join("config.json");
        let invalid = |reason: String| Error::Invalid { path: path.clone(), reason };
        let json = read_json(&path)?;
        check(&json).map_err(invalid)?;
        let config: Config = serde_json::from_value(json)
            .map_err(|error| invalid(format!("not the configuration of a BERT encoder: {error}")))?;
        let heads = config.num_attention_heads;
        if heads == 0 || !config.hidden_size.is_multiple_of(heads) {
            return Err(invalid(format!(
                "`hidden_size` must be a multiple of `num_attention_heads` = {heads}, found {}",
                config.hidden_size
            )));
        }
        for (name, check) in SENTENCE_TRANSFORMERS_FILES {
            let path = folder.join(name);
            if let Some(json) = read_json_if_there(&path)? {
                check(&json).map_err(|reason| Error::Invalid { path, reason })?;
            }
        }
        let (tokenizer, longest) = tokenizer(folder, &config)?;
        let weights = Weights::of_folder(folder)?;
        let beyond = format!("encoder.layer.{}.", config.num_hidden_layers);
        if let Some(name) = weights.names().find(|name| name.contains(&beyond)) {
            let reason = format!("has the tensor `{name}`, which its config.json does not describe");
            return Err(Error::Invalid { path: weights.path(name).into(), reason });
        }
        let mut tensors = std::collections::HashMap::new();
        let mut bytes = 0;
        for name in weights.names().filter(|name| !name.ends_with("position_ids")) {
            let tensor = weights.any(name, compute.dtype, &compute.device)?;
            bytes += tensor.elem_count() * compute.dtype.size_in_bytes();
            tensors.insert(name.to_owned(), tensor);
        }
        let builder = VarBuilder::from_tensors(tensors, compute.dtype, &compute.device);
        let model = BertModel::load(builder, &config).map_err(|error| Error::Invalid {
            path: weights.path("").into(),
            reason: format!("does not match its config.json: {error}"),
        })?;
        debug_assert!(longest <= config.max_position_embeddings);
        Ok(Embedder { model, tokenizer, longest, compute: compute.clone(), bytes })
    }

    /// The tokens of a text, those included that [`Embedder::embed`] leaves out of a longer one.
    pub fn count(&self, text: &str) -> Result<usize> {
        let encoding = self.encode(vec![ControlTokens::plain(text)])?.pop();
        let lengths = |encoding: tokenizers::Encoding| {
            let tokens = |piece: &tokenizers::Encoding| {
                let is_text = |(mask, special): (&u32, &u32)| *mask == 1 && *special == 0;
                let masks = piece.get_attention_mask().iter().zip(piece.get_special_tokens_mask());
                masks.filter(|masks| is_text(*masks)).count()
            };
            let special = encoding.get_attention_mask().iter().sum::<u32>() as usize - tokens(&encoding);
            let pieces = encoding.get_overflowing().iter().map(tokens).sum::<usize>();
            special + tokens(&encoding) + pieces
        };
        Ok(encoding.map_or(0, lengths))
    }

    /// The most tokens of a text that count.
    pub fn longest(&self) -> usize {
        self.longest
    }

    fn encode(&self, texts: Vec<String>) -> Result<Vec<tokenizers::Encoding>> {
        let encodings = self.tokenizer.encode_batch(texts, true);
        encodings.map_err(|error| Error::Tokenizer { action: "encode text", reason: error.to_string() })
    }

    /// A unit vector for each text.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(BATCH) {
            let encodings = self.encode(texts.iter().map(|text| ControlTokens::plain(text)).collect())?;
            let tensor = |of: fn(&tokenizers::Encoding) -> &[u32]| {
                let rows: Vec<Vec<u32>> = encodings.iter().map(|encoding| of(encoding).to_vec()).collect();
                Tensor::new(rows, &self.compute.device)
            };
            let mask = tensor(|encoding| encoding.get_attention_mask())?;
            let types = tensor(|encoding| encoding.get_type_ids())?;
            let ids = tensor(|encoding| encoding.get_ids())?;
            let hidden = self.model.forward(&ids, &types, Some(&mask))?.to_dtype(DType::F32)?;
            let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
            let mean = hidden.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?;
            let length = mean.sqr()?.sum_keepdim(1)?.sqrt()?.clamp(1e-12, f32::MAX)?;
            vectors.extend(mean.broadcast_div(&length)?.to_vec2::<f32>()?);
        }
        Ok(vectors)
    }

    /// Memory of its weights, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The tokenizer, which pads batches and truncates texts, and the length in tokens at which it truncates.
fn tokenizer(folder: &Path, config: &Config) -> Result<(tokenizers::Tokenizer, usize)> {
    let path = folder.join("tokenizer.json");
    let invalid = |reason: String| Error::Invalid { path: path.clone(), reason };
    let text = keys::read(&path)?;
    let tokenizer = tokenizers::Tokenizer::from_bytes(&text)
        .map_err(|error| invalid(format!("not a tokenizer: {error}")))?;
    let last = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
    if let Some((token, id)) = last.filter(|(_, id)| *id as usize >= config.vocab_size) {
        let size = config.vocab_size;
        return Err(invalid(format!(
            "token ids must be below `vocab_size` = {size} of config.json, found {id} (`{token}`)"
        )));
    }
    let mut tokenizer = ControlTokens::of(&tokenizer, &text).map_err(&invalid)?.into_tokenizer();
    let sentence = read_json_if_there(&folder.join(SENTENCE))?;
    let asked = sentence.and_then(|sentence| sentence["max_seq_length"].as_u64());
    let longest = asked.map_or(config.max_position_embeddings, |asked| asked as usize);
    let longest = longest.min(config.max_position_embeddings).max(1);
    let truncation = TruncationParams { max_length: longest, ..TruncationParams::default() };
    let pad_id = u32::try_from(config.pad_token_id).unwrap_or_default();
    let padding = PaddingParams { pad_id, ..PaddingParams::default() };
    tokenizer
        .with_padding(Some(padding))
        .with_truncation(Some(truncation))
        .map_err(|error| invalid(error.to_string()))?;
    Ok((tokenizer, longest))
}
