//! Attackers against defenders, as a small table: who broke whom how often.

use std::collections::BTreeMap;

use data::RunMetricRow;
use runs::variant;

/// The metric of a pair: its phase is the attacker's name, its subject the defender's.
const METRIC: &str = "cross_success";

/// The success of every attacker against every defender in percent, a part for each node that played them; nothing where
/// none did. Over the seeds of an ablation it is the mean.
pub fn matrix(rows: &[RunMetricRow]) -> String {
    let mut parts: Vec<((&str, &str), Vec<&RunMetricRow>)> = Vec::new();
    for row in rows.iter().filter(|row| row.metric.metric == METRIC) {
        let (ablation, _, node) = variant(&row.node);
        match parts.iter_mut().find(|(known, _)| *known == (ablation, node)) {
            Some((_, part)) => part.push(row),
            None => parts.push(((ablation, node), vec![row])),
        }
    }
    let title = |(ablation, node): &(&str, &str)| match *ablation {
        "" => (*node).to_owned(),
        ablation => format!("{ablation}/{node}"),
    };
    parts.iter().map(|(of, rows)| part(&title(of), rows)).collect()
}

fn part(node: &str, rows: &[&RunMetricRow]) -> String {
    let (mut attackers, mut defenders): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut values: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for row in rows {
        let (attacker, defender) = (row.metric.phase.as_str(), row.metric.subject.as_str());
        if !attackers.contains(&attacker) {
            attackers.push(attacker);
        }
        if !defenders.contains(&defender) {
            defenders.push(defender);
        }
        values.entry((attacker, defender)).or_default().push(row.metric.value);
    }
    let corner = "attacker \\ defender";
    let first = attackers.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(corner.len());
    let mut text = format!("\n{node}: attack success, percent\n{corner:first$}");
    let width = |name: &str| name.chars().count().max(6);
    defenders.iter().for_each(|name| text += &format!("  {name:>width$}", width = width(name)));
    for attacker in attackers {
        text += &format!("\n{attacker:first$}");
        for defender in &defenders {
            let shown = values.get(&(attacker, *defender)).map_or("-".to_owned(), |values| {
                format!("{:.1}", 100.0 * values.iter().sum::<f64>() / values.len() as f64)
            });
            text += &format!("  {shown:>width$}", width = width(defender));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::series::tests::row;
    use super::*;

    #[test]
    fn every_attacker_meets_every_defender_and_seeds_are_averaged() {
        let pair = |node: &str, attacker: &str, defender: &str, value: f64| {
            let mut row = row(node, 0, attacker, value);
            (row.metric.subject, row.metric.metric) = (defender.into(), METRIC.into());
            row
        };
        let rows = [
            pair("s1/cross", "before", "before", 0.5),
            pair("s1/cross", "before", "round 2", 0.0),
            pair("s1/cross", "round 2", "before", 0.75),
            pair("s2/cross", "before", "before", 0.25),
            pair("flat-s1/cross", "before", "before", 1.0),
        ];
        let expected = "
cross: attack success, percent
attacker \\ defender  before  round 2
before                 37.5      0.0
round 2                75.0        -

flat/cross: attack success, percent
attacker \\ defender  before
before                100.0
";
        assert_eq!(matrix(&rows), expected);
        assert_eq!(matrix(&[]), "");
    }
}
