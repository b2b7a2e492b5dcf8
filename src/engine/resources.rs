//! How much of each named resource is free, and who has which part of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much there is of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At the same time.
    pub units: u32,
    /// How much of it may be taken within any minute.
    pub per_minute: Option<u32>,
}

/// The resource whose units are the devices of this host: no two processes on it take the same.
const GPU: &str = "gpu";

const MINUTE: Duration = Duration::from_secs(60);

/// How often a device that another process has is tried.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Limits and what is free of them. A resource without a limit is always free.
pub(super) struct Resources {
    limits: BTreeMap<String, Limit>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By the numbers of their units, from 0.
    free: BTreeMap<String, BTreeSet<u32>>,
    /// When each unit of a resource with a rate was taken within the last minute, the oldest first.
    taken: BTreeMap<String, VecDeque<Instant>>,
    /// Until when devices are not tried again, since other processes have them.
    devices_from: Option<Instant>,
}

/// What was taken: the units of each resource. They are given back when it is dropped.
pub(super) struct Grant {
    units: BTreeMap<String, Vec<u32>>,
    /// Of which of them no more may be taken within a minute.
    with_rate: Vec<String>,
    state: Arc<Mutex<State>>,
    _devices: Vec<File>,
}

impl Grant {
    /// What was taken is used: from now on it counts for the minute.
    pub fn begin(&self) {
        let mut state = lock(&self.state);
        for name in &self.with_rate {
            let units = self.units.get(name).map_or(0, Vec::len);
            state.taken.entry(name.clone()).or_default().extend(std::iter::repeat_n(Instant::now(), units));
        }
    }

    /// The numbers of the devices that were taken.
    pub fn devices(&self) -> &[u32] {
        self.units.get(GPU).map_or(&[], Vec::as_slice)
    }
}

impl Resources {
    /// The limits that the pipeline declares; by default there is `cpu` for as many jobs, and one `gpu`.
    pub fn new(declared: &BTreeMap<String, Limit>, jobs: u32) -> Resources {
        let plain = |units| Limit { units, per_minute: None };
        let mut limits = BTreeMap::from([("cpu".to_owned(), plain(jobs.max(1))), (GPU.to_owned(), plain(1))]);
        limits.extend(declared.clone());
        let free = limits.iter().map(|(name, limit)| (name.clone(), (0..limit.units).collect())).collect();
        Resources { limits, state: Arc::new(Mutex::new(State { free, ..State::default() })) }
    }

    /// Nothing takes more than there is at all.
    fn most(&self, name: &str, need: u32) -> u32 {
        let limit = self.limits.get(name);
        let most = limit.map(|limit| limit.per_minute.map_or(limit.units, |rate| rate.min(limit.units)));
        most.map_or(need, |most| need.min(most))
    }

    /// Whether what is needed is free now.
    pub fn fits(&self, needs: &BTreeMap<String, u32>) -> bool {
        let mut state = lock(&self.state);
        let now = Instant::now();
        needs.iter().all(|(name, need)| {
            let need = self.most(name, *need);
            let is_free = state.free.get(name).is_none_or(|units| need as usize <= units.len());
            is_free && (need == 0 || self.is_in_time(&mut state, name, need, now))
        })
    }

    fn is_in_time(&self, state: &mut State, name: &str, need: u32, now: Instant) -> bool {
        if name == GPU && state.devices_from.is_some_and(|from| now < from) {
            return false;
        }
        let Some(rate) = self.limits.get(name).and_then(|limit| limit.per_minute) else { return true };
        let taken = state.taken.entry(name.to_owned()).or_default();
        while taken.front().is_some_and(|then| now.duration_since(*then) >= MINUTE) {
            taken.pop_front();
        }
        taken.len() + need as usize <= rate as usize
    }

    /// When something may be free that is not now, although nobody gives it back.
    pub fn later(&self) -> Option<Instant> {
        let state = lock(&self.state);
        let of_rates = state.taken.values().filter_map(|taken| Some(*taken.front()? + MINUTE));
        let now = Instant::now();
        of_rates.chain(state.devices_from).filter(|then| *then > now).min()
    }

    /// Takes what is needed, if it is free: of each resource the units with the lowest numbers.
    pub fn take(&self, needs: &BTreeMap<String, u32>) -> Option<Grant> {
        if !self.fits(needs) {
            return None;
        }
        let mut state = lock(&self.state);
        let (mut units, mut devices) = (BTreeMap::new(), Vec::new());
        for (name, need) in needs {
            let need = self.most(name, *need);
            let Some(free) = state.free.get(name) else { continue };
            let own: Vec<u32> = match name == GPU {
                false => free.iter().copied().take(need as usize).collect(),
                true => {
                    let locked = free.iter().filter_map(|unit| Some((*unit, lock_device(*unit)?)));
                    let (own, locks): (Vec<u32>, Vec<File>) = locked.take(need as usize).unzip();
                    devices = locks;
                    own
                }
            };
            if own.len() < need as usize {
                state.devices_from = Some(Instant::now() + LOOK_AGAIN);
                return None;
            }
            units.insert(name.clone(), own);
        }
        for (name, own) in &units {
            if let Some(free) = state.free.get_mut(name) {
                free.retain(|unit| !own.contains(unit));
            }
        }
        let has_rate =
            |name: &&String| self.limits.get(*name).is_some_and(|limit| limit.per_minute.is_some());
        let with_rate = units.keys().filter(has_rate).cloned().collect();
        Some(Grant { units, with_rate, state: self.state.clone(), _devices: devices })
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        for (name, units) in &self.units {
            if let Some(free) = state.free.get_mut(name) {
                free.extend(units);
            }
        }
    }
}

/// What the system calls a device of this process's: of those in `CUDA_VISIBLE_DEVICES` that of this number, else the
/// number itself.
pub(super) fn device_name(unit: u32) -> String {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let names = visible.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.clone().nth(unit as usize).map_or_else(|| unit.to_string(), str::to_owned)
}

/// The lock of a device on this host, unless another process has it. Where there is no place for locks, there is nobody
/// to keep away either.
fn lock_device(unit: u32) -> Option<File> {
    let folder = std::env::temp_dir().join("triplay-devices");
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let path: PathBuf = folder.join(device_name(unit).chars().map(safe).collect::<String>());
    if std::fs::create_dir(&folder).is_ok() {
        use std::os::unix::fs::PermissionsExt;
        // Of all users of the host.
        let _ = std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777));
    }
    let opened = File::open(&path).or_else(|_| File::options().create(true).append(true).open(&path));
    let Ok(mut file) = opened.or_else(|_| tempfile::tempfile()) else { return None };
    file.try_lock().ok()?;
    // For people who look; another user's file may only be locked.
    let _ = writeln!(file, "process {}", std::process::id());
    Some(file)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(pairs: &[(&str, u32, Option<u32>)]) -> BTreeMap<String, Limit> {
        let limit = |(name, units, per_minute): &(&str, u32, Option<u32>)| {
            ((*name).to_owned(), Limit { units: *units, per_minute: *per_minute })
        };
        pairs.iter().map(limit).collect()
    }

    fn needs(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
        pairs.iter().map(|(name, need)| ((*name).to_owned(), *need)).collect()
    }

    #[test]
    fn what_is_taken_is_missing_until_it_is_given_back_and_no_limit_is_no_limit() {
        let free = Resources::new(&limits(&[("api", 3, None)]), 1);
        let (cpu, api) = (needs(&[("cpu", 8)]), needs(&[("api", 2), ("disk", 7)]));
        assert!(free.fits(&cpu), "more than there is takes all there is");
        let all = free.take(&cpu).unwrap();
        assert!(free.take(&cpu).is_none() && free.fits(&api));
        let two = free.take(&api).unwrap();
        assert_eq!(two.units["api"], [0, 1]);
        assert!(free.take(&api).is_none() && free.fits(&needs(&[("disk", 9)])));
        let one = free.take(&needs(&[("api", 1)])).unwrap();
        assert_eq!(one.units["api"], [2], "nobody has the same");
        drop((all, two));
        assert!(free.fits(&cpu) && free.fits(&api));
    }

    #[test]
    fn of_a_resource_with_a_rate_no_more_is_taken_within_a_minute_although_it_is_given_back() {
        let free = Resources::new(&limits(&[("api", 8, Some(3))]), 1);
        let one = needs(&[("api", 1)]);
        assert!(free.later().is_none());
        for _ in 0..3 {
            free.take(&one).unwrap().begin();
        }
        // What was taken and not used does not count, as of nodes that turn out to be done.
        assert!(free.take(&one).is_none() && free.fits(&needs(&[("api", 0)])));
        let wait = free.later().unwrap().duration_since(Instant::now());
        assert!(wait > Duration::from_secs(50) && wait <= MINUTE, "{wait:?}");
    }
}
