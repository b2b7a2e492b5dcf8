//! One measure of two sides: their values, the difference, and a test that fits the data.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::evidence::{Evidence, SeedValues};
use super::outcomes::{Prompt, Prompts};
use crate::named::MetricName;
use crate::series::Measure;
use crate::statistics::{
    Cluster, Interval, Side, TestMethod, Tested, clustered, difference, estimate, independent_seeds, mcnemar,
    over_seeds, rate_interval, smallest_difference,
};

/// The test of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// One attempt at each prompt, each of a different hazard: McNemar's exact test, Tango's interval.
    Mcnemar,
    /// Several attempts at a hazard: the bootstrap over hazards.
    Bootstrap,
    /// The same with fewer than ten hazards: Student's t over hazards.
    HazardT,
    /// Several common seeds: the paired t test over seeds.
    StudentT,
    /// Different seeds on each side: Welch's t test.
    WelchT,
    /// Seeds or hazards whose differences are all equal: the sign test.
    Sign,
}

impl Test {
    fn of_seeds(by: TestMethod) -> Test {
        match by {
            TestMethod::Sign => Test::Sign,
            TestMethod::WelchT => Test::WelchT,
            TestMethod::StudentT | TestMethod::Bootstrap => Test::StudentT,
        }
    }

    fn of_hazards(by: TestMethod) -> Test {
        match by {
            TestMethod::Sign => Test::Sign,
            TestMethod::Bootstrap => Test::Bootstrap,
            TestMethod::StudentT | TestMethod::WelchT => Test::HazardT,
        }
    }
}

/// A measure on both sides.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Compared {
    /// Subject and metric, such as `defender attack_success`.
    pub metric: String,
    /// The same, as two fields.
    #[serde(flatten)]
    pub measure: Names,
    /// Whether it is a share from 0 to 1.
    pub share: bool,
    /// With one seed, the value over the common prompts. With several, the mean over the common seeds of what each reported; if a
    /// seed of either side was asked other prompts too, of the values over common prompts. None if a side lacks the measure.
    pub a: Option<f64>,
    /// As `a`, of the second run.
    pub b: Option<f64>,
    /// With several seeds Student's interval, with one Wilson's over hazards. None if it is unknown.
    pub a_interval: Option<Interval>,
    /// As `a_interval`, of the second run.
    pub b_interval: Option<Interval>,
    /// B − A.
    pub difference: Option<f64>,
    /// None if it is unknown although there is a test: seeds or hazards with equal differences.
    pub interval: Option<Interval>,
    /// Two-sided p-value of the difference; `None` without a test.
    pub p: Option<f64>,
    /// Holm's adjustment, over all tests that are shown together.
    pub p_adjusted: Option<f64>,
    /// Another measure with the same numbers, or 1 minus them; the two count as one test.
    pub mirrors: Option<String>,
    /// The test that gave `p`; `None` if there are too few seeds or hazards for one.
    pub test: Option<Test>,
    /// The smallest difference that would be found in four of five repetitions.
    pub detectable: Option<f64>,
    /// The number of common prompts. A prompt of several seeds counts once.
    pub prompts: usize,
    /// The number of seed prompts behind these.
    pub hazards: usize,
    /// Attempts at these prompts with a known outcome.
    pub a_attempts: usize,
    /// As `a_attempts`, of the second run.
    pub b_attempts: usize,
    /// Undetermined attempts, at any prompt; they are left out.
    pub a_undetermined: usize,
    /// As `a_undetermined`, of the second run.
    pub b_undetermined: usize,
    /// Prompts of only one side, which are left out.
    pub only_a: usize,
    /// As `only_a`, of the second run.
    pub only_b: usize,
    /// Common prompts that are left out because a side has no determined attempt at them.
    pub unknown: usize,
    /// The values of each seed, if there are several.
    pub seeds: Vec<SeedValues>,
    /// Common seeds without a common prompt.
    pub seeds_left_out: Vec<u64>,
    /// What was tested.
    #[serde(skip)]
    pub(super) evidence: Evidence,
}

/// The names of a measure, as fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Names {
    /// The model or role, such as `defender`.
    pub subject: String,
    /// The metric, such as `attack_success`.
    pub name: String,
}

impl Names {
    /// The name by which it is asked for: its subject says the combination of a matrix, as in `train[0.5]`.
    pub fn as_named(&self) -> MetricName<'_> {
        let (subject, label) = runs::stage(&self.subject);
        MetricName { subject, label, metric: &self.name }
    }
}

/// One seed's values of a measure.
#[derive(Clone, Copy)]
pub(crate) struct Part<'p> {
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
pub(crate) type Pair<'p> = (Part<'p>, Part<'p>);

/// The correspondence of the seeds of two sides.
pub(crate) enum Parts<'p> {
    /// Seed by seed.
    Paired(Vec<Pair<'p>>),
    Unpaired(Vec<Part<'p>>, Vec<Part<'p>>),
}

impl Parts<'_> {
    /// The values that are known.
    pub(crate) fn values(&self) -> Vec<f64> {
        match self {
            Parts::Paired(pairs) => pairs.iter().flat_map(|(a, b)| [a.value, b.value]).flatten().collect(),
            Parts::Unpaired(a, b) => a.iter().chain(b).filter_map(|part| part.value).collect(),
        }
    }
}

/// Tests a measure.
pub(crate) fn tested(measure: &Measure, share: bool, parts: &Parts) -> Compared {
    let mut found = Compared {
        metric: format!("{} {}", measure.subject, measure.metric),
        measure: Names { subject: measure.subject.clone(), name: measure.metric.clone() },
        share,
        ..Compared::default()
    };
    match parts {
        Parts::Paired(pairs) => {
            found.a_undetermined = pairs.iter().map(|(a, _)| a.undetermined()).sum();
            found.b_undetermined = pairs.iter().map(|(_, b)| b.undetermined()).sum();
            paired(&mut found, pairs)
        }
        Parts::Unpaired(a, b) => {
            found.a_undetermined = a.iter().map(Part::undetermined).sum();
            found.b_undetermined = b.iter().map(Part::undetermined).sum();
            apart(&mut found, a, b)
        }
    }
    found
}

fn paired(found: &mut Compared, pairs: &[Pair]) {
    // Seeds without a common prompt have nothing to compare; they are ignored if other seeds have some.
    let (others, pairs): (Vec<Pair>, Vec<Pair>) =
        pairs.iter().copied().partition(|(a, b)| a.prompts.zip(b.prompts).is_some_and(are_others));
    if pairs.is_empty() {
        let mut left = LeftOutPrompts::default();
        others.iter().filter_map(|(a, b)| a.prompts.zip(b.prompts)).for_each(|(a, b)| {
            shared(a, b, &mut left);
        });
        left.count(found);
        values(found, &others);
        return;
    }
    found.seeds_left_out = others.iter().filter_map(|(a, b)| a.seed.or(b.seed)).collect();
    // A seed that lacks the measure on one side says nothing about the difference.
    let both: Vec<Pair> =
        pairs.iter().copied().filter(|(a, b)| a.value.is_some() && b.value.is_some()).collect();
    match &both[..] {
        [] => values(found, &pairs),
        [only] => of_prompts(found, only),
        several => of_seeds(found, several),
    }
}

/// Only values, without a test.
fn values(found: &mut Compared, pairs: &[Pair]) {
    found.seeds =
        pairs.iter().map(|(a, b)| SeedValues { seed: a.seed.or(b.seed), a: a.value, b: b.value }).collect();
    if found.seeds.iter().any(|seed| seed.a.is_some() && seed.b.is_some()) {
        set_means(found);
    } else {
        found.a = mean(found.seeds.iter().filter_map(|seed| seed.a));
        found.b = mean(found.seeds.iter().filter_map(|seed| seed.b));
    }
    if found.seeds.len() == 1 {
        found.seeds.clear();
    }
}

/// One seed, prompt by prompt.
fn of_prompts(found: &mut Compared, pair: &Pair) {
    let (a, b) = pair;
    let mut left = LeftOutPrompts::default();
    let prompts = a.prompts.zip(b.prompts).map(|(a, b)| shared(a, b, &mut left)).unwrap_or_default();
    if prompts.is_empty() {
        values(found, &[*pair]);
        return;
    }
    left.count(found);
    let mut total = Cluster::default();
    prompts.iter().for_each(|prompt| total.add(&prompt.cluster, 1.0));
    let (of_a, of_b) = (total.a.rate(), total.b.rate());
    (found.a, found.b, found.difference) = (Some(of_a), Some(of_b), Some(of_b - of_a));
    (found.a_attempts, found.b_attempts) = (total.a.count as usize, total.b.count as usize);
    let hazards = by_hazard(&prompts);
    (found.prompts, found.hazards) = (prompts.len(), hazards.len());
    // McNemar's test requires independent items.
    if hazards.iter().all(|hazard| is_single(&hazard.a) && is_single(&hazard.b)) {
        exact(found, &hazards);
    } else if let Some(drawn) = clustered(&hazards) {
        set_test(found, drawn, Test::of_hazards(drawn.by));
    }
    let rate = |of: fn(&Cluster) -> Side| rate_interval(&hazards.iter().map(of).collect::<Vec<_>>());
    (found.a_interval, found.b_interval) = (rate(|hazard| hazard.a), rate(|hazard| hazard.b));
    found.evidence = Evidence::of_prompts(prompts.iter().map(|prompt| (prompt.id, prompt.cluster)));
}

/// Several seeds: Student's t over the values that `results table` shows too.
fn of_seeds<'p>(found: &mut Compared, pairs: &[Pair<'p>]) {
    let mut counted = PromptCounts::default();
    found.seeds = pairs.iter().map(|pair| of_seed(pair, &mut counted)).collect();
    counted.set(found);
    set_means(found);
    let of =
        |value: fn(&SeedValues) -> Option<f64>| found.seeds.iter().filter_map(value).collect::<Vec<f64>>();
    let (a, b) = (of(|seed| seed.a), of(|seed| seed.b));
    (found.a_interval, found.b_interval) = (over(&a, found.share), over(&b, found.share));
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
    if let Some(drawn) = over_seeds(&differences) {
        set_test(found, drawn, Test::of_seeds(drawn.by));
    }
    found.evidence = Evidence::of_seeds(&found.seeds);
}

/// The values of a seed on both sides: what it reported; or if the sides were asked different prompts, the rates over the common
/// ones.
fn of_seed<'p>((a, b): &Pair<'p>, counted: &mut PromptCounts<'p>) -> SeedValues {
    let seed = a.seed.or(b.seed);
    let reported = SeedValues { seed, a: a.value, b: b.value };
    let Some((in_a, in_b)) = a.prompts.zip(b.prompts) else { return reported };
    let mut left = LeftOutPrompts::default();
    let prompts = shared(in_a, in_b, &mut left);
    if prompts.is_empty() || (left.a.is_empty() && left.b.is_empty()) {
        counted.add(&in_a.list, &in_b.list);
        return reported;
    }
    let mut total = Cluster::default();
    prompts.iter().for_each(|prompt| total.add(&prompt.cluster, 1.0));
    counted.add_shared(&prompts, total);
    counted.left.join(left);
    SeedValues { seed, a: Some(total.a.rate()), b: Some(total.b.rate()) }
}

/// No common seed.
fn apart(found: &mut Compared, a: &[Part], b: &[Part]) {
    let of = |part: &Part, is_a: bool| SeedValues {
        seed: part.seed,
        a: part.value.filter(|_| is_a),
        b: part.value.filter(|_| !is_a),
    };
    found.seeds = a.iter().map(|part| of(part, true)).chain(b.iter().map(|part| of(part, false))).collect();
    let told = |parts: &[Part]| parts.iter().filter_map(|part| part.value).collect::<Vec<f64>>();
    let attempts = |parts: &[Part]| -> usize {
        let prompts = parts.iter().filter_map(|part| part.prompts).flat_map(|prompts| &prompts.list);
        prompts.map(|prompt| prompt.attempts.len()).sum()
    };
    (found.a_attempts, found.b_attempts) = (attempts(a), attempts(b));
    let (in_a, in_b) = (told(a), told(b));
    (found.a, found.b) = (mean(in_a.iter().copied()), mean(in_b.iter().copied()));
    found.difference = found.a.zip(found.b).map(|(a, b)| b - a);
    (found.a_interval, found.b_interval) = (over(&in_a, found.share), over(&in_b, found.share));
    if let Some(drawn) = independent_seeds(&in_a, &in_b) {
        set_test(found, drawn, Test::of_seeds(drawn.by));
    }
    found.evidence = Evidence::of_seeds(&found.seeds);
}

/// Whether the sides have no common prompt.
fn are_others((a, b): (&Prompts, &Prompts)) -> bool {
    let is_asked = |side: &Prompts, id: &str| side.get(id).is_some() || side.is_unknown(id);
    !a.list.iter().any(|prompt| is_asked(b, &prompt.id))
        && !b.list.iter().any(|prompt| is_asked(a, &prompt.id))
}

/// Prompts that are left out, in any seed: those of only one side, and those without a determined attempt on a side.
#[derive(Default)]
struct LeftOutPrompts<'p> {
    a: HashSet<&'p str>,
    b: HashSet<&'p str>,
    unknown: HashSet<&'p str>,
}

impl<'p> LeftOutPrompts<'p> {
    fn join(&mut self, other: LeftOutPrompts<'p>) {
        self.a.extend(other.a);
        self.b.extend(other.b);
        self.unknown.extend(other.unknown);
    }

    fn count(&self, found: &mut Compared) {
        (found.only_a, found.only_b) = (self.a.len(), self.b.len());
        found.unknown = self.unknown.len();
    }
}

/// The prompts and attempts of several seeds.
#[derive(Default)]
struct PromptCounts<'p> {
    prompts: HashSet<&'p str>,
    hazards: HashSet<&'p str>,
    a_attempts: usize,
    b_attempts: usize,
    left: LeftOutPrompts<'p>,
}

impl<'p> PromptCounts<'p> {
    fn add(&mut self, a: &'p [Prompt], b: &'p [Prompt]) {
        for prompt in a.iter().chain(b) {
            self.prompts.insert(&prompt.id);
            self.hazards.insert(&prompt.hazard);
        }
        let attempts = |side: &[Prompt]| side.iter().map(|prompt| prompt.attempts.len()).sum::<usize>();
        self.a_attempts += attempts(a);
        self.b_attempts += attempts(b);
    }

    fn add_shared(&mut self, prompts: &[Shared<'p>], total: Cluster) {
        self.prompts.extend(prompts.iter().map(|prompt| prompt.id));
        self.hazards.extend(prompts.iter().map(|prompt| prompt.hazard));
        self.a_attempts += total.a.count as usize;
        self.b_attempts += total.b.count as usize;
    }

    fn set(&self, found: &mut Compared) {
        (found.prompts, found.hazards) = (self.prompts.len(), self.hazards.len());
        (found.a_attempts, found.b_attempts) = (self.a_attempts, self.b_attempts);
        self.left.count(found);
    }
}

/// A common prompt.
struct Shared<'p> {
    id: &'p str,
    hazard: &'p str,
    cluster: Cluster,
}

/// The common prompts; the others are added to `left`.
fn shared<'p>(a: &'p Prompts, b: &'p Prompts, left: &mut LeftOutPrompts<'p>) -> Vec<Shared<'p>> {
    let side = |prompt: &Prompt| Side { sum: prompt.sum(), count: prompt.attempts.len() as f64 };
    let mut shared = Vec::with_capacity(a.list.len());
    for prompt in &a.list {
        match b.get(&prompt.id) {
            Some(other) => {
                let cluster = Cluster { a: side(prompt), b: side(other) };
                shared.push(Shared { id: &prompt.id, hazard: &prompt.hazard, cluster });
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
    shared
}

/// The prompts grouped by hazard, in the order of their first prompts.
fn by_hazard(prompts: &[Shared]) -> Vec<Cluster> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(prompts.len());
    let mut hazards: Vec<Cluster> = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let place = *places.entry(prompt.hazard).or_insert(hazards.len());
        match hazards.get_mut(place) {
            Some(hazard) => hazard.add(&prompt.cluster, 1.0),
            None => hazards.push(prompt.cluster),
        }
    }
    hazards
}

fn is_single(side: &Side) -> bool {
    side.count == 1.0 && (side.sum == 0.0 || side.sum == 1.0)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    estimate(&values.collect::<Vec<f64>>()).map(|found| found.mean)
}

/// The interval of a mean over seeds.
fn over(values: &[f64], share: bool) -> Option<Interval> {
    let found = estimate(values)?;
    if share { found.of_shares().interval } else { found.interval }
}

/// Sets the means of both sides over their common seeds.
fn set_means(found: &mut Compared) {
    let both: Vec<(f64, f64)> = found.seeds.iter().filter_map(|seed| Some((seed.a?, seed.b?))).collect();
    found.a = mean(both.iter().map(|(a, _)| *a));
    found.b = mean(both.iter().map(|(_, b)| *b));
    found.difference = mean(both.iter().map(|(a, b)| b - a));
}

fn exact(found: &mut Compared, prompts: &[Cluster]) {
    let count = |is: fn(&Cluster) -> bool| prompts.iter().filter(|prompt| is(prompt)).count() as u64;
    let all = prompts.len() as u64;
    let gained = count(|prompt| prompt.b.sum > prompt.a.sum);
    let lost = count(|prompt| prompt.a.sum > prompt.b.sum);
    found.interval = difference(gained, lost, all);
    found.p = Some(mcnemar(gained, lost));
    found.detectable = smallest_difference((gained + lost) as f64 / all as f64, all);
    found.test = Some(Test::Mcnemar);
}

fn set_test(found: &mut Compared, drawn: Tested, test: Test) {
    (found.p, found.test) = (Some(drawn.p), Some(test));
    // A difference between shares is between −1 and 1.
    let is_of_shares = found.share && found.difference.is_some_and(|difference| difference.abs() <= 1.0);
    let within = |interval: Interval| if is_of_shares { interval.within(-1.0, 1.0) } else { interval };
    (found.interval, found.detectable) = (drawn.interval.map(within), drawn.detectable);
}

#[cfg(test)]
mod tests {
    use super::super::outcomes::tests::{prompts, with_unknown};
    use super::*;
    use crate::series::tests::row;
    use crate::summary::{Aspect, summarise};

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
        // Nothing of A was determined: there is no rate, and nothing to test.
        let nothing = with_unknown(&[], &["x", "w"]);
        let none = Part { seed: None, value: None, prompts: Some(&nothing) };
        for parts in [Parts::Paired(vec![(none, pair.1)]), Parts::Unpaired(vec![none], vec![pair.1])] {
            let found = tested(&measure(), true, &parts);
            assert_eq!((found.a, found.b, found.difference, found.p), (None, Some(0.5), None, None));
            assert_eq!((found.a_undetermined, found.b_undetermined), (2, 2));
        }
    }

    /// `count` hazards, x0, x1 and so on, with two attempts each. A fails some of them, B fewer.
    fn hazards(count: usize) -> (Prompts, Prompts) {
        let ids: Vec<String> = (0..count).map(|n| format!("x{n}")).collect();
        let rows = |values: fn(usize) -> &'static [f64]| -> Vec<(&str, &'static [f64])> {
            ids.iter().enumerate().map(|(n, id)| (id.as_str(), values(n))).collect()
        };
        let a = rows(|n| if n % 2 == 0 { &[1.0, 0.0] } else { &[0.0, 0.0] });
        let b = rows(|n| if n % 3 == 0 { &[1.0, 0.0] } else { &[1.0, 1.0] });
        (prompts(&a), prompts(&b))
    }

    #[test]
    fn several_attempts_are_drawn_by_hazard_or_if_few_tested_by_student_s_t() {
        for (count, test) in [(9, Test::HazardT), (10, Test::Bootstrap)] {
            let (a, b) = hazards(count);
            let pair = (part(None, 0.0, Some(&a)), part(None, 0.0, Some(&b)));
            let found = tested(&measure(), true, &Parts::Paired(vec![pair]));
            assert_eq!((found.test, found.prompts, found.hazards), (Some(test), count, count));
            assert_eq!((found.a_attempts, found.b_attempts), (2 * count, 2 * count));
            assert!(found.interval.is_some() && found.a_interval.is_some(), "{found:?}");
        }
        let none = prompts(&[("x", &[0.0, 0.0]), ("y", &[0.0, 0.0])]);
        let pair_of_none = (part(None, 0.0, Some(&none)), part(None, 0.0, Some(&none)));
        let same = tested(&measure(), true, &Parts::Paired(vec![pair_of_none]));
        assert_eq!((same.p, same.test), (Some(1.0), Some(Test::Sign)), "nothing varied");
        assert_eq!(same.interval, difference(0, 0, 2), "as wide as two hazards leave it");
        assert!(same.a_interval.is_some_and(|interval| interval.low == 0.0 && interval.high > 0.5));
    }

    #[test]
    fn prompts_of_one_hazard_are_not_counted_as_if_they_were_independent() {
        // Twelve hazards in three wordings each: B succeeds in all wordings of six more, and of one fewer.
        let ids: Vec<String> = (0..36).map(|n| format!("h{}#{}", n / 3, n % 3)).collect();
        let rows = |is: fn(usize) -> bool| -> Vec<(&str, &'static [f64])> {
            let value = |n: usize| if is(n / 3) { &[1.0][..] } else { &[0.0][..] };
            ids.iter().enumerate().map(|(n, id)| (id.as_str(), value(n))).collect()
        };
        let (a, b) = (prompts(&rows(|hazard| hazard == 6)), prompts(&rows(|hazard| hazard < 6)));
        let pair = (part(None, 0.0, Some(&a)), part(None, 0.0, Some(&b)));
        let found = tested(&measure(), true, &Parts::Paired(vec![pair]));
        assert_eq!((found.test, found.prompts, found.hazards), (Some(Test::Bootstrap), 36, 12));
        assert!(found.p.unwrap() > 20.0 * mcnemar(18, 3), "{:?}", found.p);
        let wide =
            |interval: Option<Interval>| interval.map(|interval| interval.high - interval.low).unwrap();
        assert!(wide(found.interval) > 1.5 * wide(difference(18, 3, 36)), "{:?}", found.interval);
    }

    #[test]
    fn over_seeds_it_is_student_s_t_of_what_each_reported() {
        let a = prompts(&[("x", &[1.0, 0.0]), ("y", &[1.0, 1.0])]);
        let b = with_unknown(&[("x", &[1.0])], &["y"]);
        let seeds = [(0.75, 0.5), (0.5, 0.5), (0.75, 0.125), (0.5, 0.25), (1.0, 0.25)];
        let pairs: Vec<Pair> = (seeds.iter().zip(1..))
            .map(|((in_a, in_b), seed)| {
                (part(Some(seed), *in_a, Some(&a)), part(Some(seed), *in_b, Some(&b)))
            })
            .collect();
        let found = tested(&measure(), true, &Parts::Paired(pairs.clone()));
        let differences = seeds.map(|(a, b)| b - a);
        let by_hand = estimate(&differences).unwrap();
        assert_eq!((found.test, found.seeds.len()), (Some(Test::StudentT), 5));
        assert_eq!((found.difference, found.interval), (Some(by_hand.mean), by_hand.interval));
        assert_eq!(found.a_interval, estimate(&seeds.map(|(a, _)| a)).unwrap().of_shares().interval);
        assert_eq!((found.prompts, found.a_attempts, found.b_attempts), (2, 20, 5), "the same two prompts");
        assert_eq!(found.unknown, 0, "what a side could not determine is not left out of the other");
        let apart = |seeds: usize| {
            let (a, b): (Vec<Part>, Vec<Part>) = pairs.iter().copied().unzip();
            tested(&measure(), true, &Parts::Unpaired(a, b[..seeds].to_vec()))
        };
        assert_eq!((apart(4).test, apart(1).test), (Some(Test::WelchT), None));
        assert!(apart(4).interval.is_some() && apart(1).difference.is_some());
    }

    #[test]
    fn a_seed_with_other_prompts_is_left_out_and_spoils_nothing() {
        let a = prompts(&[("x", &[1.0]), ("y", &[1.0]), ("only", &[0.0])]);
        let b = prompts(&[("x", &[1.0]), ("y", &[0.0])]);
        let others = prompts(&[("z", &[1.0])]);
        let like = |seed| (part(Some(seed), 0.75, Some(&a)), part(Some(seed), 0.5, Some(&b)));
        let unlike = |seed| (part(Some(seed), 0.75, Some(&a)), part(Some(seed), 1.0, Some(&others)));
        let found = tested(&measure(), true, &Parts::Paired(vec![like(1), unlike(2), like(3)]));
        assert_eq!((found.test, found.seeds_left_out), (Some(Test::Sign), vec![2]));
        assert_eq!((found.prompts, found.only_a, found.only_b), (2, 1, 0));
        assert_eq!((found.difference, found.a), (Some(-0.5), Some(1.0)), "of the prompts that both have");
        assert_eq!(found.seeds.iter().map(|seed| seed.seed).collect::<Vec<_>>(), [Some(1), Some(3)]);
        let found = tested(&measure(), true, &Parts::Paired(vec![like(1), unlike(2)]));
        assert_eq!((found.test, found.difference), (Some(Test::Mcnemar), Some(-0.5)));
        // No test over different prompts; their numbers are shown.
        let found = tested(&measure(), true, &Parts::Paired(vec![unlike(1), unlike(2), unlike(3)]));
        assert_eq!((found.test, found.prompts, found.only_a, found.only_b), (None, 0, 3, 1));
        // One seed has no outcomes any more: values over all prompts.
        let gone = (part(Some(4), 0.25, None), part(Some(4), 0.5, None));
        let found = tested(&measure(), true, &Parts::Paired(vec![like(1), unlike(2), gone]));
        assert_eq!((found.test, found.seeds.len(), found.only_a), (Some(Test::StudentT), 2, 1));
        assert_eq!(found.seeds_left_out, [2]);
    }

    #[test]
    fn over_seeds_the_table_has_the_same_means_and_intervals() {
        let seeds = [(0.75, 0.5), (0.5, 0.625), (0.8, 0.125), (0.45, 0.25), (1.0, 0.25)];
        let a = prompts(&[("x", &[1.0, 0.0]), ("y", &[1.0, 1.0])]);
        let (mut rows, mut pairs) = (Vec::new(), Vec::new());
        for ((in_a, in_b), seed) in seeds.into_iter().zip(1..) {
            rows.push(row(&format!("full-s{seed}/after"), 1, "red", in_a));
            rows.push(row(&format!("flat-s{seed}/after"), 1, "red", in_b));
            pairs.push((part(Some(seed), in_a, Some(&a)), part(Some(seed), in_b, Some(&a))));
        }
        let found = tested(&measure(), true, &Parts::Paired(pairs));
        let table = summarise(&[rows], vec![measure()]);
        let of = |aspect: Aspect, ablation: &str| {
            let line = table.lines.iter().find(|line| line.aspect == aspect && line.ablation == ablation);
            line.unwrap().estimates[0].unwrap()
        };
        for (in_table, value, interval) in [
            (of(Aspect::Last, "full"), found.a, found.a_interval),
            (of(Aspect::Last, "flat"), found.b, found.b_interval),
            (of(Aspect::Difference, "flat"), found.difference, found.interval),
        ] {
            assert_eq!((Some(in_table.mean), in_table.interval), (value, interval));
        }
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
        assert_eq!((same.test, same.difference, same.p), (Some(Test::Sign), Some(0.25), Some(0.5)));
        assert_eq!(same.interval, None, "no variation to hold it against");
        let lacking = Part { seed: None, value: None, prompts: None };
        let missing = tested(&measure(), false, &Parts::Paired(vec![(part(None, 1.0, None), lacking)]));
        assert_eq!((missing.a, missing.b, missing.difference), (Some(1.0), None, None));
    }
}
