//! A table for a terminal: columns are padded to their widest cell and shortened until they fit.

use output::{fixed, one_line};
use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The most columns of a cell, if there is space.
const CELL: usize = 60;

/// Text columns are not shortened below this.
const LEAST: usize = 16;

/// The space between columns.
const GAP: usize = 2;

/// Headings and cells as they are displayed.
pub(crate) struct Grid {
    headings: Vec<String>,
    /// Numbers are right-aligned and never shortened: a part of a number is another number.
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// A table with these headings, each with whether its values are numbers.
    pub(crate) fn new<'h>(headings: impl Iterator<Item = (&'h str, bool)>) -> Grid {
        let (headings, numeric) =
            headings.map(|(name, numeric)| (one_line(name).into_owned(), numeric)).unzip();
        Grid { headings, numeric, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, cells: impl Iterator<Item = Value>) {
        self.rows.push(cells.map(|value| shown(&value)).collect());
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Lines of at most `width` columns, unless one column is wider, and the headings of columns that do not fit.
    pub(crate) fn lines(&self, width: usize) -> (Vec<String>, &[String]) {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].width());
                cells.chain([self.headings[column].width()]).max().unwrap_or(0)
            })
            .collect();
        let widths = self.fitted(&widths, width);
        let line = |cells: &[String]| {
            let padded = widths.iter().enumerate().map(|(column, width)| {
                let text = cut(&cells[column], *width);
                let pad = " ".repeat(width.saturating_sub(text.width()));
                if self.numeric[column] { pad + &text } else { text + &pad }
            });
            padded.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_owned()
        };
        let lines = std::iter::once(&self.headings).chain(&self.rows).map(|cells| line(cells)).collect();
        (lines, &self.headings[widths.len()..])
    }

    /// The widths of the displayed columns: all with the longest cells shortened, or as many as fit.
    fn fitted(&self, natural: &[usize], width: usize) -> Vec<usize> {
        let capped = |cap: usize| -> Vec<usize> {
            let of = |(column, natural): (usize, &usize)| {
                if self.numeric[column] { *natural } else { (*natural).min(cap) }
            };
            natural.iter().enumerate().map(of).collect()
        };
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        let fitting = (LEAST..=CELL).rev().map(capped).find(|widths| total(widths) <= width);
        fitting.unwrap_or_else(|| {
            let mut widths = capped(LEAST);
            while widths.len() > 1 && total(&widths) > width {
                widths.pop();
            }
            widths
        })
    }
}

/// A value on one line.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => one_line(text).into_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Number(number) if number.is_f64() => number.as_f64().map_or(String::new(), short),
        other => other.to_string(),
    }
}

/// A number with four decimals, or in scientific notation if that would hide it.
fn short(number: f64) -> String {
    if number != 0.0 && (number.abs() < 1e-3 || number.abs() >= 1e12) {
        return format!("{number:.3e}");
    }
    fixed(number, 4).trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 1;
    let kept = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used <= width
    });
    kept.collect::<String>() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(rows: &[[&str; 3]]) -> Grid {
        let mut grid = Grid::new([("run", false), ("text", false), ("value", true)].into_iter());
        for [run, text, value] in rows {
            let value = value.parse::<f64>().map_or(Value::Null, Value::from);
            grid.push([Value::from(*run), Value::from(*text), value].into_iter());
        }
        grid
    }

    #[test]
    fn texts_are_cut_until_a_line_fits_and_numbers_never() {
        let grid = grid(&[
            ["a", "one two three four five six", "0.25"],
            ["b", "wörter\n\u{1b}[31m", "123456.789"],
            ["c", "漢字漢字漢字漢字漢字漢字漢字漢字", "1e-7"],
        ]);
        let (lines, hidden) = grid.lines(40);
        assert!(hidden.is_empty() && lines.iter().all(|line| line.width() <= 40), "{lines:#?}");
        assert_eq!(lines[0], "run  text                          value");
        assert_eq!(lines[1], "a    one two three four fiv…        0.25");
        assert_eq!(lines[2], "b    wörter\\n\\u001b[31m       123456.789");
        assert_eq!(lines[3], "c    漢字漢字漢字漢字漢字漢…    1.000e-7");
        let (lines, hidden) = grid.lines(22);
        assert_eq!((lines[1].as_str(), hidden), ("a    one two three f…", &["value".to_owned()][..]));
        assert_eq!(grid.lines(1).0[1], "a");
    }
}
