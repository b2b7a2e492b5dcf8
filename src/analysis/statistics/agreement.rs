//! Agreement of judges beyond chance.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Interval;
use super::distribution::Z;
use game::kappa_of_table;

/// Cohen's κ with its error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Kappa {
    /// κ, from −1 to 1; 0 is the agreement of chance.
    pub value: f64,
    /// The asymptotic standard error of Fleiss, Cohen and Everitt (1969), eq. 13.
    pub error: f64,
    /// κ ± 1.96 standard errors, within −1 and 1. None if the error is 0, as for judges that always agree: other items may still
    /// vary.
    pub interval: Option<Interval>,
}

/// Cohen's κ of two judges, unweighted, from a square table of counts: the first judge's class is the row, the second's the
/// column. None for an empty table, and if both always give the same class.
pub fn kappa(table: &[Vec<u64>]) -> Option<Kappa> {
    let value = kappa_of_table(table)?;
    let all: u64 = table.iter().flatten().sum();
    let share = |count: u64| count as f64 / all as f64;
    let rows: Vec<f64> = table.iter().map(|row| share(row.iter().sum())).collect();
    let columns: Vec<f64> =
        (0..table.len()).map(|column| share(table.iter().map(|row| row[column]).sum())).collect();
    let expected: f64 = rows.iter().zip(&columns).map(|(row, column)| row * column).sum();
    let mut variance = -(value - expected * (1.0 - value)).powi(2);
    for (i, row) in table.iter().enumerate() {
        for (j, count) in row.iter().enumerate() {
            let weight = match i == j {
                true => 1.0 - (rows[i] + columns[i]) * (1.0 - value),
                false => (1.0 - value) * (columns[i] + rows[j]),
            };
            variance += share(*count) * weight * weight;
        }
    }
    let error = (variance.max(0.0) / all as f64).sqrt() / (1.0 - expected);
    let interval = Interval { low: value - Z * error, high: value + Z * error }.within(-1.0, 1.0);
    let interval = Some(interval).filter(Interval::is_wide);
    Some(Kappa { value, error, interval })
}

/// Krippendorff's α of nominal labels: 1 − observed over expected disagreement (Krippendorff, *Content Analysis*, ch. 12). An
/// item is the list of its labels, from any number of judges, without missing ones. Items with fewer than two labels do not
/// count. None if no item has two labels, and if there is only one class.
pub fn alpha<'i, T: Ord + 'i>(items: impl IntoIterator<Item = &'i [T]>) -> Option<f64> {
    let mut totals: BTreeMap<&T, f64> = BTreeMap::new();
    let (mut all, mut observed) = (0.0, 0.0);
    for item in items.into_iter().filter(|item| item.len() > 1) {
        let mut counts: BTreeMap<&T, f64> = BTreeMap::new();
        item.iter().for_each(|label| *counts.entry(label).or_default() += 1.0);
        let judges = item.len() as f64;
        // Ordered pairs of this item that disagree.
        let disagree: f64 = counts.values().map(|count| count * (judges - count)).sum();
        observed += disagree / (judges - 1.0);
        all += judges;
        counts.into_iter().for_each(|(label, count)| *totals.entry(label).or_default() += count);
    }
    let expected: f64 = totals.values().map(|count| count * (all - count)).sum();
    (expected > 0.0).then(|| 1.0 - (all - 1.0) * observed / expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfect_agreement_has_no_interval_and_one_class_says_nothing() {
        let perfect = kappa(&[vec![3, 0], vec![0, 4]]).unwrap();
        assert_eq!((perfect.value, perfect.error, perfect.interval), (1.0, 0.0, None));
        assert_eq!((kappa(&[vec![5, 0], vec![0, 0]]), kappa(&[])), (None, None));
        assert_eq!(alpha([&["a", "a"][..], &["b", "b", "b"]]), Some(1.0));
        assert_eq!(alpha([&["a", "a"][..], &["b"]]), None);
    }
}
