//! Prints all of a comparison's metrics for people: aligned, within 80 columns.

use std::fmt::Write;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::analysis::after;
use crate::analysis::compare::{Answer, Compared, Comparison, Flip, Test};
use crate::analysis::statistics::Interval;
use output::visible_fixed;

/// Columns of a terminal.
pub(crate) const WIDTH: usize = 80;

pub(crate) fn text(comparison: &Comparison, letter: &str) -> String {
    let mut text = String::new();
    if !comparison.metrics.is_empty() {
        differences(&mut text, comparison, letter);
        rates(&mut text, comparison, letter);
        text += &flips(comparison, letter);
    }
    let mut notes: Vec<String> =
        comparison.forced.iter().map(|line| format!("not comparable, but forced: {line}")).collect();
    notes.extend(comparison.notes.iter().cloned());
    for (title, lines) in [("did nothing", &comparison.without_effect), ("notes", &notes)] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}");
            lines.iter().for_each(|line| wrapped(&mut text, line, "  - ", "    "));
        }
    }
    text
}

const NAME_MOST: usize = 24;

/// Rows below headings. The first column is left-aligned; a name that is too long has a line of its own.
pub(super) fn table(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (1..columns).map(|column| width(column).unwrap_or(0)).collect();
    let room = WIDTH.saturating_sub(widths.iter().map(|width| width + 2).sum());
    let names = rows.iter().filter(|row| row.len() > 1).map(|row| row[0].chars().count());
    let first = names.filter(|width| *width <= room.max(NAME_MOST)).max().unwrap_or(0).min(room);
    for row in rows {
        let mut line = row[0].clone();
        let mut at = line.chars().count();
        if row.len() > 1 && at > first {
            *text += &(line + "\n");
            (line, at) = (String::new(), 0);
        }
        if row.len() > 1 {
            line += &" ".repeat(first - at);
        }
        for (cell, width) in row.iter().skip(1).zip(&widths) {
            let _ = write!(line, "  {cell:>width$}");
        }
        *text += &(line.trim_end().to_owned() + "\n");
    }
}

/// The compared phases.
pub(super) fn phases(comparison: &Comparison) -> String {
    match comparison.after_a == comparison.after_b {
        true => after(&comparison.after_a),
        false => format!("{} and {}", after(&comparison.after_a), after(&comparison.after_b)),
    }
}

/// An interval in words.
fn range(interval: Option<Interval>, shown: &dyn Fn(f64) -> String) -> String {
    match interval {
        Some(interval) => format!("{} to {}", shown(interval.low), shown(interval.high)),
        None => UNKNOWN.to_owned(),
    }
}

fn differences(text: &mut String, comparison: &Comparison, letter: &str) {
    let phases = phases(comparison);
    let _ = writeln!(text, "\nmetrics {phases}; shares in percent, their differences in points");
    let heading = ["", "A", letter, &format!("{letter} - A"), "95 % interval", "p", "test", "detects"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let mut subject = "";
    for found in &comparison.metrics {
        if found.measure.subject != subject {
            subject = &found.measure.subject;
            rows.push(vec![subject.to_owned()]);
        }
        let shown = |value: Option<f64>| value_of(found, value);
        let mut row = vec![format!("  {}", found.measure.name)];
        row.extend(cells(found));
        row.push(found.test.map_or("", short).to_owned());
        row.push(found.detectable.map_or(String::new(), |value| shown(Some(value))));
        rows.push(row);
        for seed in &found.seeds {
            let name = seed.seed.map_or("one seed".to_owned(), |seed| format!("seed {seed}"));
            let difference = seed.a.zip(seed.b).map(|(a, b)| b - a);
            rows.push(vec![format!("    {name}"), shown(seed.a), shown(seed.b), shown(difference)]);
        }
    }
    table(text, &rows);
    legend(text, comparison);
}

/// A value of a compared metric, with as many digits as the metric needs.
fn value_of(found: &Compared, value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| number(value, found.share, digits(found)))
}

/// The values of A and B, their difference, its interval and its p.
pub(super) fn cells(found: &Compared) -> [String; 5] {
    let shown = |value| value_of(found, value);
    let interval = match (found.interval, found.test) {
        (None, None) => String::new(),
        (interval, _) => range(interval, &|value| shown(Some(value))),
    };
    let p = found.p_adjusted.map_or(String::new(), p_value);
    [shown(found.a), shown(found.b), shown(found.difference), interval, p]
}

/// In the place of an interval, if the values do not show how much others might vary.
const UNKNOWN: &str = "not known";

fn short(test: Test) -> &'static str {
    match test {
        Test::Mcnemar => "McN",
        Test::Bootstrap => "boot",
        Test::HazardT => "few",
        Test::StudentT => "t",
        Test::WelchT => "Welch",
        Test::Sign => "sign",
    }
}

fn legend(text: &mut String, comparison: &Comparison) {
    if comparison.metrics.iter().all(|found| found.test.is_none()) {
        return;
    }
    let mut words = format!(
        "p decides: below 0.05 the metric differs. It is two-sided and adjusted by Holm's method over all {} tests of this comparison; intervals and `detects` are not adjusted. detects: the smallest difference that the test finds with 80 % power.",
        comparison.tests
    );
    let mirrors: Vec<String> = (comparison.metrics.iter())
        .filter_map(|found| Some(format!("{} as {}", found.metric, found.mirrors.as_ref()?)))
        .collect();
    if !mirrors.is_empty() {
        let _ = write!(
            words,
            " Metrics with the same values, or 1 minus them, count once: {}.",
            mirrors.join(", ")
        );
    }
    let used = |test: Test| comparison.metrics.iter().any(|found| found.test == Some(test));
    for (test, said) in [
        (Test::Mcnemar, "McN: McNemar's exact test, one attempt at each hazard; Tango's interval."),
        (Test::Bootstrap, "boot: bootstrap over hazards, each with all its prompts and attempts."),
        (Test::HazardT, "few: Student's t over hazards, because there are fewer than ten."),
        (Test::StudentT, "t: paired t over seeds."),
        (Test::WelchT, "Welch: Welch's t over each side's seeds."),
        (Test::Sign, "sign: sign test, where all differences are the same."),
    ] {
        if used(test) {
            words += " ";
            words += said;
        }
    }
    wrapped(text, &words, "", "");
}

/// The rates of each run with their intervals, for metrics that were tested on prompts.
fn rates(text: &mut String, comparison: &Comparison, letter: &str) {
    let tested = || comparison.metrics.iter().filter(|found| found.test.is_some() && found.a_attempts > 0);
    if tested().next().is_none() {
        return;
    }
    let has_unknown = tested().any(|found| found.a_undetermined + found.b_undetermined > 0);
    let counts_hazards = |found: &Compared| found.seeds.is_empty() && found.hazards < found.prompts;
    let heading = ["", "A", "95 %", letter, "95 %", "prompts", "attempts", "undet."];
    let columns = if has_unknown { heading.len() } else { heading.len() - 1 };
    let mut rows = vec![heading[..columns].iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    let mut subject = "";
    for found in tested() {
        let (Some(a), Some(b)) = (found.a, found.b) else { continue };
        if found.measure.subject != subject {
            subject = &found.measure.subject;
            rows.push(vec![subject.to_owned()]);
        }
        let shown = |value: f64| number(value, found.share, digits(found));
        let both = |a: usize, b: usize| if a == b { a.to_string() } else { format!("{a}, {b}") };
        let prompts = match (found.prompts, found.hazards) {
            (0, _) => String::new(),
            (prompts, hazards) if counts_hazards(found) => format!("{prompts} ({hazards})"),
            (prompts, _) => prompts.to_string(),
        };
        let mut row = vec![
            format!("  {}", found.measure.name),
            shown(a),
            range(found.a_interval, &shown),
            shown(b),
            range(found.b_interval, &shown),
            prompts,
            both(found.a_attempts, found.b_attempts),
            both(found.a_undetermined, found.b_undetermined),
        ];
        row.truncate(columns);
        rows.push(row);
    }
    let interval = match tested().any(|found| !found.seeds.is_empty()) {
        true => "Student's interval over seeds; for a single seed Wilson's",
        false => "Wilson's interval",
    };
    let _ = writeln!(text, "\nrates: {interval}");
    table(text, &rows);
    if tested().any(counts_hazards) {
        wrapped(text, "prompts (hazards): prompts of one hazard are similar and count together", "", "");
    }
    if has_unknown {
        wrapped(text, "undet.: attempts that could not be judged; no rate counts them", "", "");
    }
}

/// The numbers of prompts that flipped, and some of them.
pub(super) fn flips(comparison: &Comparison, letter: &str) -> String {
    let mut text = String::new();
    if comparison.flipped.is_empty() {
        return text;
    }
    let _ = writeln!(text, "\nprompts that flipped: more in {letter}, less in {letter}");
    let mut rows: Vec<Vec<String>> = Vec::new();
    for flipped in &comparison.flipped {
        rows.push(vec![
            format!("  {}", flipped.metric),
            flipped.gained.to_string(),
            flipped.lost.to_string(),
        ]);
    }
    table(&mut text, &rows);
    for flip in &comparison.flips {
        one_flip(&mut text, flip, letter);
    }
    let all: usize = comparison.flipped.iter().map(|flipped| flipped.gained + flipped.lost).sum();
    if all > comparison.flips.len() {
        let _ = writeln!(text, "…and {} more (--flips N shows N, --json all)", all - comparison.flips.len());
    }
    text
}

fn one_flip(text: &mut String, flip: &Flip, letter: &str) {
    let hits = |answer: &Answer| match answer.attempts {
        1 => format!("{:.0}", answer.hits),
        attempts => format!("{:.0}/{attempts}", answer.hits),
    };
    let seed = flip.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
    let change = format!("{} → {}", hits(&flip.a), hits(&flip.b));
    cut(text, &format!("\n  {}  {change}  {} ({}{seed})", flip.metric, flip.prompt_id, flip.category));
    cut(text, &format!("    prompt  {}", flip.a.prompt));
    if flip.b.prompt != flip.a.prompt {
        cut(text, &format!("    in {letter:<4} {}", flip.b.prompt));
    }
    for (who, answer) in [("A", &flip.a), (letter, &flip.b)] {
        cut(text, &format!("    {who}  {:<12}  {}", answer.class, answer.response));
    }
}

/// Writes a line, cut at the terminal's width; line breaks become spaces.
fn cut(text: &mut String, line: &str) {
    let (before, line) = line.strip_prefix('\n').map_or(("", line), |line| ("\n", line));
    let flat: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    *text += before;
    let flat = flat.trim_end();
    if flat.width() <= WIDTH {
        *text += &format!("{flat}\n");
        return;
    }
    let mut room = WIDTH - 1;
    for c in flat.chars() {
        let width = c.width().unwrap_or(0);
        if width > room {
            break;
        }
        room -= width;
        text.push(c);
    }
    *text += "…\n";
}

pub(super) fn wrapped(text: &mut String, words: &str, first: &str, indent: &str) {
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in words.split_whitespace() {
        if !is_empty && line.width() + 1 + word.width() > WIDTH {
            *text += &(line + "\n");
            (line, is_empty) = (indent.to_owned(), true);
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    *text += &(line + "\n");
}

/// Digits after the point that a metric's numbers need: two significant digits of its error, or else of the difference.
fn digits(found: &Compared) -> usize {
    let scale = if found.share { 100.0 } else { 1.0 };
    let largest =
        [found.a, found.b].into_iter().flatten().fold(0.0, |most: f64, value| most.max(value.abs()));
    let usual = match (found.share, largest) {
        (true, _) => 1,
        (false, 100.0..) => 1,
        (false, _) => 3,
    };
    let half = found.interval.map(|interval| (interval.high - interval.low) / 2.0).filter(|half| *half > 0.0);
    let small =
        half.or(found.difference.map(f64::abs)).filter(|value| *value > 0.0).unwrap_or(largest) * scale;
    match small > 0.0 {
        true => usual.max((1.0 - small.log10().floor()).clamp(0.0, 6.0) as usize),
        false => usual,
    }
}

fn number(value: f64, share: bool, digits: usize) -> String {
    visible_fixed(if share { 100.0 * value } else { value }, digits)
}

fn p_value(p: f64) -> String {
    match p {
        0.0995.. => format!("{p:.2}"),
        0.00995.. => format!("{p:.3}"),
        0.000_995.. => format!("{p:.4}"),
        _ if p > 0.0 => format!("{p:.0e}"),
        // Smaller than the smallest f64.
        _ => "<1e-300".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_keep_digits_that_count() {
        let shown = [0.5, 0.049, 0.0123, 0.00123, 3.2e-9, 0.0, 1.0].map(p_value);
        assert_eq!(shown, ["0.50", "0.049", "0.012", "0.0012", "3e-9", "<1e-300", "1.00"]);
        assert_eq!(number(-0.0001, true, 1), "-0.01");
        assert_eq!(number(-0.0123, true, 1), "-1.2");
    }

    #[test]
    fn lines_end_where_a_terminal_does() {
        let mut text = String::new();
        wrapped(&mut text, &"word ".repeat(60), "  - ", "    ");
        cut(&mut text, &"x\ny ".repeat(60));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn a_name_that_is_too_long_has_a_line_of_its_own() {
        let mut text = String::new();
        let row = |name: &str, cell: &str| vec![name.to_owned(), cell.to_owned()];
        table(&mut text, &[row("", "A"), row("short", "1"), row(&"long".repeat(25), "2")]);
        assert_eq!(text, format!("       A\nshort  1\n{}\n       2\n", "long".repeat(25)));
    }
}
