//! The known formats, in one table: the columns and names by which a file is recognised, the columns that are read and how they
//! are mapped, and the licence of the data. It opens no files.

use std::path::Path;

use super::delimited::LONGEST;
use super::draft::{self, Draft, Row};
use super::source::{Cells, is};

/// A format of seed prompts.
pub struct Format {
    /// The format's name on the command line and in generated ids.
    pub name: &'static str,
    /// The name that its authors use.
    pub title: &'static str,
    /// Sets of columns. Each set identifies the format.
    columns: &'static [&'static [&'static str]],
    /// If other files may have the same columns too: the file must have no other columns, and its name, or that of a folder that
    /// it is in, must contain one of these words (letters and digits only).
    named: &'static [&'static str],
    /// Columns with lists or objects, which a CSV file can hold only as JSON.
    nested: &'static [&'static str],
    /// Columns for id, text and category. The first that has a value in a row counts.
    id: &'static [&'static str],
    text: &'static [&'static str],
    category: &'static [&'static str],
    task: Task,
    /// Further columns, and the function that maps them.
    others: &'static [&'static str],
    refine: fn(&Row, &mut Draft) -> Result<(), String>,
    /// The licence, with what users must respect.
    pub licence: Option<&'static str>,
}

/// The source of a row's task, hazard or benign.
enum Task {
    /// The dataset has only this one.
    All(&'static str),
    /// The name of the file, or of a folder that it is in: words with their tasks.
    Named(&'static [(&'static str, &'static str)]),
    /// Columns of the row.
    Columns(&'static [&'static str]),
    /// None; what the dataset labels instead.
    Nobody(&'static str),
}

/// The columns with the task of a row, in a file of the user's own.
pub(crate) const TASK_COLUMNS: &[&str] = &["task", "prompt_label", "prompt_harm_label"];

/// Columns that look like task labels, but are about the response.
const OF_RESPONSES: &[&str] = &["response_label", "response_harm_label", "is_safe", "is_response_0_safe"];

const NOTHING: Format = Format {
    name: "",
    title: "",
    columns: &[],
    named: &[],
    nested: &[],
    id: &[],
    text: &[],
    category: &[],
    task: Task::All("hazard"),
    others: &[],
    refine: |_, _| Ok(()),
    licence: None,
};

/// All formats that an import recognises.
pub static FORMATS: [Format; 19] = [
    Format {
        name: "jailbreakbench",
        title: "JailbreakBench",
        columns: &[&["goal", "target", "behavior", "category", "source"]],
        id: &["index"],
        text: &["goal"],
        category: &["category"],
        // harmful-behaviors.csv and benign-behaviors.csv have the same columns.
        task: Task::Named(&[("benign", "benign"), ("harmful", "hazard")]),
        licence: Some("MIT"),
        ..NOTHING
    },
    Format {
        name: "harmbench",
        title: "HarmBench",
        columns: &[&["behavior", "functionalcategory", "semanticcategory", "behaviorid"]],
        id: &["behaviorid"],
        text: &["behavior"],
        category: &["semanticcategory"],
        others: &["contextstring", "functionalcategory", "imagefilename"],
        refine: draft::harmbench,
        licence: Some("MIT"),
        ..NOTHING
    },
    Format {
        name: "advbench",
        title: "AdvBench",
        columns: &[&["goal", "target"]],
        text: &["goal"],
        licence: Some("MIT"),
        ..NOTHING
    },
    Format {
        name: "xstest",
        title: "XSTest",
        columns: &[&["prompt", "type", "focus"], &["prompt", "type", "id_v2"]],
        id: &["id", "id_v2"],
        text: &["prompt"],
        category: &["type"],
        task: Task::Columns(&["label"]),
        refine: draft::xstest,
        licence: Some("CC BY 4.0: name its authors"),
        ..NOTHING
    },
    Format {
        name: "or-bench",
        title: "OR-Bench",
        columns: &[&["prompt", "category"]],
        named: &["orbench"],
        text: &["prompt"],
        category: &["category"],
        // Harmless prompts that models tend to refuse, except the subset `toxic`.
        task: Task::Named(&[("80k", "benign"), ("hard", "benign"), ("toxic", "hazard")]),
        licence: Some("CC BY 4.0: name its authors"),
        ..NOTHING
    },
    Format {
        name: "wildjailbreak",
        title: "WildJailbreak",
        columns: &[&["adversarial", "data_type"]],
        category: &["data_type"],
        task: Task::Columns(&[]),
        others: &["vanilla", "adversarial"],
        refine: draft::wildjailbreak,
        licence: Some("ODC-BY, and gated: follow the terms on its Hugging Face page"),
        ..NOTHING
    },
    Format {
        name: "strongreject",
        title: "StrongREJECT",
        columns: &[&["category", "source", "forbidden_prompt"]],
        text: &["forbidden_prompt"],
        category: &["category"],
        licence: Some("MIT"),
        ..NOTHING
    },
    Format {
        name: "air-bench",
        title: "AIR-Bench",
        columns: &[&["cate-idx", "l2-name", "l3-name", "l4-name", "prompt"]],
        text: &["prompt"],
        category: &["l2-name"],
        licence: Some("CC BY 4.0: name its authors"),
        ..NOTHING
    },
    Format {
        name: "sorry-bench",
        title: "SORRY-Bench",
        // Without the style these would be the columns of MT-Bench.
        columns: &[&["question_id", "category", "turns", "prompt_style"]],
        id: &["question_id"],
        text: &["turns"],
        category: &["category"],
        others: &["prompt_style"],
        refine: draft::sorry_bench,
        licence: Some("a licence of its own, and gated: follow the terms on its Hugging Face page"),
        nested: &["turns"],
        ..NOTHING
    },
    Format {
        name: "beavertails",
        title: "BeaverTails",
        columns: &[&["prompt", "response", "category", "is_safe"]],
        text: &["prompt"],
        category: &["category"],
        task: Task::Nobody("`is_safe` is about the response"),
        refine: draft::first_category,
        licence: Some("CC BY-NC 4.0: not for commercial use"),
        nested: &["category"],
        ..NOTHING
    },
    Format {
        name: "pku-saferlhf",
        title: "PKU-SafeRLHF",
        columns: &[&["prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"]],
        text: &["prompt"],
        category: &["response_0_harm_category", "response_1_harm_category"],
        task: Task::Nobody("`is_response_0_safe` and `is_response_1_safe` are about the responses"),
        refine: draft::first_category,
        licence: Some("CC BY-NC 4.0: not for commercial use"),
        nested: &["response_0_harm_category", "response_1_harm_category"],
        ..NOTHING
    },
    Format {
        name: "wildguardmix",
        title: "WildGuardMix",
        columns: &[&["prompt", "adversarial", "prompt_harm_label", "subcategory"]],
        text: &["prompt"],
        category: &["subcategory"],
        task: Task::Columns(&["prompt_harm_label"]),
        licence: Some("ODC-BY, and gated: follow the terms on its Hugging Face page"),
        ..NOTHING
    },
    Format {
        name: "aegis",
        title: "Aegis",
        columns: &[&["text", "text_type", "labels_0"], &["prompt", "prompt_label", "violated_categories"]],
        id: &["id"],
        text: &["prompt", "text"],
        category: &["violated_categories"],
        task: Task::Columns(&["prompt_label"]),
        others: &[
            "text_type",
            "reconstruction_id_if_redacted",
            "labels_0",
            "labels_1",
            "labels_2",
            "labels_3",
            "labels_4",
        ],
        refine: draft::aegis,
        licence: Some("CC BY 4.0: name its authors"),
        ..NOTHING
    },
    Format {
        name: "do-not-answer",
        title: "Do-Not-Answer",
        columns: &[&["risk_area", "types_of_harm", "specific_harms", "question"]],
        id: &["id"],
        text: &["question"],
        category: &["types_of_harm"],
        licence: Some("CC BY-NC-SA 4.0: not for commercial use"),
        ..NOTHING
    },
    Format {
        name: "toxicchat",
        title: "ToxicChat",
        columns: &[&["conv_id", "user_input", "toxicity", "jailbreaking"]],
        id: &["conv_id"],
        text: &["user_input"],
        task: Task::Columns(&[]),
        others: &["toxicity", "jailbreaking"],
        refine: draft::toxicchat,
        licence: Some("CC BY-NC 4.0: not for commercial use"),
        ..NOTHING
    },
    Format {
        name: "catqa",
        title: "CatQA",
        // Any table of questions may have these columns.
        columns: &[&["category", "subcategory", "question"]],
        named: &["catqa", "categoricalharmfulqa"],
        text: &["question"],
        category: &["category"],
        licence: Some("Apache 2.0"),
        ..NOTHING
    },
    Format {
        name: "simplesafetytests",
        title: "SimpleSafetyTests",
        columns: &[&["harm_area", "category", "prompt"], &["harm_area", "category", "prompts_final"]],
        id: &["id"],
        text: &["prompt", "prompts_final"],
        category: &["harm_area"],
        licence: Some("CC BY: name its authors"),
        ..NOTHING
    },
    Format {
        name: "maliciousinstruct",
        title: "MaliciousInstruct",
        columns: &[&["prompt"]],
        named: &["maliciousinstruct"],
        text: &["prompt"],
        licence: Some("CC BY-SA 4.0, according to walledai's copy on Hugging Face"),
        ..NOTHING
    },
    Format {
        name: GENERIC,
        title: "a file of your own",
        columns: &[&["text"], &["prompt"]],
        id: &["seed_id", "id"],
        text: &["text", "prompt"],
        category: &["category"],
        task: Task::Columns(TASK_COLUMNS),
        others: &["split", "answer", "text_type"],
        refine: draft::own,
        ..NOTHING
    },
];

const GENERIC: &str = "generic";

/// The number of folders above a file whose names count: the hub has `SUBSET/SPLIT/0000.parquet`.
const FOLDERS: usize = 3;

/// The task of a file's rows, unless each row says its own.
pub struct FileTask {
    pub task: Option<&'static str>,
    /// The source of the rows' task; if they have none, the reason.
    pub how: String,
}

impl Format {
    /// The format of this name.
    pub fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// Whether this is the format of a user's own file.
    pub fn is_own(&self) -> bool {
        self.name == GENERIC
    }

    /// The columns that are read, in the order of `draft`'s cells.
    pub fn wanted(&self) -> Vec<&'static str> {
        let Format { id, text, category, others, .. } = self;
        let task = if let Task::Columns(columns) = &self.task { columns } else { &[][..] };
        [id, text, category, task, others].into_iter().flatten().copied().collect()
    }

    /// The identifying columns, for people.
    pub fn columns(&self) -> String {
        let sets: Vec<String> = self.columns.iter().map(|set| set.join(", ")).collect();
        let named = (!self.named.is_empty()).then(|| format!(", and {} in its name", self.title));
        sets.join(" or ") + &named.unwrap_or_default()
    }

    /// The set of identifying columns that a file has, if any.
    pub fn shown_by(&self, columns: &[String]) -> Option<&'static [&'static str]> {
        let is_there = |name: &&str| columns.iter().any(|column| is(column, name));
        self.columns.iter().copied().find(|set| set.iter().all(is_there))
    }

    /// Whether a file has this format, by its columns and, if other files may have the same, by a name. Returns the number of
    /// identifying columns.
    fn is(&self, columns: &[String], path: &Path) -> Option<usize> {
        let shown = self.shown_by(columns)?.len();
        let letters = |name: &String| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let says = |name: &String| self.named.iter().any(|wanted| letters(name).contains(wanted));
        let is_named = || columns.len() == shown && names(path).iter().any(says);
        (self.named.is_empty() || is_named()).then_some(shown)
    }

    /// The reason for recognising a file as this format.
    pub fn because(&self, columns: &[String]) -> String {
        let shown = self.shown_by(columns).unwrap_or_default();
        let name = if !self.named.is_empty() { ", and its name" } else { "" };
        format!("by its {} {}{name}", if shown.len() == 1 { "column" } else { "columns" }, shown.join(", "))
    }

    /// The column that an ignored column may be a misspelling of.
    pub fn meant_by(&self, column: &str) -> Option<&'static str> {
        let like = self.wanted().into_iter().filter_map(|name| Some((likeness(column, name)?, name)));
        like.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    }

    /// The task of all rows, from the format or from the names of the file and its folders.
    pub fn told(&self, path: &Path, columns: &[String]) -> FileTask {
        match &self.task {
            Task::All(task) => match word(path, &[("benign", "benign")]) {
                Some((name, ..)) if *task == "hazard" => {
                    let how = format!("{} has only hazards, but the name `{name}` says `benign`", self.title);
                    FileTask { task: None, how }
                }
                _ => FileTask { task: Some(task), how: format!("{task}: this dataset has no other") },
            },
            Task::Named(words) => match word(path, words) {
                Some((name, word, task)) => {
                    FileTask { task: Some(task), how: format!("{task}: the name `{name}` says `{word}`") }
                }
                None => {
                    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                    let words = words.join(", ");
                    let how = format!(
                        "{} states it in the name of the file or of its folder ({words})",
                        self.title
                    );
                    FileTask { task: None, how }
                }
            },
            Task::Columns(known) => FileTask { task: None, how: self.by_row(known, columns) },
            Task::Nobody(instead) => FileTask { task: None, how: (*instead).into() },
        }
    }

    /// The source of each row's task.
    fn by_row(&self, known: &[&str], columns: &[String]) -> String {
        let is_there = |name: &&&str| columns.iter().any(|column| is(column, name));
        match self.name {
            "xstest" => "of each row by its `label`, else by its `type`: contrast_… is hazard".into(),
            "wildjailbreak" => "of each row by its `data_type`".into(),
            "toxicchat" => "of each row by its `toxicity`".into(),
            "aegis" if known.iter().find(is_there).is_none() => {
                "of each row by the majority of its `labels_…`".into()
            }
            _ => {
                let there: Vec<String> =
                    known.iter().filter(is_there).map(|name| format!("`{name}`")).collect();
                format!(
                    "of each row by its {}",
                    if there.is_empty() { "`task`".into() } else { there.join(", ") }
                )
            }
        }
    }

    /// The reason why a row has no task. `None` if such rows are left out, since the dataset's authors did not label them.
    pub fn why_unlabelled(&self, told: &FileTask, columns: &[String]) -> Option<String> {
        let is_there = |name: &&&str| columns.iter().any(|column| is(column, name));
        match self.task {
            Task::Columns(_) if !self.is_own() => None,
            Task::Columns(_) => {
                let label = OF_RESPONSES.iter().find(is_there);
                Some(label.map(|name| format!(": `{name}` is about the response")).unwrap_or_default())
            }
            _ => Some(format!(": {}", told.how)),
        }
    }

    /// The prefix of ids for rows of this task; empty if ids are the file's own.
    pub fn dataset(&self, task: Option<&str>) -> &'static str {
        match self.name {
            // Its two files use the same row numbers.
            "jailbreakbench" if task == Some("benign") => "jailbreakbench-benign",
            GENERIC => "",
            name => name,
        }
    }

    /// Maps a row, whose cells are those of `wanted`. Returns an error if a cell is wrong; wrong tasks count only if
    /// `task_counts`.
    pub fn draft(&self, wanted: &[&'static str], cells: &Cells, task_counts: bool) -> Result<Draft, String> {
        let unfolded;
        let cells = match self.nested {
            [] => cells,
            nested => {
                unfolded = draft::unfolded(wanted, cells, nested)?;
                &unfolded[..]
            }
        };
        let row = Row { wanted, cells };
        let task = match &self.task {
            Task::Columns(columns) if task_counts => row.task(columns)?,
            _ => None,
        };
        let mut draft = Draft {
            id: row.own(self.id),
            text: row.first(self.text).unwrap_or_default().to_owned(),
            category: row.own(self.category),
            task,
            ..Draft::default()
        };
        (self.refine)(&row, &mut draft)?;
        match draft.text.len() {
            length if length > LONGEST => {
                Err(format!("the text must have at most {} MiB, found {} MiB", LONGEST >> 20, length >> 20))
            }
            _ => Ok(draft),
        }
    }
}

/// The names of a file and of the folders around it, innermost first, in lower case.
fn names(path: &Path) -> Vec<String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let names = path.ancestors().filter_map(Path::file_name).take(1 + FOLDERS);
    names.map(|name| name.to_string_lossy().to_ascii_lowercase()).collect()
}

/// The innermost of a file's names that contains one of these words, the word, and its task. Names with words of different tasks,
/// or with a negation, are ignored.
fn word<'w>(path: &Path, words: &[(&'w str, &'static str)]) -> Option<(String, &'w str, &'static str)> {
    names(path).into_iter().find_map(|name| {
        let parts: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let mut said = words.iter().filter(|(word, _)| parts.contains(word));
        let (word, task) = *said.next()?;
        let is_clear =
            said.all(|(_, other)| *other == task) && !parts.iter().any(|part| ["non", "not"].contains(part));
        is_clear.then_some((name.clone(), word, task))
    })
}

/// The format of a file: among those whose columns it has, the one with the most identifying columns. Otherwise returns the
/// nearest format.
pub(crate) fn recognise(columns: &[String], path: &Path) -> Result<&'static Format, Option<&'static Format>> {
    let shown = FORMATS.iter().filter_map(|format| Some((format.is(columns, path)?, format)));
    let best = shown.max_by_key(|(specific, format)| (*specific, !format.is_own()));
    best.map(|(_, format)| format).ok_or_else(|| nearest(columns))
}

/// The format with the largest share of its columns present, counting misspelt ones in part.
fn nearest(columns: &[String]) -> Option<&'static Format> {
    let best = |name: &str| columns.iter().filter_map(|column| likeness(column, name)).fold(0.0, f64::max);
    let score = |set: &&[&str]| set.iter().map(|name| best(name)).sum::<f64>() / set.len() as f64;
    let scores = FORMATS
        .iter()
        .map(|format| (format.columns.iter().map(score).fold(0.0, f64::max), format))
        .filter(|(score, _)| *score >= 0.5);
    scores.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, format)| format)
}

/// The similarity of a column to this one, up to 1, if it may be a misspelling.
fn likeness(column: &str, name: &str) -> Option<f64> {
    let likeness = strsim::normalized_damerau_levenshtein(&column.trim().to_ascii_lowercase(), name);
    Some(likeness).filter(|likeness| *likeness > 0.7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(header: &str, path: &str) -> Result<&'static str, Option<&'static str>> {
        let columns: Vec<String> = header.split(',').map(str::to_owned).collect();
        recognise(&columns, Path::new(path)).map(|format| format.name).map_err(|near| Some(near?.name))
    }

    #[test]
    fn the_real_headers_are_recognised() {
        for (header, format) in [
            ("Index,Goal,Target,Behavior,Category,Source", "jailbreakbench"),
            ("Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID", "harmbench"),
            ("goal,target", "advbench"),
            ("id,prompt,type,label,focus,note", "xstest"),
            ("id_v1,id_v2,type,prompt,focus,note", "xstest"),
            ("prompt,focus,type,note,label", "xstest"),
            ("vanilla,adversarial,completion,data_type", "wildjailbreak"),
            ("adversarial,label,data_type", "wildjailbreak"),
            ("category,source,forbidden_prompt", "strongreject"),
            ("cate-idx,l2-name,l3-name,l4-name,prompt", "air-bench"),
            ("seed_id,category,split,task,text,answer", "generic"),
            ("prompt,category", "generic"),
            ("prompt,category,task", "generic"),
            ("prompt", "generic"),
        ] {
            assert_eq!(recognised(header, "/data/x.csv"), Ok(format), "{header}");
        }
        for (header, path, format) in [
            ("prompt,category", "or-bench-hard-1k.csv", "or-bench"),
            ("prompt,category", "OR_Bench.csv", "or-bench"),
            ("prompt,category", "or-bench-80k/train/0000.parquet", "or-bench"),
            ("prompt,category,task", "or-bench-80k.csv", "generic"),
            ("prompt", "MaliciousInstruct/data/train-00000-of-00001.parquet", "maliciousinstruct"),
            ("prompt,task", "MaliciousInstruct/mine.csv", "generic"),
        ] {
            assert_eq!(recognised(header, path), Ok(format), "{header} {path}");
        }
        for (header, near) in [
            ("category,source,forbiden_prompt", Some("strongreject")),
            ("goal,tagret", Some("advbench")),
            ("question_id,category,turns,reference", Some("catqa")),
            ("txt", Some("generic")),
            ("a,b", None),
        ] {
            assert_eq!(recognised(header, "x.csv"), Err(near), "{header}");
        }
    }

    fn told(format: &str, path: &str) -> Option<&'static str> {
        Format::named(format).unwrap().told(Path::new(path), &[]).task
    }

    #[test]
    fn the_nearest_name_that_says_a_task_counts() {
        for (format, path, task) in [
            ("jailbreakbench", "Benign-behaviors.csv", Some("benign")),
            ("jailbreakbench", "JBB_benign.csv", Some("benign")),
            ("jailbreakbench", "behaviors/harmful/0000.parquet", Some("hazard")),
            ("jailbreakbench", "behaviors/benign/0000.parquet", Some("benign")),
            ("jailbreakbench", "benign/harmful.csv", Some("hazard")),
            ("jailbreakbench", "harmful-and-benign.csv", None),
            ("jailbreakbench", "unharmful.csv", None),
            ("jailbreakbench", "jbb.csv", None),
            ("or-bench", "or-bench-hard-1k/train/0000.parquet", Some("benign")),
            ("or-bench", "or-bench-80k (1).csv", Some("benign")),
            ("or-bench", "or-bench-toxic.csv", Some("hazard")),
            ("or-bench", "or-bench-non-toxic.csv", None),
            ("or-bench", "or-bench.csv", None),
            ("advbench", "harmful_behaviors.csv", Some("hazard")),
            ("advbench", "behaviors/benign/0000.parquet", None),
            ("beavertails", "harmful.jsonl", None),
        ] {
            assert_eq!(told(format, path), task, "{format} {path}");
        }
    }
}
