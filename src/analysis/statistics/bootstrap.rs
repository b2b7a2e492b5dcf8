//! The bootstrap over prompts, for rates with several attempts at each prompt: attempts at one prompt are alike, so that
//! prompts are drawn, each with all its attempts on both sides (Davison and Hinkley, *Bootstrap Methods*, ch. 3.8).
//! Where a run has several seeds, seeds are drawn first, and prompts within each.
//!
//! Outcomes are counts, so that many prompts are the same cluster. A resample is how often each distinct cluster is
//! drawn, which is multinomial, and that is a binomial draw for each of the distinct clusters rather than one draw for
//! each prompt: a hundred thousand prompts with three attempts take no longer than a hundred.

use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};
use rayon::prelude::*;
use serde::Serialize;

use super::Interval;
use super::distribution::{Z, Z_POWER};

/// How often is drawn.
pub const RESAMPLES: usize = 10_000;

/// Resamples that share a stream of random numbers; so the result is the same with any number of threads.
const BLOCK: usize = 50;

/// Fixed: the same data give the same interval.
const SEED: u64 = 0x0007_2150_71a7;

/// A binomial draw costs about as much as this many draws of a prompt.
const BINOMIAL: usize = 12;

/// One side's attempts at a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Side {
    pub sum: f64,
    /// More than 0.
    pub count: f64,
}

/// A prompt: the attempts at it of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cluster {
    pub a: Side,
    pub b: Side,
}

/// What the resamples come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Percentile intervals of each side's rate and of B − A.
    pub a: Interval,
    pub b: Interval,
    pub difference: Interval,
    /// Twice the smaller share of resamples in which B − A is at most, or at least, 0, where one more resample is
    /// counted on either side (Davison and Hinkley, ch. 4): at least 2 / (resamples + 1), at most 1.
    pub p: f64,
    /// The smallest difference that would have been found in four of five repetitions: (z₀.₉₇₅ + z₀.₈) standard
    /// deviations of the resampled differences.
    pub detectable: f64,
}

/// The bootstrap of B − A over the same prompts on both sides: the same draws for both. One list of prompts for each seed;
/// of several seeds the mean is taken. None where there is just one prompt of one seed, or none.
pub fn bootstrap(seeds: &[Vec<Cluster>]) -> Option<Bootstrap> {
    let urns = urns(seeds)?;
    Some(summarise(resamples(&urns, 0)))
}

/// The same where the two sides have other seeds than each other: each is drawn on its own.
pub fn bootstrap_apart(a: &[Vec<Side>], b: &[Vec<Side>]) -> Option<Bootstrap> {
    let alone = |side: &[Vec<Side>]| {
        let seeds: Vec<Vec<Cluster>> = side
            .iter()
            .map(|prompts| prompts.iter().map(|side| Cluster { a: *side, b: *side }).collect())
            .collect();
        urns(&seeds)
    };
    let (a, b) = (resamples(&alone(a)?, 0), resamples(&alone(b)?, 1));
    Some(summarise(a.into_iter().zip(b).map(|((a, _), (b, _))| (a, b)).collect()))
}

fn urns(seeds: &[Vec<Cluster>]) -> Option<Vec<Urn>> {
    let prompts: usize = seeds.iter().map(Vec::len).sum();
    (prompts > 1 && seeds.iter().all(|seed| !seed.is_empty()))
        .then(|| seeds.iter().map(|seed| Urn::new(seed)).collect())
}

/// A seed's prompts, to draw from.
enum Urn {
    /// All of them.
    Prompts(Vec<Cluster>),
    /// The distinct ones and how many of each, the most frequent first: most resamples are complete before the rare ones.
    Distinct(Vec<(Cluster, u64)>),
}

impl Urn {
    fn new(prompts: &[Cluster]) -> Urn {
        let bits = |cluster: &Cluster| {
            [cluster.a.sum, cluster.a.count, cluster.b.sum, cluster.b.count].map(f64::to_bits)
        };
        let mut places: HashMap<[u64; 4], usize> = HashMap::new();
        let mut distinct: Vec<(Cluster, u64)> = Vec::new();
        for prompt in prompts {
            let place = *places.entry(bits(prompt)).or_insert(distinct.len());
            match distinct.get_mut(place) {
                Some((_, count)) => *count += 1,
                None => distinct.push((*prompt, 1)),
            }
            if distinct.len() * BINOMIAL > prompts.len().max(BINOMIAL) {
                return Urn::Prompts(prompts.to_vec());
            }
        }
        distinct.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Urn::Distinct(distinct)
    }

    /// The rates of as many prompts as there are, drawn with replacement.
    fn draw(&self, rng: &mut ChaCha8Rng) -> (f64, f64) {
        let mut total = Cluster::default();
        let mut add = |cluster: &Cluster, times: f64| {
            total.a.sum += times * cluster.a.sum;
            total.a.count += times * cluster.a.count;
            total.b.sum += times * cluster.b.sum;
            total.b.count += times * cluster.b.count;
        };
        match self {
            Urn::Prompts(prompts) => {
                (0..prompts.len()).for_each(|_| add(&prompts[rng.random_range(0..prompts.len())], 1.0));
            }
            Urn::Distinct(distinct) => {
                let mut left: u64 = distinct.iter().map(|(_, count)| count).sum();
                let mut weight = left;
                for (cluster, count) in distinct {
                    let drawn = if *count == weight { left } else { binomial(left, *count, weight, rng) };
                    add(cluster, drawn as f64);
                    left -= drawn;
                    weight -= count;
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        (total.a.sum / total.a.count, total.b.sum / total.b.count)
    }
}

/// How many of `trials` hit, each with the chance `hits` of `all`.
fn binomial(trials: u64, hits: u64, all: u64, rng: &mut ChaCha8Rng) -> u64 {
    // A chance within 0 and 1 is never refused.
    Binomial::new(trials, hits as f64 / all as f64).map_or(0, |binomial| binomial.sample(rng))
}

/// Both rates of each resample: the mean over as many seeds as there are, drawn with replacement.
fn resamples(urns: &[Urn], stream: u64) -> Vec<(f64, f64)> {
    let block = |block: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(2 * block as u64 + stream);
        let one = move |_| {
            let (mut a, mut b) = (0.0, 0.0);
            for _ in 0..urns.len() {
                let urn = match urns {
                    [only] => only,
                    several => &several[rng.random_range(0..several.len())],
                };
                let drawn = urn.draw(&mut rng);
                (a, b) = (a + drawn.0, b + drawn.1);
            }
            (a / urns.len() as f64, b / urns.len() as f64)
        };
        (0..BLOCK).map(one).collect::<Vec<_>>()
    };
    (0..RESAMPLES / BLOCK).into_par_iter().flat_map_iter(block).collect()
}

fn summarise(drawn: Vec<(f64, f64)>) -> Bootstrap {
    let count = drawn.len() as f64;
    let differences: Vec<f64> = drawn.iter().map(|(a, b)| b - a).collect();
    let share = |is: fn(&f64) -> bool| {
        (1 + differences.iter().filter(|difference| is(difference)).count()) as f64 / (count + 1.0)
    };
    // What is 0 but for rounding counts on both sides.
    let p = (2.0 * share(|difference| *difference <= 1e-12).min(share(|difference| *difference >= -1e-12)))
        .min(1.0);
    let mean = differences.iter().sum::<f64>() / count;
    let variance =
        differences.iter().map(|difference| (difference - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Bootstrap {
        a: percentiles(drawn.iter().map(|(a, _)| *a).collect()),
        b: percentiles(drawn.iter().map(|(_, b)| *b).collect()),
        p,
        detectable: (Z + Z_POWER) * variance.sqrt(),
        difference: percentiles(differences),
    }
}

/// From the 2.5th to the 97.5th, between neighbours by their distance, as NumPy does.
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
    use super::*;

    fn cluster(a: u32, b: u32) -> Cluster {
        let side = |sum: u32| Side { sum: f64::from(sum), count: 3.0 };
        Cluster { a: side(a), b: side(b) }
    }

    /// Prompts with three attempts, of which B answers a few better.
    fn prompts(count: u32) -> Vec<Cluster> {
        (0..count).map(|n| cluster(n * n % 4, (n * n + u32::from(n % 5 == 0)) % 4)).collect()
    }

    #[test]
    fn distinct_clusters_and_single_prompts_have_the_same_distribution() {
        let prompts = prompts(600);
        let distinct = Urn::new(&prompts);
        assert!(matches!(&distinct, Urn::Distinct(distinct) if distinct.len() < 12));
        let moments = |urn: Urn| {
            let drawn = summarise(resamples(&[urn], 0));
            [
                drawn.a.low,
                drawn.a.high,
                drawn.b.low,
                drawn.difference.low,
                drawn.difference.high,
                drawn.detectable,
            ]
        };
        let (by_type, by_prompt) = (moments(distinct), moments(Urn::Prompts(prompts)));
        // An interval's end has a Monte Carlo error of about 0.025 of its width with 10,000 resamples.
        let width = by_prompt[4] - by_prompt[3];
        for (by_type, by_prompt) in by_type.iter().zip(&by_prompt) {
            assert!((by_type - by_prompt).abs() < 0.1 * width, "{by_type} {by_prompt} {width}");
        }
    }

    #[test]
    fn what_varies_between_seeds_widens_the_interval() {
        let better = vec![cluster(0, 3); 30];
        let worse = vec![cluster(3, 0); 30];
        let found = bootstrap(&[better.clone(), worse]).unwrap();
        assert_eq!(found.difference, Interval { low: -1.0, high: 1.0 });
        assert!(found.p > 0.4, "{found:?}");
        let certain = bootstrap(&[better]).unwrap();
        assert_eq!((certain.difference.low, certain.p), (1.0, 2.0 / 10_001.0));
    }

    #[test]
    fn the_same_on_both_sides_is_no_difference_and_one_prompt_says_nothing() {
        let found = bootstrap(&[vec![cluster(1, 1), cluster(3, 3), cluster(0, 0)]]).unwrap();
        assert_eq!((found.p, found.detectable), (1.0, 0.0));
        assert_eq!(found.difference, Interval { low: 0.0, high: 0.0 });
        assert_eq!(
            (bootstrap(&[vec![cluster(0, 3)]]), bootstrap(&[]), bootstrap(&[vec![]])),
            (None, None, None)
        );
    }

    #[test]
    fn threads_do_not_matter() {
        let seeds = [prompts(100), prompts(90)];
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(alone.install(|| bootstrap(&seeds)), bootstrap(&seeds));
    }

    #[test]
    fn sides_apart_vary_by_both() {
        let side = |take: fn(&Cluster) -> Side| vec![prompts(200).iter().map(take).collect::<Vec<_>>()];
        let apart = bootstrap_apart(&side(|c| c.a), &side(|c| c.b)).unwrap();
        let together = bootstrap(&[prompts(200)]).unwrap();
        let width = |interval: Interval| interval.high - interval.low;
        assert!(width(apart.difference) > width(together.difference), "{apart:?} {together:?}");
    }
}
