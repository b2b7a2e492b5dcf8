//! The formats that are known: their columns, how a file is recognised by them, what becomes of a row, and under
//! which licence the data is. Knows no files.

use super::source::{Cells, is};

/// A format of seed prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    JailbreakBench,
    HarmBench,
    AdvBench,
    XsTest,
    OrBench,
    WildJailbreak,
    StrongReject,
    AirBench,
    /// A file of one's own, with our columns.
    Generic,
}

/// What is known of a format.
pub struct About {
    /// How it is called on the command line and in made-up ids.
    pub name: &'static str,
    /// How its makers call it.
    pub title: &'static str,
    /// Sets of columns, each of which shows the format.
    pub columns: &'static [&'static [&'static str]],
    /// All columns that are read.
    wanted: &'static [&'static str],
    /// What to know before the data is used.
    pub licence: Option<&'static str>,
}

/// One row of a file, mapped. What the file does not say is `None`.
#[derive(Debug, Default, PartialEq)]
pub struct Draft {
    pub id: Option<String>,
    pub category: Option<String>,
    pub split: Option<String>,
    pub task: Option<String>,
    pub text: String,
    /// Of generic files only: the targets of attack sets say what a broken model says, not what is right.
    pub answer: Option<String>,
    /// Something to know about this row and others like it.
    pub remark: Option<&'static str>,
    /// Why the row is not a seed.
    pub unfit: Option<&'static str>,
}

pub const COPYRIGHT: &str =
    "copyright behaviours, which HarmBench judges by hashes of the works: no judge here does";
pub const IMAGE: &str = "needs an image";

impl Format {
    pub const ALL: [Format; 9] = [
        Format::JailbreakBench,
        Format::HarmBench,
        Format::AdvBench,
        Format::XsTest,
        Format::OrBench,
        Format::WildJailbreak,
        Format::StrongReject,
        Format::AirBench,
        Format::Generic,
    ];

    pub fn about(self) -> &'static About {
        match self {
            Format::JailbreakBench => &About {
                name: "jailbreakbench",
                title: "JailbreakBench",
                columns: &[&["goal", "target", "behavior", "category", "source"]],
                wanted: &["index", "goal", "category"],
                licence: Some("MIT"),
            },
            Format::HarmBench => &About {
                name: "harmbench",
                title: "HarmBench",
                columns: &[&["behavior", "functionalcategory", "semanticcategory", "behaviorid"]],
                wanted: &[
                    "behaviorid",
                    "behavior",
                    "contextstring",
                    "semanticcategory",
                    "functionalcategory",
                    "imagefilename",
                ],
                licence: Some("MIT"),
            },
            Format::AdvBench => &About {
                name: "advbench",
                title: "AdvBench",
                columns: &[&["goal", "target"]],
                wanted: &["goal"],
                licence: Some("MIT"),
            },
            Format::XsTest => &About {
                name: "xstest",
                title: "XSTest",
                columns: &[&["prompt", "type", "focus"], &["prompt", "type", "id_v2"]],
                wanted: &["id", "id_v2", "prompt", "type", "label"],
                licence: Some("CC BY 4.0: name its authors"),
            },
            Format::OrBench => &About {
                name: "or-bench",
                title: "OR-Bench",
                columns: &[&["prompt", "category"]],
                wanted: &["prompt", "category"],
                licence: Some("CC BY 4.0: name its authors"),
            },
            Format::WildJailbreak => &About {
                name: "wildjailbreak",
                title: "WildJailbreak",
                columns: &[&["adversarial", "data_type"]],
                wanted: &["vanilla", "adversarial", "data_type"],
                licence: Some("ODC-BY, and gated: use it as you agreed to on its page at Hugging Face"),
            },
            Format::StrongReject => &About {
                name: "strongreject",
                title: "StrongREJECT",
                columns: &[&["category", "source", "forbidden_prompt"]],
                wanted: &["forbidden_prompt", "category"],
                licence: Some("MIT"),
            },
            Format::AirBench => &About {
                name: "air-bench",
                title: "AIR-Bench",
                columns: &[&["cate-idx", "l2-name", "l3-name", "l4-name", "prompt"]],
                wanted: &["prompt", "l2-name"],
                licence: Some("CC BY 4.0: name its authors"),
            },
            Format::Generic => &About {
                name: "generic",
                title: "a file of your own",
                columns: &[&["text"], &["prompt"]],
                wanted: &["seed_id", "id", "category", "split", "task", "text", "prompt", "answer"],
                licence: None,
            },
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.about().name == name)
    }

    /// The columns that are read, in the order of `draft`'s cells.
    pub fn wanted(self) -> &'static [&'static str] {
        self.about().wanted
    }

    /// The columns that show it, in words.
    pub fn columns(self) -> String {
        let sets: Vec<String> = self.about().columns.iter().map(|set| set.join(", ")).collect();
        sets.join(" or ")
    }

    /// Those of its columns by which a file with these columns is known, where it is.
    pub fn shown_by(self, columns: &[String]) -> Option<&'static [&'static str]> {
        let is_there = |name: &&str| columns.iter().any(|column| is(column, name));
        self.about().columns.iter().copied().find(|set| set.iter().all(is_there))
    }

    /// The column that is read and that this one, which is not, may be a misspelling of.
    pub fn meant_by(self, column: &str) -> Option<&'static str> {
        let like = self.wanted().iter().filter_map(|name| Some((likeness(column, name)?, *name)));
        like.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    }

    /// The task of rows that say none, judged by the name of their file, and in words where rows have theirs from.
    pub fn task(self, file_name: &str) -> (&'static str, String) {
        let file_name = file_name.to_ascii_lowercase();
        let by = |word: &str, with: &'static str, without: &'static str| {
            let (task, says) =
                if file_name.contains(word) { (with, "says") } else { (without, "does not say") };
            (task, format!("{task}: the file's name {says} `{word}`"))
        };
        match self {
            // The same columns in harmful-behaviors.csv and benign-behaviors.csv.
            Format::JailbreakBench => by("benign", "benign", "hazard"),
            // Prompts that are refused though nothing is wrong with them, but for the subset `toxic`.
            Format::OrBench => by("toxic", "hazard", "benign"),
            Format::XsTest => {
                ("hazard", "of each row by its `label`, else by its `type`: contrast_… is hazard".into())
            }
            Format::WildJailbreak => ("hazard", "of each row by its `data_type`".into()),
            Format::Generic => ("hazard", "of each row by its `task`, else hazard".into()),
            _ => ("hazard", "hazard: this dataset has no other".into()),
        }
    }

    /// What ids of a file begin with, whose rows are of this task; nothing where they are the file's own.
    pub fn dataset(self, task: &str) -> &'static str {
        match self {
            // Its two files number their rows alike.
            Format::JailbreakBench if task == "benign" => "jailbreakbench-benign",
            Format::Generic => "",
            _ => self.about().name,
        }
    }

    /// Maps a row. The cells are those of `wanted`; what is wrong with one is said.
    pub fn draft(self, cells: &Cells) -> Result<Draft, String> {
        let cell = |at: usize| cells[at].as_deref().filter(|text| !text.trim().is_empty());
        let own = |at: usize| cell(at).map(|text| text.trim().to_owned());
        let text = |at: usize| cells[at].as_deref().unwrap_or("").to_owned();
        Ok(match self {
            Format::JailbreakBench => {
                Draft { id: own(0), text: text(1), category: own(2), ..Draft::default() }
            }
            Format::HarmBench => Draft {
                id: own(0),
                // As HarmBench itself asks for behaviours with a context.
                text: match cell(2) {
                    Some(context) if cell(1).is_some() => format!("{context}\n\n---\n\n{}", text(1)),
                    _ => text(1),
                },
                category: own(3),
                remark: cell(4).filter(|category| is(category, "copyright")).map(|_| COPYRIGHT),
                unfit: cell(5).map(|_| IMAGE),
                ..Draft::default()
            },
            Format::AdvBench => Draft { text: text(0), ..Draft::default() },
            Format::XsTest => {
                let task = match cell(4) {
                    Some(label) if is(label, "safe") => "benign",
                    Some(label) if is(label, "unsafe") => "hazard",
                    Some(label) => return Err(format!("`label` is `{label}`, neither safe nor unsafe")),
                    None if cell(3).is_some_and(|kind| kind.trim().starts_with("contrast")) => "hazard",
                    None => "benign",
                };
                let id = own(0).or(own(1));
                Draft { id, text: text(2), category: own(3), task: Some(task.into()), ..Draft::default() }
            }
            Format::OrBench | Format::StrongReject | Format::AirBench => {
                Draft { text: text(0), category: own(1), ..Draft::default() }
            }
            Format::WildJailbreak => {
                let kind = cell(2).unwrap_or("").trim();
                let (at, task) = match kind {
                    "vanilla_harmful" => (0, "hazard"),
                    "vanilla_benign" => (0, "benign"),
                    "adversarial_harmful" => (1, "hazard"),
                    "adversarial_benign" => (1, "benign"),
                    other => {
                        return Err(format!(
                            "`data_type` is `{other}`, not vanilla_harmful, vanilla_benign, adversarial_harmful or \
                             adversarial_benign"
                        ));
                    }
                };
                Draft { text: text(at), category: own(2), task: Some(task.into()), ..Draft::default() }
            }
            Format::Generic => Draft {
                id: own(0).or(own(1)),
                category: own(2),
                split: own(3),
                task: own(4),
                text: if cells[5].is_some() { text(5) } else { text(6) },
                answer: cell(7).map(str::to_owned),
                ..Draft::default()
            },
        })
    }
}

/// What a file's columns show.
#[derive(Debug, PartialEq)]
pub enum Shown {
    One(Format),
    /// Any of these, and nothing tells which.
    Several(Vec<Format>),
    /// None; this one is nearest.
    Nothing(Option<Format>),
}

/// Recognises a file by its columns: of the formats that they show, the one with most columns of its own. The file's
/// name is asked only about `prompt` and `category` alone, which OR-Bench has and files of many others too.
pub fn recognise(columns: &[String], file_name: &str) -> Shown {
    let shown = Format::ALL.into_iter().filter_map(|format| Some((format.shown_by(columns)?.len(), format)));
    let exactly_or_bench = columns.len() == 2;
    let fitting = shown.filter(|(_, format)| *format != Format::OrBench || exactly_or_bench);
    let Some((_, format)) = fitting.max_by_key(|(specific, format)| (*specific, *format != Format::Generic))
    else {
        return Shown::Nothing(nearest(columns));
    };
    let letters: String = file_name.chars().filter(char::is_ascii_alphanumeric).collect();
    if format == Format::OrBench && !letters.to_ascii_lowercase().contains("orbench") {
        return Shown::Several(vec![Format::OrBench, Format::Generic]);
    }
    Shown::One(format)
}

/// The format most of whose columns are there, misspelt ones counted in part.
fn nearest(columns: &[String]) -> Option<Format> {
    let best = |name: &str| columns.iter().filter_map(|column| likeness(column, name)).fold(0.0, f64::max);
    let score = |set: &&[&str]| set.iter().map(|name| best(name)).sum::<f64>() / set.len() as f64;
    let scores = Format::ALL
        .into_iter()
        .map(|format| (format.about().columns.iter().map(score).fold(0.0, f64::max), format))
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
    use std::borrow::Cow;

    use super::*;

    fn names(header: &str) -> Vec<String> {
        header.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn the_real_headers_are_recognised() {
        for (header, format) in [
            ("Index,Goal,Target,Behavior,Category,Source", Format::JailbreakBench),
            ("Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID", Format::HarmBench),
            ("goal,target", Format::AdvBench),
            ("id,prompt,type,label,focus,note", Format::XsTest),
            ("id_v1,id_v2,type,prompt,focus,note", Format::XsTest),
            ("prompt,focus,type,note,label", Format::XsTest),
            ("vanilla,adversarial,completion,data_type", Format::WildJailbreak),
            ("adversarial,label,data_type", Format::WildJailbreak),
            ("category,source,forbidden_prompt", Format::StrongReject),
            ("cate-idx,l2-name,l3-name,l4-name,prompt", Format::AirBench),
            ("seed_id,category,split,task,text,answer", Format::Generic),
            ("prompt,category,task", Format::Generic),
            ("prompt", Format::Generic),
        ] {
            assert_eq!(recognise(&names(header), "x.csv"), Shown::One(format), "{header}");
        }
        let or_bench = names("prompt,category");
        assert_eq!(recognise(&or_bench, "or-bench-hard-1k.csv"), Shown::One(Format::OrBench));
        assert_eq!(recognise(&or_bench, "OR_Bench.csv"), Shown::One(Format::OrBench));
        let either = Shown::Several(vec![Format::OrBench, Format::Generic]);
        assert_eq!(recognise(&or_bench, "mine.csv"), either);
        for (header, near) in [
            ("category,source,forbiden_prompt", Some(Format::StrongReject)),
            ("goal,tagret", Some(Format::AdvBench)),
            ("txt", Some(Format::Generic)),
            ("a,b", None),
        ] {
            assert_eq!(recognise(&names(header), "x.csv"), Shown::Nothing(near), "{header}");
        }
    }

    fn draft(format: Format, cells: &[&str]) -> Result<Draft, String> {
        let cells: Vec<_> = cells.iter().map(|cell| Some(Cow::Borrowed(*cell))).collect();
        assert_eq!(cells.len(), format.wanted().len());
        format.draft(&cells)
    }

    #[test]
    fn tasks_come_from_where_the_format_says_them() {
        let task = |format, cells: &[&str]| draft(format, cells).map(|draft| draft.task.unwrap_or_default());
        assert_eq!(task(Format::XsTest, &["1", "", "brew", "homonyms", "safe"]).unwrap(), "benign");
        assert_eq!(task(Format::XsTest, &["1", "", "brew", "homonyms", "unsafe"]).unwrap(), "hazard");
        assert_eq!(task(Format::XsTest, &["", "v2-1", "brew", "contrast_homonyms", ""]).unwrap(), "hazard");
        assert_eq!(task(Format::XsTest, &["", "v2-1", "brew", "homonyms", ""]).unwrap(), "benign");
        assert!(task(Format::XsTest, &["1", "", "brew", "homonyms", "fine"]).unwrap_err().contains("`fine`"));
        assert_eq!(Format::JailbreakBench.task("Benign-behaviors.csv").0, "benign");
        assert_eq!(Format::OrBench.task("or-bench-toxic.csv").0, "hazard");
        let wild = draft(Format::WildJailbreak, &["brew it", "pray brew it", "adversarial_benign"]).unwrap();
        assert_eq!((wild.text.as_str(), wild.task.as_deref()), ("pray brew it", Some("benign")));
        assert!(draft(Format::WildJailbreak, &["brew it", "", "Vanilla"]).is_err());
    }

    #[test]
    fn harmbench_rows_have_their_context_and_what_to_know_about_them() {
        let row =
            draft(Format::HarmBench, &["b1", "brew it", "a kettle", "potions", "contextual", ""]).unwrap();
        assert_eq!((row.text.as_str(), row.remark, row.unfit), ("a kettle\n\n---\n\nbrew it", None, None));
        let row = draft(Format::HarmBench, &["b2", "sing it", "", "songs", "copyright", "x.png"]).unwrap();
        assert_eq!((row.text.as_str(), row.remark, row.unfit), ("sing it", Some(COPYRIGHT), Some(IMAGE)));
    }
}
