//! The bootstrap over hazards, for rates with several attempts at each hazard. Attempts at one prompt are alike, and so are the
//! prompts of one hazard. So hazards are drawn, each with all its attempts on both sides (Davison and Hinkley, *Bootstrap
//! Methods*, ch. 3.8; Field and Welsh, "Bootstrapping clustered data", JRSS B 69, 2007).
//!
//! Outcomes are counts, so many hazards are equal clusters. A resample is determined by the number of draws of each distinct
//! cluster, which is multinomial. That takes one binomial draw for each distinct cluster instead of one draw for each hazard: a
//! hundred thousand hazards with three attempts take no longer than a hundred. If there are too many distinct clusters, they are
//! put into [`MOST`] random groups, and groups are drawn.

use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};
use rayon::prelude::*;
use serde::Serialize;

use super::distribution::{Z, Z_POWER};
use super::{Cluster, Interval};

/// The number of resamples.
pub const RESAMPLES: usize = 10_000;

/// Resamples that share a stream of random numbers, so that the result does not depend on the number of threads.
const BLOCK: usize = 50;

/// Fixed: the same data give the same interval.
const SEED: u64 = 0x0007_2150_71a7;

/// A binomial draw costs about as much as this many draws of a cluster.
const BINOMIAL: usize = 12;

/// With more clusters, this many groups are drawn instead. The variance between random groups estimates that between clusters:
/// grouping adds an error of √(1 / 2 MOST) = 0.8 % to the width of an interval, 10,000 resamples one of 2 %.
const MOST: usize = 8192;

/// The result of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bootstrap {
    /// The percentile interval of B − A.
    pub interval: Interval,
    /// Twice the smaller share of resamples in which B − A is at most, or at least, 0, with one more resample counted on either
    /// side (Davison and Hinkley, ch. 4): at least 2 / (resamples + 1), at most 1.
    pub p: f64,
    /// The smallest difference that would be found in four of five repetitions: (z₀.₉₇₅ + z₀.₈) standard deviations of the
    /// resampled differences.
    pub detectable: f64,
}

/// The bootstrap of B − A over the same clusters on both sides, with the same draws for both. None for fewer than two clusters,
/// which do not show how others vary.
pub fn bootstrap(clusters: &[Cluster]) -> Option<Bootstrap> {
    let urn = (clusters.len() > 1).then(|| Urn::new(clusters))?;
    Some(summarise(resamples(&urn)))
}

/// Clusters to draw from.
struct Urn {
    /// The distinct clusters.
    clusters: Vec<Cluster>,
    /// The number of draws in a resample.
    count: usize,
    from: DrawMode,
}

/// The way of drawing.
enum DrawMode {
    /// One by one: the index of the distinct cluster for each cluster.
    Single(Vec<u32>),
    /// By counts: the number of clusters equal to each distinct one, most frequent first, so that most resamples are complete
    /// before the rare ones.
    Distinct(Vec<u64>),
}

impl Urn {
    fn new(clusters: &[Cluster]) -> Urn {
        // A binomial draw costs about as much as some draws of a cluster, or of a group if there are groups.
        let most_distinct = (clusters.len().min(MOST) / BINOMIAL).max(1);
        let mut places: HashMap<[u64; 4], u32> = HashMap::new();
        let mut distinct: Vec<(Cluster, u64)> = Vec::new();
        let mut which: Vec<u32> = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            let place = *places.entry(bits(cluster)).or_insert(distinct.len() as u32);
            match distinct.get_mut(place as usize) {
                Some((_, count)) => *count += 1,
                None => distinct.push((*cluster, 1)),
            }
            which.push(place);
            if distinct.len() > most_distinct && clusters.len() > MOST {
                return Urn::new(&grouped(clusters));
            }
        }
        let from = if distinct.len() > most_distinct {
            DrawMode::Single(which)
        } else {
            distinct.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            DrawMode::Distinct(distinct.iter().map(|(_, count)| *count).collect())
        };
        let count = clusters.len();
        Urn { clusters: distinct.into_iter().map(|(cluster, _)| cluster).collect(), count, from }
    }

    /// The total of as many clusters as there are, drawn with replacement. `times` is a buffer for counts.
    fn draw(&self, rng: &mut ChaCha8Rng, times: &mut Vec<u64>) -> Cluster {
        times.clear();
        times.resize(self.clusters.len(), 0);
        match &self.from {
            DrawMode::Single(which) => {
                for _ in 0..self.count {
                    times[which[rng.random_range(0..self.count)] as usize] += 1;
                }
            }
            DrawMode::Distinct(counts) => {
                let mut left = self.count as u64;
                let mut weight = left;
                for (count, times) in counts.iter().zip(&mut *times) {
                    *times = if *count == weight { left } else { binomial(left, *count, weight, rng) };
                    left -= *times;
                    weight -= count;
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        let mut total = Cluster::default();
        for (cluster, times) in self.clusters.iter().zip(times).filter(|(_, times)| **times > 0) {
            total.add(cluster, *times as f64);
        }
        total
    }
}

/// [`MOST`] random groups of clusters, whose sizes differ by at most one cluster.
fn grouped(clusters: &[Cluster]) -> Vec<Cluster> {
    let mut order: Vec<&Cluster> = clusters.iter().collect();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    (1..order.len()).rev().for_each(|place| order.swap(place, rng.random_range(0..=place)));
    let mut groups = vec![Cluster::default(); MOST];
    for (place, cluster) in order.into_iter().enumerate() {
        groups[place % MOST].add(cluster, 1.0);
    }
    groups
}

fn bits(cluster: &Cluster) -> [u64; 4] {
    [cluster.a.sum, cluster.a.count, cluster.b.sum, cluster.b.count].map(f64::to_bits)
}

/// The number of hits in `trials`, each with probability `hits` / `all`.
fn binomial(trials: u64, hits: u64, all: u64, rng: &mut ChaCha8Rng) -> u64 {
    // A probability within 0 and 1 is never refused.
    Binomial::new(trials, hits as f64 / all as f64).map_or(0, |binomial| binomial.sample(rng))
}

/// B − A for each resample.
fn resamples(urn: &Urn) -> Vec<f64> {
    let block = |block: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(block as u64);
        let mut times = Vec::new();
        let mut difference = || {
            let total = urn.draw(&mut rng, &mut times);
            total.b.rate() - total.a.rate()
        };
        (0..BLOCK).map(|_| difference()).collect::<Vec<_>>()
    };
    (0..RESAMPLES / BLOCK).into_par_iter().flat_map_iter(block).collect()
}

fn summarise(differences: Vec<f64>) -> Bootstrap {
    let count = differences.len() as f64;
    let share = |is: fn(&f64) -> bool| {
        (1 + differences.iter().filter(|difference| is(difference)).count()) as f64 / (count + 1.0)
    };
    // Zeros up to rounding count on both sides.
    let p = (2.0 * share(|difference| *difference <= 1e-12).min(share(|difference| *difference >= -1e-12)))
        .min(1.0);
    let mean = differences.iter().sum::<f64>() / count;
    let variance =
        differences.iter().map(|difference| (difference - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Bootstrap { p, detectable: (Z + Z_POWER) * variance.sqrt(), interval: percentiles(differences) }
}

/// The 2.5th and the 97.5th percentile, interpolated between neighbours as NumPy does.
fn percentiles(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (values.len() - 1) as f64;
        let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    Interval { low: at(0.025), high: at(0.975) }
}

#[cfg(test)]
mod tests {
    use super::super::Side;
    use super::*;

    fn cluster(a: u32, b: u32) -> Cluster {
        let side = |sum: u32| Side { sum: f64::from(sum), count: 3.0 };
        Cluster { a: side(a), b: side(b) }
    }

    /// Hazards with three attempts; B succeeds in a few more.
    fn hazards(count: u32) -> Vec<Cluster> {
        (0..count).map(|n| cluster(n * n % 4, (n * n + u32::from(n % 5 == 0)) % 4)).collect()
    }

    fn width(interval: Interval) -> f64 {
        interval.high - interval.low
    }

    #[test]
    fn distinct_clusters_and_single_ones_have_the_same_distribution() {
        let hazards = hazards(600);
        let distinct = Urn::new(&hazards);
        assert!(matches!(&distinct.from, DrawMode::Distinct(distinct) if distinct.len() < 12));
        let single =
            Urn { clusters: hazards.clone(), count: 600, from: DrawMode::Single((0..600).collect()) };
        let moments = |urn: Urn| {
            let drawn = summarise(resamples(&urn));
            [drawn.interval.low, drawn.interval.high, drawn.detectable]
        };
        let (by_type, by_hazard) = (moments(distinct), moments(single));
        // With 10,000 resamples an interval's end has a Monte Carlo error of about 0.025 of its width.
        let width = by_hazard[1] - by_hazard[0];
        for (by_type, by_hazard) in by_type.iter().zip(&by_hazard) {
            assert!((by_type - by_hazard).abs() < 0.1 * width, "{by_type} {by_hazard} {width}");
        }
    }

    #[test]
    fn the_same_on_both_sides_is_no_difference_and_one_hazard_says_nothing() {
        let found = bootstrap(&[cluster(1, 1), cluster(3, 3), cluster(0, 0)]).unwrap();
        assert_eq!((found.p, found.detectable), (1.0, 0.0));
        assert_eq!(found.interval, Interval { low: 0.0, high: 0.0 });
        assert_eq!((bootstrap(&[cluster(0, 3)]), bootstrap(&[])), (None, None));
    }

    #[test]
    fn many_hazards_are_drawn_in_groups() {
        let few = hazards(20_000);
        // All distinct.
        let vary =
            |n: usize| Side { sum: few[n * 3 % few.len()].b.sum * (1.0 + n as f64 * 1e-9), count: 3.0 };
        let many: Vec<Cluster> = (0..few.len()).map(|n| Cluster { a: few[n].a, b: vary(n) }).collect();
        assert_eq!(Urn::new(&many).count, MOST);
        let found = bootstrap(&many).unwrap();
        // The standard error of a mean of differences, in closed form.
        let differences: Vec<f64> = many.iter().map(|hazard| (hazard.b.sum - hazard.a.sum) / 3.0).collect();
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let variance = differences.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let ratio = width(found.interval) / (2.0 * Z * (variance / count).sqrt());
        assert!((ratio - 1.0).abs() < 0.06, "{ratio}");
        assert!((found.interval.low + found.interval.high - 2.0 * mean).abs() < 0.1 * width(found.interval));
    }

    #[test]
    fn threads_do_not_matter() {
        let hazards = hazards(100);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(alone.install(|| bootstrap(&hazards)), bootstrap(&hazards));
    }
}
