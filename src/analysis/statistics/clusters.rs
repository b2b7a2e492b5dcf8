//! The rates of two sides over the same hazards, and their difference. What is drawn, or counted, is a hazard with all
//! attempts at all of its prompts, since these are alike.

use serde::Serialize;

use super::bootstrap::bootstrap;
use super::{By, FEW, Interval, Tested};
use super::{difference, estimate, least_p, paired_t, sign_test, smallest_difference, wilson};

/// One side's attempts at a hazard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Side {
    pub sum: f64,
    /// More than 0.
    pub count: f64,
}

impl Side {
    pub fn rate(&self) -> f64 {
        self.sum / self.count
    }

    pub fn add(&mut self, other: &Side, times: f64) {
        self.sum += times * other.sum;
        self.count += times * other.count;
    }
}

/// A hazard: the attempts at it of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cluster {
    pub a: Side,
    pub b: Side,
}

impl Cluster {
    pub fn add(&mut self, other: &Cluster, times: f64) {
        self.a.add(&other.a, times);
        self.b.add(&other.b, times);
    }
}

/// What hazards say of both rates and of B − A.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Clustered {
    pub a: Option<Interval>,
    pub b: Option<Interval>,
    pub tested: Tested,
}

/// The test of B − A over hazards: from [`FEW`] of them on by the [`bootstrap`], with fewer by Student's t over
/// [`values`]. Of ten hazards the percentile bootstrap gives p-values that no test of ten signs could, so that its p is
/// at least [`least_p`], or that of the t where this is less. None of fewer than two hazards, which say nothing of others.
///
/// Where all hazards came out alike nothing is known of how much others might vary: p is that of the sign test, and a
/// difference of 0 or ±1 has Tango's interval, a rate of 0 or 1 Wilson's, each hazard counted once whatever its attempts;
/// any other has none.
pub fn clustered(clusters: &[Cluster]) -> Option<Clustered> {
    let drawn = bootstrap(clusters)?;
    let is_few = clusters.len() < FEW;
    let side = |of: fn(&Cluster) -> Side, drawn: Interval| {
        let sides: Vec<Side> = clusters.iter().map(of).collect();
        let is_share = sides.iter().all(|side| (0.0..=side.count).contains(&side.sum));
        let of_t = estimate(&side_values(&sides)).and_then(|found| found.interval());
        let found = of_t.map(|of_t| if is_few { of_t } else { drawn });
        found
            .map(|found| if is_share { found.within(0.0, 1.0) } else { found })
            .or_else(|| alike_rate(&sides))
    };
    let values = values(clusters);
    let tested = match paired_t(&values) {
        Some(found) if is_few => {
            let interval =
                if is_of_shares(clusters) { found.interval.within(-1.0, 1.0) } else { found.interval };
            let (p, detectable) = (found.p, Some(found.detectable));
            Tested { interval: Some(interval), p, detectable, by: By::StudentT }
        }
        Some(found) => {
            let p = drawn.p.max(least_p(clusters.len()).min(found.p));
            let interval = Some(drawn.difference).filter(Interval::is_wide);
            Tested { interval, p, detectable: Some(drawn.detectable), by: By::Bootstrap }
        }
        None => alike(&values),
    };
    Some(Clustered { a: side(|cluster| cluster.a, drawn.a), b: side(|cluster| cluster.b, drawn.b), tested })
}

/// A value for each hazard, whose mean is B − A and whose standard error is that of B − A: of hazards with equally many
/// attempts their own differences, else linearised, (sum − rate · count) / mean count of each side (Cochran, *Sampling
/// Techniques*, 6.3), which is the sandwich estimator for clusters (Liang and Zeger 1986).
pub fn values(clusters: &[Cluster]) -> Vec<f64> {
    let a = side_values(&clusters.iter().map(|cluster| cluster.a).collect::<Vec<_>>());
    let b = side_values(&clusters.iter().map(|cluster| cluster.b).collect::<Vec<_>>());
    a.into_iter().zip(b).map(|(a, b)| b - a).collect()
}

/// The same of one side, of its rate.
fn side_values(sides: &[Side]) -> Vec<f64> {
    let mut total = Side::default();
    sides.iter().for_each(|side| total.add(side, 1.0));
    let (rate, mean_count) = (total.rate(), total.count / sides.len() as f64);
    sides.iter().map(|side| rate + (side.sum - rate * side.count) / mean_count).collect()
}

fn is_of_shares(clusters: &[Cluster]) -> bool {
    let is_share = |side: &Side| (0.0..=side.count).contains(&side.sum);
    clusters.iter().all(|cluster| is_share(&cluster.a) && is_share(&cluster.b))
}

/// Of hazards that all differ by the same.
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
        by: By::Sign,
    }
}

/// Of hazards that all have the same rate.
fn alike_rate(sides: &[Side]) -> Option<Interval> {
    let count = sides.len() as u64;
    let is = |value: f64| sides.iter().all(|side| side.rate() == value);
    match (is(0.0), is(1.0)) {
        (true, _) => wilson(0, count),
        (_, true) => wilson(count, count),
        _ => None,
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
        let hazard = |n: usize| cluster((f64::from(u8::from(n % 3 == 0)), 3.0), ((n % 4) as f64, 3.0));
        let hazards: Vec<Cluster> = (0..10).map(hazard).collect();
        let few = clustered(&hazards[..9]).unwrap();
        let own: Vec<f64> = hazards[..9].iter().map(|hazard| hazard.b.rate() - hazard.a.rate()).collect();
        let by_hand = paired_t(&own).unwrap();
        assert_eq!(few.tested.by, By::StudentT);
        assert!((few.tested.p - by_hand.p).abs() < 1e-12);
        assert!((few.tested.interval.unwrap().low - by_hand.interval.low).abs() < 1e-12);
        let ten = clustered(&hazards).unwrap();
        assert_eq!(ten.tested.by, By::Bootstrap);
        assert_eq!(ten.tested.interval, Some(bootstrap(&hazards).unwrap().difference));
        assert_eq!(clustered(&hazards[..1]), None);
    }

    #[test]
    fn ten_hazards_have_no_p_that_neither_their_signs_nor_student_s_t_could_give() {
        // All gained, by amounts that vary much: the bootstrap never comes to 0.
        let hazard = |n: u32| cluster((0.0, 100.0), (f64::from(2u32.pow(n % 7)), 100.0));
        let hazards: Vec<Cluster> = (0..10).map(hazard).collect();
        assert_eq!(bootstrap(&hazards).unwrap().p, 2.0 / 10_001.0);
        let found = clustered(&hazards).unwrap().tested;
        assert!(paired_t(&values(&hazards)).unwrap().p > 2.0 / 1024.0);
        assert_eq!(found.p, 2.0 / 1024.0);
        // By amounts that are almost the same: the t says so.
        let hazard = |n: u32| cluster((0.0, 100.0), (f64::from(40 + n % 2), 100.0));
        let hazards: Vec<Cluster> = (0..10).map(hazard).collect();
        assert_eq!(clustered(&hazards).unwrap().tested.p, 2.0 / 10_001.0);
    }

    #[test]
    fn no_interval_is_without_width() {
        let same = vec![cluster((1.0, 3.0), (1.0, 3.0)); 12];
        let found = clustered(&same).unwrap();
        assert_eq!((found.a, found.tested.p), (None, 1.0), "what one in three might vary by is not known");
        assert_eq!(found.tested.interval, difference(0, 0, 12));
        let none = clustered(&vec![cluster((0.0, 3.0), (3.0, 3.0)); 12]).unwrap();
        assert_eq!((none.a, none.b), (wilson(0, 12), wilson(12, 12)));
        assert_eq!((none.tested.interval, none.tested.p), (difference(12, 0, 12), least_p(12)));
        let third = clustered(&vec![cluster((0.0, 3.0), (1.0, 3.0)); 12]).unwrap().tested;
        assert_eq!((third.interval, third.detectable, third.by), (None, None, By::Sign));
        assert!((third.p - 2.0 / 4096.0).abs() < 1e-12);
    }

    #[test]
    fn a_hazard_asked_in_many_wordings_is_one_hazard() {
        // Twenty hazards, of which B answers some better, in one wording or in ten that come out the same.
        let hazard =
            |n: usize| cluster((f64::from(u8::from(n < 4)), 1.0), (f64::from(u8::from(n % 2 == 0)), 1.0));
        let once: Vec<Cluster> = (0..20).map(hazard).collect();
        let tenfold = |one: &Cluster| {
            let mut many = Cluster::default();
            many.add(one, 10.0);
            many
        };
        let many: Vec<Cluster> = once.iter().map(tenfold).collect();
        let (once, many) = (clustered(&once).unwrap().tested, clustered(&many).unwrap().tested);
        assert!((once.p - many.p).abs() < 1e-12, "{once:?} {many:?}");
        assert!((once.interval.unwrap().low - many.interval.unwrap().low).abs() < 1e-12, "{once:?} {many:?}");
    }
}
