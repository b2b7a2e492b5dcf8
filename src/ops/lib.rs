//! Differentiable operations that candle lacks or has without a gradient. Every operation has two implementations: fused for
//! f32 on the CPU, otherwise a composition of candle's operations. A fused operation passes over its data once in each
//! direction, in parallel, and its sums have an order that does not depend on the number of threads. Knows tensors, not
//! models.
//!
//! Layout: rows of tokens are packed. The N tokens of all rows follow each other without padding.

// The heads and columns of one buffer interleave, so the threads that write them cannot share it as slices.
#![allow(unsafe_code)]

mod attention;
mod cache;
mod composition;
mod cpu;
mod divergence;
mod kv_cache;
mod linear;
mod log_probability;
mod quantized;
mod rms_norm;
mod rope;
mod rows;
mod swiglu;
mod value;

pub use attention::{attention_of, causal_attention};
pub use cache::Cache;
pub use composition::{add, add_bias, cast};
pub use cpu::{configure_candle, on_cpu_f32, read, write};
pub use divergence::{Comparison, OutputHead, compared_log_probabilities};
pub use linear::{add_linear, add_low_rank, linear, select_rows};
pub use log_probability::token_log_probabilities;
pub use quantized::{quantized_linear, quantized_rows};
pub use rms_norm::rms_norm;
pub use rope::Rope;
pub use rows::{Rows, Spans};
pub use swiglu::swiglu;
pub use value::{Gradients, Value};

#[cfg(test)]
mod gradient_check;
