//! Repetition within completions, which rises when a policy collapses, before its reward falls.

use std::collections::HashSet;

/// Tokens of an n-gram.
const ORDER: usize = 3;

/// The share of 3-grams that occurred earlier in the same completion, over all completions; 0 if there are no 3-grams.
pub fn repetition<'a>(completions: impl IntoIterator<Item = &'a [u32]>) -> f64 {
    let (mut all, mut repeated) = (0usize, 0usize);
    for completion in completions {
        let mut seen = HashSet::new();
        for ngram in completion.windows(ORDER) {
            all += 1;
            repeated += usize::from(!seen.insert(ngram));
        }
    }
    if all == 0 { 0.0 } else { repeated as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_completion_itself_had_before_is_repeated() {
        // 123 234 341 412 123: the last one repeats the first.
        assert_eq!(repetition([&[1u32, 2, 3, 4, 1, 2, 3][..]]), 0.2);
        assert_eq!(repetition([&[1u32, 2, 3][..], &[1, 2, 3]]), 0.0);
        assert_eq!(repetition([&[7u32; 12][..]]), 0.9);
        assert_eq!(repetition([&[1u32, 2][..], &[]]), 0.0);
    }
}
