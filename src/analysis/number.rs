//! Numbers and intervals in tables.

use super::statistics::Estimate;
use output::{fixed, visible_fixed};

/// A share in percent, without the sign.
pub(crate) fn percent(share: f64) -> String {
    visible_fixed(100.0 * share, 1)
}

/// A number that is not a share: three decimals, or scientific notation if small.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if (1e-12..0.005).contains(&size) => format!("{value:.1e}"),
        size if size >= 1e15 => format!("{value:.3e}"),
        _ => fixed(value, 3),
    }
}

/// A mean, and in brackets its interval; the mean alone for one seed.
pub(crate) fn with_interval(estimate: Estimate, shown: impl Fn(f64) -> String) -> String {
    format!("{} {}", shown(estimate.mean), interval(estimate, &shown)).trim_end().to_owned()
}

/// An interval in brackets, `[?]` if it is unknown although there are several seeds; empty for one seed.
pub(crate) fn interval(estimate: Estimate, shown: impl Fn(f64) -> String) -> String {
    match estimate.interval {
        Some(interval) => format!("[{}, {}]", shown(interval.low), shown(interval.high)),
        None if estimate.count > 1 => "[?]".to_owned(),
        None => String::new(),
    }
}
