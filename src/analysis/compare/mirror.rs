//! Mirrors: a measure with the same numbers as another, or 1 minus them, such as `diversity` and `self_bleu`, adds no further
//! chance of a false positive. Holm's method counts the two as one test.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Comparison;
use super::measured::{Compared, SeedValues};
use crate::statistics::{Cluster, Side, holm};

/// The tested numbers: those of both sides for each prompt or seed, sorted by the hashes of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Evidence(Vec<(u64, Cluster)>);

impl Evidence {
    pub(crate) fn of_prompts<'p>(prompts: impl Iterator<Item = (&'p str, Cluster)>) -> Evidence {
        let mut all: Vec<(u64, Cluster)> = prompts.map(|(name, cluster)| (digest(name), cluster)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        Evidence(all)
    }

    pub(crate) fn of_seeds(seeds: &[SeedValues]) -> Evidence {
        let side = |value: Option<f64>| value.map_or(Side::default(), |sum| Side { sum, count: 1.0 });
        let of = |seed: &SeedValues| (digest(seed.seed), Cluster { a: side(seed.a), b: side(seed.b) });
        Evidence(seeds.iter().map(of).collect())
    }

    /// Whether the numbers vary: two rates that stay at 0 are equal, but independent measures.
    fn varies(&self) -> bool {
        let rates = || self.0.iter().flat_map(|(_, own)| [own.a, own.b]).filter(|side| side.count > 0.0);
        rates().next().is_some_and(|first| rates().any(|side| (side.rate() - first.rate()).abs() > ROUNDING))
    }

    /// Whether all numbers are equal, or all are 1 minus the other's.
    fn mirrors(&self, other: &Evidence) -> bool {
        let all = |is: fn(&Side, &Side) -> bool| {
            let is = |((own, a), (name, b)): (&(u64, Cluster), &(u64, Cluster))| {
                own == name
                    && a.a.count == b.a.count
                    && a.b.count == b.b.count
                    && is(&a.a, &b.a)
                    && is(&a.b, &b.b)
            };
            self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(is)
        };
        let is_same = all(|own, other| (own.sum - other.sum).abs() < ROUNDING)
            || all(|own, other| (own.count - own.sum - other.sum).abs() < ROUNDING);
        is_same && self.varies()
    }
}

/// The rounding error of 1 − x.
const ROUNDING: f64 = 1e-12;

fn digest(name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Adjusts the p-values of all comparisons that are shown together by Holm's method, with mirrors counted once. Sets the number
/// of tests in each comparison.
pub(crate) fn adjust(comparisons: &mut [Comparison]) {
    let mut tested: Vec<&mut Compared> =
        comparisons.iter_mut().flat_map(|one| &mut one.metrics).filter(|found| found.p.is_some()).collect();
    // For each test the index of the first that it mirrors, which may be itself.
    let mut firsts: Vec<usize> = Vec::with_capacity(tested.len());
    for (place, found) in tested.iter().enumerate() {
        let is_same = |first: &&usize| {
            tested[**first].test == found.test && tested[**first].evidence.mirrors(&found.evidence)
        };
        let distinct = firsts.iter().enumerate().filter(|(place, first)| place == *first);
        firsts.push(distinct.map(|(_, first)| first).find(is_same).copied().unwrap_or(place));
    }
    let places: Vec<usize> = (0..tested.len()).filter(|place| firsts[*place] == *place).collect();
    let p: Vec<f64> = places.iter().filter_map(|place| tested[*place].p).collect();
    let adjusted = holm(&p);
    for place in 0..tested.len() {
        let first = firsts[place];
        let own = places.iter().position(|place| *place == first).map(|own| adjusted[own]);
        let name = tested[first].metric.clone();
        tested[place].p_adjusted = own;
        tested[place].mirrors = (first != place).then_some(name);
    }
    comparisons.iter_mut().for_each(|one| one.tests = p.len());
}

#[cfg(test)]
mod tests {
    use super::super::measured::{Part, Parts, tested};
    use super::*;
    use crate::series::Measure;

    fn compared(metric: &str, seeds: &[(f64, f64)]) -> Compared {
        let part =
            |seed: usize, value: f64| Part { seed: Some(seed as u64), value: Some(value), prompts: None };
        let pairs = seeds.iter().enumerate().map(|(seed, (a, b))| (part(seed, *a), part(seed, *b)));
        let measure = Measure { subject: "attacks".into(), metric: metric.into() };
        tested(&measure, false, &Parts::Paired(pairs.collect()))
    }

    #[test]
    fn all_comparisons_are_one_family_and_mirrors_count_once() {
        let own = [(0.1, 0.4), (0.2, 0.4), (0.15, 0.5), (0.3, 0.6)];
        let less = own.map(|(a, b)| (1.0 - a, 1.0 - b));
        let other = [(0.1, 0.2), (0.2, 0.4), (0.15, 0.2), (0.3, 0.25)];
        let comparison = |metrics| Comparison { metrics, ..Comparison::default() };
        let mut both = [
            comparison(vec![compared("self_bleu", &own), compared("diversity", &less)]),
            comparison(vec![compared("self_bleu", &own), compared("entropy", &other)]),
        ];
        adjust(&mut both);
        let [first, second] = &both;
        assert_eq!((first.tests, second.tests), (2, 2));
        let p = first.metrics[0].p.unwrap();
        assert!(p < 0.05 && second.metrics[1].p.unwrap() > p);
        for found in [&first.metrics[0], &first.metrics[1], &second.metrics[0]] {
            assert_eq!(found.p_adjusted, Some(2.0 * p), "{found:?}");
        }
        assert_eq!(second.metrics[1].p_adjusted, second.metrics[1].p);
        let mirrors: Vec<Option<&str>> =
            both.iter().flat_map(|one| &one.metrics).map(|found| found.mirrors.as_deref()).collect();
        assert_eq!(mirrors, [None, Some("attacks self_bleu"), Some("attacks self_bleu"), None]);
    }

    #[test]
    fn rates_that_stay_at_nothing_have_nothing_to_do_with_each_other() {
        let none = || compared("marks_in_text", &[(0.0, 0.0), (0.0, 0.0)]);
        let mut one = [Comparison { metrics: vec![none(), none()], ..Comparison::default() }];
        adjust(&mut one);
        assert_eq!((one[0].tests, one[0].metrics[1].mirrors.as_deref()), (2, None));
    }

    #[test]
    fn the_same_rates_of_other_prompts_are_no_mirror() {
        let cluster = Cluster { a: Side { sum: 1.0, count: 3.0 }, b: Side { sum: 0.0, count: 3.0 } };
        let of =
            |names: [&'static str; 2]| Evidence::of_prompts(names.into_iter().map(|name| (name, cluster)));
        assert!(of(["x", "y"]).mirrors(&of(["y", "x"])));
        assert!(!of(["x", "y"]).mirrors(&of(["x", "z"])));
        let less = Cluster { a: Side { sum: 2.0, count: 3.0 }, b: Side { sum: 3.0, count: 3.0 } };
        let less =
            |names: [&'static str; 2]| Evidence::of_prompts(names.into_iter().map(|name| (name, less)));
        assert!(of(["x", "y"]).mirrors(&less(["x", "y"])));
    }
}
