//! The bootstrap over prompts, for rates with several attempts at each prompt: attempts at one prompt are alike, so that
//! prompts are drawn, each with all its attempts on both sides (Davison and Hinkley, *Bootstrap Methods*, ch. 3.8).
//! Where a run has several seeds, seeds are drawn, and prompts too: most prompts are those of every seed, and what is hard
//! about a prompt is hard in all of them, so that a resample of these prompts is the same for each seed that is drawn
//! (Owen, *The pigeonhole bootstrap*, Annals of Applied Statistics 1, 2007). Prompts that only one seed has are drawn
//! within it.
//!
//! Outcomes are counts, so that many prompts are the same cluster. A resample is how often each distinct cluster is
//! drawn, which is multinomial, and that is a binomial draw for each of the distinct clusters rather than one draw for
//! each prompt: a hundred thousand prompts with three attempts take no longer than a hundred. Where too many are distinct,
//! as over several seeds, prompts are put into [`MOST`] groups at random, and groups are drawn.

use std::collections::HashMap;
use std::hash::Hash;

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

/// More prompts than this are drawn in so many groups. What varies between random groups is what varies between prompts:
/// the width of an interval has an error of √(1 / 2 MOST), 0.8 %, from the grouping, and 2 % from 10,000 resamples.
const MOST: usize = 8192;

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

impl Cluster {
    fn add(&mut self, other: &Cluster, times: f64) {
        self.a.sum += times * other.a.sum;
        self.a.count += times * other.a.count;
        self.b.sum += times * other.b.sum;
        self.b.count += times * other.b.count;
    }
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

/// The bootstrap of B − A over the same prompts on both sides: the same draws for both. One list of prompts for each seed,
/// each prompt with what names it: the same in all seeds. Of several seeds the mean is taken. None where there is just one
/// prompt, or none.
pub fn bootstrap<K: Eq + Hash>(seeds: &[Vec<(K, Cluster)>]) -> Option<Bootstrap> {
    Some(summarise(resamples(&Urns::new(seeds)?, 0)))
}

/// The same where the two sides have other seeds than each other: each is drawn on its own.
pub fn bootstrap_apart<K: Eq + Hash + Copy>(a: &[Vec<(K, Side)>], b: &[Vec<(K, Side)>]) -> Option<Bootstrap> {
    let alone = |side: &[Vec<(K, Side)>]| {
        let seeds: Vec<Vec<(K, Cluster)>> = side
            .iter()
            .map(|prompts| {
                prompts.iter().map(|(name, side)| (*name, Cluster { a: *side, b: *side })).collect()
            })
            .collect();
        Urns::new(&seeds)
    };
    let (a, b) = (resamples(&alone(a)?, 0), resamples(&alone(b)?, 1));
    Some(summarise(a.into_iter().zip(b).map(|((a, _), (b, _))| (a, b)).collect()))
}

/// What is drawn from.
struct Urns {
    /// How many seeds there are.
    seeds: usize,
    /// Prompts of more than one seed, each with its clusters in all of them; one that a seed lacks has no attempts there.
    /// Of one seed all prompts.
    shared: Option<Urn>,
    /// For each seed the prompts that only it has.
    own: Vec<Option<Urn>>,
}

impl Urns {
    fn new<K: Eq + Hash>(seeds: &[Vec<(K, Cluster)>]) -> Option<Urns> {
        let mut places: HashMap<&K, usize> = HashMap::new();
        // The clusters of each prompt, in all seeds, and in how many it is.
        let (mut clusters, mut counts): (Vec<Cluster>, Vec<usize>) = (Vec::new(), Vec::new());
        for (seed, prompts) in seeds.iter().enumerate() {
            for (name, cluster) in prompts {
                let place = *places.entry(name).or_insert(counts.len());
                if place == counts.len() {
                    clusters.resize(clusters.len() + seeds.len(), Cluster::default());
                    counts.push(0);
                }
                clusters[place * seeds.len() + seed] = *cluster;
                counts[place] += 1;
            }
        }
        if counts.len() < 2 || seeds.iter().any(Vec::is_empty) {
            return None;
        }
        let (mut shared, mut own) = (Vec::new(), vec![Vec::new(); seeds.len()]);
        for (prompt, count) in clusters.chunks(seeds.len()).zip(counts) {
            match prompt.iter().position(|cluster| cluster.a.count > 0.0) {
                Some(seed) if count == 1 && seeds.len() > 1 => own[seed].push(prompt[seed]),
                _ => shared.extend_from_slice(prompt),
            }
        }
        Some(Urns {
            seeds: seeds.len(),
            shared: Urn::new(&shared, seeds.len()),
            own: own.iter().map(|prompts| Urn::new(prompts, 1)).collect(),
        })
    }
}

/// Prompts to draw from.
struct Urn {
    /// The distinct prompts, each as many clusters as there are seeds.
    clusters: Vec<Cluster>,
    seeds: usize,
    /// How many prompts there are.
    prompts: usize,
    from: From,
}

/// How it is drawn.
enum From {
    /// Prompt by prompt: for each which of the distinct ones it is.
    Prompts(Vec<u32>),
    /// How many there are of each distinct one, the most frequent first: most resamples are complete before the rare ones.
    Distinct(Vec<u64>),
}

impl Urn {
    /// None without prompts.
    fn new(prompts: &[Cluster], seeds: usize) -> Option<Urn> {
        let count = prompts.len() / seeds;
        // A binomial draw is no dearer than some draws of a prompt, or of a group where there are groups.
        let most_distinct = (count.min(MOST) / BINOMIAL).max(1);
        let mut places: HashMap<Vec<[u64; 4]>, u32> = HashMap::new();
        let mut distinct: Vec<(&[Cluster], u64)> = Vec::new();
        let mut which: Vec<u32> = Vec::with_capacity(count);
        for prompt in prompts.chunks(seeds) {
            let place = *places.entry(prompt.iter().map(bits).collect()).or_insert(distinct.len() as u32);
            match distinct.get_mut(place as usize) {
                Some((_, count)) => *count += 1,
                None => distinct.push((prompt, 1)),
            }
            which.push(place);
            if distinct.len() > most_distinct && count > MOST {
                return Urn::new(&grouped(prompts, seeds), seeds);
            }
        }
        let from = if distinct.len() > most_distinct {
            From::Prompts(which)
        } else {
            distinct.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            From::Distinct(distinct.iter().map(|(_, count)| *count).collect())
        };
        let clusters = distinct.iter().flat_map(|(prompt, _)| *prompt).copied().collect();
        (count > 0).then_some(Urn { clusters, seeds, prompts: count, from })
    }

    /// Adds to the total of each seed as many prompts as there are, drawn with replacement. `times` is room to count in.
    fn draw(&self, rng: &mut ChaCha8Rng, totals: &mut [Cluster], times: &mut Vec<u64>) {
        times.clear();
        times.resize(self.clusters.len() / self.seeds, 0);
        match &self.from {
            From::Prompts(which) => {
                for _ in 0..self.prompts {
                    times[which[rng.random_range(0..self.prompts)] as usize] += 1;
                }
            }
            From::Distinct(counts) => {
                let mut left = self.prompts as u64;
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
        for (prompt, times) in self.clusters.chunks(self.seeds).zip(times).filter(|(_, times)| **times > 0) {
            for (total, cluster) in totals.iter_mut().zip(prompt) {
                total.add(cluster, *times as f64);
            }
        }
    }
}

/// [`MOST`] random groups of prompts, which differ in size by at most one prompt.
fn grouped(prompts: &[Cluster], seeds: usize) -> Vec<Cluster> {
    let mut order: Vec<&[Cluster]> = prompts.chunks(seeds).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    (1..order.len()).rev().for_each(|place| order.swap(place, rng.random_range(0..=place)));
    let mut groups = vec![Cluster::default(); MOST * seeds];
    for (place, prompt) in order.into_iter().enumerate() {
        let group = place % MOST * seeds;
        for (total, cluster) in groups[group..group + seeds].iter_mut().zip(prompt) {
            total.add(cluster, 1.0);
        }
    }
    groups
}

fn bits(cluster: &Cluster) -> [u64; 4] {
    [cluster.a.sum, cluster.a.count, cluster.b.sum, cluster.b.count].map(f64::to_bits)
}

/// How many of `trials` hit, each with the chance `hits` of `all`.
fn binomial(trials: u64, hits: u64, all: u64, rng: &mut ChaCha8Rng) -> u64 {
    // A chance within 0 and 1 is never refused.
    Binomial::new(trials, hits as f64 / all as f64).map_or(0, |binomial| binomial.sample(rng))
}

/// Both rates of each resample: the mean over as many seeds as there are, drawn with replacement.
fn resamples(urns: &Urns, stream: u64) -> Vec<(f64, f64)> {
    let block = |block: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(2 * block as u64 + stream);
        let mut times = Vec::new();
        let mut shared = vec![Cluster::default(); urns.seeds];
        (0..BLOCK).map(|_| resample(urns, &mut rng, &mut shared, &mut times)).collect::<Vec<_>>()
    };
    (0..RESAMPLES / BLOCK).into_par_iter().flat_map_iter(block).collect()
}

fn resample(urns: &Urns, rng: &mut ChaCha8Rng, shared: &mut [Cluster], times: &mut Vec<u64>) -> (f64, f64) {
    loop {
        shared.fill(Cluster::default());
        if let Some(urn) = &urns.shared {
            urn.draw(rng, shared, times);
        }
        let (mut a, mut b, mut drawn) = (0.0, 0.0, 0.0);
        for _ in 0..urns.seeds {
            let seed = if urns.seeds == 1 { 0 } else { rng.random_range(0..urns.seeds) };
            let mut total = shared[seed];
            if let Some(urn) = &urns.own[seed] {
                urn.draw(rng, std::slice::from_mut(&mut total), times);
            }
            // A seed that shares few prompts may get none of them.
            if total.a.count > 0.0 {
                (a, b) = (a + total.a.sum / total.a.count, b + total.b.sum / total.b.count);
                drawn += 1.0;
            }
        }
        if drawn > 0.0 {
            return (a / drawn, b / drawn);
        }
    }
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

    fn named<T: Clone>(prompts: &[T]) -> Vec<(usize, T)> {
        prompts.iter().cloned().enumerate().collect()
    }

    fn width(interval: Interval) -> f64 {
        interval.high - interval.low
    }

    #[test]
    fn distinct_clusters_and_single_prompts_have_the_same_distribution() {
        let prompts = prompts(600);
        let distinct = Urn::new(&prompts, 1).unwrap();
        assert!(matches!(&distinct.from, From::Distinct(distinct) if distinct.len() < 12));
        let single = Urn {
            clusters: prompts.clone(),
            seeds: 1,
            prompts: 600,
            from: From::Prompts((0..600).collect()),
        };
        let moments = |urn: Urn| {
            let drawn = summarise(resamples(&Urns { seeds: 1, shared: Some(urn), own: vec![None] }, 0));
            [
                drawn.a.low,
                drawn.a.high,
                drawn.b.low,
                drawn.difference.low,
                drawn.difference.high,
                drawn.detectable,
            ]
        };
        let (by_type, by_prompt) = (moments(distinct), moments(single));
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
        let found = bootstrap(&[named(&better), named(&worse)]).unwrap();
        assert_eq!(found.difference, Interval { low: -1.0, high: 1.0 });
        assert!(found.p > 0.4, "{found:?}");
        let certain = bootstrap(&[named(&better)]).unwrap();
        assert_eq!((certain.difference.low, certain.p), (1.0, 2.0 / 10_001.0));
    }

    #[test]
    fn the_same_on_both_sides_is_no_difference_and_one_prompt_says_nothing() {
        let found = bootstrap(&[named(&[cluster(1, 1), cluster(3, 3), cluster(0, 0)])]).unwrap();
        assert_eq!((found.p, found.detectable), (1.0, 0.0));
        assert_eq!(found.difference, Interval { low: 0.0, high: 0.0 });
        let one = named(&[cluster(0, 3)]);
        assert_eq!(bootstrap(std::slice::from_ref(&one)), None);
        assert_eq!(bootstrap(&[one.clone(), one]), None, "of two seeds");
        assert_eq!((bootstrap::<u8>(&[]), bootstrap::<u8>(&[vec![]])), (None, None));
    }

    #[test]
    fn prompts_of_every_seed_are_not_as_many_prompts_as_there_are_seeds() {
        let prompts = prompts(60);
        let one = bootstrap(&[named(&prompts)]).unwrap();
        let like_one = |found: Bootstrap, share: f64| {
            for (of_one, found) in [(one.difference, found.difference), (one.a, found.a)] {
                let ratio = width(found) / width(of_one);
                assert!((ratio / share - 1.0).abs() < 0.08, "{ratio} instead of {share}");
            }
        };
        like_one(bootstrap(&vec![named(&prompts); 4]).unwrap(), 1.0);
        // Many enough for each kind of prompt to be drawn at once.
        let many: Vec<Cluster> = prompts.iter().copied().cycle().take(6000).collect();
        like_one(bootstrap(&vec![named(&many); 4]).unwrap(), 0.1);
        // Other prompts in each seed are others; a seed that is drawn twice has the variance of (2 − 1/4) / 4 with the
        // same draws, of 1/4 with its own.
        let others: Vec<Vec<((usize, usize), Cluster)>> = (0..4)
            .map(|seed| named(&prompts).into_iter().map(|(name, prompt)| ((seed, name), prompt)).collect())
            .collect();
        like_one(bootstrap(&others).unwrap(), 0.5);
        let sides = |prompts: &[Cluster]| named(&prompts.iter().map(|prompt| prompt.a).collect::<Vec<_>>());
        let apart = |seeds: usize| {
            bootstrap_apart(&vec![sides(&prompts); seeds], &vec![sides(&prompts); seeds]).unwrap().difference
        };
        let ratio = width(apart(3)) / width(apart(1));
        assert!((ratio - 1.0).abs() < 0.08, "{ratio}");
    }

    #[test]
    fn many_prompts_are_drawn_in_groups() {
        let many = |seed: u32| {
            let few = prompts(20_000);
            let at = |n: usize| Cluster { a: few[n].a, b: few[n * (2 * seed as usize + 3) % few.len()].b };
            let vary = |n: usize| Side { sum: at(n).b.sum * (1.0 + n as f64 * 1e-9), count: 3.0 };
            (0..few.len()).map(|n| (n, Cluster { a: at(n).a, b: vary(n) })).collect::<Vec<_>>()
        };
        let seed = many(0);
        let grouped = Urns::new(std::slice::from_ref(&seed)).unwrap();
        assert_eq!(grouped.shared.as_ref().map(|urn| urn.prompts), Some(MOST));
        let found = bootstrap(std::slice::from_ref(&seed)).unwrap();
        // The standard error of a mean of differences, in closed form.
        let differences: Vec<f64> =
            seed.iter().map(|(_, prompt)| (prompt.b.sum - prompt.a.sum) / 3.0).collect();
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let variance = differences.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        let ratio = width(found.difference) / (2.0 * Z * (variance / count).sqrt());
        assert!((ratio - 1.0).abs() < 0.06, "{ratio}");
        assert!(
            (found.difference.low + found.difference.high - 2.0 * mean).abs() < 0.1 * width(found.difference)
        );
    }

    #[test]
    fn seeds_may_share_a_few_prompts() {
        let prompts = prompts(40);
        let named = named(&prompts);
        let found = bootstrap(&[named[..25].to_vec(), named[20..].to_vec(), named[3..4].to_vec()]).unwrap();
        assert!(found.a.low >= 0.0 && found.a.high <= 1.0 && width(found.difference) > 0.0, "{found:?}");
    }

    #[test]
    fn threads_do_not_matter() {
        let seeds = [named(&prompts(100)), named(&prompts(90))];
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(alone.install(|| bootstrap(&seeds)), bootstrap(&seeds));
    }

    #[test]
    fn sides_apart_vary_by_both() {
        let side = |take: fn(&Cluster) -> Side| [named(&prompts(200).iter().map(take).collect::<Vec<_>>())];
        let apart = bootstrap_apart(&side(|c| c.a), &side(|c| c.b)).unwrap();
        let together = bootstrap(&[named(&prompts(200))]).unwrap();
        assert!(width(apart.difference) > width(together.difference), "{apart:?} {together:?}");
    }
}
