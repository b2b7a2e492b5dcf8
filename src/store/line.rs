//! Sealed lines: JSON objects, one a line, each ending in a checksum of itself. All files that grow by appending have them: the
//! records of the cache, the nodes of a run, the digests of outside files. A torn or altered line is detected and skipped,
//! without harm to the lines around it.

use serde::Serialize;

/// The text between a line's content and its checksum.
const MARK: &[u8] = b",\"check\":\"";
/// Hexadecimal digits of a checksum: 128 bits.
const DIGITS: usize = 32;
const END: &[u8] = b"\"}";

/// Seals a value, which must serialise to a JSON object that is not empty. The result has no line feed.
pub fn seal(value: &impl Serialize) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(value)?;
    line.pop();
    let check = checksum(line.as_bytes());
    line.push_str(",\"check\":\"");
    line.extend(check.map(char::from));
    line.push_str("\"}");
    Ok(line)
}

/// Seals a whole file for people: indented, with the checksum on a line of its own.
pub fn seal_file(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let body = text.trim_end_matches('}').trim_end();
    let digits = checksum(body.as_bytes()).map(char::from);
    Ok(format!("{body},\n  \"check\": \"{}\"\n}}\n", String::from_iter(digits)))
}

/// Whether a file is exactly as [`seal_file`] wrote it.
pub fn is_sealed_file(text: &[u8]) -> bool {
    let mark = b",\n  \"check\": \"";
    let Some(at) = memchr::memmem::rfind(text, mark) else { return false };
    let (body, tail) = (&text[..at], &text[at + mark.len()..]);
    tail.len() == DIGITS + 4 && tail[..DIGITS] == checksum(body) && tail.ends_with(b"\"\n}\n")
}

/// Whether a line is complete and unaltered. It is then a JSON object with one more key, `check`.
pub fn is_sealed(line: &[u8]) -> bool {
    let tail = MARK.len() + DIGITS + END.len();
    let Some(length) = line.len().checked_sub(tail) else { return false };
    let (content, tail) = line.split_at(length);
    tail.starts_with(MARK)
        && tail.ends_with(END)
        && tail[MARK.len()..MARK.len() + DIGITS] == checksum(content)
}

fn checksum(content: &[u8]) -> [u8; DIGITS] {
    let hex = blake3::hash(content).to_hex();
    let mut digits = [0; DIGITS];
    digits.copy_from_slice(&hex.as_bytes()[..DIGITS]);
    digits
}

/// The sealed lines of a text. `damaged` is called with the number, from 1, of each line that is not sealed.
pub fn sealed_lines<'a>(
    text: &'a [u8],
    mut damaged: impl FnMut(usize) + 'a,
) -> impl Iterator<Item = &'a [u8]> + 'a {
    text.split(|byte| *byte == b'\n').enumerate().filter_map(move |(index, line)| match line {
        [] => None,
        line if is_sealed(line) => Some(line),
        _ => {
            damaged(index + 1);
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_cut_or_altered_anywhere_is_found_out() {
        let value = json!({"key": "abc", "outputs": [1, 2]});
        let line = seal(&value).unwrap();
        assert!(is_sealed(line.as_bytes()));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["outputs"], value["outputs"]);
        for length in 0..line.len() {
            assert!(!is_sealed(&line.as_bytes()[..length]), "cut at {length}");
        }
        for bit in 0..line.len() * 8 {
            let mut altered = line.clone().into_bytes();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_sealed(&altered), "bit {bit}");
        }
    }

    #[test]
    fn a_file_cut_or_altered_anywhere_is_found_out() {
        let value = json!({"key": "abc", "seconds": 0.1 + 0.2, "params": {}});
        let text = seal_file(&value).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["key"], "abc");
        assert!(is_sealed_file(text.as_bytes()));
        assert!((0..text.len()).all(|length| !is_sealed_file(&text.as_bytes()[..length])));
        for bit in 0..text.len() * 8 {
            let mut altered = text.clone().into_bytes();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_sealed_file(&altered), "bit {bit}");
        }
    }

    #[test]
    fn lines_around_a_damaged_one_are_read() {
        let [a, b] = [json!({"n": 1}), json!({"n": 2})].map(|value| seal(&value).unwrap());
        let text = format!("{a}\n{}\n{b}\n", &a[..10]);
        let mut damaged = Vec::new();
        let read = sealed_lines(text.as_bytes(), |number| damaged.push(number)).count();
        assert_eq!((read, damaged), (2, vec![2]));
    }
}
