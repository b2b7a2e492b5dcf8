//! What the fuzz targets share.

pub mod jobs;
pub mod pipeline;
pub mod records;

use std::fs;
use std::path::PathBuf;

/// An empty folder of this process in memory; it is there until the machine is started again.
pub fn scratch() -> PathBuf {
    let folder = PathBuf::from(format!("/dev/shm/triplay-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder in /dev/shm");
    fs::canonicalize(folder).expect("the folder")
}
