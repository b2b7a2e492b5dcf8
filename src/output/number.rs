//! Numbers for people, rounded by one rule in all commands and in the report's page.

/// A number with so many digits after the point, ties away from zero as in JavaScript's `toFixed`: 46.25 is `46.3`, while Rust's
/// own formatting would give `46.2`. Zero has no sign.
pub fn fixed(value: f64, digits: usize) -> String {
    let (size, power) = (value.abs(), 10f64.powi(digits as i32));
    let scaled = size * power;
    // The product is exact where the fused one leaves no rest.
    let is_tie = scaled.fract() == 0.5 && size.mul_add(power, -scaled) == 0.0;
    let text = format!("{:.digits$}", if is_tie { size.next_up() } else { size });
    if value < 0.0 && !is_zero(&text) { format!("-{text}") } else { text }
}

/// The same, but a number that is not 0 never reads as 0: it gets as many digits as it needs, 0.04 instead of 0.0.
pub fn visible_fixed(value: f64, digits: usize) -> String {
    // Differences of equal numbers may leave rounding errors.
    const NOTHING: f64 = 1e-12;
    const MOST_DIGITS: usize = 6;
    let text = fixed(value, digits);
    if !is_zero(&text) || value.abs() < NOTHING {
        return text;
    }
    let more = (digits + 1..=MOST_DIGITS).map(|digits| fixed(value, digits)).find(|text| !is_zero(text));
    more.unwrap_or_else(|| format!("{value:.0e}"))
}

/// Whether a number's text has no digit but 0.
fn is_zero(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_away_from_zero_and_other_numbers_to_the_nearest() {
        let shown = [46.25, -46.25, 0.5, 2.5, 46.35, 46.249999, 1e300, f64::NAN].map(|value| fixed(value, 1));
        assert_eq!(shown[..6], ["46.3", "-46.3", "0.5", "2.5", "46.4", "46.2"]);
        assert_eq!((shown[6].len(), shown[7].as_str()), (303, "NaN"));
        assert_eq!([0.5, 1.5, 2.5, -2.5].map(|value| fixed(value, 0)), ["1", "2", "3", "-3"]);
        // 1.005 is a little less than that.
        assert_eq!([1.005, 0.125].map(|value| fixed(value, 2)), ["1.00", "0.13"]);
        assert_eq!([-0.0, -0.04].map(|value| fixed(value, 1)), ["0.0", "0.0"]);
    }

    #[test]
    fn a_small_number_is_not_nothing() {
        let shown = [0.0, 0.04, -0.04, 0.004, 2e-9, 1e-17].map(|value| visible_fixed(value, 1));
        assert_eq!(shown, ["0.0", "0.04", "-0.04", "0.004", "2e-9", "0.0"]);
    }
}
