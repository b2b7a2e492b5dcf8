//! `triplay report` and the page of `triplay ui`: what runs came to, for people to look at.

mod model;

pub use model::*;
