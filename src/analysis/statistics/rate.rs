//! The interval of a single rate.

use super::Interval;
use super::distribution::Z;

/// Wilson's score interval of `hits` of `count` (Wilson 1927; Agresti and Coull 1998), within 0 and 1 and not empty at
/// either end; none of nothing.
pub fn wilson(hits: u64, count: u64) -> Option<Interval> {
    if count == 0 || hits > count {
        return None;
    }
    let (n, rate, z2) = (count as f64, hits as f64 / count as f64, Z * Z);
    let middle = (rate + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt();
    // Rounding must not keep an end away from what it is.
    let low = if hits == 0 { 0.0 } else { middle - half };
    let high = if hits == count { 1.0 } else { middle + half };
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_at_its_end_still_has_an_interval() {
        let none = wilson(0, 10).unwrap();
        assert!(none.low == 0.0 && (none.high - 0.277_533).abs() < 1e-6, "{none:?}");
        assert_eq!(wilson(10, 10).unwrap().high, 1.0);
        assert_eq!((wilson(0, 0), wilson(2, 1)), (None, None));
    }
}
