//! Claims: work that one process does at a time, such as computing a key. A claim is a hard link to the file of its session. So
//! it is made atomically on any file system that has links, and a process that finds it sees who holds it and whether the holder
//! lives. See [`super::session`].

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::mutex::lock;
use super::session::{Process, Session, Watch};

/// The suffix of a claim's name while another process takes it over from a dead one.
pub(super) const BREAK: &str = ".break";

/// A claim held until it is dropped.
pub struct Claim {
    path: PathBuf,
    inode: (u64, u64),
    session: Arc<Session>,
}

/// The outcome of a request for a claim.
pub enum Claimed {
    /// It was taken.
    Mine(Claim),
    /// Another process has it; `None` where that process was just taking it.
    Others(Option<Process>),
}

impl Claim {
    /// Whether no other process has taken it over.
    pub(super) fn is_held(&self) -> bool {
        let is_own = |path: &Path| inode_of(path).is_ok_and(|there| there == Some(self.inode));
        is_own(&self.path) && is_own(&self.session.file)
    }

    /// Takes the claim at this path, unless a live process has it. A claim of the session in the file `from` is taken in any
    /// case: that session hands it on.
    pub(super) fn take(
        path: &Path,
        session: &Arc<Session>,
        from: Option<&Path>,
        watch: &Watch,
    ) -> io::Result<Claimed> {
        let from = from.map(inode_of).transpose()?.flatten();
        let inode = session.inode()?;
        let mine = || Claimed::Mine(Claim { path: path.to_owned(), inode, session: session.clone() });
        loop {
            // The link and what this process knows of it change together, for all its threads.
            let mut claimed = lock(&session.claimed);
            match fs::hard_link(&session.file, path) {
                Ok(()) => {
                    claimed.insert(path.to_owned());
                    return Ok(mine());
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // FAT and some FUSE file systems report it in this way.
                Err(error)
                    if error.raw_os_error() == Some(Errno::PERM.raw_os_error())
                        || error.kind() == ErrorKind::Unsupported =>
                {
                    return Err(io::Error::other(
                        "the cache must lie on a file system that has hard links; choose another folder with --cache DIR or TRIPLAY_CACHE",
                    ));
                }
                Err(error) => return Err(error),
            }
            let Some(there) = inode_of(path)? else { continue };
            // On a network file system a link may succeed although its reply is lost, and the link of a takeover may arrive late.
            if there == inode && claimed.insert(path.to_owned()) {
                return Ok(mine());
            }
            drop(claimed);
            if from != Some(there)
                && let Some(told) = watch.living(path)?
            {
                return Ok(Claimed::Others(Some(told.process)));
            }
            let mut breaking = path.to_owned().into_os_string();
            breaking.push(BREAK);
            let breaking = PathBuf::from(breaking);
            let is_free = || Ok(from == Some(there) || watch.living(path)?.is_none());
            let taken = take_over(path, there, &breaking, session, is_free, watch);
            remove_own(&breaking, inode);
            // If a link was moved aside too late, another process may have completed this one's takeover.
            if !taken? && inode_of(path)? != Some(inode) {
                return Ok(Claimed::Others(None));
            }
            lock(&session.claimed).insert(path.to_owned());
            return Ok(mine());
        }
    }
}

/// Removes the link with which a dead process was taking over a claim. It may belong to another process by now, which then tries
/// again.
pub(super) fn set_aside(breaking: &Path, session: &Session) {
    let aside = session.folder.join("broken");
    let _ = fs::rename(breaking, &aside).and_then(|()| fs::remove_file(&aside));
}

/// Takes over the claim of a dead process, or hands it on. Only the process that makes the link `breaking` may do so, and no
/// other may remove the claim meanwhile. Returns false where another process is taking it over, or was faster.
fn take_over(
    path: &Path,
    stale: (u64, u64),
    breaking: &Path,
    session: &Session,
    is_free: impl FnOnce() -> io::Result<bool>,
    watch: &Watch,
) -> io::Result<bool> {
    match fs::hard_link(&session.file, breaking) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if watch.living(breaking)?.is_none() {
                // That process is dead too.
                set_aside(breaking, session);
            }
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    if inode_of(path)? != Some(stale) || !is_free()? {
        return Ok(false);
    }
    match fs::rename(breaking, path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(inode_of(path)? == Some(session.inode()?))
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = lock(&self.session.claimed);
        remove_own(&self.path, self.inode);
        claimed.remove(&self.path);
    }
}

/// Removes a claim, unless another process has taken it over.
fn remove_own(path: &Path, inode: (u64, u64)) {
    if inode_of(path).is_ok_and(|there| there == Some(inode)) {
        let _ = fs::remove_file(path);
    }
}

fn inode_of(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
