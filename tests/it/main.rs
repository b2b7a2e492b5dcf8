//! All tests that look at triplay from outside, in one binary: each binary links everything.

mod bad_input;
mod commands;
mod compare;
mod crash;
mod docs;
mod exec;
mod exports;
mod frozen;
mod graph;
mod guards;
mod huggingface;
mod import;
mod judge;
mod layers;
mod method;
mod models;
mod parity;
mod places;
mod query;
mod report;
mod results;
mod run;
mod schema;
mod space;
mod wrap_up;
mod wrong;
