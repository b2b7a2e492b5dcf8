//! All tests that look at triplay from outside, in one binary: each binary links everything.

mod bad_input;
mod layers;
mod parity;
mod run;
mod space;
