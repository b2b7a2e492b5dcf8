//! The decision whether a loop goes on after a round: an output with one of two contents, so that the digest in a record
//! tells the decision. A decision is recorded like any output. The rounds after the one in which a loop stopped are not
//! executed.

use std::io;
use std::path::Path;
use std::sync::LazyLock;

use store::{Blob, Digest};

/// The type of the first output of the kind of `until:`.
pub const DECISION: &str = "decision";

const GO_ON: &[u8] = b"go on\n";
const STOP: &[u8] = b"stop\n";

static STOPS: LazyLock<Digest> = LazyLock::new(|| Digest::of_bytes(STOP));

/// Writes a decision to the path of the output.
pub fn write_decision(path: &Path, stop: bool) -> io::Result<()> {
    std::fs::write(path, if stop { STOP } else { GO_ON })
}

/// Whether this is the content of a decision to stop.
pub fn stops(digest: &Digest) -> bool {
    *digest == *STOPS
}

/// Whether a node with these outputs decided to stop.
pub(super) fn is_stop(outputs: &[Blob]) -> bool {
    outputs.first().is_some_and(|blob| stops(&blob.digest))
}
