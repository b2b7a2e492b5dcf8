//! The cache as its users see it: published content is found, damaged content is not, and only what no run needs is deleted.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::Value;

use super::*;

struct Space {
    folder: tempfile::TempDir,
}

#[derive(Serialize)]
struct Record {
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

fn publish(store: &Store, path: &Path) -> Blob {
    let frozen = store.freeze(path).unwrap();
    store.place(&frozen).unwrap();
    store.sync(&frozen.blob().digest).unwrap();
    frozen.blob()
}

fn publish_file(store: &Store, text: &str) -> Blob {
    let space = store.workspace().unwrap();
    fs::write(space.path().join("a"), text).unwrap();
    publish(store, &space.path().join("a"))
}

fn publish_folder(store: &Store, text: &str) -> Digest {
    let space = store.workspace().unwrap();
    fs::create_dir(space.path().join("model")).unwrap();
    fs::write(space.path().join("model/config.json"), text).unwrap();
    publish(store, &space.path().join("model")).digest
}

fn write(store: &Store, name: &str, text: &str) {
    store.write_record(&key(name), &Record { text: text.into() }).unwrap();
}

/// The only file of records.
fn segment(space: &Space) -> PathBuf {
    let mut files = fs::read_dir(space.root().join("records")).unwrap().flatten();
    let file = files.next().unwrap().path();
    assert!(files.next().is_none());
    file
}

/// The text of a record, as another process reads it.
fn read(space: &Space, name: &str) -> Option<String> {
    let line = space.open().whole_record(&key(name)).unwrap()?;
    Some(serde_json::from_slice::<Value>(&line).ok()?["text"].as_str()?.to_owned())
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
    assert_eq!(store.usage().unwrap().blobs.len(), 2, "the folder and its file");
    assert_eq!(store.drop_blobs(&[digest], "").unwrap(), []);
    assert_eq!(store.usage().unwrap().blobs.len(), 0);
    assert_eq!(store.drop_blobs(&[digest], "").unwrap(), [], "it is gone already");
    assert_eq!(publish_folder(&store, "{}"), digest);
    drop(store);
    assert_eq!(space.open().drop_blobs(&[digest], "").unwrap(), []);
    assert!(space.open().has_blob(&digest), "what an earlier process made is not for this one to drop");
}

#[test]
fn while_another_process_is_at_work_nothing_is_dropped() {
    let space = Space::new();
    let (store, other) = (space.open(), space.open());
    let digest = publish_folder(&store, "{}");
    other.begin_session().unwrap();
    assert_eq!(store.drop_blobs(&[digest], "").unwrap(), [digest]);
    assert!(store.has_blob(&digest));
    drop(other);
    assert_eq!(store.drop_blobs(&[digest], "").unwrap(), []);
}

fn named(name: &str, digest: Digest, passing: bool) -> Named {
    let artifact = "model".into();
    Named { key: key(name), outputs: vec![NamedOutput { digest, artifact, passing }] }
}

#[test]
fn what_a_run_that_has_ended_keeps_is_dropped_by_no_other() {
    let space = Space::new();
    let store = space.open();
    let digests = ["{}", "[]"].map(|text| publish_folder(&store, text));
    let own = store.add_root(space.folder.path(), "").unwrap();
    own.name([&named("a", digests[0], true), &named("b", digests[1], true)]).unwrap();
    let other = space.open();
    let root = other.add_root(space.folder.path(), "").unwrap();
    root.name([&named("a", digests[0], false), &named("b", digests[1], true)]).unwrap();
    drop((root, other));
    assert_eq!(store.drop_blobs(&digests, own.id()).unwrap(), []);
    assert_eq!(digests.map(|digest| store.has_blob(&digest)), [true, false]);
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
    let path = segment(&space);
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in first..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(read(&space, "first").as_deref(), Some("one"), "cut at {length}");
        // The last line of a dead process needs no line feed.
        let second = Some("two".to_owned()).filter(|_| length + 1 == whole.len());
        assert_eq!(read(&space, "second"), second, "cut at {length}");
        let store = space.open();
        write(&store, "third", "three");
        assert_eq!(read(&space, "third").as_deref(), Some("three"), "cut at {length}");
        // Damaged lines go when the rest is merged.
        drop(store);
        let keep = HashSet::from([key("first"), key("third")]);
        let live = || Ok::<_, Error>(Live { records: keep, ..Live::default() });
        space.open().collect(live, false, |_| {}).unwrap();
        assert_eq!(read(&space, "first").as_deref(), Some("one"), "cut at {length}");
        assert_eq!(read(&space, "third").as_deref(), Some("three"), "cut at {length}");
        fs::remove_file(segment(&space)).unwrap();
    }
}

#[test]
fn a_flipped_bit_in_a_record_makes_it_absent_and_no_other() {
    let space = Space::new();
    let store = space.open();
    write(&store, "first", "one");
    write(&store, "second", "two");
    drop(store);
    let path = segment(&space);
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
    let verify = || space.open().verify(&|_| true).unwrap();
    drop(store);
    assert_eq!(verify().damaged, Vec::<PathBuf>::new());
    let store = space.open();
    let path = store.blob_path(&damaged);
    make_writable(&path);
    fs::write(&path, "glowvenon").unwrap();
    let records = segment(&space);
    let text = fs::read_to_string(&records).unwrap();
    fs::write(&records, text.replace("one", "two")).unwrap();
    let store = space.open();
    let found = verify();
    assert_eq!((found.blobs, found.damaged.len(), found.damaged_records, found.records), (2, 1, 1, 1));
    assert!(found.damaged[0].exists() && !store.has_blob(&damaged) && store.has_blob(&sound));
    let again = verify();
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
    drop(store);
    let store = space.open();
    // A blob that is placed during the collection stays.
    let collect = |dry_run: bool| {
        let live = Live { blobs: HashSet::from([live]), records: HashSet::from([key("live")]) };
        std::thread::sleep(std::time::Duration::from_millis(20));
        store.collect(|| Ok::<_, Error>(live), dry_run, |_| {}).unwrap()
    };
    let expected = Collected { blobs: 1, bytes: 2, records: 1, kept_blobs: 1, kept_bytes: 4, held: 0 };
    assert_eq!(collect(true), expected);
    assert!(store.has_blob(&dead) && read(&space, "dead").is_some());
    assert_eq!(collect(false), expected);
    assert!(!store.has_blob(&dead) && store.has_blob(&live));
    assert_eq!((read(&space, "dead"), read(&space, "live").as_deref()), (None, Some("one")));
    // A process that had read the records before continues with the new file.
    write(&store, "later", "three");
    assert_eq!(read(&space, "later").as_deref(), Some("three"));
    let trash = store.scratch().unwrap().join(dead.to_string());
    assert!(!trash.exists(), "what is thrown away is gone");
}

fn mine(claimed: Claimed) -> Option<Claim> {
    match claimed {
        Claimed::Mine(claim) => Some(claim),
        Claimed::Others(_) => None,
    }
}

#[test]
fn a_key_is_one_holders_at_a_time_and_its_claim_leaves_nothing() {
    let space = Space::new();
    let (store, other) = (space.open(), space.open());
    let held = mine(store.claim_key(&key("a")).unwrap()).unwrap();
    let Claimed::Others(Some(process)) = other.claim_key(&key("a")).unwrap() else { panic!("it is held") };
    assert_eq!(process.process, std::process::id());
    assert!(mine(other.claim_key(&key("b")).unwrap()).is_some(), "other keys never wait");
    drop(held);
    let held = mine(other.claim_key(&key("a")).unwrap()).unwrap();
    assert_eq!(fs::read_dir(space.root().join("claims")).unwrap().count(), 1);
    drop(held);
    assert_eq!(fs::read_dir(space.root().join("claims")).unwrap().count(), 0);
}

/// Leaves the state of a process that was killed: its session's file is there, but nothing holds it.
fn leave_behind(space: &Space, claims: &[&str]) {
    let store = space.open();
    publish_file(&store, "half");
    let sessions = space.root().join("sessions");
    let before = fs::read_dir(&sessions).unwrap().flatten().next().unwrap().path();
    let session = fs::read(&before).unwrap();
    drop(store);
    let dead = sessions.join("dead");
    fs::write(&dead, session).unwrap();
    for claim in claims {
        fs::hard_link(&dead, space.root().join("claims").join(claim)).unwrap();
    }
    let half = space.root().join("tmp/dead/half");
    fs::create_dir_all(&half).unwrap();
    fs::write(space.root().join("records/dead.open.jsonl"), "").unwrap();
    fs::set_permissions(half, fs::Permissions::from_mode(0o500)).unwrap();
}

#[test]
fn the_claim_of_a_process_that_is_gone_is_taken_over_by_one_of_those_who_want_it() {
    let space = Space::new();
    for round in 0..20 {
        let name = round.to_string();
        leave_behind(&space, &[&name]);
        let stores: Vec<Store> = (0..4).map(|_| space.open()).collect();
        let claims: Vec<Option<Claim>> = std::thread::scope(|scope| {
            let takers: Vec<_> =
                stores.iter().map(|store| scope.spawn(|| mine(store.claim(&name).unwrap()))).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        assert!(claims.iter().flatten().count() <= 1);
        // A process that was told that another was just taking the claim asks again.
        let again = stores.iter().filter(|store| mine(store.claim(&name).unwrap()).is_some()).count();
        assert!(claims.iter().flatten().count() == 1 || again > 0);
    }
}

#[test]
fn what_a_process_that_is_gone_was_writing_is_swept_by_the_next() {
    let space = Space::new();
    leave_behind(&space, &[]);
    let other = space.open();
    let work = other.workspace().unwrap();
    assert!(!space.root().join("tmp/dead").exists() && !space.root().join("sessions/dead").exists());
    assert!(space.root().join("records/dead.jsonl").exists(), "nobody writes to it any more");
    let store = space.open();
    store.workspace().unwrap();
    assert!(work.path().exists(), "what is being written stays");
}

#[test]
fn of_two_records_that_did_not_know_of_each_other_the_same_counts_whoever_reads_them() {
    let space = Space::new();
    drop(space.open());
    let line = |text: &str| {
        let record = format!(r#"{{"key":"{}","text":"{text}","job":{{}}}}"#, key("a"));
        seal(&serde_json::from_str::<Value>(&record).unwrap()).unwrap()
    };
    for (name, text) in [("x", "one"), ("y", "two"), ("z", "one")] {
        fs::write(space.root().join(format!("records/{name}.jsonl")), line(text) + "\n").unwrap();
    }
    let text = || {
        let whole = space.open().whole_record(&key("a")).unwrap().unwrap();
        serde_json::from_slice::<Value>(&whole).unwrap()["text"].clone()
    };
    assert_eq!(text(), "two");
    let live = || Ok::<_, Error>(Live { records: HashSet::from([key("a")]), ..Live::default() });
    let store = space.open();
    assert_eq!(store.collect(live, false, |_| {}).unwrap().records, 2);
    assert_eq!(text(), "two", "merged");
}

#[test]
fn a_file_that_gets_the_number_size_and_time_of_one_that_is_gone_is_not_taken_for_it() {
    let space = Space::new();
    let store = space.open();
    let make = |text: &str| {
        let work = store.workspace().unwrap();
        let path = work.path().join("out");
        fs::write(&path, text).unwrap();
        File::open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        publish(&store, &path)
    };
    for round in 0..200 {
        // An existing blob is not placed again, and the new file is removed: its inode is free.
        assert_eq!(make("same").digest, Digest::of_bytes(b"same"));
        let other = format!("{round:04}");
        assert_eq!(make(&other).digest, Digest::of_bytes(other.as_bytes()));
    }
}

#[test]
fn the_files_of_a_folder_are_there_once_in_however_many_folders_they_are() {
    let space = Space::new();
    let store = space.open();
    let base = publish_file(&store, "the base");
    let adapt = |adapter: &str| {
        let work = store.workspace().unwrap();
        let folder = work.path().join("model");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("base"), "the base").unwrap();
        fs::write(folder.join("adapter"), adapter).unwrap();
        publish(&store, &folder)
    };
    let trees = ["one", "other"].map(adapt);
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    for tree in trees {
        assert_eq!(tree.bytes, "the base".len() as u64 + if tree == trees[0] { 3 } else { 5 });
        assert_eq!(inode(store.blob_path(&tree.digest).join("base")), inode(store.blob_path(&base.digest)));
    }
    assert_eq!(store.usage().unwrap().bytes(), 16);
    drop(store);
    let store = space.open();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let live = || Ok::<_, Error>(Live { blobs: HashSet::from([trees[0].digest]), ..Live::default() });
    let collected = store.collect(live, false, |_| {}).unwrap();
    assert_eq!((collected.blobs, collected.bytes, collected.kept_bytes), (1, 5, 11));
    assert!(store.verified(&trees[0].digest).unwrap().is_some() && !store.has_blob(&trees[1].digest));
}

#[test]
fn a_file_that_may_be_executed_stays_one_and_is_another_content() {
    let space = Space::new();
    let store = space.open();
    let work = store.workspace().unwrap();
    let publish_tool = |name: &str, mode: u32| {
        let path = work.path().join(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        publish(&store, &path).digest
    };
    let (plain, tool) = (publish_tool("plain", 0o644), publish_tool("tool", 0o755));
    assert_ne!(plain, tool);
    let mode = |digest: &Digest| fs::metadata(store.blob_path(digest)).unwrap().mode() & 0o777;
    assert_eq!((mode(&plain), mode(&tool)), (0o400, 0o500));
    let folder = work.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::copy(store.blob_path(&tool), folder.join("tool")).unwrap();
    fs::write(folder.join(".hidden"), "moss").unwrap();
    let tree = publish(&store, &folder).digest;
    let place = store.blob_path(&tree);
    assert_eq!(fs::metadata(place.join("tool")).unwrap().mode() & 0o777, 0o500);
    assert!(space.open().verified(&tree).unwrap().is_some());
    fs::remove_file(place.join(".hidden")).unwrap();
    assert_eq!(space.open().verified(&tree).unwrap(), None, "what is hidden is part of it");
}

#[test]
fn a_file_that_is_a_trees_list_byte_for_byte_is_not_that_tree() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "moss").unwrap();
    let tree = Digest::of_path(folder.path()).unwrap();
    let moss = Digest::of_bytes(b"moss");
    let list = [&1u64.to_le_bytes()[..], b"a", &4u64.to_le_bytes(), &[0], moss.bytes()];
    assert_ne!(Digest::of_bytes(&list.concat()), tree);
    // Pinned: versions and machines share caches.
    assert_eq!(tree.to_string(), "0df8143bf0482d177ca8e78b6c8d2419ffaa6726adc329dbed0ee8fc14a2cb66");
}

#[test]
fn a_file_of_any_length_has_the_digest_of_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    for length in [0, 1, 1024, 1025, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 77, (5 << 20) + 1023]
    {
        let bytes: Vec<u8> = (0..length).map(|index: usize| (index / 7) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Digest::of_file(&path).unwrap(), Digest::of_bytes(&bytes), "{length}");
    }
}

#[test]
fn what_was_made_again_while_it_was_looked_at_is_not_put_aside() {
    let space = Space::new();
    let store = space.open();
    let blob = publish_file(&store, "glowvenom");
    let path = store.blob_path(&blob.digest);
    assert_eq!(store.quarantine(&path, &blob.digest).unwrap(), None);
    assert!(store.has_blob(&blob.digest));
}

#[test]
fn verify_goes_on_behind_what_cannot_be_read() {
    let space = Space::new();
    let store = space.open();
    let [first, second] = ["moss", "ashroot"].map(|text| publish_file(&store, text).digest);
    // A folder in a file's place, with something in it that is not a file.
    for digest in [first, second] {
        let path = store.blob_path(&digest);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(path.join("pipe")).status().unwrap();
        assert!(pipe.success());
    }
    let sound = publish_file(&store, "glowvenom").digest;
    let verified = space.open().verify(&|_| true).unwrap();
    assert_eq!((verified.blobs, verified.damaged.len(), verified.unreadable.len()), (3, 0, 2));
    assert!(
        verified.unreadable[0].contains("it must be a regular file, found a pipe"),
        "{:?}",
        verified.unreadable
    );
    assert!(store.has_blob(&sound));
}

#[test]
fn who_plans_while_the_cache_is_cleaned_sees_that_it_was() {
    let space = Space::new();
    let (store, other) = (space.open(), space.open());
    let before = store.cleaned_by_now(|_| {}).unwrap();
    assert!(store.cleaned_by_now(|_| {}).unwrap() == before);
    let mut during = None;
    let live = || {
        during = Some(store.cleaned().unwrap());
        Ok::<_, Error>(Live::default())
    };
    other.collect(live, false, |_| {}).unwrap();
    let after = store.cleaned_by_now(|_| {}).unwrap();
    assert!(before != after && during != Some(before) && during != Some(after));
    assert!(!after.may_differ(after) && before.may_differ(after));
    let during = during.unwrap();
    assert!(during.may_differ(during), "who saw it under way twice cannot know what was thrown away between");
}

#[test]
fn everything_has_the_permissions_of_the_cache_folder() {
    let space = Space::new();
    fs::create_dir(space.root()).unwrap();
    fs::set_permissions(space.root(), fs::Permissions::from_mode(0o2770)).unwrap();
    let store = space.open();
    let digest = publish_folder(&store, "{}");
    write(&store, "a", "one");
    store.add_root(space.folder.path(), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let blob = store.blob_path(&digest);
    assert_eq!((mode(&blob), mode(&blob.join("config.json"))), (0o2770, 0o440));
    assert_eq!(mode(blob.parent().unwrap()), 0o2770);
    assert_eq!(mode(&segment(&space)), 0o660);
    let root = fs::read_dir(space.root().join("roots")).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&root), mode(&root.join("folder"))), (0o2770, 0o660));
}

#[test]
fn a_new_folder_is_its_owners_alone_or_the_groups_of_the_one_it_is_in() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o7777;
    create_private(&at("deep/er/cache")).unwrap();
    assert_eq!([mode("deep"), mode("deep/er"), mode("deep/er/cache")], [0o700; 3]);
    for (name, shared, made) in [
        ("open", 0o777, 0o700),
        ("group", 0o770, 0o700),
        ("team", 0o2775, 0o2770),
        ("readers", 0o2755, 0o2700),
    ] {
        fs::create_dir(at(name)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(shared)).unwrap();
        let inner = format!("{name}/a/b");
        create_private(&at(&inner)).unwrap();
        create_private(&at(&inner)).unwrap();
        assert_eq!((mode(name), mode(&inner) & 0o7777), (shared, made), "{name}");
    }
    fs::write(at("file"), "").unwrap();
    assert!(create_private(&at("file")).is_err() && create_private(&at("file/a")).is_err());
}

#[test]
fn a_run_that_cannot_be_seen_is_not_taken_for_deleted() {
    let space = Space::new();
    let project = space.folder.path().join("project");
    let run = project.join("results/quick/1");
    fs::create_dir_all(&run).unwrap();
    // The cache lies elsewhere.
    let store = space.open();
    let root = store.add_root(&run, "2026-11-29T20:00:00Z").unwrap();
    let standing = || store.roots().unwrap()[0].standing();
    assert!(store.roots().unwrap()[0].is_under_way && !space.open().roots().unwrap().is_empty());
    drop(root);
    let seen = store.roots().unwrap();
    assert_eq!((seen[0].is_under_way, seen[0].began.as_str()), (false, "2026-11-29T20:00:00Z"));
    assert_eq!(standing(), RunFolderState::There);
    let moved = space.folder.path().join("moved");
    fs::rename(&project, &moved).unwrap();
    assert_eq!(standing(), RunFolderState::Unseen, "moved, or its disk is not mounted");
    fs::rename(&moved, &project).unwrap();
    fs::remove_dir(&run).unwrap();
    assert_eq!(standing(), RunFolderState::Deleted);
    store.remove_root(&seen[0].id).unwrap();
    assert!(store.roots().unwrap().is_empty() && !store.has_root(&seen[0].id));
}

#[test]
fn a_run_is_under_way_as_long_as_a_process_works_for_it() {
    let space = Space::new();
    let run = space.folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let (leader, worker) = (space.open(), space.open());
    let root = leader.add_root(&run, "").unwrap();
    let served = worker.serve_root(root.id()).unwrap();
    drop((root, leader));
    let is_under_way = || space.open().roots().unwrap()[0].is_under_way;
    assert!(is_under_way(), "it was killed, and a job of its goes on");
    drop((served, worker));
    assert!(!is_under_way());
}

#[test]
fn runs_are_found_again_when_they_are_moved_with_their_cache() {
    let space = Space::new();
    let project = space.folder.path().join("project");
    fs::create_dir_all(project.join("results/quick/1")).unwrap();
    let store = Store::open(&project.join(".triplay")).unwrap();
    store.add_root(&project.join("results/quick/1"), "").unwrap();
    drop(store);
    let moved = space.folder.path().join("moved");
    fs::rename(&project, &moved).unwrap();
    let store = Store::open(&moved.join(".triplay")).unwrap();
    let moved = fs::canonicalize(moved).unwrap();
    assert_eq!(store.roots().unwrap()[0].folder, moved.join("results/quick/1"));
}

#[test]
fn a_run_of_a_project_is_told_from_a_cache_deep_in_the_project() {
    let space = Space::new();
    let run = space.folder.path().join("project/results/quick/1");
    fs::create_dir_all(&run).unwrap();
    let store = Store::open(&space.folder.path().join("project/.cache/triplay")).unwrap();
    let root = store.add_root(&run, "").unwrap();
    let told = fs::read_to_string(store.root().join("roots").join(root.id()).join("folder")).unwrap();
    assert_eq!(told, "../../results/quick/1\n");
    let other = space.folder.path().join("elsewhere/results/quick/1");
    fs::create_dir_all(&other).unwrap();
    let told = store.add_root(&other, "").unwrap();
    let told = fs::read_to_string(store.root().join("roots").join(told.id()).join("folder")).unwrap();
    assert_eq!(told, format!("{}\n", fs::canonicalize(other).unwrap().display()));
}

#[test]
fn a_run_is_recognised_where_it_was_moved_to_and_a_copy_is_none() {
    let space = Space::new();
    let at = |project: &str| space.folder.path().join(project).join("results/quick/1");
    fs::create_dir_all(at("first")).unwrap();
    let store = space.open();
    let id = store.add_root(&at("first"), "").unwrap().id().to_owned();
    let real =
        |project: &str| fs::canonicalize(space.folder.path()).unwrap().join(project).join("results/quick/1");
    let places = || -> Vec<PathBuf> { store.roots().unwrap()[0].places().map(Path::to_owned).collect() };
    let rename = |from: &str, to: &str| {
        fs::rename(space.folder.path().join(from), space.folder.path().join(to)).unwrap();
    };
    let recognise = |project: &str| super::recognise(&space.root(), &id, &at(project)).unwrap();
    fs::create_dir_all(at("copy")).unwrap();
    recognise("copy");
    assert_eq!(places(), [real("first")], "the original is there");
    rename("first", "second");
    recognise("second");
    assert_eq!(places(), [real("second")], "it is the same folder");
    // Now it may have been copied from a disk that is not mounted, or moved to another one.
    rename("second", "away");
    recognise("copy");
    assert_eq!(places(), [real("second"), real("copy")]);
    assert_eq!(store.roots().unwrap()[0].folder, real("copy"));
    fs::remove_dir(at("copy")).unwrap();
    let seen = &store.roots().unwrap()[0];
    assert_eq!((seen.standing(), &seen.folder), (RunFolderState::Unseen, &real("second")));
    rename("away", "second");
    assert_eq!(store.roots().unwrap()[0].standing(), RunFolderState::There);
    fs::remove_dir(at("second")).unwrap();
    assert_eq!(store.roots().unwrap()[0].standing(), RunFolderState::Deleted, "at both places");
    for stranger in ["", ".", "..", "../roots", "other"] {
        super::recognise(&space.root(), stranger, &at("first").join("../../..")).unwrap();
    }
    assert_eq!(fs::read_dir(space.root().join("roots")).unwrap().count(), 1);
}

#[test]
fn outputs_of_a_killed_command_are_kept_within_the_cache_only() {
    let space = Space::new();
    let store = space.open();
    let cache = store.root().to_owned();
    let dead = cache.join("tmp/dead");
    let workspace = |name: &str| {
        let workspace = dead.join(name);
        fs::create_dir_all(workspace.join("c/deep")).unwrap();
        fs::write(workspace.join("c/deep/w"), name).unwrap();
        workspace
    };
    let output = |name: &str, path: &str| PartialOutput { name: name.into(), path: path.into() };
    let list = |workspace: &Path, kept: &Path, output: PartialOutput| {
        let folder = workspace.join("c");
        fs::create_dir_all(kept).unwrap();
        PartialOutputs::list(&cache, workspace, "brew", &folder, kept, vec![output]).unwrap();
    };
    let kept = cache.join("failed/run/brew");
    list(&workspace("a"), &kept, output("m", "deep"));
    list(&workspace("b"), &kept, output("../m", "deep"));
    list(&workspace("d"), &cache.join("blobs"), output("n", "deep"));
    list(&workspace("e"), &kept, output("o", "../../a"));
    list(&workspace("f"), &kept, output("none", "none"));
    store.clear_up().unwrap();
    let line =
        format!("what brew had written of `m` when its process was killed: {}", kept.join("m").display());
    assert_eq!(store.take_kept(), [line]);
    assert_eq!(fs::read_to_string(kept.join("m/w")).unwrap(), "a");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1);
    assert!(!dead.exists() && !cache.join("blobs/n").exists());
}

#[test]
fn a_run_in_a_folder_of_any_name_is_known_and_torn_roots_do_no_harm() {
    let space = Space::new();
    let store = Store::open(&space.root()).unwrap();
    for name in [&b"\xff\xfe"[..], b"line\nend\n", "ä".as_bytes(), b" "] {
        for above in [fs::canonicalize(space.folder.path()).unwrap(), store.root().to_owned()] {
            let run = above.join(OsStr::from_bytes(name));
            fs::create_dir_all(&run).unwrap();
            let root = store.add_root(&run, "").unwrap();
            root.name([&named("a", key("b"), false)]).unwrap();
            let roots = store.roots().unwrap();
            assert_eq!((roots.len(), &roots[0].folder), (1, &run));
            let names = space.root().join("roots").join(root.id());
            let line = fs::read_dir(&names).unwrap().flatten().find(|file| file.path().extension().is_some());
            let mut text = fs::read(line.as_ref().unwrap().path()).unwrap();
            text.extend(b"{\"key\":\"abc");
            fs::write(line.unwrap().path(), text).unwrap();
            assert_eq!(store.named(root.id()).unwrap(), [named("a", key("b"), false)]);
            store.remove_root(root.id()).unwrap();
            assert!(store.roots().unwrap().is_empty());
        }
    }
}

#[test]
fn a_cache_of_another_version_is_left_as_it_is() {
    let space = Space::new();
    fs::create_dir_all(space.root().join("blobs")).unwrap();
    fs::write(space.root().join("records.jsonl"), "{}\n").unwrap();
    let error = Store::open(&space.root()).err().unwrap().to_string();
    assert!(
        error.contains("is a cache of another version of triplay (format 2; this one uses format 3)"),
        "{error}"
    );
    assert_eq!(fs::read_dir(space.root()).unwrap().count(), 2);
}

#[test]
fn a_folder_with_links_to_itself_has_no_digest_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::os::unix::fs::symlink(".", folder.path().join(name)).unwrap();
    }
    let error = Digest::of_input(folder.path(), &Selection::default()).unwrap_err().to_string();
    assert!(
        error.ends_with("it is a symbolic link to a folder that contains it, so following it never ends"),
        "{error}"
    );
}

#[test]
fn what_the_run_has_not_counted_yet_is_dropped_later() {
    let space = Space::new();
    let store = space.open();
    let digest = publish_folder(&store, "{}");
    let pins = store.pin([digest]);
    assert_eq!(store.drop_blobs(&[digest], "").unwrap(), [digest]);
    assert!(store.has_blob(&digest));
    drop(pins);
    assert_eq!(store.drop_blobs(&[digest], "").unwrap(), []);
    assert!(!store.has_blob(&digest));
}
