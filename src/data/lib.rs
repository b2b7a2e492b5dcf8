//! Datasets: typed rows, their Arrow schemas, and Parquet files of them. Knows no stages and no models.

mod cell;
mod column;
pub mod import;
mod parquet;
mod rows;

pub use cell::cell;
pub use column::{Column, Row};
pub use parquet::{Error, Head, Part, Result, Table, TableWriter, batches, head, open, read, write};
pub use rows::*;
