//! What commands have written before they failed or were interrupted: see [`store::PartialOutputs`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::PartialOutputs;

/// The outputs of a command that has not succeeded yet.
pub(crate) struct Unfinished(Arc<AtWork>);

struct AtWork {
    outputs: PartialOutputs,
    /// The folder that the next attempt finds again.
    keep: Option<String>,
}

/// Those at work in this process.
static AT_WORK: Mutex<Vec<Arc<AtWork>>> = Mutex::new(Vec::new());

fn at_work() -> MutexGuard<'static, Vec<Arc<AtWork>>> {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unfinished {
    /// Keeps these outputs if the process is interrupted before this is dropped. `keep` is the folder that the command finds again.
    pub(crate) fn new(outputs: PartialOutputs, keep: Option<&String>) -> Unfinished {
        let work = Arc::new(AtWork { outputs, keep: keep.cloned() });
        at_work().push(work.clone());
        Unfinished(work)
    }

    /// Keeps what there is, and returns a line for each output.
    pub(crate) fn keep(&self) -> Vec<String> {
        self.0.keep("it")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        at_work().retain(|work| !Arc::ptr_eq(work, &self.0));
    }
}

impl AtWork {
    fn keep(&self, who: &str) -> Vec<String> {
        let lines = self.outputs.keep().into_iter().map(|(name, place, is_new)| {
            let who = if is_new { who } else { "an earlier attempt" };
            format!("what {who} had written of `{name}`: {}", place.display())
        });
        lines.collect()
    }

    /// What the interrupted command finds again, if it keeps a folder.
    fn finds_again(&self) -> Option<String> {
        let keep = self.keep.as_ref()?;
        Some(format!("{} finds what it left in `{keep}` when it begins again", self.outputs.node))
    }
}

/// Keeps what commands of this process have written that are at work. The process is about to end. Returns a line for each output,
/// and for each folder that a command finds again.
pub fn keep_unfinished() -> Vec<String> {
    let lines = |work: &Arc<AtWork>| {
        work.keep(&work.outputs.node).into_iter().chain(work.finds_again()).collect::<Vec<_>>()
    };
    at_work().iter().flat_map(lines).collect()
}
