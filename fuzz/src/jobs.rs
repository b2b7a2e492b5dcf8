//! Any bytes as a job's file: what a process of its own would do with it. A real job is among the seeds.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::Value;

use engine::{End, Registry, key_of, work};
use store::Store;

struct Space {
    folder: PathBuf,
    registry: Registry,
}

fn space() -> &'static Space {
    static SPACE: OnceLock<Space> = OnceLock::new();
    SPACE.get_or_init(|| Space { folder: crate::scratch(), registry: crate::pipeline::registry() })
}

pub fn check(bytes: &[u8]) {
    let Space { folder, registry } = space();
    let (file, cache) = (folder.join("job.json"), folder.join("cache"));
    let beside = folder.join("beside");
    fs::write(&file, bytes).expect("the job is written");
    fs::write(&beside, "not to be touched").expect("a file beside the cache");
    let _ = fs::remove_dir_all(&cache);
    let end = work(&file, &cache, registry);
    if !cache.join("format").exists() {
        return;
    }
    let store = Store::open(&cache).unwrap_or_else(|error| panic!("{error}"));
    // A record's key is that of the job that it keeps, and nothing is left behind.
    let mut found = 0;
    let is_sound = |line: &[u8]| {
        let mut record: Value = serde_json::from_slice(line).expect("a record");
        key_of(&record["job"].take()).is_some_and(|key| record["key"] == key.to_string())
    };
    let verified = store.verify(&is_sound).unwrap_or_else(|error| panic!("{error}"));
    assert!(verified.damaged.is_empty() && verified.unreadable.is_empty());
    assert_eq!(verified.damaged_records, 0);
    found += verified.records;
    assert_eq!(found, usize::from(end == End::Recorded));
    for left in ["claims", "sessions", "tmp"] {
        assert_eq!(fs::read_dir(cache.join(left)).expect("a folder").count(), 0, "{left}");
    }
    assert_eq!(fs::read_to_string(&beside).expect("it is there"), "not to be touched");
    assert_eq!(fs::read_dir(folder).expect("the folder").count(), 3, "nothing is written elsewhere");
}
