//! `triplay report` and the page of `triplay ui`: the results of runs, for people.
//!
//! `source` reads a run, `gather` makes the data of its report (`model`): the metrics (`book`) as `headline`,
//! `panels` and `matrices`, the pipeline as `graph`, the lineage of models (`made_of`), and attacks and responses
//! (`samples`). `html` inserts the data into the page of `page/`, `live` keeps them up to date for `server`.

mod book;
mod gather;
mod graph;
mod headline;
mod html;
mod live;
mod made_of;
mod matrices;
mod model;
mod panels;
mod samples;
mod server;
mod source;

pub use gather::{Gathered, Texts, report, samples};
pub use html::{is_report, report as html};
pub use live::Live;
pub use model::*;
pub use server::Page;
pub use source::Source;
