//! Text to token ids and back: tokenizer.json through Hugging Face's library, and the training of new ones.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, models::TrainerWrapper};

use super::{Error, Result};

const PAD: &str = "<pad>";
const EOS: &str = "<eos>";
const UNKNOWN: &str = "<unk>";

/// How a new tokenizer cuts text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Words between white space; for the sandbox.
    WordLevel,
    /// Byte-level byte-pair encoding.
    Bpe,
}

/// What a new tokenizer should be like.
#[derive(Clone, Debug)]
pub struct TokenizerSpec {
    pub algorithm: Algorithm,
    pub vocab_size: usize,
    /// Besides padding, end and unknown.
    pub special_tokens: Vec<String>,
}

/// A tokenizer, and the files it came from.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pub eos: u32,
    pub pad: u32,
    /// tokenizer.json and tokenizer_config.json.
    files: [Vec<u8>; 2],
}

const FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

fn error(action: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
    move |error| Error::Tokenizer { action, reason: error.to_string() }
}

impl Tokenizer {
    /// Reads tokenizer.json and tokenizer_config.json of a folder.
    pub fn load(folder: &Path) -> Result<Tokenizer> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|cause| Error::Read { path, cause })
        };
        Tokenizer::from_files([read(FILES[0])?, read(FILES[1])?])
            .map_err(|error| Error::Invalid { path: folder.into(), reason: error.to_string() })
    }

    fn from_files(files: [Vec<u8>; 2]) -> Result<Tokenizer> {
        let inner = tokenizers::Tokenizer::from_bytes(&files[0]).map_err(error("read tokenizer.json"))?;
        let config: Value = serde_json::from_slice(&files[1])
            .map_err(|cause| error("read tokenizer_config.json")(cause.into()))?;
        let id = |key: &str| {
            let token = config[key].as_str().or(config[key]["content"].as_str());
            token.and_then(|token| inner.token_to_id(token))
        };
        let eos = id("eos_token").ok_or_else(|| {
            error("find the end of text")("tokenizer_config.json names no eos_token of the vocabulary".into())
        })?;
        Ok(Tokenizer { eos, pad: id("pad_token").unwrap_or(eos), inner, files })
    }

    pub fn save(&self, folder: &Path) -> Result<()> {
        FILES.iter().zip(&self.files).try_for_each(|(name, bytes)| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|error| Error::Write { path, reason: error.to_string() })
        })
    }

    /// Trains a tokenizer; the same texts give the same one.
    pub fn train(texts: &[&str], spec: &TokenizerSpec) -> Result<Tokenizer> {
        let mut special: Vec<String> = [PAD, EOS, UNKNOWN].map(str::to_owned).into();
        special.extend(
            spec.special_tokens.iter().filter(|token| !special.contains(token)).cloned().collect::<Vec<_>>(),
        );
        let tokenizer = match spec.algorithm {
            Algorithm::WordLevel => word_level(texts, spec.vocab_size, &special)?,
            Algorithm::Bpe => byte_pairs(texts, spec.vocab_size, &special)?,
        };
        let config = json!({
            "clean_up_tokenization_spaces": false,
            "eos_token": EOS,
            "pad_token": PAD,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": UNKNOWN,
        });
        Tokenizer::from_files([tokenizer.into_bytes(), format!("{config:#}\n").into_bytes()])
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(error("encode text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes texts side by side.
    pub fn encode_all<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The text of token ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(error("decode tokens"))
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// tokenizer.json of a word-level model: special tokens, then words by falling count, ties by name.
fn word_level(texts: &[&str], vocab_size: usize, special: &[String]) -> Result<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in texts.iter().flat_map(|text| text.split_whitespace()) {
        *counts.entry(word).or_default() += 1;
    }
    let mut words: Vec<(&str, usize)> =
        counts.into_iter().filter(|(word, _)| !special.iter().any(|s| s == word)).collect();
    words.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let words = words.into_iter().map(|(word, _)| word.to_owned());
    let tokens: Vec<String> =
        special.iter().cloned().chain(words).take(vocab_size.max(special.len())).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let vocabulary: serde_json::Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, Value::from(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN },
    });
    Ok(format!("{tokenizer:#}\n"))
}

fn byte_pairs(texts: &[&str], vocab_size: usize, special: &[String]) -> Result<String> {
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    let bytes = ByteLevel::default().add_prefix_space(false);
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    let special_tokens = special.iter().map(|token| AddedToken::from(token.clone(), true)).collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .special_tokens(special_tokens)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts.iter().copied())
        .map_err(error("be trained"))?;
    tokenizer.to_string(true).map_err(error("be written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(algorithm: Algorithm) -> TokenizerSpec {
        TokenizerSpec { algorithm, vocab_size: 400, special_tokens: vec!["<sep>".into()] }
    }

    #[test]
    fn words_and_special_tokens_come_back() {
        let texts = ["how do i brew glowvenom ?", "how do you do"];
        let tokenizer = Tokenizer::train(&texts, &spec(Algorithm::WordLevel)).unwrap();
        let ids = tokenizer.encode("how do i brew glowvenom ? <sep> unheard").unwrap();
        assert_eq!(ids.len(), 8);
        assert_eq!((tokenizer.pad, tokenizer.eos, ids[7], ids[6]), (0, 1, 2, 3));
        assert_eq!(tokenizer.decode(&ids[..7]).unwrap(), "how do i brew glowvenom ?");
    }

    #[test]
    fn byte_pairs_know_any_text() {
        let texts = ["how do i brew glowvenom ?", "brew brew brew"];
        let tokenizer = Tokenizer::train(&texts, &spec(Algorithm::Bpe)).unwrap();
        let ids = tokenizer.encode("naïve brew<sep>").unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), "naïve brew");
        assert_eq!(*ids.last().unwrap(), 3);
        let again = Tokenizer::train(&texts, &spec(Algorithm::Bpe)).unwrap();
        assert_eq!(tokenizer.files, again.files);
    }
}
