//! From YAML to the graph.
//!
//! [`source`]/[`tree`] (values with their places) → [`spec`] (the file as typed) → [`params`] (`--set`, ablations, `$name`)
//! → [`decode`] (typed stages, with [`matrix`] and [`policy`]) → [`compile`] ([`order`]ed, resolved in a [`scope`], checked
//! against the stages that feed them: [`producer`]) → [`unroll`] (the [`super::graph`]).
//!
//! [`roles`] puts what stages share below their own keys, by the keys that their kind knows ([`known`]); [`show`] says by the file's
//! [`sections`] where a value comes from. [`settings`] reads `--set`, [`site`] what the place has, and [`uses`] warns of parameters that nothing uses. [`errors::Errors`] collects all errors on the
//! way, so that they are reported together. [`budget`] limits the size of the
//! expanded pipeline. `outline` shows a pipeline to people, [`schema`] the grammar to editors.

mod budget;
mod compile;
mod decode;
mod diagnostic;
mod errors;
mod extends;
mod known;
mod labels;
mod load;
mod matrix;
mod order;
mod outline;
mod params;
mod policy;
mod producer;
mod reference;
mod roles;
pub mod schema;
mod scope;
mod sections;
mod settings;
mod show;
mod site;
mod source;
mod spec;
mod syntax;
mod tree;
mod unroll;
mod uses;
mod wording;

pub use diagnostic::{Diagnostic, Diagnostics, nearest};
pub use load::{LoadOptions, load, read_stage};
pub use outline::{Edge, EdgeRole, Frame, Outline, OutlineNode, Shape, Tail, outline, outline_unrolled};
pub use reference::is_name;
pub use show::{StageText, load_shown};
pub use site::{SITE_FILE, Site};
