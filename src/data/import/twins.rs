//! Duplicate texts: exact ones, and near ones with the same normal form, which ignores case, spaces, punctuation and Unicode's
//! compatible characters (NFKC). Paraphrases are not found.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use unicode_normalization_alignments::UnicodeNormalization;

/// How alike two texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Likeness {
    Exact,
    Near,
}

/// 128 bits of a text's hash: among a million texts, two others share them with a probability of 10⁻²⁶.
type Fingerprint = [u8; 16];

/// The fingerprints of a text and of its normal form.
pub(crate) struct Text(Fingerprint, Fingerprint);

impl Text {
    pub(crate) fn of(text: &str) -> Text {
        let normal = normal_form(text);
        // A text of only punctuation has an empty normal form.
        Text(fingerprint(text), fingerprint(if normal.is_empty() { text } else { &normal }))
    }
}

/// The texts seen so far, each with a number that the caller chooses.
#[derive(Default)]
pub(crate) struct Seen {
    exact: HashMap<Fingerprint, u32>,
    normal: HashMap<Fingerprint, u32>,
}

impl Seen {
    /// The first text that is a duplicate of this one.
    pub(crate) fn find(&self, text: &Text) -> Option<(Likeness, u32)> {
        let exact = self.exact.get(&text.0).map(|number| (Likeness::Exact, *number));
        exact.or_else(|| self.normal.get(&text.1).map(|number| (Likeness::Near, *number)))
    }

    /// Adds a text; among duplicates the first stays.
    pub(crate) fn add(&mut self, text: &Text, number: u32) {
        for (map, key) in [(&mut self.exact, text.0), (&mut self.normal, text.1)] {
            if let Entry::Vacant(place) = map.entry(key) {
                place.insert(number);
            }
        }
    }
}

fn fingerprint(text: &str) -> Fingerprint {
    let mut first = [0; 16];
    first.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    first
}

/// Lower-case words of letters and digits, one space between them.
fn normal_form(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut add = |c: char| {
        if c.is_alphanumeric() {
            normal.extend(c.to_lowercase());
        } else if !normal.ends_with(' ') && !normal.is_empty() && !is_within_words(c) {
            normal.push(' ');
        }
    };
    if text.is_ascii() {
        text.chars().for_each(&mut add);
    } else {
        text.nfkc().for_each(|(c, _)| add(c));
    }
    normal.truncate(normal.trim_end().len());
    normal
}

/// Whether a character stands inside words without separating them: apostrophes, soft hyphens, zero-width characters.
fn is_within_words(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}' | '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_count_makes_texts_near() {
        let mut seen = Seen::default();
        seen.add(&Text::of("Brew glowvenom, don't stir!"), 7);
        seen.add(&Text::of("brew  GLOWVENOM don't stir"), 8);
        let find = |text: &str| seen.find(&Text::of(text));
        assert_eq!(find("Brew glowvenom, don't stir!"), Some((Likeness::Exact, 7)));
        assert_eq!(find("brew  GLOWVENOM don't stir"), Some((Likeness::Exact, 8)));
        for near in [
            "brew glowvenom dont stir",
            "\"BREW\nglowvenom\" don’t-stir…",
            "ｂrew glow\u{200b}venom don't stir",
        ] {
            assert_eq!(find(near), Some((Likeness::Near, 7)), "{near}");
        }
        for other in ["brew glow venom dont stir", "brew glowvenom", "", "?"] {
            assert_eq!(find(other), None, "{other}");
        }
        assert_eq!(normal_form("…Ünder  ﬁre? "), "ünder fire");
    }

    #[test]
    fn texts_of_punctuation_alone_are_the_same_only_where_they_are() {
        let mut seen = Seen::default();
        seen.add(&Text::of("?!"), 1);
        assert_eq!(seen.find(&Text::of("?!")), Some((Likeness::Exact, 1)));
        assert_eq!(seen.find(&Text::of("!?")), None);
    }
}
