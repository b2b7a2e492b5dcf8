//! Mirrors: a measure with the same numbers as another, or 1 minus them, such as `diversity` and `self_bleu`, adds no further
//! chance of a false positive. Holm's method counts the two as one test.

use super::Comparison;
use super::measured::Compared;
use crate::statistics::holm;

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
}
