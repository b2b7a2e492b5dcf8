//! The data of the live page: of one run, or always of the newest. They are read again when the run's files have changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::gather::{self, Gathered, Texts};
use super::html;
use super::model::Report;
use super::source::{Known, Source};
use engine::Registry;
use runs::{Events, Run};

/// The shortest interval between two looks at the files.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// While a run is under way, its samples are joined again only after this many times the duration of the last join, so that
/// viewers do not take the processor from the run.
const REST: u32 = 20;

/// The shortest interval between two joins.
const LEAST_REST: Duration = Duration::from_secs(4);

/// The shown run, and the data made from it.
pub struct Live {
    /// A run as people name it; `None` for always the newest.
    run: Option<String>,
    texts: Texts,
    registry: Registry,
    report: Mutex<Shown>,
    samples: Mutex<Joined>,
}

#[derive(Default)]
struct Shown {
    looked: Option<Instant>,
    stamp: Stamp,
    version: u64,
    json: Arc<Vec<u8>>,
    /// The folder of the shown run.
    folder: PathBuf,
    events: Events,
    known: Known,
    /// The result of the last join of samples.
    gathered: Arc<Gathered>,
}

#[derive(Default)]
struct Joined {
    stamp: Stamp,
    version: u64,
    json: Arc<Vec<u8>>,
    packed: Arc<Vec<u8>>,
    /// When the samples may be joined again.
    due: Option<Instant>,
}

/// Length and time of each relevant file, and whether the run is under way: changed files have another stamp.
#[derive(Clone, Default, PartialEq, Eq)]
struct Stamp {
    folder: PathBuf,
    files: Vec<Option<(u64, SystemTime)>>,
    status: String,
}

/// The answer to a page that knows a version.
pub enum Answer {
    Unchanged,
    New { version: u64, json: Arc<Vec<u8>>, packed: Option<Arc<Vec<u8>>> },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// A page of one run, or of the newest if `run` is `None`. Nothing is read yet.
    pub fn new(run: Option<String>, texts: Texts, registry: Registry) -> Live {
        Live { run, texts, registry, report: Mutex::default(), samples: Mutex::default() }
    }

    /// The report, unless the page has it already.
    pub fn report(&self, known: Option<u64>) -> Result<Answer, String> {
        let mut shown = lock(&self.report);
        if shown.looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN) {
            self.look(&mut shown).map_err(|error| format!("{error:#}"))?;
            shown.looked = Some(Instant::now());
        }
        Ok(match known == Some(shown.version) {
            true => Answer::Unchanged,
            false => Answer::New { version: shown.version, json: shown.json.clone(), packed: None },
        })
    }

    /// The folder and ablation to show; `None` before the first run.
    fn locate(&self) -> anyhow::Result<Option<(PathBuf, Option<&str>)>> {
        match &self.run {
            None => Ok(Run::all(None).into_iter().next().map(|folder| (folder, None))),
            Some(run) => {
                let (run, only) =
                    run.split_once('@').map_or((run.as_str(), None), |(run, only)| (run, Some(only)));
                Ok(Some((Run::locate(run)?, only)))
            }
        }
    }

    /// Makes the report again if a file has changed.
    fn look(&self, shown: &mut Shown) -> anyhow::Result<()> {
        let Some((folder, only)) = self.locate()? else {
            if shown.version == 0 {
                (shown.version, shown.json) = (1, Arc::new(serde_json::to_vec(&gather::nothing_yet())?));
            }
            return Ok(());
        };
        let stamp = Stamp::of(&folder, &["nodes.jsonl", "run.json", "events.jsonl", "metrics.parquet"]);
        if stamp == shown.stamp {
            return Ok(());
        }
        if folder != shown.folder {
            shown.events = Events::of(&folder);
            shown.known.clear();
            shown.gathered = Arc::default();
            shown.folder.clone_from(&folder);
        }
        shown.events.refresh();
        let events = shown.events.clone();
        let report = match Source::open(&folder, only, &mut shown.known, events) {
            Ok(source) => gather::report(&[source], self.texts, &self.registry, &shown.gathered),
            // For example a run that is just beginning and has no record yet.
            Err(error) => Report { notices: vec![format!("{error:#}")], ..gather::nothing_yet() },
        };
        shown.json = Arc::new(serde_json::to_vec(&report)?);
        shown.stamp = stamp;
        shown.version += 1;
        Ok(())
    }

    /// The samples, unless the page has them already.
    pub fn samples(&self, known: Option<u64>) -> Result<Answer, String> {
        // One thread joins; later requests for samples wait for it, requests for reports do not.
        let mut joined = lock(&self.samples);
        self.join(&mut joined).map_err(|error| format!("{error:#}"))?;
        Ok(match known == Some(joined.version) {
            true => Answer::Unchanged,
            false => Answer::New {
                version: joined.version,
                json: joined.json.clone(),
                packed: Some(joined.packed.clone()),
            },
        })
    }

    fn join(&self, joined: &mut Joined) -> anyhow::Result<()> {
        let located = self.locate()?;
        let stamp = match &located {
            None => Stamp::default(),
            Some((folder, _)) => Stamp::of(folder, &["nodes.jsonl"]),
        };
        let rests = joined.due.is_some_and(|due| Instant::now() < due)
            && stamp.folder == joined.stamp.folder
            && stamp.status == "running";
        if joined.version > 0 && (stamp == joined.stamp || rests) {
            return Ok(());
        }
        let begun = Instant::now();
        let gathered = match located {
            None => Gathered::default(),
            Some((folder, only)) => {
                let source = Source::open(&folder, only, &mut Known::new(), Events::default())?;
                gather::samples(&[source], self.texts)?
            }
        };
        joined.json = Arc::new(serde_json::to_vec(&gathered.samples)?);
        joined.packed = Arc::new(html::gzip(&joined.json)?);
        joined.stamp = stamp;
        joined.version += 1;
        joined.due = Some(Instant::now() + (begun.elapsed() * REST).max(LEAST_REST));
        let gathered = Gathered { samples: Default::default(), ..gathered };
        // Lock order: the samples' lock before the report's, never the reverse.
        let mut shown = lock(&self.report);
        if shown.folder == joined.stamp.folder {
            shown.gathered = Arc::new(gathered);
            shown.stamp = Stamp::default();
        }
        Ok(())
    }
}

impl Stamp {
    fn of(folder: &Path, names: &[&str]) -> Stamp {
        let file = |name: &&str| {
            let metadata = fs::metadata(folder.join(name)).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        let status = Run::read_record(folder).map(|record| record.status).unwrap_or_default();
        Stamp { folder: folder.to_owned(), files: names.iter().map(file).collect(), status }
    }
}
