//! The cache as its users see it: what is published is found, what is damaged is not, what is thrown away was nobody's.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::*;

struct Space {
    folder: tempfile::TempDir,
}

#[derive(Serialize)]
struct Record {
    key: Digest,
    text: String,
}

fn key(text: &str) -> Digest {
    Digest::of_bytes(text.as_bytes())
}

impl Space {
    fn new() -> Space {
        Space { folder: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn open(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }
}

fn publish_file(store: &Store, text: &str) -> Blob {
    let space = store.workspace().unwrap();
    fs::write(space.path().join("a"), text).unwrap();
    let blob = store.place(&space.path().join("a")).unwrap();
    store.settle(&blob.digest).unwrap();
    blob
}

fn publish_folder(store: &Store, text: &str) -> Digest {
    let space = store.workspace().unwrap();
    fs::create_dir(space.path().join("model")).unwrap();
    fs::write(space.path().join("model/config.json"), text).unwrap();
    let blob = store.place(&space.path().join("model")).unwrap();
    store.settle(&blob.digest).unwrap();
    blob.digest
}

fn write(store: &Store, name: &str, text: &str) {
    store.write_record(&Record { key: key(name), text: text.into() }).unwrap();
}

/// The text of a record, as another process reads it.
fn read(space: &Space, name: &str) -> Option<String> {
    let parse = |line: &[u8]| Some(serde_json::from_slice::<Value>(line).ok()?["text"].as_str()?.to_owned());
    space.open().record(&key(name), parse)
}

fn make_writable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn a_published_file_is_found_under_its_content_and_is_read_only() {
    let space = Space::new();
    let store = space.open();
    let blob = publish_file(&store, "glowvenom");
    assert_eq!(blob, Blob { digest: Digest::of_bytes(b"glowvenom"), bytes: 9 });
    let path = store.verified(&blob.digest).unwrap().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"glowvenom");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o222, 0);
    assert_eq!(publish_file(&store, "glowvenom"), blob);
}

#[test]
fn a_process_drops_what_it_made_and_can_make_it_again() {
    let space = Space::new();
    let store = space.open();
    let digest = publish_folder(&store, "{}");
    assert_eq!(publish_folder(&store, "{}"), digest);
    assert!(store.drop_blobs(&[digest]).unwrap());
    assert!(!store.has_blob(&digest));
    assert!(store.drop_blobs(&[digest]).unwrap(), "it is gone already");
    assert_eq!(publish_folder(&store, "{}"), digest);
    drop(store);
    assert!(space.open().drop_blobs(&[digest]).unwrap());
    assert!(space.open().has_blob(&digest), "what an earlier process made is not for this one to drop");
}

#[test]
fn while_another_process_is_at_work_nothing_is_dropped() {
    let space = Space::new();
    let (store, other) = (space.open(), space.open());
    let digest = publish_folder(&store, "{}");
    let work = other.workspace().unwrap();
    assert!(!store.drop_blobs(&[digest]).unwrap());
    assert!(store.has_blob(&digest));
    drop((work, other));
    assert!(store.drop_blobs(&[digest]).unwrap());
    let planning = space.open().lock_planning(|| {}).unwrap();
    assert!(!store.drop_blobs(&[digest]).unwrap(), "somebody looks for what is there");
    drop(planning);
}

#[test]
fn of_two_records_the_later_counts_and_other_processes_see_it() {
    let space = Space::new();
    let (store, other) = (space.open(), space.open());
    write(&store, "a", "one");
    write(&other, "b", "two");
    write(&store, "a", "three");
    assert_eq!(read(&space, "a").as_deref(), Some("three"));
    assert_eq!(read(&space, "b").as_deref(), Some("two"));
    let known = |store: &Store, name: &str| store.record(&key(name), |_| Some(())).is_some();
    assert!(!known(&other, "c"));
    write(&store, "c", "four");
    other.refresh().unwrap();
    assert!(known(&other, "c"));
}

#[test]
fn records_cut_at_any_byte_lose_the_last_alone_and_the_next_is_whole() {
    let space = Space::new();
    let store = space.open();
    write(&store, "first", "one");
    write(&store, "second", "two");
    drop(store);
    let path = space.root().join("records.jsonl");
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in first..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(read(&space, "first").as_deref(), Some("one"), "cut at {length}");
        assert_eq!(read(&space, "second"), None, "cut at {length}");
        write(&space.open(), "third", "three");
        assert_eq!(read(&space, "first").as_deref(), Some("one"), "cut at {length}");
        assert_eq!(read(&space, "third").as_deref(), Some("three"), "cut at {length}");
    }
}

#[test]
fn a_flipped_bit_in_a_record_makes_it_absent_and_no_other() {
    let space = Space::new();
    let store = space.open();
    write(&store, "first", "one");
    write(&store, "second", "two");
    drop(store);
    let path = space.root().join("records.jsonl");
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
    for bit in (0..first * 8).step_by(3) {
        let mut altered = whole.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &altered).unwrap();
        assert_eq!(read(&space, "first"), None, "bit {bit}");
        assert_eq!(read(&space, "second").as_deref(), Some("two"), "bit {bit}");
    }
}

#[test]
fn a_flipped_bit_in_a_blob_is_found_before_it_is_used() {
    let space = Space::new();
    let store = space.open();
    let (file, folder) = (publish_file(&store, "glowvenom").digest, publish_folder(&store, "{ }"));
    drop(store);
    for (digest, path) in [(file, ""), (folder, "config.json")] {
        let store = space.open();
        let path = store.blob_path(&digest).join(path);
        let path = if path.is_file() { path } else { store.blob_path(&digest) };
        make_writable(&path);
        let mut bytes = fs::read(&path).unwrap();
        bytes[1] ^= 4;
        fs::write(&path, bytes).unwrap();
        assert_eq!(store.verified(&digest).unwrap(), None);
        assert!(!store.has_blob(&digest), "it is in quarantine");
    }
    assert_eq!(fs::read_dir(space.root().join("quarantine")).unwrap().count(), 2);
    let store = space.open();
    assert_eq!(publish_file(&store, "glowvenom").digest, file);
    assert!(store.verified(&file).unwrap().is_some());
}

#[test]
fn what_a_crash_left_in_a_blobs_place_is_replaced_by_the_whole() {
    let space = Space::new();
    let store = space.open();
    let digest = Digest::of_bytes(b"glowvenom");
    let path = store.blob_path(&digest);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "glow").unwrap();
    assert_eq!(publish_file(&store, "glowvenom").digest, digest);
    assert_eq!(fs::read(&path).unwrap(), b"glowvenom");
}

#[test]
fn verify_puts_what_is_damaged_aside_and_says_so() {
    let space = Space::new();
    let store = space.open();
    let (sound, damaged) = (publish_file(&store, "moss").digest, publish_file(&store, "glowvenom").digest);
    write(&store, "first", "one");
    write(&store, "second", "two");
    assert_eq!(store.verify().unwrap().damaged, Vec::<PathBuf>::new());
    let path = store.blob_path(&damaged);
    make_writable(&path);
    fs::write(&path, "glowvenon").unwrap();
    let records = space.root().join("records.jsonl");
    let text = fs::read_to_string(&records).unwrap();
    fs::write(&records, text.replace("one", "two")).unwrap();
    let store = space.open();
    let found = store.verify().unwrap();
    assert_eq!((found.blobs, found.damaged.len(), found.damaged_records, found.records), (2, 1, 1, 1));
    assert!(found.damaged[0].exists() && !store.has_blob(&damaged) && store.has_blob(&sound));
    let again = space.open().verify().unwrap();
    assert_eq!((again.damaged.len(), again.damaged_records), (0, 0));
    assert_eq!(read(&space, "second").as_deref(), Some("two"));
}

#[test]
fn what_is_not_live_is_collected_and_a_dry_run_only_says_so() {
    let space = Space::new();
    let store = space.open();
    let (live, dead) = (publish_file(&store, "moss").digest, publish_folder(&store, "{}"));
    write(&store, "live", "one");
    write(&store, "dead", "two");
    let collect = |dry_run: bool| {
        let live = Live { blobs: HashSet::from([live]), records: HashSet::from([key("live")]) };
        store.collect(|| Ok::<_, Error>(live), dry_run, || {}).unwrap()
    };
    let expected = Collected { blobs: 1, bytes: 2, records: 1, kept_blobs: 1, kept_bytes: 4 };
    assert_eq!(collect(true), expected);
    assert!(store.has_blob(&dead) && read(&space, "dead").is_some());
    assert_eq!(collect(false), expected);
    assert!(!store.has_blob(&dead) && store.has_blob(&live));
    assert_eq!((read(&space, "dead"), read(&space, "live").as_deref()), (None, Some("one")));
    // A process that had read the records before goes on with the new file.
    write(&store, "later", "three");
    assert_eq!(read(&space, "later").as_deref(), Some("three"));
    let trash = store.scratch().unwrap().join(dead.to_string());
    assert!(!trash.exists(), "what is thrown away is gone");
}

#[test]
fn a_key_is_one_holders_at_a_time_and_its_lock_leaves_nothing() {
    let space = Space::new();
    let (store, other) = (space.open(), space.open());
    let held = store.try_lock_key(&key("a")).unwrap().unwrap();
    assert!(other.try_lock_key(&key("a")).unwrap().is_none());
    assert!(other.try_lock_key(&key("b")).unwrap().is_some(), "other keys never wait");
    held.remove().unwrap();
    other.try_lock_key(&key("a")).unwrap().unwrap().remove().unwrap();
    let third = store.try_lock_key(&key("a")).unwrap().unwrap();
    third.remove().unwrap();
    let left: Vec<_> = fs::read_dir(space.root().join("locks")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "the lock of `b`, whose holder did not remove it");
}

#[test]
fn what_a_process_that_is_gone_was_writing_is_swept_by_the_next() {
    let space = Space::new();
    let store = space.open();
    drop(store);
    let dead = space.root().join("tmp/dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join(".lock"), "").unwrap();
    fs::create_dir(dead.join("half")).unwrap();
    fs::set_permissions(dead.join("half"), fs::Permissions::from_mode(0o500)).unwrap();
    let other = space.open();
    let work = other.workspace().unwrap();
    assert!(!dead.exists());
    let store = space.open();
    store.workspace().unwrap();
    assert!(work.path().exists(), "what is being written stays");
}

#[test]
fn everything_has_the_permissions_of_the_cache_folder() {
    let space = Space::new();
    fs::create_dir(space.root()).unwrap();
    fs::set_permissions(space.root(), fs::Permissions::from_mode(0o2770)).unwrap();
    let store = space.open();
    let digest = publish_folder(&store, "{}");
    write(&store, "a", "one");
    store.add_root(space.folder.path()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let blob = store.blob_path(&digest);
    assert_eq!((mode(&blob), mode(&blob.join("config.json"))), (0o2770, 0o440));
    assert_eq!(mode(blob.parent().unwrap()), 0o2770);
    assert_eq!(mode(&space.root().join("records.jsonl")), 0o660);
    let root = fs::read_dir(space.root().join("roots")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(mode(&root), 0o660);
}

#[test]
fn runs_are_found_again_when_they_are_moved_with_their_cache() {
    let space = Space::new();
    let project = space.folder.path().join("project");
    fs::create_dir_all(project.join("results/quick/1")).unwrap();
    let store = Store::open(&project.join(".triplay")).unwrap();
    store.add_root(&project.join("results/quick/1")).unwrap();
    let moved = space.folder.path().join("moved");
    fs::rename(&project, &moved).unwrap();
    let store = Store::open(&moved.join(".triplay")).unwrap();
    let moved = fs::canonicalize(moved).unwrap();
    assert_eq!(store.roots().unwrap(), [moved.join("results/quick/1")]);
    fs::remove_dir_all(moved.join("results")).unwrap();
    store.forget_roots(&store.roots().unwrap()).unwrap();
    assert_eq!(store.roots().unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_run_in_a_folder_of_any_name_is_known_and_forgotten_and_torn_roots_do_no_harm() {
    let space = Space::new();
    let store = Store::open(&space.root()).unwrap();
    fs::write(space.root().join("roots/torn"), b"../resu\xff").unwrap();
    for name in [&b"\xff\xfe"[..], b"line\nend\n", "ä".as_bytes(), b" "] {
        for above in [fs::canonicalize(space.folder.path()).unwrap(), store.root().to_owned()] {
            let run = above.join(OsStr::from_bytes(name));
            fs::create_dir_all(&run).unwrap();
            store.add_root(&run).unwrap();
            assert_eq!(store.roots().unwrap(), std::slice::from_ref(&run));
            store.forget_roots(&[run]).unwrap();
            assert_eq!(store.roots().unwrap(), Vec::<PathBuf>::new());
        }
    }
}
