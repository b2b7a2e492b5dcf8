//! Differentiable operations that candle lacks or has without a gradient, fused for the CPU: each is one
//! pass over its data, forward and backward, in parallel, with sums in an order that does not depend on the
//! number of threads. Knows tensors, not models.
//!
//! Layout: rows of tokens are packed, N tokens of all rows one after the other, without padding.

mod add;
mod attention;
mod cpu;
mod log_probability;
mod rms_norm;
mod simd;
mod swiglu;

pub use add::add;
pub use attention::{KvCache, Rope, Rows, causal_attention};
pub use cpu::keep_candle_to_one_thread;
pub use log_probability::{log_softmax, token_log_probabilities};
pub use rms_norm::rms_norm;
pub use swiglu::swiglu;

#[cfg(test)]
mod gradient_check;
