//! The client of the worker that computes training steps in PyTorch (`trainers/torch`): starts it, keeps it warm between steps,
//! gives it jobs, and checks what it answers. A job is files to files, so that each step is a function of its inputs however long
//! the worker has lived. It knows no loss and no model.

mod answer;
mod batch;
mod config;
mod package;
mod pipes;
mod tensors;
mod trouble;
mod worker;

pub use answer::{Answer, PairMeans, Report};
pub use batch::Batch;
pub use config::{Config, Device};
pub use tensors::{Wanted, read};
pub use trouble::Trouble;
pub use worker::{Watch, ask};
