//! `triplay report` and the page of `triplay ui`: what runs came to, for people to look at.
//!
//! [`source`] reads a run, [`gather`] makes the data of a report of it ([`model`]): the metrics ([`book`]) as [`headline`],
//! [`panels`] and [`matrices`], the pipeline as [`graph`], where models come from ([`made_of`]), and what was asked and
//! answered ([`samples`]). [`html`] puts it into the page of `page/`, [`live`] keeps it up to date for [`server`].

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
