//! Self-BLEU and distinct n-grams. Words and n-grams have numbers: an n-gram is identified by the number of its first n − 1 words
//! and its last word, so that no n-gram is hashed as text and none is confused with another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;

/// Numerator of a precision without a match (NLTK's smoothing method 1).
const SMOOTHING: f64 = 0.1;

/// Precedes the first word of every n-gram.
const NOTHING: u32 = u32::MAX;

/// Reference texts with counted n-grams. BLEU against all of them costs the length of the text, and adding a reference costs the
/// length of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BleuReferences {
    order: usize,
    words: HashMap<Box<str>, u32>,
    /// The number of an n-gram, by the number of its first n − 1 words and its last word.
    numbers: HashMap<(u32, u32), u32>,
    ngrams: Vec<Ngram>,
    /// The number of references of each length.
    lengths: BTreeMap<usize, usize>,
}

/// How often an n-gram occurs in the references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ngram {
    /// The number of its words.
    length: usize,
    /// The largest count in one reference.
    most: u32,
    /// The number of references with that count.
    holders: u32,
    /// The largest count among the other references.
    second: u32,
}

impl Ngram {
    fn occurs(&mut self, count: u32) {
        match count.cmp(&self.most) {
            std::cmp::Ordering::Greater => (self.second, self.most, self.holders) = (self.most, count, 1),
            std::cmp::Ordering::Equal => self.holders += 1,
            std::cmp::Ordering::Less => self.second = self.second.max(count),
        }
    }

    /// The largest count in one reference; without the reference that has it `own` times, if it is the only one with that count.
    fn limit(&self, own: Option<u32>) -> u32 {
        if own == Some(self.most) && self.holders == 1 { self.second } else { self.most }
    }
}

/// Each number and how often it occurs.
fn counted(mut numbers: Vec<u32>) -> Vec<(usize, u32)> {
    numbers.sort_unstable();
    numbers.chunk_by(|a, b| a == b).map(|same| (same[0] as usize, same.len() as u32)).collect()
}

impl BleuReferences {
    /// No references yet; n-grams of 1 to `order` words will be counted.
    pub fn new(order: usize) -> BleuReferences {
        BleuReferences {
            order,
            words: HashMap::new(),
            numbers: HashMap::new(),
            ngrams: Vec::new(),
            lengths: BTreeMap::new(),
        }
    }

    /// Counts the n-grams of one more reference.
    pub fn add(&mut self, text: &str) {
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            let next = self.words.len() as u32;
            words.push(match self.words.get(word) {
                Some(known) => *known,
                None => *self.words.entry(word.into()).or_insert(next),
            });
        }
        let mut found = Vec::with_capacity(words.len() * self.order);
        for start in 0..words.len() {
            let mut number = NOTHING;
            for (before, word) in words[start..].iter().take(self.order).enumerate() {
                let ngrams = &mut self.ngrams;
                number = *self.numbers.entry((number, *word)).or_insert_with(|| {
                    ngrams.push(Ngram { length: before + 1, most: 0, holders: 0, second: 0 });
                    ngrams.len() as u32 - 1
                });
                found.push(number);
            }
        }
        counted(found).into_iter().for_each(|(number, count)| self.ngrams[number].occurs(count));
        *self.lengths.entry(words.len()).or_default() += 1;
    }

    /// The n-grams of a text that some reference has, and how often the text has them.
    fn shared(&self, words: &[Option<u32>]) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        for start in 0..words.len() {
            let mut number = NOTHING;
            for word in words[start..].iter().take(self.order) {
                let Some(known) = word.and_then(|word| self.numbers.get(&(number, word))) else { break };
                number = *known;
                found.push(number);
            }
        }
        counted(found)
    }

    /// BLEU of a text against all references, for each largest n-gram in `orders`: NLTK's `sentence_bleu` with uniform weights
    /// over 1..n and smoothing method 1. If the text is `own`, one of the references, it is left out of them.
    pub fn bleu(&self, text: &str, orders: &[usize], own: bool) -> Vec<f64> {
        let words: Vec<Option<u32>> =
            text.split_whitespace().map(|word| self.words.get(word).copied()).collect();
        let mut matches = vec![0u32; self.order + 1];
        for (number, count) in self.shared(&words) {
            let ngram = &self.ngrams[number];
            matches[ngram.length] += count.min(ngram.limit(own.then_some(count)));
        }
        let log_precision = |(n, matched): (usize, &u32)| {
            let total = (words.len() + 1).saturating_sub(n).max(1) as f64;
            let matched = if *matched == 0 { SMOOTHING } else { f64::from(*matched) };
            (matched / total).ln()
        };
        let log_precisions: Vec<f64> = matches.iter().enumerate().skip(1).map(log_precision).collect();
        let penalty = self.brevity_penalty(words.len(), own);
        let bleu = |order: usize| {
            if matches[1] == 0 {
                return 0.0;
            }
            penalty * (log_precisions[..order].iter().sum::<f64>() / order as f64).exp()
        };
        orders.iter().map(|&order| bleu(order.min(self.order))).collect()
    }

    /// exp(1 − r/c) for a text of c words shorter than r, the reference length closest to it.
    fn brevity_penalty(&self, length: usize, own: bool) -> f64 {
        let alone = |&(&other, &count): &(&usize, &usize)| own && other == length && count == 1;
        let others = self.lengths.iter().filter(|entry| !alone(entry)).map(|(&other, _)| other);
        match others.min_by_key(|&other| (other.abs_diff(length), other)) {
            None => 0.0,
            Some(closest) if length > closest => 1.0,
            Some(_) if length == 0 => 0.0,
            Some(closest) => (1.0 - closest as f64 / length as f64).exp(),
        }
    }

    /// The approximate memory in bytes.
    pub fn bytes(&self) -> usize {
        self.words.len() * 48 + self.ngrams.len() * (size_of::<Ngram>() + 16)
    }
}

/// Self-BLEU of each text against all others, for each order; all texts share one count of references.
pub fn self_bleu(texts: &[&str], orders: &[usize]) -> Vec<Vec<f64>> {
    let mut references = BleuReferences::new(orders.iter().copied().max().unwrap_or(1));
    texts.iter().for_each(|text| references.add(text));
    texts.par_iter().map(|text| references.bleu(text, orders, true)).collect()
}

/// Distinct n-grams as a share of all n-grams of the texts; 0 if there are none.
pub fn distinct_n(texts: &[&str], n: usize) -> f64 {
    let tokens: Vec<Vec<&str>> = texts.iter().map(|text| text.split_whitespace().collect()).collect();
    let all: Vec<&[&str]> = tokens.iter().flat_map(|text| text.windows(n)).collect();
    let distinct: BTreeSet<&[&str]> = all.iter().copied().collect();
    if all.is_empty() { 0.0 } else { distinct.len() as f64 / all.len() as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn self_bleu_matches_nltk() {
        let text = include_str!("../../../tests/fixtures/self_bleu.json");
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
