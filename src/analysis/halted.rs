//! Messages about guards: a line for each halted phase.

use data::RunMetricRow;

/// The phase of the rows that name a guard that tripped.
pub const PHASE: &str = "halted";

/// The suffix of the row with the limit of a guard.
pub const LIMIT: &str = "_limit";

/// Describes a guard that tripped.
pub fn tripped(guard: &str, value: f64, limit: f64) -> String {
    let (value, limit) = (short(value), short(limit));
    match guard {
        "finite" => format!("loss or gradient {value}, not finite"),
        "min_entropy" => format!("entropy {value} below {limit}"),
        "max_entropy" => format!("entropy {value} above {limit}"),
        "served_gap" => format!("served_gap {value} nats per token above {limit}"),
        "max_tokens" => format!("{value} tokens a completion above {limit}"),
        _ => format!("{guard} {value} above {limit}"),
    }
}

/// A number with three significant digits.
fn short(value: f64) -> String {
    let rounded = format!("{value:.2e}").parse().unwrap_or(value);
    format!("{rounded:?}").trim_end_matches(".0").to_owned()
}

/// The row with the number of consecutive batches that halted a phase, if more than one.
pub const IN_A_ROW: &str = "in_a_row";

/// Describes why a phase halted in `round` after so many consecutive batches, and the model that it went back to.
pub fn halted_line(why: &str, round: u32, batches: u32) -> String {
    match round.saturating_sub(batches) {
        0 => format!("halted: {why}; the model is unchanged"),
        step => format!("halted: {why}; back to the model before step {step}"),
    }
}

/// A line for each node at which a phase halted.
pub fn halted(rows: &[RunMetricRow]) -> Vec<String> {
    let of_guards: Vec<&RunMetricRow> = rows.iter().filter(|row| row.metric.phase == PHASE).collect();
    let line = |rows: &[&RunMetricRow]| {
        let value =
            |name: &str| rows.iter().find(|row| row.metric.metric == name).map(|row| row.metric.value);
        let why: Vec<String> = rows
            .iter()
            .filter_map(|row| {
                let limit = value(&format!("{}{LIMIT}", row.metric.metric))?;
                Some(tripped(&row.metric.metric, row.metric.value, limit))
            })
            .collect();
        let node = &rows.first()?.node;
        Some(format!(
            "{node}: {}",
            halted_line(&why.join(" and "), round(node), value(IN_A_ROW).map_or(1, |batches| batches as u32))
        ))
    };
    of_guards.chunk_by(|a, b| a.node == b.node).filter_map(line).collect()
}

/// The round of the innermost loop around a node such as `play[1]/red[07]/update`; 0 outside loops.
fn round(node: &str) -> u32 {
    let around = node.rsplit_once('/').and_then(|(around, _)| around.strip_suffix(']'));
    around.and_then(|around| around.rsplit_once('[')?.1.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::{MetricRow, Position};

    fn row(node: &str, phase: &str, metric: &str, value: f64) -> RunMetricRow {
        let at = Position { iteration: 1, step: 2, rng_seed: String::new() };
        let (phase, metric, subject) = (phase.into(), metric.into(), "attacker".into());
        let metric = MetricRow { phase, subject, metric, value, count: 1, at };
        RunMetricRow { node: node.into(), metric }
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be_told_apart() {
        let said = [0.70999, 1e-6, 300.0, 0.5, 12345.6, f64::NAN, 1.0].map(short);
        assert_eq!(said, ["0.71", "1e-6", "300", "0.5", "12300", "NaN", "1"]);
    }

    #[test]
    fn a_phase_that_halted_has_one_line() {
        let rows = [
            row("play[1]/red[07]/update", "update", "halted", 1.0),
            row("play[1]/red[07]/update", PHASE, "kl", 0.71),
            row("play[1]/red[07]/update", PHASE, "kl_limit", 0.5),
            row("play[1]/red[07]/update", PHASE, "min_entropy", 0.01),
            row("play[1]/red[07]/update", PHASE, "min_entropy_limit", 0.2),
            row("play[1]/red[08]/update", "update", "halted", 1.0),
            row("step", PHASE, "finite", f64::INFINITY),
            row("step", PHASE, "finite_limit", f64::MAX),
        ];
        let expected = [
            "play[1]/red[07]/update: halted: kl 0.71 above 0.5 and entropy 0.01 below 0.2; back to the model before step 6",
            "step: halted: loss or gradient inf, not finite; the model is unchanged",
        ];
        assert_eq!(halted(&rows), expected);
        assert_eq!(halted(&rows[..1]), [] as [&str; 0]);
    }
}
