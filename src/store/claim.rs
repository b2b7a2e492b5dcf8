//! Claims: what one process does at a time, such as computing a key. A claim is a link to the file of its session, so
//! that it is made at once or not at all, on any file system that has links, and so that whoever meets it sees who holds
//! it and whether that process lives. See [`super::session`].

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::session::{Process, Session, Watch};

/// A claim held until it is dropped.
pub struct Claim {
    path: PathBuf,
    inode: (u64, u64),
    _session: Arc<Session>,
}

/// What came of asking for a claim.
pub enum Claimed {
    Mine(Claim),
    /// Another process has it; nothing where it was in the midst of taking it.
    Others(Option<Process>),
}

impl Claim {
    /// The claim at this path, unless somebody who lives has it.
    pub(super) fn take(path: &Path, session: &Arc<Session>, watch: &Watch) -> io::Result<Claimed> {
        let inode = session.inode()?;
        let mine = || Claimed::Mine(Claim { path: path.to_owned(), inode, _session: session.clone() });
        let mut breaking = path.to_owned().into_os_string();
        breaking.push(".break");
        let breaking = PathBuf::from(breaking);
        loop {
            match fs::hard_link(&session.file, path) {
                Ok(()) => return Ok(mine()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            let Some(stale) = inode_of(path)? else { continue };
            if let Some(told) = watch.living(path)? {
                return Ok(Claimed::Others(Some(told.process)));
            }
            // Its process is gone. Whoever makes this link takes it over; nobody else may remove it meanwhile.
            match fs::hard_link(&session.file, &breaking) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if watch.living(&breaking)?.is_none() {
                        let _ = fs::remove_file(&breaking);
                    }
                    return Ok(Claimed::Others(None));
                }
                Err(error) => return Err(error),
            }
            if inode_of(path)? == Some(stale) {
                match fs::rename(&breaking, path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                match inode_of(path)? == Some(inode) {
                    true => return Ok(mine()),
                    false => return Ok(Claimed::Others(None)),
                }
            }
            remove_own(&breaking, inode);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove_own(&self.path, self.inode);
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
