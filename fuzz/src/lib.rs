//! What the fuzz targets share. The two lowest layers of triplay are taken in as they are, so that nothing of
//! models is built.
#![allow(dead_code)]

#[path = "../../src/engine/mod.rs"]
pub mod engine;
pub mod pipeline;
pub mod records;
#[path = "../../src/store/mod.rs"]
pub mod store;

use std::fs;
use std::path::PathBuf;

/// An empty folder of this process in memory; it is there until the machine is started again.
pub fn scratch() -> PathBuf {
    let folder = PathBuf::from(format!("/dev/shm/triplay-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder in /dev/shm");
    fs::canonicalize(folder).expect("the folder")
}
