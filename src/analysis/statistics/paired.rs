//! The difference of two rates over the same items: its interval, and the smallest detectable difference.

use super::Interval;
use super::distribution::{Z, Z_POWER};

/// Five pairs that all differ in one direction have a p-value of 0.0625.
const FEWEST: u64 = 6;

/// Tango's score interval of the difference of paired proportions, (gained − lost) / count (Tango, "Equivalence test and
/// confidence interval for the difference in proportions for the paired-sample design", 1998): the differences Δ that the score
/// test does not reject. It stays within −1 and 1 and is valid even if nothing or everything changed. None if `count` is 0.
pub fn difference(gained: u64, lost: u64, count: u64) -> Option<Interval> {
    if count == 0 || gained + lost > count {
        return None;
    }
    let (b, c, n) = (gained as f64, lost as f64, count as f64);
    let found = (b - c) / n;
    // Decreases in Δ.
    let score = |delta: f64| {
        // The most likely share of losses if the difference is Δ.
        let (a2, a1, a0) = (2.0 * n, -b - c + (2.0 * n - b + c) * delta, -c * delta * (1.0 - delta));
        let root = (a1 * a1 - 4.0 * a2 * a0).max(0.0).sqrt();
        // The form of the root without cancellation.
        let losses = if a1 > 0.0 { -2.0 * a0 / (a1 + root) } else { (root - a1) / (2.0 * a2) };
        let variance = n * (2.0 * losses + delta * (1.0 - delta));
        let away = b - c - n * delta;
        if variance > 0.0 { away / variance.sqrt() } else { away * f64::INFINITY }
    };
    let solve = |mut inside: f64, mut outside: f64, limit: f64| {
        if outside == inside {
            return outside;
        }
        for _ in 0..100 {
            let middle = 0.5 * (inside + outside);
            if score(middle).abs() < limit { inside = middle } else { outside = middle }
        }
        0.5 * (inside + outside)
    };
    Some(Interval { low: solve(found, -1.0, Z), high: solve(found, 1.0, Z) })
}

/// The smallest difference of paired proportions that McNemar's test at 0.05 finds in four of five repetitions, with `count`
/// pairs, of which a share `discordant` differs: the δ of n = (z₀.₉₇₅ √ψ + z₀.₈ √(ψ − δ²))² / δ² (Miettinen 1968; Connor, "Sample
/// size for testing differences in proportions for the paired-sample design", 1987), which is a quadratic equation in δ. A
/// difference cannot exceed the share of discordant pairs: if δ would be more than ψ, the solution with ψ = δ is returned. None
/// with too few pairs to show anything.
pub fn smallest_difference(discordant: f64, count: u64) -> Option<f64> {
    let n = count as f64;
    let of = |psi: f64| {
        let inner = (n + Z_POWER * Z_POWER - Z * Z).max(0.0);
        psi.sqrt() * (Z * n.sqrt() + Z_POWER * inner.sqrt()) / (n + Z_POWER * Z_POWER)
    };
    if count < FEWEST {
        return None;
    }
    let direct = of(discordant);
    // δ(ψ) is √ψ times a constant, so δ(ψ) = ψ for ψ equal to the square of that constant.
    Some(if direct >= discordant { of(1.0).powi(2) } else { direct })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::mcnemar;
    use super::*;

    #[test]
    fn where_nothing_changed_the_interval_is_that_of_a_rare_change() {
        let found = difference(0, 0, 100).unwrap();
        let rare = Z * Z / (100.0 + Z * Z);
        assert!((found.high - rare).abs() < 1e-12 && (found.low + rare).abs() < 1e-12, "{found:?}");
        assert_eq!((difference(0, 0, 0), difference(2, 2, 3)), (None, None));
        let all = difference(10, 0, 10).unwrap();
        assert!(all.high == 1.0 && all.low > 0.4, "{all:?}");
    }

    #[test]
    fn the_smallest_difference_is_found_in_four_of_five_samples() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (discordant, count) in [(0.3, 400u64), (0.02, 200), (0.0, 500)] {
            let effect = smallest_difference(discordant, count).unwrap();
            let gain = (discordant.max(effect) + effect) / 2.0;
            let loss = gain - effect;
            let repetitions = 2000;
            let found = (0..repetitions).filter(|_| {
                let (mut b, mut c) = (0, 0);
                for _ in 0..count {
                    let drawn: f64 = rng.random();
                    b += u64::from(drawn < gain);
                    c += u64::from(drawn >= gain && drawn < gain + loss);
                }
                mcnemar(b, c) < 0.05
            });
            let power = found.count() as f64 / f64::from(repetitions);
            assert!((0.7..0.87).contains(&power), "{discordant} of {count}: {power}");
        }
        assert_eq!(smallest_difference(0.5, 5), None);
        assert!(smallest_difference(1.0, 6).unwrap() < 1.0);
    }
}
