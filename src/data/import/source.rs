//! The rows of a file that somebody else made: CSV, TSV, JSON, JSON Lines or Parquet, by the ending of its name.
//! Knows no dataset: who reads says which columns are wanted and gets their texts, row by row.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use arrow_schema::DataType;
use serde_json::{Deserializer, Map, Value};

use super::delimited::{self, Malformed, Row, Rows};
use super::{Error, Result};
use crate::{Head, Part, cell};
use store::read::{self, MOST_LIST};

/// The wanted columns of one row, in the order in which they were asked for; `None` where there is no value.
pub type Cells<'a> = [Option<Cow<'a, str>>];

/// What is done with a row and its number: the line where it begins, or the row of a Parquet file, from 1.
pub type Visit<'a> = dyn FnMut(u32, &Cells) -> Result<()> + 'a;

/// What is done with an object of a JSON file and the line where it begins; whether to go on.
type VisitObject<'a> = dyn FnMut(u32, &Map<String, Value>) -> Result<bool> + 'a;

/// Columns, or keys of the first object, at the most.
const MOST_COLUMNS: usize = 1_000;

pub struct Source {
    path: PathBuf,
    /// Names of the columns; of JSON, the keys of the first object.
    pub columns: Vec<String>,
    content: Content,
}

enum Content {
    /// Read again for its rows.
    Delimited(u8),
    Json(Vec<u8>),
    /// Read again for its rows.
    Parquet(Head),
}

impl Source {
    /// Opens a file and finds its columns.
    pub fn open(path: &Path) -> Result<Source> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        let (columns, content) = match ending.as_str() {
            "csv" => (header(path, b',')?, Content::Delimited(b',')),
            "tsv" => (header(path, b'\t')?, Content::Delimited(b'\t')),
            "json" | "jsonl" | "ndjson" => {
                let bytes = read::bytes(path, MOST_LIST).map_err(|cause| cannot_open(path, cause))?;
                let mut columns = None;
                objects(path, &bytes, &mut |_, object| {
                    columns = Some(object.keys().cloned().collect());
                    Ok(false)
                })?;
                (columns.ok_or_else(|| empty(path))?, Content::Json(bytes))
            }
            "parquet" => {
                let table = crate::head(path)?;
                (table.columns.clone(), Content::Parquet(table))
            }
            _ => {
                return Err(Error::Wrong {
                    place: path.display().to_string(),
                    message: "its name does not say what it is".into(),
                    help: "files end in .csv, .tsv, .json, .jsonl, .ndjson or .parquet".into(),
                });
            }
        };
        let source = Source { path: path.to_owned(), columns, content };
        source.no_column_twice()?;
        Ok(source)
    }

    /// What stands before a row's number where the row is named.
    pub fn prefix(&self) -> String {
        let path = self.path.display();
        if matches!(self.content, Content::Parquet(_)) { format!("{path} row ") } else { format!("{path}:") }
    }

    fn place(&self, number: u32) -> String {
        format!("{}{number}", self.prefix())
    }

    /// The column of this name, in whatever case.
    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| is(column, name))
    }

    /// Goes through all rows. The names of the columns that are not wanted; of JSON, the keys of any object.
    pub fn each(&self, wanted: &[&str], visit: &mut Visit) -> Result<Vec<String>> {
        let is_other =
            |name: &&String| !name.trim().is_empty() && !wanted.iter().any(|wanted| is(name, wanted));
        let mut keys = BTreeSet::new();
        match &self.content {
            Content::Delimited(delimiter) => self.delimited(*delimiter, wanted, visit)?,
            Content::Json(bytes) => objects(&self.path, bytes, &mut |line, object| {
                let value =
                    |name: &&str| object.iter().find(|(key, _)| is(key, name)).map(|(_, value)| value);
                let cells: Vec<_> = wanted
                    .iter()
                    .map(|name| value(name).map_or(Ok(None), |value| self.text(value, name, line)))
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
        // The first names the columns.
        next(&mut rows, &self.path)?;
        while let Some(Row { line, fields }) = next(&mut rows, &self.path)? {
            if fields.len() != self.columns.len() {
                return Err(Error::Wrong {
                    place: self.place(line),
                    message: format!("{} fields, but there are {} columns", fields.len(), self.columns.len()),
                    help: "put quotes around a text with a comma, a tab or a line break".into(),
                });
            }
            let field = |at: usize| fields.get(at).map(|field| Cow::Borrowed(field.as_str()));
            let cells: Vec<_> = positions.iter().map(|at| at.and_then(field)).collect();
            visit(line, &cells)?;
        }
        Ok(())
    }

    /// Where a column of a Parquet file is, if it has values; they have to be of a type that `cell` knows.
    fn readable(&self, table: &Head, name: &str) -> Result<Option<usize>> {
        let Some(at) = self.column(name) else { return Ok(None) };
        match table.schema.field(at).data_type() {
            DataType::Null => Ok(None),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean => Ok(Some(at)),
            kind if kind.is_integer() => Ok(Some(at)),
            DataType::Float32 | DataType::Float64 => Ok(Some(at)),
            kind => Err(Error::Wrong {
                place: self.path.display().to_string(),
                message: format!("column `{}` is {kind}", self.columns[at]),
                help: "write it as a text".into(),
            }),
        }
    }

    /// A single value as text.
    fn text<'a>(&self, value: &'a Value, column: &str, number: u32) -> Result<Option<Cow<'a, str>>> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(Cow::Borrowed(text))),
            Value::Number(_) | Value::Bool(_) => Ok(Some(Cow::Owned(value.to_string()))),
            Value::Array(_) | Value::Object(_) => Err(Error::Wrong {
                place: self.place(number),
                message: format!("`{column}` is a list or an object"),
                help: "it has to be a text".into(),
            }),
        }
    }

    /// Nor more of them than a file of prompts has.
    fn no_column_twice(&self) -> Result<()> {
        if self.columns.len() > MOST_COLUMNS {
            return Err(Error::Wrong {
                place: self.path.display().to_string(),
                message: format!("it must have at most {MOST_COLUMNS} columns, found {}", self.columns.len()),
                help: "leave those out that are not of prompts".into(),
            });
        }
        for (at, name) in self.columns.iter().enumerate() {
            if let Some(other) = self.columns[..at].iter().find(|other| !name.is_empty() && is(other, name)) {
                return Err(Error::Wrong {
                    place: self.path.display().to_string(),
                    message: format!("it has the columns `{other}` and `{name}`"),
                    help: "rename one of them".into(),
                });
            }
        }
        Ok(())
    }
}

/// Whether two names are the same column.
pub fn is(column: &str, name: &str) -> bool {
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

/// Goes through the objects of a JSON list, or of lines; with each the line where it begins, until `visit` says
/// that it has seen enough.
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
            break;
        }
        line += memchr::memchr_iter(b'\n', &bytes[counted..at]).count() as u32;
        counted = at;
        let mut values = Deserializer::from_slice(&bytes[at..]).into_iter::<Map<String, Value>>();
        let object = match values.next() {
            Some(Ok(object)) => object,
            Some(Err(error)) => {
                return Err(Error::Wrong {
                    place: format!("{}:{}", path.display(), line + error.line() as u32 - 1),
                    message: format!("{}, not an object with a prompt", reason(&error)),
                    help: "a .jsonl file has one JSON object a line, a .json file a list of them".into(),
                });
            }
            None => break,
        };
        at += values.byte_offset();
        if !visit(line, &object)? {
            return Ok(());
        }
        is_first = false;
        if is_list {
            match skip_space(&mut at) {
                Some(b',') => at += 1,
                Some(b']') => break,
                _ => return Err(unfinished(path)),
            }
        }
    }
    Ok(())
}

/// What serde says, without its own count of lines.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

fn cannot_open(path: &Path, cause: std::io::Error) -> Error {
    Error::Open { path: path.to_owned(), cause }
}

fn empty(path: &Path) -> Error {
    Error::Wrong {
        place: path.display().to_string(),
        message: "it is empty".into(),
        help: "the first line of a .csv or .tsv file names its columns, a JSON object its values".into(),
    }
}

fn unfinished(path: &Path) -> Error {
    Error::Wrong {
        place: path.display().to_string(),
        message: "its list does not end".into(),
        help: "it may be cut short; make or copy it again".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line and wanted texts of each row, or what is wrong.
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
    fn what_cannot_be_read_is_said_with_its_line() {
        let big = [b"text\n".as_slice(), &b"brew glowvenom\n".repeat(9000), b"\xff\n"].concat();
        for (name, bytes, expected) in [
            ("a.csv", b"".as_slice(), "a.csv: it is empty"),
            ("a.json", b"[]", "a.json: it is empty"),
            ("a.txt", b"text\n", "a.txt: its name does not say what it is"),
            ("a.csv", b"text,id\nbrew\n", "a.csv:2: 1 fields, but there are 2 columns"),
            (
                "a.csv",
                b"text,id\na,b\n\"brew,c\nmix,d\n",
                "a.csv:3: a quote that begins here is never closed",
            ),
            ("a.csv", b"text\nbrew\n\xff\n", "a.csv:3: a text of this row is not UTF-8"),
            ("b.csv", &big, "b.csv:9002: a text of this row is not UTF-8"),
            ("a.csv", b"text,Text\nbrew,c\n", "a.csv: it has the columns `text` and `Text`"),
            ("a.jsonl", b"{\"text\": \"brew\"}\n{\"text\":\n", "a.jsonl:3: EOF while parsing a value, not"),
            (
                "a.jsonl",
                b"{\"text\": \"brew\"}\n[1]\n",
                "a.jsonl:2: invalid type: sequence, expected a map, not",
            ),
            ("a.jsonl", b"{\"text\": [1]}\n", "a.jsonl:1: `text` is a list or an object"),
            ("a.json", b"[{\"text\": \"brew\"}, ]", "a.json:1: expected value, not"),
            ("a.json", b"[{\"text\": \"brew\"}\n", "a.json: its list does not end"),
            ("a.parquet", b"PAR1", "a.parquet is not a readable Parquet file"),
        ] {
            let error = read(name, bytes, &["text"]).unwrap_err();
            assert!(error.starts_with(expected), "expected {expected}, not {error}");
        }
    }
}
