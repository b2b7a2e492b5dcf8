//! Comparison of two runs: for each metric of an evaluation the difference, its test, the smallest detectable difference, and the
//! prompts that flipped. `conditions` checks what must be equal unless the comparison is forced; `measured` chooses the test
//! for each metric.

mod columns;
mod conditions;
mod effect;
mod evidence;
mod flips;
mod measured;
mod mirror;
mod outcomes;
mod side;

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, bail};
use serde::Serialize;

use self::conditions::conditions;
use self::effect::without_effect;
use self::measured::{Part, Parts};
use self::outcomes::{Outcomes, Prompts};
use self::side::{Evaluation, RESULT, Variant};
use super::series::Measure;
use super::table::are_shares;
use runs::Lineage;

pub use conditions::judged_apart;
pub use evidence::SeedValues;
pub use flips::{Answer, Flip};
pub use measured::{Compared, Names, Test};
pub use outcomes::{RateInterval, rate_intervals};
pub use side::Side;

/// The options of a comparison.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions<'w> {
    /// The phase, such as `2 red`, or the node that evaluates; by default the last evaluation.
    pub at: Option<&'w str>,
    /// Compare even if judge, prompts or decoding differ.
    pub force: bool,
    /// The most flipped prompts to show, spread over the metrics; by default all.
    pub flips: Option<usize>,
}

/// The number of flipped prompts of a metric.
#[derive(Clone, Debug, Serialize)]
pub struct Flipped {
    /// Subject and metric, such as `defender attack_success`.
    pub metric: String,
    /// Prompts that count more often for B.
    pub gained: usize,
    /// Prompts that count more often for A.
    pub lost: usize,
}

/// The result of comparing two runs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// The compared phases.
    pub after_a: String,
    /// The same of the second run.
    pub after_b: String,
    /// The common seeds, if there are several.
    pub seeds: Vec<u64>,
    /// Differences of judge, prompts or decoding that `--force` ignored.
    pub forced: Vec<String>,
    /// A line for everything that did nothing: nodes with the same outputs in spite of other inputs, rewards that moved no
    /// advantage, and phases of training that changed no weights.
    pub without_effect: Vec<String>,
    /// Notes for the reader: what was left out or could not be checked.
    pub notes: Vec<String>,
    /// In the order in which they are shown.
    pub metrics: Vec<Compared>,
    /// The number of tests in the adjustment of p-values: all that are shown together.
    pub tests: usize,
    /// One for each metric with a flipped prompt.
    pub flipped: Vec<Flipped>,
    /// The flipped prompts themselves, of all metrics.
    pub flips: Vec<Flip>,
}

type Found<'s> = (&'s Variant, &'s Evaluation);

/// Compares each of the others with the first. Their p-values are adjusted as one family, since they are shown together.
pub fn compare(first: &Side, others: &[Side], wanted: &CompareOptions) -> anyhow::Result<Vec<Comparison>> {
    let mut compared = others
        .iter()
        .map(|other| pair_of(first, other, wanted))
        .collect::<anyhow::Result<Vec<Comparison>>>()?;
    mirror::adjust(&mut compared);
    Ok(compared)
}

/// Compares two sides, without adjusting p-values.
fn pair_of(a: &Side, b: &Side, wanted: &CompareOptions) -> anyhow::Result<Comparison> {
    let mut result = Comparison { without_effect: without_effect(a, b)?, ..Comparison::default() };
    if let Some(several) = a.several.as_ref().or(b.several.as_ref()) {
        anyhow::ensure!(wanted.at.is_none(), "{several}");
        result.notes.push(several.clone());
        return Ok(result);
    }
    let Some((after_a, after_b)) = phases(a, b, wanted.at, &mut result.notes)? else {
        return Ok(result);
    };
    let (own_a, own_b) = (a.at(&after_a), b.at(&after_b));
    let has_more = |side: &Side| side.at(RESULT).iter().any(|(_, evaluation)| evaluation.is_own);
    if after_a != RESULT && after_b != RESULT && has_more(a) && has_more(b) {
        result.notes.push(format!("--at {RESULT} compares the metrics of your own stages"));
    }
    for (side, own, after) in [(a, &own_a, &after_a), (b, &own_b, &after_b)] {
        let lacking =
            side.variants.iter().filter(|variant| !own.iter().any(|(with, _)| with.name == variant.name));
        let lacking: Vec<&str> = lacking.map(|variant| variant.name.as_str()).collect();
        if !lacking.is_empty() {
            let note = format!(
                "{}: {} without an evaluation after `{after}`: left out",
                side.title,
                lacking.join(", ")
            );
            result.notes.push(note);
        }
    }
    let places = pair(a, b, &own_a, &own_b, &mut result);
    check(a, b, &own_a, &own_b, &places, wanted.force, &mut result)?;
    let read = |side: &Side, own: &[Found]| {
        let nodes: Vec<(&str, &str)> = own
            .iter()
            .map(|(variant, evaluation)| (variant.name.as_str(), evaluation.node.as_str()))
            .collect();
        Outcomes::read(&side.outcomes, &nodes).with_context(|| format!("outcomes of run {}", side.title))
    };
    let (read_a, read_b) = (read(a, &own_a)?, read(b, &own_b)?);
    for (side, own, read) in [(a, &own_a, &read_a), (b, &own_b, &read_b)] {
        result.notes.extend(gone(side, own, read));
    }
    let measures = measures(&own_a, &own_b);
    result.metrics = measures
        .iter()
        .map(|measure| {
            let parts = parts(measure, &places, (&own_a, &read_a), (&own_b, &read_b));
            measured::tested(measure, are_shares(&measure.metric, parts.values().into_iter()), &parts)
        })
        .collect();
    (result.after_a, result.after_b) = (after_a, after_b);
    overlap(a, b, &mut result)?;
    flipped(&measures, &places, &read_a, &read_b, wanted.flips, &mut result)?;
    Ok(result)
}

/// A note if outcomes are gone from the cache, so that single prompts cannot be compared.
fn gone(side: &Side, own: &[Found], read: &Outcomes) -> Option<String> {
    let has = |found: &Found| found.1.report.outputs.iter().any(|output| output.artifact == "outcomes");
    let gone: Vec<&str> = (own.iter().zip(&read.evaluations))
        .filter(|(found, prompts)| side.incomplete && has(found) && prompts.is_empty())
        .map(|((_, evaluation), _)| evaluation.report.node.as_str())
        .collect();
    (!gone.is_empty()).then(|| {
        format!(
            "{}: the outcomes of {} are no longer in the cache, so there is no test by prompts; run the pipeline again and compare the new run",
            side.title,
            gone.join(", ")
        )
    })
}

/// The evaluations to compare: those asked for, otherwise the last of each; if a run is not finished, the last common phase. None
/// if either has no evaluation.
fn phases(
    a: &Side,
    b: &Side,
    at: Option<&str>,
    notes: &mut Vec<String>,
) -> anyhow::Result<Option<(String, String)>> {
    if let Some(at) = at {
        for side in [a, b] {
            if side.at(at).is_empty() {
                return Err(side.unknown(at));
            }
        }
        return Ok(Some((at.to_owned(), at.to_owned())));
    }
    let (known_a, known_b) = (a.phases(), b.phases());
    let (Some(last_a), Some(last_b)) = (known_a.last(), known_b.last()) else {
        let lacking: Vec<&str> = [(a, &known_a), (b, &known_b)]
            .iter()
            .filter(|(_, known)| known.is_empty())
            .map(|(side, _)| side.title.as_str())
            .collect();
        // If neither run evaluates anything, no note is needed.
        if lacking.len() == 1 {
            notes.push(format!(
                "run {} has not evaluated anything: there are no metrics to compare",
                lacking[0]
            ));
        }
        return Ok(None);
    };
    if last_a == last_b || (a.finished && b.finished) {
        if last_a != last_b {
            notes.push(format!(
                "A was last evaluated after `{last_a}`, B after `{last_b}`; --at PHASE selects another"
            ));
        }
        return Ok(Some(((*last_a).to_owned(), (*last_b).to_owned())));
    }
    match known_a.iter().rev().find(|phase| known_b.contains(phase)) {
        Some(common) => {
            notes.push(format!("`{common}` is the last evaluation of both runs"));
            Ok(Some(((*common).to_owned(), (*common).to_owned())))
        }
        None => {
            notes.push(format!(
                "A and B have no evaluation after the same phase: A's last is after `{last_a}`, B's after `{last_b}`"
            ));
            Ok(Some(((*last_a).to_owned(), (*last_b).to_owned())))
        }
    }
}

/// The correspondence of evaluations, by index.
enum Pairing {
    Paired(Vec<(usize, usize)>),
    Unpaired,
}

impl Pairing {
    /// The pairs; without common seeds each with the first of the other side.
    fn pairs(&self, a: usize, b: usize) -> Vec<(usize, usize)> {
        match self {
            Pairing::Paired(pairs) => pairs.clone(),
            Pairing::Unpaired => (0..a.max(b)).map(|place| (place.min(a - 1), place.min(b - 1))).collect(),
        }
    }
}

/// Pairs common seeds. Two runs with one seed each are paired whatever their seeds.
fn pair(a: &Side, b: &Side, own_a: &[Found], own_b: &[Found], result: &mut Comparison) -> Pairing {
    if own_a.len() == 1 && own_b.len() == 1 {
        return Pairing::Paired(vec![(0, 0)]);
    }
    let seed = |found: &Found| found.0.seed;
    let place = |seed: Option<u64>| own_b.iter().position(|found| found.0.seed == seed);
    let pairs: Vec<(usize, usize)> =
        own_a.iter().enumerate().filter_map(|(index, found)| Some((index, place(seed(found))?))).collect();
    // Variants without a seed are what neither side repeats.
    if pairs.iter().all(|(index, _)| seed(&own_a[*index]).is_none()) {
        result.notes.push(
            "no common seed: the sides are tested as independent samples, and prompts are not matched".into(),
        );
        for (side, own) in [(a, own_a), (b, own_b)].iter().filter(|(_, own)| own.len() == 1) {
            let seed = seed(&own[0]).map_or(String::new(), |seed| format!(" {seed}"));
            result.notes.push(format!(
                "{}: seed{seed} alone does not show how other seeds vary, so there is no test",
                side.title
            ));
        }
        return Pairing::Unpaired;
    }
    for (side, own, used) in [
        (a, own_a, pairs.iter().map(|pair| pair.0).collect::<Vec<_>>()),
        (b, own_b, pairs.iter().map(|pair| pair.1).collect()),
    ] {
        let left = own.iter().enumerate().filter(|(index, _)| !used.contains(index));
        let left: Vec<String> = left.filter_map(|(_, found)| Some(seed(found)?.to_string())).collect();
        if !left.is_empty() {
            result.notes.push(format!(
                "only {} has {} {}: left out",
                side.title,
                if left.len() == 1 { "seed" } else { "seeds" },
                left.join(", ")
            ));
        }
    }
    result.seeds = pairs.iter().filter_map(|pair| seed(&own_a[pair.0])).collect();
    Pairing::Paired(pairs)
}

/// Refuses evaluations that are not comparable.
fn check(
    a: &Side,
    b: &Side,
    own_a: &[Found],
    own_b: &[Found],
    places: &Pairing,
    force: bool,
    result: &mut Comparison,
) -> anyhow::Result<()> {
    let stores = (a.run.record.store()?, b.run.record.store()?);
    let lineages = (Lineage::new(&a.run, stores.0.as_ref()), Lineage::new(&b.run, stores.1.as_ref()));
    let mut differing: Vec<String> = Vec::new();
    for (in_a, in_b) in places.pairs(own_a.len(), own_b.len()) {
        // What a program of the user's changes is what is compared.
        if own_a[in_a].1.is_own && own_b[in_b].1.is_own {
            continue;
        }
        let found = conditions((&lineages.0, &own_a[in_a].1.report), (&lineages.1, &own_b[in_b].1.report));
        for (known, new) in [(&mut differing, found.differing), (&mut result.notes, found.notes)] {
            new.into_iter().for_each(|line| {
                if !known.contains(&line) {
                    known.push(line);
                }
            });
        }
    }
    if !force && !differing.is_empty() {
        bail!(
            "{} and {} were not evaluated alike:\n  {}\n  help: evaluate both alike, for example with the same `world`, and compare again; --force compares anyway",
            a.title,
            b.title,
            differing.join("\n  ")
        );
    }
    result.forced = differing;
    Ok(())
}

/// The measures of both sides: those of the first in order, then those of only the second.
fn measures(a: &[Found], b: &[Found]) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    let mut known = std::collections::HashSet::new();
    for measure in a.iter().chain(b).flat_map(|(_, evaluation)| &evaluation.measures) {
        if known.insert(measure) {
            measures.push(measure.clone());
        }
    }
    // Grouped by subject, in the order of the subjects' first measures.
    let mut subjects: HashMap<String, usize> = HashMap::new();
    for measure in &measures {
        let next = subjects.len();
        subjects.entry(measure.subject.clone()).or_insert(next);
    }
    measures.sort_by_key(|measure| subjects[&measure.subject]);
    measures
}

fn parts<'p>(
    measure: &Measure,
    places: &Pairing,
    (own_a, read_a): (&[Found], &'p Outcomes),
    (own_b, read_b): (&[Found], &'p Outcomes),
) -> Parts<'p> {
    let part = |own: &[Found], read: &'p Outcomes, place: usize| {
        let (variant, evaluation) = own[place];
        let value = evaluation.value(measure);
        Part { seed: variant.seed, value, prompts: read.evaluations[place].get(measure) }
    };
    match places {
        Pairing::Paired(pairs) => Parts::Paired(
            pairs.iter().map(|(a, b)| (part(own_a, read_a, *a), part(own_b, read_b, *b))).collect(),
        ),
        Pairing::Unpaired => Parts::Unpaired(
            (0..own_a.len()).map(|place| part(own_a, read_a, place)).collect(),
            (0..own_b.len()).map(|place| part(own_b, read_b, place)).collect(),
        ),
    }
}

/// Notes which prompts were left out. It is an error if no metric has a common prompt.
fn overlap(a: &Side, b: &Side, result: &mut Comparison) -> anyhow::Result<()> {
    let matched: Vec<&Compared> =
        result.metrics.iter().filter(|found| found.prompts + found.only_a + found.only_b > 0).collect();
    if !matched.is_empty() && matched.iter().all(|found| found.prompts == 0) {
        bail!(
            "{} and {} have no prompt in common after `{}` and `{}`\n  help: name an evaluation on the same prompts with --at PHASE, or give the stage that makes the prompts its own `seed:`, so that every run has the same prompts",
            a.title,
            b.title,
            result.after_a,
            result.after_b
        );
    }
    let mut counted: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    for found in matched.iter().filter(|found| found.only_a + found.only_b > 0) {
        counted.entry((found.only_a, found.only_b)).or_default().push(&found.metric);
    }
    let notes: Vec<String> = counted
        .into_iter()
        .map(|((only_a, only_b), metrics)| {
            format!("left out: {only_a} prompts of only A and {only_b} of only B ({})", metrics.join(", "))
        })
        .collect();
    result.notes.extend(notes);
    let mut unknown: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for found in result.metrics.iter().filter(|found| found.unknown > 0) {
        unknown.entry(found.unknown).or_default().push(&found.metric);
    }
    let notes: Vec<String> = unknown
        .into_iter()
        .map(|(count, metrics)| {
            let prompts = if count == 1 { "prompt" } else { "prompts" };
            format!("left out: {count} {prompts} for which a side has no verdict ({})", metrics.join(", "))
        })
        .collect();
    result.notes.extend(notes);
    let alone: Vec<&str> = (result.metrics.iter())
        .filter(|found| found.seeds.is_empty() && found.hazards == 1 && found.p.is_none())
        .map(|found| found.metric.as_str())
        .collect();
    if !alone.is_empty() {
        let note = format!(
            "no test: all prompts have the same hazard, which does not show how others vary ({})",
            alone.join(", ")
        );
        result.notes.push(note);
    }
    let mut left: BTreeMap<&[u64], Vec<&str>> = BTreeMap::new();
    for found in result.metrics.iter().filter(|found| !found.seeds_left_out.is_empty()) {
        left.entry(&found.seeds_left_out).or_default().push(&found.metric);
    }
    let notes: Vec<String> = left
        .into_iter()
        .map(|(seeds, metrics)| {
            let names: Vec<String> = seeds.iter().map(u64::to_string).collect();
            format!(
                "left out: {} {}, in which A and B have no common prompt ({})",
                if seeds.len() == 1 { "seed" } else { "seeds" },
                names.join(", "),
                metrics.join(", ")
            )
        })
        .collect();
    result.notes.extend(notes);
    Ok(())
}

/// Counts the flipped prompts and adds as many as wanted, in turn from each metric.
fn flipped(
    measures: &[Measure],
    places: &Pairing,
    a: &Outcomes,
    b: &Outcomes,
    most: Option<usize>,
    result: &mut Comparison,
) -> anyhow::Result<()> {
    let Pairing::Paired(pairs) = places else { return Ok(()) };
    let seed_of = |index: usize| result.seeds.get(index).copied();
    let mut all: Vec<Vec<flips::Found>> = Vec::new();
    for measure in measures.iter().filter(|measure| !outcomes::is_derived(&measure.metric)) {
        let mut found = Vec::new();
        for (index, (in_a, in_b)) in pairs.iter().enumerate() {
            let of: (Option<&Prompts>, Option<&Prompts>) =
                (a.evaluations[*in_a].get(measure), b.evaluations[*in_b].get(measure));
            if let (Some(in_a), Some(in_b)) = of {
                found.extend(flips::flips(measure, seed_of(index), in_a, in_b));
            }
        }
        if !found.is_empty() {
            let gained = found.iter().filter(|flip| flip.is_gained()).count();
            let metric = format!("{} {}", measure.subject, measure.metric);
            result.flipped.push(Flipped { metric, gained, lost: found.len() - gained });
            all.push(found);
        }
    }
    let mut taken = vec![0; all.len()];
    let mut left = most.unwrap_or(usize::MAX);
    while left > 0 && taken.iter().zip(&all).any(|(taken, found)| *taken < found.len()) {
        for (taken, found) in taken.iter_mut().zip(&all) {
            if left > 0 && *taken < found.len() {
                (*taken, left) = (*taken + 1, left - 1);
            }
        }
    }
    for (taken, found) in taken.into_iter().zip(&all) {
        for flip in &found[..taken] {
            result.flips.push(flip.told(a, b)?);
        }
    }
    Ok(())
}
