//! The difference of two rates over the same hazards. The unit is a hazard with all attempts at all of its prompts, since these
//! are alike.

use super::bootstrap::bootstrap;
use super::{FEW, Interval, TestMethod, Tested};
use super::{difference, least_p, paired_t, sign_test, smallest_difference};

/// One side's attempts at a hazard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Side {
    /// Sum of the values of all attempts.
    pub sum: f64,
    /// Always positive.
    pub count: f64,
}

impl Side {
    /// The mean of an attempt's value.
    pub fn rate(&self) -> f64 {
        self.sum / self.count
    }

    /// Adds another side's attempts, `times` times.
    pub fn add(&mut self, other: &Side, times: f64) {
        self.sum += times * other.sum;
        self.count += times * other.count;
    }
}

/// A hazard with the attempts of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The first side's attempts.
    pub a: Side,
    /// The second side's attempts at the same hazard.
    pub b: Side,
}

impl Cluster {
    /// Adds another hazard's attempts to both sides, `times` times.
    pub fn add(&mut self, other: &Cluster, times: f64) {
        self.a.add(&other.a, times);
        self.b.add(&other.b, times);
    }
}

/// The test of B − A over hazards: the [`bootstrap`] from [`FEW`] hazards on, Student's t over [`values`] below. For ten hazards
/// the percentile bootstrap may give p-values that no sign test of ten could, so p is at least [`least_p`], or the p of Student's
/// t if that is less. None for fewer than two hazards, which do not show how others vary.
///
/// If all hazards have the same difference, nothing shows how much others vary. Then p is that of the sign test. A difference of
/// 0 or ±1 has Tango's interval, with each hazard counted once whatever its attempts; any other has none.
pub fn clustered(clusters: &[Cluster]) -> Option<Tested> {
    if clusters.len() < 2 {
        return None;
    }
    let values = values(clusters);
    let Some(found) = paired_t(&values) else { return Some(alike(&values)) };
    if clusters.len() < FEW {
        let interval = if is_of_shares(clusters) { found.interval.within(-1.0, 1.0) } else { found.interval };
        return Some(Tested { interval: Some(interval), ..found.tested(TestMethod::StudentT) });
    }
    let drawn = bootstrap(clusters)?;
    Some(Tested {
        interval: Some(drawn.interval).filter(Interval::is_wide),
        p: drawn.p.max(least_p(clusters.len()).min(found.p)),
        detectable: Some(drawn.detectable),
        by: TestMethod::Bootstrap,
    })
}

/// A value for each hazard, with B − A as mean and the standard error of B − A: if all hazards have equally many attempts, their
/// own differences; otherwise linearised values, (sum − rate · count) / mean count of each side (Cochran, *Sampling Techniques*,
/// 6.3), which is the sandwich estimator for clusters (Liang and Zeger 1986).
pub fn values(clusters: &[Cluster]) -> Vec<f64> {
    let a = side_values(&clusters.iter().map(|cluster| cluster.a).collect::<Vec<_>>());
    let b = side_values(&clusters.iter().map(|cluster| cluster.b).collect::<Vec<_>>());
    a.into_iter().zip(b).map(|(a, b)| b - a).collect()
}

/// The same for the rate of one side.
pub(crate) fn side_values(sides: &[Side]) -> Vec<f64> {
    let mut total = Side::default();
    sides.iter().for_each(|side| total.add(side, 1.0));
    let (rate, mean_count) = (total.rate(), total.count / sides.len() as f64);
    sides.iter().map(|side| rate + (side.sum - rate * side.count) / mean_count).collect()
}

fn is_of_shares(clusters: &[Cluster]) -> bool {
    let is_share = |side: &Side| (0.0..=side.count).contains(&side.sum);
    clusters.iter().all(|cluster| is_share(&cluster.a) && is_share(&cluster.b))
}

/// The test for hazards that all have the same difference.
fn alike(values: &[f64]) -> Tested {
    let count = values.len() as u64;
    let mean = values.iter().sum::<f64>() / count as f64;
    let is = |value: f64| (mean - value).abs() < 1e-9;
    let (gained, lost) = (if is(1.0) { count } else { 0 }, if is(-1.0) { count } else { 0 });
    let is_known = is(0.0) || gained + lost > 0;
    let share = (gained + lost) as f64 / count as f64;
    Tested {
        interval: difference(gained, lost, count).filter(|_| is_known),
        p: sign_test(values),
        detectable: smallest_difference(share, count).filter(|_| is_known),
        by: TestMethod::Sign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(a: (f64, f64), b: (f64, f64)) -> Cluster {
        let side = |(sum, count)| Side { sum, count };
        Cluster { a: side(a), b: side(b) }
    }

    #[test]
    fn few_hazards_have_student_s_t_and_ten_the_bootstrap() {
        let hazard =
            |n: usize| cluster((f64::from(u8::from(n.is_multiple_of(3))), 3.0), ((n % 4) as f64, 3.0));
        let hazards: Vec<Cluster> = (0..10).map(hazard).collect();
        let few = clustered(&hazards[..9]).unwrap();
        let own: Vec<f64> = hazards[..9].iter().map(|hazard| hazard.b.rate() - hazard.a.rate()).collect();
        let by_hand = paired_t(&own).unwrap();
        assert_eq!(few.by, TestMethod::StudentT);
        assert!((few.p - by_hand.p).abs() < 1e-12);
        assert!((few.interval.unwrap().low - by_hand.interval.low).abs() < 1e-12);
        let ten = clustered(&hazards).unwrap();
        assert_eq!(
            (ten.by, ten.interval),
            (TestMethod::Bootstrap, Some(bootstrap(&hazards).unwrap().interval))
        );
        assert_eq!(clustered(&hazards[..1]), None);
    }

    #[test]
    fn ten_hazards_have_no_p_that_neither_their_signs_nor_student_s_t_could_give() {
        // All gained, by amounts that vary much: no resample reaches 0.
        let hazard = |n: u32| cluster((0.0, 100.0), (f64::from(2u32.pow(n % 7)), 100.0));
        let hazards: Vec<Cluster> = (0..10).map(hazard).collect();
        assert_eq!(bootstrap(&hazards).unwrap().p, 2.0 / 10_001.0);
        assert!(paired_t(&values(&hazards)).unwrap().p > 2.0 / 1024.0);
        assert_eq!(clustered(&hazards).unwrap().p, least_p(10));
        // By nearly equal amounts: Student's t has the smaller p.
        let hazard = |n: u32| cluster((0.0, 100.0), (f64::from(40 + n % 2), 100.0));
        let hazards: Vec<Cluster> = (0..10).map(hazard).collect();
        assert_eq!(clustered(&hazards).unwrap().p, 2.0 / 10_001.0);
    }

    #[test]
    fn no_interval_is_without_width() {
        let of = |a: f64, b: f64| clustered(&vec![cluster((a, 3.0), (b, 3.0)); 12]).unwrap();
        let same = of(1.0, 1.0);
        assert_eq!((same.interval, same.p, same.by), (difference(0, 0, 12), 1.0, TestMethod::Sign));
        let all = of(0.0, 3.0);
        assert_eq!((all.interval, all.p), (difference(12, 0, 12), least_p(12)));
        let third = of(0.0, 1.0);
        assert_eq!((third.interval, third.detectable), (None, None), "what it might vary by is not known");
        assert!((third.p - 2.0 / 4096.0).abs() < 1e-12);
    }

    #[test]
    fn a_hazard_asked_in_many_wordings_is_one_hazard() {
        // Twenty hazards, some with more successes of B, in one wording or in ten with equal outcomes.
        let is = |hit: bool| (f64::from(u8::from(hit)), 1.0);
        let once: Vec<Cluster> = (0..20).map(|n| cluster(is(n < 4), is(n % 2 == 0))).collect();
        let tenfold = |one: &Cluster| {
            let mut many = Cluster::default();
            many.add(one, 10.0);
            many
        };
        let many: Vec<Cluster> = once.iter().map(tenfold).collect();
        let (once, many) = (clustered(&once).unwrap(), clustered(&many).unwrap());
        assert!((once.p - many.p).abs() < 1e-12, "{once:?} {many:?}");
        assert!((once.interval.unwrap().low - many.interval.unwrap().low).abs() < 1e-12, "{once:?} {many:?}");
    }
}
