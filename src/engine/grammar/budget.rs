//! Limits the size of an expanded pipeline. A short file may expand without end: variants of variants, each with large
//! parameters, in each of many ablations.

use std::cell::Cell;

use super::diagnostic::At;
use super::errors::Errors;

/// The approximate limit in bytes of all stages in all ablations: a larger pipeline is a mistake.
const MOST: usize = 256 << 20;

/// The estimated bytes of one value in all its forms: as typed, as JSON, decoded, in a manifest.
pub(crate) const VALUE: usize = 256;

/// The bytes expanded so far.
#[derive(Default)]
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    /// Counts what is expanded next. Returns `None` beyond the limit, and reports the place that exceeded it.
    pub(crate) fn take(&self, errors: &Errors, at: At, bytes: usize) -> Option<()> {
        let before = self.0.replace(self.0.get().saturating_add(bytes));
        if before > MOST {
            return None;
        }
        if self.is_spent() {
            let message = "the pipeline must take at most 256 MiB with its parameters, variants and ablations \
                           written out";
            return errors.at(at, message);
        }
        Some(())
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() > MOST
    }
}
