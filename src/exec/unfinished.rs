//! What commands have written before they failed or were interrupted: see [`store::PartialOutputs`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::PartialOutputs;

/// The outputs of a command that has not succeeded yet.
pub(crate) struct Unfinished(Arc<PartialOutputs>);

/// Those at work in this process.
static AT_WORK: Mutex<Vec<Arc<PartialOutputs>>> = Mutex::new(Vec::new());

fn at_work() -> MutexGuard<'static, Vec<Arc<PartialOutputs>>> {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unfinished {
    /// Keeps these outputs if the process is interrupted before this is dropped.
    pub(crate) fn new(outputs: PartialOutputs) -> Unfinished {
        let outputs = Arc::new(outputs);
        at_work().push(outputs.clone());
        Unfinished(outputs)
    }

    /// Keeps what there is, and returns a line for each output.
    pub(crate) fn keep(&self) -> Vec<String> {
        keep(&self.0, "it")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        at_work().retain(|outputs| !Arc::ptr_eq(outputs, &self.0));
    }
}

fn keep(outputs: &PartialOutputs, who: &str) -> Vec<String> {
    let lines = outputs.keep().into_iter().map(|(name, place, is_new)| {
        let who = if is_new { who } else { "an earlier attempt" };
        format!("what {who} had written of `{name}`: {}", place.display())
    });
    lines.collect()
}

/// Keeps what commands of this process have written that are at work. The process is about to end. Returns a line for each output.
pub fn keep_unfinished() -> Vec<String> {
    at_work().iter().flat_map(|outputs| keep(outputs, &outputs.node)).collect()
}
