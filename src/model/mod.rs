//! Models as Hugging Face folders: configuration, parameters, the decoder, the tokenizer. Knows neither
//! training nor sampling.

mod checkpoint;
mod config;
mod decoder;
mod params;
mod tokenizer;

pub use checkpoint::Checkpoint;
pub use config::{Architecture, Config};
pub use decoder::{Decoder, Packed};
pub use params::{Params, save};
pub use tokenizer::{Algorithm, Tokenizer, TokenizerSpec};

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
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

pub type Result<T> = std::result::Result<T, Error>;
