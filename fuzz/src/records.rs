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

use engine::{Graph, LoadOptions, NodeId, Plan, State, load};
use store::{Claimed, Digest, Live, RunFolderState, Selection, Store, is_sealed, seal};

#[derive(Arbitrary, Debug)]
pub struct Input {
    /// What a process has written that is gone.
    records: Vec<Piece>,
    /// What it adds while the cache is open.
    appended: Vec<Piece>,
    files: Vec<Piece>,
    /// Files in `roots/ID/`.
    folder: Vec<u8>,
    names: Vec<u8>,
    /// What a session's file says.
    session: Vec<u8>,
    /// The name of a run's folder.
    run: Vec<u8>,
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
        .map(|(digest, bytes)| json!({ "name": "out", "digest": Digest::of_bytes(&[*digest]), "bytes": bytes }))
        .collect();
    let key = key(real.key);
    let record = json!({ "key": key, "seconds": real.seconds, "outputs": outputs, "job": { "x": 1 } });
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
        let is_open = |id: &NodeId| plan.key(*id).is_some() && !matches!(plan.state(*id), State::Done { .. });
        let Some(id) = graph.ids().find(|id| is_open(id) && store.record(&key_of(&plan, *id), |_| Some(())).is_none())
        else {
            return graph.ids().filter_map(|id| plan.key(id)).collect();
        };
        let outputs: Vec<_> = graph.node(id).call.outputs().iter().map(|output| &output.name).collect();
        let outputs: Vec<_> = outputs
            .iter()
            .map(|name| json!({ "name": name, "digest": Digest::of_bytes(BLOB), "bytes": 1 }))
            .collect();
        let record = json!({ "seconds": 1.0, "outputs": outputs, "job": {} });
        store.write_record(&key_of(&plan, id), &record).expect("a record is written");
        store.refresh().expect("it is read");
    }
}

fn key_of(plan: &Plan, id: NodeId) -> Digest {
    plan.key(id).expect("a key")
}

/// What the whole record of each key should be: of those that know of most before them the one whose beginning comes last
/// in the order of bytes.
fn expected(texts: &[&[u8]]) -> BTreeMap<Digest, Vec<u8>> {
    let mut expected: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    for line in texts.iter().flat_map(|text| text.split(|byte| *byte == b'\n')) {
        let hex = line.strip_prefix(b"{\"key\":\"").and_then(|rest| rest.get(..64));
        if let Some(key) = hex.and_then(Digest::from_hex).filter(|_| is_sealed(line))
            && expected.get(&key).is_none_or(|known| (nth(known), head(known)) < (nth(line), head(line)))
        {
            expected.insert(key, line.to_vec());
        }
    }
    expected
}

fn head(line: &[u8]) -> &[u8] {
    let body = b",\"job\":";
    &line[..line.windows(body.len()).position(|window| window == body).unwrap_or(line.len())]
}

fn nth(line: &[u8]) -> u32 {
    let rest = line.get(73..).and_then(|rest| rest.strip_prefix(b"\",\"nth\":".as_slice())).unwrap_or_default();
    let digits: String = rest.iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    digits.parse().unwrap_or(0)
}

fn hold(store: &Store, expected: &BTreeMap<Digest, Vec<u8>>) {
    for (key, line) in expected {
        let found = store.whole_record(key).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.as_ref(), Some(line), "the record of {key}");
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
    let open = cache.join("records/gone.open.jsonl");
    let mut before = text(&input.records, line);
    fs::write(&open, &before).expect("records are written");
    fs::write(cache.join("files.jsonl"), text(&input.files, file_line)).expect("files are written");
    fs::write(cache.join("sessions/gone"), &input.session).expect("a session is written");
    fs::hard_link(cache.join("sessions/gone"), cache.join("claims/what")).expect("a claim is written");

    let first = store(&cache);
    // A line without an end may still get one.
    hold(&first, &expected(&[whole(&before)]));
    plan(&first);
    before.extend(text(&input.appended, line));
    fs::write(&open, &before).expect("records are added");
    first.refresh().expect("the records are read again");
    hold(&first, &expected(&[whole(&before)]));
    plan(&first);
    // With this the process that is gone is known to be.
    first.begin_session().unwrap_or_else(|error| panic!("{error}"));
    assert!(!open.exists() && !cache.join("sessions/gone").exists());
    assert!(matches!(first.claim("what"), Ok(Claimed::Mine(_))), "nobody has it");
    let new = Digest::of_bytes(b"new");
    let record = json!({ "seconds": 1.0, "outputs": [], "job": {} });
    first.write_record(&new, &record).expect("a record is written");
    first.refresh().expect("the records are read again");
    for store in [&first, &store(&cache)] {
        hold(store, &expected(&[&before]));
        assert!(store.record(&new, |_| Some(())).is_some());
    }
    remembered(&cache);
    roots(input, &first, &cache);
    drop(first);
    verified(&cache, &before);
}

/// Up to the end of the last line.
fn whole(text: &[u8]) -> &[u8] {
    &text[..text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)]
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).expect("a file is read")
}

fn sealed(text: &[u8]) -> (Vec<&[u8]>, usize) {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (whole, damaged): (Vec<&[u8]>, Vec<&[u8]>) = lines.partition(|line| is_sealed(line));
    (whole, damaged.len())
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

/// A file's digest is right, unless a whole line says another; and it is remembered.
fn remembered(cache: &Path) {
    let Space { large, digest, .. } = space();
    let file = cache.join("files.jsonl");
    let before = read(&file);
    let told = sealed(&before).0.len();
    let found = store(cache).digest_of(large, &Selection::default(), false).expect("the large file is hashed");
    if told == 0 {
        assert_eq!(found, *digest);
        let after = read(&file);
        assert_eq!(sealed(&after).0.len(), 1, "it is remembered");
        assert_eq!(store(cache).digest_of(large, &Selection::default(), false).expect("it is known"), *digest);
        assert_eq!(read(&file), after, "and was not hashed again");
    }
    assert_eq!(store(cache).digest_of(large, &Selection::default(), true).expect("the large file is hashed"), *digest);
}

/// A run that uses the cache is known to do so, whatever else is in `roots/` and whatever its folder is called.
fn roots(input: &Input, first: &Store, cache: &Path) {
    let other = cache.join("roots/other");
    fs::create_dir(&other).expect("a root");
    fs::write(other.join("folder"), &input.folder).expect("a root is written");
    fs::write(other.join("a.jsonl"), &input.names).expect("a root is written");
    fs::write(cache.join("roots/file"), &input.names).expect("what is no root is written");
    first.named("other").unwrap_or_else(|error| panic!("{error}"));
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
        let root = first.add_root(&run, "").expect("a root is added");
        let known = || first.roots().unwrap_or_else(|error| panic!("{error}"));
        let found = known().into_iter().find(|known| known.id == root.id()).expect("the root is known");
        assert_eq!((found.folder.as_path(), found.standing()), (run.as_path(), RunFolderState::There));
        first.remove_root(root.id()).expect("a root is let go of");
        assert!(known().iter().all(|known| known.id != root.id()));
    }
}

/// After a look through everything nothing is damaged and nothing whole is gone; what is live survives cleaning.
fn verified(cache: &Path, before: &[u8]) {
    let (lines, damaged) = sealed(before);
    let keyed = lines.iter().filter(|line| line.starts_with(b"{\"key\":\"")).count();
    let expected = expected(&[before]);
    let usage = store(cache).usage().expect("the cache is counted");
    assert_eq!(usage.records, expected.len() + 1);
    let verified = store(cache).verify(&|_| true).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(verified.records, expected.len() + 1);
    assert!(verified.damaged_records >= damaged && verified.damaged_records <= damaged + lines.len() - keyed + keyed);
    assert!(verified.damaged.is_empty() && verified.unreadable.is_empty());
    let again = store(cache).verify(&|_| true).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((again.records, again.damaged_records), (expected.len() + 1, 0));
    hold(&store(cache), &expected);
    let new = Digest::of_bytes(b"new");
    let live = Live { blobs: HashSet::new(), records: HashSet::from([new]) };
    let live = || Ok::<Live, Error>(live);
    store(cache).collect(live, false, |_| {}).unwrap_or_else(|Error(error)| panic!("{error}"));
    let left = store(cache);
    assert!(left.record(&new, |_| Some(())).is_some());
    assert_eq!(left.usage().expect("the cache is counted").records, 1);
}

struct Error(store::Error);

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error(error)
    }
}
