//! What a few runs with other seeds say together: mean, sample standard deviation, 95 % interval.

use serde::Serialize;

/// Quantiles of Student's t at 0.975 for 1 to 30 degrees of freedom.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The same quantile of the normal distribution.
const Z: f64 = 1.959_964;

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
    let half = deviation.map(|deviation| t_quantile(count - 1) * deviation / (count as f64).sqrt());
    (count > 0).then_some(Estimate { count, mean, deviation, half })
}

/// The 0.975 quantile of Student's t: a table, and beyond it the first two terms of the Cornish-Fisher expansion.
fn t_quantile(degrees: usize) -> f64 {
    if let Some(quantile) = degrees.checked_sub(1).and_then(|index| T.get(index)) {
        return *quantile;
    }
    let n = degrees as f64;
    Z + (Z.powi(3) + Z) / (4.0 * n) + (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / (96.0 * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_student_s() {
        // R: t.test(c(1, 2, 4))$conf.int is 2.333333 ± 3.794572.
        let found = estimate(&[1.0, 2.0, 4.0]).unwrap();
        assert_eq!(found.count, 3);
        assert!((found.mean - 7.0 / 3.0).abs() < 1e-12);
        assert!((found.deviation.unwrap() - 1.527_525).abs() < 1e-6);
        assert!((found.half.unwrap() - 3.794_572).abs() < 1e-3);
    }

    #[test]
    fn one_value_has_no_interval_and_none_no_mean() {
        let one = Estimate { count: 1, mean: 3.0, deviation: None, half: None };
        assert_eq!(estimate(&[3.0]), Some(one));
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn beyond_the_table_quantiles_go_on_and_down() {
        // qt(0.975, c(31, 60, 1000)) of R.
        for (degrees, expected) in [(31, 2.0395), (60, 2.0003), (1000, 1.9623)] {
            assert!((t_quantile(degrees) - expected).abs() < 2e-4, "{degrees}");
        }
        assert!((2..200).all(|degrees| t_quantile(degrees) < t_quantile(degrees - 1)));
    }
}
