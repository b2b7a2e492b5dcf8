//! Ablations side by side: of each measure the mean over seeds and half of its 95 % interval, as a table.

use serde::Serialize;

use super::series::{Measure, Series, differences, series};
use super::statistics::{Estimate, estimate};
use super::table::{heading, is_share};
use crate::data::RunMetricRow;

/// What a line of the table says of an ablation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// After the last evaluation.
    Last,
    /// From the first evaluation to the last.
    Gain,
    /// After the last evaluation, seed by seed what it is more than the first ablation.
    Difference,
}

/// A line: an aspect of an ablation, and an estimate for each measure that it has.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub aspect: Aspect,
    pub ablation: String,
    pub estimates: Vec<Option<Estimate>>,
}

/// The whole table; `lines` by aspect, and then in the order of the run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub measures: Vec<Measure>,
    pub lines: Vec<Line>,
}

/// Summarises runs by these measures.
pub fn summarise(runs: &[Vec<RunMetricRow>], measures: Vec<Measure>) -> Summary {
    let all: Vec<Vec<Series>> = measures.iter().map(|measure| series(runs, measure)).collect();
    let mut ablations: Vec<&str> = Vec::new();
    for series in all.iter().flatten() {
        if !ablations.contains(&series.ablation.as_str()) {
            ablations.push(&series.ablation);
        }
    }
    let of = |series: &'_ [Series], ablation: &str| -> Option<usize> {
        series.iter().position(|series| series.ablation == ablation)
    };
    let mut lines = Vec::new();
    for aspect in [Aspect::Last, Aspect::Gain, Aspect::Difference] {
        for (index, ablation) in ablations.iter().enumerate() {
            let value = |series: &Vec<Series>| {
                let own = &series[of(series, ablation)?];
                let values: Vec<f64> = match aspect {
                    Aspect::Last => own.last().into_values().collect(),
                    Aspect::Gain => own.gain().into_values().collect(),
                    Aspect::Difference => {
                        differences(&own.last(), &series[of(series, ablations.first()?)?].last())
                    }
                };
                estimate(&values)
            };
            if aspect != Aspect::Difference || index > 0 {
                let estimates = all.iter().map(value).collect();
                lines.push(Line { aspect, ablation: (*ablation).to_owned(), estimates });
            }
        }
    }
    Summary { measures, lines }
}

impl Summary {
    fn title(&self, aspect: Aspect) -> String {
        match aspect {
            Aspect::Last => "after the last evaluation".into(),
            Aspect::Gain => "from the first evaluation to the last".into(),
            Aspect::Difference => {
                let first = self.lines.first().map_or("", |line| line.ablation.as_str());
                format!("after the last evaluation, more than {}", name(first))
            }
        }
    }

    /// A part for each aspect: its title, and rows of cells of which the first is the heading.
    fn parts(&self) -> Vec<(String, Vec<Vec<String>>)> {
        let mut parts = Vec::new();
        for aspect in [Aspect::Last, Aspect::Gain, Aspect::Difference] {
            let own: Vec<&Line> = self.lines.iter().filter(|line| line.aspect == aspect).collect();
            if own.is_empty() {
                continue;
            }
            let headings = self.measures.iter().map(heading);
            let mut rows: Vec<Vec<String>> =
                vec![["ablation".into(), "seeds".into()].into_iter().chain(headings).collect()];
            for line in own {
                let seeds = line.estimates.iter().flatten().map(|estimate| estimate.count).max().unwrap_or(0);
                let cells = self.measures.iter().zip(&line.estimates).map(|(measure, estimate)| {
                    estimate.map_or("-".to_owned(), |estimate| cell(measure, &estimate))
                });
                rows.push(
                    [name(&line.ablation).into(), seeds.to_string()].into_iter().chain(cells).collect(),
                );
            }
            parts.push((self.title(aspect), rows));
        }
        parts
    }

    /// As aligned text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (title, rows) in self.parts() {
            text += &format!("\n{title}\n");
            let columns = rows.first().map_or(0, Vec::len);
            let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let widths: Vec<usize> = (0..columns).map(width).collect();
            for row in &rows {
                let mut line = format!("{:width$}", row[0], width = widths[0]);
                for (cell, width) in row.iter().zip(&widths).skip(1) {
                    line += &format!("  {cell:>width$}");
                }
                text += line.trim_end();
                text += "\n";
            }
        }
        text + "\nmean ± half of the 95 % interval over seeds; shares in percent\n"
    }

    /// As Markdown tables.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (title, rows) in self.parts() {
            text += &format!("\n{}{}:\n\n", title[..1].to_uppercase(), &title[1..]);
            for (index, row) in rows.iter().enumerate() {
                text += &format!("| {} |\n", row.join(" | "));
                if index == 0 {
                    text += &format!("| --- |{}\n", " ---: |".repeat(row.len() - 1));
                }
            }
        }
        text
    }
}

fn name(ablation: &str) -> &str {
    if ablation.is_empty() { "as it stands" } else { ablation }
}

fn cell(measure: &Measure, estimate: &Estimate) -> String {
    let number = |value: f64| match is_share(&measure.metric) {
        true => format!("{:.1}", 100.0 * value),
        false => format!("{value:.3}"),
    };
    // Not `-0.0`.
    let number = |value: f64| match number(value) {
        text if text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.')) => number(0.0),
        text => text,
    };
    match estimate.half {
        Some(half) => format!("{} ± {}", number(estimate.mean), number(half)),
        None => number(estimate.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::measure;
    use super::super::series::tests::row;
    use super::*;

    fn summary() -> Summary {
        let mut rows = Vec::new();
        for (seed, first, last) in [(1, 0.4, 0.1), (2, 0.5, 0.2), (3, 0.6, 0.0)] {
            rows.push(row(&format!("full-s{seed}/before"), 0, "warm-up", first));
            rows.push(row(&format!("full-s{seed}/play[1]/after"), 1, "eval", last));
            rows.push(row(&format!("flat-s{seed}/before"), 0, "warm-up", first));
            rows.push(row(&format!("flat-s{seed}/play[1]/after"), 1, "eval", last + 0.1));
        }
        let runs = [rows];
        let measure = measure(&runs, "attack_success").unwrap();
        summarise(&runs, vec![measure])
    }

    #[test]
    fn ablations_stand_side_by_side_with_their_intervals() {
        let expected = "
after the last evaluation
ablation  seeds       attack
full          3  10.0 ± 24.8
flat          3  20.0 ± 24.8

from the first evaluation to the last
ablation  seeds        attack
full          3  -40.0 ± 43.0
flat          3  -30.0 ± 43.0

after the last evaluation, more than full
ablation  seeds      attack
flat          3  10.0 ± 0.0

mean ± half of the 95 % interval over seeds; shares in percent
";
        assert_eq!(summary().text(), expected);
    }

    #[test]
    fn markdown_has_a_table_for_each_aspect() {
        let markdown = summary().markdown();
        assert!(markdown.starts_with(
            "\nAfter the last evaluation:\n\n| ablation | seeds | attack |\n| --- | ---: | ---: |\n| full | 3 | 10.0 ± 24.8 |\n"
        ));
    }
}
