//! How much of each named resource is free.

use std::collections::BTreeMap;

/// Limits and what is left of them. A resource without a limit is always free.
pub(super) struct Resources {
    limits: BTreeMap<String, u32>,
    free: BTreeMap<String, u32>,
}

impl Resources {
    /// The limits that the pipeline declares; by default there is `cpu` for as many jobs, and one `gpu`.
    pub fn new(declared: &BTreeMap<String, u32>, jobs: u32) -> Resources {
        let mut limits = BTreeMap::from([("cpu".to_owned(), jobs.max(1)), ("gpu".to_owned(), 1)]);
        limits.extend(declared.clone());
        Resources { free: limits.clone(), limits }
    }

    /// Nothing takes more than there is at all.
    fn most(&self, name: &str, need: u32) -> u32 {
        self.limits.get(name).map_or(need, |limit| need.min(*limit))
    }

    pub fn fits(&self, needs: &BTreeMap<String, u32>) -> bool {
        needs
            .iter()
            .all(|(name, need)| self.free.get(name).is_none_or(|free| self.most(name, *need) <= *free))
    }

    pub fn take(&mut self, needs: &BTreeMap<String, u32>) {
        for (name, need) in needs {
            let need = self.most(name, *need);
            if let Some(free) = self.free.get_mut(name) {
                *free = free.saturating_sub(need);
            }
        }
    }

    pub fn give(&mut self, needs: &BTreeMap<String, u32>) {
        for (name, need) in needs {
            let (need, limit) = (self.most(name, *need), self.limits.get(name).copied().unwrap_or(u32::MAX));
            if let Some(free) = self.free.get_mut(name) {
                *free = free.saturating_add(need).min(limit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_missing_until_it_is_given_back_and_no_limit_is_no_limit() {
        let needs =
            |pairs: &[(&str, u32)]| pairs.iter().map(|(name, need)| ((*name).to_owned(), *need)).collect();
        let mut free = Resources::new(&needs(&[("api", 2)]), 1);
        let (cpu, api) = (needs(&[("cpu", 8)]), needs(&[("api", 2), ("disk", 7)]));
        assert!(free.fits(&cpu), "more than there is takes all there is");
        free.take(&cpu);
        assert!(!free.fits(&cpu) && free.fits(&api));
        free.take(&api);
        assert!(!free.fits(&needs(&[("api", 1)])) && free.fits(&needs(&[("disk", 9)])));
        free.give(&cpu);
        assert!(free.fits(&cpu) && !free.fits(&api));
    }
}
