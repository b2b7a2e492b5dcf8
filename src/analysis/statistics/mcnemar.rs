//! McNemar's exact test: among the pairs with different outcomes, are both directions equally frequent?

use std::f64::consts::{LN_2, PI};

/// The two-sided p-value from the discordant counts: 2 · P(X ≤ min(b, c)), at most 1, where X is binomial with b + c trials and
/// probability ½ (McNemar 1947, exact form; `statsmodels.stats.contingency_tables.mcnemar`). The order of the two does not
/// matter.
pub fn mcnemar(b: u64, c: u64) -> f64 {
    let (fewer, all) = (b.min(c), b + c);
    if b == c {
        return 1.0;
    }
    // The largest term of the tail from its logarithm, the others by their ratio to the one before.
    let (mut term, mut tail) = (1.0, 1.0);
    for k in (1..=fewer).rev() {
        term *= k as f64 / (all - k + 1) as f64;
        tail += term;
        if term < 1e-17 * tail {
            break;
        }
    }
    (2.0 * (ln_binomial_half(fewer, all) + f64::ln(tail)).exp()).min(1.0)
}

/// ln of the binomial probability of `k` of `n` at ½, by Loader's saddle point ("Fast and accurate computation of binomial
/// probabilities", 2000). Unlike differences of ln n!, it keeps all digits if n is large.
fn ln_binomial_half(k: u64, n: u64) -> f64 {
    if k == 0 || k == n {
        return -(n as f64) * LN_2;
    }
    let (own, other, all) = (k as f64, (n - k) as f64, n as f64);
    let away = (other - own) / all;
    let deviance = 0.5 * all * ((1.0 - away) * (-away).ln_1p() + (1.0 + away) * away.ln_1p());
    stirling(n) - stirling(k) - stirling(n - k) - deviance + 0.5 * (all / (2.0 * PI * own * other)).ln()
}

/// ln n! minus Stirling's approximation of it, for n > 0.
fn stirling(n: u64) -> f64 {
    let x = n as f64;
    if n < 16 {
        let factorial: f64 = (2..=n).map(|factor| factor as f64).product();
        return factorial.ln() - (0.5 * (2.0 * PI * x).ln() + x * x.ln() - x);
    }
    let square = x * x;
    (1.0 / 12.0
        - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / (1188.0 * square)) / square) / square)
            / square)
        / x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_counts_are_as_by_hand() {
        assert_eq!((mcnemar(0, 0), mcnemar(7, 7)), (1.0, 1.0));
        assert!((mcnemar(0, 6) - 2.0 / 64.0).abs() < 1e-15);
        assert!((mcnemar(1, 5) - 2.0 * 7.0 / 64.0).abs() < 1e-15);
        assert_eq!(mcnemar(5, 1), mcnemar(1, 5));
        assert_eq!(mcnemar(3, 4), 1.0);
    }
}
