//! Mapping of one row to a seed prompt: the columns that its format names, and the rules that some formats add.

use std::borrow::Cow;

use serde_json::Value;

use super::source::{Cells, flat, is};

/// One mapped row of a file. Fields that the file does not say are `None`.
#[derive(Debug, Default, PartialEq)]
pub struct Draft {
    pub id: Option<String>,
    pub category: Option<String>,
    pub split: Option<String>,
    pub task: Option<&'static str>,
    pub text: String,
    /// Generic files only: the targets of attack sets are what a jailbroken model says, not a right answer.
    pub answer: Option<String>,
    /// A remark about this row and others like it.
    pub remark: Option<&'static str>,
    /// The reason why the row is not a seed prompt.
    pub unfit: Option<&'static str>,
}

const COPYRIGHT: &str =
    "copyright behaviours: HarmBench judges them by hashes of the works, triplay's judges do not";
const IMAGE: &str = "needs an image";
const REDACTED: &str = "redacted text";
const ANSWER: &str = "text that is not a user's message";
const JAILBREAK: &str = "jailbreak without toxicity, neither hazard nor benign";

/// The task for each value of a column `task`, and of the other label columns.
const TASKS: &[(&str, &str)] = &[("hazard", "hazard"), ("benign", "benign"), ("arithmetic", "arithmetic")];
const LABELS: &[(&str, &str)] =
    &[("harmful", "hazard"), ("unharmful", "benign"), ("unsafe", "hazard"), ("safe", "benign")];

/// A row: the columns that are read and their cells.
pub(crate) struct Row<'a> {
    pub wanted: &'a [&'static str],
    pub cells: &'a Cells<'a>,
}

impl<'a> Row<'a> {
    /// The cell in a column, unless it is blank.
    fn get(&self, column: &str) -> Option<&'a str> {
        let at = self.wanted.iter().position(|wanted| *wanted == column)?;
        self.cells[at].as_deref().filter(|text| !text.trim().is_empty())
    }

    pub(crate) fn first(&self, columns: &[&str]) -> Option<&'a str> {
        columns.iter().find_map(|column| self.get(column))
    }

    pub(crate) fn own(&self, columns: &[&str]) -> Option<String> {
        self.first(columns).map(|text| text.trim().to_owned())
    }

    /// The task that columns say. They must agree.
    pub(crate) fn task(&self, columns: &[&'static str]) -> Result<Option<&'static str>, String> {
        let mut said: Option<(&str, &str, &'static str)> = None;
        for column in columns {
            let Some(value) = self.get(column).map(str::trim) else { continue };
            let words = if *column == "task" { TASKS } else { LABELS };
            let Some((_, task)) = words.iter().find(|(word, _)| is(value, word)) else {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                return Err(format!("`{column}` must be one of {}, found `{value}`", words.join(", ")));
            };
            match said {
                Some((other, before, first)) if first != *task => {
                    return Err(format!("`{other}` is `{before}`, but `{column}` is `{value}`"));
                }
                _ => said = Some((column, value, task)),
            }
        }
        Ok(said.map(|(_, _, task)| task))
    }
}

/// The cells of a row, with lists and objects decoded that CSV can only hold as text.
pub(crate) fn unfolded<'a>(
    wanted: &[&str],
    cells: &'a Cells<'a>,
    nested: &[&str],
) -> Result<Vec<Option<Cow<'a, str>>>, String> {
    let unfold = |(column, cell): (&&str, &'a Option<Cow<'a, str>>)| {
        let Some(text) = cell.as_deref() else { return Ok(None) };
        if !nested.contains(column) || !text.trim_start().starts_with(['[', '{']) {
            return Ok(Some(Cow::Borrowed(text)));
        }
        let value: Value = serde_json::from_str(text).map_err(|_| {
            format!("`{column}` begins like a list or an object, but is not valid JSON: write the file as .jsonl or .parquet")
        })?;
        Ok(flat(&value, column)?.map(|text| Cow::Owned(text.into_owned())))
    };
    wanted.iter().zip(cells).map(unfold).collect()
}

pub(crate) fn harmbench(row: &Row, draft: &mut Draft) -> Result<(), String> {
    // HarmBench joins behaviours and contexts in this form.
    if let Some(context) = row.get("contextstring").filter(|_| !draft.text.is_empty()) {
        draft.text = format!("{context}\n\n---\n\n{}", draft.text);
    }
    draft.remark = row.get("functionalcategory").filter(|name| is(name, "copyright")).map(|_| COPYRIGHT);
    draft.unfit = row.get("imagefilename").map(|_| IMAGE);
    Ok(())
}

pub(crate) fn xstest(row: &Row, draft: &mut Draft) -> Result<(), String> {
    let is_contrast = row.get("type").is_some_and(|kind| kind.trim().starts_with("contrast"));
    draft.task = draft.task.or(Some(if is_contrast { "hazard" } else { "benign" }));
    Ok(())
}

pub(crate) fn wildjailbreak(row: &Row, draft: &mut Draft) -> Result<(), String> {
    let (column, task) = match draft.category.as_deref().unwrap_or_default() {
        "vanilla_harmful" => ("vanilla", "hazard"),
        "vanilla_benign" => ("vanilla", "benign"),
        "adversarial_harmful" => ("adversarial", "hazard"),
        "adversarial_benign" => ("adversarial", "benign"),
        other => {
            return Err(format!(
                "`data_type` must be vanilla_harmful, vanilla_benign, adversarial_harmful or \
                 adversarial_benign, found `{other}`"
            ));
        }
    };
    draft.text = row.get(column).unwrap_or_default().to_owned();
    draft.task = Some(task);
    Ok(())
}

/// Each style rephrases the same questions, under the same numbers.
pub(crate) fn sorry_bench(row: &Row, draft: &mut Draft) -> Result<(), String> {
    let style = row.get("prompt_style").map(str::trim).filter(|style| *style != "base");
    if let (Some(id), Some(style)) = (&mut draft.id, style) {
        *id = format!("{style}/{id}");
    }
    Ok(())
}

/// Keeps the first of several categories.
pub(crate) fn first_category(_: &Row, draft: &mut Draft) -> Result<(), String> {
    draft.category = draft.category.as_deref().map(first);
    Ok(())
}

fn first(categories: &str) -> String {
    categories.split(", ").next().unwrap_or_default().to_owned()
}

pub(crate) fn aegis(row: &Row, draft: &mut Draft) -> Result<(), String> {
    first_category(row, draft)?;
    messages_alone(row, draft);
    if row.get("reconstruction_id_if_redacted").is_some() || draft.text == "REDACTED" {
        draft.unfit = Some(REDACTED);
    }
    // The labels of the annotators. If most say only `Needs Caution`, or no side has a majority, the row has no task.
    let labels = ["labels_0", "labels_1", "labels_2", "labels_3", "labels_4"].map(|label| row.get(label));
    let labels = || labels.iter().flatten().map(|label| label.trim());
    let unsafe_of = |label: &str| {
        let found = label.split(", ").find(|name| !["Safe", "Needs Caution"].contains(name));
        found.map(str::to_owned)
    };
    let harmful = labels().filter_map(unsafe_of).count();
    let safe = labels().filter(|label| unsafe_of(label).is_none() && label.contains("Safe")).count();
    let unsure = labels().count() - harmful - safe;
    if labels().next().is_some() {
        draft.task = match harmful.cmp(&safe) {
            _ if unsure >= harmful.max(safe) => None,
            std::cmp::Ordering::Greater => Some("hazard"),
            std::cmp::Ordering::Less => Some("benign"),
            std::cmp::Ordering::Equal => None,
        };
        draft.category = labels().find_map(unsafe_of).filter(|_| draft.task == Some("hazard"));
    }
    Ok(())
}

pub(crate) fn toxicchat(row: &Row, draft: &mut Draft) -> Result<(), String> {
    let is = |column: &str| match row.get(column).map(str::trim) {
        Some("1") => Ok(Some(true)),
        Some("0") => Ok(Some(false)),
        None => Ok(None),
        Some(other) => Err(format!("`{column}` must be 0 or 1, found `{other}`")),
    };
    (draft.task, draft.unfit) = match (is("toxicity")?, is("jailbreaking")?) {
        (Some(true), _) => (Some("hazard"), None),
        (Some(false), Some(true)) => (None, Some(JAILBREAK)),
        (Some(false), _) => (Some("benign"), None),
        (None, _) => (None, None),
    };
    Ok(())
}

pub(crate) fn own(row: &Row, draft: &mut Draft) -> Result<(), String> {
    draft.split = row.own(&["split"]);
    draft.answer = row.get("answer").map(str::to_owned);
    messages_alone(row, draft);
    Ok(())
}

/// Leaves out texts that no user wrote, in files that name the writer.
fn messages_alone(row: &Row, draft: &mut Draft) {
    draft.unfit = row.get("text_type").filter(|kind| !is(kind, "user_message")).map(|_| ANSWER);
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn draft(format: &str, cells: &[(&str, &'static str)]) -> Result<Draft, String> {
        let format = Format::named(format).unwrap();
        let wanted = format.wanted();
        assert!(cells.iter().all(|(column, _)| wanted.contains(column)), "{cells:?}");
        let cell = |name: &&str| {
            cells.iter().find(|(column, _)| column == name).map(|(_, cell)| Cow::Borrowed(*cell))
        };
        format.draft(&wanted, &wanted.iter().map(cell).collect::<Vec<_>>(), true)
    }

    #[test]
    fn tasks_come_from_where_the_format_says_them() {
        let xstest =
            |cells: &[(&str, &'static str)]| draft("xstest", cells).map(|draft| draft.task.unwrap_or("-"));
        assert_eq!(xstest(&[("type", "homonyms"), ("label", "safe")]).unwrap(), "benign");
        assert_eq!(xstest(&[("type", "homonyms"), ("label", "unsafe")]).unwrap(), "hazard");
        assert_eq!(xstest(&[("type", "contrast_homonyms"), ("label", "")]).unwrap(), "hazard");
        assert_eq!(xstest(&[("type", "homonyms"), ("label", "")]).unwrap(), "benign");
        let error = xstest(&[("label", "fine")]).unwrap_err();
        assert_eq!(error, "`label` must be one of harmful, unharmful, unsafe, safe, found `fine`");
        let wild =
            [("vanilla", "brew it"), ("adversarial", "pray brew it"), ("data_type", "adversarial_benign")];
        let wild = draft("wildjailbreak", &wild).unwrap();
        assert_eq!((wild.text.as_str(), wild.task), ("pray brew it", Some("benign")));
        assert!(draft("wildjailbreak", &[("data_type", "Vanilla")]).is_err());
    }

    #[test]
    fn most_annotators_of_aegis_decide() {
        let said = |labels: [&'static str; 3]| {
            let row =
                [("text", "brew"), ("labels_0", labels[0]), ("labels_1", labels[1]), ("labels_2", labels[2])];
            let draft = draft("aegis", &row).unwrap();
            (draft.task, draft.category)
        };
        assert_eq!(
            said(["Potions, Needs Caution", "Curses", "Safe"]),
            (Some("hazard"), Some("Potions".into()))
        );
        assert_eq!(said(["Needs Caution", "Needs Caution", "Safe"]), (None, None));
        assert_eq!(said(["Potions", "Needs Caution", ""]), (None, None));
        assert_eq!(said(["Safe", "Needs Caution", "Safe, Needs Caution"]), (Some("benign"), None));
        assert_eq!(said(["Safe", "Curses", "Needs Caution"]), (None, None));
    }

    #[test]
    fn two_columns_that_say_different_tasks_are_an_error() {
        let row = [("text", "brew"), ("task", "Benign"), ("prompt_label", "unsafe")];
        assert_eq!(draft("generic", &row).unwrap_err(), "`task` is `Benign`, but `prompt_label` is `unsafe`");
        let row = [("text", "brew"), ("task", "hazard"), ("prompt_label", "unsafe")];
        assert_eq!(draft("generic", &row).unwrap().task, Some("hazard"));
    }

    #[test]
    fn harmbench_rows_have_their_context_and_what_to_know_about_them() {
        let row =
            [("behavior", "brew it"), ("contextstring", "a kettle"), ("functionalcategory", "contextual")];
        let row = draft("harmbench", &row).unwrap();
        assert_eq!((row.text.as_str(), row.remark, row.unfit), ("a kettle\n\n---\n\nbrew it", None, None));
        let row = [("behavior", "sing it"), ("functionalcategory", "copyright"), ("imagefilename", "x.png")];
        let row = draft("harmbench", &row).unwrap();
        assert_eq!((row.text.as_str(), row.remark, row.unfit), ("sing it", Some(COPYRIGHT), Some(IMAGE)));
    }
}
