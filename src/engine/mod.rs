//! The pipeline engine: YAML to a graph of content-addressed nodes, and the runner that executes what is
//! missing. It knows stages only as the [`Stage`] trait: nothing of machine learning, Arrow or Parquet.
//!
//! YAML → [`source`]/[`tree`] (located values) → [`spec`] (what was typed) → [`decode`] and
//! [`compile`] (what is meant: typed, ordered, resolved) → [`unroll`] (the [`graph`]) → [`run`] (keys, cache, execution).

mod compile;
mod context;
mod decode;
mod graph;
mod input;
mod manifest;
mod memory;
pub mod progress;
mod reference;
mod run;
mod source;
mod spec;
mod stage;
#[cfg(test)]
mod tests;
mod tree;
mod unroll;

pub use context::{Artifact, Context};
pub use graph::{Feed, Graph, Node, NodeId};
pub use input::{ArtifactType, Input, InputFile};
pub use manifest::manifest;
pub use memory::Memory;
pub use run::{NodeOutput, NodeReport, Report, RunError, run};
pub use source::{Diagnostic, Source, nearest};
pub use stage::{Kind, Output, Registry, Stage};

use std::path::Path;

/// Reads, checks and unrolls a pipeline file: everything that can be known before anything runs.
/// `settings` are the `--set name=value` of the command line.
pub fn load(path: &Path, settings: &[String], registry: &Registry) -> Result<Graph, Diagnostic> {
    let source = Source::read(path)?;
    let spec = spec::Pipeline::read(&source)?;
    let params = spec.parameters(&source, settings)?;
    let program = compile::compile(&source, &spec, &params, registry)?;
    unroll::unroll(&source, &program)
}
