//! What can be concluded from counts and from a few seeds: intervals, tests, agreement. Everything here works on plain
//! numbers and knows nothing of runs. Intervals are at 95 %, tests have two sides. Each function is held against scipy,
//! statsmodels or krippendorff by `tests/fixtures/statistics.json`.

mod agreement;
mod bootstrap;
mod distribution;
mod estimate;
#[cfg(test)]
mod fixtures;
mod holm;
mod mcnemar;
mod paired;
mod rate;

use serde::Serialize;

pub use agreement::{Kappa, alpha, kappa};
pub use bootstrap::{Bootstrap, Cluster, RESAMPLES, Side, bootstrap, bootstrap_apart};
pub use estimate::{Estimate, Paired, estimate, paired_t};
pub use holm::holm;
pub use mcnemar::mcnemar;
pub use paired::{difference, smallest_difference};
pub use rate::wilson;

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// The share of true effects of the smallest detectable size that a test at 0.05 would find is 80 %: the quantile of
/// the normal distribution at that share.
const POWER: f64 = 0.8;
