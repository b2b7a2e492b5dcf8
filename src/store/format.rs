//! The file `format` of a cache: its layout, and how its processes detect dead ones. All of them must do so in the same way on
//! every host, so it is decided once, when the cache is created.

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result, io_error};
use super::read::{self, MAX_TEXT_BYTES};
use super::sharing::Sharing;

/// Raised when older versions can no longer use the content of a cache, or this version that of theirs.
pub(crate) const FORMAT: u32 = 3;

#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
    locking: Locking,
}

/// How processes detect which others live: see [`super::session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Locking {
    /// By locks of the kernel, which die with their process: for a cache that one host uses.
    Kernel,
    /// By leases that are renewed: for a file system that several hosts share.
    Leases,
}

/// Reads the file, or decides and writes it in a new cache. `TRIPLAY_LOCKING=kernel` or `leases` overrides the choice by file
/// system.
pub(super) fn of(root: &Path, sharing: Sharing) -> Result<Locking> {
    let path = root.join("format");
    let asked = match std::env::var("TRIPLAY_LOCKING").as_deref() {
        Ok("kernel") => Some(Locking::Kernel),
        Ok("leases") => Some(Locking::Leases),
        Ok(other) => {
            return Err(Error::Locking { message: format!("must be `kernel` or `leases`, found `{other}`") });
        }
        Err(_) => None,
    };
    if !path.exists() {
        if root.join("records.jsonl").exists() {
            return Err(outdated(root, 2));
        }
        let locking = match asked {
            Some(locking) => locking,
            None if is_of_one_host(root) => Locking::Kernel,
            None => Locking::Leases,
        };
        create(&path, &Format { format: FORMAT, locking }, sharing).map_err(io_error("write", &path))?;
    }
    let text = read::bytes(&path, MAX_TEXT_BYTES).map_err(io_error("read", &path))?;
    let broken = |error: serde_json::Error| Error::Io {
        action: "read",
        path: path.clone(),
        cause: io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{error}\n  help: it must be {{\"format\":{FORMAT},\"locking\":\"kernel\"}}, or \"leases\" if several hosts \
                 use the cache"
            ),
        ),
    };
    let Format { format, locking } = serde_json::from_slice(&text).map_err(broken)?;
    if format != FORMAT {
        return Err(outdated(root, format));
    }
    if asked.is_some_and(|asked| asked != locking) {
        let name = if locking == Locking::Kernel { "kernel" } else { "leases" };
        let message = format!("must be unset, or `{name}` as in the cache {}", root.display());
        return Err(Error::Locking { message });
    }
    if locking == Locking::Kernel && !is_of_one_host(root) && asked.is_none() {
        return Err(Error::Shared { root: root.to_owned(), path });
    }
    Ok(locking)
}

fn outdated(root: &Path, format: u32) -> Error {
    Error::Outdated { root: root.to_owned(), format, own: FORMAT }
}

fn create(path: &Path, format: &Format, sharing: Sharing) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder)?;
    file.write_all((serde_json::to_string(format)? + "\n").as_bytes())?;
    sharing.set(file.as_file(), sharing.file)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        // Another process was faster.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        persisted => persisted.map(drop).map_err(|error| error.error),
    }
}

/// Whether a folder lies on a file system that no other host can have mounted, judged by its type. Network file systems are not
/// among them, nor is FUSE, whose file systems may do anything.
#[cfg(target_os = "linux")]
fn is_of_one_host(folder: &Path) -> bool {
    // From `linux/magic.h`; ZFS and APFS use their own numbers.
    const LOCAL: [u32; 14] = [
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683E, // Btrfs
        0x0102_1994, // tmpfs
        0x8584_58F6, // ramfs
        0x794C_7630, // overlay
        0x2FC1_2FC1, // ZFS
        0xF2F5_2010, // F2FS
        0x3153_464A, // JFS
        0x5265_4973, // ReiserFS
        0xCA45_1A4E, // bcachefs
        0x4D44,      // FAT
        0x2011_BAB0, // exFAT
        0x3434,      // NILFS
    ];
    rustix::fs::statfs(folder).is_ok_and(|there| LOCAL.contains(&(there.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_of_one_host(_: &Path) -> bool {
    true
}
