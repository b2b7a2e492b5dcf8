//! Tracks how much of each named resource is free, and which node has which units.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The limit of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How much of it may be taken at the same time.
    pub units: u32,
    /// How much of it may be taken within any minute, by one run.
    pub per_minute: Option<u32>,
    /// Who shares the units.
    pub of: LimitOf,
}

impl Limit {
    /// A number of units of each run.
    pub(crate) fn of_run(units: u32) -> Limit {
        Limit { units, per_minute: None, of: LimitOf::Run }
    }
}

/// Who shares the units of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitOf {
    /// The nodes of one run: another run has as many units of its own.
    #[default]
    Run,
    /// All runs on this host, of all users.
    Host,
}

/// The resource whose units are the devices of this host: no two processes take the same device.
pub(crate) const GPU: &str = "gpu";

/// The resource of which a node takes one unless the pipeline says otherwise.
pub(crate) const CPU: &str = "cpu";

const MINUTE: Duration = Duration::from_secs(60);

/// The interval between tries of a unit that another process has.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The amounts of resources that a node takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    pub amounts: BTreeMap<String, u32>,
    /// The GPU that the pipeline names: no other will do.
    pub device: Option<u32>,
}

impl Needs {
    fn of(&self, name: &str) -> u32 {
        self.amounts.get(name).copied().unwrap_or(0)
    }
}

/// The limits and the free units. A resource without a limit is always free.
pub(super) struct Resources {
    limits: BTreeMap<String, Limit>,
    /// How many GPUs this process may use, if that is known.
    visible: Option<usize>,
    /// How many `cpu` this run may take at the same time, if the user says so.
    jobs: Option<u32>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The numbers of the free units, from 0.
    free: BTreeMap<String, BTreeSet<u32>>,
    /// Devices that the pipeline names: other nodes take them last.
    named: BTreeSet<u32>,
    /// When units of a resource with a rate were taken within the last minute, the oldest first.
    taken: BTreeMap<String, VecDeque<Instant>>,
    /// The units of the host's resources that other processes have, and when to try them again.
    elsewhere: BTreeMap<String, BTreeSet<u32>>,
    tried_from: Option<Instant>,
}

/// The units taken of each resource. Dropping it gives them back.
pub(super) struct Grant {
    units: BTreeMap<String, Vec<u32>>,
    /// The resources among them that have a rate per minute.
    with_rate: Vec<String>,
    state: Arc<Mutex<State>>,
    /// The locks of the host's units among them.
    held: Vec<(String, File)>,
}

impl Grant {
    /// Starts to use the units: from now on they count for the minute.
    pub(crate) fn begin(&self) {
        let mut state = lock(&self.state);
        for name in &self.with_rate {
            let units = self.units.get(name).map_or(0, Vec::len);
            state.taken.entry(name.clone()).or_default().extend(std::iter::repeat_n(Instant::now(), units));
        }
    }

    /// The names of the host's units that were taken, for [`hold`].
    pub(crate) fn host_units(&self) -> Vec<String> {
        self.held.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The numbers of the devices that were taken.
    pub(crate) fn devices(&self) -> &[u32] {
        self.units.get(GPU).map_or(&[], Vec::as_slice)
    }
}

impl Resources {
    /// The limits that pipeline and site declare; by default there are as many `cpu` as cores, and one `gpu`. This run takes
    /// at most `jobs` of `cpu`. The units of `gpu` include those that the pipeline names, and only those that this process may
    /// use.
    pub(crate) fn new(
        declared: &BTreeMap<String, Limit>,
        jobs: Option<u32>,
        named: &BTreeSet<u32>,
    ) -> Resources {
        Resources::with_visible(declared, jobs, named, visible_devices().map(|names| names.len()))
    }

    fn with_visible(
        declared: &BTreeMap<String, Limit>,
        jobs: Option<u32>,
        named: &BTreeSet<u32>,
        visible: Option<usize>,
    ) -> Resources {
        let gpu = Limit { of: LimitOf::Host, ..Limit::of_run(1) };
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let cpu = Limit::of_run(jobs.unwrap_or_else(cores).max(1));
        let mut limits = BTreeMap::from([(CPU.to_owned(), cpu), (GPU.to_owned(), gpu)]);
        limits.extend(declared.clone());
        if let (Some(jobs), Some(limit)) = (jobs, limits.get_mut(CPU))
            && limit.of == LimitOf::Run
        {
            limit.units = limit.units.min(jobs.max(1));
        }
        let mut free: BTreeMap<String, BTreeSet<u32>> =
            limits.iter().map(|(name, limit)| (name.clone(), (0..limit.units).collect())).collect();
        if let (Some(limit), Some(units)) = (limits.get_mut(GPU), free.get_mut(GPU)) {
            let many = named.len().max(limit.units as usize);
            let lowest = (0..).filter(|unit| !named.contains(unit)).take(many - named.len());
            *units = named.iter().copied().chain(lowest).collect();
            units.retain(|unit| visible.is_none_or(|visible| (*unit as usize) < visible));
            (limit.units, limit.of) = (units.len() as u32, LimitOf::Host);
        }
        Resources {
            limits,
            visible,
            jobs,
            state: Arc::new(Mutex::new(State { free, named: named.clone(), ..State::default() })),
        }
    }

    /// How much of a resource may be taken at the same time, if it has a limit.
    pub(crate) fn units(&self, name: &str) -> Option<u32> {
        self.limits.get(name).map(|limit| limit.units)
    }

    /// Returns an error if the needs can never be met.
    pub(crate) fn check(&self, needs: &Needs) -> Result<(), String> {
        let Some(visible) = self.visible else { return Ok(()) };
        let message = match needs.device {
            Some(unit) if unit as usize >= visible => format!("it computes on `cuda:{unit}`"),
            _ if needs.of(GPU) as usize > visible => format!("it takes {} of `gpu`", needs.of(GPU)),
            _ => return Ok(()),
        };
        Err(format!(
            "{message}, but CUDA_VISIBLE_DEVICES names {visible}\n  help: name more GPUs there, or ask for less"
        ))
    }

    /// A need, but at most what there is.
    fn most(&self, name: &str, need: u32) -> u32 {
        let limit = self.limits.get(name);
        let most = limit.map(|limit| limit.per_minute.map_or(limit.units, |rate| rate.min(limit.units)));
        most.map_or(need, |most| need.min(most)).min(self.of_jobs(name).unwrap_or(need))
    }

    /// How many units of a resource this run may take at the same time, if that is said of the run.
    fn of_jobs(&self, name: &str) -> Option<u32> {
        self.jobs.filter(|_| name == CPU).map(|jobs| jobs.max(1))
    }

    /// The names of the host's resources among the needs.
    pub(crate) fn of_host<'n>(&self, needs: &'n Needs) -> Vec<&'n str> {
        let names = needs.amounts.iter().filter(|(name, need)| **need > 0 && self.is_of_host(name));
        names.map(|(name, _)| name.as_str()).collect()
    }

    fn is_of_host(&self, name: &str) -> bool {
        self.limits.get(name).is_some_and(|limit| limit.of == LimitOf::Host)
    }

    /// The needed resources that other nodes of this process have; `None` if all is free now. The list is empty if only other
    /// processes have the units.
    pub(crate) fn lacking<'n>(&self, needs: &'n Needs) -> Option<Vec<&'n str>> {
        let (mut state, now) = (lock(&self.state), Instant::now());
        state.look_again(now);
        let (mut names, mut waits) = (Vec::new(), false);
        for (name, need) in &needs.amounts {
            let need = self.most(name, *need);
            let Some(free) = state.free.get(name).filter(|_| need > 0) else { continue };
            let device = needs.device.filter(|_| name == GPU);
            let taken = self.units(name).unwrap_or_default().saturating_sub(free.len() as u32);
            let is_over = self.of_jobs(name).is_some_and(|jobs| taken + need > jobs);
            if is_over || (free.len() as u32) < need || device.is_some_and(|unit| !free.contains(&unit)) {
                names.push(name.as_str());
            } else if self.is_of_host(name) && (state.usable(name, device).len() as u32) < need {
                waits = true;
            } else if !self.is_in_time(&mut state, name, need, now) {
                names.push(name);
            }
        }
        (waits || !names.is_empty()).then_some(names)
    }

    fn is_in_time(&self, state: &mut State, name: &str, need: u32, now: Instant) -> bool {
        let Some(rate) = self.limits.get(name).and_then(|limit| limit.per_minute) else { return true };
        let taken = state.taken.entry(name.to_owned()).or_default();
        while taken.front().is_some_and(|then| now.duration_since(*then) >= MINUTE) {
            taken.pop_front();
        }
        taken.len() + need as usize <= rate as usize
    }

    /// When a resource may become free although no node gives it back.
    pub(crate) fn later(&self) -> Option<Instant> {
        let state = lock(&self.state);
        let of_rates = state.taken.values().filter_map(|taken| Some(*taken.front()? + MINUTE));
        let now = Instant::now();
        of_rates.chain(state.tried_from).filter(|then| *then > now).min()
    }

    /// Takes what is needed, if it is free: of each resource the units with the lowest numbers.
    pub(crate) fn take(&self, needs: &Needs) -> Option<Grant> {
        if self.lacking(needs).is_some() {
            return None;
        }
        let mut state = lock(&self.state);
        let (mut units, mut held) = (BTreeMap::new(), Vec::new());
        for (name, need) in &needs.amounts {
            let need = self.most(name, *need);
            let Some(free) = state.free.get(name) else { continue };
            if !self.is_of_host(name) {
                units.insert(name.clone(), free.iter().copied().take(need as usize).collect::<Vec<u32>>());
                continue;
            }
            let (mut own, mut elsewhere) = (Vec::new(), Vec::new());
            let device = needs.device.filter(|_| name == GPU);
            for unit in state.usable(name, device) {
                if own.len() == need as usize {
                    break;
                }
                let lock = unit_name(name, unit);
                match lock_unit(&lock) {
                    None => elsewhere.push(unit),
                    Some(file) => {
                        own.push(unit);
                        held.push((lock, file));
                    }
                }
            }
            let is_all =
                own.len() == need as usize && device.is_none_or(|unit| need == 0 || own.contains(&unit));
            if !is_all {
                state.elsewhere.entry(name.clone()).or_default().extend(elsewhere);
                state.tried_from = Some(Instant::now() + LOOK_AGAIN);
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
        Some(Grant { units, with_rate, state: self.state.clone(), held })
    }
}

impl State {
    /// Lets units that other processes had a while ago be tried again.
    fn look_again(&mut self, now: Instant) {
        if self.tried_from.is_some_and(|from| now >= from) {
            self.elsewhere.clear();
            self.tried_from = None;
        }
    }

    /// The units of one of the host's resources that may be taken: first the device that is `asked` for, then those that no
    /// node names. Empty if the one that is asked for is not available.
    fn usable(&self, name: &str, asked: Option<u32>) -> Vec<u32> {
        let elsewhere = self.elsewhere.get(name);
        let free = self.free.get(name).into_iter().flatten().copied();
        let mut usable: Vec<u32> =
            free.filter(|unit| elsewhere.is_none_or(|units| !units.contains(unit))).collect();
        let is_named = |unit: &u32| name == GPU && self.named.contains(unit);
        usable.sort_by_key(|unit| (Some(*unit) != asked, is_named(unit), *unit));
        match usable.first() {
            first if asked.is_some() && first.copied() != asked => Vec::new(),
            _ => usable,
        }
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

/// The GPUs that this process may use, as in `CUDA_VISIBLE_DEVICES`; `None` if it is not set. Names after a `-1` do not count.
fn visible_devices() -> Option<Vec<String>> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok()?;
    let names = visible.split(',').map(str::trim).take_while(|name| *name != "-1");
    Some(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// The system's name of one of this process's devices: the entry of `CUDA_VISIBLE_DEVICES` at this number, else the number.
pub(super) fn device_name(unit: u32) -> String {
    let name = visible_devices().and_then(|names| names.into_iter().nth(unit as usize));
    name.unwrap_or_else(|| unit.to_string())
}

/// The host's name of a unit: that of the device, or the resource and the number.
fn unit_name(resource: &str, unit: u32) -> String {
    match resource {
        GPU => device_name(unit),
        _ => format!("{resource}.{unit}"),
    }
}

/// The lock of a unit on this host. `None` if another process has it, or still does a job with it after its run is gone. If
/// there is no place for locks, there is no other process to keep away.
fn lock_unit(name: &str) -> Option<File> {
    let file = lock_file(name)?;
    lock_file(&format!("{name}{JOB}")).map(|_| file)
}

/// The ending of a unit's second lock. A process that does a job with the unit holds it, and may outlive the process that
/// started it.
const JOB: &str = ".job";

/// Holds the units of a job in this process, for which another one has locked them; `None` if one is held already.
pub(super) fn hold(units: &[String]) -> Option<Vec<File>> {
    units.iter().map(|unit| lock_file(&format!("{unit}{JOB}"))).collect()
}

fn lock_file(name: &str) -> Option<File> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    // One place for all processes of the host, whatever their temporary folder.
    let folder = PathBuf::from("/tmp/triplay-resources");
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    let path: PathBuf = folder.join(name.chars().map(safe).collect::<String>());
    // For all users of the host, whatever the umask.
    if std::fs::create_dir(&folder).is_ok() {
        let _ = std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777));
    }
    // Anybody may put a link or a pipe there. That is no lock, and opening a pipe could wait forever.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let open =
        |options: &mut std::fs::OpenOptions| options.custom_flags(flags.bits().cast_signed()).open(&path);
    let create = || {
        let file = open(File::options().create(true).append(true))?;
        let _ = file.set_permissions(std::fs::Permissions::from_mode(0o666));
        std::io::Result::Ok(file)
    };
    let opened = open(File::options().read(true)).or_else(|_| create());
    // If the folder cannot exist, no other process looks for the lock either.
    let opened = opened.or_else(|error| if path.is_symlink() { Err(error) } else { tempfile::tempfile() });
    let mut file = opened.ok().filter(|file| file.metadata().is_ok_and(|there| there.is_file()))?;
    file.try_lock().ok()?;
    // For people who look. Another user's file can only be locked.
    let _ = writeln!(file, "process {}", std::process::id());
    Some(file)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(pairs: &[(&str, u32, Option<u32>)], named: &[u32], visible: Option<usize>) -> Resources {
        let limit = |(name, units, per_minute): &(&str, u32, Option<u32>)| {
            ((*name).to_owned(), Limit { per_minute: *per_minute, ..Limit::of_run(*units) })
        };
        let limits = pairs.iter().map(limit).collect();
        Resources::with_visible(&limits, Some(1), &named.iter().copied().collect(), visible)
    }

    fn needs(pairs: &[(&str, u32)]) -> Needs {
        let amounts = pairs.iter().map(|(name, need)| ((*name).to_owned(), *need)).collect();
        Needs { amounts, device: None }
    }

    #[test]
    fn what_is_taken_is_missing_until_it_is_given_back_and_no_limit_is_no_limit() {
        let free = resources(&[("api", 3, None)], &[], None);
        let fits = |needs: &Needs| free.lacking(needs).is_none();
        let (cpu, api) = (needs(&[("cpu", 8)]), needs(&[("api", 2), ("disk", 7)]));
        assert!(fits(&cpu), "more than there is takes all there is");
        let all = free.take(&cpu).unwrap();
        assert!(free.take(&cpu).is_none() && fits(&api));
        assert_eq!(free.lacking(&needs(&[("api", 1), ("cpu", 1)])).unwrap(), ["cpu"]);
        let two = free.take(&api).unwrap();
        assert_eq!(two.units["api"], [0, 1]);
        assert!(free.take(&api).is_none() && fits(&needs(&[("disk", 9)])));
        let one = free.take(&needs(&[("api", 1)])).unwrap();
        assert_eq!(one.units["api"], [2], "nobody has the same");
        drop((all, two));
        assert!(fits(&cpu) && fits(&api));
    }

    #[test]
    fn of_a_resource_with_a_rate_no_more_is_taken_within_a_minute_although_it_is_given_back() {
        let free = resources(&[("api", 8, Some(3))], &[], None);
        let one = needs(&[("api", 1)]);
        assert!(free.later().is_none());
        for _ in 0..3 {
            free.take(&one).unwrap().begin();
        }
        // What was taken and not used does not count, as of nodes that turn out to be done.
        assert!(free.take(&one).is_none() && free.lacking(&needs(&[("api", 0)])).is_none());
        let wait = free.later().unwrap().duration_since(Instant::now());
        assert!(wait > Duration::from_secs(50) && wait <= MINUTE, "{wait:?}");
    }

    #[test]
    fn only_visible_gpus_are_given_and_those_that_the_pipeline_names_are_among_them() {
        let units =
            |resources: &Resources| lock(&resources.state).free[GPU].iter().copied().collect::<Vec<u32>>();
        assert_eq!(units(&resources(&[], &[], None)), [0]);
        assert_eq!(units(&resources(&[], &[3], None)), [3], "one, and that one");
        assert_eq!(units(&resources(&[("gpu", 3, None)], &[1], None)), [0, 1, 2]);
        assert_eq!(units(&resources(&[("gpu", 2, None)], &[5], None)), [0, 5]);
        let one = resources(&[("gpu", 4, None)], &[], Some(1));
        assert_eq!(units(&one), [0]);
        let error = one.check(&needs(&[("gpu", 2)])).unwrap_err();
        assert!(error.starts_with("it takes 2 of `gpu`, but CUDA_VISIBLE_DEVICES names 1\n"), "{error}");
        assert!(one.check(&needs(&[("gpu", 1)])).is_ok());
        assert!(one.check(&Needs { device: Some(1), ..needs(&[("gpu", 1)]) }).is_err());
        assert!(resources(&[], &[], Some(0)).check(&needs(&[("gpu", 1)])).is_err());
    }

    #[test]
    fn who_needs_fewer_gpus_does_not_wait_for_those_that_another_process_has() {
        let free = resources(&[("gpu", 2, None)], &[], None);
        let (one, two) = (needs(&[(GPU, 1)]), needs(&[(GPU, 2)]));
        {
            let mut state = lock(&free.state);
            state.elsewhere.insert(GPU.to_owned(), [0].into());
            state.tried_from = Some(Instant::now() + MINUTE);
        }
        assert_eq!(free.lacking(&two), Some(Vec::new()), "nobody here has them");
        assert!(free.lacking(&one).is_none());
        let named = Needs { device: Some(0), ..one.clone() };
        assert_eq!(free.lacking(&named), Some(Vec::new()));
        lock(&free.state).tried_from = Some(Instant::now());
        assert!(free.lacking(&two).is_none() && free.lacking(&named).is_none());
    }

    #[test]
    fn a_unit_of_the_host_is_taken_by_one_run_at_a_time_and_a_resource_of_runs_by_each() {
        let name = format!("cauldron-{}", std::process::id());
        let limits = |of| BTreeMap::from([(name.clone(), Limit { of, ..Limit::of_run(2) })]);
        let run = |of| Resources::with_visible(&limits(of), None, &BTreeSet::new(), None);
        let (one, two) = (needs(&[(&name, 1)]), needs(&[(&name, 2)]));
        let (first, second) = (run(LimitOf::Host), run(LimitOf::Host));
        let taken = first.take(&one).unwrap();
        assert_eq!(taken.host_units(), [format!("{name}.0")]);
        assert!(second.take(&two).is_none(), "one of two is left on the host");
        assert_eq!(second.lacking(&two), Some(Vec::new()), "nobody here has it");
        let other = second.take(&one).unwrap();
        assert_eq!(other.host_units(), [format!("{name}.1")]);
        assert!(first.take(&one).is_none() && first.later().is_some(), "to be tried again");
        let apart = run(LimitOf::Run);
        assert!(apart.take(&two).unwrap().host_units().is_empty());
        drop((taken, other));
        lock(&first.state).tried_from = Some(Instant::now());
        let job = hold(&[format!("{name}.0")]).unwrap();
        assert!(first.take(&two).is_none(), "a job of a run that is gone still uses it");
        drop(job);
        lock(&first.state).tried_from = Some(Instant::now());
        assert!(first.take(&two).is_some());
    }
}
