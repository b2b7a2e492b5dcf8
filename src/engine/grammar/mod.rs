//! From YAML to the graph.
//!
//! [`source`]/[`tree`] (located values) → [`spec`] (what was typed) → [`params`] (`--set`, ablations, `$name`)
//! → [`decode`] (typed, with its [`matrix`] and [`policy`]) → [`compile`] ([`order`]ed, resolved in its [`scope`], held against
//! what feeds it: [`maker`])
//! → [`unroll`] (the [`super::graph`]). What is wrong on the way is gathered in [`errors::Errors`], so that all of it
//! is said at once; what has no end when it is written out ends by its [`budget`]. [`outline`] and [`schema`] show the
//! same to people and to editors.

mod budget;
mod compile;
mod decode;
mod diagnostic;
mod errors;
mod extends;
mod labels;
mod load;
mod maker;
mod matrix;
mod order;
mod outline;
mod params;
mod policy;
mod reference;
pub mod schema;
mod scope;
mod source;
mod spec;
mod syntax;
mod tree;
mod unroll;
mod wording;

pub use diagnostic::{Diagnostic, Diagnostics, nearest};
pub use load::{LoadOptions, load, read_stage};
pub use outline::{Edge, EdgeRole, Frame, Outline, OutlineNode, Shape, Tail, outline, outline_unrolled};
pub use reference::is_name;
