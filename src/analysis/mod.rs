//! What a run came to: its metrics in one table, and the models that it kept where a person finds them.

mod collect;
mod halted;
mod table;

pub use collect::{collect, link_models, read, write};
pub use halted::{LIMIT, PHASE, halted, halted_line, tripped};
pub use table::table;
