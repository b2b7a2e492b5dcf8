//! Inference from counts and from a few seeds: intervals, tests, agreement. The functions take plain numbers and know nothing of
//! runs. Intervals are at 95 %, tests are two-sided. `tests/fixtures/statistics.json` compares each function with scipy,
//! statsmodels or krippendorff.

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
pub use estimate::{Estimate, Student, estimate, independent_seeds, over_seeds, paired_t, welch_t};
pub use estimate::{least_p, sign_test};
pub use holm::holm;
pub use mcnemar::mcnemar;
pub use paired::{difference, smallest_difference};
pub use rate::{rate_interval, wilson};

/// A 95 % interval. Its width is positive: a few values never determine anything exactly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Clips the interval to the possible values.
    pub fn within(self, least: f64, most: f64) -> Interval {
        Interval { low: self.low.max(least), high: self.high.min(most) }
    }

    /// Whether its ends differ by more than rounding.
    pub fn is_wide(&self) -> bool {
        self.high - self.low > 1e-12
    }
}

/// The test of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TestMethod {
    /// The percentile bootstrap over hazards.
    Bootstrap,
    /// Student's t test, paired over seeds or hazards.
    StudentT,
    /// Welch's t test of unpaired seeds.
    WelchT,
    /// The sign test: all differences are equal.
    Sign,
}

/// The result of a test of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tested {
    /// `None` if it is unknown.
    pub interval: Option<Interval>,
    /// Two-sided.
    pub p: f64,
    /// The smallest difference that would be found in four of five repetitions.
    pub detectable: Option<f64>,
    /// The test that was used.
    pub by: TestMethod,
}

/// With fewer hazards the interval of the percentile bootstrap is too narrow: with five its coverage is 82 %, with ten 90 %.
pub const FEW: usize = 10;

/// The power that defines the smallest detectable effect: a test at 0.05 finds an effect of this size with probability 80 %.
const POWER: f64 = 0.8;
