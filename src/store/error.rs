//! Why the cache could not be used, with advice.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why the cache could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation.
    #[error("cannot {action} {path}: {cause}{}", advice(.cause))]
    Io {
        /// What was tried, such as `create the cache folder`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system reported.
        cause: io::Error,
    },
    /// The cache has another format.
    #[error(
        "{root} is a cache of another version of triplay (format {format}; this one uses format {own}), and was left \
         unchanged\n  help: choose another folder with --cache DIR or TRIPLAY_CACHE, or move this one away; the results/ of its \
         runs can be read only while it stays where it is"
    )]
    Outdated {
        /// The cache's folder.
        root: PathBuf,
        /// The format that was found.
        format: u32,
        /// The format of this version of triplay.
        own: u32,
    },
    /// TRIPLAY_LOCKING has an unknown value, or one that does not fit the cache.
    #[error("TRIPLAY_LOCKING {message}")]
    Locking {
        /// The rule, and what was found.
        message: String,
    },
    /// The cache locks by the kernel, on a file system that hosts may share.
    #[error(
        "{root} lies on a file system that several hosts may share, but was created for one host\n  help: when no process \
         uses it, replace \"kernel\" by \"leases\" in {path}"
    )]
    Shared {
        /// The cache's folder.
        root: PathBuf,
        /// The file that says how the cache locks.
        path: PathBuf,
    },
}

/// A result whose error is that of the cache.
pub type Result<T> = std::result::Result<T, Error>;

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\n  help: free some space (`triplay cache gc` may) and run again; finished stages are kept"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "\n  help: choose a cache folder you may write to, with --cache DIR or TRIPLAY_CACHE"
        }
        _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
            "\n  help: the disk reports an error; when it is repaired, `triplay cache verify` finds damaged blobs"
        }
        _ => "",
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io { action, path, cause }
}

/// Whether an error of reading says that the data is damaged, rather than that it may not be read.
pub(super) fn is_damage(error: &io::Error) -> bool {
    const DAMAGED: [Errno; 5] = [Errno::IO, Errno::BADMSG, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO];
    error.kind() == io::ErrorKind::UnexpectedEof
        || DAMAGED.iter().any(|known| error.raw_os_error() == Some(known.raw_os_error()))
}
