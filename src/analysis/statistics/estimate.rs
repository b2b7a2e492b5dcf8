//! What a few runs with other seeds say together: mean, sample standard deviation, 95 % interval, and whether two
//! settings differ over the seeds that both have.

use serde::Serialize;

use super::distribution::{t_quantile, t_tails};
use super::{Interval, POWER};

/// What some values say of the mean of those that they were drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub count: usize,
    pub mean: f64,
    /// With n − 1 in the denominator; none of a single value.
    pub deviation: Option<f64>,
    /// Half the width of the 95 % interval, by Student's t; none of a single value.
    pub half: Option<f64>,
}

/// The estimate from some values; none of none.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count as f64;
    let deviation = (count > 1).then(|| {
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / (count - 1) as f64).sqrt()
    });
    let half =
        deviation.map(|deviation| t_quantile(0.975, (count - 1) as f64) * deviation / (count as f64).sqrt());
    (count > 0).then_some(Estimate { count, mean, deviation, half })
}

/// What the differences of pairs come to by Student's t.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    pub interval: Interval,
    pub p: f64,
    /// The smallest difference that would have been found in four of five repetitions.
    pub detectable: f64,
}

/// The paired t test of differences; none of fewer than two, and where all are the same: they say nothing of how much they
/// might vary. The smallest detectable difference is (t₀.₉₇₅ + t₀.₈) times the standard error, the usual approximation to
/// the noncentral t.
pub fn paired_t(differences: &[f64]) -> Option<Paired> {
    let found = estimate(differences)?;
    let (half, deviation) = (found.half?, found.deviation?);
    let (count, degrees) = (found.count as f64, (found.count - 1) as f64);
    let error = deviation / count.sqrt();
    let largest = differences.iter().fold(0.0, |most: f64, difference| most.max(difference.abs()));
    // What is left of the same numbers after rounding is no variation.
    if error <= 1e-12 * largest.max(1e-3) {
        return None;
    }
    let p = t_tails(found.mean / error, degrees);
    let detectable = (t_quantile(0.975, degrees) + t_quantile(POWER, degrees)) * error;
    Some(Paired { interval: Interval { low: found.mean - half, high: found.mean + half }, p, detectable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_student_s() {
        // 4.302653 · 1.527525 / √3.
        let found = estimate(&[1.0, 2.0, 4.0]).unwrap();
        assert_eq!(found.count, 3);
        assert!((found.mean - 7.0 / 3.0).abs() < 1e-12);
        assert!((found.deviation.unwrap() - 1.527_525).abs() < 1e-6);
        assert!((found.half.unwrap() - 3.794_583).abs() < 1e-6);
    }

    #[test]
    fn one_value_has_no_interval_and_none_no_mean() {
        let one = Estimate { count: 1, mean: 3.0, deviation: None, half: None };
        assert_eq!(estimate(&[3.0]), Some(one));
        assert_eq!(estimate(&[]), None);
        assert_eq!(paired_t(&[3.0]), None);
    }

    #[test]
    fn differences_that_are_all_the_same_say_nothing_of_their_error() {
        assert_eq!((paired_t(&[0.25, 0.25, 0.25]), paired_t(&[0.0, 0.0])), (None, None));
        assert_eq!(paired_t(&[0.7 - 0.6, 0.8 - 0.7]), None, "rounding");
    }
}
