//! The table at the end of a run, one line for each evaluation, and the display of measures everywhere.

use super::denominator::{Denominator, footnotes};
use super::headings::{COLUMNS, MARKS, columns, has_turns, usual};
use super::number::{number, percent};
use super::series::{SCORE, phase};
use data::RunMetricRow;
use game::undetermined;
use runs::MainMetric;

const LEGEND: &str = "\
attack: success of fresh attacks on the defender; bench: of the fixed benchmark;
refuse: plain refusals of fresh attacks; eval, held: the evaluator's accuracy on
fresh and on held-out pairs; benign, arith: the defender's accuracy on tasks;
divers: 1 - Self-BLEU of the attacks. Others in percent, by the oracle or a judge.
";

const TURNS_LEGEND: &str = "\
turn 2: attacks that succeed in the first or the second turn.
";

const MARKS_LEGEND: &str = "\
marks: attacks that contain a control token of their judge.
";

/// Whether a metric is a share from 0 to 1, which is shown in percent.
pub fn is_share(metric: &str) -> bool {
    const SHARES: [&str; 13] = [
        "success",
        "refusal",
        "rejective",
        "positive",
        "undetermined",
        "accuracy",
        "agreement",
        "meaning_kept",
        "coverage",
        "ability",
        "negative",
        "marks_in_text",
        "flat_groups",
    ];
    !metric.starts_with("confusion")
        && !metric.ends_with(SCORE)
        && SHARES.iter().any(|share| metric.contains(share))
}

/// Whether values of a metric are shares. A metric of the user's may have the name of a share and be in percent already.
pub(crate) fn are_shares(metric: &str, mut values: impl Iterator<Item = f64>) -> bool {
    is_share(metric) && values.all(|value| value.abs() <= 1.0)
}

/// The main metric of a run, such as `attack 70.4` or `train.loss 0.100 to 0.250`.
pub fn of_main(main: &MainMetric) -> String {
    let shown = |value: f64| if main.share { percent(value) } else { number(value) };
    match (shown(main.least), shown(main.most)) {
        (least, most) if least == most => format!("{} {least}", main.name),
        (least, most) => format!("{} {least} to {most}", main.name),
    }
}

/// Marks a rate that leaves observations out.
const LEFT_OUT: &str = "* ";

/// The evaluations of a run as a table; empty without evaluations.
pub fn table(rows: &[RunMetricRow]) -> String {
    let (_, subject, metric) = COLUMNS[0];
    let unknown = undetermined(metric);
    let evaluated = |row: &&RunMetricRow| {
        row.metric.subject == subject && (row.metric.metric == metric || row.metric.metric == unknown)
    };
    let mut nodes: Vec<&RunMetricRow> = rows.iter().filter(evaluated).collect();
    nodes.dedup_by(|a, b| a.node == b.node);
    if nodes.is_empty() {
        return String::new();
    }
    let name = |row: &RunMetricRow| phase(&row.metric);
    let width = nodes.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(5);
    let mut out = format!("\n{:width$}", "after");
    for (heading, ..) in columns(rows) {
        out += &format!("  {heading:>6}");
    }
    out += "\n";
    for node in nodes {
        out += &format!("{:width$}", name(node));
        let mut mark = "  ";
        for (_, subject, metric) in columns(rows) {
            let value = |metric: &str| {
                let own = rows.iter().filter(|row| row.node == node.node && row.metric.subject == subject);
                own.map(|row| &row.metric).find(|own| own.metric == metric).map(|own| own.value)
            };
            out += mark;
            out += &match value(metric) {
                None => format!("{:>6}", "-"),
                Some(value) if is_share(metric) => format!("{:>6}", percent(value)),
                Some(value) => format!("{:>6}", number(value)),
            };
            let is_of_all = value(&undetermined(metric)).is_none_or(|share| share == 0.0);
            mark = if is_of_all { "  " } else { LEFT_OUT };
        }
        out += mark.trim_end();
        out += "\n";
    }
    let runs = [rows.to_vec()];
    let measures = usual(rows);
    let denominators = measures.iter().filter_map(|own| Some((own, Denominator::of(&runs, own)?)));
    let of_turns = if has_turns(rows) { TURNS_LEGEND } else { "" };
    let of_marks = if columns(rows).any(|column| column == MARKS) { MARKS_LEGEND } else { "" };
    out + LEGEND + of_turns + of_marks + &footnotes(&denominators.collect::<Vec<_>>(), LEFT_OUT) + "\n"
}
