//! One measure of two sides: their values, the difference, and the test that fits what is known of it.

use std::collections::HashSet;

use serde::Serialize;

use super::outcomes::{Prompt, Prompts};
use crate::series::Measure;
use crate::statistics::{
    Bootstrap, Cluster, Interval, Side, bootstrap, bootstrap_apart, difference, mcnemar, paired_t,
    smallest_difference, wilson,
};

/// How a difference was tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// One attempt at each prompt: McNemar's exact test, Tango's interval.
    Mcnemar,
    /// Several attempts: the bootstrap over prompts.
    Bootstrap,
    /// Several seeds that both have: over seeds and prompts, the same prompts in every seed that has them.
    BootstrapSeeds,
    /// Other seeds on each side: each drawn on its own.
    BootstrapApart,
    /// No outcomes of single prompts: Student's t over the seeds that both have.
    StudentT,
}

/// What each seed came to.
#[derive(Clone, Debug, Serialize)]
pub struct OfSeed {
    pub seed: Option<u64>,
    pub a: Option<f64>,
    pub b: Option<f64>,
}

/// A measure on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Subject and metric, such as `defender attack_success`.
    pub metric: String,
    #[serde(flatten)]
    pub measure: Names,
    /// Whether it is a share from 0 to 1.
    pub share: bool,
    /// Over the prompts and seeds that both have; nothing where a side lacks it.
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// Of one attempt at each prompt Wilson's, else by the bootstrap; Wilson's too where all prompts came out alike.
    pub a_interval: Option<Interval>,
    pub b_interval: Option<Interval>,
    /// B − A.
    pub difference: Option<f64>,
    pub interval: Option<Interval>,
    pub p: Option<f64>,
    /// Holm's, over all tests of this pair of runs.
    pub p_adjusted: Option<f64>,
    pub test: Option<Test>,
    /// The smallest difference that would have been found in four of five repetitions.
    pub detectable: Option<f64>,
    /// That both were asked. A prompt of several seeds counts once.
    pub prompts: usize,
    /// Attempts at these prompts of which it is known what came of them.
    pub a_attempts: usize,
    pub b_attempts: usize,
    /// Attempts that could not be determined, at any prompt; they are left out.
    pub a_undetermined: usize,
    pub b_undetermined: usize,
    /// Prompts that only one has, which are left out.
    pub only_a: usize,
    pub only_b: usize,
    /// Prompts that both were asked and of which one side, or both, has no attempt that could be determined.
    pub unknown: usize,
    /// Of several seeds, each.
    pub seeds: Vec<OfSeed>,
    /// Seeds that both have, but with no prompt in common.
    pub seeds_left_out: Vec<u64>,
}

/// A measure's names, as fields.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Names {
    pub subject: String,
    pub name: String,
}

/// One seed's part of a measure.
#[derive(Clone, Copy)]
pub struct Part<'p> {
    pub seed: Option<u64>,
    pub value: Option<f64>,
    pub prompts: Option<&'p Prompts>,
}

impl Part<'_> {
    fn undetermined(&self) -> usize {
        self.prompts.map_or(0, |prompts| prompts.undetermined)
    }
}

/// A and B.
pub type Pair<'p> = (Part<'p>, Part<'p>);

/// How the seeds of two sides stand to each other.
pub enum Parts<'p> {
    /// Seed by seed.
    Paired(Vec<Pair<'p>>),
    Apart(Vec<Part<'p>>, Vec<Part<'p>>),
}

/// Tests a measure.
pub fn tested(measure: &Measure, share: bool, parts: &Parts) -> Compared {
    let mut found = Compared {
        metric: format!("{} {}", measure.subject, measure.metric),
        measure: Names { subject: measure.subject.clone(), name: measure.metric.clone() },
        share,
        a: None,
        b: None,
        a_interval: None,
        b_interval: None,
        difference: None,
        interval: None,
        p: None,
        p_adjusted: None,
        test: None,
        detectable: None,
        prompts: 0,
        a_attempts: 0,
        b_attempts: 0,
        a_undetermined: 0,
        b_undetermined: 0,
        only_a: 0,
        only_b: 0,
        unknown: 0,
        seeds: Vec::new(),
        seeds_left_out: Vec::new(),
    };
    match parts {
        Parts::Paired(pairs) => {
            found.a_undetermined = pairs.iter().map(|(a, _)| a.undetermined()).sum();
            found.b_undetermined = pairs.iter().map(|(_, b)| b.undetermined()).sum();
            paired(&mut found, pairs)
        }
        Parts::Apart(a, b) => {
            found.a_undetermined = a.iter().map(Part::undetermined).sum();
            found.b_undetermined = b.iter().map(Part::undetermined).sum();
            apart(&mut found, a, b)
        }
    }
    found
}

fn paired(found: &mut Compared, pairs: &[Pair]) {
    // Seeds with other prompts on each side have nothing to compare; they spoil nothing where other seeds have.
    let (apart, pairs): (Vec<Pair>, Vec<Pair>) =
        pairs.iter().copied().partition(|(a, b)| a.prompts.zip(b.prompts).is_some_and(are_others));
    if pairs.is_empty() {
        let mut left = Left::default();
        apart.iter().filter_map(|(a, b)| a.prompts.zip(b.prompts)).for_each(|(a, b)| {
            shared(a, b, &mut left);
        });
        left.count(found);
        values(found, &apart, false);
        return;
    }
    found.seeds_left_out = apart.iter().filter_map(|(a, b)| a.seed.or(b.seed)).collect();
    // A seed that lacks the measure on one side says nothing of the difference.
    let both: Vec<&Pair> = pairs.iter().filter(|(a, b)| a.value.is_some() && b.value.is_some()).collect();
    let told: Option<Vec<(&Prompts, &Prompts)>> =
        both.iter().map(|(a, b)| Some((a.prompts?, b.prompts?))).collect();
    let mut left = Left::default();
    let clusters: Vec<Vec<(&str, Cluster)>> =
        told.iter().flatten().map(|(a, b)| shared(a, b, &mut left)).collect();
    if clusters.is_empty() || clusters.iter().any(Vec::is_empty) {
        values(found, &pairs, true);
        return;
    }
    left.count(found);
    for ((a, _), clusters) in both.iter().zip(&clusters) {
        let (a_rate, b_rate) = rates(clusters);
        found.seeds.push(OfSeed { seed: a.seed, a: Some(a_rate), b: Some(b_rate) });
    }
    set_means(found);
    found.prompts = clusters.iter().flatten().map(|(id, _)| id).collect::<HashSet<_>>().len();
    let total = |count: fn(&Cluster) -> f64| {
        clusters.iter().flatten().map(|(_, cluster)| count(cluster)).sum::<f64>() as usize
    };
    (found.a_attempts, found.b_attempts) =
        (total(|cluster| cluster.a.count), total(|cluster| cluster.b.count));
    match &clusters[..] {
        [only] if only.iter().all(|(_, cluster)| is_single(&cluster.a) && is_single(&cluster.b)) => {
            exact(found, only)
        }
        [_] => set_bootstrap(found, bootstrap(&clusters), Test::Bootstrap),
        _ => set_bootstrap(found, bootstrap(&clusters), Test::BootstrapSeeds),
    }
    if found.seeds.len() == 1 {
        found.seeds.clear();
    }
}

/// Values alone: of several seeds Student's t, if they are to be tested.
fn values(found: &mut Compared, pairs: &[Pair], test: bool) {
    found.seeds =
        pairs.iter().map(|(a, b)| OfSeed { seed: a.seed.or(b.seed), a: a.value, b: b.value }).collect();
    let differences: Vec<f64> = found.seeds.iter().filter_map(|seed| Some(seed.b? - seed.a?)).collect();
    if differences.is_empty() {
        let mean =
            |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        found.a = mean(found.seeds.iter().filter_map(|seed| seed.a).collect());
        found.b = mean(found.seeds.iter().filter_map(|seed| seed.b).collect());
    } else {
        set_means(found);
    }
    if let Some(tested) = paired_t(&differences).filter(|_| test) {
        (found.interval, found.p) = (Some(tested.interval), Some(tested.p));
        (found.detectable, found.test) = (Some(tested.detectable), Some(Test::StudentT));
    }
    if found.seeds.len() == 1 {
        found.seeds.clear();
    }
}

fn apart(found: &mut Compared, a: &[Part], b: &[Part]) {
    let of = |part: &Part, is_a: bool| OfSeed {
        seed: part.seed,
        a: part.value.filter(|_| is_a),
        b: part.value.filter(|_| !is_a),
    };
    found.seeds = a.iter().map(|part| of(part, true)).chain(b.iter().map(|part| of(part, false))).collect();
    let (told_a, told_b) = (sides(a), sides(b));
    let mean = |parts: &[Part]| {
        let values: Vec<f64> = parts.iter().filter_map(|part| part.value).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    (found.a, found.b) = (mean(a), mean(b));
    found.difference = found.a.zip(found.b).map(|(a, b)| b - a);
    if let (Some(a), Some(b)) = (told_a, told_b) {
        let attempts = |side: &[Vec<(&str, Side)>]| {
            side.iter().flatten().map(|(_, side)| side.count).sum::<f64>() as usize
        };
        (found.a_attempts, found.b_attempts) = (attempts(&a), attempts(&b));
        set_bootstrap(found, bootstrap_apart(&a, &b), Test::BootstrapApart);
    }
}

/// The attempts at each prompt of each seed that has a value, if all are known.
fn sides<'p>(parts: &[Part<'p>]) -> Option<Vec<Vec<(&'p str, Side)>>> {
    let of = |prompts: &'p Prompts| {
        let of = |prompt: &'p Prompt| (prompt.id.as_str(), side(prompt.sum(), prompt.attempts.len()));
        prompts.list.iter().map(of).collect::<Vec<_>>()
    };
    let parts = parts.iter().filter(|part| part.value.is_some());
    parts.map(|part| Some(of(part.prompts?))).collect::<Option<Vec<_>>>().filter(|sides| !sides.is_empty())
}

/// Whether no prompt was asked in both.
fn are_others((a, b): (&Prompts, &Prompts)) -> bool {
    let is_asked = |side: &Prompts, id: &str| side.get(id).is_some() || side.is_unknown(id);
    !a.list.iter().any(|prompt| is_asked(b, &prompt.id))
        && !b.list.iter().any(|prompt| is_asked(a, &prompt.id))
}

/// Prompts that only one side has, in whatever seed.
#[derive(Default)]
struct Left<'p> {
    a: HashSet<&'p str>,
    b: HashSet<&'p str>,
    unknown: HashSet<&'p str>,
}

impl Left<'_> {
    fn count(&self, found: &mut Compared) {
        (found.only_a, found.only_b) = (self.a.len(), self.b.len());
        found.unknown = self.unknown.len();
    }
}

/// The prompts that both have; the others are left.
fn shared<'p>(a: &'p Prompts, b: &'p Prompts, left: &mut Left<'p>) -> Vec<(&'p str, Cluster)> {
    let mut clusters = Vec::with_capacity(a.list.len());
    for prompt in &a.list {
        match b.get(&prompt.id) {
            Some(other) => {
                let (a, b) =
                    (side(prompt.sum(), prompt.attempts.len()), side(other.sum(), other.attempts.len()));
                clusters.push((prompt.id.as_str(), Cluster { a, b }));
            }
            None if b.is_unknown(&prompt.id) => drop(left.unknown.insert(&prompt.id)),
            None => drop(left.a.insert(&prompt.id)),
        }
    }
    for id in b.list.iter().map(|prompt| prompt.id.as_str()).filter(|id| a.get(id).is_none()) {
        if a.is_unknown(id) {
            left.unknown.insert(id)
        } else {
            left.b.insert(id)
        };
    }
    clusters
}

fn side(sum: f64, count: usize) -> Side {
    Side { sum, count: count as f64 }
}

fn is_single(side: &Side) -> bool {
    side.count == 1.0 && (side.sum == 0.0 || side.sum == 1.0)
}

fn rates(clusters: &[(&str, Cluster)]) -> (f64, f64) {
    let total = |of: fn(&Cluster) -> Side| {
        let (sum, count) = clusters
            .iter()
            .map(|(_, cluster)| of(cluster))
            .fold((0.0, 0.0), |(sum, count), side| (sum + side.sum, count + side.count));
        sum / count
    };
    (total(|cluster| cluster.a), total(|cluster| cluster.b))
}

/// The values of both sides from those of the seeds that both have.
fn set_means(found: &mut Compared) {
    let both: Vec<(f64, f64)> = found.seeds.iter().filter_map(|seed| Some((seed.a?, seed.b?))).collect();
    let count = both.len() as f64;
    let (a, b) = both.iter().fold((0.0, 0.0), |(a, b), pair| (a + pair.0, b + pair.1));
    let (a, b) = (a / count, b / count);
    (found.a, found.b, found.difference) = (Some(a), Some(b), Some(b - a));
}

fn exact(found: &mut Compared, clusters: &[(&str, Cluster)]) {
    let count = |is: fn(&Cluster) -> bool| clusters.iter().filter(|(_, cluster)| is(cluster)).count() as u64;
    let all = clusters.len() as u64;
    let gained = count(|cluster| cluster.b.sum > cluster.a.sum);
    let lost = count(|cluster| cluster.a.sum > cluster.b.sum);
    found.a_interval = wilson(count(|cluster| cluster.a.sum > 0.0), all);
    found.b_interval = wilson(count(|cluster| cluster.b.sum > 0.0), all);
    found.interval = difference(gained, lost, all);
    found.p = Some(mcnemar(gained, lost));
    found.detectable = smallest_difference((gained + lost) as f64 / all as f64, all);
    found.test = Some(Test::Mcnemar);
}

fn set_bootstrap(found: &mut Compared, drawn: Option<Bootstrap>, test: Test) {
    let Some(drawn) = drawn else { return };
    found.a_interval = found.a.and_then(|rate| varied(drawn.a).or_else(|| of_prompts(found, rate)));
    found.b_interval = found.b.and_then(|rate| varied(drawn.b).or_else(|| of_prompts(found, rate)));
    (found.p, found.test) = (Some(drawn.p), Some(test));
    // Prompts that all came out alike say nothing of how much others might vary.
    found.interval = varied(drawn.difference);
    found.detectable = found.interval.map(|_| drawn.detectable);
}

fn varied(interval: Interval) -> Option<Interval> {
    (interval.high - interval.low > 1e-12).then_some(interval)
}

/// Where every prompt came out alike: Wilson's interval, each prompt counted once whatever its attempts.
fn of_prompts(found: &Compared, rate: f64) -> Option<Interval> {
    match rate {
        0.0 => wilson(0, found.prompts as u64),
        1.0 => wilson(found.prompts as u64, found.prompts as u64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcomes::tests::{prompts, with_unknown};
    use super::*;

    fn measure() -> Measure {
        Measure { subject: "defender".into(), metric: "attack_success".into() }
    }

    fn part(seed: Option<u64>, value: f64, prompts: Option<&Prompts>) -> Part<'_> {
        Part { seed, value: Some(value), prompts }
    }

    #[test]
    fn one_attempt_each_is_mcnemar_and_prompts_of_one_side_are_left_out() {
        let a = prompts(&[("x", &[1.0]), ("y", &[1.0]), ("z", &[0.0]), ("only", &[1.0])]);
        let b = prompts(&[("y", &[0.0]), ("x", &[0.0]), ("z", &[0.0]), ("other", &[0.0]), ("more", &[0.0])]);
        let pair = (part(None, 0.75, Some(&a)), part(None, 0.0, Some(&b)));
        let found = tested(&measure(), true, &Parts::Paired(vec![pair]));
        assert_eq!((found.test, found.p), (Some(Test::Mcnemar), Some(0.5)));
        assert_eq!((found.prompts, found.only_a, found.only_b), (3, 1, 2));
        assert_eq!((found.a, found.b), (Some(2.0 / 3.0), Some(0.0)));
        assert_eq!(found.detectable, None, "three prompts can show nothing");
        assert!(found.seeds.is_empty());
    }

    #[test]
    fn what_could_not_be_determined_is_neither_a_success_nor_a_failure_nor_a_prompt_of_one_side() {
        let a = with_unknown(&[("x", &[1.0]), ("y", &[1.0, 0.0]), ("z", &[0.0])], &["x", "w", "w"]);
        let b = with_unknown(&[("x", &[0.0]), ("w", &[1.0])], &["y", "z"]);
        let pair = (part(None, 0.5, Some(&a)), part(None, 0.5, Some(&b)));
        let found = tested(&measure(), true, &Parts::Paired(vec![pair]));
        assert_eq!((found.a, found.b, found.prompts), (Some(1.0), Some(0.0), 1), "of `x` alone");
        assert_eq!((found.unknown, found.only_a, found.only_b), (3, 0, 0));
        assert_eq!((found.a_undetermined, found.b_undetermined), (3, 2));
        // Nothing of A could be determined: there is no rate, and nothing to test.
        let nothing = with_unknown(&[], &["x", "w"]);
        let none = Part { seed: None, value: None, prompts: Some(&nothing) };
        for parts in [Parts::Paired(vec![(none, pair.1)]), Parts::Apart(vec![none], vec![pair.1])] {
            let found = tested(&measure(), true, &parts);
            assert_eq!((found.a, found.b, found.difference, found.p), (None, Some(0.5), None, None));
            assert_eq!((found.a_undetermined, found.b_undetermined), (2, 2));
        }
    }

    #[test]
    fn several_attempts_are_the_bootstrap_and_several_seeds_that_over_seeds() {
        let a = prompts(&[("x", &[1.0, 0.0]), ("y", &[1.0, 1.0])]);
        let b = prompts(&[("x", &[1.0]), ("y", &[0.0])]);
        let pair = |seed| (part(seed, 0.75, Some(&a)), part(seed, 0.5, Some(&b)));
        let one = tested(&measure(), true, &Parts::Paired(vec![pair(None)]));
        assert_eq!((one.test, one.difference), (Some(Test::Bootstrap), Some(-0.25)));
        assert_eq!((one.a_attempts, one.b_attempts), (4, 2));
        let two = tested(&measure(), true, &Parts::Paired(vec![pair(Some(1)), pair(Some(2))]));
        assert_eq!(
            (two.test, two.prompts, two.seeds.len()),
            (Some(Test::BootstrapSeeds), 2, 2),
            "the same two"
        );
        assert_eq!((two.a_attempts, two.b_attempts), (8, 4));
        let none = prompts(&[("x", &[0.0, 0.0]), ("y", &[0.0, 0.0])]);
        let pair_of_none = (part(None, 0.0, Some(&none)), part(None, 0.0, Some(&none)));
        let same = tested(&measure(), true, &Parts::Paired(vec![pair_of_none]));
        assert_eq!((same.p, same.interval, same.detectable), (Some(1.0), None, None), "nothing varied");
        assert!(same.a_interval.is_some_and(|interval| interval.low == 0.0 && interval.high > 0.5));
        let apart = Parts::Apart(vec![pair(Some(1)).0, pair(Some(2)).0], vec![pair(Some(3)).1]);
        assert_eq!(tested(&measure(), true, &apart).test, Some(Test::BootstrapApart));
    }

    #[test]
    fn a_seed_with_other_prompts_is_left_out_and_spoils_nothing() {
        let a = prompts(&[("x", &[1.0]), ("y", &[1.0]), ("only", &[0.0])]);
        let b = prompts(&[("x", &[1.0]), ("y", &[0.0])]);
        let others = prompts(&[("z", &[1.0])]);
        let like = |seed| (part(Some(seed), 0.75, Some(&a)), part(Some(seed), 0.5, Some(&b)));
        let unlike = |seed| (part(Some(seed), 0.75, Some(&a)), part(Some(seed), 1.0, Some(&others)));
        let found = tested(&measure(), true, &Parts::Paired(vec![like(1), unlike(2), like(3)]));
        assert_eq!((found.test, found.seeds_left_out), (Some(Test::BootstrapSeeds), vec![2]));
        assert_eq!((found.prompts, found.only_a, found.only_b), (2, 1, 0));
        assert_eq!(found.seeds.iter().map(|seed| seed.seed).collect::<Vec<_>>(), [Some(1), Some(3)]);
        let found = tested(&measure(), true, &Parts::Paired(vec![like(1), unlike(2)]));
        assert_eq!((found.test, found.difference), (Some(Test::Mcnemar), Some(-0.5)));
        // No test over other prompts, whose numbers are told.
        let found = tested(&measure(), true, &Parts::Paired(vec![unlike(1), unlike(2), unlike(3)]));
        assert_eq!((found.test, found.prompts, found.only_a, found.only_b), (None, 0, 3, 1));
        // Of one seed the outcomes are gone: values, of all prompts.
        let gone = (part(Some(4), 0.25, None), part(Some(4), 0.5, None));
        let found = tested(&measure(), true, &Parts::Paired(vec![like(1), unlike(2), gone]));
        assert_eq!((found.test, found.seeds.len(), found.only_a), (Some(Test::StudentT), 2, 0));
        assert_eq!(found.seeds_left_out, [2]);
    }

    #[test]
    fn without_prompts_there_are_values_and_over_seeds_student_s_t() {
        let pair = |seed, a, b| (part(Some(seed), a, None), part(Some(seed), b, None));
        let one = tested(&measure(), false, &Parts::Paired(vec![pair(1, 0.25, 0.5)]));
        assert_eq!((one.test, one.difference, one.p), (None, Some(0.25), None));
        let several = [0.5, 0.75, 0.25, 0.5].into_iter().zip(1..).map(|(b, seed)| pair(seed, 0.25, b));
        let several = tested(&measure(), false, &Parts::Paired(several.collect()));
        assert_eq!((several.test, several.difference), (Some(Test::StudentT), Some(0.25)));
        let same = vec![pair(1, 0.25, 0.5), pair(2, 0.5, 0.75)];
        let same = tested(&measure(), false, &Parts::Paired(same));
        assert_eq!((same.test, same.difference), (None, Some(0.25)), "no variation to hold it against");
        let lacking = Part { seed: None, value: None, prompts: None };
        let missing = tested(&measure(), false, &Parts::Paired(vec![(part(None, 1.0, None), lacking)]));
        assert_eq!((missing.a, missing.b, missing.difference), (Some(1.0), None, None));
    }
}
