//! Datasets: typed rows, their Arrow schemas, and Parquet files of them. This crate knows no stages and no models.

mod cell;
mod column;
pub mod import;
mod lines;
mod metrics;
mod parquet;
mod rows;
mod scores;

pub use cell::cell;
pub use column::{Column, Row, Sparse};
pub use lines::write_lines;
pub use metrics::{metrics, metrics_table};
pub use parquet::{
    Error, Head, Part, Result, Table, TableWriter, batches, head, is_parquet, open, read, write,
};
pub use rows::*;
pub use scores::scores;
