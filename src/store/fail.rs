//! Fault injection: the tests kill the program, or fill its disk, at each step of writing.
//!
//! `TRIPLAY_FAIL=STEP:ACTION[:N]` does ACTION (`kill`, `stop`, `enospc` or `eio`) when STEP is passed for the N-th time. A
//! stopped process continues on SIGCONT. Without the variable a step costs one load from memory.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// Every step at which writing can be made to fail, in the order in which a run passes them.
pub const FAIL_POINTS: &[&str] = &[
    "session",
    "claim",
    "root.rename",
    "root.renamed",
    "root.name",
    "workspace",
    "blob.rename",
    "blob.renamed",
    "blob.sync",
    "blob.shelf",
    "record.append",
    "record.torn",
    "record.sync",
    "record.synced",
    "drop.rename",
    "drop.renamed",
    "file.write",
    "file.rename",
    "file.renamed",
];

/// The same for `cache gc`.
pub const FAIL_POINTS_OF_GC: &[&str] = &[
    "claim",
    "file.write",
    "file.rename",
    "file.renamed",
    "collect.looked",
    "collect.rename",
    "merge.rename",
    "merge.renamed",
];

#[derive(Clone, Copy)]
enum Action {
    Kill,
    Stop,
    Error(i32),
}

struct Plan {
    step: String,
    action: Action,
    /// Passes that are left before the action.
    left: AtomicU32,
}

/// Does what `TRIPLAY_FAIL` asks for at this step: returns an error, or never returns.
pub(crate) fn fail_point(step: &str) -> io::Result<()> {
    match due(step) {
        None => Ok(()),
        Some(Action::Error(code)) => Err(io::Error::from_raw_os_error(code)),
        Some(Action::Stop) => Ok(kill_process(getpid(), Signal::STOP)?),
        Some(Action::Kill) => {
            kill_process(getpid(), Signal::KILL)?;
            std::process::abort()
        }
    }
}

/// Whether a failure is due at this step, without causing it: for writes that are cut in the middle.
pub(super) fn is_due(step: &str) -> bool {
    let Some(plan) = plan() else { return false };
    plan.step == step && plan.left.load(Ordering::SeqCst) == 1
}

fn due(step: &str) -> Option<Action> {
    debug_assert!(FAIL_POINTS.contains(&step) || FAIL_POINTS_OF_GC.contains(&step), "{step}");
    let plan = plan().filter(|plan| plan.step == step)?;
    let before = plan.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    (before == Ok(1)).then_some(plan.action)
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| parse(&std::env::var("TRIPLAY_FAIL").ok()?)).as_ref()
}

fn parse(text: &str) -> Option<Plan> {
    let mut parts = text.split(':');
    let step = parts.next()?.to_owned();
    let action = match parts.next()? {
        "kill" => Action::Kill,
        "stop" => Action::Stop,
        "enospc" => Action::Error(rustix::io::Errno::NOSPC.raw_os_error()),
        "eio" => Action::Error(rustix::io::Errno::IO.raw_os_error()),
        _ => return None,
    };
    let left = parts.next().map_or(Some(1), |number| number.parse().ok())?;
    Some(Plan { step, action, left: AtomicU32::new(left) })
}
