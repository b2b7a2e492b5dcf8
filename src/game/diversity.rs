//! How alike texts are: Self-BLEU, distinct n-grams, cosine similarity.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;

/// Numerator of a precision without a match (NLTK's smoothing method 1).
const SMOOTHING: f64 = 0.1;

/// Reference texts with their n-grams counted, so that BLEU against all of them costs the length of one text.
pub struct BleuReferences<'a> {
    order: usize,
    /// For each n-gram of 1 to `order` words: the largest count in one reference, and in how many
    /// references it has that count, and the largest count among the other references.
    counts: HashMap<&'a [&'a str], Count>,
    lengths: Vec<usize>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    most: u32,
    holders: u32,
    second: u32,
}

/// A text as words.
pub fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn ngram_counts<'a>(words: &'a [&'a str], order: usize) -> HashMap<&'a [&'a str], u32> {
    let mut counts = HashMap::new();
    for n in 1..=order {
        words.windows(n).for_each(|ngram| *counts.entry(ngram).or_default() += 1);
    }
    counts
}

impl<'a> BleuReferences<'a> {
    /// Counts the n-grams of 1 to `order` words in the references.
    pub fn new(references: &'a [Vec<&'a str>], order: usize) -> BleuReferences<'a> {
        let mut counts: HashMap<&[&str], Count> = HashMap::new();
        for reference in references {
            for (ngram, count) in ngram_counts(reference, order) {
                let entry = counts.entry(ngram).or_default();
                if count > entry.most {
                    *entry = Count { most: count, holders: 1, second: entry.most };
                } else if count == entry.most {
                    entry.holders += 1;
                } else {
                    entry.second = entry.second.max(count);
                }
            }
        }
        BleuReferences { order, counts, lengths: references.iter().map(Vec::len).collect() }
    }

    /// BLEU of a text against all references, for each largest n-gram in `orders`: NLTK's `sentence_bleu`
    /// with uniform weights over 1..n and smoothing method 1. `own` is the index of the text itself among
    /// the references, which is then left out.
    pub fn bleu(&self, text: &[&str], orders: &[usize], own: Option<usize>) -> Vec<f64> {
        let own_counts = own.map(|_| ngram_counts(text, self.order));
        let limit = |ngram: &[&str]| {
            let Some(count) = self.counts.get(ngram) else { return 0 };
            let own = own_counts.as_ref().and_then(|own| own.get(ngram)).copied().unwrap_or(0);
            if own == count.most && count.holders == 1 { count.second } else { count.most }
        };
        let mut log_precisions = Vec::with_capacity(self.order);
        let counts = ngram_counts(text, self.order);
        let mut matches = vec![0u32; self.order + 1];
        for (ngram, count) in &counts {
            matches[ngram.len()] += (*count).min(limit(ngram));
        }
        for (n, matched) in matches.iter().enumerate().skip(1) {
            let total = (text.len() + 1).saturating_sub(n).max(1) as f64;
            let matched = if *matched == 0 { SMOOTHING } else { f64::from(*matched) };
            log_precisions.push((matched / total).ln());
        }
        let penalty = self.brevity_penalty(text.len(), own);
        let bleu = |order: usize| {
            if matches[1] == 0 {
                return 0.0;
            }
            penalty * (log_precisions[..order].iter().sum::<f64>() / order as f64).exp()
        };
        orders.iter().map(|&order| bleu(order.min(self.order))).collect()
    }

    /// exp(1 − r/c) for a text of c words shorter than r, the reference length closest to it.
    fn brevity_penalty(&self, length: usize, own: Option<usize>) -> f64 {
        let others = self.lengths.iter().enumerate().filter(|(index, _)| Some(*index) != own);
        let closest = others.map(|(_, &other)| other).min_by_key(|&other| (other.abs_diff(length), other));
        match closest {
            None => 0.0,
            Some(closest) if length > closest => 1.0,
            Some(_) if length == 0 => 0.0,
            Some(closest) => (1.0 - closest as f64 / length as f64).exp(),
        }
    }
}

/// Self-BLEU of each text against all the others, for each order; all texts see the same references.
pub fn self_bleu(texts: &[&str], orders: &[usize]) -> Vec<Vec<f64>> {
    let tokens: Vec<Vec<&str>> = texts.iter().map(|text| words(text)).collect();
    let references = BleuReferences::new(&tokens, orders.iter().copied().max().unwrap_or(1));
    tokens.par_iter().enumerate().map(|(own, text)| references.bleu(text, orders, Some(own))).collect()
}

/// Distinct n-grams as a share of all n-grams of the texts; 0 where there are none.
pub fn distinct_n(texts: &[&str], n: usize) -> f64 {
    let tokens: Vec<Vec<&str>> = texts.iter().map(|text| words(text)).collect();
    let all: Vec<&[&str]> = tokens.iter().flat_map(|text| text.windows(n)).collect();
    let distinct: BTreeSet<&[&str]> = all.iter().copied().collect();
    if all.is_empty() { 0.0 } else { distinct.len() as f64 / all.len() as f64 }
}

/// Cosine similarity of two vectors; 0 where one has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths == 0.0 { 0.0 } else { dot(a, b) / lengths }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn self_bleu_matches_nltk() {
        let text = include_str!("../../tests/fixtures/self_bleu.json");
        let fixture: serde_json::Value = serde_json::from_str(text).unwrap();
        let rows = fixture["rows"].as_array().unwrap();
        let texts: Vec<&str> = rows.iter().map(|row| row["text"].as_str().unwrap()).collect();
        let mine = self_bleu(&texts, &[3, 4, 5]);
        for (row, mine) in rows.iter().zip(mine) {
            for (order, value) in [3, 4, 5].into_iter().zip(mine) {
                let expected = row[format!("self_bleu_{order}")].as_f64().unwrap();
                assert!((value - expected).abs() < 1e-9, "{row}: {value}");
            }
        }
        assert!(rows.len() >= 10);
    }

    #[test]
    fn distinct_n_counts_repeated_ngrams_once() {
        assert_eq!(distinct_n(&["a b c", "a b d"], 2), 0.75);
        assert_eq!(distinct_n(&["a"], 2), 0.0);
    }

    proptest! {
        #[test]
        fn self_bleu_is_a_share_and_does_not_depend_on_the_order_of_texts(
            texts in proptest::collection::vec("[abc]( [abc]){0,8}", 2..8),
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let forward = self_bleu(&texts, &[3, 5]);
            let reversed: Vec<&str> = texts.iter().rev().copied().collect();
            let backward = self_bleu(&reversed, &[3, 5]);
            for (a, b) in forward.iter().zip(backward.iter().rev()) {
                for (a, b) in a.iter().zip(b) {
                    prop_assert!((0.0..=1.0 + 1e-12).contains(a));
                    prop_assert!((a - b).abs() < 1e-12);
                }
            }
        }
    }
}
