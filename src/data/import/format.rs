//! The formats that are known, one table: by which columns and names a file is recognised, which columns are read and
//! what becomes of them, and under which licence the data is. Opens no files.

use std::path::Path;

use super::delimited::LONGEST;
use super::draft::{self, Draft, Row};
use super::source::{Cells, is};

/// A format of seed prompts.
pub struct Format {
    /// How it is called on the command line and in made-up ids.
    pub name: &'static str,
    /// How its makers call it.
    pub title: &'static str,
    /// Sets of columns, each of which shows the format.
    columns: &'static [&'static [&'static str]],
    /// What the name of the file, or of a folder that it is in, says besides where others have these columns too, and
    /// no more of them, in one of these ways: its letters and digits alone.
    named: &'static [&'static str],
    /// Columns with lists or objects, which a CSV file can have as JSON only.
    nested: &'static [&'static str],
    /// Columns of which the first that a row has a value in is its id, its text, its category.
    id: &'static [&'static str],
    text: &'static [&'static str],
    category: &'static [&'static str],
    task: Task,
    /// Further columns, and what is made of them.
    others: &'static [&'static str],
    refine: fn(&Row, &mut Draft) -> Result<(), String>,
    /// What to know before the data is used.
    pub licence: Option<&'static str>,
}

/// Who says whether a row is a hazard or benign.
enum Task {
    /// The dataset has nothing else.
    All(&'static str),
    /// The name of the file, or of a folder that it is in: words, and what each stands for.
    Named(&'static [(&'static str, &'static str)]),
    /// Columns of the row.
    Columns(&'static [&'static str]),
    /// Nobody; what the dataset labels instead.
    Nobody(&'static str),
}

/// The columns that say the task of a row in a file of one's own.
pub const TASK_COLUMNS: &[&str] = &["task", "prompt_label", "prompt_harm_label"];

/// Columns that look as if they did, but are about the response.
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

pub static FORMATS: [Format; 19] = [
    Format {
        name: "jailbreakbench",
        title: "JailbreakBench",
        columns: &[&["goal", "target", "behavior", "category", "source"]],
        id: &["index"],
        text: &["goal"],
        category: &["category"],
        // The same columns in harmful-behaviors.csv and benign-behaviors.csv.
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
        // Prompts that are refused though nothing is wrong with them, but for the subset `toxic`.
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
        licence: Some("ODC-BY, and gated: use it as you agreed to on its page at Hugging Face"),
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
        // Without the style, these are the columns of MT-Bench.
        columns: &[&["question_id", "category", "turns", "prompt_style"]],
        id: &["question_id"],
        text: &["turns"],
        category: &["category"],
        others: &["prompt_style"],
        refine: draft::sorry_bench,
        licence: Some("a licence of its own, and gated: use it as you agreed to on its page at Hugging Face"),
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
        licence: Some("ODC-BY, and gated: use it as you agreed to on its page at Hugging Face"),
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
        licence: Some("CC BY-SA 4.0, as walledai's copy at Hugging Face has it"),
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

/// How many folders above a file are asked for their names: the hub has `SUBSET/SPLIT/0000.parquet`.
const FOLDERS: usize = 3;

/// The task of a file's rows, where not each says its own.
pub struct Told {
    pub task: Option<&'static str>,
    /// Where the rows have their task from; where they have none, why.
    pub how: String,
}

impl Format {
    /// The format of this name.
    pub fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// Whether it is that of a file of one's own.
    pub fn is_own(&self) -> bool {
        self.name == GENERIC
    }

    /// The columns that are read, in the order of `draft`'s cells.
    pub fn wanted(&self) -> Vec<&'static str> {
        let Format { id, text, category, others, .. } = self;
        let task = if let Task::Columns(columns) = &self.task { columns } else { &[][..] };
        [id, text, category, task, others].into_iter().flatten().copied().collect()
    }

    /// The columns that show it, in words.
    pub fn columns(&self) -> String {
        let sets: Vec<String> = self.columns.iter().map(|set| set.join(", ")).collect();
        let named = (!self.named.is_empty()).then(|| format!(", and {} in its name", self.title));
        sets.join(" or ") + &named.unwrap_or_default()
    }

    /// Those of its columns by which a file with these columns is known, where it is.
    pub fn shown_by(&self, columns: &[String]) -> Option<&'static [&'static str]> {
        let is_there = |name: &&str| columns.iter().any(|column| is(column, name));
        self.columns.iter().copied().find(|set| set.iter().all(is_there))
    }

    /// Whether a file is one, by its columns and, where others have them too, by a name.
    fn is(&self, columns: &[String], path: &Path) -> Option<usize> {
        let shown = self.shown_by(columns)?.len();
        let letters = |name: &String| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let says = |name: &String| self.named.iter().any(|wanted| letters(name).contains(wanted));
        let is_named = || columns.len() == shown && names(path).iter().any(says);
        (self.named.is_empty() || is_named()).then_some(shown)
    }

    /// Why a file is taken for one.
    pub fn because(&self, columns: &[String]) -> String {
        let shown = self.shown_by(columns).unwrap_or_default();
        let name = if !self.named.is_empty() { ", and its name" } else { "" };
        format!("by its {} {}{name}", if shown.len() == 1 { "column" } else { "columns" }, shown.join(", "))
    }

    /// The column that is read and that this one, which is not, may be a misspelling of.
    pub fn meant_by(&self, column: &str) -> Option<&'static str> {
        let like = self.wanted().into_iter().filter_map(|name| Some((likeness(column, name)?, name)));
        like.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    }

    /// What the names of a file and of its folders, or the format itself, say of all rows.
    pub fn told(&self, path: &Path, columns: &[String]) -> Told {
        match &self.task {
            Task::All(task) => match word(path, &[("benign", "benign")]) {
                Some((name, ..)) if *task == "hazard" => {
                    let how =
                        format!("{} has hazards alone, but the name `{name}` says `benign`", self.title);
                    Told { task: None, how }
                }
                _ => Told { task: Some(task), how: format!("{task}: this dataset has no other") },
            },
            Task::Named(words) => match word(path, words) {
                Some((name, word, task)) => {
                    Told { task: Some(task), how: format!("{task}: the name `{name}` says `{word}`") }
                }
                None => {
                    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                    let words = words.join(", ");
                    let how =
                        format!("{} says it in the name of the file or of its folder ({words})", self.title);
                    Told { task: None, how }
                }
            },
            Task::Columns(known) => Told { task: None, how: self.by_row(known, columns) },
            Task::Nobody(instead) => Told { task: None, how: (*instead).into() },
        }
    }

    /// Where each row has its task from.
    fn by_row(&self, known: &[&str], columns: &[String]) -> String {
        let is_there = |name: &&&str| columns.iter().any(|column| is(column, name));
        match self.name {
            "xstest" => "of each row by its `label`, else by its `type`: contrast_… is hazard".into(),
            "wildjailbreak" => "of each row by its `data_type`".into(),
            "toxicchat" => "of each row by its `toxicity`".into(),
            "aegis" if known.iter().find(is_there).is_none() => {
                "of each row by most of its `labels_…`".into()
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

    /// Why a row says nothing of its task; nothing where it is left out, since the dataset's makers did not label it.
    pub fn silence(&self, told: &Told, columns: &[String]) -> Option<String> {
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

    /// What ids of a file begin with, whose rows are of this task; nothing where they are the file's own.
    pub fn dataset(&self, task: Option<&str>) -> &'static str {
        match self.name {
            // Its two files number their rows alike.
            "jailbreakbench" if task == Some("benign") => "jailbreakbench-benign",
            GENERIC => "",
            name => name,
        }
    }

    /// Maps a row. The cells are those of `wanted`; what is wrong with one is said, with its task only where that counts.
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

/// The names of a file and of the folders that it is in, innermost first, in lower case.
fn names(path: &Path) -> Vec<String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let names = path.ancestors().filter_map(Path::file_name).take(1 + FOLDERS);
    names.map(|name| name.to_string_lossy().to_ascii_lowercase()).collect()
}

/// The innermost of a file's names that says one of these words, the word, and what it stands for. One that says words
/// for several things, or denies one, says nothing.
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

/// What a file is, by its columns: of the formats that they show, the one with most columns of its own. Otherwise the
/// one that is nearest.
pub fn recognise(columns: &[String], path: &Path) -> Result<&'static Format, Option<&'static Format>> {
    let shown = FORMATS.iter().filter_map(|format| Some((format.is(columns, path)?, format)));
    let best = shown.max_by_key(|(specific, format)| (*specific, !format.is_own()));
    best.map(|(_, format)| format).ok_or_else(|| nearest(columns))
}

/// The format most of whose columns are there, misspelt ones counted in part.
fn nearest(columns: &[String]) -> Option<&'static Format> {
    let best = |name: &str| columns.iter().filter_map(|column| likeness(column, name)).fold(0.0, f64::max);
    let score = |set: &&[&str]| set.iter().map(|name| best(name)).sum::<f64>() / set.len() as f64;
    let scores = FORMATS
        .iter()
        .map(|format| (format.columns.iter().map(score).fold(0.0, f64::max), format))
        .filter(|(score, _)| *score >= 0.5);
    scores.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, format)| format)
}

/// How much a column is like this one, if it may be a misspelling of it: up to 1.
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
