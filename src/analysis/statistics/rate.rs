//! The interval of a single rate.

use super::clusters::side_values;
use super::distribution::{Z, t_quantile};
use super::{Interval, Side, estimate};

/// Wilson's score interval of `hits` of `count` (Wilson 1927; Agresti and Coull 1998), within 0 and 1, with positive width at
/// either end; `None` if `count` is 0.
pub fn wilson(hits: u64, count: u64) -> Option<Interval> {
    (count > 0 && hits <= count).then(|| score(hits as f64 / count as f64, count as f64))
}

/// Wilson's interval of a rate over `n` observations, which need not be an integer.
fn score(rate: f64, n: f64) -> Interval {
    let z2 = Z * Z;
    let middle = (rate + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt();
    // Rounding must not shift an exact end.
    let low = if rate == 0.0 { 0.0 } else { middle - half };
    let high = if rate == 1.0 { 1.0 } else { middle + half };
    Interval { low, high }
}

/// The interval of the rate of attempts at some hazards. With one attempt at each it is [`wilson`]'s. Otherwise attempts at a
/// hazard are alike, and it is Wilson's with the effective number of observations r(1 − r) / s², where s is the standard error of
/// the rate r over hazards, but at most the number of attempts. With few hazards s is uncertain, so that number is multiplied by
/// (z₀.₉₇₅ / t₀.₉₇₅)² with one degree of freedom less than hazards (Korn and Graubard, "Confidence intervals for proportions with
/// small expected number of positive counts estimated from survey data", 1998; Franco et al., Journal of Survey Statistics and
/// Methodology 7, 2019). For a rate of 0 or 1 each hazard counts once.
///
/// A quantity that is not a share of the attempts has Student's interval over hazards. None for one hazard with several attempts,
/// which does not show how others vary, and without hazards.
pub fn rate_interval(hazards: &[Side]) -> Option<Interval> {
    let count = hazards.len() as u64;
    let is_share = |side: &Side| (0.0..=side.count).contains(&side.sum);
    let is_single = |side: &Side| side.count == 1.0 && (side.sum == 0.0 || side.sum == 1.0);
    if hazards.iter().all(is_single) {
        return wilson(hazards.iter().filter(|side| side.sum > 0.0).count() as u64, count);
    }
    let over = estimate(&side_values(hazards)).filter(|over| over.count > 1)?;
    if !hazards.iter().all(is_share) {
        return over.interval;
    }
    let mut total = Side::default();
    hazards.iter().for_each(|side| total.add(side, 1.0));
    let (rate, attempts) = (total.rate(), total.count);
    if total.sum == 0.0 || total.sum == total.count {
        return Some(score(rate, count as f64));
    }
    let error = over.deviation? / (count as f64).sqrt();
    let worth = (rate * (1.0 - rate) / (error * error)).min(attempts);
    Some(score(rate, worth * (Z / t_quantile(0.975, (count - 1) as f64)).powi(2)))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Beta, Binomial, Distribution};

    use super::*;

    #[test]
    fn a_rate_at_its_end_still_has_an_interval() {
        let none = wilson(0, 10).unwrap();
        assert!(none.low == 0.0 && (none.high - 0.277_533).abs() < 1e-6, "{none:?}");
        assert_eq!(wilson(10, 10).unwrap().high, 1.0);
        assert_eq!((wilson(0, 0), wilson(2, 1)), (None, None));
    }

    #[test]
    fn attempts_at_one_hazard_are_worth_less_than_as_many_hazards() {
        let of = |sides: &[(f64, f64)]| {
            rate_interval(&sides.iter().map(|&(sum, count)| Side { sum, count }).collect::<Vec<_>>())
        };
        assert_eq!(of(&[(1.0, 1.0), (0.0, 1.0), (0.0, 1.0)]), wilson(1, 3));
        // All attempts at a hazard are equal: they count as one, minus the correction for few hazards.
        let same = of(&[(3.0, 3.0), (0.0, 3.0), (0.0, 3.0), (0.0, 3.0)]).unwrap();
        let one = wilson(1, 4).unwrap();
        assert!(same.low < one.low && same.high > one.high, "{same:?} {one:?}");
        // No hazard differs from another: the effective number is the number of attempts, not more.
        let even = of(&[(1.0, 2.0); 500]).unwrap();
        let all = wilson(500, 1000).unwrap();
        assert!(((even.high - even.low) / (all.high - all.low) - 1.0).abs() < 0.01, "{even:?} {all:?}");
        assert_eq!(of(&[(0.0, 3.0), (0.0, 4.0)]), wilson(0, 2));
        assert_eq!(of(&[(4.0, 4.0), (3.0, 3.0)]), wilson(2, 2));
        assert_eq!((of(&[(1.0, 2.0)]), of(&[])), (None, None));
        assert!(of(&[(7.0, 2.0), (9.0, 2.0)]).unwrap().high > 4.0, "no share");
    }

    #[test]
    fn the_interval_of_alike_attempts_covers_the_rate_of_all_hazards() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        for (hazards, attempts, a, b) in [(9, 6, 0.2, 0.2), (16, 4, 0.3, 2.0), (80, 3, 1.0, 4.0)] {
            let (chance, repetitions) = (Beta::new(a, b).unwrap(), 1500);
            let (mut of_hazards, mut of_attempts) = (0, 0);
            for _ in 0..repetitions {
                let hit =
                    |rng: &mut ChaCha8Rng| Binomial::new(attempts, chance.sample(rng)).unwrap().sample(rng);
                let sides: Vec<Side> = (0..hazards)
                    .map(|_| Side { sum: hit(&mut rng) as f64, count: attempts as f64 })
                    .collect();
                let hits: f64 = sides.iter().map(|side| side.sum).sum();
                let covers = |interval: Option<Interval>| {
                    u32::from(interval.is_some_and(|found| (found.low..=found.high).contains(&(a / (a + b)))))
                };
                of_hazards += covers(rate_interval(&sides));
                of_attempts += covers(wilson(hits as u64, hazards * attempts));
            }
            let share = |count: u32| f64::from(count) / f64::from(repetitions);
            let told = format!("{hazards} hazards: {} and {}", share(of_hazards), share(of_attempts));
            assert!(share(of_hazards) >= 0.93 && share(of_attempts) < 0.94, "{told}");
        }
    }
}
