//! Durable storage: digests, the canonical encoding, blobs and records on disk, and seeds. It knows nothing of stages, models or
//! datasets: a blob is a file or a tree of files, a record is a line of JSON.

mod canonical;
mod claim;
mod copy;
mod digest;
mod disk;
mod error;
mod fail;
mod format;
mod line;
mod memo;
mod mutex;
mod named;
mod partial;
mod pattern;
mod publish;
pub mod read;
mod records;
mod removal;
mod roots;
pub mod seed;
mod selection;
mod session;
mod sharing;
#[cfg(test)]
mod tests;
mod tree;
mod unfinished;
mod upkeep;

pub use canonical::canonical_digest;
pub use claim::{Claim, Claimed};
pub use copy::{Copied, copy_content};
pub use digest::{Digest, DigestOf};
pub use disk::{Blob, Cleaned, Frozen, Pins, Store};
pub use error::{Error, Result};
pub use fail::{FAIL_POINTS, FAIL_POINTS_OF_GC};
pub use line::{is_sealed, is_sealed_file, seal, seal_file, sealed_lines};
pub use named::{Named, NamedOutput};
pub use partial::{PartialOutput, PartialOutputs};
pub use pattern::is_like;
pub use publish::write_durably;
pub use records::{DigestMap, DigestSet};
pub use removal::unprotect;
pub use roots::{BY_HAND, Root, Rooted, RunFolderState, recognise};
pub use seed::Seed;
pub use selection::{IgnoreRules, Selection, is_among};
pub use session::{Process, Workspace};
pub use sharing::{create_private, create_private_in, share_as};
pub use tree::{dangling, files_below, ignored_below};
pub use upkeep::{Collected, Live, Usage, Verified};
