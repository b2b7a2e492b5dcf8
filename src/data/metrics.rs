//! Metrics that another program wrote: Parquet, JSON or CSV, detected by the content.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use serde_json::{Deserializer, Value};

use super::column::Column;
use super::import::source::Source;
use super::import::{Error, Result};
use super::parquet::{Table, head, is_parquet, open, read};
use super::rows::{MetricRow, Position};
use store::read::{MAX_PARTS_BYTES, text};

/// The key or column that numbers the points of a curve.
const STEP: &str = "step";

/// The columns of a table with a row for each metric; `phase`, `subject`, `count` and `step` may be missing.
const LONG: [&str; 2] = ["metric", "value"];

/// The phase of metrics without a step.
const RESULT: &str = "result";

/// Reads a file of metrics. JSON is an object of numbers, whose nested keys are joined by dots, or a list or lines of such
/// objects, each with a `step`. CSV and Parquet have a metric in each column and a row for each `step`, or a row for each metric
/// with the columns `metric` and `value`. Parquet with all columns of [`MetricRow`] is read as it is. `subject` is that of metrics
/// that name none.
pub fn metrics(path: &Path, subject: &str) -> Result<Vec<MetricRow>> {
    rows(path, form(path)?, subject)
}

fn rows(path: &Path, form: Form, subject: &str) -> Result<Vec<MetricRow>> {
    let mut records = match form {
        Form::Rows => {
            let mut rows = read::<MetricRow>(path)?;
            rows.retain(|row| row.value.is_finite());
            return Ok(rows);
        }
        Form::Parquet => table(path, "parquet")?,
        Form::Text(content) if content.trim_start().starts_with(['{', '[']) => json(path, &content)?,
        Form::Text(_) => table(path, "csv")?,
    };
    let file = || path.display().to_string();
    if records.len() > 1
        && let Some(record) = records.iter().find(|record| record.step.is_none() && !record.is_long)
    {
        let message =
            format!("`{STEP}` must be given, since there are {} records; found none", records.len());
        return Err(wrong(record.place.clone(), message));
    }
    // A curve is in the order of its steps.
    records.sort_by_key(|record| record.step);
    let (mut rows, mut known) = (Vec::new(), HashSet::new());
    for record in &records {
        for (name, value) in &record.values {
            let (own, metric) = match &record.subject {
                Some(own) => (own.as_str(), name.as_str()),
                None => name.rsplit_once('.').unwrap_or((subject, name)),
            };
            let phase = match (record.step, &record.phase) {
                (Some(step), Some(phase)) => format!("{phase} {STEP} {step}"),
                (Some(step), None) => format!("{STEP} {step}"),
                (None, phase) => phase.clone().unwrap_or_else(|| RESULT.to_owned()),
            };
            if !known.insert((phase.clone(), own, metric)) {
                let message = format!("`{metric}` of `{own}` must have one value in `{phase}`, found two");
                return Err(wrong(record.place.clone(), message));
            }
            rows.push(MetricRow {
                phase,
                subject: own.to_owned(),
                metric: metric.to_owned(),
                value: *value,
                count: record.count,
                at: Position { iteration: 0, step: 0, rng_seed: String::new() },
            });
        }
    }
    match rows.is_empty() && !records.iter().any(|record| record.is_unknown) {
        true => Err(wrong(file(), "there must be a number, found none".into())),
        false => Ok(rows),
    }
}

/// The same as a table of Arrow batches.
pub fn metrics_table(path: &Path, subject: &str) -> Result<Table> {
    match form(path)? {
        Form::Rows => Ok(open(path)?),
        form => Ok(Table::of(path, &rows(path, form, subject)?)?),
    }
}

/// The form of a file.
enum Form {
    /// Parquet with the columns of [`MetricRow`].
    Rows,
    Parquet,
    Text(String),
}

fn form(path: &Path) -> Result<Form> {
    let fail = |cause| Error::Open { path: path.to_owned(), cause };
    if !is_parquet(path).map_err(fail)? {
        return Ok(Form::Text(text(path, MAX_PARTS_BYTES).map_err(fail)?));
    }
    let columns = head(path)?.columns;
    let mut own = Vec::new();
    MetricRow::fields("", "", &mut own);
    let is_whole = own.iter().all(|field| columns.contains(field.name()));
    Ok(if is_whole { Form::Rows } else { Form::Parquet })
}

fn wrong(place: String, message: String) -> Error {
    let help = "write {\"loss\": 0.5, \"val\": {\"loss\": 0.6}}, or with `step` an object a line or a row of a CSV file for each step";
    Error::Wrong { place, message, help: help.into() }
}

/// What one object or row says.
struct Record {
    place: String,
    step: Option<u64>,
    phase: Option<String>,
    subject: Option<String>,
    count: u64,
    /// Whether it is one metric of several in its phase.
    is_long: bool,
    values: Vec<(String, f64)>,
    /// Whether it names a metric whose value is not known, such as `NaN`.
    is_unknown: bool,
}

impl Record {
    fn new(place: String) -> Record {
        let (step, phase, subject) = (None, None, None);
        Record {
            place,
            step,
            phase,
            subject,
            count: 1,
            is_long: false,
            values: Vec::new(),
            is_unknown: false,
        }
    }

    /// Adds a value. One that is not finite is not known.
    fn add(&mut self, name: &str, value: f64) {
        match value.is_finite() {
            true => self.values.push((name.to_owned(), value)),
            false => self.is_unknown = true,
        }
    }
}

/// The objects of a file: one, a list, or one after the other.
fn json(path: &Path, content: &str) -> Result<Vec<Record>> {
    let mut objects = Vec::new();
    for (index, value) in Deserializer::from_str(&without_nan(content)).into_iter::<Value>().enumerate() {
        let value = value.map_err(|error| {
            let place = format!("{}:{}:{}", path.display(), error.line(), error.column());
            wrong(place, format!("must be JSON, found an error: {error}"))
        })?;
        match value {
            Value::Array(items) if index == 0 => objects.extend(items),
            other => objects.push(other),
        }
    }
    let record = |(index, value): (usize, Value)| {
        let place = format!("{}: record {}", path.display(), index + 1);
        let Value::Object(mut object) = value else {
            return Err(wrong(place, format!("must be an object of numbers, found {value}")));
        };
        let mut record = Record::new(place);
        if let Some(step) = object.remove(STEP) {
            let found = step.as_u64().or_else(|| step.as_f64().and_then(|step| whole(&step.to_string())));
            let place = record.place.clone();
            let error = || wrong(place, format!("`{STEP}` must be a whole number from 0, found {step}"));
            record.step = Some(found.ok_or_else(error)?);
        }
        flatten("", &Value::Object(object), &mut record);
        Ok(record)
    };
    objects.into_iter().enumerate().map(record).collect()
}

/// The same text with `null` for the `NaN` and `Infinity` that Python writes outside of texts, padded so that places stay.
fn without_nan(content: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS.iter().any(|word| content.contains(word)) {
        return content.into();
    }
    let (mut kept, mut rest, mut in_text) = (String::with_capacity(content.len() + 16), content, false);
    while let Some(next) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !in_text && rest.starts_with(**word));
        let length = match (word, next) {
            (Some(word), _) => {
                kept += &format!("{:1$}", "null", word.len());
                word.len()
            }
            // An escaped character does not end a text.
            (None, '\\') if in_text => {
                let length = 1 + rest.chars().nth(1).map_or(0, char::len_utf8);
                kept += &rest[..length];
                length
            }
            (None, next) => {
                in_text ^= next == '"';
                kept.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    kept.into()
}

/// Takes the numbers below a value, by their keys. Texts and lists are no metrics.
fn flatten(name: &str, value: &Value, record: &mut Record) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, record);
            }
        }
        Value::Bool(is) => record.add(name, f64::from(u8::from(*is))),
        Value::Number(number) => record.add(name, number.as_f64().unwrap_or(f64::NAN)),
        Value::Null => record.is_unknown = true,
        Value::String(_) | Value::Array(_) => {}
    }
}

/// A whole number, also as `12.0`.
fn whole(text: &str) -> Option<u64> {
    text.trim().strip_suffix(".0").unwrap_or(text.trim()).parse().ok()
}

/// The rows of a CSV or Parquet file.
fn table(path: &Path, ending: &str) -> Result<Vec<Record>> {
    let source = Source::open_as(path, ending)?;
    let columns: Vec<&str> = source.columns.iter().map(String::as_str).collect();
    let is_long = LONG.iter().all(|name| columns.contains(name));
    if columns.contains(&LONG[0]) && !is_long {
        let message = "it must have the columns `metric` and `value`, and may have `subject`, `phase`, `count` and `step`; \
                       found no `value`";
        return Err(wrong(path.display().to_string(), message.into()));
    }
    let mut records = Vec::new();
    source.each(&columns, &mut |line, cells| {
        let place = || format!("{}{line}", source.prefix());
        let mut record = Record { is_long, ..Record::new(place()) };
        let mut metric = String::new();
        for (column, cell) in columns.iter().zip(cells) {
            let Some(cell) = cell.as_deref().map(str::trim).filter(|cell| !cell.is_empty()) else { continue };
            let number = |what: &str| {
                whole(cell).ok_or_else(|| {
                    wrong(place(), format!("`{what}` must be a whole number from 0, found `{cell}`"))
                })
            };
            match *column {
                STEP => record.step = Some(number(STEP)?),
                "metric" if is_long => metric = cell.to_owned(),
                "phase" if is_long => record.phase = Some(cell.to_owned()),
                "subject" if is_long => record.subject = Some(cell.to_owned()),
                "count" if is_long => record.count = number("count")?,
                "value" if is_long => {
                    let value = cell.parse();
                    let error =
                        |_| wrong(place(), format!("`value` must be a number or empty, found `{cell}`"));
                    record.add("", value.map_err(error)?);
                }
                // A column of texts is no metric, and a value that is not finite is not known.
                _ if !is_long => {
                    if let Ok(value) = cell.parse() {
                        record.add(column, value);
                    }
                }
                _ => {}
            }
        }
        if is_long && metric.is_empty() {
            return Err(wrong(place(), "`metric` must be a name, found none".into()));
        }
        record.values.iter_mut().filter(|_| is_long).for_each(|(name, _)| name.clone_from(&metric));
        records.push(record);
        Ok(())
    })?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        std::fs::write(&path, content).unwrap();
        let line = |row: MetricRow| {
            format!("{}: {}.{} {} {}", row.phase, row.subject, row.metric, row.value, row.count)
        };
        Ok(metrics(&path, "own")?.into_iter().map(line).collect())
    }

    #[test]
    fn numbers_are_read_from_every_form() {
        assert_eq!(
            read(r#"{"loss": 0.5, "model": "m", "val": {"loss": 1e-3, "top": {"k": 2}}, "ok": true, "none": null}"#).unwrap(),
            ["result: own.loss 0.5 1", "result: val.loss 0.001 1", "result: val.top.k 2 1", "result: own.ok 1 1"]
        );
        let curve = ["step 1: own.loss 2 1", "step 2: own.loss 1 1"];
        assert_eq!(read("{\"step\": 1, \"loss\": 2}\n{\"step\": 2.0, \"loss\": 1}\n").unwrap(), curve);
        assert_eq!(read(r#"[{"step": 1, "loss": 2}, {"step": 2, "loss": 1}]"#).unwrap(), curve);
        assert_eq!(read("step,loss,note\n1,2,a\n2,1,\n").unwrap(), curve);
        assert_eq!(
            read("metric,value,subject,phase,count\nf1,0.5,en,,20\nf1,0.25,de,late,\n").unwrap(),
            ["result: en.f1 0.5 20", "late: de.f1 0.25 1"]
        );
        assert_eq!(
            read("metric,value,subject,phase,step\ntrain.loss,1,m,warm,1\nval.loss,9,m,,1\nval.loss,8,,,2\n")
                .unwrap(),
            ["warm step 1: m.train.loss 1 1", "step 1: m.val.loss 9 1", "step 2: val.loss 8 1"]
        );
        assert_eq!(
            read(r#"{"loss": NaN, "note": "NaN \" NaN", "bound": -Infinity, "rate": 1}"#).unwrap(),
            ["result: own.rate 1 1"],
            "what diverged is not known"
        );
        assert_eq!(read("step,loss,note\n1,nan,inf\n2,1,\n").unwrap(), ["step 2: own.loss 1 1"]);
        assert_eq!(read(r#"{"loss": NaN}"#).unwrap(), [] as [&str; 0], "nor does it fail alone");
        assert_eq!(read("metric,value\nf1,nan\nloss,inf\nrate,1\n").unwrap(), ["result: own.rate 1 1"]);
        let unsorted = read("step,loss\n10,1\n2,3\n").unwrap();
        assert_eq!(unsorted, ["step 2: own.loss 3 1", "step 10: own.loss 1 1"], "a curve is in order");
        let twice = read(r#"{"val.loss": 1, "val": {"loss": 2}}"#).unwrap_err().to_string();
        assert!(twice.contains("`loss` of `val` must have one value in `result`, found two"), "{twice}");
    }

    #[test]
    fn parquet_of_other_programs_is_read_as_csv_is() {
        use arrow_array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
        use std::sync::Arc;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let values: ArrayRef = Arc::new(Float32Array::from(vec![0.5, 0.25]));
        let read = |columns: Vec<(&str, ArrayRef)>| {
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let mut writer = crate::TableWriter::create(&path, "t", batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let line =
                |row: MetricRow| format!("{}: {}.{} {}", row.phase, row.subject, row.metric, row.value);
            metrics(&path, "own").map(|rows| rows.into_iter().map(line).collect::<Vec<_>>())
        };
        let steps: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let wide = read(vec![("step", steps.clone()), ("loss", values.clone())]).unwrap();
        assert_eq!(wide, ["step 1: own.loss 0.5", "step 2: own.loss 0.25"]);
        let names: ArrayRef = Arc::new(StringArray::from(vec!["f1", "recall"]));
        let long = read(vec![("metric", names.clone()), ("value", values)]).unwrap();
        assert_eq!(long, ["result: own.f1 0.5", "result: own.recall 0.25"]);
        let error = read(vec![("metric", names), ("score", steps)]).unwrap_err().to_string();
        let expected = "it must have the columns `metric` and `value`, and may have `subject`, `phase`, `count` and `step`; found no `value`";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_no_metric_is_named_by_its_place() {
        for (content, expected) in [
            ("{\"loss\": }", "m:1:10: must be JSON, found an error"),
            ("{\"model\": \"m\"}", "m: there must be a number, found none"),
            ("[1, 2]", "m: record 1: must be an object of numbers, found 1"),
            (
                "{\"loss\": 1}\n{\"loss\": 2}",
                "record 1: `step` must be given, since there are 2 records; found none",
            ),
            ("{\"step\": -1, \"loss\": 2}", "record 1: `step` must be a whole number from 0, found -1"),
            ("metric,value\nf1,high\n", "m:2: `value` must be a number or empty, found `high`"),
            ("metric,value\n,1\n", "m:2: `metric` must be a name, found none"),
        ] {
            let error = read(content).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
