//! All tests that look at triplay from outside, in one binary: each binary links everything.

mod layers;
mod parity;
