//! Text to token ids and back: tokenizer.json through Hugging Face's library, and the training of new tokenizers.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, models::TrainerWrapper};

use super::chat::{self, Arguments, ChatTemplate, Message};
use super::harmless::TOKENIZER_CONFIG_KEYS;
use super::keys::{self, ConfigResult, Keys, is_there};
use super::marks::{ControlTokens, RenderedPrompt};
use super::{Error, Result};

const PAD: &str = "<pad>";
const EOS: &str = "<eos>";
const UNKNOWN: &str = "<unk>";

/// How a new tokenizer splits text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TokenizerAlgorithm")]
pub enum Algorithm {
    /// Words separated by white space; for the sandbox.
    WordLevel,
    /// Byte-level byte-pair encoding.
    Bpe,
}

/// Settings of a new tokenizer.
#[derive(Clone, Debug)]
pub struct TokenizerSpec {
    /// How text is cut into tokens.
    pub algorithm: Algorithm,
    /// The most tokens, special ones included.
    pub vocab_size: usize,
    /// Special tokens besides padding, end and unknown.
    pub special_tokens: Vec<String>,
}

/// A tokenizer with its chat template, and the files of both.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The token that ends a text.
    pub eos: u32,
    /// The padding token.
    pub pad: u32,
    /// The chat template, if there is one.
    pub chat: Option<ChatTemplate>,
    /// The control tokens, which texts of models and users must not spell.
    pub marks: ControlTokens,
    /// Names and contents of the files.
    files: Vec<(&'static str, Vec<u8>)>,
}

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

fn error(action: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
    move |error| Error::Tokenizer { action, reason: error.to_string() }
}

impl Tokenizer {
    /// Reads tokenizer.json of a folder and, if present, tokenizer_config.json and the chat template. `eos` is the end token
    /// if tokenizer_config.json names none.
    pub fn load(folder: &Path, eos: Option<u32>) -> Result<Tokenizer> {
        let invalid = |name: &str, reason: String| Error::Invalid { path: folder.join(name), reason };
        let read = |name: &'static str| keys::read(&folder.join(name)).map(|bytes| (name, bytes));
        let mut files = vec![read(TOKENIZER)?];
        let mut inner = tokenizers::Tokenizer::from_bytes(&files[0].1)
            .map_err(|error| invalid(TOKENIZER, format!("not a tokenizer: {error}")))?;
        // Training may have left these settings in the file. transformers, too, ignores them unless asked.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| invalid(TOKENIZER, format!("its truncation cannot be switched off: {error}")))?;
        let mut config = Value::Null;
        if is_there(&folder.join(CONFIG))? {
            files.push(read(CONFIG)?);
            config = keys::parse(&files[1].1).map_err(|reason| invalid(CONFIG, reason))?;
            check(&config, &inner).map_err(|reason| invalid(CONFIG, reason))?;
        }
        let chat = ChatTemplate::load(folder, &config)?;
        if is_there(&folder.join(chat::FILE))? {
            files.push(read(chat::FILE)?);
        }
        let id = |key: &str| match config[key].as_str().or(config[key]["content"].as_str()) {
            Some(token) => inner.token_to_id(token).map(Some).ok_or_else(|| {
                invalid(CONFIG, format!("{key} `{token}` is not in the vocabulary of {TOKENIZER}"))
            }),
            None => Ok(None),
        };
        let eos = id("eos_token")?.or(eos).ok_or_else(|| {
            invalid(
                CONFIG,
                "`eos_token` must be given here, or `eos_token_id` in config.json, found neither".into(),
            )
        })?;
        let pad = id("pad_token")?.unwrap_or(eos);
        let marks = ControlTokens::of(&inner, &files[0].1).map_err(|reason| invalid(TOKENIZER, reason))?;
        Ok(Tokenizer { eos, pad, inner, chat, marks, files })
    }

    /// Assembles a tokenizer from its parts: `inner` becomes tokenizer.json.
    pub(super) fn of(
        inner: tokenizers::Tokenizer,
        config: &Value,
        chat: Option<ChatTemplate>,
        eos: u32,
        pad: u32,
    ) -> Result<Tokenizer> {
        let json = inner.to_string(true).map_err(error("be written"))?;
        let marks = ControlTokens::of(&inner, json.as_bytes())
            .map_err(|reason| Error::Tokenizer { action: "be made", reason })?;
        let mut files = vec![(TOKENIZER, json.into_bytes()), (CONFIG, format!("{config:#}\n").into_bytes())];
        files.extend(chat.as_ref().map(|chat| (chat::FILE, chat.source().to_owned().into_bytes())));
        Ok(Tokenizer { inner, eos, pad, chat, marks, files })
    }

    /// Writes its files into a folder, which must exist.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.files.iter().try_for_each(|(name, bytes)| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|error| Error::Write { path, reason: error.to_string() })
        })
    }

    /// Trains a tokenizer; the same texts give the same tokenizer.
    pub fn train(texts: &[&str], spec: &TokenizerSpec) -> Result<Tokenizer> {
        let mut special: Vec<String> = [PAD, EOS, UNKNOWN].map(str::to_owned).into();
        special.extend(
            spec.special_tokens.iter().filter(|token| !special.contains(token)).cloned().collect::<Vec<_>>(),
        );
        let inner = match spec.algorithm {
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
        let id = |token: &str| special.iter().position(|known| known == token).unwrap_or_default() as u32;
        Tokenizer::of(inner, &config, None, id(EOS), id(PAD))
    }

    /// The tokens of a text that is a template from beginning to end, such as a training text: marks in it are control tokens.
    /// No tokens are added around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(error("encode text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The same, with the tokens that the model expects around a text.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(error("encode text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes such texts in parallel.
    pub fn encode_all<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The tokens of filled templates, in which only the marks that the template wrote are control tokens.
    pub fn encode_filled(&self, texts: &[RenderedPrompt]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.marks.encode(text, false)).collect()
    }

    /// The text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(error("decode tokens"))
    }

    /// The text of one token alone, special or not; part of a character becomes U+FFFD.
    pub fn text_of(&self, id: u32) -> Result<String> {
        self.inner.decode(&[id], false).map_err(error("decode tokens"))
    }

    /// The source of the chat template, if there is one.
    pub fn template(&self) -> Option<&str> {
        self.chat.as_ref().map(ChatTemplate::source)
    }

    /// tokenizer_config.json, if there was one.
    pub fn settings(&self) -> Value {
        let file = self.files.iter().find(|(name, _)| *name == CONFIG);
        file.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok()).unwrap_or_default()
    }

    /// A token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the greatest id: ids may have gaps.
    pub fn vocab_size(&self) -> usize {
        self.last().map_or(0, |(_, id)| id as usize + 1)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with the greatest id.
    pub(super) fn last(&self) -> Option<(String, u32)> {
        self.inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id)
    }

    /// The text of each conversation by the model's own template, which gets `arguments`.
    pub fn render_chats(
        &self,
        conversations: &[Vec<Message>],
        today: jiff::civil::Date,
        arguments: &Arguments,
    ) -> Result<Vec<String>> {
        self.render(conversations, today, arguments, true)
    }

    /// The same, with or without the beginning of the assistant's turn.
    pub fn render(
        &self,
        conversations: &[Vec<Message>],
        today: jiff::civil::Date,
        arguments: &Arguments,
        begin_turn: bool,
    ) -> Result<Vec<String>> {
        match &self.chat {
            Some(template) => template.render(conversations, today, arguments, begin_turn),
            None => Err(Error::Tokenizer {
                action: "render a conversation",
                reason: "the model has no chat template (chat_template.jinja or tokenizer_config.json)"
                    .into(),
            }),
        }
    }
}

/// Checks that tokenizer_config.json has only known keys and agrees with tokenizer.json.
fn check(config: &Value, tokenizer: &tokenizers::Tokenizer) -> ConfigResult<()> {
    let mut keys = Keys::of(config, "")?;
    let added: BTreeMap<String, Value> = keys.take("added_tokens_decoder")?.unwrap_or_default();
    for (id, token) in &added {
        let content = token["content"].as_str().unwrap_or_default();
        let there = tokenizer.token_to_id(content);
        if there.is_none_or(|there| there.to_string() != *id) {
            let there = there.map_or("does not have".to_owned(), |there| format!("has as token {there}"));
            return Err(format!(
                "`added_tokens_decoder` has `{content}` as token {id}, which {TOKENIZER} {there}: the two files do not match"
            ));
        }
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        let named: Vec<Value> = match keys.take::<Value>(key)? {
            Some(Value::Array(tokens)) => tokens,
            Some(Value::Object(tokens)) => tokens.into_iter().map(|(_, token)| token).collect(),
            _ => Vec::new(),
        };
        let texts = named.iter().filter_map(|token| token.as_str().or(token["content"].as_str()));
        if let Some(token) = texts.into_iter().find(|token| tokenizer.token_to_id(token).is_none()) {
            return Err(format!("{key} `{token}` is not in the vocabulary of {TOKENIZER}"));
        }
    }
    keys.off(&["split_special_tokens", "auto_map"])?;
    let tokens = ["bos", "eos", "pad", "unk", "sep", "cls", "mask"].map(|name| format!("{name}_token"));
    keys.harmless(&tokens.each_ref().map(String::as_str));
    // Multimodal models: the tokens that their processors insert.
    keys.harmless(&["image_token", "audio_token", "video_token"]);
    keys.harmless(TOKENIZER_CONFIG_KEYS);
    keys.harmless_beginnings(&["_commit_hash", "_from_", "unsloth_"]);
    keys.finish()
}

/// A word-level model: special tokens, then words by descending count, ties by name.
fn word_level(texts: &[&str], vocab_size: usize, special: &[String]) -> Result<tokenizers::Tokenizer> {
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
    tokenizer.to_string().parse().map_err(error("be made"))
}

fn byte_pairs(texts: &[&str], vocab_size: usize, special: &[String]) -> Result<tokenizers::Tokenizer> {
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
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(algorithm: Algorithm) -> TokenizerSpec {
        TokenizerSpec { algorithm, vocab_size: 400, special_tokens: vec!["<sep>".into()] }
    }

    #[test]
    fn configurations_of_public_tokenizers_are_read_and_what_they_cannot_mean_is_refused() {
        let tokenizer = Tokenizer::train(&["how do i brew"], &spec(Algorithm::WordLevel)).unwrap();
        let added = json!({ "1": { "content": EOS, "lstrip": false, "normalized": false, "special": true } });
        let llama_2 = json!({
            "add_bos_token": true, "add_eos_token": false, "added_tokens_decoder": added, "bos_token": "<s>",
            "clean_up_tokenization_spaces": false, "eos_token": EOS, "legacy": false,
            "model_max_length": 1e30, "pad_token": null, "padding_side": "right", "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer", "unk_token": UNKNOWN, "use_default_system_prompt": false,
        });
        let llama_3 = json!({
            "added_tokens_decoder": {}, "bos_token": "<|begin_of_text|>", "chat_template": "{{ x }}",
            "clean_up_tokenization_spaces": true, "eos_token": EOS, "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 131_072, "tokenizer_class": "PreTrainedTokenizerFast",
        });
        let qwen_3 = json!({
            "add_bos_token": false, "add_prefix_space": false, "added_tokens_decoder": added,
            "additional_special_tokens": ["<sep>"], "bos_token": null, "chat_template": "{{ x }}",
            "clean_up_tokenization_spaces": false, "eos_token": EOS, "errors": "replace", "model_max_length": 131_072,
            "pad_token": PAD, "split_special_tokens": false, "tokenizer_class": "Qwen2Tokenizer", "unk_token": null,
        });
        let transformers_5 = json!({
            "backend": "tokenizers", "eos_token": EOS, "extra_special_tokens": ["<sep>"], "is_local": true,
            "local_files_only": true, "model_max_length": 1e30, "tokenizer_class": "TokenizersBackend",
        });
        for config in [llama_2, llama_3, qwen_3.clone(), transformers_5] {
            check(&config, &tokenizer.inner).unwrap_or_else(|error| panic!("{config}: {error}"));
        }
        let error = |key: &str, value: Value| {
            let mut config = qwen_3.clone();
            config[key] = value;
            check(&config, &tokenizer.inner).unwrap_err()
        };
        assert_eq!(
            error("additional_special_tokens", json!(["<|new|>"])),
            "additional_special_tokens `<|new|>` is not in the vocabulary of tokenizer.json"
        );
        assert_eq!(
            error("added_tokens_decoder", json!({ "9": { "content": "<|new|>" } })),
            "`added_tokens_decoder` has `<|new|>` as token 9, which tokenizer.json does not have: the two files do not match"
        );
        assert!(
            error("auto_map", json!({ "AutoTokenizer": ["x.Y", null] }))
                .starts_with("`auto_map` must be off")
        );
        assert!(
            error("ban_words", json!(["no"])).contains("unknown key `ban_words` ([\"no\"]): it might change")
        );
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
