//! One byte string for one JSON value, whatever the order of its keys, so that equal parameters hash equally.

use serde_json::Value;

use super::Digest;

/// The digest of a JSON value. Keys are taken in sorted order and every part carries its type and length,
/// so that no two different values share an encoding. Numbers are encoded as serde_json prints them
/// (shortest form that reads back the same), with `1` and `1.0` kept apart.
pub fn canonical_digest(value: &Value) -> Digest {
    let mut hasher = blake3::Hasher::new();
    encode(value, &mut hasher);
    hasher.into()
}

fn encode(value: &Value, hasher: &mut blake3::Hasher) {
    match value {
        Value::Null => tagged(b'n', b"", hasher),
        Value::Bool(value) => tagged(b'b', &[u8::from(*value)], hasher),
        Value::Number(number) => tagged(b'd', number.to_string().as_bytes(), hasher),
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
}
