//! The rows of a file of another project: CSV, TSV, JSON, JSON Lines or Parquet, by its extension. It knows no dataset: callers
//! name the columns that they want and get their texts, row by row.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use arrow_schema::DataType;
use serde::de::{Deserialize, Error as _, MapAccess, Visitor};
use serde_json::{Deserializer, Map, Value};

use super::delimited::{self, Malformed, Row, Rows};
use super::{Error, Result};
use crate::{Head, Part, cell};
use store::read::{self, MAX_LIST_BYTES};

/// The wanted columns of one row, in the requested order; `None` for a missing value.
pub(crate) type Cells<'a> = [Option<Cow<'a, str>>];

/// Called with each row and its number: the line where it begins, or the row of a Parquet file, from 1.
pub(crate) type Visit<'a> = dyn FnMut(u32, &Cells) -> Result<()> + 'a;

/// Called with each object of a JSON file, the line where it begins and its source text. Returns whether to continue.
type VisitObject<'a> = dyn FnMut(u32, &Map<String, Value>, &[u8]) -> Result<bool> + 'a;

/// The most columns, or keys of the first object.
const MOST_COLUMNS: usize = 1_000;

pub(crate) struct Source {
    path: PathBuf,
    /// Names of the columns; for JSON, the keys of the first object.
    pub columns: Vec<String>,
    content: Content,
}

enum Content {
    /// The file is read again for its rows.
    Delimited(u8),
    Json(Vec<u8>),
    /// The file is read again for its rows.
    Parquet(Head),
}

impl Source {
    /// Opens a file and reads the names of its columns.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        Source::open_as(path, &ending)
    }

    /// Opens a file as if it had this extension.
    pub(crate) fn open_as(path: &Path, ending: &str) -> Result<Source> {
        let (columns, content) = match ending {
            "csv" => (header(path, b',')?, Content::Delimited(b',')),
            "tsv" => (header(path, b'\t')?, Content::Delimited(b'\t')),
            "json" | "jsonl" | "ndjson" => {
                let bytes = read::bytes(path, MAX_LIST_BYTES).map_err(|cause| cannot_open(path, cause))?;
                let mut columns = None;
                objects(path, &bytes, &mut |_, object, _| {
                    columns = Some(object.keys().cloned().collect());
                    Ok(false)
                })?;
                (columns.ok_or_else(|| empty(path))?, Content::Json(bytes))
            }
            "parquet" => {
                let table = crate::head(path)?;
                (table.columns.clone(), Content::Parquet(table))
            }
            other => {
                let (message, help) = match other {
                    "gz" | "xz" | "zst" | "bz2" | "zip" => ("it is compressed", "unpack it first"),
                    "txt" => {
                        let help = "convert it to a .jsonl file of objects such as {\"text\": \"…\"}, or to a .csv file with \
                                    `prompt` in its first line";
                        ("a .txt file does not mark where a prompt ends", help)
                    }
                    _ => {
                        let help = "its name must end in .csv, .tsv, .json, .jsonl, .ndjson or .parquet";
                        ("its file format is unknown", help)
                    }
                };
                return Err(wrong(path.display().to_string(), message, help));
            }
        };
        let source = Source { path: path.to_owned(), columns, content };
        source.ensure_distinct_columns()?;
        Ok(source)
    }

    /// The text before a row's number in the row's name.
    pub(crate) fn prefix(&self) -> String {
        let path = self.path.display();
        if matches!(self.content, Content::Parquet(_)) { format!("{path} row ") } else { format!("{path}:") }
    }

    fn place(&self, number: u32) -> String {
        format!("{}{number}", self.prefix())
    }

    /// The column of this name, ignoring case.
    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| is(column, name))
    }

    /// Visits all rows. Returns the names of the columns that are not wanted; for JSON, the keys of all objects.
    pub(crate) fn each(&self, wanted: &[&str], visit: &mut Visit) -> Result<Vec<String>> {
        let is_other =
            |name: &&String| !name.trim().is_empty() && !wanted.iter().any(|wanted| is(name, wanted));
        let mut keys = BTreeSet::new();
        match &self.content {
            Content::Delimited(delimiter) => self.delimited(*delimiter, wanted, visit)?,
            Content::Json(bytes) => objects(&self.path, bytes, &mut |line, object, written| {
                let cells: Vec<_> = wanted
                    .iter()
                    .map(|name| self.json(object, name, written, line))
                    .collect::<Result<_>>()?;
                visit(line, &cells)?;
                for key in object.keys().filter(is_other) {
                    if !keys.contains(key) {
                        keys.insert(key.clone());
                    }
                }
                Ok(true)
            })?,
            Content::Parquet(table) => {
                let positions: Vec<_> =
                    wanted.iter().map(|name| self.readable(table, name)).collect::<Result<_>>()?;
                let columns: Vec<usize> =
                    positions.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
                let mut number = 0;
                for batch in
                    crate::batches(&self.path, &Part { columns: &columns, skip: 0, rows: table.rows() })?
                {
                    let batch = batch?;
                    let array = |at: &usize| Some(batch.column(columns.binary_search(at).ok()?));
                    let arrays: Vec<_> = positions.iter().map(|at| at.as_ref().and_then(array)).collect();
                    for row in 0..batch.num_rows() {
                        number += 1;
                        let values: Vec<Value> = arrays
                            .iter()
                            .map(|array| array.map_or(Value::Null, |array| cell(array, row)))
                            .collect();
                        let cells: Vec<_> = wanted
                            .iter()
                            .zip(&values)
                            .map(|(name, value)| self.text(value, name, number))
                            .collect::<Result<_>>()?;
                        visit(number, &cells)?;
                    }
                }
            }
        }
        Ok(match self.content {
            Content::Json(_) => keys.into_iter().collect(),
            _ => self.columns.iter().filter(is_other).cloned().collect(),
        })
    }

    fn delimited(&self, delimiter: u8, wanted: &[&str], visit: &mut Visit) -> Result<()> {
        let positions: Vec<_> = wanted.iter().map(|name| self.column(name)).collect();
        let mut rows = rows(&self.path, delimiter)?;
        // The first row names the columns.
        next(&mut rows, &self.path)?;
        while let Some(Row { line, fields }) = next(&mut rows, &self.path)? {
            if fields.len() != self.columns.len() {
                return Err(Error::Wrong {
                    place: self.place(line),
                    message: format!(
                        "a row must have {1} fields, one for each column, found {0}",
                        fields.len(),
                        self.columns.len()
                    ),
                    help: "put quotes around a text with a comma, a tab or a line break".into(),
                });
            }
            let field = |at: usize| fields.get(at).map(|field| Cow::Borrowed(field.as_str()));
            let cells: Vec<_> = positions.iter().map(|at| at.and_then(field)).collect();
            visit(line, &cells)?;
        }
        Ok(())
    }

    /// The index of a Parquet column, if it has values. They must be of a type that `cell` can represent.
    fn readable(&self, table: &Head, name: &str) -> Result<Option<usize>> {
        let Some(at) = self.column(name) else { return Ok(None) };
        let is_text = |kind: &DataType| {
            matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean)
        };
        let kind = table.schema.field(at).data_type();
        let is_known = match kind {
            DataType::Null => return Ok(None),
            DataType::Float32 | DataType::Float64 => true,
            DataType::List(item) | DataType::LargeList(item) => is_text(item.data_type()),
            DataType::Struct(fields) => fields.iter().all(|field| *field.data_type() == DataType::Boolean),
            kind => is_text(kind) || kind.is_integer(),
        };
        match is_known {
            true => Ok(Some(at)),
            false => {
                let message = format!(
                    "column `{}` has the type {kind}, which cannot be read as text",
                    self.columns[at]
                );
                Err(wrong(self.path.display().to_string(), message, "write the column as text"))
            }
        }
    }

    /// The value of an object under a key, ignoring case, as text.
    fn json<'a>(
        &self,
        object: &'a Map<String, Value>,
        name: &str,
        written: &[u8],
        line: u32,
    ) -> Result<Option<Cow<'a, str>>> {
        let mut found = object.iter().filter(|(key, _)| is(key, name));
        let Some((key, value)) = found.next() else { return Ok(None) };
        if let Some((other, _)) = found.next() {
            let message = format!("keys must differ in more than case, found `{key}` and `{other}`");
            return Err(wrong(self.place(line), message, "rename one of them"));
        }
        let text = self.text(value, name, line)?;
        match text.as_deref().filter(|_| value.is_f64()) {
            Some(number) if !is_written(number, written) => {
                let message = format!("`{name}` is a number whose spelling would change");
                Err(wrong(self.place(line), message, "put quotes around it"))
            }
            _ => Ok(text),
        }
    }

    fn text<'a>(&self, value: &'a Value, column: &str, number: u32) -> Result<Option<Cow<'a, str>>> {
        flat(value, column).map_err(|message| wrong(self.place(number), message, "write one text a row"))
    }

    /// Checks that there are not too many columns, and no two of the same name.
    fn ensure_distinct_columns(&self) -> Result<()> {
        if self.columns.len() > MOST_COLUMNS {
            return Err(Error::Wrong {
                place: self.path.display().to_string(),
                message: format!("it must have at most {MOST_COLUMNS} columns, found {}", self.columns.len()),
                help: "remove the columns that do not belong to prompts".into(),
            });
        }
        for (at, name) in self.columns.iter().enumerate() {
            if let Some(other) = self.columns[..at].iter().find(|other| !name.is_empty() && is(other, name)) {
                return Err(Error::Wrong {
                    place: self.path.display().to_string(),
                    message: format!("columns must differ in more than case, found `{other}` and `{name}`"),
                    help: "rename one of them".into(),
                });
            }
        }
        Ok(())
    }
}

/// Whether two names mean the same column.
pub(crate) fn is(column: &str, name: &str) -> bool {
    column.trim().eq_ignore_ascii_case(name.trim())
}

fn rows(path: &Path, delimiter: u8) -> Result<Rows<BufReader<File>>> {
    let file = read::open(path).map_err(|cause| cannot_open(path, cause))?;
    Ok(Rows::new(BufReader::with_capacity(1 << 16, file), delimiter))
}

fn next(rows: &mut Rows<BufReader<File>>, path: &Path) -> Result<Option<Row>> {
    rows.next().map_err(|error| match error {
        delimited::Error::Io(cause) => cannot_open(path, cause),
        delimited::Error::Malformed(Malformed { line, message, help }) => Error::Wrong {
            place: format!("{}:{line}", path.display()),
            message: message.into(),
            help: help.into(),
        },
    })
}

fn header(path: &Path, delimiter: u8) -> Result<Vec<String>> {
    let first = next(&mut rows(path, delimiter)?, path)?.ok_or_else(|| empty(path))?;
    Ok(first.fields.iter().map(|name| name.trim().to_owned()).collect())
}

/// Converts a single value to text. A list of one text becomes that text, an object of booleans the names of the true ones.
pub(crate) fn flat<'a>(value: &'a Value, column: &str) -> std::result::Result<Option<Cow<'a, str>>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Cow::Borrowed(text))),
        Value::Number(_) | Value::Bool(_) => Ok(Some(Cow::Owned(value.to_string()))),
        Value::Array(items) => match &items[..] {
            [Value::String(text)] => Ok(Some(Cow::Borrowed(text))),
            items => Err(format!("`{column}` must be one text, found a list of {}", items.len())),
        },
        Value::Object(entries) => {
            let is_true = |(name, value): (&'a String, &Value)| match value {
                Value::Bool(is_true) => Some(Some(name.as_str()).filter(|_| *is_true)),
                _ => None,
            };
            match entries.iter().map(is_true).collect::<Option<Vec<_>>>() {
                Some(names) => {
                    Ok(Some(Cow::Owned(names.into_iter().flatten().collect::<Vec<_>>().join(", "))))
                }
                None => Err(format!("`{column}` must be one text, found an object")),
            }
        }
    }
}

/// Visits the objects of a JSON list, or of lines, until `visit` returns false.
fn objects(path: &Path, bytes: &[u8], visit: &mut VisitObject) -> Result<()> {
    let mut at = if bytes.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
    let (mut line, mut counted) = (1, 0);
    let skip_space = |at: &mut usize| {
        *at += bytes[*at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        bytes.get(*at).copied()
    };
    let is_list = skip_space(&mut at) == Some(b'[');
    at += usize::from(is_list);
    let mut is_first = true;
    while let Some(next) = skip_space(&mut at) {
        if is_list && next == b']' && is_first {
            at += 1;
            return nothing_more(path, bytes, at);
        }
        line += memchr::memchr_iter(b'\n', &bytes[counted..at]).count() as u32;
        counted = at;
        let mut values = Deserializer::from_slice(&bytes[at..]).into_iter::<Object>();
        let object = match values.next() {
            Some(Ok(Object(object))) => object,
            Some(Err(error)) => {
                let place = format!("{}:{}", path.display(), line + error.line() as u32 - 1);
                let help = "a .jsonl file must have one JSON object a line, a .json file a list of objects";
                return Err(wrong(place, format!("not a valid JSON object: {}", reason(&error)), help));
            }
            None => break,
        };
        let end = at + values.byte_offset();
        if !visit(line, &object, &bytes[at..end])? {
            return Ok(());
        }
        at = end;
        is_first = false;
        if is_list {
            match skip_space(&mut at) {
                Some(b',') => at += 1,
                Some(b']') => return nothing_more(path, bytes, at + 1),
                _ => return Err(unfinished(path)),
            }
        }
    }
    if is_list { Err(unfinished(path)) } else { Ok(()) }
}

/// Refuses text after a list, since it would not be read.
fn nothing_more(path: &Path, bytes: &[u8], end: usize) -> Result<()> {
    let Some(more) = bytes[end..].iter().position(|byte| !byte.is_ascii_whitespace()) else { return Ok(()) };
    let line = 1 + memchr::memchr_iter(b'\n', &bytes[..end + more]).count();
    let place = format!("{}:{line}", path.display());
    Err(wrong(place, "unexpected text after the list", "a .json file must be one list of objects"))
}

/// A JSON object without duplicate keys, of which all values but one would be lost.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Object, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Object, A::Error> {
        let mut object = Map::new();
        while let Some((key, value)) = entries.next_entry::<String, Value>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key `{key}` appears twice")));
            }
            object.insert(key, value);
        }
        Ok(Object(object))
    }
}

/// Whether a number appears in a text with exactly this spelling.
fn is_written(number: &str, text: &[u8]) -> bool {
    let is_part =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    memchr::memmem::find_iter(text, number).any(|at| {
        !is_part(at.checked_sub(1).map(|before| &text[before])) && !is_part(text.get(at + number.len()))
    })
}

/// The message of serde, without its own line number.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

fn cannot_open(path: &Path, cause: std::io::Error) -> Error {
    Error::Open { path: path.to_owned(), cause }
}

fn wrong(place: String, message: impl Into<String>, help: &str) -> Error {
    Error::Wrong { place, message: message.into(), help: help.into() }
}

fn empty(path: &Path) -> Error {
    let help = "the first line of a .csv or .tsv file must name its columns; a JSON file must have an object";
    wrong(path.display().to_string(), "it is empty", help)
}

fn unfinished(path: &Path) -> Error {
    wrong(path.display().to_string(), "its list is not closed", "it may be truncated; write or copy it again")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The line and the wanted texts of each row, or the error.
    fn read(
        name: &str,
        bytes: &[u8],
        wanted: &[&str],
    ) -> std::result::Result<Vec<(u32, Vec<String>)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let short = |error: Error| error.to_string().replace(&format!("{}/", folder.path().display()), "");
        let mut rows = Vec::new();
        Source::open(&path)
            .and_then(|source| {
                source.each(wanted, &mut |number, cells| {
                    let text = |cell: &Option<Cow<str>>| cell.as_deref().unwrap_or("-").to_owned();
                    rows.push((number, cells.iter().map(text).collect()));
                    Ok(())
                })
            })
            .map_err(short)?;
        Ok(rows)
    }

    fn rows(expected: &[(u32, &[&str])]) -> Vec<(u32, Vec<String>)> {
        expected.iter().map(|(line, texts)| (*line, texts.iter().map(|t| t.to_string()).collect())).collect()
    }

    #[test]
    fn rows_come_with_the_lines_where_they_begin() {
        let expected = rows(&[(2, &["brew\nglowvenom", "a"]), (4, &["say \"hush\"", "b"]), (5, &["", "c"])]);
        let csv = "Text,Other,ID\n\"brew\nglowvenom\",x,a\n\"say \"\"hush\"\"\",x,b\n,x,c\n";
        assert_eq!(read("a.csv", csv.as_bytes(), &["text", "id"]).unwrap(), expected);
        let marked = format!("\u{feff}{}", csv.trim_end());
        assert_eq!(read("a.csv", marked.as_bytes(), &["text", "id"]).unwrap(), expected);
        let tsv = csv.replace(',', "\t");
        assert_eq!(read("a.TSV", tsv.as_bytes(), &["text", "id"]).unwrap(), expected);
        let windows = read("a.csv", b"\r\ntext,id\r\nmix,a\r\n\r\nbrew,b\r\n", &["id"]).unwrap();
        assert_eq!(windows, rows(&[(3, &["a"]), (5, &["b"])]));

        let expected = rows(&[(2, &["brew", "7"]), (3, &["mix", "-"]), (5, &["-", "true"])]);
        let lines =
            "\n{\"text\": \"brew\", \"ID\": 7}\n{\"text\": \"mix\", \"id\": null}\n\n{\"id\": true}\n";
        assert_eq!(read("a.jsonl", lines.as_bytes(), &["text", "id"]).unwrap(), expected);
        let list = lines.replace("}\n", "},\n").replacen('\n', "[\n", 1);
        let list = list.trim_end().trim_end_matches(',').to_owned() + "]\n";
        assert_eq!(read("a.json", list.as_bytes(), &["text", "id"]).unwrap(), expected);
    }

    #[test]
    fn lists_of_one_text_and_things_that_are_true_are_texts() {
        let lines = r#"{"text": ["brew"], "id": {"locks": false, "potions": true, "curses": true}}
{"text": 0.5, "id": {}}"#;
        let expected = rows(&[(1, &["brew", "potions, curses"]), (2, &["0.5", ""])]);
        assert_eq!(read("a.jsonl", lines.as_bytes(), &["text", "id"]).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_json_file_are_read_whole_or_refused(
            bytes in proptest::collection::vec(proptest::sample::select(b"[]{}:,\"\n 1.ea\xc3\xa9".to_vec()), 0..24),
            whole in proptest::bool::ANY,
        ) {
            // Mostly nearly valid bytes.
            let bytes = if whole { [b"[{\"a\": \"", &bytes[..], b"\"}]"].concat() } else { bytes };
            let Ok(found) = read("a.json", &bytes, &["a"]) else { return Ok(()) };
            let value: Value = match serde_json::from_slice(&bytes) {
                Ok(value) => value,
                // Objects without a list around them.
                Err(_) => Deserializer::from_slice(&bytes).into_iter::<Value>().collect::<std::result::Result<_, _>>().unwrap(),
            };
            let objects = if let Value::Array(objects) = &value { objects.len() } else { 1 };
            prop_assert_eq!(found.len(), objects, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_line() {
        let big = [b"text\n".as_slice(), &b"brew glowvenom\n".repeat(9000), b"\xff\n"].concat();
        for (name, bytes, expected) in [
            ("a.csv", b"".as_slice(), "a.csv: it is empty"),
            ("a.json", b"[]", "a.json: it is empty"),
            (
                "a.txt",
                b"text\n",
                "a.txt: a .txt file does not mark where a prompt ends\n  help: convert it to a .jsonl file",
            ),
            ("a.xls", b"text\n", "a.xls: its file format is unknown"),
            ("a.csv", b"text,id\nbrew\n", "a.csv:2: a row must have 2 fields, one for each column, found 1"),
            (
                "a.csv",
                b"text,id\na,b\n\"brew,c\nmix,d\n",
                "a.csv:3: a quote that begins here is never closed",
            ),
            ("a.csv", b"text\nbrew\n\xff\n", "a.csv:3: a text of this row is not UTF-8"),
            ("b.csv", &big, "b.csv:9002: a text of this row is not UTF-8"),
            (
                "a.csv",
                b"text,Text\nbrew,c\n",
                "a.csv: columns must differ in more than case, found `text` and `Text`",
            ),
            (
                "a.jsonl",
                b"{\"text\": \"brew\"}\n{\"text\":\n",
                "a.jsonl:3: not a valid JSON object: EOF while parsing a value",
            ),
            (
                "a.jsonl",
                b"{\"text\": \"brew\"}\n[1]\n",
                "a.jsonl:2: not a valid JSON object: invalid type: sequence, expected a map",
            ),
            (
                "a.jsonl",
                b"{\"text\": [1]}\n",
                "a.jsonl:1: `text` must be one text, found a list of 1\n  help: write one text a row",
            ),
            (
                "a.jsonl",
                b"{\"text\": [\"brew\", \"mix\"]}\n",
                "a.jsonl:1: `text` must be one text, found a list of 2",
            ),
            (
                "a.jsonl",
                b"{\"text\": {\"brew\": 1}}\n",
                "a.jsonl:1: `text` must be one text, found an object",
            ),
            (
                "a.jsonl",
                b"{\"text\": \"a\", \"text\": \"b\"}\n",
                "a.jsonl:1: not a valid JSON object: the key `text` appears twice",
            ),
            (
                "a.jsonl",
                b"{}\n{\"text\": \"a\", \"Text\": \"b\"}\n",
                "a.jsonl:2: keys must differ in more than case, found `text` and `Text`",
            ),
            (
                "a.jsonl",
                b"{\"text\": 3.10}\n",
                "a.jsonl:1: `text` is a number whose spelling would change\n  help: put quotes around it",
            ),
            (
                "a.jsonl",
                b"{\"text\": 12345678901234567890123}\n",
                "a.jsonl:1: `text` is a number whose spelling",
            ),
            (
                "a.json",
                b"[{\"text\": \"brew\"}]\n{\"text\": \"mix\"}",
                "a.json:2: unexpected text after the list",
            ),
            ("a.json", b"[] x", "a.json:1: unexpected text after the list"),
            ("a.json", b"[", "a.json: its list is not closed"),
            ("a.jsonl.gz", b"", "a.jsonl.gz: it is compressed\n  help: unpack it first"),
            ("a.json", b"[{\"text\": \"brew\"}, ]", "a.json:1: not a valid JSON object: expected value"),
            ("a.json", b"[{\"text\": \"brew\"}\n", "a.json: its list is not closed"),
            ("a.parquet", b"PAR1", "a.parquet is not a readable Parquet file"),
        ] {
            let error = read(name, bytes, &["text"]).unwrap_err();
            assert!(error.starts_with(expected), "expected {expected}, not {error}");
        }
    }
}
