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
mod params;
mod tokenizer;
mod weights;

pub use architecture::Architecture;
pub use chat::{Arguments, FIXED_DAY, GIVEN, Message};
pub use checkpoint::Checkpoint;
pub use compute::Compute;
pub use config::Config;
pub use decoder::{Decoder, Packed, Purpose};
pub use embedder::Embedder;
pub use keys::is_there;
pub use lora::{Adapter, LoraConfig};
pub use marks::{ControlTokens, RenderedPrompt};
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
    #[error("cannot read {path}: {cause}")]
    Read { path: std::path::PathBuf, cause: std::io::Error },
    #[error("cannot write {path}: {reason}")]
    Write { path: std::path::PathBuf, reason: String },
    #[error("{path}: {reason}")]
    Invalid { path: std::path::PathBuf, reason: String },
    #[error("the tokenizer cannot {action}: {reason}")]
    Tokenizer { action: &'static str, reason: String },
    #[error("the model's logits must be finite, found NaN or infinity: its weights are damaged")]
    Broken,
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

pub type Result<T> = std::result::Result<T, Error>;
