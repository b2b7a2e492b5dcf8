//! An end to pipelines that are short to write and endless to write out: variants of variants, each with large
//! parameters, in each of many ablations.

use std::cell::Cell;

use super::diagnostic::At;
use super::errors::Errors;

/// What all stages in all ablations may come to in bytes, about: beyond is a slip.
const MOST: usize = 256 << 20;

/// What one value takes in all its forms: as typed, as JSON, decoded, in a manifest.
pub const VALUE: usize = 256;

/// How much has been written out.
#[derive(Default)]
pub struct Budget(Cell<usize>);

impl Budget {
    /// Counts what is written out next. `None` once it is too much, which is reported where it came to that.
    pub fn take(&self, errors: &Errors, at: At, bytes: usize) -> Option<()> {
        let before = self.0.replace(self.0.get().saturating_add(bytes));
        if before > MOST {
            return None;
        }
        if self.is_spent() {
            let message = "written out with its parameters, variants and ablations, the pipeline comes to more \
                           than 256 MiB";
            return errors.at(at, message);
        }
        Some(())
    }

    pub fn is_spent(&self) -> bool {
        self.0.get() > MOST
    }
}
