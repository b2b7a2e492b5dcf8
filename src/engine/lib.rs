//! The pipeline engine: turns YAML into a graph of content-addressed nodes, and executes the missing ones. It knows stages
//! only by the [`Stage`] trait, and nothing about machine learning, Arrow or Parquet.
//!
//! `grammar` makes a `graph` from YAML. `plan` finds by their keys (`job`) the nodes that are done, `run` executes
//! the others (`execute`).

mod context;
mod copies;
mod decision;
mod execute;
mod explain;
mod grammar;
mod graph;
mod input;
mod job;
mod keys;
mod kind;
mod memory;
mod plan;
pub mod progress;
mod report;
mod resources;
mod retention;
mod run;
mod runner;
mod stage;
#[cfg(test)]
mod tests;
mod threads;
mod upstream;
mod worker;

pub use context::failed_folder;
pub use context::{Artifact, Context, Endpoint};
pub use decision::{DECISION, stops, write_decision};
pub use explain::{Change, What, differences};
pub use grammar::{
    Diagnostic, Diagnostics, Edge, EdgeRole, Frame, LoadOptions, Outline, OutlineNode, SITE_FILE, Shape,
    Site, StageText, Tail, is_name, load, load_shown, nearest, outline, outline_unrolled, read_stage, schema,
};
pub use graph::{
    Assigned, Graph, GraphVariant, InputBinding, Loop, Node, NodeId, On, Policy, Publish, StageTemplate,
};
pub use input::{ArtifactType, Input, InputFile, InputVariable, Inputs, Served, Through};
pub use job::{Content, Job, Numerics, Retried, Retry, in_place, key_of};
pub use kind::{Kind, KindFacts, Output, Part, Purpose};
pub use memory::Memory;
pub use plan::{Plan, Reason, State, Why, digest_of_keys};
pub use report::{Checked, Difference, NodeOutput, NodeReport, Report, RunError};
pub use resources::{Limit, LimitOf};
pub use run::{RunOptions, run};
pub use stage::{CheckError, FileChanged, Registry, Stage, Transient};
pub use upstream::{Feeder, Upstream, Views};
pub use worker::{End, Program, end_processes, work};
