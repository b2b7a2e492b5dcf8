//! `tokenizer`: trains a tokenizer on texts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::{self, Texts};
use data::TextRow;
use engine::{Context, Input, Kind, Output, Purpose, Stage};
use game::SPECIAL_TOKENS;
use model::{self, Algorithm, TokenizerSpec};

/// Trains a tokenizer on texts, on whole words or on byte pairs.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tokenizer {
    /// The texts to learn from.
    data: Input<Texts>,
    /// How the tokenizer splits text.
    algorithm: Algorithm,
    /// The largest number of tokens in the vocabulary.
    #[serde(default = "default_vocabulary")]
    vocab_size: usize,
    /// Tokens that are never split, in addition to those for padding, the end of a text and unknown words.
    #[serde(default = "default_special")]
    special_tokens: Vec<String>,
}

fn default_vocabulary() -> usize {
    4096
}

fn default_special() -> Vec<String> {
    SPECIAL_TOKENS.iter().map(|token| (*token).to_owned()).collect()
}

impl Stage for Tokenizer {
    const KIND: Kind = Kind {
        name: "tokenizer",
        version: 1,
        outputs: &[Output::new("tokenizer", "tokenizer")],
        numerics: false,
        draws: false,
        excluded_from_key: &[],
    };

    const PURPOSE: Purpose = Purpose::Data;

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let rows = artifact::rows::<TextRow, _>(context, &self.data)?;
        let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        let spec = TokenizerSpec {
            algorithm: self.algorithm,
            vocab_size: self.vocab_size,
            special_tokens: self.special_tokens.clone(),
        };
        let tokenizer = model::Tokenizer::train(&texts, &spec)?;
        let folder = context.output("tokenizer");
        std::fs::create_dir(&folder)?;
        tokenizer.save(&folder)?;
        context.progress(1, 1, format!("{} tokens", tokenizer.vocab_size()));
        Ok(())
    }
}
