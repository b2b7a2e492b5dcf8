//! What the engine costs beyond the work itself, side by side with build tools that are known to be light (ninja), or
//! known at all (Snakemake), with `b3sum` and with `cp`. Contenders take turns, so that what else the machine does hits all.
//!
//! `cargo bench --bench engine`; after `--`, any of `noop cold hash publish get` chooses parts. All of it takes a quarter of an
//! hour and 5 GiB of disk below the target folder, most of it to fill caches with 100,000 nodes.
//!
//! `BENCH_DIR` names the folder to work in, such as one on a file system with reflinks for `get`.
//!
//! Peers are used where they are installed, on the `PATH` or in `.venv/bin`:
//! `python3 -m venv .venv && .venv/bin/pip install -r benches/peers/requirements.txt` (of which this bench needs
//! `ninja` and `snakemake`), and `cargo install b3sum`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use rand::RngCore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::{TempDir, tempdir_in};
use triplay::engine::progress::{Outcome, Progress};
use triplay::engine::{
    ArtifactType, Context, Input, Kind, LoadOptions, Memory, Output, Plan, Registry, RunOptions, Stage, load,
    run,
};
use triplay::store::{Seed, Selection, Store};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PIP: &str = ".venv/bin/pip install -r benches/peers/requirements.txt";

fn main() -> anyhow::Result<()> {
    let asked: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) =
        asked.iter().find(|part| !["noop", "cold", "hash", "publish", "get"].contains(&part.as_str()))
    {
        bail!("there is no part `{unknown}`: noop, cold, hash, publish, get");
    }
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    if is_asked("noop") {
        no_op(10_000, 21)?;
        no_op(100_000, 9)?;
    }
    if is_asked("cold") {
        cold(Shape::Chain)?;
        cold(Shape::Wide)?;
    }
    if is_asked("hash") {
        hash()?;
    }
    if is_asked("publish") {
        publish()?;
    }
    if is_asked("get") {
        get()?;
    }
    Ok(())
}

/// What one run of a contender cost, in seconds.
struct Cost {
    wall: f64,
    /// Of all processors together, in user and system mode, of the process and those it started.
    processor: f64,
}

struct Contender<'a> {
    who: &'a str,
    /// How many nodes, or bytes.
    amount: f64,
    /// MiB at the most, where that is of interest.
    memory: Option<f64>,
    run: Box<dyn FnMut() -> anyhow::Result<Cost> + 'a>,
}

/// Contenders for one kind of work, and what is to be said of those that are not there.
struct Contest<'a> {
    title: String,
    /// What the column of rates says, from seconds and amount.
    rate: (&'static str, fn(f64, f64) -> f64),
    contenders: Vec<Contender<'a>>,
    missing: Vec<String>,
}

const MICROSECONDS: (&str, fn(f64, f64) -> f64) = ("µs a node", |seconds, nodes| seconds / nodes * 1e6);
const MILLISECONDS: (&str, fn(f64, f64) -> f64) = ("ms each", |seconds, times| seconds / times * 1e3);
const GIGABYTES: (&str, fn(f64, f64) -> f64) = ("GB/s", |seconds, bytes| bytes / seconds / 1e9);

impl<'a> Contest<'a> {
    fn new(title: String, rate: (&'static str, fn(f64, f64) -> f64)) -> Self {
        Contest { title, rate, contenders: Vec::new(), missing: Vec::new() }
    }

    fn add(&mut self, who: &'a str, amount: f64, run: impl FnMut() -> anyhow::Result<Cost> + 'a) {
        self.contenders.push(Contender { who, amount, memory: None, run: Box::new(run) });
    }

    /// Adds a process that is run in a folder. How much memory it takes is seen in a run of its own.
    fn add_process(
        &mut self,
        who: &'a str,
        amount: f64,
        folder: &'a Path,
        line: &'a [&str],
    ) -> anyhow::Result<()> {
        let memory = Some(peak_memory(&mut command(folder, line))?);
        let run = Box::new(move || timed(|| finish(&mut command(folder, line))));
        self.contenders.push(Contender { who, amount, memory, run });
        Ok(())
    }

    fn miss(&mut self, who: &str, install: &str) {
        self.missing.push(format!("{who:26} is not installed: {install}"));
    }

    /// Runs all in turns, and prints medians (of the processor the mean, since its clock is coarse). The last column is
    /// how long each takes for the same amount, beside the first.
    fn hold(mut self, runs: usize) -> anyhow::Result<()> {
        let mut costs: Vec<Vec<Cost>> = self.contenders.iter().map(|_| Vec::new()).collect();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        for _ in 0..runs {
            for (contender, costs) in self.contenders.iter_mut().zip(&mut costs) {
                costs.push((contender.run)().with_context(|| contender.who.to_owned())?);
            }
        }
        let load = load.split(' ').next().unwrap_or("?");
        println!("\n{} (median of {runs}; load {load} before)", self.title);
        let (unit, rate) = self.rate;
        println!("{:26} {:>9} {unit:>10} {:>12} {:>8} {:>6}", "", "ms", "processor ms", "MiB", "×");
        let mut first = None;
        for (contender, costs) in self.contenders.iter().zip(&mut costs) {
            costs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
            let wall = costs[runs / 2].wall;
            let processor = costs.iter().map(|cost| cost.processor).sum::<f64>() / runs as f64;
            let ratio = wall / contender.amount / *first.get_or_insert(wall / contender.amount);
            let memory = contender.memory.map_or("".into(), |memory| format!("{memory:.0}"));
            let rate = rate(wall, contender.amount);
            let (who, wall, processor) = (contender.who, wall * 1e3, processor * 1e3);
            println!("{who:26} {wall:9.1} {rate:10.2} {processor:12.1} {memory:>8} {ratio:6.2}");
        }
        self.missing.iter().for_each(|line| println!("{line}"));
        Ok(())
    }
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Cost> {
    let (begun, before) = (Instant::now(), processor_seconds());
    work()?;
    Ok(Cost { wall: begun.elapsed().as_secs_f64(), processor: processor_seconds() - before })
}

/// What this process and those it waited for have taken of the processors, in hundredths.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses; fields 14 to 17 of `proc_pid_stat(5)`.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(4);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Runs a process; MiB that it held at the most, as far as was seen while it ran.
fn peak_memory(command: &mut Command) -> anyhow::Result<f64> {
    let mut child = command.spawn()?;
    let path = format!("/proc/{}/status", child.id());
    let mut kibibytes = f64::NAN;
    while child.try_wait()?.is_none() {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kibibytes = now.unwrap_or(kibibytes);
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(kibibytes / 1024.0)
}

fn command(folder: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).current_dir(folder).env_remove("TRIPLAY_CACHE");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn finish(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Where a program is installed.
fn installed(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin");
    let mut places = std::env::split_paths(&path).chain([here]).map(|folder| folder.join(name));
    places.find(|place| place.is_file()).map(|place| place.to_string_lossy().into_owned())
}

/// A folder in `BENCH_DIR`, or on the disk where cargo builds; `/tmp` may be memory.
fn folder() -> anyhow::Result<TempDir> {
    let place = std::env::var_os("BENCH_DIR");
    Ok(tempdir_in(place.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()))?)
}

/// How nodes depend on each other: each on the one before, or all on the same.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Chain,
    Wide,
}

const NINJA: &[&str] = &["-f", "build.ninja"];

/// Writes what makes ninja touch so many files.
fn write_ninja(folder: &Path, nodes: usize, shape: Shape) -> anyhow::Result<()> {
    let mut text = String::from("rule touch\n  command = touch $out\n");
    for node in 1..=nodes {
        let source = if shape == Shape::Chain { node - 1 } else { 0 };
        writeln!(text, "build {node}: touch {source}")?;
    }
    fs::write(folder.join("0"), "")?;
    Ok(fs::write(folder.join("build.ninja"), text)?)
}

/// Writes what makes Snakemake touch so many files, side by side.
fn write_snakemake(folder: &Path, nodes: usize) -> anyhow::Result<()> {
    let text = format!(
        "rule all:\n    input: expand(\"{{node}}.out\", node=range({nodes}))\n\n\
         rule touch:\n    output: \"{{node}}.out\"\n    shell: \"touch {{output}}\"\n"
    );
    Ok(fs::write(folder.join("Snakefile"), text)?)
}

/// The whole process where there is nothing to do. The pipeline is of the cheapest stages that there are.
fn no_op(nodes: usize, runs: usize) -> anyhow::Result<()> {
    let (ours, ninjas, snakes) = (folder()?, folder()?, folder()?);
    let triplay = [env!("CARGO_BIN_EXE_triplay"), "pipeline", "run", "pipeline.yaml"];
    let pipeline = format!(
        "pipeline: noop\nstages:\n  \
         world: {{ kind: sandbox, sft: 1, sft_others: 1, benchmark: 3, pairs: 3, benign: 1 }}\n  loop:\n    \
         repeat: {}\n    carry: {{ pairs: world.pairs }}\n    \
         stages: {{ labels: {{ kind: vote, data: pairs, world: world.world, prompts: 1 }} }}\n    \
         next: {{ pairs: world.pairs }}\n",
        nodes - 1
    );
    fs::write(ours.path().join("pipeline.yaml"), pipeline)?;
    finish(&mut command(ours.path(), &triplay))?;
    let ninja = installed("ninja");
    let ninja = ninja.as_ref().map(|ninja| [ninja, NINJA[0], NINJA[1]]);
    let snakemake = installed("snakemake");
    let snakemake = snakemake.as_ref().map(|snakemake| [snakemake, "--cores", "2"]);

    let mut contest = Contest::new(format!("no-op of {nodes} nodes, the whole process"), MICROSECONDS);
    contest.add_process("triplay", nodes as f64, ours.path(), &triplay)?;
    match &ninja {
        None => contest.miss("ninja", PIP),
        Some(ninja) => {
            write_ninja(ninjas.path(), nodes, Shape::Wide)?;
            finish(&mut command(ninjas.path(), ninja))?;
            contest.add_process("ninja", nodes as f64, ninjas.path(), ninja)?;
        }
    }
    match &snakemake {
        None => contest.miss("Snakemake", PIP),
        Some(snakemake) => {
            // It would take minutes to make them itself.
            (0..1000).try_for_each(|node| fs::write(snakes.path().join(format!("{node}.out")), ""))?;
            write_snakemake(snakes.path(), 1000)?;
            contest.add_process("Snakemake, 1000 jobs", 1000.0, snakes.path(), snakemake)?;
        }
    }
    contest.hold(runs)
}

/// Nodes that do next to nothing, each recorded so that it outlives a loss of power. (The others do not see to that.)
fn cold(shape: Shape) -> anyhow::Result<()> {
    const NODES: usize = 10_000;
    let (what, next) = match shape {
        Shape::Chain => ("one after the other", "next"),
        Shape::Wide => ("independent of each other", "begin"),
    };
    let pipeline = format!(
        "pipeline: cold\nstages:\n  begin: {{ kind: begin }}\n  loop:\n    repeat: {NODES}\n    \
         carry: {{ text: begin }}\n    stages: {{ next: {{ kind: next, text: text }} }}\n    next: {{ text: {next} }}\n"
    );
    let mut contest = Contest::new(format!("{NODES} trivial nodes, {what}, from nothing"), MICROSECONDS);
    contest.add("triplay, in-process", NODES as f64, || {
        let folder = folder()?;
        let file = folder.path().join("pipeline.yaml");
        fs::write(&file, &pipeline)?;
        timed(|| run_in_process(&file, &folder.path().join("cache")))
    });
    match installed("ninja") {
        None => contest.miss("ninja", PIP),
        Some(ninja) => contest.add("ninja", NODES as f64, move || {
            let folder = folder()?;
            write_ninja(folder.path(), NODES, shape)?;
            timed(|| finish(&mut command(folder.path(), &[&ninja, NINJA[0], NINJA[1]])))
        }),
    }
    match installed("snakemake") {
        _ if shape == Shape::Chain => {}
        None => contest.miss("Snakemake", PIP),
        Some(snakemake) => contest.add("Snakemake, 200 jobs", 200.0, move || {
            let folder = folder()?;
            write_snakemake(folder.path(), 200)?;
            timed(|| finish(&mut command(folder.path(), &[&snakemake, "--cores", "2"])))
        }),
    }
    contest.hold(3)
}

struct Text;
impl ArtifactType for Text {
    const ACCEPTS: &'static [&'static str] = &["text"];
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Begin {}

impl Stage for Begin {
    const KIND: Kind = Kind {
        name: "begin",
        version: 1,
        outputs: &[Output::new("text", "text")],
        numerics: false,
        draws: false,
        excluded_from_key: &[],
    };

    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        Ok(fs::write(context.output("text"), "0")?)
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Next {
    text: Input<Text>,
}

impl Stage for Next {
    const KIND: Kind = Kind {
        name: "next",
        version: 1,
        outputs: &[Output::new("text", "text")],
        numerics: false,
        draws: true,
        excluded_from_key: &[],
    };

    /// Adds the round, so that no two nodes make the same.
    fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let number: u64 = fs::read_to_string(&context.input(&self.text)?.path)?.parse()?;
        let round: u64 = context.position().iter().map(|round| u64::from(*round)).sum();
        Ok(fs::write(context.output("text"), (number + round).to_string())?)
    }
}

struct Silent;
impl Progress for Silent {
    fn run_started(&self, _: &str, _: usize) {}
    fn node_started(&self, _: &str, _: &str, _: bool) {}
    fn node_progress(&self, _: &str, _: u64, _: u64, _: &str) {}
    fn nodes_cached(&self, _: usize) {}
    fn node_finished(&self, _: &str, _: Outcome, _: f64) {}
    fn message(&self, _: &str) {}
    fn run_finished(&self) {}
}

fn run_in_process(file: &Path, cache: &Path) -> anyhow::Result<()> {
    let registry = Registry::default().with::<Begin>().with::<Next>();
    let graph = load(file, &LoadOptions::default(), &registry)?;
    let store = Store::open(cache)?;
    let root = store.add_root(file.parent().context("the pipeline's folder")?, "")?;
    let (cleaned, options) = (store.cleaned()?, RunOptions::default());
    let plan = Plan::new(&graph, &store).hold(cleaned, &root, &|_| {})?;
    let report = run(plan, &root, &store, &Memory::new(1 << 20), &options, &Silent, &mut |_| Ok(()));
    ensure!(report.ran == graph.nodes.len(), "ran {} of {}", report.ran, graph.nodes.len());
    Ok(())
}

/// A large file that a pipeline takes in.
fn hash() -> anyhow::Result<()> {
    let folder = folder()?;
    let (file, bytes) = write_large(folder.path(), 4 << 10)?;
    let cache = folder.path().join("cache");
    let digest = |paranoid: bool| {
        timed(|| {
            Store::open(&cache)?.digest_of(&file, &Selection::default(), paranoid)?;
            Ok(())
        })
    };
    let title = format!("{:.1} GiB hashed, in the page cache", bytes / (1u64 << 30) as f64);
    let mut contest = Contest::new(title, GIGABYTES);
    contest.add("triplay", bytes, || {
        let _ = fs::remove_dir_all(&cache);
        digest(false)
    });
    contest.add("triplay, --paranoid", bytes, || digest(true));
    match installed("b3sum") {
        None => contest.miss("b3sum", "cargo install b3sum"),
        Some(b3sum) => contest.add("b3sum", bytes, {
            let (folder, file) = (folder.path(), file.to_string_lossy().into_owned());
            move || timed(|| finish(&mut command(folder, &[&b3sum, &file])))
        }),
    }
    contest.add("triplay, remembered", bytes, || digest(false));
    contest.hold(5)
}

/// A training step's checkpoint: an adapter of 16 MiB beside its base of 2 GiB, which is in the cache, and alone.
fn publish() -> anyhow::Result<()> {
    let folder = folder()?;
    let store = Store::open(&folder.path().join("cache"))?;
    let (large, _) = write_large(folder.path(), 2 << 10)?;
    let base = store.workspace()?;
    fs::create_dir(base.path().join("model"))?;
    fs::rename(large, base.path().join("model/base"))?;
    let frozen = store.freeze(&base.path().join("model"))?;
    store.place(&frozen)?;
    store.sync(&frozen.blob().digest)?;
    let base = store.blob_path(&frozen.blob().digest).join("base");
    let mut random = Seed::from_u64(2).stream("adapter");
    let mut adapter = vec![0; 16 << 20];
    let mut step = |with_base: bool| {
        random.fill_bytes(&mut adapter[..8]);
        let work = store.workspace()?;
        let model = work.path().join("model");
        fs::create_dir(&model)?;
        fs::write(model.join("adapter"), &adapter)?;
        if with_base {
            fs::hard_link(&base, model.join("base"))?;
        }
        timed(|| {
            let frozen = store.freeze(&model)?;
            store.place(&frozen)?;
            Ok(store.sync(&frozen.blob().digest)?)
        })
    };
    let step = std::cell::RefCell::new(&mut step);
    let mut contest = Contest::new("a checkpoint published, made durable".into(), MILLISECONDS);
    contest.add("adapter alone", 1.0, || (step.borrow_mut())(false));
    contest.add("adapter and base of 2 GiB", 1.0, || (step.borrow_mut())(true));
    contest.hold(21)
}

/// A folder of 4 GiB like that of a model, with eight large files and 512 small ones, taken out of the cache: copied, and linked.
fn get() -> anyhow::Result<()> {
    let folder = folder()?;
    let space = folder.path();
    let pipeline = "pipeline: get\nstages:\n  train:\n    kind: exec\n    command: >-\n      mkdir -p model/parts;\n      \
                    for n in 1 2 3 4 5 6 7 8; do head -c 448M /dev/urandom > model/shard_$n; done;\n      \
                    for n in $(seq 512); do head -c 1M /dev/urandom > model/parts/$n; done\n    outputs: { model: folder }\n";
    fs::write(space.join("pipeline.yaml"), pipeline)?;
    let triplay = |more: &[&'static str]| [&[env!("CARGO_BIN_EXE_triplay")], more].concat();
    finish(&mut command(space, &triplay(&["pipeline", "run", "pipeline.yaml"])))?;
    let shelves = fs::read_dir(space.join(".triplay/blobs"))?.flatten();
    let blobs = shelves.filter_map(|shelf| fs::read_dir(shelf.path()).ok()).flat_map(|shelf| shelf.flatten());
    let model =
        blobs.map(|blob| blob.path()).find(|blob| blob.is_dir()).context("the model is in the cache")?;
    let model = model.to_string_lossy().into_owned();
    let mut contest = Contest::new("4 GiB in 520 files taken out of the cache".into(), GIGABYTES);
    let get = ["data", "get", "latest:train", "-o", "copy"];
    for (who, line) in [
        ("triplay data get", triplay(&get)),
        ("cp -a", vec!["cp", "-a", &model, "copy"]),
        ("triplay data get --link", triplay(&[&get[..], &["--link"]].concat())),
        ("cp -al", vec!["cp", "-al", &model, "copy"]),
    ] {
        contest.add(who, (4u64 << 30) as f64, move || {
            let _ = fs::remove_dir_all(space.join("copy"));
            finish(&mut command(space, &["sync"]))?;
            timed(|| finish(&mut command(space, &line)))
        });
    }
    contest.hold(5)
}

/// Writes so many MiB, or half of what is free where that is less.
fn write_large(folder: &Path, most: u64) -> anyhow::Result<(PathBuf, f64)> {
    let disk = rustix::fs::statvfs(folder)?;
    let blocks = most.min((disk.f_bavail * disk.f_frsize / 2) >> 20);
    let path = folder.join("large");
    let mut file = File::create(&path)?;
    let mut block = vec![0; 1 << 20];
    Seed::from_u64(1).stream("large").fill_bytes(&mut block);
    for number in 0..blocks {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block)?;
    }
    file.sync_all()?;
    // The digest of a file that was changed just now is not remembered.
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))?;
    Ok((path, (blocks << 20) as f64))
}
