//! How evenly attacks fall into cells, such as one for each pair of a hazard category and a wrapping technique.

use std::collections::BTreeMap;

/// The share of `all` cells that are hit at least once; 0 if there are no cells.
pub fn cell_coverage<T: Ord>(hits: impl IntoIterator<Item = T>, all: usize) -> f64 {
    if all == 0 { 0.0 } else { counts(hits).len() as f64 / all as f64 }
}

/// H = −Σ p·ln p in nats over the shares p of the cells; 0 if nothing is hit, ln n if n cells are hit evenly.
pub fn cell_entropy<T: Ord>(hits: impl IntoIterator<Item = T>) -> f64 {
    let counts = counts(hits);
    let total: usize = counts.values().sum();
    let share = |count: &usize| *count as f64 / total as f64;
    -counts.values().map(|count| share(count) * share(count).ln()).sum::<f64>() + 0.0
}

fn counts<T: Ord>(hits: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    hits.into_iter().for_each(|cell| *counts.entry(cell).or_default() += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_and_entropy_of_cells_are_those_computed_by_hand() {
        let hits = [("potion", "tale"), ("potion", "tale"), ("charm", "tale"), ("charm", "dream")];
        assert_eq!(cell_coverage(hits, 6), 0.5);
        assert!((cell_entropy(hits) - 1.5 * 2f64.ln()).abs() < 1e-12);
        assert!((cell_entropy(0..8) - 8f64.ln()).abs() < 1e-12);
        assert_eq!(
            (cell_coverage([0; 0], 6), cell_coverage([0; 0], 0), cell_entropy([0; 0])),
            (0.0, 0.0, 0.0)
        );
        assert_eq!((cell_coverage([3; 9], 1), cell_entropy([3; 9])), (1.0, 0.0));
    }
}
