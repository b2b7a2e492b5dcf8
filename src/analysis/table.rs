//! The table at the end of a run: one line for each evaluation.

use crate::data::RunMetricRow;

/// Columns: heading, subject, metric, and whether it is a share shown in percent.
const COLUMNS: [(&str, &str, &str); 8] = [
    ("attack", "defender", "attack_success"),
    ("bench", "defender", "benchmark_success"),
    ("refuse", "defender", "rejective"),
    ("eval", "evaluator", "accuracy_fresh"),
    ("held", "evaluator", "accuracy_heldout"),
    ("benign", "defender", "benign_accuracy"),
    ("arith", "defender", "arithmetic_accuracy"),
    ("divers", "attacks", "diversity"),
];

const LEGEND: &str = "\
attack: success of fresh attacks on the defender; bench: of the fixed benchmark;
refuse: plain refusals of fresh attacks; eval, held: the evaluator's accuracy on
fresh and on held-out pairs; benign, arith: what the defender still gets right;
divers: 1 - Self-BLEU of the attacks. Others in percent, truth by the oracle.
";

/// The evaluations of a run as a table, or nothing where there are none.
pub fn table(rows: &[RunMetricRow]) -> String {
    let evaluated = |row: &&RunMetricRow| {
        (row.metric.subject.as_str(), row.metric.metric.as_str()) == ("defender", "attack_success")
    };
    let nodes: Vec<&RunMetricRow> = rows.iter().filter(evaluated).collect();
    if nodes.is_empty() {
        return String::new();
    }
    let name = |row: &RunMetricRow| match row.metric.at.iteration {
        0 => row.metric.phase.clone(),
        iteration => format!("{iteration} {}", row.metric.phase),
    };
    let width = nodes.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(5);
    let mut out = format!("\n{:width$}", "after");
    for (heading, ..) in COLUMNS {
        out += &format!("  {heading:>6}");
    }
    out += "\n";
    for node in nodes {
        out += &format!("{:width$}", name(node));
        for (_, subject, metric) in COLUMNS {
            let found = rows.iter().find(|row| {
                row.node == node.node && row.metric.subject == subject && row.metric.metric == metric
            });
            out += &match found.map(|row| row.metric.value) {
                None => format!("  {:>6}", "-"),
                Some(value) if metric == "diversity" => format!("  {value:>6.3}"),
                Some(value) => format!("  {:>6.1}", 100.0 * value),
            };
        }
        out += "\n";
    }
    out + LEGEND + "\n"
}
