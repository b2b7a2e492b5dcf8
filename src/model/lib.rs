//! Models as Hugging Face folders: configuration, parameters, adapters, the decoder, the tokenizer; and frozen
//! ones as GGUF files and sentence encoders. Knows neither training nor sampling.

mod architecture;
mod chat;
mod checkpoint;
mod compute;
mod config;
mod decoder;
mod embedder;
mod gguf;
mod gguf_header;
mod growth;
mod harmless;
mod keys;
mod lora;
mod marks;
mod packed;
mod params;
mod tokenizer;
mod weights;

pub use architecture::Architecture;
pub use chat::{Arguments, FIXED_DAY, GIVEN, Message};
pub use checkpoint::Checkpoint;
pub use compute::Compute;
pub use config::Config;
pub use decoder::{Decoder, Purpose};
pub use embedder::Embedder;
pub use keys::is_there;
pub use lora::{Adapter, LoraConfig};
pub use marks::{ControlTokens, RenderedPrompt};
pub use packed::{Completions, Packed, by_prompt};
pub use params::{Params, save};
pub use tokenizer::{Algorithm, Tokenizer, TokenizerSpec};

/// The files of a model's folder that are read; `*` stands for any beginning of a name. The optimizer's state, and the record
/// of a halted phase, belong to models that triplay trained.
pub const FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "*.gguf",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "halted.json",
    "beyond_limits.json",
];

/// The files of a tokenizer's folder that are read.
pub const TOKENIZER_FILES: &[&str] = &["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Why a model could not be read, made or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What the system reported.
        cause: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {reason}")]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A file does not hold what it must, or the parts of a model do not fit each other.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file or folder.
        path: std::path::PathBuf,
        /// The rule, and what was found.
        reason: String,
    },
    /// The tokenizers crate refused.
    #[error("the tokenizer cannot {action}: {reason}")]
    Tokenizer {
        /// What was tried, such as `encode`.
        action: &'static str,
        /// What it reported.
        reason: String,
    },
    /// A logit is NaN or infinite.
    #[error("the model's logits must be finite, found NaN or infinity: its weights are damaged")]
    Broken,
    /// An operation on tensors failed, as when memory is exhausted.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A result whose error is that of a model.
pub type Result<T> = std::result::Result<T, Error>;
