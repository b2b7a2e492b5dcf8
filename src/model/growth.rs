//! Limits how much a tokenizer's rules may lengthen a text. A few rules that each turn one letter into a hundred fill any
//! memory. Those of real tokenizers turn one byte into a few.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Most bytes that rules may turn one byte into.
const MOST: usize = 1_000;

/// Refuses a tokenizer.json whose normalizers or decoders may lengthen a text beyond the limit.
pub(crate) fn check(json: &Value) -> Result<(), String> {
    for key in ["normalizer", "decoder"] {
        let bytes = growth(&json[key]);
        if bytes > MOST {
            return Err(format!(
                "`{key}` must turn one byte into at most {MOST}, found rules that turn it into {bytes}"
            ));
        }
    }
    Ok(())
}

/// Most bytes that a rule, or a sequence of rules, turns one byte into.
fn growth(rule: &Value) -> usize {
    let all = |rules: &Value| {
        rules.as_array().into_iter().flatten().map(growth).fold(1, |all: usize, one| all.saturating_mul(one))
    };
    match rule["type"].as_str() {
        Some("Sequence") => all(&rule["normalizers"]).saturating_mul(all(&rule["decoders"])),
        Some("Replace") => {
            let content = rule["content"].as_str().map_or(0, str::len);
            match rule["pattern"]["String"].as_str().map(str::len) {
                Some(length @ 1..) => content.div_ceil(length).max(1),
                // A pattern that matches the empty text matches before each byte.
                _ => content + 1,
            }
        }
        // Only at the beginning, so the worst case is a text of one byte.
        Some("Prepend") => 1 + rule["prepend"].as_str().map_or(0, str::len),
        Some("Precompiled") => rule["precompiled_charsmap"].as_str().map_or(1, longest_replacement),
        _ => 1,
    }
}

/// The length in bytes of the longest replacement in sentencepiece's table. The table has the length of a tree, the tree, and
/// then the replacements, each ended by a zero.
fn longest_replacement(table: &str) -> usize {
    let Ok(table) = STANDARD.decode(table) else { return 1 };
    let tree = table.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let texts = table.get(4 + tree..).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_that_multiply_are_refused_and_those_of_real_tokenizers_are_not() {
        let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
        let sequence = |rules: &[Value]| json!({ "type": "Sequence", "normalizers": rules });
        let check = |key: &str, rule: Value| check(&json!({ key: rule }));
        let real = [
            json!(null),
            json!({ "type": "NFC" }),
            sequence(&[json!({ "type": "Prepend", "prepend": "▁" }), replace(json!({ "String": " " }), "▁")]),
            sequence(&[replace(json!({ "Regex": " {2,}" }), "▁"), replace(json!({ "String": "``" }), "\"")]),
        ];
        for rule in real {
            assert_eq!(check("normalizer", rule), Ok(()));
        }
        let twice = replace(json!({ "String": "a" }), "aa");
        let said = |bytes: usize| {
            format!(
                "`normalizer` must turn one byte into at most 1000, found rules that turn it into {bytes}"
            )
        };
        assert_eq!(check("normalizer", sequence(&vec![twice.clone(); 9])), Ok(()));
        assert_eq!(check("normalizer", sequence(&vec![twice; 10])), Err(said(1024)));
        assert_eq!(
            check("normalizer", replace(json!({ "Regex": "" }), &"a".repeat(1_000))),
            Err(said(1_001))
        );
        let table = [&4_u32.to_le_bytes()[..], b"tree", b"a\0", &[b'b'; 2_000], b"\0"].concat();
        let table = json!({ "type": "Precompiled", "precompiled_charsmap": STANDARD.encode(table) });
        assert_eq!(check("normalizer", sequence(&[table])), Err(said(2_000)));
        let decoders = json!({ "type": "Sequence", "decoders": [replace(json!({ "String": "a" }), &"a".repeat(2_000))] });
        assert!(check("decoder", decoders).unwrap_err().starts_with("`decoder` must turn one byte"));
    }
}
