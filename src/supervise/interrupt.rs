//! The signals that end triplay from outside: Ctrl-C, `kill`, a terminal that closes.
//!
//! A signal that is ignored when triplay starts stays ignored, as its caller wants: `nohup` ignores SIGHUP, a script ignores
//! SIGINT for processes that it starts with `&`. The commands of stages inherit that.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use store::read::{self, MAX_TEXT_BYTES};

/// Calls `act`, on a thread of its own, whenever such a signal arrives.
pub fn on_interrupt(mut act: impl FnMut() + Send + 'static) -> io::Result<()> {
    let ignored = ignored();
    let heard = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(heard)?;
    std::thread::Builder::new().spawn(move || signals.forever().for_each(|_| act()))?;
    Ok(())
}

/// The signals that this process ignores, the lowest bit for signal 1. Only Linux reports them without `unsafe`; elsewhere none.
fn ignored() -> u64 {
    let status = read::text("/proc/self/status".as_ref(), MAX_TEXT_BYTES).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
