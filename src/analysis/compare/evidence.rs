//! The numbers behind a test, by which two measures are compared.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;

use crate::statistics::{Cluster, Side};

/// The values in one seed.
#[derive(Clone, Debug, Serialize)]
pub struct SeedValues {
    /// `None` if the runs have only one.
    pub seed: Option<u64>,
    /// The first run's value; `None` if it is undetermined or missing.
    pub a: Option<f64>,
    /// The second run's value; `None` if it is undetermined or missing.
    pub b: Option<f64>,
}

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
    pub(super) fn mirrors(&self, other: &Evidence) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
