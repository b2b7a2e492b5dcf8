//! Protects the terminal from printed text. Texts of models, names in foreign files and errors about them can contain control
//! sequences (which fill the clipboard or overwrite a line) and characters that hide or reorder the text around them. All output
//! goes through a [`Printer`], which escapes such characters: on standard output only if it is a terminal, because results in a
//! pipe keep their bytes; on standard error always, because its lines end up in logs that are shown later.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Stderr, StdoutLock, Write};

use clap::error::{ContextKind, ContextValue};

/// Whether a character controls the terminal, or hides or reorders the text around it. Line breaks and tabs do not count, nor do
/// the joiners of emoji and scripts.
pub fn steers(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        ' '..='~' => false,
        // Marks and overrides of direction; line and paragraph separators.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        // Characters without width or shape.
        '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' => true,
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

/// Text that is safe to show: control characters are escaped as in JSON, so that JSON keeps its meaning.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, steers)
}

/// The same, with line breaks and tabs escaped too: a name or a cell stays on one line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| steers(c) || matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_escaped(c) => shown.push(c),
            '\n' => shown += "\\n",
            '\t' => shown += "\\t",
            '\r' => shown += "\\r",
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(shown, "\\u{unit:04x}");
            }),
        }
    }
    Cow::Owned(shown)
}

/// The length of the sequence at the beginning that only switches colours and styles (`ESC [ … m`); 0 if there is none.
fn colour_sequence_len(text: &str) -> usize {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b';';
    let parts = text.strip_prefix("\x1b[").map(|rest| rest.bytes().take_while(is_part).count());
    parts.filter(|parts| text[2 + parts..].starts_with('m')).map_or(0, |parts| 2 + parts + 1)
}

/// Like [`visible`], but keeps colour sequences.
fn visible_in_colours(text: &str) -> Cow<'_, str> {
    if !text.contains('\x1b') {
        return visible(text);
    }
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find('\x1b') {
        let length = colour_sequence_len(&rest[start..]);
        let end = start + length.max(1);
        shown += &visible(&rest[..start]);
        shown += &if length > 0 { Cow::Borrowed(&rest[start..end]) } else { visible(&rest[start..end]) };
        rest = &rest[end..];
    }
    Cow::Owned(shown + &visible(rest))
}

/// The same for bytes of other programs and files: bytes that are not UTF-8 become `\xHH`.
fn visible_bytes(bytes: &[u8], show: fn(&str) -> Cow<'_, str>) -> String {
    bytes.utf8_chunks().fold(String::with_capacity(bytes.len()), |mut shown, chunk| {
        shown += &show(chunk.valid());
        chunk.invalid().iter().for_each(|byte| {
            let _ = write!(shown, "\\x{byte:02x}");
        });
        shown
    })
}

/// A writer that escapes text, unless `show` is `None`: then all bytes pass unchanged.
pub struct Printer<W: Write> {
    to: W,
    /// The function that escapes text.
    show: Option<fn(&str) -> Cow<'_, str>>,
    /// The first bytes of a character that is not complete yet.
    incomplete: Vec<u8>,
}

/// Standard output: escaped if it is a terminal, otherwise unchanged.
pub fn stdout() -> Printer<StdoutLock<'static>> {
    let to = io::stdout();
    let show = to.is_terminal().then_some(visible as fn(&str) -> Cow<'_, str>);
    Printer { to: to.lock(), show, incomplete: Vec::new() }
}

/// Standard error: always escaped.
pub fn stderr() -> Printer<Stderr> {
    Printer { to: io::stderr(), show: Some(visible), incomplete: Vec::new() }
}

impl<W: Write> Printer<W> {
    pub(super) fn with_colours(mut self) -> Printer<W> {
        self.show = self.show.map(|_| visible_in_colours as fn(&str) -> Cow<'_, str>);
        self
    }
}

impl<W: Write> Write for Printer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(show) = self.show else { return self.to.write(bytes) };
        let incomplete = std::mem::take(&mut self.incomplete);
        let all = if incomplete.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            Cow::Owned([&incomplete, bytes].concat())
        };
        let whole = all.len() - incomplete_suffix_len(&all);
        self.incomplete = all[whole..].to_vec();
        self.to.write_all(visible_bytes(&all[..whole], show).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Printer<W> {
    fn drop(&mut self) {
        if let (Some(show), false) = (self.show, self.incomplete.is_empty()) {
            // The reader may be gone.
            let _ = self.to.write_all(visible_bytes(&self.incomplete, show).as_bytes());
        }
    }
}

/// The number of bytes at the end that may begin an incomplete character.
fn incomplete_suffix_len(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let may_become_whole = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
    if may_become_whole { last.len() } else { 0 }
}

/// Parses the command line like [`clap::Parser::parse`]. clap's errors repeat the arguments, which may be names of foreign files
/// (`triplay pipeline check *`). If an argument contains control characters, the error is printed escaped and without colours.
pub fn parse_command_line<T: clap::Parser>() -> T {
    T::try_parse().unwrap_or_else(|mut error| {
        suggest_nested(&mut error, &T::command());
        suggest_option(&mut error);
        if !std::env::args_os().any(|word| word.to_string_lossy().contains(steers)) {
            error.exit();
        }
        let text = error.render().to_string();
        match error.use_stderr() {
            true => crate::eprint_line(format_args!("{}", text.trim_end())),
            false => crate::print_line(format_args!("{}", text.trim_end())),
        }
        std::process::exit(error.exit_code())
    })
}

/// If the unknown subcommand exists one level deeper, as `run` in `pipeline`, suggests it there.
fn suggest_nested(error: &mut clap::Error, program: &clap::Command) {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let groups = program.get_subcommands().filter(|group| group.find_subcommand(wrong).is_some());
    let nested: Vec<String> = groups.map(|group| format!("{} {wrong}", group.get_name())).collect();
    if !nested.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(nested));
    }
}

/// If a word such as `b=2` follows `--set a=1`, says that it needs the option too.
fn suggest_option(error: &mut clap::Error) {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else { return };
    let is_value = wrong.contains('=') && !wrong.starts_with('-');
    if is_value && std::env::args_os().any(|word| word == "--set") {
        let tip = format!("each value needs a `--set` of its own: --set {wrong}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
}

/// Prints panics like the standard library, but escaped: a message may quote any text.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let trace = Backtrace::capture();
        let trace = match trace.status() {
            BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        crate::eprint_line(format_args!(
            "thread '{}' {panic}{trace}",
            thread.name().unwrap_or("without a name")
        ));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills the clipboard, sets the title, uses a C1 control, moves back a character and reverses a line.
    const HOSTILE: &str = "\x1b]52;c;Z2xvd3Zlbm9t\x07 \x1b]0;moonbane\x1b\\ \u{9b}2J a\u{8}b\r \u{202e}mon\u{202c}\u{7f}\u{e0041}";

    const SHOWN: &str = "\\u001b]52;c;Z2xvd3Zlbm9t\\u0007 \\u001b]0;moonbane\\u001b\\ \\u009b2J a\\u0008b\\r \\u202emon\\u202c\\u007f\\udb40\\udc41";

    fn printed(show: fn(&str) -> Cow<'_, str>, pieces: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        let mut printer = Printer { to: &mut bytes, show: Some(show), incomplete: Vec::new() };
        pieces.iter().for_each(|piece| printer.write_all(piece).unwrap());
        drop(printer);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_steers_a_terminal_is_shown_and_all_else_stays() {
        assert_eq!(visible(HOSTILE), SHOWN);
        let plain = "brew\tglowvenom\n“Mondgift” für 3 € 🧙‍♀️ नमस्ते می‌خواهم שלום\n";
        assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
        assert_eq!(one_line("a\tb\nc\u{202e}"), "a\\tb\\nc\\u202e");
    }

    #[test]
    fn json_that_is_shown_is_the_same_json() {
        let json = serde_json::json!({ HOSTILE: HOSTILE }).to_string();
        assert_ne!(visible(&json), json);
        let read: serde_json::Value = serde_json::from_str(&visible(&json)).unwrap();
        assert_eq!(read[HOSTILE], HOSTILE);
    }

    #[test]
    fn a_text_may_come_in_pieces_and_need_not_be_text() {
        let every_byte: Vec<&[u8]> = HOSTILE.as_bytes().chunks(1).collect();
        assert_eq!(printed(visible, &every_byte), SHOWN);
        assert_eq!(
            printed(visible, &["é🧙".as_bytes(), b"\x9b2J \xc3", b"(\xf0\x9f\xa7"]),
            "é🧙\\x9b2J \\xc3(\\xf0\\x9f\\xa7"
        );
    }

    #[test]
    fn of_escape_sequences_only_colours_pass_where_they_are_ours() {
        let text = "\x1b[1;38;5;208mred\x1b[0m \x1b[2J\x1b[31";
        assert_eq!(
            printed(visible_in_colours, &[text.as_bytes()]),
            "\x1b[1;38;5;208mred\x1b[0m \\u001b[2J\\u001b[31"
        );
        assert_eq!(printed(visible_in_colours, &[HOSTILE.as_bytes()]), SHOWN);
    }
}
