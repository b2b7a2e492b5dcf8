//! What lasts: digests, the canonical encoding, blobs and records on disk, and seeds. Knows nothing of
//! stages, models or datasets: a blob is a file or a flat folder of files, a record is a JSON value.

mod canonical;
mod digest;
mod disk;
mod publish;
pub mod seed;

pub use canonical::canonical_digest;
pub use digest::Digest;
pub use disk::{Blob, Error, Result, Store};
pub use publish::write_durably;
pub use seed::Seed;
