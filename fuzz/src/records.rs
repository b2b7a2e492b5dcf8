//! Any bytes as the files of a cache that grow by appending, and as those that name its runs. Whole, torn and
//! altered lines of real records are among them.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use arbitrary::Arbitrary;
use serde_json::json;

use engine::{Graph, LoadOptions, Plan, load};
use store::{Digest, Live, Store, is_sealed, seal};

#[derive(Arbitrary, Debug)]
pub struct Input {
    records: Vec<Piece>,
    /// What happens to the records while the cache is open.
    meanwhile: Option<Meanwhile>,
    files: Vec<Piece>,
    /// A file in `roots/`.
    root: Vec<u8>,
    /// The name of a run's folder.
    run: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Meanwhile {
    Appended(Vec<Piece>),
    Shortened(u16),
    Replaced(Vec<Piece>),
}

/// A piece of a file: what is not raw is a line, without its end.
#[derive(Arbitrary, Debug)]
enum Piece {
    Raw(Vec<u8>),
    End,
    /// A real line.
    Whole(Real),
    Cut(Real, u16),
    Altered(Real, u16),
    /// Anything with a right checksum.
    Sealed(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Real {
    /// Which of the keys of the graph, or another.
    key: u8,
    outputs: Vec<(u8, u64)>,
    seconds: f64,
}

fn line(real: &Real) -> Vec<u8> {
    let outputs: Vec<_> = real
        .outputs
        .iter()
        .map(|(digest, bytes)| json!({ "digest": Digest::of_bytes(&[*digest]), "bytes": bytes }))
        .collect();
    let key = key(real.key);
    let record = json!({ "key": key, "seconds": real.seconds, "outputs": outputs, "manifest": { "x": 1 } });
    seal(&record).expect("a line").into_bytes()
}

/// A remembered digest, which is wrong.
fn file_line(real: &Real) -> Vec<u8> {
    let there = fs::metadata(&space().large).expect("the large file");
    let modified = i128::from(there.mtime()) * 1_000_000_000 + i128::from(there.mtime_nsec());
    let state = json!({ "size": there.len(), "modified": modified as u64, "device": there.dev(), "inode": there.ino() });
    let line = json!({ "path": space().large, "state": state, "digest": Digest::of_bytes(&[real.key]) });
    seal(&line).expect("a line").into_bytes()
}

fn text(pieces: &[Piece], line: impl Fn(&Real) -> Vec<u8>) -> Vec<u8> {
    let mut text = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Raw(bytes) => text.extend(bytes),
            Piece::End => text.push(b'\n'),
            Piece::Whole(real) => text.extend(line(real)),
            Piece::Cut(real, at) => {
                let line = line(real);
                text.extend(&line[..usize::from(*at) % line.len()]);
            }
            Piece::Altered(real, bit) => {
                let mut line = line(real);
                let bit = usize::from(*bit) % (line.len() * 8);
                line[bit / 8] ^= 1 << (bit % 8);
                text.extend(line);
            }
            Piece::Sealed(content) => {
                let check = blake3::hash(content).to_hex();
                text.extend(content);
                text.extend(format!(",\"check\":\"{}\"}}", &check[..32]).bytes());
            }
        }
    }
    text
}

struct Space {
    folder: PathBuf,
    /// A file whose digest is remembered.
    large: PathBuf,
    digest: Digest,
    graph: Graph,
    keys: Vec<Digest>,
}

/// What the nodes of the pipeline make, if they make what they should: the digest `0` of a [`Real`].
const BLOB: &[u8] = &[0];

const PIPELINE: &str = "
pipeline: test
stages:
  a: { kind: say, text: x }
  b: { kind: join, parts: [a] }
  c: { kind: join, parts: [b, a] }
  l:
    repeat: 2
    carry: { t: a }
    stages: { m: { kind: join, parts: [t, b.log] } }
    next: { t: m }
  d: { kind: say, text: y }
";

fn space() -> &'static Space {
    static SPACE: OnceLock<Space> = OnceLock::new();
    SPACE.get_or_init(|| {
        let folder = crate::scratch();
        let large = folder.join("large");
        fs::write(&large, vec![7; (1 << 20) + 1]).expect("the large file is written");
        let file = File::options().write(true).open(&large).expect("the large file");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("it is old");
        let pipeline = folder.join("p.yaml");
        fs::write(&pipeline, PIPELINE).expect("the pipeline is written");
        let graph = load(&pipeline, &LoadOptions::default(), &crate::pipeline::registry());
        let graph = graph.unwrap_or_else(|errors| panic!("{errors}"));
        let store = store(&folder.join("cache"));
        let keys = keys(&graph, &store);
        let digest = Digest::of_file(&large).expect("the large file");
        Space { folder, large, digest, graph, keys }
    })
}

fn key(index: u8) -> Digest {
    space().keys.get(usize::from(index)).copied().unwrap_or_else(|| Digest::of_bytes(&[index]))
}

/// The keys of a graph whose outputs all are the blob.
fn keys(graph: &Graph, store: &Store) -> Vec<Digest> {
    loop {
        let plan = Plan::new(graph, store);
        let open = plan.slots.iter().zip(&graph.nodes).find(|(slot, _)| slot.key.is_some() && !slot.recorded);
        let Some((slot, node)) = open else { return plan.slots.iter().filter_map(|slot| slot.key).collect() };
        let outputs =
            vec![json!({ "digest": Digest::of_bytes(BLOB), "bytes": 1 }); node.call.outputs().len()];
        let record = json!({ "key": slot.key, "seconds": 1.0, "outputs": outputs, "manifest": {} });
        store.write_record(&record).expect("a record is written");
        store.refresh().expect("it is read");
    }
}

/// What a whole record of each key should be: the last line that begins as one of it, unless that is damaged.
fn expected(text: &[u8]) -> BTreeMap<Digest, Option<Vec<u8>>> {
    let mut expected = BTreeMap::new();
    let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { return expected };
    for line in text[..end].split(|byte| *byte == b'\n') {
        let hex = line.strip_prefix(b"{\"key\":\"").and_then(|rest| rest.get(..64));
        if let Some(key) = hex.and_then(Digest::from_hex) {
            expected.insert(key, is_sealed(line).then(|| line.to_vec()));
        }
    }
    expected
}

fn sealed(text: &[u8]) -> (Vec<&[u8]>, usize) {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (whole, damaged): (Vec<&[u8]>, Vec<&[u8]>) = lines.partition(|line| is_sealed(line));
    (whole, damaged.len())
}

fn hold(store: &Store, expected: &BTreeMap<Digest, Option<Vec<u8>>>) {
    for (key, line) in expected {
        let found = store.record(key, |line| Some(line.to_vec()));
        assert_eq!(found, *line, "the record of {key}");
    }
}

fn store(cache: &Path) -> Store {
    Store::open(cache).unwrap_or_else(|error| panic!("{error}"))
}

pub fn check(input: &Input) {
    let cache = space().folder.join("cache");
    fs::remove_dir_all(&cache).expect("the last cache is removed");
    fs::create_dir_all(&cache).expect("a cache");
    let blob = store(&cache).blob_path(&Digest::of_bytes(BLOB));
    fs::create_dir_all(blob.parent().expect("a shelf")).expect("a shelf");
    fs::write(blob, BLOB).expect("the blob is written");
    let file = cache.join("records.jsonl");
    fs::write(&file, text(&input.records, line)).expect("records are written");
    fs::write(cache.join("files.jsonl"), text(&input.files, file_line)).expect("files are written");

    let first = store(&cache);
    hold(&first, &expected(&read(&file)));
    plan(&first);
    meanwhile(input, &file);
    first.refresh().expect("the records are read again");
    hold(&first, &expected(&read(&file)));
    plan(&first);
    appended(&first, &cache, &file);
    remembered(&cache);
    roots(input, &first, &cache);
    verified(&first, &cache, &file);
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).expect("records are read")
}

/// The planner takes records as they come.
fn plan(store: &Store) {
    let graph = &space().graph;
    let plan = Plan::new(graph, store);
    for id in graph.ids() {
        plan.report(id, true);
        plan.manifest(id);
    }
    plan.digest_of_all();
}

fn meanwhile(input: &Input, file: &Path) {
    let write = || match &input.meanwhile {
        None => Ok(()),
        Some(Meanwhile::Appended(pieces)) => fs::write(file, [read(file), text(pieces, line)].concat()),
        Some(Meanwhile::Shortened(at)) => {
            let there = File::options().write(true).open(file)?;
            there.set_len(there.metadata()?.len().min(u64::from(*at)))
        }
        Some(Meanwhile::Replaced(pieces)) => {
            let beside = file.with_extension("new");
            fs::write(&beside, text(pieces, line))?;
            fs::rename(beside, file)
        }
    };
    write().expect("the records change");
}

/// A record that is appended can be read, whatever stood there before, and nothing else is lost.
fn appended(first: &Store, cache: &Path, file: &Path) {
    let before = read(file);
    let whole: Vec<Vec<u8>> = sealed(&before).0.iter().map(|line| line.to_vec()).collect();
    let new = Digest::of_bytes(b"new");
    let record = json!({ "key": new, "seconds": 1.0, "outputs": [], "manifest": {} });
    first.write_record(&record).expect("a record is written");
    first.refresh().expect("it is read");
    let line = seal(&record).expect("a line").into_bytes();
    for store in [first, &store(cache)] {
        assert_eq!(store.record(&new, |line| Some(line.to_vec())).as_ref(), Some(&line));
        hold(store, &expected(&read(file)));
    }
    let after = read(file);
    let (after, _) = sealed(&after);
    assert_eq!(after.len(), whole.len() + 1);
    assert!(after.iter().zip(whole.iter().chain([&line])).all(|(after, before)| after == before));
}

/// A file's digest is right, unless a whole line says another; and it is remembered.
fn remembered(cache: &Path) {
    let Space { large, digest, .. } = space();
    let file = cache.join("files.jsonl");
    let before = read(&file);
    let told = sealed(&before).0.len();
    let found = store(cache).digest_of(large, false).expect("the large file is hashed");
    if told == 0 {
        assert_eq!(found, *digest);
        let after = read(&file);
        assert_eq!(sealed(&after).0.len(), 1, "it is remembered");
        assert_eq!(store(cache).digest_of(large, false).expect("it is known"), *digest);
        assert_eq!(read(&file), after, "and was not hashed again");
    }
    assert_eq!(store(cache).digest_of(large, true).expect("the large file is hashed"), *digest);
}

/// A run that uses the cache is known to do so, whatever else is in `roots/` and whatever its folder is called.
fn roots(input: &Input, first: &Store, cache: &Path) {
    let file = cache.join("roots/other");
    fs::write(&file, &input.root).expect("a root is written");
    let mut name: Vec<u8> = input.run.iter().filter(|byte| ![0, b'/'].contains(byte)).copied().collect();
    name.truncate(200);
    let runs = cache.with_file_name("runs");
    let _ = fs::remove_dir_all(&runs);
    for above in [&runs, &cache.join("within")] {
        let run = above.join(OsStr::from_bytes(&name));
        if name.is_empty() || name == b"." || name == b".." {
            continue;
        }
        fs::create_dir_all(&run).expect("a run's folder");
        first.add_root(&run).expect("a root is added");
        let roots = first.roots().unwrap_or_else(|error| panic!("{error}"));
        assert!(roots.contains(&run), "{run:?} is in {roots:?}");
        first.forget_roots(&[run.clone()]).expect("a root is forgotten");
        let roots = first.roots().unwrap_or_else(|error| panic!("{error}"));
        assert!(!roots.contains(&run), "{run:?} is not in {roots:?}");
        first.add_root(&run).expect("a root is added");
    }
}

/// After a look through everything nothing is damaged and nothing whole is gone; what is live survives cleaning.
fn verified(first: &Store, cache: &Path, file: &Path) {
    let before = read(file);
    let (whole, damaged) = sealed(&before);
    let usage = first.usage().expect("the cache is counted");
    assert!(usage.records <= whole.len());
    let verified = first.verify().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((verified.records, verified.damaged_records), (whole.len(), damaged));
    assert!(verified.damaged.is_empty());
    let again = store(cache).verify().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((again.records, again.damaged_records), (whole.len(), 0));
    let after = read(file);
    assert_eq!(sealed(&after), (whole, 0));
    let new = Digest::of_bytes(b"new");
    let live = Live { blobs: HashSet::new(), records: HashSet::from([new]) };
    let live = || Ok::<Live, Error>(live);
    first.collect(live, false, || {}).unwrap_or_else(|Error(error)| panic!("{error}"));
    for store in [first, &store(cache)] {
        assert!(store.record(&new, |_| Some(())).is_some());
    }
    let after = read(file);
    assert_eq!((sealed(&after).0.len(), sealed(&after).1), (1, 0));
}

struct Error(store::Error);

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error(error)
    }
}
