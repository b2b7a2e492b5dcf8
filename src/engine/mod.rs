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
mod outline;
pub mod progress;
mod reference;
mod run;
pub mod schema;
mod source;
mod spec;
mod stage;
#[cfg(test)]
mod tests;
mod tree;
mod unroll;

pub use context::{Artifact, Context};
pub use graph::{Call, Feed, Graph, GraphVariant, Node, NodeId, Numerics, Policy, Retry};
pub use input::{ArtifactType, Input, InputFile, InputVariable};
pub use manifest::manifest;
pub use memory::Memory;
pub use outline::{Edge, EdgeRole, Frame, Outline, OutlineNode, Shape, Tail, outline, outline_unrolled};
pub use run::{NodeOutput, NodeReport, Report, RunError, run};
pub use source::{Diagnostic, Diagnostics, Source, nearest};
pub use stage::{Kind, Output, Registry, Stage};

use std::io;
use std::path::Path;

use crate::store::Digest;

/// What the command line adds to a pipeline file.
pub struct LoadOptions<'a> {
    /// The `--set name=value`s.
    pub settings: &'a [String],
    /// The `--ablation`s; without any, the pipeline as it stands in the file.
    pub ablations: &'a [String],
    /// The content digest of a file or folder that the pipeline names.
    pub digest: &'a dyn Fn(&Path) -> io::Result<Digest>,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        LoadOptions { settings: &[], ablations: &[], digest: &Digest::of_path }
    }
}

/// Reads, checks and unrolls a pipeline file: everything that can be known before anything runs.
pub fn load(path: &Path, options: &LoadOptions, registry: &Registry) -> Result<Graph, Diagnostics> {
    let source = Source::read(path)?;
    let spec = spec::Pipeline::read(&source)?;
    let params = spec.parameters(&source, options.settings)?;
    let program = compile::compile(&source, &spec, &params, registry)?;
    Ok(unroll::unroll(&source, &program, options)?)
}
