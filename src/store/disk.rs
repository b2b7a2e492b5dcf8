//! The cache folder: `blobs/` by content digest, `records/` by key, `tmp/` for what is being written.
//!
//! Order of publication: blobs first, the record last, each by rename. So a record that can be read names
//! only blobs that were complete; whatever a crash leaves lies in `tmp/` and is swept at the next start.
//! A blob may be dropped later (`remove_blob`) while its record stays: who needs it makes it again.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Digest;
use super::digest::flat_files;
use super::publish::{seal, sync_folder, write_durably};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}: {cause}{}", advice(.cause))]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\n  help: free some space and run again; what is done is kept"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "\n  help: choose a cache folder you may write to, with --cache DIR or TRIPLAY_CACHE"
        }
        _ => "",
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io { action, path, cause }
}

/// What was published: its content digest and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub digest: Digest,
    pub bytes: u64,
}

/// A cache folder, held by one process at a time through a kernel lock that dies with its holder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the cache, creating it where it is missing, and sweeps what a crash left half-written.
    /// Where another process holds it, `waiting` is called once and the call waits for it to end.
    pub fn open(root: &Path, waiting: impl FnOnce()) -> Result<Store> {
        for folder in ["blobs", "records", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(io_error("create the cache folder", &folder))?;
        }
        let path = root.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(io_error("open the cache's lock", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock().map_err(io_error("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
        let root = fs::canonicalize(root).map_err(io_error("find", root))?;
        let store = Store { root, _lock: lock };
        store.sweep()?;
        Ok(store)
    }

    fn sweep(&self) -> Result<()> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(io_error("read", &tmp))? {
            let path = entry.map_err(io_error("read", &tmp))?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A fresh folder for a stage to write its outputs in, on the filesystem of the blobs; removed on drop.
    pub fn workspace(&self) -> Result<tempfile::TempDir> {
        let tmp = self.root.join("tmp");
        tempfile::tempdir_in(&tmp).map_err(io_error("create a folder in", &tmp))
    }

    /// Where the blob of this digest lies, if it is there. It is a file or a folder.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("blobs").join(&hex[..2]).join(hex)
    }

    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Takes a finished file or flat folder from a workspace into the store.
    pub fn publish(&self, path: &Path) -> Result<Blob> {
        let files = match path.is_dir() {
            true => {
                flat_files(path).map_err(io_error("read", path))?.into_iter().map(|(_, file)| file).collect()
            }
            false => vec![path.to_owned()],
        };
        let mut bytes = 0;
        for file in &files {
            seal(file).map_err(io_error("write", file))?;
            bytes += fs::metadata(file).map_err(io_error("read", file))?.len();
        }
        let digest = Digest::of_path(path).map_err(io_error("hash", path))?;
        let target = self.blob_path(&digest);
        if !target.exists() {
            let shelf = target.parent().unwrap_or(&self.root);
            self.make_shelf(shelf)?;
            if path.is_dir() {
                sync_folder(path).map_err(io_error("write", path))?;
            }
            fs::rename(path, &target).map_err(io_error("write", &target))?;
            sync_folder(shelf).map_err(io_error("write", shelf))?;
        }
        Ok(Blob { digest, bytes })
    }

    /// Creates one of the 256 folders that blobs and records are spread over.
    fn make_shelf(&self, shelf: &Path) -> Result<()> {
        if !shelf.exists() {
            fs::create_dir_all(shelf).map_err(io_error("create", shelf))?;
            let parent = shelf.parent().unwrap_or(&self.root);
            sync_folder(parent).map_err(io_error("write", parent))?;
        }
        Ok(())
    }

    /// Forgets a blob; its record stays. Not an error where it is gone already.
    pub fn remove_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        if !path.exists() {
            return Ok(());
        }
        // Renamed away first: a blob is there whole or not at all, also when the removal is cut short.
        let doomed = self.root.join("tmp").join(format!("dropped-{digest}"));
        fs::rename(&path, &doomed).map_err(io_error("remove", &path))?;
        let removed = if doomed.is_dir() { fs::remove_dir_all(&doomed) } else { fs::remove_file(&doomed) };
        removed.map_err(io_error("remove", &doomed))
    }

    fn record_path(&self, key: &Digest) -> PathBuf {
        let hex = key.to_string();
        self.root.join("records").join(&hex[..2]).join(hex)
    }

    /// The record of a key. One that is torn or altered does not match the digest on its first line and
    /// counts as absent.
    pub fn record(&self, key: &Digest) -> Result<Option<Value>> {
        let path = self.record_path(key);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let Some(end) = text.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let (digest, body) = (&text[..end], &text[end + 1..]);
        if digest != Digest::of_bytes(body).to_string().as_bytes() {
            return Ok(None);
        }
        Ok(serde_json::from_slice(body).ok())
    }

    /// Publishes the record of a key. Its blobs must have been published before.
    pub fn write_record(&self, key: &Digest, record: &Value) -> Result<()> {
        let path = self.record_path(key);
        self.make_shelf(path.parent().unwrap_or(&self.root))?;
        let body = record.to_string();
        let text = format!("{}\n{body}", Digest::of_bytes(body.as_bytes()));
        write_durably(&path, text.as_bytes()).map_err(io_error("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), || {}).unwrap();
        (folder, store)
    }

    #[test]
    fn a_published_file_is_found_under_its_content() {
        let (_folder, store) = store();
        let space = store.workspace().unwrap();
        fs::write(space.path().join("a"), "glowvenom").unwrap();
        let blob = store.publish(&space.path().join("a")).unwrap();
        assert_eq!(blob, Blob { digest: Digest::of_bytes(b"glowvenom"), bytes: 9 });
        assert_eq!(fs::read(store.blob_path(&blob.digest)).unwrap(), b"glowvenom");
    }

    #[test]
    fn a_folder_is_published_once_and_can_be_dropped_and_published_again() {
        let (_folder, store) = store();
        let publish = || {
            let space = store.workspace().unwrap();
            fs::create_dir(space.path().join("model")).unwrap();
            fs::write(space.path().join("model/config.json"), "{}").unwrap();
            store.publish(&space.path().join("model")).unwrap().digest
        };
        let digest = publish();
        assert_eq!(publish(), digest);
        store.remove_blob(&digest).unwrap();
        assert!(!store.has_blob(&digest));
        store.remove_blob(&digest).unwrap();
        assert_eq!(publish(), digest);
        assert!(store.blob_path(&digest).join("config.json").exists());
    }

    #[test]
    fn a_record_cut_at_any_byte_or_altered_counts_as_absent() {
        let (_folder, store) = store();
        let key = Digest::of_bytes(b"key");
        assert_eq!(store.record(&key).unwrap(), None);
        let record = json!({"outputs": {"attacks": 1}});
        store.write_record(&key, &record).unwrap();
        assert_eq!(store.record(&key).unwrap(), Some(record));
        let path = store.record_path(&key);
        let text = fs::read(&path).unwrap();
        for length in 0..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            assert_eq!(store.record(&key).unwrap(), None, "cut at {length}");
        }
        let mut altered = text.clone();
        altered[80] ^= 1;
        fs::write(&path, &altered).unwrap();
        assert_eq!(store.record(&key).unwrap(), None);
    }

    #[test]
    fn a_start_sweeps_what_a_crash_left() {
        let (folder, store) = store();
        drop(store);
        fs::write(folder.path().join("tmp/torn"), "half").unwrap();
        Store::open(folder.path(), || {}).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }
}
