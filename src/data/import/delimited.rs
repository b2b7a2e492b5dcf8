//! Comma- and tab-separated values by RFC 4180, as Python, R and spreadsheets write them. Anything else is an error: a reader
//! that guesses loses rows or changes texts silently.

use std::io::{self, BufRead};

/// A syntax error and its line.
#[derive(Debug)]
pub(crate) struct Malformed {
    pub line: u32,
    pub message: &'static str,
    pub help: &'static str,
}

#[derive(Debug)]
pub(crate) enum Error {
    Malformed(Malformed),
    Io(io::Error),
}

/// A row: the line where it begins, and its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub line: u32,
    pub fields: Vec<String>,
}

/// Reads row after row.
pub(crate) struct Rows<R> {
    input: R,
    delimiter: u8,
    /// The current line, from 1.
    line: u32,
    is_begun: bool,
}

/// The reader's position in a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Begin,
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: the quote closes the field, unless another quote follows.
    Quote,
}

/// The longest row in bytes; a file of zeros is one row.
pub(crate) const LONGEST: usize = 16 << 20;

const TWICE: &str = "write a quote within a text twice, and put the text in quotes";

impl<R: BufRead> Rows<R> {
    pub(crate) fn new(input: R, delimiter: u8) -> Rows<R> {
        Rows { input, delimiter, line: 1, is_begun: false }
    }

    fn byte(&mut self) -> Result<Option<u8>, Error> {
        let byte = self.input.fill_buf().map_err(Error::Io)?.first().copied();
        self.input.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    fn peek(&mut self) -> Result<Option<u8>, Error> {
        Ok(self.input.fill_buf().map_err(Error::Io)?.first().copied())
    }

    /// The next row that is not a blank line; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Row>, Error> {
        if !std::mem::replace(&mut self.is_begun, true) {
            self.skip_mark()?;
        }
        loop {
            let mut row = Row { line: self.line, fields: Vec::new() };
            let (is_end, is_blank) = self.read(&mut row)?;
            match (is_blank, is_end) {
                (false, _) => return Ok(Some(row)),
                (true, true) => return Ok(None),
                (true, false) => {}
            }
        }
    }

    /// Some programs begin a file with a byte order mark, which is not part of the first name.
    fn skip_mark(&mut self) -> Result<(), Error> {
        const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
        let begin = self.input.fill_buf().map_err(Error::Io)?;
        if begin.starts_with(&MARK) {
            self.input.consume(MARK.len());
        }
        Ok(())
    }

    /// Reads up to the end of the row. Returns whether that is the end of the file, and whether the line was blank.
    fn read(&mut self, row: &mut Row) -> Result<(bool, bool), Error> {
        let (mut at, mut field, mut is_quoted) = (At::Begin, Vec::new(), false);
        // The line of the open quote.
        let mut opened = self.line;
        let mut bytes = 0;
        loop {
            let byte = self.byte()?;
            let malformed = |line, message, help| Err(Error::Malformed(Malformed { line, message, help }));
            bytes += 1;
            if bytes > LONGEST {
                return malformed(
                    row.line,
                    "a row must have at most 16 MiB, found more",
                    "check that the file is a table",
                );
            }
            match (at, byte) {
                (At::Quoted, None) => {
                    return malformed(opened, "a quote that begins here is never closed", TWICE);
                }
                (At::Quoted, Some(b'"')) => at = At::Quote,
                (At::Quoted, Some(byte)) => {
                    self.line += u32::from(byte == b'\n');
                    field.push(byte);
                }
                (At::Quote, Some(b'"')) => {
                    field.push(b'"');
                    at = At::Quoted;
                }
                (At::Begin, Some(b'"')) => (at, is_quoted, opened) = (At::Quoted, true, self.line),
                (_, Some(byte)) if byte == self.delimiter => {
                    self.push(row, &mut field)?;
                    at = At::Begin;
                }
                (_, Some(b'\r')) if self.peek()? == Some(b'\n') => {}
                (_, Some(b'\r')) => {
                    let help = "end lines with a line feed, or with both; put quotes around a text with a line break";
                    return malformed(self.line, "a carriage return must be followed by a line feed", help);
                }
                (_, Some(b'\n') | None) => {
                    let is_blank = row.fields.is_empty() && field.is_empty() && !is_quoted;
                    if !is_blank {
                        self.push(row, &mut field)?;
                    }
                    self.line += u32::from(byte.is_some());
                    return Ok((byte.is_none(), is_blank));
                }
                (At::Quote, Some(_)) => {
                    return malformed(self.line, "unexpected text after a closing quote", TWICE);
                }
                (_, Some(b'"')) => return malformed(self.line, "unexpected quote within a text", TWICE),
                (_, Some(byte)) => {
                    field.push(byte);
                    at = At::Plain;
                }
            }
        }
    }

    fn push(&self, row: &mut Row, field: &mut Vec<u8>) -> Result<(), Error> {
        let text = String::from_utf8(std::mem::take(field)).map_err(|_| {
            let message = "a text of this row is not UTF-8";
            Error::Malformed(Malformed { line: row.line, message, help: "save the file as UTF-8" })
        })?;
        row.fields.push(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], delimiter: u8) -> Result<Vec<Vec<String>>, String> {
        // In small pieces, so that a row may end anywhere within one.
        let mut rows = Rows::new(io::BufReader::with_capacity(3, bytes), delimiter);
        let mut found = Vec::new();
        loop {
            match rows.next() {
                Ok(Some(row)) => found.push(row.fields),
                Ok(None) => return Ok(found),
                Err(Error::Malformed(error)) => return Err(format!("{}: {}", error.line, error.message)),
                Err(Error::Io(error)) => panic!("{error}"),
            }
        }
    }

    /// The quoting styles of Python's csv module.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Quoting {
        Minimal,
        All,
        Nonnumeric,
        None,
    }

    fn written(rows: &[Vec<String>], quoting: Quoting, delimiter: char, end: &str) -> Option<String> {
        let mut text = String::new();
        for row in rows {
            for (at, field) in row.iter().enumerate() {
                let special =
                    field.contains([delimiter, '"', '\r', '\n']) || field.is_empty() && row.len() == 1;
                let is_quoted = match quoting {
                    Quoting::Minimal => special,
                    Quoting::All => true,
                    Quoting::Nonnumeric => field.parse::<f64>().is_err(),
                    // Python refuses fields that it would have to escape.
                    Quoting::None if special => return None,
                    Quoting::None => false,
                };
                if at > 0 {
                    text.push(delimiter);
                }
                match is_quoted {
                    true => text += &format!("\"{}\"", field.replace('"', "\"\"")),
                    false => text += field,
                }
            }
            text += end;
        }
        Some(text)
    }

    fn field() -> impl Strategy<Value = String> {
        let pieces =
            ["a", "brew", "\"", ",", "\t", "\r", "\n", "\r\n", " ", "1.5", "é", "\u{4}", "\u{feff}", "'"];
        prop_oneof![
            3 => proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..5).prop_map(|pieces| pieces.concat()),
            1 => any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_table_that_python_writes_comes_back(
            rows in (1usize..4).prop_flat_map(|width| proptest::collection::vec(proptest::collection::vec(field(), width), 0..5)),
            quoting in proptest::sample::select(vec![Quoting::Minimal, Quoting::All, Quoting::Nonnumeric, Quoting::None]),
            delimiter in proptest::sample::select(vec![',', '\t']),
            end in proptest::sample::select(vec!["\r\n", "\n"]),
        ) {
            let Some(text) = written(&rows, quoting, delimiter, end) else { return Ok(()) };
            // A byte order mark at the beginning is not part of the first text.
            prop_assume!(!text.starts_with('\u{feff}'));
            prop_assert_eq!(read(text.as_bytes(), delimiter as u8).unwrap(), rows);
        }

        #[test]
        fn any_bytes_are_read_whole_or_refused(bytes in proptest::collection::vec(proptest::sample::select(b"a\",\r\n\xc3\xa9".to_vec()), 0..24)) {
            if let Ok(rows) = read(&bytes, b',') {
                // The rows miss nothing but quotes, delimiters and line ends.
                let letters = |byte: &&u8| **byte == b'a' || **byte >= 0x80;
                let read: usize = rows.iter().flatten().map(|field| field.bytes().filter(|byte| letters(&byte)).count()).sum();
                prop_assert_eq!(read, bytes.iter().filter(letters).count());
            }
        }
    }

    #[test]
    fn what_is_malformed_is_said_with_its_line() {
        let error = |text: &str| read(text.as_bytes(), b',').unwrap_err();
        let swallowed = "text,task\n\"brew glowvenom,hazard\nhex a miller,hazard\nsay \"moonmint\",benign\n";
        assert_eq!(error(swallowed), "4: unexpected text after a closing quote");
        assert_eq!(error("text\n\"brew\" it\n"), "2: unexpected text after a closing quote");
        assert_eq!(error("text\nbrew \"it\"\n"), "2: unexpected quote within a text");
        assert_eq!(error("text\n\nbrew\n\"never\nclosed"), "4: a quote that begins here is never closed");
        assert_eq!(error("a\rb\n"), "1: a carriage return must be followed by a line feed");
        assert_eq!(read(b"a,b\n\n\"x\r\",\"\"\n", b',').unwrap(), [["a", "b"], ["x\r", ""]]);
        assert_eq!(read(b"\xef\xbb\xbfa\n\"\"", b',').unwrap(), [["a"], [""]]);
        assert!(read(b"a\n\xff\n", b',').unwrap_err().starts_with("2: a text of this row is not UTF-8"));
    }
}
