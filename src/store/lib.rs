//! What lasts: digests, the canonical encoding, blobs and records on disk, and seeds. Knows nothing of
//! stages, models or datasets: a blob is a file or a flat folder of files, a record is a line of JSON.

mod canonical;
mod digest;
mod disk;
mod fail;
mod line;
mod lock;
mod memo;
mod publish;
mod records;
mod roots;
pub mod seed;
mod session;
mod sharing;
#[cfg(test)]
mod tests;
mod upkeep;

pub use canonical::canonical_digest;
pub use digest::Digest;
pub use disk::{Blob, Error, Result, Store};
pub use fail::FAIL_POINTS;
pub use line::{is_sealed, is_sealed_file, seal, seal_file, sealed_lines};
pub use lock::Lock;
pub use publish::write_durably;
pub use records::{DigestMap, DigestSet};
pub use seed::Seed;
pub use session::Workspace;
pub use upkeep::{Collected, Live, Usage, Verified};
