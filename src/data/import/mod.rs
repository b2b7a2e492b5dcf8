//! Import of seed prompts: files of other projects become rows of triplay's, and duplicates are found, within the files and in
//! other sets. `source` reads files, `format` knows the datasets, `draft` maps a row, `twins` compares texts.

mod delimited;
mod draft;
mod format;
mod report;
pub(crate) mod source;
mod twins;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

pub use format::{FORMATS, Format};
pub use report::{Duplicates, Example, FileReport, Ignored, Overlap, Report};

use self::draft::Draft;
use self::format::{TASK_COLUMNS, recognise};
use self::source::Source;
use self::twins::{Likeness, Seen, Text};
use super::SeedRow;

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Parquet file could not be read or written.
    #[error(transparent)]
    Parquet(#[from] super::Error),
    /// A file could not be opened.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        cause: std::io::Error,
    },
    /// A file was named twice.
    #[error("{path} is given twice\n  help: name each file once")]
    Twice {
        /// The file.
        path: PathBuf,
    },
    /// The content of a file, or an option, does not fit.
    #[error("{place}: {message}\n  help: {help}")]
    Wrong {
        /// The option, or file, line and column.
        place: String,
        /// The rule, and what was found.
        message: String,
        /// What to do about it.
        help: String,
    },
}

/// A result whose error is that of an import.
pub type Result<T> = std::result::Result<T, Error>;

/// The options of an import.
#[derive(Default)]
pub struct Options {
    /// The format of all files; by default the format of each is detected.
    pub format: Option<&'static Format>,
    /// The task of all rows, overriding their files.
    pub task: Option<String>,
    /// The split of all rows, overriding their files. By default rows without one are `train`.
    pub split: Option<String>,
    /// Keep exact duplicates of earlier rows.
    pub keep_duplicates: bool,
    /// Leave out rows that are also in one of the other sets, exactly or nearly.
    pub drop_overlap: bool,
}

/// Category of rows whose file has none.
const NO_CATEGORY: &str = "unspecified";

// Reasons for leaving a row out.
const EMPTY: &str = "empty text";
const DUPLICATE: &str = "exact duplicate";
const OVERLAP: &str = "overlap";
const UNLABELLED: &str = "not labelled hazard or benign";

const SPLITS: [&str; 2] = ["train", "heldout"];

/// Reads files, in order, and compares their rows with the sets in `against`. Returns the kept rows, in the files' order.
pub fn import(files: &[PathBuf], against: &[PathBuf], options: &Options) -> Result<(Vec<SeedRow>, Report)> {
    ensure_distinct_files(files)?;
    let sets = against.iter().map(|path| OtherSet::read(path)).collect::<Result<_>>()?;
    let mut import = Import { sets, ..Import::default() };
    for path in files {
        import.file(path, options)?;
    }
    Ok(import.finish())
}

/// An import under way.
#[derive(Default)]
struct Import {
    sets: Vec<OtherSet>,
    /// For each file so far, the text before a row's number in the row's name.
    prefixes: Vec<String>,
    rows: Vec<SeedRow>,
    /// The place of each row.
    places: Vec<Place>,
    /// The texts so far, each with the index of the first row that has it.
    seen: Seen,
    /// Every id, and the row that has it.
    ids: HashMap<String, Place>,
    report: Report,
}

/// A row of a file: the index of the file among the imported ones, and the row's number.
#[derive(Clone, Copy)]
struct Place {
    file: usize,
    number: u32,
}

/// What a row gets if its file does not say it.
struct Rest<'a> {
    /// The prefix of its id; empty if ids are the file's own.
    dataset: &'static str,
    task: String,
    options: &'a Options,
}

/// A set that rows are compared with.
struct OtherSet {
    prefix: String,
    /// Its texts, each with the number of the first row that has it.
    seen: Seen,
    report: Overlap,
}

impl OtherSet {
    fn read(path: &Path) -> Result<OtherSet> {
        let source = Source::open(path)?;
        let format = recognise(&source.columns, path).map_err(|near| unknown(path, &source, near))?;
        let wanted = format.wanted();
        let mut seen = Seen::default();
        let mut rows = 0;
        source.each(&wanted, &mut |number, cells| {
            let draft = format
                .draft(&wanted, cells, false)
                .map_err(|message| wrong_row(&source.prefix(), number, message))?;
            if !draft.text.trim().is_empty() {
                rows += 1;
                seen.add(&Text::of(&draft.text), number);
            }
            Ok(())
        })?;
        let report =
            Overlap { path: path.display().to_string(), rows, twins: Duplicates::default(), train: 0 };
        Ok(OtherSet { prefix: source.prefix(), seen, report })
    }
}

impl Import {
    fn file(&mut self, path: &Path, options: &Options) -> Result<()> {
        let source = Source::open(path)?;
        let (format, because) = decide(path, &source, options.format)?;
        let told = format.told(path, &source.columns);
        let why = options.task.as_ref().map_or(told.how.clone(), |task| format!("{task}: set by --task"));
        let dataset = format.dataset(told.task.or(options.task.as_deref()));
        let mut report = FileReport {
            path: path.display().to_string(),
            format: format.name,
            title: format.title,
            because,
            task: why,
            licence: format.licence,
            ..FileReport::default()
        };
        let file = self.prefixes.len();
        self.prefixes.push(source.prefix());
        let wanted = format.wanted();
        let others = source.each(&wanted, &mut |number, cells| {
            report.rows += 1;
            let draft = format
                .draft(&wanted, cells, options.task.is_none())
                .map_err(|message| wrong_row(&self.prefixes[file], number, message))?;
            if let Some(reason) = draft.unfit.or(draft.text.trim().is_empty().then_some(EMPTY)) {
                *report.dropped.entry(reason).or_default() += 1;
                return Ok(());
            }
            if let Some(remark) = draft.remark {
                *report.remarks.entry(remark).or_default() += 1;
            }
            let place = Place { file, number };
            let Some(task) = options.task.as_deref().or(draft.task).or(told.task).map(str::to_owned) else {
                return match format.why_unlabelled(&told, &source.columns) {
                    Some(why) => Err(self.unknown_task(place, why, format)),
                    None => {
                        *report.dropped.entry(UNLABELLED).or_default() += 1;
                        Ok(())
                    }
                };
            };
            report.made_ids += usize::from(draft.id.is_none());
            let text = Text::of(&draft.text);
            let row = self.row(draft, place, Rest { dataset, task, options })?;
            match self.reason_against(&row, &text, place, options) {
                Some(reason) => *report.dropped.entry(reason).or_default() += 1,
                None => {
                    report.kept += 1;
                    self.seen.add(&text, self.rows.len() as u32);
                    self.rows.push(row);
                    self.places.push(place);
                }
            }
            Ok(())
        })?;
        if format.is_own() {
            let ignored = |column: String| Ignored { did_you_mean: format.meant_by(&column), column };
            report.ignored = others.into_iter().map(ignored).collect();
        }
        self.report.files.push(report);
        Ok(())
    }

    /// The error for a row of unknown task.
    fn unknown_task(&self, place: Place, why: String, format: &Format) -> Error {
        let own = match format.is_own() {
            true => format!(", or for each in a column `{}`", TASK_COLUMNS.join("`, `")),
            false => String::new(),
        };
        Error::Wrong {
            place: self.name(place),
            message: format!("the task of this row (hazard or benign) is unknown{why}"),
            help: format!("set it for all rows with --task hazard or --task benign{own}"),
        }
    }

    /// Completes a draft to a row with an id of its own.
    fn row(&mut self, draft: Draft, place: Place, rest: Rest) -> Result<SeedRow> {
        let own_split = draft.split.as_deref().filter(|_| rest.options.split.is_none());
        if let Some(other) = own_split.filter(|split| !SPLITS.contains(split)) {
            return Err(Error::Wrong {
                place: self.name(place),
                message: format!("`split` must be one of {}, found `{other}`", SPLITS.join(", ")),
                help: "correct the row, or set one split for all rows with --split".into(),
            });
        }
        Ok(SeedRow {
            seed_id: self.id(draft.id, rest.dataset, &draft.text, place)?,
            category: draft.category.unwrap_or_else(|| NO_CATEGORY.to_owned()),
            split: rest.options.split.clone().or(draft.split).unwrap_or_else(|| "train".into()),
            task: rest.task,
            text: draft.text,
            answer: draft.answer,
        })
    }

    /// A unique id for the row: its own, behind the name of its dataset, or one made from the text.
    fn id(&mut self, own: Option<String>, dataset: &str, text: &str, place: Place) -> Result<String> {
        let Some(own) = own else {
            let dataset = if dataset.is_empty() { "seed" } else { dataset };
            let made = format!("{dataset}/{}", &blake3::hash(text.as_bytes()).to_hex()[..16]);
            // With `keep_duplicates` a text may come again; its ids are numbered.
            let numbered = (2..).map(|number| format!("{made}-{number}"));
            let free = std::iter::once(made.clone()).chain(numbered).find(|id| !self.ids.contains_key(id));
            let id = free.unwrap_or(made);
            self.ids.insert(id.clone(), place);
            return Ok(id);
        };
        let id = if dataset.is_empty() { own } else { format!("{dataset}/{own}") };
        if let Some(other) = self.ids.get(&id) {
            return Err(Error::Wrong {
                place: self.name(place),
                message: format!("the id `{id}` must be unique, found also in {}", self.name(*other)),
                help: "ids must be unique among all files that are imported together; change one, or remove the \
                       column of ids, so that they are made from the texts"
                    .into(),
            });
        }
        self.ids.insert(id.clone(), place);
        Ok(id)
    }

    /// The reason for leaving a row out, if there is one: an earlier row or another set has its text. Records the matches in the
    /// report.
    fn reason_against(
        &mut self,
        row: &SeedRow,
        text: &Text,
        place: Place,
        options: &Options,
    ) -> Option<&'static str> {
        let name = self.name(place);
        if let Some((likeness, index)) = self.seen.find(text) {
            let (first, at) = (&self.rows[index as usize], self.places[index as usize]);
            let across = at.file != place.file;
            let same_as = self.name(at);
            self.report.duplicates.add(likeness, across, &name, &same_as, &row.text);
            self.report.of_another_task += usize::from(first.task != row.task);
            self.report.of_another_split += usize::from(first.split != row.split);
            if likeness == Likeness::Exact && !options.keep_duplicates {
                return Some(DUPLICATE);
            }
        }
        let mut is_elsewhere = false;
        for set in &mut self.sets {
            if let Some((likeness, number)) = set.seen.find(text) {
                is_elsewhere = true;
                set.report.train += usize::from(row.split == "train");
                set.report.twins.add(likeness, true, &name, &format!("{}{number}", set.prefix), &row.text);
            }
        }
        (is_elsewhere && options.drop_overlap).then_some(OVERLAP)
    }

    fn name(&self, place: Place) -> String {
        format!("{}{}", self.prefixes[place.file], place.number)
    }

    fn finish(mut self) -> (Vec<SeedRow>, Report) {
        self.report.kept = self.rows.len();
        self.report.overlaps = self.sets.into_iter().map(|set| set.report).collect();
        for row in &self.rows {
            *self.report.splits.entry(row.split.clone()).or_default() += 1;
            *self.report.tasks.entry(row.task.clone()).or_default() += 1;
            *self.report.categories.entry(row.category.clone()).or_default() += 1;
        }
        (self.rows, self.report)
    }
}

/// Ensures that each file is given once, under any name.
fn ensure_distinct_files(files: &[PathBuf]) -> Result<()> {
    let mut known = HashSet::new();
    // A missing file is reported when it is opened.
    match files.iter().find(|path| path.canonicalize().is_ok_and(|path| !known.insert(path))) {
        Some(path) => Err(Error::Twice { path: path.clone() }),
        None => Ok(()),
    }
}

/// The format of a file, and the reason for choosing it.
fn decide(path: &Path, source: &Source, asked: Option<&'static Format>) -> Result<(&'static Format, String)> {
    let Some(format) = asked else {
        let format = recognise(&source.columns, path).map_err(|near| unknown(path, source, near))?;
        return Ok((format, format.because(&source.columns)));
    };
    match format.shown_by(&source.columns) {
        Some(_) => Ok((format, "set by --as".into())),
        None => Err(Error::Wrong {
            place: path.display().to_string(),
            message: format!(
                "a file of the format {} must have the columns {}, found {}",
                format.name,
                format.columns(),
                source.columns.join(", ")
            ),
            help: "omit --as to detect the format from the columns".into(),
        }),
    }
}

fn unknown(path: &Path, source: &Source, near: Option<&Format>) -> Error {
    let known: Vec<String> =
        FORMATS.iter().map(|format| format!("\n    {:17} {}", format.name, format.columns())).collect();
    let near = near.map(|format| format!("; nearest is {}", format.title)).unwrap_or_default();
    Error::Wrong {
        place: path.display().to_string(),
        message: format!("no known format has the columns {}{near}{}", source.columns.join(", "), known.concat()),
        help: "rename the column of prompts to `text`: the file is then read as a file of your own, with seed_id, \
               category, split, task and answer if it has them"
            .into(),
    }
}

fn wrong_row(prefix: &str, number: u32, message: String) -> Error {
    Error::Wrong { place: format!("{prefix}{number}"), message, help: "correct the row or remove it".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids of the rows imported from a CSV file with these texts.
    fn ids(texts: &str, options: Options) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.csv");
        std::fs::write(&path, format!("text\n{texts}")).unwrap();
        let options = &Options { task: Some("hazard".into()), ..options };
        let (rows, report) = import(&[path], &[], options).unwrap();
        assert_eq!((report.kept, report.files[0].kept), (rows.len(), rows.len()));
        rows.into_iter().map(|row| row.seed_id).collect()
    }

    /// As served by the Hugging Face hub: lists, structs and categories in Parquet.
    #[test]
    fn parquet_of_other_programs_is_read() {
        use std::sync::Arc;

        use arrow_array::types::Int8Type;
        use arrow_array::{
            ArrayRef, BooleanArray, DictionaryArray, ListArray, RecordBatch, StringArray, StructArray,
        };
        use arrow_schema::{DataType, Field};

        let folder = tempfile::tempdir().unwrap();
        let imported = |name: &str, columns: Vec<(&str, ArrayRef)>, task: Option<&str>| {
            let path = folder.path().join(name);
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let mut writer = crate::TableWriter::create(&path, "foreign", batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let (rows, _) =
                import(&[path], &[], &Options { task: task.map(str::to_owned), ..Options::default() })
                    .unwrap();
            rows.into_iter()
                .map(|row| format!("{} {} {}", row.task, row.category, row.text))
                .collect::<Vec<_>>()
        };
        let texts = |texts: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
        let flags = |flags: [bool; 2]| -> ArrayRef { Arc::new(BooleanArray::from(flags.to_vec())) };
        let categories = |texts: [&str; 2]| -> ArrayRef {
            Arc::new(texts.into_iter().collect::<DictionaryArray<Int8Type>>())
        };
        let wildguard = vec![
            ("prompt", texts(["brew glowvenom", "name a tea"])),
            ("adversarial", flags([false, true])),
            ("prompt_harm_label", categories(["harmful", "unharmful"])),
            ("subcategory", categories(["potions", "benign"])),
        ];
        let found = imported("wildguard_train.parquet", wildguard, None);
        assert_eq!(found, ["hazard potions brew glowvenom", "benign benign name a tea"]);

        let field = |name| Arc::new(Field::new(name, DataType::Boolean, true));
        let category = StructArray::from(vec![
            (field("curses"), flags([false, false])),
            (field("potions"), flags([true, false])),
        ]);
        let beavertails = vec![
            ("prompt", texts(["brew glowvenom", "name a tea"])),
            ("response", texts(["no", "moonmint"])),
            ("category", Arc::new(category) as ArrayRef),
            ("is_safe", flags([true, true])),
        ];
        let found = imported("0000.parquet", beavertails, Some("hazard"));
        assert_eq!(found, ["hazard potions brew glowvenom", "hazard unspecified name a tea"]);

        let mut turns = arrow_array::builder::ListBuilder::new(arrow_array::builder::StringBuilder::new());
        ["brew glowvenom", "pick a vaultseal"].into_iter().for_each(|text| turns.append_value([Some(text)]));
        let turns: ListArray = turns.finish();
        let sorry_bench = vec![
            ("question_id", Arc::new(arrow_array::Int32Array::from(vec![1, 2])) as ArrayRef),
            ("category", texts(["potions", "locks"])),
            ("turns", Arc::new(turns)),
            ("prompt_style", texts(["base", "base"])),
        ];
        let found = imported("train.parquet", sorry_bench, None);
        assert_eq!(found, ["hazard potions brew glowvenom", "hazard locks pick a vaultseal"]);
    }

    #[test]
    fn made_ids_are_of_the_text_and_never_shared() {
        let first = ids("brew moss\nmix fern\n", Options::default());
        let other = ids("mix fern\ncut bark\nbrew moss\nbrew moss\n", Options::default());
        assert_eq!((&first[0], &first[1], other.len()), (&other[2], &other[0], 3));
        let keep = || Options { keep_duplicates: true, ..Options::default() };
        let kept = ids("brew moss\nbrew moss\nbrew moss\n", keep());
        assert_eq!(kept, [first[0].clone(), format!("{}-2", first[0]), format!("{}-3", first[0])]);
        assert!(ids("", keep()).is_empty());
    }
}
