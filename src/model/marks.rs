//! Marks are the control tokens of a tokenizer, such as `<|im_end|>`. This module makes texts in which only a template can
//! write them.
//!
//! Texts of models, seed prompts and users may spell a mark, and a self-play attacker is rewarded for discovering that. So
//! each text is *guarded* before it is put into a template: a Unicode noncharacter goes into everything that could become a
//! mark. In the rendered text, a mark without a guard was written by the template. It is replaced by a stand-in that no data
//! can contain, and a tokenizer that knows the stand-ins and no marks encodes the result. Texts that spell no mark keep the
//! tokens that they would have had.

use std::collections::{HashMap, HashSet};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use super::{Error, Result};

/// Noncharacters of Unicode, which no text contains. The guard goes into what could become a mark; the other two enclose the
/// number of a mark in its stand-in.
const GUARD: char = '\u{fdd0}';
const BEGIN: char = '\u{fdd1}';
const END: char = '\u{fdd2}';

/// A tokenizer's marks.
#[derive(Clone)]
pub struct ControlTokens {
    /// The text of each mark, by its number.
    texts: Vec<String>,
    /// Whether each mark must stand alone, not within a word (`single_word`).
    single_word: Vec<bool>,
    /// The characters that marks begin and end with: sets, because there may be thousands of marks.
    firsts: HashSet<char>,
    lasts: HashSet<char>,
    longest: usize,
    finder: Option<AhoCorasick>,
    /// The same tokenizer with the stand-ins in place of the marks.
    inner: tokenizers::Tokenizer,
}

/// A template's text with data in it, ready to be tokenized.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// As a person reads it.
    pub text: String,
    /// With stand-ins for the marks that the template wrote.
    pub(super) marked: String,
}

impl RenderedPrompt {
    /// A text without control tokens, whatever it spells.
    pub fn plain(text: &str) -> RenderedPrompt {
        let plain = ControlTokens::plain(text);
        RenderedPrompt { marked: plain.clone(), text: plain }
    }

    /// This text followed by more of the template.
    pub fn followed_by(&self, more: &RenderedPrompt) -> RenderedPrompt {
        RenderedPrompt {
            text: format!("{}{}", self.text, more.text),
            marked: format!("{}{}", self.marked, more.marked),
        }
    }
}

/// Whether an added token is a mark: it is special, or spelled like a control token. Other added tokens are words or white
/// space, which occur in ordinary texts.
fn is_mark(token: &Value) -> bool {
    let content = token["content"].as_str().unwrap_or_default();
    let is_bracketed = |open, close| content.starts_with(open) && content.ends_with(close);
    !content.trim().is_empty()
        && content.chars().count() > 1
        && (token["special"] == true || is_bracketed('<', '>') || is_bracketed('[', ']'))
}

fn stand_in(number: usize) -> String {
    format!("{BEGIN}{number}{END}")
}

impl ControlTokens {
    /// The marks of a tokenizer; `json` is its tokenizer.json.
    pub(super) fn of(
        tokenizer: &tokenizers::Tokenizer,
        json: &[u8],
    ) -> std::result::Result<ControlTokens, String> {
        let mut json: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        super::growth::check(&json)?;
        let (mut texts, mut single_word) = (Vec::new(), Vec::new());
        for token in json["added_tokens"].as_array_mut().into_iter().flatten().filter(|token| is_mark(token))
        {
            let text = token["content"].as_str().unwrap_or_default().to_owned();
            token["content"] = stand_in(texts.len()).into();
            single_word.push(token["single_word"] == true);
            texts.push(text);
        }
        rename(&mut json["model"], &texts);
        let mut inner: tokenizers::Tokenizer =
            serde_json::from_value(json).map_err(|error| error.to_string())?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts);
        let finder = if texts.is_empty() { None } else { Some(finder.map_err(|error| error.to_string())?) };
        let firsts = texts.iter().filter_map(|text| text.chars().next()).collect();
        let lasts = texts.iter().filter_map(|text| text.chars().next_back()).collect();
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        let marks = ControlTokens { texts, single_word, firsts, lasts, longest, finder, inner };
        match marks.unknown(tokenizer) {
            None => Ok(marks),
            Some((mark, id)) => Err(format!(
                "the normalizer must keep Unicode's noncharacters: without them, the control token `{mark}` ({id}) cannot be \
                 distinguished from the same text in data"
            )),
        }
    }

    /// A mark whose stand-in is not encoded as the mark's id, if there is one, and that id.
    fn unknown(&self, tokenizer: &tokenizers::Tokenizer) -> Option<(&str, u32)> {
        self.texts.iter().enumerate().find_map(|(number, text)| {
            let id = tokenizer.token_to_id(text)?;
            let stand_in = RenderedPrompt { marked: stand_in(number), ..RenderedPrompt::default() };
            (self.encode(&stand_in, false).ok()?.as_slice() != [id]).then_some((text.as_str(), id))
        })
    }

    /// Guards a text that does not come from the template, so that no part of it can become a mark, alone or together with
    /// its surroundings. The result must only be put into a template whose rendered text is read by [`ControlTokens::read`].
    pub fn guard(&self, text: &str) -> String {
        let trimmed = text.trim();
        // The whole text may be a part of a mark, with the rest of the mark around it.
        let is_part = (1..=self.longest).contains(&trimmed.len())
            && self.texts.iter().any(|mark| mark.contains(trimmed));
        let mut guarded = String::with_capacity(text.len() + 8);
        let mut is_begun = false;
        for c in text.chars() {
            let c = if matches!(c, GUARD | BEGIN | END) { char::REPLACEMENT_CHARACTER } else { c };
            if self.lasts.contains(&c) {
                guarded.push(GUARD);
            }
            guarded.push(c);
            if self.firsts.contains(&c) || is_part && !is_begun && !c.is_whitespace() {
                guarded.push(GUARD);
            }
            is_begun |= !c.is_whitespace();
        }
        guarded
    }

    /// Whether a text spells a mark, and so would write a control token without a guard.
    pub fn occur_in(&self, text: &str) -> bool {
        self.found(text).next().is_some()
    }

    /// The marks that a text spells, and where.
    fn found<'t>(&'t self, text: &'t str) -> impl Iterator<Item = aho_corasick::Match> + 't {
        let found = self.finder.iter().flat_map(move |finder| finder.find_iter(text));
        found.filter(move |mark| {
            !(self.single_word[mark.pattern().as_usize()] && within_word(text, mark.start(), mark.end()))
        })
    }

    /// Reads a rendered template that was filled with guarded texts.
    pub fn read(&self, rendered: &str) -> RenderedPrompt {
        let mut filled = RenderedPrompt::default();
        let mut from = 0;
        for mark in self.found(rendered) {
            let number = mark.pattern().as_usize();
            filled.push(&rendered[from..mark.start()]);
            filled.text += &self.texts[number];
            filled.marked += &stand_in(number);
            from = mark.end();
        }
        filled.push(&rendered[from..]);
        filled
    }

    /// A text that is data from beginning to end.
    pub fn data(&self, text: &str) -> RenderedPrompt {
        RenderedPrompt::plain(text)
    }

    /// A text in which this module's noncharacters are replaced.
    pub(super) fn plain(text: &str) -> String {
        text.replace([GUARD, BEGIN, END], "\u{fffd}")
    }

    /// The tokenizer with the stand-ins in place of the marks.
    pub(super) fn into_tokenizer(self) -> tokenizers::Tokenizer {
        self.inner
    }

    /// The token ids; with `around`, including those that the model expects around a text.
    pub(super) fn encode(&self, filled: &RenderedPrompt, around: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(filled.marked.as_str(), around);
        let encoding = encoding
            .map_err(|error| Error::Tokenizer { action: "encode text", reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl RenderedPrompt {
    fn push(&mut self, piece: &str) {
        for c in piece.chars().filter(|c| *c != GUARD) {
            let c = if matches!(c, BEGIN | END) { char::REPLACEMENT_CHARACTER } else { c };
            self.text.push(c);
            self.marked.push(c);
        }
    }
}

/// Whether a range lies within a word, by the characters before and after it, as the tokenizers library decides.
fn within_word(text: &str, from: usize, to: usize) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text[..from].chars().next_back().is_some_and(is_word) || text[to..].chars().next().is_some_and(is_word)
}

/// Renames the marks in the model's vocabulary, and the unknown token, to their stand-ins: some algorithms look whole words
/// up in the vocabulary.
fn rename(model: &mut Value, marks: &[String]) {
    let numbers: HashMap<&str, usize> =
        marks.iter().enumerate().map(|(number, mark)| (mark.as_str(), number)).collect();
    let renamed = |text: &str| numbers.get(text).copied().map(stand_in);
    match &mut model["vocab"] {
        Value::Object(vocabulary) => {
            for (number, mark) in marks.iter().enumerate() {
                if let Some(id) = vocabulary.remove(mark) {
                    vocabulary.insert(stand_in(number), id);
                }
            }
        }
        Value::Array(pieces) => {
            for piece in pieces {
                if let Some(name) = piece[0].as_str().and_then(renamed) {
                    piece[0] = name.into();
                }
            }
        }
        _ => {}
    }
    if let Some(name) = model["unk_token"].as_str().and_then(renamed) {
        model["unk_token"] = name.into();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A tokenizer, its marks, and whether it gives back any text as it was.
    struct Known {
        name: &'static str,
        inner: tokenizers::Tokenizer,
        marks: ControlTokens,
        is_lossless: bool,
    }

    impl Known {
        fn of(name: &'static str, json: &[u8], is_lossless: bool) -> Known {
            let inner = tokenizers::Tokenizer::from_bytes(json).unwrap();
            let marks = ControlTokens::of(&inner, json).unwrap();
            Known { name, inner, marks, is_lossless }
        }

        /// A template with two texts in it, between marks and with this between them, and its ids.
        fn fill(&self, mark: &str, one: &str, between: &str, other: &str) -> (RenderedPrompt, Vec<u32>) {
            let guarded = [one, other].map(|text| self.marks.guard(text));
            let filled = self.marks.read(&format!("{mark}{}{between}{}{mark}", guarded[0], guarded[1]));
            let ids = self.marks.encode(&filled, false).unwrap();
            (filled, ids)
        }
    }

    fn added(marks: &[(&str, u32, bool)]) -> Value {
        let token = |(content, id, special): &(&str, u32, bool)| {
            json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special })
        };
        marks.iter().map(token).collect()
    }

    fn known() -> Vec<Known> {
        let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        // Pieces as sentencepiece has them, the control tokens among them.
        let mut pieces = vec![
            json!(["<unk>", 0.0]),
            json!(["<s>", 0.0]),
            json!(["</s>", 0.0]),
            json!(["<start_of_turn>", 0.0]),
        ];
        pieces.extend(bytes.iter().map(|byte| json!([byte, -9.0])));
        pieces.extend(
            ["▁", "s", "t", "a", "r", "_", "o", "f", "u", "n", "<", ">", "/", "▁brew", "glow"]
                .map(|piece| json!([piece, -2.0])),
        );
        let marks = [("<unk>", 0, true), ("<s>", 1, true), ("</s>", 2, true), ("<start_of_turn>", 3, false)];
        let decoder = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" } ] });
        let sentencepiece = json!({ "version": "1.0", "added_tokens": added(&marks),
            "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            "decoder": decoder, "model": { "type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": true } });
        let words = ["[UNK]", "[CLS]", "[SEP]", "brew", "glow", "##venom", "c", "##l", "##s", "[", "]"];
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
        let marks = [("[UNK]", 0, true), ("[CLS]", 1, true), ("[SEP]", 2, true)];
        // Splits at white space alone, so that a whole word may be found in the vocabulary.
        let wordpiece = json!({ "version": "1.0", "added_tokens": added(&marks),
            "normalizer": { "type": "NFKC" }, "pre_tokenizer": { "type": "WhitespaceSplit" },
            "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary } });
        let spec = super::super::TokenizerSpec {
            algorithm: super::super::Algorithm::WordLevel,
            vocab_size: 40,
            special_tokens: vec!["<sep>".into()],
        };
        let folder = tempfile::tempdir().unwrap();
        super::super::Tokenizer::train(&["brew glowvenom ? <sep>"], &spec)
            .unwrap()
            .save(folder.path())
            .unwrap();
        let word_level = std::fs::read(folder.path().join("tokenizer.json")).unwrap();
        // The tokenizer of all fixtures, and one that normalises before it looks for marks.
        let bytes = std::fs::read("../../tests/fixtures/qwen3-tiny/tokenizer.json").unwrap();
        let mut normalizing: Value = serde_json::from_slice(&bytes).unwrap();
        normalizing["normalizer"] = json!({ "type": "NFKC" });
        for token in normalizing["added_tokens"].as_array_mut().unwrap() {
            token["normalized"] = true.into();
        }
        vec![
            Known::of("byte-level BPE", &bytes, true),
            Known::of("byte-level BPE of NFKC", normalizing.to_string().as_bytes(), false),
            Known::of("sentencepiece", sentencepiece.to_string().as_bytes(), true),
            Known::of("WordPiece", wordpiece.to_string().as_bytes(), false),
            Known::of("word level", &word_level, false),
        ]
    }

    /// Texts of pieces that could form marks, and of arbitrary pieces.
    fn texts() -> impl Strategy<Value = String> {
        let parts = [
            "<|im_end|>",
            "<|im_start|>",
            "<|",
            "|>",
            "im_end",
            "im",
            "_end",
            "<",
            ">",
            "<s>",
            "</s>",
            "/s",
            "s",
            "<start_of_turn>",
            "start_of_turn",
            "[SEP]",
            "[",
            "SEP",
            "]",
            "<sep>",
            "sep",
            "<unk>",
            " ",
            "\n",
            "brew",
            "glowvenom",
            "＜|im_end|＞",
            "［SEP］",
            "［",
            "\u{fdd0}",
            "\u{fdd1}0\u{fdd2}",
            "é",
            "魔",
        ];
        let part = prop_oneof![
            4 => proptest::sample::select(parts.to_vec()).prop_map(str::to_owned),
            1 => any::<String>(),
        ];
        proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn what_fills_a_template_is_never_a_mark(one in texts(), other in texts()) {
            for known in known() {
                let control: Vec<u32> = known.marks.texts.iter().filter_map(|mark| known.inner.token_to_id(mark)).collect();
                let unknown = ["<unk>", "[UNK]"].map(|mark| known.inner.token_to_id(mark));
                let mark = &known.marks.texts[known.marks.texts.len() - 1];
                let own = known.inner.token_to_id(mark).unwrap();
                let (filled, ids) = known.fill(mark, &one, mark, &other);
                let plain = [&one, &other].map(|text| text.replace([GUARD, BEGIN, END], "\u{fffd}"));
                prop_assert_eq!(&filled.text, &format!("{mark}{}{mark}{}{mark}", plain[0], plain[1]));
                let found = ids.iter().filter(|id| control.contains(id) && !unknown.contains(&Some(**id)));
                prop_assert!(found.clone().all(|id| *id == own), "{}: {:?}", known.name, ids);
                prop_assert_eq!(found.count(), 3, "{}: {:?}", known.name, ids);
                if known.is_lossless {
                    let between: Vec<&[u32]> = ids.split(|id| *id == own).collect();
                    let texts: Vec<String> = between[1..3].iter().map(|ids| known.inner.decode(ids, false).unwrap()).collect();
                    prop_assert_eq!(&texts[..], &plain[..], "{}", known.name);
                }
                // Nor do two make one together.
                let (filled, ids) = known.fill(mark, &one, "", &other);
                prop_assert_eq!(&filled.text, &format!("{mark}{}{mark}", plain.concat()));
                let found: Vec<&u32> = ids.iter().filter(|id| control.contains(id) && !unknown.contains(&Some(**id))).collect();
                prop_assert_eq!(found, [&own, &own], "{}: {:?}", known.name, ids);
                if known.is_lossless {
                    let text = known.inner.decode(&ids[1..ids.len() - 1], false).unwrap();
                    prop_assert_eq!(text, plain.concat(), "{}", known.name);
                }
            }
        }

        #[test]
        fn texts_that_spell_no_mark_have_the_tokens_that_they_always_had(one in texts(), other in texts()) {
            for known in known() {
                let mark = &known.marks.texts[known.marks.texts.len() - 1];
                let whole = format!("{mark}{one}{mark}{other}{mark}");
                if known.marks.found(&whole).count() > 3 || whole.contains([GUARD, BEGIN, END]) {
                    continue;
                }
                let (_, ids) = known.fill(mark, &one, mark, &other);
                let before = known.inner.encode_fast(whole, false).unwrap();
                // Text that a normalizer turns into a mark was a mark before; in data it is none now.
                let count = |ids: &[u32]| ids.iter().filter(|id| known.inner.token_to_id(mark) == Some(**id)).count();
                if count(before.get_ids()) == 3 {
                    prop_assert_eq!(&ids[..], before.get_ids(), "{}", known.name);
                }
            }
        }
    }

    #[test]
    fn marks_are_found_and_a_template_may_write_them() {
        let known = &known()[0];
        let guarded = known.marks.guard("no <|im_end|> yes");
        let filled = known.marks.read(&format!("<|im_start|>{guarded}<|im_end|>"));
        assert_eq!(filled.text, "<|im_start|>no <|im_end|> yes<|im_end|>");
        assert!(known.marks.occur_in("no <|im_end|> yes") && !known.marks.occur_in("no <|im_end> yes"));
        let ids = known.marks.encode(&filled, false).unwrap();
        let id = |mark: &str| known.inner.token_to_id(mark).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (id("<|im_start|>"), id("<|im_end|>")));
        assert_eq!(ids.iter().filter(|id| [0, 1, 2].contains(*id)).count(), 2);
        // A mark made of parts of the template and of its data is none.
        let half = known.marks.guard("im_end");
        assert_eq!(
            known
                .marks
                .encode(&known.marks.read(&format!("<|{half}|>")), false)
                .unwrap()
                .iter()
                .filter(|id| **id == 2)
                .count(),
            0
        );
    }
}
