//! What can be concluded from counts and from a few seeds: intervals, tests, agreement. Everything here works on plain
//! numbers and knows nothing of runs. Intervals are at 95 %, tests have two sides. Each function is held against scipy,
//! statsmodels or krippendorff by `tests/fixtures/statistics.json`.

mod agreement;
mod bootstrap;
mod clusters;
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
pub use bootstrap::{Bootstrap, RESAMPLES, bootstrap};
pub use clusters::{Cluster, Side, clustered, values};
pub use estimate::{Estimate, Student, estimate, over_seeds, paired_t, seeds_apart, welch_t};
pub use estimate::{least_p, sign_test};
pub use holm::holm;
pub use mcnemar::mcnemar;
pub use paired::{difference, smallest_difference};
pub use rate::{rate_interval, wilson};

/// A 95 % interval. It has a width: what would be known exactly from a few values is not known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    /// Without what no value can be.
    pub fn within(self, least: f64, most: f64) -> Interval {
        Interval { low: self.low.max(least), high: self.high.min(most) }
    }

    pub fn is_wide(&self) -> bool {
        self.high - self.low > 1e-12
    }
}

/// How a difference was tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Bootstrap,
    StudentT,
    WelchT,
    /// The sign test: all differences are the same.
    Sign,
}

/// What a test says of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tested {
    /// None where it is not known.
    pub interval: Option<Interval>,
    /// Two-sided.
    pub p: f64,
    /// The smallest difference that would have been found in four of five repetitions.
    pub detectable: Option<f64>,
    pub by: By,
}

/// Hazards below which the percentile bootstrap over them is too narrow: of five its interval covers 82 %, of ten 90 %.
pub const FEW: usize = 10;

/// The share of true effects of the smallest detectable size that a test at 0.05 would find is 80 %: the quantile of
/// the normal distribution at that share.
const POWER: f64 = 0.8;
