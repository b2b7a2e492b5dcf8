//! The text of a completion while it is drawn. The pieces, one after the other, are the completion's text: nothing is sent that a
//! later token could change, or that a stop text could cut off.

use model::{Result, Tokenizer};

/// What a token that ends within a character decodes to.
const PART: char = char::REPLACEMENT_CHARACTER;

pub(crate) struct TextStream {
    stops: Vec<String>,
    ids: Vec<u32>,
    /// The text of the first `read` tokens.
    text: String,
    read: usize,
    /// Where decoding begins again: the text of a token may depend on the one before it.
    from: usize,
    /// Bytes of the text that were sent.
    sent: usize,
}

impl TextStream {
    pub(crate) fn new(stops: Vec<String>) -> TextStream {
        TextStream { stops, ids: Vec::new(), text: String::new(), read: 0, from: 0, sent: 0 }
    }

    /// Adds a token and returns what can be sent now.
    pub(crate) fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<String> {
        self.ids.push(id);
        let known = tokenizer.decode(&self.ids[self.from..self.read])?;
        let now = tokenizer.decode(&self.ids[self.from..])?;
        match now.strip_prefix(&known) {
            Some(more) if !more.is_empty() && !more.ends_with(PART) => {
                self.text += more;
                (self.from, self.read) = (self.read, self.ids.len());
            }
            _ => return Ok(String::new()),
        }
        let stop = self.stops.iter().filter_map(|stop| self.text.find(stop.as_str())).min();
        let end = stop.unwrap_or_else(|| self.text.len() - self.held());
        let piece = self.text[self.sent.min(end)..end].to_owned();
        self.sent = self.sent.max(end);
        Ok(piece)
    }

    /// Bytes at the end of the text that may be the beginning of a stop text.
    fn held(&self) -> usize {
        let begins = |stop: &String| {
            let most = stop.len().saturating_sub(1).min(self.text.len());
            let is_beginning = |length: &usize| {
                let at = self.text.len() - length;
                self.text.is_char_boundary(at) && stop.starts_with(&self.text[at..])
            };
            (1..=most).rev().find(is_beginning).unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }

    /// What is left to send of the whole text.
    pub(crate) fn rest<'w>(&self, whole: &'w str) -> &'w str {
        whole.get(self.sent..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen3-tiny");
        Tokenizer::load(folder.as_ref(), None).unwrap()
    }

    #[test]
    fn pieces_are_the_whole_text_and_never_part_of_a_stop_text() {
        let tokenizer = tokenizer();
        let text = "brew glowvenom — at naïve dawn 🜂 and stir";
        let ids = tokenizer.encode(text).unwrap();
        for stops in [vec![], vec!["dawn 🜂".to_owned()], vec!["dusk".to_owned(), "and stir".to_owned()]] {
            let whole = tokenizer.decode(&ids).unwrap();
            let cut = stops.iter().filter_map(|stop| whole.find(stop.as_str())).min().unwrap_or(whole.len());
            let mut stream = TextStream::new(stops);
            let mut sent = String::new();
            for id in &ids {
                sent += &stream.push(*id, &tokenizer).unwrap();
                assert!(whole[..cut].starts_with(&sent), "{sent}");
            }
            sent += stream.rest(&whole[..cut]);
            assert_eq!(sent, whole[..cut]);
        }
    }
}
