//! The canonical encoding of JSON values. Equal parameters have equal digests, whatever the order of their keys.

use serde_json::Value;

use super::Digest;

/// Computes the digest of a JSON value. Keys are sorted, and every part carries its type and length, so that no two different
/// values share an encoding. A number is encoded as its 64 bits, integer or floating point: `1` and `1.0` differ, and no
/// library's number format matters.
pub fn canonical_digest(value: &Value) -> Digest {
    let mut hasher = blake3::Hasher::new();
    encode(value, &mut hasher);
    hasher.into()
}

fn encode(value: &Value, hasher: &mut blake3::Hasher) {
    match value {
        Value::Null => tagged(b'n', b"", hasher),
        Value::Bool(value) => tagged(b'b', &[u8::from(*value)], hasher),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => tagged(b'i', &number.to_le_bytes(), hasher),
            (None, Some(number)) => tagged(b'u', &number.to_le_bytes(), hasher),
            (None, None) => {
                tagged(b'f', &number.as_f64().unwrap_or(f64::NAN).to_bits().to_le_bytes(), hasher);
            }
        },
        Value::String(text) => tagged(b's', text.as_bytes(), hasher),
        Value::Array(items) => {
            tagged(b'a', &(items.len() as u64).to_le_bytes(), hasher);
            items.iter().for_each(|item| encode(item, hasher));
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            tagged(b'o', &(fields.len() as u64).to_le_bytes(), hasher);
            for (name, value) in fields {
                tagged(b'k', name.as_bytes(), hasher);
                encode(value, hasher);
            }
        }
    }
}

fn tagged(tag: u8, bytes: &[u8], hasher: &mut blake3::Hasher) {
    hasher.update(&[tag]);
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn order_of_keys_does_not_matter_and_types_do() {
        let digest = |value: Value| canonical_digest(&value);
        assert_eq!(digest(json!({"a": 1, "b": [2]})), digest(json!({"b": [2], "a": 1})));
        assert_ne!(digest(json!(1)), digest(json!("1")));
        assert_ne!(digest(json!(1)), digest(json!(1.0)));
        assert_ne!(digest(json!([[1], 2])), digest(json!([[1, 2]])));
        assert_ne!(digest(json!({"a": null})), digest(json!({})));
    }

    #[test]
    fn digests_are_pinned_since_keys_in_caches_are_made_of_them() {
        let value = json!({
            "whole": [0, -1, 9_007_199_254_740_993i64, u64::MAX], "floating": [0.1, 1e300, -0.0, 3.0],
            "text": "ä", "none": null, "yes": true,
        });
        assert_eq!(
            canonical_digest(&value).to_string(),
            "134f63be5b2a5be9fde1b880fc835f4993769024d28d9b74e05f060c7dc10c35"
        );
    }
}
