//! Rows of cells as aligned text and as Markdown. The first row is the heading, the first two columns label a row.

use std::ops::Range;

/// The number of columns that label a row.
const LABELS: usize = 2;

/// Aligned text. Columns that do not fit a terminal continue below, with the labels of the rows.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, block) in blocks(&widths).into_iter().enumerate() {
        // An empty line between the parts of a table that was cut.
        text += if index > 0 { "\n" } else { "" };
        for row in rows {
            let mut line = format!("{:width$}", row[0], width = widths[0]);
            for column in (1..LABELS).chain(block.clone()) {
                line += &format!("  {:>width$}", row[column], width = widths[column]);
            }
            text += line.trim_end();
            text += "\n";
        }
    }
    text
}

/// A Markdown table below its title.
pub(crate) fn markdown(title: &str, rows: &[Vec<String>]) -> String {
    let mut letters = title.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    let mut text = format!("\n{first}{}:\n\n", letters.as_str());
    for (index, row) in rows.iter().enumerate() {
        text += &format!("| {} |\n", row.join(" | "));
        if index == 0 {
            text += &format!("| --- |{}\n", " ---: |".repeat(row.len() - 1));
        }
    }
    text
}

/// The columns after the labels, in blocks that fit into 80 characters together with the labels.
fn blocks(widths: &[usize]) -> Vec<Range<usize>> {
    const FULL: usize = 80;
    let labels: usize = widths.iter().take(LABELS).map(|width| width + 2).sum();
    let mut blocks = Vec::new();
    let (mut begins, mut used) = (LABELS, labels);
    for (column, width) in widths.iter().enumerate().skip(LABELS) {
        if column > begins && used + width > FULL {
            blocks.push(begins..column);
            (begins, used) = (column, labels);
        }
        used += width + 2;
    }
    if begins < widths.len() {
        blocks.push(begins..widths.len());
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_tables_go_on_below_and_no_column_is_lost() {
        assert_eq!(blocks(&[8, 5, 11, 11, 11]).first(), Some(&(2..5)));
        assert_eq!(blocks(&[8, 5, 30, 30, 30, 90, 3]), [2..4, 4..5, 5..6, 6..7]);
        assert!(blocks(&[8, 5]).is_empty());
    }
}
