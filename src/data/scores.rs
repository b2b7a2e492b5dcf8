//! Scores that another program wrote: Parquet, JSON Lines or CSV, detected by the file's first bytes.

use std::io::Read;
use std::path::Path;

use super::import::source::Source;
use super::import::{Error, Result};
use super::rows::ScoreRow;
use store::read;

/// Reads a file of scores with the columns or keys `sample` and `value`.
pub fn scores(path: &Path) -> Result<Vec<ScoreRow>> {
    let open = |cause| Error::Open { path: path.to_owned(), cause };
    if super::is_parquet(path).map_err(open)? {
        return Ok(super::read::<ScoreRow>(path)?);
    }
    let mut start = Vec::new();
    read::open(path).and_then(|file| file.take(64).read_to_end(&mut start)).map_err(open)?;
    if start.is_empty() {
        return Ok(Vec::new());
    }
    let is_json = start.trim_ascii_start().starts_with(b"{");
    let source = Source::open_as(path, if is_json { "jsonl" } else { "csv" })?;
    let wrong = |place: String, message: String| {
        let help = "write a `sample` and a `value` for each completion, as {\"sample\": 0, \"value\": 0.5} or as columns of a CSV file";
        Error::Wrong { place, message, help: help.into() }
    };
    let has = |name: &str| source.columns.iter().any(|column| column == name);
    if let Some(missing) = ["sample", "value"].into_iter().find(|name| !has(name)) {
        return Err(wrong(
            path.display().to_string(),
            format!("it has no {} `{missing}`", if is_json { "key" } else { "column" }),
        ));
    }
    let mut rows = Vec::new();
    source.each(&["sample", "value"], &mut |line, cells| {
        let text = |at: usize| {
            cells.get(at).and_then(Option::as_deref).map(str::trim).filter(|text| !text.is_empty())
        };
        let place = || format!("{}{line}", source.prefix());
        let sample = text(0).unwrap_or_default();
        let sample = sample.parse().map_err(|_| {
            wrong(place(), format!("`sample` must be the number of a completion, found `{sample}`"))
        })?;
        let value = |text: &str| match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(wrong(place(), format!("`value` must be a number or empty, found `{text}`"))),
        };
        rows.push(ScoreRow { sample, value: text(1).map(value).transpose()? });
        Ok(())
    })?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_as_any_program_writes_them_and_what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            scores(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "F"))
        };
        let expected = vec![ScoreRow { sample: 0, value: Some(0.5) }, ScoreRow { sample: 3, value: None }];
        assert_eq!(read("sample,value\n0,0.5\n3,\n").unwrap(), expected);
        assert_eq!(read("value,note,sample\r\n0.5,x,0\r\n,y,3\r\n").unwrap(), expected);
        let json = "{\"sample\": 0, \"value\": 0.5}\n{\"value\": null, \"sample\": 3}\n";
        assert_eq!(read(json).unwrap(), expected);
        crate::write(&path, &expected).unwrap();
        assert_eq!(scores(&path).unwrap(), expected);
        assert_eq!(read("").unwrap(), []);
        let said = |text: &str| read(text).unwrap_err().lines().next().unwrap().to_owned();
        assert_eq!(said("sample,score\n0,1\n"), "F: it has no column `value`");
        assert_eq!(
            said("sample,value\n0,1\n1,high\n"),
            "F:3: `value` must be a number or empty, found `high`"
        );
        assert_eq!(said("sample,value\n0,nan\n"), "F:2: `value` must be a number or empty, found `nan`");
        assert_eq!(
            said("sample,value\n-1,1\n"),
            "F:2: `sample` must be the number of a completion, found `-1`"
        );
        assert_eq!(said("{\"value\": 1}\n"), "F: it has no key `sample`");
        assert_eq!(said("{\"sample\": 0, \"score\": 1}\n"), "F: it has no key `value`");
    }
}
