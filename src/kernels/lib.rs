//! Vectorised loops over `f32`, and matrix products. Sums have one order, whatever the number of threads. Knows slices, not
//! tensors.

// Instruction sets found at run time, and blocks of a product that threads write side by side, have no safe form.
#![allow(unsafe_code)]

mod product;
mod simd;

pub use product::{Left, Matrix, PANEL, Panels, Right, TILE_ROWS, matmul, matmul_panels, multiply};
pub use simd::{dot, exp, exponentials, fold, max, multiply_add, sigmoid, softmax, sum};
